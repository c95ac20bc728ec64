//! The command line: what can be typed, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Train language models: a graph, its gradient, StableHLO, XLA.
#[derive(Debug, Parser)]
#[command(name = "lmc", version, max_term_width = 120, arg_required_else_help = true)]
pub struct Cli {
    /// The verb, with its arguments.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Say more on stderr (-v: what lmc decides; -vv: everything, with XLA's own messages)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model: continues the run folder's newest checkpoint, or starts a new run
    Train(TrainArgs),
    /// Generate text with a trained model
    Generate(GenerateArgs),
    /// Measure the held-out loss of a trained model
    Eval(EvalArgs),
    /// Check a config and its data, and list the parameters, without touching a device
    Check(CheckArgs),
    /// Print a stage of the training step's compilation
    Dump(DumpArgs),
    /// Show what lmc finds on this machine: plugin, devices, versions, folders
    Doctor(DoctorArgs),
    /// Manage the PJRT plugins that lmc fetches
    #[command(subcommand)]
    Plugin(PluginCommand),
}

/// A config file and changes to it.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The config file (TOML)
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// Change a setting, in TOML: --set train.steps=500 --set 'data.train="names.txt"'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Train a model: continues the run folder's newest checkpoint, or starts a new run
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc train examples/names.toml --set train.steps=500")]
pub struct TrainArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Start over; an earlier run in the folder is kept under another name
    #[arg(long)]
    pub fresh: bool,
    /// Train to this many steps (train.steps)
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// The run folder (train.out_dir)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Generate text with a trained model
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc generate runs/names --prompt ma --samples 10 --temperature 0.8")]
pub struct GenerateArgs {
    /// A run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The text to continue
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// How many samples [default: sample.count of the run]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// The most tokens of a sample [default: sample.max_new_tokens of the run]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// 0 takes the most likely token; below 1 is safer, above 1 bolder [default: sample.temperature of the run]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Sample among the K most likely tokens only; 0 is all [default: sample.top_k of the run]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability; 1 is all [default: sample.top_p of the run]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// The same seed gives the same text [default: train.seed of the run]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Which weights.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Print one JSON object a sample
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Measure the held-out loss of a trained model
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc eval runs/names --json")]
pub struct EvalArgs {
    /// A run folder
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Which weights.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Check a config and its data, and list the parameters, without touching a device
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc check examples/names.toml --json")]
pub struct CheckArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A stage of compilation that `dump` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The loss of a micro-batch, as lmc's graph
    Graph,
    /// The loss and its gradient, as lmc's graph
    Grad,
    /// The whole training step, as StableHLO
    Stablehlo,
    /// The whole training step after XLA's optimizations, as HLO
    Optimized,
    /// What each product and each attention of the training step became, and why
    Report,
}

/// Print a stage of the training step's compilation
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc dump examples/names.toml --stage stablehlo -o step.mlir")]
pub struct DumpArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to print
    #[arg(long, value_enum)]
    pub stage: Stage,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Show what lmc finds on this machine: plugin, devices, versions, folders
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc doctor")]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Which weights of a run to use.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct WeightsArgs {
    /// The weights to use [default: averaged, if the run keeps an average (train.ema_decay)]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub weights: Option<Weights>,
}

/// Weights that a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Those that the last step made
    Trained,
    /// Their moving average
    Averaged,
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
