//! Models that are used: functions that continue texts with a cache of keys and values, and functions that score them.
//!
//! A cache belongs to a batch of texts, each in a *slot*. A prompt goes through [`prefill_func`] in chunks, into one slot;
//! [`decode_func`] then takes one token of every slot at a time. Both draw the next token themselves, so that only
//! tokens leave the device. [`CacheShape`] says where keys lie; layers with a sliding window keep no more than it needs.
//!
//! # Invariants
//! - What a slot computes does not depend on the others, up to the rounding of products.
//! - Everything that changes from text to text is an argument: a function serves all texts of its sizes.

mod cache;
mod sampling;
mod score;
mod steps;
#[cfg(test)]
mod tests;

use lmc_graph::Value;

use crate::architectures::decoder::DecoderConfig;
use crate::architectures::gpt2::Gpt2Config;
use crate::architectures::sequence::Sequence;
use crate::architectures::{ConfigError, ModelConfig};
use crate::compute::Precision;
use crate::params::{ParamSpec, Params};
use crate::scope::Scope;
use crate::stored::Storage;

pub use cache::{CacheShape, LayerCache};
pub use sampling::{LIKELIEST, Rows};
pub use score::{attention_func, embeddings_func, log_probs_func, logits_func};
pub use steps::{DECODE_INPUTS, PREFILL_INPUTS, Step, decode_func, prefill_func};

/// A model's architecture with its sizes, for use.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// Llama, Mistral, Qwen and Gemma.
    Decoder(DecoderConfig),
    /// GPT-2 and its relatives with learned positions.
    Gpt2(Gpt2Config),
}

impl From<&ModelConfig> for Architecture {
    fn from(model: &ModelConfig) -> Architecture {
        match model {
            ModelConfig::Llama(config) => Architecture::Decoder(config.decoder()),
            ModelConfig::Gpt2(config) => Architecture::Gpt2(config.clone()),
        }
    }
}

impl Architecture {
    /// The number of token ids.
    pub fn vocab_size(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.vocab_size,
            Architecture::Gpt2(config) => config.vocab_size,
        }
    }

    /// Elements of an activation.
    pub fn hidden_size(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.hidden_size,
            Architecture::Gpt2(config) => config.n_embd,
        }
    }

    /// The longest sequence that the model was made for; `None` where it does not say.
    pub fn max_context(&self) -> Option<usize> {
        match self {
            Architecture::Decoder(config) => config.max_position_embeddings,
            Architecture::Gpt2(config) => Some(config.n_positions),
        }
    }

    /// What each block keeps of a token.
    pub fn layers(&self) -> Vec<LayerCache> {
        match self {
            Architecture::Decoder(config) => {
                let layer = |&sliding_window: &Option<usize>| LayerCache {
                    heads: config.num_key_value_heads,
                    head_dim: config.head_dim,
                    sliding_window,
                };
                config.sliding_windows.iter().map(layer).collect()
            }
            Architecture::Gpt2(config) => {
                let head_dim = config.n_embd / config.n_head;
                vec![LayerCache { heads: config.n_head, head_dim, sliding_window: None }; config.n_layer]
            }
        }
    }

    /// Query heads.
    pub fn query_heads(&self) -> usize {
        match self {
            Architecture::Decoder(config) => config.num_attention_heads,
            Architecture::Gpt2(config) => config.n_head,
        }
    }

    /// All weights of the model, as training declares them.
    ///
    /// # Panics
    /// If the configuration is not valid.
    pub fn specs(&self) -> Params<ParamSpec> {
        logits_func(self, 1, Precision::Float32, &Storage::default()).1
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Architecture::Decoder(config) => config.validate(),
            Architecture::Gpt2(config) => config.validate(),
        }
    }

    /// The last activations, normalized: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid.
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>, sequences: &dyn Sequence<'g>) -> Value<'g> {
        match self {
            Architecture::Decoder(config) => config.hidden_of(scope, tokens, sequences),
            Architecture::Gpt2(config) => config.hidden_of(scope, tokens, sequences),
        }
    }

    /// The f32 logits of the last activations: `.. C → .. V`.
    ///
    /// # Panics
    /// If the last size of `hidden` is not the model's.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        match self {
            Architecture::Decoder(config) => config.head(scope, hidden),
            Architecture::Gpt2(config) => config.head(scope, hidden),
        }
    }
}
