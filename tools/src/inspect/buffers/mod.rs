//! The buffer assignment of a compiled program, with the names of the model: where each value lies, and from when to
//! when.

mod order;
mod text;

use std::collections::HashMap;

use lmc_graph::Func;
use lmc_lower::report::Direction;

use crate::inspect::hlo::Module;
use crate::inspect::place::Place;

pub use text::render;

/// Where a compiled program keeps its values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buffers {
    /// Bytes of all allocations.
    pub total: u64,
    /// The pieces of memory that the program takes.
    pub allocations: Vec<Allocation>,
    /// The instructions in the order in which they run, those of a loop's body once.
    pub schedule: Vec<Scheduled>,
    /// Every value in memory.
    pub values: Vec<LiveValue>,
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The number that XLA gave it.
    pub number: usize,
    /// Bytes.
    pub size: u64,
    /// What it is for.
    pub kind: AllocationKind,
}

/// What a piece of memory is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocationKind {
    /// A parameter of the program, by name; the result that takes it over lies there too.
    Parameter(String),
    /// Results that take over no parameter's memory.
    Output,
    /// Values between parameters and results, sharing memory one after the other.
    Temporary,
    /// Constants.
    Constant,
    /// Scalars of reducers.
    ThreadLocal,
}

/// An instruction in the order of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduled {
    /// XLA's name of it.
    pub name: String,
    /// The layer and the pass.
    pub place: Place,
}

/// A value in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveValue {
    /// What it is called: a parameter's name in the model, or XLA's of the instruction.
    pub name: String,
    /// The index in [`Buffers::allocations`].
    pub allocation: usize,
    /// Bytes from the start of the allocation.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Its type, as XLA writes it.
    pub ty: String,
    /// The places in [`Buffers::schedule`] from and up to which it is alive.
    pub alive: (usize, usize),
    /// The layer and the pass.
    pub place: Place,
    /// What it is.
    pub role: Role,
}

/// What a value is to a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A weight.
    Weight,
    /// A moment or an average, or a counter.
    OptimizerState,
    /// Tokens and labels.
    Data,
    /// A value of the forward pass.
    Activation,
    /// A value of the backward pass, or of what that computes again.
    Gradient,
    /// A value of the optimizer.
    Update,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 6] =
        [Role::Weight, Role::OptimizerState, Role::Data, Role::Activation, Role::Gradient, Role::Update];

    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Weight => "weights",
            Role::OptimizerState => "optimizer state",
            Role::Data => "data",
            Role::Activation => "forward values",
            Role::Gradient => "backward values",
            Role::Update => "optimizer values",
        }
    }
}

impl Buffers {
    /// Reads XLA's buffer assignment of an optimized module, which was compiled from `func`.
    ///
    /// # Errors
    /// If the text is not one, or of another program.
    pub fn parse(text: &str, module: &Module, func: &Func) -> std::result::Result<Buffers, String> {
        let mut buffers = Buffers::default();
        let mut live: HashMap<String, (usize, usize)> = HashMap::new();
        let mut values: Vec<(usize, ValueLine<'_>)> = Vec::new();
        let mut section = "";
        for line in text.lines() {
            let trimmed = line.trim();
            if let Some(total) = trimmed.strip_prefix("Total bytes used: ") {
                let digits: String = total.chars().take_while(char::is_ascii_digit).collect();
                buffers.total = digits.parse().map_err(|_| format!("not a number of bytes: {trimmed}"))?;
                continue;
            }
            let starts =
                ["BufferAssignment", "Used values", "InstructionSequence", "BufferLiveRange", "Live ranges at"];
            if let Some(&start) = starts.iter().find(|&&start| trimmed.starts_with(start)) {
                section = start;
                continue;
            }
            match section {
                "BufferAssignment" if trimmed.starts_with("allocation ") => {
                    let allocation = allocation(trimmed, func);
                    buffers.allocations.push(allocation.ok_or_else(|| format!("not understood: {trimmed}"))?);
                }
                "BufferAssignment" if trimmed.starts_with("value: ") => {
                    let value = ValueLine::of(trimmed).ok_or_else(|| format!("not understood: {trimmed}"))?;
                    let allocation = buffers.allocations.len().checked_sub(1);
                    values.push((allocation.ok_or("a value before the first allocation")?, value));
                }
                "InstructionSequence" => {
                    let (_, name) = trimmed.split_once(':').ok_or_else(|| format!("not understood: {trimmed}"))?;
                    buffers.schedule.push(Scheduled { name: name.to_owned(), place: Place::of("") });
                }
                "BufferLiveRange" => {
                    let range = trimmed.rsplit_once(':').and_then(|(name, range)| {
                        let (start, end) = range.split_once('-')?;
                        Some((name, (start.parse().ok()?, end.parse().ok()?)))
                    });
                    let (name, range) = range.ok_or_else(|| format!("not understood: {trimmed}"))?;
                    live.insert(name.to_owned(), range);
                }
                _ => {}
            }
        }
        if buffers.allocations.is_empty() {
            return Err("the buffer assignment has no allocations".to_owned());
        }
        if buffers.schedule.is_empty() {
            let (names, ranges) = order::order(module);
            let scheduled = |name| Scheduled { name, place: Place::of("") };
            (buffers.schedule, live) = (names.into_iter().map(scheduled).collect(), ranges);
            buffers.total = buffers.allocations.iter().map(|allocation| allocation.size).sum();
        }
        let places: HashMap<&str, Place> = (module.computations.iter().flat_map(|c| &c.instructions))
            .map(|instruction| (instruction.name.as_str(), module.place_of(instruction)))
            .collect();
        let place = |name: &str| places.get(name).cloned().unwrap_or_else(|| Place::of(""));
        for step in &mut buffers.schedule {
            step.place = place(&step.name);
        }
        let last = buffers.schedule.len() - 1;
        for (allocation, line) in values {
            if matches!(buffers.allocations[allocation].kind, AllocationKind::ThreadLocal) {
                continue;
            }
            let key = format!("{}{}", line.name, if line.name.ends_with('}') { "" } else { "{}" });
            let (start, end) = live.get(&key).copied().unwrap_or((0, last));
            let instruction = line.name.split('{').next().unwrap_or(line.name);
            let mut value = LiveValue {
                name: line.name.to_owned(),
                allocation,
                offset: line.offset,
                size: line.size,
                ty: line.ty.to_owned(),
                alive: (start.min(last), end.min(last)),
                place: place(instruction),
                role: Role::Activation,
            };
            // A result in a parameter's memory is another value of it.
            if let (AllocationKind::Parameter(name), true) =
                (&buffers.allocations[allocation].kind, is_parameter(module, instruction))
            {
                value.place = parameter_place(name);
                value.role = parameter_role(name, func);
                value.name.clone_from(name);
            } else {
                value.role = match value.place.direction {
                    Direction::Forward => Role::Activation,
                    Direction::Backward | Direction::Recompute => Role::Gradient,
                    Direction::Optimizer => Role::Update,
                };
            }
            buffers.values.push(value);
        }
        Ok(buffers)
    }

    /// Bytes that are alive at each place of the schedule, by role in the order of [`Role::ALL`]. Values that share
    /// memory count once.
    pub fn timeline(&self) -> Vec<[u64; Role::ALL.len()]> {
        let mut changes = vec![[0_i64; Role::ALL.len()]; self.schedule.len() + 1];
        for (value, (start, end)) in self.intervals() {
            let role = Role::ALL.iter().position(|&role| role == value.role).unwrap_or(0);
            changes[start][role] += value.size.cast_signed();
            changes[end + 1][role] -= value.size.cast_signed();
        }
        let mut now = [0_i64; Role::ALL.len()];
        changes[..self.schedule.len()]
            .iter()
            .map(|change| {
                now.iter_mut().zip(change).for_each(|(now, change)| *now += change);
                now.map(|bytes| u64::try_from(bytes).unwrap_or(0))
            })
            .collect()
    }

    /// The values with the times at which they are the ones in their memory: where several lie in the same bytes, each
    /// from its start to that of the next.
    pub fn intervals(&self) -> Vec<(&LiveValue, (usize, usize))> {
        let mut slots: HashMap<(usize, u64, u64), Vec<&LiveValue>> = HashMap::new();
        for value in &self.values {
            slots.entry((value.allocation, value.offset, value.size)).or_default().push(value);
        }
        let mut intervals: Vec<(&LiveValue, (usize, usize))> = Vec::new();
        for (_, mut values) in slots {
            values.sort_by_key(|value| (value.alive, value.name.clone()));
            let mut until = None;
            for (index, value) in values.iter().enumerate() {
                let next = values.get(index + 1).map_or(usize::MAX, |next| next.alive.0);
                let start = until.map_or(value.alive.0, |until: usize| value.alive.0.max(until));
                let end = value.alive.1.min(next.saturating_sub(1));
                if start <= end {
                    intervals.push((value, (start, end)));
                    until = Some(end + 1);
                }
            }
        }
        intervals.sort_by(|(a, x), (b, y)| (x, a.allocation, a.offset).cmp(&(y, b.allocation, b.offset)));
        intervals
    }

    /// The place of the schedule with the most bytes alive, and how many.
    pub fn peak(&self) -> (usize, u64) {
        let sums = self.timeline().into_iter().map(|roles| roles.iter().sum::<u64>());
        sums.enumerate().fold((0, 0), |peak, (at, bytes)| if bytes > peak.1 { (at, bytes) } else { peak })
    }

    /// What is alive at a place of the schedule, the largest first.
    pub fn alive_at(&self, at: usize) -> Vec<&LiveValue> {
        let mut alive: Vec<&LiveValue> = (self.intervals().into_iter())
            .filter(|(_, (start, end))| (*start..=*end).contains(&at))
            .map(|(value, _)| value)
            .collect();
        alive.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name)));
        alive
    }
}

/// ` value: <4200 name @0> (size=65536,offset=0): f32[64,256]{1,0}`.
struct ValueLine<'t> {
    name: &'t str,
    size: u64,
    offset: u64,
    ty: &'t str,
}

impl ValueLine<'_> {
    fn of(line: &str) -> Option<ValueLine<'_>> {
        let rest = line.strip_prefix("value: <")?;
        let (_, rest) = rest.split_once(' ')?;
        let (name, rest) = rest.split_once(" @")?;
        let (_, rest) = rest.split_once("(size=")?;
        let (size, rest) = rest.split_once(",offset=")?;
        let (offset, ty) = rest.split_once("): ")?;
        let ty = ty.split('{').next().unwrap_or(ty);
        Some(ValueLine { name, size: size.parse().ok()?, offset: offset.parse().ok()?, ty })
    }
}

/// `allocation 0: size 65536, parameter 6, shape |f32[64,256]| at ShapeIndex {}, maybe-live-out:`.
fn allocation(line: &str, func: &Func) -> Option<Allocation> {
    let (number, rest) = line.strip_prefix("allocation ")?.split_once(": size ")?;
    let (size, rest) = rest.split_once(',')?;
    let rest = rest.trim();
    let parameter = rest.strip_prefix("parameter ").and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
    let kind = match parameter {
        Some(index) => AllocationKind::Parameter(func.params.get(index)?.name.clone()),
        None if rest.contains("thread-local") => AllocationKind::ThreadLocal,
        None if rest.starts_with("constant") => AllocationKind::Constant,
        None if rest.starts_with("output") || rest.contains("live-out") => AllocationKind::Output,
        None => AllocationKind::Temporary,
    };
    Some(Allocation { number: number.parse().ok()?, size: size.parse().ok()?, kind })
}

fn is_parameter(module: &Module, instruction: &str) -> bool {
    module.entry().instruction(instruction).is_some_and(|instruction| instruction.opcode == "parameter")
}

/// A weight's layer; that of a slot is its weight's, behind the slot's name (`adam.m.model.norm.weight`).
fn parameter_place(name: &str) -> Place {
    let layer = ["adam.m.", "adam.v.", "lion.m.", "muon.m.", "ema."].iter().find_map(|slot| name.strip_prefix(slot));
    let layer = layer.unwrap_or(name).rsplit_once('.').map_or("", |(layer, _)| layer);
    Place { layer: layer.to_owned(), direction: Direction::Forward }
}

fn parameter_role(name: &str, func: &Func) -> Role {
    // Weights come first in the state and have no other name before theirs; what is not given back is data.
    let index = func.params.iter().position(|param| param.name == name);
    let is_state = index.is_some_and(|index| func.params[index].donated_to.is_some());
    let is_slot = func.params.iter().any(|param| name.len() > param.name.len() && name.ends_with(&*param.name));
    match (is_state, is_slot || matches!(name, "step" | "halted")) {
        (false, _) => Role::Data,
        (true, true) => Role::OptimizerState,
        (true, false) => Role::Weight,
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, TensorType};

    use super::*;

    const MODULE: &str = r#"HloModule step, is_scheduled=true

ENTRY %main (w.1: f32[4], m.1: f32[4], x.1: f32[8]) -> (f32[4], f32[4]) {
  %w.1 = f32[4]{0} parameter(0), metadata={op_name="h.0.w"}
  %m.1 = f32[4]{0} parameter(1), metadata={op_name="adam.m.h.0.w"}
  %x.1 = f32[8]{0} parameter(2), metadata={op_name="x"}
  %exp.2 = f32[8]{0} exponential(%x.1), metadata={op_name="h.0"}
  %tanh.3 = f32[8]{0} tanh(%exp.2), metadata={op_name="vjp(h.0)"}
  %slice.4 = f32[4]{0} slice(%tanh.3), slice={[0:4]}, metadata={op_name="optimizer.h.0.w"}
  ROOT %tuple = (f32[4]{0}, f32[4]{0}) tuple(%slice.4, %m.1)
}
"#;

    const ASSIGNMENT: &str = "BufferAssignment:
allocation 0: size 16, parameter 0, shape |f32[4]| at ShapeIndex {}, maybe-live-out:
 value: <1 w.1 @0> (size=16,offset=0): f32[4]{0}
 value: <6 slice.4 @0> (size=16,offset=0): f32[4]{0}
allocation 1: size 16, parameter 1, shape |f32[4]| at ShapeIndex {}, maybe-live-out:
 value: <2 m.1 @0> (size=16,offset=0): f32[4]{0}
allocation 2: size 32, parameter 2, shape |f32[8]| at ShapeIndex {}:
 value: <3 x.1 @0> (size=32,offset=0): f32[8]{0}
allocation 3: size 4, thread-local:
 value: <9 a @0> (size=4,offset=0): f32[]
allocation 4: size 64, preallocated-temp:
 value: <4 exp.2 @0> (size=32,offset=0): f32[8]{0}
 value: <5 tanh.3 @0> (size=32,offset=32): f32[8]{0}

Total bytes used: 132 (132B)

Used values:
<1 w.1 @0>
 from instruction: %w.1 = f32[4]{0} parameter(0)
HloLiveRange (max 6):
  InstructionSequence:
    0:w.1
    1:m.1
    2:x.1
    3:exp.2
    4:tanh.3
    5:slice.4
    6:tuple
  BufferLiveRange:
    w.1{}:0-4
    m.1{}:0-7
    x.1{}:0-7
    exp.2{}:3-4
    tanh.3{}:4-5
    slice.4{}:5-7
  Live ranges at 4 (peak):
    exp.2{}: 32 bytes (cumulative: 32 bytes)
";

    fn func() -> Func {
        Builder::build("step", |b| {
            let four = TensorType::new(DType::F32, [4]);
            let [w, m] = ["h.0.w", "adam.m.h.0.w"].map(|name| b.param(name, four.clone()));
            b.param("x", TensorType::new(DType::F32, [8]));
            b.donate(w, 0);
            b.donate(m, 1);
            vec![w, m]
        })
    }

    #[test]
    fn values_have_the_model_s_names() {
        let module = Module::parse(MODULE).unwrap();
        let buffers = Buffers::parse(ASSIGNMENT, &module, &func()).unwrap();
        assert_eq!((buffers.total, buffers.schedule.len(), buffers.values.len()), (132, 7, 6));
        let found: Vec<_> =
            buffers.values.iter().map(|value| (&*value.name, value.role, &*value.place.layer, value.alive)).collect();
        assert_eq!(
            found,
            [
                ("h.0.w", Role::Weight, "h.0", (0, 4)),
                ("slice.4", Role::Update, "h.0", (5, 6)),
                ("adam.m.h.0.w", Role::OptimizerState, "h.0", (0, 6)),
                ("x", Role::Data, "", (0, 6)),
                ("exp.2", Role::Activation, "h.0", (3, 4)),
                ("tanh.3", Role::Gradient, "h.0", (4, 5)),
            ]
        );
        // The weight, its moment, the data, and both temporaries.
        assert_eq!(buffers.peak(), (4, 16 + 16 + 32 + 64));
        assert_eq!(buffers.timeline()[4], [16, 16, 32, 32, 32, 0]);
        assert_eq!(buffers.timeline()[5], [0, 16, 32, 0, 32, 16], "the new weight lies where the old one was");
        let names: Vec<&str> = buffers.alive_at(5).iter().map(|value| &*value.name).collect();
        assert_eq!(names, ["tanh.3", "x", "adam.m.h.0.w", "slice.4"]);
        let text = render(&buffers, None).unwrap();
        for part in [
            "132 B in 4 allocations; at most 128 B alive, at 4 of 7: %tanh.3 (backward of h.0)",
            "allocation 4: temporaries",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(render(&buffers, Some("h.1")).is_err());
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        let module = Module::parse(MODULE).unwrap();
        for (text, expected) in [
            ("", "no allocations"),
            (&ASSIGNMENT.replace("parameter 2,", "parameter 9,"), "not understood: allocation 2"),
            (&ASSIGNMENT.replace("size=32,offset=32", "size=32"), "not understood: value: <5"),
            (&ASSIGNMENT.replace("exp.2{}:3-4", "exp.2{}:3"), "not understood: exp.2{}:3"),
        ] {
            let error = Buffers::parse(text, &module, &func()).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
