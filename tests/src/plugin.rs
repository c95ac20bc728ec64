//! The CPU plugin that all tests of a process share.

use std::sync::OnceLock;

use lmc_graph::{Func, Literal};
use lmc_lower::{Target, lower};
use lmc_runtime::plugin::{Locations, find_or_install};
use lmc_runtime::{Argument, Client, ClientOptions, Executable, Plugin};

/// The client of the CPU plugin, which is fetched when it is nowhere, as the program fetches it.
///
/// # Panics
/// If the plugin can neither be found nor fetched, or does not start: tests that need it then fail, with the reason.
pub fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let locations = Locations::from_environment(None).unwrap_or_else(|error| panic!("{error}"));
        let found = find_or_install("cpu", &locations, &mut |progress| eprintln!("{progress:?}"));
        let found = found.unwrap_or_else(|error| panic!("{error}"));
        let plugin = Plugin::load(&found.path).unwrap_or_else(|error| panic!("{error}"));
        let options = ClientOptions { cpu_device_count: Some(1), ..ClientOptions::default() };
        Client::new(&plugin, &options).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A verified function, lowered and compiled for the CPU as the program does it.
///
/// # Errors
/// What XLA says, and the StableHLO it says it of.
pub fn compile(func: &Func) -> Result<Executable, String> {
    compile_for(func, &lmc::device::cpu_target())
}

/// A verified function, lowered for a target and compiled for the CPU.
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
