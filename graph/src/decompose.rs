//! The meaning of fused ops in terms of the others: one function that the evaluator, the generic lowering and
//! second-order differentiation share.

use crate::builder::{Builder, Value};
use crate::dtype::{DType, TensorType};
use crate::ops::attention::score_dtype;
use crate::ops::{AttentionMask, DotGeneral, Op, ScaledDotProductAttention, ScaledDotProductAttentionBackward};

/// A function from the op's operands to its results that uses only ops that are not fused; `None` for such ops
/// themselves.
///
/// # Panics
/// If the operands' types break a constraint of the op.
pub fn decompose(op: &Op, operands: &[TensorType]) -> Option<crate::Func> {
    let build = |body: &dyn for<'g> Fn(&[Value<'g>]) -> Vec<Value<'g>>| {
        Builder::build(op.name(), |b| {
            let params: Vec<Value<'_>> =
                operands.iter().enumerate().map(|(i, ty)| b.param(&format!("operand{i}"), ty.clone())).collect();
            body(&params)
        })
    };
    if let Op::ScaledDotProductAttention(op) = op {
        return Some(build(&|x| {
            let (output, log_sum_exp) = scaled_dot_product_attention(op, x[0], x[1], x[2]);
            vec![output, log_sum_exp]
        }));
    }
    if let Op::ScaledDotProductAttentionBackward(op) = op {
        return Some(build(&|x| {
            scaled_dot_product_attention_backward(op, [x[0], x[1], x[2]], x[3], x[4], x[5]).to_vec()
        }));
    }
    None
}

/// The value of a masked score. Finite, so that a row whose keys are all masked gives no NaN, and so far below any
/// score that its exponential is exactly 0.
const MASKED: f64 = -1e30;

/// Attention from products, a softmax and a mask: the output `B T N V` and the log-sum-exp `B N T`.
pub fn scaled_dot_product_attention<'g>(
    op: &ScaledDotProductAttention,
    query: Value<'g>,
    key: Value<'g>,
    value: Value<'g>,
) -> (Value<'g>, Value<'g>) {
    let [b, t, n, _] = query.dims();
    let [_, _, k, v] = value.dims();
    let scores = masked_scores(op, query, key);
    // The maximum only guards against overflow; the result does not depend on it.
    let max = scores.max(&[4]).stop_gradient();
    let exp = (scores - expand(max, &scores.shape())).exp();
    let sum = exp.sum(&[4]);
    let log_sum_exp = max + sum.log();
    let probabilities = (exp / expand(sum, &scores.shape())).convert(value.dtype());
    let output = probabilities.dot_general(value, batched([0, 1], [0, 2], &[4], &[1], value.dtype()));
    (heads_last(output).reshape(&[b, t, n, v]), log_sum_exp.transpose(&[0, 1, 3, 2]).reshape(&[b, k * (n / k), t]))
}

/// The cotangents of query, key and value, with the probabilities computed again from the log-sum-exp.
pub fn scaled_dot_product_attention_backward<'g>(
    op: &ScaledDotProductAttentionBackward,
    [query, key, value]: [Value<'g>; 3],
    log_sum_exp: Value<'g>,
    output: Value<'g>,
    ct: Value<'g>,
) -> [Value<'g>; 3] {
    let [b, t, n, h] = query.dims();
    let [_, _, k, v] = value.dims();
    let (group, dtype, score_dtype) = (n / k, query.dtype(), score_dtype(query.dtype()));
    let scores = masked_scores(&op.forward(), query, key);
    let shape = scores.shape();
    let log_sum_exp = log_sum_exp.reshape(&[b, k, group, t]).transpose(&[0, 1, 3, 2]);
    let probabilities = (scores - expand(log_sum_exp, &shape)).exp();
    // Σ_s P dP of a row equals its output times its cotangent (Dao et al. 2022, appendix B.4, eq. 4).
    let delta = (output.convert(score_dtype) * ct.convert(score_dtype)).sum(&[3]);
    let delta = delta.reshape(&[b, t, k, group]).transpose(&[0, 2, 1, 3]);
    let (query, ct) = (query.reshape(&[b, t, k, group, h]), ct.reshape(&[b, t, k, group, v]));
    let ct_probabilities = ct.dot_general(value, batched([0, 2], [0, 2], &[4], &[3], score_dtype));
    let ct_scores = (probabilities * (ct_probabilities - expand(delta, &shape)) * op.scale).convert(dtype);
    let ct_value = probabilities.convert(dtype).dot_general(ct, batched([0, 1], [0, 2], &[2, 3], &[1, 3], dtype));
    let ct_query = ct_scores.dot_general(key, batched([0, 1], [0, 2], &[4], &[1], dtype));
    let ct_key = ct_scores.dot_general(query, batched([0, 1], [0, 2], &[2, 3], &[1, 3], dtype));
    [heads_last(ct_query).reshape(&[b, t, n, h]), ct_key.transpose(&[0, 2, 1, 3]), ct_value.transpose(&[0, 2, 1, 3])]
}

/// Scaled and masked scores, `B K T G S`: the queries' heads are folded into groups beside the time, so that every key
/// head serves its group in one product and is never repeated.
fn masked_scores<'g>(op: &ScaledDotProductAttention, query: Value<'g>, key: Value<'g>) -> Value<'g> {
    let [b, t, n, h] = query.dims();
    let [_, s, k, _] = key.dims();
    let dtype = score_dtype(query.dtype());
    let grouped = query.reshape(&[b, t, k, n / k, h]);
    let scores = grouped.dot_general(key, batched([0, 2], [0, 2], &[4], &[3], dtype)) * op.scale;
    match op.mask {
        AttentionMask::Full => scores,
        AttentionMask::Causal => {
            let index = TensorType::new(DType::I32, [t, s]);
            let (rows, columns) = (query.builder().iota(&index, 0), query.builder().iota(&index, 1));
            let mut visible = columns.less_equal(rows);
            if let Some(window) = op.sliding_window {
                // A window beyond 2^31 - 1 hides nothing.
                let window = i32::try_from(window).unwrap_or(i32::MAX);
                visible = visible.and((rows - columns).less(rows.full_like(f64::from(window))));
            }
            let shape = scores.shape();
            visible.broadcast_in_dim(&shape, &[2, 4]).select(scores, scores.full_like(MASKED))
        }
    }
}

/// A product with two batching dimensions.
fn batched(
    lhs_batching: [usize; 2],
    rhs_batching: [usize; 2],
    lhs_contracting: &[usize],
    rhs_contracting: &[usize],
    result_dtype: DType,
) -> DotGeneral {
    DotGeneral {
        lhs_batching_dimensions: lhs_batching.to_vec(),
        rhs_batching_dimensions: rhs_batching.to_vec(),
        lhs_contracting_dimensions: lhs_contracting.to_vec(),
        rhs_contracting_dimensions: rhs_contracting.to_vec(),
        result_dtype,
    }
}

/// `B K T G` repeated along a new last dimension.
fn expand<'g>(x: Value<'g>, shape: &[usize]) -> Value<'g> {
    x.broadcast_in_dim(shape, &[0, 1, 2, 3])
}

/// `B K T G D → B T K G D`.
fn heads_last(x: Value<'_>) -> Value<'_> {
    x.transpose(&[0, 2, 1, 3, 4])
}
