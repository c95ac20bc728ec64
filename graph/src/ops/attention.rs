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

attributes! {
    /// Attention of the newest tokens of texts to a cache of their keys and values, which has those of these tokens in it:
    /// `softmax(scale * Q Kᵀ + mask) V` for each text and head. The operands are `query`, `key`, `value`, `start` and
    /// `count`.
    ///
    /// *Shapes*: `B T N H`, `B K R H`, `B K R V`, `i32 B`, `i32 B → B T N V`: texts, tokens, query heads, key and value
    /// heads, rows of the cache, head sizes. Query head `n` reads key and value head `n / (N / K)`. Scores and softmax are
    /// computed as in [`ScaledDotProductAttention`].
    ///
    /// Token `t` of text `b` stands at position `start[b] + t`. The last position in the cache is `l`, which is
    /// `start[b] + count[b] - 1`; row `r` holds the latest position up to `l` that is `r` modulo `R`, if there is one from
    /// 0 on. A query sees the positions up to its own, with a window of `w` those above its own minus `w`. What a query
    /// gets that sees none has no meaning: of a text with `l` below 0, or of a token beyond `count` that looks past what a
    /// window kept.
    ///
    /// *Constraints*: (I1) floats of rank 4, then `i32` of rank 1. (C1) one element type of `query`, `key` and `value`.
    /// (C2) one number of texts. (C3) `query` and `key` have one head size. (C4) `key` and `value` have the same heads and
    /// rows. (C5) `N` is a multiple of `K`. (C6) `sliding_window` is above 0. (C7) `visible_rows` is above 0 and at most
    /// `R`.
    pub struct CachedAttention {
        /// What scores are multiplied with, usually `1 / sqrt(H)`.
        pub scale: f64,
        /// With a window of `w`, a query sees only the last `w` positions, its own among them.
        pub sliding_window: Option<usize>,
        /// With a cap of `c`, a scaled score `s` becomes `c tanh(s / c)` (Gemma Team 2024, section 2).
        pub soft_cap: Option<f64>,
        /// The rows that are looked at: all positions are in rows below.
        pub visible_rows: usize,
    }
}

pub(crate) fn cached_attention_type(op: &CachedAttention, operands: &[&TensorType]) -> Inferred {
    let [query, key, value, start, count] = arity(operands)?;
    for (name, x) in [("query", query), ("key", key), ("value", value)] {
        require!(x.rank() == 4 && x.dtype.is_float(), "I1", "`{name}` must be of floats with 4 dimensions, found {x}");
    }
    for (name, x) in [("start", start), ("count", count)] {
        require!(x.rank() == 1 && x.dtype == DType::I32, "I1", "`{name}` must be of i32 with 1 dimension, found {x}");
    }
    require!(
        query.dtype == key.dtype && key.dtype == value.dtype,
        "C1",
        "the element types must be the same, found {query}, {key} and {value}"
    );
    let ([b, t, n, h], [_, k, rows, key_h]) = (dims(query), dims(key));
    let [_, value_k, value_rows, v] = dims(value);
    require!(
        [key, value, start, count].iter().all(|x| x.shape[0] == b),
        "C2",
        "the number of texts must be the same, found {query}, {key}, {value}, {start} and {count}"
    );
    require!(h == key_h, "C3", "`query` and `key` must have the same head size, found {query} and {key}");
    require!(
        k == value_k && rows == value_rows,
        "C4",
        "`key` and `value` must have the same heads and rows, found {key} and {value}"
    );
    require!(k > 0 && n % k == 0, "C5", "{n} query heads are not a multiple of {k} key heads");
    require!(op.sliding_window != Some(0), "C6", "a sliding window needs a size above 0");
    require!(
        (1..=rows).contains(&op.visible_rows),
        "C7",
        "{} visible rows of {rows}: expected at least one, and no more than there are",
        op.visible_rows
    );
    Ok(vec![query.with_shape([b, t, n, v])])
}

/// A cache of keys or values with those of new tokens in it. The operands are `cache`, `new`, `slot`, `start` and `count`.
///
/// *Shapes*: `S K R H`, `B T K H`, `i32`, `i32 B`, `i32 B → S K R H`: slots for texts, heads, rows, elements of a head;
/// texts and tokens. Text `b` has the slot `slot + b`. Its token `t`, if it is one of the first `count[b]` and its position
/// `start[b] + t` is not below 0, goes into row `start[b] + t` modulo `R`. The slots are within the cache.
///
/// *Constraints*: (I1) floats of rank 4, an `i32` scalar, then `i32` of rank 1. (C1) one element type of `cache` and
/// `new`. (C2) the same heads and elements of a head. (C3) as many starts and counts as texts. (C4) no more texts than
/// slots, and no more tokens than rows.
pub(crate) fn cache_update_type(operands: &[&TensorType]) -> Inferred {
    let [cache, new, slot, start, count] = arity(operands)?;
    for (name, x) in [("cache", cache), ("new", new)] {
        require!(x.rank() == 4 && x.dtype.is_float(), "I1", "`{name}` must be of floats with 4 dimensions, found {x}");
    }
    for (name, rank, x) in [("slot", 0, slot), ("start", 1, start), ("count", 1, count)] {
        let is_so = x.rank() == rank && x.dtype == DType::I32;
        require!(is_so, "I1", "`{name}` must be of i32 with {rank} dimensions, found {x}");
    }
    require!(cache.dtype == new.dtype, "C1", "the element types must be the same, found {cache} and {new}");
    let ([slots, heads, rows, size], [texts, tokens, new_heads, new_size]) = (dims(cache), dims(new));
    require!(
        heads == new_heads && size == new_size,
        "C2",
        "`cache` and `new` must have the same heads and elements of a head, found {cache} and {new}"
    );
    require!(
        start.shape == [texts] && count.shape == [texts],
        "C3",
        "expected a start and a count for each of {texts} texts, found {start} and {count}"
    );
    require!(
        texts <= slots && tokens <= rows,
        "C4",
        "{texts} texts of {tokens} tokens do not fit {slots} slots of {rows} rows"
    );
    Ok(vec![cache.clone()])
}

impl<'g> Value<'g> {
    /// `cache_update` with `self` as the cache.
    ///
    /// # Panics
    /// If a constraint of `cache_update` is broken.
    #[track_caller]
    pub fn cache_update(self, new: Value<'g>, slot: Value<'g>, [start, count]: [Value<'g>; 2]) -> Value<'g> {
        let [cache] = self.builder().push_n(Op::CacheUpdate, &[self, new, slot, start, count]);
        cache
    }

    /// `cached_attention` with `self` as the query.
    ///
    /// # Panics
    /// If a constraint of [`CachedAttention`] is broken.
    #[track_caller]
    pub fn cached_attention(
        self,
        [key, value]: [Value<'g>; 2],
        [start, count]: [Value<'g>; 2],
        attributes: CachedAttention,
    ) -> Value<'g> {
        let [output] = self.builder().push_n(Op::CachedAttention(attributes), &[self, key, value, start, count]);
        output
    }

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
