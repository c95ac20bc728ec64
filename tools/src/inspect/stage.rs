//! The stages of compilation.

/// A form that the training step takes on its way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The loss of a micro-batch, as the model builds it.
    Graph,
    /// The loss with its gradient.
    Grad,
    /// The whole training step: micro-batches, loss, gradient, clipping, optimizer.
    Step,
    /// The step in StableHLO, as XLA gets it.
    Stablehlo,
    /// What each product and each attention became in StableHLO, and why.
    Report,
    /// The step in HLO, before XLA's optimizations.
    Hlo,
    /// The step in HLO after XLA's optimizations, in the order in which it runs.
    Optimized,
    /// Where XLA keeps each value, and from when to when.
    Buffers,
    /// Of a program for a GPU what it came to: memory, attentions, products.
    Compiled,
    /// Of a program for a GPU what runs, one after the other, as XLA lists it.
    Kernels,
    /// Of a program for a GPU the source of the machine code.
    Ptx,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 11] = [
        Stage::Graph,
        Stage::Grad,
        Stage::Step,
        Stage::Stablehlo,
        Stage::Report,
        Stage::Hlo,
        Stage::Optimized,
        Stage::Buffers,
        Stage::Compiled,
        Stage::Kernels,
        Stage::Ptx,
    ];

    /// The word for it, `stablehlo`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Graph => "graph",
            Stage::Grad => "grad",
            Stage::Step => "step",
            Stage::Stablehlo => "stablehlo",
            Stage::Report => "report",
            Stage::Hlo => "hlo",
            Stage::Optimized => "optimized",
            Stage::Buffers => "buffers",
            Stage::Compiled => "compiled",
            Stage::Kernels => "kernels",
            Stage::Ptx => "ptx",
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Stage::Graph => "the loss, in lmc's text form",
            Stage::Grad => "the loss with its gradient",
            Stage::Step => "the whole training step as a graph",
            Stage::Stablehlo => "the step as XLA gets it, with the model's lines",
            Stage::Report => "what each product and attention became",
            Stage::Hlo => "XLA's form of it, before optimization",
            Stage::Optimized => "after XLA's optimizations, in the order in which it runs",
            Stage::Buffers => "where each value lies, and from when to when",
            Stage::Compiled => "of a program for a GPU what it came to: memory, attentions, products",
            Stage::Kernels => "of a program for a GPU what runs, one after the other, as XLA lists it",
            Stage::Ptx => "of a program for a GPU the source of the machine code",
        }
    }

    /// The name of its file in the folder of a dump.
    pub fn file_name(self) -> &'static str {
        match self {
            Stage::Graph => "graph.lmir",
            Stage::Grad => "grad.lmir",
            Stage::Step => "step.lmir",
            Stage::Stablehlo => "stablehlo.mlir",
            Stage::Report => "report.txt",
            Stage::Hlo => "hlo.txt",
            Stage::Optimized => "optimized.txt",
            Stage::Buffers => "buffers.txt",
            Stage::Compiled => "compiled.txt",
            Stage::Kernels => "kernels.txt",
            Stage::Ptx => "kernels.ptx",
        }
    }

    /// Whether only a program for a GPU has it.
    pub fn is_for_gpus(self) -> bool {
        match self {
            Stage::Compiled | Stage::Kernels | Stage::Ptx => true,
            Stage::Graph
            | Stage::Grad
            | Stage::Step
            | Stage::Stablehlo
            | Stage::Report
            | Stage::Hlo
            | Stage::Optimized
            | Stage::Buffers => false,
        }
    }
}
