//! One page of HTML that shows a training step: its layers, its ops in every stage, its memory; complete in itself.

mod compare;
mod listing;
mod stablehlo;

use std::collections::HashMap;

use lmc_graph::text;
use lmc_lower::report::Direction;
use serde_json::{Value, json};

use super::buffers::{Buffers, Role};
use super::dump::Dump;
use super::hlo::Module;
use super::stage::Stage;
use crate::error::{Error, Result};
pub(crate) use listing::{Entry, of_graph};

/// The page of a dump; `against`, another one that it is compared with.
///
/// # Errors
/// If the dump's texts are not what lmc and XLA write.
pub fn page(dump: &Dump, against: Option<&Dump>) -> Result<String> {
    let listings = listings(dump)?;
    let mut strings = Strings::default();
    let stages: Vec<Value> =
        listings.iter().map(|(stage, entries)| stage_json(*stage, entries, &mut strings)).collect();
    let memory = buffers_of(dump)?.map(|buffers| memory_json(&buffers, &mut strings));
    let comparison = match against {
        None => Value::Null,
        Some(other) => compare::comparison(
            dump,
            &listings,
            other,
            &self::listings(other)?,
            [buffers_of(dump)?, buffers_of(other)?],
        ),
    };
    let data = json!({
        "name": dump.name,
        "target": dump.target,
        "config": dump.config,
        "report": dump.stage(Stage::Report).unwrap_or_default(),
        "passes": Direction::ALL.map(Direction::name),
        "stages": stages,
        "memory": memory,
        "compiled": { "cost_analysis": dump.cost_analysis, "memory": dump.memory },
        "comparison": comparison,
        // Last, for what stands before has filled it.
        "strings": strings.all,
    });
    // Within a script element only `</` could end it early.
    let data = data.to_string().replace('<', "\\u003c");
    const SCRIPT: &str = concat!(
        include_str!("data.js"),
        include_str!("outline.js"),
        include_str!("diagram.js"),
        include_str!("listing.js"),
        include_str!("memory.js"),
        include_str!("compare.js"),
        include_str!("main.js"),
    );
    let parts = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("title", &crate::run::escape(&dump.name)),
        ("style", include_str!("page.css").trim_end()),
        ("data", &data),
        ("script", SCRIPT.trim_end()),
    ];
    Ok(crate::run::fill(include_str!("page.html"), &parts))
}

/// The ops of every stage that the dump has.
fn listings(dump: &Dump) -> Result<Vec<(Stage, Vec<Entry>)>> {
    let mut found = Vec::new();
    for (&stage, text) in &dump.stages {
        let entries = match stage {
            Stage::Graph | Stage::Grad | Stage::Step => listing::of_graph(text, &dump.attention_flops)?,
            Stage::Stablehlo => stablehlo::of_stablehlo(text),
            Stage::Hlo | Stage::Optimized => listing::of_hlo(text)?,
            Stage::Report | Stage::Buffers | Stage::Compiled | Stage::Kernels | Stage::Ptx => continue,
        };
        found.push((stage, entries));
    }
    Ok(found)
}

/// The buffers of a dump that was compiled.
fn buffers_of(dump: &Dump) -> Result<Option<Buffers>> {
    let (Some(assignment), Some(optimized), Some(step)) =
        (&dump.assignment, dump.stage(Stage::Optimized), dump.stage(Stage::Step))
    else {
        return Ok(None);
    };
    let module = Module::parse(optimized).map_err(Error::run)?;
    let func = text::parse(Stage::Step.file_name(), step).map_err(|error| Error::run(error.to_string()))?;
    Buffers::parse(assignment, &module, &func).map(Some).map_err(Error::run)
}

/// Texts that stand in the data once, and by their number elsewhere.
#[derive(Default)]
struct Strings {
    all: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Strings {
    fn number(&mut self, text: &str) -> usize {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }
}

/// The place of a pass in the order of a step.
pub(crate) fn pass_number(direction: Direction) -> usize {
    Direction::ALL.iter().position(|&other| other == direction).unwrap_or(0)
}

/// A stage as columns, which are a fraction of the size of objects.
fn stage_json(stage: Stage, entries: &[Entry], strings: &mut Strings) -> Value {
    let mut column =
        |of: &dyn Fn(&Entry) -> &str| -> Vec<usize> { entries.iter().map(|entry| strings.number(of(entry))).collect() };
    let (name, op, layer) =
        (column(&|entry| &entry.name), column(&|entry| &entry.op), column(&|entry| &entry.place.layer));
    let (ty, file, text) = (column(&|entry| &entry.ty), column(&|entry| &entry.file), column(&|entry| &entry.text));
    json!({
        "id": stage.name(),
        "about": stage.about(),
        "name": name,
        "op": op,
        "layer": layer,
        "type": ty,
        "file": file,
        "text": text,
        "pass": entries.iter().map(|entry| pass_number(entry.place.direction)).collect::<Vec<_>>(),
        "flops": entries.iter().map(|entry| short(entry.flops)).collect::<Vec<_>>(),
        "bytes": entries.iter().map(|entry| short(entry.bytes)).collect::<Vec<_>>(),
        "times": entries.iter().map(|entry| short(entry.times)).collect::<Vec<_>>(),
        "line": entries.iter().map(|entry| entry.line).collect::<Vec<_>>(),
        "parent": entries.iter().map(|entry| entry.parent.map_or(-1, |parent| parent as i64)).collect::<Vec<_>>(),
        "operands": entries.iter().map(|entry| &entry.operands).collect::<Vec<_>>(),
    })
}

/// A whole number without `.0`.
fn short(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
}

fn memory_json(buffers: &Buffers, strings: &mut Strings) -> Value {
    let timeline = buffers.timeline();
    let column = |role: usize| timeline.iter().map(|sums| sums[role]).collect();
    let by_role: Vec<Vec<u64>> = (0..Role::ALL.len()).map(column).collect();
    let (at, peak) = buffers.peak();
    let values: Vec<Value> = (buffers.intervals().into_iter())
        .map(|(value, (start, end))| {
            json!([
                strings.number(&value.name),
                strings.number(&value.ty),
                strings.number(&value.place.layer),
                pass_number(value.place.direction),
                Role::ALL.iter().position(|&role| role == value.role),
                value.size,
                start,
                end,
                value.allocation,
                value.offset,
            ])
        })
        .collect();
    json!({
        "total": buffers.total,
        "at": at,
        "peak": peak,
        "roles": Role::ALL.map(Role::name),
        "timeline": by_role,
        "steps": buffers.schedule.iter().map(|step| strings.number(&step.name)).collect::<Vec<_>>(),
        "layers": buffers.schedule.iter().map(|step| strings.number(&step.place.layer)).collect::<Vec<_>>(),
        "passes": buffers.schedule.iter().map(|step| pass_number(step.place.direction)).collect::<Vec<_>>(),
        "values": values,
    })
}
