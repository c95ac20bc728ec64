//! Training and held-out data as batches: text by lines or running, and token shards.
//!
//! Rows are addressed by number alone: step `s` takes the rows from `s * rows a batch` on, and what row `r` holds
//! follows from the data, the seed and `r`. So the step is the whole cursor, and neither threads nor restarts change
//! the order.

mod batch;
mod files;
mod order;
mod rows;
mod shards;
pub mod sidecar;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Documents as DocumentsKey, Order, TokenDType, TokenizerKind};
use crate::error::Result;
use crate::tokenizer::{self, CharTokenizer, Tokenizer};

pub use batch::{Batch, BatchShape, Batches};

use order::{Permutation, Purpose};
use rows::{Chosen, Documents, Layout, Packed, Padded, RowOrder, Rows, Stream, Tokens};
use shards::Shards;

/// The label of a place where nothing is to be predicted; PyTorch's `ignore_index`.
pub const IGNORED: i32 = -100;

/// Batches made ahead of need. Making one takes far less than a step, so a few smooth out a slow disk.
const AHEAD: usize = 4;

/// The data of a run, open for reading.
#[derive(Debug)]
pub struct Data {
    train: Arc<Rows>,
    held_out: Option<Arc<Rows>>,
    tokenizer: Option<Tokenizer>,
    shape: BatchShape,
    documents: Option<usize>,
}

impl Data {
    /// Opens the data of `config`, and returns the config with `model.vocab_size` filled in. With a tokenizer of an
    /// earlier run, `saved`, text is encoded by that; else a character vocabulary is made from the training text, the
    /// held-out part of the same files included.
    ///
    /// # Errors
    /// If a file is missing, empty, a folder, not UTF-8, or no shard; if the text has a character the tokenizer does
    /// not know; if there is too little data for a row; if the tokenizer does not fit `model.vocab_size`.
    pub fn open(config: &Config, saved: Option<&Tokenizer>) -> Result<(Config, Data)> {
        let shape = BatchShape {
            micro_batches: config.train.grad_accum_steps,
            micro_batch_size: config.train.micro_batch_size,
            seq_len: config.train.seq_len,
        };
        let train_files = files::expand(config, "data.train", &config.data.train)?;
        let val_files = files::expand(config, "data.val", &config.data.val)?;
        let from_file = match &config.data.tokenizer {
            Some(TokenizerKind::File(path)) => Some(tokenizer::configured(config, path, saved)?),
            Some(TokenizerKind::Char | TokenizerKind::Byte) | None => None,
        };
        let Some(kind) = config.data.tokenizer.as_ref().filter(|_| config.data.is_text()) else {
            let config = match &from_file {
                Some(tokenizer) => &config.with_tokenizer_size(tokenizer.vocab_size())?,
                None => config,
            };
            let (train, held_out) = open_shards(config, train_files, val_files)?;
            let data = Data { train: Arc::new(train), held_out, tokenizer: from_file, shape, documents: None };
            return Ok((config.clone(), data.check(config)?));
        };
        let train_texts = read_texts(config, "data.train", train_files)?;
        let val_texts = read_texts(config, "data.val", val_files)?;
        let lines = config.data.documents == DocumentsKey::Lines;
        let tokenizer = match (from_file.as_ref().or(saved), kind) {
            (Some(known), _) => known.clone(),
            (None, TokenizerKind::File(_)) => unreachable!("it was read above"),
            (None, TokenizerKind::Byte) => Tokenizer::Byte,
            (None, TokenizerKind::Char) => {
                let characters = train_texts.iter().flat_map(|(_, text)| text.chars());
                // The breaks between documents are not part of any.
                let characters = characters.filter(|&c| !lines || !matches!(c, '\n' | '\r'));
                Tokenizer::Char(
                    CharTokenizer::new(characters, lines)
                        .map_err(|error| config.error_at("data.train", error.message()))?,
                )
            }
        };
        let config = &config.with_tokenizer_size(tokenizer.vocab_size())?;
        let (train, held_out, documents) = if lines {
            let separator = tokenizer.end_of_document().ok_or_else(|| {
                config.error_at(
                    "data.documents",
                    "the tokenizer has no document end, which \"lines\" needs; see `data.end_of_document`",
                )
            })?;
            open_documents(config, &tokenizer, separator, &train_texts, &val_texts)?
        } else {
            open_running_text(config, &tokenizer, &train_texts, &val_texts)?
        };
        let data = Data { train: Arc::new(train), held_out, tokenizer: Some(tokenizer), shape, documents };
        Ok((config.clone(), data.check(config)?))
    }

    /// Refuses data that do not fill a row.
    fn check(self, config: &Config) -> Result<Data> {
        if self.train.per_epoch() == 0 {
            let (pairs, seq_len) = (self.train.pairs(), self.shape.seq_len);
            let message = format!(
                "the training data has {} tokens, too few for one row of `seq_len` {seq_len} and the token after it",
                pairs + 1
            );
            return Err(config.error_at("data.train", message));
        }
        Ok(self)
    }

    /// The tokenizer; `None` for token shards.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The sizes of a training batch.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Rows of an epoch of training.
    pub fn rows_per_epoch(&self) -> u64 {
        self.train.per_epoch()
    }

    /// Tokens to predict in the training data.
    pub fn train_tokens(&self) -> u64 {
        self.train.pairs()
    }

    /// Tokens to predict in the held-out data; 0 when there are none.
    pub fn held_out_tokens(&self) -> u64 {
        self.held_out.as_ref().map_or(0, |rows| rows.pairs())
    }

    /// Documents to train on; `None` for data without document bounds.
    pub fn train_documents(&self) -> Option<usize> {
        self.documents
    }

    /// The batches of `steps` (from 0), made ahead on a thread.
    ///
    /// # Errors
    /// If the thread cannot be started. A batch is an error if a shard cannot be read or has an id outside the
    /// vocabulary; nothing follows it.
    pub fn batches(&self, steps: Range<u64>) -> Result<Batches> {
        Batches::start(Arc::clone(&self.train), steps, self.shape, AHEAD)
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

type Held = Option<Arc<Rows>>;

fn row_order(config: &Config) -> RowOrder {
    match config.data.order {
        Order::Shuffle => RowOrder::Shuffle(config.train.seed),
        Order::Sequential => RowOrder::Sequential,
    }
}

fn read_texts(config: &Config, key: &str, files: Vec<PathBuf>) -> Result<Vec<(PathBuf, String)>> {
    let read = |path: PathBuf| files::read_text(config, key, &path).map(|text| (path, text));
    files.into_iter().map(read).collect()
}

/// How many of `count` things `val_fraction` holds out: rounded down, as in nanoGPT, and never all.
fn held_out_count(config: &Config, count: u64) -> u64 {
    let fraction = config.data.val_fraction.unwrap_or(0.0);
    ((count as f64 * fraction) as u64).min(count.saturating_sub(1))
}

fn windows(config: &Config, stream: Stream, order: RowOrder) -> Rows {
    Rows::new(Layout::Windows(stream), config.train.seq_len, order)
}

/// The end of `tokens` is held out, unless there are held-out tokens of their own.
fn split_stream(config: &Config, tokens: Tokens, len: u64, val: Option<(Tokens, u64)>) -> (Rows, Held) {
    let held = held_out_count(config, len);
    let train = Stream { tokens: tokens.clone(), start: 0, len: len - held };
    let val = match val {
        Some((tokens, len)) => Stream { tokens, start: 0, len },
        None => Stream { tokens, start: len - held, len: held },
    };
    let held_out = (val.len > 1).then(|| Arc::new(windows(config, val, RowOrder::Whole)));
    (windows(config, train, row_order(config)), held_out)
}

fn open_shards(config: &Config, train: Vec<PathBuf>, val: Vec<PathBuf>) -> Result<(Rows, Held)> {
    let vocab_size = config
        .model
        .vocab_size()
        .ok_or_else(|| config.error_at("model", "[model] lacks `vocab_size`, which token shards need"))?;
    let narrow = vocab_size <= usize::from(u16::MAX) + 1;
    let raw = config.data.token_dtype.unwrap_or(if narrow { TokenDType::Uint16 } else { TokenDType::Uint32 });
    let open = |key, files| -> Result<(Tokens, u64)> {
        let shards = Shards::open(config, key, files, raw, vocab_size)?;
        let len = shards.len();
        Ok((Tokens::Shards(Arc::new(shards)), len))
    };
    let (tokens, len) = open("data.train", train)?;
    let val = if val.is_empty() { None } else { Some(open("data.val", val)?) };
    Ok(split_stream(config, tokens, len, val))
}

type Opened = (Rows, Held, Option<usize>);

fn open_running_text(
    config: &Config,
    tokenizer: &Tokenizer,
    train: &[(PathBuf, String)],
    val: &[(PathBuf, String)],
) -> Result<Opened> {
    let encode = |key, texts: &[(PathBuf, String)]| -> Result<(Tokens, u64)> {
        let mut ids = Vec::new();
        for (path, text) in texts {
            let encoded = tokenizer.encode_into(text, &mut ids);
            encoded.map_err(|error| files::content_error(config, key, path, &error))?;
        }
        let len = ids.len() as u64;
        Ok((Tokens::Memory(Arc::new(ids)), len))
    };
    let (tokens, len) = encode("data.train", train)?;
    let val = if val.is_empty() { None } else { Some(encode("data.val", val)?) };
    let (train, held_out) = split_stream(config, tokens, len, val);
    Ok((train, held_out, None))
}

fn open_documents(
    config: &Config,
    tokenizer: &Tokenizer,
    separator: u32,
    train: &[(PathBuf, String)],
    val: &[(PathBuf, String)],
) -> Result<Opened> {
    let encode = |key, texts: &[(PathBuf, String)]| -> Result<Arc<Documents>> {
        let mut documents = Documents { ids: Vec::new(), bounds: vec![0], separator: separator.cast_signed() };
        for (path, text) in texts {
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
                let encoded = tokenizer.encode_into(line, &mut documents.ids);
                encoded.map_err(|error| {
                    let message = format!("{}, line {}: {error}", path.display(), number + 1);
                    config.error_at(key, message)
                })?;
                documents.bounds.push(documents.ids.len());
            }
        }
        if documents.bounds.len() == 1 {
            return Err(config.error_at(key, "the files have no lines that are not empty, so no documents"));
        }
        Ok(Arc::new(documents))
    };
    let all = encode("data.train", train)?;
    let count = all.bounds.len() - 1;
    let (chosen, held) = if val.is_empty() {
        let held_count = held_out_count(config, count as u64);
        let draw = Permutation::new(config.train.seed, Purpose::Split, 0, count as u64);
        let (held, chosen) = (0..count).partition(|&index| draw.at(index as u64) < held_count);
        (Chosen { documents: Arc::clone(&all), indices: chosen }, Chosen { documents: all, indices: held })
    } else {
        let val = encode("data.val", val)?;
        let held = (0..val.bounds.len() - 1).collect();
        (Chosen { documents: all, indices: (0..count).collect() }, Chosen { documents: val, indices: held })
    };
    let seq_len = config.train.seq_len;
    let rows = |chosen: Chosen, order| {
        let layout = match config.data.packing {
            true => Layout::Packed(Packed::new(chosen)),
            false => Layout::Padded(Padded::new(chosen, seq_len)),
        };
        Rows::new(layout, seq_len, order)
    };
    let documents = chosen.indices.len();
    let held_out = (!held.indices.is_empty()).then(|| Arc::new(rows(held, RowOrder::Whole)));
    Ok((rows(chosen, row_order(config)), held_out, Some(documents)))
}
