//! `lmc plan`.

use clap::Args;

use super::dump::TargetArgs;
use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::device::DeviceOptions;
use crate::error::{Error, Result};
use crate::output::{print, print_json};
use crate::plan::{PlanOptions, plan};

/// Tell what a run will take, before its first step: memory, time, whether it fits
///
/// The figures are those of the compiled program where a plugin for the target is there (the CPU's, and for a GPU that of
/// `lmc plugin install cuda13`, which needs no GPU), and lmc's own estimate otherwise. The data need not be there if the
/// config says `model.vocab_size`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc plan examples/lm-100m.toml --target rtx4090")]
pub struct PlanArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to plan for.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Estimate, and compile nothing
    #[arg(long)]
    pub estimate: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

pub(super) fn run(args: PlanArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let device = DeviceOptions::from_config(&config.runtime, args.plugin.plugin);
    let plan = plan(&config, &PlanOptions { target: args.target.target, compile: !args.estimate, device })?;
    match args.json {
        true => {
            let value =
                serde_json::to_value(&plan).map_err(|error| Error::run(format!("the plan as JSON: {error}")))?;
            print_json(&value)
        }
        false => print(&plan.to_string()),
    }
}
