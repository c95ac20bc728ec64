//! Attention between the positions of a sequence.

use lmc_graph::ops::{AttentionMask, AttentionRows, DotGeneral, ScaledDotProductAttention};
use lmc_graph::{DType, TensorType, Value};

use crate::layers::dropout::dropout;
use crate::scope::Scope;

/// Each query with the keys and values of its own and earlier positions: `B T N H`, `B T K H`, `B T K H → B T N H`, with
/// scores scaled by `1 / sqrt(H)`. Query head `n` reads key head `n / (N / K)`.
///
/// # Panics
/// If a constraint of [`ScaledDotProductAttention`] is broken.
#[track_caller]
pub fn causal_attention<'g>(query: Value<'g>, key: Value<'g>, value: Value<'g>) -> Value<'g> {
    let [_, _, _, h] = query.dims();
    let attributes = ScaledDotProductAttention {
        scale: 1.0 / (h as f64).sqrt(),
        mask: AttentionMask::Causal,
        sliding_window: None,
        rows: AttentionRows::Whole,
    };
    let (output, _) = query.scaled_dot_product_attention(key, value, attributes);
    output
}

/// [`causal_attention`] with [`dropout`] of the probabilities, drawn in the place `name`.
///
/// With a rate above 0 and a key it is composed of products and a softmax, and the probabilities of all heads are in
/// memory, `B N T T`: no fused attention takes a mask of random bits that is the same on every device.
///
/// # Panics
/// As [`causal_attention`], and if `rate` is not from 0 to below 1.
#[track_caller]
pub fn causal_attention_with_dropout<'g>(
    scope: &Scope<'g>,
    name: &str,
    [query, key, value]: [Value<'g>; 3],
    rate: f64,
) -> Value<'g> {
    if rate == 0.0 || scope.key(name).is_none() {
        return causal_attention(query, key, value);
    }
    let ([b, t, n, h], [_, _, k, _], dtype) = (query.dims(), key.dims(), query.dtype());
    // The heads of queries in groups beside the time, each with its head of keys and values, which are never repeated.
    let group = n / k;
    let query = query.reshape(&[b, t, k, group, h]);
    let batched = |lhs_batching: [usize; 2], lhs: usize, rhs: usize, result_dtype: DType| DotGeneral {
        lhs_batching_dimensions: lhs_batching.to_vec(),
        rhs_batching_dimensions: vec![0, 2],
        lhs_contracting_dimensions: vec![lhs],
        rhs_contracting_dimensions: vec![rhs],
        result_dtype,
    };
    // B K T G S.
    let scores = query.dot_general(key, batched([0, 2], 4, 3, DType::F32)) * (1.0 / (h as f64).sqrt());
    let index = TensorType::new(DType::I32, [t, t]);
    let visible = scope.builder().iota(&index, 1).less_equal(scope.builder().iota(&index, 0));
    // Finite, so that no difference of infinities is taken, and so low that its exponential is 0.
    const MASKED: f64 = -1e30;
    let scores = visible.broadcast_in_dim(&scores.shape(), &[2, 4]).select(scores, scores.full_like(MASKED));
    let probabilities = dropout(scope, name, scores.softmax(4), rate).convert(dtype);
    let output = probabilities.dot_general(value, batched([0, 1], 4, 1, dtype));
    // B K T G H.
    output.transpose(&[0, 2, 1, 3, 4]).reshape(&[b, t, n, h])
}
