//! The training step: micro-batches, forward, backward, clipping, optimizer, schedule and metrics as one function.

use std::ops::Range;

use lmc_autodiff::{DiffError, value_and_grad};
use lmc_graph::{Builder, DType, Func, TensorType, Value};

use crate::architectures::ModelConfig;
use crate::compute::Compute;
use crate::loss::{LossFunc, loss_func, z_loss_func};
use crate::optimizer::{AdamW, Updated, clip_coefficient, global_norm};
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
    /// The coefficient of [`z_loss_func`]; 0 disables.
    pub z_loss: f64,
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

impl StepConfig {
    /// The loss of a micro-batch that a step makes smaller, as [`z_loss_func`].
    ///
    /// # Panics
    /// As [`StepConfig::eval_loss_func`].
    #[track_caller]
    pub fn loss_func(&self) -> LossFunc {
        z_loss_func(&self.model, self.micro_batch_size, self.seq_len, self.compute, self.z_loss)
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

/// The f32 scalars after the state in a training step's results: the mean loss, z-loss included, over all
/// counted tokens of all micro-batches, the global norm of its gradient before clipping, the learning rate that was
/// used, and the number of counted tokens.
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
    train_step_of(&config.loss_func(), config.grad_accum_steps, &config.update)
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
        let inputs: Vec<Value<'_>> = loss.inputs().into_iter().map(|(name, ty)| b.param(name, stacked(ty))).collect();

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
        .map(|((spec, &before), &gradient)| update.optimizer.update(before, gradient * factor, scalars, spec.decay))
        .collect();
    (after, [sums.loss / count, grad_norm, learning_rate, sums.num_tokens])
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, eval};

    use super::*;
    use crate::architectures::gpt2::Gpt2Config;
    use crate::architectures::llama::LlamaConfig;
    use crate::compute::Precision;
    use crate::init;
    use crate::params::Init;
    use crate::schedule::ScheduleKind;

    const UPDATE: Update = Update {
        optimizer: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 },
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            learning_rate: 0.1,
            min_learning_rate: 0.0,
            warmup_steps: 2,
            total_steps: 10,
        },
        grad_clip_norm: 1.0,
    };

    fn state(step: &TrainStep, weights: Vec<Literal>) -> Vec<Literal> {
        let zeros = || init::zeros(&step.specs).into_values();
        weights.into_iter().chain(zeros()).chain(zeros()).chain([Literal::scalar(0i32)]).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs();
            assert!(error <= tolerance * expected.abs().max(1.0), "{found}, not {expected}");
        }
    }

    /// A loss whose gradient is its inputs, so that an update can be compared with PyTorch's: torch 2.15,
    /// `AdamW([{"params": [w], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}], betas=(0.9, 0.95))` after
    /// `clip_grad_norm_([w, b], 1.0)`, three steps with learning rates 0.05, 0.1 and 0.1.
    #[test]
    fn updates_are_torchs() {
        let inputs = [("gw", TensorType::new(DType::F32, [2, 2])), ("gb", TensorType::new(DType::F32, [2]))];
        let loss = LossFunc::build("loss", Precision::Float32, &inputs, |scope, inputs| {
            let w = scope.param("w", &[("out", 2), ("in", 2)], Init::Zeros);
            let b = scope.param("b", &[("out", 2)], Init::Zeros);
            // Two of what is summed: the mean has the inputs as its gradient.
            let sum = (w * inputs[0]).sum(&[0, 1]) + (b * inputs[1]).sum(&[0]);
            (sum * 2.0, scope.builder().scalar(DType::F32, 2.0))
        });
        let step = train_step_of(&loss, 1, &UPDATE).expect("the loss has a derivative");
        let weights = vec![Literal::new([2, 2], &[0.5f32, -1.0, 2.0, 0.25]), Literal::new([2], &[1f32, -0.5])];
        let mut state = state(&step, weights);
        let gradients: [([f32; 4], [f32; 2]); 3] = [
            ([0.3, -0.2, 0.1, 0.05], [0.02, -0.4]),
            ([-2.0, 1.0, 0.5, 3.0], [1.5, -0.25]),
            ([0.0, 0.4, -0.6, 0.01], [0.7, 0.0]),
        ];
        let expected = [
            (0.550363541, 0.05, [0.44749999, -0.944999993, 1.94000006, 0.198750004, 0.950000048, -0.449999988]),
            (4.06970501, 0.1, [0.47148478, -0.950949252, 1.82084429, 0.118949756, 0.873022377, -0.371523082]),
            (1.00503731, 0.1, [0.489053905, -0.998209298, 1.84363651, 0.0559777692, 0.789989948, -0.310075849]),
        ];
        let flat = |values: &[Literal]| values.iter().flat_map(Literal::to_f64s).collect::<Vec<_>>();
        for (i, ((gw, gb), (norm, learning_rate, weights))) in gradients.iter().zip(expected).enumerate() {
            let args = [&state[..], &[Literal::new([1, 2, 2], gw), Literal::new([1, 2], gb)]].concat();
            let mut results = eval(&step.func, &args).expect("the arguments fit");
            let metrics = flat(&results.split_off(step.num_state()));
            assert_close(&metrics[1..], &[norm, learning_rate, 2.0], 1e-6);
            assert_close(&flat(&results[step.weights()]), &weights, 1e-6);
            assert_eq!(results[step.step()], Literal::scalar(i as i32 + 1));
            state = results;
        }
        let first = [-0.0199292377, 0.0457141027, -0.0405419134, 0.0713888481, 0.104441017, -0.0379286595];
        let second = [0.0155329453, 0.0125929173, 0.0189882182, 0.0259290747, 0.0307258572, 0.00739924517];
        assert_close(&flat(&state[step.first_moments()]), &first, 1e-7);
        assert_close(&flat(&state[step.second_moments()]), &second, 1e-7);
    }

    fn llama() -> ModelConfig {
        ModelConfig::Llama(LlamaConfig {
            vocab_size: 11,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
            intermediate_size: 12,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.3,
        })
    }

    fn step_of(
        model: ModelConfig,
        grad_accum_steps: usize,
        micro_batch_size: usize,
        precision: Precision,
    ) -> TrainStep {
        let config = StepConfig {
            model,
            micro_batch_size,
            grad_accum_steps,
            seq_len: 3,
            compute: precision.into(),
            z_loss: 0.0,
            update: UPDATE,
        };
        train_step(&config).expect("the loss has a derivative")
    }

    /// Four sequences in one micro-batch, two, or four: the same step, though not as many labels count in each.
    #[test]
    fn micro_batches_make_no_difference() {
        let gpt2 = ModelConfig::Gpt2(Gpt2Config { initializer_range: 0.3, ..Gpt2Config::new(11, 4, 8, 1, 2) });
        for model in [llama(), gpt2] {
            let run = |grad_accum_steps: usize| {
                let step = step_of(model.clone(), grad_accum_steps, 4 / grad_accum_steps, Precision::Float32);
                let state = state(&step, init::initialize(&step.specs, 5).into_values().collect());
                let shape = [grad_accum_steps, 4 / grad_accum_steps, 3];
                let data = [
                    Literal::new(shape, &[1i32, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1]),
                    Literal::new(shape, &[2i32, 3, 4, 5, -100, -100, 8, 9, 10, -100, -100, -100]),
                ];
                let results = eval(&step.func, &[&state[..], &data].concat()).expect("the arguments fit");
                results.iter().flat_map(Literal::to_f64s).collect::<Vec<_>>()
            };
            let whole = run(1);
            assert_eq!(whole.last(), Some(&7.0), "as many labels count");
            // Adam's first step divides gradients by themselves: what rounding there is in small ones shows.
            assert_close(&run(2), &whole, 1e-4);
            assert_close(&run(4), &whole, 1e-4);
        }
    }

    #[test]
    fn the_state_is_donated() {
        for grad_accum_steps in [1, 3] {
            let step = step_of(llama(), grad_accum_steps, 2, Precision::BFloat16);
            let (params, results) = (step.func.param_types(), step.func.result_types());
            for (index, param) in step.func.params.iter().enumerate() {
                let donated_to = (index < step.num_state()).then_some(index);
                assert_eq!(param.donated_to, donated_to, "{}", param.name);
                if donated_to.is_some() {
                    assert_eq!((&params[index], &param.name), (&results[index], &step.func.result_names[index]));
                }
            }
            assert_eq!(step.func.result_names[step.metrics()], METRICS);
            assert_eq!(step.func.params[step.first_moments().start].name, "adam.m.model.embed_tokens.weight");
            assert_eq!(step.func.params[step.second_moments().start].name, "adam.v.model.embed_tokens.weight");
            let data: Vec<&str> = step.func.params[step.inputs()].iter().map(|param| param.name.as_str()).collect();
            assert_eq!(data, ["tokens", "labels"]);
            assert_eq!(params[step.inputs().start], TensorType::new(DType::I32, [grad_accum_steps, 2, 3]));
        }
    }

    /// On one batch again and again, the loss goes down.
    #[test]
    fn learns_a_batch_by_heart() {
        let step = step_of(llama(), 2, 1, Precision::BFloat16);
        let mut state = state(&step, init::initialize(&step.specs, 5).into_values().collect());
        let data = [Literal::new([2, 1, 3], &[1i32, 2, 3, 4, 5, 6]), Literal::new([2, 1, 3], &[2i32, 3, 4, 5, 6, 7])];
        let mut losses = Vec::new();
        for _ in 0..8 {
            let mut results = eval(&step.func, &[&state[..], &data].concat()).expect("the arguments fit");
            losses.push(results[step.metrics().start].to_f64s()[0]);
            results.truncate(step.num_state());
            state = results;
        }
        assert!(losses[7] < 0.5 * losses[0], "{losses:?}");
    }
}
