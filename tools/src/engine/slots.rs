//! The texts of an engine, on the host.

use lmc_graph::Literal;

use super::request::{Reason, Request, Sampling};
use crate::device::{Buffer, Device};
use crate::error::Result;

/// A text among all that an engine ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextId(u64);

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
pub(super) struct Slots {
    slots: Vec<Option<(TextId, Slot)>>,
    /// Texts so far.
    texts: u64,
}

impl Slots {
    pub(super) fn new(count: usize) -> Slots {
        Slots { slots: vec![None; count], texts: 0 }
    }

    fn each(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten().map(|(_, slot)| slot)
    }

    pub(super) fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }

    pub(super) fn first_free(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.slots.iter().any(Option::is_some)
    }

    /// The texts with their slots.
    pub(super) fn texts(&self) -> Vec<(usize, TextId)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| slot.as_ref().map(|(text, _)| (index, *text))).collect()
    }

    /// Whether this text is in this slot still.
    pub(super) fn has(&self, (index, text): (usize, TextId)) -> bool {
        matches!(self.slots.get(index), Some(Some((there, _))) if *there == text)
    }

    pub(super) fn put(&mut self, index: usize, slot: Slot) {
        self.slots[index] = Some((TextId(self.texts), slot));
        self.texts += 1;
    }

    pub(super) fn clear(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = None;
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)?.as_mut().map(|(_, slot)| slot)
    }

    /// The greatest position of a text's last token.
    pub(super) fn longest(&self) -> usize {
        self.each().map(|slot| slot.position).max().unwrap_or(0)
    }

    /// The same when each has taken so many tokens more, of texts that go on then.
    pub(super) fn longest_behind(&self, tokens: usize) -> Option<usize> {
        self.each().filter(|slot| slot.left > tokens).map(|slot| slot.position + tokens).max()
    }

    pub(super) fn want_likeliest(&self) -> bool {
        self.each().any(|slot| slot.logprobs.is_some_and(|count| count > 0))
    }

    /// The last token of each text and its position, which is -1 where there is no text.
    pub(super) fn tokens_and_positions(&self) -> (Vec<i32>, Vec<i32>) {
        let row = |slot: &Option<(TextId, Slot)>| match slot {
            Some((_, slot)) => (slot.token.cast_signed(), slot.position as i32),
            None => (0, -1),
        };
        self.slots.iter().map(row).unzip()
    }

    pub(super) fn settings(&self) -> Settings {
        Settings::of(self.slots.iter().map(|slot| slot.as_ref().map(|(_, slot)| &slot.sampling)))
    }
}
