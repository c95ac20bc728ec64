//! The held-out loss of a model.

use std::time::Instant;

use lmc_graph::{Literal, TensorType};
use lmc_models::{StepConfig, eval_func};

use crate::config::Config;
use crate::data::Data;
use crate::device::{Argument, Buffer, Device, Program, run_error};
use crate::error::{Error, Result};
use crate::run::EvalMetrics;
use crate::training::is_multiple;

/// Measures the held-out loss; compiles what it needs when it is first asked.
pub struct Evaluator<'a> {
    config: &'a Config,
    data: &'a Data,
    step_config: &'a StepConfig,
    program: Option<Program>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of the held-out part of `data`.
    pub fn new(config: &'a Config, data: &'a Data, step_config: &'a StepConfig) -> Evaluator<'a> {
        Evaluator { config, data, step_config, program: None }
    }

    /// Whether the loss is to be measured after `steps_done` steps.
    pub(crate) fn is_due(&self, steps_done: u64) -> bool {
        let every = self.config.train.eval_every;
        let last = every != 0 && steps_done == self.config.train.steps;
        self.data.held_out_tokens() > 0 && (last || is_multiple(steps_done, every))
    }

    /// Compiles what an evaluation needs, if that was not done yet.
    ///
    /// # Errors
    /// If XLA refuses the program.
    pub fn compile(&mut self, device: &Device) -> Result<&Program> {
        let program = match self.program.take() {
            Some(program) => program,
            None => device.compile(&eval_func(&self.step_config.eval_loss_func()))?,
        };
        Ok(self.program.insert(program))
    }

    /// The mean loss over the held-out tokens, in nats, with `weights` on the device.
    ///
    /// # Errors
    /// If the program cannot be compiled or fails, or the data cannot be read.
    pub fn evaluate(&mut self, device: &Device, weights: &[Buffer], steps_done: u64) -> Result<EvalMetrics> {
        let begin = Instant::now();
        let (config, data) = (self.config, self.data);
        let program = self.compile(device)?;
        let (mut loss_sum, mut num_tokens) = (0.0, 0.0);
        for batch in data.held_out_batches(1, config.train.eval_batches) {
            let batch = batch?;
            let inputs = [device.buffer(&single(&batch.tokens)?)?, device.buffer(&single(&batch.labels)?)?];
            let arguments = weights.iter().map(Argument::Keep).chain(inputs.into_iter().map(Argument::Donate));
            let results = program.execute(arguments.collect())?;
            let scalar = |buffer: &Buffer| -> Result<f64> {
                Ok(f64::from(buffer.to_literal().map_err(run_error)?.elements::<f32>()[0]))
            };
            loss_sum += scalar(&results[0])?;
            num_tokens += scalar(&results[1])?;
        }
        Ok(EvalMetrics {
            step: steps_done,
            val_loss: loss_sum / num_tokens,
            tokens: num_tokens as u64,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }
}

/// A batch of one micro-batch without the dimension of micro-batches.
fn single(literal: &Literal) -> Result<Literal> {
    let ty = literal.ty();
    Literal::from_bytes(TensorType::new(ty.dtype, &ty.shape[1..]), literal.bytes().to_vec()).map_err(Error::run)
}
