//! What a run tells while it trains: metrics read one step late, to file and screen.

use std::fmt::Arguments;
use std::time::Instant;

use lmc_graph::{DType, Literal};
use lmc_models::step::METRICS;
use lmc_runtime::{Buffer, process_peak_memory_bytes};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::Batch;
use crate::device::run_error;
use crate::error::{Error, Result};
use crate::output::group_digits;
use crate::run::{EvalMetrics, Event, MetricsFile, Progress, TrainMetrics};

use super::saving::Saved;

/// Reads metrics one step late, and writes them to file and screen.
pub(super) struct Recorder {
    metrics: MetricsFile,
    progress: Progress,
    /// The step that is running.
    running: Option<Running>,
    /// When the step before ended.
    last_end: Instant,
}

/// A step on the device: its number, the tokens it learns from, and its metrics, not read yet.
pub(super) struct Running {
    step: u64,
    tokens: u64,
    results: Vec<Buffer>,
    /// When it was seen to have ended, which may be when its start returned: a device may run it within the call.
    ended: Option<Instant>,
}

impl Running {
    pub(super) fn new(step: u64, batch: &Batch, results: Vec<Buffer>) -> Running {
        let mut running = Running { step, tokens: batch.num_labels, results, ended: None };
        running.look();
        running
    }

    /// Notes the time if the step has ended since the last look.
    fn look(&mut self) {
        // A plugin that cannot say is taken to be running.
        if self.ended.is_none() && self.results.iter().all(|buffer| buffer.is_ready().unwrap_or(false)) {
            self.ended = Some(Instant::now());
        }
    }
}

impl Recorder {
    pub(super) fn new(config: &Config, metrics: MetricsFile, done: u64) -> Recorder {
        let progress = Progress::new(config.train.steps, done, config.train.log_every);
        Recorder { metrics, progress, running: None, last_end: Instant::now() }
    }

    /// A step is about to be started.
    pub(super) fn starting(&mut self) {
        self.running.iter_mut().for_each(Running::look);
    }

    /// A step was started: the one before is finished first.
    pub(super) fn started(&mut self, mut running: Running) -> Result<()> {
        if self.running.as_ref().is_some_and(|before| before.ended.is_none()) {
            // Both ended within the call, or none yet: the one before will seem to have ended when it is read.
            running.ended = None;
        }
        self.finish()?;
        self.running = Some(running);
        Ok(())
    }

    /// Waits for the running step and records it.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Some(Running { step, tokens, results, ended }) = self.running.take() else { return Ok(()) };
        let mut values = [0.0; METRICS.len()];
        for (value, buffer) in values.iter_mut().zip(&results) {
            *value = f64::from(buffer.to_literal().map_err(run_error)?.elements::<f32>()[0]);
        }
        let [loss, grad_norm, learning_rate, _] = values;
        let end = ended.unwrap_or_else(Instant::now);
        let seconds = end.saturating_duration_since(self.last_end).as_secs_f64();
        self.last_end = end;
        let train = TrainMetrics {
            step,
            loss,
            grad_norm,
            learning_rate,
            tokens_per_s: tokens as f64 / seconds,
            step_ms: seconds * 1e3,
            peak_memory_bytes: process_peak_memory_bytes().unwrap_or(0),
            mfu: None,
        };
        self.metrics.record(&Event::Train(train))?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            let what = if loss.is_finite() { "the gradient's norm" } else { "the loss" };
            let message = format!("{what} is not finite in step {step}: loss {loss}, gradient norm {grad_norm}");
            return Err(self.non_finite(step, message)?);
        }
        self.progress.step(&train);
        Ok(())
    }

    /// A step with a finite loss may still update the state to values beyond f32, which no later step recovers from.
    pub(super) fn refuse_non_finite(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut tensors = checkpoint.model.iter().chain(&checkpoint.optimizer);
        match tensors.find(|(_, tensor)| !is_finite(tensor)) {
            None => Ok(()),
            Some((name, _)) => {
                let step = checkpoint.step;
                Err(self.non_finite(step, format!("`{name}` is not finite after the update of step {step}"))?)
            }
        }
    }

    /// Records that training cannot go on, and returns the error that ends it.
    fn non_finite(&mut self, step: u64, message: String) -> Result<Error> {
        self.metrics.record(&Event::Nan { step, message: message.clone() })?;
        self.progress.finish();
        Ok(Error::non_finite(format!(
            "{message}. It was not saved: the newest checkpoint, if there is one, is of an earlier step. A lower \
             optimizer.learning_rate, more schedule.warmup_steps or a smaller optimizer.grad_clip_norm may help"
        )))
    }

    pub(super) fn evaluated(&mut self, evaluation: &EvalMetrics) -> Result<()> {
        let EvalMetrics { step, val_loss, tokens, seconds } = evaluation;
        self.progress.say(format_args!(
            "step {step}: held-out loss {val_loss:.4} over {} tokens ({seconds:.1} s)",
            group_digits(*tokens)
        ));
        self.metrics.record(&Event::Eval(*evaluation))?;
        self.last_end = Instant::now();
        Ok(())
    }

    /// The time that training waited for a snapshot is no step's.
    pub(super) fn snapshot_taken(&mut self) {
        self.last_end = Instant::now();
    }

    /// A checkpoint is safe on disk.
    pub(super) fn saved(&mut self, saved: Saved) -> Result<()> {
        let Saved { step, folder, total, blocked } = saved;
        let (seconds, blocked_seconds) = (total.as_secs_f64(), blocked.as_secs_f64());
        self.metrics.record(&Event::Save { step, checkpoint: folder, seconds, blocked_seconds })
    }

    /// A checkpoint could not be written; the earlier ones are untouched.
    pub(super) fn save_failed(&mut self, step: u64, error: &Error) -> Result<()> {
        self.say(format_args!("warning: {error}; the earlier checkpoints are kept"));
        self.metrics.record(&Event::Warning { step, message: error.to_string() })
    }

    /// Says a line on the screen, beside the progress.
    pub(super) fn say(&self, line: Arguments<'_>) {
        self.progress.say(line);
    }

    pub(super) fn interrupted(&mut self, step: u64) -> Result<()> {
        self.progress.finish();
        self.metrics.record(&Event::Signal { step })
    }

    pub(super) fn done(&mut self, step: u64, began: Instant) -> Result<()> {
        self.progress.finish();
        self.metrics.record(&Event::Done { step, seconds: began.elapsed().as_secs_f64() })
    }
}

/// Whether no element is infinite or not a number; integers are finite.
fn is_finite(tensor: &Literal) -> bool {
    // An f32 is not finite when all bits of its exponent are set. By bytes, for a state is large and training waits.
    const EXPONENT: u32 = 0x7f80_0000;
    match tensor.ty().dtype {
        DType::F32 => {
            let (elements, _) = tensor.bytes().as_chunks::<4>();
            !elements.iter().any(|&bytes| u32::from_le_bytes(bytes) & EXPONENT == EXPONENT)
        }
        DType::BF16
        | DType::F16
        | DType::F64
        | DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => tensor.to_f64s().into_iter().all(f64::is_finite),
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::TensorType;

    use super::*;

    #[test]
    fn what_is_finite() {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            for (x, finite) in [
                (f64::from(f32::MAX), dtype != DType::BF16),
                (-1.0, true),
                (1e-45, true),
                (f64::NAN, false),
                (f64::INFINITY, false),
                (f64::NEG_INFINITY, false),
            ] {
                let tensor = Literal::from_f64s(TensorType::new(dtype, [3]), &[0.0, x, 1.0]);
                assert_eq!(is_finite(&tensor), finite, "{x} as {dtype}");
            }
        }
        assert!(is_finite(&Literal::scalar(-1_i32)));
    }
}
