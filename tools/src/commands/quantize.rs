//! `lmc quantize`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::error::Result;
use crate::output::{print, print_json};
use crate::quantization::{Scheme, saving};

/// Write a model's weights in few bits
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc quantize models/qwen3 models/qwen3-int4 --bits 4 --group-size 64")]
pub struct QuantizeArgs {
    /// A folder of Hugging Face's with weights in floats
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The folder to write, which must not be there
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Bits of a number: 4 or 8
    #[arg(long, value_name = "N", default_value_t = 4)]
    bits: u8,
    /// Columns that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 64)]
    group_size: usize,
    /// Store a zero for each group, too: for numbers that are not symmetric about zero
    #[arg(long)]
    zeros: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let scheme = Scheme { bits: args.bits, group_size: args.group_size, zeros: args.zeros };
    let saved = saving::save(&args.folder, &args.out, scheme)?;
    if args.json {
        return print_json(&json!({
            "folder": args.out.display().to_string(),
            "quantized": saved.quantized,
            "weights": saved.weights,
            "bytes_before": saved.bytes_before,
            "bytes": saved.bytes,
        }));
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    print(&format!(
        "{} of {} weights in {} bits, {:.1} MB instead of {:.1}: {}\n",
        saved.quantized,
        saved.weights,
        args.bits,
        megabytes(saved.bytes),
        megabytes(saved.bytes_before),
        args.out.display()
    ))
}
