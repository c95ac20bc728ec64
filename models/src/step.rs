//! The training step: micro-batches, forward, backward, clipping, optimizer, schedule and metrics as one function.

use std::ops::Range;

use lmc_autodiff::{DiffError, value_and_grad};
use lmc_graph::{Builder, DType, Func, TensorType, Value};

use crate::architectures::ModelConfig;
use crate::loss::{LossFunc, loss_func};
use crate::optimizer::{AdamW, Updated, clip_coefficient, global_norm};
use crate::params::{ParamSpec, Params};
use crate::schedule::Schedule;
use crate::scope::Precision;

/// What a training step of a language model is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// The model.
    pub model: ModelConfig,
    /// Sequences of a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches of a step; only one at a time is in memory.
    pub grad_accum_steps: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// The type in which layers compute.
    pub precision: Precision,
    /// How gradients change the weights.
    pub update: Update,
}

/// How gradients change the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The optimizer.
    pub optimizer: AdamW,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// The largest global norm of the gradient; a longer one is scaled to it. 0 disables.
    pub grad_clip_norm: f64,
}

/// A training step as one function of a state and data.
///
/// Parameters are the state, then the data; the results are the next state, then the metrics. The state is, for `n`
/// weights, the weights (named by their paths), their first moments (`adam.m.<path>`), their second moments
/// (`adam.v.<path>`) and the number of steps done, `step`, `i32[]`; each of its parameters is donated to the result with
/// the same index. The data are the loss's inputs with a leading dimension of micro-batches. The metrics are named in
/// [`METRICS`].
#[derive(Clone, Debug)]
pub struct TrainStep {
    /// The function.
    pub func: Func,
    /// The weights, in the order of the state.
    pub specs: Params<ParamSpec>,
}

/// The f32 scalars after the state in a training step's results: the mean loss over all counted tokens of all
/// micro-batches, the global norm of its gradient before clipping, the learning rate that was used, and the number of
/// counted tokens.
pub const METRICS: [&str; 4] = ["loss", "grad_norm", "learning_rate", "num_tokens"];

impl TrainStep {
    /// Where the weights are, in parameters and results.
    pub fn weights(&self) -> Range<usize> {
        0..self.specs.len()
    }

    /// Where the first moments are, in parameters and results.
    pub fn first_moments(&self) -> Range<usize> {
        self.specs.len()..2 * self.specs.len()
    }

    /// Where the second moments are, in parameters and results.
    pub fn second_moments(&self) -> Range<usize> {
        2 * self.specs.len()..3 * self.specs.len()
    }

    /// Where the number of steps done is, in parameters and results.
    pub fn step(&self) -> usize {
        3 * self.specs.len()
    }

    /// The number of parameters and results that are the state; they come first.
    pub fn num_state(&self) -> usize {
        self.step() + 1
    }

    /// Where the data are in the parameters.
    pub fn inputs(&self) -> Range<usize> {
        self.num_state()..self.func.params.len()
    }

    /// Where the metrics are in the results, in the order of [`METRICS`].
    pub fn metrics(&self) -> Range<usize> {
        self.num_state()..self.num_state() + METRICS.len()
    }
}

/// The training step of a language model; its data are `tokens` and `labels`, each
/// `i32[grad_accum_steps, micro_batch_size, seq_len]`.
///
/// # Errors
/// If the loss has no derivative.
///
/// # Panics
/// If the configuration is not valid (see [`ModelConfig::validate`]), or the sequence is longer than the model takes.
pub fn train_step(config: &StepConfig) -> Result<TrainStep, DiffError> {
    let loss = loss_func(&config.model, config.micro_batch_size, config.seq_len, config.precision);
    train_step_of(&loss, config.grad_accum_steps, &config.update)
}

/// The training step of any loss; its data are the loss's inputs, each with a leading dimension of `grad_accum_steps`.
///
/// The gradient is that of the mean over everything counted in all micro-batches: sums are accumulated in f32 and
/// divided once.
///
/// # Errors
/// If the loss has no derivative.
///
/// # Panics
/// If there are no weights, or `grad_accum_steps` is 0.
pub fn train_step_of(loss: &LossFunc, grad_accum_steps: usize, update: &Update) -> Result<TrainStep, DiffError> {
    assert!(grad_accum_steps > 0, "a step has at least one micro-batch");
    let num_inputs = loss.num_inputs();
    let wrt: Vec<usize> = (num_inputs..num_inputs + loss.specs.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt)?;
    let mut func = Builder::build("train_step", |b| {
        let state = |prefix: &str| -> Vec<Value<'_>> {
            loss.specs.iter().map(|(path, spec)| b.param(&format!("{prefix}{path}"), spec.ty.clone())).collect()
        };
        let (weights, first_moments, second_moments) = (state(""), state("adam.m."), state("adam.v."));
        let step = b.param("step", TensorType::scalar(DType::I32));
        let stacked = |ty: TensorType| ty.with_shape([&[grad_accum_steps], &ty.shape[..]].concat());
        let inputs: Vec<Value<'_>> =
            loss.inputs().into_iter().map(|(name, ty)| b.param(name, stacked(ty))).collect();

        let sums = sum_over_micro_batches(b, &differentiated, &weights, &inputs, grad_accum_steps);
        let (next, metrics) = b.scope("optimizer", || {
            let before: Vec<Updated<'_>> = (weights.iter().zip(&first_moments).zip(&second_moments))
                .map(|((&weight, &first_moment), &second_moment)| Updated { weight, first_moment, second_moment })
                .collect();
            apply(update, &loss.specs, &before, step, &sums)
        });
        let state: Vec<Value<'_>> = [&weights[..], &first_moments, &second_moments, &[step]].concat();
        state.iter().enumerate().for_each(|(index, &param)| b.donate(param, index));
        let mut results: Vec<Value<'_>> = next.iter().map(|updated| updated.weight).collect();
        results.extend(next.iter().map(|updated| updated.first_moment));
        results.extend(next.iter().map(|updated| updated.second_moment));
        results.push(step + 1.0);
        results.extend(metrics);
        results
    });
    let state = func.params.iter().map(|param| param.name.as_str()).take(3 * loss.specs.len() + 1);
    func.result_names = state.chain(METRICS).map(str::to_string).collect();
    Ok(TrainStep { func, specs: loss.specs.clone() })
}

/// Sums over all micro-batches.
struct Sums<'g> {
    loss: Value<'g>,
    num_tokens: Value<'g>,
    gradients: Vec<Value<'g>>,
}

fn sum_over_micro_batches<'g>(
    b: Builder<'g>,
    differentiated: &Func,
    weights: &[Value<'g>],
    inputs: &[Value<'g>],
    grad_accum_steps: usize,
) -> Sums<'g> {
    let micro_batch = |inputs: &[Value<'g>]| b.call(differentiated, &[inputs, weights].concat());
    let sums = if grad_accum_steps == 1 {
        let inputs: Vec<Value<'_>> = inputs.iter().map(|x| x.reshape(&x.shape()[1..])).collect();
        micro_batch(&inputs)
    } else {
        let zeros: Vec<Value<'_>> = differentiated.result_types().iter().map(|ty| b.full(ty, 0.0)).collect();
        let body = |sums: &[Value<'g>], inputs: &[Value<'g>]| {
            let terms = micro_batch(inputs);
            (sums.iter().zip(terms).map(|(&sum, term)| sum + term).collect(), vec![])
        };
        b.scope("micro_batches", || b.scan(&zeros, inputs, grad_accum_steps, body)).carries
    };
    let [loss, num_tokens, ref gradients @ ..] = sums[..] else {
        unreachable!("a loss has two results, and gradients follow them")
    };
    Sums { loss, num_tokens, gradients: gradients.to_vec() }
}

/// Divides, clips and updates; the parameters after the step, and the metrics.
fn apply<'g>(
    update: &Update,
    specs: &Params<ParamSpec>,
    before: &[Updated<'g>],
    step: Value<'g>,
    sums: &Sums<'g>,
) -> (Vec<Updated<'g>>, [Value<'g>; METRICS.len()]) {
    // A batch in which nothing is counted changes nothing by its gradient, and is no division by zero.
    let count = sums.num_tokens.maximum(sums.num_tokens.full_like(1.0));
    let grad_norm = global_norm(&sums.gradients) / count;
    let factor = clip_coefficient(grad_norm, update.grad_clip_norm) / count;
    let learning_rate = update.schedule.learning_rate(step);
    let scalars = update.optimizer.step_scalars(step.convert(DType::F32) + 1.0, learning_rate);
    let after = specs
        .values()
        .zip(before)
        .zip(&sums.gradients)
        .map(|((spec, &before), &gradient)| {
            update.optimizer.update(before, gradient * factor, scalars, spec.decay)
        })
        .collect();
    (after, [sums.loss / count, grad_norm, learning_rate, sums.num_tokens])
}
