//! The buffer assignment of a compiled program, with the names of the model: where each value lies, and from when to when.

use std::collections::HashMap;

use lmc_graph::Func;
use lmc_lower::report::Direction;

use super::hlo::Module;
use super::place::Place;
use crate::error::Result;
use crate::run::quantity::bytes;

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
        let mut live: HashMap<&str, (usize, usize)> = HashMap::new();
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
                    live.insert(name, range);
                }
                _ => {}
            }
        }
        if buffers.schedule.is_empty() {
            return Err("the buffer assignment has no schedule".to_owned());
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
            let (start, end) = live.get(&*key).copied().unwrap_or((0, last));
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

/// The buffer assignment as text: sums, what is alive at the peak, and every piece of memory with its values. With a
/// layer, only the values of that layer.
///
/// # Errors
/// If no value is in the layer.
pub fn render(buffers: &Buffers, layer: Option<&str>) -> Result<String> {
    let shown = |value: &&LiveValue| layer.is_none_or(|layer| value.place.is_in(layer));
    if let Some(layer) = layer
        && !buffers.values.iter().any(|value| shown(&value))
    {
        return Err(super::extract::unknown_layer(layer, buffers.values.iter().map(|value| value.place.layer.clone())));
    }
    let mut out = String::new();
    let mut line = |text: String| {
        out += text.trim_end();
        out.push('\n');
    };
    let (at, peak) = buffers.peak();
    let step = &buffers.schedule[at];
    line(format!(
        "{} in {} allocations; at most {} alive, at {at} of {}: %{}{}",
        bytes(buffers.total as f64),
        buffers.allocations.iter().filter(|allocation| allocation.kind != AllocationKind::ThreadLocal).count(),
        bytes(peak as f64),
        buffers.schedule.len(),
        step.name,
        of_place(&step.place)
    ));
    let row = |value: &LiveValue| {
        format!(
            "{:>14}  {:>6}-{:<6}  {:<28}  {}{}",
            crate::output::group_digits(value.size),
            value.alive.0,
            value.alive.1,
            value.ty,
            value.name,
            match value.role {
                Role::Weight | Role::OptimizerState | Role::Data => String::new(),
                Role::Activation | Role::Gradient | Role::Update => of_place(&value.place),
            }
        )
    };
    let by_role = buffers.timeline()[at];
    line(String::new());
    line("alive at the peak, by what it is".to_owned());
    for (role, &sum) in Role::ALL.iter().zip(&by_role).filter(|(_, sum)| **sum > 0) {
        line(format!("{:>14}  {}", crate::output::group_digits(sum), role.name()));
    }
    line(String::new());
    line(format!("alive at the peak\n{:>14}  {:>6}-{:<6}  {:<28}  value", "bytes", "from", "to", "type"));
    for value in buffers.alive_at(at).into_iter().filter(shown) {
        line(row(value));
    }
    line(String::new());
    line("every allocation, with the values that lie there in turn".to_owned());
    for (index, allocation) in buffers.allocations.iter().enumerate() {
        let mut values: Vec<&LiveValue> =
            buffers.values.iter().filter(|value| value.allocation == index).filter(shown).collect();
        if values.is_empty() {
            continue;
        }
        values.sort_by_key(|value| (value.alive, value.offset, value.name.clone()));
        let kind = match &allocation.kind {
            AllocationKind::Parameter(name) => format!("parameter {name}"),
            AllocationKind::Output => "results".to_owned(),
            AllocationKind::Temporary => "temporaries".to_owned(),
            AllocationKind::Constant => "a constant".to_owned(),
            AllocationKind::ThreadLocal => continue,
        };
        line(format!("{:>14}  allocation {}: {kind}", crate::output::group_digits(allocation.size), allocation.number));
        for value in values {
            line(format!("    @{:<12}{}", value.offset, row(value).trim_start()));
        }
    }
    Ok(out)
}

/// ` (backward of model.norm)`, nothing for no place.
fn of_place(place: &Place) -> String {
    match &*place.layer {
        "" if place.direction == Direction::Forward => String::new(),
        "" => format!(" ({})", place.direction.name()),
        layer => format!(" ({} of {layer})", place.direction.name()),
    }
}
