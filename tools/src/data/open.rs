//! From a config to the rows of its data.

use std::path::PathBuf;
use std::sync::Arc;

use super::described::{Description, Descriptions};
use super::files;
use super::fingerprint::{FileFingerprint, Sampling};
use super::mixture::Sources;
use super::order::{Permutation, Purpose, draw};
use super::rows::{Chosen, Documents, Layout, Packed, Padded, RowOrder, Rows, Stream, Text, Tokens};
use super::shards::{Shard, Shards};
use crate::config::{Config, DataConfig, Documents as DocumentsKey, Order, TokenDType, TokenizerKind};
use crate::error::Result;
use crate::tokenizer::{self, CharTokenizer, Tokenizer};

/// Data that were opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// The config with `model.vocab_size` filled in.
    pub(super) config: Config,
    pub(super) train: Sources,
    pub(super) held_out: Option<Sources>,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) end_of_document: Option<u32>,
    /// Documents to train on, where they are known.
    pub(super) documents: Option<usize>,
    /// The files of each source.
    pub(super) files: Vec<Files>,
    pub(super) val_files: Files,
}

/// Files that were opened, for their fingerprints.
#[derive(Debug)]
pub(super) enum Files {
    /// Text, which was read whole.
    Text(Vec<FileFingerprint>),
    Shards(Arc<Shards>),
}

/// A source of training data.
#[derive(Debug)]
pub(super) struct SourceFiles {
    /// The setting that names its files.
    pub(super) key: String,
    /// What messages call it.
    pub(super) called: String,
    pub(super) weight: f64,
    pub(super) files: Vec<PathBuf>,
}

/// The sources that `config` names, with the files they have.
pub(super) fn sources(config: &Config) -> Result<Vec<SourceFiles>> {
    let source = |key: String, called: String, weight, paths: &[PathBuf]| {
        let files = files::expand(config, &key, paths)?;
        Ok(SourceFiles { key, called, weight, files })
    };
    if config.data.mixture.is_empty() {
        let train = source("data.train".to_owned(), "the training data".to_owned(), 1.0, &config.data.train)?;
        return Ok(vec![train]);
    }
    let each = config.data.mixture.iter().enumerate();
    each.map(|(index, given)| {
        let (key, called) = (format!("data.mixture.{index}.files"), format!("the source {:?}", given.name));
        source(key, called, given.weight, &given.files)
    })
    .collect()
}

/// Opens the data of `config`; see `Data::open`.
pub(super) fn open(config: &Config, saved: Option<&Tokenizer>) -> Result<Opened> {
    let sources = sources(config)?;
    let val = files::expand(config, "data.val", &config.data.val)?;
    let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
    let parts = match config.data.is_shards() {
        true => open_shards(config, saved, &sources, val)?,
        false => open_text(config, saved, &sources, val)?,
    };
    for (source, rows) in sources.iter().zip(&parts.train) {
        if rows.per_epoch() == 0 {
            let (called, pairs, seq_len) = (&source.called, rows.pairs(), config.train.seq_len);
            let tokens = pairs + 1;
            let message = format!(
                "{called} has {tokens} tokens, too few for one row of `seq_len` {seq_len} and the token after it"
            );
            return Err(config.error_at(&source.key, message));
        }
    }
    let Parts { config: filled, train, held_out, tokenizer, end_of_document, documents, files, val_files } = parts;
    let train = Sources::mixed(train, &weights, config.train.seed);
    let held_out = (!held_out.is_empty()).then(|| Sources::once(held_out));
    Ok(Opened { config: filled, train, held_out, tokenizer, end_of_document, documents, files, val_files })
}

/// As `Opened`, before the sources are put together.
struct Parts {
    config: Config,
    train: Vec<Rows>,
    held_out: Vec<Rows>,
    tokenizer: Option<Tokenizer>,
    end_of_document: Option<u32>,
    documents: Option<usize>,
    files: Vec<Files>,
    val_files: Files,
}

/// The order of rows of a source.
fn row_order(config: &Config, source: usize) -> RowOrder {
    let seed = config.train.seed;
    match config.data.order {
        Order::Sequential => RowOrder::Sequential,
        Order::Shuffle if source == 0 => RowOrder::Shuffle(seed),
        // Sources that correspond, such as translations, must not run in step.
        Order::Shuffle => RowOrder::Shuffle(draw(seed, Purpose::Source, source as u64)),
    }
}

/// How many of `count` things `val_fraction` holds out: rounded down, as in nanoGPT, and never all.
fn held_out_count(config: &Config, count: u64) -> u64 {
    let fraction = config.data.val_fraction.unwrap_or(0.0);
    ((count as f64 * fraction) as u64).min(count.saturating_sub(1))
}

/// The rows to train on of each stream, and those that are held out: `val`, or the end of each stream.
fn split_streams(
    config: &Config,
    streams: Vec<(Tokens, u64)>,
    val: Option<(Tokens, u64)>,
    masked_after: Option<i32>,
) -> (Vec<Rows>, Vec<Rows>) {
    let windows = |tokens, start, len, order| {
        let layout = Layout::Windows(Stream { tokens, start, len });
        Rows::new(layout, config.train.seq_len, order).masked_after(masked_after)
    };
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (source, (tokens, len)) in streams.into_iter().enumerate() {
        let held = if val.is_some() { 0 } else { held_out_count(config, len) };
        train.push(windows(tokens.clone(), 0, len - held, row_order(config, source)));
        held_out.push(windows(tokens, len - held, held, RowOrder::Whole));
    }
    held_out.extend(val.map(|(tokens, len)| windows(tokens, 0, len, RowOrder::Whole)));
    held_out.retain(|rows| rows.pairs() > 0);
    (train, held_out)
}

fn open_shards(
    config: &Config,
    saved: Option<&Tokenizer>,
    sources: &[SourceFiles],
    val: Vec<PathBuf>,
) -> Result<Parts> {
    let mut descriptions = Descriptions::default();
    let mut first: Option<Description> = None;
    let mut describe = |key: &str, files: &[PathBuf]| -> Result<Vec<Option<Description>>> {
        let mut described = Vec::new();
        for path in files {
            let description = descriptions.of(path).map_err(|error| config.error_at(key, error.message()))?;
            if let Some(description) = &description {
                let first = first.get_or_insert_with(|| description.clone());
                description.agree(first).map_err(|message| config.error_at(key, message))?;
            }
            described.push(description);
        }
        Ok(described)
    };
    let described: Vec<_> = sources.iter().map(|source| describe(&source.key, &source.files)).collect::<Result<_>>()?;
    let val_described = describe("data.val", &val)?;
    let tokenizer = tokenizer_of_shards(config, saved, first.as_ref())?;
    let (config, vocab_size) = with_vocab_size(config, first.as_ref(), tokenizer.as_ref())?;
    let end_of_document = end_of_shards(&config, first.as_ref(), tokenizer.as_ref(), vocab_size)?;
    // What the shards say ends a document, and not what a tokenizer may call so.
    let config = config.with_end_of_document_id(end_of_document);
    let tokenizer = tokenizer.map(|tokenizer| tokenizer.with_end_of_document_id(end_of_document));

    let narrow = vocab_size <= usize::from(u16::MAX) + 1;
    let raw = config.data.token_dtype.unwrap_or(if narrow { TokenDType::Uint16 } else { TokenDType::Uint32 });
    let open = |key: &str, files: &[PathBuf], described: &[Option<Description>]| -> Result<Arc<Shards>> {
        let shards = files.iter().zip(described).map(|(path, described)| {
            if let (Some(given), Some(described)) = (config.data.token_dtype, described)
                && given != described.sidecar.dtype
            {
                let (file, dtype) = (described.file(), described.sidecar.dtype);
                let message = format!("`token_dtype` is {given}, and {} says {dtype}; leave it out", file.display());
                return Err(config.error_at("data.token_dtype", message));
            }
            Shard::open(path, raw, described.as_ref())
                .map_err(|reason| config.error_at(key, format!("{}: {reason}", path.display())))
        });
        Ok(Arc::new(Shards::new(shards.collect::<Result<_>>()?, vocab_size)))
    };
    let opened = sources.iter().zip(&described).map(|(source, described)| open(&source.key, &source.files, described));
    let opened: Vec<Arc<Shards>> = opened.collect::<Result<_>>()?;
    let val = open("data.val", &val, &val_described)?;
    let tokens = |shards: &Arc<Shards>| (Tokens::Shards(Arc::clone(shards)), shards.len());
    let masked_after = end_of_document.filter(|_| config.data.mask_end_of_document).map(u32::cast_signed);
    let held = (val.num_files() > 0).then(|| tokens(&val));
    let (train, held_out) = split_streams(&config, opened.iter().map(tokens).collect(), held, masked_after);
    let (files, val_files) = (opened.into_iter().map(Files::Shards).collect(), Files::Shards(val));
    Ok(Parts { config, train, held_out, tokenizer, end_of_document, documents: None, files, val_files })
}

/// The tokenizer of token shards, if one is known: of the run, the config and the description beside the shards, which
/// must be the same.
fn tokenizer_of_shards(
    config: &Config,
    saved: Option<&Tokenizer>,
    described: Option<&Description>,
) -> Result<Option<Tokenizer>> {
    let at = |message: String| config.error_at("data.tokenizer", message);
    let of_description = match described {
        Some(description) => description.tokenizer().map_err(|error| at(error.message().to_owned()))?,
        None => None,
    };
    let given = match &config.data.tokenizer {
        None => None,
        Some(TokenizerKind::File(path)) => Some(tokenizer::configured(config, path, saved)?),
        Some(TokenizerKind::Byte) => Some(Tokenizer::Byte),
        Some(TokenizerKind::Char) => match saved.or(of_description.as_ref()) {
            Some(chars @ Tokenizer::Char(_)) => Some(chars.clone()),
            Some(_) | None => {
                let message = "\"char\" is made from text, and token shards have none; leave `tokenizer` out";
                return Err(at(message.to_owned()));
            }
        },
    };
    if let (Some(described), Some(of_description)) = (described, &of_description) {
        let path = described.sidecar.tokenizer_path(&described.folder);
        let other =
            |whose: &str| at(format!("the shards were made with the tokenizer {}, and {whose}", path.display()));
        // As they are saved, which is what checkpoints keep.
        let differs = |other: &Tokenizer| other.to_json() != of_description.to_json();
        if given.as_ref().is_some_and(differs) {
            return Err(other("`data.tokenizer` is another one; leave it out"));
        }
        if saved.is_some_and(differs) {
            return Err(other("the run was trained with another one"));
        }
    }
    if let (Some(saved), Some(given)) = (saved, &given)
        && saved.to_json() != given.to_json()
    {
        return Err(at("it is another tokenizer than the one the run was trained with".to_owned()));
    }
    Ok(saved.cloned().or(given).or(of_description))
}

/// The config with the size of the vocabulary, which the description of the shards or their tokenizer tells.
fn with_vocab_size(
    config: &Config,
    described: Option<&Description>,
    tokenizer: Option<&Tokenizer>,
) -> Result<(Config, usize)> {
    let given = config.model.vocab_size();
    if let (Some(given), Some(described)) = (given, described)
        && given < described.sidecar.vocab_size
    {
        let (file, size) = (described.file(), described.sidecar.vocab_size);
        let message =
            format!("`vocab_size` {given} is less than the {size} of {}; leave it out to use {size}", file.display());
        return Err(config.error_at("model.vocab_size", message));
    }
    let size = described.map(|described| described.sidecar.vocab_size).or(tokenizer.map(Tokenizer::vocab_size));
    let config = size.map_or_else(|| Ok(config.clone()), |size| config.with_tokenizer_size(size))?;
    let Some(vocab_size) = config.model.vocab_size() else {
        let message =
            "[model] lacks `vocab_size`, which token shards need: nothing else tells how many tokens there are";
        return Err(config.error_at("model", message));
    };
    Ok((config, vocab_size))
}

/// The id that ends documents in token shards, if one is known.
fn end_of_shards(
    config: &Config,
    described: Option<&Description>,
    tokenizer: Option<&Tokenizer>,
    vocab_size: usize,
) -> Result<Option<u32>> {
    let of_description = described.and_then(|described| described.sidecar.end_of_document);
    if let (Some(given), Some(described)) = (config.data.end_of_document_id, described)
        && Some(given) != of_description
    {
        let (file, said) =
            (described.file(), of_description.map_or_else(|| "that there is none".into(), |id| id.to_string()));
        let message = format!("`end_of_document_id` is {given}, and {} says {said}; leave it out", file.display());
        return Err(config.error_at("data.end_of_document_id", message));
    }
    let end = match described {
        Some(_) => of_description,
        None => config.data.end_of_document_id.or(tokenizer.and_then(Tokenizer::end_of_document)),
    };
    match end {
        Some(end) if end as usize >= vocab_size => Err(config.error_at(
            "data.end_of_document_id",
            format!("the document end {end} is outside of the vocabulary, `model.vocab_size` {vocab_size}"),
        )),
        None => {
            let DataConfig { mask_end_of_document, reset_attention_mask, .. } = config.data;
            let asked =
                [("mask_end_of_document", mask_end_of_document), ("reset_attention_mask", reset_attention_mask)];
            match asked.into_iter().find(|(_, is_asked)| *is_asked) {
                None => Ok(None),
                Some((key, _)) => Err(config.error_at(
                    &format!("data.{key}"),
                    format!("`{key}` needs to know which id ends a document; say `data.end_of_document_id`"),
                )),
            }
        }
        end => Ok(end),
    }
}

/// Texts of a source with their files and the setting that names them.
struct Texts<'a> {
    key: &'a str,
    texts: Vec<(PathBuf, String)>,
}

impl Texts<'_> {
    fn read<'a>(config: &Config, key: &'a str, files: &[PathBuf]) -> Result<Texts<'a>> {
        let read = |path: &PathBuf| files::read_text(config, key, path).map(|text| (path.clone(), text));
        Ok(Texts { key, texts: files.iter().map(read).collect::<Result<_>>()? })
    }

    fn fingerprints(&self, sampling: Sampling) -> Files {
        let print = |(path, text): &(PathBuf, String)| {
            let read = |at: u64, out: &mut [u8]| {
                out.copy_from_slice(&text.as_bytes()[at as usize..at as usize + out.len()]);
                Ok(())
            };
            sampling.fingerprint(path, text.len() as u64, read).expect("memory can be read")
        };
        Files::Text(self.texts.iter().map(print).collect())
    }
}

fn open_text(config: &Config, saved: Option<&Tokenizer>, sources: &[SourceFiles], val: Vec<PathBuf>) -> Result<Parts> {
    let texts = sources.iter().map(|source| Texts::read(config, &source.key, &source.files));
    let train: Vec<Texts<'_>> = texts.collect::<Result<_>>()?;
    let val = Texts::read(config, "data.val", &val)?;
    let lines = config.data.documents == DocumentsKey::Lines;
    let tokenizer = tokenizer_of_text(config, saved, &train, lines)?;
    let config = config.with_tokenizer_size(tokenizer.vocab_size())?;
    let sampling = Sampling::of(train.iter().map(|source| source.texts.len()).sum());
    let files = train.iter().map(|source| source.fingerprints(sampling)).collect();
    let val_files = val.fingerprints(Sampling::of(val.texts.len()));
    let (rows, held_out, documents) = if lines {
        let separator = tokenizer.end_of_document().ok_or_else(|| {
            config.error_at(
                "data.documents",
                "the tokenizer has no document end, which \"lines\" needs; see `data.end_of_document`",
            )
        })?;
        open_documents(&config, &tokenizer, separator, &train, &val)?
    } else {
        open_running_text(&config, &tokenizer, &train, &val)?
    };
    let end_of_document = tokenizer.end_of_document().filter(|_| lines);
    let config = match (config.data.reset_attention_mask, config.data.end_of_document_id) {
        (false, _) => config,
        (true, Some(given)) if Some(given) != end_of_document => {
            let message = format!("`end_of_document_id` is {given}, and the tokenizer's is another one; leave it out");
            return Err(config.error_at("data.end_of_document_id", message));
        }
        // What is trained depends on it.
        (true, _) => config.with_end_of_document_id(end_of_document),
    };
    let tokenizer = Some(tokenizer);
    Ok(Parts { config, train: rows, held_out, tokenizer, end_of_document, documents, files, val_files })
}

/// The tokenizer of text: the run's, or what the config says.
fn tokenizer_of_text(
    config: &Config,
    saved: Option<&Tokenizer>,
    train: &[Texts<'_>],
    lines: bool,
) -> Result<Tokenizer> {
    match (saved, &config.data.tokenizer) {
        (saved, Some(TokenizerKind::File(path))) => tokenizer::configured(config, path, saved),
        (Some(saved), _) => Ok(saved.clone()),
        (None, Some(TokenizerKind::Byte)) => Ok(Tokenizer::Byte),
        // Without a kind the files are token shards.
        (None, Some(TokenizerKind::Char) | None) => {
            let texts = train.iter().flat_map(|source| &source.texts);
            let characters = texts.flat_map(|(_, text)| text.chars());
            // The breaks between documents are not part of any.
            let characters = characters.filter(|&c| !lines || !matches!(c, '\n' | '\r'));
            let chars = CharTokenizer::new(characters, lines);
            chars.map(Tokenizer::Char).map_err(|error| config.error_at(train[0].key, error.message()))
        }
    }
}

type SplitRows = (Vec<Rows>, Vec<Rows>, Option<usize>);

fn open_running_text(
    config: &Config,
    tokenizer: &Tokenizer,
    train: &[Texts<'_>],
    val: &Texts<'_>,
) -> Result<SplitRows> {
    let encode = |source: &Texts<'_>| -> Result<(Tokens, u64)> {
        let mut text = Text { ids: Vec::new(), files: Vec::new() };
        for (path, content) in &source.texts {
            text.files.push((path.clone(), text.ids.len() as u64));
            let encoded = tokenizer.encode_into(content, &mut text.ids);
            encoded.map_err(|error| files::content_error(config, source.key, path, &error))?;
        }
        let len = text.ids.len() as u64;
        Ok((Tokens::Memory(Arc::new(text)), len))
    };
    let streams = train.iter().map(encode).collect::<Result<_>>()?;
    let val = if val.texts.is_empty() { None } else { Some(encode(val)?) };
    let (train, held_out) = split_streams(config, streams, val, None);
    Ok((train, held_out, None))
}

fn open_documents(
    config: &Config,
    tokenizer: &Tokenizer,
    separator: u32,
    train: &[Texts<'_>],
    val: &Texts<'_>,
) -> Result<SplitRows> {
    let seq_len = config.train.seq_len;
    let rows = |chosen: Chosen, order| {
        let layout = match config.data.packing {
            true => Layout::Packed(Packed::new(chosen)),
            false => Layout::Padded(Padded::new(chosen, seq_len)),
        };
        Rows::new(layout, seq_len, order)
    };
    let (mut rows_of_train, mut held_out, mut count) = (Vec::new(), Vec::new(), 0);
    for (source, texts) in train.iter().enumerate() {
        let all = Arc::new(encode_lines(config, tokenizer, separator, texts)?);
        let num_documents = all.lines.len() as u64;
        let held_count = if val.texts.is_empty() { held_out_count(config, num_documents) } else { 0 };
        let draw = Permutation::new(config.train.seed, Purpose::Split, source as u64, num_documents);
        let (held, chosen): (Vec<usize>, Vec<usize>) =
            (0..all.lines.len()).partition(|&index| draw.at(index as u64) < held_count);
        count += chosen.len();
        rows_of_train.push(rows(Chosen { documents: Arc::clone(&all), indices: chosen }, row_order(config, source)));
        held_out.push(Chosen { documents: all, indices: held });
    }
    if !val.texts.is_empty() {
        let documents = Arc::new(encode_lines(config, tokenizer, separator, val)?);
        let indices = (0..documents.lines.len()).collect();
        held_out = vec![Chosen { documents, indices }];
    }
    let held_out = held_out.into_iter().filter(|chosen| !chosen.indices.is_empty());
    Ok((rows_of_train, held_out.map(|chosen| rows(chosen, RowOrder::Whole)).collect(), Some(count)))
}

/// The lines of texts that are not empty, as documents.
fn encode_lines(config: &Config, tokenizer: &Tokenizer, separator: u32, source: &Texts<'_>) -> Result<Documents> {
    let mut documents = Documents {
        ids: Vec::new(),
        bounds: vec![0],
        separator: separator.cast_signed(),
        files: source.texts.iter().map(|(path, _)| path.clone()).collect(),
        lines: Vec::new(),
    };
    for (file, (path, text)) in (0..).zip(&source.texts) {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty()) {
            let encoded = tokenizer.encode_into(line, &mut documents.ids);
            encoded.map_err(|error| {
                let message = format!("{}, line {number}: {error}", path.display());
                config.error_at(source.key, message)
            })?;
            documents.bounds.push(documents.ids.len());
            documents.lines.push((file, number));
        }
    }
    if documents.lines.is_empty() {
        return Err(config.error_at(source.key, "the files have no lines that are not empty, so no documents"));
    }
    Ok(documents)
}
