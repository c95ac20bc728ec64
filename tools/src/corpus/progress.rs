//! How far reading is, for a person: a bar on a terminal, a line now and then elsewhere, always on stderr.

use std::io::{IsTerminal as _, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{group_digits, say};

/// How far reading is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    verb: &'static str,
    total: u64,
    read: Arc<AtomicU64>,
    since: Instant,
    last_line: Instant,
}

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Bytes,
    Items,
}

/// Between lines where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of files that were read, counted by the thread that reads.
#[derive(Clone, Debug)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A file whose bytes are counted as they are read.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) counter: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.counter.add(count as u64);
        Ok(count)
    }
}

impl Progress {
    /// The progress through files of `total` bytes; `verb` tells what is done with them.
    pub fn of_bytes(verb: &'static str, total: u64) -> Progress {
        Progress::new(verb, total, Unit::Bytes)
    }

    /// The progress to `total` of what is being made.
    pub fn of_items(verb: &'static str, total: u64) -> Progress {
        Progress::new(verb, total, Unit::Items)
    }

    fn new(verb: &'static str, total: u64, unit: Unit) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let template = match unit {
                Unit::Bytes => "{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left",
                Unit::Items => "{bar:30} {human_pos}/{human_len} {msg}  {eta} left",
            };
            // A template that does not parse would leave indicatif's own, which also shows position and length.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Progress { bar, verb, total, read: Arc::default(), since: now, last_line: now }
    }

    pub(super) fn counter(&self) -> Counter {
        self.read.store(0, Ordering::Relaxed);
        Counter(Arc::clone(&self.read))
    }

    /// So many of `unit` ("tokens") have been made.
    pub fn update(&mut self, count: u64, unit: &str) {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-3);
        let read = self.read.load(Ordering::Relaxed);
        let speed = || format!("{} {unit}, {}/s", group_digits(count), group_digits((count as f64 / seconds) as u64));
        if let Some(bar) = &self.bar {
            bar.set_position(read);
            bar.set_message(speed());
        } else if self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            let (read, total) = (HumanBytes(read), HumanBytes(self.total));
            say(format_args!("{}: {read} of {total}, {}", self.verb, speed()));
        }
    }

    /// So many of `unit` have been made, of the total.
    pub fn made(&mut self, count: u64, unit: &str) {
        self.read.store(count, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(count);
            bar.set_message(unit.to_owned());
        } else if self.last_line.elapsed() >= INTERVAL {
            self.last_line = Instant::now();
            let (count, total) = (group_digits(count), group_digits(self.total));
            say(format_args!("{}: {count} of {total} {unit}", self.verb));
        }
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    /// Ends the display.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
