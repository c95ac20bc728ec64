//! `lmc profile`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::output::{print, print_json, say};
use crate::profile::{profile, trace_json};
use crate::run::replace_file;

/// Show where the time of a training step goes, by layer and pass
///
/// The plugin for the CPU has no profiler, so the parts of the step (the ops of a layer in a pass) are compiled and timed
/// apart, on made-up data, beside the whole step. The data of the config need not be there if it says
/// `model.vocab_size`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc profile examples/shakespeare.toml --set model.vocab_size=65 --trace step.json")]
pub struct ProfileArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How often the step and each part are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: u16,
    /// Write a trace for https://ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

pub(super) fn run(args: ProfileArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let device = Device::open(&DeviceOptions::from_config(&config.runtime, args.plugin.plugin))?;
    let profile = profile(&config, &device, usize::from(args.steps))?;
    if let Some(path) = &args.trace {
        replace_file(path, trace_json(&profile).to_string().as_bytes())
            .map_err(|error| Error::input(format!("cannot write {}: {error}", path.display())))?;
        say(format_args!("wrote {}, a trace for https://ui.perfetto.dev", path.display()));
    }
    match args.json {
        true => print_json(&serde_json::to_value(&profile).map_err(|error| Error::run(format!("as JSON: {error}")))?),
        false => print(&profile.to_string()),
    }
}
