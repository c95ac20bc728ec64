//! What a run will take, told before its first step: memory by what it is for, work, time, whether it fits, and what to
//! change so that it does.

mod advice;
mod estimate;
mod parts;
mod table;

use lmc_graph::TensorType;
use lmc_lower::report::Form;
use lmc_lower::{Gpu, Lowered, Target, lower};
use lmc_models::{StepConfig, TrainStep, train_step};
use lmc_runtime::Executable;
use serde::Serialize;

use crate::config::{Config, DeviceKind};
use crate::data::Data;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::memory::available_bytes;
use crate::model::{differentiation_error, step_config};
use crate::offline::{compile_for, find_cuda_plugin};
use crate::run::peak_flops;
use crate::target::TargetDevice;
use crate::tokenizer::Tokenizer;

use estimate::{Estimate, Rules};

pub use advice::{Advice, Setting};
pub use parts::{Layer, Parts, Tensor};

pub(crate) use parts::layer_of;

pub(crate) use advice::{fitting_micro_batch, out_of_memory, refuse_what_cannot_fit};

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The device.
    pub target: TargetDevice,
    /// Whether to compile where a plugin for the target is there. Without, everything is estimated.
    pub compile: bool,
    /// The device's plugin and threads, where it is compiled.
    pub device: DeviceOptions,
}

/// Where a figure of memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The compiled program says so.
    Compiled,
    /// lmc's own estimate of what a compiler will make of the program.
    Estimated,
}

/// What a run will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What the program was lowered for.
    pub target: String,
    /// Where [`Plan::peak_bytes`] comes from.
    pub source: Source,
    /// The most memory that a step takes.
    pub peak_bytes: u64,
    /// The same by lmc's own estimate.
    pub estimated_peak_bytes: u64,
    /// What the memory is for. The parts of a compiled program are in the proportions of the estimate.
    pub parts: Parts,
    /// The memory of the device or of this machine, where it is known.
    pub available_bytes: Option<u64>,
    /// The number of parameters.
    pub num_parameters: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// Operations to train on one token, by the convention of [`lmc_models::flops`].
    pub flops_per_token: f64,
    /// Operations of all products of a step as lowered, those that are done again included.
    pub flops_per_step: f64,
    /// The device's peak for products, in operations a second, where it is known.
    pub peak_flops: Option<f64>,
    /// Seconds of a step at [`UTILIZATION`] of the device's peak, and for reading and writing the state at its
    /// bandwidth.
    pub step_seconds: Option<f64>,
    /// Hours of all steps.
    pub run_hours: Option<f64>,
    /// Whether it fits cards of usual sizes.
    pub verdicts: Vec<Verdict>,
    /// What a GPU is estimated to need, where the plan itself is not for one.
    pub card_peak_bytes: u64,
    /// Whether attention was lowered for the GPU as ops that keep all scores, and not as one kernel.
    pub card_attention_composed: bool,
    /// What would take less, the most effective first.
    pub advice: Vec<Advice>,
}

/// The share of a device's peak that products of a good program reach: 40 to 50 % is what published runs of this kind
/// report (PaLM, table 3).
pub const UTILIZATION: f64 = 0.4;

/// Whether a run fits a card.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The card's memory in units of 10^9 bytes, as it is sold.
    pub card_gb: u32,
    /// Whether it fits.
    pub fits: bool,
    /// What is left, or is missing, in bytes.
    pub margin_bytes: i64,
}

/// The sizes of cards that verdicts are about.
pub const CARDS_GB: [u32; 6] = [8, 16, 24, 48, 80, 141];

/// What the driver, the context and the libraries hold of a card beside the program.
const CARD_RESERVE: u64 = 750_000_000;

impl Verdict {
    fn of(card_gb: u32, peak_bytes: u64) -> Verdict {
        let usable = i64::from(card_gb) * 1_000_000_000 - CARD_RESERVE as i64;
        let margin_bytes = usable - i64::try_from(peak_bytes).unwrap_or(i64::MAX);
        Verdict { card_gb, fits: margin_bytes >= 0, margin_bytes }
    }
}

/// The plan of a run. The data need not be there if the vocabulary is known without them.
///
/// # Errors
/// If the vocabulary is not known, the model takes no such settings, or XLA refuses the program.
pub fn plan(config: &Config, options: &PlanOptions) -> Result<Plan> {
    let mut config = with_vocabulary(config)?;
    let device = options.target;
    let target = device.lowering(&config.runtime);
    if config.train.micro_batch_auto {
        let available = device.memory_bytes().or_else(available_bytes);
        config = fitting_micro_batch(&config, &target, available)?;
    }
    let built = Built::new(&config)?;
    let (lowered, estimate) = built.estimate(&target)?;
    let compiled = match device {
        TargetDevice::Gpu(gpu) if options.compile && find_cuda_plugin().is_ok() => {
            u64::try_from(compile_for(&gpu, &target, &lowered.text, false)?.memory.peak).ok()
        }
        TargetDevice::Cpu if options.compile => Some(compiled_bytes(&built.step, &options.device)?),
        TargetDevice::Gpu(_) | TargetDevice::Cpu | TargetDevice::Generic => None,
    };
    let estimated_peak_bytes = estimate.peak();
    let (source, peak_bytes) = match compiled {
        Some(bytes) => (Source::Compiled, bytes),
        None => (Source::Estimated, estimated_peak_bytes),
    };
    let (card_peak_bytes, card_report) = match device {
        TargetDevice::Gpu(_) => (peak_bytes, None),
        TargetDevice::Cpu | TargetDevice::Generic => {
            let (lowered, estimate) = built.estimate(&any_card()?.lowering(&config.runtime))?;
            (estimate.peak(), Some(lowered.report))
        }
    };
    let card_report = card_report.as_ref().unwrap_or(&lowered.report);
    let card_attention_composed = card_report.rows.iter().any(|row| row.form == Form::Decomposed);
    let flops_per_step = lowered.report.total_flops() as f64;
    let peak = peak_flops(device.device_name(), config.train.precision, config.runtime.peak_tflops);
    let state: u64 = built.state_types().iter().map(|ty| ty.num_bytes() as u64).sum();
    let step_seconds = peak.map(|peak| {
        // The state is read and written once.
        flops_per_step / (UTILIZATION * peak)
            + device.bandwidth().map_or(0.0, |bandwidth| 2.0 * state as f64 / bandwidth)
    });
    let parts = Parts::of(&built.step, &built.step_config, &estimate, peak_bytes);
    let advice = advice::advice(&config, &target, &estimate, flops_per_step, peak_bytes)?;
    Ok(Plan {
        target: device.to_string(),
        source,
        peak_bytes,
        estimated_peak_bytes,
        parts,
        available_bytes: match device {
            TargetDevice::Cpu => available_bytes(),
            TargetDevice::Gpu(_) | TargetDevice::Generic => device.memory_bytes(),
        },
        num_parameters: built.step.specs.values().map(|spec| spec.ty.num_elements() as u64).sum(),
        tokens_per_step: config.tokens_per_step() as u64,
        flops_per_token: built.step_config.model.flops_per_token(config.train.seq_len),
        flops_per_step,
        peak_flops: peak,
        step_seconds,
        run_hours: step_seconds.map(|seconds| seconds * config.train.steps as f64 / 3600.0),
        verdicts: CARDS_GB.iter().map(|&gb| Verdict::of(gb, card_peak_bytes)).collect(),
        card_peak_bytes,
        card_attention_composed,
        advice,
    })
}

/// The config with its vocabulary and, if attention is to heed it, the end of documents: as it says, as its tokenizer says,
/// or, if need be, as its data say.
pub(crate) fn with_vocabulary(config: &Config) -> Result<Config> {
    use crate::config::TokenizerKind;
    let lacks_end = config.data.reset_attention_mask && config.data.end_of_document_id.is_none();
    if config.model.vocab_size().is_some() && !lacks_end {
        return Ok(config.clone());
    }
    let sizes = if lacks_end { "model.vocab_size=N --set data.end_of_document_id=N" } else { "model.vocab_size=N" };
    match config.data.tokenizer.as_ref().filter(|_| !lacks_end) {
        Some(TokenizerKind::Byte) => config.with_tokenizer_size(Tokenizer::Byte.vocab_size()),
        Some(TokenizerKind::File(path)) => {
            let tokenizer =
                Tokenizer::read(path).map_err(|error| config.error_at("data.tokenizer", error.message()))?;
            config.with_tokenizer_size(tokenizer.vocab_size())
        }
        Some(TokenizerKind::Char) | None => {
            let opened = Data::open(config, None).map(|(config, _)| config);
            opened.map_err(|error| {
                Error::input(format!("{}\n(without the data, say the size: --set {sizes})", error.message()))
            })
        }
    }
}

/// The GPU that stands for any, where none is named: of the oldest generation that fused attention is for.
pub(crate) fn any_card() -> Result<TargetDevice> {
    Gpu::named("a100").map(TargetDevice::Gpu).map_err(|error| Error::run(error.to_string()))
}

/// What the program compiled for the CPU needs, in bytes.
fn compiled_bytes(step: &TrainStep, options: &DeviceOptions) -> Result<u64> {
    let options = DeviceOptions { kind: DeviceKind::Cpu, ..options.clone() };
    let program = Device::open(&options)?.compile(&step.func)?;
    program.executable().and_then(peak_of).ok_or_else(|| Error::run("the plugin does not say what its program needs"))
}

/// What a compiled program needs, in bytes; `None` if the plugin does not say.
pub(crate) fn peak_of(program: &Executable) -> Option<u64> {
    let stats = program.memory_stats().ok()?;
    // The plugin's own `peak` leaves out what is temporary.
    u64::try_from(stats.arguments + stats.outputs - stats.alias + stats.temporaries).ok()
}

/// A training step, and what it becomes.
struct Built {
    step_config: StepConfig,
    step: TrainStep,
}

impl Built {
    fn new(config: &Config) -> Result<Built> {
        let step_config = step_config(config)?;
        let step = train_step(&step_config).map_err(differentiation_error)?;
        Ok(Built { step_config, step })
    }

    fn state_types(&self) -> Vec<TensorType> {
        let mut types = self.step.func.param_types();
        types.truncate(self.step.num_state());
        types
    }

    fn estimate(&self, target: &Target) -> Result<(Lowered, Estimate)> {
        estimate_step(&self.step, target)
    }
}

fn estimate_step(step: &TrainStep, target: &Target) -> Result<(Lowered, Estimate)> {
    let lowered = lower(&step.func, target);
    let estimate = estimate::estimate(&lowered.text, &Rules::of(target.platform))
        .map_err(|reason| Error::run(format!("the program cannot be estimated: {reason}")))?;
    Ok((lowered, estimate))
}
