//! From settings to what `models` builds graphs from.

use lmc_graph::Literal;
use lmc_models::{
    ActivationFunction, AdamW, Compute, DocumentMask, Dropout, EMA_PREFIX, Gpt2Config, Init, Layers, Lion, LlamaConfig,
    LossChunk, ModelConfig, Muon, Normalization, Optimizer, ParamSpec, Params, Precision, RateAdjustment, Remat,
    Schedule, ScheduleKind, StepConfig, Update, init,
};

use crate::checkpoint::{Tensors, load_safetensors};
use crate::config::{self, Config};
use crate::error::{Error, Result};

/// The training step that a config asks for.
///
/// # Errors
/// If `model.vocab_size` or the end of documents that attention is to heed is not known, or the model takes no such
/// settings.
pub fn step_config(config: &Config) -> Result<StepConfig> {
    let train = &config.train;
    let whole = |key: &str, number: u64| {
        usize::try_from(number).map_err(|_| config.error_at(key, format!("`{key}` is too large for this machine")))
    };
    let schedule = Schedule {
        kind: match config.schedule.kind {
            config::ScheduleKind::Constant => ScheduleKind::Constant,
            config::ScheduleKind::Linear => ScheduleKind::Linear,
            config::ScheduleKind::Cosine => ScheduleKind::Cosine,
            config::ScheduleKind::Wsd => {
                ScheduleKind::Wsd { decay_fraction: config.schedule.decay_fraction.unwrap_or(0.0) }
            }
        },
        learning_rate: config.optimizer.learning_rate,
        min_learning_rate: config.schedule.min_learning_rate,
        warmup_steps: whole("schedule.warmup_steps", config.schedule.warmup_steps)?,
        total_steps: whole("train.steps", train.steps)?,
    };
    let precision = match train.precision {
        config::Precision::Float32 => Precision::Float32,
        config::Precision::Bfloat16 => Precision::BFloat16,
    };
    Ok(StepConfig {
        model: model_config(config)?,
        micro_batch_size: train.micro_batch_size,
        grad_accum_steps: train.grad_accum_steps,
        seq_len: train.seq_len,
        compute: Compute {
            precision,
            loss_chunk: loss_chunk(config),
            remat: match train.remat {
                config::Remat::None => Remat::None,
                config::Remat::Layer => Remat::Layer,
            },
            layers: match train.layers {
                config::Layers::Unroll => Layers::Unroll,
                config::Layers::Scan => Layers::Scan,
            },
            documents: document_mask(config)?,
        },
        z_loss: train.z_loss,
        seed: train.seed,
        update: Update {
            optimizer: optimizer(&config.optimizer, precision),
            schedule,
            grad_clip_norm: config.optimizer.grad_clip_norm,
            ema_decay: train.ema_decay,
        },
    })
}

/// The optimizer that a config asks for; what Muon makes orthogonal is computed in `precision`.
fn optimizer(config: &config::OptimizerConfig, precision: Precision) -> Optimizer {
    let ([beta1, beta2], weight_decay) = (config.betas, config.weight_decay);
    let adamw = AdamW { beta1, beta2, eps: config.eps.unwrap_or(0.0), weight_decay };
    match config.kind {
        config::OptimizerKind::AdamW | config::OptimizerKind::Adam => Optimizer::AdamW(adamw),
        config::OptimizerKind::Lion => Optimizer::Lion(Lion { beta1, beta2, weight_decay }),
        config::OptimizerKind::Muon => Optimizer::Muon(Muon {
            momentum: config.momentum.unwrap_or(0.0),
            rate: config.muon_learning_rate.unwrap_or(config.learning_rate) / config.learning_rate,
            adjustment: match config.adjust_lr_fn {
                Some(config::AdjustLrFn::Original) => RateAdjustment::Original,
                Some(config::AdjustLrFn::MatchRmsAdamW) | None => RateAdjustment::MatchRmsAdamW,
            },
            weight_decay,
            precision,
            others: adamw,
        }),
    }
}

/// How the documents of a row are told apart, if attention is not to reach across them.
fn document_mask(config: &Config) -> Result<Option<DocumentMask>> {
    let Some(places) = config.data.documents_per_row else { return Ok(None) };
    match config.data.end_of_document_id {
        Some(end) => Ok(Some(DocumentMask { end: end.cast_signed(), places })),
        None => Err(config.error_at(
            "data.reset_attention_mask",
            "which id ends a document is not known before the data are read; say `data.end_of_document_id`",
        )),
    }
}

/// How many tokens of a row have logits at a time.
pub(crate) fn loss_chunk(config: &Config) -> LossChunk {
    match config.train.loss_chunk {
        None => LossChunk::Auto,
        Some(0) => LossChunk::Whole,
        Some(tokens) => LossChunk::Tokens(tokens),
    }
}

/// The model that a config asks for.
fn model_config(config: &Config) -> Result<ModelConfig> {
    let Some(vocab_size) = config.model.vocab_size() else {
        return Err(config.error_at("model", "`vocab_size` is not known before the data are read"));
    };
    let model = match &config.model {
        config::ModelConfig::Llama(m) => ModelConfig::Llama(LlamaConfig {
            vocab_size,
            hidden_size: m.hidden_size,
            num_hidden_layers: m.num_hidden_layers,
            num_attention_heads: m.num_attention_heads,
            num_key_value_heads: m.num_key_value_heads,
            head_dim: m.head_dim,
            intermediate_size: m.intermediate_size,
            rope_theta: m.rope_theta,
            rms_norm_eps: m.rms_norm_eps,
            tie_word_embeddings: m.tie_word_embeddings,
            initializer_range: m.initializer_range,
            dropout: Dropout { embedding: m.embd_pdrop, residual: m.resid_pdrop, attention: m.attention_dropout },
        }),
        config::ModelConfig::Gpt2(m) => ModelConfig::Gpt2(Gpt2Config {
            vocab_size,
            n_positions: m.n_positions,
            n_embd: m.n_embd,
            n_layer: m.n_layer,
            n_head: m.n_head,
            n_inner: Some(m.n_inner),
            activation_function: match m.activation_function {
                config::Activation::Gelu => ActivationFunction::Gelu,
                config::Activation::GeluNew => ActivationFunction::GeluNew,
                config::Activation::Relu => ActivationFunction::Relu,
            },
            layer_norm_epsilon: m.layer_norm_epsilon,
            initializer_range: m.initializer_range,
            tie_word_embeddings: m.tie_word_embeddings,
            normalization: match m.normalization {
                config::Normalization::LayerNorm => Normalization::LayerNorm,
                config::Normalization::RmsNorm => Normalization::RmsNorm,
            },
            bias: m.bias,
            embedding_norm: m.embedding_norm,
            final_norm: m.final_norm,
            dropout: Dropout { embedding: m.embd_pdrop, residual: m.resid_pdrop, attention: m.attn_pdrop },
        }),
    };
    model.validate().map_err(|error| config.error_at(&format!("model.{}", error.field), error.to_string()))?;
    Ok(model)
}

/// The weights to begin with: those of `model.init_from` if it is set, else random ones by `train.seed`.
///
/// # Errors
/// If the file cannot be read, or a weight is missing there, superfluous, or has another shape.
pub fn initial_weights(config: &Config, specs: &Params<ParamSpec>) -> Result<Params<Literal>> {
    match config.model.init_from() {
        None => Ok(init::initialize(specs, config.train.seed)),
        Some(path) => {
            let tensors = load_safetensors(path).map_err(|e| config.error_at("model.init_from", e.message()))?;
            match_weights(tensors, specs).map_err(|reason| {
                config.error_at("model.init_from", format!("{} does not fit the model: {reason}", path.display()))
            })
        }
    }
}

/// Tensors by name in the order and with the shapes of a model's parameters.
///
/// # Errors
/// The first parameter without a tensor or with one of another type, or the first tensor without a parameter.
pub fn match_weights(mut tensors: Tensors, specs: &Params<ParamSpec>) -> Result<Params<Literal>, String> {
    let weights = specs.try_map(|path, spec| match tensors.remove(path) {
        None => Err(format!("it has no `{path}`, which the model needs as {}", spec.ty)),
        Some(tensor) if *tensor.ty() != spec.ty => {
            Err(format!("`{path}` is {} there, the model needs {}", tensor.ty(), spec.ty))
        }
        Some(tensor) => Ok(tensor),
    })?;
    match tensors.keys().next() {
        Some(name) => Err(format!("it has `{name}`, which the model does not")),
        None => Ok(weights),
    }
}

/// The averaged weights in a checkpoint's optimizer state, by the names of the weights; `None` if no average was kept.
pub fn averaged_weights(optimizer: &Tensors) -> Option<Tensors> {
    let averages: Tensors = optimizer
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(EMA_PREFIX)?.to_owned(), tensor.clone())))
        .collect();
    (!averages.is_empty()).then_some(averages)
}

/// An error of a model that cannot be differentiated: a defect of lmc, not of the user's input.
pub(crate) fn differentiation_error(error: lmc_autodiff::DiffError) -> Error {
    Error::run(format!("the training step cannot be built: {error}"))
}

/// How a parameter is filled at first, for people.
pub fn describe_init(init: Init) -> String {
    match init {
        Init::Normal { std } => format!("normal, std {std:.4}"),
        Init::Zeros => "zeros".to_owned(),
        Init::Ones => "ones".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{DType, TensorType};

    use super::*;

    /// The weights of a model with `a: f32[2]` and `b.c: f32[]`.
    fn check(tensors: &[(&str, Literal)], expected: Result<&[&str], &str>) {
        let spec = |shape: &[usize]| {
            let dimensions = vec!["hidden"; shape.len()];
            ParamSpec { ty: TensorType::new(DType::F32, shape), dimensions, init: Init::Zeros, decay: false }
        };
        let specs: Params<ParamSpec> =
            [("b.c", spec(&[])), ("a", spec(&[2]))].into_iter().map(|(path, spec)| (path.to_owned(), spec)).collect();
        let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        let found = match_weights(tensors, &specs);
        let paths = found.as_ref().map(|weights| weights.keys().collect::<Vec<_>>());
        assert_eq!(paths.map_err(String::as_str), expected.map(<[&str]>::to_vec));
    }

    #[test]
    fn weights_are_those_of_the_model_in_its_order() {
        let (a, c) = (Literal::new([2], &[1_f32, 2.0]), Literal::scalar(3_f32));
        check(&[("a", a.clone()), ("b.c", c.clone())], Ok(&["b.c", "a"]));
        check(&[("a", a.clone())], Err("it has no `b.c`, which the model needs as f32[]"));
        check(&[("a", c.clone()), ("b.c", c.clone())], Err("`a` is f32[] there, the model needs f32[2]"));
        let halves = Literal::from_f64s(TensorType::new(DType::F16, [2]), &[1.0, 2.0]);
        check(&[("a", halves), ("b.c", c.clone())], Err("`a` is f16[2] there, the model needs f32[2]"));
        check(&[("a", a), ("b.c", c.clone()), ("d", c)], Err("it has `d`, which the model does not"));
    }
}
