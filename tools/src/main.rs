//! The program `lmc`.

use std::process::ExitCode;

use clap::Parser;
use lmc::cli::Cli;
use lmc::output::say;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match lmc::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
