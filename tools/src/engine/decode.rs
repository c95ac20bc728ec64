//! The tokens behind a prompt: launches of one or more tokens of every text.
//!
//! A launch begins where the one before it ends, on the device: as long as the texts stay the same it is started before the
//! tokens of the one before are read, so that the device does not wait for this program. A text that ends with a stop token
//! is computed once more than it would have to be; what that draws is dropped.

use std::time::Instant;

use lmc_graph::Literal;
use lmc_models::inference::Step;

use super::slots::TextId;
use super::{Emitted, Engine, Logprobs, SlotId, taken};
use crate::device::{Argument, Buffer, run_error};
use crate::error::{Error, Result};

/// Tensors at the beginning of the state that a step only reads.
const READ_ONLY: usize = 2;

/// A launch whose tokens were not read yet.
pub(super) struct Launched {
    /// The texts that it continues.
    texts: Vec<(usize, TextId)>,
    /// Tokens of each.
    steps: usize,
    wants_likeliest: bool,
    drawn: Vec<Buffer>,
    /// The last token of each slot and its position when this is done.
    next: [Buffer; 2],
}

/// What a program drew, on the host: `N S` each, and `N S L`.
pub(super) struct Drawn {
    tokens: Vec<i32>,
    log_probs: Vec<f32>,
    likeliest: Option<(Vec<i32>, Vec<f32>)>,
}

impl Engine {
    /// Draws the next tokens of all texts and hands them out: one of each text, or several, in order, where a launch takes
    /// several. A text whose last token is among them has left its slot. First tokens of texts that were added since are
    /// handed out alone, at once; the tokens behind them may come a step later than those of the other texts.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(&mut self) -> Result<Vec<Emitted>> {
        if !self.pending.is_empty() || !self.slots.is_busy() {
            return Ok(std::mem::take(&mut self.pending));
        }
        let (begin, compile_time) = (Instant::now(), self.figures.compile_time);
        let goes_on = |launched: &Launched| launched.texts.iter().any(|&text| self.slots.has(text));
        let launched = match self.launched.take().filter(goes_on) {
            Some(launched) => launched,
            None => {
                let (steps, visible) = self.launch(self.slots.longest());
                let device = self.model.device();
                let (tokens, positions) = self.slots.tokens_and_positions();
                let buffer = |numbers: &[i32]| device.buffer(&Literal::new([numbers.len()], numbers));
                self.decode([buffer(&tokens)?, buffer(&positions)?], steps, visible)?
            }
        };
        let Launched { texts, steps, wants_likeliest, drawn, next } = launched;
        if texts == self.slots.texts()
            && let Some(longest) = self.slots.longest_behind(steps)
        {
            let (steps, visible) = self.launch(longest);
            self.launched = Some(self.decode(next, steps, visible)?);
        }
        let drawn = Drawn::read(&drawn, wants_likeliest)?;
        let mut emitted = Vec::new();
        for step in 0..steps {
            for &(index, text) in &texts {
                if self.slots.has((index, text)) {
                    emitted.extend(self.emit(index, &drawn, step * self.cache.slots + index));
                }
            }
        }
        self.figures.decode_tokens += emitted.len() as u64;
        self.figures.decode_time += begin.elapsed().saturating_sub(self.figures.compile_time - compile_time);
        Ok(emitted)
    }

    /// Launches `steps` tokens of every text, behind the last ones, whose tokens and positions these are.
    fn decode(&mut self, next: [Buffer; 2], steps: usize, visible: usize) -> Result<Launched> {
        let program = self.program(Step::Decode { tokens: steps, visible })?;
        let device = self.model.device();
        let wants_likeliest = self.slots.want_likeliest();
        let settings = match self.settings.take() {
            Some(settings) => settings,
            None => self.slots.settings().buffers(device)?,
        };
        let wants = device.buffer(&Literal::scalar(wants_likeliest))?;
        let [numbers, top_k, seed] = &settings;
        let mut state = taken(&mut self.state, self.state_len)?;
        let changing = state.split_off(READ_ONLY);
        let kept = [numbers, top_k, seed, &wants].into_iter().chain(&state).map(Argument::Keep);
        let arguments = next.into_iter().map(Argument::Donate).chain(kept);
        let arguments = arguments.chain(changing.into_iter().map(Argument::Donate)).collect();
        let mut results = self.model.execute(&program, arguments)?.into_iter();
        let too_few = || Error::run("a program that draws tokens has too few results");
        let mut result = || results.next().ok_or_else(too_few);
        let next = [result()?, result()?];
        state.extend(results.by_ref().take(self.state_len - READ_ONLY));
        self.state = state;
        self.settings = Some(settings);
        Ok(Launched { texts: self.slots.texts(), steps, wants_likeliest, drawn: results.collect(), next })
    }

    /// Keeps the first token of a text for the next step.
    pub(super) fn emit_to_pending(&mut self, index: usize, drawn: &Drawn) {
        let emitted = self.emit(index, drawn, 0);
        self.pending.extend(emitted);
    }

    /// The token at `place` of what was drawn, for the text in a slot, which it may end.
    fn emit(&mut self, index: usize, drawn: &Drawn, place: usize) -> Option<Emitted> {
        let slot = self.slots.get_mut(index)?;
        let token = drawn.tokens[place].cast_unsigned();
        let logprobs = slot.logprobs.map(|count| {
            let likeliest = drawn.likeliest.as_ref().map(|(ids, log_probs)| {
                let width = ids.len() / drawn.tokens.len();
                let row = place * width..(place + 1) * width;
                let pairs = ids[row.clone()].iter().zip(&log_probs[row]);
                pairs.take(count).map(|(id, &log_prob)| (id.cast_unsigned(), log_prob)).collect()
            });
            Logprobs { token: drawn.log_probs[place], likeliest: likeliest.unwrap_or_default() }
        });
        let finished = slot.take(token);
        if finished.is_some() {
            self.slots.clear(index);
            self.settings = None;
        }
        Some(Emitted { slot: SlotId(index), token, logprobs, finished })
    }
}

impl Drawn {
    /// Reads what a program drew, when it has.
    pub(super) fn read(buffers: &[Buffer], wants_likeliest: bool) -> Result<Drawn> {
        let read = |buffer: &Buffer| buffer.to_literal().map_err(run_error);
        let (tokens, log_probs) = (read(&buffers[0])?.elements(), read(&buffers[1])?.elements());
        let likeliest = match wants_likeliest {
            true => Some((read(&buffers[2])?.elements(), read(&buffers[3])?.elements())),
            false => None,
        };
        Ok(Drawn { tokens, log_probs, likeliest })
    }
}
