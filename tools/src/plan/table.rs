//! A plan for people: whether it fits in the first lines, then what it is made of, then what to change.

use std::fmt::{self, Display, Write as _};

use super::advice::{Advice, Setting};
use super::parts::Parts;
use super::{Plan, Source, UTILIZATION};
use crate::memory::size;
use crate::output::group_digits;
use crate::run::quantity::{duration, with_unit};

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Compiled => "as compiled by XLA",
            Source::Estimated => "lmc's estimate",
        };
        write!(f, "on {} a step takes {} of memory ({source})", self.target, size(self.peak_bytes.into()))?;
        match self.available_bytes {
            Some(available) if available < self.peak_bytes => {
                writeln!(f, ": it does not fit, {} are there", size(available.into()))?;
            }
            Some(available) => writeln!(f, ": it fits, {} are there", size(available.into()))?,
            None => writeln!(f)?,
        }
        if let Some(advice) = self.least_change() {
            let (settings, peak) = (settings_text(&advice.settings), size(advice.peak_bytes.into()));
            writeln!(f, "  with {settings} in [train] it takes {peak}, which fits")?;
        }
        if self.card_peak_bytes != self.peak_bytes {
            writeln!(f, "on a GPU about {} (lmc's estimate; --target names one)", size(self.card_peak_bytes.into()))?;
        }
        if self.card_attention_composed {
            writeln!(f, "  without fused attention: all scores of a micro-batch are in memory (lmc explain says why)")?;
        }
        let verdicts = self.verdicts.iter().map(|verdict| {
            let margin = size(verdict.margin_bytes.unsigned_abs().into());
            match verdict.fits {
                true => format!("{} GB: fits, {margin} left", verdict.card_gb),
                false => format!("{} GB: does not fit, {margin} short", verdict.card_gb),
            }
        });
        let verdicts: Vec<String> = verdicts.collect();
        for pair in verdicts.chunks(2) {
            writeln!(f, "  {}", pair.iter().map(|verdict| format!("{verdict:<42}")).collect::<String>().trim_end())?;
        }
        writeln!(
            f,
            "{} parameters, {} tokens a step, {} a token, {} a step in products",
            group_digits(self.num_parameters),
            group_digits(self.tokens_per_step),
            with_unit(self.flops_per_token, "FLOP"),
            with_unit(self.flops_per_step, "FLOP"),
        )?;
        match (self.step_seconds, self.run_hours, self.peak_flops) {
            (Some(seconds), Some(hours), Some(peak)) => writeln!(
                f,
                "{} a step and {} for the run, at {:.0} % of the peak of {}",
                // Of less than that the most is what it takes to start kernels, which is not counted.
                if seconds < 1e-3 { "less than 1 ms".to_owned() } else { format!("about {seconds:.3} s") },
                duration((hours * 3600.0).max(1.0)),
                UTILIZATION * 100.0,
                with_unit(peak, "FLOP/s"),
            )?,
            _ => {
                writeln!(f, "the time of a step is not known: {} has no known peak (runtime.peak_tflops)", self.target)?
            }
        }
        write!(f, "\n{}", memory_table(&self.parts))?;
        if !self.parts.layers.is_empty() {
            writeln!(f, "\nactivations by layer")?;
            let width = self.parts.layers.iter().map(|layer| layer.scope.len()).max().unwrap_or(0);
            for layer in &self.parts.layers {
                writeln!(f, "  {:width$}  {:>9}", layer.scope, size(layer.bytes.into()))?;
            }
        }
        if self.advice.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nto take less ([train], by lmc's estimate)")?;
        let settings: Vec<String> = self.advice.iter().map(|advice| settings_text(&advice.settings)).collect();
        let width = settings.iter().map(String::len).max().unwrap_or(0);
        for (settings, advice) in settings.iter().zip(&self.advice) {
            let work = match advice.work {
                work if (work - 1.0).abs() < 0.005 => "as much work".to_owned(),
                work => format!("{:+.0} % work", (work - 1.0) * 100.0),
            };
            let (peak, saved) = (size(advice.peak_bytes.into()), size(advice.saved_bytes.into()));
            writeln!(f, "  {settings:width$}  {peak:>9}, {saved} less, {work}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// Where the run does not fit, the advice with which it does and that costs least work; of equal ones the one that
    /// changes least.
    fn least_change(&self) -> Option<&Advice> {
        let available = self.available_bytes.filter(|available| *available < self.peak_bytes)?;
        let fitting = self.advice.iter().filter(|advice| advice.peak_bytes <= available);
        fitting.min_by(|a, b| a.work.total_cmp(&b.work).then_with(|| b.peak_bytes.cmp(&a.peak_bytes)))
    }
}

/// The parts of the memory, then the largest tensors, a line each.
pub(super) fn memory_table(parts: &Parts) -> String {
    let rows = [
        ("parameters", parts.parameters),
        ("gradients", parts.gradients),
        ("optimizer state", parts.optimizer),
        ("activations", parts.activations),
        ("logits", parts.logits),
        ("workspace", parts.workspace),
        ("tokens of a step", parts.data),
    ];
    let mut text = String::new();
    for (what, bytes) in rows {
        _ = writeln!(text, "  {what:<16}  {:>9}", size(bytes.into()));
    }
    if !parts.largest.is_empty() {
        text.push_str("largest tensors\n");
    }
    for tensor in &parts.largest {
        let place = if tensor.line.is_empty() { String::new() } else { format!(" ({})", tensor.line) };
        let scope = if tensor.scope.is_empty() { "the step" } else { &tensor.scope };
        let count = if tensor.count > 1 { format!("{} x ", tensor.count) } else { String::new() };
        _ = writeln!(
            text,
            "  {:>9}  {count}{} of `{}` in {scope}{place}",
            size(tensor.bytes.into()),
            tensor.ty,
            tensor.op
        );
    }
    text
}

/// Settings as they would stand in a config, in a line.
pub(super) fn settings_text(settings: &[Setting]) -> String {
    let all: Vec<String> = settings.iter().map(|setting| format!("`{} = {}`", setting.key, setting.value)).collect();
    all.join(" and ")
}
