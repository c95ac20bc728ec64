//! Looking inside of a training step: its stages as text, what each layer costs, where its memory goes, what its
//! products became, and a page that shows all of it. Everything here returns data; the commands print them.
//!
//! A [`Place`], the layer and the pass of an op, is told by the scope of its location, which every stage hands on: so
//! the same layer is found in the graph, in StableHLO and in the optimized program.

mod attribution;
mod buffers;
mod dump;
mod explain;
mod extract;
mod graph_cost;
pub mod hlo;
pub mod page;
mod place;
mod stage;

pub use attribution::{Attribution, Cost, LayerCost};
pub use buffers::{Allocation, AllocationKind, Buffers, LiveValue, Role, Scheduled, render as render_buffers};
pub use dump::{Dump, DumpOptions, Graphs, INDEX, dump, sized_step_config};
pub use explain::{Compiled, Explanation, FormCount, Subject, explain};
pub use extract::layer_functions;
pub use graph_cost::{NodeCost, node_costs};
pub use place::Place;
pub use stage::{Backend, Stage};
