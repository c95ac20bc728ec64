//! Saving while training goes on: a snapshot on the host, which nothing can change, is written by a thread.
//!
//! The step that runs next takes the state's memory over, so the snapshot is read from the device before it is started;
//! that is all that training waits for. At most one snapshot is alive: the next one waits until the one before is written.

use std::fs::File;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::checkpoint::{self, Checkpoint, Inspected, Retention, Summary};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::output::say;
use crate::run::{MetricsFile, RunFolder};

use super::recorder::Recorder;

/// Writes checkpoints on a thread, one at a time, and removes old ones.
pub(super) struct Saver {
    run: PathBuf,
    retention: Retention,
    metrics: File,
    /// Here while no thread has it.
    inspected: Inspected,
    writing: Option<Writing>,
}

/// A checkpoint that is being written.
struct Writing {
    step: u64,
    began: Instant,
    blocked: Duration,
    thread: JoinHandle<Written>,
}

/// What a thread comes back with.
struct Written {
    saved: Result<Summary>,
    pruned: Result<Vec<PathBuf>>,
    ended: Instant,
    inspected: Inspected,
}

/// A checkpoint that is on disk.
pub(super) struct Saved {
    pub(super) step: u64,
    /// The folder, relative to the run folder.
    pub(super) folder: String,
    /// From the end of the step to the checkpoint's being safe on disk.
    pub(super) total: Duration,
    /// For so long no step was running.
    pub(super) blocked: Duration,
}

impl Saver {
    pub(super) fn new(config: &Config, run: &RunFolder, metrics: &MetricsFile) -> Result<Saver> {
        let train = &config.train;
        let retention =
            Retention { keep_last: train.keep_last, keep_every: train.keep_every, keep_best: train.keep_best };
        let (run, metrics) = (run.path().to_owned(), metrics.file()?);
        Ok(Saver { run, retention, metrics, inspected: Inspected::default(), writing: None })
    }

    /// Waits for a checkpoint that is still being written, so that there is one copy of the state on the host at most.
    pub(super) fn make_room(&mut self, recorder: &mut Recorder) -> Result<()> {
        if let Some(Writing { step, thread, .. }) = &self.writing
            && !thread.is_finished()
        {
            recorder.say(format_args!("waiting for the checkpoint of step {step}, which is still being written"));
        }
        self.join(recorder)?.map_or(Ok(()), |(step, error)| recorder.save_failed(step, &error))
    }

    /// Starts to write a checkpoint, whose making began at `began`. The one before must have been waited for.
    pub(super) fn start(&mut self, checkpoint: Checkpoint, began: Instant) -> Result<()> {
        let (run, retention, step) = (self.run.clone(), self.retention, checkpoint.step);
        let metrics = self.metrics.try_clone().map_err(|error| Error::run(format!("cannot save: {error}")))?;
        let mut inspected = std::mem::take(&mut self.inspected);
        let write = move || {
            // What was measured up to the checkpoint must be safe before it is, or a resumed run would lack it.
            let synced = metrics.sync_all().map_err(|error| Error::run(format!("cannot write the metrics: {error}")));
            let saved = synced.and_then(|()| checkpoint::save(&run, &checkpoint));
            drop(checkpoint);
            let ended = Instant::now();
            let pruned = match &saved {
                Ok(summary) => {
                    inspected.written(summary.clone());
                    checkpoint::prune(&run, &retention, &mut inspected)
                }
                Err(_) => Ok(Vec::new()),
            };
            Written { saved, pruned, ended, inspected }
        };
        let thread = thread::Builder::new()
            .name("save".to_owned())
            .spawn(write)
            .map_err(|error| Error::run(format!("cannot start a thread that saves: {error}")))?;
        self.writing = Some(Writing { step, began, blocked: began.elapsed(), thread });
        Ok(())
    }

    /// Records a checkpoint that has been written in the meantime. One that could not be is a warning: the run goes on,
    /// the earlier checkpoints are still there, and the next one may find space again.
    pub(super) fn collect(&mut self, recorder: &mut Recorder) -> Result<()> {
        match &self.writing {
            Some(writing) if writing.thread.is_finished() => {
                self.join(recorder)?.map_or(Ok(()), |(step, error)| recorder.save_failed(step, &error))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Waits for the last checkpoint, without which the steps since the one before would be lost.
    pub(super) fn finish(&mut self, recorder: &mut Recorder) -> Result<()> {
        let Some((step, error)) = self.join(recorder)? else { return Ok(()) };
        recorder.save_failed(step, &error)?;
        let kept = match checkpoint::list(&self.run)?.last() {
            Some((step, _)) => {
                format!("the newest checkpoint is of step {step}: the same command continues from there")
            }
            None => "there is no earlier checkpoint: the same command starts over".to_owned(),
        };
        Err(Error::run(format!("{error}. This was the last one to be saved; {kept}")))
    }

    /// Waits for the thread, records what it wrote, and returns why it did not.
    fn join(&mut self, recorder: &mut Recorder) -> Result<Option<(u64, Error)>> {
        let Some(Writing { step, began, blocked, thread }) = self.writing.take() else { return Ok(None) };
        let Ok(written) = thread.join() else {
            return Err(Error::run(format!("the thread that wrote the checkpoint of step {step} has failed")));
        };
        self.inspected = written.inspected;
        if let Err(error) = written.pruned {
            recorder.say(format_args!("warning: {error}"));
        }
        match written.saved {
            Ok(summary) => {
                let folder = summary.path.strip_prefix(&self.run).unwrap_or(&summary.path).display().to_string();
                let total = written.ended.saturating_duration_since(began);
                recorder.saved(Saved { step, folder, total, blocked })?;
                Ok(None)
            }
            Err(error) => Ok(Some((step, error))),
        }
    }
}

/// A run that ends early still has its checkpoint written.
impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(Writing { step, thread, .. }) = self.writing.take() {
            match thread.join().map(|written| written.saved) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => say(format_args!("warning: {error}")),
                Err(_) => say(format_args!("warning: the thread that wrote the checkpoint of step {step} has failed")),
            }
        }
    }
}
