//! What is done about a step that is not finite: what it was is found out, and the run stops or goes on without it.

use lmc_graph::{Func, Literal, TensorType};
use lmc_models::{OPERAND_NUMBERS, Place, Probe, StepConfig, TrainStep, diagnose};

use crate::checkpoint;
use crate::config::{Config, NonFinite};
use crate::data::{Batch, Data};
use crate::device::{Argument, Buffer, Device, run_error};
use crate::error::{Error, Result};
use crate::model::differentiation_error;
use crate::run::{Event, RunFolder};

use super::recorder::Recorder;
use super::state::{State, initial_state, saved_state};

/// A step whose loss or gradient norm is not finite. It has not changed the state, and no step after it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct NonFiniteStep {
    /// Steps done, this one included.
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
}

/// What a run does about such steps, and what it needs for it.
pub(super) struct Policy<'a> {
    config: &'a Config,
    data: &'a Data,
    device: &'a Device,
    step_config: &'a StepConfig,
    step: &'a TrainStep,
    run: &'a RunFolder,
    /// The last step that was skipped, and how many in a row it ends.
    in_a_row: (u64, u64),
    /// The step of the checkpoint that was last rolled back to, and how often in succession.
    rolled_back: (u64, u64),
}

impl<'a> Policy<'a> {
    pub(super) fn new(
        config: &'a Config,
        data: &'a Data,
        device: &'a Device,
        step_config: &'a StepConfig,
        step: &'a TrainStep,
        run: &'a RunFolder,
    ) -> Policy<'a> {
        Policy { config, data, device, step_config, step, run, in_a_row: (0, 0), rolled_back: (0, 0) }
    }

    /// Makes the state one to go on with after `found`, and records it.
    ///
    /// # Errors
    /// If the run is to stop, with what was not finite.
    pub(super) fn resolve(&mut self, found: NonFiniteStep, state: &mut State, recorder: &mut Recorder) -> Result<()> {
        let NonFiniteStep { step, loss, grad_norm } = found;
        let what = if loss.is_finite() { "the gradient's norm" } else { "the loss" };
        let place = self.first_place(step, state);
        let message = format!(
            "{what} is not finite in step {step}: loss {loss}, gradient norm {grad_norm}; {}",
            place.unwrap_or_else(|error| format!("where it began could not be found: {error}"))
        );
        let limit = self.config.train.non_finite_limit;
        match self.config.train.non_finite {
            NonFinite::Stop => Err(recorder.non_finite(step, message)?),
            NonFinite::Skip => {
                let (last, count) = self.in_a_row;
                self.in_a_row = (step, if last + 1 == step { count + 1 } else { 1 });
                if self.in_a_row.1 >= limit {
                    let message = format!("{message}. {limit} steps in a row were not (train.non_finite_limit)");
                    return Err(recorder.non_finite(step, message)?);
                }
                state.skip(self.device)?;
                let text = format!("skipped: {message}");
                recorder.passed_over(Event::Skip { step, message, skipped: state.skipped() }, &text)
            }
            NonFinite::Rollback => self.roll_back(step, message, state, recorder),
        }
    }

    /// Goes back to the newest whole checkpoint, or the start.
    fn roll_back(&mut self, step: u64, message: String, state: &mut State, recorder: &mut Recorder) -> Result<()> {
        let newest = checkpoint::newest_valid(&self.config.train.out_dir)?;
        let (to, saved) = match &newest.found {
            Some((path, saved)) => (saved.step, saved_state(path, saved, self.step)?),
            None => (0, initial_state(self.config, self.step)?),
        };
        // Steps that are done again after an interruption come to the same counts: they begin at the checkpoint.
        let (last, count) = self.rolled_back;
        self.rolled_back = (to, if last == to { count + 1 } else { 1 });
        let limit = self.config.train.non_finite_limit;
        if self.rolled_back.1 > limit {
            let message = format!(
                "{message}. The run was rolled back to step {to} {limit} times before (train.non_finite_limit)"
            );
            return Err(recorder.non_finite(step, message)?);
        }
        state.roll_back(self.device, &saved, step, step - to)?;
        let checkpoint =
            newest.found.map(|(path, _)| path.strip_prefix(self.run.path()).unwrap_or(&path).display().to_string());
        let text = format!("rolled back to {}: {message}", checkpoint.as_deref().unwrap_or("the start"));
        recorder.passed_over(Event::Rollback { step, message, checkpoint, skipped: state.skipped() }, &text)
    }

    /// The first tensor of a step that is not finite, in words.
    fn first_place(&self, step: u64, state: &State) -> Result<String> {
        let diagnosis = diagnose(self.step_config).map_err(differentiation_error)?;
        let Some(batch) = self.data.batches(step - 1..step)?.next() else {
            return Err(Error::run(format!("there is no batch of step {step}")));
        };
        let Batch { tokens, labels, .. } = batch?;
        let micro_batches = self.config.train.grad_accum_steps;
        let done = i32::try_from(step - 1).map_err(|_| Error::run(format!("step {step} is beyond 2^31")))?;
        for number in 0..micro_batches {
            let counters = [done, i32::try_from(number).unwrap_or(i32::MAX)].map(Literal::scalar);
            let data = [micro_batch(&tokens, number)?, micro_batch(&labels, number)?];
            let run = |func: &Func| -> Result<Literal> {
                let program = self.device.compile_for(func, 1)?;
                let given: Vec<Buffer> =
                    counters.iter().chain(&data).map(|literal| self.device.buffer(literal)).collect::<Result<_>>()?;
                let weights = state.trained_weights().iter().map(Argument::Keep);
                let results = program.execute(weights.chain(given.into_iter().map(Argument::Donate)).collect())?;
                results[0].to_literal().map_err(run_error)
            };
            let finite = run(&diagnosis.func)?;
            let mut places = diagnosis.places.iter().zip(finite.elements::<f32>());
            let Some(index) = places.position(|(_, finite)| finite == 0.0) else { continue };
            let first = &diagnosis.places[index];
            let mut text = format!("the first tensor that is not is {first}");
            if !matches!(first, Place::Weight(_)) && micro_batches > 1 {
                text += &format!(", in micro-batch {} of {micro_batches}", number + 1);
            }
            if let Some(probe) = diagnosis.probe(index).map_err(differentiation_error)? {
                text += &operands(&probe, &run(&probe.func)?);
            }
            if matches!(first, Place::Cotangent(..)) {
                let gradient = |place: &Place| matches!(place, Place::Gradient(_));
                if let Some((gradient, _)) = places.find(|(place, finite)| gradient(place) && *finite == 0.0) {
                    text += &format!("; of the gradients by name, the first is {gradient}");
                }
            }
            return Ok(text);
        }
        Ok("every activation and gradient of each micro-batch is finite by itself: their sum or their norm is not"
            .to_owned())
    }
}

/// What an op was given, a line for each operand.
fn operands(probe: &Probe, numbers: &Literal) -> String {
    let numbers = numbers.elements::<f32>();
    let each = probe.operands.len() * OPERAND_NUMBERS.len();
    let rows = numbers[probe.iteration * each..].chunks(OPERAND_NUMBERS.len());
    let mut text = String::new();
    for (number, (operand, row)) in (1..).zip(probe.operands.iter().zip(rows)) {
        let &[least, largest, mean, zeros, infinite, nan] = row else { continue };
        let len = operand.ty.num_elements();
        if len == 0 {
            continue;
        }
        let made_by = match &operand.made_by {
            Some((op, location)) => format!(", of `{op}` in {} ({}:{})", location.scope, location.file, location.line),
            None => String::new(),
        };
        let range = match least <= largest {
            true => format!("from {least} to {largest}, mean {mean}"),
            false => "no element is finite".to_owned(),
        };
        let counts: String = [("zero", zeros), ("infinite", infinite), ("NaN", nan)]
            .into_iter()
            .filter(|(_, count)| *count > 0.0)
            .map(|(what, count)| format!(", {count} of {len} {what}"))
            .collect();
        text += &format!("\n  operand {number}: {}{made_by}: {range}{counts}", operand.ty);
    }
    if text.is_empty() { text } else { text + "\n  " }
}

/// One micro-batch of a tensor with a leading dimension of them.
fn micro_batch(literal: &Literal, number: usize) -> Result<Literal> {
    let ty = literal.ty();
    let part = TensorType::new(ty.dtype, &ty.shape[1..]);
    let bytes = literal.bytes().chunks_exact(part.num_bytes()).nth(number).unwrap_or_default();
    Literal::from_bytes(part, bytes.to_vec()).map_err(Error::run)
}
