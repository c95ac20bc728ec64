//! What lmc trained: the newest whole checkpoint of a run folder.

use std::path::Path;

use lmc_graph::{DType, TensorType};
use lmc_models::ParamSpec;
use lmc_models::inference::Architecture;
use lmc_models::stored::Stored;

use super::files::convert;
use super::{GenerationConfig, Opened, WeightSource};
use crate::checkpoint::Tensors;
use crate::engine::Sampling;
use crate::error::{Error, Result};
use crate::run::saved::SavedRun;

/// Opens a run folder: averaged weights if the run keeps an average, else those that were trained.
pub(super) fn open(run: &Path, dtype: Option<DType>) -> Result<Opened> {
    let saved = SavedRun::read(run)?;
    let architecture = Architecture::from(&saved.step_config.model);
    let SavedRun { tokenizer, model, averaged, .. } = saved;
    let tensors = averaged.unwrap_or(model);
    let end = tokenizer.as_ref().and_then(|tokenizer| tokenizer.end_of_document());
    let generation = GenerationConfig { bos: end, eos: end.into_iter().collect(), sampling: Sampling::default() };
    let weights = Box::new(TrainedWeights { tensors, dtype: dtype.unwrap_or(DType::F32) });
    Ok(Opened { folder: run.to_owned(), architecture, weights, tokenizer, generation })
}

/// Weights in memory, f32 by name.
struct TrainedWeights {
    tensors: Tensors,
    dtype: DType,
}

impl WeightSource for TrainedWeights {
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        match self.tensors.get(path) {
            None => Ok(None),
            Some(tensor) if *tensor.ty() == spec.ty => Ok(Some(Stored::Plain(self.dtype))),
            Some(tensor) => Err(Error::input(format!(
                "the checkpoint has `{path}` as {}, and by its config the model needs {}",
                tensor.ty(),
                spec.ty
            ))),
        }
    }

    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()> {
        let tensor = self.tensors.get(path).ok_or_else(|| Error::input(format!("the checkpoint has no `{path}`")))?;
        convert(tensor.bytes(), tensor.ty().dtype, parts[0], types[0].dtype);
        Ok(())
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.tensors.keys().filter(|name| !used(name)).cloned().collect()
    }
}
