//! The command line: what can be typed, and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{DumpArgs, ExplainArgs, InspectArgs};
use crate::config::{Choice, TokenDType};

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
    /// Measure the held-out loss of a trained model
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
    /// Turn text into token shards
    Tokenize(TokenizeArgs),
    /// Make a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
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
            Command::Train(_) | Command::Generate(_) | Command::Serve(_) | Command::Eval(_) | Command::Bench(_)
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

/// Look at data: print batches as a model sees them, or find what is wrong with files
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  lmc data show examples/names.toml --step 100")]
pub enum DataCommand {
    /// Print rows of a training batch as text, with document ends, what is not predicted, and where each row comes from
    Show(DataShowArgs),
    /// Find what is wrong with text or token shards: exit code 2 if training on them would fail or be wrong
    Lint(DataLintArgs),
}

/// Print rows of a training batch as text, with document ends, what is not predicted, and where each row comes from
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc data show examples/names.toml --step 100 --rows 8")]
pub struct DataShowArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The step whose batch is printed, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub step: u64,
    /// How many of its rows
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub rows: usize,
    /// Print one JSON object a row
    #[arg(long)]
    pub json: bool,
}

/// Find what is wrong with text or token shards: exit code 2 if training on them would fail or be wrong
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc data lint shards/*.bin --end-of-document 50256")]
pub struct DataLintArgs {
    /// A config (TOML), or files: token shards if their names end in .bin, else text
    #[arg(value_name = "CONFIG|FILE", required = true)]
    pub paths: Vec<PathBuf>,
    /// Change a setting of the config, in TOML
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Take each line of a text as a document
    #[arg(long)]
    pub lines: bool,
    /// Ids of shards must be below this [default: what the shards.json beside them says]
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// The id that ends a document in shards [default: what the shards.json beside them says]
    #[arg(long, value_name = "ID")]
    pub end_of_document: Option<u32>,
    /// The type of a token in raw shards, uint16 or uint32 [default: what the shards.json beside them says, else uint16]
    #[arg(long, value_name = "DTYPE", value_parser = token_dtype)]
    pub token_dtype: Option<TokenDType>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn token_dtype(word: &str) -> Result<TokenDType, String> {
    let known = TokenDType::ALL.iter().find(|(name, _)| *name == word);
    known.map(|(_, dtype)| *dtype).ok_or_else(|| "it is one of uint16, uint32".to_owned())
}

/// List, verify, compare, prune and export the checkpoints of a run
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  lmc checkpoint export runs/names exported --dtype bfloat16")]
pub enum CheckpointCommand {
    /// List the checkpoints: step, size, held-out loss, whether whole, and why each is kept
    #[command(after_help = "Example:\n  lmc checkpoint list runs/names")]
    List {
        /// A run folder
        #[arg(value_name = "RUN")]
        run: PathBuf,
        /// Print one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Compare every file and tensor with its hash; exit 1 if one is damaged, which is named
    #[command(after_help = "Example:\n  lmc checkpoint verify runs/names")]
    Verify {
        /// A run folder, for all its checkpoints, or the folder of one
        #[arg(value_name = "RUN|CHECKPOINT")]
        path: PathBuf,
        /// Print one JSON list
        #[arg(long)]
        json: bool,
    },
    /// Compare two checkpoints tensor by tensor; exit 1 if they differ
    #[command(after_help = "Example:\n  lmc checkpoint diff runs/names runs/names-1")]
    Diff {
        /// A checkpoint's folder, or a run folder for its newest
        #[arg(value_name = "FIRST")]
        first: PathBuf,
        /// The other one
        #[arg(value_name = "SECOND")]
        second: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove old checkpoints, by the settings of the run unless told otherwise; damaged ones are left alone
    #[command(after_help = "Example:\n  lmc checkpoint prune runs/names --keep-last 1 --dry-run")]
    Prune {
        /// A run folder
        #[arg(value_name = "RUN")]
        run: PathBuf,
        /// What to keep.
        #[command(flatten)]
        keep: KeepArgs,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write a folder that transformers loads: weights, config.json, tokenizer
    #[command(after_help = "Example:\n  lmc checkpoint export runs/names exported --dtype bfloat16")]
    Export {
        /// A run folder, for its newest checkpoint, or the folder of one
        #[arg(value_name = "RUN|CHECKPOINT")]
        path: PathBuf,
        /// The folder to make
        #[arg(value_name = "OUT")]
        out: PathBuf,
        /// The type of the weights there
        #[arg(long, value_enum, default_value_t = ExportDType::Float32)]
        dtype: ExportDType,
    },
}

/// Which checkpoints to keep: those that any of the three asks for.
#[derive(Args, Clone, Copy, Debug)]
pub struct KeepArgs {
    /// Keep so many of the newest; 0 is all [default: train.keep_last of the run]
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u64>,
    /// Keep those whose step is a multiple of this [default: train.keep_every of the run]
    #[arg(long, value_name = "STEPS")]
    pub keep_every: Option<u64>,
    /// Keep so many of those with the lowest held-out loss [default: train.keep_best of the run]
    #[arg(long, value_name = "N")]
    pub keep_best: Option<u64>,
}

/// The type of exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportDType {
    /// As they were trained
    Float32,
    /// Half the size, rounded to 8 bits of precision
    Bfloat16,
    /// Half the size, rounded to 11 bits of precision, up to 65504
    Float16,
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

/// What a file of text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentsArg {
    /// The file is one document
    File,
    /// Every line is one
    Lines,
    /// They are separated by blank lines
    Paragraphs,
}

/// What files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// Text
    Text,
    /// A JSON object a line
    Jsonl,
    /// Parquet
    Parquet,
}

/// The form of a token shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShardFormatArg {
    /// A header of 256 words (magic 20240520), then the ids, as llm.c reads
    Header,
    /// The ids alone
    Raw,
}

/// Files to read and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reading")]
pub struct InputArgs {
    /// Files, folders or patterns ('*', '?', '[a-z]', '**'): text, JSON lines (.jsonl, .ndjson, .json), Parquet; text
    /// and JSON also as .gz or .zst
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// What the files hold [default: what their names say; text where they say nothing]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub input_format: Option<InputFormat>,
    /// The field of a JSON object, or the column of a Parquet file, that has the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// Refuse a document, or a line of JSON, that is longer; so much, and a few times that for its tokens, may have to be
    /// held in memory
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2048))]
    pub max_document_mb: u32,
    /// Pass over documents that cannot be read (broken JSON, no text, not UTF-8, too long), and count them
    #[arg(long)]
    pub skip_invalid: bool,
    /// Threads that work [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// Turn text into token shards
///
/// Writes train-00000.bin and so on, val-00000.bin and so on for what is held out, shards.json, which describes them, and
/// a copy of the tokenizer. Every document is followed by the document end; empty documents are passed over. Special
/// tokens that are spelt out in a text become these tokens, as with Hugging Face's encoder. The output is the same
/// whatever the number of threads.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  lmc tokenize 'books/*.jsonl.zst' --tokenizer tokenizer.json --val-fraction 0.01 -o shards"
)]
pub struct TokenizeArgs {
    /// What to read.
    #[command(flatten)]
    pub input: InputArgs,
    /// What a file of text is made of
    #[arg(long, value_enum, default_value_t = DocumentsArg::File, help_heading = "Reading")]
    pub documents: DocumentsArg,
    /// A tokenizer.json, or the word byte
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// The token that ends a document [default: the special token with a usual name for it]
    #[arg(long, value_name = "TOKEN")]
    pub end_of_document: Option<String>,
    /// The output folder
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// The form of a shard; ids have two bytes for a vocabulary of at most 65,536 tokens, else four
    #[arg(long, value_enum, default_value_t = ShardFormatArg::Header)]
    pub format: ShardFormatArg,
    /// A shard ends before the document that would bring it beyond this many tokens
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub shard_tokens: u32,
    /// Hold out about this part of the documents, drawn by their text and the seed
    #[arg(long, value_name = "PART")]
    pub val_fraction: Option<f64>,
    /// Hold out this many documents, drawn by their text and the seed; reads the inputs twice
    #[arg(long, value_name = "N", conflicts_with = "val_fraction")]
    pub val_documents: Option<u64>,
    /// Decides which documents are held out
    #[arg(long, default_value_t = 1337)]
    pub seed: u64,
    /// Put the new shards in place of those in the output folder
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Make a tokenizer
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE
    Train(TrainTokenizerArgs),
}

/// How text is split into words before pairs are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitArg {
    /// GPT-2's regex: letters, numbers and the rest apart, each with at most one space before
    Gpt2,
    /// Llama 3's: numbers by three digits, line breaks with the marks before
    Llama3,
    /// Qwen2's: as Llama 3's, with single digits
    Qwen2,
}

/// Train a byte-level BPE
///
/// Writes a tokenizer.json that Hugging Face's libraries load. The same text gives the same tokenizer, whatever the
/// number of threads. Memory grows with the number of distinct words.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc tokenizer train books.txt --vocab-size 32000 -o tokenizer.json")]
pub struct TrainTokenizerArgs {
    /// What to read.
    #[command(flatten)]
    pub input: InputArgs,
    /// The tokenizer.json to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Tokens of the tokenizer, special tokens and the 256 bytes included
    #[arg(long, value_name = "N", default_value_t = 32_000)]
    pub vocab_size: usize,
    /// How text is split into words before pairs are counted
    #[arg(long, value_enum, default_value_t = SplitArg::Llama3)]
    pub split: SplitArg,
    /// A special token, also given several times; they have the first ids
    #[arg(long = "special-token", value_name = "TOKEN", default_value = crate::tokenizer::END_OF_DOCUMENT)]
    pub special_tokens: Vec<String>,
    /// A pair must be met this often to become a token
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_frequency: u64,
    /// Write over the file that is there
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
