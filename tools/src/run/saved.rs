//! A trained model from its run folder, or from a file that a page saved.

use std::path::{Path, PathBuf};

use lmc_models::{ParamSpec, Params, StepConfig};

use crate::checkpoint::{self, Checkpoint, Tensors, load_safetensors, read_metadata};
use crate::cli::{Weights, WeightsArgs};
use crate::config::{Config, RawConfig};
use crate::device::{Buffer, Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::model::{averaged_weights, match_weights, step_config};
use crate::output::say;
use crate::tokenizer::Tokenizer;
use crate::wasm;

/// A run's newest whole checkpoint with its config.
pub(crate) struct SavedRun {
    pub(crate) config: Config,
    pub(crate) step_config: StepConfig,
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// The weights that were trained.
    pub(crate) model: Tensors,
    /// The averaged weights, if the run keeps them.
    pub(crate) averaged: Option<Tensors>,
}

/// What a page's file says in its header: the config as TOML, the tokenizer in its saved form, the steps done.
const METADATA: [&str; 3] = ["lmc.config", "lmc.tokenizer", "lmc.step"];

/// A saved tokenizer with the document end of its run.
///
/// # Errors
/// If the config's is not a token of it.
pub(crate) fn with_end_of_document(tokenizer: &Tokenizer, config: &Config) -> Result<Tokenizer> {
    let data = &config.data;
    match data.end_of_document_id {
        None if data.is_text() => tokenizer.with_end_of_document(data.end_of_document.as_deref()),
        id => Ok(tokenizer.with_end_of_document_id(id)),
    }
}

impl SavedRun {
    /// Reads a run folder, or a safetensors file with what a page writes into its header.
    pub(crate) fn read(run: &Path) -> Result<SavedRun> {
        SavedRun::read_with(run, &[])
    }

    /// As [`SavedRun::read`], with other settings as `--set` takes them.
    pub(crate) fn read_with(run: &Path, set: &[String]) -> Result<SavedRun> {
        if run.is_file() && run.extension().is_some_and(|extension| extension == "safetensors") {
            return SavedRun::read_file(run, set);
        }
        let path = run.join("config.toml");
        if !path.is_file() {
            let advice = if run.is_file() { "it is a file; name the run's folder" } else { "it has no config.toml" };
            return Err(Error::input(format!("{} is not a run folder: {advice}", run.display())));
        }
        let config = Config::read(&path, set)?;
        let newest = checkpoint::newest_valid(run)?;
        for (path, reason) in &newest.passed_over {
            say(format_args!("warning: passed over the checkpoint {}: {reason}", path.display()));
        }
        let Some((_, Checkpoint { step, tokenizer, model, optimizer, .. })) = newest.found else {
            return Err(Error::input(format!("{} has no whole checkpoint; train it first", run.display())));
        };
        let tokenizer = tokenizer.map(|tokenizer| with_end_of_document(&tokenizer, &config)).transpose()?;
        let step_config = step_config(&config)?;
        Ok(SavedRun { config, step_config, step, tokenizer, model, averaged: averaged_weights(&optimizer) })
    }

    /// Reads a file that a page of `lmc export --web` saved.
    fn read_file(path: &Path, set: &[String]) -> Result<SavedRun> {
        let model = load_safetensors(path)?;
        let metadata = read_metadata(path)?;
        let [config, tokenizer, step] = METADATA.map(|key| metadata.get(key));
        let (Some(config), Some(tokenizer)) = (config, tokenizer) else {
            return Err(Error::input(format!(
                "{} has weights only: a file that a page of `lmc export --web` saved has the config and the tokenizer in \
                 its header. Train from these weights with --set 'model.init_from=…', or name a run folder",
                path.display()
            )));
        };
        let config = RawConfig::parse(path, config, set)?.validate()?;
        let tokenizer = with_end_of_document(&Tokenizer::from_json(path, tokenizer)?, &config)?;
        let step_config = step_config(&config)?;
        let step = step.and_then(|step| step.parse().ok()).unwrap_or(0);
        Ok(SavedRun { config, step_config, step, tokenizer: Some(tokenizer), model, averaged: None })
    }

    /// Opens the device the run was trained on, or the one that `plugin` names.
    pub(crate) fn open_device(&self, plugin: Option<PathBuf>) -> Result<Device> {
        let parameters = self.specs().values().map(|spec| spec.ty.num_elements() as u64).sum();
        let options = DeviceOptions::from_config(&self.config.runtime, plugin);
        Device::open(&options).map_err(|error| wasm::offered(error, &options, parameters))
    }

    /// The weights that are asked for on the device, in the order of the model's parameters.
    pub(crate) fn weights(&self, device: &Device, which: WeightsArgs) -> Result<Vec<Buffer>> {
        let tensors = match which.weights {
            Some(Weights::Trained) => self.model.clone(),
            Some(Weights::Averaged) => self.averaged.clone().ok_or_else(|| {
                Error::input(
                    "the run keeps no average of its weights (train.ema_decay is 0): leave out --weights, or say \
                     --weights trained",
                )
            })?,
            None => self.averaged.clone().unwrap_or_else(|| self.model.clone()),
        };
        let weights = match_weights(tensors, &self.specs())
            .map_err(|reason| Error::input(format!("the checkpoint does not fit its config: {reason}")))?;
        weights.values().map(|weight| device.buffer(weight)).collect()
    }

    fn specs(&self) -> Params<ParamSpec> {
        self.step_config.loss_func().specs
    }
}
