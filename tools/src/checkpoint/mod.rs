//! Checkpoints: a folder a step, whole or absent.
//!
//! `checkpoints/step-00000200/` holds `model.safetensors` (f32, by name), `optimizer.safetensors`, `state.json`, and
//! where they apply `config.json` (Hugging Face's) and `tokenizer.json` (ours). It is written as a hidden folder beside,
//! synced, and renamed, so a checkpoint that has its name is complete. `state.json` has size and SHA-256 of every other
//! file, and its own, and is written last; what does not match is not loaded. Nothing tells how many devices wrote it.

mod safetensors;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, reason};
use crate::tokenizer::Tokenizer;

pub use self::safetensors::{Tensors, load_safetensors, read_safetensors};

use self::safetensors::{parse_safetensors, write_safetensors};

/// What a run is at a step: all that is needed to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Optimizer steps done; the next step has this number, and it is the cursor of the data.
    pub step: u64,
    /// `train.seed`.
    pub seed: u64,
    /// `Config::hash` of the run.
    pub config_hash: String,
    /// Weights, f32, by name.
    pub model: Tensors,
    /// The optimizer's state by names of the caller's choice, `m.<weight>` and the like.
    pub optimizer: Tensors,
    /// The tokenizer; `None` for token shards.
    pub tokenizer: Option<Tokenizer>,
    /// Hugging Face's `config.json`; `None` for a model it has no word for.
    pub config_json: Option<Value>,
}

/// The newest checkpoint that is whole, and what was passed over to find it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Newest {
    /// The checkpoint with its folder; `None` when there is none that is whole.
    pub found: Option<(PathBuf, Checkpoint)>,
    /// Newer folders that are damaged, newest first, each with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    step: u64,
    seed: u64,
    config_hash: String,
    files: BTreeMap<String, Manifest>,
    /// Of this file with nothing here.
    sha256: String,
}

/// What a file must be.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    bytes: u64,
    sha256: String,
}

impl State {
    /// What `sha256` must be.
    fn digest(&self) -> serde_json::Result<String> {
        let mut json = serde_json::to_value(self)?;
        if let Some(own) = json.get_mut("sha256") {
            *own = Value::Null;
        }
        Ok(hex(Sha256::new_with_prefix(json.to_string())))
    }
}

/// The version of the layout.
const FORMAT: u32 = 1;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const STATE: &str = "state.json";

/// The folder of a run's checkpoints.
pub fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// Saves a checkpoint in the run folder `run`, over one of the same step, and returns its folder.
///
/// # Errors
/// If something cannot be written; then nothing has the checkpoint's name that was not whole before.
pub fn save(run: &Path, checkpoint: &Checkpoint) -> Result<PathBuf> {
    let all = folder(run);
    let name = format!("step-{:08}", checkpoint.step);
    let (target, partial) = (all.join(&name), all.join(format!(".{name}.partial")));
    write_folder(&all, &partial, &target, checkpoint).map_err(|error| {
        // A partial folder is of no use to anyone, and its removal is not worth a second error.
        _ = fs::remove_dir_all(&partial);
        Error::cannot_write("the checkpoint", &target, &error)
    })?;
    Ok(target)
}

fn write_folder(all: &Path, partial: &Path, target: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    fs::create_dir_all(all)?;
    if partial.exists() {
        fs::remove_dir_all(partial)?;
    }
    fs::create_dir(partial)?;
    let mut files = BTreeMap::new();
    let mut write = |name: &str, content: &dyn Fn(&mut Hashing) -> io::Result<()>| -> io::Result<()> {
        files.insert(name.to_owned(), write_file(&partial.join(name), content)?);
        Ok(())
    };
    write(MODEL, &|out| write_safetensors(&checkpoint.model, out))?;
    write(OPTIMIZER, &|out| write_safetensors(&checkpoint.optimizer, out))?;
    if let Some(config) = &checkpoint.config_json {
        write(CONFIG, &|out| writeln!(out, "{config:#}"))?;
    }
    if let Some(tokenizer) = &checkpoint.tokenizer {
        write(TOKENIZER, &|out| out.write_all(tokenizer.to_json().as_bytes()))?;
    }
    let Checkpoint { step, seed, config_hash, .. } = checkpoint;
    let (config_hash, sha256) = (config_hash.clone(), String::new());
    let mut state = State { format: FORMAT, step: *step, seed: *seed, config_hash, files, sha256 };
    state.sha256 = state.digest()?;
    let state = serde_json::to_string_pretty(&state)?;
    write_file(&partial.join(STATE), &|out| writeln!(out, "{state}"))?;
    File::open(partial)?.sync_all()?;
    // A folder cannot be renamed over one with content, so an older one of the same step steps aside.
    let aside = partial.with_extension("replaced");
    if target.exists() {
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(target, &aside)?;
    }
    fs::rename(partial, target)?;
    File::open(all)?.sync_all()?;
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    Ok(())
}

/// A file that is hashed as it is written.
struct Hashing {
    out: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_file(path: &Path, content: &dyn Fn(&mut Hashing) -> io::Result<()>) -> io::Result<Manifest> {
    let mut out = Hashing { out: BufWriter::new(File::create_new(path)?), hasher: Sha256::new(), bytes: 0 };
    content(&mut out)?;
    out.flush()?;
    out.out.get_ref().sync_all()?;
    Ok(Manifest { bytes: out.bytes, sha256: hex(out.hasher) })
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The newest whole checkpoint of the run folder `run`.
///
/// # Errors
/// If the folder of checkpoints is there and cannot be listed. A damaged checkpoint is passed over, with its reason.
pub fn newest_valid(run: &Path) -> Result<Newest> {
    let mut newest = Newest::default();
    for (_, path) in list(run)?.into_iter().rev() {
        match read_folder(&path) {
            Ok(checkpoint) => {
                newest.found = Some((path, checkpoint));
                break;
            }
            Err(reason) => newest.passed_over.push((path, reason)),
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
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|step| step.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Reads the checkpoint in `path`.
///
/// # Errors
/// If a file is missing, or is not what `state.json` says: the file and the reason.
pub fn read(path: &Path) -> Result<Checkpoint> {
    read_folder(path).map_err(|reason| Error::input(format!("{} is not a whole checkpoint: {reason}", path.display())))
}

fn read_folder(path: &Path) -> Result<Checkpoint, String> {
    let bytes = fs::read(path.join(STATE)).map_err(|error| format!("{STATE}: {}", reason(&error)))?;
    let version: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{STATE}: {error}"))?;
    match version.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => return Err(format!("{STATE}: format {format}; this version of lmc reads format {FORMAT}")),
        None => return Err(format!("{STATE}: no `format`")),
    }
    let state: State = serde_json::from_slice(&bytes).map_err(|error| format!("{STATE}: {error}"))?;
    if state.digest().map_err(|error| format!("{STATE}: {error}"))? != state.sha256 {
        return Err(format!("{STATE}: its own SHA-256 does not fit it: the file has changed"));
    }
    let tensors = |name: &str| -> Result<Tensors, String> {
        let bytes = read_checked(path, name, &state)?.ok_or_else(|| format!("{STATE} does not list {name}"))?;
        parse_safetensors(&bytes).map_err(|reason| format!("{name}: {reason}"))
    };
    let tokenizer = read_checked(path, TOKENIZER, &state)?
        .map(|bytes| {
            Tokenizer::from_json(Path::new(TOKENIZER), &String::from_utf8_lossy(&bytes))
                .map_err(|error| error.to_string())
        })
        .transpose()?;
    let config_json = read_checked(path, CONFIG, &state)?
        .map(|bytes| serde_json::from_slice(&bytes).map_err(|error| format!("{CONFIG}: {error}")))
        .transpose()?;
    let (model, optimizer) = (tensors(MODEL)?, tensors(OPTIMIZER)?);
    let State { step, seed, config_hash, .. } = state;
    Ok(Checkpoint { step, seed, config_hash, model, optimizer, tokenizer, config_json })
}

/// The bytes of a file, if the state lists it, and if they are what it says.
fn read_checked(path: &Path, name: &str, state: &State) -> Result<Option<Vec<u8>>, String> {
    let Some(manifest) = state.files.get(name) else { return Ok(None) };
    let bytes = fs::read(path.join(name)).map_err(|error| format!("{name}: {}", reason(&error)))?;
    if bytes.len() as u64 != manifest.bytes {
        return Err(format!("{name}: {} bytes, and {STATE} says {}", bytes.len(), manifest.bytes));
    }
    if hex(Sha256::new_with_prefix(&bytes)) != manifest.sha256 {
        return Err(format!("{name}: its SHA-256 is not the one in {STATE}: the file has changed"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use lmc_graph::Literal;
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::CharTokenizer;

    fn example(step: u64) -> Checkpoint {
        let tensor = |value: f32| Literal::new([2, 2], &[value, 2.0, f32::NAN, -0.0]);
        Checkpoint {
            step,
            seed: 1337,
            config_hash: "abc".to_owned(),
            model: Tensors::from([("wte.weight".to_owned(), tensor(step as f32))]),
            optimizer: Tensors::from([
                ("m.wte.weight".to_owned(), tensor(0.5)),
                ("step".to_owned(), Literal::scalar(7i32)),
            ]),
            tokenizer: Some(Tokenizer::Char(CharTokenizer::new("ab\"\n".chars(), true).unwrap())),
            config_json: Some(serde_json::json!({"model_type": "gpt2", "n_embd": 4})),
        }
    }

    fn saved(steps: &[u64]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        steps.iter().for_each(|&step| _ = save(run.path(), &example(step)).unwrap());
        run
    }

    #[test]
    fn a_checkpoint_comes_back() {
        let run = saved(&[5, 200, 30]);
        let newest = newest_valid(run.path()).unwrap();
        let (path, checkpoint) = newest.found.unwrap();
        assert!(path.ends_with("checkpoints/step-00000200") && newest.passed_over.is_empty());
        assert_eq!(checkpoint, example(200));
        assert_eq!(list(run.path()).unwrap().iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 30, 200]);
        let bare = Checkpoint { tokenizer: None, config_json: None, ..example(200) };
        assert_eq!(read(&save(run.path(), &bare).unwrap()).unwrap(), bare, "saved over one of the same step");
        let names: Vec<_> = fs::read_dir(folder(run.path())).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "nothing is left behind: {names:?}");
        assert_eq!(newest_valid(&run.path().join("none")).unwrap(), Newest::default());
    }

    #[test]
    fn damaged_checkpoints_are_passed_over_with_the_reason() {
        type Damage = (&'static str, fn(&Path));
        let damages: [Damage; 6] = [
            ("model.safetensors: no such file", |path| fs::remove_file(path.join(MODEL)).unwrap()),
            ("optimizer.safetensors: 20 bytes, and state.json says", |path| {
                fs::File::options().write(true).open(path.join(OPTIMIZER)).unwrap().set_len(20).unwrap();
            }),
            ("state.json: no such file", |path| fs::remove_file(path.join(STATE)).unwrap()),
            ("state.json: EOF", |path| fs::write(path.join(STATE), "{").unwrap()),
            ("format 9; this version", |path| fs::write(path.join(STATE), "{\"format\": 9}").unwrap()),
            ("state.json: not a directory", |path| {
                fs::remove_dir_all(path).unwrap();
                fs::write(path, "x").unwrap();
            }),
        ];
        for (expected, damage) in damages {
            let run = saved(&[1, 2]);
            damage(&folder(run.path()).join("step-00000002"));
            let newest = newest_valid(run.path()).unwrap();
            assert_eq!(newest.found.unwrap().1.step, 1, "{expected}");
            let [(path, reason)] = newest.passed_over.as_slice() else { panic!("{expected}: one is passed over") };
            assert!(path.ends_with("step-00000002") && reason.contains(expected), "{expected}: {reason}");
        }
    }

    #[test]
    fn a_partial_folder_is_no_checkpoint_and_no_hindrance() {
        let run = saved(&[1]);
        let partial = folder(run.path()).join(".step-00000002.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join(MODEL), "half").unwrap();
        assert_eq!(newest_valid(run.path()).unwrap().found.unwrap().1.step, 1);
        save(run.path(), &example(2)).unwrap();
        assert_eq!(newest_valid(run.path()).unwrap().found.unwrap().1, example(2));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let run = tempfile::tempdir().unwrap();
        fs::write(folder(run.path()), "a file where the folder belongs").unwrap();
        let error = save(run.path(), &example(1)).unwrap_err();
        assert!(error.message().starts_with("cannot write the checkpoint") && error.exit_code() == 1, "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_flipped_byte_is_noticed(
            name in prop::sample::select(vec![MODEL, OPTIMIZER, CONFIG, TOKENIZER, STATE]),
            at: prop::sample::Index,
            flip in 1..=255u8,
        ) {
            let run = saved(&[1]);
            let file = folder(run.path()).join("step-00000001").join(name);
            let mut bytes = fs::read(&file).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            fs::write(&file, bytes).unwrap();
            let newest = newest_valid(run.path()).unwrap();
            match newest.found {
                // Between the values of `state.json`, white space may change and mean the same.
                Some((_, found)) => prop_assert!(name == STATE && found == example(1)),
                None => prop_assert!(name == STATE || newest.passed_over[0].1.contains("SHA-256")),
            }
        }
    }
}
