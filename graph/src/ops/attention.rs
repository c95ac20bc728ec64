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

words! {
    /// What the rows of a batch hold.
    pub enum AttentionRows {
        /// A sequence as long as the row.
        Whole = "whole",
        /// A sequence from the row's beginning, and padding behind it.
        Padded = "padded",
        /// Documents one after the other, which do not see each other.
        Packed = "packed",
    }
}

attributes! {
    /// `O = softmax(scale * Q Kᵀ + mask) V` for each batch and head, and the natural log-sum-exp of each row of masked,
    /// scaled scores. The operands are `query`, `key`, `value`, and those that `rows` asks for.
    ///
    /// *Shapes*: `B T N H`, `B S K H`, `B S K V → B T N V`, `f32 B N T`: batch, query and key lengths, heads, head
    /// sizes. Query head `n` reads key and value head `n / (N / K)` (grouped-query attention).
    /// Scores and softmax are computed in f32 (f64 for f64 operands, whose log-sum-exp is f64 too); the probabilities
    /// are rounded to the operands' type before the product with `value`. (Vaswani et al. 2017, section 3.2.1; Ainslie
    /// et al. 2023; the log-sum-exp as in Dao 2023.)
    ///
    /// With `padded` rows, `query_lengths` and `key_lengths` are the numbers of positions at the beginning of each row
    /// that are no padding. With `packed` rows, `bounds` are the ascending bounds of up to `M` documents in each row:
    /// document `m` is at `bounds[b, m] .. bounds[b, m + 1]`, and may be empty. A query sees only keys that are no
    /// padding, of its own document. One in padding or outside of all documents, and one whose sequence has no keys, sees
    /// none: its output is 0 and its log-sum-exp has no meaning. Numbers below 0 mean 0, those beyond the row its end.
    ///
    /// *Constraints*: (I1) floats of rank 4. (C1) one element type. (C2) one batch size. (C3) `query` and `key` have
    /// one head size. (C4) `key` and `value` have the same length and heads. (C5) `N` is a multiple of `K`. (C6)
    /// `sliding_window` is above 0 and the mask then causal. (C7) further operands: none for `whole` rows,
    /// `query_lengths` and `key_lengths` of `i32 B` for `padded`, `bounds` of `i32 B (M + 1)` with `M` above 0 for
    /// `packed`. (C8) `packed` rows have as many queries as keys.
    pub struct ScaledDotProductAttention {
        /// What scores are multiplied with, usually `1 / sqrt(H)`.
        pub scale: f64,
        /// Which keys a query sees.
        pub mask: AttentionMask,
        /// With a window of `w`, query `t` sees only keys above `t - w`.
        pub sliding_window: Option<usize>,
        /// What the rows of the batch hold.
        pub rows: AttentionRows,
    }
}

/// The element type of scores and log-sum-exp for operands of this type.
pub(crate) fn score_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

pub(crate) fn scaled_dot_product_attention_type(op: &ScaledDotProductAttention, operands: &[&TensorType]) -> Inferred {
    let (operands, rows) = operands.split_at(operands.len().min(3));
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
    let expected: &[&[usize]] = match op.rows {
        AttentionRows::Whole => &[],
        AttentionRows::Padded => &[&[b], &[b]],
        AttentionRows::Packed => {
            let bounds = rows.first().and_then(|bounds| bounds.shape.get(1)).map_or(2, |&bounds| bounds.max(2));
            &[&[b, bounds]]
        }
    };
    let expected: Vec<TensorType> = expected.iter().map(|&shape| TensorType::new(DType::I32, shape)).collect();
    require!(
        rows.iter().copied().eq(&expected),
        "C7",
        "expected {} behind the values of `{}` rows, found {}",
        listed(expected.iter()),
        op.rows.name(),
        listed(rows.iter().copied())
    );
    require!(
        op.rows != AttentionRows::Packed || t == s,
        "C8",
        "the queries of packed rows are those of their keys, found {t} queries and {s} keys"
    );
    Ok(vec![query.with_shape([b, t, n, v]), TensorType::new(score_dtype(query.dtype), [b, n, t])])
}

/// Types separated by commas, or `nothing`.
fn listed<'a>(types: impl Iterator<Item = &'a TensorType>) -> String {
    let types: Vec<String> = types.map(ToString::to_string).collect();
    if types.is_empty() { "nothing".to_owned() } else { types.join(", ") }
}

fn dims(ty: &TensorType) -> [usize; 4] {
    [ty.shape[0], ty.shape[1], ty.shape[2], ty.shape[3]]
}

attributes! {
    /// The derivative of [`ScaledDotProductAttention`]: from `query`, `key`, `value`, the log-sum-exp, the output and
    /// the output's cotangent (the first six operands, before those that `rows` asks for) the cotangents of `query`,
    /// `key` and `value`.
    ///
    /// The probabilities are computed again from the log-sum-exp. (Dao et al. 2022, appendix B.4.)
    ///
    /// *Constraints*: those of the forward op, and (C9) the log-sum-exp, output and cotangent have the types of its
    /// results.
    pub struct ScaledDotProductAttentionBackward {
        /// What scores are multiplied with.
        pub scale: f64,
        /// Which keys a query sees.
        pub mask: AttentionMask,
        /// With a window of `w`, query `t` sees only keys above `t - w`.
        pub sliding_window: Option<usize>,
        /// What the rows of the batch hold.
        pub rows: AttentionRows,
    }
}

impl ScaledDotProductAttention {
    /// The attributes of the derivative.
    pub fn backward(&self) -> ScaledDotProductAttentionBackward {
        let ScaledDotProductAttention { scale, mask, sliding_window, rows } = self.clone();
        ScaledDotProductAttentionBackward { scale, mask, sliding_window, rows }
    }
}

impl ScaledDotProductAttentionBackward {
    /// The attributes of the op whose derivative this is.
    pub fn forward(&self) -> ScaledDotProductAttention {
        let ScaledDotProductAttentionBackward { scale, mask, sliding_window, rows } = self.clone();
        ScaledDotProductAttention { scale, mask, sliding_window, rows }
    }
}

pub(crate) fn scaled_dot_product_attention_backward_type(
    op: &ScaledDotProductAttentionBackward,
    operands: &[&TensorType],
) -> Inferred {
    let (operands, rows) = operands.split_at(operands.len().min(6));
    let [query, key, value, log_sum_exp, output, ct] = arity(operands)?;
    let results = scaled_dot_product_attention_type(&op.forward(), &[&[query, key, value], rows].concat())?;
    require!(
        [output, log_sum_exp].into_iter().eq(&results) && ct == output,
        "C9",
        "expected {0}, {1} and {0} for the log-sum-exp, output and cotangent, found {log_sum_exp}, {output} and {ct}",
        results[0],
        results[1]
    );
    Ok(vec![query.clone(), key.clone(), value.clone()])
}

impl<'g> Value<'g> {
    /// `scaled_dot_product_attention` with `self` as the query, of `whole` rows: the output and the log-sum-exp.
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
        self.scaled_dot_product_attention_of(key, value, &[], attributes)
    }

    /// As [`Value::scaled_dot_product_attention`], with the operands that `attributes.rows` asks for in `rows`.
    ///
    /// # Panics
    /// If a constraint of [`ScaledDotProductAttention`] is broken.
    #[track_caller]
    pub fn scaled_dot_product_attention_of(
        self,
        key: Value<'g>,
        value: Value<'g>,
        rows: &[Value<'g>],
        attributes: ScaledDotProductAttention,
    ) -> (Value<'g>, Value<'g>) {
        let operands = [&[self, key, value], rows].concat();
        let [output, log_sum_exp] = self.builder().push_n(Op::ScaledDotProductAttention(attributes), &operands);
        (output, log_sum_exp)
    }
}
