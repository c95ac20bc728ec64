//! Models that were trained before: a folder of Hugging Face's, an export or a run folder of lmc's, on a device.
//!
//! A folder holds `config.json` ([`config`]), weights ([`files`], behind the trait [`WeightSource`]), and where it has them
//! `tokenizer.json` and `generation_config.json`. All of it is checked before a device is opened. [`Model`] is what comes
//! out; [`engine`](crate::engine) continues texts with it.

pub mod config;
pub mod files;
mod generation;
mod heat_map;
mod model;
mod scores;
mod source;
#[cfg(test)]
mod tests;
mod trained;

use std::path::{Path, PathBuf};

use lmc_graph::DType;
use lmc_models::inference::Architecture;

use crate::device::DeviceOptions;
use crate::error::{Error, Result};
use crate::quantization::Scheme;
use crate::quantization::files::{QuantizedFiles, described};
use crate::quantization::gguf::model::GgufFile;
use crate::quantization::loading::Quantizing;
use crate::tokenizer::Tokenizer;

pub use generation::GenerationConfig;
pub use heat_map::write_attention;
pub(crate) use model::ModelProgram;
pub use model::{Model, ProgramKey};
pub use scores::{AttentionOf, Perplexity};
pub use source::WeightSource;

/// What a model is loaded from.
const MODELS: &str =
    "name a folder of Hugging Face's (config.json and safetensors), a GGUF file, or a run folder of lmc";

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The element type in which weights are kept and layers compute: f32 or bf16. `None` keeps bf16 and f32 as they are,
    /// and widens f16 to f32.
    pub dtype: Option<DType>,
    /// What matrices are quantized to as they are read; `None` keeps them as they are.
    pub quantize: Option<Scheme>,
    /// The device.
    pub device: DeviceOptions,
}

/// Loads a folder: one of Hugging Face's, what `lmc checkpoint export` made, or a run folder, whose newest whole checkpoint
/// is taken.
///
/// # Errors
/// If the folder is none of these, a file is missing, damaged or does not fit another, or the device cannot be opened or is
/// out of memory.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
    let mut opened = open(path, options.dtype)?;
    if let Some(scheme) = options.quantize {
        opened.weights = Box::new(Quantizing::new(opened.weights, scheme.checked()?));
    }
    Model::new(opened, &options.device)
}

/// A model's files, checked, with no weight read yet.
pub struct Opened {
    /// The folder.
    pub folder: PathBuf,
    /// What it computes.
    pub architecture: Architecture,
    /// Its weights.
    pub weights: Box<dyn WeightSource>,
    /// Its tokenizer, if it has one.
    pub tokenizer: Option<Tokenizer>,
    /// How texts are generated unless something else is asked for.
    pub generation: GenerationConfig,
}

/// Opens and checks a folder without a device. `dtype` as in [`LoadOptions`].
///
/// # Errors
/// As [`load`].
pub fn open(path: &Path, dtype: Option<DType>) -> Result<Opened> {
    if !matches!(dtype, None | Some(DType::F32 | DType::BF16)) {
        return Err(Error::input("layers compute in float32 or bfloat16"));
    }
    if path.is_file() && path.extension().is_some_and(|extension| extension == "gguf") {
        return open_gguf(path, dtype);
    }
    if !path.is_dir() {
        let found = if path.exists() { "a file" } else { "not there" };
        return Err(Error::input(format!("{} is {found}: {MODELS}", path.display())));
    }
    if path.join("config.toml").is_file() {
        return trained::open(path, dtype);
    }
    let config = path.join("config.json");
    if !config.is_file() {
        return Err(Error::input(format!(
            "{} is no folder of a model, as it has neither config.json nor config.toml: {MODELS}",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(&config).map_err(|error| Error::cannot_read("the config", &config, &error))?;
    let architecture = config::architecture(&config, &text)?;
    let json = serde_json::from_str(&text).map_err(|error| Error::input(format!("{}: {error}", config.display())))?;
    let described = described(&json).map_err(|reason| Error::input(format!("{}: {reason}", config.display())))?;
    let files = files::SafetensorsFiles::open(path, dtype)?;
    let weights: Box<dyn WeightSource> = match described {
        Some(described) => Box::new(QuantizedFiles::new(files, described)),
        None => Box::new(files),
    };
    let tokenizer = tokenizer_of(path, &architecture)?;
    let generation = GenerationConfig::read(path, &text, architecture.vocab_size())?;
    Ok(Opened { folder: path.to_owned(), architecture, weights, tokenizer, generation })
}

/// Opens a GGUF file. Its tokenizer is that of a `tokenizer.json` beside it: what the file itself says of it is not read.
fn open_gguf(path: &Path, dtype: Option<DType>) -> Result<Opened> {
    if dtype.is_some() {
        return Err(Error::input("the weights of a GGUF file are kept as they are, without another element type"));
    }
    let file = GgufFile::open(path)?;
    let text = file.config()?.to_string();
    let architecture = config::architecture(path, &text)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tokenizer = tokenizer_of(folder, &architecture)?;
    let generation = GenerationConfig::read(folder, &text, architecture.vocab_size())?;
    Ok(Opened { folder: folder.to_owned(), architecture, weights: Box::new(file), tokenizer, generation })
}

/// The `tokenizer.json` of a folder, if it is there.
fn tokenizer_of(path: &Path, architecture: &Architecture) -> Result<Option<Tokenizer>> {
    let tokenizer = path.join("tokenizer.json");
    let tokenizer = if tokenizer.is_file() { Some(Tokenizer::read(&tokenizer)?) } else { None };
    if let Some(tokenizer) = &tokenizer
        && tokenizer.vocab_size() > architecture.vocab_size()
    {
        return Err(Error::input(format!(
            "{}: the tokenizer has {} tokens, and the model only {}",
            path.display(),
            tokenizer.vocab_size(),
            architecture.vocab_size()
        )));
    }
    Ok(tokenizer)
}
