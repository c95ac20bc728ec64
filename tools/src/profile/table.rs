//! A profile for people: where the time goes in the first lines, then layer by layer.

use std::fmt::{self, Display};

use super::{PartTime, Pass, Profile};
use crate::run::quantity::with_unit;

/// The parts that are named first.
const MOST: usize = 4;

impl Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, parts) = (self.step_median(), self.parts_seconds());
        let rate = self.tokens_per_step as f64 / step;
        writeln!(
            f,
            "a step takes {} on {}, {} (median of {})",
            time(step),
            self.device,
            with_unit(rate, "tokens/s"),
            self.step_seconds.len()
        )?;
        let passes = Pass::ALL.map(|pass| {
            let seconds = total(self.of(|part| part.pass == pass).map(|part| part.seconds));
            format!("{} {:.0} %", pass.name(), 100.0 * seconds / parts)
        });
        writeln!(f, "{}", passes.join(", "))?;
        let mut most: Vec<&PartTime> = self.parts.iter().collect();
        most.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for part in most.into_iter().take(MOST) {
            let share = 100.0 * part.seconds / parts;
            writeln!(
                f,
                "  {share:>4.1} %  {} {}, at {:.0} % of the roofline",
                part.layer,
                part.pass.name(),
                100.0 * part.roofline
            )?;
        }
        writeln!(
            f,
            "the parts were compiled and timed apart: together {}, {:.2} times the step\nroofline as measured: {} and {}\n",
            time(parts),
            parts / step,
            with_unit(self.roofline.flops, "FLOP/s"),
            with_unit(self.roofline.bytes, "B/s"),
        )?;
        let mut layers: Vec<&str> = Vec::new();
        for part in &self.parts {
            if !layers.contains(&&*part.layer) {
                layers.push(&part.layer);
            }
        }
        let width = layers.iter().map(|layer| layer.len()).max().unwrap_or(0).max(5);
        write!(f, "{:width$}", "layer")?;
        for pass in Pass::ALL {
            write!(f, "  {:>10}", pass.name())?;
        }
        writeln!(f, "  {:>14}  {:>10}  roofline", "FLOP/s", "bytes/s")?;
        for layer in layers {
            write!(f, "{layer:width$}")?;
            for pass in Pass::ALL {
                let seconds = total(self.of(|part| part.layer == layer && part.pass == pass).map(|part| part.seconds));
                write!(f, "  {:>10}", if seconds > 0.0 { time(seconds) } else { String::new() })?;
            }
            let sum = |number: fn(&PartTime) -> f64| total(self.of(|part| part.layer == layer).map(number));
            let seconds = sum(|part| part.seconds);
            writeln!(
                f,
                "  {:>14}  {:>10}  {:>6.0} %",
                with_unit(sum(|part| part.flops) / seconds, "FLOP/s"),
                with_unit(sum(|part| part.bytes) / seconds, "B/s"),
                100.0 * sum(|part| part.roofline * part.seconds) / seconds,
            )?;
        }
        Ok(())
    }
}

impl Profile {
    fn of(&self, which: impl Fn(&PartTime) -> bool) -> impl Iterator<Item = &PartTime> {
        self.parts.iter().filter(move |part| which(part))
    }
}

/// The sum, which for nothing is 0 (that of `Iterator::sum` is -0).
fn total(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |sum, number| sum + number)
}

/// Seconds for people: `1.25 s`, `3.40 ms`, `12.0 us`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}
