//! Learning rates over the steps of a run.

use std::f64::consts::PI;

use lmc_graph::Value;

use crate::architectures::ConfigError;

/// The learning rate of each step: a linear warm-up, times a course from the peak to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The course after the warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Where decaying courses end, after the last step.
    pub min_learning_rate: f64,
    /// Steps of the warm-up: step `s` of them, counted from 0, has the share `(s + 1) / warmup_steps`. 0 is none.
    pub warmup_steps: usize,
    /// Steps of the run, the warm-up included. Later steps have the learning rate of the end.
    pub total_steps: usize,
}

/// The course of a learning rate after the warm-up. Progress runs from 0 at the first step after the warm-up to 1 after
/// the last step of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleKind {
    /// The peak.
    Constant,
    /// In a straight line from the peak to the minimum.
    Linear,
    /// Along half a cosine from the peak to the minimum (Loshchilov and Hutter 2017, eq. 5).
    Cosine,
    /// Warm-up, stable, decay: the peak, then a straight line to the minimum over the last part of the run (Hu et al.
    /// 2024, section 4).
    Wsd {
        /// The share of `total_steps` that the line takes; 0 leaves the peak to the end.
        decay_fraction: f64,
    },
}

impl Schedule {
    /// The learning rate of `step`, counted from 0.
    pub fn learning_rate_at(&self, step: usize) -> f64 {
        let step = step as f64;
        let warmup = if self.warmup_steps == 0 { 1.0 } else { ((step + 1.0) / self.warmup_steps as f64).min(1.0) };
        let Some((start, length)) = self.decay_steps() else { return self.learning_rate * warmup };
        let progress = ((step - start) / length).clamp(0.0, 1.0);
        let share = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear | ScheduleKind::Wsd { .. } => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 + 0.5 * (PI * progress).cos(),
        };
        warmup * (self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * share)
    }

    /// The learning rate of `step`, an integer scalar counted from 0, as an f32 scalar.
    ///
    /// Equal to [`Schedule::learning_rate_at`] but for rounding; steps are exact below 2^24.
    ///
    /// # Panics
    /// If `step` is not a scalar.
    #[track_caller]
    pub fn learning_rate<'g>(&self, step: Value<'g>) -> Value<'g> {
        let step = step.convert(lmc_graph::DType::F32);
        let one = step.full_like(1.0);
        let warmup = match self.warmup_steps {
            0 => one,
            steps => ((step + 1.0) / steps as f64).minimum(one),
        };
        let Some((start, length)) = self.decay_steps() else { return warmup * self.learning_rate };
        let progress = ((step - start) / length).clamp(step.full_like(0.0), one);
        let share = match self.kind {
            ScheduleKind::Constant => one,
            ScheduleKind::Linear | ScheduleKind::Wsd { .. } => one - progress,
            ScheduleKind::Cosine => (progress * PI).cosine() * 0.5 + 0.5,
        };
        warmup * (share * (self.learning_rate - self.min_learning_rate) + self.min_learning_rate)
    }

    /// The step at which the decay starts, and its steps; `None` when there is none.
    fn decay_steps(&self) -> Option<(f64, f64)> {
        let total = self.total_steps as f64;
        let (start, length) = match self.kind {
            ScheduleKind::Constant => return None,
            ScheduleKind::Linear | ScheduleKind::Cosine => {
                let start = (self.warmup_steps as f64).min(total);
                (start, total - start)
            }
            ScheduleKind::Wsd { decay_fraction } => {
                let length = (decay_fraction * total).round();
                (total - length, length)
            }
        };
        (length > 0.0).then_some((start, length))
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, rate) in [("learning_rate", self.learning_rate), ("min_learning_rate", self.min_learning_rate)] {
            if !(rate.is_finite() && rate >= 0.0) {
                return Err(ConfigError {
                    field,
                    reason: format!("must be a finite number, at least 0, found {rate}"),
                });
            }
        }
        if self.min_learning_rate > self.learning_rate {
            let reason =
                format!("must be at most learning_rate = {}, found {}", self.learning_rate, self.min_learning_rate);
            return Err(ConfigError { field: "min_learning_rate", reason });
        }
        if let ScheduleKind::Wsd { decay_fraction } = self.kind
            && !(0.0..=1.0).contains(&decay_fraction)
        {
            let reason = format!("must be between 0 and 1, found {decay_fraction}");
            return Err(ConfigError { field: "decay_fraction", reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, Literal, TensorType, eval};

    use super::*;

    /// What the graph computes for each of these steps.
    fn in_graph(schedule: &Schedule, steps: i32) -> Vec<f64> {
        let func = Builder::build("f", |b| {
            let step = b.param("step", TensorType::scalar(DType::I32));
            vec![schedule.learning_rate(step)]
        });
        let at = |step| eval(&func, &[Literal::scalar::<i32>(step)]).expect("the argument fits")[0].to_f64s()[0];
        (0..steps).map(at).collect()
    }

    #[test]
    fn learning_rates() {
        let schedule = |kind, min_learning_rate, warmup_steps, total_steps| Schedule {
            kind,
            learning_rate: 0.8,
            min_learning_rate,
            warmup_steps,
            total_steps,
        };
        let check = |schedule: Schedule, expected: &[f64]| {
            let in_graph = in_graph(&schedule, expected.len() as i32);
            for (step, &expected) in expected.iter().enumerate() {
                let found = schedule.learning_rate_at(step);
                assert!((found - expected).abs() < 1e-12, "{schedule:?} at {step}: {found}, not {expected}");
                // A few roundings of numbers up to 1 in f32.
                let found = in_graph[step];
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{schedule:?} at {step} in the graph: {found}, not {expected}"
                );
            }
        };
        check(schedule(ScheduleKind::Constant, 0.0, 0, 2), &[0.8, 0.8, 0.8]);
        check(schedule(ScheduleKind::Constant, 0.0, 4, 6), &[0.2, 0.4, 0.6, 0.8, 0.8]);
        // The course of the microgpt gist: the peak times 1 - step / steps.
        check(schedule(ScheduleKind::Linear, 0.0, 0, 4), &[0.8, 0.6, 0.4, 0.2, 0.0, 0.0]);
        check(schedule(ScheduleKind::Linear, 0.4, 2, 6), &[0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4]);
        check(schedule(ScheduleKind::Linear, 0.0, 9, 2), &[0.8 / 9.0, 1.6 / 9.0]);
        let middle = 0.5 * 0.8;
        check(
            schedule(ScheduleKind::Cosine, 0.0, 0, 4),
            &[0.8, middle + middle * 0.5f64.sqrt(), middle, middle - middle * 0.5f64.sqrt(), 0.0, 0.0],
        );
        let wsd = |decay_fraction| ScheduleKind::Wsd { decay_fraction };
        check(schedule(wsd(0.0), 0.0, 2, 4), &[0.4, 0.8, 0.8, 0.8, 0.8]);
        check(schedule(wsd(0.4), 0.0, 2, 10), &[0.4, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0]);
    }

    #[test]
    fn refuses_impossible_numbers() {
        let good = Schedule {
            kind: ScheduleKind::Wsd { decay_fraction: 0.1 },
            learning_rate: 1e-3,
            min_learning_rate: 0.0,
            warmup_steps: 0,
            total_steps: 10,
        };
        let field = |schedule: Schedule| schedule.validate().map_err(|error| error.field);
        assert_eq!(field(good), Ok(()));
        assert_eq!(field(Schedule { learning_rate: f64::NAN, ..good }), Err("learning_rate"));
        assert_eq!(field(Schedule { min_learning_rate: 1.0, ..good }), Err("min_learning_rate"));
        assert_eq!(field(Schedule { kind: ScheduleKind::Wsd { decay_fraction: 1.5 }, ..good }), Err("decay_fraction"));
    }
}
