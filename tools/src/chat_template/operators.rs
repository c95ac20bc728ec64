//! Operators on texts, lists and numbers as functions, as Python has them and within the budget.

use std::sync::Arc;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, Value};

use super::budget::{Budget, Text};
use super::builtins::fail;
use super::python::write_text;

/// `+` as a function; no template can spell the name.
pub(super) const ADD: &str = " +";
/// `*`.
pub(super) const MULTIPLY: &str = " *";
/// `~`.
pub(super) const CONCATENATE: &str = " ~";
/// `[start:stop:step]`.
pub(super) const SLICE: &str = " [:]";
/// Its argument, charged for.
pub(super) const CHARGE: &str = " charge";

pub(super) fn add_to(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let shared = Arc::clone(budget);
    env.add_function(ADD, move |a: Value, b: Value| add(&shared, &a, &b));
    let shared = Arc::clone(budget);
    env.add_function(MULTIPLY, move |a: Value, b: Value| multiply(&shared, &a, &b));
    let shared = Arc::clone(budget);
    env.add_function(CONCATENATE, move |a: Value, b: Value| {
        let mut out = Text::new(&shared);
        write_text(&mut out, &a)?;
        write_text(&mut out, &b)?;
        Ok::<_, Error>(out.finish())
    });
    let shared = Arc::clone(budget);
    env.add_function(SLICE, move |value: Value, start: Value, stop: Value, step: Value| {
        slice(&shared, &value, [&start, &stop, &step])
    });
    let shared = Arc::clone(budget);
    env.add_function(CHARGE, move |value: Value| shared.charge_value(&value).map(|()| value));
}

fn cannot(what: &str, a: &Value, b: &Value) -> Error {
    fail(format!("cannot {what} a value that is {} and one that is {}", a.kind(), b.kind()))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        budget.charge(left.len() + right.len())?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(a) && is_list(b) {
        budget.charge_elements(a.len().unwrap_or(0).saturating_add(b.len().unwrap_or(0)))?;
        return Ok(a.try_iter()?.chain(b.try_iter()?).collect());
    }
    arithmetic(a, b, i128::checked_add, |a, b| a + b).ok_or_else(|| cannot("add", a, b))
}

fn multiply(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    let (repeated, count) = if a.as_str().is_some() || is_list(a) { (a, b) } else { (b, a) };
    let times = || count.as_i64().map(|count| usize::try_from(count).unwrap_or(0));
    if let (Some(text), Some(times)) = (repeated.as_str(), times()) {
        budget.charge(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if let (true, Some(times)) = (is_list(repeated), times()) {
        budget.charge_elements(repeated.len().unwrap_or(0).saturating_mul(times))?;
        let items: Vec<Value> = repeated.try_iter()?.collect();
        return Ok((0..times).flat_map(|_| items.iter().cloned()).collect());
    }
    arithmetic(a, b, i128::checked_mul, |a, b| a * b).ok_or_else(|| cannot("multiply", a, b))
}

/// The result for two whole numbers, or for two numbers; truth counts as 1.
fn arithmetic(a: &Value, b: &Value, whole: fn(i128, i128) -> Option<i128>, real: fn(f64, f64) -> f64) -> Option<Value> {
    let integer = |value: &Value| {
        let truth = (value.kind() == ValueKind::Bool).then(|| i128::from(value.is_true()));
        truth.or_else(|| value.is_integer().then(|| i128::try_from(value.clone()).ok()).flatten())
    };
    let number = |value: &Value| {
        let is_number = value.kind() == ValueKind::Number;
        if is_number { f64::try_from(value.clone()).ok() } else { integer(value).map(|value| value as f64) }
    };
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        let result = whole(a, b)?;
        return Some(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    Some(Value::from(real(number(a)?, number(b)?)))
}

/// What Python's slices give, of a text or a list.
fn slice(budget: &Budget, value: &Value, [start, stop, step]: [&Value; 3]) -> Result<Value, Error> {
    let bound = |bound: &Value| match (bound.is_none() || bound.is_undefined(), bound.as_i64()) {
        (true, _) => Ok(None),
        (false, Some(bound)) => Ok(Some(bound)),
        (false, None) => Err(fail("the bounds of a slice are whole numbers")),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(fail("the step of a slice is zero"));
    }
    if let Some(text) = value.as_str() {
        budget.charge(text.len().saturating_mul(4))?;
        let chars: Vec<char> = text.chars().collect();
        let text: String = indices(chars.len(), start, stop, step).into_iter().map(|i| chars[i]).collect();
        return Ok(Value::from(text));
    }
    if !is_list(value) {
        return Err(fail(format!("a value that is {} has no slices", value.kind())));
    }
    budget.charge_elements(value.len().unwrap_or(0))?;
    let items: Vec<Value> = value.try_iter()?.collect();
    Ok(indices(items.len(), start, stop, step).into_iter().map(|i| items[i].clone()).collect())
}

/// The places of a slice in a sequence of `length`, as `slice.indices` of Python defines them.
fn indices(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (first, last) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |bound: i64| if bound < 0 { bound.saturating_add(length) } else { bound }.clamp(first, last);
    let start = start.map_or(if step > 0 { first } else { last }, place);
    let stop = stop.map_or(if step > 0 { last } else { first }, place);
    let places = std::iter::successors(Some(start), |at| at.checked_add(step));
    let places = places.take_while(|&at| if step > 0 { at < stop } else { at > stop });
    places.filter_map(|at| usize::try_from(at).ok()).collect()
}
