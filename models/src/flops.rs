//! The floating-point operations of training, counted by convention, for model FLOPs utilization.
//!
//! Utilization says how much of a device's peak a run turns into training, so the count is of what the mathematics
//! needs, whatever a program does beyond it: recomputation, padding and the upper triangle of causal attention are not
//! counted, nor are norms, activations, the optimizer. A token costs
//!
//! ```text
//! 6 N + 12 L H D T / 2
//! ```
//!
//! - `N` is the number of elements of the matrices that activations are multiplied with: the projections of every block,
//!   and the head. A table that is only looked up is none: not the token embedding of a model with a head of its own,
//!   not learned positions. A tied embedding is the head, and counts once. Gains and biases are none.
//! - Each of those elements is a multiplication and an addition forward, and two of each backward: 6.
//! - Attention of `L` blocks with `H` query heads of `D` elements over `T` tokens multiplies queries with keys and
//!   probabilities with values: `2 * 2 H D T` forward, twice that backward, 12 together. A causal model needs half.
//!
//! This is the formula of PaLM (Chowdhery et al. 2022, appendix B), which writes `6 N + 12 L H Q T`, with two differences:
//! PaLM and nanoGPT count attention in full, and nanoGPT's `N` has every parameter but the positions. Causal attention at
//! half is what FlashAttention's benchmarks count; it gives the lower number, and the one a perfect program could reach.

use crate::architectures::ModelConfig;
use crate::architectures::gpt2::Gpt2Config;
use crate::architectures::llama::LlamaConfig;

impl ModelConfig {
    /// Floating-point operations to train on one token in sequences of `seq_len` tokens, by the convention of
    /// [`flops`](crate::flops).
    pub fn flops_per_token(&self, seq_len: usize) -> f64 {
        match self {
            ModelConfig::Llama(config) => config.flops_per_token(seq_len),
            ModelConfig::Gpt2(config) => config.flops_per_token(seq_len),
        }
    }
}

impl LlamaConfig {
    /// As [`ModelConfig::flops_per_token`](crate::ModelConfig::flops_per_token).
    pub fn flops_per_token(&self, seq_len: usize) -> f64 {
        let head = self.vocab_size * self.hidden_size;
        let matrices = self.num_hidden_layers * self.layer_matrix_elements() + head;
        flops_per_token(matrices, self.num_hidden_layers, self.num_attention_heads * self.head_dim, seq_len)
    }
}

impl Gpt2Config {
    /// As [`ModelConfig::flops_per_token`](crate::ModelConfig::flops_per_token).
    pub fn flops_per_token(&self, seq_len: usize) -> f64 {
        let matrices = self.n_layer * self.layer_matrix_elements() + self.vocab_size * self.n_embd;
        flops_per_token(matrices, self.n_layer, self.n_embd, seq_len)
    }
}

/// The convention: `matrix_elements` is `N`, `attention_width` is `H D`.
fn flops_per_token(matrix_elements: usize, layers: usize, attention_width: usize, seq_len: usize) -> f64 {
    6.0 * matrix_elements as f64 + 12.0 * layers as f64 * attention_width as f64 * seq_len as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Dropout;

    #[test]
    fn hand_counts() {
        let llama = LlamaConfig {
            vocab_size: 32000,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 4,
            head_dim: 64,
            intermediate_size: 2048,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            dropout: Dropout::NONE,
        };
        let check = |model: ModelConfig, seq_len: usize, expected: f64| {
            assert_eq!(model.flops_per_token(seq_len), expected, "{model:?} over {seq_len}");
        };
        // The 100M model of the comparisons with other trainers. A block: queries and output 2 * 768 * 768, keys and
        // values 2 * 768 * 256, three feed-forward matrices of 768 * 2048: 6,291,456. With the head of 24,576,000, N is
        // 100,073,472. Attention: 12 * 12 * 768 * 2048 / 2 = 113,246,208.
        check(ModelConfig::Llama(llama.clone()), 2048, 6.0 * 100_073_472.0 + 113_246_208.0);
        // A separate head replaces the tied one: the same work, for looking up is none.
        check(
            ModelConfig::Llama(LlamaConfig { tie_word_embeddings: false, ..llama.clone() }),
            2048,
            6.0 * 100_073_472.0 + 113_246_208.0,
        );
        // One token attends to itself alone, and half of that is counted.
        check(ModelConfig::Llama(llama), 1, 6.0 * 100_073_472.0 + 55_296.0);
        // GPT-2 small. A block: 768 * (3 * 768 + 768 + 2 * 3072) = 7,077,888; the head 50257 * 768 = 38,597,376; N is
        // 123,532,032, without positions and biases. Attention: 12 * 12 * 768 * 1024 / 2 = 56,623,104.
        check(ModelConfig::Gpt2(Gpt2Config::new(50257, 1024, 768, 12, 12)), 1024, 6.0 * 123_532_032.0 + 56_623_104.0);
    }
}
