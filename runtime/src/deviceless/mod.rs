//! Compilation for a GPU that a text describes, on a machine that need not have one: with cuDNN's real plans, the memory
//! that the program will take, and the program as XLA made it. What such a compilation proves is that a program lowers,
//! which kernels it has and how much memory it takes; it says nothing about numbers or speed.
//!
//! XLA and cuDNN end the process over some wrong inputs (an incomplete description divides by zero, a missing library
//! aborts), so they run in a child process, the [`Worker`]. Request and outcome are files in a folder between the two.

mod outcome;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, PjrtError};
use crate::location::location_of;
use crate::mend::{mend_of_death, mend_of_message};
use crate::options::CompileOptions;
use crate::pjrt::program::CompiledMemoryStats;
use crate::signature::Signature;

use outcome::{Failure, Outcome, Stage};
pub use worker::work;

/// A program that calls [`work`] with the folder that it is given as its last argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The program.
    pub program: PathBuf,
    /// Its arguments before the folder.
    pub arguments: Vec<OsString>,
}

/// What is to be compiled, and for which GPU.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The CUDA plugin's library, with NVIDIA's libraries beside it.
    pub plugin: &'a Path,
    /// The GPU: a `stream_executor.GpuTargetConfigProto` in protocol buffers' text format, whole and in the words of this
    /// version of the plugin.
    pub target_config: &'a str,
    /// The number of GPUs: `1x1x1` is partitions x hosts of a partition x devices of a host.
    pub topology: &'a str,
    /// The program: a StableHLO module in MLIR's text form.
    pub stablehlo: &'a str,
    /// XLA's debug options. [`compile`] adds those that a compilation without a device needs, unless they are here.
    pub options: &'a CompileOptions,
    /// Whether to give the machine code's source, PTX, which takes longer.
    pub ptx: bool,
}

/// A program as it would run on the GPU described.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The sizes that the compiler planned, in bytes.
    pub memory: CompiledMemoryStats,
    /// XLA's own cost analysis of the program, by name; empty where the plugin gives none.
    pub cost_analysis: BTreeMap<String, f64>,
    /// The program before all optimizations, as HLO text.
    pub hlo: String,
    /// The program after all optimizations, as HLO text.
    pub optimized_hlo: String,
    /// The same as a `HloModuleProtoWithConfig`.
    pub optimized_module: Vec<u8>,
    /// The buffer assignment: which value lies where, and from when to when. `None` where the plugin writes none.
    pub buffers: Option<String>,
    /// What runs, one after the other, as XLA lists it: kernels with their grids, library calls, copies.
    pub thunks: String,
    /// PTX by the name of the file that XLA writes; empty unless asked for.
    pub ptx: BTreeMap<String, String>,
    /// The executable in the plugin's own form, with cuDNN's plans.
    pub serialized: Vec<u8>,
    /// A digest that equal compiled programs have in common.
    pub fingerprint: Vec<u8>,
    /// The most memory that the compilation itself took on this machine, in bytes, where the system says so.
    pub compiler_memory: Option<u64>,
    /// How long it took, with loading the plugin.
    pub elapsed: Duration,
}

/// Why there is no compiled program.
#[derive(Debug, thiserror::Error)]
pub enum DevicelessError {
    /// The worker does not start.
    #[error("cannot start {} to compile in a process of its own: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The plugin cannot be used.
    #[error("{0}")]
    Plugin(String),
    /// The plugin does not take the description of the GPU.
    #[error("XLA does not take the description of the GPU ({}): {}{}", .error.code, .error.message, paragraph(.mend))]
    Target {
        /// What XLA says.
        error: PjrtError,
        /// What to do about it, where that is known.
        mend: Option<&'static str>,
    },
    /// The program is refused, or a file cannot be read or written.
    #[error("{error}{}", paragraph(.mend))]
    Refused {
        /// What XLA says.
        error: Error,
        /// What to do about it, where that is known.
        mend: Option<&'static str>,
    },
    /// The worker ended without an outcome.
    #[error(
        "the process that compiles ended {how}, as XLA and NVIDIA's libraries do over some wrong inputs. {mend}{}",
        said(.stderr)
    )]
    Died {
        /// How it ended: `by signal 8 (SIGFPE)`.
        how: String,
        /// The likely cause, and what to do about it.
        mend: &'static str,
        /// The end of what it said.
        stderr: String,
    },
}

impl From<Error> for DevicelessError {
    fn from(error: Error) -> DevicelessError {
        DevicelessError::Refused { error, mend: None }
    }
}

/// A mend behind a message, on a line of its own.
fn paragraph(mend: &Option<&'static str>) -> String {
    mend.map_or_else(String::new, |mend| format!("\n{mend}"))
}

/// What a process said behind a message.
fn said(stderr: &str) -> String {
    if stderr.is_empty() { " It said nothing.".to_owned() } else { format!(" It said:\n  {stderr}") }
}

/// XLA's debug options for compiling without a device, where the caller has no others.
const DEFAULTS: [(&str, DefaultValue); 2] = [
    // Without this a call of cuDNN is passed on unseen: impossible shapes compile, and workspaces are empty.
    ("xla_gpu_cudnn_deviceless_compilation_mode", DefaultValue::Text("CUDNN_DEVICELESS_COMPILATION_AUTO")),
    // There is no device to try tiles on, so Triton's products would get tiles that no GPU would run; a product by cuBLAS
    // is what it is without trying.
    ("xla_gpu_enable_triton_gemm", DefaultValue::Flag(false)),
];

/// The value of a default.
#[derive(Clone, Copy)]
enum DefaultValue {
    Text(&'static str),
    Flag(bool),
}

/// Compiles a program for a GPU that is described, in a process of its own. Waits for it.
///
/// # Errors
/// When the plugin, the description or the program is refused, each with XLA's message, and when the process dies.
pub fn compile(worker: &Worker, request: &Request<'_>) -> Result<Described, DevicelessError> {
    let start = Instant::now();
    let signature = Signature::of(request.stablehlo)?;
    let folder = tempfile::Builder::new()
        .prefix("lmc-compile-")
        .tempdir()
        .map_err(|e| file_error("cannot make a folder in", &std::env::temp_dir(), e))?;
    outcome::write_request(folder.path(), request, &options_of(request, &outcome::dump_folder(folder.path())))?;
    let (status, stderr) = run(worker, folder.path())?;
    let Some(outcome) = outcome::read(folder.path())? else {
        let stderr = last_lines(&stderr);
        return Err(DevicelessError::Died { how: how(status), mend: mend_of_death(signal(status), &stderr), stderr });
    };
    match outcome {
        Outcome::Compiled(figures) => {
            Ok(outcome::read_program(folder.path(), &signature.module, figures, start.elapsed())?)
        }
        Outcome::Failed(Failure { stage, function: _, code, message }) => {
            let mend = mend_of_message(&message);
            Err(match stage {
                Stage::Plugin => DevicelessError::Plugin(message),
                Stage::Target => {
                    let error = PjrtError { function: "PJRT_TopologyDescription_Create", code, message };
                    DevicelessError::Target { error, mend }
                }
                Stage::Compile => {
                    let location = location_of(&message, request.stablehlo);
                    let error = PjrtError { function: "PJRT_Compile", code, message };
                    let error = Error::Compile { module: signature.module, error, location };
                    DevicelessError::Refused { error, mend }
                }
                Stage::Result => {
                    let error = PjrtError { function: "PJRT_Executable", code, message };
                    DevicelessError::Refused { error: Error::Pjrt(error), mend }
                }
            })
        }
    }
}

/// The request's options with the defaults, and with XLA's files written to `dump`.
fn options_of(request: &Request<'_>, dump: &Path) -> CompileOptions {
    let mut options = request.options.clone();
    for (name, value) in DEFAULTS {
        if !options.debug_options.contains_key(name) {
            options = match value {
                DefaultValue::Text(text) => options.with(name, text),
                DefaultValue::Flag(flag) => options.with(name, flag),
            };
        }
    }
    options = options.with("xla_dump_to", &*dump.to_string_lossy()).with("xla_dump_hlo_as_text", true);
    // Without this the plugin (PJRT 0.116) writes neither PTX nor LLVM's code.
    if request.ptx { options.with("xla_dump_emitter_re", ".*") } else { options }
}

/// Runs the worker on a folder, and gives how it ended and what it said on stderr.
fn run(worker: &Worker, folder: &Path) -> Result<(ExitStatus, String), DevicelessError> {
    let failed = |source| DevicelessError::Start { program: worker.program.clone(), source };
    let mut command = Command::new(&worker.program);
    command.args(&worker.arguments).arg(folder).current_dir(folder);
    // XLA asks LLVM for symbols in every compilation that writes files, which takes seconds.
    command.env("LLVM_DISABLE_SYMBOLIZATION", "1");
    if std::env::var_os("TF_CPP_MIN_LOG_LEVEL").is_none() {
        // Errors: they may be all that a dying process says.
        command.env("TF_CPP_MIN_LOG_LEVEL", "2");
    }
    // The pipe to its stdin closes when this process ends, however that happens, and the worker ends with it.
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut stderr = Vec::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_end(&mut stderr).map_err(failed)?;
    }
    let keep_open = child.stdin.take();
    let status = child.wait().map_err(failed)?;
    drop(keep_open);
    Ok((status, String::from_utf8_lossy(&stderr).into_owned()))
}

/// The signal that ended a process.
fn signal(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    return None;
}

/// How a process ended, in words.
fn how(status: ExitStatus) -> String {
    const NAMES: [(i32, &str); 6] =
        [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (8, "SIGFPE"), (9, "SIGKILL"), (11, "SIGSEGV")];
    match (signal(status), status.code()) {
        (Some(number), _) => match NAMES.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => format!("by signal {number} ({name})"),
            None => format!("by signal {number}"),
        },
        (None, Some(code)) => format!("with exit code {code} and no outcome"),
        (None, None) => "without an outcome".to_owned(),
    }
}

/// The last lines of a text that say something. A stack trace is long; its head is what says something.
fn last_lines(text: &str) -> String {
    /// Enough for the message of an assertion, and the call that made it.
    const LINES: usize = 12;
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.contains("*** Check failure stack trace"))
        .filter(|line| !line.trim_start().starts_with("@ "))
        .collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n  ")
}

/// An error of a file between the processes.
fn file_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { what, path: path.to_owned(), source }
}

/// Reads a file between the processes.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| file_error("cannot read", path, e))
}

/// Writes a file between the processes.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|e| file_error("cannot write", path, e))
}
