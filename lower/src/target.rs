//! What a function is lowered for.

use std::fmt;

use crate::gpu::{Gpu, UnknownGpu};

/// The kind of device a program will run on, as far as lowering makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Any StableHLO consumer: every op in its plainest form.
    Generic,
    /// XLA's CPU backend.
    Cpu,
    /// XLA's GPU backend for NVIDIA's GPUs.
    Cuda(Cuda),
}

impl Platform {
    /// The name in reports: `generic`, `cpu`, `cuda`.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Generic => "generic",
            Platform::Cpu => "cpu",
            Platform::Cuda(_) => "cuda",
        }
    }
}

/// What lowering has to know of a GPU and of the libraries beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cuda {
    /// What the GPU can do.
    pub compute_capability: ComputeCapability,
    /// The cuDNN that the plugin will load; `None` when none was found, which rules its kernels out.
    pub cudnn: Option<CudnnVersion>,
    /// Whether the same program on the same data must give the same bits every time. The compiler has to be asked for it
    /// too.
    pub deterministic: bool,
}

/// The generation of a GPU, NVIDIA's `major.minor`: 9.0 of an H100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComputeCapability {
    /// The architecture: 8 of Ampere and Ada, 9 of Hopper, 10 and 12 of Blackwell.
    pub major: u32,
    /// The variant of the architecture.
    pub minor: u32,
}

impl ComputeCapability {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> ComputeCapability {
        ComputeCapability { major, minor }
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A version of cuDNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CudnnVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub patch: u32,
}

impl CudnnVersion {
    /// `major.minor.patch`.
    pub const fn new(major: u32, minor: u32, patch: u32) -> CudnnVersion {
        CudnnVersion { major, minor, patch }
    }

    /// Reads `9.24.1`, or the version of a wheel, `9.24.1.1`, whose last number is the package's own. `None` for other
    /// text.
    pub fn parse(text: &str) -> Option<CudnnVersion> {
        let numbers: Vec<u32> = text.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        match numbers[..] {
            [major, minor, patch] | [major, minor, patch, _] => Some(CudnnVersion { major, minor, patch }),
            _ => None,
        }
    }
}

impl fmt::Display for CudnnVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
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
    /// Whether it has AVX-512 with products of bf16 (`avx512_bf16`). With AVX-512 alone oneDNN has them too, from
    /// instructions of its own making, and is slower then than XLA, which converts to f32.
    pub avx512_bf16: bool,
    /// Whether it has AMX with products of bf16, and lmc's kernel for it may run.
    pub amx: bool,
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
    /// Whether programs are of a model that is used, not trained. They are kept from one start to the next, which those that
    /// call oneDNN cannot be, and products with weights are lmc's own, with the weights as they are stored.
    pub for_use: bool,
    /// The number of devices that one execution uses together. Shapes in the program are global whatever it is.
    pub num_devices: usize,
}

impl Target {
    /// Any StableHLO consumer, one device.
    pub fn generic() -> Target {
        Target {
            platform: Platform::Generic,
            plugin: None,
            processor: None,
            has_kernels: false,
            for_use: false,
            num_devices: 1,
        }
    }

    /// XLA's CPU backend in this plugin on any processor, one device.
    pub fn cpu(plugin: Option<PluginIdentity>) -> Target {
        Target { platform: Platform::Cpu, plugin, processor: None, has_kernels: false, for_use: false, num_devices: 1 }
    }

    /// One GPU, through this plugin.
    pub fn cuda(cuda: Cuda, plugin: Option<PluginIdentity>) -> Target {
        Target {
            platform: Platform::Cuda(cuda),
            plugin,
            processor: None,
            has_kernels: false,
            for_use: false,
            num_devices: 1,
        }
    }

    /// The GPU of this name, in the plugin that its description is written for. See [`Gpu::names`].
    ///
    /// # Errors
    /// When there is no GPU of this name, with those that there are.
    pub fn named(name: &str) -> Result<Target, UnknownGpu> {
        Gpu::named(name).map(|gpu| gpu.target())
    }
}

impl fmt::Display for Target {
    /// `cpu (xla-cpu-pjrt 0.0.1)`, and the number of devices when it is not one; `cuda 9.0, cuDNN 9.24.1 (…)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.platform)?;
        if let Platform::Cuda(Cuda { compute_capability, cudnn, deterministic }) = self.platform {
            write!(f, " {compute_capability}")?;
            match cudnn {
                Some(version) => write!(f, ", cuDNN {version}")?,
                None => f.write_str(", no cuDNN")?,
            }
            if deterministic {
                f.write_str(", deterministic")?;
            }
        }
        if let Some(PluginIdentity { name, version }) = &self.plugin {
            write!(f, " ({name} {version})")?;
        }
        if self.num_devices != 1 {
            write!(f, " x {}", self.num_devices)?;
        }
        Ok(())
    }
}
