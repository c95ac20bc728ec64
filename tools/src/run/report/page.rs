//! The page of one run.

use std::fmt::Write as _;

use super::html::{self, Column, Figure};
use super::{RunRecord, Summary, charts};
use crate::output::group_digits;
use crate::run::account::Activity;
use crate::run::history::{End, History, Sample};
use crate::run::lowering::Lowering;
use crate::run::plot::escape;
use crate::run::quantity::{bytes, duration, duration_with_tenths, short, with_unit};

/// The whole page.
pub fn run_page(run: &RunRecord) -> String {
    let history = &run.history;
    let summary = run.summary();
    let mut body = header(run, &summary);
    body += &figures(history, &summary);
    body += "<section><h2>Loss</h2>";
    body += &html::views(
        "loss-steps",
        &[
            ("linear steps", html::wide_figure(&charts::loss(history, "loss", false))),
            ("logarithmic", html::wide_figure(&charts::loss(history, "loss-log", true))),
        ],
    );
    body += "<div class=\"grid2\">";
    for plot in charts::small(history) {
        body += &html::figure(&plot, 440.0, 210.0);
    }
    body += "</div>";
    body += &html::details("The numbers", &numbers(history));
    body += "</section>";
    body += &samples(&history.samples);
    body += &time(history);
    body += &events(history);
    body += &setup(run);
    body += &format!("<section><h2>Config</h2><pre class=\"config\">{}</pre></section>", escape(run.config.trim_end()));
    if let Some(lowering) = &run.lowering {
        body += &lowering_section(lowering);
    }
    html::page(&format!("{} · lmc", run.name), &body)
}

/// What a status is called, and its colour.
pub(super) fn status_label(status: &str) -> (&'static str, &'static str) {
    match status {
        "done" => ("done", "good"),
        "running" => ("running", "warn"),
        "stopped" => ("stopped", "warn"),
        "not finite" => ("not finite", "bad"),
        "failed" => ("failed", "bad"),
        _ => ("unfinished", "warn"),
    }
}

fn header(run: &RunRecord, summary: &Summary) -> String {
    let (label, color) = status_label(summary.status);
    let mut facts = Vec::new();
    facts.extend(summary.num_parameters.map(|count| format!("{} parameters", short(count as f64))));
    facts.extend((!summary.device.is_empty()).then(|| format!("on {}", summary.device)));
    facts.extend(run.history.processes.first().and_then(|process| process.unix_time).map(date));
    let mut out = format!(
        "<header><h1>{}</h1><p class=\"sub\"><span class=\"status {color}\">{label}</span>{}</p>",
        escape(&run.name),
        escape(&facts.join(" · "))
    );
    let failure = match run.history.end {
        Some(End::NonFinite | End::Failed) => run.history.notes.last().map(|note| note.text.clone()),
        None if summary.status == "unfinished" => Some(
            "The run has no end in its metrics: it is going on, or its process was killed. Training with the same \
             config continues it from the newest checkpoint."
                .to_owned(),
        ),
        Some(End::Done | End::Signal) | None => None,
    };
    if let Some(failure) = failure {
        _ = write!(out, "<p class=\"alert {color}\">{}</p>", escape(&failure));
    }
    out + "</header>"
}

fn figures(history: &History, summary: &Summary) -> String {
    let loss = |loss: Option<f64>| match loss {
        Some(loss) if loss.is_finite() => format!("{loss:.4}"),
        Some(_) => "not finite".to_owned(),
        None => "none".to_owned(),
    };
    let mut figures = vec![Figure {
        name: "Training loss",
        value: loss(summary.recent_loss.or(summary.loss)),
        more: format!("mean of the last {} steps", (history.train.len() / 10).clamp(1, 100)),
    }];
    if summary.val_loss.is_some() {
        let best = match (summary.best_val_loss, summary.best_val_step) {
            (Some(best), Some(step)) if Some(best) != summary.val_loss => {
                format!("best {best:.4} at step {}", group_digits(step))
            }
            _ => "the best so far".to_owned(),
        };
        figures.push(Figure { name: "Held-out loss", value: loss(summary.val_loss), more: best });
    }
    let of = summary.steps.map_or_else(String::new, |steps| format!("of {}", group_digits(steps)));
    let tokens = summary.tokens.map_or_else(String::new, |tokens| format!(", {} tokens", short(tokens as f64)));
    figures.push(Figure { name: "Steps", value: group_digits(summary.step), more: format!("{of}{tokens}") });
    if let Some(tokens_per_s) = summary.tokens_per_s {
        let more = "tokens a second".to_owned();
        figures.push(Figure { name: "Throughput", value: short(tokens_per_s), more });
    }
    let peak = history.process().and_then(|process| process.peak_flops);
    figures.push(match (summary.mfu, peak) {
        (Some(mfu), Some(peak)) => Figure {
            name: "MFU",
            value: format!("{:.1} %", 100.0 * mfu),
            more: format!("of {}", with_unit(peak, "FLOP/s")),
        },
        _ => Figure {
            name: "MFU",
            value: "unknown".to_owned(),
            more: match summary.device.is_empty() {
                true => "unknown device".to_owned(),
                false => format!("unknown device “{}”", summary.device),
            },
        },
    });
    if let Some(peak) = summary.peak_memory_bytes {
        figures.push(Figure { name: "Peak memory", value: bytes(peak as f64), more: String::new() });
    }
    let total = if summary.time.total > 0.0 { summary.time.total } else { summary.step_seconds };
    let more = format!("{} in steps", duration(summary.step_seconds));
    figures.push(Figure { name: "Time", value: duration(total), more });
    html::figures(&figures)
}

/// A table of steps, evenly spread, with the last held-out loss up to each.
fn numbers(history: &History) -> String {
    const ROWS: usize = 25;
    let count = history.train.len();
    let mut indices: Vec<usize> = match count {
        0 => Vec::new(),
        _ => (0..ROWS).map(|row| row * (count - 1) / (ROWS - 1)).collect(),
    };
    indices.dedup();
    let columns = [
        Column::Number("step"),
        Column::Number("loss"),
        Column::Number("held-out loss"),
        Column::Number("learning rate"),
        Column::Number("gradient norm"),
        Column::Number("tokens/s"),
        Column::Number("step time"),
        Column::Number("peak memory"),
    ];
    let row = |index: usize| {
        let line = &history.train[index];
        let evals = history.evals.partition_point(|eval| eval.step <= line.step);
        let val_loss = evals.checked_sub(1).map(|index| history.evals[index].val_loss);
        vec![
            group_digits(line.step),
            format!("{:.4}", line.loss),
            val_loss.map_or_else(String::new, |loss| format!("{loss:.4}")),
            format!("{:.3e}", line.learning_rate),
            format!("{:.4}", line.grad_norm),
            short(line.tokens_per_s),
            format!("{:.1} ms", line.step_ms),
            bytes(line.peak_memory_bytes as f64),
        ]
    };
    html::table(&columns, &indices.into_iter().map(row).collect::<Vec<_>>())
}

fn samples(samples: &[Sample]) -> String {
    /// Characters of a text that shares its line with others.
    const SHORT: usize = 24;
    /// Texts of one step that are shown.
    const TEXTS: usize = 24;
    /// Earlier steps that are shown.
    const STEPS: usize = 20;
    let show = |samples: &[&Sample]| -> String {
        let text = |sample: &&Sample| {
            let rest = sample.text.strip_prefix(&*sample.prompt);
            let text = match rest {
                Some(rest) if !sample.prompt.is_empty() => {
                    format!("<span class=\"prompt\">{}</span>{}", escape(&sample.prompt), escape(rest))
                }
                Some(_) | None => escape(&sample.text),
            };
            let long = if sample.text.chars().count() > SHORT || sample.text.contains('\n') { " long" } else { "" };
            format!("<pre class=\"sample{long}\">{text}</pre>")
        };
        let texts: String = samples.iter().take(TEXTS).map(text).collect();
        format!("<div class=\"samples\">{texts}</div>")
    };
    let mut steps: Vec<u64> = samples.iter().map(|sample| sample.step).collect();
    steps.sort_unstable();
    steps.dedup();
    let of = |step: u64| samples.iter().filter(|sample| sample.step == step).collect::<Vec<_>>();
    let Some((last, earlier)) = steps.split_last() else { return String::new() };
    let mut out = format!("<section><h2>Samples</h2><h3>After step {}</h3>{}", group_digits(*last), show(&of(*last)));
    // With many of them, some from the whole run.
    let spread = earlier.len().div_ceil(STEPS).max(1);
    for step in earlier.iter().rev().step_by(spread) {
        out += &html::details(&format!("After step {}", group_digits(*step)), &show(&of(*step)));
    }
    out + "</section>"
}

fn time(history: &History) -> String {
    let time = &history.time;
    if time.total <= 0.0 {
        return String::new();
    }
    let mut bar = String::new();
    let mut keys = String::new();
    for (i, activity) in Activity::ALL.into_iter().enumerate() {
        let seconds = time.seconds(activity);
        if seconds <= 0.0 {
            continue;
        }
        let (percent, name) = (100.0 * seconds / time.total, activity.name());
        _ = write!(bar, "<span class=\"b{i}\" style=\"width:{percent:.3}%\" title=\"{name} {percent:.1} %\"></span>");
        let shown = duration_with_tenths(seconds);
        _ = write!(keys, "<li><i class=\"b{i}\"></i>{name} <b>{percent:.1} %</b> {shown}</li>");
    }
    format!(
        "<section><h2>Time</h2><div class=\"bar\" role=\"img\" aria-label=\"{}\">{bar}</div><ul class=\"keys\">{keys}</ul>\
         </section>",
        escape(&time.describe())
    )
}

fn events(history: &History) -> String {
    /// Checkpoints that are listed each.
    const SAVES: usize = 10;
    let saves = history.notes.iter().filter(|note| note.event == "save").count();
    let mut passed = 0;
    let mut rows = Vec::new();
    for note in &history.notes {
        if note.event == "save" && saves > SAVES {
            passed += 1;
            if passed == 1 {
                rows.push(vec![group_digits(note.step), format!("{}, the first of {saves} checkpoints", note.text)]);
            }
            if passed < saves {
                continue;
            }
        }
        rows.push(vec![group_digits(note.step), note.text.clone()]);
    }
    let mut out = String::from("<section><h2>Events</h2>");
    out += &html::table(&[Column::Number("step"), Column::Text("what happened")], &rows);
    if history.unreadable > 0 {
        _ = write!(out, "<p class=\"note\">{} lines of the metrics could not be read.</p>", history.unreadable);
    }
    out + "</section>"
}

fn setup(run: &RunRecord) -> String {
    let history = &run.history;
    let Some(process) = history.process() else { return String::new() };
    let flops = process.flops_per_token.map_or_else(String::new, |flops| {
        format!(
            "{} in training: 6 for each element of a matrix that activations are multiplied with (a tied head once, tables \
             that are only looked up not), and causal attention at half of 12·L·H·D·T; recomputation is not counted",
            short(flops)
        )
    });
    let peak = process.peak_flops.map_or_else(
        || "unknown: the device is not in lmc's table; runtime.peak_tflops gives it".to_owned(),
        |peak| with_unit(peak, "FLOP/s"),
    );
    let facts = [
        ("Command", process.command.clone()),
        ("lmc", process.version.clone()),
        ("Plugin", process.plugin.clone()),
        ("Device", process.device.clone()),
        ("Host", process.host.clone()),
        ("Begun", history.processes.first().and_then(|first| first.unix_time).map_or_else(String::new, date)),
        (
            "Processes",
            match history.processes.len() {
                0 | 1 => String::new(),
                count => format!("{count}, the last one from step {}", group_digits(process.step)),
            },
        ),
        ("Parameters", process.num_parameters.map_or_else(String::new, group_digits)),
        ("Tokens a step", process.tokens_per_step.map_or_else(String::new, group_digits)),
        ("FLOPs a token", flops),
        ("Peak rate", peak),
        ("Run folder", std::path::absolute(&run.path).unwrap_or_else(|_| run.path.clone()).display().to_string()),
    ];
    format!("<section><h2>Setup</h2>{}</section>", html::facts(&facts))
}

fn lowering_section(lowering: &Lowering) -> String {
    let columns = [
        Column::Text("pass"),
        Column::Text("form"),
        Column::Number("times"),
        Column::Number("work"),
        Column::Code("operands -> results"),
        Column::Code("where"),
        Column::Text("why not faster"),
    ];
    let row = |row: &crate::run::lowering::Group| {
        let place = if row.line.is_empty() { row.scope.clone() } else { format!("{} {}", row.scope, row.line) };
        vec![
            row.pass.clone(),
            if row.part { format!("· {}", row.form) } else { row.form.clone() },
            group_digits(row.count),
            with_unit(row.flops, "FLOP"),
            row.types.clone(),
            place,
            row.refused.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = lowering.rows.iter().map(row).collect();
    let refused = lowering.rows.iter().filter(|row| !row.refused.is_empty()).map(|row| row.count).sum::<u64>();
    let all = lowering.rows.iter().map(|row| row.count).sum::<u64>();
    let remark = match refused {
        0 => "each took the fastest form there is for the target".to_owned(),
        1 => "one of them was refused a faster form, with the reason in its row".to_owned(),
        _ => format!("{refused} of them were refused a faster form, with the reasons in their rows"),
    };
    let sum = format!(
        "{} products and attentions in a step, lowered for {}: {} in products; {remark}. Rows with · are parts of the \
         attention above them.",
        group_digits(all),
        lowering.target,
        with_unit(lowering.total_flops, "FLOP")
    );
    format!(
        "<section><h2>Lowering</h2><p>{}</p>{}</section>",
        escape(&sum),
        html::details("Every product and attention", &html::table(&columns, &rows))
    )
}

/// Seconds since 1970 as a date and time in UTC.
fn date(unix_time: f64) -> String {
    let seconds = unix_time.clamp(0.0, 253_402_300_799.0) as u64;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970, in years that begin in March.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second_of_day / 3600, second_of_day / 60 % 60);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0.0, "1970-01-01 00:00 UTC"),
            (951_782_400.0, "2000-02-29 00:00 UTC"),
            (1_709_251_199.0, "2024-02-29 23:59 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00 UTC"),
            (1_764_082_371.5, "2025-11-25 14:52 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn many_checkpoints_are_two_rows() {
        let note = |step: u64| format!("{{\"event\":\"save\",\"step\":{step},\"checkpoint\":\"c{step}\"}}\n");
        let few = events(&History::parse(&(1..=3).map(note).collect::<String>()));
        assert_eq!(few.matches("<td>saved").count(), 3);
        let many = events(&History::parse(&(1..=500).map(note).collect::<String>()));
        assert_eq!(many.matches("<td>saved").count(), 2);
        assert!(many.contains("saved c1, the first of 500 checkpoints") && many.contains("saved c500"));
    }
}
