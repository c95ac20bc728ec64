//! Scales and their ticks: round numbers in the unit of what is shown.

use crate::run::quantity::{bytes, duration, short};

/// What numbers of an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Plain numbers, such as a loss.
    Number,
    /// Whole numbers, such as steps.
    Count,
    /// Small numbers, such as a learning rate.
    Scientific,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Fractions of one, shown in percent.
    Percent,
}

impl Unit {
    /// A number with as many digits as are of interest.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "not finite".to_owned(),
            Unit::Number if value.abs() >= 1e4 => short(value),
            Unit::Number if value != 0.0 && value.abs() < 1e-2 => format!("{value:.2e}"),
            Unit::Number => format!("{value:.4}"),
            Unit::Count => crate::run::quantity::grouped(value),
            Unit::Scientific if value == 0.0 => "0".to_owned(),
            Unit::Scientific => format!("{value:.2e}"),
            Unit::Bytes => bytes(value),
            Unit::Seconds => duration(value),
            Unit::Percent => format!("{:.1} %", 100.0 * value),
        }
    }

    /// The size, in this unit, of what ticks are counted in: minutes rather than seconds for a longer time; and how a
    /// number of those is shown.
    fn counted_in(self, largest: f64) -> (f64, &'static str) {
        let pick = |units: &[(f64, &'static str)]| -> (f64, &'static str) {
            // Thousands of steps are read more easily in full, up to ten of them.
            let enough = |(size, suffix): &&(f64, &str)| {
                let factor = match *suffix {
                    "k" => 10.0,
                    "M" | "G" | "T" => 1.0,
                    _ => 1.5,
                };
                largest >= factor * size
            };
            units.iter().rev().find(enough).or(units.first()).copied().unwrap_or((1.0, ""))
        };
        match self {
            Unit::Bytes => {
                let size = |power: i32| 1024f64.powi(power);
                pick(&[(1.0, " B"), (size(1), " KiB"), (size(2), " MiB"), (size(3), " GiB"), (size(4), " TiB")])
            }
            Unit::Seconds => pick(&[(1.0, " s"), (60.0, " min"), (3600.0, " h"), (86400.0, " d")]),
            Unit::Number | Unit::Count => pick(&[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")]),
            Unit::Percent => (0.01, " %"),
            Unit::Scientific => (1.0, ""),
        }
    }
}

/// From numbers to a place on the paper.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// The lowest and the highest number, which are at `range.0` and `range.1`.
    domain: (f64, f64),
    range: (f64, f64),
    log: bool,
    unit: Unit,
}

/// What decides the lowest and highest number of a scale, beside the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The data alone, exactly.
    Exact,
    /// The data and zero, with some air.
    FromZero,
    /// The data, with some air; on a logarithmic scale where they are above zero and differ by a factor of more than this.
    LogAbove(u32),
}

impl Scale {
    /// A scale for these numbers, of which those count that are finite, onto `range`.
    pub(crate) fn new(numbers: impl Iterator<Item = f64>, extent: Extent, unit: Unit, range: (f64, f64)) -> Scale {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| number.is_finite()) {
            (low, high) = (low.min(number), high.max(number));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let log = match extent {
            Extent::LogAbove(factor) => low > 0.0 && high / low > f64::from(factor),
            Extent::Exact | Extent::FromZero => false,
        };
        if extent == Extent::FromZero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if log {
            let air = (high / low).powf(0.04);
            return Scale { domain: (low / air, high * air), range, log, unit };
        }
        // What differs by rounding alone is the same: a scale for it would have ticks that look the same.
        if high - low <= 1e-6 * high.abs().max(low.abs()) {
            let air = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - air, high + air);
        } else if extent != Extent::Exact {
            let air = 0.05 * (high - low);
            // Zero is a floor: no air below it.
            low = if low >= 0.0 { (low - air).max(0.0) } else { low - air };
            high += air;
        }
        Scale { domain: (low, high), range, log, unit }
    }

    /// The same scale, logarithmic, if everything is above zero.
    pub(crate) fn logarithmic(self) -> Scale {
        Scale { log: self.domain.0 > 0.0, ..self }
    }

    /// Whether it is logarithmic.
    pub(crate) fn is_log(&self) -> bool {
        self.log
    }

    /// The place of a number.
    pub(crate) fn place(&self, number: f64) -> f64 {
        let (low, high) = self.domain;
        let part = match self.log {
            // What has no logarithm is nowhere.
            true => (number.ln() - low.ln()) / (high.ln() - low.ln()),
            false => (number - low) / (high - low),
        };
        self.range.0 + part * (self.range.1 - self.range.0)
    }

    /// Round numbers on the scale, about `count` of them, with what stands beside them.
    pub(crate) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let (low, high) = self.domain;
        // Over decades one prefix does not serve: each number has its own.
        let own_prefix = self.log && matches!(self.unit, Unit::Number | Unit::Count);
        let (size, suffix) = if own_prefix { (1.0, "") } else { self.unit.counted_in(high.abs().max(low.abs())) };
        let (low, high) = (low / size, high / size);
        let numbers = if self.log { log_ticks(low, high, count) } else { linear_ticks(low, high, count) };
        let whole = self.unit == Unit::Count && size == 1.0;
        let numbers = numbers.into_iter().filter(|number| !whole || number.fract() == 0.0);
        let numbers: Vec<f64> = numbers.collect();
        let decimals = decimals(&numbers);
        let show = |number: f64| match self.unit {
            _ if number == 0.0 => "0".to_owned(),
            Unit::Scientific => scientific(number),
            Unit::Number | Unit::Count if own_prefix => plain(number),
            Unit::Count if size == 1.0 => crate::run::quantity::grouped(number),
            Unit::Bytes | Unit::Seconds | Unit::Percent if self.log => format!("{number}{suffix}"),
            Unit::Number | Unit::Count | Unit::Bytes | Unit::Seconds | Unit::Percent => {
                format!("{number:.decimals$}{suffix}")
            }
        };
        numbers.into_iter().map(|number| (number * size, show(number))).collect()
    }
}

/// Multiples of 1, 2, 2.5 or 5 times a power of ten between `low` and `high`, about `count`.
fn linear_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if rough.is_nan() || rough <= 0.0 || !rough.is_finite() {
        return Vec::new();
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    // Rounded to what the step is made of, lest 0.3 become 0.30000000000000004.
    (0..=(last - first).max(-1.0) as i64).map(|i| round_to((first + i as f64) * step, step)).collect()
}

/// Powers of ten, and round numbers between them where there is room, between `low` and `high`.
fn log_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let decades = (high / low).log10();
    let every = (decades / count.max(1) as f64).ceil().max(1.0) as i32;
    let factors: &[f64] = match decades {
        x if x < 0.7 => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        x if x < 1.5 => &[1.0, 2.0, 3.0, 5.0],
        x if x < 2.5 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let powers = (first..=last).filter(|power| factors.len() > 1 || power.rem_euclid(every) == 0);
    powers
        .flat_map(|power| {
            let unit = 10f64.powi(power);
            factors.iter().map(move |factor| round_to(factor * unit, unit * 0.1))
        })
        .filter(|&number| number >= low * (1.0 - 1e-9) && number <= high * (1.0 + 1e-9))
        .collect()
}

fn round_to(number: f64, step: f64) -> f64 {
    let digits = (2.0 - step.log10().floor()).clamp(0.0, 300.0);
    let shown = format!("{number:.0$}", digits as usize);
    let rounded = shown.parse().unwrap_or(number);
    // No minus zero.
    if rounded == 0.0 { 0.0 } else { rounded }
}

/// The fewest decimals that show all numbers exactly, at most 6.
fn decimals(numbers: &[f64]) -> usize {
    let exact = |decimals: usize| {
        let factor = 10f64.powi(decimals as i32);
        numbers.iter().all(|number| (number * factor - (number * factor).round()).abs() < 1e-6)
    };
    (0..6).find(|&decimals| exact(decimals)).unwrap_or(6)
}

/// A number of a logarithmic scale: `0.01`, `20`, `5k`, `1e-5`.
fn plain(number: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.into_iter().find(|(size, _)| number >= *size) {
        Some((size, prefix)) => format!("{}{prefix}", number / size),
        None if number < 1e-3 => scientific(number),
        None => format!("{number}"),
    }
}

/// `4e-4`, `2.5e-3`: as many digits as it has, at most three.
fn scientific(number: f64) -> String {
    let text = format!("{number:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let ticks = |low: f64, high: f64, extent: Extent, unit: Unit, log: bool| -> Vec<String> {
            let scale = Scale::new([low, high].into_iter(), extent, unit, (0.0, 100.0));
            let scale = if log { scale.logarithmic() } else { scale };
            scale.ticks(5).into_iter().map(|(_, label)| label).collect()
        };
        use Extent::{Exact, FromZero, LogAbove};
        for (low, high, extent, unit, log, expected) in [
            (1.9, 3.3, LogAbove(4), Unit::Number, false, &["2.0", "2.5", "3.0"][..]),
            (1.0, 1000.0, Exact, Unit::Count, false, &["200", "400", "600", "800", "1,000"]),
            (1.0, 2500.0, Exact, Unit::Count, false, &["500", "1,000", "1,500", "2,000", "2,500"]),
            (1.0, 15406.0, Exact, Unit::Count, false, &["5k", "10k", "15k"]),
            (1.0, 1e6, Exact, Unit::Count, false, &["0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]),
            (0.5, 0.5 + 1e-9, LogAbove(4), Unit::Number, false, &["0.46", "0.48", "0.50", "0.52", "0.54"]),
            (0.0, 3.0, Exact, Unit::Count, false, &["0", "1", "2", "3"]),
            (0.0, 4e-4, FromZero, Unit::Scientific, false, &["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
            (1e9, 3e9, FromZero, Unit::Bytes, false, &["0", "1 GiB", "2 GiB"]),
            (0.0, 7200.0, Exact, Unit::Seconds, false, &["0", "0.5 h", "1.0 h", "1.5 h", "2.0 h"]),
            (0.2, 0.41, FromZero, Unit::Percent, false, &["0", "10 %", "20 %", "30 %", "40 %"]),
            (0.01, 100.0, LogAbove(10), Unit::Number, false, &["0.01", "0.1", "1", "10", "100"]),
            (1.9, 10.4, LogAbove(3), Unit::Number, false, &["2", "3", "5", "10"]),
            (1.0, 1000.0, Exact, Unit::Count, true, &["1", "10", "100", "1k"]),
            (1e-5, 2e-2, LogAbove(10), Unit::Number, false, &["1e-5", "1e-4", "0.001", "0.01"]),
        ] {
            assert_eq!(ticks(low, high, extent, unit, log), expected, "{low} to {high}, {extent:?}, {unit:?}");
        }
    }

    #[test]
    fn numbers_are_shown_in_their_unit() {
        for (unit, number, expected) in [
            (Unit::Number, 2.51, "2.5100"),
            (Unit::Number, 52_060.0, "52.1k"),
            (Unit::Number, 1.25e-3, "1.25e-3"),
            (Unit::Count, 15406.0, "15,406"),
            (Unit::Percent, 0.4125, "41.2 %"),
            (Unit::Scientific, 0.0, "0"),
            (Unit::Seconds, 61.0, "1m 1s"),
            (Unit::Number, f64::NAN, "not finite"),
        ] {
            assert_eq!(unit.show(number), expected);
        }
    }

    proptest! {
        #[test]
        fn ticks_are_on_the_scale(
            numbers in prop::collection::vec(prop_oneof![-1e12f64..1e12, 0f64..10.0, 1e-9f64..1e-3], 1..5),
            log: bool,
            count in 1usize..9,
        ) {
            for unit in [Unit::Number, Unit::Count, Unit::Scientific, Unit::Bytes, Unit::Seconds, Unit::Percent] {
                for extent in [Extent::Exact, Extent::FromZero, Extent::LogAbove(10)] {
                    let scale = Scale::new(numbers.iter().copied(), extent, unit, (0.0, 100.0));
                    let scale = if log { scale.logarithmic() } else { scale };
                    let ticks = scale.ticks(count);
                    prop_assert!(ticks.len() <= 40, "{} ticks", ticks.len());
                    for (number, label) in ticks {
                        let place = scale.place(number);
                        prop_assert!((-0.01..=100.01).contains(&place), "{label} at {place}");
                    }
                    for number in &numbers {
                        let place = scale.place(*number);
                        prop_assert!((-0.01..=100.01).contains(&place), "{number} at {place}");
                    }
                }
            }
        }
    }
}
