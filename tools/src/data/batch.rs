//! Batches: rows as the tensors a step takes, made ahead of need on a thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lmc_graph::Literal;

use crate::error::{Error, Result};

use super::IGNORED;
use super::mixture::Sources;

/// The tokens and labels of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The step it is for, from 0; of held-out data the number of the batch.
    pub step: u64,
    /// Token ids, `i32[micro_batches, micro_batch_size, seq_len]`.
    pub tokens: Literal,
    /// The token after each token, `IGNORED` where there is none to predict; same type.
    pub labels: Literal,
    /// Labels that are not `IGNORED`.
    pub num_labels: u64,
}

/// The sizes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Micro-batches: `train.grad_accum_steps` when training.
    pub micro_batches: usize,
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Tokens of a row.
    pub seq_len: usize,
}

impl BatchShape {
    /// Rows of a batch.
    pub fn rows(self) -> usize {
        self.micro_batches * self.micro_batch_size
    }
}

/// The batch of the rows from `first` on; rows from `end` on are all padding.
pub(super) fn make(rows: &Sources, step: u64, first: u64, end: u64, shape: BatchShape) -> Result<Batch> {
    let BatchShape { micro_batches, micro_batch_size, seq_len } = shape;
    let mut tokens = vec![0; shape.rows() * seq_len];
    let mut labels = vec![IGNORED; tokens.len()];
    let slots = tokens.chunks_exact_mut(seq_len).zip(labels.chunks_exact_mut(seq_len));
    for (row, (tokens, labels)) in (first..end).zip(slots) {
        rows.fill(row, tokens, labels)?;
    }
    let num_labels = labels.iter().filter(|&&label| label != IGNORED).count() as u64;
    let dimensions = [micro_batches, micro_batch_size, seq_len];
    Ok(Batch { step, tokens: Literal::new(dimensions, &tokens), labels: Literal::new(dimensions, &labels), num_labels })
}

/// Batches of consecutive steps, made on a thread of their own. Dropping it ends the thread.
#[derive(Debug)]
pub struct Batches {
    // The receiver goes first, so that a thread waiting to send wakes up.
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Batches {
    /// Starts making the batches of `steps`, at most `ahead` before they are asked for.
    pub(super) fn start(
        rows: Arc<Sources>,
        steps: std::ops::Range<u64>,
        shape: BatchShape,
        ahead: usize,
    ) -> Result<Batches> {
        let (sender, receiver) = sync_channel(ahead);
        let work = move || {
            for step in steps {
                let first = step * shape.rows() as u64;
                let batch = make(&rows, step, first, u64::MAX, shape);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("data".to_owned())
            .spawn(work)
            .map_err(|error| Error::run(format!("cannot start the data thread: {error}")))?;
        Ok(Batches { receiver: Some(receiver), thread: Some(thread), waited: Duration::ZERO })
    }

    /// How long `next` has waited for data so far, in all: next to nothing while batches are made faster than used.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    /// The batch of the next step; after the last, or after an error, `None`.
    fn next(&mut self) -> Option<Result<Batch>> {
        let begin = Instant::now();
        let received = self.receiver.as_ref()?.recv();
        self.waited += begin.elapsed();
        if let Ok(batch) = received {
            return Some(batch);
        }
        self.receiver = None;
        match self.thread.take()?.join() {
            Ok(()) => None,
            Err(_) => Some(Err(Error::run("the data thread has panicked; its message is above"))),
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic was already printed by the thread.
            _ = thread.join();
        }
    }
}
