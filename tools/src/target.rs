//! What a program is made for: this machine's CPU, a GPU that need not be there, or whatever reads StableHLO.

use std::fmt;
use std::str::FromStr;

use lmc_lower::{Cuda, Gpu, Platform, Target};

use crate::config::RuntimeConfig;
use crate::device::cpu_target;

/// A device by its name on the command line: `cpu`, `generic`, or one of [`Gpu::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetDevice {
    /// This machine's CPU, in the plugin that lmc installs.
    Cpu,
    /// A GPU that XLA's compiler has a description of.
    Gpu(Gpu),
    /// Any consumer of StableHLO: every op in its plainest form, without calls of libraries. Nothing here compiles it.
    Generic,
}

impl TargetDevice {
    /// What functions are lowered for so that they run there as `[runtime]` says.
    pub fn lowering(self, runtime: &RuntimeConfig) -> Target {
        match self {
            TargetDevice::Cpu => cpu_target(),
            TargetDevice::Gpu(gpu) => gpu_target(&gpu, runtime),
            TargetDevice::Generic => Target::generic(),
        }
    }

    /// The device's name, as its driver reports it.
    pub fn device_name(self) -> &'static str {
        match self {
            TargetDevice::Cpu => "cpu",
            TargetDevice::Gpu(gpu) => gpu.product,
            TargetDevice::Generic => "generic",
        }
    }

    /// Its memory in bytes, where that does not depend on this machine.
    pub fn memory_bytes(self) -> Option<u64> {
        match self {
            TargetDevice::Cpu | TargetDevice::Generic => None,
            TargetDevice::Gpu(gpu) => Some(gpu.memory_bytes),
        }
    }

    /// Bytes a second from and to its memory, where that does not depend on this machine.
    pub fn bandwidth(self) -> Option<f64> {
        match self {
            TargetDevice::Cpu | TargetDevice::Generic => None,
            TargetDevice::Gpu(gpu) => Some(gpu.memory_bandwidth as f64),
        }
    }
}

/// The target of a GPU by its description, deterministic if `[runtime]` says so.
fn gpu_target(gpu: &Gpu, runtime: &RuntimeConfig) -> Target {
    let target = gpu.target();
    match target.platform {
        Platform::Cuda(cuda) => {
            Target { platform: Platform::Cuda(Cuda { deterministic: runtime.deterministic, ..cuda }), ..target }
        }
        Platform::Generic | Platform::Cpu => target,
    }
}

impl fmt::Display for TargetDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetDevice::Cpu => f.write_str("cpu"),
            TargetDevice::Gpu(gpu) => f.write_str(gpu.name),
            TargetDevice::Generic => f.write_str("generic"),
        }
    }
}

impl FromStr for TargetDevice {
    type Err = String;

    fn from_str(name: &str) -> Result<TargetDevice, String> {
        match name {
            "cpu" => Ok(TargetDevice::Cpu),
            "generic" => Ok(TargetDevice::Generic),
            name => Gpu::named(name).map(TargetDevice::Gpu).map_err(|error| format!("{error}, and cpu and generic")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::run::peak_flops;

    #[test]
    fn every_gpu_has_a_name_and_a_peak() {
        for name in Gpu::names() {
            let device: TargetDevice = name.parse().expect("a name of the list");
            assert_eq!(device.to_string(), name);
            assert!(peak_flops(device.device_name(), Precision::Float32, 0.0).is_some(), "{name} has no peak");
            assert!(device.memory_bytes().is_some() && device.bandwidth().is_some());
        }
        assert_eq!("cpu".parse(), Ok(TargetDevice::Cpu));
        assert_eq!("generic".parse(), Ok(TargetDevice::Generic));
        assert_eq!(TargetDevice::Cpu.device_name(), "cpu");
    }

    #[test]
    fn other_names_are_found_and_wrong_ones_told() {
        let named = |name: &str| name.parse::<TargetDevice>().map(|device| device.to_string());
        assert_eq!(named("a100-80").as_deref(), Ok("a100"));
        assert_eq!(named("A100-40").as_deref(), Ok("a100-40gb"));
        let error = named("h20").expect_err("there is no such GPU");
        assert!(
            error.starts_with("no GPU is called \"h20\"; there are a100, ")
                && error.ends_with(", t4, and cpu and generic"),
            "{error}"
        );
    }
}
