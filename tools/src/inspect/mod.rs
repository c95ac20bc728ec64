//! Looking inside of a training step: its stages as text, what each layer costs, where its memory goes, what its
//! products became, and a page that shows all of it. Everything here returns data; the commands print them.
//!
//! A [`Place`], the layer and the pass of an op, is told by the scope of its location, which every stage hands on: so
//! the same layer is found in the graph, in StableHLO and in the optimized program.
//!
//! ```no_run
//! use lmc::DeviceOptions;
//! use lmc::inspect::{Attribution, Backend, Dump, Graphs, Stage, hlo::Module, layer_functions, page::page};
//! use lmc::lower::{lower, report::Direction};
//! use lmc::models::{LossFunc, TrainStep};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (loss, step): (LossFunc, TrainStep) = own_model();
//! # fn own_model() -> (LossFunc, TrainStep) { std::process::exit(0) }
//! // A loss and the training step that was made of it, as in `examples/mlp.rs`.
//! let graphs = Graphs::of_loss(loss, step)?;
//! let backend = Backend::Cpu(DeviceOptions::default());
//! // What each layer asks for.
//! let lowered = lower(&graphs.step.func, &backend.target());
//! let asked = Attribution::of_func(&graphs.step.func, &lowered.report);
//! println!("{} FLOP a step, {} backward", asked.total().flops, asked.total_of(Direction::Backward).flops);
//! // One layer as a function of its own.
//! println!("{}", layer_functions(&graphs.step.func, "fc1")?[0]);
//! // Every stage, what runs of it, and the page.
//! let dump = Dump::of_graphs("ring", &graphs, &backend, true)?;
//! let module = Module::parse(dump.stage(Stage::Optimized).unwrap_or_default())?;
//! println!("{:?}", Attribution::of_module(&module).of_layer("fc1").total());
//! std::fs::write("ring.html", page(&dump, None)?)?;
//! # Ok(())
//! # }
//! ```

mod attribution;
mod backend;
mod buffers;
mod compiled;
mod dump;
mod explain;
mod extract;
mod graph_cost;
pub mod hlo;
pub mod page;
pub(crate) mod place;
mod stage;

pub use attribution::{Attribution, Cost, LayerCost};
pub use backend::{Backend, Compilation, GpuCode};
pub use buffers::{Allocation, AllocationKind, Buffers, LiveValue, Role, Scheduled, render as render_buffers};
pub use dump::{Dump, DumpOptions, Graphs, INDEX, dump, sized_step_config};
pub use explain::{Compiled, Explanation, FormCount, Subject, explain};
pub use extract::layer_functions;
pub use graph_cost::{NodeCost, node_costs};
pub use place::Place;
pub use stage::Stage;
