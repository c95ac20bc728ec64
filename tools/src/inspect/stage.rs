//! The stages of compilation, and the targets they are made for.

use lmc_lower::Target;
use lmc_runtime::HloDump;

use crate::config::Config;
use crate::device::{Device, DeviceOptions, cpu_target};
use crate::error::Result;

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
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 8] = [
        Stage::Graph,
        Stage::Grad,
        Stage::Step,
        Stage::Stablehlo,
        Stage::Report,
        Stage::Hlo,
        Stage::Optimized,
        Stage::Buffers,
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
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Stage::Graph => "the loss, in lmc's text form",
            Stage::Grad => "the loss with its gradient",
            Stage::Step => "the whole training step as a graph",
            Stage::Stablehlo => "the step as XLA gets it",
            Stage::Report => "what each product and attention became",
            Stage::Hlo => "XLA's form of it, before optimization",
            Stage::Optimized => "after XLA's optimizations, in the order in which it runs",
            Stage::Buffers => "where each value lies, and from when to when",
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
        }
    }

    /// Whether it takes XLA, and so a plugin.
    pub fn is_compiled(self) -> bool {
        match self {
            Stage::Hlo | Stage::Optimized | Stage::Buffers => true,
            Stage::Graph | Stage::Grad | Stage::Step | Stage::Stablehlo | Stage::Report => false,
        }
    }
}

/// What a dump is made for.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The CPU, in the plugin that these options find.
    Cpu(DeviceOptions),
}

impl Backend {
    /// The backend that `[runtime]` of a config asks for; `plugin`, of the command line, names another plugin.
    pub fn of(config: &Config, plugin: Option<std::path::PathBuf>) -> Backend {
        Backend::Cpu(DeviceOptions::from_config(&config.runtime, plugin))
    }

    /// What functions are lowered for. Loads no plugin.
    pub fn target(&self) -> Target {
        match self {
            Backend::Cpu(options) if options.plugin.is_some() => Target::cpu(None),
            Backend::Cpu(_) => cpu_target(),
        }
    }

    /// Compiles a program that was lowered for [`Backend::target`], and keeps the texts of XLA's stages.
    ///
    /// # Errors
    /// If the plugin cannot be opened, or XLA refuses the program.
    pub fn compile(&self, stablehlo: &str) -> Result<HloDump> {
        match self {
            Backend::Cpu(options) => Device::open(options)?.dump_hlo(stablehlo),
        }
    }
}
