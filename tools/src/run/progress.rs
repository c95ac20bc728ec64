//! Progress for a person: a bar on a terminal, plain lines elsewhere, always on stderr.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::TrainMetrics;
use super::quantity::{bytes, duration, grouped, short};
use crate::output::say;

/// How far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: u64,
    log_every: u64,
    /// When the first step that counts for the speed was done, and how many were done then. The first step of a process
    /// does not count: it waits for the device to warm up.
    since: Option<(Instant, u64)>,
    /// When the bar or a line was last brought up to date.
    shown: Option<Instant>,
}

/// Between lines where there is no terminal and `train.log_every` is 0.
const INTERVAL: Duration = Duration::from_secs(10);

/// Between two looks of the bar: more often is not seen.
const FRAME: Duration = Duration::from_millis(100);

impl Progress {
    /// The progress of a run of `steps` steps, of which `done` are done. `log_every` is `train.log_every`.
    pub fn new(steps: u64, done: u64, log_every: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(10));
            // Only the message, which is the whole line. One that does not parse would leave indicatif's own.
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar
        });
        Progress { bar, steps, log_every, since: None, shown: None }
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
        let interval = if self.bar.is_some() { FRAME } else { INTERVAL };
        let in_time = || self.shown.is_none_or(|shown| now - shown >= interval);
        let due = if self.log_every == 0 || self.bar.is_some() {
            in_time()
        } else {
            metrics.step.is_multiple_of(self.log_every)
        };
        if !due && metrics.step != self.steps {
            return;
        }
        self.shown = Some(now);
        match &self.bar {
            Some(bar) => {
                let (_, columns) = Term::stderr().size();
                bar.set_position(metrics.step);
                bar.set_message(bar_line(metrics, self.steps, left, usize::from(columns)));
            }
            None => say(line(metrics, self.steps, left)),
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

/// Everything about a step, for a log.
fn line(metrics: &TrainMetrics, steps: u64, left: Option<f64>) -> String {
    let mut text = format!(
        "step {}/{steps}  loss {:.4}  lr {:.2e}  grad norm {:.3}  {} tokens/s",
        metrics.step,
        metrics.loss,
        metrics.learning_rate,
        metrics.grad_norm,
        grouped(metrics.tokens_per_s)
    );
    if metrics.peak_memory_bytes > 0 {
        text += &format!("  {}", bytes(metrics.peak_memory_bytes as f64));
    }
    if let Some(mfu) = metrics.mfu {
        text += &format!("  MFU {:.1} %", 100.0 * mfu);
    }
    if let Some(seconds) = left {
        text += &format!("  {} left", duration(seconds));
    }
    text
}

/// A bar and as much about a step as fits into `columns`: what comes first in importance is dropped last, and the bar
/// takes what is left.
fn bar_line(metrics: &TrainMetrics, steps: u64, left: Option<f64>, columns: usize) -> String {
    const SHORTEST_BAR: usize = 8;
    const LONGEST_BAR: usize = 30;
    // Terminals break a line that fills them.
    let columns = columns.saturating_sub(1);
    let mut parts = vec![format!("{}/{}", metrics.step, steps)];
    let optional = [
        // Importance, place in the line, text.
        (0, 0, Some(format!("loss {:.4}", metrics.loss))),
        (1, 5, left.map(|seconds| format!("{} left", duration(seconds)))),
        (2, 3, Some(format!("{} tok/s", short(metrics.tokens_per_s)))),
        (3, 1, Some(format!("lr {:.2e}", metrics.learning_rate))),
        (4, 2, Some(format!("|g| {:.2}", metrics.grad_norm))),
        (5, 4, metrics.mfu.map(|mfu| format!("MFU {:.0}%", 100.0 * mfu))),
        (6, 6, (metrics.peak_memory_bytes > 0).then(|| bytes(metrics.peak_memory_bytes as f64))),
    ];
    const GAP: usize = 2;
    let mut room = columns.saturating_sub(parts[0].len() + SHORTEST_BAR + GAP);
    let mut chosen = Vec::new();
    for (_, place, text) in optional {
        let Some(text) = text else { continue };
        // All texts are ASCII: a byte is a column.
        let Some(rest) = room.checked_sub(text.len() + GAP) else { break };
        room = rest;
        chosen.push((place, text));
    }
    chosen.sort_unstable();
    parts.extend(chosen.into_iter().map(|(_, text)| text));
    let text = parts.join("  ");
    let length = columns.saturating_sub(text.len() + GAP).min(LONGEST_BAR);
    if length < SHORTEST_BAR {
        return text.chars().take(columns).collect();
    }
    let filled = if steps == 0 { length } else { (length as f64 * metrics.step as f64 / steps as f64) as usize };
    let filled = filled.min(length);
    format!("{}{}  {text}", "█".repeat(filled), "░".repeat(length - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> TrainMetrics {
        TrainMetrics {
            step: 1500,
            loss: 2.51,
            learning_rate: 1e-3,
            grad_norm: 0.5,
            tokens_per_s: 5206.0,
            peak_memory_bytes: 3 << 29,
            mfu: Some(0.412),
            ..Default::default()
        }
    }

    #[test]
    fn a_line_has_everything() {
        let expected = "step 1500/3000  loss 2.5100  lr 1.00e-3  grad norm 0.500  5,206 tokens/s  1.50 GiB  MFU 41.2 %  1m 1s left";
        assert_eq!(line(&metrics(), 3000, Some(61.0)), expected);
        let unknown = TrainMetrics { mfu: None, peak_memory_bytes: 0, ..metrics() };
        let expected = "step 1500/3000  loss 2.5100  lr 1.00e-3  grad norm 0.500  5,206 tokens/s";
        assert_eq!(line(&unknown, 3000, None), expected);
    }

    #[test]
    fn a_bar_drops_what_does_not_fit() {
        for (columns, expected) in [
            (
                160,
                "███████████████░░░░░░░░░░░░░░░  1500/3000  loss 2.5100  lr 1.00e-3  |g| 0.50  5.21k tok/s  MFU 41%  1m 1s left  1.50 GiB",
            ),
            (80, "████░░░░  1500/3000  loss 2.5100  lr 1.00e-3  |g| 0.50  5.21k tok/s  1m 1s left"),
            (79, "████░░░░  1500/3000  loss 2.5100  lr 1.00e-3  5.21k tok/s  1m 1s left"),
            (40, "████░░░░  1500/3000  loss 2.5100"),
            (12, "1500/3000"),
            (5, "1500"),
        ] {
            let line = bar_line(&metrics(), 3000, Some(61.0), columns);
            assert!(line.chars().count() < columns.max(1), "{columns}: {line}");
            assert_eq!(line.trim_start_matches(['█', '░']), expected.trim_start_matches(['█', '░']), "{columns}");
            assert_eq!(line.starts_with('█'), expected.starts_with('█'), "{columns}");
        }
    }
}
