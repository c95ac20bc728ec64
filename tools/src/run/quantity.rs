//! Numbers for people: durations, bytes, counts, in a few characters.

use crate::output::group_digits;

/// Seconds in the two largest units: `2d 3h`, `1h 5m`, `3m 20s`, `12s`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let seconds = seconds.round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// As `duration`; seconds with a decimal below a minute.
pub(crate) fn duration_with_tenths(seconds: f64) -> String {
    if (0.0..59.95).contains(&seconds) { format!("{seconds:.1}s") } else { duration(seconds) }
}

/// A whole number with commas between thousands.
pub(crate) fn grouped(number: f64) -> String {
    if !number.is_finite() {
        return "?".to_owned();
    }
    group_digits(number.max(0.0).round() as u64)
}

/// A number of three digits with a decimal prefix: `999`, `1.23k`, `45.6M`.
pub(crate) fn short(number: f64) -> String {
    prefixed(number, 1000.0, &["", "k", "M", "G", "T", "P", "E"]).unwrap_or_else(|| "?".to_owned())
}

/// As `short`, with a unit: `50.0 GFLOP/s`.
pub(crate) fn with_unit(number: f64, unit: &str) -> String {
    let number = short(number);
    let digits = number.trim_end_matches(char::is_alphabetic);
    format!("{digits} {}{unit}", &number[digits.len()..])
}

/// Bytes of three digits with a binary prefix: `512 B`, `1.50 GiB`.
pub(crate) fn bytes(number: f64) -> String {
    prefixed(number, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"]).unwrap_or_else(|| "?".to_owned())
}

fn prefixed(number: f64, base: f64, prefixes: &[&str]) -> Option<String> {
    if !number.is_finite() {
        return None;
    }
    let (mut value, mut index) = (number, 0);
    // What would be rounded up to the base has the next prefix.
    while value.abs() >= base - 0.5 && index + 1 < prefixes.len() {
        (value, index) = (value / base, index + 1);
    }
    let decimals = match value.abs() {
        _ if index == 0 && value.fract() == 0.0 => 0,
        x if x >= 99.95 => 0,
        x if x >= 9.995 => 1,
        _ => 2,
    };
    Some(format!("{value:.decimals$}{}", prefixes[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (number, expected) in [(0.0, "0"), (999.6, "1,000"), (1234567.0, "1,234,567"), (f64::INFINITY, "?")] {
            assert_eq!(grouped(number), expected);
        }
        for (seconds, expected) in
            [(0.2, "0s"), (59.6, "1m 0s"), (200.0, "3m 20s"), (3900.0, "1h 5m"), (183_600.0, "2d 3h"), (-1.0, "?")]
        {
            assert_eq!(duration(seconds), expected);
        }
        for (seconds, expected) in [(1.25, "1.2s"), (59.96, "1m 0s"), (f64::NAN, "?")] {
            assert_eq!(duration_with_tenths(seconds), expected);
        }
        for (number, expected) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (999.0, "999"),
            (999.9, "1.00k"),
            (1234.0, "1.23k"),
            (45_600_000.0, "45.6M"),
            (1e30, "1000000000000E"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(short(number), expected);
        }
        assert_eq!(with_unit(5e10, "FLOP/s"), "50.0 GFLOP/s");
        assert_eq!(with_unit(7.0, "FLOP"), "7 FLOP");
        for (number, expected) in
            [(512.0, "512 B"), (1023.9, "1.00 KiB"), (1.5 * 1024.0 * 1024.0 * 1024.0, "1.50 GiB"), (2e8, "191 MiB")]
        {
            assert_eq!(bytes(number), expected);
        }
    }
}
