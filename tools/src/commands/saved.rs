//! A trained model from its run folder.

use std::path::{Path, PathBuf};

use lmc_models::{ParamSpec, Params, StepConfig};
use lmc_runtime::Buffer;

use crate::checkpoint::{self, Checkpoint};
use crate::cli::{Weights, WeightsArgs};
use crate::config::Config;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::model::{averaged_weights, match_weights, step_config};
use crate::output::say;
use crate::tokenizer::Tokenizer;

/// A run's newest whole checkpoint with its config.
pub(crate) struct SavedRun {
    pub(crate) config: Config,
    pub(crate) step_config: StepConfig,
    pub(crate) checkpoint: Checkpoint,
}

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
    /// Reads a run folder.
    pub(crate) fn read(run: &Path) -> Result<SavedRun> {
        let path = run.join("config.toml");
        if !path.is_file() {
            let advice = if run.is_file() { "it is a file; name the run's folder" } else { "it has no config.toml" };
            return Err(Error::input(format!("{} is not a run folder: {advice}", run.display())));
        }
        let config = Config::read(&path, &[])?;
        let newest = checkpoint::newest_valid(run)?;
        for (path, reason) in &newest.passed_over {
            say(format_args!("warning: passed over the checkpoint {}: {reason}", path.display()));
        }
        let Some((_, mut checkpoint)) = newest.found else {
            return Err(Error::input(format!("{} has no whole checkpoint; train it first", run.display())));
        };
        if let Some(tokenizer) = &mut checkpoint.tokenizer {
            *tokenizer = with_end_of_document(tokenizer, &config)?;
        }
        let step_config = step_config(&config)?;
        Ok(SavedRun { config, step_config, checkpoint })
    }

    /// Opens the device the run was trained on, or the one that `plugin` names.
    pub(crate) fn open_device(&self, plugin: Option<PathBuf>) -> Result<Device> {
        Device::open(&DeviceOptions::from_config(&self.config.runtime, plugin))
    }

    /// The weights that are asked for on the device, in the order of the model's parameters.
    pub(crate) fn weights(&self, device: &Device, which: WeightsArgs) -> Result<Vec<Buffer>> {
        let averaged = averaged_weights(&self.checkpoint.optimizer);
        let tensors = match which.weights {
            Some(Weights::Trained) => self.checkpoint.model.clone(),
            Some(Weights::Averaged) => averaged.ok_or_else(|| {
                Error::input(
                    "the run keeps no average of its weights (train.ema_decay is 0): leave out --weights, or say \
                     --weights trained",
                )
            })?,
            None => averaged.unwrap_or_else(|| self.checkpoint.model.clone()),
        };
        let weights = match_weights(tensors, &self.specs())
            .map_err(|reason| Error::input(format!("the checkpoint does not fit its config: {reason}")))?;
        weights.values().map(|weight| device.buffer(weight)).collect()
    }

    fn specs(&self) -> Params<ParamSpec> {
        self.step_config.loss_func().specs
    }
}
