//! Text: encoding, lines, and what a tokenizer makes of it. Read line by line, so a line must fit into memory.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader};

use super::{Expected, FileReport, Finding, TokensOf, Totals};
use crate::error::reason;

/// What a text is called.
pub(super) fn kind(expected: &Expected) -> &'static str {
    if expected.lines { "lines" } else { "text" }
}

/// Looks at a text.
pub(super) fn lint(report: &mut FileReport, expected: &Expected, totals: &mut Totals, progress: &mut dyn FnMut(u64)) {
    let file = match File::open(&report.path) {
        Ok(file) => file,
        Err(error) => return report.find(Finding::error(format!("cannot read it: {}", reason(&error)))),
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut bytes = Vec::new();
    let (mut empty, mut first_empty) = (0_u64, 0);
    let (mut untokenized, mut first_untokenized) = (0_u64, String::new());
    if expected.tokens.is_some() {
        report.tokens = Some(0);
    }
    for number in 1_u64.. {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                report.bytes += count as u64;
                progress(count as u64);
            }
            Err(error) => return report.find(Finding::error(format!("cannot read line {number}: {}", reason(&error)))),
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.valid_up_to() + 1;
                return report
                    .find(Finding::error(format!("it is not UTF-8 text: line {number}, byte {at} of the line")));
            }
        };
        let text = text.strip_prefix('\u{FEFF}').filter(|_| number == 1).unwrap_or(text);
        let text = match expected.lines {
            true => text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text)),
            false => text,
        };
        if expected.lines && text.is_empty() {
            if empty == 0 {
                first_empty = number;
            }
            empty += 1;
            continue;
        }
        let tokens = match count_tokens(expected, text) {
            Some(Ok(tokens)) => {
                totals.text_bytes += text.len() as u64;
                totals.text_tokens += tokens;
                *report.tokens.get_or_insert(0) += tokens + u64::from(expected.lines);
                Some(tokens)
            }
            Some(Err(message)) => {
                if untokenized == 0 {
                    first_untokenized = format!("line {number}: {message}");
                }
                untokenized += 1;
                None
            }
            None => None,
        };
        if expected.lines {
            report.document(tokens.unwrap_or(text.len() as u64), number);
            let mut hasher = DefaultHasher::new();
            hasher.write(text.as_bytes());
            let path = &report.path;
            totals.duplicates.insert(hasher.finish(), || format!("{}, line {number}", path.display()));
        }
    }
    if report.bytes == 0 {
        return report.find(Finding::error("it is empty"));
    }
    if untokenized > 0 {
        report.find(Finding::error(format!("{untokenized} lines cannot be tokenized; {first_untokenized}")));
    }
    if empty > 0 {
        report.find(Finding::warning(format!(
            "{empty} lines are empty and no documents; the first is line {first_empty}"
        )));
    }
    if expected.lines && report.documents.is_none() {
        report.find(Finding::error("it has no lines that are not empty, so no documents"));
    }
}

/// The tokens of a stretch of text; `None` if nothing makes tokens of it.
fn count_tokens(expected: &Expected, text: &str) -> Option<Result<u64, String>> {
    match expected.tokens.as_ref()? {
        TokensOf::Characters => Some(Ok(text.chars().count() as u64)),
        TokensOf::Tokenizer(tokenizer) => {
            Some(tokenizer.encode(text).map(|ids| ids.len() as u64).map_err(|error| error.message().to_owned()))
        }
    }
}
