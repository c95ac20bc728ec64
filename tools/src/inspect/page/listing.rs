//! The ops of every stage in one form: what a page lists, draws and adds up.

use std::collections::HashMap;

use lmc_graph::{Func, NodeId, ValueId, text};

use crate::error::{Error, Result};
use crate::inspect::graph_cost::node_costs_with;
use crate::inspect::hlo::{Module, instruction_costs};
use crate::inspect::place::Place;

/// An op of a stage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// What its value is called there.
    pub(crate) name: String,
    /// The op's word.
    pub(crate) op: String,
    pub(crate) place: Place,
    /// The types of its results.
    pub(crate) ty: String,
    /// Operations and bytes each time it runs.
    pub(crate) flops: f64,
    pub(crate) bytes: f64,
    /// How often it runs in a step.
    pub(crate) times: f64,
    pub(crate) file: String,
    pub(crate) line: u32,
    /// The op in whose loop, branch or fusion it is.
    pub(crate) parent: Option<usize>,
    /// The ops whose values it uses.
    pub(crate) operands: Vec<usize>,
    /// Its line in the stage's text.
    pub(crate) text: String,
}

/// The nodes of a graph in its text form, with locations.
pub(crate) fn of_graph(text: &str, attention_flops: &[u64]) -> Result<Vec<Entry>> {
    let func = text::parse("dump", text).map_err(|error| Error::run(error.to_string()))?;
    let costs: HashMap<NodeId, (f64, f64, f64)> = node_costs_with(&func, attention_flops)
        .into_iter()
        .map(|cost| (cost.node, (cost.flops, cost.bytes, cost.times)))
        .collect();
    let nodes = func.walk(func.body());
    let mut lines = node_lines(text);
    if lines.len() != nodes.len() {
        // Something is printed in another way than this module knows: better no text than another op's.
        lines = vec![""; nodes.len()];
    }
    let index: HashMap<NodeId, usize> = nodes.iter().enumerate().map(|(at, &node)| (node, at)).collect();
    let parents = parents(&func, &nodes, &index);
    let defined = |value: &ValueId| func.defining_node(*value).and_then(|node| index.get(&node).copied());
    let entry = |(at, &id): (usize, &NodeId)| {
        let node = func.node(id);
        let types: Vec<String> = node.results.iter().map(|&value| func.ty(value).to_string()).collect();
        let names: Vec<String> = node.results.iter().map(ToString::to_string).collect();
        // What a loop or branch uses from around it is an operand too.
        let captured = node.regions.iter().flat_map(|&region| func.captures(region));
        let mut operands: Vec<usize> =
            node.operands.iter().copied().chain(captured).filter_map(|value| defined(&value)).collect();
        operands.sort_unstable();
        operands.dedup();
        let (flops, bytes, times) = costs.get(&id).copied().unwrap_or_default();
        Entry {
            name: names.join(", "),
            op: node.op.name().to_owned(),
            place: Place::of(&node.location.scope),
            ty: types.join(", "),
            flops,
            bytes,
            times,
            file: node.location.file.to_string(),
            line: node.location.line,
            parent: parents[at],
            operands,
            text: lines[at].to_owned(),
        }
    };
    Ok(nodes.iter().enumerate().map(entry).collect())
}

/// The first line of each node, without its location.
fn node_lines(text: &str) -> Vec<&str> {
    let is_node = |line: &&str| {
        let line = line.trim_start();
        line.starts_with('%')
            || (line.starts_with(|c: char| c.is_ascii_lowercase())
                && !["func ", "return"].iter().any(|word| line.starts_with(word))
                && line.contains('('))
    };
    // Parameters of a long head stand in lines of their own.
    let body = text.find(" {\n").map_or("", |at| &text[at..]);
    let lines = body.lines().skip(1).filter(is_node);
    lines.map(|line| line.trim().rsplit_once(" loc(").map_or(line.trim(), |(node, _)| node)).collect()
}

/// For each node, the one in whose region it is.
fn parents(func: &Func, nodes: &[NodeId], index: &HashMap<NodeId, usize>) -> Vec<Option<usize>> {
    let mut parents = vec![None; nodes.len()];
    for (at, &node) in nodes.iter().enumerate() {
        let inner = func.node(node).regions.iter().flat_map(|&region| &func.region(region).nodes);
        for inner in inner {
            if let Some(&inner) = index.get(inner) {
                parents[inner] = Some(at);
            }
        }
    }
    parents
}

/// Instructions that only name what others have computed.
const NAMES_ONLY: [&str; 6] = ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"];

/// The instructions of HLO text that compute or move something.
pub(super) fn of_hlo(text: &str) -> Result<Vec<Entry>> {
    let module = Module::parse(text).map_err(Error::run)?;
    let costs = instruction_costs(&module);
    let at = |caller: Option<usize>, name: &str, index: &HashMap<(Option<usize>, &str), usize>| {
        index.get(&(caller, name)).copied()
    };
    let mut index_of: HashMap<(Option<usize>, &str), usize> = HashMap::new();
    for (number, cost) in costs.iter().enumerate() {
        let instruction = &module.computations[cost.computation].instructions[cost.instruction];
        index_of.insert((cost.caller, &instruction.name), number);
    }
    let instruction = |number: usize| {
        let cost = &costs[number];
        &module.computations[cost.computation].instructions[cost.instruction]
    };
    let is_shown = |number: usize| !NAMES_ONLY.contains(&&*instruction(number).opcode);
    let mut numbers = vec![None; costs.len()];
    let mut count = 0;
    for (number, shown) in numbers.iter_mut().enumerate() {
        if is_shown(number) {
            *shown = Some(count);
            count += 1;
        }
    }
    // What an operand stands for: through names, parts of tuples, and out of fusions and loops to what they are given.
    let sources = |number: usize| -> Vec<usize> {
        let mut found = Vec::new();
        let mut stack: Vec<(usize, Option<usize>)> = vec![(number, None)];
        let mut steps = 0;
        while let Some((number, part)) = stack.pop() {
            steps += 1;
            // A tuple of hundreds of results is no operand to be followed to all of them.
            if steps > 64 {
                break;
            }
            if let Some(shown) = numbers[number] {
                found.push(shown);
                continue;
            }
            let (cost, this) = (&costs[number], instruction(number));
            let operand = |index: usize| this.operands.get(index).and_then(|name| at(cost.caller, name, &index_of));
            match (this.parameter, cost.caller, part) {
                (Some(parameter), Some(caller), part) => {
                    let outer = instruction(caller);
                    // A loop's body has one parameter, the state.
                    let given = outer.operands.get(if outer.opcode == "while" { 0 } else { parameter });
                    let given = given.and_then(|name| at(costs[caller].caller, name, &index_of));
                    stack.extend(given.map(|given| (given, part)));
                }
                (None, _, Some(part)) if this.opcode == "tuple" => stack.extend(operand(part).map(|part| (part, None))),
                (None, _, _) if this.tuple_index().is_some() => {
                    stack.extend(operand(0).map(|tuple| (tuple, this.tuple_index())));
                }
                _ => stack.extend((0..this.operands.len()).filter_map(operand).map(|operand| (operand, None))),
            }
        }
        found
    };
    let lines: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let name = line.strip_prefix("ROOT ").unwrap_or(line).split_once(" = ")?.0.trim_start_matches('%');
            Some((name, line.split(", metadata={").next().unwrap_or(line)))
        })
        .collect();
    let entry = |(number, cost): (usize, &crate::inspect::hlo::InstructionCost)| {
        numbers[number]?;
        let this = instruction(number);
        let mut operands: Vec<usize> =
            (this.operands.iter()).filter_map(|name| at(cost.caller, name, &index_of)).flat_map(sources).collect();
        operands.sort_unstable();
        operands.dedup();
        let mut parent = cost.caller;
        while let Some(caller) = parent
            && numbers[caller].is_none()
        {
            parent = costs[caller].caller;
        }
        let line = lines.get(&*this.name).copied().unwrap_or_default();
        Some(Entry {
            name: format!("%{}", this.name),
            op: match this.custom_call_target() {
                Some(target) => target.to_owned(),
                None => this.opcode.clone(),
            },
            place: module.place_of(this),
            ty: this.shape.to_string().chars().take(160).collect(),
            flops: cost.flops,
            bytes: cost.bytes,
            times: cost.times,
            file: this.file.clone(),
            line: this.line,
            parent: parent.and_then(|caller| numbers[caller]),
            operands,
            text: line.chars().take(240).collect(),
        })
    };
    Ok(costs.iter().enumerate().filter_map(entry).collect())
}
