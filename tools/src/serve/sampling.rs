//! How a request wants its tokens drawn, and how many of them: the fields that completions and chats share.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};

use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, kind_of, wrong};
use super::model::ServedModel;
use crate::engine::text::StopStrings;
use crate::engine::{MOST_LOGPROBS, Request, Sampling, kept_tokens};

/// Choices for one prompt.
const MOST_CHOICES: u32 = 128;

/// Stop strings of a request; OpenAI's four, and room for those that clients add.
const MOST_STOPS: usize = 16;

/// Bytes of a stop string.
const MOST_STOP_BYTES: usize = 1024;

/// Tokens with a bias.
const MOST_BIASES: usize = 1024;

/// Fields that say nothing about the answer.
const NO_MATTER: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "verbosity",
];

/// What a request asks of the engine.
#[derive(Debug)]
pub(super) struct Asked {
    /// `n` for each prompt.
    pub(super) requests: Vec<Request>,
    /// Tokens of the prompts, each counted once.
    pub(super) prompt_tokens: usize,
    /// Tokens that were cut from the beginnings of prompts.
    pub(super) truncated_tokens: usize,
}

/// What completions and chats have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) sampling: Sampling,
    seed: Option<u64>,
    /// Choices for each prompt.
    pub(super) n: usize,
    /// The most tokens of each; `None` is as many as the context has room for, or the endpoint's default.
    pub(super) max_tokens: Option<usize>,
    pub(super) stops: StopStrings,
    stop_tokens: Vec<u32>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl Common {
    /// Takes the shared fields.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub(super) fn take(fields: &mut Fields, model: &ServedModel) -> Result<Common, ApiError> {
        if let Some(asked) = fields.text("model")?
            && asked != model.name
        {
            return Err(ApiError::no_such_model(&asked, &model.name));
        }
        fields.ignore(&NO_MATTER);
        let defaults = &model.sampling;
        let sampling = Sampling {
            temperature: fields.number("temperature", 0.0..=100.0)?.unwrap_or(defaults.temperature),
            top_k: fields.count("top_k", 0..=u32::MAX)?.unwrap_or(defaults.top_k),
            top_p: top_p(fields)?.unwrap_or(defaults.top_p),
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(defaults.min_p),
            repetition_penalty: fields.number("repetition_penalty", 1e-3..=1e3)?.unwrap_or(defaults.repetition_penalty),
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(defaults.presence_penalty),
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(defaults.frequency_penalty),
            logit_bias: logit_bias(fields, model)?,
            seed: 0,
        };
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")? {
            None => false,
            Some(_) if !stream => {
                return Err(ApiError::field("stream_options", "`stream_options` is for requests with `stream`"));
            }
            Some(options) => {
                let mut options = Fields::of_value("stream_options", Value::Object(options))?;
                let include_usage = options.flag("include_usage")?.unwrap_or(false);
                options.ignore(&["include_obfuscation"]);
                options.finish()?;
                include_usage
            }
        };
        let most_tokens = u32::try_from(model.max_context).unwrap_or(u32::MAX).max(1);
        let max_tokens = fields.count("max_tokens", 1..=u32::MAX)?;
        let mut stop_tokens = stop_tokens(fields, model)?;
        if !fields.flag("ignore_eos")?.unwrap_or(false) {
            stop_tokens.extend(&model.stop_tokens);
        }
        Ok(Common {
            sampling,
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
            n: fields.count("n", 1..=MOST_CHOICES)?.unwrap_or(1),
            max_tokens: max_tokens.map(|tokens| tokens.min(most_tokens as usize)),
            stops: stop_strings(fields)?,
            stop_tokens,
            stream,
            include_usage,
        })
    }

    /// The engine's requests: `n` for each prompt, with as many tokens as were asked for, or as `otherwise` says, or as
    /// there is room for.
    ///
    /// # Errors
    /// If a prompt has no tokens, or leaves no room for one.
    pub(super) fn requests(
        &self,
        prompts: &[Vec<u32>],
        model: &ServedModel,
        otherwise: Option<usize>,
        logprobs: Option<usize>,
        param: &str,
    ) -> Result<Asked, ApiError> {
        let seed = self.seed.unwrap_or_else(random);
        let mut requests = Vec::with_capacity(prompts.len() * self.n);
        let (mut prompt_tokens, mut truncated_tokens) = (0, 0);
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(ApiError::field(param, format!("`{param}` has no tokens")));
            }
            let mut prompt = prompt.as_slice();
            if model.truncate_prompt && prompt.len() >= model.max_context {
                let kept = kept_tokens(model.max_context, self.max_tokens.or(otherwise));
                truncated_tokens += prompt.len() - kept;
                prompt = &prompt[prompt.len() - kept..];
            }
            prompt_tokens += prompt.len();
            let room = model.max_context.saturating_sub(prompt.len());
            if room == 0 {
                let message = format!(
                    "`{param}` has {} tokens, and prompt and answer together have at most {}",
                    prompt.len(),
                    model.max_context
                );
                return Err(ApiError::field(param, message).with_code("context_length_exceeded"));
            }
            for _ in 0..self.n {
                // Each choice has a seed of its own, so that they differ, and the same request gives the same ones.
                let seed = seed.wrapping_add(requests.len() as u64);
                requests.push(Request {
                    prompt: prompt.to_vec(),
                    sampling: Sampling { seed, ..self.sampling.clone() },
                    max_tokens: self.max_tokens.or(otherwise).unwrap_or(room).min(room),
                    stop_tokens: self.stop_tokens.clone(),
                    logprobs,
                });
            }
        }
        Ok(Asked { requests, prompt_tokens, truncated_tokens })
    }
}

/// A number that nobody can know before.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How many of the likeliest tokens to report.
pub(super) fn most_logprobs(fields: &mut Fields, name: &str) -> Result<Option<usize>, ApiError> {
    fields.count(name, 0..=u32::try_from(MOST_LOGPROBS).unwrap_or(u32::MAX))
}

fn top_p(fields: &mut Fields) -> Result<Option<f32>, ApiError> {
    match fields.number("top_p", 0.0..=1.0)? {
        Some(0.0) => Err(ApiError::field("top_p", "`top_p` is a number above 0 and at most 1, found 0")),
        top_p => Ok(top_p),
    }
}

fn logit_bias(fields: &mut Fields, model: &ServedModel) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if biases.len() > MOST_BIASES {
        let message = format!("`logit_bias` has {} tokens, and may have {MOST_BIASES}", biases.len());
        return Err(ApiError::field("logit_bias", message));
    }
    let bias = |(token, bias): (&String, &Value)| {
        let path = format!("logit_bias.{token}");
        let token =
            token.parse::<u32>().ok().filter(|&token| (token as usize) < model.vocab_size).ok_or_else(|| {
                let message = format!("`logit_bias` names tokens from 0 to {}, found {token:?}", model.vocab_size - 1);
                ApiError::field("logit_bias", message)
            })?;
        let number = bias.as_f64().ok_or_else(|| wrong(&path, "a number", bias))?;
        if !(-100.0..=100.0).contains(&number) {
            return Err(ApiError::field(&path, format!("`{path}` is a number from -100 to 100, found {number}")));
        }
        Ok((token, number as f32))
    };
    biases.iter().map(bias).collect()
}

fn stop_strings(fields: &mut Fields) -> Result<StopStrings, ApiError> {
    let strings = match fields.value("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => {
            let string = |(i, stop): (usize, Value)| {
                let Value::String(stop) = stop else {
                    return Err(wrong(&format!("stop[{i}]"), "a string", &stop));
                };
                Ok(stop)
            };
            stops.into_iter().enumerate().map(string).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(wrong("stop", "a string or an array of strings", &other)),
    };
    if strings.len() > MOST_STOPS {
        let message = format!("`stop` has {} strings, and may have {MOST_STOPS}", strings.len());
        return Err(ApiError::field("stop", message));
    }
    if let Some(long) = strings.iter().find(|stop| stop.len() > MOST_STOP_BYTES) {
        let message = format!("a string of `stop` has {} bytes, and may have {MOST_STOP_BYTES}", long.len());
        return Err(ApiError::field("stop", message));
    }
    StopStrings::new(strings).map_err(|error| ApiError::field("stop", error.message()))
}

fn stop_tokens(fields: &mut Fields, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let tokens = fields.array("stop_token_ids")?.unwrap_or_default();
    tokens.iter().enumerate().map(|(i, token)| token_id(&format!("stop_token_ids[{i}]"), token, model)).collect()
}

/// A token of the model's vocabulary.
pub(super) fn token_id(path: &str, value: &Value, model: &ServedModel) -> Result<u32, ApiError> {
    let token = value.as_u64().and_then(|token| u32::try_from(token).ok());
    token.filter(|&token| (token as usize) < model.vocab_size).ok_or_else(|| {
        let found = if value.is_number() { value.to_string() } else { kind_of(value).to_owned() };
        ApiError::field(path, format!("`{path}` is a token from 0 to {}, found {found}", model.vocab_size - 1))
    })
}
