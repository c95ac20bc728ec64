//! The model that is served, as the connections know it: everything but the engine.

use std::sync::Arc;

use crate::chat_template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// The model that is served.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The name that requests call it by.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; without one there are no chats.
    pub template: Option<Arc<ChatTemplate>>,
    /// Tokens that end a text.
    pub stop_tokens: Vec<u32>,
    /// Ids are below this.
    pub vocab_size: usize,
    /// The most tokens of a prompt and its answer together.
    pub max_context: usize,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
}
