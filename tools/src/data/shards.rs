//! Token shards: files of token ids, several as one stream, read at any place.
//!
//! Two forms: raw little-endian u16 or u32; and a header of 256 little-endian i32 (magic 20240520, version 1, number of
//! tokens, zeros) before the ids, as llm.c writes it. The width of the ids after a header follows from the file's size.
//!
//! Windows are read with positioned reads rather than through a memory map: both go through the same page cache and
//! open a set of any size at once, but a shard that is cut short under a running job is then an error with a name,
//! where a map would end the process with SIGBUS; and no `unsafe` is needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::described::Description;
use super::fingerprint::{FileFingerprint, Sampling};
use crate::config::TokenDType;
use crate::error::{Error, Result, reason};

/// Files of token ids as one stream.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    len: u64,
    vocab_size: usize,
}

/// A file of token ids.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    /// Position of the first token in the stream, in tokens.
    start: u64,
    /// Tokens in this file.
    len: u64,
    /// Bytes before the first token.
    offset: u64,
    dtype: TokenDType,
    /// SHA-256 of the file's bytes, in hex, as the description beside it has it.
    described_sha256: Option<String>,
}

const MAGIC: i32 = 20_240_520;
const VERSION: i32 = 1;
const HEADER_BYTES: u64 = 256 * 4;

/// Bytes of a token.
pub(super) fn width(dtype: TokenDType) -> u64 {
    match dtype {
        TokenDType::Uint16 => 2,
        TokenDType::Uint32 => 4,
    }
}

impl Shards {
    /// These files as one stream; ids are checked against `vocab_size` when they are read.
    pub(super) fn new(files: Vec<Shard>, vocab_size: usize) -> Shards {
        let mut shards = Shards { files: Vec::new(), len: 0, vocab_size };
        for file in files {
            let file = Shard { start: shards.len, ..file };
            shards.len += file.len;
            shards.files.push(file);
        }
        shards
    }

    /// The files, each with the position of its first token in the stream.
    pub(super) fn starts(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.files.iter().map(|shard| (&shard.path, shard.start))
    }

    /// The number of files.
    pub(super) fn num_files(&self) -> usize {
        self.files.len()
    }

    /// What tells the files from others.
    pub(super) fn fingerprints(&self, sampling: Sampling) -> Result<Vec<FileFingerprint>> {
        self.files.iter().map(|shard| shard.fingerprint(sampling)).collect()
    }

    /// Tokens of all files.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads the tokens at `start..start + out.len()`, which must lie in the stream.
    pub(super) fn read(&self, start: u64, out: &mut [i32]) -> Result<()> {
        let mut at = start;
        let mut rest = out;
        let mut index = self.files.partition_point(|shard| shard.start + shard.len <= start);
        while !rest.is_empty() {
            let shard = &self.files[index];
            let here = usize::try_from(shard.start + shard.len - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            shard.read(at - shard.start, now, self.vocab_size)?;
            at += here as u64;
            index += 1;
            rest = later;
        }
        Ok(())
    }
}

impl Shard {
    /// Opens a file. `raw` is the type of tokens if it has no header and no description.
    ///
    /// # Errors
    /// The reason, without the file's name.
    pub(super) fn open(path: &Path, raw: TokenDType, described: Option<&Description>) -> Result<Shard, String> {
        let mut shard = Shard::open_undescribed(path, described.map_or(raw, |described| described.sidecar.dtype))?;
        let Some(Description { sidecar, entry, .. }) = described else { return Ok(shard) };
        let said = |what: String| format!("{what}; it is not the file that was described, or was damaged");
        if shard.dtype != sidecar.dtype {
            let (found, expected) = (shard.dtype, sidecar.dtype);
            return Err(said(format!("its header makes its tokens {found}, and the shards.json beside it {expected}")));
        }
        if shard.len != entry.tokens {
            let (found, expected) = (shard.len, entry.tokens);
            return Err(said(format!("it has {found} tokens, and the shards.json beside it says {expected}")));
        }
        shard.described_sha256 = Some(entry.sha256.clone());
        Ok(shard)
    }

    fn open_undescribed(path: &Path, raw: TokenDType) -> Result<Shard, String> {
        let fail = |error: io::Error| format!("cannot read it: {}", reason(&error));
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err("a token shard must be a plain file".to_owned());
        }
        let bytes = metadata.len();
        let mut header = [0; 12];
        if bytes >= HEADER_BYTES {
            file.read_exact_at(&mut header, 0).map_err(fail)?;
        }
        let word =
            |i: usize| i32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
        let shard = |len, offset, dtype| Shard {
            path: path.to_owned(),
            file,
            start: 0,
            len,
            offset,
            dtype,
            described_sha256: None,
        };
        if word(0) != MAGIC {
            let width = width(raw);
            if bytes % width != 0 {
                return Err(format!("{bytes} bytes are not a whole number of {raw} tokens; see `data.token_dtype`"));
            }
            return Ok(shard(bytes / width, 0, raw));
        }
        let (version, count) = (word(1), i64::from(word(2)));
        if version != VERSION {
            return Err(format!("its header has version {version}; version {VERSION} is read"));
        }
        let dtype = [TokenDType::Uint16, TokenDType::Uint32]
            .into_iter()
            .find(|&dtype| i128::from(count) * i128::from(width(dtype)) == i128::from(bytes - HEADER_BYTES));
        let Some(dtype) = dtype.filter(|_| count > 0) else {
            return Err(format!(
                "its header tells of {count} tokens, but {} bytes follow it: the file is cut short or not a shard",
                bytes - HEADER_BYTES
            ));
        };
        Ok(shard(count.unsigned_abs(), HEADER_BYTES, dtype))
    }

    /// Tokens of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The type of a token.
    pub(super) fn dtype(&self) -> TokenDType {
        self.dtype
    }

    /// Bytes before the first token.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's bytes at `start`.
    pub(super) fn read_bytes(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, start)
    }

    fn fingerprint(&self, sampling: Sampling) -> Result<FileFingerprint> {
        let bytes = self.offset + self.len * width(self.dtype);
        let print = sampling.fingerprint(&self.path, bytes, |at, out| self.read_bytes(at, out));
        let print = print.map_err(|error| self.unreadable(&error))?;
        Ok(FileFingerprint { dtype: Some(self.dtype), described_sha256: self.described_sha256.clone(), ..print })
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        let path = self.path.display();
        match error.kind() == io::ErrorKind::UnexpectedEof {
            true => Error::run(format!("the shard {path} has become shorter than the {} tokens it had", self.len)),
            false => Error::run(format!("cannot read the shard {path}: {}", reason(error))),
        }
    }

    /// Reads the tokens at `start` of this file.
    fn read(&self, start: u64, out: &mut [i32], vocab_size: usize) -> Result<()> {
        let width = width(self.dtype);
        let mut bytes = vec![0; out.len() * width as usize];
        let read = self.read_bytes(self.offset + start * width, &mut bytes);
        read.map_err(|error| self.unreadable(&error))?;
        for (i, (slot, raw)) in out.iter_mut().zip(bytes.chunks_exact(width as usize)).enumerate() {
            let id = little_endian(raw);
            *slot = match i32::try_from(id) {
                Ok(id) if (id as usize) < vocab_size => id,
                Ok(_) | Err(_) => return Err(self.outside(start + i as u64, id, vocab_size)),
            };
        }
        Ok(())
    }

    fn outside(&self, position: u64, id: u32, vocab_size: usize) -> Error {
        Error::input(format!(
            "the shard {} has id {id} at token {position}, and `model.vocab_size` is {vocab_size}: the largest id may \
             be {}. The shard is of another tokenizer, or `data.token_dtype` is wrong (read as {})",
            self.path.display(),
            vocab_size - 1,
            self.dtype
        ))
    }
}

/// The id in the bytes of a token.
pub(super) fn little_endian(raw: &[u8]) -> u32 {
    raw.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(files: &[(TokenDType, Vec<u8>)], vocab_size: usize) -> Result<(tempfile::TempDir, Shards), String> {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (i, (_, bytes)) in files.iter().enumerate() {
            paths.push(folder.path().join(format!("{i}.bin")));
            std::fs::write(&paths[i], bytes).unwrap();
        }
        let raw = files.first().map_or(TokenDType::Uint16, |(dtype, _)| *dtype);
        let open = |path: &PathBuf| Shard::open(path, raw, None);
        let shards = paths.iter().map(open).collect::<Result<_, _>>()?;
        Ok((folder, Shards::new(shards, vocab_size)))
    }

    fn encode(ids: &[u32], dtype: TokenDType, header: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if header {
            let words = [MAGIC, VERSION, ids.len() as i32].into_iter().chain(std::iter::repeat(0)).take(256);
            bytes.extend(words.flat_map(i32::to_le_bytes));
        }
        for id in ids {
            bytes.extend(&id.to_le_bytes()[..width(dtype) as usize]);
        }
        bytes
    }

    #[test]
    fn broken_shards_are_named_with_the_reason() {
        let header = encode(&[1, 2, 3], TokenDType::Uint16, true);
        for (bytes, expected) in [
            (vec![1, 2, 3], "3 bytes are not a whole number of uint16 tokens"),
            (header[..1026].to_vec(), "tells of 3 tokens, but 2 bytes follow it"),
            ([&header[..4], &[9, 0, 0, 0], &header[8..]].concat(), "version 9"),
        ] {
            let error = open(&[(TokenDType::Uint16, bytes)], 10).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let (_folder, shards) =
            open(&[(TokenDType::Uint16, encode(&[1, 2, 10], TokenDType::Uint16, false))], 10).unwrap();
        let error = shards.read(1, &mut [0; 2]).unwrap_err();
        assert!(error.message().contains("0.bin has id 10 at token 2, and `model.vocab_size` is 10"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_shard_cut_short_while_open_is_an_error() {
        let ids: Vec<u32> = (0..100).collect();
        let (folder, shards) = open(&[(TokenDType::Uint16, encode(&ids, TokenDType::Uint16, false))], 100).unwrap();
        std::fs::write(folder.path().join("0.bin"), [0; 20]).unwrap();
        let error = shards.read(50, &mut [0; 5]).unwrap_err();
        assert!(error.message().contains("has become shorter"), "{error}");
    }

    proptest! {
        #[test]
        fn ids_come_back_from_any_place(
            parts in prop::collection::vec(prop::collection::vec(0..70_000u32, 1..50), 1..5),
            header: bool, wide: bool, from in 0..100u64, count in 0..100usize,
        ) {
            let dtype = if wide { TokenDType::Uint32 } else { TokenDType::Uint16 };
            let clip = |ids: &Vec<u32>| ids.iter().map(|&id| if wide { id } else { id % 65_536 }).collect::<Vec<u32>>();
            let parts: Vec<Vec<u32>> = parts.iter().map(clip).collect();
            let files: Vec<_> = parts.iter().map(|ids| (dtype, encode(ids, dtype, header))).collect();
            let (_folder, shards) = open(&files, 70_000).unwrap();
            let all: Vec<i32> = parts.concat().into_iter().map(|id| id as i32).collect();
            prop_assert_eq!(shards.len(), all.len() as u64);
            let from = from % shards.len();
            let mut out = vec![0; count.min(all.len() - from as usize)];
            shards.read(from, &mut out).unwrap();
            prop_assert_eq!(&out, &all[from as usize..from as usize + out.len()]);
        }

        #[test]
        fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..40), magic: bool) {
            let mut file = if magic { encode(&[], TokenDType::Uint16, true) } else { Vec::new() };
            let at = file.len().min(8);
            file.splice(at..at, bytes);
            if let Ok((_folder, shards)) = open(&[(TokenDType::Uint16, file)], 300) {
                _ = shards.read(0, &mut vec![0; shards.len() as usize]);
            }
        }
    }
}
