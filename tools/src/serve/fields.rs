//! Reading a request: each field by its name, so that an error can tell which one is wrong.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The fields of a JSON object, each to be taken once. A field that is null counts as absent.
#[derive(Debug)]
pub(super) struct Fields {
    /// Where the object is in the request, with a point at the end; empty for the request itself.
    place: String,
    left: Map<String, Value>,
}

/// What a value is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Fields {
    /// The fields of a request's body.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub(super) fn of_body(body: &[u8]) -> Result<Fields, ApiError> {
        let value = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
        let Value::Object(left) = value else {
            return Err(ApiError::bad_request(format!("the body is an object, found {}", kind_of(&value))));
        };
        Ok(Fields { place: String::new(), left })
    }

    /// The fields of an object within the request, at `place`.
    ///
    /// # Errors
    /// If it is not an object.
    pub(super) fn of_value(place: &str, value: Value) -> Result<Fields, ApiError> {
        let Value::Object(left) = value else { return Err(wrong(place, "an object", &value)) };
        Ok(Fields { place: format!("{place}."), left })
    }

    /// The path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// The value of a field.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    /// A truth value.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(&self.path(name), "a truth value", &other)),
        }
    }

    /// A string.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path(name), "a string", &other)),
        }
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let path = self.path(name);
        // A float that is whole is what some clients write.
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 9e15).then_some(x as i64);
        match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) | None if value.is_number() => {
                let (least, most) = range.into_inner();
                Err(ApiError::field(&path, format!("`{path}` is a whole number from {least} to {most}, found {value}")))
            }
            Some(_) | None => Err(wrong(&path, "a whole number", &value)),
        }
    }

    /// A count, within `range`.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<usize>, ApiError> {
        let (least, most) = range.into_inner();
        let number = self.integer(name, i64::from(least)..=i64::from(most))?;
        Ok(number.map(|number| usize::try_from(number).unwrap_or(0)))
    }

    /// A number within `range`.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let path = self.path(name);
        match value.as_f64() {
            Some(number) if range.contains(&(number as f32)) => Ok(Some(number as f32)),
            Some(_) => {
                let (least, most) = range.into_inner();
                Err(ApiError::field(&path, format!("`{path}` is a number from {least} to {most}, found {value}")))
            }
            None => Err(wrong(&path, "a number", &value)),
        }
    }

    /// An array.
    pub(super) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(&self.path(name), "an array", &other)),
        }
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(wrong(&self.path(name), "an object", &other)),
        }
    }

    /// Leaves out fields that change nothing about the answer.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.left.shift_remove(*name);
        }
    }

    /// Refuses what was not taken.
    ///
    /// # Errors
    /// If there is a field that has no meaning here.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.left.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let path = self.path(name);
                Err(ApiError::field(&path, format!("this server does not know the field `{path}`")))
            }
        }
    }
}

/// The field at `path` is of another kind than expected.
pub(super) fn wrong(path: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(path, format!("`{path}` is {expected}, found {}", kind_of(found)))
}

/// The field at `path` is missing.
pub(super) fn missing(path: &str) -> ApiError {
    ApiError::field(path, format!("`{path}` is missing"))
}
