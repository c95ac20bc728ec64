//! How Python writes values, since templates are written for it: what `str` and `json.dumps` give.

use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::budget::{Budget, Text};
use crate::tokenizer::ranges;

/// Lists within lists, which a template can make as deep as it likes.
const MOST_DEPTH: usize = 200;

/// What Python's `str` gives, and Jinja's `{{ }}`: an undefined value is nothing.
///
/// # Errors
/// If the budget does not allow for it, or lists are too deep.
pub(super) fn text_of(budget: &Budget, value: &Value) -> Result<String, Error> {
    let mut out = Text::new(budget);
    write_text(&mut out, value)?;
    Ok(out.finish())
}

/// Writes what [`text_of`] gives.
///
/// # Errors
/// As [`text_of`].
pub(super) fn write_text(out: &mut Text<'_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(out, value, 0),
    }
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("lists are more than {MOST_DEPTH} deep"))
}

fn write_repr(out: &mut Text<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MOST_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::None => out.push("None"),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push(&number(value, ["inf", "nan"])),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push("[")?;
            for (i, item) in value.try_iter()?.enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                write_repr(out, &item, depth + 1)?;
            }
            out.push("]")
        }
        ValueKind::Map => {
            out.push("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.push(if i > 0 { ", " } else { "" })?;
                write_repr(out, &key, depth + 1)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push("}")
        }
        // Functions, macros and the like.
        ValueKind::Bytes | ValueKind::Plain | ValueKind::Invalid | _ => out.push(&value.to_string()),
    }
}

/// A number as Python's `repr` has it; `not_finite` are its words for what JSON has no number for.
fn number(value: &Value, not_finite: [&str; 2]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => not_finite[1].to_owned(),
        Ok(x) if x.is_infinite() => format!("{}{}", if x < 0.0 { "-" } else { "" }, not_finite[0]),
        Ok(x) => float(x),
        Err(_) => value.to_string(),
    }
}

/// The shortest digits that mean `x`; with an exponent where Python has one, below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        Ok(_) | Err(_) => format!("{x:?}"),
    }
}

/// The ranges of characters that `repr` escapes: those that Unicode counts as others or separators, but for the space.
static UNPRINTABLE: LazyLock<Vec<(char, char)>> = LazyLock::new(|| ranges(r"[[\p{C}\p{Z}]--[\x20]]"));

fn is_printable(c: char) -> bool {
    let behind = UNPRINTABLE.partition_point(|&(first, _)| first <= c);
    behind == 0 || UNPRINTABLE[behind - 1].1 < c
}

fn write_quoted(out: &mut Text<'_>, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            c if is_printable(c) => quoted.push(c),
            c => match u32::from(c) {
                code @ 0..=0xFF => quoted.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xFFFF => quoted.push_str(&format!("\\u{code:04x}")),
                code => quoted.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    quoted.push(quote);
    out.push(&quoted)
}

/// How `json.dumps` writes.
#[derive(Clone, Debug)]
pub(super) struct JsonStyle {
    /// Write what is not ASCII as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Each element on a line of its own, behind this for each level.
    pub(super) indent: Option<String>,
    /// Between elements.
    pub(super) item_separator: String,
    /// Between key and value.
    pub(super) key_separator: String,
    /// Keys in order.
    pub(super) sort_keys: bool,
}

/// What `json.dumps` gives.
///
/// # Errors
/// For an undefined value or a function, and as [`text_of`].
pub(super) fn json(budget: &Budget, value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = Text::new(budget);
    write_json(&mut out, value, style, 0)?;
    Ok(out.finish())
}

fn write_json(out: &mut Text<'_>, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > MOST_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value, ["Infinity", "NaN"])),
        ValueKind::String => out.push(&json_string(value.as_str().unwrap_or_default(), style)),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<(Option<String>, Value)> = value.try_iter()?.map(|item| (None, item)).collect();
            write_json_items(out, ["[", "]"], &items, style, depth)
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                items.push((Some(json_key(&key)?), item));
            }
            if style.sort_keys {
                items.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            write_json_items(out, ["{", "}"], &items, style, depth)
        }
        ValueKind::Undefined | ValueKind::Bytes | ValueKind::Plain | ValueKind::Invalid | _ => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: a value that is {} has no JSON", value.kind()),
        )),
    }
}

fn write_json_items(
    out: &mut Text<'_>,
    [open, close]: [&str; 2],
    items: &[(Option<String>, Value)],
    style: &JsonStyle,
    depth: usize,
) -> Result<(), Error> {
    let new_line = |out: &mut Text<'_>, depth: usize| match &style.indent {
        Some(indent) => {
            out.push("\n")?;
            (0..depth).try_for_each(|_| out.push(indent))
        }
        None => Ok(()),
    };
    out.push(open)?;
    for (i, (key, item)) in items.iter().enumerate() {
        out.push(if i > 0 { &style.item_separator } else { "" })?;
        new_line(out, depth + 1)?;
        if let Some(key) = key {
            out.push(&json_string(key, style))?;
            out.push(&style.key_separator)?;
        }
        write_json(out, item, style, depth + 1)?;
    }
    if !items.is_empty() {
        new_line(out, depth)?;
    }
    out.push(close)
}

/// A key of a JSON object: Python writes what is not text as JSON would.
fn json_key(key: &Value) -> Result<String, Error> {
    let kind = key.kind();
    if let Some(text) = key.as_str() {
        Ok(text.to_owned())
    } else if kind == ValueKind::None {
        Ok("null".to_owned())
    } else if kind == ValueKind::Bool {
        Ok(if key.is_true() { "true" } else { "false" }.to_owned())
    } else if kind == ValueKind::Number {
        Ok(number(key, ["Infinity", "NaN"]))
    } else {
        Err(Error::new(ErrorKind::InvalidOperation, "tojson: a key that is neither text nor a number"))
    }
}

fn json_string(text: &str, style: &JsonStyle) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{C}' => quoted.push_str("\\f"),
            c if c < ' ' || (style.ensure_ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    quoted.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
