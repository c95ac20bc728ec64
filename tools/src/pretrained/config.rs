//! `config.json` of Hugging Face: which architecture it names, by `model_type`, with which sizes and options.
//!
//! What a published file leaves out has the default of that `model_type` in `transformers`. Both ways to write a rotation
//! are read: `rope_theta` with `rope_scaling`, and `rope_parameters`.

use std::path::Path;

use lmc_models::architectures::decoder::{DecoderConfig, Gain, Norms};
use lmc_models::inference::Architecture;
use lmc_models::layers::{Attention, Gate, RopeConfig, RopeScaling};
use lmc_models::{ActivationFunction, Dropout, Gpt2Config};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The values of `model_type` that are known.
pub const MODEL_TYPES: [&str; 8] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "gpt2"];

/// The architecture that the text of a `config.json` describes; `path` names the file in errors.
///
/// # Errors
/// If the text is not JSON, names no known `model_type`, lacks a size, or asks for what lmc does not compute.
pub fn architecture(path: &Path, json: &str) -> Result<Architecture> {
    let value: Value =
        serde_json::from_str(json).map_err(|error| Error::input(format!("{} is not JSON: {error}", path.display())))?;
    read(&value).map_err(|reason| Error::input(format!("{}: {reason}", path.display())))
}

fn read(value: &Value) -> Result<Architecture, String> {
    let Value::Object(object) = value else { return Err("a config is an object".to_owned()) };
    let model_type = match object.get("model_type") {
        Some(Value::String(name)) => name.as_str(),
        Some(other) => return Err(format!("`model_type` must be a string, found {}", shown(other))),
        None => return Err(format!("it has no `model_type`; known: {}", MODEL_TYPES.join(", "))),
    };
    let fields = Fields(object);
    let architecture = match model_type {
        "llama" => Architecture::Decoder(llama(&fields)?),
        "mistral" => Architecture::Decoder(mistral(&fields)?),
        "qwen2" => Architecture::Decoder(qwen2(&fields)?),
        "qwen3" => Architecture::Decoder(qwen3(&fields)?),
        "gemma2" => Architecture::Decoder(gemma2(&fields)?),
        "gemma3_text" => Architecture::Decoder(gemma3(&fields)?),
        "gemma3" => match object.get("text_config") {
            // The part that reads and writes text.
            Some(Value::Object(text)) => Architecture::Decoder(gemma3(&Fields(text))?),
            Some(_) | None => return Err("a `gemma3` has an object `text_config`".to_owned()),
        },
        "gpt2" => Architecture::Gpt2(gpt2(&fields)?),
        other => return Err(format!("`model_type` {other:?} is not known to lmc; known: {}", MODEL_TYPES.join(", "))),
    };
    architecture.validate().map_err(|error| error.to_string())?;
    Ok(architecture)
}

fn llama(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let attention_bias = fields.flag_or("attention_bias", false)?;
    let config = decoder(fields, &Defaults { rms_norm_eps: 1e-6, ..Defaults::NONE })?;
    let mlp_bias = fields.flag_or("mlp_bias", false)?;
    Ok(DecoderConfig { qkv_bias: attention_bias, output_bias: attention_bias, mlp_bias, ..config })
}

fn mistral(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let config = decoder(fields, &Defaults { num_key_value_heads: Some(8), ..Defaults::NONE })?;
    // `null` means none, and a file without the key the first model's.
    let window =
        if fields.0.contains_key("sliding_window") { fields.optional_size("sliding_window")? } else { Some(4096) };
    let layers = config.sliding_windows.len();
    Ok(DecoderConfig { sliding_windows: fields.windows(layers, window, |_| true)?, ..config })
}

fn qwen2(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let config = decoder(fields, &Defaults { num_key_value_heads: Some(32), ..Defaults::NONE })?;
    Ok(DecoderConfig { sliding_windows: qwen_windows(fields, &config)?, qkv_bias: true, ..config })
}

fn qwen3(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let bias = fields.flag_or("attention_bias", false)?;
    let defaults = Defaults { num_key_value_heads: Some(32), head_dim: Some(128), ..Defaults::NONE };
    let config = decoder(fields, &defaults)?;
    let sliding_windows = qwen_windows(fields, &config)?;
    Ok(DecoderConfig { sliding_windows, query_key_norm: true, qkv_bias: bias, output_bias: bias, ..config })
}

/// The windows of a Qwen: where they are used at all, in blocks from `max_window_layers` on.
fn qwen_windows(fields: &Fields<'_>, config: &DecoderConfig) -> Result<Vec<Option<usize>>, String> {
    let window = match fields.flag_or("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window")?,
        false => None,
    };
    let first = fields.size_or("max_window_layers", 28)?;
    fields.windows(config.sliding_windows.len(), window, |layer| layer >= first)
}

/// What both Gemmas have.
fn gemma(fields: &Fields<'_>, defaults: &Defaults) -> Result<DecoderConfig, String> {
    let config = decoder(fields, defaults)?;
    let bias = fields.flag_or("attention_bias", false)?;
    Ok(DecoderConfig {
        attention_scale: fields.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5),
        gain: Gain::AboutOne,
        norms: Norms::Around,
        qkv_bias: bias,
        output_bias: bias,
        embedding_scale: Some((config.hidden_size as f64).sqrt()),
        ..config
    })
}

fn gemma2(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let defaults = Defaults { vocab_size: Some(256_000), max_position_embeddings: Some(8192), ..Defaults::GEMMA };
    let config = gemma(fields, &defaults)?;
    let window = Some(fields.size_or("sliding_window", 4096)?);
    let cap = |name: &str, default: f64| match fields.0.get(name) {
        Some(Value::Null) => Ok(None),
        Some(_) | None => fields.number_or(name, default).map(Some),
    };
    Ok(DecoderConfig {
        sliding_windows: fields.windows(config.sliding_windows.len(), window, |layer| layer % 2 == 0)?,
        attention_soft_cap: cap("attn_logit_softcapping", 50.0)?,
        logit_soft_cap: cap("final_logit_softcapping", 30.0)?,
        ..config
    })
}

fn gemma3(fields: &Fields<'_>) -> Result<DecoderConfig, String> {
    let config = gemma(fields, &Defaults::GEMMA)?;
    if fields.flag_or("use_bidirectional_attention", false)? {
        return Err(
            "`use_bidirectional_attention` is not computed by lmc, whose models read from left to right".to_owned()
        );
    }
    let window = Some(fields.size_or("sliding_window", 4096)?);
    let pattern = fields.size_or("sliding_window_pattern", 6)?.max(1);
    let cap = |name: &str| match fields.0.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => fields.number(name).map(Some),
    };
    let sliding_rope = match fields.rope_parameters("sliding_attention")? {
        Some(rope) => rope,
        None => RopeConfig::new(fields.number_or("rope_local_base_freq", 10_000.0)?),
    };
    Ok(DecoderConfig {
        sliding_windows: fields.windows(config.sliding_windows.len(), window, |layer| (layer + 1) % pattern != 0)?,
        sliding_rope,
        query_key_norm: true,
        attention_soft_cap: cap("attn_logit_softcapping")?,
        logit_soft_cap: cap("final_logit_softcapping")?,
        ..config
    })
}

fn gpt2(fields: &Fields<'_>) -> Result<Gpt2Config, String> {
    for (name, computed) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if fields.flag_or(name, computed)? != computed {
            return Err(format!("`{name}` = {} is not computed by lmc", !computed));
        }
    }
    let name = fields.text_or("activation_function", "gelu_new")?;
    let activation_function = match name {
        "gelu_new" | "gelu_pytorch_tanh" => ActivationFunction::GeluNew,
        "gelu" => ActivationFunction::Gelu,
        "relu" => ActivationFunction::Relu,
        other => return Err(format!("`activation_function` {other:?} is not known; known: gelu_new, gelu, relu")),
    };
    let [vocab_size, n_positions, n_embd, n_layer, n_head] = [
        fields.size_or("vocab_size", 50257)?,
        fields.size_or("n_positions", 1024)?,
        fields.size_or("n_embd", 768)?,
        fields.size_or("n_layer", 12)?,
        fields.size_or("n_head", 12)?,
    ];
    Ok(Gpt2Config {
        n_inner: fields.optional_size("n_inner")?,
        activation_function,
        layer_norm_epsilon: fields.number_or("layer_norm_epsilon", 1e-5)?,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", true)?,
        ..Gpt2Config::new(vocab_size, n_positions, n_embd, n_layer, n_head)
    })
}

/// What a file may leave out, by family; `None` where it may not.
#[derive(Clone, Copy)]
struct Defaults {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    /// Else as many as query heads.
    num_key_value_heads: Option<usize>,
    /// Else `hidden_size / num_attention_heads`.
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rope_theta: f64,
    rms_norm_eps: f64,
    activation: (&'static str, &'static str),
    tie_word_embeddings: bool,
}

impl Defaults {
    const NONE: Defaults = Defaults {
        vocab_size: None,
        hidden_size: None,
        intermediate_size: None,
        num_hidden_layers: None,
        num_attention_heads: None,
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: None,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        activation: ("hidden_act", "silu"),
        tie_word_embeddings: false,
    };

    const GEMMA: Defaults = Defaults {
        vocab_size: Some(262_208),
        hidden_size: Some(2304),
        intermediate_size: Some(9216),
        num_hidden_layers: Some(26),
        num_attention_heads: Some(8),
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        max_position_embeddings: Some(131_072),
        rope_theta: 1_000_000.0,
        rms_norm_eps: 1e-6,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        tie_word_embeddings: true,
    };
}

/// What all decoders have.
fn decoder(fields: &Fields<'_>, defaults: &Defaults) -> Result<DecoderConfig, String> {
    let size = |name: &str, default: Option<usize>| match default {
        Some(default) => fields.size_or(name, default),
        None => fields.size(name),
    };
    let hidden_size = size("hidden_size", defaults.hidden_size)?;
    let num_attention_heads = size("num_attention_heads", defaults.num_attention_heads)?;
    let heads = defaults.num_key_value_heads.unwrap_or(num_attention_heads);
    let head_dim = match (fields.optional_size("head_dim")?, defaults.head_dim) {
        (Some(size), _) | (None, Some(size)) => size,
        (None, None) => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
    };
    let layers = size("num_hidden_layers", defaults.num_hidden_layers)?;
    if layers == 0 || layers > 1 << 12 {
        return Err(format!("`num_hidden_layers` must be between 1 and 4096, found {layers}"));
    }
    let (name, default) = defaults.activation;
    let gate = match fields.text_or(name, default)? {
        "silu" | "swish" => Gate::Silu,
        "gelu_pytorch_tanh" | "gelu_new" => Gate::GeluTanh,
        "gelu" => Gate::Gelu,
        other => return Err(format!("`{name}` {other:?} is not known; known: silu, gelu_pytorch_tanh, gelu")),
    };
    let rope = match fields.rope_parameters("full_attention")? {
        Some(rope) => rope,
        None => RopeConfig {
            theta: fields.number_or("rope_theta", defaults.rope_theta)?,
            scaling: match fields.0.get("rope_scaling") {
                None | Some(Value::Null) => RopeScaling::None,
                Some(Value::Object(scaling)) => Fields(scaling).scaling(fields)?,
                Some(other) => return Err(format!("`rope_scaling` must be an object, found {}", shown(other))),
            },
        },
    };
    Ok(DecoderConfig {
        vocab_size: size("vocab_size", defaults.vocab_size)?,
        hidden_size,
        num_attention_heads,
        num_key_value_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
        max_position_embeddings: longest(&rope, fields.optional_size("max_position_embeddings")?)
            .or(defaults.max_position_embeddings),
        sliding_windows: vec![None; layers],
        rope,
        sliding_rope: rope,
        attention_scale: Attention::new(head_dim).scale,
        attention_soft_cap: None,
        logit_soft_cap: None,
        rms_norm_eps: fields.number_or("rms_norm_eps", defaults.rms_norm_eps)?,
        gain: Gain::Plain,
        norms: Norms::Before,
        query_key_norm: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        gate,
        embedding_scale: None,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", defaults.tie_word_embeddings)?,
        initializer_range: 0.02,
        dropout: Dropout::NONE,
    })
}

/// The fields of an object, with their types.
struct Fields<'a>(&'a Map<String, Value>);

/// The longest text: what the config says, and with YaRN what it reaches, which some checkpoints do not write.
fn longest(rope: &RopeConfig, max_position_embeddings: Option<usize>) -> Option<usize> {
    let longest = max_position_embeddings?;
    match rope.scaling {
        RopeScaling::Yarn { factor, original, .. } => Some(longest.max((factor * original as f64) as usize)),
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => Some(longest),
    }
}

impl<'a> Fields<'a> {
    fn optional_size(&self, name: &str) -> Result<Option<usize>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) => Ok(Some(size)),
                None => Err(format!("`{name}` must be a whole number, found {}", shown(value))),
            },
        }
    }

    fn size(&self, name: &str) -> Result<usize, String> {
        self.optional_size(name)?.ok_or_else(|| format!("it has no `{name}`"))
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, String> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        match self.0.get(name) {
            None => Err(format!("it has no `{name}`")),
            Some(value) => value.as_f64().ok_or_else(|| format!("`{name}` must be a number, found {}", shown(value))),
        }
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.number(name),
        }
    }

    fn flag_or(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("`{name}` must be true or false, found {}", shown(other))),
        }
    }

    fn text_or(&self, name: &str, default: &'static str) -> Result<&'a str, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(format!("`{name}` must be a string, found {}", shown(other))),
        }
    }

    /// The rotation in `rope_parameters`: one for all blocks, or one for `kind`.
    fn rope_parameters(&self, kind: &str) -> Result<Option<RopeConfig>, String> {
        let parameters = match self.0.get("rope_parameters") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(parameters)) => parameters,
            Some(other) => return Err(format!("`rope_parameters` must be an object, found {}", shown(other))),
        };
        let parameters = match parameters.get(kind) {
            Some(Value::Object(parameters)) => parameters,
            Some(other) => return Err(format!("`rope_parameters.{kind}` must be an object, found {}", shown(other))),
            None => parameters,
        };
        let fields = Fields(parameters);
        Ok(Some(RopeConfig { theta: fields.number("rope_theta")?, scaling: fields.scaling(self)? }))
    }

    /// The scaling that an object with a `rope_type` describes, in the config `model`.
    fn scaling(&self, model: &Fields<'_>) -> Result<RopeScaling, String> {
        // An older name of the key is `type`.
        let name = if self.0.contains_key("rope_type") { "rope_type" } else { "type" };
        match self.text_or(name, "default")? {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.number("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.number("factor")?,
                low_freq_factor: self.number("low_freq_factor")?,
                high_freq_factor: self.number("high_freq_factor")?,
                original: self.size("original_max_position_embeddings")?,
            }),
            "yarn" => {
                let factor = self.number("factor")?;
                let original = match self.optional_size("original_max_position_embeddings")? {
                    Some(original) => original,
                    None => model.size("max_position_embeddings")?,
                };
                let optional = |name: &str| match self.0.get(name) {
                    None | Some(Value::Null) => Ok(None),
                    Some(_) => self.number(name).map(Some),
                };
                // What DeepSeek's models have in place of `attention_factor`.
                let scales = (optional("mscale")?, optional("mscale_all_dim")?);
                let scale = |by: f64| by * (RopeScaling::yarn_attention_factor(factor) - 1.0) + 1.0;
                let attention_factor = match (optional("attention_factor")?, scales) {
                    (Some(given), _) => given,
                    (None, (Some(one), Some(all))) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
                    (None, _) => RopeScaling::yarn_attention_factor(factor),
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    attention_factor,
                    truncate: self.0.get("truncate").is_none_or(|truncate| truncate != &Value::Bool(false)),
                })
            }
            other => Err(format!("`{name}` {other:?} is not computed by lmc; known: default, linear, llama3, yarn")),
        }
    }

    /// The window of each of `layers` blocks: by `layer_types` if it is there, else by number.
    fn windows(
        &self,
        layers: usize,
        window: Option<usize>,
        is_sliding: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, String> {
        let types = match self.0.get("layer_types") {
            None | Some(Value::Null) => return Ok((0..layers).map(|i| window.filter(|_| is_sliding(i))).collect()),
            Some(Value::Array(types)) => types,
            Some(other) => return Err(format!("`layer_types` must be a list, found {}", shown(other))),
        };
        if types.len() != layers {
            return Err(format!("`layer_types` has {} entries, `num_hidden_layers` is {layers}", types.len()));
        }
        let of = |ty: &Value| match ty.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => match window {
                Some(window) => Ok(Some(window)),
                None => Err("`layer_types` has sliding attention, and there is no `sliding_window`".to_owned()),
            },
            Some(_) | None => {
                Err(format!("an entry of `layer_types` is {}; known: full_attention, sliding_attention", shown(ty)))
            }
        };
        types.iter().map(of).collect()
    }
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let beginning: String = text.chars().take(60).collect();
    if beginning.len() < text.len() { format!("{beginning}…") } else { text }
}
