//! What other crates make of files that they trust: a panic of theirs is an error here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs what may panic on a damaged file, and says why it did. Nothing that it may have left half-done is to be used then.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let reason = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        reason.unwrap_or("the reason is not known").to_owned()
    })
}
