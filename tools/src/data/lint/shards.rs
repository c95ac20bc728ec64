//! Token shards: sizes, ids, documents, and whether they are what was described.

use sha2::{Digest, Sha256};

use super::{Expected, FileReport, Finding, MOST_COUNTED, Totals};
use crate::config::TokenDType;
use crate::data::described::Description;
use crate::data::order::mix;
use crate::data::shards::{Shard, little_endian, width};
use crate::digest::hex;
use crate::error::reason;
use crate::tokenizer::Tokenizer;

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// Ids of a shard that are decoded to tell the bytes a token stands for.
const DECODED: usize = 1 << 16;

/// What is known while a shard is read from its start to its end.
#[derive(Default)]
struct Scan {
    end: Option<u32>,
    vocab_size: Option<usize>,
    position: u64,
    /// Ids outside of the vocabulary, and the first with its position.
    outside: u64,
    first_outside: Option<(u64, u32)>,
    /// Documents without tokens, and the position of the first.
    empty: u64,
    first_empty: u64,
    /// The document at hand.
    start: u64,
    hash: u64,
    last: u32,
    ends: u64,
}

/// Looks at a shard.
pub(super) fn lint(
    report: &mut FileReport,
    described: Option<&Description>,
    expected: &Expected,
    totals: &mut Totals,
    progress: &mut dyn FnMut(u64),
) {
    let tokenizer = match described.map(Description::tokenizer).transpose() {
        Ok(of_description) => of_description.flatten(),
        Err(error) => {
            report.find(Finding::error(error.message()));
            None
        }
    };
    let tokenizer = tokenizer.or_else(|| expected.tokenizer().cloned());
    let sidecar = described.map(|described| &*described.sidecar);
    let vocab_size = match (sidecar.map(|sidecar| sidecar.vocab_size), expected.vocab_size) {
        (Some(described), Some(expected)) => Some(described.min(expected)),
        (described, expected) => described.or(expected).or(tokenizer.as_ref().map(Tokenizer::vocab_size)),
    };
    let end = match sidecar {
        Some(sidecar) => sidecar.end_of_document,
        None => expected.end_of_document.or(tokenizer.as_ref().and_then(Tokenizer::end_of_document)),
    };
    let narrow = vocab_size.is_none_or(|size| size <= usize::from(u16::MAX) + 1);
    let raw = expected.token_dtype.unwrap_or(if narrow { TokenDType::Uint16 } else { TokenDType::Uint32 });
    let path = report.path.clone();
    let shard = match Shard::open(&path, raw, described) {
        Ok(shard) => shard,
        Err(reason) => return report.find(Finding::error(reason)),
    };
    let width = width(shard.dtype());
    report.bytes = shard.offset() + shard.len() * width;
    (report.dtype, report.header) = (Some(shard.dtype()), shard.offset() > 0);
    if shard.len() == 0 {
        return report.find(Finding::error("it is empty"));
    }

    let mut scan = Scan { end, vocab_size, ..Scan::default() };
    let mut hasher = described.map(|_| Sha256::new());
    let mut buffer = Vec::new();
    let mut sample = Vec::new();
    for at in (0..report.bytes).step_by(PIECE as usize) {
        buffer.resize(PIECE.min(report.bytes - at) as usize, 0);
        if let Err(error) = shard.read_bytes(at, &mut buffer) {
            return report.find(Finding::error(format!("cannot read it at byte {at}: {}", reason(&error))));
        }
        hasher.iter_mut().for_each(|hasher| hasher.update(&buffer));
        // A header is as long as a whole number of tokens, and so is a piece.
        let skipped = shard.offset().saturating_sub(at).min(buffer.len() as u64) as usize;
        for raw in buffer[skipped..].chunks_exact(width as usize) {
            let id = little_endian(raw);
            if sample.len() < DECODED && Some(id) != end {
                sample.push(id.cast_signed());
            }
            scan.token(id, report, totals);
        }
        progress(buffer.len() as u64);
    }
    scan.finish(report, totals);
    if let (Some(described), Some(hasher)) = (described, hasher) {
        compare(report, described, &scan, &hex(hasher));
    }
    report.tokens = Some(shard.len());
    totals.shard_tokens += shard.len();
    count_text(totals, described, tokenizer.as_ref(), &sample);
    totals.tokenizer = totals.tokenizer.take().or(tokenizer);
}

impl Scan {
    fn token(&mut self, id: u32, report: &mut FileReport, totals: &mut Totals) {
        if self.vocab_size.is_some_and(|size| id as usize >= size) {
            self.outside += 1;
            self.first_outside = self.first_outside.or(Some((self.position, id)));
        }
        let slot = id as usize;
        if slot < MOST_COUNTED {
            if totals.counts.len() <= slot {
                totals.counts.resize(slot + 1, 0);
            }
            totals.counts[slot] += 1;
        }
        if self.end == Some(id) {
            self.ends += 1;
            self.close(report, totals);
            self.start = self.position + 1;
        } else {
            self.hash = mix(self.hash ^ u64::from(id)).wrapping_add(1);
        }
        self.last = id;
        self.position += 1;
    }

    /// Ends the document at hand before the token at `position`.
    fn close(&mut self, report: &mut FileReport, totals: &mut Totals) {
        let (start, length) = (self.start, self.position - self.start);
        if length == 0 {
            if self.empty == 0 {
                self.first_empty = start;
            }
            self.empty += 1;
            return;
        }
        report.document(length, start);
        let path = &report.path;
        totals.duplicates.insert(std::mem::take(&mut self.hash), || format!("{}, token {start}", path.display()));
    }

    fn finish(&mut self, report: &mut FileReport, totals: &mut Totals) {
        let count = self.position;
        if let (Some((position, id)), Some(vocab_size)) = (self.first_outside, self.vocab_size) {
            report.find(Finding::error(format!(
                "{} of {count} ids are outside of the vocabulary of {vocab_size}; the first is {id} at token {position}",
                self.outside
            )));
        }
        let Some(end) = self.end else { return };
        report.documents.get_or_insert(0);
        if self.ends == 0 {
            report.find(Finding::warning(format!(
                "no document ends in it: the id {end} is not among its {count} tokens"
            )));
        } else if self.last != end {
            report.find(Finding::warning(format!(
                "its last document has no end: the last token is {}, and {end} ends a document",
                self.last
            )));
        }
        if self.start < count {
            self.close(report, totals);
        }
        if self.empty > 0 {
            let first = self.first_empty;
            report.find(Finding::warning(format!("{} documents are empty; the first at token {first}", self.empty)));
        }
    }
}

/// Compares a shard that was read whole with its description.
fn compare(report: &mut FileReport, described: &Description, scan: &Scan, sha256: &str) {
    let (entry, file) = (&described.entry, described.file());
    if sha256 != entry.sha256 {
        report.find(Finding::error(format!(
            "its content is not what was described: its SHA-256 is {sha256}, and {} says {}",
            file.display(),
            entry.sha256
        )));
    }
    if scan.end.is_some() && scan.ends != entry.documents {
        let (found, said) = (scan.ends, entry.documents);
        report.find(Finding::warning(format!("{found} documents end in it, and {} says {said}", file.display())));
    }
}

/// Adds what tells the bytes a token stands for where no description does: decoded tokens.
fn count_text(totals: &mut Totals, described: Option<&Description>, tokenizer: Option<&Tokenizer>, sample: &[i32]) {
    if let (None, Some(tokenizer)) = (described, tokenizer) {
        totals.text_bytes += tokenizer.decode(sample).len() as u64;
        totals.text_tokens += sample.len() as u64;
    }
}
