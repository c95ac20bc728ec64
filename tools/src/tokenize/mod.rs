//! `lmc tokenize`: from documents to token shards with their sidecar.
//!
//! Everything is written to a hidden folder inside the output folder and moved to its name at the end, the sidecar
//! last; so a folder with `shards.json` is whole. The output is the same whatever the number of threads.

mod held_out;
mod shards;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::TokenDType;
use crate::corpus::{Progress, Reading, Skipped};
use crate::data::sidecar::{ShardEntry, Sidecar, TokenizerFile};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::run::replace_file;
use crate::tokenizer::Tokenizer;

pub use held_out::HeldOut;
pub use shards::ShardFormat;

use held_out::Choice;
use shards::ShardWriter;

/// What to tokenize, how, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The documents.
    pub reading: Reading,
    /// The tokenizer, with a document end.
    pub tokenizer: Tokenizer,
    /// The output folder.
    pub out: PathBuf,
    /// Whether to put the shards in place of those that are there.
    pub force: bool,
    /// The form of a shard.
    pub format: ShardFormat,
    /// A shard ends before the document that would bring it beyond this many tokens.
    pub shard_tokens: u64,
    /// Which documents go to the validation shards.
    pub held_out: HeldOut,
    /// Decides which documents are held out.
    pub seed: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Documents of all shards.
    pub documents: u64,
    /// Tokens of all shards, document ends included.
    pub tokens: u64,
    /// Documents of the validation shards.
    pub val_documents: u64,
    /// Tokens of the validation shards.
    pub val_tokens: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of text for a token; 0 without tokens.
    pub bytes_per_token: f64,
    /// Documents without text, which are passed over.
    pub empty_documents: u64,
    /// Documents that could not be read, which `--skip-invalid` passes over.
    pub invalid_documents: u64,
    /// The first of these, with its place.
    pub first_invalid: Option<String>,
    /// The type of a token.
    pub dtype: TokenDType,
    /// Files of tokens.
    pub shards: usize,
    /// The time it took.
    pub seconds: f64,
}

/// The tokens of a chunk.
struct Encoded {
    ids: Vec<u32>,
    documents: Vec<Document>,
    skipped: Skipped,
}

struct Document {
    /// Where its ids end, the document end included.
    end: usize,
    text_bytes: usize,
    held_out: Choice,
}

/// The name of the copy of the tokenizer.
const TOKENIZER: &str = "tokenizer.json";

/// Tokenizes.
///
/// # Errors
/// If the output folder holds shards already and may not be written over, if a document cannot be read or encoded, if
/// there are none, or if a file cannot be written.
pub fn tokenize(options: &Options, progress: &mut Progress) -> Result<Summary> {
    let end = options
        .tokenizer
        .end_of_document()
        .ok_or_else(|| Error::input("the tokenizer has no token to end documents with; --end-of-document names one"))?;
    if !options.force {
        refuse_existing(&options.out)?;
    }
    let held_out = options.held_out.choose(&options.reading, options.seed, progress)?;
    let folder = Output::new(&options.out)?;
    let dtype = match options.tokenizer.vocab_size() <= usize::from(u16::MAX) + 1 {
        true => TokenDType::Uint16,
        false => TokenDType::Uint32,
    };
    let writer = |name| ShardWriter::new(folder.hidden(), name, dtype, options.format, options.shard_tokens);
    let (mut train, mut val) = (writer("train"), writer("val"));
    let mut skipped = Skipped::default();
    let (mut index, mut text_bytes) = (0, 0);
    options.reading.for_each(
        progress,
        || (),
        |(), chunk| {
            let mut encoded = Encoded { ids: Vec::new(), documents: Vec::new(), skipped: Skipped::default() };
            encoded.skipped = chunk.texts(&options.reading, |text| {
                let before = encoded.ids.len();
                let result = options.tokenizer.encode_into(text, &mut encoded.ids);
                if result.is_err() {
                    encoded.ids.truncate(before);
                }
                result?;
                encoded.ids.push(end);
                let held_out = held_out.of_text(text);
                encoded.documents.push(Document { end: encoded.ids.len(), text_bytes: text.len(), held_out });
                Ok(())
            })?;
            Ok(encoded)
        },
        |encoded, progress| {
            let mut start = 0;
            for document in encoded.documents {
                let writer = if held_out.of_index(index, document.held_out) { &mut val } else { &mut train };
                writer.write(&encoded.ids[start..document.end])?;
                start = document.end;
                index += 1;
                text_bytes += document.text_bytes as u64;
            }
            skipped.add(encoded.skipped);
            progress.update(train.tokens() + val.tokens(), "tokens");
            Ok(())
        },
    )?;
    let (train, val) = (train.finish()?, val.finish()?);
    let count = |shards: &[ShardEntry], number: fn(&ShardEntry) -> u64| shards.iter().map(number).sum::<u64>();
    let (val_documents, val_tokens) = (count(&val, |shard| shard.documents), count(&val, |shard| shard.tokens));
    if train.is_empty() {
        let (empty, invalid) = (skipped.empty, skipped.invalid);
        return Err(Error::input(format!(
            "there is nothing to train on: {val_documents} documents were held out, {empty} are empty, {invalid} invalid"
        )));
    }
    let json = options.tokenizer.to_json();
    let shards: Vec<ShardEntry> = train.into_iter().chain(val).collect();
    let sidecar = Sidecar {
        format: Sidecar::FORMAT,
        dtype,
        vocab_size: options.tokenizer.vocab_size(),
        end_of_document: Some(end),
        tokenizer: TokenizerFile { file: TOKENIZER.to_owned(), sha256: sha256(json.as_bytes()) },
        tokens: count(&shards, |shard| shard.tokens),
        documents: count(&shards, |shard| shard.documents),
        text_bytes,
        shards,
    };
    folder.publish(&sidecar, &json)?;
    Ok(Summary {
        documents: sidecar.documents,
        tokens: sidecar.tokens,
        val_documents,
        val_tokens,
        text_bytes,
        bytes_per_token: text_bytes as f64 / sidecar.tokens.max(1) as f64,
        empty_documents: skipped.empty,
        invalid_documents: skipped.invalid,
        first_invalid: skipped.first,
        dtype,
        shards: sidecar.shards.len(),
        seconds: progress.seconds(),
    })
}

/// Whether a file of the output folder is one of ours.
fn is_output(name: &str) -> bool {
    let number = name.strip_prefix("train-").or(name.strip_prefix("val-")).and_then(|rest| rest.strip_suffix(".bin"));
    let is_shard = number.is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()));
    is_shard || name == Sidecar::NAME || name == TOKENIZER
}

/// The names of files in a folder that are ours; none where there is no folder.
fn existing(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let names = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    });
    let mut names: Vec<String> = names.map_err(|error| Error::cannot_read("the output folder", folder, &error))?;
    names.retain(|name| is_output(name));
    names.sort_unstable();
    Ok(names)
}

fn refuse_existing(folder: &Path) -> Result<()> {
    match existing(folder)?.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Error::input(format!(
            "{} holds {first} already; give another folder, or --force to put the new shards in place of the old",
            folder.display()
        ))),
    }
}

/// The output folder, and the hidden one in it.
struct Output<'a> {
    folder: &'a Path,
    /// Whether the folder was not there before.
    made: bool,
    hidden: tempfile::TempDir,
}

impl<'a> Output<'a> {
    fn new(folder: &'a Path) -> Result<Output<'a>> {
        let cannot = |error| Error::input(cannot_create(folder, &error));
        let made = !folder.exists();
        fs::create_dir_all(folder).map_err(cannot)?;
        let hidden = tempfile::Builder::new().prefix(".tokenize-").tempdir_in(folder).map_err(cannot)?;
        Ok(Output { folder, made, hidden })
    }

    fn hidden(&self) -> &Path {
        self.hidden.path()
    }

    /// Moves the shards to their names, with the tokenizer and, last, the sidecar; what is there of an earlier time goes.
    fn publish(&self, sidecar: &Sidecar, tokenizer: &str) -> Result<()> {
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::cannot_write("the output", &path, &error)
        };
        // First the sidecar: what is there is no longer what it describes.
        let mut old = existing(self.folder)?;
        old.sort_by_key(|name| name != Sidecar::NAME);
        for name in old {
            let path = self.folder.join(name);
            fs::remove_file(&path).map_err(cannot(&path))?;
        }
        for shard in &sidecar.shards {
            let path = self.folder.join(&shard.file);
            fs::rename(self.hidden().join(&shard.file), &path).map_err(cannot(&path))?;
        }
        for (name, content) in [(TOKENIZER, tokenizer), (Sidecar::NAME, &sidecar.to_json()?)] {
            let path = self.folder.join(name);
            replace_file(&path, content.as_bytes()).map_err(cannot(&path))?;
        }
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(self.hidden.path());
        // A folder that was made for nothing goes again; one with anything in it cannot be removed.
        if self.made {
            _ = fs::remove_dir(self.folder);
        }
    }
}

fn cannot_create(folder: &Path, error: &std::io::Error) -> String {
    format!("cannot make the output folder {}: {}", folder.display(), crate::error::reason(error))
}
