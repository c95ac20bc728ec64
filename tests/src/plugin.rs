//! The device that all tests of a process share: the CPU, unless `LMC_TEST_DEVICE` is `cuda`.
//!
//! On a GPU, results in f32 are compared as on the CPU, which products in TF32 do not meet: set `NVIDIA_TF32_OVERRIDE=0` and
//! `XLA_FLAGS=--xla_gpu_enable_triton_gemm=false` there.

use std::env;
use std::sync::OnceLock;

use lmc::DeviceOptions;
use lmc::config::DeviceKind;
use lmc::device::Device;
use lmc_graph::{Func, Literal};
use lmc_lower::{Target, lower};
use lmc_runtime::{Argument, Client, Executable};

/// The device, whose plugin is fetched when it is nowhere, as the program fetches it.
///
/// # Panics
/// If the plugin can neither be found nor fetched, or does not start: tests that need it then fail, with the reason.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let kind = match env::var("LMC_TEST_DEVICE").as_deref() {
            Ok("cuda") => DeviceKind::Cuda,
            Ok("cpu") | Err(_) => DeviceKind::Cpu,
            Ok(other) => panic!("LMC_TEST_DEVICE is cpu or cuda, found {other}"),
        };
        Device::open(&DeviceOptions { kind, ..DeviceOptions::default() }).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// The client of the device's plugin.
///
/// # Panics
/// As [`device`].
pub fn client() -> &'static Client {
    device().client().expect("a device of a plugin")
}

/// A verified function, lowered and compiled for the device as the program does it.
///
/// # Errors
/// What XLA says, and the StableHLO it says it of.
pub fn compile(func: &Func) -> Result<Executable, String> {
    compile_for(func, device().target())
}

/// A verified function, lowered for a target and compiled for the device.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(func: &Func, target: &Target) -> Result<Executable, String> {
    let lowered = lower(func, target);
    client()
        .compile(&lowered.text, &lmc::device::compile_options(target))
        .map_err(|error| format!("@{} does not compile: {error}\n{}", func.name, lowered.text))
}

/// What a program returns for these arguments.
///
/// # Errors
/// What the plugin says.
pub fn execute(program: &Executable, args: &[Literal]) -> Result<Vec<Literal>, String> {
    let buffers: Vec<_> = args.iter().map(|arg| client().buffer(arg)).collect::<Result<_, _>>().map_err(text)?;
    let results = program.execute(buffers.iter().map(Argument::from).collect()).map_err(text)?;
    results.iter().map(|result| result.to_literal().map_err(text)).collect()
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
