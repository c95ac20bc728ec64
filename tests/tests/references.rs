//! The evaluator, the derivatives and the plugin against what JAX computed for the same functions
//! (`references/record_ops.py`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use lmc_graph::{DType, Element, Func, Literal, Op, TensorType, eval, text};
use lmc_tests::check::{self, Tolerance};
use lmc_tests::filetest::{Case, FileTest, Kind, evaluations};
use lmc_tests::plugin;
use lmc_tests::source::{sources, workspace};
use serde_json::Value;

/// For another implementation, which rounds at other places: JAX computes `bf16` and `f16` functions partly in those
/// types, and its transcendental functions of f32 are good to a few units in the last place.
const JAX: Tolerance = Tolerance { f64: 1e-12, f32: 1e-5, f16: 1e-2, bf16: 3e-2, slack: 0.25 };

/// What is recorded of one function for one list of arguments.
struct Recorded {
    args: Vec<Value>,
    results: Vec<Value>,
    gradients: Option<Vec<Value>>,
}

/// A function of the filetests, with what is recorded of it.
struct Reference {
    name: String,
    func: Func,
    /// For each `eval`: the arguments, and what JAX made of them.
    entries: Vec<(Vec<Literal>, Recorded)>,
}

fn recorded() -> BTreeMap<String, Vec<Recorded>> {
    let path = workspace().join("tests/references/ops.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let list = |value: &Value| value.as_array().cloned();
    let entry = |entry: &Value| Recorded {
        args: list(&entry["args"]).expect("arguments are a list"),
        results: list(&entry["results"]).expect("results are a list"),
        gradients: list(&entry["gradients"]),
    };
    let functions = json["functions"].as_object().expect("functions are an object");
    let entries = |value: &Value| value.as_array().expect("a function has entries").iter().map(entry).collect();
    functions.iter().map(|(name, value)| (name.clone(), entries(value))).collect()
}

/// The functions of the filetests that evaluate something.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for source in sources("tests/filetests/ops") {
        let test = FileTest::parse(&source.path, &source.text).unwrap_or_else(|error| panic!("{error}"));
        assert!(test.kinds.contains(&Kind::Eval), "{}: functions of ops are evaluated", source.path);
        cases.extend(test.cases().filter(|case| !case.is_broken).cloned());
    }
    cases
}

/// Every recorded function; what is missing or recorded for other arguments fails.
fn references() -> Vec<Reference> {
    let mut recorded = recorded();
    let mut references = Vec::new();
    for case in cases().into_iter().filter(|case| !case.is_without_jax()) {
        let name = case.name.clone();
        let entries = recorded.remove(&name).unwrap_or_default();
        let args = evaluations(&case).unwrap_or_else(|error| panic!("@{name}: {error}"));
        assert_eq!(entries.len(), args.len(), "@{name}: record again with tests/references/record_ops.py");
        let func = text::parse(&name, &case.text.join("\n")).unwrap_or_else(|error| panic!("{error}"));
        for (args, entry) in args.iter().zip(&entries) {
            let recorded = literals(&func.param_types(), &entry.args);
            check::compare(&recorded, args, Tolerance::EXACT)
                .unwrap_or_else(|reason| panic!("@{name}: recorded for other arguments, record again: {reason}"));
        }
        references.push(Reference { name, func, entries: args.into_iter().zip(entries).collect() });
    }
    assert!(recorded.is_empty(), "recorded, but not in the filetests: {:?}", recorded.keys());
    references
}

/// Tensors of these types from flat lists.
fn literals(types: &[TensorType], lists: &[Value]) -> Vec<Literal> {
    assert_eq!(types.len(), lists.len(), "as many tensors as types");
    types.iter().zip(lists).map(|(ty, list)| literal(ty, list)).collect()
}

fn literal(ty: &TensorType, list: &Value) -> Literal {
    let list = list.as_array().expect("a tensor is a list");
    // A string stands for what JSON has no number for.
    let float = |value: &Value| match value.as_str() {
        Some(text) => text.parse().expect("inf, -inf or nan"),
        None => value.as_f64().expect("a number"),
    };
    let (ints, uints) = (|v: &Value| v.as_i64().expect("an integer"), |v: &Value| v.as_u64().expect("an integer"));
    match ty.dtype {
        DType::I64 => typed(ty, list.iter().map(ints)),
        DType::U64 => typed(ty, list.iter().map(uints)),
        DType::Bool => typed(ty, list.iter().map(|value| value.as_bool().expect("true or false"))),
        // These fit an f64.
        DType::I8 | DType::I16 | DType::I32 | DType::U8 | DType::U16 | DType::U32 => {
            Literal::from_f64s(ty.clone(), &list.iter().map(float).collect::<Vec<_>>())
        }
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 => {
            Literal::from_f64s(ty.clone(), &list.iter().map(float).collect::<Vec<_>>())
        }
    }
}

fn typed<T: Element>(ty: &TensorType, elements: impl Iterator<Item = T>) -> Literal {
    Literal::new(ty.shape.clone(), &elements.collect::<Vec<T>>())
}

/// Runs a check on every recorded function and fails with all complaints.
fn for_each(mut check: impl FnMut(&Reference) -> Result<usize, String>) -> usize {
    let mut complaints = Vec::new();
    let mut count = 0;
    for reference in references() {
        match check(&reference) {
            Ok(checked) => count += checked,
            Err(reason) => complaints.push(format!("@{}: {reason}", reference.name)),
        }
    }
    assert!(complaints.is_empty(), "{} functions differ from JAX:\n{}", complaints.len(), complaints.join("\n\n"));
    count
}

#[test]
fn values() {
    let count = for_each(|reference| {
        for (args, recorded) in &reference.entries {
            let found = eval(&reference.func, args).map_err(|error| error.to_string())?;
            let expected = literals(&reference.func.result_types(), &recorded.results);
            check::compare(&found, &expected, JAX.for_results_of(&reference.func))?;
        }
        Ok(reference.entries.len())
    });
    println!("{count} values as recorded from JAX");
}

/// The recorded gradients and those that `run` computes from the function with its derivative behind it.
fn gradients(run: impl Fn(&Func, &[Literal]) -> Result<Vec<Literal>, String>) -> usize {
    for_each(|reference| {
        let Reference { func, entries, .. } = reference;
        let mut count = 0;
        for (args, recorded) in entries {
            let Some(gradients) = &recorded.gradients else { continue };
            let derivative = check::derivative(func).map_err(|error| error.to_string())?;
            let args = [&args[..], &check::cotangents(&func.result_types())].concat();
            let found = run(&derivative, &args)?.split_off(func.result_types().len());
            let types: Vec<TensorType> = found.iter().map(|gradient| gradient.ty().clone()).collect();
            check::compare(&found, &literals(&types, gradients), JAX)
                .map_err(|reason| format!("gradient: {reason}"))?;
            count += 1;
        }
        Ok(count)
    })
}

#[test]
fn gradients_by_the_evaluator() {
    let count = gradients(|func, args| eval(func, args).map_err(|error| error.to_string()));
    println!("{count} gradients as recorded from JAX");
}

#[test]
fn gradients_on_the_plugin() {
    let count = gradients(|func, args| plugin::execute(&plugin::compile(func)?, args));
    println!("{count} gradients on the plugin as recorded from JAX");
}

/// Every op is in a function that is recorded.
#[test]
fn every_op_is_recorded() {
    let found: BTreeSet<&str> = references()
        .iter()
        .flat_map(|Reference { func, .. }| {
            func.walk(func.body()).into_iter().map(|node| func.node(node).op.name()).collect::<Vec<_>>()
        })
        .collect();
    let missing: Vec<&str> = Op::names().into_iter().filter(|op| !found.contains(op)).collect();
    assert!(missing.is_empty(), "not recorded: {missing:?}");
}
