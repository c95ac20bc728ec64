//! The page that compares runs.

use super::charts::{Against, compared, compared_evals, compared_rates};
use super::html::{self, Column};
use super::{RunRecord, Summary};
use crate::output::group_digits;
use crate::run::history::History;
use crate::run::metrics::TrainMetrics;
use crate::run::plot::{Extent, Unit, escape};
use crate::run::quantity::{bytes, duration, short};

/// The whole page.
pub fn comparison_page(runs: &[RunRecord]) -> String {
    let names = names(runs);
    let histories: Vec<(String, &History)> = names.iter().cloned().zip(runs.iter().map(|run| &run.history)).collect();
    let mut body =
        format!("<header><h1>{} runs</h1><p class=\"sub\">{}</p></header>", runs.len(), escape(&names.join(" · ")));
    body += &final_numbers(&names, &runs.iter().map(RunRecord::summary).collect::<Vec<_>>());
    let losses = (Unit::Number, Extent::LogAbove(4));
    let view = |against: Against| {
        let plot = |id: &str, title: &str, y, value: fn(&TrainMetrics) -> f64| {
            compared(id, title, against, &histories, y, value)
        };
        let name = against.name();
        let mut content = html::wide_figure(&plot(
            &format!("loss-{name}"),
            "Training loss, nats a token, smoothed",
            losses,
            |line| line.loss,
        ));
        content += "<div class=\"grid2\">";
        if histories.iter().any(|(_, history)| !history.evals.is_empty()) {
            content += &html::figure(&compared_evals(&format!("val-{name}"), against, &histories), 440.0, 230.0);
        }
        let norms = (Unit::Number, Extent::LogAbove(20));
        let norm = plot(&format!("grad-norm-{name}"), "Gradient norm, smoothed", norms, |line| line.grad_norm);
        let rates = (Unit::Scientific, Extent::FromZero);
        let rate = plot(&format!("learning-rate-{name}"), "Learning rate", rates, |line| line.learning_rate);
        for plot in [norm, rate] {
            content += &html::figure(&plot, 440.0, 230.0);
        }
        content += &html::figure(&compared_rates(&format!("throughput-{name}"), against, &histories), 440.0, 230.0);
        content + "</div>"
    };
    let views: Vec<(String, String)> =
        Against::ALL.into_iter().map(|against| (format!("against {}", against.name()), view(against))).collect();
    let views: Vec<(&str, String)> = views.iter().map(|(label, content)| (&**label, content.clone())).collect();
    body += &format!("<section><h2>Curves</h2>{}</section>", html::views("against", &views));
    body += &differences(&names, runs);
    html::page(&format!("{} · lmc", names.join(", ")), &body)
}

/// The folders' names, or their paths where two have the same.
fn names(runs: &[RunRecord]) -> Vec<String> {
    let twice = |name: &str| runs.iter().filter(|run| run.name == name).count() > 1;
    runs.iter().map(|run| if twice(&run.name) { run.path.display().to_string() } else { run.name.clone() }).collect()
}

fn final_numbers(names: &[String], summaries: &[Summary]) -> String {
    let columns = [
        Column::Text("run"),
        Column::Text("status"),
        Column::Number("steps"),
        Column::Number("tokens"),
        Column::Number("parameters"),
        Column::Number("loss"),
        Column::Number("held-out"),
        Column::Number("best held-out"),
        Column::Number("tokens/s"),
        Column::Number("MFU"),
        Column::Number("memory"),
        Column::Number("time"),
        Column::Text("device"),
    ];
    let loss = |loss: Option<f64>| loss.map_or_else(String::new, |loss| format!("{loss:.4}"));
    let count = |count: Option<u64>| count.map_or_else(String::new, |count| short(count as f64));
    let row = |(name, summary): (&String, &Summary)| {
        vec![
            name.clone(),
            summary.status.to_owned(),
            group_digits(summary.step),
            count(summary.tokens),
            count(summary.num_parameters),
            loss(summary.recent_loss.or(summary.loss)),
            loss(summary.val_loss),
            loss(summary.best_val_loss),
            summary.tokens_per_s.map_or_else(String::new, short),
            summary.mfu.map_or_else(|| "unknown".to_owned(), |mfu| format!("{:.1} %", 100.0 * mfu)),
            summary.peak_memory_bytes.map_or_else(String::new, |peak| bytes(peak as f64)),
            duration(summary.step_seconds),
            summary.device.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = names.iter().zip(summaries).map(row).collect();
    format!("<section><h2>Final numbers</h2>{}</section>", html::table(&columns, &rows))
}

/// Settings that not all runs share.
fn differences(names: &[String], runs: &[RunRecord]) -> String {
    let settings: Vec<Vec<(String, String)>> = runs.iter().map(RunRecord::settings).collect();
    let mut keys: Vec<&String> = settings.iter().flatten().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut rows = String::new();
    for key in keys {
        let values: Vec<Option<&String>> = settings
            .iter()
            .map(|settings| settings.iter().find(|(other, _)| other == key).map(|(_, value)| value))
            .collect();
        if values.windows(2).all(|pair| pair[0] == pair[1]) {
            continue;
        }
        let cell = |value: &Option<&String>| match value {
            Some(value) => format!("<td class=\"break\"><code>{}</code></td>", escape(value)),
            None => "<td class=\"note\">absent</td>".to_owned(),
        };
        rows += &format!(
            "<tr><th scope=\"row\"><code>{}</code></th>{}</tr>",
            escape(key),
            values.iter().map(cell).collect::<String>()
        );
    }
    if rows.is_empty() {
        return "<section><h2>Config</h2><p>All runs have the same settings.</p></section>".to_owned();
    }
    let heads: String = names.iter().map(|name| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    format!(
        "<section><h2>Settings that differ</h2><div class=\"scroll\"><table><thead><tr><th scope=\"col\">setting</th>{heads}\
         </tr></thead><tbody>{rows}</tbody></table></div></section>"
    )
}
