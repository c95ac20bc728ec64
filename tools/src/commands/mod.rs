//! The verbs of the command line, a file each.

mod attention;
pub(crate) mod bench;
mod chat;
mod check;
mod checkpoint;
mod data;
pub(crate) mod diff_runs;
mod doctor;
mod dump;
mod eval;
mod explain;
pub(crate) mod export;
mod generate;
pub(crate) mod gradcheck;
mod inspect;
pub(crate) mod plan;
mod plugin;
mod pretrained;
pub(crate) mod profile;
pub(crate) mod quantize;
mod report;
pub(crate) mod serve;
mod show_attention;
mod tokenize;
mod tokenizer;
mod train;
mod verify_resume;

use tracing_subscriber::EnvFilter;

pub use dump::DumpArgs;
pub use explain::ExplainArgs;
pub use inspect::InspectArgs;

use crate::cli::{Cli, Command};
use crate::error::Result;

/// Does what was typed.
///
/// # Errors
/// Whatever the command fails with; the caller prints it and ends with its exit code.
pub fn run(cli: Cli) -> Result<()> {
    log_to_stderr(cli.global.verbose);
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Attention(args) => show_attention::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Check(args) => check::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Data(command) => data::run(command),
        Command::Checkpoint(command) => checkpoint::run(command),
        Command::VerifyResume(args) => verify_resume::run(args),
        Command::DiffRuns(args) => diff_runs::run(args),
        Command::Gradcheck(args) => gradcheck::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Report(args) => report::run(args),
        Command::Export(args) => export::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Tokenizer(command) => tokenizer::run(command),
        Command::Quantize(args) => quantize::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Plugin(command) => plugin::run(command),
        Command::CompileWorker { folder } => crate::offline::run_worker(&folder),
    }
}

/// `-v` shows what lmc decides, `-vv` everything; `RUST_LOG` overrides both.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // A closed stderr is no reason to stop, and the subscriber would tell of it by `eprintln!`.
    let subscriber = subscriber.log_internal_errors(false);
    // A second call in one process, as tests make, keeps the first one's setting.
    let _ = subscriber.try_init();
}
