//! From graph to StableHLO for a target, with a report of how every product and attention lowered; and to WebAssembly.
//!
//! [`lower`] takes a verified function and a [`Target`] and returns StableHLO text in the pretty form, one line an op,
//! and a [`Report`]. The text parses with any StableHLO consumer and compiles as it is through PJRT.
//!
//! ```
//! use lmc_graph::{Builder, DType, TensorType};
//! use lmc_lower::{Options, Target, lower_with};
//!
//! let func = Builder::build("double", |b| {
//!     let x = b.param("x", TensorType::new(DType::F32, [3]));
//!     vec![x + x]
//! });
//! let lowered = lower_with(&func, &Target::generic(), &Options { locations: false });
//! assert_eq!(lowered.text, "\
//! module @double {
//!   func.func public @main(%arg0: tensor<3xf32>) -> tensor<3xf32> {
//!     %0 = stablehlo.add %arg0, %arg0 : tensor<3xf32>
//!     return %0 : tensor<3xf32>
//!   }
//! }
//! ");
//! ```
//!
//! # Invariants
//!
//! - A verified function lowers without failing, for every target: where a target lacks a fast form, the plain form
//!   stands in and the report says why.
//! - The meaning is the reference evaluator's. Where a StableHLO op leaves freedom that would cost accuracy, lowering
//!   takes it away: sums and products of floats narrower than 32 bits are accumulated in f32.
//! - Every op carries the location of the node it came from; ops of a decomposition carry that of the decomposed node.
//! - Nothing here knows of derivatives; the report tells the backward pass by the scope of the location.
//! - A routing match over ops has no wildcard arm, and there is one.
//!
//! # Reading order
//!
//! [`Target`], and [`gpu`], the GPUs that it may be; `choices`, the target-specific decisions; `stablehlo`, the routing
//! match; `stablehlo::emitter`, the writer that rules use; the rule files of `stablehlo`, named as the files of ops in
//! `lmc_graph::ops`, and `stablehlo::cudnn`, the contract of cuDNN's attention; `documents`, how packed rows are told to
//! it; [`report`]; [`optimized`], what became of it. [`wasm`] is a stage of its own beside all of these, with rule files of
//! the same names.

mod choices;
mod documents;
pub mod gpu;
pub mod optimized;
pub mod report;
mod stablehlo;
pub mod target;
pub mod wasm;

use lmc_graph::{Func, hoist_conversions};

pub use choices::reads_what_is_seen;
pub use gpu::{Gpu, UnknownGpu};
pub use report::Report;
pub use target::{ComputeCapability, Cuda, CudnnVersion, Platform, PluginIdentity, Processor, Target};

/// A program for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// The StableHLO module: one public function `main` with the parameters and results of the graph's function.
    /// A donated parameter has the attribute `tf.aliasing_output`.
    pub text: String,
    /// How every product and attention lowered.
    pub report: Report,
}

/// What the text holds besides the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether ops have `loc(…)`: a name, the node's scope, around file and line. XLA keeps them as `op_name`,
    /// `source_file` and `source_line` of the optimized program's instructions. A parameter's name is its location.
    pub locations: bool,
}

/// Lowers a verified function, with locations.
///
/// # Panics
/// If the function would not pass the verifier.
pub fn lower(func: &Func, target: &Target) -> Lowered {
    lower_with(func, target, &Options { locations: true })
}

/// Lowers a verified function.
///
/// # Panics
/// If the function would not pass the verifier.
pub fn lower_with(func: &Func, target: &Target, options: &Options) -> Lowered {
    match target.platform {
        // XLA for GPUs leaves in a loop what is the same in every iteration: weights would be rounded for each micro-batch,
        // and for each chunk of a loss.
        Platform::Cuda(_) => stablehlo::lower(&hoist_conversions(func), target, options),
        Platform::Cpu | Platform::Generic => stablehlo::lower(func, target, options),
    }
}
