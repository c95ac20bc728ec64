//! The training step as a page lists it: its operations with their lines, and the groups of the module.

use std::collections::HashMap;

use lmc_graph::{Func, NodeId, ValueId, text};
use lmc_lower::wasm::Group;
use serde_json::{Value, json};

use super::module::Lowered;
use crate::error::Result;
use crate::inspect::page::{of_graph, pass_number};
use crate::inspect::place::Place;

/// The operations of a step that was lowered with its groups apart, for the page: each with the group that computes it,
/// and each group with the tensors that it leaves in memory.
///
/// # Errors
/// If the function's text form is not what the parser reads, a defect of lmc.
pub(super) fn program_json(step: &Lowered) -> Result<Value> {
    let Lowered { layout, flat, .. } = step;
    let nodes = flat.walk(flat.body());
    let group_of = groups_of(flat, &nodes, &layout.groups);
    let values: HashMap<ValueId, Value> = (layout.groups.iter().flat_map(|group| &group.values))
        .map(|(value, ty, offset)| {
            (*value, json!({ "shape": ty.shape, "dtype": ty.dtype.to_string(), "offset": offset }))
        })
        .collect();
    let listed = of_graph(&text::print(flat), &[])?;
    let ops: Vec<Value> = listed
        .iter()
        .zip(&nodes)
        .map(|(op, &node)| {
            let value = flat.node(node).results.first().and_then(|value| values.get(value));
            json!({
                "text": op.text, "type": op.ty, "layer": op.place.layer, "pass": pass_number(op.place.direction),
                "file": op.file, "line": op.line, "group": group_of.get(&node), "value": value,
            })
        })
        .collect();
    let group = |group: &Group| {
        let place = Place::of(&group.location.scope);
        json!({
            "name": group.name, "layer": place.layer, "pass": pass_number(place.direction), "ops": group.ops,
            "flops": group.flops, "bytes": group.bytes, "times": group.times, "depth": group.depth,
        })
    };
    Ok(json!({ "ops": ops, "groups": layout.groups.iter().map(group).collect::<Vec<_>>() }))
}

/// The group that computes each node: the one that leaves its value in memory, or else the one of whoever reads it first.
fn groups_of(flat: &Func, nodes: &[NodeId], groups: &[Group]) -> HashMap<NodeId, usize> {
    let in_memory: HashMap<ValueId, usize> = (groups.iter().enumerate())
        .flat_map(|(number, group)| group.values.iter().map(move |(value, ..)| (*value, number)))
        .collect();
    let mut readers: HashMap<ValueId, usize> = HashMap::new();
    let mut found = HashMap::new();
    // Who reads comes after what is read.
    for &id in nodes.iter().rev() {
        let node = flat.node(id);
        let own = node.results.iter().find_map(|value| in_memory.get(value));
        let Some(&group) = own.or_else(|| node.results.iter().find_map(|value| readers.get(value))) else { continue };
        found.insert(id, group);
        node.operands.iter().for_each(|&value| _ = readers.insert(value, group));
    }
    found
}
