//! What is on this machine: plugins and devices.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Show what lmc finds on this machine: plugin, devices, versions, folders
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc doctor")]
pub struct DoctorArgs {
    /// Also compare attention on the device, forward and gradients in all its forms, with float32
    #[arg(long)]
    pub attention: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Which device to run on.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// auto, cpu, cuda, or wasm: an interpreter, which needs no plugin (runtime.device)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
}

/// Which plugin to use.
#[derive(Args, Clone, Debug, Default)]
pub struct PluginArgs {
    /// The PJRT plugin to load, a shared library [default: LMC_PJRT_PLUGIN, else the managed one, else Python's]
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
}

/// Manage the PJRT plugins that lmc fetches
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  lmc plugin install cpu")]
pub enum PluginCommand {
    /// List the plugins lmc knows, and where they are
    List,
    /// Fetch a plugin, verify it and unpack it into lmc's cache folder
    Install {
        /// The plugin's name, from `lmc plugin list`
        #[arg(default_value = "cpu")]
        name: String,
    },
    /// Print the path of the plugin that would be used
    Path {
        /// The plugin's name, from `lmc plugin list`
        #[arg(default_value = "cpu")]
        name: String,
    },
}
