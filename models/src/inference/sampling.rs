//! Drawing tokens: each row of logits by settings of its own.
//!
//! Nothing is sorted. The least logit that top-k or top-p allows is found by bisection over the 32 bits of its number, which
//! takes 32 passes over the logits, and only where a row asks for it. A token is drawn by the inverse of the distribution
//! function, from one number a row.

use lmc_graph::{DType, Literal, TensorType, Value};

/// The most likely tokens that are told with their log-probabilities.
pub const LIKELIEST: usize = 20;

/// Settings of each row, and what it has seen.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'g> {
    /// What logits are divided by, `f32 B`; 0 takes the likeliest token.
    pub temperature: Value<'g>,
    /// Only this many likeliest tokens, and those as likely as the last of them, `i32 B`; 0 for all.
    pub top_k: Value<'g>,
    /// Of these the fewest likeliest whose probabilities together reach this, `f32 B`; 1 for all.
    pub top_p: Value<'g>,
    /// Of these, those at least this many times as likely as the likeliest, `f32 B`; 0 for all.
    pub min_p: Value<'g>,
    /// What logits above 0 of tokens that were seen are divided by and others multiplied with, `f32 B`.
    pub repetition_penalty: Value<'g>,
    /// Subtracted from logits of tokens that were generated, `f32 B`.
    pub presence_penalty: Value<'g>,
    /// Subtracted as often as they were, `f32 B`.
    pub frequency_penalty: Value<'g>,
    /// Tokens of the prompt, `i1 B V`.
    pub in_prompt: Value<'g>,
    /// How often each was generated, `i32 B V`.
    pub generated: Value<'g>,
    /// Added to the logits, `f32 B V`.
    pub bias: Value<'g>,
    /// The seed of each row, `ui64 B`.
    pub seed: Value<'g>,
    /// The position that the token will have, `i32 B`: with the seed it decides what is drawn.
    pub position: Value<'g>,
}

/// What was drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn<'g> {
    /// The token of each row, `i32 B`.
    pub(super) token: Value<'g>,
    /// Its log-probability, `f32 B`, at temperature 1, with biases and penalties.
    pub(super) log_prob: Value<'g>,
    /// The likeliest tokens, `i32 B L`, likeliest first, if they are wanted, else zeros.
    pub(super) likeliest: Value<'g>,
    /// Their log-probabilities, `f32 B L`.
    pub(super) likeliest_log_probs: Value<'g>,
}

impl<'g> Rows<'g> {
    /// A token for each row of `f32 B V` logits. `wants_likeliest` is `i1`.
    #[track_caller]
    pub(super) fn draw(&self, logits: Value<'g>, wants_likeliest: Value<'g>) -> Drawn<'g> {
        let b = logits.builder();
        let [batch, vocab] = logits.dims();
        let logits = self.penalized(logits);
        let likeliest = logits.argmax(1, DType::I32);
        let is_random = self.temperature.greater(self.temperature.full_like(0.0));
        let drawn = b.if_else(
            is_random.any(&[0]),
            || {
                let temperature = is_random.select(self.temperature, self.temperature.full_like(1.0));
                let weights = self.weights(logits / column(temperature, vocab));
                let token = pick(weights, self.uniform());
                vec![is_random.select(token, likeliest)]
            },
            || vec![likeliest],
        );
        let token = drawn[0];
        let greatest = logits.max(&[1]);
        let log_total = (logits - column(greatest, vocab)).exp().sum(&[1]).log();
        let place = b.iota(&TensorType::new(DType::I32, [batch]), 0) * vocab as f64 + token;
        let log_prob = logits.reshape(&[batch * vocab]).take_rows(place) - greatest - log_total;
        let count = LIKELIEST.min(vocab);
        let told = b.if_else(
            wants_likeliest,
            || likeliest_of(logits - column(greatest, vocab) - column(log_total, vocab), count),
            || {
                let none = |dtype| b.full(&TensorType::new(dtype, [batch, count]), 0.0);
                vec![none(DType::I32), none(DType::F32)]
            },
        );
        Drawn { token, log_prob, likeliest: told[0], likeliest_log_probs: told[1] }
    }

    /// The logits with biases and penalties.
    #[track_caller]
    fn penalized(&self, logits: Value<'g>) -> Value<'g> {
        let [_, vocab] = logits.dims();
        let logits = logits + self.bias;
        let was_generated = self.generated.greater(self.generated.full_like(0.0));
        let penalty = column(self.repetition_penalty, vocab);
        let repeated = logits.greater(logits.full_like(0.0)).select(logits / penalty, logits * penalty);
        let logits = self.in_prompt.or(was_generated).select(repeated, logits);
        let presence = was_generated.convert(DType::F32) * column(self.presence_penalty, vocab);
        let frequency = self.generated.convert(DType::F32) * column(self.frequency_penalty, vocab);
        logits - presence - frequency
    }

    /// The probabilities of tokens that may be drawn, `B V`, but for a factor of each row: the likeliest token's is 1.
    #[track_caller]
    fn weights(&self, logits: Value<'g>) -> Value<'g> {
        let b = logits.builder();
        let [batch, vocab] = logits.dims();
        let weights = (logits - column(logits.max(&[1]), vocab)).exp();
        let keys = ordered(logits);
        let none = b.full(&TensorType::new(DType::U32, [batch]), 0.0);
        let restricts_k = self.top_k.greater(self.top_k.full_like(0.0));
        let least = b.if_else(
            restricts_k.any(&[0]),
            || {
                let count = self.top_k.convert(DType::F32);
                vec![restricts_k.select(greatest_with(keys, weights.full_like(1.0), count), none)]
            },
            || vec![none],
        )[0];
        let weights = keys.greater_equal(column(least, vocab)).select(weights, weights.full_like(0.0));
        let restricts_p = self.top_p.less(self.top_p.full_like(1.0));
        let least = b.if_else(
            restricts_p.any(&[0]),
            || {
                let mass = weights.sum(&[1]) * self.top_p;
                vec![restricts_p.select(greatest_with(keys, weights, mass), none)]
            },
            || vec![none],
        )[0];
        let allowed = keys.greater_equal(column(least, vocab)).and(weights.greater_equal(column(self.min_p, vocab)));
        allowed.select(weights, weights.full_like(0.0))
    }

    /// A number from `[0, 1)` for each row, by its seed and position alone, `f32 B`.
    #[track_caller]
    fn uniform(&self) -> Value<'g> {
        let b = self.seed.builder();
        let [batch] = self.seed.dims();
        let numbers = b.scan(&[], &[self.seed, self.position], batch, |_, row| {
            let key = b.rng_key(row[0]).fold_in(row[1]);
            (vec![], vec![key.uniform(&TensorType::new(DType::F32, [1]))])
        });
        numbers.stacked[0].reshape(&[batch])
    }
}

/// A number a row, for each of `size` elements: `B → B size`.
#[track_caller]
fn column(x: Value<'_>, size: usize) -> Value<'_> {
    let [batch] = x.dims();
    x.broadcast_in_dim(&[batch, size], &[0])
}

/// Where in `vocab` elements each row's token is: `i32 B → i1 B V`.
#[track_caller]
pub(super) fn is_token(token: Value<'_>, vocab: usize) -> Value<'_> {
    let [batch] = token.dims();
    let index = token.builder().iota(&TensorType::new(DType::I32, [batch, vocab]), 1);
    index.equal(column(token, vocab))
}

/// f32 as `ui32` in the same order: the sign bit of numbers above 0 is set, and all bits of others are turned.
#[track_caller]
fn ordered(x: Value<'_>) -> Value<'_> {
    let bits = x.bitcast_convert(DType::U32);
    let sign = bits.full_like(f64::from(1u32 << 31));
    let is_negative = bits.greater_equal(sign);
    is_negative.select(bits.logical_not(), bits.or(sign))
}

/// The greatest number for which the weights of keys that are not below it are together at least `target`, for each row:
/// `ui32 B V`, `f32 B V`, `f32 B → ui32 B`; 0 if all are less.
#[track_caller]
fn greatest_with<'g>(keys: Value<'g>, weights: Value<'g>, target: Value<'g>) -> Value<'g> {
    let b = keys.builder();
    let [batch, vocab] = keys.dims();
    let bits: Vec<u32> = (0..32).rev().map(|bit| 1 << bit).collect();
    let bits = b.constant(Literal::new([32], &bits));
    let zero = b.full(&TensorType::new(DType::U32, [batch]), 0.0);
    let found = b.scan(&[zero], &[bits], 32, |least, bit| {
        let candidate = least[0].or(bit[0].broadcast_in_dim(&[batch], &[]));
        let is_in = keys.greater_equal(column(candidate, vocab));
        let together = is_in.select(weights, weights.full_like(0.0)).sum(&[1]);
        (vec![together.greater_equal(target).select(candidate, least[0])], vec![])
    });
    found.carries[0]
}

/// The elements of a block of [`pick`].
const BLOCK: usize = 256;

/// The index of each row at which the sum of its weights first exceeds `uniform` of all: `B V`, `B → i32 B`. The row has a
/// weight above 0, and none is taken that is not. First the block of weights is found, then the place in it.
#[track_caller]
fn pick<'g>(weights: Value<'g>, uniform: Value<'g>) -> Value<'g> {
    let [batch, vocab] = weights.dims();
    let blocks = vocab.div_ceil(BLOCK);
    let padding = [0, (blocks * BLOCK - vocab) as i64];
    let zero = weights.builder().scalar(DType::F32, 0.0);
    let weights = weights.pad(zero, &[0, 0], &padding, &[0, 0]).reshape(&[batch, blocks, BLOCK]);
    let sums = weights.sum(&[2]);
    let cumulative = sums.cumulative_sum(1);
    let target = cumulative.slice_dim(1, blocks - 1..blocks).reshape(&[batch]) * uniform;
    let block = first_above(sums, cumulative, target);
    let is_block = is_token(block, blocks);
    let before = is_block.select(cumulative - sums, sums.full_like(0.0)).sum(&[1]);
    let is_in = is_block.broadcast_in_dim(&[batch, blocks, BLOCK], &[0, 1]);
    let inside = is_in.select(weights, weights.full_like(0.0)).sum(&[1]);
    let place = first_above(inside, inside.cumulative_sum(1), target - before);
    block * BLOCK as f64 + place
}

/// The first index with a weight at which the cumulative sum is above `target`; where rounding leaves none, the last with a
/// weight: `B V`, `B V`, `B → i32 B`.
#[track_caller]
fn first_above<'g>(weights: Value<'g>, cumulative: Value<'g>, target: Value<'g>) -> Value<'g> {
    let [batch, size] = weights.dims();
    let has_weight = weights.greater(weights.full_like(0.0));
    let index = weights.builder().iota(&TensorType::new(DType::I32, [batch, size]), 1);
    let above = has_weight.and(cumulative.greater(column(target, size)));
    let first = above.select(index, index.full_like(size as f64)).min(&[1]);
    let last = has_weight.select(index, index.full_like(0.0)).max(&[1]);
    first.minimum(last)
}

/// The `count` greatest of each row, one after the other: indices `i32 B L` and values `f32 B L`.
#[track_caller]
fn likeliest_of<'g>(log_probs: Value<'g>, count: usize) -> Vec<Value<'g>> {
    let [_, vocab] = log_probs.dims();
    let found = log_probs.builder().scan(&[log_probs], &[], count, |left, _| {
        let index = left[0].argmax(1, DType::I32);
        let excluded = left[0].full_like(-3e38);
        (vec![is_token(index, vocab).select(excluded, left[0])], vec![index, left[0].max(&[1])])
    });
    found.stacked.iter().map(|stacked| stacked.transpose(&[1, 0])).collect()
}
