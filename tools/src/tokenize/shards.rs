//! Writing token shards.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::TokenDType;
use crate::data::sidecar::ShardEntry;
use crate::digest::hex;
use crate::error::{Error, Result};

/// The form of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardFormat {
    /// 256 little-endian words of 32 bits (magic 20240520, version 1, number of tokens, zeros), then the ids: the form
    /// that llm.c reads, for ids of two bytes. Those of four bytes follow from the size of the file.
    Header,
    /// The ids alone, little-endian.
    Raw,
}

const MAGIC: u32 = 20_240_520;
const VERSION: u32 = 1;
const HEADER_WORDS: usize = 256;

/// The most tokens of a shard: the header has a signed word for their number.
pub(super) const MOST_TOKENS: u64 = i32::MAX as u64;

/// Writes documents to one shard after the other.
pub(super) struct ShardWriter<'a> {
    folder: &'a Path,
    name: &'static str,
    dtype: TokenDType,
    format: ShardFormat,
    shard_tokens: u64,
    open: Option<Open>,
    done: Vec<ShardEntry>,
    tokens: u64,
    /// Ids as bytes.
    bytes: Vec<u8>,
}

/// A shard that is being written.
struct Open {
    path: PathBuf,
    file: BufWriter<File>,
    tokens: u64,
    documents: u64,
}

impl<'a> ShardWriter<'a> {
    /// A writer of `name-00000.bin` and so on in `folder`.
    pub(super) fn new(
        folder: &'a Path,
        name: &'static str,
        dtype: TokenDType,
        format: ShardFormat,
        shard_tokens: u64,
    ) -> ShardWriter<'a> {
        ShardWriter {
            folder,
            name,
            dtype,
            format,
            shard_tokens,
            open: None,
            done: Vec::new(),
            tokens: 0,
            bytes: Vec::new(),
        }
    }

    /// Tokens written so far.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Writes a document, which begins a new shard if it does not fit into this one.
    pub(super) fn write(&mut self, ids: &[u32]) -> Result<()> {
        let count = ids.len() as u64;
        if self.open.as_ref().is_some_and(|open| open.tokens + count > self.shard_tokens) {
            self.close()?;
        }
        self.bytes.clear();
        match self.dtype {
            // Ids are below the size of the vocabulary, which decided the type.
            TokenDType::Uint16 => self.bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            TokenDType::Uint32 => self.bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        open.file.write_all(&self.bytes).map_err(|error| cannot_write(&open.path, &error))?;
        open.tokens += count;
        open.documents += 1;
        self.tokens += count;
        self.open = Some(open);
        Ok(())
    }

    fn begin(&self) -> Result<Open> {
        let path = self.folder.join(format!("{}-{:05}.bin", self.name, self.done.len()));
        let file = File::create_new(&path).map_err(|error| cannot_write(&path, &error))?;
        let mut open = Open { path, file: BufWriter::with_capacity(1 << 20, file), tokens: 0, documents: 0 };
        if self.format == ShardFormat::Header {
            open.file.write_all(&header(0)).map_err(|error| cannot_write(&open.path, &error))?;
        }
        Ok(open)
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { path, file, tokens, documents } = open;
        if tokens > MOST_TOKENS && self.format == ShardFormat::Header {
            return Err(Error::input(format!(
                "a document has {tokens} tokens, and the header of a shard tells of at most {MOST_TOKENS}; \
                 --format raw has no such limit"
            )));
        }
        let finish = || -> io::Result<()> {
            let mut file = file.into_inner().map_err(|error| error.into_error())?;
            if self.format == ShardFormat::Header {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&header(tokens as u32))?;
            }
            file.sync_all()
        };
        finish().map_err(|error| cannot_write(&path, &error))?;
        let sha256 = sha256(&path).map_err(|error| Error::cannot_read("the shard", &path, &error))?;
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.done.push(ShardEntry { file, tokens, documents, sha256 });
        Ok(())
    }

    /// Ends the last shard. Returns all.
    pub(super) fn finish(mut self) -> Result<Vec<ShardEntry>> {
        self.close()?;
        Ok(self.done)
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::cannot_write("the shard", path, error)
}

fn header(tokens: u32) -> Vec<u8> {
    let words = [MAGIC, VERSION, tokens].into_iter().chain(std::iter::repeat(0)).take(HEADER_WORDS);
    words.flat_map(u32::to_le_bytes).collect()
}

/// The hash of a file, in hex. The header is written last, so a shard is read for it, most often from the page cache.
fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut block = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(hex(hasher));
        }
        hasher.update(&block[..count]);
    }
}
