//! Where the time of a training step goes, by layer and pass.
//!
//! XLA's plugin for the CPU has no profiler, and the step is one program. So its parts are measured apart: the ops of a
//! layer in a pass are compiled as a program of their own and timed on synthetic data of the right shapes, and so is the
//! whole step. What the parts take together differs from the step by what a compiler fuses, orders and runs side by side
//! across them; both are told.

mod parts;
mod table;
mod trace;

use std::collections::HashMap;
use std::time::Instant;

use lmc_autodiff::value_and_grad;
use lmc_graph::{Builder, DType, Func, Literal, TensorType};
use lmc_models::{init, train_step};
use serde::Serialize;

use crate::config::{Config, Precision};
use crate::device::{Argument, Buffer, Device, Program, run_error};
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::plan::with_vocabulary;

use parts::{Part, optimizer_part, parts};

pub use parts::Pass;
pub use trace::trace_json;

/// What a step's time went on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The device.
    pub device: String,
    /// The seconds of each measured step.
    pub step_seconds: Vec<f64>,
    /// The parts of a step, in the order of the program.
    pub parts: Vec<PartTime>,
    /// What the device was measured to reach.
    pub roofline: Roofline,
    /// Tokens of a step.
    pub tokens_per_step: u64,
}

/// The time of a layer in a pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartTime {
    /// The layer's scope in the model.
    pub layer: String,
    /// The pass.
    pub pass: Pass,
    /// How often it runs in a step.
    pub times: u64,
    /// Seconds in a step, all runs together.
    pub seconds: f64,
    /// Operations in products in a step.
    pub flops: f64,
    /// Bytes that it is given and gives in a step: the least that is read and written.
    pub bytes: f64,
    /// The least time that operations and bytes would take on the device, as a share of the time they took. More than 1
    /// where the bytes stay in a cache.
    pub roofline: f64,
}

/// What a device reaches with simple programs, measured in this process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Operations a second of a large product in the type of the config.
    pub flops: f64,
    /// Bytes a second that a sum of large vectors reads and writes.
    pub bytes: f64,
}

impl Profile {
    /// Seconds of all parts together.
    pub fn parts_seconds(&self) -> f64 {
        self.parts.iter().map(|part| part.seconds).sum()
    }

    /// The median of the steps.
    pub fn step_median(&self) -> f64 {
        median(self.step_seconds.clone())
    }
}

/// Measures a step and its parts, each `runs` times. No data are needed beyond the vocabulary: tokens are made up.
///
/// # Errors
/// If the model takes no such settings, or the device fails.
pub fn profile(config: &Config, device: &Device, runs: usize) -> Result<Profile> {
    let config = with_vocabulary(config)?;
    let step_config = step_config(&config)?;
    let loss = step_config.loss_func();
    let wrt: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt).map_err(differentiation_error)?;
    let step = train_step(&step_config).map_err(differentiation_error)?;
    let roofline = roofline(device, config.train.precision)?;

    let mut all = parts(&differentiated);
    all.iter_mut().for_each(|part| part.times *= config.train.grad_accum_steps as u64);
    all.extend(optimizer_part(&step.func));
    let mut measured: HashMap<String, Measured> = HashMap::new();
    let mut times = Vec::with_capacity(all.len());
    for part in all {
        // Layers that compute the same take the same time.
        let text = part.func.to_string();
        let found = match measured.get(&text) {
            Some(found) => *found,
            None => {
                let found = measure(device, &part, runs)?;
                measured.insert(text, found);
                found
            }
        };
        let many = part.times as f64;
        let (flops, bytes, seconds) = (found.flops * many, found.bytes * many, found.seconds * many);
        let least = (flops / roofline.flops).max(bytes / roofline.bytes);
        times.push(PartTime {
            layer: part.layer,
            pass: part.pass,
            times: part.times,
            seconds,
            flops,
            bytes,
            roofline: least / seconds.max(f64::MIN_POSITIVE),
        });
    }

    let program = device.compile(&step.func)?;
    let weights = init::initialize(&loss.specs, config.train.seed);
    let mut state: Vec<Buffer> = step
        .initial_state(weights.values().cloned())
        .iter()
        .map(|literal| device.buffer(literal))
        .collect::<Result<_>>()?;
    let types = step.func.param_types();
    let mut step_seconds = Vec::with_capacity(runs);
    // The first is not counted: memory is new to the process then.
    for run in 0..=runs {
        let data: Vec<Buffer> =
            types[step.inputs()].iter().map(|ty| device.buffer(&made_up(ty))).collect::<Result<_>>()?;
        let start = Instant::now();
        let arguments = state.drain(..).chain(data).map(Argument::Donate).collect();
        state = program.execute(arguments)?;
        let metrics = state.split_off(step.num_state());
        metrics.iter().chain(&state).try_for_each(|buffer| buffer.wait().map_err(run_error))?;
        if run > 0 {
            step_seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(Profile {
        device: device.name().to_owned(),
        step_seconds,
        parts: times,
        roofline,
        tokens_per_step: config.tokens_per_step() as u64,
    })
}

/// One run of a part.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    flops: f64,
    bytes: f64,
}

fn measure(device: &Device, part: &Part, runs: usize) -> Result<Measured> {
    let program = device.compile(&part.func)?;
    let arguments: Vec<Buffer> =
        part.func.param_types().iter().map(|ty| device.buffer(&made_up(ty))).collect::<Result<_>>()?;
    let seconds = time(&program, &arguments, runs)?;
    let given: usize = part.func.param_types().iter().chain(&part.func.result_types()).map(TensorType::num_bytes).sum();
    Ok(Measured { seconds, flops: program.report().total_flops() as f64, bytes: given as f64 })
}

/// The median time of a program, after a first run that is not counted.
fn time(program: &Program, arguments: &[Buffer], runs: usize) -> Result<f64> {
    let mut seconds = Vec::with_capacity(runs);
    for run in 0..=runs {
        let start = Instant::now();
        let results = program.execute(arguments.iter().map(Argument::Keep).collect())?;
        results.iter().try_for_each(|buffer| buffer.wait().map_err(run_error))?;
        if run > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(median(seconds))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// What a program is fed with: small numbers of both signs; zeros where they are indices or counters.
fn made_up(ty: &TensorType) -> Literal {
    if !ty.dtype.is_float() {
        return Literal::zeros(ty.clone());
    }
    let elements: Vec<f64> = (0..ty.num_elements()).map(|i| ((i * 37 % 101) as f64 - 50.0) / 500.0).collect();
    Literal::from_f64s(ty.clone(), &elements)
}

/// Measures what the device reaches.
fn roofline(device: &Device, precision: Precision) -> Result<Roofline> {
    /// Rows and columns of a product that keeps every core busy for some milliseconds.
    const SIDE: usize = 1024;
    /// Elements of vectors that no cache holds: 64 MiB each.
    const LONG: usize = 16 << 20;
    const RUNS: usize = 5;
    let dtype = match precision {
        Precision::Float32 => DType::F32,
        Precision::Bfloat16 => DType::BF16,
    };
    let run = |func: &Func| -> Result<f64> {
        let program = device.compile(func)?;
        let arguments: Vec<Buffer> =
            func.param_types().iter().map(|ty| device.buffer(&made_up(ty))).collect::<Result<_>>()?;
        time(&program, &arguments, RUNS)
    };
    let product = Builder::build("roofline_product", |b| {
        let [x, y] = ["x", "y"].map(|name| b.param(name, TensorType::new(dtype, [SIDE, SIDE])));
        vec![x.dot(y)]
    });
    let sum = Builder::build("roofline_sum", |b| {
        let [x, y] = ["x", "y"].map(|name| b.param(name, TensorType::new(DType::F32, [LONG])));
        vec![x + y]
    });
    let (product_seconds, sum_seconds) = (run(&product)?, run(&sum)?);
    if product_seconds <= 0.0 || sum_seconds <= 0.0 {
        return Err(Error::run("the clock does not move while a program runs"));
    }
    let bytes = 3.0 * (LONG * DType::F32.size()) as f64;
    Ok(Roofline { flops: 2.0 * (SIDE as f64).powi(3) / product_seconds, bytes: bytes / sum_seconds })
}
