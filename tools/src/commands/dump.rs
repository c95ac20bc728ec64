//! `lmc dump`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::cli::{ConfigArgs, PluginArgs};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inspect::{Backend, Dump, DumpOptions, Stage, dump};
use crate::output::{print, say};
use crate::target::TargetDevice;

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
    #[arg(long, value_parser = stages())]
    pub stage: Stages,
    /// What to make it for.
    #[command(flatten)]
    pub target: TargetArgs,
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

/// What to compile for.
#[derive(Args, Clone, Copy, Debug)]
pub struct TargetArgs {
    /// What to make it for: cpu; a GPU such as h200, a100 or rtx4090, which need not be there; or generic, StableHLO for
    /// other tools
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse_target)]
    pub target: TargetDevice,
}

fn parse_target(name: &str) -> Result<TargetDevice, String> {
    name.parse()
}

/// A stage, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// One, as text.
    One(Stage),
    /// A folder with all of them and an index.
    All,
}

/// The word for all stages.
const ALL: &str = "all";

/// Reads the name of a stage, or [`ALL`].
fn stages() -> impl TypedValueParser<Value = Stages> {
    let one = Stage::ALL.map(|stage| PossibleValue::new(stage.name()).help(stage.about()));
    let all = PossibleValue::new(ALL).help("a folder with all of them and an index");
    PossibleValuesParser::new(one.into_iter().chain([all])).map(|name| {
        let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name);
        stage.map_or(Stages::All, Stages::One)
    })
}

pub(super) fn run(args: DumpArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let backend = Backend::of(args.target.target, &config, args.plugin.plugin);
    let stage = match args.stage {
        Stages::One(stage) => stage,
        Stages::All => {
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
