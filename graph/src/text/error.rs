//! What is wrong with a text, and where.

use std::fmt;

use crate::error::TypeError;
use crate::text::lexer::Span;

/// A message shows at most so many characters of the source line on each side of the place.
const MAX_SOURCE_SIDE: usize = 100;

/// A text that is not a function, with the place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct ParseError {
    /// The path that was given with the text.
    pub path: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The number of characters of the culprit, at least 1.
    pub width: usize,
    /// What was expected, and what was found instead.
    pub message: String,
    /// The source line, or the part of it around the place when it is long.
    pub source_line: String,
    /// The column in `source_line`, counted from 1.
    pub source_column: usize,
    /// The broken constraint, when the text is well-formed and a type rule refuses it.
    pub type_error: Option<Box<TypeError>>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParseError { path, line, column, width, message, source_line, source_column, type_error } = self;
        let gutter = " ".repeat(line.to_string().len());
        writeln!(f, "error: {message}")?;
        writeln!(f, "{gutter} --> {path}:{line}:{column}")?;
        writeln!(f, "{gutter}  |")?;
        writeln!(f, " {line} | {source_line}")?;
        write!(f, "{gutter}  | {}{}", " ".repeat(source_column - 1), "^".repeat(*width))?;
        match type_error {
            Some(error) if *error.location.file != **path => write!(f, "\nnote: made at {}", error.location),
            Some(_) | None => Ok(()),
        }
    }
}

impl ParseError {
    pub(super) fn new(path: &str, text: &str, span: Span, message: String) -> ParseError {
        let line = text[span.line_start..].lines().next().unwrap_or("");
        let column = text[span.line_start..span.start].chars().count();
        let width = text[span.start..span.end].chars().count();
        let skipped = column.saturating_sub(MAX_SOURCE_SIDE);
        // Tabs and other control characters would put the caret elsewhere.
        let shown = line.chars().skip(skipped).take(2 * MAX_SOURCE_SIDE);
        let source_line: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        ParseError {
            path: path.to_string(),
            line: span.line,
            column: column + 1,
            width: width.clamp(1, MAX_SOURCE_SIDE),
            message,
            source_line,
            source_column: column - skipped + 1,
            type_error: None,
        }
    }
}
