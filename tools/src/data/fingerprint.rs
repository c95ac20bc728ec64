//! What tells the data of a run from other data, wherever they lie.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::TokenDType;
use crate::digest::hex;
use crate::output::group_digits;

/// The data of a run: what was trained on, and what was held out in files of its own.
///
/// Paths are no part of it, so data may be moved: the files are those of each source, in their order, with name, size
/// and hashes. Names only help to tell what has changed: files that were renamed and keep their order are the same data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The files of `data.train`, or of each source of `data.mixture`.
    pub train: Vec<Vec<FileFingerprint>>,
    /// The files of `data.val`.
    pub val: Vec<FileFingerprint>,
}

/// A file of data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFingerprint {
    /// The file's name, without its folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The type of a token; of text there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<TokenDType>,
    /// Blocks that were hashed, evenly spread over the file; 0 if all of it was.
    pub blocks: u64,
    /// SHA-256 of what was hashed, in hex.
    pub sha256: String,
    /// SHA-256 of all of the file's bytes as a `shards.json` beside it tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described_sha256: Option<String>,
}

impl Fingerprint {
    /// In what the training data differ from those of `saved`, a line a difference; none when they are the same.
    pub fn differences(&self, saved: &Fingerprint) -> Vec<String> {
        if self.train.len() != saved.train.len() {
            return vec![format!(
                "there are {} sources of data, and there were {}",
                self.train.len(),
                saved.train.len()
            )];
        }
        self.train.iter().zip(&saved.train).flat_map(|(now, saved)| file_differences(now, saved)).collect()
    }

    /// In what the held-out files differ from those of `saved`, which a continued run may.
    pub fn held_out_differences(&self, saved: &Fingerprint) -> Vec<String> {
        file_differences(&self.val, &saved.val)
    }
}

/// How two lists of files differ as one stream.
fn file_differences(now: &[FileFingerprint], saved: &[FileFingerprint]) -> Vec<String> {
    if now.len() == saved.len() && now.iter().zip(saved).all(|(now, saved)| now.change_from(saved).is_none()) {
        return Vec::new();
    }
    // The same name may come more than once, from several folders.
    let mut before: BTreeMap<&str, Vec<(usize, &FileFingerprint)>> = BTreeMap::new();
    for (place, file) in saved.iter().enumerate().rev() {
        before.entry(&file.name).or_default().push((place, file));
    }
    let mut differences = Vec::new();
    let mut places = Vec::new();
    for file in now {
        let found = before.get_mut(file.name.as_str()).and_then(Vec::pop);
        let difference = match found {
            None => Some("was not there".to_owned()),
            Some((place, saved)) => {
                places.push(place);
                file.change_from(saved)
            }
        };
        differences.extend(difference.map(|difference| format!("{} {difference}", file.name)));
    }
    let gone = before.values().flatten().map(|(_, file)| format!("{} is gone", file.name));
    differences.extend(gone);
    if !places.is_sorted() {
        let list =
            |files: &[FileFingerprint]| files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
        differences.push(format!("the files are in another order: {}; it was {}", list(now), list(saved)));
    }
    differences
}

impl FileFingerprint {
    /// How this file is another than `saved`, after its name; `None` when it is the same.
    fn change_from(&self, saved: &FileFingerprint) -> Option<String> {
        if self.bytes != saved.bytes {
            let (by, than) = match self.bytes < saved.bytes {
                true => (saved.bytes - self.bytes, "fewer"),
                false => (self.bytes - saved.bytes, "more"),
            };
            let (by, now, saved) = (group_digits(by), group_digits(self.bytes), group_digits(saved.bytes));
            return Some(format!("has {by} bytes {than}: {now}, and it had {saved}"));
        }
        if self.dtype != saved.dtype {
            let name =
                |dtype: Option<TokenDType>| dtype.map_or_else(|| "text".to_owned(), |dtype| format!("{dtype} tokens"));
            return Some(format!("is read as {}, and was as {}", name(self.dtype), name(saved.dtype)));
        }
        // Another number of files in all samples each of them in another way; then size and description must do.
        if self.blocks == saved.blocks && self.sha256 != saved.sha256 {
            return Some("has other content, of the same size".to_owned());
        }
        match (&self.described_sha256, &saved.described_sha256) {
            (Some(now), Some(saved)) if now != saved => {
                Some(format!("has other content: shards.json says SHA-256 {now}, and said {saved}"))
            }
            (Some(_) | None, Some(_) | None) => None,
        }
    }
}

/// How much of each file is hashed, so that a fingerprint of any set of files takes a second at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Files up to this size are hashed whole.
    whole: u64,
    /// Blocks of a larger file.
    blocks: u64,
}

/// Bytes that are hashed at most where files are hashed whole: SHA-256 does several hundred millions a second.
const WHOLE_BYTES: u64 = 64 << 20;
/// Reads of samples in all files: a cold disk does a hundred a second, others far more. Each file has one at least.
const READS: u64 = 256;
const BLOCK_BYTES: u64 = 16 << 10;

impl Sampling {
    /// For so many files.
    pub(super) fn of(num_files: usize) -> Sampling {
        let files = num_files.max(1) as u64;
        let blocks = (READS / files).max(1);
        // What the samples of a file hold is read as fast in one piece.
        Sampling { whole: (WHOLE_BYTES / files).max(blocks * BLOCK_BYTES), blocks }
    }

    /// The fingerprint of a file of `bytes` bytes, which `read` gives from any place on.
    pub(super) fn fingerprint(
        self,
        path: &Path,
        bytes: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<FileFingerprint> {
        let mut hasher = Sha256::new();
        let mut hash = |at: u64, len: u64, buffer: &mut Vec<u8>| -> io::Result<()> {
            buffer.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
            read(at, buffer)?;
            hasher.update(&*buffer);
            Ok(())
        };
        let mut buffer = Vec::new();
        let blocks = if bytes <= self.whole { 0 } else { self.blocks };
        if blocks == 0 {
            const PIECE: u64 = 1 << 20;
            for at in (0..bytes).step_by(PIECE as usize) {
                hash(at, PIECE.min(bytes - at), &mut buffer)?;
            }
        }
        for block in 0..blocks {
            // The first at the start, the last at the end; a single one in the middle.
            let room = bytes - BLOCK_BYTES;
            let at = match blocks {
                1 => room / 2,
                _ => (u128::from(room) * u128::from(block) / u128::from(blocks - 1)) as u64,
            };
            hash(at, BLOCK_BYTES, &mut buffer)?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(FileFingerprint { name, bytes, dtype: None, blocks, sha256: hex(hasher), described_sha256: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(name: &str, content: &[u8]) -> FileFingerprint {
        let read = |at: u64, out: &mut [u8]| {
            out.copy_from_slice(&content[at as usize..at as usize + out.len()]);
            Ok(())
        };
        Sampling::of(1).fingerprint(Path::new(name), content.len() as u64, read).unwrap()
    }

    fn of(files: &[(&str, &[u8])]) -> Fingerprint {
        let train = files.iter().map(|(name, content)| print(name, content)).collect();
        Fingerprint { train: vec![train], val: Vec::new() }
    }

    #[test]
    fn differences_name_the_file() {
        let saved = &[("a", &b"first"[..]), ("b", b"second"), ("c", b"third")];
        for (now, expected) in [
            (&[("x/a", &b"first"[..]), ("y/b", b"second"), ("c", b"third")][..], &[][..]),
            (&[("1", b"first"), ("2", b"second"), ("3", b"third")], &[]),
            (&[("a", b"first"), ("b", b"sec"), ("c", b"third")], &["b has 3 bytes fewer: 3, and it had 6"]),
            (&[("a", b"first!"), ("b", b"second"), ("c", b"third")], &["a has 1 bytes more: 6, and it had 5"]),
            (&[("a", b"fjrst"), ("b", b"second"), ("c", b"third")], &["a has other content, of the same size"]),
            (&[("a", b"first"), ("c", b"third")], &["b is gone"]),
            (&[("0", b"zero"), ("a", b"first"), ("b", b"second"), ("c", b"third")], &["0 was not there"]),
            (
                &[("b", b"second"), ("a", b"first"), ("c", b"third")],
                &["the files are in another order: b, a, c; it was a, b, c"],
            ),
        ] {
            assert_eq!(of(now).differences(&of(saved)), expected, "{now:?}");
        }
        let (mut now, saved) = (of(saved), of(saved));
        now.train[0][1].dtype = Some(TokenDType::Uint16);
        assert_eq!(now.differences(&saved), ["b is read as uint16 tokens, and was as text"]);
        now.train.push(Vec::new());
        assert_eq!(now.differences(&saved), ["there are 2 sources of data, and there were 1"]);
        assert!(now.held_out_differences(&saved).is_empty());
        now.val = vec![print("v", b"x")];
        assert_eq!(now.held_out_differences(&saved), ["v was not there"]);
    }

    #[test]
    fn a_description_that_was_lost_is_no_difference() {
        let described = |sha256: Option<&str>| {
            let mut print = of(&[("a", b"x")]);
            print.train[0][0].described_sha256 = sha256.map(str::to_owned);
            print
        };
        assert!(described(None).differences(&described(Some("1"))).is_empty());
        assert!(described(Some("1")).differences(&described(None)).is_empty());
        let differences = described(Some("2")).differences(&described(Some("1")));
        assert_eq!(differences, ["a has other content: shards.json says SHA-256 2, and said 1"]);
    }

    #[test]
    fn large_files_are_sampled_from_start_to_end() {
        for (num_files, bytes, expected) in
            [(1, 1 << 37, 256), (100, 1 << 30, 2), (1000, 1 << 27, 1), (1, 64 << 20, 0), (1000, 60 << 10, 0)]
        {
            let mut reads = Vec::new();
            let print = Sampling::of(num_files).fingerprint(Path::new("x"), bytes, |at, out| {
                reads.push(at..at + out.len() as u64);
                Ok(())
            });
            assert_eq!(print.unwrap().blocks, expected);
            if expected != 0 {
                assert_eq!(reads.len() as u64, expected);
            }
            if expected != 1 {
                assert_eq!((reads[0].start, reads[reads.len() - 1].end), (0, bytes));
            }
        }
    }

    #[test]
    fn it_reads_back() {
        let print = of(&[("a", b"x")]);
        let json = serde_json::to_string(&print).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), print);
    }
}
