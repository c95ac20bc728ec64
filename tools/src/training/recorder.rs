//! What a run tells while it trains: metrics read one step late, to file and screen.

use std::time::Instant;

use lmc_graph::{DType, Literal};
use lmc_models::step::METRICS;
use lmc_runtime::{Buffer, process_peak_memory_bytes};

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::data::Batch;
use crate::device::run_error;
use crate::error::{Error, Result};
use crate::output::group_digits;
use crate::run::{EvalMetrics, Event, MetricsFile, Progress, RunFolder, TrainMetrics};

use super::non_finite::NonFiniteStep;

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
    ///
    /// If that one is not finite it is returned, and the new one, which changes nothing, is dropped.
    pub(super) fn started(&mut self, mut running: Running) -> Result<Option<NonFiniteStep>> {
        if self.running.as_ref().is_some_and(|before| before.ended.is_none()) {
            // Both ended within the call, or none yet: the one before will seem to have ended when it is read.
            running.ended = None;
        }
        let found = self.finish()?;
        if found.is_none() {
            self.running = Some(running);
        }
        Ok(found)
    }

    /// Waits for the running step, records it, and returns it if it is not finite.
    pub(super) fn finish(&mut self) -> Result<Option<NonFiniteStep>> {
        let Some(Running { step, tokens, results, ended }) = self.running.take() else { return Ok(None) };
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
            return Ok(Some(NonFiniteStep { step, loss, grad_norm }));
        }
        self.progress.step(&train);
        Ok(None)
    }

    /// A step with a finite loss may still update the state to values beyond f32, which no later step recovers from.
    pub(super) fn refuse_non_finite(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let finite = |tensor: &Literal| {
            tensor.ty().dtype != DType::F32 || tensor.elements::<f32>().iter().all(|x| x.is_finite())
        };
        let mut tensors = checkpoint.model.iter().chain(&checkpoint.optimizer);
        match tensors.find(|(_, tensor)| !finite(tensor)) {
            None => Ok(()),
            Some((name, _)) => {
                let step = checkpoint.step;
                Err(self.non_finite(step, format!("`{name}` is not finite after the update of step {step}"))?)
            }
        }
    }

    /// Records that training goes on without a step, and says `text`.
    pub(super) fn passed_over(&mut self, event: Event, text: &str) -> Result<()> {
        self.progress.say(format_args!("{text}"));
        self.metrics.record(&event)?;
        self.last_end = Instant::now();
        Ok(())
    }

    /// Records that training cannot go on, and returns the error that ends it.
    pub(super) fn non_finite(&mut self, step: u64, message: String) -> Result<Error> {
        self.metrics.record(&Event::Nan { step, message: message.clone() })?;
        self.progress.finish();
        Ok(Error::non_finite(format!(
            "{message}. It was not saved: the newest checkpoint, if there is one, is of an earlier step. A lower \
             optimizer.learning_rate, more schedule.warmup_steps or a smaller optimizer.grad_clip_norm may help; \
             train.non_finite says whether to go on"
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

    pub(super) fn saved(&mut self, run: &RunFolder, saved: &Checkpoint) -> Result<()> {
        let begin = Instant::now();
        let path = checkpoint::save(run.path(), saved)?;
        let relative = path.strip_prefix(run.path()).unwrap_or(&path).display().to_string();
        let seconds = begin.elapsed().as_secs_f64();
        self.metrics.record(&Event::Save { step: saved.step, checkpoint: relative, seconds })?;
        self.last_end = Instant::now();
        Ok(())
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
