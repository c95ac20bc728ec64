//! `shards.json`: what token shards are, beside them in their folder.
//!
//! `lmc tokenize` writes it, with a copy of the tokenizer, so that nothing about a set of shards must be guessed:
//! the type of a token, the size of the vocabulary, the document end, how many tokens and documents each file has, and
//! which tokenizer made them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::TokenDType;
use crate::error::{Error, Result};

/// The content of `shards.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// The version of the layout, [`Sidecar::FORMAT`].
    pub format: u32,
    /// The type of a token in every shard.
    pub dtype: TokenDType,
    /// Ids are below this.
    pub vocab_size: usize,
    /// The id that ends every document.
    pub end_of_document: Option<u32>,
    /// The tokenizer that made the ids.
    pub tokenizer: TokenizerFile,
    /// Tokens of all shards, document ends included.
    pub tokens: u64,
    /// Documents of all shards.
    pub documents: u64,
    /// Bytes of text that were tokenized, UTF-8.
    pub text_bytes: u64,
    /// The shards, in the order in which they were written.
    pub shards: Vec<ShardEntry>,
}

/// A tokenizer's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFile {
    /// The file's name, in the folder of the sidecar.
    pub file: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// The file's name, in the folder of the sidecar.
    pub file: String,
    /// Its tokens, document ends included.
    pub tokens: u64,
    /// Its documents.
    pub documents: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

impl Sidecar {
    /// The version of the layout that is read and written.
    pub const FORMAT: u32 = 1;

    /// The file's name.
    pub const NAME: &'static str = "shards.json";

    /// The sidecar in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// If the file is there and cannot be read, or is not one of this version.
    pub fn read(folder: &Path) -> Result<Option<Sidecar>> {
        let path = folder.join(Sidecar::NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::cannot_read("the description of the shards", &path, &error)),
        };
        let wrong = |reason: String| Error::input(format!("{} does not describe shards: {reason}", path.display()));
        let sidecar: Sidecar = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if sidecar.format != Sidecar::FORMAT {
            let (found, known) = (sidecar.format, Sidecar::FORMAT);
            return Err(wrong(format!("format {found}; this version of lmc reads format {known}")));
        }
        Ok(Some(sidecar))
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that a sidecar can cause.
    pub fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::run(format!("the description of the shards cannot be written as JSON: {error}")))?;
        Ok(format!("{json}\n"))
    }

    /// The tokenizer's file, for a sidecar in `folder`.
    pub fn tokenizer_path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.tokenizer.file)
    }
}
