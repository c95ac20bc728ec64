//! The rules, and the match that routes each op to its own.
//!
//! A rule takes the operands `x`, the results `z` and the cotangents `ct` of the results, and returns one cotangent for
//! each operand, or `None` where there is none: integers, and derivatives that are zero almost everywhere. It need not
//! care which ones are wanted; what is not used is dropped.

pub(crate) mod attention;
pub(crate) mod contract;
pub(crate) mod control;
pub(crate) mod elementwise;
pub(crate) mod index;
pub(crate) mod random;
pub(crate) mod reduce;
pub(crate) mod shape;

use lmc_graph::ops::Op;
use lmc_graph::{DType, NodeId, Value, ValueId};

use crate::engine::Pass;
use crate::error::DiffError;

/// The cotangents that a node's rule returns: for its operands, and for what its regions capture.
///
/// At least one of `cts`, the cotangents of the node's results, is present.
///
/// # Errors
/// If the op has no derivative.
pub(crate) fn cotangents<'g>(
    pass: &mut Pass<'_, 'g>,
    id: NodeId,
    cts: &[Option<Value<'g>>],
) -> Result<Vec<(ValueId, Value<'g>)>, DiffError> {
    let func = pass.func;
    let node = func.node(id);
    let x: Vec<Value<'g>> = node.operands.iter().map(|&value| pass.copy.get(value)).collect();
    let z: Vec<Value<'g>> = node.results.iter().map(|&value| pass.copy.get(value)).collect();
    let want: Vec<DType> = node.operands.iter().map(|&value| pass.wanted(value)).collect();
    let is_active = |operand: usize| pass.is_active(node.operands[operand]);
    let Some(&ct) = cts.iter().flatten().next() else { return Ok(Vec::new()) };
    let refuse = |reason: &str| Err(DiffError::op(func, id, reason));

    let of_operands: Vec<Option<Value<'g>>> = match &node.op {
        Op::Unary(op) => vec![elementwise::unary(*op, x[0], z[0], ct)],
        Op::Binary(op) => elementwise::binary(*op, x[0], x[1], z[0], ct).into(),
        Op::Select => elementwise::select(x[0], ct).into(),
        Op::Clamp => elementwise::clamp(x[0], x[1], x[2], ct).into(),
        Op::Compare(_) => vec![None, None],
        Op::Convert(_) => vec![elementwise::convert(x[0], ct)],
        Op::BitcastConvert(_) => vec![None],

        Op::Constant(_) | Op::Iota(_) => Vec::new(),
        Op::BroadcastInDim(op) => vec![Some(shape::broadcast_in_dim(op, x[0], ct, want[0]))],
        Op::Reshape(_) => vec![Some(ct.reshape(&x[0].shape()))],
        Op::Transpose(op) => vec![Some(shape::transpose(op, ct))],
        Op::Reverse(op) => vec![Some(ct.reverse(&op.dimensions))],
        Op::Slice(op) => vec![Some(shape::slice(op, x[0], ct))],
        Op::Concatenate(op) => shape::concatenate(op, &x, ct),
        Op::Pad(op) => shape::pad(op, x[0], x[1], ct).into(),

        Op::DynamicSlice(_) => index::dynamic_slice(x[0], &x[1..], ct),
        Op::DynamicUpdateSlice => index::dynamic_update_slice(x[1], &x[2..], ct),
        Op::Gather(op) => index::gather(op, x[0], x[1], ct, want[0]).into(),
        Op::Scatter(op) => match index::scatter(op, x[0], x[1], x[2], ct, is_active(2)) {
            Ok(cts) => cts.into(),
            Err(reason) => return refuse(reason),
        },

        Op::DotGeneral(op) => contract::dot_general(op, x[0], x[1], ct, want[0], want[1]).map(Some).into(),

        Op::Reduce(op) => vec![reduce::reduce(op, x[0], z[0], ct)],
        Op::Argmax(_) => vec![None],
        Op::Sort(op) => reduce::sort(op, x[0], cts),

        Op::Scan(op) => return control::scan(pass, op, id, cts),
        Op::While => return refuse("reverse-mode differentiation needs a loop of known length: use `scan`"),
        Op::If => return control::if_else(pass, node, cts),
        Op::Remat => return control::remat(pass, node, cts),
        Op::StopGradient => vec![None],
        Op::OptimizationBarrier => control::optimization_barrier(cts),

        Op::RngBitGenerator(_) => random::rng_bit_generator(),

        Op::ScaledDotProductAttention(op) => attention::scaled_dot_product_attention(op, &x, &z, cts, &node.location),
        Op::ScaledDotProductAttentionBackward(op) => {
            attention::scaled_dot_product_attention_backward(op, &x, cts, &node.location)
        }
        Op::CachedAttention(_) | Op::CacheUpdate => return refuse("a cache is for using a model, not for training it"),
    };
    Ok(node.operands.iter().copied().zip(of_operands).filter_map(|(value, ct)| Some((value, ct?))).collect())
}
