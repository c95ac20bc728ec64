//! `lmc inspect`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::dump::{TargetArgs, name_of};
use crate::cli::PluginArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inspect::page::page;
use crate::inspect::{Backend, Dump, INDEX};
use crate::output::{print, say};

/// Make a page that shows the training step in all its stages, with operations, bytes and memory by layer
///
/// The page is one file that loads nothing, and is opened by any browser.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lmc inspect examples/names.toml --open\n  lmc inspect examples/names.toml --against dump -o \
                  page.html"
)]
pub struct InspectArgs {
    /// A config file (TOML), or the folder that `lmc dump --stage all` wrote
    #[arg(value_name = "CONFIG|DUMP")]
    pub source: PathBuf,
    /// Change a setting of the config, in TOML
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Show what differs from this one: a config as it is, or a dump
    #[arg(long, value_name = "CONFIG|DUMP")]
    pub against: Option<PathBuf>,
    /// What to compile for.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Show only what is known without XLA: no memory, and no stage after StableHLO
    #[arg(long)]
    pub no_compile: bool,
    /// Write the page to this file
    #[arg(short, long, value_name = "FILE", default_value = "inspect.html")]
    pub output: PathBuf,
    /// Open it in the browser
    #[arg(long)]
    pub open: bool,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

pub(super) fn run(args: InspectArgs) -> Result<()> {
    let dump = |source: &Path, set: &[String]| -> Result<Dump> {
        if source.is_dir() {
            if !source.join(INDEX).is_file() {
                return Err(Error::input(format!(
                    "{} is not a dump, which has an {INDEX}: make one with `lmc dump CONFIG --stage all -o {0}`",
                    source.display()
                )));
            }
            if !set.is_empty() {
                return Err(Error::input("`--set` changes a config, and a dump is given".to_owned()));
            }
            return Dump::read(source);
        }
        let config = Config::read(source, set)?;
        let backend = Backend::of(args.target.target, &config, args.plugin.plugin.clone());
        Dump::of(&name_of(source), &config, &backend, !args.no_compile)
    };
    let shown = dump(&args.source, &args.set)?;
    let against = args.against.as_deref().map(|source| dump(source, &[])).transpose()?;
    super::dump::write(&args.output, &page(&shown, against.as_ref())?)?;
    print(&format!("{}\n", args.output.display()))?;
    if args.open {
        open(&args.output);
    }
    Ok(())
}

/// Opens a file with the program that the desktop has for it. Where there is none, the path was printed.
fn open(path: &Path) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started =
        Command::new(program).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(error) = started {
        say(format_args!("cannot start {program} to open it: {error}"));
    }
}
