//! Stages of a program for a GPU that this machine need not have.

use std::collections::BTreeSet;

use lmc_lower::optimized::Optimized;
use lmc_lower::{Gpu, Lowered, lower};
use lmc_models::train_step;
use lmc_runtime::deviceless::Described;

use super::{DumpArgs, StageArg, write};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inspect::sized_step_config;
use crate::model::differentiation_error;
use crate::offline::{compile_for, target_for};
use crate::output::print;
use crate::run::quantity::with_unit;

pub(super) fn run(args: &DumpArgs, config: &Config) -> Result<()> {
    let gpu = Gpu::named(&args.target).map_err(|error| Error::input(format!("--target: {error}, or cpu")))?;
    if args.layer.is_some() {
        return Err(Error::input("`--layer` takes part of a program for the CPU: leave it out with --target"));
    }
    let target = target_for(&gpu, &config.runtime);
    let step = train_step(&sized_step_config(config)?).map_err(differentiation_error)?;
    let lowered = lower(&step.func, &target);
    let text = match args.stage {
        StageArg::Graph | StageArg::Grad | StageArg::Step => {
            return Err(Error::input("this stage is the same for every target: leave --target out"));
        }
        StageArg::Hlo | StageArg::Buffers | StageArg::All => {
            return Err(Error::input(
                "this stage is of a program for the CPU; for a GPU there are stablehlo, report, optimized, compiled, \
                 kernels and ptx",
            ));
        }
        StageArg::Stablehlo => lowered.text,
        StageArg::Report => lowered.report.to_string(),
        StageArg::Optimized => compile_for(&gpu, &lowered, false)?.optimized_hlo,
        StageArg::Compiled => {
            let described = compile_for(&gpu, &lowered, false)?;
            summary(&gpu, &lowered, &described)?
        }
        StageArg::Kernels => compile_for(&gpu, &lowered, false)?.thunks,
        StageArg::Ptx => {
            let described = compile_for(&gpu, &lowered, true)?;
            described.ptx.into_iter().map(|(name, ptx)| format!("// {name}\n{ptx}\n")).collect()
        }
    };
    match &args.output {
        None => print(&text),
        Some(path) => write(path, &text),
    }
}

/// The error of a stage that the CPU has not.
pub(super) fn needs_gpu() -> Error {
    let names = Gpu::names().collect::<Vec<_>>().join(", ");
    Error::input(format!("this stage is of a program for a GPU: name one with --target ({names})"))
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
