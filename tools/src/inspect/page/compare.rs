//! What differs between two dumps.

use std::collections::BTreeMap;

use lmc_lower::report::Direction;
use serde_json::{Value, json};

use super::listing::Entry;
use super::pass_number;
use crate::inspect::buffers::Buffers;
use crate::inspect::dump::Dump;
use crate::inspect::stage::Stage;

/// Ops of one kind, type and place.
type Kind = (String, usize, String, String);

/// The differences: settings, sums by stage, peaks of memory, and ops that one has more of.
pub(super) fn comparison(
    dump: &Dump,
    listings: &[(Stage, Vec<Entry>)],
    other: &Dump,
    others: &[(Stage, Vec<Entry>)],
    buffers: [Option<Buffers>; 2],
) -> Value {
    let stages: Vec<Value> = listings
        .iter()
        .filter_map(|(stage, entries)| {
            let (_, before) = others.iter().find(|(other, _)| other == stage)?;
            Some(json!({
                "id": stage.name(),
                "now": sums(entries),
                "before": sums(before),
                "ops": differences(before, entries),
                "same": dump.stage(*stage) == other.stage(*stage),
            }))
        })
        .collect();
    let [now, before] =
        buffers.map(|buffers| buffers.map(|buffers| json!({"peak": buffers.peak().1, "total": buffers.total})));
    json!({
        "name": other.name,
        "target": other.target,
        "settings": settings(&other.config, &dump.config),
        "stages": stages,
        "memory": { "now": now, "before": before },
    })
}

/// The number of ops, and operations and bytes by pass.
fn sums(entries: &[Entry]) -> Value {
    let mut passes = [[0.0; 2]; Direction::ALL.len()];
    for entry in entries {
        let sums = &mut passes[pass_number(entry.place.direction)];
        sums[0] += entry.flops * entry.times;
        sums[1] += entry.bytes * entry.times;
    }
    json!({ "ops": entries.len(), "passes": passes })
}

/// Rows of what there is more or less of: layer, pass, op, type, before, now.
fn differences(before: &[Entry], now: &[Entry]) -> Vec<Value> {
    let mut counts: BTreeMap<Kind, [usize; 2]> = BTreeMap::new();
    for (side, entries) in [before, now].into_iter().enumerate() {
        for entry in entries {
            let pass = pass_number(entry.place.direction);
            let kind = (entry.place.layer.clone(), pass, entry.op.clone(), entry.ty.clone());
            counts.entry(kind).or_default()[side] += 1;
        }
    }
    counts.retain(|_, [before, now]| before != now);
    let rows = counts.into_iter();
    rows.map(|((layer, pass, op, ty), [before, now])| json!([layer, pass, op, ty, before, now])).collect()
}

/// The settings that differ: key, before, now.
fn settings(before: &str, now: &str) -> Vec<Value> {
    let leaves = |text: &str| {
        let mut leaves: BTreeMap<String, String> = BTreeMap::new();
        if let Ok(table) = toml::from_str::<toml::Table>(text) {
            flatten("", &toml::Value::Table(table), &mut leaves);
        }
        leaves
    };
    let (before, now) = (leaves(before), leaves(now));
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differ = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
    differ.map(|key| json!([key, before.get(key), now.get(key)])).collect()
}

fn flatten(path: &str, value: &toml::Value, leaves: &mut BTreeMap<String, String>) {
    let Some(table) = value.as_table() else {
        leaves.insert(path.to_owned(), value.to_string());
        return;
    };
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        flatten(&path, value, leaves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::place::Place;

    #[test]
    fn settings_that_differ_are_listed() {
        let before = "[train]\nsteps = 1\nseed = 2\n[data]\na = \"x\"\n";
        let now = "[train]\nsteps = 3\nseed = 2\n[model]\nb = true\n";
        let found = settings(before, now);
        assert_eq!(
            found,
            [json!(["data.a", "\"x\"", null]), json!(["model.b", null, "true"]), json!(["train.steps", "1", "3"])]
        );
    }

    #[test]
    fn ops_that_one_has_more_of_are_listed() {
        let entry = |op: &str, scope: &str| Entry {
            name: String::new(),
            op: op.to_owned(),
            place: Place::of(scope),
            ty: "f32[]".to_owned(),
            flops: 1.0,
            bytes: 4.0,
            times: 2.0,
            file: String::new(),
            line: 0,
            parent: None,
            operands: Vec::new(),
            text: String::new(),
        };
        let before = [entry("add", "a"), entry("add", "a"), entry("dot", "a")];
        let now = [entry("add", "a"), entry("dot", "a"), entry("dot", "vjp(a)")];
        let found = differences(&before, &now);
        let backward = pass_number(Direction::Backward);
        assert_eq!(found, [json!(["a", 0, "add", "f32[]", 2, 1]), json!(["a", backward, "dot", "f32[]", 0, 1])]);
        assert_eq!(sums(&now)["passes"][0], json!([4.0, 16.0]));
    }
}
