//! An engine that is no model: what it writes depends on prompt, seed and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{Emitted, Figures, Logprobs, Reason, Request, SlotId};
use crate::error::{Error, Result};
use crate::serve::TokenEngine;

/// What tests see of the engine from outside.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The most rows that were taken at once.
    pub(super) most_busy: AtomicUsize,
    /// Rows that are taken.
    pub(super) busy: AtomicUsize,
    /// Rows that were freed before they were finished.
    pub(super) cancelled: AtomicUsize,
    /// The requests that came.
    pub(super) requests: Mutex<Vec<Request>>,
}

/// Continues a text by its own last bytes: the prompt again and again, each token moved by the seed; a step takes a while.
#[derive(Debug)]
pub(super) struct Parrot {
    rows: Vec<Option<(Request, usize)>>,
    step_time: Duration,
    watch: Arc<Watch>,
}

/// A prompt with this byte makes a step fail.
pub(super) const FAILS: u8 = b'!';

/// A prompt with this byte makes the engine panic.
pub(super) const PANICS: u8 = b'#';

impl Parrot {
    pub(super) fn new(slots: usize, step_time: Duration, watch: &Arc<Watch>) -> Parrot {
        Parrot { rows: vec![None; slots], step_time, watch: Arc::clone(watch) }
    }

    /// The token that comes after `count` others.
    pub(super) fn token(prompt: &[u32], seed: u64, count: usize) -> u32 {
        // The first token of a prompt is the document end.
        let prompt = if prompt.len() > 1 { &prompt[1..] } else { prompt };
        let token = prompt[count % prompt.len()];
        if token < 128 && token.is_multiple_of(2) { token ^ (seed & 1) as u32 } else { token }
    }

    fn set_busy(&self) {
        let busy = self.rows.iter().flatten().count();
        self.watch.busy.store(busy, Ordering::SeqCst);
        self.watch.most_busy.fetch_max(busy, Ordering::SeqCst);
    }
}

impl TokenEngine for Parrot {
    fn slots(&self) -> usize {
        self.rows.len()
    }

    fn free_slots(&self) -> usize {
        self.rows.iter().filter(|row| row.is_none()).count()
    }

    fn add(&mut self, request: Request) -> Result<SlotId> {
        self.watch.requests.lock().unwrap().push(request.clone());
        let free = self.rows.iter().position(Option::is_none).ok_or_else(|| Error::run("no row is free"))?;
        if request.prompt.contains(&u32::from(PANICS)) {
            panic!("as it was told");
        }
        self.rows[free] = Some((request, 0));
        self.set_busy();
        Ok(SlotId(free))
    }

    fn step(&mut self) -> Result<Vec<Emitted>> {
        std::thread::sleep(self.step_time);
        if self.rows.iter().flatten().any(|(request, _)| request.prompt.contains(&u32::from(FAILS))) {
            return Err(Error::run("the device is gone"));
        }
        let mut emitted = Vec::new();
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some((request, count)) = row else { continue };
            let token = Parrot::token(&request.prompt, request.sampling.seed, *count);
            *count += 1;
            let finished = match (request.stop_tokens.contains(&token), *count == request.max_tokens) {
                (true, _) => Some(Reason::StopToken),
                (false, true) => Some(Reason::Length),
                (false, false) => None,
            };
            let likeliest = (0..).map(|i| (token + i, -0.5 - i as f32));
            let logprobs = request.logprobs.map(|n| Logprobs { token: -0.5, likeliest: likeliest.take(n).collect() });
            emitted.push(Emitted { slot: SlotId(slot), token, logprobs, finished });
            if finished.is_some() {
                *row = None;
            }
        }
        self.set_busy();
        Ok(emitted)
    }

    fn cancel(&mut self, slot: SlotId) {
        if self.rows[slot.0].take().is_some() {
            self.watch.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.set_busy();
    }

    fn figures(&self) -> Figures {
        Figures { cache_bytes: 12_345, ..Figures::default() }
    }

    fn embeddings(&mut self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        Ok(inputs.iter().map(|input| vec![input.len() as f32, 0.5, -1.0]).collect())
    }
}
