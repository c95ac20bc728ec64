//! Attention between the positions of a sequence.

use lmc_graph::Value;
use lmc_graph::ops::{AttentionMask, ScaledDotProductAttention};

/// Each query with the keys and values of its own and earlier positions: `B T N H`, `B T K H`, `B T K H → B T N H`, with
/// scores scaled by `1 / sqrt(H)`. Query head `n` reads key head `n / (N / K)`.
///
/// # Panics
/// If a constraint of [`ScaledDotProductAttention`] is broken.
#[track_caller]
pub fn causal_attention<'g>(query: Value<'g>, key: Value<'g>, value: Value<'g>) -> Value<'g> {
    let [_, _, _, h] = query.dims();
    let attributes =
        ScaledDotProductAttention { scale: 1.0 / (h as f64).sqrt(), mask: AttentionMask::Causal, sliding_window: None };
    let (output, _) = query.scaled_dot_product_attention(key, value, attributes);
    output
}
