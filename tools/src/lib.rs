//! Train language models: graph, gradient, StableHLO, XLA.
//!
//! This is the library of the program `lmc`: `config` (what the user wants), `data` and `tokenizer` (what is
//! trained on), `checkpoint` and `run` (what is kept), `error` (how all of it fails).
//!
//! # Invariants
//! - Only this crate knows file formats, and only this crate prints.
//! - Whatever comes from outside (configs, arguments, data, checkpoints) is refused with an `Error`, never a panic.
//! - Data are addressed by step and row alone, and checkpoints hold tensors by name: no trace of threads or devices.

pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod generation;
pub mod model;
pub mod run;
pub mod tokenizer;
pub mod training;

pub use error::{Error, ErrorKind, Result};
