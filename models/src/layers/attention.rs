//! Attention between the positions of a sequence.

use lmc_graph::ops::{AttentionMask, AttentionRows, DotGeneral, ScaledDotProductAttention};
use lmc_graph::{DType, TensorType, Value};

use crate::layers::documents::same_document;
use crate::layers::dropout::dropout;
use crate::scope::Scope;

/// How queries see keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// What scores are multiplied with.
    pub scale: f64,
    /// With a window of `w`, a query sees only the last `w` keys, its own position's among them.
    pub sliding_window: Option<usize>,
    /// With a cap of `c`, a score `s` becomes `c tanh(s / c)` (Gemma Team 2024b, section 2).
    pub soft_cap: Option<f64>,
}

impl Attention {
    /// Scores scaled by `1 / sqrt(head_dim)`, of all keys.
    pub fn new(head_dim: usize) -> Attention {
        Attention { scale: 1.0 / (head_dim as f64).sqrt(), sliding_window: None, soft_cap: None }
    }
}

/// Each query with the keys and values of its own and earlier positions: `B T N H`, `B T K H`, `B T K H → B T N H`. Query
/// head `n` reads key head `n / (N / K)`.
///
/// With a soft cap, the scores of all heads are in memory, `B N T T`: no fused attention takes it.
///
/// # Panics
/// If a constraint of [`ScaledDotProductAttention`] is broken.
#[track_caller]
pub fn causal_attention<'g>(query: Value<'g>, key: Value<'g>, value: Value<'g>, attention: &Attention) -> Value<'g> {
    within_documents([query, key, value], None, attention)
}

/// [`causal_attention`] that does not reach across documents, if there are bounds of them, `i32 B (M + 1)`.
#[track_caller]
fn within_documents<'g>(
    [query, key, value]: [Value<'g>; 3],
    documents: Option<Value<'g>>,
    attention: &Attention,
) -> Value<'g> {
    if attention.soft_cap.is_some() {
        let visible = visible(query, documents, attention);
        return masked_attention([query, key, value], visible, attention, |weights| weights);
    }
    let attributes = ScaledDotProductAttention {
        scale: attention.scale,
        mask: AttentionMask::Causal,
        sliding_window: attention.sliding_window,
        rows: if documents.is_some() { AttentionRows::Packed } else { AttentionRows::Whole },
    };
    let (output, _) = query.scaled_dot_product_attention_of(key, value, documents.as_slice(), attributes);
    output
}

/// [`causal_attention`] with [`dropout`] of the probabilities, drawn in the place `name`, and within documents where their
/// bounds are given, `i32 B (M + 1)` as [`DocumentMask::bounds`](crate::DocumentMask::bounds) makes them.
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
    parts: [Value<'g>; 3],
    documents: Option<Value<'g>>,
    attention: &Attention,
    rate: f64,
) -> Value<'g> {
    if rate == 0.0 || scope.key(name).is_none() {
        return within_documents(parts, documents, attention);
    }
    let visible = visible(parts[0], documents, attention);
    masked_attention(parts, visible, attention, |weights| dropout(scope, name, weights, rate))
}

/// Which keys queries see: `i1 T T`, or `i1 B T T` within documents.
#[track_caller]
fn visible<'g>(query: Value<'g>, documents: Option<Value<'g>>, attention: &Attention) -> Value<'g> {
    let (visible, [b, t, _, _]) = (causal_mask(query, attention), query.dims());
    match documents {
        None => visible,
        Some(bounds) => visible.broadcast_in_dim(&[b, t, t], &[1, 2]).and(same_document(bounds, t)),
    }
}

/// Which of `T` keys `T` queries see: `i1 T T`.
#[track_caller]
pub(crate) fn causal_mask<'g>(query: Value<'g>, attention: &Attention) -> Value<'g> {
    let (builder, [_, t, _, _]) = (query.builder(), query.dims());
    let index = TensorType::new(DType::I32, [t, t]);
    let (key, query) = (builder.iota(&index, 1), builder.iota(&index, 0));
    let visible = key.less_equal(query);
    match attention.sliding_window {
        None => visible,
        Some(window) => visible.and(key.greater(query - window as f64)),
    }
}

/// [`causal_attention`] of the keys that `visible` says, `i1 T S` or `i1 B T S`, composed of products and a softmax: the
/// probabilities of all heads are in memory, `B N T S`, and go through `change` before they weigh the values. A query
/// sees at least one key.
///
/// # Panics
/// If shapes do not fit.
#[track_caller]
pub fn masked_attention<'g>(
    [query, key, value]: [Value<'g>; 3],
    visible: Value<'g>,
    attention: &Attention,
    change: impl FnOnce(Value<'g>) -> Value<'g>,
) -> Value<'g> {
    let ([b, t, n, h], dtype) = (query.dims(), query.dtype());
    let weights = change(attention_weights([query, key], visible, attention)).convert(dtype);
    let output = weights.dot_general(value, batched([0, 1], 4, 1, dtype));
    // B K T G H.
    output.transpose(&[0, 2, 1, 3, 4]).reshape(&[b, t, n, h])
}

/// The probabilities of [`masked_attention`], f32 `B K T G S`: of key head `k` and the `g`th of its queries.
///
/// # Panics
/// If shapes do not fit.
#[track_caller]
pub fn attention_weights<'g>([query, key]: [Value<'g>; 2], visible: Value<'g>, attention: &Attention) -> Value<'g> {
    let ([b, t, n, h], [_, _, k, _]) = (query.dims(), key.dims());
    // The heads of queries in groups beside the time, each with its head of keys and values, which are never repeated.
    let query = query.reshape(&[b, t, k, n / k, h]);
    let scores = query.dot_general(key, batched([0, 2], 4, 3, DType::F32)) * attention.scale;
    let scores = match attention.soft_cap {
        None => scores,
        Some(cap) => (scores / cap).tanh() * cap,
    };
    // Finite, so that no difference of infinities is taken, and so low that its exponential is 0.
    const MASKED: f64 = -1e30;
    let dimensions: &[usize] = if visible.rank() == 2 { &[2, 4] } else { &[0, 2, 4] };
    let visible = visible.broadcast_in_dim(&scores.shape(), dimensions);
    visible.select(scores, scores.full_like(MASKED)).softmax(4)
}

/// A product for each row of the batch and each head.
fn batched(lhs: [usize; 2], lhs_sum: usize, rhs_sum: usize, result_dtype: DType) -> DotGeneral {
    DotGeneral {
        lhs_batching_dimensions: lhs.to_vec(),
        rhs_batching_dimensions: vec![0, 2],
        lhs_contracting_dimensions: vec![lhs_sum],
        rhs_contracting_dimensions: vec![rhs_sum],
        result_dtype,
    }
}
