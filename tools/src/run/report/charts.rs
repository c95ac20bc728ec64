//! The plots of a report, from a run's history.

use crate::run::history::History;
use crate::run::metrics::TrainMetrics;
use crate::run::plot::{Axis, Extent, Plot, Point, Series, Style, Unit, smooth};

/// Steps from which on a curve is also shown smoothed.
const MANY_STEPS: usize = 50;

/// About how many steps a smoothed curve averages over.
pub(super) fn smoothing_span(steps: usize) -> usize {
    (steps / 50).clamp(5, 1000)
}

fn curve(history: &History, value: impl Fn(&TrainMetrics) -> f64) -> Vec<Point> {
    history.train.iter().map(|line| (line.step as f64, value(line))).collect()
}

/// A curve as it is, or, with many steps, pale and smoothed in front.
fn with_smoothed(name: &str, points: Vec<Point>, color: usize) -> Vec<Series> {
    let line = |name: String, points: Vec<Point>, style: Style| Series { name, points, color, style };
    if points.len() < MANY_STEPS {
        return vec![line(name.to_owned(), points, Style::Line)];
    }
    let span = smoothing_span(points.len());
    let smoothed = smooth(&points, span);
    vec![
        line(name.to_owned(), points, Style::Faint),
        line(format!("{name}, mean of about {span} steps"), smoothed, Style::Line),
    ]
}

/// Tokens a second: tokens by time over a number of steps, not a mean of the steps' rates, which one step that seemed
/// short would lift.
fn rates(history: &History) -> Vec<Point> {
    let timed = |line: &&TrainMetrics| line.step_ms.is_finite() && line.tokens_per_s.is_finite();
    let seconds = |line: &TrainMetrics| line.step_ms / 1e3;
    let of = |value: fn(f64, f64) -> f64| -> Vec<Point> {
        // The first step waits for the device to warm up.
        let steps = history.train.iter().skip(usize::from(history.train.len() > 1)).filter(timed);
        steps.map(|line| (line.step as f64, value(seconds(line), line.tokens_per_s))).collect()
    };
    let times = of(|seconds, _| seconds);
    let tokens = of(|seconds, rate| seconds * rate);
    let span = if times.len() < MANY_STEPS { 1 } else { smoothing_span(times.len()) };
    let pairs = smooth(&times, span).into_iter().zip(smooth(&tokens, span));
    pairs.map(|((x, seconds), (_, tokens))| (x, tokens / seconds)).collect()
}

/// What the rates are means over.
fn rate_name(history: &History) -> String {
    match history.train.len() {
        count if count < MANY_STEPS => "tokens/s".to_owned(),
        count => format!("tokens/s over about {} steps", smoothing_span(count)),
    }
}

fn plot(id: &str, title: &str, y: (Unit, Extent), series: Vec<Series>) -> Plot {
    Plot {
        id: id.to_owned(),
        title: title.to_owned(),
        x: Axis::new("step", Unit::Count, Extent::Exact),
        y: Axis::new("", y.0, y.1),
        series,
        marks: Vec::new(),
    }
}

/// Training and held-out loss.
pub(super) fn loss(history: &History, id: &str, log_steps: bool) -> Plot {
    let mut series = with_smoothed("training loss", curve(history, |line| line.loss), 0);
    if !history.evals.is_empty() {
        let points = history.evals.iter().map(|eval| (eval.step as f64, eval.val_loss)).collect();
        series.push(Series { name: "held-out loss".to_owned(), points, color: 1, style: Style::Dots });
    }
    let mut plot = plot(id, "Loss, nats a token", (Unit::Number, Extent::LogAbove(4)), series);
    plot.x.log = log_steps;
    plot.marks = history
        .processes
        .iter()
        .filter(|process| process.step > 0)
        .map(|process| (process.step as f64, format!("continued from step {}", process.step)))
        .collect();
    plot
}

/// The small plots, those without numbers left out.
pub(super) fn small(history: &History) -> Vec<Plot> {
    let of = |value: fn(&TrainMetrics) -> f64| curve(history, value);
    let single = |name: &str, points: Vec<Point>, color| {
        vec![Series { name: name.to_owned(), points, color, style: Style::Line }]
    };
    let mut plots = vec![
        plot(
            "learning-rate",
            "Learning rate",
            (Unit::Scientific, Extent::FromZero),
            single("learning rate", of(|line| line.learning_rate), 3),
        ),
        plot(
            "grad-norm",
            "Gradient norm, before clipping",
            (Unit::Number, Extent::LogAbove(20)),
            with_smoothed("gradient norm", of(|line| line.grad_norm), 4),
        ),
        plot(
            "throughput",
            "Tokens a second",
            (Unit::Number, Extent::FromZero),
            single(&rate_name(history), rates(history), 2),
        ),
        plot(
            "memory",
            "Peak memory",
            (Unit::Bytes, Extent::FromZero),
            single("peak memory", of(|line| line.peak_memory_bytes as f64), 5),
        ),
    ];
    if history.train.iter().any(|line| line.mfu.is_some()) {
        let process = history.process();
        let per_rate = process.and_then(|process| Some(process.flops_per_token? / process.peak_flops?));
        let mfu = rates(history).into_iter().map(|(x, rate)| (x, rate * per_rate.unwrap_or(f64::NAN))).collect();
        plots.push(plot("mfu", "Model FLOPs utilization", (Unit::Percent, Extent::FromZero), single("MFU", mfu, 6)));
    }
    let times = with_smoothed("step time", of(|line| line.step_ms / 1e3), 7);
    plots.push(plot("step-time", "Seconds a step", (Unit::Number, Extent::LogAbove(20)), times));
    plots
}

/// What loss curves of several runs are drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    Steps,
    Tokens,
    Time,
}

impl Against {
    pub(super) const ALL: [Against; 3] = [Against::Steps, Against::Tokens, Against::Time];

    pub(super) fn name(self) -> &'static str {
        match self {
            Against::Steps => "steps",
            Against::Tokens => "tokens",
            Against::Time => "time",
        }
    }

    fn axis(self) -> Axis {
        match self {
            Against::Steps => Axis::new("step", Unit::Count, Extent::Exact),
            Against::Tokens => Axis::new("tokens", Unit::Count, Extent::Exact),
            Against::Time => Axis::new("time in steps", Unit::Seconds, Extent::Exact),
        }
    }

    /// For each step of a history, where it stands.
    fn places(self, history: &History) -> Vec<f64> {
        let tokens = history.tokens_per_step().map_or(f64::NAN, |tokens| tokens as f64);
        match self {
            Against::Steps => history.train.iter().map(|line| line.step as f64).collect(),
            Against::Tokens => history.train.iter().map(|line| line.step as f64 * tokens).collect(),
            Against::Time => history.elapsed(),
        }
    }
}

/// A number of each run against the same axis.
pub(super) fn compared(
    id: &str,
    title: &str,
    against: Against,
    runs: &[(String, &History)],
    y: (Unit, Extent),
    value: fn(&TrainMetrics) -> f64,
) -> Plot {
    let series = runs.iter().enumerate().map(|(color, (name, history))| {
        let points: Vec<Point> =
            against.places(history).into_iter().zip(&history.train).map(|(x, line)| (x, value(line))).collect();
        // What the schedule says has no noise to be smoothed.
        let many = points.len() >= MANY_STEPS && y.0 != Unit::Scientific;
        let points = if many { smooth(&points, smoothing_span(points.len())) } else { points };
        Series { name: name.clone(), points, color, style: Style::Line }
    });
    Plot { x: against.axis(), ..plot(id, title, y, series.collect()) }
}

/// Tokens a second of each run.
pub(super) fn compared_rates(id: &str, against: Against, runs: &[(String, &History)]) -> Plot {
    let series = runs.iter().enumerate().map(|(color, (name, history))| {
        let places = against.places(history);
        let place = |step: f64| {
            let index = history.train.partition_point(|line| (line.step as f64) < step);
            places.get(index).copied().unwrap_or(f64::NAN)
        };
        let points = rates(history).into_iter().map(|(step, rate)| (place(step), rate)).collect();
        Series { name: name.clone(), points, color, style: Style::Line }
    });
    let y = (Unit::Number, Extent::FromZero);
    Plot { x: against.axis(), ..plot(id, "Tokens a second, smoothed", y, series.collect()) }
}

/// The held-out losses of each run.
pub(super) fn compared_evals(id: &str, against: Against, runs: &[(String, &History)]) -> Plot {
    let series = runs.iter().enumerate().map(|(color, (name, history))| {
        let places = against.places(history);
        let place = |step: u64| {
            let index = history.train.partition_point(|line| line.step < step);
            places.get(index).copied().unwrap_or(f64::NAN)
        };
        let points = history.evals.iter().map(|eval| (place(eval.step), eval.val_loss)).collect();
        Series { name: name.clone(), points, color, style: Style::Dots }
    });
    let y = (Unit::Number, Extent::LogAbove(4));
    Plot { x: against.axis(), ..plot(id, "Held-out loss, nats a token", y, series.collect()) }
}
