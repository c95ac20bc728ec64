//! Progress for a person: a bar on a terminal, plain lines elsewhere, always on stderr.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::TrainMetrics;
use crate::output::{group_digits, say};

/// How far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: u64,
    log_every: u64,
    /// When the first step that counts for the speed was done, and how many were done then. The first step of a process
    /// does not count: it waits for the device to warm up.
    since: Option<(Instant, u64)>,
    last_line: Option<Instant>,
}

/// Between lines where there is no terminal and `train.log_every` is 0.
const INTERVAL: Duration = Duration::from_secs(10);

impl Progress {
    /// The progress of a run of `steps` steps, of which `done` are done. `log_every` is `train.log_every`.
    pub fn new(steps: u64, done: u64, log_every: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(8));
            // A template that does not parse would leave indicatif's own, which also shows position and length.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar
        });
        Progress { bar, steps, log_every, since: None, last_line: None }
    }

    /// A step was done.
    pub fn step(&mut self, metrics: &TrainMetrics) {
        let now = Instant::now();
        let left = match self.since {
            Some((since, done)) if metrics.step > done => {
                let each = (now - since).as_secs_f64() / (metrics.step - done) as f64;
                Some(each * self.steps.saturating_sub(metrics.step) as f64)
            }
            Some(_) => None,
            None => {
                self.since = Some((now, metrics.step));
                None
            }
        };
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(describe(metrics, left));
            return;
        }
        let due = match self.log_every {
            0 => self.last_line.is_none_or(|last| now - last >= INTERVAL),
            every => metrics.step.is_multiple_of(every),
        };
        if due || metrics.step == self.steps {
            self.last_line = Some(now);
            say(format_args!("step {}/{}  {}", metrics.step, self.steps, describe(metrics, left)));
        }
    }

    /// Says something beside the bar: an evaluation, a checkpoint, a warning.
    pub fn say(&self, line: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    /// Ends the display; a bar stays where it is.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn describe(metrics: &TrainMetrics, left: Option<f64>) -> String {
    let mut text = format!(
        "loss {:.4}  lr {:.2e}  grad norm {:.3}  {} tokens/s",
        metrics.loss,
        metrics.learning_rate,
        metrics.grad_norm,
        grouped(metrics.tokens_per_s)
    );
    if let Some(seconds) = left {
        text += &format!("  {} left", duration(seconds));
    }
    text
}

/// A whole number with commas between thousands.
fn grouped(number: f64) -> String {
    if !number.is_finite() {
        return "?".to_owned();
    }
    group_digits(number.max(0.0).round() as u64)
}

/// Seconds in the two largest units: `2d 3h`, `1h 5m`, `3m 20s`, `12s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (number, expected) in [(0.0, "0"), (999.6, "1,000"), (1234567.0, "1,234,567"), (f64::INFINITY, "?")] {
            assert_eq!(grouped(number), expected);
        }
        for (seconds, expected) in
            [(0.2, "0s"), (59.6, "1m 0s"), (200.0, "3m 20s"), (3900.0, "1h 5m"), (183_600.0, "2d 3h")]
        {
            assert_eq!(duration(seconds), expected);
        }
        let metrics = TrainMetrics {
            loss: 2.51,
            learning_rate: 1e-3,
            grad_norm: 0.5,
            tokens_per_s: 5206.0,
            ..Default::default()
        };
        assert_eq!(
            describe(&metrics, Some(61.0)),
            "loss 2.5100  lr 1.00e-3  grad norm 0.500  5,206 tokens/s  1m 1s left"
        );
    }
}
