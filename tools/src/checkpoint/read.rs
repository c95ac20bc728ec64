//! Reading checkpoints: what is not whole is named, by file and tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::digest::{hex, sha256};
use crate::error::{Error, Result, reason};
use crate::tokenizer::Tokenizer;

use super::manifest::{FileRecord, STATE, State};
use super::safetensors::{Tensors, parse_safetensors};
use super::{CONFIG_JSON, CONFIG_TOML, Checkpoint, MODEL, OPTIMIZER, TOKENIZER, step_of};

/// What is wrong with a file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The tensors in it whose bytes have changed, as far as can be said.
    pub tensors: Vec<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // More names would not help to understand a message.
        const SHOWN: usize = 3;
        write!(f, "{}: {}", self.file, self.reason)?;
        for (i, name) in self.tensors.iter().take(SHOWN).enumerate() {
            write!(f, "{}`{name}`", if i == 0 { ", in tensor " } else { ", " })?;
        }
        match self.tensors.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// All damages on one line.
pub(super) fn describe(damages: &[Damage]) -> String {
    damages.iter().map(Damage::to_string).collect::<Vec<_>>().join("; ")
}

fn damage(file: &str, reason: impl Into<String>) -> Damage {
    Damage { file: file.to_owned(), tensors: Vec::new(), reason: reason.into() }
}

/// What there is to say of a checkpoint without its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Optimizer steps done, by the folder's name.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
    /// The bytes of its files; 0 where `state.json` does not tell.
    pub bytes: u64,
    /// The held-out loss at this step, if it was measured.
    pub val_loss: Option<f64>,
    /// What is wrong with it; empty when it is whole.
    pub damage: Vec<Damage>,
}

/// Reads all files of the checkpoint of `step` in `path`, and compares them with their hashes.
pub fn inspect(step: u64, path: &Path) -> Summary {
    summarize(step, path, |name, record| check_file(path, name, record))
}

/// What `state.json` says of the checkpoint of `step` in `path`; its other files are not looked at.
pub(super) fn outline(step: u64, path: &Path) -> Summary {
    summarize(step, path, |_, _| None)
}

fn summarize(step: u64, path: &Path, check: impl Fn(&str, &FileRecord) -> Option<Damage>) -> Summary {
    let mut summary = Summary { step, path: path.to_owned(), bytes: 0, val_loss: None, damage: Vec::new() };
    match State::read(path) {
        Err(reason) => summary.damage.push(damage(STATE, reason)),
        Ok(state) => {
            (summary.bytes, summary.val_loss) = (state.bytes(), state.val_loss);
            summary.damage.extend(misplaced(path, &state));
            summary.damage.extend(missing(&state));
            summary.damage.extend(state.files.iter().filter_map(|(name, record)| check(name, record)));
        }
    }
    summary
}

/// A checkpoint under the name of another step, as a copy may be: it would count for what it is not.
fn misplaced(path: &Path, state: &State) -> Option<Damage> {
    let step = path.file_name().and_then(|name| name.to_str()).and_then(step_of)?;
    (step != state.step).then(|| damage(STATE, format!("is of step {}, and the folder's name says {step}", state.step)))
}

/// Files that every checkpoint has, and this one does not list.
fn missing(state: &State) -> impl Iterator<Item = Damage> {
    let absent = [MODEL, OPTIMIZER].into_iter().filter(|name| !state.files.contains_key(*name));
    absent.map(|name| damage(STATE, format!("does not list {name}")))
}

/// What is wrong with a file on disk, read piece by piece unless there is something.
fn check_file(path: &Path, name: &str, record: &FileRecord) -> Option<Damage> {
    let hash = || -> io::Result<(u64, String)> {
        let mut file = File::open(path.join(name))?;
        let (mut bytes, mut hasher, mut piece) = (0, Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok((bytes, hex(hasher))),
                n => {
                    bytes += n as u64;
                    hasher.update(&piece[..n]);
                }
            }
        }
    };
    match hash() {
        Ok((bytes, hash)) if bytes == record.bytes && hash == record.sha256 => None,
        Ok(_) => read_checked(path, name, record).err(),
        Err(error) => Some(damage(name, reason(&error))),
    }
}

/// The bytes of a file if they are what the record says.
fn read_checked(path: &Path, name: &str, record: &FileRecord) -> Result<Vec<u8>, Damage> {
    let bytes = fs::read(path.join(name)).map_err(|error| damage(name, reason(&error)))?;
    if bytes.len() as u64 != record.bytes {
        return Err(damage(name, format!("{} bytes, and {STATE} says {}", bytes.len(), record.bytes)));
    }
    if sha256(&bytes) == record.sha256 {
        return Ok(bytes);
    }
    let mut found = damage(name, format!("its SHA-256 is not the one in {STATE}: the file has changed"));
    match parse_safetensors(&bytes) {
        _ if record.tensors.is_empty() => {}
        Err(_) => found.reason += ", in its header",
        Ok(tensors) => {
            let intact = |name: &str, hash: &String| tensors.get(name).is_some_and(|t| sha256(t.bytes()) == *hash);
            let changed = record.tensors.iter().filter(|(name, hash)| !intact(name, hash));
            found.tensors = changed.map(|(name, _)| name.clone()).collect();
            if found.tensors.is_empty() {
                found.reason += ", in its header";
            }
        }
    }
    Err(found)
}

/// Reads the checkpoint in `path`.
///
/// # Errors
/// If a file is missing, or is not what `state.json` says: every such file and the reason.
pub fn read(path: &Path) -> Result<Checkpoint> {
    read_folder(path)
        .map_err(|damage| Error::input(format!("{} is not a whole checkpoint: {}", path.display(), describe(&damage))))
}

/// Reads a checkpoint, or says all that is wrong with it.
pub(super) fn read_folder(path: &Path) -> Result<Checkpoint, Vec<Damage>> {
    let mut state = State::read(path).map_err(|reason| vec![damage(STATE, reason)])?;
    let mut damages: Vec<Damage> = misplaced(path, &state).into_iter().chain(missing(&state)).collect();
    let mut contents = BTreeMap::new();
    for (name, record) in &state.files {
        match read_checked(path, name, record) {
            Ok(bytes) => _ = contents.insert(name.as_str(), bytes),
            Err(found) => damages.push(found),
        }
    }
    if !damages.is_empty() {
        return Err(damages);
    }
    // What follows was written by lmc and has not changed; that it is no tensor file or tokenizer is not expected.
    let mut tensors = |name: &str| -> Result<Tensors, Vec<Damage>> {
        parse_safetensors(&contents.remove(name).unwrap_or_default()).map_err(|reason| vec![damage(name, reason)])
    };
    let (model, optimizer) = (tensors(MODEL)?, tensors(OPTIMIZER)?);
    let mut text = |name: &str| -> Result<Option<String>, Vec<Damage>> {
        let bytes = contents.remove(name);
        bytes.map(|b| String::from_utf8(b).map_err(|_| vec![damage(name, "is not UTF-8")])).transpose()
    };
    let tokenizer = text(TOKENIZER)?
        .map(|json| Tokenizer::from_json(Path::new(TOKENIZER), &json))
        .transpose()
        .map_err(|error| vec![damage(TOKENIZER, error.to_string())])?;
    let config_json = text(CONFIG_JSON)?
        .map(|json| serde_json::from_str(&json))
        .transpose()
        .map_err(|error| vec![damage(CONFIG_JSON, error.to_string())])?;
    let config_toml = text(CONFIG_TOML)?;
    Ok(Checkpoint {
        step: state.step,
        seed: state.seed,
        config_hash: std::mem::take(&mut state.config_hash),
        config_toml,
        graph_hash: state.graph_hash,
        tokenizer_hash: state.tokenizer_hash,
        rows: state.rows,
        learning_rate: state.learning_rate,
        val_loss: state.val_loss,
        data: state.data,
        model,
        optimizer,
        tokenizer,
        config_json,
    })
}

/// Checkpoints that were inspected, so that those which have not been touched since need not be read again.
#[derive(Debug, Default)]
pub struct Inspected {
    known: BTreeMap<PathBuf, (Stamp, Summary)>,
}

/// Name, size and time of change of each file of a folder.
type Stamp = BTreeMap<String, (u64, Option<SystemTime>)>;

fn stamp(path: &Path) -> io::Result<Stamp> {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let metadata = entry.metadata()?;
        Ok((entry.file_name().to_string_lossy().into_owned(), (metadata.len(), metadata.modified().ok())))
    };
    fs::read_dir(path)?.map(entry).collect()
}

impl Inspected {
    /// As [`inspect`], but a checkpoint whose files have kept their sizes and times is not read again.
    pub fn inspect(&mut self, step: u64, path: &Path) -> Summary {
        let Ok(now) = stamp(path) else { return inspect(step, path) };
        if let Some((then, summary)) = self.known.get(path)
            && *then == now
        {
            return summary.clone();
        }
        let summary = inspect(step, path);
        self.known.insert(path.to_owned(), (now, summary.clone()));
        summary
    }

    /// Takes note of a checkpoint that was just written.
    pub fn written(&mut self, summary: Summary) {
        if let Ok(now) = stamp(&summary.path) {
            self.known.insert(summary.path.clone(), (now, summary));
        }
    }
}
