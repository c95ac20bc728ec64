//! Where the time of a training step goes, by layer and pass.
//!
//! On a GPU the plugin's profiler records the kernels of whole steps, and each kernel names the instruction of the compiled
//! program that it is of, whose layer and pass are known.
//!
//! XLA's plugin for the CPU has no profiler, and the step is one program. So its parts are measured apart: the ops of a
//! layer in a pass are compiled as a program of their own and timed on synthetic data of the right shapes, and so is the
//! whole step. What the parts take together differs from the step by what a compiler fuses, orders and runs side by side
//! across them; both are told.

mod kernels;
#[cfg(test)]
mod kernels_tests;
mod parts;
mod table;
mod trace;
pub mod xplane;
#[cfg(test)]
mod xplane_tests;

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Instant;

use lmc_autodiff::value_and_grad;
use lmc_graph::{Builder, DType, Func, Literal, TensorType};
use lmc_lower::Platform;
use lmc_models::{LossFunc, TrainStep, init, train_step};
use lmc_runtime::{Profiler, ProfilerOptions};
use serde::Serialize;

use crate::config::{Config, Precision};
use crate::device::{Argument, Buffer, Device, Program, run_error};
use crate::error::{Error, Result};
use crate::inspect::hlo::Module;
use crate::model::{differentiation_error, step_config};
use crate::plan::with_vocabulary;

use parts::{Part, optimizer_part, parts};
use xplane::XSpace;

pub use kernels::{Kernel, Other, PlaceTime, Reason, Stream, Timeline, timeline};
pub use parts::Pass;
pub use trace::trace_json;

/// How the times of the parts of a step are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// From the kernels that the plugin's profiler records.
    Trace,
    /// By a program for each part.
    Apart,
}

impl Method {
    /// That of a device: a recording on a GPU, parts measured apart elsewhere, where plugins have no profiler.
    pub fn of(device: &Device) -> Method {
        match device.target().platform {
            Platform::Cuda(_) => Method::Trace,
            Platform::Cpu | Platform::Generic => Method::Apart,
        }
    }
}

/// What a step's time went on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The device.
    pub device: String,
    /// How the times of the parts were found.
    pub method: Method,
    /// The seconds of each measured step.
    pub step_seconds: Vec<f64>,
    /// The parts of a step, in the order of the program.
    pub parts: Vec<PartTime>,
    /// What was recorded of more steps; `None` where the parts were measured apart.
    pub recording: Option<Recording>,
    /// What the device was measured to reach.
    pub roofline: Roofline,
    /// Tokens of a step.
    pub tokens_per_step: u64,
}

/// What the plugin's profiler recorded. For that the step is compiled once more, so that every kernel is started by itself
/// and names its instruction: else XLA has the driver start many at once, as a graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recording {
    /// The seconds of each recorded step, by the clock of this machine's processor.
    pub step_seconds: Vec<f64>,
    /// What ran on the device in all of them.
    pub timeline: Timeline,
}

/// The time of a layer in a pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartTime {
    /// The layer's scope in the model.
    pub layer: String,
    /// The pass.
    pub pass: Pass,
    /// How often it runs in a step; of a recording, how many kernels it has in a step.
    pub times: u64,
    /// Seconds in a step, all runs together.
    pub seconds: f64,
    /// Operations in products in a step.
    pub flops: f64,
    /// Bytes in a step: those that it is given and gives, the least that is read and written; of a recording, those that
    /// its kernels read and write.
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

impl Roofline {
    /// The least time that operations and bytes would take, as a share of the time they took.
    fn share(&self, flops: f64, bytes: f64, seconds: f64) -> f64 {
        (flops / self.flops).max(bytes / self.bytes) / seconds.max(f64::MIN_POSITIVE)
    }
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
/// If the model takes no such settings, the device fails, or its plugin cannot record.
pub fn profile(config: &Config, device: &Device, method: Method, runs: usize) -> Result<Profile> {
    if method == Method::Trace {
        // Before anything is compiled.
        Profiler::check(device.plugin()?.plugin()).map_err(|error| Error::input(not_recorded(&error)))?;
    }
    let config = with_vocabulary(config)?;
    let step_config = step_config(&config)?;
    let loss = step_config.loss_func();
    let step = train_step(&step_config).map_err(differentiation_error)?;
    let roofline = roofline(device, config.train.precision)?;
    let apart = match method {
        Method::Apart => {
            Some(measure_apart(device, &loss, &step, config.train.grad_accum_steps as u64, &roofline, runs)?)
        }
        Method::Trace => None,
    };
    let program = device.compile(&step.func)?;
    let mut steps = Steps::new(device, &loss, &step, config.train.seed)?;
    let step_seconds = steps.run(&program, runs)?;
    let (parts, recording) = match apart {
        Some(parts) => (parts, None),
        None => {
            let recording = steps.record(runs)?;
            (recorded_parts(&recording, &roofline), Some(recording))
        }
    };
    Ok(Profile {
        device: device.name().to_owned(),
        method,
        step_seconds,
        parts,
        recording,
        roofline,
        tokens_per_step: config.tokens_per_step() as u64,
    })
}

/// The parts of a step, each as a program of its own. What belongs to the loss runs for each of so many micro-batches.
fn measure_apart(
    device: &Device,
    loss: &LossFunc,
    step: &TrainStep,
    micro_batches: u64,
    roofline: &Roofline,
    runs: usize,
) -> Result<Vec<PartTime>> {
    let wrt: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt).map_err(differentiation_error)?;
    let mut all = parts(&differentiated);
    all.iter_mut().for_each(|part| part.times *= micro_batches);
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
        let (layer, pass, times_of) = (part.layer, part.pass, part.times);
        let share = roofline.share(flops, bytes, seconds);
        times.push(PartTime { layer, pass, times: times_of, seconds, flops, bytes, roofline: share });
    }
    Ok(times)
}

/// The parts of a step as they were recorded.
fn recorded_parts(recording: &Recording, roofline: &Roofline) -> Vec<PartTime> {
    let steps = recording.step_seconds.len().max(1);
    let part = |place: &PlaceTime| {
        let seconds = place.seconds / steps as f64;
        PartTime {
            layer: place.layer.clone(),
            pass: place.pass,
            times: place.events.div_ceil(steps as u64),
            seconds,
            flops: place.flops,
            bytes: place.bytes,
            roofline: roofline.share(place.flops, place.bytes, seconds),
        }
    };
    recording.timeline.places.iter().map(part).collect()
}

/// A training step that runs on made-up data.
struct Steps<'s> {
    device: &'s Device,
    step: &'s TrainStep,
    state: Vec<Buffer>,
}

impl<'s> Steps<'s> {
    fn new(device: &'s Device, loss: &LossFunc, step: &'s TrainStep, seed: u64) -> Result<Steps<'s>> {
        let weights = init::initialize(&loss.specs, seed);
        let initial = step.initial_state(weights.values().cloned());
        let state = initial.iter().map(|literal| device.buffer(literal)).collect::<Result<_>>()?;
        Ok(Steps { device, step, state })
    }

    /// What a step is given beside its state, on the device.
    fn data(&self) -> Result<Vec<Buffer>> {
        let types = self.step.func.param_types();
        let data: Vec<Buffer> =
            types[self.step.inputs()].iter().map(|ty| self.device.buffer(&made_up(ty))).collect::<Result<_>>()?;
        data.iter().try_for_each(|buffer| buffer.wait().map_err(run_error))?;
        Ok(data)
    }

    /// The seconds of a step.
    fn time(&mut self, program: &Program, data: Vec<Buffer>) -> Result<f64> {
        let start = Instant::now();
        let arguments = self.state.drain(..).chain(data).map(Argument::Donate).collect();
        self.state = program.execute(arguments)?;
        let metrics = self.state.split_off(self.step.num_state());
        metrics.iter().chain(&self.state).try_for_each(|buffer| buffer.wait().map_err(run_error))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// The seconds of each of so many steps, after a first that is not counted: memory is new to the process then.
    fn run(&mut self, program: &Program, runs: usize) -> Result<Vec<f64>> {
        let data = self.data()?;
        self.time(program, data)?;
        (0..runs).map(|_| self.data().and_then(|data| self.time(program, data))).collect()
    }

    /// So many steps, recorded by the plugin's profiler, after a first that is not.
    fn record(&mut self, runs: usize) -> Result<Recording> {
        let plugin = *self.device.plugin()?.plugin();
        let (program, optimized) = self.device.compile_for_profiler(&self.step.func)?;
        let module = Module::parse(&optimized).map_err(Error::run)?;
        let data = self.data()?;
        self.time(&program, data)?;
        // Before the recording, which then has the step alone.
        let data: Vec<Vec<Buffer>> = (0..runs).map(|_| self.data()).collect::<Result<_>>()?;
        let options = ProfilerOptions { devices: true, programs: false };
        let profiler = Profiler::start(&plugin, options).map_err(|error| Error::run(not_recorded(&error)))?;
        let step_seconds = data.into_iter().map(|data| self.time(&program, data)).collect::<Result<Vec<f64>>>()?;
        let record = profiler.stop().map_err(|error| Error::run(not_recorded(&error)))?;
        let told = XSpace::read(&record).and_then(|space| timeline(&space, &module));
        Ok(Recording { step_seconds, timeline: told.map_err(|error| Error::run(not_recorded(&error)))? })
    }
}

fn not_recorded(reason: &dyn Display) -> String {
    format!(
        "the kernels of a step cannot be recorded: {reason}
`lmc profile --method apart` compiles and times its parts \
         one by one, without a profiler"
    )
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
    const RUNS: usize = 5;
    // Rows and columns of a product that keeps the device busy for about a millisecond, in which starting it does not count;
    // and elements of vectors that no cache holds: 64 MiB each, and on a GPU 512 MiB.
    let (side, long) = match device.target().platform {
        Platform::Cuda(_) => (8192, 128 << 20),
        Platform::Cpu | Platform::Generic => (1024, 16 << 20),
    };
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
        let [x, y] = ["x", "y"].map(|name| b.param(name, TensorType::new(dtype, [side, side])));
        vec![x.dot(y)]
    });
    let sum = Builder::build("roofline_sum", |b| {
        let [x, y] = ["x", "y"].map(|name| b.param(name, TensorType::new(DType::F32, [long])));
        vec![x + y]
    });
    let (product_seconds, sum_seconds) = (run(&product)?, run(&sum)?);
    if product_seconds <= 0.0 || sum_seconds <= 0.0 {
        return Err(Error::run("the clock does not move while a program runs"));
    }
    let bytes = 3.0 * (long * DType::F32.size()) as f64;
    Ok(Roofline { flops: 2.0 * (side as f64).powi(3) / product_seconds, bytes: bytes / sum_seconds })
}
