//! Texts from prompts: one as a stream of its pieces, or several at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::text::{StopStrings, StoppingText};
use super::{Engine, EngineOptions, Reason, Request, SlotId};
use crate::chat_template::Chat;
use crate::error::{Error, Result};
use crate::pretrained::Model;
use crate::tokenizer::Tokenizer;

/// A piece of a text: a token and the text that became whole with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The token.
    pub token: u32,
    /// Text; empty within a character, and for special tokens. The last piece has what was held back.
    pub text: String,
    /// Why this is the last piece; `None` while the text goes on. A stop string ends a text as a stop token does.
    pub finished: Option<Reason>,
}

/// A text that was generated, without its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The tokens, with the stop token if one ended it.
    pub tokens: Vec<u32>,
    /// Why it ends.
    pub finished: Reason,
}

/// A text under way: an iterator over its pieces. Dropped, it is cancelled.
pub struct Generation<'e> {
    engine: &'e mut Engine,
    slot: Option<SlotId>,
    waiting: VecDeque<Piece>,
    text: Option<StoppingText<&'e Tokenizer>>,
}

impl Engine {
    /// Continues a prompt, piece by piece, up to a stop string. A model without a tokenizer gives pieces without text.
    /// `model` is the engine's.
    ///
    /// # Errors
    /// As [`Engine::add`], and if another text is under way.
    pub fn generate<'e>(
        &'e mut self,
        model: &'e Model,
        request: Request,
        stops: &StopStrings,
    ) -> Result<Generation<'e>> {
        if self.is_busy() {
            return Err(Error::run("another text is under way"));
        }
        let text = model.tokenizer().ok().map(|tokenizer| StoppingText::new(tokenizer, &request.prompt, stops.clone()));
        let slot = self.add(request)?;
        Ok(Generation { engine: self, slot: Some(slot), waiting: VecDeque::new(), text })
    }

    /// Answers a chat, piece by piece, by the chat template of the model's folder; `request` holds everything but the
    /// prompt. `model` is the engine's.
    ///
    /// # Errors
    /// As [`Model::chat_tokens`] and [`Engine::generate`].
    pub fn chat<'e>(
        &'e mut self,
        model: &'e Model,
        chat: &Chat,
        request: Request,
        stops: &StopStrings,
    ) -> Result<Generation<'e>> {
        let prompt = model.chat_tokens(chat)?;
        self.generate(model, Request { prompt, ..request }, stops)
    }

    /// Continues all requests, as many at a time as there are slots; the texts in the order of the requests.
    ///
    /// # Errors
    /// As [`Engine::add`]; and if another text is under way.
    pub fn complete(&mut self, requests: Vec<Request>) -> Result<Vec<Completion>> {
        if self.is_busy() {
            return Err(Error::run("another text is under way"));
        }
        let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
        let mut running: HashMap<SlotId, (usize, Vec<u32>)> = HashMap::new();
        let mut waiting = requests.into_iter().enumerate().peekable();
        while waiting.peek().is_some() || self.is_busy() {
            while self.free_slots() > 0
                && let Some((index, request)) = waiting.next()
            {
                let slot = self.add(request)?;
                running.insert(slot, (index, Vec::new()));
                // A text of one token has left its slot again.
                self.collect(&mut running, &mut done)?;
            }
            self.collect(&mut running, &mut done)?;
        }
        done.into_iter().map(|text| text.ok_or_else(|| Error::run("a text has not ended"))).collect()
    }

    fn collect(
        &mut self,
        running: &mut HashMap<SlotId, (usize, Vec<u32>)>,
        done: &mut [Option<Completion>],
    ) -> Result<()> {
        for emitted in self.step()? {
            let Some((index, mut tokens)) = running.remove(&emitted.slot) else { continue };
            tokens.push(emitted.token);
            match emitted.finished {
                Some(finished) => done[index] = Some(Completion { tokens, finished }),
                None => _ = running.insert(emitted.slot, (index, tokens)),
            }
        }
        Ok(())
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        while self.waiting.is_empty() {
            self.slot?;
            let emitted = match self.engine.step() {
                Ok(emitted) => emitted,
                Err(error) => {
                    self.slot = None;
                    return Some(Err(error));
                }
            };
            for emitted in emitted {
                let mut piece = Piece { token: emitted.token, text: String::new(), finished: emitted.finished };
                if let Some(text) = &mut self.text {
                    let mut new = text.push(emitted.token);
                    piece.text = new.text;
                    if new.stop.is_none() && piece.finished.is_some() {
                        new = text.finish();
                        piece.text += &new.text;
                    }
                    if new.stop.is_some() {
                        piece.finished = Some(Reason::StopToken);
                    }
                }
                let is_last = piece.finished.is_some();
                self.waiting.push_back(piece);
                if is_last {
                    // Tokens behind a stop string, of the same launch, are dropped.
                    if let Some(slot) = self.slot.take().filter(|_| emitted.finished.is_none()) {
                        self.engine.cancel(slot);
                    }
                    break;
                }
            }
        }
        self.waiting.pop_front().map(Ok)
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.engine.cancel(slot);
        }
    }
}

impl Model {
    /// The answer to the messages of a chat, each an object with `role` and `content`. `request` holds everything but the
    /// prompt; without stop tokens of its own, the answer ends with those of the model. For one answer after the other, and
    /// for a stream, take [`Engine::chat`].
    ///
    /// # Errors
    /// As there.
    pub fn chat(self: &Arc<Model>, messages: Vec<Map<String, Value>>, request: &Request) -> Result<String> {
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        let mut request = Request { prompt: self.chat_tokens(&chat)?, ..request.clone() };
        if request.stop_tokens.is_empty() {
            request.stop_tokens.clone_from(&self.generation().eos);
        }
        let longest = request.prompt.len().saturating_add(request.max_tokens).max(2);
        let context = self.architecture().max_context().map_or(longest, |most| longest.min(most));
        let options = EngineOptions { max_context: Some(context), ..EngineOptions::default() };
        let mut engine = Engine::new(Arc::clone(self), &options)?;
        engine.generate(self, request, &StopStrings::default())?.map(|piece| piece.map(|piece| piece.text)).collect()
    }

    /// Continues prompts as they are, several at a time; the texts in the order of the prompts. `request` holds everything
    /// but the prompt.
    ///
    /// # Errors
    /// As [`Engine::add`].
    pub fn batch_generate(self: &Arc<Model>, prompts: &[Vec<u32>], request: &Request) -> Result<Vec<Completion>> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0).saturating_add(request.max_tokens);
        let context = self.architecture().max_context().map_or(longest, |most| longest.min(most)).max(2);
        let options = EngineOptions {
            max_context: Some(context),
            slots: prompts.len().clamp(1, MOST_SLOTS),
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(Arc::clone(self), &options)?;
        let requests = prompts.iter().map(|prompt| Request { prompt: prompt.clone(), ..request.clone() });
        engine.complete(requests.collect())
    }
}

/// Prompts that [`Model::batch_generate`] continues at a time.
const MOST_SLOTS: usize = 16;
