//! What a run is at a step: weights, slots and counters, on the host and on the device.

use std::ops::Range;
use std::path::Path;

use lmc_graph::Literal;
use lmc_models::TrainStep;

use crate::checkpoint::{Checkpoint, Tensors};
use crate::config::Config;
use crate::data::Batch;
use crate::device::{Argument, Buffer, Device, Program, run_error};
use crate::error::{Error, Result};
use crate::model::{initial_weights, match_weights};

/// The name under which the number of skipped steps is saved, if there are any.
const SKIPPED_STEPS: &str = "skipped_steps";

/// A state on the host.
pub(super) struct HostState {
    /// The tensors of [`TrainStep`]'s state.
    tensors: Vec<Literal>,
    /// Steps so far whose updates are not in the weights, as they were not finite or rolled back.
    skipped: u64,
}

/// The state of a new run.
pub(super) fn initial_state(config: &Config, step: &TrainStep) -> Result<HostState> {
    let weights = initial_weights(config, &step.specs)?;
    Ok(HostState { tensors: step.initial_state(weights.into_values()), skipped: 0 })
}

/// The state of a checkpoint.
pub(super) fn saved_state(path: &Path, saved: &Checkpoint, step: &TrainStep) -> Result<HostState> {
    let fit =
        |reason: String| Error::input(format!("the checkpoint {} does not fit the config: {reason}", path.display()));
    let weights = match_weights(saved.model.clone(), &step.specs).map_err(fit)?;
    let mut tensors: Vec<Literal> = weights.into_values().collect();
    for slot in &step.slots {
        let ty = tensors[slot.weight].ty();
        match saved.optimizer.get(&slot.name) {
            Some(tensor) if tensor.ty() == ty => tensors.push(tensor.clone()),
            Some(tensor) => return Err(fit(format!("`{}` is {} there, {ty} here", slot.name, tensor.ty()))),
            None => return Err(fit(format!("it has no `{}`", slot.name))),
        }
    }
    let count = i32::try_from(saved.step).map_err(|_| fit(format!("step {} is beyond 2^31", saved.step)))?;
    tensors.extend([Literal::scalar(count), Literal::scalar(0_i32)]);
    let skipped = match saved.optimizer.get(SKIPPED_STEPS) {
        None => 0,
        Some(tensor) if *tensor.ty() == *Literal::scalar(0_i64).ty() => tensor.elements::<i64>()[0].unsigned_abs(),
        Some(tensor) => return Err(fit(format!("`{SKIPPED_STEPS}` is {} there, i64[] here", tensor.ty()))),
    };
    Ok(HostState { tensors, skipped })
}

/// The state on the device.
pub(super) struct State {
    buffers: Vec<Buffer>,
    weights: Range<usize>,
    averages: Option<Range<usize>>,
    step: usize,
    halted: usize,
    skipped: u64,
}

impl State {
    pub(super) fn upload(device: &Device, state: &HostState, step: &TrainStep) -> Result<State> {
        let buffers = state.tensors.iter().map(|literal| device.buffer(literal)).collect::<Result<_>>()?;
        Ok(State {
            buffers,
            weights: step.weights(),
            averages: step.averages(),
            step: step.step(),
            halted: step.halted(),
            skipped: state.skipped,
        })
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

    /// The weights to evaluate and to sample with: the averaged ones where an average is kept.
    pub(super) fn weights(&self) -> &[Buffer] {
        &self.buffers[self.averages.clone().unwrap_or(self.weights.clone())]
    }

    /// The weights that are trained.
    pub(super) fn trained_weights(&self) -> &[Buffer] {
        &self.buffers[self.weights.clone()]
    }

    /// Steps so far whose updates are not in the weights.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Lets training go on after a step that was not finite, whose update was not applied.
    pub(super) fn skip(&mut self, device: &Device) -> Result<()> {
        self.buffers[self.halted] = device.buffer(&Literal::scalar(0_i32))?;
        self.skipped += 1;
        Ok(())
    }

    /// Goes back to another state after `steps_done` steps, without those that were done since: `skipped` more steps
    /// are passed over.
    pub(super) fn roll_back(&mut self, device: &Device, to: &HostState, steps_done: u64, skipped: u64) -> Result<()> {
        let count = i32::try_from(steps_done).map_err(|_| Error::run(format!("step {steps_done} is beyond 2^31")))?;
        // The old state goes first: there need not be memory for two.
        self.buffers.clear();
        self.buffers = to.tensors.iter().map(|literal| device.buffer(literal)).collect::<Result<_>>()?;
        self.buffers[self.step] = device.buffer(&Literal::scalar(count))?;
        self.skipped = to.skipped + skipped;
        Ok(())
    }

    /// Reads the state back for saving: the weights, and the optimizer's state by the names of its parameters.
    pub(super) fn snapshot(&self, step: &TrainStep) -> Result<(Tensors, Tensors)> {
        let read = |range: Range<usize>| -> Result<Tensors> {
            let names = step.func.params[range.clone()].iter().map(|param| param.name.clone());
            let values = self.buffers[range].iter().map(|buffer| buffer.to_literal().map_err(run_error));
            names.zip(values).map(|(name, value)| Ok((name, value?))).collect()
        };
        let mut optimizer = read(step.slots())?;
        if self.skipped > 0 {
            let skipped = i64::try_from(self.skipped).unwrap_or(i64::MAX);
            optimizer.insert(SKIPPED_STEPS.to_owned(), Literal::scalar(skipped));
        }
        Ok((read(step.weights())?, optimizer))
    }
}
