//! Checkpoints: a folder a step, whole or absent.
//!
//! `checkpoints/step-00000200/` holds `model.safetensors` (f32, by name), `optimizer.safetensors`, `config.toml` (the
//! run's settings), `state.json`, and where they apply `config.json` (Hugging Face's) and `tokenizer.json` (ours, or
//! Hugging Face's as it was given). It is written as a hidden folder beside, synced, and renamed, so a checkpoint that
//! has its name is complete. `state.json` has size and SHA-256 of every other file, the SHA-256 of every tensor, and
//! its own, and is written last; what does not match is not loaded. Nothing tells how many devices wrote it.

mod diff;
mod export;
mod manifest;
mod read;
mod retention;
mod safetensors;
mod write;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

pub use self::diff::{Comparison, TensorComparison, compare, compare_tensors};
pub use self::export::export;
pub use self::read::{Damage, Inspected, Summary, inspect, read};
pub use self::retention::{Kept, Retention, clean, prune};
pub(crate) use self::safetensors::read_metadata;
pub use self::safetensors::{Tensors, load_safetensors, read_safetensors};
pub(crate) use self::safetensors::{dtype_of, header_of, write_safetensors};
pub use self::write::save;

/// What a run is at a step: all that is needed to continue it.
///
/// The step is the cursor of everything: the number of the next step decides its rows of data, its learning rate and its
/// random bits. What else is here of them tells what they must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Optimizer steps done; the next step has this number.
    pub step: u64,
    /// `train.seed`, from which every random number follows.
    pub seed: u64,
    /// `Config::hash` of the run.
    pub config_hash: String,
    /// The run's settings; `None` in a checkpoint of format 1.
    pub config_toml: Option<String>,
    /// [`text_hash`] of the training step's text form without locations; `None` in format 1.
    pub graph_hash: Option<String>,
    /// [`text_hash`] of the tokenizer as JSON; `None` for token shards, and in format 1.
    pub tokenizer_hash: Option<String>,
    /// Rows of data that the steps done have taken, which is the number of the next row; `None` in format 1.
    pub rows: Option<u64>,
    /// The schedule's rate of the next step; `None` in format 1.
    pub learning_rate: Option<f64>,
    /// The held-out loss at this step; `None` when it was not measured.
    pub val_loss: Option<f64>,
    /// What the data are, in their own words: a run is continued only with the same. `None` when they do not say.
    pub data: Option<Value>,
    /// Weights, f32, by name.
    pub model: Tensors,
    /// The optimizer's state by the names of the training step's parameters.
    pub optimizer: Tensors,
    /// The tokenizer; `None` for token shards.
    pub tokenizer: Option<Tokenizer>,
    /// Hugging Face's `config.json`; `None` for a model it has no word for.
    pub config_json: Option<Value>,
}

/// The SHA-256 of a text, in hex.
pub fn text_hash(text: &str) -> String {
    sha256(text.as_bytes())
}

/// The newest checkpoint that is whole, and what was passed over to find it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Newest {
    /// The checkpoint with its folder; `None` when there is none that is whole.
    pub found: Option<(PathBuf, Checkpoint)>,
    /// Newer folders that are damaged, newest first, each with all that is wrong.
    pub passed_over: Vec<(PathBuf, String)>,
}

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG_JSON: &str = "config.json";
const CONFIG_TOML: &str = "config.toml";
const TOKENIZER: &str = "tokenizer.json";

/// The folder of a run's checkpoints.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The newest whole checkpoint of the run folder `run`.
///
/// # Errors
/// If the folder of checkpoints is there and cannot be listed. A damaged checkpoint is passed over, with its reason.
pub fn newest_valid(run: &Path) -> Result<Newest> {
    let mut newest = Newest::default();
    for (_, path) in list(run)?.into_iter().rev() {
        match read::read_folder(&path) {
            Ok(checkpoint) => {
                newest.found = Some((path, checkpoint));
                break;
            }
            Err(damage) => newest.passed_over.push((path, read::describe(&damage))),
        }
    }
    Ok(newest)
}

/// The checkpoints of a run folder by step, oldest first, without a look inside.
///
/// # Errors
/// If the folder of checkpoints is there and cannot be listed.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let all = folder(run);
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::cannot_read("the folder of checkpoints", &all, &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::cannot_read("the folder of checkpoints", &all, &error))?;
        let name = entry.file_name();
        found.extend(name.to_str().and_then(step_of).map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The step of a checkpoint's folder by its name.
pub fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-").and_then(|step| step.parse().ok())
}
