//! `lmc export --web`: a page that trains a config's model in any browser, from the graph that runs natively.
//!
//! The page has a WebAssembly module for every size it offers, the text, and what a person needs to watch and to take
//! part: nothing is loaded from anywhere, and it opens from disk. What a native run does on the host (the order of data,
//! initial weights, tokens of characters) the page does in the same arithmetic, so that the same config and seed give the
//! same losses as `lmc train --device wasm`.

mod assemble;
mod entries;
mod module;
mod program;
mod sizes;

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lmc_lower::wasm::Mode;
use lmc_models::step::SlotStart;
use lmc_models::{Dropout, Init, TrainStep};
use serde_json::{Value, json};

use crate::config::{Config, Documents, Order, Precision, RawConfig, SampleConfig, TokenizerKind};
use crate::data::Data;
use crate::error::{Error, Result};
use crate::model::step_config;
use crate::output::{group_digits, say};

pub use assemble::{Files, Form};
use entries::entries;
use module::{lowered, tensors_json};

/// How many texts a page draws at a time, and how long they are.
#[derive(Clone, Copy, Debug)]
struct Sampling {
    count: usize,
    max_new_tokens: usize,
}

/// A text of the page is not read if it is longer.
const LONGEST_SAMPLE: usize = 160;

/// The most text that goes into a page: it is loaded and split whenever the page opens.
const MOST_TEXT: usize = 32 << 20;

/// What a page is made from.
#[derive(Clone, Debug)]
pub struct PageOptions {
    /// What the config file is called.
    pub name: String,
    /// Only the config's own size.
    pub one_size: bool,
}

/// The files of a page for a config.
///
/// # Errors
/// If the config asks for what a page cannot do, its data cannot be read, or an op or dtype of the model cannot be lowered.
pub fn page(raw: &RawConfig, options: &PageOptions, form: Form) -> Result<Files> {
    let config = raw.clone().validate()?;
    refuse(&config)?;
    let (train, val) = Data::texts(&config)?;
    if train.len() + val.as_ref().map_or(0, String::len) > MOST_TEXT {
        let message = format!("the text has {} MB, and a page holds up to {}", train.len() >> 20, MOST_TEXT >> 20);
        return Err(config.error_at("data.train", message));
    }
    let mut sizes = vec![size(&config)?];
    if !options.one_size {
        for other in sizes::others(&config.model) {
            let settings = other.settings(&config.model, config.train.micro_batch_size, config.optimizer.learning_rate);
            sizes.push(size(&raw.with_settings(&settings)?.validate()?)?);
        }
    }
    let stem = config.data.train.first().and_then(|path| path.file_stem());
    let learnt = stem.map_or_else(|| "a text".into(), |stem| stem.to_string_lossy().replace(['-', '_', '*'], " "));
    let title = format!("A language model learns {}", learnt.trim());
    let data = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "title": title,
        "source": options.name,
        "texts": { "train": train, "val": val },
        "presets": sizes.iter().map(|size| &size.about).collect::<Vec<_>>(),
    });
    Ok(assemble::assemble(&title, &data, &sizes, form))
}

/// Refuses what a page cannot do as the native run does it.
fn refuse(config: &Config) -> Result<()> {
    let refused = |key: &str, message: &str| Err(config.error_at(key, message));
    if config.data.is_shards() {
        return refused(
            "data.train",
            "a page reads its text itself: give text files and `tokenizer` \"char\" or \"byte\"",
        );
    }
    if !config.data.mixture.is_empty() {
        return refused("data.mixture", "a page has one text, and no mixture: say `data.train`");
    }
    if matches!(config.data.tokenizer, Some(TokenizerKind::File(_))) {
        return refused("data.tokenizer", "a page knows the tokenizers \"char\" and \"byte\" only");
    }
    if config.train.precision == Precision::Bfloat16 {
        return refused("train.precision", "browsers compute in float32: --set 'train.precision=\"float32\"'");
    }
    if config.model.init_from().is_some() {
        return refused("model.init_from", "a page begins with random weights; the open page takes a file by upload");
    }
    Ok(())
}

/// A size that the page offers.
struct Size {
    name: String,
    /// What the page needs to know to offer it and to train it.
    about: Value,
    /// Its modules, where their tensors lie, and the program they are made of: most of the bytes, which are read when they
    /// are needed.
    code: Value,
}

/// A size that the page offers, made.
fn size(config: &Config) -> Result<Size> {
    let (config, data) = Data::open(config, None)?;
    let step_config = step_config(&config)?;
    if step_config.model.dropout() != Dropout::NONE {
        let message =
            "dropout draws from a seed that is compiled in, and a page's seed can be changed: set its rates to 0";
        return Err(config.error_at("model", message));
    }
    let sample = config.sample.clone().unwrap_or_default();
    let lines = config.data.documents == Documents::Lines;
    let longest = if lines { config.train.seq_len } else { LONGEST_SAMPLE };
    let sampling = Sampling {
        count: sample.count.clamp(1, if lines { 24 } else { 3 }),
        max_new_tokens: sample.max_new_tokens.clamp(1, longest),
    };
    let entries = entries(&step_config, sampling)?;
    let together = lowered(&entries.all.iter().collect::<Vec<_>>(), Mode::Together)?;
    let apart = lowered(&[&entries.all[0]], Mode::Separate)?;
    let step = &entries.step;
    let (layers, width) = sizes::layers_and_width(&config.model);
    let parameters = step.specs.num_elements();
    let program = program::program_json(&apart)?;
    let num_ops = program["ops"].as_array().map_or(0, Vec::len);
    let label = format!("{layers} {} · {width} wide", if layers == 1 { "layer" } else { "layers" });
    say(format_args!(
        "{label}: {} parameters, {num_ops} operations in {} groups, {} of WebAssembly, {} of memory",
        group_digits(parameters as u64),
        apart.layout.groups.len(),
        crate::memory::size(together.bytes.len() as u128),
        crate::memory::size(together.layout.memory_bytes as u128),
    ));
    let shape = data.shape();
    let attention: Vec<Value> =
        entries.attention.iter().map(|(slot, scope)| json!({ "slot": slot, "scope": scope })).collect();
    let name = format!("{layers}x{width}");
    let about = json!({
        "name": name,
        "label": label,
        "parameters": parameters,
        "operations": num_ops,
        "config": config.to_toml()?,
        "seed": config.train.seed.to_string(),
        "steps": config.train.steps,
        "vocab_size": step_config.model.vocab_size(),
        "batch": {
            "micro_batches": shape.micro_batches, "micro_batch_size": shape.micro_batch_size, "seq_len": shape.seq_len,
        },
        "settings": {
            "tokenizer": match config.data.tokenizer {
                Some(TokenizerKind::Byte) => "byte",
                Some(TokenizerKind::Char | TokenizerKind::File(_)) | None => "char",
            },
            "documents": if lines { "lines" } else { "none" },
            "packing": config.data.packing,
            "order": match config.data.order { Order::Shuffle => "shuffle", Order::Sequential => "sequential" },
            "val_fraction": config.data.val_fraction.unwrap_or(0.0),
        },
        "sample": sample_json(&sample, sampling),
        "weights": weights_json(step),
        "slots": slots_json(step),
        "averaged": step.averages().is_some(),
        "attention": attention,
    });
    let code = json!({
        "layout": tensors_json(&together.layout),
        "module": packed(&together.bytes)?,
        "program": packed(program.to_string().as_bytes())?,
        "apart": { "layout": tensors_json(&apart.layout), "module": packed(&apart.bytes)? },
    });
    Ok(Size { name, about, code })
}

fn sample_json(sample: &SampleConfig, sampling: Sampling) -> Value {
    json!({
        "count": sampling.count,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sample.temperature,
        "top_k": sample.top_k,
        "top_p": sample.top_p,
        "prompt": sample.prompt.first().cloned().unwrap_or_default(),
    })
}

fn weights_json(step: &TrainStep) -> Vec<Value> {
    let init = |init: Init| match init {
        Init::Normal { std } => json!({ "std": std }),
        Init::Zeros => json!({ "value": 0 }),
        Init::Ones => json!({ "value": 1 }),
    };
    step.specs
        .iter()
        .map(|(path, spec)| json!({ "path": path, "shape": spec.ty.shape, "init": init(spec.init) }))
        .collect()
}

fn slots_json(step: &TrainStep) -> Vec<Value> {
    let start = |start: SlotStart| match start {
        SlotStart::Zeros => "zeros",
        SlotStart::Weight => "weight",
    };
    let slot =
        |slot: &lmc_models::Slot| json!({ "name": slot.name, "weight": slot.weight, "start": start(slot.start) });
    step.slots.iter().map(slot).collect()
}

/// Bytes as a gzip stream in base64, which is compressed again to nearly the same size.
fn packed(bytes: &[u8]) -> Result<String> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let packed = gzip.write_all(bytes).and_then(|()| gzip.finish());
    let packed = packed.map_err(|error| Error::run(format!("cannot compress the module: {error}")))?;
    Ok(base64::encode(&packed))
}
