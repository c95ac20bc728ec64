//! Continuous batching: the thread that has the engine takes texts into free slots between the steps of the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::metrics::Metrics;
use super::queue::{Embedding, Event, Queue, Text, Work, elapsed};
use crate::engine::{Emitted, Figures, Request, SlotId};
use crate::error::{Error, Result};

/// What the server needs of an engine: rows that are added, stepped and cancelled independently of each other.
pub trait TokenEngine: Send + 'static {
    /// The rows that it generates side by side.
    fn slots(&self) -> usize;

    /// The rows that are free.
    fn free_slots(&self) -> usize;

    /// Takes a text into a free row, and its prompt through the model.
    ///
    /// # Errors
    /// If the request is not one the model can take, no row is free, or the device fails.
    fn add(&mut self, request: Request) -> Result<SlotId>;

    /// A token for every row that is taken. A row whose token says that it is finished is free again.
    ///
    /// # Errors
    /// If the device fails; then no row is free until it is cancelled.
    fn step(&mut self) -> Result<Vec<Emitted>>;

    /// Frees a row.
    fn cancel(&mut self, slot: SlotId);

    /// What it measured.
    fn figures(&self) -> Figures;

    /// A vector for each text, by its tokens.
    ///
    /// # Errors
    /// If a text is not one the model can take, or the device fails.
    fn embeddings(&mut self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>>;
}

/// Prompts that are taken in between two steps while texts are generated: a prompt takes as long as many steps, and those
/// who read along would wait for all of them.
const PROMPTS_BETWEEN_STEPS: usize = 4;

/// A text in a slot.
#[derive(Debug)]
struct Running {
    text: Text,
    tokens: u64,
}

/// Works until the queue is closed and all is done, or given up.
pub(super) fn run(mut engine: impl TokenEngine, queue: &Queue, metrics: &Arc<Metrics>) {
    let mut running: BTreeMap<SlotId, Running> = BTreeMap::new();
    loop {
        let free = engine.free_slots();
        let most = if running.is_empty() { free.max(1) } else { free.min(PROMPTS_BETWEEN_STEPS) };
        let Some(work) = queue.take(most, free, running.is_empty()) else { break };
        for work in work {
            match work {
                Work::Text(text) => add(&mut engine, text, &mut running, metrics),
                Work::Embedding(embedding) => embed(&mut engine, embedding),
            }
        }
        release(&mut engine, &mut running, metrics);
        metrics.observe_engine(running.len(), &engine.figures());
        if !running.is_empty() {
            step(&mut engine, &mut running, metrics);
        }
    }
    for (slot, row) in running {
        engine.cancel(slot);
        row.text.tell(Event::ShuttingDown);
    }
    for work in queue.drain() {
        match work {
            Work::Text(text) => text.tell(Event::ShuttingDown),
            // Its reply is dropped, which tells as much.
            Work::Embedding(_) => {}
        }
    }
}

fn add(engine: &mut impl TokenEngine, text: Text, running: &mut BTreeMap<SlotId, Running>, metrics: &Metrics) {
    if text.is_unwanted() {
        metrics.cancelled.add(1);
        return;
    }
    if Instant::now() >= text.deadline {
        metrics.timed_out.add(1);
        return text.tell(Event::TimedOut);
    }
    metrics.queue_time.observe(elapsed(text.asked));
    match engine.add(text.request.clone()) {
        Ok(slot) => _ = running.insert(slot, Running { text, tokens: 0 }),
        Err(error) => text.tell(Event::Failed(error)),
    }
}

fn embed(engine: &mut impl TokenEngine, Embedding { inputs, reply }: Embedding) {
    if !reply.is_closed() {
        // A client that left meanwhile does not read it.
        _ = reply.send(engine.embeddings(&inputs));
    }
}

/// Frees the slots of texts that nobody waits for, or whose time is over.
fn release(engine: &mut impl TokenEngine, running: &mut BTreeMap<SlotId, Running>, metrics: &Metrics) {
    let now = Instant::now();
    running.retain(|&slot, row| {
        if row.text.is_unwanted() {
            metrics.cancelled.add(1);
        } else if now >= row.text.deadline {
            metrics.timed_out.add(1);
            row.text.tell(Event::TimedOut);
        } else {
            return true;
        }
        engine.cancel(slot);
        false
    });
}

fn step(engine: &mut impl TokenEngine, running: &mut BTreeMap<SlotId, Running>, metrics: &Metrics) {
    let emitted = match engine.step() {
        Ok(emitted) => emitted,
        Err(error) => return fail_all(engine, running, &error),
    };
    for emitted in emitted {
        let slot = emitted.slot;
        let Some(row) = running.get_mut(&slot) else { continue };
        row.tokens += 1;
        metrics.generated_tokens.add(1);
        if row.tokens == 1 {
            metrics.time_to_first_token.observe(elapsed(row.text.asked));
        }
        let finished = emitted.finished.is_some();
        row.text.tell(Event::Token(emitted));
        if finished {
            running.remove(&slot);
        }
    }
}

fn fail_all(engine: &mut impl TokenEngine, running: &mut BTreeMap<SlotId, Running>, error: &Error) {
    tracing::error!("the engine failed: {error}");
    for (slot, row) in std::mem::take(running) {
        engine.cancel(slot);
        row.text.tell(Event::Failed(Error::run(error.message())));
    }
}
