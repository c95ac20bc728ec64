//! Writing checkpoints: hashed while they are written, synced, renamed when they are whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread;

use sha2::{Digest, Sha256};

use crate::digest::{hex, sha256};
use crate::error::{Error, Result, reason};
use crate::output::group_digits;

use super::manifest::{FORMAT, FileRecord, STATE, State};
use super::read::Summary;
use super::safetensors::{Tensors, safetensors_bytes, write_safetensors};
use super::{CONFIG_JSON, CONFIG_TOML, Checkpoint, MODEL, OPTIMIZER, TOKENIZER, folder};

/// Called before each change to the disk with the name of what is done; an error is taken for the disk's. Tests fail
/// there; otherwise it does nothing.
pub(super) type Before<'a> = &'a (dyn Fn(&str) -> io::Result<()> + Sync);

/// Saves a checkpoint in the run folder `run`, over one of the same step.
///
/// # Errors
/// If there is too little space, which is asked before anything is written, or something cannot be written; then nothing
/// has the checkpoint's name that was not whole before.
pub fn save(run: &Path, checkpoint: &Checkpoint) -> Result<Summary> {
    save_with(run, checkpoint, &|_| Ok(()))
}

pub(super) fn save_with(run: &Path, checkpoint: &Checkpoint, before: Before<'_>) -> Result<Summary> {
    let all = folder(run);
    let name = format!("step-{:08}", checkpoint.step);
    let (target, partial) = (all.join(&name), all.join(format!(".{name}.partial")));
    // A file system that does not tell what is free is written to, and fails when it is full.
    if let Ok(available) = fs4::available_space(run) {
        refuse_full(needed_bytes(checkpoint), available).map_err(|reason| {
            Error::run(format!("cannot write the checkpoint {}: {reason}; nothing was written", target.display()))
        })?;
    }
    let bytes = write_folder(&all, &partial, &target, checkpoint, before).map_err(|error| {
        // A partial folder is of no use to anyone, and its removal is not worth a second error.
        _ = fs::remove_dir_all(&partial);
        Error::run(format!("cannot write the checkpoint {}: {}", target.display(), reason(&error)))
    })?;
    Ok(Summary { step: checkpoint.step, path: target, bytes, val_loss: checkpoint.val_loss, damage: Vec::new() })
}

/// The bytes that a checkpoint takes on disk, at most.
pub(super) fn needed_bytes(checkpoint: &Checkpoint) -> u64 {
    // A hash, a name and punctuation for every tensor in the manifest, and the blocks that files are rounded up to.
    const OF_TENSOR: u64 = 80;
    const OF_FILES: u64 = 64 << 10;
    let Checkpoint { model, optimizer, tokenizer, config_json, config_toml, data, .. } = checkpoint;
    let names = model.keys().chain(optimizer.keys()).map(|name| name.len() as u64 + OF_TENSOR).sum::<u64>();
    let texts = [
        tokenizer.as_ref().map(|tokenizer| tokenizer.to_json().len()),
        config_json.as_ref().map(|json| format!("{json:#}").len()),
        config_toml.as_ref().map(String::len),
        data.as_ref().map(|json| format!("{json:#}").len()),
    ];
    let texts: usize = texts.into_iter().flatten().sum();
    safetensors_bytes(model) + safetensors_bytes(optimizer) + names + texts as u64 + OF_FILES
}

fn refuse_full(needed: u64, available: u64) -> Result<(), String> {
    if needed <= available {
        return Ok(());
    }
    Err(format!(
        "it takes {} bytes, and {} are free: make space, for instance by `lmc checkpoint prune`",
        group_digits(needed),
        group_digits(available)
    ))
}

/// Writes everything, and returns its bytes.
pub(super) fn write_folder(
    all: &Path,
    partial: &Path,
    target: &Path,
    checkpoint: &Checkpoint,
    before: Before<'_>,
) -> io::Result<u64> {
    before("make the folder of checkpoints")?;
    fs::create_dir_all(all)?;
    if partial.exists() {
        before("remove an earlier partial folder")?;
        fs::remove_dir_all(partial)?;
    }
    before("make the partial folder")?;
    fs::create_dir(partial)?;
    let mut files = BTreeMap::new();
    let tensors = [(MODEL, &checkpoint.model), (OPTIMIZER, &checkpoint.optimizer)];
    for (name, tensors) in tensors {
        files.insert(name.to_owned(), write_tensors(&partial.join(name), tensors, before)?);
    }
    let texts = [
        (CONFIG_JSON, checkpoint.config_json.as_ref().map(|config| format!("{config:#}\n"))),
        (CONFIG_TOML, checkpoint.config_toml.clone()),
        (TOKENIZER, checkpoint.tokenizer.as_ref().map(|tokenizer| tokenizer.to_json())),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            let content = |out: &mut Hashing<'_>| out.write_all(text.as_bytes());
            files.insert(name.to_owned(), write_file(&partial.join(name), before, &content)?);
        }
    }
    let mut state = State {
        format: FORMAT,
        step: checkpoint.step,
        seed: checkpoint.seed,
        config_hash: checkpoint.config_hash.clone(),
        graph_hash: checkpoint.graph_hash.clone(),
        tokenizer_hash: checkpoint.tokenizer_hash.clone(),
        rows: checkpoint.rows,
        learning_rate: checkpoint.learning_rate,
        val_loss: checkpoint.val_loss,
        data: checkpoint.data.clone(),
        files,
        sha256: String::new(),
    };
    let text = state.seal()?;
    write_file(&partial.join(STATE), before, &|out| out.write_all(text.as_bytes()))?;
    before("sync the partial folder")?;
    File::open(partial)?.sync_all()?;
    put_in_place(all, partial, target, before)?;
    Ok(state.bytes())
}

/// Gives the folder `partial` its name.
fn put_in_place(all: &Path, partial: &Path, target: &Path, before: Before<'_>) -> io::Result<()> {
    // A folder cannot be renamed over one with content, so an older one of the same step steps aside.
    let aside = partial.with_extension("replaced");
    if target.exists() {
        if aside.exists() {
            before("remove an earlier replaced one")?;
            remove(&aside)?;
        }
        before("put the one of the same step aside")?;
        fs::rename(target, &aside)?;
    }
    before("rename").and_then(|()| fs::rename(partial, target)).inspect_err(|_| {
        // What was there is better than nothing.
        _ = fs::rename(&aside, target);
    })?;
    // From here on the checkpoint is there, and a failure is that of housekeeping.
    before("sync the folder of checkpoints")?;
    File::open(all)?.sync_all()?;
    if let Some(run) = all.parent() {
        File::open(run)?.sync_all()?;
    }
    if aside.exists() {
        before("remove the replaced one")?;
        remove(&aside)?;
    }
    Ok(())
}

/// Removes a folder, or a file where a folder belongs.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Writes a file of tensors. Another thread hashes them one by one in the meantime.
fn write_tensors(path: &Path, tensors: &Tensors, before: Before<'_>) -> io::Result<FileRecord> {
    thread::scope(|scope| {
        let hashes = scope.spawn(|| {
            let hash = |(name, tensor): (&String, &lmc_graph::Literal)| (name.clone(), sha256(tensor.bytes()));
            tensors.iter().map(hash).collect()
        });
        let mut record = write_file(path, before, &|out| write_safetensors(tensors, out))?;
        record.tensors = hashes.join().map_err(|_| io::Error::other("the thread that hashes has failed"))?;
        Ok(record)
    })
}

/// A file that is hashed as it is written.
struct Hashing<'a> {
    out: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
    before: Before<'a>,
}

impl Write for Hashing<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Pieces that stay in a processor's cache between being hashed and being copied.
        const PIECE: usize = 1 << 18;
        (self.before)("write a piece")?;
        let written = self.out.write(&data[..data.len().min(PIECE)])?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_file(
    path: &Path,
    before: Before<'_>,
    content: &dyn Fn(&mut Hashing<'_>) -> io::Result<()>,
) -> io::Result<FileRecord> {
    before("make a file")?;
    let mut out = Hashing { out: BufWriter::new(File::create_new(path)?), hasher: Sha256::new(), bytes: 0, before };
    content(&mut out)?;
    out.flush()?;
    before("sync a file")?;
    out.out.get_ref().sync_all()?;
    Ok(FileRecord { bytes: out.bytes, sha256: hex(out.hasher), tensors: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_told_in_bytes() {
        assert_eq!(refuse_full(10, 10), Ok(()));
        let reason = refuse_full(1_234_567, 1_234_566).unwrap_err();
        assert!(reason.starts_with("it takes 1,234,567 bytes, and 1,234,566 are free"), "{reason}");
    }
}
