//! The command line: what can be typed, and its help. The arguments of the verbs that look inside of a step stand beside
//! their commands, those of the others here by what they are about.

mod checkpoint;
mod data;
mod machine;
mod models;
mod run;
mod tokenizing;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use checkpoint::{CheckpointCommand, ExportDType, KeepArgs};
pub use data::{DataCommand, DataLintArgs, DataShowArgs};
pub use machine::{DeviceArgs, DoctorArgs, PluginArgs, PluginCommand};
pub use models::{AttentionArgs, ChatArgs, ComputeDType, ModelArgs};
pub use run::{EvalArgs, GenerateArgs, ReportArgs, TrainArgs, VerifyResumeArgs, Weights, WeightsArgs};
pub use tokenizing::{
    DocumentsArg, InputArgs, InputFormat, ShardFormatArg, SplitArg, TokenizeArgs, TokenizerCommand, TrainTokenizerArgs,
};

use crate::commands::{DumpArgs, ExplainArgs, InspectArgs};

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
    /// Serve a model over HTTP, by OpenAI's protocol
    Serve(crate::commands::serve::ServeArgs),
    /// Show what attention sees in a text, layer by layer and head by head, as tensors and pictures
    Attention(AttentionArgs),
    /// Talk with a model in the terminal
    Chat(ChatArgs),
    /// Measure the held-out loss of a trained model, or how well one foretells a text
    Eval(EvalArgs),
    /// Check a config and its data, and list the parameters, without touching a device
    Check(CheckArgs),
    /// Tell what a run will take, before its first step: memory, time, whether it fits
    Plan(crate::commands::plan::PlanArgs),
    /// Show where the time of a training step goes, by layer and pass
    Profile(crate::commands::profile::ProfileArgs),
    /// Look at data: print batches as a model sees them, or find what is wrong with files
    #[command(subcommand)]
    Data(DataCommand),
    /// List, verify, compare, prune and export the checkpoints of a run
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Check that interrupted runs end as an undisturbed one, bit by bit
    VerifyResume(VerifyResumeArgs),
    /// Find the first step and the first tensor in which two runs part
    DiffRuns(crate::commands::diff_runs::DiffRunsArgs),
    /// Check the derivative of a config's model against central differences
    Gradcheck(crate::commands::gradcheck::GradcheckArgs),
    /// Print a stage of the training step's compilation
    Dump(DumpArgs),
    /// Say what each product and each attention of the training step became, why, and what would make it faster
    Explain(ExplainArgs),
    /// Make a page that shows the training step in all its stages, with operations, bytes and memory by layer
    Inspect(InspectArgs),
    /// Make the report of a run, a page of plots and numbers, or compare runs
    Report(ReportArgs),
    /// Make a page that trains the model in any browser
    Export(crate::commands::export::ExportArgs),
    /// Turn text into token shards
    Tokenize(TokenizeArgs),
    /// Make a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Write a model's weights in few bits
    Quantize(crate::commands::quantize::QuantizeArgs),
    /// Time the parts of a training step on this machine, against the plainest form of each
    Bench(crate::commands::bench::BenchArgs),
    /// Show what lmc finds on this machine: plugin, devices, versions, folders
    Doctor(DoctorArgs),
    /// Manage the PJRT plugins that lmc fetches
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Compile what a folder asks for; lmc starts itself with this
    #[command(hide = true)]
    CompileWorker {
        /// The folder
        folder: PathBuf,
    },
}

impl Command {
    /// Whether it computes on a device for long.
    pub fn computes(&self) -> bool {
        matches!(
            self,
            Command::Train(_)
                | Command::Generate(_)
                | Command::Serve(_)
                | Command::Chat(_)
                | Command::Eval(_)
                | Command::Bench(_)
        )
    }
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
