//! Whose time the events on a GPU's streams are: each names the instruction of the compiled program that it is of, and of
//! that the layer and the pass are known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter::successors;

use serde::Serialize;

use super::parts::{Pass, layer_name};
use super::xplane::{Stats, When, XEvent, XSpace};
use crate::inspect::Place;
use crate::inspect::hlo::{Instruction, InstructionCost, Module, instruction_costs};

/// What the events of a recording tell of a program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// What ran on each stream, in the order of time.
    #[serde(skip)]
    pub streams: Vec<Stream>,
    /// Of each layer in each pass what its kernels took, in the order of the program.
    #[serde(skip)]
    pub places: Vec<PlaceTime>,
    /// What took time and is no layer's.
    pub others: Vec<Other>,
    /// Seconds in which at least one stream ran something.
    pub busy_seconds: f64,
    /// Seconds of all events: where streams run side by side, more than it was busy.
    pub event_seconds: f64,
    /// Operations of instructions that have some and of which no event was seen, in one run of the program.
    pub unseen_flops: f64,
    /// What the profiler says is missing.
    pub warnings: Vec<String>,
}

/// A stream of a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// `Stream #7(Kernel)`, with the device before it where there are several.
    pub name: String,
    /// What ran.
    pub kernels: Vec<Kernel>,
}

/// A kernel that ran, or a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Its name in the machine code, `loop_add_fusion_2`, or `MemcpyD2D`.
    pub name: String,
    /// When it began, in picoseconds after the first.
    pub start_ps: i128,
    /// How long it took, in picoseconds.
    pub duration_ps: i128,
    /// The instruction that it is of, where it is one of the program.
    pub instruction: Option<String>,
    /// The layer and the pass of that.
    pub place: Option<(String, Pass)>,
}

/// What the kernels of a layer in a pass took, all runs of the program together.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceTime {
    /// The layer.
    pub layer: String,
    /// The pass.
    pub pass: Pass,
    /// How many kernels and copies there were.
    pub events: u64,
    /// Their seconds.
    pub seconds: f64,
    /// Operations of the place in one run of the program.
    pub flops: f64,
    /// Bytes that its kernels read and write in one run of the program.
    pub bytes: f64,
}

/// What is no layer's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Other {
    /// What it is.
    pub what: Reason,
    /// How many events there were.
    pub events: u64,
    /// Their seconds.
    pub seconds: f64,
}

/// Why an event is no layer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A copy or a fill that no instruction asked for, such as one from or to the host.
    Copy,
    /// A kernel that names no instruction.
    NoInstruction,
    /// A kernel that names a loop or a call, of which it could be any part.
    WholeLoop,
    /// A kernel of another program.
    OtherProgram,
    /// A kernel that names an instruction which the program does not have.
    UnknownInstruction,
}

impl Reason {
    /// The words for it in tables.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Copy => "copies and fills of no instruction",
            Reason::NoInstruction => "kernels that name no instruction",
            Reason::WholeLoop => "kernels of a loop or a call as a whole",
            Reason::OtherProgram => "kernels of other programs",
            Reason::UnknownInstruction => "kernels of instructions that the program does not have",
        }
    }
}

/// What the names of the planes of GPUs begin with, and of the lines of their streams
/// (`xla/tsl/profiler/utils/xplane_schema.cc` and `xla/backends/profiler/gpu/cupti_collector.cc`). Others are of counters
/// and of what the profiler itself costs.
const GPU: &str = "/device:GPU:";
const STREAM: &str = "Stream #";

/// Picoseconds of a second and of a nanosecond.
const SECOND: f64 = 1e12;
const NANOSECOND: i128 = 1000;

/// Tells whose the events of a recording are, of a program whose optimized form is `module`.
///
/// # Errors
/// If the profiler reports an error, if no stream of a GPU was recorded, or if an event has no time.
pub fn timeline(space: &XSpace, module: &Module) -> Result<Timeline, String> {
    if !space.errors.is_empty() {
        return Err(format!("the profiler reports: {}", space.errors.join("; ")));
    }
    let program = Program::of(module);
    let gpus = || space.planes.iter().filter(|plane| plane.name.starts_with(GPU));
    let several = gpus().filter(|plane| plane.lines.iter().any(|line| !line.events.is_empty())).count() > 1;
    let (mut streams, mut found) = (Vec::new(), Found::default());
    for plane in gpus() {
        let stats = Stats::of(plane);
        for line in plane.lines.iter().filter(|line| line.name.starts_with(STREAM) && !line.events.is_empty()) {
            let begin = i128::from(line.timestamp_ns) * NANOSECOND;
            let mut kernels = Vec::with_capacity(line.events.len());
            for event in &line.events {
                kernels.push(program.kernel(&stats, event, begin, &mut found)?);
            }
            kernels.sort_by_key(|kernel| kernel.start_ps);
            let name = if several { format!("{} {}", plane.name, line.name) } else { line.name.clone() };
            streams.push(Stream { name, kernels });
        }
    }
    if streams.is_empty() {
        return Err(format!("expected events on streams of a GPU, found {}", recorded(space)));
    }
    let first = streams.iter().flat_map(|stream| &stream.kernels).map(|kernel| kernel.start_ps).min().unwrap_or(0);
    streams.iter_mut().flat_map(|stream| &mut stream.kernels).for_each(|kernel| kernel.start_ps -= first);
    let all = || streams.iter().flat_map(|stream| &stream.kernels);
    let seconds = |picoseconds: i128| picoseconds as f64 / SECOND;
    Ok(Timeline {
        busy_seconds: seconds(covered(all().map(|kernel| (kernel.start_ps, kernel.start_ps + kernel.duration_ps)))),
        event_seconds: seconds(all().map(|kernel| kernel.duration_ps).sum()),
        unseen_flops: program.unseen_flops(&found),
        places: program.places(&found),
        others: found
            .others
            .into_iter()
            .map(|(what, (events, time))| Other { what, events, seconds: seconds(time) })
            .collect(),
        warnings: space.warnings.clone(),
        streams,
    })
}

/// What a recording holds, for a message.
fn recorded(space: &XSpace) -> String {
    let planes: Vec<String> = space
        .planes
        .iter()
        .map(|plane| {
            let events: usize = plane.lines.iter().map(|line| line.events.len()).sum();
            format!("`{}` with {events} events on {} lines", plane.name, plane.lines.len())
        })
        .collect();
    if planes.is_empty() { "nothing at all".to_owned() } else { planes.join(", ") }
}

/// How much of the time these spans cover.
fn covered(spans: impl Iterator<Item = (i128, i128)>) -> i128 {
    let mut spans: Vec<(i128, i128)> = spans.collect();
    spans.sort_unstable();
    let (mut sum, mut end) = (0, i128::MIN);
    for (from, to) in spans {
        let from = from.max(end);
        sum += (to - from).max(0);
        end = end.max(to);
    }
    sum
}

/// The instructions of a program.
struct Program<'m> {
    module: &'m Module,
    /// By name the instruction whose kernel does it: itself, or the fusion that it is in.
    instructions: HashMap<&'m str, &'m Instruction>,
    /// Of each instruction with a kernel the operations and bytes in a run, those of what it is fused of with them.
    costs: HashMap<&'m str, (f64, f64)>,
    /// Layers and passes in the order of the program.
    order: Vec<(String, Pass)>,
}

/// Time by layer and pass, and by reason.
#[derive(Default)]
struct Found {
    places: HashMap<(String, Pass), (u64, i128)>,
    others: BTreeMap<Reason, (u64, i128)>,
    instructions: HashSet<String>,
}

impl<'m> Program<'m> {
    fn of(module: &'m Module) -> Program<'m> {
        let all = instruction_costs(module);
        let instruction = |index: usize| {
            let cost: &InstructionCost = &all[index];
            &module.computations[cost.computation].instructions[cost.instruction]
        };
        let mut program = Program { module, instructions: HashMap::new(), costs: HashMap::new(), order: Vec::new() };
        for (index, cost) in all.iter().enumerate() {
            let callers = successors(cost.caller, |&caller| all[caller].caller);
            let fusion = callers.filter(|&caller| instruction(caller).opcode == "fusion").last();
            let kernel = instruction(fusion.unwrap_or(index));
            program.instructions.insert(&instruction(index).name, kernel);
            let sum = program.costs.entry(&kernel.name).or_default();
            sum.0 += cost.flops * cost.times;
            sum.1 += cost.bytes * cost.times;
            let place = place_of(module, kernel);
            if !program.order.contains(&place) {
                program.order.push(place);
            }
        }
        program
    }

    /// Sorts an event of a stream that begins at this time.
    fn kernel<'p>(
        &self,
        stats: &Stats<'p>,
        event: &'p XEvent,
        begin: i128,
        found: &mut Found,
    ) -> Result<Kernel, String> {
        let name = stats.name(event);
        let offset = match event.when {
            Some(When::OffsetPs(offset)) => offset,
            None => 0,
            Some(When::NumOccurrences(count)) => {
                return Err(format!("expected the time of `{name}` on a stream, found that it ran {count} times"));
            }
        };
        let duration_ps = i128::from(event.duration_ps);
        if duration_ps < 0 {
            return Err(format!("expected the time that `{name}` took, found {duration_ps} ps"));
        }
        let (instruction, place, sum) = match self.whose(stats, event) {
            Ok(instruction) => {
                let (name, place) = (instruction.name.clone(), place_of(self.module, instruction));
                found.instructions.insert(name.clone());
                let sum = found.places.entry(place.clone()).or_default();
                (Some(name), Some(place), sum)
            }
            Err(reason) => (None, None, found.others.entry(reason).or_default()),
        };
        sum.0 += 1;
        sum.1 += duration_ps;
        Ok(Kernel { name: name.to_owned(), start_ps: begin + i128::from(offset), duration_ps, instruction, place })
    }

    /// The instruction that an event is of.
    fn whose<'p>(&self, stats: &Stats<'p>, event: &'p XEvent) -> Result<&'m Instruction, Reason> {
        let name = stats.name(event).to_ascii_lowercase();
        let is_copy = ["memcpy", "memset"].iter().any(|word| name.starts_with(word))
            || ["memcpy_details", "Memset_details"].iter().any(|stat| stats.value(event, stat).is_some());
        let Some(op) = stats.text(event, "hlo_op") else {
            return Err(if is_copy { Reason::Copy } else { Reason::NoInstruction });
        };
        if stats.text(event, "hlo_module").is_some_and(|module| module != self.module.name) {
            return Err(Reason::OtherProgram);
        }
        match self.instructions.get(op).copied() {
            // A graph of kernels that is launched whole is named after the call that it was made of.
            Some(instruction) if ["while", "call", "conditional"].contains(&&*instruction.opcode) => {
                Err(Reason::WholeLoop)
            }
            Some(instruction) => Ok(instruction),
            None => Err(Reason::UnknownInstruction),
        }
    }

    /// Times of layers and passes, in the order of the program.
    fn places(&self, found: &Found) -> Vec<PlaceTime> {
        let mut sums: HashMap<(String, Pass), (f64, f64)> = HashMap::new();
        for (name, &(flops, bytes)) in &self.costs {
            if found.instructions.contains(*name) {
                let sum = sums.entry(place_of(self.module, self.instructions[*name])).or_default();
                sum.0 += flops;
                sum.1 += bytes;
            }
        }
        let seen = self.order.iter().filter_map(|place| Some((place, found.places.get(place)?)));
        seen.map(|(place, &(events, time))| {
            // What was seen of a place is an instruction of the program, whose cost is known.
            let (flops, bytes) = sums[place];
            let ((layer, pass), seconds) = (place.clone(), time as f64 / SECOND);
            PlaceTime { layer, pass, events, seconds, flops, bytes }
        })
        .collect()
    }

    fn unseen_flops(&self, found: &Found) -> f64 {
        let unseen = self.costs.iter().filter(|(name, _)| !found.instructions.contains(**name));
        unseen.map(|(_, (flops, _))| flops).fold(0.0, |sum, flops| sum + flops)
    }
}

/// The layer and the pass of an instruction.
fn place_of(module: &Module, instruction: &Instruction) -> (String, Pass) {
    let Place { layer, direction } = module.place_of(instruction);
    (layer_name(&layer), Pass::of(direction))
}
