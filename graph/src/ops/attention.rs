//! Attention as one op, with its decomposition.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::ops::{Inferred, Op, arity};

words! {
    /// Which keys a query sees.
    pub enum AttentionMask {
        /// All of them.
        Full = "full",
        /// Query `t` sees keys `0 ..= t`.
        Causal = "causal",
    }
}

attributes! {
    /// `O = softmax(scale * Q Kᵀ + mask) V` for each batch and head, and the natural log-sum-exp of each row of masked,
    /// scaled scores. The operands are `query`, `key` and `value`.
    ///
    /// *Shapes*: `B T N H`, `B S K H`, `B S K V → B T N V`, `f32 B N T`: batch, query and key lengths, heads, head
    /// sizes. Query head `n` reads key and value head `n / (N / K)` (grouped-query attention).
    /// Scores and softmax are computed in f32 (f64 for f64 operands, whose log-sum-exp is f64 too); the probabilities
    /// are rounded to the operands' type before the product with `value`. (Vaswani et al. 2017, section 3.2.1; Ainslie
    /// et al. 2023; the log-sum-exp as in Dao 2023.)
    ///
    /// *Constraints*: (I1) floats of rank 4. (C1) one element type. (C2) one batch size. (C3) `query` and `key` have
    /// one head size. (C4) `key` and `value` have the same length and heads. (C5) `N` is a multiple of `K`. (C6)
    /// `sliding_window` is above 0 and the mask then causal.
    pub struct ScaledDotProductAttention {
        /// What scores are multiplied with, usually `1 / sqrt(H)`.
        pub scale: f64,
        /// Which keys a query sees.
        pub mask: AttentionMask,
        /// With a window of `w`, query `t` sees only keys above `t - w`.
        pub sliding_window: Option<usize>,
    }
}

/// The element type of scores and log-sum-exp for operands of this type.
pub(crate) fn score_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

pub(crate) fn scaled_dot_product_attention_type(op: &ScaledDotProductAttention, operands: &[&TensorType]) -> Inferred {
    let [query, key, value] = arity(operands)?;
    for (name, x) in [("query", query), ("key", key), ("value", value)] {
        require!(x.rank() == 4 && x.dtype.is_float(), "I1", "`{name}` must be of floats with 4 dimensions, found {x}");
    }
    require!(
        query.dtype == key.dtype && key.dtype == value.dtype,
        "C1",
        "the element types must be the same, found {query}, {key} and {value}"
    );
    let ([b, t, n, h], [key_b, s, k, key_h]) = (dims(query), dims(key));
    let [value_b, value_s, value_k, v] = dims(value);
    require!(b == key_b && b == value_b, "C2", "the batch sizes must be the same, found {query}, {key} and {value}");
    require!(h == key_h, "C3", "`query` and `key` must have the same head size, found {query} and {key}");
    require!(
        s == value_s && k == value_k,
        "C4",
        "`key` and `value` must have the same length and heads, found {key} and {value}"
    );
    require!(k > 0 && n % k == 0, "C5", "{n} query heads are not a multiple of {k} key heads");
    require!(
        op.sliding_window.is_none_or(|window| window > 0 && op.mask == AttentionMask::Causal),
        "C6",
        "a sliding window needs the causal mask and a size above 0, found {:?} with `{}`",
        op.sliding_window,
        op.mask.name()
    );
    Ok(vec![query.with_shape([b, t, n, v]), TensorType::new(score_dtype(query.dtype), [b, n, t])])
}

fn dims(ty: &TensorType) -> [usize; 4] {
    [ty.shape[0], ty.shape[1], ty.shape[2], ty.shape[3]]
}

attributes! {
    /// The derivative of [`ScaledDotProductAttention`]: from `query`, `key`, `value`, the log-sum-exp, the output and
    /// the output's cotangent (the six operands) the cotangents of `query`, `key` and `value`.
    ///
    /// The probabilities are computed again from the log-sum-exp. (Dao et al. 2022, appendix B.4.)
    ///
    /// *Constraints*: those of the forward op, and (C7) the log-sum-exp, output and cotangent have the types of its
    /// results.
    pub struct ScaledDotProductAttentionBackward {
        /// What scores are multiplied with.
        pub scale: f64,
        /// Which keys a query sees.
        pub mask: AttentionMask,
        /// With a window of `w`, query `t` sees only keys above `t - w`.
        pub sliding_window: Option<usize>,
    }
}

impl ScaledDotProductAttention {
    /// The attributes of the derivative.
    pub fn backward(&self) -> ScaledDotProductAttentionBackward {
        let ScaledDotProductAttention { scale, mask, sliding_window } = self.clone();
        ScaledDotProductAttentionBackward { scale, mask, sliding_window }
    }
}

impl ScaledDotProductAttentionBackward {
    /// The attributes of the op whose derivative this is.
    pub fn forward(&self) -> ScaledDotProductAttention {
        let ScaledDotProductAttentionBackward { scale, mask, sliding_window } = self.clone();
        ScaledDotProductAttention { scale, mask, sliding_window }
    }
}

pub(crate) fn scaled_dot_product_attention_backward_type(
    op: &ScaledDotProductAttentionBackward,
    operands: &[&TensorType],
) -> Inferred {
    let [query, key, value, log_sum_exp, output, ct] = arity(operands)?;
    let results = scaled_dot_product_attention_type(&op.forward(), &[query, key, value])?;
    require!(
        [output, log_sum_exp].into_iter().eq(&results) && ct == output,
        "C7",
        "expected {0}, {1} and {0} for the log-sum-exp, output and cotangent, found {log_sum_exp}, {output} and {ct}",
        results[0],
        results[1]
    );
    Ok(vec![query.clone(), key.clone(), value.clone()])
}

impl<'g> Value<'g> {
    /// `scaled_dot_product_attention` with `self` as the query: the output and the log-sum-exp.
    ///
    /// # Panics
    /// If a constraint of [`ScaledDotProductAttention`] is broken.
    #[track_caller]
    pub fn scaled_dot_product_attention(
        self,
        key: Value<'g>,
        value: Value<'g>,
        attributes: ScaledDotProductAttention,
    ) -> (Value<'g>, Value<'g>) {
        let [output, log_sum_exp] =
            self.builder().push_n(Op::ScaledDotProductAttention(attributes), &[self, key, value]);
        (output, log_sum_exp)
    }
}
