//! The verbs of the command line, a file each.

mod check;
mod doctor;
mod dump;
mod eval;
mod generate;
mod plugin;
mod saved;
mod train;

use std::io::Write as _;

use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};

/// Does what was typed.
///
/// # Errors
/// Whatever the command fails with; the caller prints it and ends with its exit code.
pub fn run(cli: Cli) -> Result<()> {
    log_to_stderr(cli.global.verbose);
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Check(args) => check::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Plugin(command) => plugin::run(command),
    }
}

/// `-v` shows what lmc decides, `-vv` everything; `RUST_LOG` overrides both.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A second call in one process, as tests make, keeps the first one's setting.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
}

/// Writes a result to stdout. A reader that has gone, as `head` does, is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::run(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object on a line.
fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}
