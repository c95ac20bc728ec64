//! What a program for a GPU came to, in a few lines.

use std::collections::BTreeSet;

use lmc_lower::Report;
use lmc_lower::optimized::Optimized;

use super::backend::Compilation;
use crate::error::{Error, Result};
use crate::run::quantity::with_unit;

/// Memory, attentions and products of a program that was lowered with `report` and compiled, and what is not as fast as it
/// could be.
///
/// # Errors
/// If the program is for the CPU, or its text is not what XLA writes.
pub(super) fn summary(report: &Report, compilation: &Compilation) -> Result<String> {
    let gpu = &compilation.code()?.gpu;
    let found = Optimized::read(&compilation.optimized)
        .map_err(|reason| Error::run(format!("the compiled program cannot be read: {reason}")))?;
    let bytes = |bytes: i64| with_unit(bytes as f64, "B");
    let memory = compilation.memory.unwrap_or_default();
    let [forward, backward] =
        [false, true].map(|x| found.attentions.iter().filter(|call| call.is_backward() == x).count());
    let workspace = found.attentions.iter().map(|call| call.workspace).max().unwrap_or(0);
    let mut text = format!(
        "{} ({})\n\
         memory      {} at most, of {}: arguments {}, results {} of which {} take the memory of arguments, temporaries {}\n\
         attention   {forward} forward and {backward} backward calls of cuDNN's, workspace up to {}\n\
         products    {}, {} an execution\n",
        gpu.product,
        report.target,
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
    let refused: BTreeSet<&str> = report.rows.iter().filter_map(|row| row.refused.as_deref()).collect();
    for line in refused.into_iter().map(str::to_owned).chain(found.differences(report)) {
        text += &format!("not as fast  {line}\n");
    }
    Ok(text)
}
