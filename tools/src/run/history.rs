//! What a run's `metrics.jsonl` tells, read back.
//!
//! Reading is lenient, for a report must be had of a run that was cut off, is still going, or was written by another
//! version: unknown events and fields are passed over, and a line that is no JSON object is counted and passed over.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;

use super::account::TimeSpent;
use super::metrics::{EvalMetrics, NAME, TrainMetrics};
use crate::error::{Error, Result};

/// A run's history, in the order of its steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Each process that trained, first to last.
    pub processes: Vec<Process>,
    /// The steps, in ascending order.
    pub train: Vec<TrainMetrics>,
    /// The evaluations, in ascending order.
    pub evals: Vec<EvalMetrics>,
    /// Generated texts, in the order they were generated.
    pub samples: Vec<Sample>,
    /// What else happened.
    pub notes: Vec<Note>,
    /// How it ended; `None` while it goes on, or when it was killed.
    pub end: Option<End>,
    /// What the processes that lived to tell spent their time on.
    pub time: TimeSpent,
    /// Lines that could not be read; one that was cut off at the end is not counted.
    pub unreadable: usize,
}

/// A process that trained: a `start` or `resume` event. What its version of lmc did not write is empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Steps already done.
    pub step: u64,
    /// lmc's version.
    pub version: String,
    /// The device in the plugin's words.
    pub device: String,
    /// What compiled for the device.
    pub plugin: String,
    /// The machine.
    pub host: String,
    /// The command line.
    pub command: String,
    /// When it was, in seconds since 1970.
    pub unix_time: Option<f64>,
    /// Trainable elements.
    pub num_parameters: Option<u64>,
    /// Tokens of a step.
    pub tokens_per_step: Option<u64>,
    /// Operations that training on a token takes.
    pub flops_per_token: Option<f64>,
    /// The peak that `mfu` is a fraction of, operations a second.
    pub peak_flops: Option<f64>,
    /// Settings that were changed when continuing.
    pub changed: Vec<String>,
    time_before: Option<TimeSpent>,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Steps done.
    pub step: u64,
    /// What it was told to begin with.
    pub prompt: String,
    /// The text, prompt included.
    pub text: String,
}

/// Something that happened on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Steps done.
    pub step: u64,
    /// The event's name.
    pub event: String,
    /// In words.
    pub text: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were done.
    Done,
    /// By a signal, saved.
    Signal,
    /// By a loss or gradient that is not finite.
    NonFinite,
    /// By another failure.
    Failed,
}

/// The fields of any line that are of use here.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(default)]
    step: u64,
    loss: Option<f64>,
    grad_norm: Option<f64>,
    learning_rate: Option<f64>,
    tokens_per_s: Option<f64>,
    step_ms: Option<f64>,
    peak_memory_bytes: Option<u64>,
    mfu: Option<f64>,
    val_loss: Option<f64>,
    tokens: Option<u64>,
    seconds: Option<f64>,
    #[serde(borrow)]
    checkpoint: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    prompt: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    time: Option<TimeSpent>,
}

impl History {
    /// Reads the metrics of a run folder.
    ///
    /// # Errors
    /// If the folder has no `metrics.jsonl` or it cannot be read.
    pub fn read(run: &Path) -> Result<History> {
        let path = run.join(NAME);
        let bytes = std::fs::read(&path).map_err(|error| Error::cannot_read("the metrics", &path, &error))?;
        Ok(History::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// The history that a text like `metrics.jsonl` tells.
    pub fn parse(text: &str) -> History {
        let mut history = History::default();
        for line in text.split_inclusive('\n') {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str::<Line<'_>>(line) {
                Ok(parsed) => history.add(&parsed, line),
                // Such as what a full disk or a power failure cut off.
                Err(_) if !line.ends_with('\n') => {}
                Err(_) => history.unreadable += 1,
            }
        }
        history
    }

    fn add(&mut self, line: &Line<'_>, text: &str) {
        let step = line.step;
        let number = |number: Option<f64>| number.unwrap_or(f64::NAN);
        let message = || line.message.as_deref().unwrap_or_default().to_owned();
        match &*line.event {
            event @ ("start" | "resume") => match serde_json::from_str::<Process>(text) {
                Ok(process) => self.begin(event, process),
                Err(_) => self.unreadable += 1,
            },
            "train" => {
                // A step that is done again takes the place of what was.
                while self.train.last().is_some_and(|last| last.step >= step) {
                    self.train.pop();
                }
                self.train.push(TrainMetrics {
                    step,
                    loss: number(line.loss),
                    grad_norm: number(line.grad_norm),
                    learning_rate: number(line.learning_rate),
                    tokens_per_s: number(line.tokens_per_s),
                    step_ms: number(line.step_ms),
                    peak_memory_bytes: line.peak_memory_bytes.unwrap_or(0),
                    mfu: line.mfu,
                });
            }
            "eval" => {
                while self.evals.last().is_some_and(|last| last.step >= step) {
                    self.evals.pop();
                }
                let (tokens, seconds) = (line.tokens.unwrap_or(0), number(line.seconds));
                self.evals.push(EvalMetrics { step, val_loss: number(line.val_loss), tokens, seconds });
            }
            "sample" => {
                let text = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
                self.samples.push(Sample { step, prompt: text(&line.prompt), text: text(&line.text) });
            }
            "save" => {
                let checkpoint = line.checkpoint.as_deref().unwrap_or("a checkpoint");
                let seconds = line.seconds.map_or_else(String::new, |seconds| format!(" in {seconds:.2} s"));
                self.note(step, "save", format!("saved {checkpoint}{seconds}"));
            }
            "done" => self.end(End::Done, line, "all steps done".to_owned()),
            "signal" => self.end(End::Signal, line, "stopped by a signal, state saved".to_owned()),
            "nan" => self.end(End::NonFinite, line, message()),
            "failed" => self.end(End::Failed, line, message()),
            // Of a newer version. What it has to say in words is shown.
            other if line.message.is_some() => self.note(step, other, message()),
            _ => {}
        }
    }

    fn begin(&mut self, event: &str, process: Process) {
        self.end = None;
        if let Some(before) = process.time_before {
            self.time = before;
        }
        let text = match (event, process.changed.is_empty()) {
            ("start", _) => "started".to_owned(),
            (_, true) => "continued".to_owned(),
            (_, false) => format!("continued; changed: {}", process.changed.join("; ")),
        };
        self.note(process.step, event, text);
        self.processes.push(process);
    }

    fn end(&mut self, end: End, line: &Line<'_>, text: String) {
        self.end = Some(end);
        if let Some(time) = &line.time {
            self.time = self.time.plus(time);
        }
        self.note(line.step, &line.event, text);
    }

    fn note(&mut self, step: u64, event: &str, text: String) {
        self.notes.push(Note { step, event: event.to_owned(), text });
    }

    /// Steps done and recorded.
    pub fn step(&self) -> u64 {
        self.train.last().map_or(0, |last| last.step)
    }

    /// The process that trained last.
    pub fn process(&self) -> Option<&Process> {
        self.processes.last()
    }

    /// Tokens of a step.
    pub fn tokens_per_step(&self) -> Option<u64> {
        self.process()?.tokens_per_step
    }

    /// The mean loss of the last steps, at most 100 and at most a tenth of all: less noisy than the last one.
    pub fn recent_loss(&self) -> Option<f64> {
        let count = (self.train.len() / 10).clamp(1, 100);
        mean(self.train.iter().rev().take(count).map(|line| line.loss))
    }

    /// The last held-out loss.
    pub fn last_eval(&self) -> Option<&EvalMetrics> {
        self.evals.last()
    }

    /// The best held-out loss.
    pub fn best_eval(&self) -> Option<&EvalMetrics> {
        let finite = self.evals.iter().filter(|eval| eval.val_loss.is_finite());
        finite.min_by(|a, b| a.val_loss.total_cmp(&b.val_loss))
    }

    /// Tokens a second over all steps but the first, which waits for the device to warm up.
    pub fn tokens_per_s(&self) -> Option<f64> {
        let steps = if self.train.len() > 1 { &self.train[1..] } else { &self.train };
        let timed = || steps.iter().filter(|line| line.step_ms.is_finite() && line.tokens_per_s.is_finite());
        let seconds: f64 = timed().map(|line| line.step_ms / 1e3).sum();
        let tokens: f64 = timed().map(|line| line.tokens_per_s * line.step_ms / 1e3).sum();
        (seconds > 0.0).then_some(tokens / seconds)
    }

    /// Utilization over all steps but the first.
    pub fn mfu(&self) -> Option<f64> {
        let process = self.process()?;
        Some(self.tokens_per_s()? * process.flops_per_token? / process.peak_flops?)
    }

    /// Peak memory, bytes.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        self.train.iter().map(|line| line.peak_memory_bytes).max().filter(|&bytes| bytes > 0)
    }

    /// Seconds that training took until the end of each step: its own and those of the steps before, evaluations and
    /// checkpoints left out.
    pub fn elapsed(&self) -> Vec<f64> {
        let mut total = 0.0;
        let times = self.train.iter().map(|line| if line.step_ms.is_finite() { line.step_ms / 1e3 } else { 0.0 });
        times.map(|seconds| (total += seconds, total).1).collect()
    }
}

/// The mean of the finite numbers, if there are any.
fn mean(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for number in numbers.filter(|number| number.is_finite()) {
        sum += number;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::{Event, Start};

    fn lines(events: &[Event]) -> String {
        events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect()
    }

    fn train(step: u64, loss: f64) -> Event {
        Event::Train(TrainMetrics { step, loss, tokens_per_s: 100.0, step_ms: 500.0, ..TrainMetrics::default() })
    }

    #[test]
    fn a_history_is_what_was_recorded() {
        let time = TimeSpent { total: 3.0, step: 2.0, other: 1.0, ..TimeSpent::default() };
        let start = Start { tokens_per_step: 50, device: "cpu".into(), ..Start::default() };
        let resume = Start { step: 2, changed: vec!["train.steps: 2 -> 3".into()], ..start.clone() };
        let text = lines(&[
            Event::Start(start),
            train(1, 3.0),
            train(2, 2.0),
            Event::Eval(EvalMetrics { step: 2, val_loss: 2.5, tokens: 9, seconds: 0.5 }),
            Event::Sample { step: 2, prompt: "a".into(), text: "ab".into() },
            Event::Save {
                step: 2,
                checkpoint: "checkpoints/step-00000002".into(),
                seconds: 0.25,
                blocked_seconds: 0.125,
            },
            Event::Signal { step: 2, time },
            Event::Resume(resume),
            train(3, f64::NAN),
            Event::Nan { step: 3, message: "the loss is not finite".into(), time },
        ]);
        let history = History::parse(&text);
        assert_eq!(history.train.iter().map(|line| line.step).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(history.train[2].loss.is_nan());
        assert_eq!(history.evals.len(), 1);
        assert_eq!(history.samples, [Sample { step: 2, prompt: "a".into(), text: "ab".into() }]);
        assert_eq!((history.end, history.unreadable, history.step()), (Some(End::NonFinite), 0, 3));
        assert_eq!(history.time, time.plus(&time));
        assert_eq!(history.tokens_per_s(), Some(100.0));
        assert_eq!(history.elapsed(), [0.5, 1.0, 1.5]);
        let notes: Vec<_> = history.notes.iter().map(|note| (note.step, &*note.event, &*note.text)).collect();
        assert_eq!(
            notes,
            [
                (0, "start", "started"),
                (2, "save", "saved checkpoints/step-00000002 in 0.25 s"),
                (2, "signal", "stopped by a signal, state saved"),
                (2, "resume", "continued; changed: train.steps: 2 -> 3"),
                (3, "nan", "the loss is not finite"),
            ]
        );
    }

    #[test]
    fn the_time_of_earlier_processes_is_told_once() {
        let time = TimeSpent { total: 3.0, step: 3.0, ..TimeSpent::default() };
        let resume = |before| Event::Resume(Start { time_before: Some(before), ..Start::default() });
        // The `done` of the first process was removed when the run was continued.
        let text = lines(&[resume(time), Event::Signal { step: 2, time }, resume(time.plus(&time))]);
        assert_eq!(History::parse(&text).time.total, 6.0);
    }

    #[test]
    fn what_is_unknown_or_cut_off_is_passed_over() {
        let whole = lines(&[train(1, 3.0), train(2, 2.0)]);
        let cut = format!("{whole}{}", r#"{"event":"train","st"#);
        assert_eq!(History::parse(&cut), History::parse(&whole));
        let odd = format!(
            "{whole}nonsense\n[1]\n{}\n\n{}\n{}\n",
            r#"{"event":"moon","phase":[1,2]}"#,
            r#"{"event":"skipped","step":2,"message":"why"}"#,
            r#"{"event":"train","step":3,"loss":1.5,"weather":{"sun":true}}"#
        );
        let history = History::parse(&odd);
        assert_eq!((history.unreadable, history.train.len(), history.train[2].loss), (2, 3, 1.5));
        assert_eq!(history.notes, [Note { step: 2, event: "skipped".into(), text: "why".into() }]);
        // A step that was done again counts once.
        let again = History::parse(&(whole + &lines(&[train(2, 1.0), train(3, 0.5)])));
        assert_eq!(again.train.iter().map(|line| line.loss).collect::<Vec<_>>(), [3.0, 1.0, 0.5]);
    }

    proptest! {
        #[test]
        fn any_text_has_a_history(text in "(\\PC|\n|\\{\"event\":\"(train|eval|start|done)\",\"step\":[0-9]{1,3}[,}]){0,40}") {
            let history = History::parse(&text);
            prop_assert!(history.train.windows(2).all(|pair| pair[0].step < pair[1].step));
        }

        /// Cut anywhere, a file tells the history of its whole lines.
        #[test]
        fn cut_anywhere(steps in prop::collection::vec((1u64..50, -5.0f64..5.0), 0..20), at in 0.0f64..1.0) {
            let text: String = lines(&steps.iter().map(|&(step, loss)| train(step, loss)).collect::<Vec<_>>());
            let cut = &text[..(text.len() as f64 * at) as usize];
            let whole = &cut[..cut.rfind('\n').map_or(0, |end| end + 1)];
            // A cut right before the end of a line leaves an object that is whole.
            if !cut.ends_with('}') {
                prop_assert_eq!(History::parse(cut), History::parse(whole));
            }
        }
    }
}
