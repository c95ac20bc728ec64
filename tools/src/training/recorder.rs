//! What a run tells while it trains: metrics read one step late, to file and screen.

use std::fmt::Arguments;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lmc_graph::{DType, Literal};
use lmc_lower::Report;
use lmc_models::step::METRICS;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::data::Batch;
use crate::device::{Buffer, Device, run_error};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::peak_bytes;
use crate::output::{group_digits, say};
use crate::run::{
    Activity, EvalMetrics, Event, EventFile, Lowering, MetricsFile, Progress, RunFolder, Start, TimeAccount, TimeSpent,
    TrainMetrics, report,
};

use super::non_finite::NonFiniteStep;
use super::pace::Pace;
use super::saving::Saved;

/// Reads metrics one step late, and writes them to files and screen; accounts for the time.
pub(super) struct Recorder {
    run: PathBuf,
    metrics: MetricsFile,
    /// TensorBoard's, if the config wants them.
    events: Option<EventFile>,
    progress: Progress,
    account: TimeAccount,
    /// Utilization for each token a second, where the device's peak is known.
    mfu_per_rate: Option<f64>,
    /// Steps done and recorded.
    recorded: u64,
    /// When the report may be written again.
    next_report: Instant,
    /// The step that is running.
    running: Option<Running>,
    /// When the step before ended.
    last_end: Instant,
    pace: Pace,
    /// What tells the peak of memory, if it keeps count.
    device: Option<lmc_runtime::Device>,
    /// That peak, and when it was read.
    peak_memory: (u64, Instant),
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

/// The least time between two readings of the peak of memory: one takes the kernel as long as a small model's products.
const PEAK_INTERVAL: Duration = Duration::from_millis(50);

/// The least time between two reports of a run that goes on.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Reports of a run that goes on take at most one part in so many of its time.
const REPORT_SHARE: u32 = 200;

impl Recorder {
    /// Begins to record, or goes on where `start.step` steps are done.
    pub(super) fn begin(config: &Config, run: &RunFolder, start: Start, account: TimeAccount) -> Result<Recorder> {
        let done = start.step;
        let mfu_per_rate = start.peak_flops.map(|peak| start.flops_per_token / peak);
        let mut metrics = match done {
            0 => MetricsFile::create(run)?,
            _ => MetricsFile::resume(run, done)?,
        };
        let start = Start { time_before: metrics.time_before(), ..start };
        metrics.record(&if done == 0 { Event::Start(start) } else { Event::Resume(start) })?;
        let events = if config.train.tensorboard { Some(EventFile::create(run.path(), done)?) } else { None };
        let now = Instant::now();
        Ok(Recorder {
            run: run.path().to_owned(),
            metrics,
            events,
            progress: Progress::new(config.train.steps, done, config.train.log_every),
            account,
            mfu_per_rate,
            recorded: done,
            next_report: now + REPORT_INTERVAL,
            running: None,
            last_end: now,
            pace: Pace::default(),
            device: None,
            peak_memory: (0, now),
        })
    }

    /// Takes the figure of peak memory from this device, if it keeps count.
    pub(super) fn watch(&mut self, device: &Device) {
        self.device = device.client().map(|client| client.device().clone());
        self.peak_memory = (peak_bytes(self.device.as_ref()), Instant::now());
    }

    /// Where the metrics are written.
    pub(super) fn metrics(&self) -> &MetricsFile {
        &self.metrics
    }

    /// Keeps how the training step lowered, for the report.
    pub(super) fn lowered(&mut self, report: &Report) {
        if let Err(error) = Lowering::of(report).save(&self.run) {
            self.warn(&error);
        }
    }

    /// The first step is about to be started.
    pub(super) fn begin_steps(&mut self) {
        self.account.switch(Activity::Step);
        self.last_end = Instant::now();
    }

    /// Does something that belongs to `activity`.
    pub(super) fn time<T>(&mut self, activity: Activity, work: impl FnOnce() -> T) -> T {
        self.account.time(activity, work)
    }

    /// A step is about to be started.
    pub(super) fn starting(&mut self) {
        self.running.iter_mut().for_each(Running::look);
    }

    /// A step was started: the one before is finished first.
    ///
    /// If that one is not finite it is returned, and the new one, which changes nothing, is dropped.
    pub(super) fn started(&mut self, running: Running) -> Result<Option<NonFiniteStep>> {
        if let (Some(before), Some(end)) = (&mut self.running, running.ended) {
            // Both ended within the call, and nothing tells when the one before did: half of the time is each one's.
            before.ended.get_or_insert(self.last_end + end.saturating_duration_since(self.last_end) / 2);
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
        let now = Instant::now();
        if now - self.peak_memory.1 >= PEAK_INTERVAL {
            self.peak_memory = (peak_bytes(self.device.as_ref()), now);
        }
        let end = ended.unwrap_or(now);
        let seconds = end.saturating_duration_since(self.last_end).as_secs_f64();
        self.last_end = end;
        let tokens_per_s = self.pace.tokens_per_s(tokens as f64, seconds);
        let train = TrainMetrics {
            step,
            loss,
            grad_norm,
            learning_rate,
            tokens_per_s,
            step_ms: seconds * 1e3,
            peak_memory_bytes: self.peak_memory.0,
            mfu: self.mfu_per_rate.map(|each| each * tokens_per_s),
        };
        self.metrics.record(&Event::Train(train))?;
        self.recorded = step;
        self.events.as_mut().map_or(Ok(()), |events| events.train(&train))?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Ok(Some(NonFiniteStep { step, loss, grad_norm }));
        }
        self.progress.step(&train);
        Ok(None)
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

    /// Records that training goes on without a step, and says `text`.
    pub(super) fn passed_over(&mut self, event: Event, text: &str) -> Result<()> {
        self.progress.say(format_args!("{text}"));
        self.metrics.record(&event)?;
        self.last_end = Instant::now();
        Ok(())
    }

    /// Records that training cannot go on, and returns the error that ends it.
    pub(super) fn non_finite(&mut self, step: u64, message: String) -> Result<Error> {
        let time = self.account.spent();
        self.metrics.record(&Event::Nan { step, message: message.clone(), time })?;
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
        self.events.as_mut().map_or(Ok(()), |events| events.eval(evaluation))?;
        self.report_if_due();
        self.last_end = Instant::now();
        Ok(())
    }

    /// Samples were drawn: pairs of prompt and text.
    pub(super) fn sampled(&mut self, step: u64, samples: Vec<(String, String)>) -> Result<()> {
        // As many as one glance takes in.
        const SHOWN: usize = 3;
        for (_, text) in samples.iter().take(SHOWN) {
            self.progress.say(format_args!("step {step}: {}", first_line(text)));
        }
        self.record_samples(step, samples)?;
        self.last_end = Instant::now();
        Ok(())
    }

    /// Records samples without a word: pairs of prompt and text.
    pub(super) fn record_samples(&mut self, step: u64, samples: Vec<(String, String)>) -> Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.samples(step, &samples))?;
        samples.into_iter().try_for_each(|(prompt, text)| self.metrics.record(&Event::Sample { step, prompt, text }))
    }

    /// Training waits, from now on, for what a checkpoint needs.
    pub(super) fn save_begins(&mut self) -> Instant {
        self.account.switch(Activity::Checkpoint);
        Instant::now()
    }

    /// Training goes on; the time it waited is no step's.
    pub(super) fn save_ends(&mut self) {
        self.account.switch(Activity::Step);
        self.last_end = Instant::now();
    }

    /// A checkpoint is safe on disk.
    pub(super) fn saved(&mut self, saved: Saved) -> Result<()> {
        let Saved { step, folder, total, blocked } = saved;
        let (seconds, blocked_seconds) = (total.as_secs_f64(), blocked.as_secs_f64());
        self.metrics.record(&Event::Save { step, checkpoint: folder, seconds, blocked_seconds })?;
        self.report_if_due();
        Ok(())
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
        let time = self.account.spent();
        self.metrics.record(&Event::Signal { step, time })?;
        self.last_report();
        self.say_time(&time);
        Ok(())
    }

    pub(super) fn done(&mut self, step: u64) -> Result<()> {
        self.progress.finish();
        let time = self.account.spent();
        self.metrics.record(&Event::Done { step, seconds: time.total, time })?;
        self.last_report();
        self.say_time(&time);
        Ok(())
    }

    /// Where the time went, and where to see more.
    fn say_time(&self, time: &TimeSpent) {
        say(format_args!("{}; {}", time.describe(), self.run.join(report::PAGE).display()));
    }

    /// The run ends by an error. What was recorded up to it is to be seen, and what cannot be written now, such as on a
    /// full disk, must not hide the error.
    pub(super) fn failed(&mut self, error: &Error) {
        self.progress.finish();
        // That numbers are not finite is recorded already, with what was not.
        if error.kind() != ErrorKind::NonFinite {
            let (step, message, time) = (self.recorded, error.message().to_owned(), self.account.spent());
            if let Err(error) = self.metrics.record(&Event::Failed { step, message, time }) {
                self.warn(&error);
            }
        }
        self.last_report();
    }

    /// Writes the report of a run that goes on, unless that was done a moment ago.
    fn report_if_due(&mut self) {
        let begin = Instant::now();
        if begin < self.next_report {
            return;
        }
        let before = self.account.switch(Activity::Other);
        self.report(true);
        self.account.switch(before);
        self.next_report = Instant::now() + REPORT_INTERVAL.max(REPORT_SHARE * begin.elapsed());
    }

    fn last_report(&mut self) {
        if let Some(Err(error)) = self.events.as_mut().map(EventFile::flush) {
            self.warn(&error);
        }
        self.report(false);
    }

    /// Writes the report. A run is not lost for want of it.
    fn report(&mut self, running: bool) {
        if let Err(error) = report::write(&self.run, running) {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &Error) {
        self.progress.say(format_args!("warning: {error}"));
    }
}

/// The beginning of a text, as long as a line of a terminal.
fn first_line(text: &str) -> String {
    const LENGTH: usize = 64;
    let line = text.trim_start().lines().next().unwrap_or_default();
    let cut: String = line.chars().take(LENGTH).collect();
    if cut.len() < text.trim().len() { format!("{cut} ...") } else { cut }
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
