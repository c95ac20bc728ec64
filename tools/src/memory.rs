//! Whether a training step can fit into this machine, asked before anything is allocated.

use std::fs;

use lmc_graph::TensorType;
use lmc_lower::Target;
use lmc_models::TrainStep;
use lmc_runtime::gpu::Machine;
use lmc_runtime::{Device, ErrorCode, Executable, process_peak_memory_bytes};

use crate::config::{Config, Precision};
use crate::cuda;
use crate::device::{DeviceOptions, cpu_target};
use crate::error::{Error, Result};
use crate::model::loss_chunk;
use crate::plan::{self, peak_of};

/// The memory that a step will run in, told before the device is opened.
#[derive(Debug)]
pub(crate) struct Room {
    /// What functions will be lowered for.
    pub(crate) target: Target,
    /// Bytes that a step may take: of a GPU the part that the allocator may have, else what this machine has. `None` where
    /// nothing tells.
    pub(crate) available: Option<u64>,
}

impl Room {
    /// Where these options would run a step.
    pub(crate) fn of(options: &DeviceOptions, machine: &Machine) -> Room {
        match cuda::foreseen(options, machine) {
            Some((memory, target)) => {
                let part = |bytes: u64| (bytes as f64 * options.cuda.memory_fraction) as u64;
                Room { target, available: memory.map(part) }
            }
            None => Room { target: cpu_target(), available: available_bytes() },
        }
    }

    /// Refuses a training step that needs more memory than there is, before a device is touched. Where it is not known what
    /// there is, nothing is refused.
    ///
    /// # Errors
    /// Both amounts, what the needed one is made of, and what to change.
    pub(crate) fn check(&self, config: &Config, step: &TrainStep) -> Result<()> {
        let Some(available) = self.available else { return Ok(()) };
        let held_bytes = held_bytes(step);
        check(config, held_bytes, available)?;
        plan::refuse_what_cannot_fit(config, step, &self.target, held_bytes, available)
    }
}

/// Bytes of a step's state, and of the gradients, which are as large as the weights.
fn held_bytes(step: &TrainStep) -> u64 {
    let types = step.func.param_types();
    let bytes = |types: &[TensorType]| types.iter().map(|ty| ty.num_bytes() as u64).sum::<u64>();
    bytes(&types[..step.num_state()]) + bytes(&types[step.weights()])
}

fn check(config: &Config, held_bytes: u64, available: u64) -> Result<()> {
    let parts = needed(config, held_bytes);
    let total: u128 = parts.iter().map(|(_, bytes)| bytes).sum();
    if total <= u128::from(available) {
        return Ok(());
    }
    let list: String = parts.iter().map(|(what, bytes)| format!("\n  {:>9}  {what}", size(*bytes))).collect();
    // The largest part is the one to look at.
    let key = if parts[0].1 * 2 >= total { "model" } else { "train.micro_batch_size" };
    Err(config.error_at(
        key,
        format!(
            "training takes at least {} of memory, and {} are available:{list}\nMake the model, `micro_batch_size` or \
             `seq_len` smaller",
            size(total),
            size(available.into())
        ),
    ))
}

/// Refuses a compiled program whose intermediate results need more memory than there is, rather than let it fail, or
/// be ended by the system, in its first step.
///
/// # Errors
/// Both amounts, what memory is needed for, and what to change.
pub(crate) fn check_temporaries(config: &Config, step: &TrainStep, program: &Executable) -> Result<()> {
    // A plugin that does not say, and a system that does not, refuse nothing.
    let (Ok(stats), Some(available)) = (program.memory_stats(), available_bytes()) else { return Ok(()) };
    let needed = u64::try_from(stats.temporaries).unwrap_or(0);
    if needed <= available {
        return Ok(());
    }
    // What is given is there already.
    let given = u64::try_from(stats.arguments).unwrap_or(0);
    let available = available.saturating_add(given);
    Err(plan::out_of_memory(config, step, &cpu_target(), peak_of(program).unwrap_or(needed), available))
}

/// An error of a step that ran out of memory in lmc's words, with what the memory was for; any other error as it is.
pub(crate) fn explained(
    error: Error,
    config: &Config,
    step: &TrainStep,
    program: &Executable,
    device: &crate::Device,
) -> Error {
    if !error.message().contains(&ErrorCode::ResourceExhausted.to_string()) {
        return error;
    }
    let needed = peak_of(program).unwrap_or(0);
    let there = device.client().and_then(|client| limit_of(client.device())).or_else(available_bytes).unwrap_or(0);
    let explained = plan::out_of_memory(config, step, device.target(), needed, there.min(needed));
    Error::run(format!("{explained}\n{error}"))
}

/// What the allocator of a device may take, in bytes, if it keeps count.
fn limit_of(device: &Device) -> Option<u64> {
    let limit = device.memory_stats().and_then(|stats| stats.bytes_limit)?;
    u64::try_from(limit).ok().filter(|&limit| limit > 0)
}

/// Refuses a compiled program that needs more memory than the device's allocator may take.
///
/// # Errors
/// Both amounts, what memory is needed for, and what to change.
pub(crate) fn check_device(
    config: &Config,
    step: &TrainStep,
    program: &Executable,
    device: &crate::Device,
) -> Result<()> {
    // Where one of them is not told nothing is refused.
    let (Ok(stats), Some(limit)) =
        (program.memory_stats(), device.client().and_then(|client| limit_of(client.device())))
    else {
        return Ok(());
    };
    match u64::try_from(stats.peak) {
        Ok(peak) if peak > limit => {
            let explained = plan::out_of_memory(config, step, device.target(), peak, limit);
            Err(Error::input(format!(
                "{explained}\nlmc may take {} of {}'s memory: `runtime.memory_fraction` is {}",
                size(limit.into()),
                device.name(),
                config.runtime.memory_fraction
            )))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The most memory that was taken at once, in bytes: of a device that keeps count, else of this process. 0 where neither
/// is known.
pub(crate) fn peak_bytes(device: Option<&Device>) -> u64 {
    let of_device = device.and_then(Device::memory_stats).and_then(|stats| stats.peak_bytes_in_use);
    of_device.and_then(|bytes| u64::try_from(bytes).ok()).or_else(process_peak_memory_bytes).unwrap_or(0)
}

/// What every training step holds, in bytes. Activations beside the logits come on top: how many of them live at once
/// is the compiler's to decide.
fn needed(config: &Config, held_bytes: u64) -> [(String, u128); 3] {
    /// An i32 each for the token and its label.
    const TOKEN_BYTES: u128 = 8;
    let train = &config.train;
    let logit_bytes: u128 = match train.precision {
        Precision::Float32 => 4,
        Precision::Bfloat16 => 2,
    };
    let row = (train.micro_batch_size as u128) * (train.seq_len as u128);
    let vocab_size = config.model.vocab_size().unwrap_or(0);
    let chunk_len = loss_chunk(config).tokens(train.micro_batch_size, train.seq_len, vocab_size);
    let logits = match chunk_len == train.seq_len {
        true => "the logits of a micro-batch",
        false => "the logits of one chunk of a micro-batch",
    };
    let chunk = (train.micro_batch_size as u128) * (chunk_len as u128);
    let vocab_size = vocab_size as u128;
    [
        ("weights, gradients and the optimizer's state".to_owned(), u128::from(held_bytes)),
        (logits.to_owned(), chunk * vocab_size * logit_bytes),
        ("the tokens of a step".to_owned(), row * train.grad_accum_steps as u128 * TOKEN_BYTES),
    ]
}

/// Bytes that this process may still take, swap included: the least of what the kernel says is available and of the
/// limit of the control group. `None` where the system does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    let free = available_in(&fs::read_to_string("/proc/meminfo").ok()?)?;
    // The limit of a container stands in its own root; `max` is no number and means none.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(free.min(limit.unwrap_or(u64::MAX)))
}

/// `MemAvailable` and `SwapFree` of a text like `/proc/meminfo`, together, in bytes.
fn available_in(meminfo: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some(field("MemAvailable")?.saturating_add(field("SwapFree").unwrap_or(0)))
}

/// Bytes for people, in powers of 1000: `512 B`, `3.4 GB`.
pub(crate) fn size(bytes: u128) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 999.95
        && let Some(next) = units.next()
    {
        value /= 1e3;
        unit = Some(next);
    }
    format!("{value:.1} {}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    /// A config of 3 micro-batches of 2 rows of 5 tokens, with 7 tokens in the vocabulary.
    fn config(precision: &str) -> Config {
        let text = format!(
            "[model]\narch = \"gpt2\"\nvocab_size = 7\nn_embd = 4\nn_layer = 1\nn_head = 1\n\
             [data]\ntrain = \"x.bin\"\n[optimizer]\nlearning_rate = 1\n\
             [train]\nsteps = 1\nseq_len = 5\nmicro_batch_size = 2\ngrad_accum_steps = 3\nprecision = {precision:?}\n"
        );
        RawConfig::parse(Path::new("run.toml"), &text, &[]).and_then(RawConfig::validate).unwrap()
    }

    #[test]
    fn what_a_step_holds_is_counted() {
        // 1600 held; 2 * 5 * 7 logits of 4 or 2 bytes; 3 * 2 * 5 tokens of 8.
        for (precision, total) in [("float32", 1600 + 280 + 240), ("bfloat16", 1600 + 140 + 240)] {
            let config = config(precision);
            assert_eq!(check(&config, 1600, total), Ok(()));
            let error = check(&config, 1600, total - 1).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in [format!("at least {}", size(total.into())), "1.6 kB  weights".to_owned(), "[model]".to_owned()]
            {
                assert!(error.message().contains(&part), "expected {part:?} in {error}");
            }
        }
        let error = check(&config("float32"), 16, 100).unwrap_err();
        assert!(error.message().contains("micro_batch_size = 2"), "the larger part is blamed: {error}");
    }

    #[test]
    fn the_kernels_words_are_read() {
        let meminfo = "MemTotal:       100 kB\nMemAvailable:    60 kB\nSwapTotal:  9 kB\nSwapFree:        5 kB\n";
        assert_eq!(available_in(meminfo), Some(65 * 1024));
        assert_eq!(available_in("MemAvailable: 60 kB\n"), Some(60 * 1024));
        assert_eq!(available_in("MemTotal: 60 kB\n"), None);
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (16 * 10_u128.pow(12), "16.0 TB"),
            (10_u128.pow(18), "1000.0 PB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
