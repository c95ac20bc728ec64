//! One thread reads, several work, one finishes in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Chunk, Progress};
use crate::error::{Error, Result};

/// How many bytes may be on their way.
pub(super) struct Budget {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    used: usize,
    /// Whether nothing is finished any more.
    closed: bool,
}

impl Budget {
    pub(super) fn new(most: usize) -> Budget {
        Budget { most, state: Mutex::new(State { used: 0, closed: false }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; more than all is let through alone. `false` if nothing is finished any more.
    fn take(&self, bytes: usize) -> bool {
        let blocked = |state: &mut State| !state.closed && state.used > 0 && state.used + bytes > self.most;
        let mut state = self.changed.wait_while(self.lock(), blocked).unwrap_or_else(PoisonError::into_inner);
        state.used += bytes;
        !state.closed
    }

    fn give(&self, bytes: usize) {
        self.lock().used -= bytes;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Closes a budget however the scope is left.
struct Close<'a>(&'a Budget);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A chunk, and where its result is waited for.
type Job<T> = (Chunk, SyncSender<Result<T>>);

/// See [`super::Reading::for_each`].
pub(super) fn run<S: Send, T: Send>(
    threads: usize,
    budget: &Budget,
    read: impl FnOnce(&mut dyn FnMut(Chunk) -> bool) -> Result<()> + Send,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &Chunk) -> Result<T> + Sync,
    mut finish: impl FnMut(T, &mut Progress) -> Result<()>,
    progress: &mut Progress,
) -> Result<Vec<S>> {
    // A small chunk costs little of the budget; so their number is bounded too, by the length of the two queues.
    let (job_sender, job_receiver) = sync_channel::<Job<T>>(4 * threads);
    let (result_sender, result_receiver) = sync_channel::<(usize, Receiver<Result<T>>)>(8 * threads);
    let jobs = Mutex::new(job_receiver);
    let (jobs, start, work) = (&jobs, &start, &work);
    thread::scope(|scope| {
        let close = Close(budget);
        let reader = spawn(scope, "read", move || {
            read(&mut |chunk| {
                let bytes = chunk.bytes.len() + size_of_val(chunk.pieces.as_slice());
                let (sender, receiver) = sync_channel(1);
                budget.take(bytes)
                    && result_sender.send((bytes, receiver)).is_ok()
                    && job_sender.send((chunk, sender)).is_ok()
            })
        })?;
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            workers.push(spawn(scope, "work", move || {
                let mut state = start();
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((chunk, sender)) = job else { return state };
                    // Where nothing is finished any more, nobody waits.
                    _ = sender.send(work(&mut state, &chunk));
                }
            })?);
        }
        let mut finished = Ok(());
        for (bytes, receiver) in &result_receiver {
            // A worker that panics takes its senders with it; its panic goes on where it is joined.
            let Ok(result) = receiver.recv() else { break };
            finished = result.and_then(|result| finish(result, progress));
            budget.give(bytes);
            if finished.is_err() {
                break;
            }
        }
        drop(close);
        // The reader may wait for room in either queue; without this one it finds out that it need not.
        drop(result_receiver);
        // Nor should it wait for workers that are no more.
        while jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().is_ok() {}
        let states =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let states = states.collect();
        let was_read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        finished.and(was_read).map(|()| states)
    })
}

fn spawn<'scope, R: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> R + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, R>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
    thread.map_err(|error| Error::run(format!("a thread to {name} cannot be started: {error}")))
}
