//! Runs: training, and what is asked of a run folder.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ConfigArgs, DeviceArgs, ModelArgs, PluginArgs};

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
    /// Continue although this version of lmc makes another training step of the settings than the one that saved
    #[arg(long)]
    pub accept_graph: bool,
    /// Train to this many steps (train.steps)
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// The run folder (train.out_dir)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Generate text with a trained model
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lmc generate runs/names --prompt ma --samples 10 --temperature 0.8\n  \
                  lmc generate Qwen3-0.6B --prompt 'The capital of France is' --max-new-tokens 30")]
pub struct GenerateArgs {
    /// A run folder, a folder of Hugging Face's with config.json and safetensors, or a .safetensors file that a page of
    /// `lmc export --web` saved
    #[arg(value_name = "FOLDER")]
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
    /// How the model is used.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Print one JSON object a sample
    #[arg(long)]
    pub json: bool,
    /// The device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Measure the held-out loss of a trained model, or how well one foretells a text
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lmc eval runs/names --json\n  lmc eval Qwen3-0.6B --perplexity book.txt --context 1024"
)]
pub struct EvalArgs {
    /// A run folder, or with --perplexity any folder of a model
    #[arg(value_name = "FOLDER")]
    pub run: PathBuf,
    /// Measure the perplexity of this text instead of the run's held-out data
    #[arg(long, value_name = "FILE")]
    pub perplexity: Option<PathBuf>,
    /// How the model is used.
    #[command(flatten)]
    pub model: ModelArgs,
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

/// Check that interrupted runs end as an undisturbed one, bit by bit
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc verify-resume examples/names.toml --steps 20")]
pub struct VerifyResumeArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Train to this many steps, in temporary folders below TMPDIR [default: 10, or train.steps if that is less]
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Make the report of a run, a page of plots and numbers, or compare runs
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lmc report runs/names\n  lmc report runs/a runs/b -o comparison.html")]
pub struct ReportArgs {
    /// Run folders; several are compared
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Write the page to this file [default: report.html in the run folder, for several runs comparison.html here]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON object a run with its numbers, and write a page only with --output
    #[arg(long)]
    pub json: bool,
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
