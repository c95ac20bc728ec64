//! HLO text, as XLA prints it: its computations and instructions, and what they cost.

mod cost;
mod frames;
mod parse;

use std::collections::HashMap;

use super::place::Place;
use crate::error::{Error, Result};

pub use cost::{InstructionCost, instruction_costs};

/// A program.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The name.
    pub name: String,
    /// Its computations; callees come before their callers.
    pub computations: Vec<Computation>,
    /// The index of the one that runs.
    pub entry: usize,
    index: HashMap<String, usize>,
}

/// A list of instructions: a function, a loop's body, the inside of a fusion, a reducer.
#[derive(Clone, Debug, PartialEq)]
pub struct Computation {
    /// The name, without `%`.
    pub name: String,
    /// The instructions, operands first; in an optimized module in the order in which they run.
    pub instructions: Vec<Instruction>,
    /// The index of the instruction whose value is the computation's.
    pub root: usize,
    index: HashMap<String, usize>,
}

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The name, without `%`.
    pub name: String,
    /// The type of its value.
    pub shape: Shape,
    /// The word, `dot`.
    pub opcode: String,
    /// The names of its operands, without `%`.
    pub operands: Vec<String>,
    /// Which parameter of its computation it is, if it is one.
    pub parameter: Option<usize>,
    /// Its number, if it is a constant of one element.
    pub constant: Option<f64>,
    /// What stands behind the operands, but for the metadata.
    pub attributes: String,
    /// The scope of the op that it came from; XLA's `op_name`.
    pub scope: String,
    /// The model's file, and the line in it; empty and 0 where it is not known.
    pub file: String,
    /// See [`Instruction::file`].
    pub line: u32,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A tensor: element type and sizes.
    Array(String, Vec<u64>),
    /// Several values.
    Tuple(Vec<Shape>),
}

impl Module {
    /// Parses what XLA printed.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn parse(text: &str) -> std::result::Result<Module, String> {
        parse::module(text)
    }

    /// A computation by its name.
    pub fn computation(&self, name: &str) -> Option<&Computation> {
        self.index.get(name).map(|&index| &self.computations[index])
    }

    /// The computation that runs.
    pub fn entry(&self) -> &Computation {
        &self.computations[self.entry]
    }

    /// How often a loop runs: what XLA says, or, before it has looked, the limit of a counter that starts at 0, as
    /// lowered scans have.
    pub fn trip_count(&self, instruction: &Instruction) -> Option<u64> {
        instruction.trip_count().or_else(|| {
            let condition = self.computation(instruction.called("condition")?)?;
            let root = &condition.instructions[condition.root];
            if root.opcode != "compare" || root.attribute("direction") != Some("LT") {
                return None;
            }
            let limit = condition.instruction(root.operands.get(1)?)?.constant?;
            (limit >= 0.0 && limit.fract() == 0.0).then_some(limit as u64)
        })
    }

    /// The place of an instruction: its own, or that of what it wraps. XLA makes fusions and copies without a scope.
    pub fn place_of(&self, instruction: &Instruction) -> Place {
        let mut at = instruction;
        for _ in 0..8 {
            if !at.scope.is_empty() {
                break;
            }
            let Some(inner) = at.called("calls").or_else(|| at.called("to_apply").filter(|_| at.opcode == "call"))
            else {
                break;
            };
            let Some(inner) = self.computation(inner) else { break };
            let root = &inner.instructions[inner.root];
            // A root that only gathers results says nothing.
            at = match root.scope.is_empty() {
                true => inner.instructions.iter().rev().find(|inner| !inner.scope.is_empty()).unwrap_or(root),
                false => root,
            };
        }
        Place::of(&at.scope)
    }
}

impl Computation {
    /// An instruction by its name.
    pub fn instruction(&self, name: &str) -> Option<&Instruction> {
        self.position(name).map(|index| &self.instructions[index])
    }

    /// The place of an instruction by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

impl Instruction {
    /// The text of an attribute, `{1}` of `lhs_contracting_dims={1}`.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        parse::attribute(&self.attributes, name)
    }

    /// The numbers of an attribute that is a list.
    pub fn numbers(&self, name: &str) -> Vec<u64> {
        let list = self.attribute(name).unwrap_or_default();
        list.trim_matches(['{', '}']).split(',').filter_map(|number| number.trim().parse().ok()).collect()
    }

    /// The name of a computation that an attribute names, `body` of a loop.
    pub fn called(&self, attribute: &str) -> Option<&str> {
        Some(self.attribute(attribute)?.trim_start_matches('%'))
    }

    /// How often a loop runs, where XLA says so.
    pub fn trip_count(&self) -> Option<u64> {
        let (_, rest) = self.attributes.split_once("\"known_trip_count\":{\"n\":\"")?;
        rest.split('"').next()?.parse().ok()
    }

    /// Which part of a tuple it takes, if it does.
    pub fn tuple_index(&self) -> Option<usize> {
        self.attribute("index")?.parse().ok().filter(|_| self.opcode == "get-tuple-element")
    }

    /// The kernel of a custom call.
    pub fn custom_call_target(&self) -> Option<&str> {
        Some(self.attribute("custom_call_target")?.trim_matches('"'))
    }
}

impl Shape {
    /// How many elements it has; those of all parts.
    pub fn elements(&self) -> u64 {
        match self {
            Shape::Array(_, sizes) => sizes.iter().product(),
            Shape::Tuple(parts) => parts.iter().map(Shape::elements).sum(),
        }
    }

    /// How many bytes it takes; those of all parts.
    pub fn bytes(&self) -> u64 {
        match self {
            Shape::Array(dtype, _) => self.elements().saturating_mul(bits(dtype)).div_ceil(8),
            Shape::Tuple(parts) => parts.iter().map(Shape::bytes).sum(),
        }
    }
}

/// Bits of an element.
fn bits(dtype: &str) -> u64 {
    // XLA keeps a `pred` in a byte. What has no size, such as `token`, takes none.
    if dtype == "pred" {
        return 8;
    }
    let digits: String = dtype.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shape::Array(dtype, sizes) => {
                let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
                write!(f, "{dtype}[{}]", sizes.join(","))
            }
            Shape::Tuple(parts) => {
                let parts: Vec<String> = parts.iter().map(Shape::to_string).collect();
                write!(f, "({})", parts.join(", "))
            }
        }
    }
}

/// The lines of HLO text that belong to a layer, each computation under its own head.
///
/// # Errors
/// If there are none.
pub(super) fn lines_of_layer(text: &str, layer: &str) -> Result<String> {
    let module = Module::parse(text).map_err(Error::run)?;
    let mut out = String::new();
    let mut computation: Option<(&str, &Computation)> = None;
    let mut open = false;
    for line in text.lines() {
        if let Some(name) = parse::head(line) {
            if open {
                out.push_str("}\n\n");
            }
            (computation, open) = (module.computation(name).map(|computation| (line, computation)), false);
            continue;
        }
        let Some((head, found)) = computation else { continue };
        let instruction = parse::name(line).and_then(|name| found.instruction(name));
        if instruction.is_some_and(|instruction| module.place_of(instruction).is_in(layer)) {
            if !open {
                out.push_str(head);
                out.push('\n');
            }
            out.push_str(line);
            out.push('\n');
            open = true;
        }
    }
    if open {
        out.push_str("}\n");
    }
    if out.is_empty() {
        let layers = module.computations.iter().flat_map(|c| &c.instructions).map(|i| module.place_of(i).layer);
        return Err(super::extract::unknown_layer(layer, layers));
    }
    Ok(out)
}
