//! Products of sizes that no machine holds.

use super::model::ModelConfig;
use super::settings::{Settings, TrainConfig};
use super::source::{Place, Problem};

/// The largest number of elements of a weight set or an activation: 4 TiB of f32. It is far beyond any device, and
/// keeps every product of sizes far from overflow.
const MOST_ELEMENTS: u128 = 1 << MOST_BITS;
const MOST_BITS: u32 = 40;

/// The same of attention's scores where they are not kept: a million tokens with a thousand heads, which computes for days.
const MOST_SCORES_BITS: u32 = 50;

/// What is wrong with the products of sizes, if something is. `place` is shown.
pub(super) fn absurd_sizes(settings: &Settings, place: Option<Place>) -> Option<Problem> {
    // Without a vocabulary size there is a tokenizer, whose size is looked at when it is known.
    let vocab_size = settings.model.vocab_size().unwrap_or(1);
    let parameters = settings.model.num_parameters(vocab_size);
    if parameters > MOST_ELEMENTS {
        let message =
            format!("the model would have {parameters} parameters; the most is 2^40, about {MOST_ELEMENTS:.0e}");
        return Some(Problem::new(place, message).help("look at the sizes in [model]"));
    }
    let (heads, widest) = match &settings.model {
        ModelConfig::Llama(m) => {
            let attention = m.num_attention_heads.saturating_mul(m.head_dim);
            (m.num_attention_heads, m.intermediate_size.max(m.hidden_size).max(attention))
        }
        ModelConfig::Gpt2(m) => (m.n_head, m.n_inner.max(m.n_embd.saturating_mul(3))),
    };
    let TrainConfig { micro_batch_size, grad_accum_steps, seq_len, .. } = settings.train;
    let product = |factors: &[usize]| factors.iter().fold(1u128, |product, &n| product.saturating_mul(n as u128));
    // Scores are in memory where attention is composed for its dropout; fused kernels only compute them, and whether those
    // of other forms fit is told by the estimate of memory.
    let most_scores = if settings.model.attention_dropout() > 0.0 { MOST_BITS } else { MOST_SCORES_BITS };
    let largest = [
        (
            "the tokens of a step (grad_accum_steps * micro_batch_size * seq_len)",
            [grad_accum_steps, micro_batch_size, seq_len, 1],
            MOST_BITS,
        ),
        (
            "the logits of a micro-batch (micro_batch_size * seq_len * vocab_size)",
            [micro_batch_size, seq_len, vocab_size, 1],
            MOST_BITS,
        ),
        (
            "the activations of a micro-batch (micro_batch_size * seq_len * width)",
            [micro_batch_size, seq_len, widest, 1],
            MOST_BITS,
        ),
        (
            "the attention of a micro-batch (micro_batch_size * heads * seq_len^2)",
            [micro_batch_size, heads, seq_len, seq_len],
            most_scores,
        ),
    ];
    largest.into_iter().find(|(_, factors, bits)| product(factors) > 1 << bits).map(|(what, factors, bits)| {
        let message =
            format!("{what} would be {} elements; the most is 2^{bits}, {}", product(&factors), 1u128 << bits);
        Problem::new(place, message).help("look at the sizes in [train] and [model]")
    })
}
