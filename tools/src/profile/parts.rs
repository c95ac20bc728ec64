//! The parts of a training step as functions: the ops of a layer in a pass.

use std::collections::{HashMap, HashSet};

use lmc_graph::{Builder, Copier, Func, NodeId, Op, RegionId, ValueId};
use lmc_lower::report::Direction;
use serde::Serialize;

use crate::plan::layer_of;

/// What a part is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// From tokens to the loss.
    Forward,
    /// From the loss to the gradients.
    Backward,
    /// The forward pass once more, within the backward pass.
    Recompute,
    /// From gradients to weights.
    Optimizer,
}

impl Pass {
    /// Every pass, in the order of a step.
    pub const ALL: [Pass; 4] = [Pass::Forward, Pass::Recompute, Pass::Backward, Pass::Optimizer];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Recompute => "recompute",
            Pass::Optimizer => "optimizer",
        }
    }

    /// That of a direction.
    pub fn of(direction: Direction) -> Pass {
        match direction {
            Direction::Forward => Pass::Forward,
            Direction::Recompute => Pass::Recompute,
            Direction::Backward => Pass::Backward,
            Direction::Optimizer => Pass::Optimizer,
        }
    }
}

/// The layer of a scope as profiles have it: a block, or a part of the model beside the blocks.
pub(super) fn layer_name(scope: &str) -> String {
    match layer_of(scope) {
        layer if layer.is_empty() => "the step".to_owned(),
        layer => layer,
    }
}

/// The ops of a layer in a pass.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) layer: String,
    pub(super) pass: Pass,
    /// How often it runs.
    pub(super) times: u64,
    pub(super) func: Func,
}

/// The parts of a loss with its gradient, in the order of the program.
pub(super) fn parts(func: &Func) -> Vec<Part> {
    let mut sorter = Sorter { func, groups: Vec::new(), places: HashMap::new() };
    sorter.region(func.body(), 1);
    sorter.groups.into_iter().filter_map(|group| group.part(func)).collect()
}

/// The part of a training step that is the optimizer's.
pub(super) fn optimizer_part(step: &Func) -> Option<Part> {
    let nodes = step.region(step.body()).nodes.iter().copied();
    let own = nodes.filter(|&node| step.node(node).location.scope.split('.').next() == Some("optimizer")).collect();
    Group { layer: "optimizer".to_owned(), pass: Pass::Optimizer, times: 1, nodes: own }.part(step)
}

struct Group {
    layer: String,
    pass: Pass,
    times: u64,
    nodes: Vec<NodeId>,
}

struct Sorter<'f> {
    func: &'f Func,
    groups: Vec<Group>,
    places: HashMap<(String, Pass, u64), usize>,
}

impl Sorter<'_> {
    /// Sorts the nodes of a region that runs so often.
    fn region(&mut self, region: RegionId, times: u64) {
        for &id in &self.func.region(region).nodes {
            let node = self.func.node(id);
            if let Op::Scan(scan) = &node.op {
                self.region(node.regions[0], times * scan.length as u64);
                continue;
            }
            // What makes numbers from nothing is made where it is used.
            if is_made_of_nothing(self.func, id) {
                continue;
            }
            let pass = Pass::of(Direction::of(&node.location));
            let key = (layer_name(&node.location.scope), pass, times);
            let place = *self.places.entry(key.clone()).or_insert_with(|| {
                let (layer, pass, times) = key;
                self.groups.push(Group { layer, pass, times, nodes: Vec::new() });
                self.groups.len() - 1
            });
            self.groups[place].nodes.push(id);
        }
    }
}

/// Whether a node is a constant, an `iota`, or a broadcast of one.
fn is_made_of_nothing(func: &Func, node: NodeId) -> bool {
    let node = func.node(node);
    let broadcast = matches!(&node.op, Op::BroadcastInDim(_));
    matches!(&node.op, Op::Constant(_) | Op::Iota(_))
        || (broadcast && func.defining_node(node.operands[0]).is_some_and(|node| is_made_of_nothing(func, node)))
}

impl Group {
    /// The function of these nodes: its parameters are what they use, its results what others use of them. `None` where
    /// nothing is used.
    fn part(self, func: &Func) -> Option<Part> {
        let own: HashSet<NodeId> = self.nodes.iter().copied().collect();
        let mut made: HashSet<ValueId> = HashSet::new();
        let mut used: Vec<ValueId> = Vec::new();
        for &id in &self.nodes {
            let node = func.node(id);
            let captured = node.regions.iter().flat_map(|&region| func.captures(region));
            used.extend(node.operands.iter().copied().chain(captured));
            made.extend(&node.results);
        }
        let results: Vec<ValueId> = {
            let mut wanted: HashSet<ValueId> = func.result_values().iter().copied().collect();
            for id in func.walk(func.body()) {
                let node = func.node(id);
                if !own.contains(&id) {
                    wanted.extend(&node.operands);
                }
                wanted.extend(node.regions.iter().flat_map(|&region| &func.region(region).results));
            }
            let mut results: Vec<ValueId> = made.iter().copied().filter(|value| wanted.contains(value)).collect();
            results.sort_unstable();
            results
        };
        if results.is_empty() {
            return None;
        }
        let part = Builder::build("part", |b| {
            let mut copy = Copier::new(b, func);
            for value in used {
                given(&mut copy, b, func, value, &made);
            }
            for &node in &self.nodes {
                copy.node(node);
            }
            results.iter().map(|&value| copy.get(value)).collect()
        });
        Some(Part { layer: self.layer, pass: self.pass, times: self.times, func: part })
    }
}

/// Makes a value that a part uses known: a parameter, unless the part makes it itself, or it is made of nothing.
fn given<'g>(copy: &mut Copier<'_, 'g>, b: Builder<'g>, func: &Func, value: ValueId, made: &HashSet<ValueId>) {
    if made.contains(&value) || copy.find(value).is_some() {
        return;
    }
    match func.defining_node(value).filter(|&node| is_made_of_nothing(func, node)) {
        Some(node) => {
            for &operand in &func.node(node).operands {
                given(copy, b, func, operand, made);
            }
            copy.node(node);
        }
        None => copy.map(value, b.param("x", func.ty(value).clone())),
    }
}

#[cfg(test)]
mod tests {
    use lmc_autodiff::value_and_grad;
    use lmc_graph::verify;
    use lmc_models::{Compute, Gpt2Config, Layers, ModelConfig, Precision, Remat, loss_func};

    use super::*;

    /// Layers, passes and runs of a model of two blocks.
    fn check(compute: Compute, expected: &[(&str, &[(Pass, u64)])]) {
        let model = ModelConfig::Gpt2(Gpt2Config::new(11, 4, 8, 2, 2));
        let loss = loss_func(&model, 2, 4, compute);
        let wrt: Vec<usize> = (2..loss.func.params.len()).collect();
        let func = value_and_grad(&loss.func, &wrt).expect("the loss has a derivative");
        let parts = parts(&func);
        for part in &parts {
            assert!(verify(&part.func).is_ok(), "{} {:?} is no function", part.layer, part.pass);
        }
        for (layer, passes) in expected {
            let own = parts.iter().filter(|part| part.layer == *layer);
            let mut found: Vec<(Pass, u64)> = own.map(|part| (part.pass, part.times)).collect();
            found.sort_by_key(|(pass, times)| (Pass::ALL.iter().position(|other| other == pass), *times));
            assert_eq!(found, *passes, "{layer} with {compute:?}");
        }
    }

    #[test]
    fn ops_belong_to_layers_and_passes() {
        use Pass::{Backward, Forward, Recompute};
        let plain = Compute::from(Precision::Float32);
        let both: &[(Pass, u64)] = &[(Forward, 1), (Backward, 1)];
        check(plain, &[("transformer.h.0", both), ("transformer.h.1", both), ("loss", both)]);
        let again: &[(Pass, u64)] = &[(Forward, 1), (Recompute, 1), (Backward, 1)];
        check(Compute { remat: Remat::Layer, ..plain }, &[("transformer.h.0", again), ("transformer.h.1", again)]);
        // Twice each, and the parameters are stacked and taken apart once.
        let looped: &[(Pass, u64)] = &[(Forward, 1), (Forward, 2), (Recompute, 2), (Backward, 1), (Backward, 2)];
        check(Compute { layers: Layers::Scan, ..plain }, &[("transformer.h", looped)]);
    }

    #[test]
    fn equal_layers_are_equal_parts() {
        let model = ModelConfig::Gpt2(Gpt2Config::new(11, 4, 8, 4, 2));
        let loss = loss_func(&model, 2, 4, Precision::Float32);
        let func = value_and_grad(&loss.func, &[2]).expect("the loss has a derivative");
        let texts: Vec<String> = parts(&func)
            .into_iter()
            .filter(|part| part.pass == Pass::Forward && ["transformer.h.1", "transformer.h.2"].contains(&&*part.layer))
            .map(|part| part.func.to_string())
            .collect();
        assert_eq!(texts.len(), 2);
        assert_eq!(texts[0], texts[1]);
    }
}
