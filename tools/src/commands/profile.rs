//! `lmc profile`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::output::{print, print_json, say};
use crate::profile::{self, trace_json};
use crate::run::replace_file;

/// Show where the time of a training step goes, by layer and pass
///
/// On a GPU the plugin's profiler records the kernels of some steps, and each is counted to the layer and the pass of its
/// instruction. The plugin for the CPU has no profiler: there the parts of the step (the ops of a layer in a pass) are
/// compiled and timed apart, beside the whole step. The output says which it was. Both run on made-up data; the data of the
/// config need not be there if it says `model.vocab_size`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc profile examples/shakespeare.toml --set model.vocab_size=65 --trace step.json")]
pub struct ProfileArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How often the step and each part are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: u16,
    /// How the parts are measured; unless told, a GPU's kernels are recorded, and on the CPU parts timed apart
    #[arg(long, value_enum)]
    pub method: Option<Method>,
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

/// How the parts of a step are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// By the plugin's profiler, which records every kernel
    Trace,
    /// By a program for each part
    Apart,
}

pub(super) fn run(args: ProfileArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let device = Device::open(&DeviceOptions::from_config(&config.runtime, args.plugin.plugin))?;
    let method = match args.method {
        Some(Method::Trace) => profile::Method::Trace,
        Some(Method::Apart) => profile::Method::Apart,
        None => profile::Method::of(&device),
    };
    let profile = profile::profile(&config, &device, method, usize::from(args.steps))?;
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
