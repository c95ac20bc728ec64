//! What a run is at a step: weights, moments and step count, on the host and on the device.

use lmc_graph::Literal;
use lmc_models::{TrainStep, init};
use lmc_runtime::{Argument, Buffer};

use crate::checkpoint::{Checkpoint, Tensors};
use crate::config::Config;
use crate::data::Batch;
use crate::device::{Device, Program, run_error};
use crate::error::{Error, Result};
use crate::model::{initial_weights, match_weights};

/// Weights, moments and step count of a new run.
pub(super) fn initial_state(config: &Config, step: &TrainStep) -> Result<Vec<Literal>> {
    let weights = initial_weights(config, &step.specs)?;
    let moments = || init::zeros(&step.specs).into_values();
    Ok(weights.into_values().chain(moments()).chain(moments()).chain([Literal::scalar(0_i32)]).collect())
}

/// Weights, moments and step count of a checkpoint.
pub(super) fn saved_state(path: &std::path::Path, saved: &Checkpoint, step: &TrainStep) -> Result<Vec<Literal>> {
    let fit =
        |reason: String| Error::input(format!("the checkpoint {} does not fit the config: {reason}", path.display()));
    let weights = match_weights(saved.model.clone(), &step.specs).map_err(fit)?;
    let mut state: Vec<Literal> = weights.into_values().collect();
    let moments = &step.func.params[step.first_moments().start..step.second_moments().end];
    for (param, ty) in moments.iter().zip(step.func.param_types()[step.first_moments().start..].iter()) {
        match saved.optimizer.get(&param.name) {
            Some(tensor) if tensor.ty() == ty => state.push(tensor.clone()),
            Some(tensor) => return Err(fit(format!("`{}` is {} there, {ty} here", param.name, tensor.ty()))),
            None => return Err(fit(format!("it has no `{}`", param.name))),
        }
    }
    let count = i32::try_from(saved.step).map_err(|_| fit(format!("step {} is beyond 2^31", saved.step)))?;
    state.push(Literal::scalar(count));
    Ok(state)
}

/// The weights, moments and step count on the device.
pub(super) struct State {
    buffers: Vec<Buffer>,
    num_weights: usize,
}

impl State {
    pub(super) fn upload(device: &Device, state: &[Literal], num_weights: usize) -> Result<State> {
        let buffers = state.iter().map(|literal| device.buffer(literal)).collect::<Result<_>>()?;
        Ok(State { buffers, num_weights })
    }

    /// Starts a step, which takes the state's memory over, and returns its metrics without waiting for them.
    pub(super) fn advance(&mut self, device: &Device, step: &Program, batch: &Batch) -> Result<Vec<Buffer>> {
        let mut arguments: Vec<Argument<'_>> = self.buffers.drain(..).map(Argument::Donate).collect();
        let num_state = arguments.len();
        for literal in [&batch.tokens, &batch.labels] {
            arguments.push(Argument::Donate(device.buffer(literal)?));
        }
        self.buffers = step.execute(arguments)?;
        Ok(self.buffers.split_off(num_state))
    }

    pub(super) fn weights(&self) -> &[Buffer] {
        &self.buffers[..self.num_weights]
    }

    /// Reads the state back for saving: the weights, and the optimizer's state by the names of its parameters.
    pub(super) fn snapshot(&self, step: &TrainStep) -> Result<(Tensors, Tensors)> {
        let read = |range: std::ops::Range<usize>| -> Result<Tensors> {
            let names = step.func.params[range.clone()].iter().map(|param| param.name.clone());
            let values = self.buffers[range].iter().map(|buffer| buffer.to_literal().map_err(run_error));
            names.zip(values).map(|(name, value)| Ok((name, value?))).collect()
        };
        Ok((read(step.weights())?, read(step.weights().end..step.step())?))
    }
}
