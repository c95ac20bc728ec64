//! The model that is served, as the connections know it: everything but the engine.

use std::sync::Arc;

use super::ToolForm;
use crate::chat_template::ChatTemplate;
use crate::engine::Sampling;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// The model that is served.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The name that requests call it by.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// A token that stands before every prompt of a completion, beside those that the tokenizer adds.
    pub begins_with: Option<u32>,
    /// How tokens are drawn where a request does not say.
    pub sampling: Sampling,
    /// Its chat template; without one there are no chats.
    pub template: Option<Arc<ChatTemplate>>,
    /// How it writes calls of tools; `None` leaves them in its text.
    pub tool_form: Option<ToolForm>,
    /// Whether a prompt that is too long loses its first tokens, and is not refused.
    pub truncate_prompt: bool,
    /// Tokens that end a text.
    pub stop_tokens: Vec<u32>,
    /// Ids are below this.
    pub vocab_size: usize,
    /// The most tokens of a prompt and its answer together.
    pub max_context: usize,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
}

impl ServedModel {
    /// The tokens of a prompt that begins a text.
    ///
    /// # Errors
    /// If the tokenizer does not know a character.
    pub(super) fn encode_beginning(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens: Vec<u32> = self.begins_with.into_iter().collect();
        tokens.extend(self.tokenizer.encode_beginning(text)?);
        Ok(tokens)
    }
}
