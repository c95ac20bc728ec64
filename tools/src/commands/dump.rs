//! `lmc dump`.

use std::collections::BTreeSet;
use std::path::Path;

use lmc_autodiff::value_and_grad;
use lmc_lower::optimized::Optimized;
use lmc_lower::{Gpu, Lowered, lower};
use lmc_models::train_step;
use lmc_runtime::deviceless::Described;

use crate::cli::{DumpArgs, Stage};
use crate::config::Config;
use crate::data::Data;
use crate::device::{Device, DeviceOptions, cpu_target};
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::offline::{compile_for, target_for};
use crate::output::print;
use crate::run::quantity::with_unit;

pub(super) fn run(args: DumpArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let (config, _) = Data::open(&config, None)?;
    let step_config = step_config(&config)?;
    let gpu = args.target.as_deref().map(Gpu::named).transpose();
    let gpu = gpu.map_err(|error| Error::input(format!("--target: {error}")))?;
    let target = gpu.map_or_else(cpu_target, |gpu| target_for(&gpu, &config.runtime));
    let loss = || step_config.loss_func();
    let step = || train_step(&step_config).map_err(differentiation_error);
    let described = |ptx: bool| {
        let gpu = gpu.ok_or_else(|| {
            let names = Gpu::names().collect::<Vec<_>>().join(", ");
            Error::input(format!("this stage is of a program for a GPU: name one with --target ({names})"))
        })?;
        let lowered = lower(&step()?.func, &target);
        let described = compile_for(&gpu, &lowered, ptx)?;
        Ok::<_, Error>((gpu, lowered, described))
    };
    let text = match args.stage {
        Stage::Graph => loss().func.to_string(),
        Stage::Grad => {
            let loss = loss();
            let weights: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
            value_and_grad(&loss.func, &weights).map_err(differentiation_error)?.to_string()
        }
        Stage::Stablehlo => lower(&step()?.func, &target).text,
        Stage::Report => lower(&step()?.func, &target).report.to_string(),
        Stage::Compiled => {
            let (gpu, lowered, described) = described(false)?;
            summary(&gpu, &lowered, &described)?
        }
        Stage::Kernels => described(false)?.2.thunks,
        Stage::Ptx => described(true)?.2.ptx.into_iter().map(|(name, ptx)| format!("// {name}\n{ptx}\n")).collect(),
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

/// What a compiled program came to.
fn summary(gpu: &Gpu, lowered: &Lowered, described: &Described) -> Result<String> {
    let found = Optimized::read(&described.optimized_hlo)
        .map_err(|reason| Error::run(format!("the compiled program cannot be read: {reason}")))?;
    let bytes = |bytes: i64| with_unit(bytes as f64, "B");
    let memory = &described.memory;
    let compiler = described
        .compiler_memory
        .map_or_else(String::new, |memory| format!(" with {} of this machine's memory", with_unit(memory as f64, "B")));
    let [forward, backward] =
        [false, true].map(|x| found.attentions.iter().filter(|call| call.is_backward() == x).count());
    let workspace = found.attentions.iter().map(|call| call.workspace).max().unwrap_or(0);
    let mut text = format!(
        "{} ({}), compiled in {:.1} s{compiler}\n\
         memory      {} at most, of {}: arguments {}, results {} of which {} take the memory of arguments, temporaries {}\n\
         attention   {forward} forward and {backward} backward calls of cuDNN's, workspace up to {}\n\
         products    {}, {} an execution\n",
        gpu.product,
        lowered.report.target,
        described.elapsed.as_secs_f64(),
        bytes(memory.peak),
        with_unit(gpu.memory_bytes as f64, "B"),
        bytes(memory.arguments),
        bytes(memory.outputs),
        bytes(memory.alias),
        bytes(memory.temporaries),
        with_unit(workspace as f64, "B"),
        found.products.len(),
        with_unit(found.product_flops() as f64, "FLOP"),
    );
    let refused: BTreeSet<&str> = lowered.report.rows.iter().filter_map(|row| row.refused.as_deref()).collect();
    for line in refused.into_iter().map(str::to_owned).chain(found.differences(&lowered.report)) {
        text += &format!("not as fast  {line}\n");
    }
    Ok(text)
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    crate::run::replace_file(path, text.as_bytes())
        .map_err(|error| Error::input(format!("cannot write {}: {error}", path.display())))
}
