//! What is wrong with files of data, or doubtful: read whole, in memory that does not grow with them.

mod duplicates;
mod shards;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::described::{Description, Descriptions};
use crate::config::{Config, Documents, TokenDType, TokenizerKind};
use crate::error::Result;
use crate::tokenizer::{self, Tokenizer};

use duplicates::Duplicates;

/// What is known of the files, beside themselves.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Ids are below this; `None` where only a `shards.json` tells.
    pub vocab_size: Option<usize>,
    /// The id that ends documents in shards; `None` where only a `shards.json` or the tokenizer tells.
    pub end_of_document: Option<u32>,
    /// The type of a token in raw shards; `None` where only a `shards.json` tells, or else the vocabulary's size.
    pub token_dtype: Option<TokenDType>,
    /// How text becomes tokens; `None` to leave tokens out, or where a `shards.json` names the tokenizer.
    pub tokens: Option<TokensOf>,
    /// Whether each line of a text is a document.
    pub lines: bool,
}

/// How text becomes tokens.
#[derive(Clone, Debug)]
pub enum TokensOf {
    /// A token a character, whichever there are.
    Characters,
    /// As this tokenizer makes them.
    Tokenizer(Tokenizer),
}

/// A file to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Whether it is a token shard, rather than text.
    pub shard: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Each file.
    pub files: Vec<FileReport>,
    /// Tokens of all files, where they are known.
    pub tokens: u64,
    /// Documents of all files, where they have bounds.
    pub documents: u64,
    /// Documents that came before, in any of the files; an estimate where `duplicates_estimated`.
    pub duplicates: u64,
    /// Whether there were too many documents to remember all of them.
    pub duplicates_estimated: bool,
    /// Bytes of text a token stands for, on average, where it is known.
    pub bytes_per_token: Option<f64>,
    /// The ids that are most frequent in shards, most frequent first.
    pub frequent: Vec<Frequent>,
    /// What concerns all files together.
    pub findings: Vec<Finding>,
}

/// What was found in a file.
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// `"shard"`, `"lines"` or `"text"`.
    pub kind: &'static str,
    /// The type of a token of a shard.
    pub dtype: Option<TokenDType>,
    /// Whether a shard has the 256-word header.
    pub header: bool,
    /// Its size.
    pub bytes: u64,
    /// Its tokens, document ends included.
    pub tokens: Option<u64>,
    /// Its documents, those that are empty left out.
    pub documents: Option<u64>,
    /// Its longest document.
    pub longest: Option<Longest>,
    /// What is wrong or doubtful.
    pub findings: Vec<Finding>,
}

/// The longest document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Longest {
    /// Its tokens without its end; of text without a tokenizer its bytes.
    pub length: u64,
    /// In a shard the position of its first token, from 0; in a text its line, from 1.
    pub at: u64,
}

/// An id with its count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frequent {
    /// The id.
    pub id: u32,
    /// How often it is there.
    pub count: u64,
    /// What part of all tokens of shards that is.
    pub share: f64,
    /// Its text, where the tokenizer is known.
    pub text: Option<String>,
}

/// Something wrong or doubtful.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether training on it would fail, or be wrong.
    pub error: bool,
    /// What was found, and where.
    pub message: String,
}

/// What is gathered over all files.
#[derive(Debug)]
struct Totals {
    duplicates: Duplicates,
    /// How often each id is in shards.
    counts: Vec<u64>,
    /// Tokens of shards.
    shard_tokens: u64,
    /// Bytes of text, and the tokens that stand for them.
    text_bytes: u64,
    text_tokens: u64,
    /// Folders whose description has told them.
    described: Vec<PathBuf>,
    findings: Vec<Finding>,
    /// Of shards, for the texts of frequent ids.
    tokenizer: Option<Tokenizer>,
}

/// Ids from here on are not counted one by one: no vocabulary is larger, and garbage would take the memory.
const MOST_COUNTED: usize = 1 << 20;

/// Frequent ids that are told.
const MOST_FREQUENT: usize = 10;

impl Finding {
    fn error(message: impl Into<String>) -> Finding {
        Finding { error: true, message: message.into() }
    }

    fn warning(message: impl Into<String>) -> Finding {
        Finding { error: false, message: message.into() }
    }
}

impl Expected {
    /// What a config says of its files.
    ///
    /// # Errors
    /// If it names a tokenizer that cannot be read.
    pub fn from_config(config: &Config) -> Result<Expected> {
        let tokens = match &config.data.tokenizer {
            None => None,
            Some(TokenizerKind::Char) => Some(TokensOf::Characters),
            Some(TokenizerKind::Byte) => Some(TokensOf::Tokenizer(Tokenizer::Byte)),
            Some(TokenizerKind::File(path)) => Some(TokensOf::Tokenizer(tokenizer::configured(config, path, None)?)),
        };
        Ok(Expected {
            vocab_size: config.model.vocab_size(),
            end_of_document: config.data.end_of_document_id,
            token_dtype: config.data.token_dtype,
            tokens,
            lines: config.data.documents == Documents::Lines,
        })
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        match &self.tokens {
            Some(TokensOf::Tokenizer(tokenizer)) => Some(tokenizer),
            Some(TokensOf::Characters) | None => None,
        }
    }
}

/// The files of `config`: those to train on, then those of `data.val`.
///
/// # Errors
/// If one is missing, empty, or a folder.
pub fn inputs(config: &Config) -> Result<Vec<Input>> {
    let val = super::files::expand(config, "data.val", &config.data.val)?;
    let train = super::open::sources(config)?.into_iter().flat_map(|source| source.files);
    let shard = config.data.is_shards();
    Ok(train.chain(val).map(|path| Input { path, shard }).collect())
}

/// Looks at all files. `progress` is told how many bytes were read since it was told last.
pub fn lint(files: &[Input], expected: &Expected, progress: &mut dyn FnMut(u64)) -> Report {
    let mut totals = Totals {
        duplicates: Duplicates::default(),
        counts: Vec::new(),
        shard_tokens: 0,
        text_bytes: 0,
        text_tokens: 0,
        described: Vec::new(),
        findings: Vec::new(),
        tokenizer: expected.tokenizer().cloned(),
    };
    let mut descriptions = Descriptions::default();
    let mut first: Option<Description> = None;
    let mut reports = Vec::new();
    for Input { path, shard } in files {
        let kind = if *shard { "shard" } else { text::kind(expected) };
        let mut report = FileReport::new(path, kind);
        if *shard {
            let described = describe(path, &mut descriptions, &mut first, &mut report, &mut totals);
            shards::lint(&mut report, described.as_ref(), expected, &mut totals, progress);
        } else {
            text::lint(&mut report, expected, &mut totals, progress);
        }
        reports.push(report);
    }
    totals.report(reports)
}

/// The description of a shard, if it has one that is sound.
fn describe(
    path: &Path,
    descriptions: &mut Descriptions,
    first: &mut Option<Description>,
    report: &mut FileReport,
    totals: &mut Totals,
) -> Option<Description> {
    let described = match descriptions.of(path) {
        Ok(described) => described?,
        Err(error) => {
            report.findings.push(Finding::error(error.message()));
            return None;
        }
    };
    if !totals.described.contains(&described.folder) {
        totals.described.push(described.folder.clone());
        totals.text_bytes += described.sidecar.text_bytes;
        totals.text_tokens += described.sidecar.tokens;
        let gone = described.sidecar.shards.iter().filter(|entry| !described.folder.join(&entry.file).exists());
        let file = described.file();
        let gone =
            gone.map(|entry| Finding::error(format!("{} lists {}, which is not there", file.display(), entry.file)));
        totals.findings.extend(gone);
    }
    let first = first.get_or_insert_with(|| described.clone());
    report.findings.extend(described.agree(first).err().map(Finding::error));
    Some(described)
}

impl FileReport {
    fn new(path: &Path, kind: &'static str) -> FileReport {
        FileReport {
            path: path.to_owned(),
            kind,
            dtype: None,
            header: false,
            bytes: 0,
            tokens: None,
            documents: None,
            longest: None,
            findings: Vec::new(),
        }
    }

    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Notes a document of this length.
    fn document(&mut self, length: u64, at: u64) {
        *self.documents.get_or_insert(0) += 1;
        if self.longest.is_none_or(|longest| longest.length < length) {
            self.longest = Some(Longest { length, at });
        }
    }
}

impl Totals {
    fn report(self, files: Vec<FileReport>) -> Report {
        let mut order: Vec<usize> = (0..self.counts.len()).filter(|&id| self.counts[id] > 0).collect();
        order.sort_by_key(|&id| (std::cmp::Reverse(self.counts[id]), id));
        let frequent = order.into_iter().take(MOST_FREQUENT).map(|id| {
            let (count, id) = (self.counts[id], id as u32);
            let text = self.tokenizer.as_ref().map(|tokenizer| text_of(tokenizer, id));
            Frequent { id, count, share: count as f64 / self.shard_tokens as f64, text }
        });
        let (duplicates, duplicates_estimated) = (self.duplicates.count(), self.duplicates.is_estimate());
        let documents = files.iter().filter_map(|file| file.documents).sum();
        let mut findings = self.findings;
        if let Some(example) = self.duplicates.example() {
            let about = if duplicates_estimated { "about " } else { "" };
            findings.push(Finding::warning(format!(
                "{about}{duplicates} of {documents} documents came before; the first is {example}"
            )));
        }
        Report {
            tokens: files.iter().filter_map(|file| file.tokens).sum(),
            documents,
            duplicates,
            duplicates_estimated,
            bytes_per_token: (self.text_tokens > 0).then(|| self.text_bytes as f64 / self.text_tokens as f64),
            frequent: frequent.collect(),
            findings,
            files,
        }
    }
}

/// The text of one id, the document end by its name.
fn text_of(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.end_of_document() == Some(id) {
        true => crate::tokenizer::END_OF_DOCUMENT.to_owned(),
        false => tokenizer.decode(&[id.cast_signed()]),
    }
}

impl Report {
    /// How many findings are errors, and how many warnings.
    pub fn count(&self) -> (usize, usize) {
        let findings = || self.files.iter().flat_map(|file| &file.findings).chain(&self.findings);
        (findings().filter(|finding| finding.error).count(), findings().filter(|finding| !finding.error).count())
    }
}
