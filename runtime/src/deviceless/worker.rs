//! The process that compiles.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::thread;

use super::outcome::{
    FINGERPRINT, Failure, Figures, OPTIMIZED, OPTIONS, ORDER, OUTCOME, Order, Outcome, PROGRAM, SERIALIZED, Stage,
    TARGET_CONFIG, broken,
};
use super::{read_file, write_file};
use crate::error::{Error, ErrorCode, PjrtError};
use crate::executable::number;
use crate::pjrt::calls::NamedValue;
use crate::pjrt::driver::load_driver;
use crate::pjrt::topology::TopologyHandle;
use crate::plugin::Plugin;
use crate::process::process_peak_memory_bytes;

/// Compiles what the folder asks for and leaves the outcome there: all that a [`Worker`](super::Worker) does. Ends the
/// process when its stdin is closed, as then whoever asked is gone.
///
/// # Errors
/// When the folder cannot be read or written. Everything else is an outcome.
pub fn work(folder: &Path) -> Result<(), Error> {
    thread::spawn(|| {
        // An error is the end of it, too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let text = |name: &str| -> Result<String, Error> {
        let path = folder.join(name);
        String::from_utf8(read_file(&path)?).map_err(|e| broken(&path, &e))
    };
    let order: Order = toml::from_str(&text(ORDER)?).map_err(|e| broken(&folder.join(ORDER), &e))?;
    let (target_config, program) = (text(TARGET_CONFIG)?, text(PROGRAM)?);
    let options = read_file(&folder.join(OPTIONS))?;
    let outcome = match compile(folder, &order, target_config, &program, &options)? {
        Ok(outcome) => outcome,
        Err(failure) => Outcome::Failed(failure),
    };
    let path = folder.join(OUTCOME);
    let outcome = toml::to_string(&outcome).map_err(|e| broken(&path, &e))?;
    // Under its name only when it is whole: this process may be ended at any moment.
    let unfinished = folder.join("outcome.unfinished");
    write_file(&unfinished, outcome.as_bytes())?;
    std::fs::rename(&unfinished, &path).map_err(|e| super::file_error("cannot write", &path, e))
}

/// The outer error is one of files, the inner one of what was asked.
fn compile(
    folder: &Path,
    order: &Order,
    target_config: String,
    program: &str,
    options: &[u8],
) -> Result<Result<Outcome, Failure>, Error> {
    // Before the plugin, which looks for the driver when it is loaded.
    let driver = load_driver(folder).map_err(|e| super::file_error("cannot load the stand-in for", folder, e))?;
    tracing::debug!(?driver, "the CUDA driver");
    let plugin = match Plugin::load(&order.plugin) {
        Ok(plugin) => plugin,
        Err(error) => {
            let (function, message) = ("GetPjrtApi".to_owned(), error.to_string());
            return Ok(Err(Failure { stage: Stage::Plugin, function, code: ErrorCode::NotFound, message }));
        }
    };
    let described = BTreeMap::from([
        ("target_config".to_owned(), NamedValue::String(target_config)),
        ("topology".to_owned(), NamedValue::String(order.topology.clone())),
    ]);
    let topology = match TopologyHandle::create(plugin.api(), &described) {
        Ok(topology) => topology,
        Err(error) => return Ok(Err(failure(Stage::Target, error))),
    };
    let compiled = match topology.compile(program, options) {
        Ok(compiled) => compiled,
        Err(error) => return Ok(Err(failure(Stage::Compile, error))),
    };
    let asked =
        || Ok((compiled.memory_stats()?, compiled.optimized()?, compiled.serialize()?, compiled.fingerprint()?));
    let (memory, (_, optimized), serialized, fingerprint) = match asked() {
        Ok(answers) => answers,
        Err(error) => return Ok(Err(failure(Stage::Result, error))),
    };
    // What a plugin does not say is left out.
    let costs = compiled.cost_analysis().unwrap_or_default();
    let cost_analysis = costs.into_iter().filter_map(|(name, value)| Some((name, number(&value)?))).collect();
    write_file(&folder.join(OPTIMIZED), &optimized)?;
    write_file(&folder.join(SERIALIZED), &serialized)?;
    write_file(&folder.join(FINGERPRINT), &fingerprint)?;
    Ok(Ok(Outcome::Compiled(Figures { compiler_memory: process_peak_memory_bytes(), memory, cost_analysis })))
}

/// An error of the plugin at a stage.
fn failure(stage: Stage, error: PjrtError) -> Failure {
    Failure { stage, function: error.function.to_owned(), code: error.code, message: error.message }
}
