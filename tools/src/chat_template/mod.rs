//! Chat templates as checkpoints have them: from messages to the text that a model continues.
//!
//! A template is a program in Jinja that came with a checkpoint, and is not trusted: what it runs, makes and nests is
//! limited. It writes the beginning of a text (BOS) itself, so that its text is encoded without adding one.

mod budget;
mod builtins;
mod methods;
mod operators;
mod program;
mod python;
mod read;
#[cfg(test)]
mod tests;

use minijinja::Value;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The chat templates of a checkpoint, with the special tokens that they write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// By name, in the checkpoint's order; a checkpoint with one calls it `default`.
    templates: Vec<(String, String)>,
    /// `bos_token`, `eos_token` and so on, as text.
    special_tokens: Vec<(String, String)>,
}

/// What a template is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages: objects with a `role`, a `content`, and what else the template knows.
    pub messages: Vec<Map<String, Json>>,
    /// The tools that the model may call, as JSON schemas of functions.
    pub tools: Option<Vec<Json>>,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// More variables of the template, such as `enable_thinking`. They win over those of the checkpoint.
    pub variables: Map<String, Json>,
}

/// The name of a checkpoint's template for chats with tools, where it has one of its own.
const TOOL_USE: &str = "tool_use";

/// The name of a checkpoint's template.
const DEFAULT: &str = "default";

/// The names under which messages carry what a model thought; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl ChatTemplate {
    /// A template by its source, with special tokens by their names.
    ///
    /// # Errors
    /// If the template cannot be compiled: the line and what is wrong.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>) -> Result<ChatTemplate> {
        ChatTemplate::named(vec![(DEFAULT.to_owned(), source.to_owned())], special_tokens)
    }

    fn named(templates: Vec<(String, String)>, special_tokens: Vec<(String, String)>) -> Result<ChatTemplate> {
        for (name, source) in &templates {
            program::check(source)
                .map_err(|reason| Error::input(format!("the chat template {name:?} is broken: {reason}")))?;
        }
        Ok(ChatTemplate { templates, special_tokens })
    }

    /// The text of a chat, with BOS where the template writes one: it is to be encoded without adding special tokens.
    ///
    /// As `transformers`, this leaves out fields of messages that are null, and takes the template for tools if the
    /// checkpoint has one and there are tools.
    ///
    /// # Errors
    /// If there are no messages, the template refuses them, fails, or does not end within its limits; or if it is one of
    /// several and none is the default.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let source = self.source(chat.tools.is_some())?;
        if chat.messages.is_empty() {
            return Err(Error::input("a chat has at least one message"));
        }
        let messages = chat.messages.iter().map(|message| Json::Object(plain_message(message))).collect();
        let mut variables = Map::new();
        for (name, token) in &self.special_tokens {
            variables.insert(name.clone(), Json::String(token.clone()));
        }
        variables.extend(chat.variables.clone());
        variables.insert("messages".to_owned(), Json::Array(messages));
        variables.insert("tools".to_owned(), chat.tools.clone().map_or(Json::Null, Json::Array));
        variables.entry("documents").or_insert(Json::Null);
        variables.insert("add_generation_prompt".to_owned(), Json::Bool(chat.add_generation_prompt));
        let variables = Json::Object(variables);
        let input_bytes = text_bytes(&variables);
        program::render(source, Value::from_serialize(&variables), input_bytes)
            .map_err(|reason| Error::input(format!("the chat template cannot write these messages: {reason}")))
    }

    /// The tokens of a chat. The template writes what begins a text itself.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and if the text is one that the tokenizer does not take.
    pub fn encode(&self, chat: &Chat, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        tokenizer.encode(&self.render(chat)?)
    }

    /// The template for chats with or without tools, in Jinja.
    ///
    /// # Errors
    /// If it is one of several and none is the default.
    pub fn source(&self, with_tools: bool) -> Result<&str> {
        let named = |wanted: &str| self.templates.iter().find(|(name, _)| name == wanted);
        let tool_use = if with_tools { named(TOOL_USE) } else { None };
        match tool_use.or_else(|| named(DEFAULT)) {
            Some((_, source)) => Ok(source),
            None => {
                let names: Vec<&str> = self.templates.iter().map(|(name, _)| name.as_str()).collect();
                Err(Error::input(format!(
                    "the checkpoint has several chat templates ({}), and none is the default",
                    names.join(", ")
                )))
            }
        }
    }
}

/// A message without what is null, and with what the model thought under the names that templates read.
fn plain_message(message: &Map<String, Json>) -> Map<String, Json> {
    let mut plain = Map::new();
    let reasoning = REASONING.iter().find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = reasoning {
        plain.insert("thinking".to_owned(), reasoning.clone());
    }
    plain.extend(
        message.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())),
    );
    if let Some(reasoning) = reasoning {
        plain.insert(REASONING[0].to_owned(), reasoning.clone());
    }
    plain
}

/// The bytes of all texts in a value.
fn text_bytes(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(text_bytes).sum(),
        Json::Object(items) => items.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
    }
}
