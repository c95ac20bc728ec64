//! Architectures: a file each, to be read beside its paper.

pub mod decoder;
pub mod gpt2;
pub mod llama;
pub mod sequence;

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

/// How much is dropped while a model is trained: shares of elements, from 0 to below 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of the embeddings that go into the first block.
    pub embedding: f64,
    /// Of what attention and feed-forward layer add to the residual stream.
    pub residual: f64,
    /// Of the probabilities of attention.
    pub attention: f64,
}

impl Dropout {
    /// Nothing is dropped.
    pub const NONE: Dropout = Dropout { embedding: 0.0, residual: 0.0, attention: 0.0 };

    /// Checks the rates.
    ///
    /// # Errors
    /// The first that is not from 0 to below 1.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, rate) in
            [("embd_pdrop", self.embedding), ("resid_pdrop", self.residual), ("attn_pdrop", self.attention)]
        {
            if !(0.0..1.0).contains(&rate) {
                return Err(ConfigError { field, reason: format!("must be at least 0 and below 1, found {rate}") });
            }
        }
        Ok(())
    }
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

    /// What is dropped in training.
    pub fn dropout(&self) -> Dropout {
        match self {
            ModelConfig::Llama(config) => config.dropout,
            ModelConfig::Gpt2(config) => config.dropout,
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

/// Refuses sizes of 0, and sizes far beyond any machine, with which the number of parameters would not fit 64 bits.
fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    sizes.iter().try_for_each(|&(field, size)| check_size(field, size, 1 << 24))
}

/// Refuses no layers, and more than 4096.
fn check_layers(field: &'static str, layers: usize) -> Result<(), ConfigError> {
    check_size(field, layers, 1 << 12)
}

fn check_size(field: &'static str, size: usize, largest: usize) -> Result<(), ConfigError> {
    if size == 0 || size > largest {
        return Err(ConfigError { field, reason: format!("must be between 1 and {largest}, found {size}") });
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

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{Convert, Op};
    use lmc_graph::{DType, Func};

    use super::gpt2::{ActivationFunction, Normalization};
    use super::*;
    use crate::compute::{Compute, Layers, LossChunk, Precision, Remat};
    use crate::loss::loss_func;

    /// The 100M Llama of the comparisons with PyTorch and JAX.
    fn llama_100m() -> LlamaConfig {
        LlamaConfig {
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
        }
    }

    fn tiny_llama() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 11,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            intermediate_size: 12,
            tie_word_embeddings: false,
            ..llama_100m()
        }
    }

    /// Karpathy's microgpt.
    fn microgpt() -> Gpt2Config {
        Gpt2Config {
            activation_function: ActivationFunction::Relu,
            tie_word_embeddings: false,
            normalization: Normalization::RmsNorm,
            bias: false,
            embedding_norm: true,
            final_norm: false,
            ..Gpt2Config::new(27, 16, 16, 1, 4)
        }
    }

    #[test]
    fn parameters_are_counted() {
        let check = |model: ModelConfig, expected: usize| {
            assert_eq!(model.validate(), Ok(()));
            assert_eq!(model.num_params(), expected, "{model:?}");
            let loss = loss_func(&model, 1, 2, Precision::Float32);
            assert_eq!(loss.specs.num_elements(), expected, "{model:?}");
        };
        check(ModelConfig::Llama(llama_100m()), 100_092_672);
        check(ModelConfig::Llama(tiny_llama()), 2 * 88 + 3 * 8 + 2 * 128 + 2 * 64 + 3 * 96);
        check(ModelConfig::Gpt2(microgpt()), 4192);
        // The published model's.
        let small = Gpt2Config::new(50257, 1024, 768, 12, 12);
        check(ModelConfig::Gpt2(small.clone()), 124_439_808);
        check(ModelConfig::Gpt2(Gpt2Config { bias: false, ..small.clone() }), 124_337_664);
        let options = Gpt2Config { n_inner: Some(100), embedding_norm: true, final_norm: false, ..small };
        // The feed-forward layers shrink from 3072 elements to 100, each with 2 * 768 weights and a bias.
        check(ModelConfig::Gpt2(options), 124_439_808 - 12 * (3072 - 100) * (2 * 768 + 1));
    }

    #[test]
    fn paths_are_hugging_faces() {
        let paths = |model: ModelConfig| -> Vec<String> {
            loss_func(&model, 1, 2, Precision::Float32).specs.keys().map(str::to_string).collect()
        };
        assert_eq!(
            paths(ModelConfig::Llama(tiny_llama())),
            [
                "model.embed_tokens.weight",
                "model.layers.0.input_layernorm.weight",
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.k_proj.weight",
                "model.layers.0.self_attn.v_proj.weight",
                "model.layers.0.self_attn.o_proj.weight",
                "model.layers.0.post_attention_layernorm.weight",
                "model.layers.0.mlp.gate_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.down_proj.weight",
                "model.norm.weight",
                "lm_head.weight",
            ]
        );
        assert_eq!(
            paths(ModelConfig::Gpt2(Gpt2Config::new(11, 4, 8, 1, 2))),
            [
                "transformer.wte.weight",
                "transformer.wpe.weight",
                "transformer.h.0.ln_1.weight",
                "transformer.h.0.ln_1.bias",
                "transformer.h.0.attn.c_attn.weight",
                "transformer.h.0.attn.c_attn.bias",
                "transformer.h.0.attn.c_proj.weight",
                "transformer.h.0.attn.c_proj.bias",
                "transformer.h.0.ln_2.weight",
                "transformer.h.0.ln_2.bias",
                "transformer.h.0.mlp.c_fc.weight",
                "transformer.h.0.mlp.c_fc.bias",
                "transformer.h.0.mlp.c_proj.weight",
                "transformer.h.0.mlp.c_proj.bias",
                "transformer.ln_f.weight",
                "transformer.ln_f.bias",
            ]
        );
    }

    /// Muon's are the matrices of the blocks, and no others.
    #[test]
    fn hidden_matrices_are_those_of_blocks() {
        let gpt2 = Gpt2Config { tie_word_embeddings: false, ..Gpt2Config::new(11, 4, 8, 1, 2) };
        for (model, block, count) in
            [(ModelConfig::Llama(tiny_llama()), ".layers.", 7), (ModelConfig::Gpt2(gpt2), ".h.", 4)]
        {
            let specs = loss_func(&model, 1, 2, Precision::Float32).specs;
            let hidden: Vec<&str> =
                specs.iter().filter(|(_, spec)| spec.is_hidden_matrix()).map(|(path, _)| path).collect();
            assert_eq!(hidden.len(), count, "{hidden:?}");
            assert!(hidden.iter().all(|path| path.contains(block)), "{hidden:?}");
        }
    }

    /// The products and attentions of a function whose operands are not of `dtype`, or are but copies of narrower ones.
    fn slow_products(func: &Func, dtype: DType) -> Vec<String> {
        let is_slow = |value| {
            let widened = func.defining_node(value).is_some_and(|node| {
                let node = func.node(node);
                matches!(&node.op, Op::Convert(Convert { dtype }) if dtype.size() > func.ty(node.operands[0]).dtype.size())
            });
            widened || func.ty(value).dtype != dtype
        };
        let nodes = func.walk(func.body()).into_iter().map(|node| func.node(node));
        let products = nodes.filter(|node| {
            let op = &node.op;
            matches!(op, Op::DotGeneral(_) | Op::ScaledDotProductAttention(_))
                && node.operands.iter().any(|&value| is_slow(value))
        });
        products.map(|node| format!("{} {}", node.op.name(), node.location)).collect()
    }

    #[test]
    fn products_are_in_the_compute_type() {
        for model in [ModelConfig::Llama(tiny_llama()), ModelConfig::Gpt2(Gpt2Config::new(11, 4, 8, 2, 2))] {
            for precision in [Precision::Float32, Precision::BFloat16] {
                let plain = Compute::from(precision);
                for compute in [
                    plain,
                    Compute { loss_chunk: LossChunk::Tokens(2), ..plain },
                    Compute { remat: Remat::Layer, ..plain },
                    Compute { layers: Layers::Scan, ..plain },
                ] {
                    let loss = loss_func(&model, 2, 4, compute);
                    let wrt: Vec<usize> = (2..loss.func.params.len()).collect();
                    let gradient = lmc_autodiff::value_and_grad(&loss.func, &wrt).expect("the loss has a derivative");
                    for func in [&loss.func, &gradient] {
                        assert_eq!(slow_products(func, precision.compute_dtype()), Vec::<String>::new(), "{compute:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn refuses_impossible_sizes() {
        let check = |model: ModelConfig, expected: &str| {
            assert_eq!(model.validate().map_err(|error| error.to_string()), Err(expected.to_string()));
        };
        let llama = |change: fn(&mut LlamaConfig)| {
            let mut config = tiny_llama();
            change(&mut config);
            ModelConfig::Llama(config)
        };
        let gpt2 = |change: fn(&mut Gpt2Config)| {
            let mut config = microgpt();
            change(&mut config);
            ModelConfig::Gpt2(config)
        };
        check(llama(|c| c.vocab_size = 0), "`vocab_size` must be between 1 and 16777216, found 0");
        check(llama(|c| c.hidden_size = 1 << 40), "`hidden_size` must be between 1 and 16777216, found 1099511627776");
        check(
            llama(|c| c.num_key_value_heads = 3),
            "`num_key_value_heads` must divide num_attention_heads = 4, found 3",
        );
        let odd = "`head_dim` must be even, as rotary positions turn pairs of elements, found 5";
        check(llama(|c| c.head_dim = 5), odd);
        check(llama(|c| c.rms_norm_eps = f64::NAN), "`rms_norm_eps` must be a finite number above 0, found NaN");
        check(gpt2(|c| c.n_head = 3), "`n_head` must divide n_embd = 16, found 3");
        check(gpt2(|c| c.n_inner = Some(0)), "`n_inner` must be between 1 and 16777216, found 0");
    }
}
