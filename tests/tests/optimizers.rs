//! Optimizers against PyTorch's and against Lion's paper (`references/record_optimizers.py`): the weights after each of
//! several steps with given gradients, in the evaluator and on the plugin.

use std::fs;

use lmc_graph::{DType, Literal, TensorType, eval};
use lmc_models::params::Init;
use lmc_models::{
    AdamW, Lion, LossFunc, Muon, Optimizer, Precision, RateAdjustment, Schedule, ScheduleKind, TrainStep, Update,
    train_step_of,
};
use lmc_tests::plugin;
use lmc_tests::source::workspace;
use serde_json::Value;

/// The parameters, and the logical names of their dimensions.
const PARAMETERS: [(&str, &[&str]); 4] = [
    ("table", &["vocab", "hidden"]),
    ("wide", &["heads", "hidden"]),
    ("tall", &["intermediate", "hidden"]),
    ("bias", &["hidden"]),
];

fn recorded() -> Value {
    let path = workspace().join("tests/references/optimizers.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn shape(recorded: &Value, name: &str) -> Vec<usize> {
    numbers(&recorded["shapes"][name]).into_iter().map(|size| size as usize).collect()
}

/// The step of a loss whose gradients are its inputs.
fn step(recorded: &Value, optimizer: Optimizer) -> TrainStep {
    let types = PARAMETERS.map(|(name, _)| (name, TensorType::new(DType::F32, shape(recorded, name))));
    let inputs: Vec<(&str, TensorType)> = types.to_vec();
    let loss = LossFunc::build("loss", Precision::Float32, &inputs, |scope, inputs| {
        let products = PARAMETERS.iter().zip(inputs).map(|((name, dimensions), &gradient)| {
            let dimensions: Vec<_> = dimensions.iter().copied().zip(gradient.shape()).collect();
            let all: Vec<usize> = (0..gradient.rank()).collect();
            (scope.param(name, &dimensions, Init::Zeros) * gradient).sum(&all)
        });
        let sum = products.reduce(|x, y| x + y).expect("there are parameters");
        (sum, scope.builder().scalar(DType::F32, 1.0))
    });
    let rates = numbers(&recorded["learning_rates"]);
    assert!(rates[0] == rates[1] / 2.0 && rates[1..].iter().all(|rate| *rate == rates[1]), "a warm-up of two steps");
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        learning_rate: rates[1],
        min_learning_rate: 0.0,
        warmup_steps: 2,
        total_steps: rates.len(),
    };
    train_step_of(&loss, 1, 0, &Update { optimizer, schedule, grad_clip_norm: 0.0, ema_decay: 0.0 })
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The weights after each step lie within `tolerance` of a step's length from those of the case.
fn check(case: &str, optimizer: impl Fn(&Value) -> Optimizer, tolerance: f64) {
    let recorded = recorded();
    let step = step(&recorded, optimizer(&recorded));
    let program = plugin::compile(&step.func).unwrap_or_else(|error| panic!("{error}"));
    type Run<'a> = &'a dyn Fn(&[Literal]) -> Vec<Literal>;
    let runs: [(&str, Run<'_>); 2] = [
        ("evaluator", &|args| eval(&step.func, args).unwrap_or_else(|error| panic!("{error}"))),
        ("plugin", &|args| plugin::execute(&program, args).unwrap_or_else(|error| panic!("{error}"))),
    ];
    let literals = |values: &Value, leading: &[usize]| -> Vec<Literal> {
        let literal = |name: &str| {
            let shape = [leading, &shape(&recorded, name)].concat();
            Literal::from_f64s(TensorType::new(DType::F32, shape), &numbers(&values[name]))
        };
        PARAMETERS.iter().map(|(name, _)| literal(name)).collect()
    };
    let start = literals(&recorded["start"], &[]);
    for (place, run) in runs {
        let mut state = step.initial_state(start.clone());
        let mut before = start.clone();
        let gradients = recorded["gradients"].as_array().expect("a list");
        let expected = recorded["cases"][case].as_array().expect("the case is recorded");
        for (number, (gradients, expected)) in gradients.iter().zip(expected).enumerate() {
            let args = [state, literals(gradients, &[1])].concat();
            state = run(&args);
            state.truncate(step.num_state());
            let expected = literals(expected, &[]);
            for (((name, _), found), (expected, before)) in
                PARAMETERS.iter().zip(&state).zip(expected.iter().zip(&before))
            {
                let (found, expected, before) = (found.to_f64s(), expected.to_f64s(), before.to_f64s());
                let distance = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
                let (error, length) = (distance(&found, &expected), distance(&expected, &before));
                assert!(
                    error <= tolerance * length,
                    "{case} by the {place}: `{name}` after step {number} is {error:e} apart, its step {length:e} long"
                );
            }
            before = expected;
        }
    }
}

fn pair(recorded: &Value, section: &str) -> [f64; 2] {
    numbers(&recorded[section]["betas"])[..].try_into().expect("two betas")
}

fn number(recorded: &Value, section: &str, key: &str) -> f64 {
    recorded[section][key].as_f64().unwrap_or_else(|| panic!("{section} has no {key}"))
}

fn adamw(recorded: &Value) -> AdamW {
    let [beta1, beta2] = pair(recorded, "adamw");
    let number = |key| number(recorded, "adamw", key);
    AdamW { beta1, beta2, eps: number("eps"), weight_decay: number("weight_decay") }
}

fn muon(recorded: &Value, adjustment: RateAdjustment, precision: Precision) -> Optimizer {
    let number = |key| number(recorded, "muon", key);
    Optimizer::Muon(Muon {
        momentum: number("momentum"),
        rate: number("rate"),
        adjustment,
        weight_decay: number("weight_decay"),
        precision,
        others: adamw(recorded),
    })
}

/// Weights near 1 are f32: a step of 0.01 of them is known to about 1e-5.
const F32: f64 = 1e-4;

#[test]
fn adamw_is_torchs() {
    check("adamw", |recorded| Optimizer::AdamW(adamw(recorded)), F32);
}

#[test]
fn lion_is_the_papers() {
    let lion = |recorded: &Value| {
        let [beta1, beta2] = pair(recorded, "lion");
        Optimizer::Lion(Lion { beta1, beta2, weight_decay: number(recorded, "lion", "weight_decay") })
    };
    check("lion", lion, F32);
}

#[test]
fn muon_is_torchs_in_f32() {
    let muon = |adjustment| move |recorded: &Value| muon(recorded, adjustment, Precision::Float32);
    check("muon_original", muon(RateAdjustment::Original), F32);
    check("muon_match_rms_adamw", muon(RateAdjustment::MatchRmsAdamW), F32);
}

#[test]
fn muon_is_torchs_in_bf16() {
    // Fifteen products, each rounded to 8 bits, in two orders of summation: about four units in the last place.
    let muon = |recorded: &Value| muon(recorded, RateAdjustment::MatchRmsAdamW, Precision::BFloat16);
    check("muon_bfloat16", muon, 0.03);
}
