//! How fast a whole model reads a prompt and writes a text.

use std::sync::Arc;

use crate::engine::{Engine, EngineOptions, Figures, Request, Sampling};
use crate::error::{Error, Result};
use crate::pretrained::Model;

/// Takes a prompt of so many tokens and generates as many as are asked for behind it, greedily; a first time, with a few
/// tokens, is not counted.
///
/// # Errors
/// If that is longer than the model takes, or the device fails.
pub fn generation(model: &Arc<Model>, prompt_tokens: usize, tokens: usize) -> Result<Figures> {
    let max_context = prompt_tokens.saturating_add(tokens).saturating_add(1);
    if model.architecture().max_context().is_some_and(|longest| max_context > longest) {
        return Err(Error::input(format!("{prompt_tokens} and {tokens} tokens are more than the model takes")));
    }
    let vocab_size = model.architecture().vocab_size();
    let prompt: Vec<u32> = (0..prompt_tokens.max(1)).map(|i| (i * 7919 % vocab_size) as u32).collect();
    let options = EngineOptions { max_context: Some(max_context), ..EngineOptions::default() };
    let mut figures = Figures::default();
    for max_tokens in [4.min(tokens), tokens] {
        let mut engine = Engine::new(Arc::clone(model), &options)?;
        let sampling = Sampling::greedy();
        engine.complete(vec![Request { prompt: prompt.clone(), max_tokens, sampling, ..Request::default() }])?;
        figures = engine.figures();
    }
    Ok(figures)
}
