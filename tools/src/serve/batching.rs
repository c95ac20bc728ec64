//! Continuous batching: the thread that has the engine takes texts into free slots between the steps of the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::queue::{Embedding, Event, Queue, Text, Work, elapsed};
use crate::engine::{Emitted, Figures, Request, SlotId};
use crate::error::{Error, ErrorKind, Result};

/// What the server needs of an engine: rows that are added, stepped and cancelled independently of each other.
pub trait TokenEngine: Send + 'static {
    /// The rows that it generates side by side.
    fn slots(&self) -> usize;

    /// The rows that are free.
    fn free_slots(&self) -> usize;

    /// Takes a text into a free row, and its prompt through the model.
    ///
    /// # Errors
    /// An error of the input if the request is not one the model can take; any other says that the engine is broken.
    fn add(&mut self, request: Request) -> Result<SlotId>;

    /// The next tokens: of every row that is taken, or only of those that were added since the last step. A row whose
    /// token says that it is finished is free again.
    ///
    /// # Errors
    /// If the engine is broken.
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

/// How often the engine is asked for its figures while it works, some of which are the system's to tell, and the queue for
/// what has waited too long.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// A text in a slot.
#[derive(Debug)]
struct Running {
    text: Text,
    tokens: u64,
}

/// The rows that are taken.
type Rows = BTreeMap<SlotId, Running>;

/// Works until the queue is closed and all is done, or given up.
///
/// # Errors
/// If the engine is broken. Those who wait are told.
pub(super) fn run(mut engine: impl TokenEngine, queue: &Queue, metrics: &Metrics) -> Result<()> {
    let mut running = Rows::new();
    let worked = work(&mut engine, &mut running, queue, metrics);
    queue.close();
    for (slot, row) in running {
        engine.cancel(slot);
        row.text.tell(ending(&worked));
    }
    for work in queue.drain() {
        match work {
            Work::Text(text) => text.tell(ending(&worked)),
            // Its reply is dropped, which tells as much.
            Work::Embedding(_) => {}
        }
    }
    worked
}

/// What those are told who wait when it ends.
fn ending(worked: &Result<()>) -> Event {
    match worked {
        Ok(()) => Event::ShuttingDown,
        Err(error) => Event::Failed(Error::run(error.message())),
    }
}

fn work(engine: &mut impl TokenEngine, running: &mut Rows, queue: &Queue, metrics: &Metrics) -> Result<()> {
    let mut observed = None;
    loop {
        metrics.set_running(running.len());
        if running.is_empty() || observed.is_none_or(|last| elapsed(last) >= OBSERVE_EVERY) {
            metrics.observe_engine(&engine.figures());
            observed = Some(Instant::now());
            for text in queue.take_late(Instant::now()) {
                metrics.timed_out.add(1);
                text.tell(Event::TimedOut);
            }
        }
        let free = engine.free_slots();
        let most = if running.is_empty() { free.max(1) } else { free.min(PROMPTS_BETWEEN_STEPS) };
        let Some(taken) = queue.take(most, free, running.is_empty()) else { return Ok(()) };
        let mut taken = taken.into_iter();
        while let Some(work) = taken.next() {
            let done = match work {
                Work::Text(text) => add(engine, text, running, metrics),
                Work::Embedding(embedding) => embed(engine, embedding),
            };
            if let Err(error) = done {
                queue.put_back(taken);
                return Err(error);
            }
        }
        release(engine, running, metrics);
        if !running.is_empty() {
            step(engine, running, metrics)?;
        }
    }
}

fn add(engine: &mut impl TokenEngine, text: Text, running: &mut Rows, metrics: &Metrics) -> Result<()> {
    if text.is_unwanted() {
        metrics.cancelled.add(1);
        return Ok(());
    }
    if Instant::now() >= text.deadline {
        metrics.timed_out.add(1);
        text.tell(Event::TimedOut);
        return Ok(());
    }
    metrics.queue_time.observe(elapsed(text.asked));
    match engine.add(text.request.clone()) {
        Ok(slot) => {
            running.insert(slot, Running { text, tokens: 0 });
            // The first token is told at once; with it a text may be finished and its slot another's.
            step(engine, running, metrics)
        }
        Err(error) => {
            text.tell(Event::Failed(error.clone()));
            unless_broken(error)
        }
    }
}

fn embed(engine: &mut impl TokenEngine, Embedding { inputs, reply }: Embedding) -> Result<()> {
    if reply.is_closed() {
        return Ok(());
    }
    let vectors = engine.embeddings(&inputs);
    let broken = vectors.as_ref().err().cloned();
    // A client that left meanwhile does not read it.
    _ = reply.send(vectors);
    broken.map_or(Ok(()), unless_broken)
}

/// An error that is not the request's is the engine's end.
fn unless_broken(error: Error) -> Result<()> {
    match error.kind() {
        ErrorKind::Input => Ok(()),
        ErrorKind::Run | ErrorKind::NonFinite => Err(error),
    }
}

/// Frees the slots of texts that nobody waits for, or whose time is over.
fn release(engine: &mut impl TokenEngine, running: &mut Rows, metrics: &Metrics) {
    let now = Instant::now();
    running.retain(|&slot, row| {
        if row.text.is_unwanted() {
            metrics.cancelled.add(u64::from(!row.text.is_done()));
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

fn step(engine: &mut impl TokenEngine, running: &mut Rows, metrics: &Metrics) -> Result<()> {
    for emitted in engine.step()? {
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
    Ok(())
}
