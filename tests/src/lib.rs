//! Tests across the crates of lmc: filetests, comparison with recorded references, rules about the sources.
//!
//! This library holds what the tests in `tests/` share. Nothing depends on this crate.
//!
//! # Invariants
//!
//! - A test is data: a function in the text form with what is expected of it, or a recorded file. Code that touches the
//!   crates under test is in few places.
//! - What is recorded here was computed by somebody else (JAX, PyTorch, `transformers`), by scripts in `references`.
//! - Nothing is skipped silently: what a file asks not to check is counted and printed, with a reason beside it.
//! - The plugin is found or fetched as the program does it; tests that need it fail without it.
//! - No test asserts a time.
//!
//! # Reading order
//!
//! [`filetest`]: the format of files in `filetests`, and how one is run; [`check`]: the checks themselves, on one
//! function; [`plugin`]: the shared client; [`described`]: programs for GPUs that are not there; [`constraints`] and
//! [`source`] for the rules about sources.

pub mod check;
pub mod constraints;
pub mod described;
pub mod filetest;
pub mod plugin;
pub mod source;
pub mod wasm;
