//! Methods of Python's texts, maps and lists: those of `minijinja-contrib`, within the budget, and a few more.

use std::sync::Arc;

use minijinja::value::from_args;
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::budget::Budget;
use super::builtins::{fail, join, replace};

pub(super) fn add_to(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let budget = Arc::clone(budget);
    env.set_unknown_method_callback(move |state, value, method, args| match value.as_str() {
        Some(text) => of_text(&budget, state, value, text, method, args),
        None => unknown_method_callback(state, value, method, args),
    });
}

fn of_text(
    budget: &Budget,
    state: &State<'_, '_>,
    value: &Value,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match method {
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            // A negative count is none.
            let count = count.and_then(|count| usize::try_from(count).ok());
            Ok(Value::from(replace(budget, text, old, new, count)?))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            Ok(Value::from(join(budget, text, items.try_iter()?.map(Ok))?))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "count" | "split" => {
            if let Some(separator) = args.first().and_then(Value::as_str) {
                if separator.is_empty() {
                    return Err(fail(format!("{method}: the text to look for is empty")));
                }
                budget.charge_elements(text.matches(separator).count())?;
            } else {
                budget.charge_elements(text.split_whitespace().count())?;
            }
            unknown_method_callback(state, value, method, args)
        }
        "splitlines" => {
            budget.charge_elements(text.matches('\n').count())?;
            unknown_method_callback(state, value, method, args)
        }
        // Of no characters, Python says that they are none.
        "isalnum" | "isalpha" | "isdigit" | "islower" | "isnumeric" | "isspace" | "isupper" if text.is_empty() => {
            Ok(Value::from(false))
        }
        "format" if has_wide_field(text) => Err(fail("format: a field is too wide")),
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// Whether a number in a format has more than three digits: a field of such a width is not for reading.
fn has_wide_field(format: &str) -> bool {
    format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3)
}
