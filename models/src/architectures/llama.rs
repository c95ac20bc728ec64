//! Llama: RMSNorm before each layer, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023; Ainslie et
//! al. 2023 for the grouped queries). Paths and shapes are those of Hugging Face's `LlamaForCausalLM`.

use lmc_graph::Value;

use crate::architectures::decoder::{DecoderConfig, Gain, Norms};
use crate::architectures::{ConfigError, Dropout, check_layers};
use crate::layers::{Attention, Gate, RopeConfig};
use crate::scope::Scope;

/// The sizes of a Llama, named as in its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Elements of an activation.
    pub hidden_size: usize,
    /// Blocks of attention and feed-forward layer.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; the query heads are a multiple of them.
    pub num_key_value_heads: usize,
    /// Elements of a head; even. Need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Elements between the projections of the feed-forward layer.
    pub intermediate_size: usize,
    /// The base of the rotary frequencies; 10000 in Llama and Llama 2.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding table, or a matrix of its own.
    pub tie_word_embeddings: bool,
    /// The standard deviation of initial weights; 0.02 in Hugging Face's.
    pub initializer_range: f64,
    /// The rates of dropout; Llama's are 0.
    pub dropout: Dropout,
}

impl LlamaConfig {
    /// The last activations, normalized: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid.
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        self.decoder().hidden(scope, tokens)
    }

    /// The f32 logits of the last activations: `.. C → .. V`.
    ///
    /// # Panics
    /// If the last size of `hidden` is not `hidden_size`.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        self.decoder().head(scope, hidden)
    }

    /// The decoder that a Llama is.
    pub fn decoder(&self) -> DecoderConfig {
        let rope = RopeConfig::new(self.rope_theta);
        DecoderConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            intermediate_size: self.intermediate_size,
            max_position_embeddings: None,
            sliding_windows: vec![None; self.num_hidden_layers],
            rope,
            sliding_rope: rope,
            attention_scale: Attention::new(self.head_dim).scale,
            attention_soft_cap: None,
            logit_soft_cap: None,
            rms_norm_eps: self.rms_norm_eps,
            gain: Gain::Plain,
            norms: Norms::Before,
            query_key_norm: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            gate: Gate::Silu,
            embedding_scale: None,
            tie_word_embeddings: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
            dropout: self.dropout,
        }
    }

    /// The number of parameters; a tied embedding counts once.
    pub fn num_params(&self) -> usize {
        let embedding = self.vocab_size * self.hidden_size;
        let gains = (2 * self.num_hidden_layers + 1) * self.hidden_size;
        let tables = if self.tie_word_embeddings { embedding } else { 2 * embedding };
        tables + self.num_hidden_layers * self.layer_matrix_elements() + gains
    }

    /// Elements of the matrices of a block.
    pub(crate) fn layer_matrix_elements(&self) -> usize {
        let query_and_output = 2 * self.num_attention_heads * self.head_dim;
        let key_and_value = 2 * self.num_key_value_heads * self.head_dim;
        self.hidden_size * (query_and_output + key_and_value + 3 * self.intermediate_size)
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Before a list of so many blocks is made.
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        self.decoder().validate()
    }
}
