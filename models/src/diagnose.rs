//! Where a step stopped being finite: a program of the same loss that tells of every tensor on the way, and one that
//! tells what an op was given.

use std::collections::{HashMap, HashSet};
use std::fmt;

use lmc_autodiff::{DiffError, value_and_grad};
use lmc_graph::ops::Scan;
use lmc_graph::{Builder, Copier, DType, Func, Location, Node, NodeId, Op, TensorType, Value, ValueId};

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
    /// What the elements of its result are about, in the order in which a step computes them: what a loop computes, once
    /// for every iteration.
    pub places: Vec<Place>,
    /// Where each place is in the program, and in which iteration; `None` of weights and gradients.
    sites: Vec<Option<(usize, usize)>>,
    loss: LossFunc,
    seed: u64,
}

/// A function that tells what an op was given. Its parameters are those of a [`Diagnosis`], its result is
/// `f32[iterations, operands, 6]`, [`OPERAND_NUMBERS`] of each operand in each iteration of the loops around the op.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The function.
    pub func: Func,
    /// The iteration that was asked for.
    pub iteration: usize,
    /// The operands that are floats.
    pub operands: Vec<Operand>,
}

/// An operand that a [`Probe`] tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The type.
    pub ty: TensorType,
    /// The op whose result it is, with its place; `None` of a parameter.
    pub made_by: Option<(&'static str, Location)>,
}

/// What a [`Probe`] tells of an operand: the least, the largest and the mean of its finite elements, and how many
/// elements are zero, infinite and not a number.
pub const OPERAND_NUMBERS: [&str; 6] = ["min", "max", "mean", "zeros", "infinite", "nan"];

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
    let (mut func, watcher) = watch(loss, seed, None)?;
    func.result_names = vec!["finite".into()];
    let mut places: Vec<Place> = loss.specs.keys().map(|path| Place::Weight(path.to_string())).collect();
    let mut sites = vec![None; places.len()];
    for &(site, iteration) in &watcher.about {
        places.push(watcher.places[site].clone());
        sites.push(Some((site, iteration)));
    }
    places.extend(loss.specs.keys().map(|path| Place::Gradient(path.to_string())));
    sites.resize(places.len(), None);
    Ok(Diagnosis { func, places, sites, loss: loss.clone(), seed })
}

impl Diagnosis {
    /// A program that tells what the op at `places[place]` is given; `None` where that is no op.
    ///
    /// # Errors
    /// If the loss has no derivative.
    pub fn probe(&self, place: usize) -> Result<Option<Probe>, DiffError> {
        let Some((site, iteration)) = self.sites[place] else { return Ok(None) };
        let (mut func, watcher) = watch(&self.loss, self.seed, Some(site))?;
        func.result_names = vec!["operands".into()];
        Ok(Some(Probe { func, iteration, operands: watcher.operands }))
    }
}

/// A program that computes a loss with its gradient and returns numbers about what it meets: whether each float is
/// finite, or, of the operands of the node at the site `probed`, [`OPERAND_NUMBERS`].
fn watch(loss: &LossFunc, seed: u64, probed: Option<usize>) -> Result<(Func, Watcher), DiffError> {
    let num_inputs = loss.num_inputs();
    let wrt: Vec<usize> = (num_inputs..num_inputs + loss.specs.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt)?;
    let dependent = differentiated.param_values().iter().copied().collect();
    let mut watcher = Watcher { probed, places: Vec::new(), operands: Vec::new(), about: Vec::new(), dependent };
    let func = Builder::build("diagnosis", |b| {
        let weights: Vec<Value<'_>> = loss.specs.iter().map(|(path, spec)| b.param(path, spec.ty.clone())).collect();
        let [step, micro_batch] = ["step", "micro_batch"].map(|name| b.param(name, TensorType::scalar(DType::I32)));
        let data: Vec<Value<'_>> = loss.inputs().into_iter().map(|(name, ty)| b.param(name, ty)).collect();
        let key = loss.takes_key.then(|| micro_batch_key(step_key(b, seed, step), micro_batch));
        let mut copy = Copier::new(b, &differentiated);
        let args = data.iter().chain(&key).chain(&weights);
        differentiated.param_values().iter().zip(args).for_each(|(&param, &arg)| copy.map(param, arg));
        let told = watcher.nodes(&mut copy, b, &differentiated, &differentiated.region(differentiated.body()).nodes);
        watcher.about = told.about;
        if probed.is_some() {
            let numbers = b.concatenate(&told.numbers, 0);
            let [len] = numbers.dims();
            let each = watcher.operands.len() * OPERAND_NUMBERS.len();
            return vec![numbers.reshape(&[len / each, watcher.operands.len(), OPERAND_NUMBERS.len()])];
        }
        let gradients = differentiated.result_values().iter().skip(2).map(|&gradient| is_finite(copy.get(gradient)));
        let flags: Vec<Value<'_>> =
            weights.iter().map(|&weight| is_finite(weight)).chain(told.numbers).chain(gradients).collect();
        vec![b.concatenate(&flags, 0)]
    });
    Ok((func, watcher))
}

/// What is known while a program is copied with eyes on its nodes.
struct Watcher {
    probed: Option<usize>,
    /// The results that are watched, by their number: their sites.
    places: Vec<Place>,
    /// The operands of the site that is probed.
    operands: Vec<Operand>,
    /// What each number between those of weights and gradients is about: a site and an iteration.
    about: Vec<(usize, usize)>,
    /// Values that depend on a parameter: a constant may be infinite on purpose.
    dependent: HashSet<ValueId>,
}

/// Numbers about nodes in the order of time.
#[derive(Default)]
struct Told<'g> {
    /// `f32[n]` each.
    numbers: Vec<Value<'g>>,
    /// The site and the iteration of each number, or of all numbers of a site that is probed.
    about: Vec<(usize, usize)>,
}

impl Watcher {
    /// Copies nodes, and tells of them.
    fn nodes<'g>(&mut self, copy: &mut Copier<'_, 'g>, b: Builder<'g>, func: &Func, nodes: &[NodeId]) -> Told<'g> {
        let mut told = Told::default();
        for &id in nodes {
            let node = func.node(id);
            let depends = depends(node, &self.dependent);
            if depends {
                self.dependent.extend(&node.results);
            }
            if let Op::Scan(scan) = &node.op {
                let inner = self.scan(copy, b, func, node, scan.clone());
                told.numbers.extend(inner.numbers);
                told.about.extend(inner.about);
                continue;
            }
            let results = copy.node(id);
            if !depends || MOVEMENT.contains(&node.op.name()) {
                continue;
            }
            for value in results.into_iter().filter(|value| value.dtype().is_float()) {
                let site = self.places.len();
                let location = node.location.clone();
                self.places.push(match location.scope.starts_with("vjp(") {
                    false => Place::Activation(node.op.name(), location.clone()),
                    true => Place::Cotangent(node.op.name(), location.clone()),
                });
                if self.probed.is_some_and(|probed| probed != site) {
                    continue;
                }
                told.about.push((site, 0));
                told.numbers.push(b.at(location, || match self.probed {
                    None => is_finite(value),
                    Some(_) => self.numbers_of_operands(copy, b, func, node),
                }));
            }
        }
        told
    }

    /// Copies a loop whose body tells of its nodes in every iteration.
    fn scan<'g>(
        &mut self,
        copy: &mut Copier<'_, 'g>,
        b: Builder<'g>,
        func: &Func,
        node: &Node,
        scan: Scan,
    ) -> Told<'g> {
        let region = func.region(node.regions[0]);
        self.dependent.extend(&region.params);
        let operands: Vec<Value<'g>> = node.operands.iter().map(|&value| copy.get(value)).collect();
        let (init, xs) = operands.split_at(scan.num_carry);
        let Scan { num_carry, length, reverse } = scan;
        let mut inner = Told::default();
        let scanned = b.scan_with(scan, init, xs, |carries, slices| {
            let args = carries.iter().chain(slices);
            region.params.iter().zip(args).for_each(|(&param, &arg)| copy.map(param, arg));
            inner = self.nodes(copy, b, func, &region.nodes);
            let mut results: Vec<Value<'g>> = region.results.iter().map(|&value| copy.get(value)).collect();
            let mut stacked = results.split_off(num_carry);
            if !inner.numbers.is_empty() {
                stacked.push(b.concatenate(&inner.numbers, 0));
            }
            (results, stacked)
        });
        let results = scanned.carries.iter().chain(&scanned.stacked);
        node.results.iter().zip(results).for_each(|(&old, &new)| copy.map(old, new));
        let Some(&numbers) = scanned.stacked.last().filter(|_| !inner.numbers.is_empty()) else {
            return Told::default();
        };
        // In the order of time, which a loop from the last index goes through backwards.
        let numbers = if reverse { numbers.reverse(&[0]) } else { numbers };
        let [_, each] = numbers.dims();
        // A site of a loop inside has more iterations than others of this body.
        let mut iterations: HashMap<usize, usize> = HashMap::new();
        inner.about.iter().for_each(|(site, _)| *iterations.entry(*site).or_default() += 1);
        let outer = |outer: usize| {
            let iterations = &iterations;
            inner.about.iter().map(move |&(site, iteration)| (site, outer * iterations[&site] + iteration))
        };
        let about = (0..length).flat_map(outer);
        Told { numbers: vec![numbers.reshape(&[length * each])], about: about.collect() }
    }

    /// [`OPERAND_NUMBERS`] of the operands of a node.
    fn numbers_of_operands<'g>(
        &mut self,
        copy: &Copier<'_, 'g>,
        b: Builder<'g>,
        func: &Func,
        node: &Node,
    ) -> Value<'g> {
        let mut numbers = Vec::new();
        for &operand in node.operands.iter().filter(|&&operand| func.ty(operand).dtype.is_float()) {
            let made_by = func.defining_node(operand).map(|id| func.node(id));
            let made_by = made_by.map(|node| (node.op.name(), node.location.clone()));
            self.operands.push(Operand { ty: func.ty(operand).clone(), made_by });
            numbers.push(numbers_of(copy.get(operand)));
        }
        if numbers.is_empty() {
            // One of the results is a float, none of the operands: there is one row, of nothing.
            self.operands.push(Operand { ty: TensorType::new(DType::F32, [0]), made_by: None });
            return b.full(&TensorType::new(DType::F32, [OPERAND_NUMBERS.len()]), 0.0);
        }
        b.concatenate(&numbers, 0)
    }
}

/// Whether a node is computed from one of `values`; one with regions is taken to be.
fn depends(node: &Node, values: &HashSet<ValueId>) -> bool {
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

/// [`OPERAND_NUMBERS`] of a tensor, as `f32[6]`.
#[track_caller]
fn numbers_of<'g>(x: Value<'g>) -> Value<'g> {
    let x = x.convert(DType::F32);
    let x = x.reshape(&[x.ty().num_elements()]);
    let finite = x.is_finite();
    let nan = x.not_equal(x);
    let sum = |flags: Value<'g>| flags.convert(DType::F32).sum(&[0]);
    let zeros = sum(x.equal(x.full_like(0.0)));
    let num_finite = sum(finite);
    let (num_nan, len) = (sum(nan), x.ty().num_elements() as f64);
    let infinite = -(num_finite + num_nan) + len;
    let mean = finite.select(x, x.full_like(0.0)).sum(&[0]) / num_finite.maximum(num_finite.full_like(1.0));
    let least = finite.select(x, x.full_like(f64::INFINITY)).min(&[0]);
    let largest = finite.select(x, x.full_like(f64::NEG_INFINITY)).max(&[0]);
    let numbers = [least, largest, mean, zeros, infinite, num_nan].map(|number| number.reshape(&[1]));
    x.builder().concatenate(&numbers, 0)
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

    /// The loss whose log is taken of `x * w` in a loop over the elements of `x`.
    fn looped() -> LossFunc {
        let inputs = [("x", TensorType::new(DType::F32, [4, 2]))];
        LossFunc::build("loss", Precision::Float32, &inputs, |scope, inputs| {
            let b = scope.builder();
            let w = scope.param("w", &[("hidden", 2)], Init::Ones);
            let zero = b.scalar(DType::F32, 0.0);
            let sums = scope.sub("block", |_| {
                b.scan(&[zero], &[inputs[0]], 4, |sum, x| (vec![sum[0] + (x[0] * w).log().sum(&[0])], vec![]))
            });
            (sums.carries[0], b.scalar(DType::F32, 1.0))
        })
    }

    #[test]
    fn a_loops_first_op_is_named_with_what_it_was_given() {
        let diagnosis = diagnose_loss(&looped(), 1).expect("the loss has a derivative");
        let counters = [0_i32, 0].map(Literal::scalar);
        for (x, iteration, expected) in [
            // Zero in the third row: its logarithm is infinite. The mean of 0 and 8 is 4.
            ([1_f32, 2., 3., 4., 0., 8., 5., 6.], 2, [0.0, 8.0, 4.0, 1.0, 0.0, 0.0]),
            ([1., 2., -3., 4., 0., 8., 5., 6.], 1, [-3.0, 4.0, 0.5, 0.0, 0.0, 0.0]),
        ] {
            let args = [&[Literal::new([2], &[1_f32, 1.0])], &counters[..], &[Literal::new([4, 2], &x)]].concat();
            let flags = eval(&diagnosis.func, &args).expect("the arguments fit")[0].to_f64s();
            let first = flags.iter().position(|flag| *flag == 0.0).expect("something is not finite");
            let found = diagnosis.places[first].to_string();
            assert!(found.starts_with("the result of `log` in block (models/src/diagnose.rs:"), "{found}");
            let probe = diagnosis.probe(first).expect("a derivative").expect("an op");
            assert_eq!((probe.iteration, probe.operands.len()), (iteration, 1));
            assert_eq!(probe.operands[0].made_by.as_ref().map(|(op, _)| *op), Some("multiply"));
            let numbers = eval(&probe.func, &args).expect("the arguments fit")[0].to_f64s();
            assert_eq!(numbers[6 * iteration..6 * (iteration + 1)], expected);
        }
        assert!(diagnosis.probe(0).expect("a derivative").is_none(), "the first place is a weight");
    }
}
