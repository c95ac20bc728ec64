//! `generation_config.json`: how texts are generated unless something else is asked for.

use std::path::Path;

use serde_json::Value;

use crate::engine::Sampling;
use crate::error::{Error, Result};

/// What a folder says about generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// The token that begins a text, where there is one.
    pub bos: Option<u32>,
    /// The tokens that end one.
    pub eos: Vec<u32>,
    /// How tokens are drawn: the likeliest, unless the file says `do_sample`.
    pub sampling: Sampling,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a folder if it is there; what it lacks of special tokens, `config.json` (its text)
    /// has.
    ///
    /// # Errors
    /// If it is not JSON, or a value is none that a distribution has or names no token.
    pub(super) fn read(folder: &Path, config: &str, vocab_size: usize) -> Result<GenerationConfig> {
        let path = folder.join("generation_config.json");
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let own = match path.is_file() {
            false => Value::Null,
            true => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| Error::cannot_read("the generation config", &path, &error))?;
                serde_json::from_str(&text)
                    .map_err(|error| Error::input(format!("{} is not JSON: {error}", path.display())))?
            }
        };
        parse(&own, &config, vocab_size).map_err(|reason| Error::input(format!("{}: {reason}", path.display())))
    }
}

fn parse(own: &Value, config: &Value, vocab_size: usize) -> Result<GenerationConfig, String> {
    let tokens = |name: &str| -> Result<Vec<u32>, String> {
        let nested = &config["text_config"][name];
        let value = [&own[name], &config[name], nested].into_iter().find(|value| !value.is_null());
        let values = match value {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let token =
            |value: &Value| value.as_u64().filter(|&id| id < vocab_size as u64).and_then(|id| u32::try_from(id).ok());
        // The default of a class that names no token of a small vocabulary means nothing.
        let is_default = own[name].is_null();
        let found: Option<Vec<u32>> = values.iter().map(token).collect();
        match found {
            Some(tokens) => Ok(tokens),
            None if is_default => Ok(Vec::new()),
            None => Err(format!("`{name}` is {}, and the model has {vocab_size} tokens", own[name])),
        }
    };
    let number = |name: &str, default: f32| {
        let value = &own[name];
        if value.is_null() {
            return Ok(default);
        }
        value.as_f64().map(|x| x as f32).ok_or_else(|| format!("`{name}` must be a number, found {value}"))
    };
    let sampling = if own["do_sample"] == true {
        let top_k = &own["top_k"];
        let top_k = if top_k.is_null() {
            // The default of `transformers`.
            50
        } else {
            top_k.as_u64().ok_or_else(|| format!("`top_k` must be a whole number, found {top_k}"))? as usize
        };
        Sampling {
            temperature: number("temperature", 1.0)?,
            top_k,
            top_p: number("top_p", 1.0)?,
            min_p: number("min_p", 0.0)?,
            repetition_penalty: number("repetition_penalty", 1.0)?,
            ..Sampling::default()
        }
    } else {
        Sampling { repetition_penalty: number("repetition_penalty", 1.0)?, ..Sampling::greedy() }
    };
    sampling.validate(vocab_size).map_err(|error| error.message().to_owned())?;
    Ok(GenerationConfig { bos: tokens("bos_token_id")?.first().copied(), eos: tokens("eos_token_id")?, sampling })
}
