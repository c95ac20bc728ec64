//! The tokenizer that a config names by its file.

use std::path::Path;

use super::Tokenizer;
use crate::config::Config;
use crate::error::Result;

/// The tokenizer at `path`, the value of `data.tokenizer`. That of an earlier run, `saved`, is used if there is one; the
/// file may then be gone, but not be another one.
pub(crate) fn configured(config: &Config, path: &Path, saved: Option<&Tokenizer>) -> Result<Tokenizer> {
    let end = config.data.end_of_document.as_deref();
    let read = || {
        let tokenizer = Tokenizer::read(path).and_then(|tokenizer| tokenizer.with_end_of_document(end));
        tokenizer.map_err(|error| config.error_at("data.tokenizer", error.message()))
    };
    let tokenizer = match saved {
        Some(saved) => saved.with_end_of_document(end)?,
        None => read()?,
    };
    if saved.is_some() && path.exists() && read()? != tokenizer {
        let message = format!(
            "{} is another tokenizer than the one the run was started with, which its checkpoints hold",
            path.display()
        );
        return Err(config.error_at("data.tokenizer", message));
    }
    if let Tokenizer::HuggingFace(tokenizer) = &tokenizer
        && config.data.is_text()
    {
        match tokenizer.engine() {
            engine @ super::Engine::ByteLevelBpe => tracing::info!("text is encoded by {engine}"),
            engine @ super::Engine::Crate(_) => tracing::warn!("text is encoded by {engine}"),
        }
    }
    Ok(tokenizer)
}
