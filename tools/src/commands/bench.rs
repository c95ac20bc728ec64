//! `lmc bench`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::bench::{Case, Timing, cases, generation, read_bandwidth, time};
use crate::cli::PluginArgs;
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::output::{print, print_json};
use crate::pretrained::{LoadOptions, load};
use crate::quantization::Scheme;

/// Time the parts of a training step on this machine, against the plainest form of each
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc bench attention")]
pub struct BenchArgs {
    /// Only cases with this in their group or name: product, decode, attention, softmax, norm, gate, loss, step, bf16, …
    #[arg(value_name = "WORD")]
    only: Vec<String>,
    /// Rounds, in which both forms run in turn; times are medians over all of them
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Time a model instead: how fast it reads a prompt and generates behind it
    #[arg(long, value_name = "FOLDER", conflicts_with = "only")]
    model: Option<PathBuf>,
    /// With --model: quantize its weights to int8 or int4 as they are loaded
    #[arg(long, value_name = "int8|int4", requires = "model")]
    quantize: Option<String>,
    /// With --model: tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, requires = "model")]
    prompt_tokens: usize,
    /// With --model: tokens that are generated
    #[arg(long, value_name = "N", default_value_t = 32, requires = "model")]
    tokens: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The plugin.
    #[command(flatten)]
    plugin: PluginArgs,
}

pub(super) fn run(args: BenchArgs) -> Result<()> {
    if let Some(folder) = &args.model {
        return run_model(&args, folder);
    }
    let all = cases().map_err(|error| Error::run(error.to_string()))?;
    let wanted = |case: &Case| args.only.iter().all(|word| case.group.contains(&**word) || case.name.contains(&**word));
    let wanted: Vec<Case> = all.into_iter().filter(wanted).collect();
    if wanted.is_empty() {
        return Err(Error::input(format!(
            "no case has {} in its group or name: `lmc bench` without words lists all",
            args.only.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" and ")
        )));
    }
    let device = Device::open(&DeviceOptions { plugin: args.plugin.plugin, ..DeviceOptions::default() })?;
    let memory = read_bandwidth();
    let mut rows = Vec::new();
    if !args.json {
        let header = format!(
            "{:10} {:58} {:>10} {:>10} {:>7} {:>8} {:>6}",
            "", "", "lmc ms", "plain ms", "faster", "GFLOP/s", "GB/s"
        );
        print(&format!("{}, {}\n", device.name(), device.target()))?;
        print(&format!("memory is read at {:.1} GB/s\n{}\n", memory / 1e9, header.trim_end()))?;
    }
    for case in &wanted {
        let timing = time(&device, case, args.rounds)?;
        if args.json {
            rows.push(as_json(case, &timing));
        } else {
            print(&line(case, &timing))?;
        }
    }
    if args.json {
        print_json(&json!({ "target": device.target().to_string(), "read_bandwidth": memory, "cases": rows }))
    } else {
        Ok(())
    }
}

/// A model's rates, and how much of the memory's bandwidth reading its weights once a token takes.
fn run_model(args: &BenchArgs, folder: &Path) -> Result<()> {
    let quantize = args.quantize.as_deref().map(Scheme::named).transpose()?;
    let device = DeviceOptions { plugin: args.plugin.plugin.clone(), ..DeviceOptions::default() };
    let model = Arc::new(load(folder, &LoadOptions { quantize, device, ..LoadOptions::default() })?);
    let memory = read_bandwidth();
    let figures = generation(&model, args.prompt_tokens, args.tokens)?;
    let (prefill, decode) = (figures.prefill_rate(), figures.decode_rate());
    let read = decode * figures.weight_bytes as f64;
    if args.json {
        return print_json(&json!({
            "read_bandwidth": memory, "weight_bytes": figures.weight_bytes, "cache_bytes": figures.cache_bytes,
            "peak_memory_bytes": figures.peak_memory_bytes, "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode, "weights_read": read,
        }));
    }
    let gigabytes = |bytes: f64| bytes / 1e9;
    print(&format!(
        "prefill {prefill:.1} tokens/s, decode {decode:.2} tokens/s\nweights {:.2} GB, read at {:.1} GB/s; memory is read \
         at {:.1} GB/s\npeak memory {:.2} GB, cache {:.3} GB\n",
        gigabytes(figures.weight_bytes as f64),
        gigabytes(read),
        gigabytes(memory),
        gigabytes(figures.peak_memory_bytes.unwrap_or(0) as f64),
        gigabytes(figures.cache_bytes as f64)
    ))
}

fn line(case: &Case, timing: &Timing) -> String {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let rate = timing.flops as f64 / timing.time.as_secs_f64() / 1e9;
    let rate = if timing.flops == 0 { String::new() } else { format!("{rate:.0}") };
    let (time, plain, faster) = (ms(timing.time), ms(timing.plain), timing.speedup());
    let bandwidth = timing.bandwidth() / 1e9;
    let line = format!(
        "{:10} {:58} {time:>10.2} {plain:>10.2} {faster:>6.2}x {rate:>8} {bandwidth:>6.1}",
        case.group, case.name
    );
    format!("{}\n", line.trim_end())
}

fn as_json(case: &Case, timing: &Timing) -> Value {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    json!({
        "group": case.group,
        "name": case.name,
        "ms": ms(timing.time),
        "plain_ms": ms(timing.plain),
        "speedup": timing.speedup(),
        "compile_ms": ms(timing.compile),
        "flops": timing.flops,
        "bytes": timing.bytes,
    })
}
