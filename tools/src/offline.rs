//! Compilation for a GPU that this machine need not have: XLA's CUDA compiler in a process of its own.

use lmc_lower::{Gpu, Target};
use lmc_runtime::CompileOptions;
use lmc_runtime::deviceless::{Described, DevicelessError, Request, Worker, compile, work};
use lmc_runtime::gpu::{Machine, libraries};
use lmc_runtime::plugin::{Found, Locations, Search, find, managed_plugin};

use crate::cuda::PLUGIN;
use crate::device::compile_options;
use crate::error::{Error, Result};
use crate::run::quantity::with_unit;

/// The hidden subcommand that [`work`]s on a folder.
pub const WORKER_COMMAND: &str = "compile-worker";

/// Compiles a StableHLO module for one GPU that `target_config` describes (see
/// [`Request::target_config`](lmc_runtime::deviceless::Request)). Only for the program `lmc`: it starts itself again.
///
/// # Errors
/// When there is no CUDA plugin on this machine, or XLA refuses the description or the program.
pub fn compile_described(
    target_config: &str,
    stablehlo: &str,
    options: &CompileOptions,
    ptx: bool,
) -> Result<Described> {
    let found = find_cuda_plugin()?;
    let program = std::env::current_exe()
        .map_err(|error| Error::run(format!("cannot find the program lmc, to start it again: {error}")))?;
    let worker = Worker { program, arguments: vec![WORKER_COMMAND.into()] };
    let request = Request { plugin: &found.path, target_config, topology: "1x1x1", stablehlo, options, ptx };
    compile(&worker, &request).map_err(|error| compile_error(&error))
}

/// Compiles a module that was lowered for `target`, a GPU by its name, with the options that a run on it would have. The
/// memory that the program takes is in the result.
///
/// # Errors
/// As [`compile_described`].
pub fn compile_for(gpu: &Gpu, target: &Target, stablehlo: &str, ptx: bool) -> Result<Described> {
    compile_described(gpu.description, stablehlo, &compile_options(target), ptx)
}

/// The CUDA plugin on this machine. It is not fetched unasked: it is more than a gigabyte.
///
/// # Errors
/// When there is none, with the command that fetches it, or when libraries beside it are missing or do not fit.
pub fn find_cuda_plugin() -> Result<Found> {
    let locations = Locations::from_environment(None).map_err(|e| Error::input(e.to_string()))?;
    // What `LMC_PJRT_PLUGIN` names is the plugin to run with, most often the CPU's.
    let locations = Locations { from_environment: None, ..locations };
    match find(PLUGIN, &locations).map_err(|e| Error::run(e.to_string()))? {
        Search::Found(found) => {
            // Some of what may be missing would end the process that compiles without a word of which.
            libraries(&found.path, &Machine::this())
                .check_deviceless()
                .map_err(|problem| Error::run(problem.to_string()))?;
            Ok(found)
        }
        Search::NotFound { looked } => {
            let size = managed_plugin(PLUGIN).map_or(0, |plugin| plugin.download_bytes());
            let size = with_unit(size as f64, "B");
            Err(Error::run(format!(
                "compiling for a GPU takes XLA's CUDA plugin, which is not on this machine:\n  {}\n\
                 `lmc plugin install {PLUGIN}` fetches it with NVIDIA's libraries, {size}",
                looked.join("\n  ")
            )))
        }
    }
}

/// What a compilation without a device fails with.
fn compile_error(error: &DevicelessError) -> Error {
    Error::run(error.to_string())
}

/// The hidden subcommand: compiles what a folder asks for.
///
/// # Errors
/// When the folder is not one that [`compile_described`] made.
pub fn run_worker(folder: &std::path::Path) -> Result<()> {
    work(folder).map_err(|error| Error::run(error.to_string()))
}
