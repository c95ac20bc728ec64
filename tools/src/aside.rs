//! Work beside other work.

use std::thread::JoinHandle;

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
