//! A profile for people: where the time goes in the first lines, then layer by layer.

use std::fmt::{self, Display};

use super::{PartTime, Pass, Profile, Recording};
use crate::run::quantity::with_unit;

/// The parts that are named first.
const MOST: usize = 4;

impl Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, all) = (self.step_median(), self.parts_seconds() + self.others_seconds());
        let rate = self.tokens_per_step as f64 / step;
        writeln!(
            f,
            "a step takes {} on {}, {} (median of {})",
            time(step),
            self.device,
            with_unit(rate, "tokens/s"),
            self.step_seconds.len()
        )?;
        let share = |seconds: f64| 100.0 * seconds / all.max(f64::MIN_POSITIVE);
        let mut passes = Pass::ALL
            .map(|pass| {
                let seconds = total(self.of(|part| part.pass == pass).map(|part| part.seconds));
                format!("{} {:.0} %", pass.name(), share(seconds))
            })
            .to_vec();
        if self.recording.is_some() {
            passes.push(format!("no layer's {:.0} %", share(self.others_seconds())));
        }
        writeln!(f, "{}", passes.join(", "))?;
        let mut most: Vec<&PartTime> = self.parts.iter().collect();
        most.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for part in most.into_iter().take(MOST) {
            writeln!(
                f,
                "  {:>4.1} %  {} {}, at {:.0} % of the roofline",
                share(part.seconds),
                part.layer,
                part.pass.name(),
                100.0 * part.roofline
            )?;
        }
        match &self.recording {
            None => writeln!(
                f,
                "the parts were compiled and timed apart: together {}, {:.2} times the step",
                time(all),
                all / step
            )?,
            Some(recording) => self.recorded(f, recording)?,
        }
        writeln!(
            f,
            "roofline as measured: {} and {}\n",
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

impl Recording {
    /// How many steps were recorded.
    fn steps(&self) -> f64 {
        self.step_seconds.len().max(1) as f64
    }
}

impl Profile {
    /// Seconds in a step that are no layer's.
    fn others_seconds(&self) -> f64 {
        let Some(recording) = &self.recording else { return 0.0 };
        total(recording.timeline.others.iter().map(|other| other.seconds)) / recording.steps()
    }

    /// How a recording was made, and what of it is not in the table.
    fn recorded(&self, f: &mut fmt::Formatter<'_>, recording: &Recording) -> fmt::Result {
        let (timeline, steps) = (&recording.timeline, recording.steps());
        let whole = total(recording.step_seconds.iter().copied());
        writeln!(
            f,
            "recorded by the plugin's profiler in {steps} more steps, with every kernel started by itself: {} a step, the \
             device busy {:.1} % of it",
            time(whole / steps),
            100.0 * timeline.busy_seconds / whole.max(f64::MIN_POSITIVE),
        )?;
        let side_by_side = timeline.event_seconds - timeline.busy_seconds;
        if side_by_side > 0.001 * timeline.event_seconds {
            writeln!(f, "  {} a step run beside others, on another stream", time(side_by_side / steps))?;
        }
        for other in &timeline.others {
            let (seconds, events) = (time(other.seconds / steps), other.events as f64 / steps);
            writeln!(f, "  no layer's: {seconds} a step of {}, {events:.1} of them", other.what.words())?;
        }
        // Less than a thousandth are conditions of loops and the like.
        let flops = total(self.parts.iter().map(|part| part.flops));
        if timeline.unseen_flops > 0.001 * flops {
            let flops = with_unit(timeline.unseen_flops, "FLOP");
            writeln!(f, "  of instructions with {flops} a step no kernel was recorded")?;
        }
        timeline.warnings.iter().try_for_each(|warning| writeln!(f, "  the profiler says: {warning}"))
    }

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
