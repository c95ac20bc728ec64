//! Checkpoints of a run.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Weights;

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
        /// The weights to export
        #[arg(long, value_enum, value_name = "WHICH", default_value_t = Weights::Trained)]
        weights: Weights,
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
