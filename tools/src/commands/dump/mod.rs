//! `lmc dump`.

mod described;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inspect::{Backend, Dump, DumpOptions, Stage, dump};
use crate::output::{print, say};

/// Print a stage of the training step's compilation
///
/// The same config gives the same bytes. Data are only looked at where the config leaves model.vocab_size to them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lmc dump examples/names.toml --stage stablehlo -o step.mlir\n  lmc dump \
                  examples/names.toml --stage optimized --layer transformer.h.0.attn\n  lmc dump examples/names.toml \
                  --stage all -o dump\n  lmc dump examples/lm-100m.toml --target h200 --stage compiled")]
pub struct DumpArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to print
    #[arg(long, value_enum)]
    pub stage: StageArg,
    /// What to make it for: cpu, or a GPU such as h200, which this machine need not have
    #[arg(long, value_name = "TARGET", default_value = "cpu")]
    pub target: String,
    /// Only what belongs to this layer, forward and backward: a path such as transformer.h.0.attn, with * for any block
    #[arg(long, value_name = "PATH")]
    pub layer: Option<String>,
    /// Write the model's scope and line behind each node of graph, grad and step; stage all always does
    #[arg(long)]
    pub locations: bool,
    /// Write to this file instead of stdout; for stage all the folder
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// A stage, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StageArg {
    /// The loss, in lmc's text form
    Graph,
    /// The loss and its gradient, in lmc's text form
    Grad,
    /// The training step, in lmc's text form
    Step,
    /// The training step in StableHLO, with the model's lines
    Stablehlo,
    /// How each product and each attention was lowered
    Report,
    /// The training step in HLO before XLA's optimizations
    Hlo,
    /// The training step in HLO after them
    Optimized,
    /// Where each value lies in memory, and from when to when
    Buffers,
    /// Of a program for a GPU: what it came to, memory, attentions, products
    Compiled,
    /// Of a program for a GPU: what runs, one after the other, as XLA lists it
    Kernels,
    /// Of a program for a GPU: the machine code's source
    Ptx,
    /// A folder with all of them and an index
    All,
}

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// The CPU
    Cpu,
}

impl TargetArg {
    /// The backend for this target.
    pub fn backend(self, config: &Config, plugin: &PluginArgs) -> Backend {
        match self {
            TargetArg::Cpu => Backend::of(config, plugin.plugin.clone()),
        }
    }
}

pub(super) fn run(args: DumpArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    if args.target != "cpu" {
        return described::run(&args, &config);
    }
    let backend = TargetArg::Cpu.backend(&config, &args.plugin);
    let stage = match args.stage {
        StageArg::Graph => Stage::Graph,
        StageArg::Grad => Stage::Grad,
        StageArg::Step => Stage::Step,
        StageArg::Stablehlo => Stage::Stablehlo,
        StageArg::Report => Stage::Report,
        StageArg::Hlo => Stage::Hlo,
        StageArg::Optimized => Stage::Optimized,
        StageArg::Buffers => Stage::Buffers,
        StageArg::Compiled | StageArg::Kernels | StageArg::Ptx => return Err(described::needs_gpu()),
        StageArg::All => {
            let Some(folder) = &args.output else {
                return Err(Error::input("`--stage all` writes a folder: name it with --output".to_owned()));
            };
            if args.layer.is_some() {
                return Err(Error::input("`--layer` takes part of one stage, and --stage is all: name one".to_owned()));
            }
            let dump = Dump::of(&name_of(&args.config.config), &config, &backend, true)?;
            dump.write(folder)?;
            say(format_args!("{} stages in {}", dump.stages.len(), folder.display()));
            return Ok(());
        }
    };
    let options = DumpOptions { locations: args.locations, layer: args.layer };
    let text = dump(&config, stage, &backend, &options)?;
    match &args.output {
        None => print(&text),
        Some(path) => write(path, &text),
    }
}

/// What a dump of a config is called: the name of the file.
pub(super) fn name_of(config: &Path) -> String {
    config.file_name().map_or_else(|| "config".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Writes a file whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    crate::run::replace_file(path, text.as_bytes())
        .map_err(|error| Error::input(format!("cannot write {}: {error}", path.display())))
}
