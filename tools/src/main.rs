//! The program `lmc`.

use std::process::ExitCode;

use clap::Parser;
use lmc::cli::Cli;
use lmc::huge_pages::restart_with_huge_pages;
use lmc::output::say;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.command.computes() {
        restart_with_huge_pages();
    }
    match lmc::commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
