//! `[model]`: the architectures and their sizes, in the words of the architecture's Hugging Face `config.json`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::settings::{Choice, choices, is_zero};

/// `[model]`: the architecture, `arch`, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "arch", rename_all = "lowercase")]
pub enum ModelConfig {
    /// `arch = "llama"`: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.
    Llama(LlamaConfig),
    /// `arch = "gpt2"`: learned positions, LayerNorm, GELU; its options reach as far as microgpt.
    Gpt2(Gpt2Config),
}

choices! {
    /// `model.arch`.
    Arch {
        /// Llama 2 and later.
        Llama = "llama",
        /// GPT-2, nanoGPT, microgpt.
        Gpt2 = "gpt2",
    }
}

/// The sizes of a Llama.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LlamaConfig {
    /// Rows of the embedding. Optional with a `"char"` or `"byte"` tokenizer, whose size it then is; a larger one pads
    /// the embedding. Required with token shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Width of the residual stream. Required.
    pub hidden_size: usize,
    /// Blocks. Required.
    pub num_hidden_layers: usize,
    /// Query heads. Required.
    pub num_attention_heads: usize,
    /// Key and value heads; must divide `num_attention_heads`. Default `num_attention_heads`: one for each query head.
    pub num_key_value_heads: usize,
    /// Width of a head; even, since rotary positions turn pairs. Default `hidden_size / num_attention_heads`. When
    /// given, `num_attention_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Width of the SwiGLU. Required.
    pub intermediate_size: usize,
    /// Base of the rotary frequencies. Default 10000, as in the RoFormer paper.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm. Default 1e-5, as in Llama 2.
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding. Default `false`, as in Llama.
    pub tie_word_embeddings: bool,
    /// Standard deviation of initial weights. Default 0.02, as in GPT-2.
    pub initializer_range: f64,
    /// Rate of dropout of the embeddings, in training only; at least 0 and less than 1. Default `dropout`, a key that
    /// sets this and the two below, else 0: a run that sees its data about once needs none.
    #[serde(skip_serializing_if = "is_zero")]
    pub embd_pdrop: f64,
    /// Rate of dropout of what attention and MLP add to the residual stream. Default as `embd_pdrop`'s.
    #[serde(skip_serializing_if = "is_zero")]
    pub resid_pdrop: f64,
    /// Rate of dropout of attention's probabilities, which are then in memory for all pairs of positions: no fused
    /// attention has it. Default as `embd_pdrop`'s.
    #[serde(skip_serializing_if = "is_zero")]
    pub attention_dropout: f64,
    /// Weights to start from: a safetensors file with Hugging Face's names. Default: random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

/// The sizes of a GPT-2.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpt2Config {
    /// Rows of the embedding. Optional with a `"char"` or `"byte"` tokenizer, whose size it then is; a larger one pads
    /// the embedding. Required with token shards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Width of the residual stream; must be a multiple of `n_head`. Required.
    pub n_embd: usize,
    /// Blocks. Required.
    pub n_layer: usize,
    /// Attention heads. Required.
    pub n_head: usize,
    /// Rows of the position embedding, at least `train.seq_len`. Default `train.seq_len`: further rows would not be
    /// trained.
    pub n_positions: usize,
    /// Width of the MLP. Default `4 * n_embd`, as in GPT-2.
    pub n_inner: usize,
    /// The MLP's activation: `"gelu_new"` (tanh form), `"gelu"` (by the error function) or `"relu"`. Default
    /// `"gelu_new"`, as in GPT-2.
    pub activation_function: Activation,
    /// `"layer_norm"`, with gains and (if `bias`) biases; or `"rms_norm"`, without either, as in microgpt. Default
    /// `"layer_norm"`.
    pub normalization: Normalization,
    /// Whether the embedding is normalized before the first block, as in microgpt. Default `false`.
    pub embedding_norm: bool,
    /// Whether the residual stream is normalized before the output projection. Default `true`; microgpt does not.
    pub final_norm: bool,
    /// Added to the variance or mean square in norms. Default 1e-5, as in GPT-2.
    pub layer_norm_epsilon: f64,
    /// Whether projections and LayerNorm have biases. Default `true`, as in GPT-2; nanoGPT's recipes say `false`.
    pub bias: bool,
    /// Whether the output projection is the embedding. Default `true`, as in GPT-2.
    pub tie_word_embeddings: bool,
    /// Standard deviation of initial weights. Default 0.02, as in GPT-2.
    pub initializer_range: f64,
    /// Rate of dropout of the embeddings, in training only; at least 0 and less than 1. Default `dropout`, a key that
    /// sets this and the two below, else 0: a run that sees its data about once needs none.
    #[serde(skip_serializing_if = "is_zero")]
    pub embd_pdrop: f64,
    /// Rate of dropout of what attention and MLP add to the residual stream. Default as `embd_pdrop`'s.
    #[serde(skip_serializing_if = "is_zero")]
    pub resid_pdrop: f64,
    /// Rate of dropout of attention's probabilities, which are then in memory for all pairs of positions: no fused
    /// attention has it. Default as `embd_pdrop`'s.
    #[serde(skip_serializing_if = "is_zero")]
    pub attn_pdrop: f64,
    /// Weights to start from: a safetensors file with Hugging Face's names. Default: random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

choices! {
    /// The activation of an MLP, in Hugging Face's words.
    Activation {
        /// GELU by the error function, as it is defined.
        Gelu = "gelu",
        /// GELU by its tanh approximation.
        GeluNew = "gelu_new",
        /// max(x, 0).
        Relu = "relu",
    }
}

choices! {
    /// The norm of a block.
    Normalization {
        /// Mean and variance, with learned gains.
        LayerNorm = "layer_norm",
        /// Root of the mean square, nothing learned.
        RmsNorm = "rms_norm",
    }
}

impl ModelConfig {
    /// The architecture.
    pub fn arch(&self) -> Arch {
        match self {
            ModelConfig::Llama(_) => Arch::Llama,
            ModelConfig::Gpt2(_) => Arch::Gpt2,
        }
    }

    /// Rows of the embedding, where known: always with token shards, and in a `Config` that `with_tokenizer` made.
    pub fn vocab_size(&self) -> Option<usize> {
        match self {
            ModelConfig::Llama(model) => model.vocab_size,
            ModelConfig::Gpt2(model) => model.vocab_size,
        }
    }

    /// The safetensors file to start from.
    pub fn init_from(&self) -> Option<&Path> {
        match self {
            ModelConfig::Llama(model) => model.init_from.as_deref(),
            ModelConfig::Gpt2(model) => model.init_from.as_deref(),
        }
    }

    /// The longest row the model takes, where it has a limit.
    pub fn max_positions(&self) -> Option<usize> {
        match self {
            ModelConfig::Llama(_) => None,
            ModelConfig::Gpt2(model) => Some(model.n_positions),
        }
    }

    /// The rate of dropout of attention's probabilities.
    pub fn attention_dropout(&self) -> f64 {
        match self {
            ModelConfig::Llama(model) => model.attention_dropout,
            ModelConfig::Gpt2(model) => model.attn_pdrop,
        }
    }

    pub(super) fn set_vocab_size(&mut self, size: usize) {
        match self {
            ModelConfig::Llama(model) => model.vocab_size = Some(size),
            ModelConfig::Gpt2(model) => model.vocab_size = Some(size),
        }
    }

    /// Trainable elements with an embedding of `vocab_size` rows; a tied embedding counts once. A u128, since the sizes
    /// of a config may be any 31-bit numbers; saturates.
    pub fn num_parameters(&self, vocab_size: usize) -> u128 {
        let mul = |factors: &[usize]| factors.iter().fold(1u128, |product, &n| product.saturating_mul(n as u128));
        let sum = |terms: &[u128]| terms.iter().fold(0u128, |sum, &n| sum.saturating_add(n));
        match self {
            ModelConfig::Llama(m) => {
                let q = m.num_attention_heads.saturating_mul(m.head_dim);
                let kv = m.num_key_value_heads.saturating_mul(m.head_dim);
                let h = m.hidden_size;
                let layer = sum(&[mul(&[2, h, q]), mul(&[2, h, kv]), mul(&[3, h, m.intermediate_size]), mul(&[2, h])]);
                let embeddings = mul(&[if m.tie_word_embeddings { 1 } else { 2 }, vocab_size, h]);
                sum(&[embeddings, layer.saturating_mul(m.num_hidden_layers as u128), h as u128])
            }
            ModelConfig::Gpt2(m) => {
                let c = m.n_embd;
                let bias = |n: u128| if m.bias { n } else { 0 };
                let norm = match m.normalization {
                    Normalization::LayerNorm => c as u128 + bias(c as u128),
                    Normalization::RmsNorm => 0,
                };
                let matrices = sum(&[mul(&[4, c, c]), mul(&[2, c, m.n_inner])]);
                let biases = bias(sum(&[mul(&[5, c]), m.n_inner as u128]));
                let layer = sum(&[matrices, biases, 2 * norm]);
                let outer_norms = norm * (u128::from(m.embedding_norm) + u128::from(m.final_norm));
                let embeddings = mul(&[if m.tie_word_embeddings { 1 } else { 2 }, vocab_size, c]);
                let positions = mul(&[m.n_positions, c]);
                sum(&[embeddings, positions, layer.saturating_mul(m.n_layer as u128), outer_norms])
            }
        }
    }

    /// The `config.json` with which `transformers` loads the weights, or `None` for a GPT-2 with options that
    /// `transformers` has no word for (other norms, no biases). `seq_len` is given as a Llama's
    /// `max_position_embeddings`.
    pub fn hugging_face_json(&self, seq_len: usize) -> Option<Value> {
        match self {
            ModelConfig::Llama(m) => Some(json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": m.vocab_size,
                "hidden_size": m.hidden_size,
                "num_hidden_layers": m.num_hidden_layers,
                "num_attention_heads": m.num_attention_heads,
                "num_key_value_heads": m.num_key_value_heads,
                "head_dim": m.head_dim,
                "intermediate_size": m.intermediate_size,
                "hidden_act": "silu",
                "max_position_embeddings": seq_len,
                "rope_theta": m.rope_theta,
                "rms_norm_eps": m.rms_norm_eps,
                "attention_bias": false,
                "attention_dropout": m.attention_dropout,
                "mlp_bias": false,
                "tie_word_embeddings": m.tie_word_embeddings,
                "initializer_range": m.initializer_range,
                "torch_dtype": "float32",
            })),
            ModelConfig::Gpt2(m) => {
                let standard =
                    m.normalization == Normalization::LayerNorm && m.bias && m.final_norm && !m.embedding_norm;
                standard.then(|| {
                    json!({
                        "architectures": ["GPT2LMHeadModel"],
                        "model_type": "gpt2",
                        "vocab_size": m.vocab_size,
                        "n_embd": m.n_embd,
                        "n_layer": m.n_layer,
                        "n_head": m.n_head,
                        "n_positions": m.n_positions,
                        "n_inner": m.n_inner,
                        "activation_function": m.activation_function,
                        "layer_norm_epsilon": m.layer_norm_epsilon,
                        "resid_pdrop": m.resid_pdrop,
                        "embd_pdrop": m.embd_pdrop,
                        "attn_pdrop": m.attn_pdrop,
                        "tie_word_embeddings": m.tie_word_embeddings,
                        "initializer_range": m.initializer_range,
                        "torch_dtype": "float32",
                    })
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_as_published() {
        let llama = LlamaConfig {
            vocab_size: Some(32000),
            hidden_size: 4096,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            intermediate_size: 11008,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            embd_pdrop: 0.0,
            resid_pdrop: 0.0,
            attention_dropout: 0.0,
            init_from: None,
        };
        // Llama 2 7B.
        assert_eq!(ModelConfig::Llama(llama).num_parameters(32000), 6_738_415_616);
        let gpt2 = Gpt2Config {
            vocab_size: None,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_positions: 1024,
            n_inner: 3072,
            activation_function: Activation::GeluNew,
            normalization: Normalization::LayerNorm,
            embedding_norm: false,
            final_norm: true,
            layer_norm_epsilon: 1e-5,
            bias: true,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            embd_pdrop: 0.0,
            resid_pdrop: 0.0,
            attn_pdrop: 0.0,
            init_from: None,
        };
        // GPT-2 small.
        assert_eq!(ModelConfig::Gpt2(gpt2.clone()).num_parameters(50257), 124_439_808);
        let microgpt = Gpt2Config {
            n_embd: 16,
            n_layer: 1,
            n_head: 4,
            n_positions: 16,
            n_inner: 64,
            normalization: Normalization::RmsNorm,
            embedding_norm: true,
            final_norm: false,
            bias: false,
            tie_word_embeddings: false,
            ..gpt2
        };
        // The count microgpt prints.
        assert_eq!(ModelConfig::Gpt2(microgpt).num_parameters(27), 4192);
    }
}
