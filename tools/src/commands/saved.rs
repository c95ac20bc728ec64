//! A trained model from its run folder.

use std::path::{Path, PathBuf};

use lmc_models::{ParamSpec, Params, StepConfig};
use lmc_runtime::Buffer;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::model::{match_weights, step_config};
use crate::output::say;

/// A run's newest whole checkpoint with its config.
pub(super) struct SavedRun {
    pub(super) config: Config,
    pub(super) step_config: StepConfig,
    pub(super) checkpoint: Checkpoint,
}

impl SavedRun {
    /// Reads a run folder.
    pub(super) fn read(run: &Path) -> Result<SavedRun> {
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
            *tokenizer = tokenizer.with_end_of_document(config.data.end_of_document.as_deref())?;
        }
        let step_config = step_config(&config)?;
        Ok(SavedRun { config, step_config, checkpoint })
    }

    /// Opens the device the run was trained on, or the one that `plugin` names.
    pub(super) fn open_device(&self, plugin: Option<PathBuf>) -> Result<Device> {
        Device::open(&DeviceOptions::from_config(&self.config.runtime, plugin))
    }

    /// The weights on the device, in the order of the model's parameters.
    pub(super) fn weights(&self, device: &Device) -> Result<Vec<Buffer>> {
        let weights = match_weights(self.checkpoint.model.clone(), &self.specs())
            .map_err(|reason| Error::input(format!("the checkpoint does not fit its config: {reason}")))?;
        weights.values().map(|weight| device.buffer(weight)).collect()
    }

    fn specs(&self) -> Params<ParamSpec> {
        self.step_config.loss_func().specs
    }
}
