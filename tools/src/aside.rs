//! Work beside other work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::error::Result;

/// What a thread of its own does. Dropping it waits for the thread, as a process cannot end in the middle of XLA's work.
#[derive(Debug)]
pub struct Aside<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Aside<T> {
    /// Begins the work.
    pub fn begin(work: impl FnOnce() -> T + Send + 'static) -> Aside<T> {
        Aside(Some(std::thread::spawn(work)))
    }
}

impl<T> Aside<T> {
    /// Waits for the result.
    ///
    /// # Panics
    /// If the work did.
    pub fn wait(mut self) -> T {
        let thread = self.0.take().expect("only this takes the thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        // Nobody asks any more how it ended.
        self.0.take().map(JoinHandle::join);
    }
}

/// Does some work for each item, on so many threads. After the first error no more is begun.
///
/// # Errors
/// The first of those that the work had, in the order of threads.
///
/// # Panics
/// If the work did.
pub fn side_by_side<T: Sync>(items: &[T], threads: usize, work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(run)).collect();
        let ended: Vec<Result<()>> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        ended.into_iter().collect()
    })
}
