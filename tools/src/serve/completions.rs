//! `/v1/completions`: a text that goes on.

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, missing, wrong};
use super::generation::{Delta, Generation, TokenLogprob};
use super::model::ServedModel;
use super::sampling::{Asked, Common, most_logprobs, token_id};
use super::streaming::Chunks;
use super::{Answer, Head};
use crate::engine::Request;

/// Tokens of a completion if the request does not say, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;

/// Prompts of one request.
const MOST_PROMPTS: usize = 256;

/// A request that was read.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) common: Common,
    pub(super) asked: Asked,
    /// What is written before each choice.
    pub(super) echoed: Vec<String>,
}

impl Completion {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub(super) fn read(mut fields: Fields, model: &ServedModel) -> Result<Completion, ApiError> {
        let common = Common::take(&mut fields, model)?;
        let logprobs = most_logprobs(&mut fields, "logprobs")?;
        let prompts = prompts("prompt", fields.value("prompt"), model)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        if echo && logprobs.is_some() {
            return Err(ApiError::field(
                "echo",
                "`echo` with `logprobs` would ask for those of the prompt, which are not kept",
            ));
        }
        if let Some(best_of) = fields.count("best_of", 1..=u32::MAX)?
            && best_of != common.n
        {
            return Err(ApiError::field(
                "best_of",
                format!("`best_of` is not supported beyond `n`, which is {}", common.n),
            ));
        }
        fields.finish()?;
        let asked = common.requests(&prompts, model, Some(DEFAULT_TOKENS), logprobs, "prompt")?;
        let text = |request: &Request| match echo {
            true => {
                let tokens: Vec<i32> = request.prompt.iter().copied().map(u32::cast_signed).collect();
                model.tokenizer.decode(&tokens)
            }
            false => String::new(),
        };
        let echoed = asked.requests.iter().map(text).collect();
        Ok(Completion { common, asked, echoed })
    }
}

/// The texts of the field `name`: one, as text or tokens, or several.
pub(super) fn prompts(name: &str, value: Option<Value>, model: &ServedModel) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode =
        |path: &str, text: &str| model.encode_beginning(text).map_err(|error| ApiError::field(path, error.message()));
    let tokens = |path: &str, items: &[Value]| -> Result<Vec<u32>, ApiError> {
        items.iter().enumerate().map(|(i, item)| token_id(&format!("{path}[{i}]"), item, model)).collect()
    };
    match value {
        None => Err(missing(name)),
        Some(Value::String(text)) => Ok(vec![encode(name, &text)?]),
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_number) => Ok(vec![tokens(name, &items)?]),
        Some(Value::Array(items)) if items.is_empty() || items.len() > MOST_PROMPTS => {
            let message = format!("`{name}` has from 1 to {MOST_PROMPTS} texts, found {}", items.len());
            Err(ApiError::field(name, message))
        }
        Some(Value::Array(items)) => {
            let one = |(i, item): (usize, &Value)| {
                let path = format!("{name}[{i}]");
                match item {
                    Value::String(text) => encode(&path, text),
                    Value::Array(items) => tokens(&path, items),
                    other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                        Err(wrong(&path, "a string or an array of tokens", other))
                    }
                }
            };
            items.iter().enumerate().map(one).collect()
        }
        Some(other) => Err(wrong(name, "a string, an array of strings or an array of tokens", &other)),
    }
}

/// The answer as it is written.
#[derive(Debug)]
pub(super) struct CompletionAnswer {
    head: Head,
    include_usage: bool,
    echoed: Vec<String>,
    /// Characters of each choice that are written.
    offsets: Vec<usize>,
}

impl CompletionAnswer {
    /// An answer with a choice behind each of `echoed`.
    pub(super) fn new(head: Head, common: &Common, echoed: Vec<String>) -> CompletionAnswer {
        let offsets = echoed.iter().map(|text| text.chars().count()).collect();
        CompletionAnswer { head, include_usage: common.include_usage, echoed, offsets }
    }

    fn choice(&mut self, index: usize, text: &str, delta: &Delta) -> Value {
        let logprobs = self.logprobs(index, &delta.logprobs);
        let finish = delta.finish.map(super::generation::FinishReason::word);
        json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish })
    }

    /// OpenAI's older form: four lists with an element a token.
    fn logprobs(&mut self, index: usize, tokens: &[TokenLogprob]) -> Value {
        if tokens.is_empty() {
            return Value::Null;
        }
        let text = |token: u32| self.head.model.tokenizer.token_text(token);
        let likeliest = |token: &TokenLogprob| -> Value {
            let pairs = token.likeliest.iter().map(|&(token, logprob)| (text(token), json!(logprob)));
            Value::Object(pairs.collect())
        };
        let mut offsets = Vec::with_capacity(tokens.len());
        let offset = &mut self.offsets[index];
        for token in tokens {
            offsets.push(*offset);
            *offset += text(token.token).chars().count();
        }
        json!({
            "tokens": tokens.iter().map(|token| text(token.token)).collect::<Vec<_>>(),
            "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
            "top_logprobs": tokens.iter().map(likeliest).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}

impl Answer for CompletionAnswer {
    fn whole(mut self, choices: &[Delta], generation: &Generation) -> Value {
        let write = |(index, delta): (usize, &Delta)| {
            let text = format!("{}{}", self.echoed[index], delta.text);
            self.choice(index, &text, delta)
        };
        let choices: Vec<Value> = choices.iter().enumerate().map(write).collect();
        self.head.object("text_completion", choices, Some(self.head.usage(generation)))
    }
}

impl Chunks for CompletionAnswer {
    fn begin(&mut self) -> Vec<Value> {
        let echoed = std::mem::take(&mut self.echoed);
        let written = echoed.iter().enumerate().filter(|(_, text)| !text.is_empty());
        written
            .map(|(index, text)| {
                let choice = self.choice(index, text, &Delta::default());
                self.head.chunk("text_completion", vec![choice], self.include_usage)
            })
            .collect()
    }

    fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Value> {
        if *delta == Delta::default() {
            return Vec::new();
        }
        let choice = self.choice(index, &delta.text, delta);
        vec![self.head.chunk("text_completion", vec![choice], self.include_usage)]
    }

    fn end(&mut self, generation: &Generation) -> Vec<Value> {
        let usage = self.include_usage.then(|| self.head.usage(generation));
        usage.into_iter().map(|usage| self.head.object("text_completion", Vec::new(), Some(usage))).collect()
    }
}
