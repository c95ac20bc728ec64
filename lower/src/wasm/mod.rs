//! WebAssembly from functions: a module that computes them in any browser, and in any engine elsewhere.
//!
//! [`lower`] makes one module of several functions, the *entries*, over one memory. Each parameter and result has a
//! *slot*, a named tensor in that memory; slots of one name are the same, so that the state which a training step returns
//! is the one that it takes next. The host writes slots, calls entries, and reads slots, where the [`Layout`] says.
//!
//! ```
//! use lmc_graph::{Builder, DType, TensorType};
//! use lmc_lower::wasm::{Entry, Mode, lower};
//!
//! let func = Builder::build("double", |b| {
//!     let x = b.param("x", TensorType::new(DType::F32, [3]));
//!     vec![x + x]
//! });
//! let entry = Entry { name: "double".into(), func: &func, inputs: vec!["x".into()], results: vec!["x".into()] };
//! let module = lower(&[entry], Mode::Together)?;
//! assert_eq!(module.bytes[..4], *b"\0asm");
//! assert_eq!(module.layout.tensor("x").map(|x| x.ty.to_string()), Some("f32[3]".into()));
//! # Ok::<(), lmc_lower::wasm::Error>(())
//! ```
//!
//! # How
//!
//! 1. `flatten`: what is only for other passes goes, fused ops are decomposed.
//! 2. `group`: some values get memory; the others are computed where they are read.
//! 3. `schedule` and the rule files, named as the files of ops in `lmc_graph::ops`: for each value in memory the loops
//!    and the expression (`expr`, `affine`) that compute it. A view of a tensor is other strides. The matrix product of
//!    f32 has a kernel of its own (`kernel`).
//! 4. `plan`: addresses, values that do not live together sharing memory.
//! 5. `nest`, `loops` and `accesses`; `lanes` with `arithmetic`, `integers`, `convert`, `math`, `memory`; `functions` and
//!    `double`: instructions.
//!
//! # Invariants
//!
//! - The instructions are those of WebAssembly with 128-bit vectors, which every browser has since 2023; one thread, no
//!   flags. Results are the same bits on every device, but for the payloads of NaNs.
//! - The meaning is the reference evaluator's, with the freedom that devices have. Arithmetic with numbers below the normal
//!   ones takes up to a hundred times as long, and WebAssembly cannot turn them off, as XLA does on its threads. So they are
//!   0 where they would stay: `exp` is exactly 0 where its result would be below the normal numbers, and so is an element of
//!   f32 that a call leaves for the next one, computed element by element: a moment that decays, for example.
//! - A group is a function: engines compile functions one by one, the hot ones better.

mod accesses;
mod affine;
mod arithmetic;
mod attention;
mod code;
mod contract;
mod control;
mod convert;
mod double;
mod elementwise;
mod expr;
mod flatten;
mod functions;
mod group;
mod index;
mod integers;
mod kernel;
mod lanes;
mod layout;
mod loops;
mod math;
mod memory;
mod module;
mod nest;
mod plan;
mod random;
mod reduce;
mod schedule;
mod shape;
mod sorting;

use lmc_graph::{Func, Location, TensorType, verify};

use expr::Place;
use plan::{Buffers, Kind};
use schedule::{Schedule, Task};

pub use layout::{EntryLayout, Group, Layout, Report, Tensor};

/// A function of a module, with the slots of its parameters and results.
#[derive(Clone, Debug)]
pub struct Entry<'f> {
    /// The name of the export.
    pub name: String,
    /// The function.
    pub func: &'f Func,
    /// A slot for each parameter.
    pub inputs: Vec<String>,
    /// A slot for each result.
    pub results: Vec<String>,
}

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To be run: groups share memory.
    Together,
    /// To be looked into: every group is exported, and every value keeps its memory, so that one can see after a run
    /// which group went wrong, or run and time each.
    Separate,
}

/// A module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The binary form.
    pub bytes: Vec<u8>,
    /// Where tensors lie, and what the groups are.
    pub layout: Layout,
    /// How it came out.
    pub report: Report,
    /// For each entry the function that was lowered: without fused ops. Groups name its values.
    pub flat: Vec<Func>,
}

/// Why functions do not make a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An entry with another number of slots than of parameters or results.
    #[error("entry `{entry}` has {found} slots for {expected} {what}")]
    Slots {
        /// The entry.
        entry: String,
        /// `parameters` or `results`.
        what: &'static str,
        /// How many there are.
        expected: usize,
        /// How many slots there are.
        found: usize,
    },
    /// A slot that is of two types.
    #[error("slot `{slot}` is {first} in one entry and {second} in `{entry}`")]
    SlotType {
        /// The slot.
        slot: String,
        /// The entry.
        entry: String,
        /// The first type.
        first: TensorType,
        /// The second.
        second: TensorType,
    },
    /// Two results of an entry in one slot.
    #[error("entry `{entry}` has two results in slot `{slot}`")]
    TwoResults {
        /// The slot.
        slot: String,
        /// The entry.
        entry: String,
    },
    /// A tensor that does not fit into the memory of a module.
    #[error("{ty} takes {} bytes, and a module's memory has at most 4 GiB: {location}", ty.num_bytes())]
    TensorTooLarge {
        /// The tensor.
        ty: TensorType,
        /// The model's line.
        location: Location,
    },
    /// More memory than a module has.
    #[error(
        "the module would take {bytes} bytes of memory, and has at most 4 GiB: make the model or the batch smaller"
    )]
    TooLarge {
        /// The bytes.
        bytes: usize,
    },
}

/// The bytes that addresses of 32 bits reach, less some that no tensor begins in.
const MOST_BYTES: usize = (1 << 32) - (1 << 16);

/// One module of several functions.
///
/// # Errors
/// If slots and functions do not fit together, or the tensors do not fit into 4 GiB.
///
/// # Panics
/// If a function would not pass the verifier.
pub fn lower(entries: &[Entry<'_>], mode: Mode) -> Result<Module, Error> {
    let reuse = mode == Mode::Together;
    let flat: Vec<Func> = entries.iter().map(|entry| flatten::flatten(entry.func)).collect();
    let mut buffers = Buffers::default();
    let mut scheduled: Vec<Vec<Task>> = Vec::with_capacity(entries.len());
    let mut num_globals = 0;
    for (entry, func) in entries.iter().zip(&flat) {
        debug_assert!(verify(func).is_ok(), "the flat form of `{}` is no function", func.name);
        check_sizes(func)?;
        let params = slots(&mut buffers, entry, "parameters", &entry.inputs, &func.param_types())?;
        let results = slots(&mut buffers, entry, "results", &entry.results, &func.result_types())?;
        for (i, slot) in entry.results.iter().enumerate() {
            if entry.results[..i].contains(slot) {
                return Err(Error::TwoResults { slot: slot.clone(), entry: entry.name.clone() });
            }
        }
        let (tasks, globals) = Schedule::of(func, &mut buffers, reuse, &params, &results);
        num_globals = num_globals.max(globals);
        scheduled.push(tasks);
    }
    let (addresses, memory_bytes) = buffers.place(reuse);
    if memory_bytes > MOST_BYTES {
        return Err(Error::TooLarge { bytes: memory_bytes });
    }
    let mut layout = layout_of(entries, &buffers, &addresses, memory_bytes);
    for ((entry, func), tasks) in entries.iter().zip(&flat).zip(&scheduled) {
        groups_of(tasks, &mut |task, times, depth| {
            let values = task.values.iter().filter_map(|&(value, ref place)| {
                let offset = i64::try_from(addresses[place.buffer]).ok()? + place.offset;
                Some((value, func.ty(value).clone(), usize::try_from(offset).ok()?))
            });
            layout.groups.push(Group {
                entry: entry.name.clone(),
                name: format!("{}/{}", entry.name, task.name),
                location: task.location.clone(),
                ops: task.ops.clone(),
                flops: task.flops,
                bytes: task.bytes,
                times,
                depth,
                values: values.collect(),
            });
        });
    }
    let bytes = module::encode(entries, &scheduled, &buffers, &addresses, &layout, num_globals, mode);
    let report = report_of(entries, &layout, &buffers, bytes.len());
    Ok(Module { bytes, layout, report, flat })
}

/// Refuses a function with a tensor that no module has room for.
fn check_sizes(func: &Func) -> Result<(), Error> {
    for (value, data) in func.values() {
        if data.ty.num_bytes() > MOST_BYTES {
            let node = func.defining_node(value);
            let location = node.map_or_else(Location::unknown, |node| func.node(node).location.clone());
            return Err(Error::TensorTooLarge { ty: data.ty.clone(), location });
        }
    }
    Ok(())
}

/// The places of slots.
fn slots(
    buffers: &mut Buffers,
    entry: &Entry<'_>,
    what: &'static str,
    names: &[String],
    types: &[TensorType],
) -> Result<Vec<Place>, Error> {
    let (expected, found) = (types.len(), names.len());
    if expected != found {
        return Err(Error::Slots { entry: entry.name.clone(), what, expected, found });
    }
    let slot = |(name, ty): (&String, &TensorType)| match buffers.slot(name, ty) {
        Ok(slot) => Ok(Place::of(slot)),
        Err(first) => Err(Error::SlotType { slot: name.clone(), entry: entry.name.clone(), first, second: ty.clone() }),
    };
    names.iter().zip(types).map(slot).collect()
}

fn layout_of(entries: &[Entry<'_>], buffers: &Buffers, addresses: &[u64], memory_bytes: usize) -> Layout {
    let tensors = buffers.all.iter().zip(addresses).filter_map(|(buffer, &address)| match &buffer.kind {
        Kind::Slot(name, ty) => {
            let offset = usize::try_from(address).ok()?;
            Some(Tensor { name: name.clone(), ty: ty.clone(), offset })
        }
        Kind::Constant(_) | Kind::Temporary => None,
    });
    let entry = |entry: &Entry<'_>| EntryLayout {
        name: entry.name.clone(),
        inputs: entry.inputs.clone(),
        results: entry.results.clone(),
    };
    let tensors = tensors.collect();
    Layout { memory_bytes, tensors, entries: entries.iter().map(entry).collect(), groups: Vec::new() }
}

/// Calls `found` for all tasks, those within loops too, with how often each runs and the loops around it.
fn groups_of(tasks: &[Task], found: &mut dyn FnMut(&Task, Option<u64>, usize)) {
    fn visit(tasks: &[Task], times: Option<u64>, depth: usize, found: &mut dyn FnMut(&Task, Option<u64>, usize)) {
        use schedule::Body;
        for task in tasks {
            found(task, times, depth);
            match &task.body {
                Body::Group(_) => {}
                Body::Repeat { length, tasks, .. } => {
                    let times = times.map(|times| times.saturating_mul(*length as u64));
                    visit(tasks, times, depth + 1, found);
                }
                Body::While { condition, tasks, .. } => {
                    visit(condition, None, depth + 1, found);
                    visit(tasks, None, depth + 1, found);
                }
                Body::If { on_true, on_false, .. } => {
                    visit(on_true, None, depth + 1, found);
                    visit(on_false, None, depth + 1, found);
                }
            }
        }
    }
    visit(tasks, Some(1), 0, found);
}

fn report_of(entries: &[Entry<'_>], layout: &Layout, buffers: &Buffers, module_bytes: usize) -> Report {
    let of_entry = |entry: &Entry<'_>| {
        let own = layout.groups.iter().filter(|group| group.entry == entry.name);
        let flops = own.clone().map(|group| group.flops.saturating_mul(group.times.unwrap_or(1)));
        (entry.name.clone(), own.count(), flops.fold(0, u64::saturating_add))
    };
    let mut report = Report {
        entries: entries.iter().map(of_entry).collect(),
        memory_bytes: layout.memory_bytes,
        module_bytes,
        ..Report::default()
    };
    for buffer in &buffers.all {
        match buffer.kind {
            Kind::Slot(..) => report.slot_bytes += buffer.bytes,
            Kind::Constant(_) => report.constant_bytes += buffer.bytes,
            Kind::Temporary => report.value_bytes += buffer.bytes,
        }
    }
    report
}
