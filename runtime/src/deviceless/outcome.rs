//! The files between the process that asks and the one that compiles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Described, Request, file_error, read_file, write_file};
use crate::error::{Error, ErrorCode};
use crate::options::CompileOptions;
use crate::pjrt::program::CompiledMemoryStats;

/// The small part of a request; programs and options are files of their own.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Order {
    pub(super) plugin: PathBuf,
    pub(super) topology: String,
}

/// What became of a request. The worker's last file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Outcome {
    /// The program is in the folder.
    Compiled(Figures),
    /// There is none.
    Failed(Failure),
}

/// What is known of a compiled program beside its files.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Figures {
    pub(super) compiler_memory: Option<u64>,
    pub(super) memory: CompiledMemoryStats,
    pub(super) cost_analysis: BTreeMap<String, f64>,
}

/// An error that the worker lived to tell.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) function: String,
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

/// Where it failed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Stage {
    /// Loading the plugin, or the driver before it.
    Plugin,
    /// Reading the description of the GPU.
    Target,
    /// Compiling.
    Compile,
    /// Asking for what was compiled.
    Result,
}

pub(super) const ORDER: &str = "order.toml";
pub(super) const TARGET_CONFIG: &str = "target_config.txtpb";
pub(super) const PROGRAM: &str = "program.mlir";
pub(super) const OPTIONS: &str = "options.pb";
pub(super) const OUTCOME: &str = "outcome.toml";
pub(super) const OPTIMIZED: &str = "optimized.pb";
pub(super) const SERIALIZED: &str = "serialized.bin";
pub(super) const FINGERPRINT: &str = "fingerprint.bin";

/// The number of a device in compile options that stands for none.
const NO_DEVICE: i64 = -1;

/// Where XLA writes its own files.
pub(super) fn dump_folder(folder: &Path) -> PathBuf {
    folder.join("dump")
}

pub(super) fn write_request(folder: &Path, request: &Request<'_>, options: &CompileOptions) -> Result<(), Error> {
    // The worker runs in another folder.
    let plugin = std::path::absolute(request.plugin).map_err(|e| file_error("cannot find", request.plugin, e))?;
    let order = Order { plugin, topology: request.topology.to_owned() };
    let order = toml::to_string(&order).map_err(|e| broken(&folder.join(ORDER), &e))?;
    write_file(&folder.join(ORDER), order.as_bytes())?;
    write_file(&folder.join(TARGET_CONFIG), request.target_config.as_bytes())?;
    write_file(&folder.join(PROGRAM), request.stablehlo.as_bytes())?;
    write_file(&folder.join(OPTIONS), &options.encode_for_device(NO_DEVICE))
}

/// What the worker says; `None` where it did not come to say anything.
pub(super) fn read(folder: &Path) -> Result<Option<Outcome>, Error> {
    let path = folder.join(OUTCOME);
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&read_file(&path)?).into_owned();
    toml::from_str(&text).map(Some).map_err(|e| broken(&path, &e))
}

/// The program that the worker left.
pub(super) fn read_program(
    folder: &Path,
    module: &str,
    figures: Figures,
    elapsed: Duration,
) -> Result<Described, Error> {
    let Figures { compiler_memory, memory, cost_analysis } = figures;
    let dump = dump_folder(folder);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&dump).map_err(|e| file_error("cannot read", &dump, e))?.flatten() {
        files.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    // XLA names files `module_0001.NAME.before_optimizations.txt`,
    // `module_0001.NAME.sm_9.0a_gpu_after_optimizations.txt`; other files of the stage have more words behind a hyphen
    // (`…after_optimizations-buffer-assignment.txt`). Small modules beside the main one, which XLA makes for itself,
    // have files of their own.
    let find = |end: &str| -> Result<Option<String>, Error> {
        let of_module = |name: &&String| name.ends_with(end) && name.contains(&format!(".{module}."));
        let path = files.keys().find(of_module).and_then(|name| files.get(name));
        path.map(|path| Ok(String::from_utf8_lossy(&read_file(path)?).into_owned())).transpose()
    };
    let text_of = |end: &str| -> Result<String, Error> {
        find(end)?.ok_or_else(|| Error::NoDump { module: module.to_owned(), dir: dump.clone() })
    };
    let mut ptx = BTreeMap::new();
    for (name, path) in files.iter().filter(|(name, _)| name.ends_with(".ptx")) {
        ptx.insert(name.clone(), String::from_utf8_lossy(&read_file(path)?).into_owned());
    }
    Ok(Described {
        memory,
        cost_analysis,
        hlo: text_of(".before_optimizations.txt")?,
        optimized_hlo: text_of("gpu_after_optimizations.txt")?,
        optimized_module: read_file(&folder.join(OPTIMIZED))?,
        buffers: find("gpu_after_optimizations-buffer-assignment.txt")?,
        thunks: text_of("thunk_sequence.txt")?,
        ptx,
        serialized: read_file(&folder.join(SERIALIZED))?,
        fingerprint: read_file(&folder.join(FINGERPRINT))?,
        compiler_memory,
        elapsed,
    })
}

/// A file that is not in the form that the other process writes.
pub(super) fn broken(path: &Path, error: &dyn std::fmt::Display) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
    file_error("cannot make sense of", path, source)
}
