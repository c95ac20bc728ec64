//! `lmc explain`.

use std::fmt::Write as _;

use clap::Args;
use lmc_lower::report::Direction;
use serde_json::{Value, json};

use super::dump::{TargetArgs, name_of};
use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::error::Result;
use crate::inspect::{Attribution, Backend, Explanation, FormCount, Subject, explain, sized_step_config};
use crate::output::{print, print_json};
use crate::run::quantity::{bytes, with_unit};

/// Say what each product and each attention of the training step became, why, and what would make it faster
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lmc explain examples/names.toml\n  lmc explain examples/names.toml 'transformer.h.*.attn'\n  \
                  lmc explain examples/names.toml attention --compiled\n  lmc explain examples/lm-100m.toml --target h200"
)]
pub struct ExplainArgs {
    /// The config file (TOML), with `--set`.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Only this layer (a path such as transformer.h.0.mlp, * for any block), or only attention, or only dot_general
    #[arg(value_name = "LAYER|OP")]
    pub subject: Option<String>,
    /// What it is lowered for.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Compile it too, and say what the compiler made of it
    #[arg(long)]
    pub compiled: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

pub(super) fn run(args: ExplainArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let backend = Backend::of(args.target.target, &config, args.plugin.plugin);
    let subject = args.subject.as_deref().map_or(Subject::Whole, Subject::of);
    let explanation = explain(&sized_step_config(&config)?, &backend, &subject, args.compiled)?;
    match args.json {
        true => print_json(&to_json(&explanation)),
        false => print(&to_text(&name_of(&args.config.config), &subject, &explanation)),
    }
}

fn to_text(name: &str, subject: &Subject, explanation: &Explanation) -> String {
    let Explanation { target, attentions, products, advice, attribution, rows, compiled } = explanation;
    let mut out = String::new();
    let of = match subject {
        Subject::Layer(layer) => format!("{layer} in the training step"),
        Subject::Whole | Subject::Op(_) => "the training step".to_owned(),
    };
    _ = writeln!(out, "{of} of {name}, for {target}");
    if !matches!(subject, Subject::Op(lmc_lower::report::Kind::Dot)) {
        out += &attention_text(attentions);
    }
    if !products.is_empty() {
        let count: usize = products.iter().map(|form| form.count).sum();
        let forms: Vec<String> =
            products.iter().map(|form| format!("{} {}{}", form.count, form.form, why(&form.refused))).collect();
        _ = writeln!(out, "products   {count}: {}", forms.join("; "));
    }
    let total = attribution.total();
    let passes: Vec<String> = (Direction::ALL.iter())
        .map(|&direction| (direction, attribution.total_of(direction).flops))
        .filter(|(_, flops)| *flops > 0.0)
        .map(|(direction, flops)| format!("{} {:.1} %", direction.name(), 100.0 * flops / total.flops))
        .collect();
    _ = writeln!(out, "work       {} a step: {}", with_unit(total.flops, "FLOP"), passes.join(", "));
    if let Some(compiled) = compiled {
        let kernels: Vec<String> = compiled.kernels.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let kernels = if kernels.is_empty() { "no products".to_owned() } else { kernels.join(", ") };
        let counted = compiled.xla_flops.map_or(String::new(), |xla| {
            let ratio = 100.0 * (compiled.flops / xla - 1.0);
            format!(
                "; {} with loops counted once, XLA's own count is {} ({ratio:+.2} %)",
                with_unit(compiled.flops, "FLOP"),
                with_unit(xla, "FLOP")
            )
        });
        _ = writeln!(out, "compiled   {kernels}{counted}");
    }
    for (index, advice) in advice.iter().enumerate() {
        let head = if index == 0 { "faster" } else { "" };
        _ = writeln!(out, "{head:<10} {}. {advice}", index + 1);
    }
    out += "\n";
    out += &layers_text(attribution);
    if let Some(compiled) = compiled {
        out += "\nas compiled:\n";
        let layers = match subject {
            Subject::Layer(layer) => compiled.attribution.of_layer(layer),
            Subject::Whole | Subject::Op(_) => compiled.attribution.clone(),
        };
        out += &layers_text(&layers);
    }
    out += "\n";
    let header = ["pass", "count", "form", "operands -> results", "work", "where", "why not faster"].map(str::to_owned);
    let lines = std::iter::once(header).chain(rows.iter().map(|row| {
        [
            row.pass.clone(),
            row.count.to_string(),
            format!("{}{}", if row.part { "  " } else { "" }, row.form),
            row.types.clone(),
            with_unit(row.flops, "FLOP"),
            format!("{} {}", row.scope, row.line).trim_end().to_owned(),
            row.refused.clone(),
        ]
    }));
    out + &table(&lines.collect::<Vec<_>>(), &[1, 4])
}

/// Whether attention is fused, in a line, and why not.
fn attention_text(attentions: &[FormCount]) -> String {
    let sum = |fused: bool| attentions.iter().filter(|form| form.fused == fused).map(|form| form.count).sum::<usize>();
    let (fused, not) = (sum(true), sum(false));
    let verdict = match (fused, not) {
        (0, 0) => return "attention  none\n".to_owned(),
        (_, 0) => format!("fused, all {fused}"),
        (0, _) => format!("not fused, none of {not}"),
        (_, _) => format!("partly fused, {fused} of {}", fused + not),
    };
    let mut out = format!("attention  {verdict}\n");
    for form in attentions {
        let direction = form.direction.map_or("", Direction::name);
        _ = writeln!(out, "           {} {direction}: {}{}", form.count, form.form, why(&form.refused));
    }
    out
}

fn why(refused: &str) -> String {
    match refused.strip_prefix("decomposed: ").unwrap_or(refused) {
        "" => String::new(),
        reason => format!(" ({reason})"),
    }
}

/// Operations and bytes by layer and pass, blocks in one row.
fn layers_text(attribution: &Attribution) -> String {
    let total = attribution.total();
    let header = ["layer", "count", "FLOP", "share", "forward", "recompute", "backward", "optimizer", "bytes"];
    let mut lines = vec![header.map(str::to_owned)];
    let flops = |flops: f64| if flops == 0.0 { "-".to_owned() } else { crate::run::quantity::short(flops) };
    let row = |name: String, count: String, cost: &crate::inspect::LayerCost| {
        let sum = cost.total();
        let [forward, recompute, backward, optimizer] = cost.passes.map(|cost| flops(cost.flops));
        let share = format!("{:.1} %", 100.0 * sum.flops / total.flops.max(1.0));
        [name, count, flops(sum.flops), share, forward, recompute, backward, optimizer, bytes(sum.bytes)]
    };
    for (layer, count) in attribution.grouped() {
        let name = if layer.layer.is_empty() { "(no layer)".to_owned() } else { layer.layer.clone() };
        lines.push(row(name, count.to_string(), &layer));
    }
    let passes = Direction::ALL.map(|direction| attribution.total_of(direction));
    lines.push(row("all".to_owned(), String::new(), &crate::inspect::LayerCost { layer: String::new(), passes }));
    table(&lines, &[1, 2, 3, 4, 5, 6, 7, 8])
}

/// Columns of the width of their widest cell; those of `right` end flush.
fn table<const N: usize>(lines: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| match right.contains(&column) {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn to_json(explanation: &Explanation) -> Value {
    let Explanation { target, attentions, products, advice, attribution, rows, compiled } = explanation;
    let form = |form: &FormCount| {
        json!({
            "pass": form.direction.map(Direction::name),
            "form": form.form,
            "fused": form.fused,
            "refused": form.refused,
            "count": form.count,
            "flops": form.flops,
        })
    };
    json!({
        "target": target,
        "attention_fused": !attentions.is_empty() && attentions.iter().all(|form| form.fused),
        "attention": attentions.iter().map(form).collect::<Vec<_>>(),
        "products": products.iter().map(form).collect::<Vec<_>>(),
        "advice": advice,
        "layers": layers_json(attribution),
        "rows": rows,
        "compiled": compiled.as_ref().map(|compiled| json!({
            "kernels": compiled.kernels.iter().map(|(name, count)| json!({"name": name, "count": count})).collect::<Vec<_>>(),
            "flops_loops_once": compiled.flops,
            "xla_flops": compiled.xla_flops,
            "layers": layers_json(&compiled.attribution),
        })),
    })
}

fn layers_json(attribution: &Attribution) -> Value {
    let passes = |passes: &[crate::inspect::Cost; 4]| -> Value {
        (Direction::ALL.iter().zip(passes))
            .map(|(direction, cost)| {
                let cost = json!({"flops": cost.flops, "transcendentals": cost.transcendentals, "bytes": cost.bytes});
                (direction.name().to_owned(), cost)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    attribution.layers.iter().map(|row| json!({"layer": row.layer, "passes": passes(&row.passes)})).collect()
}
