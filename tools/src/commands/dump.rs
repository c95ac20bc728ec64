//! `lmc dump`.

use std::path::Path;

use lmc_autodiff::value_and_grad;
use lmc_lower::{Gpu, lower};
use lmc_models::train_step;

use crate::cli::{DumpArgs, Stage};
use crate::config::Config;
use crate::data::Data;
use crate::device::{Device, DeviceOptions, cpu_target};
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::offline::compile_for;
use crate::output::print;

pub(super) fn run(args: DumpArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let (config, _) = Data::open(&config, None)?;
    let step_config = step_config(&config)?;
    let gpu = args.target.as_deref().map(Gpu::named).transpose();
    let gpu = gpu.map_err(|error| Error::input(format!("--target: {error}")))?;
    let target = gpu.map_or_else(cpu_target, |gpu| gpu.target());
    let loss = || step_config.loss_func();
    let step = || train_step(&step_config).map_err(differentiation_error);
    let text = match args.stage {
        Stage::Graph => loss().func.to_string(),
        Stage::Grad => {
            let loss = loss();
            let weights: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
            value_and_grad(&loss.func, &weights).map_err(differentiation_error)?.to_string()
        }
        Stage::Stablehlo => lower(&step()?.func, &target).text,
        Stage::Report => lower(&step()?.func, &target).report.to_string(),
        Stage::Optimized => match gpu {
            Some(gpu) => compile_for(&gpu, &lower(&step()?.func, &target), false)?.optimized_hlo,
            None => {
                let device = Device::open(&DeviceOptions::from_config(&config.runtime, args.plugin.plugin))?;
                device.optimized_hlo(&step()?.func)?
            }
        },
    };
    match &args.output {
        None => print(&text),
        Some(path) => write(path, &text),
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    crate::run::replace_file(path, text.as_bytes())
        .map_err(|error| Error::input(format!("cannot write {}: {error}", path.display())))
}
