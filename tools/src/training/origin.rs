//! What a run is, apart from its state: what each of its checkpoints tells of it, and what must not change.

use lmc_models::{Schedule, StepConfig, TrainStep};
use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensors, text_hash};
use crate::config::Config;
use crate::data::{Data, Fingerprint};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What every checkpoint of a run tells of it.
pub(super) struct Origin {
    seed: u64,
    config_hash: String,
    config_toml: String,
    /// The training step's text form without locations, which tell where in the sources an op comes from.
    pub(super) graph: String,
    pub(super) graph_hash: String,
    tokenizer: Option<Tokenizer>,
    pub(super) tokenizer_hash: Option<String>,
    pub(super) data: Fingerprint,
    data_json: Value,
    config_json: Option<Value>,
    rows_per_step: u64,
    schedule: Schedule,
}

impl Origin {
    pub(super) fn new(config: &Config, data: &Data, step_config: &StepConfig, step: &TrainStep) -> Result<Origin> {
        let graph = step.func.to_string();
        let fingerprint = data.fingerprint()?;
        let data_json = serde_json::to_value(&fingerprint)
            .map_err(|error| Error::run(format!("what the data are cannot be written as JSON: {error}")))?;
        let shape = data.shape();
        Ok(Origin {
            seed: config.train.seed,
            config_hash: config.hash()?,
            config_toml: config.to_toml()?,
            graph_hash: text_hash(&graph),
            graph,
            tokenizer: data.tokenizer().cloned(),
            tokenizer_hash: data.tokenizer().map(|tokenizer| text_hash(&tokenizer.to_json())),
            data: fingerprint,
            data_json,
            config_json: config.hugging_face_json(),
            rows_per_step: (shape.micro_batches * shape.micro_batch_size) as u64,
            schedule: step_config.update.schedule,
        })
    }

    /// The schedule's rate of the step after `steps_done`.
    pub(super) fn learning_rate(&self, steps_done: u64) -> f64 {
        self.schedule.learning_rate_at(usize::try_from(steps_done).unwrap_or(usize::MAX))
    }

    /// The checkpoint of a state, weights and optimizer's, after `steps_done` steps.
    pub(super) fn checkpoint(
        &self,
        (model, optimizer): (Tensors, Tensors),
        steps_done: u64,
        val_loss: Option<f64>,
    ) -> Checkpoint {
        Checkpoint {
            step: steps_done,
            seed: self.seed,
            config_hash: self.config_hash.clone(),
            config_toml: Some(self.config_toml.clone()),
            graph_hash: Some(self.graph_hash.clone()),
            tokenizer_hash: self.tokenizer_hash.clone(),
            rows: Some(steps_done.saturating_mul(self.rows_per_step)),
            learning_rate: Some(self.learning_rate(steps_done)),
            // JSON has no number for a loss that is none.
            val_loss: val_loss.filter(|loss| loss.is_finite()),
            data: Some(self.data_json.clone()),
            model,
            optimizer,
            tokenizer: self.tokenizer.clone(),
            config_json: self.config_json.clone(),
        }
    }
}
