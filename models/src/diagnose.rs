//! Where a step stopped being finite: a program of the same loss that tells of every tensor on the way.

use std::collections::HashSet;
use std::fmt;

use lmc_autodiff::{DiffError, value_and_grad};
use lmc_graph::{Builder, Copier, DType, Func, Location, NodeId, TensorType, Value, ValueId};

use crate::compute::{Layers, Remat};
use crate::loss::LossFunc;
use crate::step::{StepConfig, micro_batch_key, step_key};

/// A function that tells, for one micro-batch of a step, which tensors are finite.
///
/// Parameters are the weights, `step` and `micro_batch`, `i32[]` each (the steps done before the one that is looked at,
/// and the number of the micro-batch), then the data of the micro-batch. The result is `f32[places]`: 1 where the tensor
/// of that place is finite, else 0.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The function.
    pub func: Func,
    /// What the elements of its result are about, in the order in which a step computes them.
    pub places: Vec<Place>,
}

/// A tensor of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A weight, by its path.
    Weight(String),
    /// An activation: a result of this op.
    Activation(&'static str, Location),
    /// A derivative on the way back: a result of this op.
    Cotangent(&'static str, Location),
    /// The gradient of a weight, by its path.
    Gradient(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Weight(path) => write!(f, "the weight `{path}`"),
            Place::Activation(op, location) => write!(f, "the result of `{op}` in {}", place_and_line(location)),
            Place::Cotangent(op, location) => write!(f, "the derivative `{op}` in {}", place_and_line(location)),
            Place::Gradient(path) => write!(f, "the gradient of `{path}`"),
        }
    }
}

/// `model.layers.0.mlp (models/src/layers/mlp.rs:31)`.
fn place_and_line(location: &Location) -> String {
    format!("{} ({}:{})", location.scope, location.file, location.line)
}

/// Ops that move elements: what they make is finite if their operands are.
const MOVEMENT: [&str; 12] = [
    "broadcast_in_dim",
    "concatenate",
    "constant",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "iota",
    "optimization_barrier",
    "reshape",
    "slice",
    "stop_gradient",
    "transpose",
];

/// The diagnosis of a step's micro-batches. Blocks are unrolled and nothing is computed again, so that every tensor has
/// a place of its own.
///
/// # Errors
/// If the loss has no derivative.
///
/// # Panics
/// As [`StepConfig::loss_func`].
pub fn diagnose(config: &StepConfig) -> Result<Diagnosis, DiffError> {
    let mut config = config.clone();
    (config.compute.layers, config.compute.remat) = (Layers::Unroll, Remat::None);
    diagnose_loss(&config.loss_func(), config.seed)
}

/// The diagnosis of any loss.
///
/// # Errors
/// If the loss has no derivative.
pub fn diagnose_loss(loss: &LossFunc, seed: u64) -> Result<Diagnosis, DiffError> {
    let num_inputs = loss.num_inputs();
    let wrt: Vec<usize> = (num_inputs..num_inputs + loss.specs.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt)?;
    let mut places: Vec<Place> = Vec::new();
    let mut func = Builder::build("diagnosis", |b| {
        let weights: Vec<Value<'_>> = loss.specs.iter().map(|(path, spec)| b.param(path, spec.ty.clone())).collect();
        let [step, micro_batch] = ["step", "micro_batch"].map(|name| b.param(name, TensorType::scalar(DType::I32)));
        let data: Vec<Value<'_>> = loss.inputs().into_iter().map(|(name, ty)| b.param(name, ty)).collect();
        let key = loss.takes_key.then(|| micro_batch_key(step_key(b, seed, step), micro_batch));

        let mut flags: Vec<Value<'_>> = weights.iter().map(|&weight| is_finite(weight)).collect();
        places.extend(loss.specs.keys().map(|path| Place::Weight(path.to_string())));
        let mut copy = Copier::new(b, &differentiated);
        let args = data.iter().chain(&key).chain(&weights);
        differentiated.param_values().iter().zip(args).for_each(|(&param, &arg)| copy.map(param, arg));
        let mut dependent: HashSet<ValueId> = differentiated.param_values().iter().copied().collect();
        for &id in &differentiated.region(differentiated.body()).nodes {
            let results = copy.node(id);
            let node = differentiated.node(id);
            // A constant may be infinite on purpose.
            if !depends(&differentiated, id, &dependent) {
                continue;
            }
            dependent.extend(&node.results);
            if MOVEMENT.contains(&node.op.name()) {
                continue;
            }
            for value in results.into_iter().filter(|value| value.dtype().is_float()) {
                let location = node.location.clone();
                flags.push(b.at(location.clone(), || is_finite(value)));
                places.push(match location.scope.starts_with("vjp(") {
                    false => Place::Activation(node.op.name(), location),
                    true => Place::Cotangent(node.op.name(), location),
                });
            }
        }
        let gradients = differentiated.result_values().iter().skip(2);
        for (path, &gradient) in loss.specs.keys().zip(gradients) {
            flags.push(is_finite(copy.get(gradient)));
            places.push(Place::Gradient(path.to_string()));
        }
        vec![b.concatenate(&flags, 0)]
    });
    func.result_names = vec!["finite".into()];
    Ok(Diagnosis { func, places })
}

/// Whether a node is computed from one of `values`; one with regions is taken to be.
fn depends(func: &Func, node: NodeId, values: &HashSet<ValueId>) -> bool {
    let node = func.node(node);
    !node.regions.is_empty() || node.operands.iter().any(|operand| values.contains(operand))
}

/// 1 if all elements are finite, else 0, as `f32[1]`.
#[track_caller]
fn is_finite(x: Value<'_>) -> Value<'_> {
    let all: Vec<usize> = (0..x.rank()).collect();
    let flags = x.is_finite().convert(DType::F32);
    let all = if x.rank() == 0 { flags } else { flags.min(&all) };
    all.reshape(&[1])
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, eval};

    use super::*;
    use crate::compute::Precision;
    use crate::params::Init;

    /// The places that are not finite with this weight, first the one where it began.
    fn check(weight: f32, x: f32, expected: &[&str]) {
        let inputs = [("x", TensorType::new(DType::F32, [1]))];
        let loss = LossFunc::build_random("loss", Precision::Float32, &inputs, |scope, inputs| {
            let product = scope.sub("block", |scope| {
                // An infinity that is meant does not count.
                let b = scope.builder();
                let infinite = -b.full(&TensorType::new(DType::F32, [1]), 0.0).log();
                let square = scope.param("w", &[("hidden", 1)], Init::Ones) * inputs[0];
                (square.minimum(infinite) * 2.0).sqrt()
            });
            (product.sum(&[0]), scope.builder().scalar(DType::F32, 1.0))
        });
        let diagnosis = diagnose_loss(&loss, 1).expect("the loss has a derivative");
        let counters = [0_i32, 0].map(Literal::scalar);
        let args = [&[Literal::new([1], &[weight])], &counters[..], &[Literal::new([1], &[x])]].concat();
        let flags = eval(&diagnosis.func, &args).expect("the arguments fit")[0].to_f64s();
        assert_eq!(flags.len(), diagnosis.places.len());
        let found = diagnosis.places.iter().zip(&flags).filter(|(_, flag)| **flag == 0.0);
        let found: Vec<String> = found.map(|(place, _)| place.to_string()).collect();
        assert_eq!(found.is_empty(), expected.is_empty(), "{weight} * {x}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{weight} * {x}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn the_first_place_is_where_it_began() {
        check(1.0, 2.0, &[]);
        check(f32::NAN, 2.0, &["the weight `block.w`", "the result of `multiply` in block (models/src/diagnose.rs:"]);
        check(1e30, 1e30, &["the result of `multiply` in block (models/src/diagnose.rs:"]);
        // The root's derivative at 0 is infinite.
        check(0.0, 1.0, &["the derivative `divide` in vjp(block) (models/src/diagnose.rs:"]);
    }
}
