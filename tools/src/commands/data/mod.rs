//! `lmc data`.

mod lint;
mod row;
mod show;

use std::path::Path;

use crate::cli::DataCommand;
use crate::error::Result;

pub(super) fn run(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Show(args) => show::run(args),
        DataCommand::Lint(args) => lint::run(args),
    }
}

/// A path from the current folder on, if it is below it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    relative.unwrap_or(path).display().to_string()
}
