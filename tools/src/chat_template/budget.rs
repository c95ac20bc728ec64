//! What a template may still write: no template is trusted, and one line of it can double a text forty times.

use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Bytes that a rendering may still make, of all its texts and lists together.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
}

/// What a list takes in memory for each of its elements, about.
const ELEMENT_BYTES: usize = 32;

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        Budget { left: AtomicUsize::new(bytes) }
    }

    /// Takes `bytes` of what is left.
    ///
    /// # Errors
    /// If that is more than is left.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Error> {
        let charged = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        charged.map(|_| ()).map_err(|_| Error::new(ErrorKind::InvalidOperation, "the template makes too much text"))
    }

    /// Takes what a list of so many elements needs.
    ///
    /// # Errors
    /// As [`Budget::charge`].
    pub(super) fn charge_elements(&self, count: usize) -> Result<(), Error> {
        self.charge(count.saturating_mul(ELEMENT_BYTES))
    }

    /// Takes what `value` needs, without what its elements refer to.
    ///
    /// # Errors
    /// As [`Budget::charge`].
    pub(super) fn charge_value(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.charge(text.len()),
            None if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
                self.charge_elements(value.len().unwrap_or(0))
            }
            None => Ok(()),
        }
    }
}

/// A text that grows within a budget.
pub(super) struct Text<'b> {
    budget: &'b Budget,
    text: String,
}

impl Text<'_> {
    pub(super) fn new(budget: &Budget) -> Text<'_> {
        Text { budget, text: String::new() }
    }

    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.budget.charge(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}
