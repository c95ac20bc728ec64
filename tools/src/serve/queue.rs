//! What waits for the engine: a bounded queue between the connections and the one thread that has the engine.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::engine::{Emitted, Request};
use crate::error::Error;

/// What the engine tells about one text of a request.
#[derive(Debug)]
pub(super) enum Event {
    /// A token came.
    Token(Emitted),
    /// The engine refused the text, or failed.
    Failed(Error),
    /// The time for it was over.
    TimedOut,
    /// The server ends.
    ShuttingDown,
}

/// A text to generate: one of the choices of a request.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) request: Request,
    /// Which choice of its request it is.
    pub(super) choice: usize,
    /// Where its tokens go. Closed when the client has left.
    pub(super) events: mpsc::UnboundedSender<(usize, Event)>,
    /// Set when it has ended before its last token, at a stop string.
    pub(super) done: Arc<AtomicBool>,
    /// When it was asked for.
    pub(super) asked: Instant,
    /// When it must be ready.
    pub(super) deadline: Instant,
}

impl Text {
    /// Whether nobody waits for it.
    pub(super) fn is_unwanted(&self) -> bool {
        self.is_done() || self.events.is_closed()
    }

    /// Whether it has ended already.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Tells what came; a client that has left is noticed by `is_unwanted`.
    pub(super) fn tell(&self, event: Event) {
        _ = self.events.send((self.choice, event));
    }
}

/// Vectors for texts.
#[derive(Debug)]
pub(super) struct Embedding {
    pub(super) inputs: Vec<Vec<u32>>,
    pub(super) reply: oneshot::Sender<Result<Vec<Vec<f32>>, Error>>,
}

/// Work for the engine.
#[derive(Debug)]
pub(super) enum Work {
    Text(Text),
    Embedding(Embedding),
}

impl Work {
    fn is_unwanted(&self) -> bool {
        match self {
            Work::Text(text) => text.is_unwanted(),
            Work::Embedding(embedding) => embedding.reply.is_closed(),
        }
    }
}

/// Why work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As much waits as may.
    Full,
    /// The server ends.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Slots of the engine that are free and not spoken for by what waits.
    free_slots: usize,
    /// No more work is taken; what is there is finished.
    closed: bool,
    /// What is there is given up.
    aborted: bool,
}

/// The queue. Connections put work in, the engine's thread takes it out.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

impl Queue {
    /// A queue in which `limit` texts may wait beyond those that `slots` free slots take at once.
    pub(super) fn new(limit: usize, slots: usize) -> Queue {
        let state = State { free_slots: slots, ..State::default() };
        Queue { state: Mutex::new(state), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all of `work`, or nothing.
    ///
    /// # Errors
    /// If there is no room for it, or the server ends.
    pub(super) fn add(&self, work: Vec<Work>) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() + work.len() > self.limit + state.free_slots {
            state.waiting.retain(|work| !work.is_unwanted());
        }
        if state.waiting.len() + work.len() > self.limit + state.free_slots {
            return Err(Refused::Full);
        }
        state.waiting.extend(work);
        self.changed.notify_all();
        Ok(())
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes up to `most` of what waits, oldest first, for an engine with so many free slots. Waits for work if the
    /// engine is `idle`. `None` when there is no more to come.
    pub(super) fn take(&self, most: usize, free_slots: usize, idle: bool) -> Option<Vec<Work>> {
        let mut state = self.lock();
        state.free_slots = free_slots;
        loop {
            if state.aborted || (idle && state.closed && state.waiting.is_empty()) {
                return None;
            }
            if !idle || !state.waiting.is_empty() {
                let count = most.min(state.waiting.len());
                let taken: Vec<Work> = state.waiting.drain(..count).collect();
                state.free_slots = free_slots.saturating_sub(taken.len());
                return Some(taken);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes out the texts whose time is over at `now`, and drops what nobody waits for.
    pub(super) fn take_late(&self, now: Instant) -> Vec<Text> {
        let mut state = self.lock();
        let mut late = Vec::new();
        for work in std::mem::take(&mut state.waiting) {
            if work.is_unwanted() {
                continue;
            }
            let is_late = matches!(&work, Work::Text(text) if now >= text.deadline);
            match work {
                Work::Text(text) if is_late => late.push(text),
                Work::Text(_) | Work::Embedding(_) => state.waiting.push_back(work),
            }
        }
        late
    }

    /// Puts back what was taken, oldest first.
    pub(super) fn put_back(&self, work: impl DoubleEndedIterator<Item = Work>) {
        let mut state = self.lock();
        work.rev().for_each(|work| state.waiting.push_front(work));
    }

    /// Takes no more work.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes no more work and gives up what there is.
    pub(super) fn abort(&self) {
        let mut state = self.lock();
        (state.closed, state.aborted) = (true, true);
        self.changed.notify_all();
    }

    /// Removes what waits.
    pub(super) fn drain(&self) -> Vec<Work> {
        self.lock().waiting.drain(..).collect()
    }
}

/// The time from `since` until now.
pub(super) fn elapsed(since: Instant) -> Duration {
    Instant::now().saturating_duration_since(since)
}
