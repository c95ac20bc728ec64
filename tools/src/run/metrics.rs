//! `metrics.jsonl`: what happened in a run, one JSON object a line, flushed line by line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result, reason};

use super::account::TimeSpent;
use super::folder::{RunFolder, replace_file};
use super::history::History;

/// A line of `metrics.jsonl`. Its `event` is the variant's name in lower case.
///
/// Numbers that are not finite are written as `null`, for JSON has no others.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A run begins.
    Start(Start),
    /// A run continues from a checkpoint.
    Resume(Start),
    /// A step was done.
    Train(TrainMetrics),
    /// The held-out data were evaluated.
    Eval(EvalMetrics),
    /// A text was generated during training.
    Sample {
        /// Steps done.
        step: u64,
        /// What it was told to begin with.
        prompt: String,
        /// The text, prompt included.
        text: String,
    },
    /// A checkpoint was saved.
    Save {
        /// Steps done.
        step: u64,
        /// The checkpoint's folder, relative to the run folder.
        checkpoint: String,
        /// Seconds from the end of the step to the checkpoint's being safe on disk.
        seconds: f64,
        /// Seconds of these in which training waited; for the rest it went on.
        blocked_seconds: f64,
    },
    /// Something went wrong that does not end the run, such as a checkpoint that did not fit the disk.
    Warning {
        /// The step it is about.
        step: u64,
        /// What went wrong.
        message: String,
    },
    /// All steps are done.
    Done {
        /// Steps done.
        step: u64,
        /// Seconds since the process began to train.
        seconds: f64,
        /// What the process spent them on.
        time: TimeSpent,
    },
    /// The loss or the gradient norm was not finite.
    Nan {
        /// The step it happened in.
        step: u64,
        /// What was not finite.
        message: String,
        /// What the process spent its time on.
        time: TimeSpent,
    },
    /// The update of a step was not applied, for its loss or gradient norm was not finite.
    Skip {
        /// The step.
        step: u64,
        /// What was not finite.
        message: String,
        /// Steps so far whose updates are not in the weights.
        skipped: u64,
    },
    /// Weights and optimizer state went back to those of a checkpoint, for the loss or gradient norm was not finite.
    Rollback {
        /// The step; the next one is done with the weights of the checkpoint.
        step: u64,
        /// What was not finite.
        message: String,
        /// The checkpoint's folder, relative to the run folder; `None` for the start of the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<String>,
        /// Steps so far whose updates are not in the weights.
        skipped: u64,
    },
    /// A signal ended the run.
    Signal {
        /// Steps done.
        step: u64,
        /// What the process spent its time on.
        time: TimeSpent,
    },
    /// Something else than numbers that are not finite ended the run: the device, the disk, the data.
    Failed {
        /// Steps done and recorded.
        step: u64,
        /// The error.
        message: String,
        /// What the process spent its time on.
        time: TimeSpent,
    },
}

/// What a run is made of, at its beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Start {
    /// Steps already done.
    pub step: u64,
    /// lmc's version.
    pub version: String,
    /// The device in the plugin's words.
    pub device: String,
    /// Trainable elements.
    pub num_parameters: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// Settings that were changed when continuing, as `key: old -> new`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// What compiles for the device: target, plugin and the plugin's own version.
    pub plugin: String,
    /// The machine: its name, system, processor and memory.
    pub host: String,
    /// The command line.
    pub command: String,
    /// When it was, in seconds since 1970.
    pub unix_time: f64,
    /// Floating-point operations that training on a token takes, by the convention of `lmc_models::flops`.
    pub flops_per_token: f64,
    /// The device's peak rate that `mfu` is a fraction of, in operations a second; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_flops: Option<f64>,
    /// What the earlier processes of a continued run spent their time on, as far as they lived to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_before: Option<TimeSpent>,
}

/// A training step. `step` counts from 1: it is the number of steps done after this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TrainMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean over all tokens of the step, nats.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The rate this step was done with.
    pub learning_rate: f64,
    /// Tokens of the step by its time.
    pub tokens_per_s: f64,
    /// Wall-clock time of the step, milliseconds.
    pub step_ms: f64,
    /// On the CPU the process's peak resident size, on a GPU the allocator's peak.
    pub peak_memory_bytes: u64,
    /// Model FLOPs utilization; `None` where the device's peak is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
}

/// An evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EvalMetrics {
    /// Steps done.
    pub step: u64,
    /// Mean over all tokens evaluated, nats.
    pub val_loss: f64,
    /// Tokens evaluated.
    pub tokens: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    time_before: Option<TimeSpent>,
    is_evaluated: bool,
}

/// The file's name in the run folder.
pub(crate) const NAME: &str = "metrics.jsonl";

impl MetricsFile {
    /// Begins the file of a new run. One of a run that ended before its first checkpoint is kept as `metrics-1.jsonl`
    /// and so on.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(run: &RunFolder) -> Result<MetricsFile> {
        let path = run.path().join(NAME);
        let keep = || -> io::Result<()> {
            if path.exists() {
                let mut numbers = 1u64..;
                let free = numbers.find_map(|number| {
                    let free = run.path().join(format!("metrics-{number}.jsonl"));
                    free.symlink_metadata().is_err().then_some(free)
                });
                fs::rename(&path, free.ok_or(io::ErrorKind::AlreadyExists)?)?;
            }
            Ok(())
        };
        keep().map_err(|error| unwritable(&path, &error))?;
        MetricsFile::append(path, None)
    }

    /// Opens the file of a run that continues with `step` steps done. What was recorded after that is removed: those
    /// steps will be done again; and so is a last line that was cut off.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn resume(run: &RunFolder, step: u64) -> Result<MetricsFile> {
        let path = run.path().join(NAME);
        let old = match fs::read_to_string(&path) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::cannot_read("the metrics", &path, &error)),
        };
        let time_before = History::parse(&old).time;
        let kept: String = old.split_inclusive('\n').filter(|line| line.ends_with('\n') && holds(line, step)).collect();
        if kept != old {
            replace_file(&path, kept.as_bytes()).map_err(|error| unwritable(&path, &error))?;
        }
        let is_evaluated = kept.lines().any(|line| is_evaluation(line, step));
        Ok(MetricsFile { is_evaluated, ..MetricsFile::append(path, Some(time_before))? })
    }

    fn append(path: PathBuf, time_before: Option<TimeSpent>) -> Result<MetricsFile> {
        let file = File::options().create(true).append(true).open(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(MetricsFile { path, file, time_before, is_evaluated: false })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If it cannot be written, such as on a full disk.
    pub fn record(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_string(event)
            .map_err(|error| Error::run(format!("a metric cannot be written as JSON: {error}")))?;
        line.push('\n');
        // In one write, so that a line is there or not.
        self.file.write_all(line.as_bytes()).map_err(|error| Error::cannot_write("the metrics", &self.path, &error))
    }

    /// Whether the held-out loss at the step that the run continues from is in it.
    pub(crate) fn is_evaluated(&self) -> bool {
        self.is_evaluated
    }

    /// What the earlier processes of a continued run spent their time on.
    pub fn time_before(&self) -> Option<TimeSpent> {
        self.time_before
    }

    /// Another handle of the file, by which a thread can sync it.
    ///
    /// # Errors
    /// If the system has no more handles.
    pub(crate) fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| Error::cannot_write("the metrics", &self.path, &error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a line tells of something up to `step`. The end of the run that is now continued is not its end.
fn holds(line: &str, step: u64) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
    let at = event.get("step").and_then(Value::as_u64);
    at.is_none_or(|at| at <= step) && event.get("event").and_then(Value::as_str) != Some("done")
}

/// Whether a line tells the held-out loss after `step` steps.
fn is_evaluation(line: &str, step: u64) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
    event.get("event").and_then(Value::as_str) == Some("eval")
        && event.get("step").and_then(Value::as_u64) == Some(step)
}

/// Before training, a file that cannot be written is the user's to mend.
fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::input(format!("cannot write the metrics {}: {}", path.display(), reason(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::config_in;

    fn train(step: u64) -> Event {
        Event::Train(TrainMetrics { step, loss: 2.5, ..TrainMetrics::default() })
    }

    #[test]
    fn lines_have_the_names_of_the_manual() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&config_in(folder.path())).unwrap();
        let mut metrics = MetricsFile::create(&run).unwrap();
        metrics.record(&train(1)).unwrap();
        metrics.record(&Event::Eval(EvalMetrics { step: 1, val_loss: f64::NAN, tokens: 3, seconds: 0.5 })).unwrap();
        let time = TimeSpent { total: 2.0, step: 2.0, ..TimeSpent::default() };
        metrics.record(&Event::Signal { step: 1, time }).unwrap();
        let text = fs::read_to_string(metrics.path()).unwrap();
        assert_eq!(
            text,
            "{\"event\":\"train\",\"step\":1,\"loss\":2.5,\"grad_norm\":0.0,\"learning_rate\":0.0,\"tokens_per_s\":0.0,\
             \"step_ms\":0.0,\"peak_memory_bytes\":0}\n\
             {\"event\":\"eval\",\"step\":1,\"val_loss\":null,\"tokens\":3,\"seconds\":0.5}\n\
             {\"event\":\"signal\",\"step\":1,\"time\":{\"total\":2.0,\"compile\":0.0,\"data\":0.0,\"step\":2.0,\
             \"evaluation\":0.0,\"checkpoint\":0.0,\"samples\":0.0,\"other\":0.0}}\n"
        );
    }

    #[test]
    fn what_came_after_the_checkpoint_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&config_in(folder.path())).unwrap();
        let mut metrics = MetricsFile::create(&run).unwrap();
        (1..=5).for_each(|step| metrics.record(&train(step)).unwrap());
        metrics.file.write_all(b"{\"event\":\"train\",\"st").unwrap();
        let mut metrics = MetricsFile::resume(&run, 3).unwrap();
        metrics.record(&train(4)).unwrap();
        let text = fs::read_to_string(metrics.path()).unwrap();
        let steps: Vec<u64> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        let metrics = MetricsFile::create(&run).unwrap();
        assert_eq!(fs::read_to_string(metrics.path()).unwrap(), "");
        assert_eq!(fs::read_to_string(folder.path().join("metrics-1.jsonl")).unwrap(), text, "nothing is lost");
    }
}
