//! Looking at data.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConfigArgs;
use crate::config::{Choice, TokenDType};

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
    /// Rows of the held-out data instead: those of evaluation's micro-batch N, from 0
    #[arg(long)]
    pub held_out: bool,
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
