//! A layer of a function as a function of its own.

use std::collections::{BTreeSet, HashMap, HashSet};

use lmc_graph::{Builder, Copier, Func, NodeId, RegionId, ValueId, dce};

use super::place::Place;
use crate::error::{Error, Result};

/// What the nodes of a layer compute, forward and backward, one function for each region that they stand in: what they
/// use from outside are its parameters, and what is used outside its results.
///
/// # Errors
/// If no node is in the layer.
pub fn layer_functions(func: &Func, layer: &str) -> Result<Vec<Func>> {
    let mut functions = Vec::new();
    let names: HashMap<ValueId, &str> =
        func.param_values().iter().copied().zip(func.params.iter().map(|param| param.name.as_str())).collect();
    collect(func, func.body(), layer, &names, &mut functions);
    if functions.is_empty() {
        let nodes = func.walk(func.body()).into_iter();
        return Err(unknown_layer(layer, nodes.map(|node| Place::of(&func.node(node).location.scope).layer)));
    }
    Ok(functions)
}

/// The functions of a region's own nodes, then of the regions within.
fn collect(func: &Func, region: RegionId, layer: &str, names: &HashMap<ValueId, &str>, found: &mut Vec<Func>) {
    let is_in = |node: NodeId| Place::of(&func.node(node).location.scope).is_in(layer);
    let (inside, outside): (Vec<NodeId>, Vec<NodeId>) =
        func.region(region).nodes.iter().partition(|&&node| is_in(node));
    if !inside.is_empty() {
        found.push(function_of(func, region, &inside, &outside, names, &format!("{layer}.{}", found.len())));
    }
    for node in outside {
        for &region in &func.node(node).regions {
            collect(func, region, layer, names, found);
        }
    }
}

fn function_of(
    func: &Func,
    region: RegionId,
    inside: &[NodeId],
    outside: &[NodeId],
    names: &HashMap<ValueId, &str>,
    name: &str,
) -> Func {
    let defined: HashSet<ValueId> = inside.iter().flat_map(|&node| &func.node(node).results).copied().collect();
    let uses = |node: NodeId| {
        let node_ref = func.node(node);
        let captured = node_ref.regions.iter().flat_map(|&region| func.captures(region));
        node_ref.operands.iter().copied().chain(captured).collect::<Vec<ValueId>>()
    };
    let mut params: Vec<ValueId> = Vec::new();
    for value in inside.iter().flat_map(|&node| uses(node)) {
        if !defined.contains(&value) && !params.contains(&value) {
            params.push(value);
        }
    }
    let wanted: BTreeSet<ValueId> = (outside.iter().flat_map(|&node| uses(node)))
        .chain(func.region(region).results.iter().copied())
        .filter(|value| defined.contains(value))
        .collect();
    let mut extracted = Builder::build(name, |b| {
        let mut copy = Copier::new(b, func);
        for &value in &params {
            let name = names.get(&value).map_or_else(|| called(func, value), |&name| name.to_owned());
            copy.map(value, b.param(&name, func.ty(value).clone()));
        }
        for &node in inside {
            copy.node(node);
        }
        wanted.iter().map(|&value| copy.get(value)).collect()
    });
    extracted.result_names = wanted.iter().map(|&value| called(func, value)).collect();
    dce(&extracted)
}

/// What a value is called where it has no name: by the op and the layer that it comes from.
fn called(func: &Func, value: ValueId) -> String {
    match func.defining_node(value).map(|node| func.node(node)) {
        None => value.to_string(),
        Some(node) => format!("{} of {}", node.op.name(), node.location.scope).trim_end_matches(" of ").to_owned(),
    }
}

/// The error about a layer that nothing is in, with the nearest that there is, and what layers begin with.
pub(super) fn unknown_layer(layer: &str, known: impl Iterator<Item = String>) -> Error {
    let known: BTreeSet<String> = known.filter(|known| !known.is_empty()).collect();
    let near = known.iter().min_by_key(|known| strsim::levenshtein(known, layer));
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let tops: BTreeSet<&str> = known.iter().filter_map(|known| known.split('.').next()).collect();
    let tops: Vec<&str> = tops.into_iter().collect();
    Error::input(format!(
        "the program has no layer `{layer}`{hint} (layers are paths such as the parameters have, and begin with {})",
        tops.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use lmc_autodiff::value_and_grad;
    use lmc_graph::{DType, TensorType, text, verify};

    use super::*;

    fn model() -> Func {
        let ty = TensorType::new(DType::F32, [2, 2]);
        let func = Builder::build("loss", |b| {
            let (x, w) = (b.param("x", ty.clone()), b.param("w", ty.clone()));
            let y = b.scope("a", || b.scope("b", || x.dot(w)));
            let y = b.scope("c", || b.scan(&[y], &[], 3, |c, _| (vec![b.scope("d", || c[0].dot(w).tanh())], vec![])));
            vec![b.scope("a", || y.carries[0] * x).sum(&[0, 1])]
        });
        value_and_grad(&func, &[0, 1]).expect("all have derivatives")
    }

    #[test]
    fn a_layer_is_a_function_of_its_own() {
        let func = model();
        for (layer, count, ops) in
            [("a.b", 1, &["dot_general"][..]), ("a", 1, &["multiply", "dot_general"]), ("c.d", 2, &["tanh"])]
        {
            let functions = layer_functions(&func, layer).unwrap();
            assert_eq!(functions.len(), count, "{layer}");
            for function in &functions {
                verify(function).unwrap_or_else(|error| panic!("{error}"));
                let printed = text::print(function);
                assert_eq!(text::print(&text::parse("layer", &printed).unwrap()), printed);
                ops.iter().for_each(|op| assert!(printed.contains(op), "{layer}: {printed}"));
            }
        }
        // Forward and backward of it stand together, and the weight keeps its name.
        let [whole] = &layer_functions(&func, "a.b").unwrap()[..] else { panic!("one function") };
        assert_eq!(text::print(whole).matches("= dot_general(").count(), 3, "{whole}");
        assert!(whole.params.iter().any(|param| param.name == "w"));
    }

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let error = layer_functions(&model(), "a.c").expect_err("no layer");
        for part in ["no layer `a.c`", "did you mean `a.b`?", "begin with a, c"] {
            assert!(error.message().contains(part), "{error}");
        }
    }
}
