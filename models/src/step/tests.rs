//! The step in the evaluator.

use lmc_graph::{Literal, eval};

use super::*;
use crate::architectures::Dropout;
use crate::architectures::gpt2::Gpt2Config;
use crate::architectures::llama::LlamaConfig;
use crate::compute::Precision;
use crate::init;
use crate::optimizer::AdamW;
use crate::params::Init;
use crate::schedule::ScheduleKind;

const UPDATE: Update = Update {
    optimizer: Optimizer::AdamW(AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }),
    schedule: Schedule {
        kind: ScheduleKind::Constant,
        learning_rate: 0.1,
        min_learning_rate: 0.0,
        warmup_steps: 2,
        total_steps: 10,
    },
    grad_clip_norm: 1.0,
    ema_decay: 0.0,
};

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
    let step = train_step_of(&loss, 1, 0, &UPDATE).expect("the loss has a derivative");
    let weights = vec![Literal::new([2, 2], &[0.5f32, -1.0, 2.0, 0.25]), Literal::new([2], &[1f32, -0.5])];
    let mut state = step.initial_state(weights);
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
    assert_close(&flat(&state[step.slots()]), &[first, second].concat(), 1e-7);
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
        dropout: Dropout::NONE,
    })
}

fn step_of(model: ModelConfig, grad_accum_steps: usize, micro_batch_size: usize, precision: Precision) -> TrainStep {
    let config = StepConfig {
        model,
        micro_batch_size,
        grad_accum_steps,
        seq_len: 3,
        compute: precision.into(),
        z_loss: 0.0,
        seed: 7,
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
            let state = step.initial_state(init::initialize(&step.specs, 5).into_values());
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
        assert_eq!(step.func.params[step.slots().start].name, "adam.m.model.embed_tokens.weight");
        assert_eq!(step.func.params[step.slots().start + step.specs.len()].name, "adam.v.model.embed_tokens.weight");
        let data: Vec<&str> = step.func.params[step.inputs()].iter().map(|param| param.name.as_str()).collect();
        assert_eq!(data, ["tokens", "labels"]);
        assert_eq!(params[step.inputs().start], TensorType::new(DType::I32, [grad_accum_steps, 2, 3]));
    }
}

/// On one batch again and again, the loss goes down.
#[test]
fn learns_a_batch_by_heart() {
    let step = step_of(llama(), 2, 1, Precision::BFloat16);
    let mut state = step.initial_state(init::initialize(&step.specs, 5).into_values());
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

/// The results of a step, by their names.
fn run(step: &TrainStep, state: &[Literal], data: &[Literal]) -> Vec<Literal> {
    eval(&step.func, &[state, data].concat()).expect("the arguments fit")
}

/// A loss with the gradient `x` of a weight that starts at 1.
fn linear_loss() -> LossFunc {
    LossFunc::build("loss", Precision::Float32, &[("x", TensorType::new(DType::F32, [2]))], |scope, inputs| {
        let w = scope.param("w", &[("hidden", 2)], Init::Ones);
        ((w * inputs[0]).sum(&[0]), scope.builder().scalar(DType::F32, 1.0))
    })
}

#[test]
fn the_average_follows_the_weights() {
    let update = Update { ema_decay: 0.2, grad_clip_norm: 0.0, ..UPDATE };
    let step = train_step_of(&linear_loss(), 1, 0, &update).expect("the loss has a derivative");
    assert_eq!(step.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["adam.m.w", "adam.v.w", "ema.w"]);
    let averages = step.averages().expect("an average is kept");
    let mut state = step.initial_state(init::initialize(&step.specs, 0).into_values());
    let mut expected = vec![1.0, 1.0];
    // 1 / 10 and 2 / 11, and from then on what is asked for, as 3 / 12 is more.
    for decay in [0.1, 2.0 / 11.0, 0.2, 0.2] {
        state = run(&step, &state, &[Literal::new([1, 2], &[1f32, -3.0])]);
        state.truncate(step.num_state());
        let weight = state[0].to_f64s();
        assert!((weight[0] - expected[0]).abs() > 1e-3, "the weight moves");
        expected =
            expected.iter().zip(&weight).map(|(average, weight)| decay * average + (1.0 - decay) * weight).collect();
        assert_close(&state[averages.start].to_f64s(), &expected, 1e-6);
    }
    let without = train_step_of(&linear_loss(), 1, 0, &UPDATE).expect("the loss has a derivative");
    assert_eq!((without.averages(), without.slots.len()), (None, 2));
}

#[test]
fn what_is_not_finite_changes_nothing() {
    let update = Update { ema_decay: 0.9, ..UPDATE };
    let step = train_step_of(&linear_loss(), 1, 0, &update).expect("the loss has a derivative");
    let batch = |x: [f32; 2]| [Literal::new([1, 2], &x)];
    let start = step.initial_state(init::initialize(&step.specs, 0).into_values());
    let advance = |state: &[Literal], x: [f32; 2]| {
        let mut state = run(&step, state, &batch(x));
        state.truncate(step.num_state());
        state
    };
    let counters = |state: &[Literal]| [step.step(), step.halted()].map(|at| state[at].elements::<i32>()[0]);
    let first = advance(&start, [1.0, 2.0]);
    assert_eq!(counters(&first), [1, 0]);
    assert!(start.iter().zip(&first).take(step.step()).all(|(before, after)| before != after));
    // A loss, a loss by a gradient, and a norm alone that are beyond f32.
    for x in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [3e38, -3e38]] {
        let halted = advance(&first, x);
        assert_eq!(halted[..step.step()], first[..step.step()], "{x:?}: the step is not applied");
        assert_eq!(counters(&halted), [2, 1], "{x:?}: but it counts");
        let frozen = advance(&halted, [1.0, 2.0]);
        assert_eq!(frozen, halted, "{x:?}: nothing changes before somebody has looked");
        let mut resumed = halted.clone();
        resumed[step.halted()] = Literal::scalar(0_i32);
        let resumed = advance(&resumed, [1.0, 2.0]);
        assert_eq!(counters(&resumed), [3, 0]);
        assert!(resumed.iter().zip(&first).take(step.step()).all(|(before, after)| before != after));
    }
}

/// The metrics and weights of one step of a model with dropout.
fn dropped(seed: u64, steps_done: i32, grad_accum_steps: usize) -> Vec<f64> {
    let ModelConfig::Llama(llama) = llama() else { panic!("a Llama") };
    let dropout = Dropout { embedding: 0.3, residual: 0.3, attention: 0.3 };
    let config = StepConfig {
        model: ModelConfig::Llama(LlamaConfig { dropout, ..llama }),
        micro_batch_size: 1,
        grad_accum_steps,
        seq_len: 3,
        compute: Precision::Float32.into(),
        z_loss: 0.0,
        seed,
        update: UPDATE,
    };
    let step = train_step(&config).expect("the loss has a derivative");
    let data: Vec<&str> = step.func.params[step.inputs()].iter().map(|param| param.name.as_str()).collect();
    assert_eq!(data, ["tokens", "labels"], "the key is made inside");
    let mut state = step.initial_state(init::initialize(&step.specs, 5).into_values());
    state[step.step()] = Literal::scalar(steps_done);
    // The same sequence in every micro-batch.
    let ids = |ids: [i32; 3]| Literal::new([grad_accum_steps, 1, 3], &ids.repeat(grad_accum_steps));
    run(&step, &state, &[ids([1, 2, 3]), ids([2, 3, 4])]).split_off(step.metrics().start)[0].to_f64s()
}

#[test]
fn dropout_depends_on_seed_step_and_micro_batch() {
    let loss = dropped(7, 3, 1);
    assert_eq!(dropped(7, 3, 1), loss);
    assert_ne!(dropped(8, 3, 1), loss);
    assert_ne!(dropped(7, 4, 1), loss);
    // If each of the two micro-batches drew the same, the mean of their losses would be that of one.
    assert!((dropped(7, 3, 2)[0] - loss[0]).abs() > 1e-4);
}

/// Eight sequences, of which each counts another number of labels, at once and one by one.
#[test]
fn accumulation_is_one_big_batch() {
    let run = |grad_accum_steps: usize| {
        let micro_batch_size = 8 / grad_accum_steps;
        let step = step_of(llama(), grad_accum_steps, micro_batch_size, Precision::Float32);
        let state = step.initial_state(init::initialize(&step.specs, 5).into_values());
        let results = self::run(&step, &state, &uneven(grad_accum_steps));
        let part = |range: std::ops::Range<usize>| results[range].iter().flat_map(Literal::to_f64s).collect::<Vec<_>>();
        let moments = step.specs.len()..2 * step.specs.len();
        (part(step.metrics()), part(moments))
    };
    let ((metrics, moments), (one_by_one, moments_one_by_one)) = (run(1), run(8));
    assert_eq!(metrics[3], 14.0, "as many labels count");
    assert_close(&one_by_one, &metrics, 1e-6);
    // First moments are a tenth of a gradient that is clipped to a norm of 1.
    assert_close(&moments_one_by_one, &moments, 1e-7);
}

/// Tokens and labels of eight sequences of three, in which 3, 2, 1, 0, 3, 2, 1 and 2 labels count.
fn uneven(grad_accum_steps: usize) -> [Literal; 2] {
    let shape = [grad_accum_steps, 8 / grad_accum_steps, 3];
    let tokens: Vec<i32> = (0..24).map(|i| (5 * i + 1) % 11).collect();
    let counts = [3, 2, 1, 0, 3, 2, 1, 2];
    let label = |i: usize| if i % 3 < counts[i / 3] { (7 * i as i32 + 2) % 11 } else { -100 };
    [Literal::new(shape, &tokens), Literal::new(shape, &(0..24).map(label).collect::<Vec<i32>>())]
}
