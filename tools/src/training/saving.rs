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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use lmc_graph::Literal;
    use serde_json::Value;

    use super::*;
    use crate::config::RawConfig;
    use crate::run::{Start, TimeAccount};

    /// A run in a folder of its own, ready to save.
    struct Fixture {
        folder: tempfile::TempDir,
        saver: Saver,
        recorder: Recorder,
        _run: RunFolder,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "model = {{ arch = \"gpt2\", vocab_size = 9, n_embd = 4, n_layer = 1, n_head = 1 }}\n\
                 data = {{ train = \"/x.bin\" }}\noptimizer = {{ learning_rate = 1 }}\n\
                 [train]\nsteps = 9\nseq_len = 4\nmicro_batch_size = 2\nkeep_last = 2\nout_dir = {:?}\n",
                folder.path().display().to_string()
            );
            let config = RawConfig::parse(Path::new("run.toml"), &text, &[]).and_then(RawConfig::validate).unwrap();
            let run = RunFolder::open(&config).unwrap();
            let recorder = Recorder::begin(&config, &run, Start::default(), TimeAccount::begin()).unwrap();
            let saver = Saver::new(&config, &run, recorder.metrics()).unwrap();
            Fixture { folder, saver, recorder, _run: run }
        }

        /// As the loop does, with a state that takes a moment to write.
        fn save(&mut self, step: u64) {
            let began = Instant::now();
            self.saver.make_room(&mut self.recorder).unwrap();
            let checkpoint = Checkpoint {
                step,
                seed: 0,
                config_hash: String::new(),
                config_toml: None,
                graph_hash: None,
                tokenizer_hash: None,
                rows: None,
                learning_rate: None,
                val_loss: None,
                data: None,
                model: [("w".to_owned(), Literal::new([1 << 18], &vec![step as f32; 1 << 18]))].into(),
                optimizer: [("m.w".to_owned(), Literal::scalar(1_f32))].into(),
                tokenizer: None,
                config_json: None,
            };
            self.saver.start(checkpoint, began).unwrap();
        }

        /// What was recorded, as `save 3`.
        fn events(&self) -> Vec<String> {
            let text = fs::read_to_string(self.folder.path().join("metrics.jsonl")).unwrap();
            let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let events = events.filter(|event| event["event"] != "start");
            events.map(|event| format!("{} {}", event["event"].as_str().unwrap(), event["step"])).collect()
        }

        fn steps(&self) -> Vec<u64> {
            checkpoint::list(self.folder.path()).unwrap().into_iter().map(|(step, _)| step).collect()
        }
    }

    #[test]
    fn one_at_a_time_in_order_and_the_last_is_waited_for() {
        let mut fixture = Fixture::new();
        for step in 1..=4 {
            fixture.save(step);
            // The next one has waited for this one, so all before are recorded.
            assert_eq!(fixture.events().len() as u64, step - 1);
        }
        fixture.saver.finish(&mut fixture.recorder).unwrap();
        assert_eq!(fixture.events(), ["save 1", "save 2", "save 3", "save 4"]);
        assert_eq!(fixture.steps(), [3, 4], "two are kept");
        fixture.saver.finish(&mut fixture.recorder).unwrap();
        fixture.saver.collect(&mut fixture.recorder).unwrap();
        assert_eq!(fixture.events().len(), 4, "and each is recorded once");
    }

    #[test]
    fn a_run_that_ends_early_has_its_checkpoint() {
        let mut fixture = Fixture::new();
        fixture.save(1);
        let Fixture { folder, saver, .. } = fixture;
        drop(saver);
        assert_eq!(checkpoint::newest_valid(folder.path()).unwrap().found.unwrap().1.step, 1);
    }

    #[test]
    fn what_cannot_be_saved_is_a_warning_until_it_is_the_last() {
        let mut fixture = Fixture::new();
        fixture.save(1);
        fixture.saver.finish(&mut fixture.recorder).unwrap();
        let (folder, aside) = (checkpoint::folder(fixture.folder.path()), fixture.folder.path().join("aside"));
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "a file where the folder belongs").unwrap();
        fixture.save(2);
        fixture.save(3);
        while !fixture.saver.writing.as_ref().unwrap().thread.is_finished() {
            thread::yield_now();
        }
        fixture.saver.collect(&mut fixture.recorder).unwrap();
        assert_eq!(fixture.events(), ["save 1", "warning 2", "warning 3"]);
        // The next one finds its place again.
        fs::remove_file(&folder).unwrap();
        fs::rename(&aside, &folder).unwrap();
        fixture.save(4);
        fixture.saver.finish(&mut fixture.recorder).unwrap();
        assert_eq!(fixture.steps(), [1, 4]);
        // And the last one does not.
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "").unwrap();
        fixture.save(5);
        while !fixture.saver.writing.as_ref().unwrap().thread.is_finished() {
            thread::yield_now();
        }
        fs::remove_file(&folder).unwrap();
        fs::rename(&aside, &folder).unwrap();
        let error = fixture.saver.finish(&mut fixture.recorder).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.message().contains("the newest checkpoint is of step 4: the same command"), "{error}");
        assert_eq!(fixture.events()[3..], ["save 4", "warning 5"]);
    }
}
