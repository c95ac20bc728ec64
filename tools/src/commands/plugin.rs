//! `lmc plugin`.

use lmc_runtime::plugin::{Locations, Search, find, install, managed};

use crate::cli::PluginCommand;
use crate::error::{Error, Result};
use crate::installing::Installation;
use crate::output::print;
use crate::run::quantity::with_unit;

pub(super) fn run(command: PluginCommand) -> Result<()> {
    let locations = Locations::from_environment(None).map_err(|e| Error::input(e.to_string()))?;
    match command {
        PluginCommand::List => {
            let mut text = String::new();
            for (name, plugin) in managed() {
                let found = match find(name, &locations).map_err(|e| Error::run(e.to_string()))? {
                    Search::Found(found) => format!("{} ({})", found.path.display(), found.source),
                    Search::NotFound { .. } => {
                        let size = with_unit(plugin.download_bytes() as f64, "B");
                        format!("not installed; `lmc plugin install {name}` fetches {size}")
                    }
                };
                text += &format!("{name:8} {:24} {found}\n", plugin.version);
            }
            print(&text)
        }
        PluginCommand::Install { name } => {
            let mut installation = Installation::default();
            let installed = install(&name, &locations, &mut |progress| installation.show(progress));
            let path = installed.map_err(|e| refuse(&e))?;
            print(&format!("{}\n", path.display()))
        }
        PluginCommand::Path { name } => match find(&name, &locations).map_err(|e| refuse(&e))? {
            Search::Found(found) => print(&format!("{}\n", found.path.display())),
            Search::NotFound { looked } => Err(Error::run(format!(
                "the plugin `{name}` is not on this machine:\n  {}\n`lmc plugin install {name}` fetches it",
                looked.join("\n  ")
            ))),
        },
    }
}

/// An unknown name is the user's input; everything else a failure of the machine.
fn refuse(error: &lmc_runtime::PluginError) -> Error {
    if matches!(error, lmc_runtime::PluginError::UnknownName { .. }) {
        Error::input(error.to_string())
    } else {
        Error::run(error.to_string())
    }
}
