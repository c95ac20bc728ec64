//! The program `lmc`.

use std::process::ExitCode;

use clap::Parser;
use lmc::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match lmc::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
