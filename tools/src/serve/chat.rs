//! `/v1/chat/completions`: the next message of a chat.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{Fields, kind_of, missing, wrong};
use super::generation::{Delta, FinishReason, Generation, TokenLogprob};
use super::model::ServedModel;
use super::sampling::{Asked, Common, most_logprobs};
use super::streaming::Chunks;
use super::tool_calls::{ToolCall, ToolReading};
use super::{Answer, Head};
use crate::chat_template::Chat;

/// Who a message may be from. The last two are older and newer words for the first two.
const ROLES: [&str; 6] = ["tool", "system", "user", "assistant", "function", "developer"];

/// A request that was read.
#[derive(Debug)]
pub(super) struct ChatCompletion {
    pub(super) common: Common,
    pub(super) asked: Asked,
    /// How calls of tools are read, if any were offered to a model whose calls are known.
    pub(super) tools: Option<ToolReading>,
}

impl ChatCompletion {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong, or that the model has no chat template.
    pub(super) fn read(mut fields: Fields, model: &ServedModel) -> Result<ChatCompletion, ApiError> {
        let mut common = Common::take(&mut fields, model)?;
        if let Some(tokens) = fields.count("max_completion_tokens", 1..=u32::MAX)? {
            common.max_tokens = Some(tokens);
        }
        let wanted = fields.flag("logprobs")?.unwrap_or(false);
        let likeliest = most_logprobs(&mut fields, "top_logprobs")?;
        if likeliest.is_some() && !wanted {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` is for requests with `logprobs`"));
        }
        let logprobs = wanted.then(|| likeliest.unwrap_or(0));
        let chat = Chat {
            messages: messages(fields.array("messages")?)?,
            tools: tools(&mut fields)?,
            add_generation_prompt: true,
            variables: fields.object("chat_template_kwargs")?.unwrap_or_default(),
        };
        if let Some(format) = fields.object("response_format")?
            && format.get("type") != Some(&json!("text"))
        {
            let message = "`response_format.type` is \"text\"; answers of another form are not supported";
            return Err(ApiError::field("response_format.type", message));
        }
        fields.finish()?;
        let Some(template) = &model.template else {
            let message = format!("the model {:?} has no chat template; use /v1/completions", model.name);
            return Err(ApiError::field("model", message));
        };
        let prompt = template.encode(&chat, &model.tokenizer);
        let prompt = prompt.map_err(|error| ApiError::field("messages", error.message()))?;
        let asked = common.requests(&[prompt], model, None, logprobs, "messages")?;
        let tools = chat.tools.as_deref().zip(model.tool_form);
        let tools = tools.map(|(tools, form)| ToolReading::new(form, tools, &model.tokenizer));
        Ok(ChatCompletion { common, asked, tools })
    }
}

fn messages(items: Option<Vec<Value>>) -> Result<Vec<Map<String, Value>>, ApiError> {
    let items = items.ok_or_else(|| missing("messages"))?;
    if items.is_empty() {
        return Err(ApiError::field("messages", "`messages` has at least one message"));
    }
    items.into_iter().enumerate().map(|(i, item)| message(&format!("messages[{i}]"), item)).collect()
}

/// A message as templates take it: text in one piece, and arguments of calls as values.
fn message(path: &str, item: Value) -> Result<Map<String, Value>, ApiError> {
    let Value::Object(mut message) = item else { return Err(wrong(path, "an object", &item)) };
    let role = match message.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(Value::String(role)) => {
            let message = format!("`{path}.role` is one of {}, found {role:?}", ROLES.join(", "));
            return Err(ApiError::field(format!("{path}.role"), message));
        }
        Some(other) => return Err(wrong(&format!("{path}.role"), "a string", other)),
        None => return Err(missing(&format!("{path}.role"))),
    };
    if role == "developer" {
        // Templates know it by its older name.
        message.insert("role".to_owned(), json!("system"));
    }
    let calls = match message.get_mut("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => {
            for (i, call) in calls.iter_mut().enumerate() {
                tool_call(&format!("{path}.tool_calls[{i}]"), call)?;
            }
            true
        }
        Some(other) => return Err(wrong(&format!("{path}.tool_calls"), "an array", other)),
    };
    let content = format!("{path}.content");
    match message.get_mut("content") {
        Some(Value::String(_)) => {}
        Some(parts @ Value::Array(_)) => *parts = Value::String(text_of_parts(&content, parts)?),
        None | Some(Value::Null) if calls && role == "assistant" => {}
        None | Some(Value::Null) => return Err(missing(&content)),
        Some(other) => return Err(wrong(&content, "a string or an array of parts", other)),
    }
    Ok(message)
}

/// The text of a content in parts, a line each.
fn text_of_parts(path: &str, parts: &Value) -> Result<String, ApiError> {
    let mut texts = Vec::new();
    for (i, part) in parts.as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}[{i}]");
        match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (Some("text"), Some(Value::String(text))) => texts.push(text.as_str()),
            (Some("text"), other) => {
                return Err(wrong(&format!("{path}.text"), "a string", other.unwrap_or(&Value::Null)));
            }
            (Some(kind), _) => {
                let message = format!("`{path}.type` is \"text\", as the model takes nothing else; found {kind:?}");
                return Err(ApiError::field(format!("{path}.type"), message));
            }
            (None, _) => return Err(missing(&format!("{path}.type"))),
        }
    }
    Ok(texts.join("\n"))
}

/// Checks a call of a tool, and takes its arguments, which OpenAI has as text, as the value that they are.
fn tool_call(path: &str, call: &mut Value) -> Result<(), ApiError> {
    let Value::Object(call) = call else { return Err(wrong(path, "an object", call)) };
    let function = match call.get_mut("function") {
        Some(Value::Object(function)) => function,
        Some(other) => return Err(wrong(&format!("{path}.function"), "an object", other)),
        None => return Err(missing(&format!("{path}.function"))),
    };
    match function.get("name") {
        Some(Value::String(_)) => {}
        Some(other) => return Err(wrong(&format!("{path}.function.name"), "a string", other)),
        None => return Err(missing(&format!("{path}.function.name"))),
    }
    if let Some(Value::String(text)) = function.get("arguments")
        && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
    {
        function.insert("arguments".to_owned(), arguments);
    }
    Ok(())
}

fn tools(fields: &mut Fields) -> Result<Option<Vec<Value>>, ApiError> {
    let tools = fields.array("tools")?.filter(|tools| !tools.is_empty());
    for (i, tool) in tools.iter().flatten().enumerate() {
        let path = format!("tools[{i}]");
        match tool.get("function").map(|function| function.get("name")) {
            Some(Some(Value::String(_))) => {}
            Some(_) => return Err(missing(&format!("{path}.function.name"))),
            None if tool.is_object() => return Err(missing(&format!("{path}.function"))),
            None => return Err(wrong(&path, "an object", tool)),
        }
    }
    match fields.value("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(None),
        Some(other) => {
            let found = other.as_str().map_or_else(|| kind_of(&other).to_owned(), |choice| format!("{choice:?}"));
            let message = format!("`tool_choice` is \"auto\" or \"none\", as calls are not enforced; found {found}");
            Err(ApiError::field("tool_choice", message))
        }
    }
}

/// The answer as it is written.
#[derive(Debug)]
pub(super) struct ChatAnswer {
    head: Head,
    include_usage: bool,
    choices: usize,
}

impl ChatAnswer {
    /// An answer with so many choices.
    pub(super) fn new(head: Head, common: &Common, choices: usize) -> ChatAnswer {
        ChatAnswer { head, include_usage: common.include_usage, choices }
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        if tokens.is_empty() {
            return Value::Null;
        }
        let tokenizer = &self.head.model.tokenizer;
        let one = |token: u32, logprob: f32| json!({ "token": tokenizer.token_text(token), "logprob": logprob, "bytes": tokenizer.token_bytes(token) });
        let with_likeliest = |token: &TokenLogprob| {
            let mut written = one(token.token, token.logprob);
            written["top_logprobs"] = token.likeliest.iter().map(|&(token, logprob)| one(token, logprob)).collect();
            written
        };
        json!({ "content": tokens.iter().map(with_likeliest).collect::<Vec<_>>(), "refusal": null })
    }

    fn chunk(&self, index: usize, delta: &Value, came: &Delta) -> Value {
        let finish = came.finish.map(FinishReason::word);
        let logprobs = self.logprobs(&came.logprobs);
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.head.chunk("chat.completion.chunk", vec![choice], self.include_usage)
    }
}

impl Answer for ChatAnswer {
    fn whole(self, choices: &[Delta], generation: &Generation) -> Value {
        let write = |(index, came): (usize, &Delta)| {
            let mut message = json!({ "role": "assistant", "content": came.text, "refusal": null });
            if !came.calls.is_empty() {
                message["tool_calls"] = came.calls.iter().map(ToolCall::object).collect();
                if came.text.is_empty() {
                    message["content"] = Value::Null;
                }
            }
            json!({
                "index": index,
                "message": message,
                "logprobs": self.logprobs(&came.logprobs),
                "finish_reason": came.finish.map(FinishReason::word),
            })
        };
        let choices = choices.iter().enumerate().map(write).collect();
        self.head.object("chat.completion", choices, Some(self.head.usage(generation)))
    }
}

impl Chunks for ChatAnswer {
    fn begin(&mut self) -> Vec<Value> {
        let role = json!({ "role": "assistant", "content": "", "refusal": null });
        (0..self.choices).map(|index| self.chunk(index, &role, &Delta::default())).collect()
    }

    fn delta(&mut self, index: usize, came: &Delta) -> Vec<Value> {
        let mut chunks = Vec::new();
        if !came.text.is_empty() || !came.logprobs.is_empty() {
            let rest = Delta { finish: None, ..came.clone() };
            chunks.push(self.chunk(index, &json!({ "content": came.text }), &rest));
        }
        if !came.calls.is_empty() {
            let calls: Value = came.calls.iter().map(ToolCall::chunk).collect();
            chunks.push(self.chunk(index, &json!({ "tool_calls": calls }), &Delta::default()));
        }
        if came.finish.is_some() {
            let finish = Delta { finish: came.finish, ..Delta::default() };
            chunks.push(self.chunk(index, &json!({}), &finish));
        }
        chunks
    }

    fn end(&mut self, generation: &Generation) -> Vec<Value> {
        let usage = self.include_usage.then(|| self.head.usage(generation));
        usage.into_iter().map(|usage| self.head.object("chat.completion.chunk", Vec::new(), Some(usage))).collect()
    }
}
