//! The training step: micro-batches, forward, backward, clipping, optimizer, schedule and metrics as one function.

#[cfg(test)]
mod tests;

use std::ops::Range;

use lmc_autodiff::{BACKWARD, DiffError, value_and_grad};
use lmc_graph::{Builder, DType, Func, Literal, TensorType, Value};

use crate::architectures::ModelConfig;
use crate::compute::Compute;
use crate::loss::{LossFunc, loss_func, training_loss_func};
use crate::optimizer::{Optimizer, Slots, StepScalars, clip_coefficient, global_norm};
use crate::params::{ParamSpec, Params};
use crate::schedule::Schedule;

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
    /// How the model computes.
    pub compute: Compute,
    /// The coefficient of [`z_loss_func`](crate::z_loss_func); 0 disables.
    pub z_loss: f64,
    /// What dropout draws from.
    pub seed: u64,
    /// How gradients change the weights.
    pub update: Update,
}

/// How gradients change the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// The largest global norm of the gradient; a longer one is scaled to it. 0 disables.
    pub grad_clip_norm: f64,
    /// How much of an exponential moving average of the weights stays in a step, less at first: with `t` updates before
    /// it, `min(ema_decay, (1 + t) / (10 + t))`, so that the initial weights are soon forgotten (as TensorFlow's
    /// `ExponentialMovingAverage` with `num_updates`). 0 keeps no average.
    pub ema_decay: f64,
}

impl StepConfig {
    /// The loss of a micro-batch that a step makes smaller, as [`training_loss_func`].
    ///
    /// # Panics
    /// As [`StepConfig::eval_loss_func`].
    #[track_caller]
    pub fn loss_func(&self) -> LossFunc {
        training_loss_func(&self.model, self.micro_batch_size, self.seq_len, self.compute, self.z_loss)
    }

    /// The loss of a micro-batch that tells how good the model is: the cross-entropy alone, as [`loss_func`].
    ///
    /// # Panics
    /// If the configuration is not valid (see [`ModelConfig::validate`]), or the sequence is longer than the model takes.
    #[track_caller]
    pub fn eval_loss_func(&self) -> LossFunc {
        loss_func(&self.model, self.micro_batch_size, self.seq_len, self.compute)
    }
}

/// A training step as one function of a state and data.
///
/// Parameters are the state, then the data; the results are the next state, then the metrics. The state is the weights
/// (named by their paths), the [slots](TrainStep::slots), the number of steps done, `step`, `i32[]`, and `halted`,
/// `i32[]`; each of its parameters is donated to the result with the same index. The data are the loss's inputs with a
/// leading dimension of micro-batches. The metrics are named in [`METRICS`].
///
/// **A step whose loss or gradient norm is not finite changes neither weights nor slots**: it counts as a step, also for
/// schedule and bias corrections, and sets `halted` to 1. As long as `halted` is not 0 a step changes nothing at all, so
/// that what was started before anybody looked at the metrics does no harm; whoever looked goes on by setting it to 0.
#[derive(Clone, Debug)]
pub struct TrainStep {
    /// The function.
    pub func: Func,
    /// The weights, in the order of the state.
    pub specs: Params<ParamSpec>,
    /// What the state has beside the weights and its counters: the optimizer's slots, slot by slot, then `ema.<path>` of
    /// every weight if an average is kept.
    pub slots: Vec<Slot>,
}

/// A tensor of a training step's state that goes with a weight and has its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The name: what it is, a dot, and the weight's path.
    pub name: String,
    /// The place of the weight in the order of the state.
    pub weight: usize,
    /// What it is before the first step.
    pub start: SlotStart,
}

/// What a slot is before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStart {
    /// Zeros.
    Zeros,
    /// The initial weight: an average of the weights.
    Weight,
}

/// What the names of averaged weights begin with.
pub const EMA_PREFIX: &str = "ema.";

/// The f32 scalars after the state in a training step's results: the mean loss, z-loss included, over all
/// counted tokens of all micro-batches, the global norm of its gradient before clipping, the learning rate that was
/// used, and the number of counted tokens.
pub const METRICS: [&str; 4] = ["loss", "grad_norm", "learning_rate", "num_tokens"];

impl TrainStep {
    /// Where the weights are, in parameters and results.
    pub fn weights(&self) -> Range<usize> {
        0..self.specs.len()
    }

    /// Where the slots are, in parameters and results.
    pub fn slots(&self) -> Range<usize> {
        self.specs.len()..self.step()
    }

    /// Where the averaged weights are, in parameters and results, in the order of the weights; they are the last slots.
    /// `None` if no average is kept.
    pub fn averages(&self) -> Option<Range<usize>> {
        let kept = self.slots.iter().any(|slot| slot.start == SlotStart::Weight);
        kept.then(|| self.step() - self.specs.len()..self.step())
    }

    /// Where the number of steps done is, in parameters and results.
    pub fn step(&self) -> usize {
        self.specs.len() + self.slots.len()
    }

    /// Where the mark of a step that was not finite is, in parameters and results.
    pub fn halted(&self) -> usize {
        self.step() + 1
    }

    /// The number of parameters and results that are the state; they come first.
    pub fn num_state(&self) -> usize {
        self.halted() + 1
    }

    /// Where the data are in the parameters.
    pub fn inputs(&self) -> Range<usize> {
        self.num_state()..self.func.params.len()
    }

    /// Where the metrics are in the results, in the order of [`METRICS`].
    pub fn metrics(&self) -> Range<usize> {
        self.num_state()..self.num_state() + METRICS.len()
    }

    /// The state before the first step, with these weights in the order of [`TrainStep::specs`].
    pub fn initial_state(&self, weights: impl IntoIterator<Item = Literal>) -> Vec<Literal> {
        let mut state: Vec<Literal> = weights.into_iter().collect();
        for slot in &self.slots {
            let weight = &state[slot.weight];
            state.push(match slot.start {
                SlotStart::Zeros => Literal::zeros(weight.ty().clone()),
                SlotStart::Weight => weight.clone(),
            });
        }
        state.extend([Literal::scalar(0_i32), Literal::scalar(0_i32)]);
        state
    }
}

/// The slots of every weight: those of one kind together, in the order of the weights.
fn slots_of(update: &Update, specs: &Params<ParamSpec>) -> Vec<Slot> {
    let mut kinds: Vec<&str> = specs.values().flat_map(|spec| update.optimizer.slots(spec)).copied().collect();
    let mut seen = Vec::new();
    kinds.retain(|kind| {
        !seen.contains(kind) && {
            seen.push(*kind);
            true
        }
    });
    let mut slots = Vec::new();
    for kind in kinds {
        for (weight, (path, spec)) in specs.iter().enumerate() {
            if update.optimizer.slots(spec).contains(&kind) {
                slots.push(Slot { name: format!("{kind}.{path}"), weight, start: SlotStart::Zeros });
            }
        }
    }
    if update.ema_decay != 0.0 {
        slots.extend(specs.keys().enumerate().map(|(weight, path)| Slot {
            name: format!("{EMA_PREFIX}{path}"),
            weight,
            start: SlotStart::Weight,
        }));
    }
    slots
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
    train_step_of(&config.loss_func(), config.grad_accum_steps, config.seed, &config.update)
}

/// The training step of any loss; its data are the loss's inputs, each with a leading dimension of `grad_accum_steps`.
///
/// The gradient is that of the mean over everything counted in all micro-batches: sums are accumulated in f32 and
/// divided once. If the loss takes a key, that is made from `seed`, the number of steps done before, and the number of
/// the micro-batch.
///
/// # Errors
/// If the loss has no derivative.
///
/// # Panics
/// If there are no weights, or `grad_accum_steps` is 0.
pub fn train_step_of(
    loss: &LossFunc,
    grad_accum_steps: usize,
    seed: u64,
    update: &Update,
) -> Result<TrainStep, DiffError> {
    assert!(grad_accum_steps > 0, "a step has at least one micro-batch");
    let num_inputs = loss.num_inputs();
    let wrt: Vec<usize> = (num_inputs..num_inputs + loss.specs.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt)?;
    let slots = slots_of(update, &loss.specs);
    let mut func = Builder::build("train_step", |b| {
        let types: Vec<TensorType> = loss.specs.values().map(|spec| spec.ty.clone()).collect();
        let weights = loss.specs.keys().zip(&types).map(|(path, ty)| b.param(path, ty.clone())).collect();
        let slots = slots.iter().map(|slot| b.param(&slot.name, types[slot.weight].clone())).collect();
        let [step, halted] = ["step", "halted"].map(|name| b.param(name, TensorType::scalar(DType::I32)));
        let before = State { weights, slots, step, halted };
        let stacked = |ty: TensorType| ty.with_shape([&[grad_accum_steps], &ty.shape[..]].concat());
        let inputs: Vec<Value<'_>> = loss.inputs().into_iter().map(|(name, ty)| b.param(name, stacked(ty))).collect();

        let key = loss.takes_key.then(|| b.scope("key", || step_key(b, seed, before.step)));
        let micro_batches = MicroBatches { inputs, key, count: grad_accum_steps };
        let sums = sum_over_micro_batches(b, &differentiated, &before.weights, &micro_batches);
        let (after, metrics) = b.scope("optimizer", || apply(update, loss, &before, &sums));
        before.values().into_iter().enumerate().for_each(|(index, param)| b.donate(param, index));
        after.values().into_iter().chain(metrics).collect()
    });
    let num_state = loss.specs.len() + slots.len() + 2;
    let state = func.params.iter().map(|param| param.name.as_str()).take(num_state);
    func.result_names = state.chain(METRICS).map(str::to_string).collect();
    Ok(TrainStep { func, specs: loss.specs.clone(), slots })
}

/// The key of a step: of the seed and the number of steps done before. [`micro_batch_key`] makes those of losses of it.
#[track_caller]
pub(crate) fn step_key<'g>(b: Builder<'g>, seed: u64, step: Value<'g>) -> Value<'g> {
    b.rng_key(b.constant(Literal::scalar(seed))).fold_in(step)
}

/// The key of a micro-batch by its number, an `i32[]`.
#[track_caller]
pub(crate) fn micro_batch_key<'g>(step_key: Value<'g>, micro_batch: Value<'g>) -> Value<'g> {
    step_key.fold_in(micro_batch)
}

/// A state under construction.
struct State<'g> {
    weights: Vec<Value<'g>>,
    slots: Vec<Value<'g>>,
    step: Value<'g>,
    halted: Value<'g>,
}

impl<'g> State<'g> {
    fn values(&self) -> Vec<Value<'g>> {
        [&self.weights[..], &self.slots, &[self.step, self.halted]].concat()
    }
}

/// What a step learns from.
struct MicroBatches<'g> {
    /// The data, each with a leading dimension of `count`.
    inputs: Vec<Value<'g>>,
    /// The step's key, if the loss takes one.
    key: Option<Value<'g>>,
    count: usize,
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
    data: &MicroBatches<'g>,
) -> Sums<'g> {
    let MicroBatches { inputs, key, count } = data;
    // The last of the slices of a scan is the number of the micro-batch.
    let micro_batch = |slices: &[Value<'g>]| {
        let (inputs, number) = slices.split_at(inputs.len());
        let key = key.map(|key| b.scope("key", || micro_batch_key(key, number[0])));
        b.call(differentiated, &[inputs, key.as_slice(), weights].concat())
    };
    let sums = if *count == 1 {
        let first: Vec<Value<'_>> = inputs.iter().map(|x| x.reshape(&x.shape()[1..])).collect();
        let number = key.map(|_| b.scalar(DType::I32, 0.0));
        micro_batch(&[&first[..], number.as_slice()].concat())
    } else {
        let number = key.map(|_| b.iota(&TensorType::new(DType::I32, [*count]), 0));
        let slices = [&inputs[..], number.as_slice()].concat();
        // A weight's gradient is summed in the backward pass of its layer.
        let scopes: Vec<String> = differentiated.result_names.iter().map(|name| accumulation_scope(name)).collect();
        let zero = |ty: &TensorType, scope: &String| b.scope(scope, || b.full(ty, 0.0));
        let zeros: Vec<Value<'_>> =
            differentiated.result_types().iter().zip(&scopes).map(|(ty, scope)| zero(ty, scope)).collect();
        let body = |sums: &[Value<'g>], slices: &[Value<'g>]| {
            let terms = sums.iter().zip(micro_batch(slices)).zip(&scopes);
            (terms.map(|((&sum, term), scope)| b.scope(scope, || sum + term)).collect(), vec![])
        };
        b.scope("micro_batches", || b.scan(&zeros, &slices, *count, body)).carries
    };
    let [loss, num_tokens, ref gradients @ ..] = sums[..] else {
        unreachable!("a loss has two results, and gradients follow them")
    };
    Sums { loss, num_tokens, gradients: gradients.to_vec() }
}

/// The scope of the sum over micro-batches of a result: that of the backward pass of a weight's layer for `grad.<path>`,
/// else the loss's.
fn accumulation_scope(result: &str) -> String {
    match result.strip_prefix("grad.") {
        Some(path) => format!("{BACKWARD}({})", path.rsplit_once('.').map_or("", |(layer, _)| layer)),
        None => "loss".to_owned(),
    }
}

/// Divides, clips and updates; the state after the step, and the metrics.
fn apply<'g>(
    update: &Update,
    loss: &LossFunc,
    before: &State<'g>,
    sums: &Sums<'g>,
) -> (State<'g>, [Value<'g>; METRICS.len()]) {
    // A batch in which nothing is counted changes nothing by its gradient, and is no division by zero.
    let count = sums.num_tokens.maximum(sums.num_tokens.full_like(1.0));
    let mean_loss = sums.loss / count;
    let grad_norm = global_norm(&sums.gradients) / count;
    let factor = clip_coefficient(grad_norm, update.grad_clip_norm) / count;
    let learning_rate = update.schedule.learning_rate(before.step);
    let t = before.step.convert(DType::F32) + 1.0;
    let running = before.halted.equal(before.halted.full_like(0.0));
    let applied = running.and(mean_loss.is_finite()).and(grad_norm.is_finite());
    let scalars = StepScalars { t, learning_rate, applied };
    let rule = update.optimizer.step(scalars);
    let averaged = (update.ema_decay != 0.0).then(|| ema_decay(t, update.ema_decay));

    // The slots of a weight are not beside each other in the state.
    let slots = slots_of(update, &loss.specs);
    let mut after = State { weights: Vec::new(), slots: before.slots.clone(), ..*before };
    let b = before.step.builder();
    for (index, ((path, spec), &gradient)) in loss.specs.iter().zip(&sums.gradients).enumerate() {
        let own: Vec<usize> = (0..slots.len()).filter(|&slot| slots[slot].weight == index).collect();
        let (kept, average) = own.split_at(update.optimizer.slots(spec).len());
        let weight = before.weights[index];
        let slots_before = Slots { weight, state: kept.iter().map(|&slot| before.slots[slot]).collect() };
        // The path tells of which layer these nodes are.
        let weight = b.scope(path, || {
            let updated = rule(&slots_before, gradient * factor, spec);
            for (&slot, value) in kept.iter().zip(updated.state) {
                after.slots[slot] = value;
            }
            if let (Some(decay), &[slot]) = (averaged, average) {
                let average = before.slots[slot];
                let moved = average + (updated.weight - average) * (-decay + 1.0);
                after.slots[slot] = scalars.choose(moved, average);
            }
            updated.weight
        });
        after.weights.push(weight);
    }
    after.step = running.select(before.step + 1.0, before.step);
    after.halted = applied.select(before.halted.full_like(0.0), before.halted.full_like(1.0));
    (after, [mean_loss, grad_norm, learning_rate, sums.num_tokens])
}

/// How much of an average stays in step number `t`, counted from 1; see [`Update::ema_decay`].
fn ema_decay(t: Value<'_>, ema_decay: f64) -> Value<'_> {
    // With t - 1 updates before it: (1 + t - 1) / (10 + t - 1).
    (t / (t + 9.0)).minimum(t.full_like(ema_decay))
}
