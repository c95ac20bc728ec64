//! Architectures: a file each, to be read beside its paper.

pub mod gpt2;
pub mod llama;

use lmc_graph::Value;

use crate::scope::Scope;
use gpt2::Gpt2Config;
use llama::LlamaConfig;

/// A model's architecture with its sizes, named as in Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// The Llama family.
    Llama(LlamaConfig),
    /// GPT-2 and its relatives with learned positions.
    Gpt2(Gpt2Config),
}

/// A size or setting that no model can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct ConfigError {
    /// The field of the configuration.
    pub field: &'static str,
    /// What it must be and what it is.
    pub reason: String,
}

impl ModelConfig {
    /// The number of token ids.
    pub fn vocab_size(&self) -> usize {
        match self {
            ModelConfig::Llama(config) => config.vocab_size,
            ModelConfig::Gpt2(config) => config.vocab_size,
        }
    }

    /// The longest sequence the model takes, if it has one: learned positions do, rotary ones do not.
    pub fn max_seq_len(&self) -> Option<usize> {
        match self {
            ModelConfig::Llama(_) => None,
            ModelConfig::Gpt2(config) => Some(config.n_positions),
        }
    }

    /// The number of parameters; a tied embedding counts once.
    pub fn num_params(&self) -> usize {
        match self {
            ModelConfig::Llama(config) => config.num_params(),
            ModelConfig::Gpt2(config) => config.num_params(),
        }
    }

    /// Floating-point operations to train on one token in sequences of `seq_len` tokens.
    ///
    /// 6 for each element of a matrix that activations are multiplied with (2 forward, 4 backward): embeddings, gains
    /// and biases are none, a tied head is one. For attention, causal, half of `12 * layers * heads * head_size *
    /// seq_len` (Chowdhery et al. 2022, appendix B). Recomputation is not counted.
    pub fn flops_per_token(&self, seq_len: usize) -> f64 {
        match self {
            ModelConfig::Llama(config) => config.flops_per_token(seq_len),
            ModelConfig::Gpt2(config) => config.flops_per_token(seq_len),
        }
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            ModelConfig::Llama(config) => config.validate(),
            ModelConfig::Gpt2(config) => config.validate(),
        }
    }

    /// The last activations before the head: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid or the sequence is longer than [`ModelConfig::max_seq_len`].
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        match self {
            ModelConfig::Llama(config) => config.hidden(scope, tokens),
            ModelConfig::Gpt2(config) => config.hidden(scope, tokens),
        }
    }

    /// The f32 logits of the last activations: `.. C → .. V`. To be called after [`ModelConfig::hidden`], so that
    /// parameters are declared in one order.
    ///
    /// # Panics
    /// If the last size of `hidden` is not the model's.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        match self {
            ModelConfig::Llama(config) => config.head(scope, hidden),
            ModelConfig::Gpt2(config) => config.head(scope, hidden),
        }
    }

    /// The f32 logits of the next token at every position: `i32 B T → B T V`.
    ///
    /// # Panics
    /// As [`ModelConfig::hidden`].
    #[track_caller]
    pub fn logits<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        let hidden = self.hidden(scope, tokens);
        self.head(scope, hidden)
    }
}

/// The standard deviation for projections that write to the residual stream, so that its variance does not grow with
/// the number of layers: each layer writes twice (Radford et al. 2019, section 2.3).
fn residual_std(initializer_range: f64, layers: usize) -> f64 {
    initializer_range / (2.0 * layers as f64).sqrt()
}

/// Training operations a token: 6 an element of the matrices, and causal attention at half of the square.
fn flops_per_token(matrix_elements: usize, layers: usize, attention_width: usize, seq_len: usize) -> f64 {
    6.0 * matrix_elements as f64 + 12.0 * layers as f64 * attention_width as f64 * seq_len as f64 / 2.0
}

/// Refuses sizes of 0, and sizes with which a matrix would have more than 2^48 elements, far beyond any machine.
fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    const LARGEST: usize = 1 << 24;
    for &(field, size) in sizes {
        if size == 0 || size > LARGEST {
            return Err(ConfigError { field, reason: format!("must be between 1 and {LARGEST}, found {size}") });
        }
    }
    Ok(())
}

/// Refuses numbers that are not finite and above 0.
fn check_positive(numbers: &[(&'static str, f64)]) -> Result<(), ConfigError> {
    for &(field, number) in numbers {
        if !(number.is_finite() && number > 0.0) {
            return Err(ConfigError { field, reason: format!("must be a finite number above 0, found {number}") });
        }
    }
    Ok(())
}
