//! What a function is lowered for.

use std::fmt;

/// The kind of device a program will run on, as far as lowering makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Any StableHLO consumer: every op in its plainest form.
    Generic,
    /// XLA's CPU backend.
    Cpu,
}

impl Platform {
    /// The name in reports: `generic`, `cpu`.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Generic => "generic",
            Platform::Cpu => "cpu",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which plugin will compile the program. A form that is one plugin's private contract is only used for a plugin known
/// to have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PluginIdentity {
    /// The name of its package, such as `xla-cpu-pjrt`.
    pub name: String,
    /// The version of its package.
    pub version: String,
}

/// The processor that a program of the CPU will run on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Processor {
    /// The instruction set's name as Rust has it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Whether it has AVX-512 with the byte and word instructions (`avx512f`, `avx512bw`, `avx512vl`, `avx512dq`),
    /// below which oneDNN has no products of bf16.
    pub avx512: bool,
}

/// What a function is lowered for: the inputs of every target-specific choice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The kind of device.
    pub platform: Platform,
    /// The plugin that will compile the program; `None` when it is not known, which rules its private forms out.
    pub plugin: Option<PluginIdentity>,
    /// The processor, on the CPU; `None` when it is not known, which rules out forms that not every processor has.
    pub processor: Option<Processor>,
    /// Whether programs can call lmc's own kernels for the CPU, which are part of `lmc_runtime`.
    pub has_kernels: bool,
    /// The number of devices that one execution uses together. Shapes in the program are global whatever it is.
    pub num_devices: usize,
}

impl Target {
    /// Any StableHLO consumer, one device.
    pub fn generic() -> Target {
        Target { platform: Platform::Generic, plugin: None, processor: None, has_kernels: false, num_devices: 1 }
    }

    /// XLA's CPU backend in this plugin on any processor, one device.
    pub fn cpu(plugin: Option<PluginIdentity>) -> Target {
        Target { platform: Platform::Cpu, plugin, processor: None, has_kernels: false, num_devices: 1 }
    }
}

impl fmt::Display for Target {
    /// `cpu (xla-cpu-pjrt 0.0.1)`, and the number of devices when it is not one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.platform)?;
        if let Some(PluginIdentity { name, version }) = &self.plugin {
            write!(f, " ({name} {version})")?;
        }
        if self.num_devices != 1 {
            write!(f, " x {}", self.num_devices)?;
        }
        Ok(())
    }
}
