//! The configuration of a run: typed TOML, refused with places and suggestions before any device is touched.
//!
//! `RawConfig` is what was written, in a file and in `--set` arguments. A `Config` is made from it by
//! `RawConfig::validate` only, so that whoever holds one need not check: sizes are positive and fit together, numbers
//! are finite and in range. `settings` and `model` are the manual of the keys.
//!
//! The parser keeps the place of every value and reads each section key by key, rather than deriving a deserializer,
//! because a derived one stops at its first problem, and people mend configs faster with all problems at once.

mod absurd;
mod compile;
mod mixture;
mod model;
mod optimizer;
mod runtime;
mod section;
mod settings;
mod source;
mod tree;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::{Error, Result};

pub use compile::{CompileConfig, Requirement};
pub use model::{Activation, Arch, Gpt2Config, LlamaConfig, ModelConfig, Normalization};
pub use runtime::{DeviceKind, RuntimeConfig};
pub use settings::{
    AdjustLrFn, Choice, DataConfig, Documents, Layers, NonFinite, OptimizerConfig, OptimizerKind, Order, OwnTokenizer,
    Precision, Remat, SampleConfig, ScheduleConfig, ScheduleKind, Settings, SourceConfig, TokenDType, TokenizerKind,
    TrainConfig,
};

use source::{Place, Problem, Sources};
use tree::Table;

/// A configuration as written: TOML that parses, with the place of everything.
#[derive(Clone, Debug)]
pub struct RawConfig {
    tree: Table,
    sources: Sources,
    folder: PathBuf,
    stem: String,
}

/// A configuration that holds: every value present, in range and fitting the others.
///
/// It derefs to its `Settings` for reading: `config.train.seq_len`. Two are equal when their settings are.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    sources: Sources,
    places: BTreeMap<String, Place>,
}

/// A setting in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The dotted key, `train.steps`.
    pub key: String,
    /// The saved value as TOML; `None` when it was absent.
    pub saved: Option<String>,
    /// The present value as TOML; `None` when it is absent.
    pub now: Option<String>,
    /// Whether a run may be continued with this changed: it decides neither sizes nor the order of data nor the seed.
    pub allowed: bool,
}

impl RawConfig {
    /// Reads a file and puts `--set` arguments over it, in order.
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8, or file or arguments are not TOML: all syntax errors, with places.
    pub fn read(path: &Path, sets: &[String]) -> Result<RawConfig> {
        if path.is_dir() {
            return Err(Error::input(format!("the config {} is a folder; give a TOML file", path.display())));
        }
        let bytes = std::fs::read(path).map_err(|error| Error::cannot_read("the config", path, &error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Error::input(format!("the config {} is not UTF-8 text: byte {at} does not belong", path.display()))
        })?;
        RawConfig::parse(path, &text, sets)
    }

    /// Parses `text` as if it were the file at `path`, which names it in errors, and whose folder is the second one
    /// relative paths are looked for in.
    ///
    /// # Errors
    /// As `read`, for the text.
    pub fn parse(path: &Path, text: &str, sets: &[String]) -> Result<RawConfig> {
        let mut sources = Sources::default();
        let file = sources.add_file(path.display().to_string(), text);
        let mut problems = Vec::new();
        let mut tree = tree::parse(text, file, &mut problems);
        sets.iter().for_each(|argument| tree::set(&mut tree, argument, &mut sources, &mut problems));
        if !problems.is_empty() {
            return Err(Error::input(sources.render(problems)));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let stem = path.file_stem().map_or_else(|| "lmc".to_owned(), |stem| stem.to_string_lossy().into_owned());
        Ok(RawConfig { tree, sources, folder, stem })
    }

    /// This configuration with more `--set` arguments over it, in order.
    ///
    /// # Errors
    /// As `read`, for the arguments.
    pub(crate) fn with_settings(&self, sets: &[String]) -> Result<RawConfig> {
        let mut config = self.clone();
        let mut problems = Vec::new();
        sets.iter().for_each(|argument| tree::set(&mut config.tree, argument, &mut config.sources, &mut problems));
        if problems.is_empty() { Ok(config) } else { Err(Error::input(config.sources.render(problems))) }
    }

    /// Checks everything that can be checked without data and device.
    ///
    /// # Errors
    /// All problems, each with its place.
    pub fn validate(self) -> Result<Config> {
        let origin = validate::Origin { folder: &self.folder, stem: &self.stem };
        match validate::validate(&self.tree, &origin) {
            Ok(settings) => Ok(Config { settings, places: section::places(&self.tree), sources: self.sources }),
            Err(problems) => Err(Error::input(self.sources.render(problems))),
        }
    }
}

impl Config {
    /// Reads and validates a file with `--set` arguments over it.
    ///
    /// # Errors
    /// See `RawConfig::read` and `RawConfig::validate`.
    pub fn read(path: &Path, sets: &[String]) -> Result<Config> {
        RawConfig::read(path, sets)?.validate()
    }

    /// This configuration for a tokenizer of `size` tokens: `model.vocab_size` is filled in, or checked if present.
    ///
    /// # Errors
    /// If `model.vocab_size` is smaller than the tokenizer, or the model becomes absurdly large.
    pub fn with_tokenizer_size(&self, size: usize) -> Result<Config> {
        let mut config = self.clone();
        match self.model.vocab_size() {
            Some(given) if given < size => {
                let message = format!(
                    "`vocab_size` {given} is less than the tokenizer's {size} tokens; leave it out to use {size}"
                );
                return Err(self.error_at("model.vocab_size", message));
            }
            Some(_) => {}
            None => config.settings.model.set_vocab_size(size),
        }
        match absurd::absurd_sizes(&config.settings, self.places.get("model").copied()) {
            Some(problem) => Err(Error::input(self.sources.render(vec![problem]))),
            None => Ok(config),
        }
    }

    /// This configuration for data whose documents end with `id`.
    pub(crate) fn with_end_of_document_id(&self, id: Option<u32>) -> Config {
        let mut config = self.clone();
        config.settings.data.end_of_document_id = id;
        config
    }

    /// An error of the user's input that shows the place where `key` (dotted, `data.train`) was written, or else its
    /// section, or else the file.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        let section = key.split('.').next().unwrap_or(key);
        let place = self.places.get(key).or_else(|| self.places.get(section)).copied();
        Error::input(self.sources.render(vec![Problem::new(place, message)]))
    }

    /// The settings as TOML. Reading it gives an equal `Config`.
    ///
    /// # Errors
    /// If a path is not UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&self.settings)
            .map_err(|error| Error::input(format!("the config cannot be written as TOML: {error}")))
    }

    /// The `config.json` with which `transformers` loads the weights; `None` for a model it has no word for.
    pub fn hugging_face_json(&self) -> Option<Value> {
        self.model.hugging_face_json(self.train.seq_len)
    }

    /// This configuration for a run in another folder that is only to be compared: it saves when it stops, and prints no
    /// samples.
    pub(crate) fn for_trial(&self, out_dir: &Path) -> Config {
        let mut config = self.clone();
        config.settings.sample = None;
        config.settings.train.out_dir = out_dir.to_owned();
        config.settings.train.save_every = 0;
        config
    }

    /// This configuration with other settings in `[train]`, which are to be such as `validate` accepts.
    pub(crate) fn with_train(&self, change: impl FnOnce(&mut TrainConfig)) -> Config {
        let mut config = self.clone();
        change(&mut config.settings.train);
        config
    }

    /// Tokens of a step: `grad_accum_steps * micro_batch_size * seq_len`.
    pub fn tokens_per_step(&self) -> usize {
        self.train.grad_accum_steps * self.train.micro_batch_size * self.train.seq_len
    }

    /// A SHA-256, in hex, of the settings that may not change when a run is continued.
    ///
    /// # Errors
    /// As `to_toml`.
    pub fn hash(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        for (key, value) in self.leaves()?.iter().filter(|(key, _)| !may_change(key)) {
            hasher.update(format!("{key} = {value}\n"));
        }
        Ok(hex(hasher))
    }

    /// How this configuration differs from the one a run was started with, by key.
    ///
    /// # Errors
    /// As `to_toml`.
    pub fn differences(&self, saved: &Config) -> Result<Vec<Difference>> {
        let (now, saved) = (self.leaves()?, saved.leaves()?);
        let mut keys: Vec<&String> = now.keys().chain(saved.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        Ok(keys
            .into_iter()
            .filter(|key| now.get(*key) != saved.get(*key))
            .map(|key| Difference {
                key: key.clone(),
                saved: saved.get(key).cloned(),
                now: now.get(key).cloned(),
                allowed: may_change(key),
            })
            .collect())
    }

    /// Every setting as TOML text by its dotted key; those of a list of tables one by one, with the number from 0.
    fn leaves(&self) -> Result<BTreeMap<String, String>> {
        let table: toml::Table = toml::from_str(&self.to_toml()?)
            .map_err(|error| Error::run(format!("the config does not read back: {error}")))?;
        let mut out = BTreeMap::new();
        for (section, value) in table {
            for (key, value) in value.as_table().into_iter().flatten() {
                let tables = value.as_array().filter(|items| items.iter().any(toml::Value::is_table));
                for (index, item) in tables.into_iter().flatten().enumerate() {
                    for (inner, value) in item.as_table().into_iter().flatten() {
                        out.insert(format!("{section}.{key}.{index}.{inner}"), value.to_string());
                    }
                }
                if tables.is_none() {
                    out.insert(format!("{section}.{key}"), value.to_string());
                }
            }
        }
        // Where `val` gives the held-out data, as where nothing is held out, all of `train` is trained on.
        if self.data.val_fraction == Some(0.0) {
            out.remove("data.val_fraction");
        }
        Ok(out)
    }
}

/// Whether a run may be continued with another value of `key`. Where the training data lie may change: whether they are
/// the same is told by their fingerprint, `data::Fingerprint`, and not by a path.
fn may_change(key: &str) -> bool {
    const KEYS: &[&str] = &[
        "train.steps",
        "train.eval_every",
        "train.eval_batches",
        "train.save_every",
        "train.keep_last",
        "train.keep_every",
        "train.keep_best",
        "train.log_every",
        "train.tensorboard",
        "train.out_dir",
        // The same function, computed in another order.
        "train.loss_chunk",
        "train.remat",
        "train.layers",
        // The past was finite, or what was done about it is done.
        "train.non_finite",
        "train.non_finite_limit",
        // What the weights started from no longer matters.
        "model.init_from",
        "data.val",
        "data.train",
    ];
    let of_source =
        key.strip_prefix("data.mixture.").is_some_and(|key| key.ends_with(".files") || key.ends_with(".name"));
    of_source
        || KEYS.contains(&key)
        || ["sample.", "runtime.", "compile."].iter().any(|section| key.starts_with(section))
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Config) -> bool {
        self.settings == other.settings
    }
}
