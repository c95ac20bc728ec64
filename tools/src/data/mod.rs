//! Training and held-out data as batches: text by lines or running, and token shards.
//!
//! Rows are addressed by number alone: step `s` takes the rows from `s * rows a batch` on, and what row `r` holds
//! follows from the data, the seed and `r`. So the step is the whole cursor, and neither threads nor restarts change
//! the order.

mod batch;
mod described;
mod files;
mod fingerprint;
pub mod lint;
mod mixture;
mod open;
mod order;
mod rows;
mod shards;
pub mod sidecar;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::config::{Config, Documents};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

pub use batch::{Batch, BatchShape, Batches};
pub use fingerprint::{FileFingerprint, Fingerprint};
pub use rows::Place;

use fingerprint::Sampling;
use mixture::Sources;
use open::{Files, Opened};
use rows::Rows;

/// The label of a place where nothing is to be predicted; PyTorch's `ignore_index`.
pub const IGNORED: i32 = -100;

/// Batches made ahead of need. Making one takes far less than a step, so a few smooth out a slow disk.
const AHEAD: usize = 4;

/// A source that is seen more often than this is repeated too much: up to four epochs were nearly as good as new data
/// (Muennighoff et al., "Scaling Data-Constrained Language Models", 2023).
const MOST_EPOCHS: f64 = 4.0;

/// The data of a run, open for reading.
#[derive(Debug)]
pub struct Data {
    train: Arc<Sources>,
    held_out: Option<Arc<Sources>>,
    /// Name and share of each source.
    shares: Vec<(String, f64)>,
    tokenizer: Option<Tokenizer>,
    end_of_document: Option<u32>,
    shape: BatchShape,
    documents: Option<usize>,
    files: Vec<Files>,
    val_files: Files,
}

/// A source of training data, and how much of it a run sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name; of the only source of a run without a mixture `train`.
    pub name: String,
    /// Its share of the rows, from 0 to 1.
    pub share: f64,
    /// Its tokens to predict.
    pub tokens: u64,
    /// Its rows that hold all of it once.
    pub rows_per_epoch: u64,
    /// Rows of it that the run sees.
    pub rows: u64,
    /// Times the run goes through it.
    pub epochs: f64,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The source's name.
    pub source: String,
    /// Which epoch of the source it is in, from 0.
    pub epoch: u64,
    /// Where its tokens lie, in their sequence.
    pub places: Vec<Place>,
}

impl Data {
    /// Opens the data of `config`, and returns the config with what the data tell filled in: `model.vocab_size`, and the end
    /// of documents of token shards and where attention is to heed it. With a tokenizer of an
    /// earlier run, `saved`, text is encoded by that; else a character vocabulary is made from the training text, the
    /// held-out part of the same files included.
    ///
    /// # Errors
    /// If a file is missing, empty, a folder, not UTF-8, or no shard; if the text has a character the tokenizer does
    /// not know; if there is too little data for a row; if the tokenizer does not fit `model.vocab_size`; if shards are
    /// not what the `shards.json` beside them says, or are of different tokenizers.
    pub fn open(config: &Config, saved: Option<&Tokenizer>) -> Result<(Config, Data)> {
        let shape = BatchShape {
            micro_batches: config.train.grad_accum_steps,
            micro_batch_size: config.train.micro_batch_size,
            seq_len: config.train.seq_len,
        };
        let Opened { config, train, held_out, tokenizer, end_of_document, documents, files, val_files } =
            open::open(config, saved)?;
        let total: f64 = config.data.mixture.iter().map(|source| source.weight).sum();
        let shares = config.data.mixture.iter().map(|source| (source.name.clone(), source.weight / total));
        let shares = if config.data.mixture.is_empty() { vec![("train".to_owned(), 1.0)] } else { shares.collect() };
        let (train, held_out) = (Arc::new(train), held_out.map(Arc::new));
        let data = Data { train, held_out, shares, tokenizer, end_of_document, shape, documents, files, val_files };
        Ok((config, data))
    }

    /// The text to train on and the held-out one, if that is given: what the files of `config` hold, end to end. Files
    /// whose lines are documents end with a line break each.
    ///
    /// # Errors
    /// If a file is missing, empty, a folder, or not UTF-8.
    pub(crate) fn texts(config: &Config) -> Result<(String, Option<String>)> {
        let whole = |key: &str, paths: &[std::path::PathBuf]| -> Result<String> {
            let mut all = String::new();
            for path in files::expand(config, key, paths)? {
                all.push_str(&files::read_text(config, key, &path)?);
                if config.data.documents == Documents::Lines && !all.ends_with('\n') {
                    all.push('\n');
                }
            }
            Ok(all)
        };
        let val = if config.data.val.is_empty() { None } else { Some(whole("data.val", &config.data.val)?) };
        Ok((whole("data.train", &config.data.train)?, val))
    }

    /// The tokenizer; `None` for token shards with which none came.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The token that ends documents; `None` for data without document bounds.
    pub fn end_of_document(&self) -> Option<u32> {
        self.end_of_document
    }

    /// The sizes of a training batch.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Rows that hold all of the training data once.
    pub fn rows_per_epoch(&self) -> u64 {
        self.train.per_epoch()
    }

    /// Tokens to predict in the training data, those that are masked included.
    pub fn train_tokens(&self) -> u64 {
        self.train.pairs()
    }

    /// Tokens to predict in the held-out data, those that are masked included; 0 when there are none.
    pub fn held_out_tokens(&self) -> u64 {
        self.held_out.as_ref().map_or(0, |rows| rows.pairs())
    }

    /// Documents to train on; `None` for token shards and data without document bounds.
    pub fn train_documents(&self) -> Option<usize> {
        self.documents
    }

    /// The sources of training data, and how much of each a run of `steps` steps sees.
    pub fn sources(&self, steps: u64) -> Vec<Source> {
        let rows = steps.saturating_mul(self.shape.rows() as u64);
        let source = |(index, ((name, share), source)): (usize, (&(String, f64), &Rows))| {
            let (name, share, rows) = (name.clone(), *share, self.train.count(index, rows));
            let (tokens, rows_per_epoch) = (source.pairs(), source.per_epoch());
            Source { name, share, tokens, rows_per_epoch, rows, epochs: rows as f64 / rows_per_epoch as f64 }
        };
        self.shares.iter().zip(self.train.each()).enumerate().map(source).collect()
    }

    /// The most documents, those that are cut included, in one of the first rows to train on, and how many rows these are:
    /// all of an epoch, or as many as hold some million tokens. `None` where no token is known to end documents.
    ///
    /// # Errors
    /// If a shard cannot be read or has an id outside of the vocabulary.
    pub fn most_documents_per_row(&self) -> Result<Option<(usize, u64)>> {
        const MOST_TOKENS: usize = 1 << 22;
        let Some(end) = self.end_of_document.map(u32::cast_signed) else { return Ok(None) };
        let seq_len = self.shape.seq_len;
        let rows = self.rows_per_epoch().min((MOST_TOKENS / seq_len).max(1) as u64);
        let (mut tokens, mut labels, mut most) = (vec![0; seq_len], vec![0; seq_len], 0);
        for row in 0..rows {
            self.train.fill(row, &mut tokens, &mut labels)?;
            // An end at the row's own end has no document behind it.
            most = most.max(1 + tokens[..seq_len - 1].iter().filter(|&&token| token == end).count());
        }
        Ok(Some((most, rows)))
    }

    /// What is doubtful about the mixture in a run of `steps` steps, a line each.
    pub fn warnings(&self, steps: u64) -> Vec<String> {
        let sources = self.sources(steps);
        let repeated = sources.iter().filter(|source| sources.len() > 1 && source.epochs > MOST_EPOCHS);
        let warning = |Source { name, epochs, .. }: &Source| {
            format!(
                "the source {name:?} will be seen {epochs:.1} times; more than {MOST_EPOCHS} teach little that is new"
            )
        };
        repeated.map(warning).collect()
    }

    /// What tells these data from others, wherever they lie. Reads some hundred blocks of files, at least one of each.
    ///
    /// # Errors
    /// If a shard cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let of = |files: &Files, sampling| match files {
            Files::Text(prints) => Ok(prints.clone()),
            Files::Shards(shards) => shards.fingerprints(sampling),
        };
        let num_files = |files: &Files| match files {
            Files::Text(prints) => prints.len(),
            Files::Shards(shards) => shards.num_files(),
        };
        let sampling = Sampling::of(self.files.iter().map(num_files).sum());
        let train = self.files.iter().map(|files| of(files, sampling)).collect::<Result<_>>()?;
        Ok(Fingerprint { train, val: of(&self.val_files, Sampling::of(num_files(&self.val_files)))? })
    }

    /// The batches of `steps` (from 0), made ahead on a thread.
    ///
    /// # Errors
    /// If the thread cannot be started. A batch is an error if a shard cannot be read or has an id outside the
    /// vocabulary; nothing follows it.
    pub fn batches(&self, steps: Range<u64>) -> Result<Batches> {
        Batches::start(Arc::clone(&self.train), steps, self.shape, AHEAD)
    }

    /// Where row `row` of training comes from; step `s` has the rows from `s * shape().rows()` on.
    pub fn origin(&self, row: u64) -> Origin {
        let (source, row_of_source) = self.train.locate(row);
        let epoch = self.train.each()[source].epoch(row_of_source);
        Origin { source: self.shares[source].0.clone(), epoch, places: self.train.places(row) }
    }

    /// Where row `row` of the held-out data comes from, their rows counted from the first on. `None` without held-out data.
    pub fn held_out_origin(&self, row: u64) -> Option<Origin> {
        let places = self.held_out.as_ref()?.places(row);
        Some(Origin { source: "held out".to_owned(), epoch: 0, places })
    }

    /// The held-out data in a fixed order, every token once: `i32[micro_batches, micro_batch_size, seq_len]` a batch,
    /// the last one filled up with rows whose labels are all ignored. With `limit` more than 0, only the first `limit`
    /// micro-batches. Empty without held-out data.
    ///
    /// A mean over the data is the sum of losses over the sum of `num_labels`, not a mean of means.
    pub fn held_out_batches(&self, micro_batches: usize, limit: u64) -> impl Iterator<Item = Result<Batch>> + '_ {
        let shape = BatchShape { micro_batches, ..self.shape };
        let all = self.held_out.as_ref().map_or(0, |rows| rows.per_epoch());
        let end = match limit {
            0 => all,
            limit => all.min(limit.saturating_mul(shape.micro_batch_size as u64)),
        };
        let rows_each = shape.rows() as u64;
        (0..end.div_ceil(rows_each)).zip(self.held_out.iter().cycle()).map(move |(index, rows)| {
            let first = index * rows_each;
            batch::make(rows, index, first, end.min(first + rows_each), shape)
        })
    }
}
