//! What a dump is made for, and what its compiler leaves to be read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lmc_lower::{Gpu, Target};
use lmc_runtime::CompiledMemoryStats;

use crate::config::{Config, DeviceKind};
use crate::device::{Device, DeviceOptions, cpu_target};
use crate::error::{Error, Result};
use crate::offline::compile_for;
use crate::target::TargetDevice;

/// What a dump is made for.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The CPU, in the plugin that these options find.
    Cpu(DeviceOptions),
    /// A GPU that need not be there. Compiling for it takes the program `lmc`, see [`crate::offline`].
    Gpu {
        /// The GPU.
        gpu: Gpu,
        /// What functions are lowered for.
        target: Target,
    },
    /// Any consumer of StableHLO. There are no stages behind StableHLO.
    Generic,
}

impl Backend {
    /// The backend of a device, used as `[runtime]` of a config says; `plugin`, of the command line, names another
    /// plugin for the CPU.
    pub fn of(device: TargetDevice, config: &Config, plugin: Option<PathBuf>) -> Backend {
        match device {
            TargetDevice::Cpu => Backend::Cpu(DeviceOptions {
                kind: DeviceKind::Cpu,
                ..DeviceOptions::from_config(&config.runtime, plugin)
            }),
            TargetDevice::Gpu(gpu) => Backend::Gpu { gpu, target: device.lowering(&config.runtime) },
            TargetDevice::Generic => Backend::Generic,
        }
    }

    /// What functions are lowered for. Loads no plugin.
    pub fn target(&self) -> Target {
        match self {
            Backend::Cpu(options) if options.plugin.is_some() => Target::cpu(None),
            Backend::Cpu(_) => cpu_target(),
            Backend::Gpu { target, .. } => target.clone(),
            Backend::Generic => Target::generic(),
        }
    }

    /// Compiles a program that was lowered for [`Backend::target`], and keeps the texts of XLA's stages; of the machine
    /// code's source, which takes longer, only if `ptx`.
    ///
    /// # Errors
    /// If the plugin cannot be opened, or XLA refuses the program; and always for [`Backend::Generic`].
    pub fn compile(&self, stablehlo: &str, ptx: bool) -> Result<Compilation> {
        match self {
            Backend::Generic => Err(Error::input(
                "nothing here compiles for `generic`: what there is is graph, grad, step, stablehlo and report; name a target \
                 that is compiled for, such as cpu or h200",
            )),
            Backend::Cpu(options) => {
                let dump = Device::open(options)?.dump_hlo(stablehlo)?;
                Ok(Compilation {
                    hlo: dump.before,
                    optimized: dump.optimized,
                    buffers: dump.buffers,
                    // What a plugin does not say is left out.
                    cost_analysis: dump.executable.cost_analysis().unwrap_or_default(),
                    memory: dump.executable.memory_stats().ok(),
                    code: None,
                })
            }
            Backend::Gpu { gpu, target } => {
                let described = compile_for(gpu, target, stablehlo, ptx)?;
                let ptx = described.ptx.into_iter().map(|(name, ptx)| format!("// {name}\n{ptx}\n"));
                Ok(Compilation {
                    hlo: described.hlo,
                    optimized: described.optimized_hlo,
                    buffers: described.buffers,
                    cost_analysis: described.cost_analysis,
                    memory: Some(described.memory),
                    code: Some(GpuCode {
                        gpu: *gpu,
                        kernels: described.thunks,
                        ptx: ptx.collect(),
                        compiler_memory: described.compiler_memory,
                        elapsed: described.elapsed,
                    }),
                })
            }
        }
    }
}

/// What a compiler left of a program to be read.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// HLO text of the program as it came in.
    pub hlo: String,
    /// HLO text after all optimizations, in the order in which it runs.
    pub optimized: String,
    /// The buffer assignment as XLA writes it; `None` where the plugin writes none.
    pub buffers: Option<String>,
    /// XLA's own cost analysis, by name; empty where the plugin gives none.
    pub cost_analysis: BTreeMap<String, f64>,
    /// The sizes that the compiler planned, where the plugin says them.
    pub memory: Option<CompiledMemoryStats>,
    /// Of a program for a GPU what it runs there.
    pub code: Option<GpuCode>,
}

impl Compilation {
    /// What it runs on a GPU.
    ///
    /// # Errors
    /// If it is a program for the CPU.
    pub fn code(&self) -> Result<&GpuCode> {
        self.code.as_ref().ok_or_else(needs_gpu)
    }
}

/// What a compiled program runs on a GPU.
#[derive(Clone, Debug)]
pub struct GpuCode {
    /// The GPU that it was compiled for.
    pub gpu: Gpu,
    /// What runs, one after the other, as XLA lists it.
    pub kernels: String,
    /// The source of the machine code, each file after a line with its name; empty unless asked for.
    pub ptx: String,
    /// The most memory that the compilation itself took on this machine, in bytes, where the system says so.
    pub compiler_memory: Option<u64>,
    /// How long it took.
    pub elapsed: Duration,
}

/// The error of a stage that the CPU has not.
pub(super) fn needs_gpu() -> Error {
    let names = Gpu::names().collect::<Vec<_>>().join(", ");
    Error::input(format!("this stage is of a program for a GPU: name one with --target ({names})"))
}
