//! Documents from files: text, JSON lines and Parquet, plain or compressed, read ahead and worked on in parallel.
//!
//! A thread reads and cuts the files into [`Chunk`]s of about a megabyte; worker threads take them apart into documents
//! and do the work; the caller gets the results in the order of the files, whatever the number of threads. How much is
//! held at a time is bounded: a document, or a line, longer than [`Reading::max_document_bytes`] is refused, and reading
//! waits while too much is on its way.

mod chunk;
mod inputs;
mod parquet;
mod pipeline;
mod progress;
mod reader;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::error::Result;

pub use chunk::{Chunk, Piece};
pub use inputs::{Compression, Format, Input, expand};
pub use progress::Progress;

use pipeline::Budget;

/// What a text file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documents {
    /// The file is one document.
    File,
    /// Every line is one.
    Lines,
    /// They are separated by blank lines.
    Paragraphs,
    /// There are none; pieces end after line breaks, where no word goes on.
    Running,
}

/// How files are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The files, in order.
    pub inputs: Vec<Input>,
    /// What text files are made of.
    pub documents: Documents,
    /// The field of a JSON object, or the column of a Parquet file, that has the text.
    pub field: String,
    /// A longer document, or line of JSON, is refused.
    pub max_document_bytes: usize,
    /// Whether to pass over what is no document, rather than to stop.
    pub skip_invalid: bool,
    /// Threads that work; another one reads.
    pub threads: usize,
}

/// What was met beside documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Documents without text.
    pub empty: u64,
    /// Documents that could not be read, with `skip_invalid`.
    pub invalid: u64,
    /// The first of these, with its place.
    pub first: Option<String>,
}

impl Skipped {
    /// Takes in what another part met, which comes after.
    pub fn add(&mut self, other: Skipped) {
        self.empty += other.empty;
        self.invalid += other.invalid;
        self.first = self.first.take().or(other.first);
    }
}

/// Chunks on their way hold about this much for each thread.
const BYTES_PER_THREAD: usize = 8 << 20;

impl Reading {
    /// Reads everything: each worker makes a state by `start`, takes chunks apart with `work` and hands each result to
    /// `finish`, in order and on the caller's thread. Returns the states of the workers.
    ///
    /// # Errors
    /// The first in the order of the files: one of reading, of `work` or of `finish`.
    pub fn for_each<S: Send, T: Send>(
        &self,
        progress: &mut Progress,
        start: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, &Chunk) -> Result<T> + Sync,
        finish: impl FnMut(T, &mut Progress) -> Result<()>,
    ) -> Result<Vec<S>> {
        let budget = Budget::new(self.threads * BYTES_PER_THREAD);
        let counter = progress.counter();
        let read = |send: &mut dyn FnMut(Chunk) -> bool| reader::read(self, &counter, send);
        pipeline::run(self.threads, &budget, read, start, work, finish, progress)
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.inputs.iter().map(|input| input.path.clone()).collect()
    }
}
