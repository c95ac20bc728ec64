//! The lowering report, explained: what each product and each attention became, why, and what would make it faster.

use lmc_lower::report::{Direction, Kind, Row};
use lmc_lower::{Lowered, Report, Target, lower};
use lmc_models::{Compute, Layers, Precision, Remat, StepConfig};

use super::attribution::Attribution;
use super::backend::Backend;
use super::extract::unknown_layer;
use super::hlo::Module;
use super::place::Place;
use crate::error::{Error, Result};
use crate::run::{Group, Lowering};

/// What became of a training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What it was lowered for.
    pub target: String,
    /// Attentions by pass and form.
    pub attentions: Vec<FormCount>,
    /// Products by form, those inside of attention included.
    pub products: Vec<FormCount>,
    /// What would make it faster, the largest effect first.
    pub advice: Vec<String>,
    /// Operations and bytes by layer and pass.
    pub attribution: Attribution,
    /// Every product and attention, those that are alike in one row.
    pub rows: Vec<Group>,
    /// What the compiler kept of it, if it was asked.
    pub compiled: Option<Compiled>,
}

/// How many products or attentions took a form.
#[derive(Clone, Debug, PartialEq)]
pub struct FormCount {
    /// The pass; `None` for all together.
    pub direction: Option<Direction>,
    /// The form.
    pub form: String,
    /// Whether it is one kernel, for an attention.
    pub fused: bool,
    /// Why not a faster one; empty where there is none.
    pub refused: String,
    /// How many the program has.
    pub count: usize,
    /// Operations of all of them in one step.
    pub flops: f64,
}

/// Products and library calls of the compiled program.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// By what they are: `dot`, or the name of a library's kernel.
    pub kernels: Vec<(String, usize)>,
    /// Operations in XLA's way of counting, by our count of the compiled program.
    pub flops: f64,
    /// The same by XLA's own cost analysis, where the plugin gives it.
    pub xla_flops: Option<f64>,
    /// By layer and pass, of the compiled program.
    pub attribution: Attribution,
}

/// What to explain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// All of the step.
    #[default]
    Whole,
    /// A layer with those below it, `*` for any block.
    Layer(String),
    /// Only products, or only attentions.
    Op(Kind),
}

impl Subject {
    /// What a word of the command line means: an op's name, or else a layer's path.
    pub fn of(word: &str) -> Subject {
        match word {
            "dot_general" | "dot" | "product" | "products" => Subject::Op(Kind::Dot),
            "attention" | "scaled_dot_product_attention" => Subject::Op(Kind::Attention),
            layer => Subject::Layer(layer.to_owned()),
        }
    }

    fn has(&self, row: &Row) -> bool {
        match self {
            Subject::Whole => true,
            Subject::Layer(layer) => Place::of(&row.location.scope).is_in(layer),
            Subject::Op(kind) => row.kind == *kind,
        }
    }
}

/// Explains a training step; `compiled` also asks the compiler what it made of it.
///
/// # Errors
/// If there is no such layer, or the step cannot be compiled.
pub fn explain(config: &StepConfig, backend: &Backend, subject: &Subject, compiled: bool) -> Result<Explanation> {
    let step = lmc_models::train_step(config).map_err(crate::model::differentiation_error)?;
    let Lowered { text, report } = lower(&step.func, &backend.target());
    let whole = Attribution::of_func(&step.func, &report);
    let mut chosen = report.clone();
    if let Subject::Layer(layer) = subject
        && whole.of_layer(layer).layers.is_empty()
    {
        return Err(unknown_layer(layer, whole.layers.iter().map(|row| row.layer.clone())));
    }
    chosen.rows = rows_of(&report, |row| subject.has(row));
    let attribution = match subject {
        Subject::Layer(layer) => whole.of_layer(layer),
        Subject::Whole | Subject::Op(_) => whole.clone(),
    };
    let compiled = compiled.then(|| compile(&text, backend, subject)).transpose()?;
    // Of the subject alone: what concerns other layers is no answer.
    let advice = advice(config, &chosen, &attribution);
    Ok(Explanation {
        target: report.target.to_string(),
        attentions: counts(&chosen, Kind::Attention),
        products: counts(&chosen, Kind::Dot),
        advice,
        attribution,
        rows: Lowering::of(&chosen).rows,
        compiled,
    })
}

fn compile(stablehlo: &str, backend: &Backend, subject: &Subject) -> Result<Compiled> {
    let dump = backend.compile(stablehlo, false)?;
    let module = Module::parse(&dump.optimized).map_err(Error::run)?;
    let attribution = Attribution::of_module(&module);
    let mut kernels: Vec<(String, usize)> = Vec::new();
    for instruction in module.computations.iter().flat_map(|computation| &computation.instructions) {
        if let Subject::Layer(layer) = subject
            && !module.place_of(instruction).is_in(layer)
        {
            continue;
        }
        let kernel = match &*instruction.opcode {
            "dot" => "dot",
            "custom-call" => instruction.custom_call_target().unwrap_or("custom-call"),
            _ => continue,
        };
        match kernels.iter_mut().find(|(name, _)| name == kernel) {
            Some((_, count)) => *count += 1,
            None => kernels.push((kernel.to_owned(), 1)),
        }
    }
    kernels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let xla_flops = dump.cost_analysis.get("flops").copied();
    Ok(Compiled { kernels, flops: attribution.total().xla_flops, xla_flops, attribution })
}

/// The rows of a report that `chosen` chooses, with parts of attentions that it does not choose as rows of their own.
fn rows_of(report: &Report, chosen: impl Fn(&Row) -> bool) -> Vec<Row> {
    let mut places = vec![None; report.rows.len()];
    let mut rows: Vec<Row> = Vec::new();
    for (index, row) in report.rows.iter().enumerate() {
        if chosen(row) {
            places[index] = Some(rows.len());
            rows.push(Row { part_of: row.part_of.and_then(|whole| places[whole]), ..row.clone() });
        }
    }
    rows
}

/// The rows of a layer.
///
/// # Errors
/// If there are none.
pub(super) fn of_layer(report: &Report, layer: &str) -> Result<Report> {
    let rows = rows_of(report, |row| Place::of(&row.location.scope).is_in(layer));
    if rows.is_empty() {
        return Err(unknown_layer(layer, report.rows.iter().map(|row| Place::of(&row.location.scope).layer)));
    }
    Ok(Report { rows, ..report.clone() })
}

/// Products by form; attentions by pass and form.
fn counts(report: &Report, kind: Kind) -> Vec<FormCount> {
    let mut counts: Vec<FormCount> = Vec::new();
    for row in report.rows.iter().filter(|row| row.kind == kind) {
        let form = row.form.name().to_owned();
        let new = FormCount {
            direction: (kind == Kind::Attention).then_some(row.direction),
            fused: !form.contains("decomposed"),
            form,
            refused: row.refused.clone().unwrap_or_default(),
            count: 1,
            flops: row.total_flops() as f64,
        };
        let alike =
            |old: &&mut FormCount| (old.direction, &old.form, &old.refused) == (new.direction, &new.form, &new.refused);
        match counts.iter_mut().find(alike) {
            Some(old) => {
                old.count += 1;
                old.flops += new.flops;
            }
            None => counts.push(new),
        }
    }
    counts
}

/// A product of less work than this does not keep a device busy; about a square one of 128.
const SMALL_PRODUCT: u64 = 4_000_000;

/// What settings would change, with the part of the work that each is about.
fn advice(config: &StepConfig, report: &Report, attribution: &Attribution) -> Vec<String> {
    let total = attribution.total().flops.max(1.0);
    let percent = |flops: f64| format!("{:.1} %", 100.0 * flops / total);
    let mut found: Vec<(f64, String)> = Vec::new();
    let decomposed: Vec<&Row> = report.rows.iter().filter(|row| is_decomposed_attention(row)).collect();
    if let Some(first) = decomposed.first() {
        let flops: f64 = decomposed.iter().map(|row| row.total_flops() as f64).sum();
        let why = first.refused.as_deref().unwrap_or("no reason was given");
        let why = why.strip_prefix("decomposed: ").unwrap_or(why);
        let mend = if is_fused_in_bf16(config, &report.target) {
            " (train.precision = \"bfloat16\" has it fused)"
        } else {
            ""
        };
        found.push((
            flops,
            format!(
                "attention is {} of the work in products, and its scores go through memory: {why}{mend}; its cost falls \
                 with the square of train.seq_len",
                percent(flops)
            ),
        ));
    }
    // What is computed again: blocks by `remat` or a scan over them.
    let blocks = attribution.total_of(Direction::Recompute).flops;
    let setting = match (config.compute.layers, config.compute.remat) {
        (Layers::Scan, _) => Some("train.layers = \"unroll\""),
        (Layers::Unroll, Remat::Layer) => Some("train.remat = \"none\""),
        (Layers::Unroll, Remat::None) => None,
    };
    if let Some(setting) = setting.filter(|_| blocks > 0.0) {
        found.push((
            blocks,
            format!(
                "blocks are computed again in the backward pass: {} of the work, which {setting} saves for the memory \
                 of their activations",
                percent(blocks)
            ),
        ));
    }
    let small: Vec<&Row> =
        report.rows.iter().filter(|row| row.kind == Kind::Dot && row.flops < SMALL_PRODUCT).collect();
    let small_flops: f64 = small.iter().map(|row| row.total_flops() as f64).sum();
    if small_flops > 0.02 * total {
        found.push((
            small_flops,
            format!(
                "{} products of less than {} each are {} of the work, too small to run at full speed: a larger \
                 train.micro_batch_size with as many fewer train.grad_accum_steps makes them larger",
                small.len(),
                crate::run::quantity::with_unit(SMALL_PRODUCT as f64, "FLOP"),
                percent(small_flops)
            ),
        ));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, text)| text).collect()
}

fn is_decomposed_attention(row: &Row) -> bool {
    row.kind == Kind::Attention && row.form.name().contains("decomposed")
}

/// Whether a step in f32 would have all of its attention fused if it were in bf16.
fn is_fused_in_bf16(config: &StepConfig, target: &Target) -> bool {
    let compute = Compute { precision: Precision::BFloat16, ..config.compute };
    config.compute.precision == Precision::Float32
        && lmc_models::train_step(&StepConfig { compute, ..config.clone() })
            .is_ok_and(|step| !lower(&step.func, target).report.rows.iter().any(is_decomposed_attention))
}
