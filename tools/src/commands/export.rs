//! `lmc export`.

use std::path::PathBuf;

use clap::Args;

use super::dump::{name_of, write};
use crate::cli::ConfigArgs;
use crate::config::RawConfig;
use crate::error::{Error, Result, reason};
use crate::output::{print, say};
use crate::web::{Form, PageOptions, page};
use crate::whole_folder::{refuse_content, whole_folder};

/// Make a page that trains the model in any browser
///
/// The page is opened from disk, on any computer or phone, and loads nothing from anywhere: it has the data, and the
/// training step as WebAssembly. It offers the config's size and some others.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lmc export --web examples/microgpt.toml\n  lmc export --web examples/microgpt.toml \
                  --single-file -o names.html\n\nFor a folder that transformers loads, see lmc checkpoint export."
)]
pub struct ExportArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// As a page for browsers
    #[arg(long, required = true)]
    pub web: bool,
    /// Everything in one file of HTML
    #[arg(long)]
    pub single_file: bool,
    /// Only the size of the config
    #[arg(long)]
    pub one_size: bool,
    /// The folder to make, or the file [default: the config's name with -web, or with .html]
    #[arg(short, long, value_name = "DIR|FILE")]
    pub output: Option<PathBuf>,
}

pub(super) fn run(args: ExportArgs) -> Result<()> {
    let ConfigArgs { config, set } = &args.config;
    let name = name_of(config);
    let stem = config.file_stem().map_or_else(|| "page".into(), |stem| stem.to_string_lossy().into_owned());
    let form = if args.single_file { Form::SingleFile } else { Form::Folder };
    let out = args.output.unwrap_or_else(|| match form {
        Form::Folder => PathBuf::from(format!("{stem}-web")),
        Form::SingleFile => PathBuf::from(format!("{stem}.html")),
    });
    let raw = RawConfig::read(config, set)?;
    if form == Form::Folder {
        refuse_content(&out)?;
    }
    let files = page(&raw, &PageOptions { name, one_size: args.one_size }, form)?;
    match form {
        Form::SingleFile => write(&out, &files[0].1)?,
        Form::Folder => {
            let add_all = whole_folder(&out, |add| {
                files
                    .iter()
                    .try_for_each(|(name, text)| add(name, &|file| std::io::Write::write_all(file, text.as_bytes())))
            });
            add_all.map_err(|error| Error::input(format!("cannot write {}: {}", out.display(), reason(&error))))?;
        }
    }
    let opened = if form == Form::Folder { out.join(&files[0].0) } else { out };
    say("open it in a browser; it needs no server");
    print(&format!("{}\n", opened.display()))
}
