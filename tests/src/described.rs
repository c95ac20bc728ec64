//! What tests that compile for GPUs that are not there have in common. Each is a program of its own, with a harness of its
//! own, because it is its own worker.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use lmc_lower::Gpu;
use lmc_runtime::CompileOptions;
use lmc_runtime::deviceless::{Described, DevicelessError, Request, Worker, compile, work};
use lmc_runtime::plugin::{Locations, Search, find};

/// The first argument of the worker.
const WORKER: &str = "compile-worker";

/// A test that takes the CUDA plugin's library.
pub type Test = fn(&Path) -> Result<(), Failed>;

/// The `main` of such a program: works on a folder where it is started as a worker, else runs the tests. Where the plugin is
/// not installed those that take it are listed as ignored, and that is said.
///
/// # Panics
/// If it is started as a worker without a folder.
pub fn main(tests: &[(&str, Test)], without_plugin: Vec<Trial>) -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == WORKER) {
        let folder = PathBuf::from(arguments.next().expect("a folder"));
        return match work(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let plugin = plugin();
    if plugin.is_none() {
        eprintln!("the CUDA plugin is not installed (`lmc plugin install cuda13`): {} tests are ignored", tests.len());
    }
    let trials = tests.iter().map(|&(name, test)| {
        let found = plugin.clone();
        let run = move || found.as_deref().map_or(Err("there is no CUDA plugin".into()), test);
        Trial::test(name, run).with_ignored_flag(plugin.is_none())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.chain(without_plugin).collect()).exit_code()
}

/// The installed CUDA plugin.
fn plugin() -> Option<PathBuf> {
    let locations = Locations { explicit: None, from_environment: None, ..Locations::from_environment(None).ok()? };
    match find("cuda13", &locations).ok()? {
        Search::Found(found) => Some(found.path),
        Search::NotFound { .. } => None,
    }
}

/// The GPU of this name.
///
/// # Panics
/// If there is none.
pub fn gpu(name: &str) -> Gpu {
    Gpu::named(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles a module for one GPU that `target_config` describes, in this program as its own worker.
///
/// # Errors
/// As [`compile`].
///
/// # Panics
/// If the path of this program is not known.
pub fn compile_described(
    plugin: &Path,
    target_config: &str,
    stablehlo: &str,
    options: &CompileOptions,
    ptx: bool,
) -> Result<Described, DevicelessError> {
    let worker = Worker { program: std::env::current_exe().expect("this program"), arguments: vec![WORKER.into()] };
    compile(&worker, &Request { plugin, target_config, topology: "1x1x1", stablehlo, options, ptx })
}
