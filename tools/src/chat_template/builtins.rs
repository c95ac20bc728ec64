//! What templates call: operators, filters, tests and functions as Jinja and Python have them.

use std::sync::Arc;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::budget::{Budget, Text};
use super::python::{JsonStyle, json, text_of, write_text};
use super::{methods, operators};

/// Filters that `minijinja` has and Jinja has not, or that make much of little.
const NOT_THERE: [&str; 8] = ["batch", "chain", "format", "lines", "pprint", "slice", "split", "zip"];

/// The name of a filter that gives what it is given.
pub(super) const UNCHANGED: &str = "lmc_unchanged";

/// A template asks for what cannot be.
pub(super) fn fail(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Adds them all.
pub(super) fn add_to(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    for name in NOT_THERE {
        env.remove_filter(name);
    }
    env.remove_global("debug");
    let shared = Arc::clone(budget);
    env.set_formatter(move |out, _, value| Ok(out.write_str(&text_of(&shared, value)?)?));
    methods::add_to(env, budget);
    operators::add_to(env, budget);
    add_filters(env, budget);
    add_tests(env);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> { Err(fail(message)) });
    env.add_function("strftime_now", strftime_now);
}

fn add_filters(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    env.add_filter(UNCHANGED, |value: Value| value);
    let shared = Arc::clone(budget);
    env.add_filter("tojson", move |value: Value, ensure_ascii: Option<bool>, kwargs: Kwargs| {
        let style = json_style(ensure_ascii, &kwargs)?;
        json(&shared, &value, &style)
    });
    let shared = Arc::clone(budget);
    env.add_filter("string", move |value: Value| text_of(&shared, &value));
    let shared = Arc::clone(budget);
    // Of any value, as Python writes it.
    env.add_filter("trim", move |value: Value, characters: Option<String>| {
        let text = text_of(&shared, &value)?;
        let trimmed = match characters {
            None => text.trim(),
            Some(characters) => text.trim_matches(|c| characters.contains(c)),
        };
        Ok::<_, Error>(trimmed.to_owned())
    });
    let shared = Arc::clone(budget);
    env.add_filter("list", move |value: Value| {
        shared.charge_elements(value.len().unwrap_or(0))?;
        match value.as_str() {
            Some(text) => Ok(text.chars().map(|c| Value::from(c.to_string())).collect::<Value>()),
            None => Ok::<_, Error>(value.try_iter()?.collect()),
        }
    });
    let shared = Arc::clone(budget);
    env.add_filter("join", move |value: Value, separator: Option<Value>, kwargs: Kwargs| {
        let attribute: Option<String> = kwargs.get("attribute")?;
        kwargs.assert_all_used()?;
        let separator = text_of(&shared, &separator.unwrap_or_default())?;
        let items = value.try_iter()?.map(|item| match &attribute {
            Some(attribute) => item.get_attr(attribute),
            None => Ok(item),
        });
        join(&shared, &separator, items)
    });
    let shared = Arc::clone(budget);
    env.add_filter("replace", move |value: Value, old: String, new: String, count: Option<usize>| {
        replace(&shared, &text_of(&shared, &value)?, &old, &new, count)
    });
    let shared = Arc::clone(budget);
    env.add_filter("indent", move |text: String, width: Option<Value>, first: Option<bool>, kwargs: Kwargs| {
        let width: Option<Value> = width.or(kwargs.get("width")?);
        let first: Option<bool> = first.or(kwargs.get("first")?);
        let blank: Option<bool> = kwargs.get("blank")?;
        kwargs.assert_all_used()?;
        let indent = indentation(width.unwrap_or_else(|| Value::from(4)))?;
        let mut out = Text::new(&shared);
        for (i, line) in text.split('\n').enumerate() {
            out.push(if i > 0 { "\n" } else { "" })?;
            let indented = if i == 0 { first } else { Some(!line.is_empty() || blank == Some(true)) };
            out.push(if indented == Some(true) { &indent } else { "" })?;
            out.push(line)?;
        }
        Ok::<_, Error>(out.finish())
    });
    for name in ["default", "d"] {
        env.add_filter(name, |value: Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs| {
            let other: Option<Value> = other.or(kwargs.get("default_value")?);
            let boolean: Option<bool> = boolean.or(kwargs.get("boolean")?);
            kwargs.assert_all_used()?;
            let missing = value.is_undefined() || (boolean == Some(true) && !value.is_true());
            Ok::<_, Error>(if missing { other.unwrap_or_else(|| Value::from("")) } else { value })
        });
    }
}

/// The arguments of `json.dumps` that `transformers` takes.
fn json_style(ensure_ascii: Option<bool>, kwargs: &Kwargs) -> Result<JsonStyle, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(indentation).transpose()?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(fail("tojson: `separators` are two")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        ensure_ascii: ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    Ok(style)
}

/// An indentation: spaces by their number, or what is to be written.
fn indentation(width: Value) -> Result<String, Error> {
    match (width.as_str(), width.as_i64()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(width)) if width <= 1000 => Ok(" ".repeat(usize::try_from(width).unwrap_or(0))),
        (None, _) => Err(fail(format!("an indentation is a text or a number up to 1000, found {width}"))),
    }
}

/// Values as text, with `separator` between them.
pub(super) fn join(
    budget: &Budget,
    separator: &str,
    items: impl Iterator<Item = Result<Value, Error>>,
) -> Result<String, Error> {
    let mut out = Text::new(budget);
    for (i, item) in items.enumerate() {
        out.push(if i > 0 { separator } else { "" })?;
        write_text(&mut out, &item?)?;
    }
    Ok(out.finish())
}

/// `text` with `new` for `old`, the first `count` times.
pub(super) fn replace(
    budget: &Budget,
    text: &str,
    old: &str,
    new: &str,
    count: Option<usize>,
) -> Result<String, Error> {
    let mut out = Text::new(budget);
    let mut copied = 0;
    for (at, _) in text.match_indices(old).take(count.unwrap_or(usize::MAX)) {
        out.push(&text[copied..at])?;
        out.push(new)?;
        copied = at + old.len();
    }
    out.push(&text[copied..])?;
    Ok(out.finish())
}

fn add_tests(env: &mut Environment<'_>) {
    // Whatever Python can iterate over; a text and a map also have a length and items.
    let is_sequence = |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    };
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", move |value: &Value| is_sequence(value) || value.is_undefined());
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain));
}

/// The local time, formatted as C's `strftime` does.
fn strftime_now(format: &str) -> Result<String, Error> {
    use chrono::format::{Item, StrftimeItems};
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(fail(format!("strftime_now: {format:?} has a directive that is not known")));
    }
    Ok(chrono::Local::now().format_with_items(items.iter()).to_string())
}
