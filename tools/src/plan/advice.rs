//! What to change so that a run takes less, each change with its effect, computed from the program that it makes.

use std::collections::BTreeMap;

use lmc_lower::Target;
use lmc_models::{LossChunk, TrainStep};
use serde::Serialize;

use super::estimate::Estimate;
use super::parts::Parts;
use super::table::{memory_table, settings_text};
use super::{Built, estimate_step};
use crate::config::{Config, Layers, Precision, Remat, TrainConfig};
use crate::error::{Error, Result};
use crate::memory::size;
use crate::model::{loss_chunk, step_config};

/// A change of settings that takes less memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// The settings, all of them together.
    pub settings: Vec<Setting>,
    /// The most memory that a step takes with them, in bytes.
    pub peak_bytes: u64,
    /// How much less that is.
    pub saved_bytes: u64,
    /// The operations of a step with them, as a share of those without.
    pub work: f64,
}

/// A setting as it would stand in the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key in `[train]`.
    pub key: &'static str,
    /// The value, in TOML.
    pub value: String,
}

/// Savings of less than this share of the peak are not worth a change.
const WORTH: f64 = 0.02;

/// Tokens of a row whose logits are computed at a time, where it is advised to divide them.
const SMALL_CHUNK: usize = 256;

/// How much an estimate may be off: within 10 % of what is compiled.
const TOLERANCE: f64 = 0.1;

/// The changes that are worth it, the most effective first. `peak_bytes` is what the plan says, of which the advice
/// takes the share that the estimates have.
pub(super) fn advice(
    config: &Config,
    target: &Target,
    now: &Estimate,
    flops: f64,
    peak_bytes: u64,
) -> Result<Vec<Advice>> {
    let mut found = Vec::new();
    for settings in single_changes(config) {
        let changed = apply(config, &settings);
        let (lowered, estimate) = Built::new(&changed)?.estimate(target)?;
        let new_peak = (peak_bytes as f64 * estimate.peak() as f64 / now.peak().max(1) as f64) as u64;
        let saved_bytes = peak_bytes.saturating_sub(new_peak);
        if saved_bytes as f64 > WORTH * peak_bytes as f64 {
            let work = lowered.report.total_flops() as f64 / flops.max(1.0);
            found.push(Advice { settings, peak_bytes: new_peak, saved_bytes, work });
        }
    }
    found.sort_by_key(|advice| std::cmp::Reverse(advice.saved_bytes));
    Ok(found)
}

/// Each change by itself.
fn single_changes(config: &Config) -> Vec<Vec<Setting>> {
    let train = &config.train;
    let mut changes = Vec::new();
    if let Some(half) = smaller_micro_batches(train).first() {
        changes.push(half.clone());
    }
    changes.extend(smaller_chunk(config).map(|setting| vec![setting]));
    if train.remat == Remat::None && train.layers == Layers::Unroll {
        changes.push(vec![setting("remat", "\"layer\"")]);
    }
    if train.layers == Layers::Unroll {
        changes.push(vec![setting("layers", "\"scan\"")]);
    }
    if train.precision == Precision::Float32 {
        changes.push(vec![setting("precision", "\"bfloat16\"")]);
    }
    changes
}

fn setting(key: &'static str, value: impl ToString) -> Setting {
    Setting { key, value: value.to_string() }
}

/// Smaller micro-batches at the same batch, the largest first.
fn smaller_micro_batches(train: &TrainConfig) -> Vec<Vec<Setting>> {
    let batch = train.micro_batch_size * train.grad_accum_steps;
    let smaller = divisors(batch).into_iter().rev().filter(|&rows| 2 * rows <= train.micro_batch_size);
    smaller.map(|rows| vec![setting("micro_batch_size", rows), setting("grad_accum_steps", batch / rows)]).collect()
}

/// The numbers that divide `number`, smallest first.
fn divisors(number: usize) -> Vec<usize> {
    let small = (1..).take_while(|n| n * n <= number).filter(|n| number.is_multiple_of(*n));
    let mut all: Vec<usize> = small.flat_map(|n| [n, number / n]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A chunk of the loss that is at most half of the present one.
fn smaller_chunk(config: &Config) -> Option<Setting> {
    let train = &config.train;
    let vocab_size = config.model.vocab_size()?;
    let now = loss_chunk(config).tokens(train.micro_batch_size, train.seq_len, vocab_size);
    let chunk =
        LossChunk::Tokens(SMALL_CHUNK.min(now / 2).max(1)).tokens(train.micro_batch_size, train.seq_len, vocab_size);
    (2 * chunk <= now).then(|| setting("loss_chunk", chunk))
}

/// The config with settings in place of its own.
fn apply(config: &Config, settings: &[Setting]) -> Config {
    config.with_train(|train| {
        for Setting { key, value } in settings {
            let number = || value.parse().unwrap_or(1);
            match *key {
                "micro_batch_size" => train.micro_batch_size = number(),
                "grad_accum_steps" => train.grad_accum_steps = number(),
                "loss_chunk" => train.loss_chunk = Some(number()),
                "remat" => train.remat = Remat::Layer,
                "layers" => train.layers = Layers::Scan,
                "precision" => train.precision = Precision::Bfloat16,
                other => unreachable!("no advice is about {other}"),
            }
        }
    })
}

/// The first of some changes, from the one that costs least to the one that saves most, with which a run fits into
/// `available` bytes, and what it then takes. Each is planned anew.
fn what_fits(config: &Config, target: &Target, available: u64) -> Result<Option<(Vec<Setting>, u64)>> {
    let smaller = smaller_micro_batches(&config.train);
    let smallest = smaller.last().cloned().unwrap_or_default();
    let mut candidates = smaller;
    let chunk: Vec<Setting> = smaller_chunk(&apply(config, &smallest)).into_iter().collect();
    candidates.push([&smallest[..], &chunk].concat());
    if config.train.layers == Layers::Unroll {
        let mut again = vec![setting("layers", "\"scan\"")];
        if config.train.remat == Remat::None {
            again.insert(0, setting("remat", "\"layer\""));
        }
        for one in again {
            candidates.push([&smallest[..], std::slice::from_ref(&one)].concat());
            candidates.push([&smallest[..], &chunk, &[one]].concat());
        }
    }
    for settings in candidates.into_iter().filter(|settings| !settings.is_empty()) {
        let peak = Built::new(&apply(config, &settings))?.estimate(target)?.1.peak();
        if surely_fits(peak, available) {
            return Ok(Some((settings, peak)));
        }
    }
    Ok(None)
}

/// Whether something fits although the estimate of it may be too low.
fn surely_fits(estimated: u64, available: u64) -> bool {
    estimated as f64 * (1.0 + TOLERANCE) <= available as f64
}

/// Refuses, before a device is touched, a training step that is estimated to need more than there is, even if the
/// estimate is too high.
///
/// # Errors
/// What it needs and for what, and what to change.
pub(crate) fn refuse_what_cannot_fit(
    config: &Config,
    step: &TrainStep,
    target: &Target,
    held_bytes: u64,
    available: u64,
) -> Result<()> {
    /// Where the state alone is so small a part of the memory, what else there is needs no looking at.
    const SMALL_PART: u64 = 200;
    let logits = 4
        * (config.train.micro_batch_size * config.train.seq_len) as u64
        * config.model.vocab_size().unwrap_or(0) as u64;
    if (held_bytes + logits) * SMALL_PART < available {
        return Ok(());
    }
    let (_, estimate) = estimate_step(step, target)?;
    if estimate.peak() as f64 * (1.0 - TOLERANCE) <= available as f64 {
        return Ok(());
    }
    Err(refusal(config, step, target, &estimate, estimate.peak(), available)?)
}

/// The error of a training step that was compiled for `target`, or run there, and needs `peak_bytes`, more than there is.
pub(crate) fn out_of_memory(
    config: &Config,
    step: &TrainStep,
    target: &Target,
    peak_bytes: u64,
    available: u64,
) -> Error {
    let explained = estimate_step(step, target)
        .and_then(|(_, estimate)| refusal(config, step, target, &estimate, peak_bytes, available));
    explained.unwrap_or_else(|error| error)
}

/// The error of a training step that needs `peak_bytes` where `available` are, with what they are for and what to do.
fn refusal(
    config: &Config,
    step: &TrainStep,
    target: &Target,
    estimate: &Estimate,
    peak_bytes: u64,
    available: u64,
) -> Result<Error> {
    let step_config = step_config(config)?;
    let parts = Parts::of(step, &step_config, estimate, peak_bytes);
    let advice = match what_fits(config, target, available)? {
        Some((settings, peak)) => {
            format!("With {} it takes {}, which fits", settings_text(&settings), size(peak.into()))
        }
        None => "No smaller micro-batch, chunk of the loss or loop over the layers makes it fit: make the model or \
                 `seq_len` smaller"
            .to_owned(),
    };
    let message = format!(
        "training takes {} of memory, and {} are available\n{}{advice}",
        size(peak_bytes.into()),
        size(available.into()),
        memory_table(&parts),
    );
    Ok(config.error_at("train.micro_batch_size", message))
}

/// The config with the largest micro-batch that surely fits into `available` bytes, at the same batch.
///
/// # Errors
/// If not even one row fits.
pub(crate) fn fitting_micro_batch(config: &Config, target: &Target, available: Option<u64>) -> Result<Config> {
    let batch = config.train.micro_batch_size * config.train.grad_accum_steps;
    let sizes = divisors(batch);
    let with = |rows: usize| {
        config.with_train(|train| {
            (train.micro_batch_size, train.grad_accum_steps, train.micro_batch_auto) = (rows, batch / rows, false);
        })
    };
    let Some(available) = available else { return Ok(with(1)) };
    let mut known: BTreeMap<usize, u64> = BTreeMap::new();
    let mut peak = |rows: usize| -> Result<u64> {
        if let Some(&peak) = known.get(&rows) {
            return Ok(peak);
        }
        let peak = Built::new(&with(rows))?.estimate(target)?.1.peak();
        known.insert(rows, peak);
        Ok(peak)
    };
    // More rows take more memory: the last that fits is looked for by halving.
    let (mut low, mut high) = (0, sizes.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if surely_fits(peak(sizes[middle])?, available) { low = middle + 1 } else { high = middle }
    }
    match low.checked_sub(1) {
        Some(index) => Ok(with(sizes[index])),
        None => {
            let config = with(1);
            let built = Built::new(&config)?;
            let (_, estimate) = estimate_step(&built.step, target)?;
            Err(refusal(&config, &built.step, target, &estimate, estimate.peak(), available)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;
    use crate::device::cpu_target;

    fn config(micro_batch_size: usize, grad_accum_steps: usize) -> Config {
        let text = format!(
            "[model]\narch = \"gpt2\"\nvocab_size = 512\nn_embd = 32\nn_layer = 2\nn_head = 2\n\
             [data]\ntrain = \"x.bin\"\n[optimizer]\nlearning_rate = 1\n[train]\nsteps = 1\nseq_len = 64\n\
             micro_batch_size = {micro_batch_size}\ngrad_accum_steps = {grad_accum_steps}\n"
        );
        RawConfig::parse(Path::new("run.toml"), &text, &[]).and_then(RawConfig::validate).expect("a sound config")
    }

    fn peak(config: &Config) -> u64 {
        Built::new(config).and_then(|built| built.estimate(&cpu_target())).expect("a plan").1.peak()
    }

    #[test]
    fn divisors_are_all_of_them() {
        assert_eq!(divisors(1), [1]);
        assert_eq!(divisors(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!(divisors(16), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn the_largest_micro_batch_that_fits_is_found() {
        let given = config(8, 3);
        for rows in [1, 3, 8, 24] {
            let wanted = config(rows, 24 / rows);
            let just_enough = (peak(&wanted) as f64 * (1.0 + TOLERANCE)) as u64 + 1;
            let found = fitting_micro_batch(&given, &cpu_target(), Some(just_enough)).expect("it fits");
            assert_eq!((found.train.micro_batch_size, found.train.grad_accum_steps), (rows, 24 / rows));
        }
        let error = fitting_micro_batch(&given, &cpu_target(), Some(1000)).expect_err("too little");
        assert_eq!(error.exit_code(), 2);
        assert!(error.message().contains("1.0 kB are available"), "{error}");
    }

    #[test]
    fn what_cannot_fit_is_refused_with_what_does() {
        let given = config(32, 1);
        let built = Built::new(&given).expect("a step");
        let needed = peak(&given);
        let refuse = |available| refuse_what_cannot_fit(&given, &built.step, &cpu_target(), needed, available);
        assert_eq!(refuse(needed), Ok(()));
        let available = (0.5 * needed as f64) as u64;
        let message = refuse(available).expect_err("too little").message().to_owned();
        for part in ["activations", "logits", "gradients", "With `micro_batch_size = ", "which fits", "gpt2.rs:"] {
            assert!(message.contains(part), "expected {part:?} in {message}");
        }
        // What is advised fits.
        let (settings, planned) = what_fits(&given, &cpu_target(), available).expect("a plan").expect("advice");
        assert_eq!(peak(&apply(&given, &settings)), planned);
        assert!(surely_fits(planned, available));
        let message = refuse(1000).expect_err("too little").message().to_owned();
        assert!(message.contains("make the model or `seq_len` smaller"), "{message}");
    }

    #[test]
    fn advice_says_what_it_saves() {
        let given = config(32, 1);
        let (lowered, estimate) = Built::new(&given).and_then(|built| built.estimate(&cpu_target())).expect("a plan");
        let flops = lowered.report.total_flops() as f64;
        let found = advice(&given, &cpu_target(), &estimate, flops, estimate.peak()).expect("advice");
        assert!(found.is_sorted_by_key(|advice| std::cmp::Reverse(advice.saved_bytes)) && !found.is_empty());
        for advice in &found {
            assert_eq!(advice.peak_bytes, peak(&apply(&given, &advice.settings)), "{advice:?}");
            assert_eq!(advice.saved_bytes, estimate.peak() - advice.peak_bytes);
        }
        let halved = found.iter().find(|advice| advice.settings[0].key == "micro_batch_size").expect("smaller batches");
        assert_eq!(halved.settings, [setting("micro_batch_size", 16), setting("grad_accum_steps", 2)]);
        assert!((halved.work - 1.0).abs() < 1e-9, "{halved:?}");
    }
}
