//! The reference evaluator: the meaning of the IR, by index, for clarity and not speed.
//!
//! Every other way to run a function is compared with it. It computes in f64 and rounds each result to its element
//! type, so that it is at least as exact as any device: sums (`reduce`, `dot_general`, `scatter`) are rounded once.
//! [`eval_f64`] does not round at all, for finite differences. The rule of an op is in the op's file.

mod tensor;
#[cfg(test)]
pub(crate) mod tests;

use crate::dtype::TensorType;
use crate::entity::{Entity, RegionId, ValueId};
use crate::func::{Func, Node};
use crate::literal::Literal;
use crate::ops::{Op, contract, control, elementwise, index, random, reduce, shape};

pub use tensor::Tensor;
pub(crate) use tensor::{Elements, Offsets, at, int_range, strides};

/// Arguments that are not what a function takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// Another number of arguments than of parameters.
    #[error("`{func}` takes {expected} arguments, found {found}")]
    ArgCount {
        /// The function's name.
        func: String,
        /// The number of parameters.
        expected: usize,
        /// The number of arguments.
        found: usize,
    },
    /// An argument of another type than its parameter.
    #[error("`{func}` takes {expected} for argument {index} (`{name}`), found {found}")]
    ArgType {
        /// The function's name.
        func: String,
        /// The argument's index, counted from 0.
        index: usize,
        /// The parameter's name.
        name: String,
        /// The parameter's type.
        expected: TensorType,
        /// The argument's type.
        found: TensorType,
    },
}

/// The results of a verified function for these arguments, every float rounded to its element type.
///
/// A `while` whose condition never fails never returns.
///
/// # Errors
/// If the number or the types of the arguments are not those of the parameters.
pub fn eval(func: &Func, args: &[Literal]) -> Result<Vec<Literal>, EvalError> {
    let args = args.iter().map(Tensor::from).collect();
    let results = run(func, args, Precision::Rounded)?;
    Ok(results.iter().map(Tensor::to_literal).collect())
}

/// The results of a verified function with every float kept in f64, whatever its element type says.
///
/// This is the function that finite differences can differentiate: rounding would drown the differences. Only
/// `bitcast_convert` rounds, as only then a float has the bits of its type.
///
/// # Errors
/// If the number or the types of the arguments are not those of the parameters.
pub fn eval_f64(func: &Func, args: &[Tensor]) -> Result<Vec<Tensor>, EvalError> {
    run(func, args.to_vec(), Precision::Exact)
}

/// What becomes of the floats that an op returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precision {
    /// They are rounded to their element type.
    Rounded,
    /// They stay as they are.
    Exact,
}

fn run(func: &Func, args: Vec<Tensor>, precision: Precision) -> Result<Vec<Tensor>, EvalError> {
    let params = func.param_values();
    if params.len() != args.len() {
        return Err(EvalError::ArgCount { func: func.name.clone(), expected: params.len(), found: args.len() });
    }
    for (index, (&param, arg)) in params.iter().zip(&args).enumerate() {
        if func.ty(param) != arg.ty() {
            return Err(EvalError::ArgType {
                func: func.name.clone(),
                index,
                name: func.params[index].name.clone(),
                expected: func.ty(param).clone(),
                found: arg.ty().clone(),
            });
        }
    }
    let values = vec![None; func.values().count()];
    Ok(Interpreter { func, precision, values }.region(func.body(), args))
}

/// The values of a function that are known so far. A loop's body overwrites its own in every iteration.
struct Interpreter<'f> {
    func: &'f Func,
    precision: Precision,
    values: Vec<Option<Tensor>>,
}

impl Interpreter<'_> {
    /// The results of a region whose parameters are `args`.
    fn region(&mut self, region: RegionId, args: Vec<Tensor>) -> Vec<Tensor> {
        let func = self.func;
        let region = func.region(region);
        for (&param, arg) in region.params.iter().zip(args) {
            self.values[param.index()] = Some(arg);
        }
        for &node in &region.nodes {
            let node = func.node(node);
            let results = self.node(node);
            for (&value, mut result) in node.results.iter().zip(results) {
                debug_assert_eq!(result.ty(), func.ty(value), "{} returns another type", node.op.name());
                result.wrap();
                if self.precision == Precision::Rounded {
                    result.round();
                }
                self.values[value.index()] = Some(result);
            }
        }
        region.results.iter().map(|&value| self.get(value).clone()).collect()
    }

    fn get(&self, value: ValueId) -> &Tensor {
        self.values[value.index()].as_ref().expect("operands precede their users in a verified function")
    }

    /// The results of a node, before they are rounded.
    fn node(&mut self, node: &Node) -> Vec<Tensor> {
        let func = self.func;
        let types: Vec<&TensorType> = node.results.iter().map(|&value| func.ty(value)).collect();
        let regions = &node.regions;
        let x: Vec<&Tensor> = node.operands.iter().map(|&value| self.get(value)).collect();
        let owned = || -> Vec<Tensor> { x.iter().map(|&x| x.clone()).collect() };
        match &node.op {
            Op::Unary(op) => vec![elementwise::eval_unary(*op, x[0], types[0])],
            Op::Binary(op) => vec![elementwise::eval_binary(*op, x[0], x[1])],
            Op::Select => vec![elementwise::eval_select(x[0], x[1], x[2])],
            Op::Clamp => vec![elementwise::eval_clamp(x[0], x[1], x[2])],
            Op::Compare(op) => vec![elementwise::eval_compare(op, x[0], x[1], types[0])],
            Op::Convert(_) => vec![elementwise::eval_convert(x[0], types[0])],
            Op::BitcastConvert(_) => vec![elementwise::eval_bitcast_convert(x[0], types[0])],
            Op::Constant(op) => vec![shape::eval_constant(op)],
            Op::Iota(op) => vec![shape::eval_iota(op)],
            Op::BroadcastInDim(op) => vec![shape::eval_broadcast_in_dim(op, x[0], types[0])],
            Op::Reshape(_) => vec![x[0].with_type(types[0])],
            Op::Transpose(op) => vec![shape::eval_transpose(op, x[0], types[0])],
            Op::Reverse(op) => vec![shape::eval_reverse(op, x[0])],
            Op::Slice(op) => vec![shape::eval_slice(op, x[0], types[0])],
            Op::Concatenate(op) => vec![shape::eval_concatenate(op, &x, types[0])],
            Op::Pad(op) => vec![shape::eval_pad(op, x[0], x[1], types[0])],
            Op::DynamicSlice(_) => vec![index::eval_dynamic_slice(x[0], &x[1..], types[0])],
            Op::DynamicUpdateSlice => vec![index::eval_dynamic_update_slice(x[0], x[1], &x[2..])],
            Op::Gather(op) => vec![index::eval_gather(op, x[0], x[1], types[0])],
            Op::Scatter(op) => vec![index::eval_scatter(op, x[0], x[1], x[2])],
            Op::DotGeneral(op) => vec![contract::eval_dot_general(op, x[0], x[1], types[0])],
            Op::Reduce(op) => vec![reduce::eval_reduce(op, x[0], types[0])],
            Op::Argmax(op) => vec![reduce::eval_argmax(op, x[0], types[0])],
            Op::Sort(op) => reduce::eval_sort(op, &x),
            Op::Scan(op) => control::eval_scan(op, owned(), &types, |args| self.region(regions[0], args)),
            Op::While => control::eval_while(owned(), |i, args| self.region(regions[i], args)),
            Op::If => {
                let taken = if x[0].is_true() { regions[0] } else { regions[1] };
                self.region(taken, vec![])
            }
            Op::Remat => self.region(regions[0], vec![]),
            Op::StopGradient | Op::OptimizationBarrier => owned(),
            Op::RngBitGenerator(op) => random::eval_rng_bit_generator(op, x[0]),
            Op::ScaledDotProductAttention(_)
            | Op::ScaledDotProductAttentionBackward(_)
            | Op::CachedAttention(_)
            | Op::CacheUpdate => {
                let types: Vec<TensorType> = x.iter().map(|x| x.ty().clone()).collect();
                let decomposition =
                    crate::decompose::decompose(&node.op, &types).expect("fused ops have decompositions");
                run(&decomposition, owned(), self.precision).expect("the decomposition takes the op's operands")
            }
        }
    }
}
