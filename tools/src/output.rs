//! What the program says: results on stdout, everything else on stderr.
//!
//! Not by `println!` and `eprintln!`, which panic when the reader has gone, as that of `lmc train | head -1` does.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use serde_json::Value;

use crate::error::{Error, Result, reason};

/// Writes a result to stdout. A reader that has gone is no error: it has what it wanted.
///
/// # Errors
/// If it cannot be written for another reason, such as on a full disk.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::run(format!("cannot write to stdout: {}", reason(&error))))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints one JSON value on a line of stdout.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Says a line on stderr. A closed stderr is no reason to stop.
pub fn say(line: impl Display) {
    _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// `1234567` as `1,234,567`.
pub(crate) fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_threes() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(group_digits(number), expected);
        }
    }
}
