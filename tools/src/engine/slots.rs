//! The texts of an engine, on the host.

use lmc_graph::Literal;

use super::request::{Reason, Request, Sampling};
use crate::device::{Buffer, Device};
use crate::error::Result;

/// A text that is being continued.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    sampling: Sampling,
    stop_tokens: Vec<u32>,
    /// Likeliest tokens to tell beside each, if any log-probabilities are told.
    pub(super) logprobs: Option<usize>,
    /// The last token of the text so far; it is not in the cache yet.
    token: u32,
    /// The position of that token.
    position: usize,
    /// Tokens that may still be generated.
    left: usize,
}

impl Slot {
    /// A text whose prompt is in the cache, before its first token.
    pub(super) fn new(request: &Request, context: usize) -> Slot {
        let prompt = request.prompt.len();
        Slot {
            sampling: request.sampling.clone(),
            stop_tokens: request.stop_tokens.clone(),
            logprobs: request.logprobs,
            token: 0,
            position: prompt - 1,
            left: request.max_tokens.min(context - prompt),
        }
    }

    /// Takes the next token; the reason if it is the last.
    pub(super) fn take(&mut self, token: u32) -> Option<Reason> {
        self.token = token;
        self.position += 1;
        self.left -= 1;
        if self.stop_tokens.contains(&token) {
            Some(Reason::StopToken)
        } else if self.left == 0 {
            Some(Reason::Length)
        } else {
            None
        }
    }

    /// The settings of this text alone.
    pub(super) fn settings(&self) -> Settings {
        Settings::of(std::iter::once(Some(&self.sampling)))
    }
}

/// Settings of texts as programs take them: a row each of temperature, top-p, min-p and penalties for repetition, presence
/// and frequency; top-k; seeds.
pub(super) struct Settings {
    numbers: Vec<f32>,
    top_k: Vec<i32>,
    seeds: Vec<u64>,
}

impl Settings {
    fn of<'a>(rows: impl Iterator<Item = Option<&'a Sampling>>) -> Settings {
        let mut settings = Settings { numbers: Vec::new(), top_k: Vec::new(), seeds: Vec::new() };
        // A slot without a text takes the likeliest token of nothing.
        let none = Sampling::greedy();
        for sampling in rows {
            let sampling = sampling.unwrap_or(&none);
            let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = *sampling;
            let Sampling { presence_penalty, frequency_penalty, .. } = *sampling;
            // Cut-offs do nothing at temperature 0, but would be computed for all texts.
            let (top_k, top_p) = if temperature > 0.0 { (sampling.top_k, top_p) } else { (0, 1.0) };
            let numbers = [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty];
            settings.numbers.extend(numbers);
            settings.top_k.push(i32::try_from(top_k).unwrap_or(i32::MAX));
            settings.seeds.push(sampling.seed);
        }
        settings
    }

    /// Numbers, top-k and seeds on the device.
    pub(super) fn buffers(&self, device: &Device) -> Result<[Buffer; 3]> {
        let count = self.seeds.len();
        Ok([
            device.buffer(&Literal::new([count, self.numbers.len() / count], &self.numbers))?,
            device.buffer(&Literal::new([count], &self.top_k))?,
            device.buffer(&Literal::new([count], &self.seeds))?,
        ])
    }
}

/// All slots.
#[derive(Debug)]
pub(super) struct Slots(Vec<Option<Slot>>);

impl Slots {
    pub(super) fn new(count: usize) -> Slots {
        Slots(vec![None; count])
    }

    pub(super) fn free(&self) -> usize {
        self.0.iter().filter(|slot| slot.is_none()).count()
    }

    pub(super) fn first_free(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// The slots with texts.
    pub(super) fn busy(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|&index| self.0[index].is_some()).collect()
    }

    pub(super) fn put(&mut self, index: usize, slot: Slot) {
        self.0[index] = Some(slot);
    }

    pub(super) fn clear(&mut self, index: usize) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = None;
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.0.get_mut(index)?.as_mut()
    }

    /// The greatest position of a text's last token.
    pub(super) fn longest(&self) -> usize {
        self.0.iter().flatten().map(|slot| slot.position).max().unwrap_or(0)
    }

    pub(super) fn want_likeliest(&self) -> bool {
        self.0.iter().flatten().any(|slot| slot.logprobs.is_some_and(|count| count > 0))
    }

    /// The last token of each text and its position, which is -1 where there is no text.
    pub(super) fn tokens_and_positions(&self) -> (Vec<i32>, Vec<i32>) {
        let row = |slot: &Option<Slot>| match slot {
            Some(slot) => (slot.token.cast_signed(), slot.position as i32),
            None => (0, -1),
        };
        self.0.iter().map(row).unzip()
    }

    pub(super) fn settings(&self) -> Settings {
        Settings::of(self.0.iter().map(|slot| slot.as_ref().map(|slot| &slot.sampling)))
    }
}
