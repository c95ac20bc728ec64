//! Train language models: a model is a symbolic graph, a pass differentiates it, the whole training step becomes
//! StableHLO, and XLA runs it through PJRT.
//!
//! This is the library of the program `lmc`, and the one crate that a model of one's own depends on: the other crates
//! stand in it as [`graph`], [`autodiff`], [`lower`], [`runtime`] and [`models`].
//!
//! ```no_run
//! use lmc::graph::{DType, Literal, TensorType};
//! use lmc::models::layers::{Linear, linear};
//! use lmc::models::{LossFunc, Precision};
//! use lmc::{Device, DeviceOptions};
//!
//! # fn main() -> lmc::Result<()> {
//! let point = TensorType::new(DType::F32, [64, 2]);
//! let loss = LossFunc::build("loss", Precision::Float32, &[("x", point)], |scope, inputs| {
//!     let layer = Linear { input: ("x", 2), output: ("y", 1), std: 0.5, bias: true };
//!     let y = scope.sub("fc", |scope| linear(scope, inputs[0], &layer));
//!     (y.square().sum(&[0, 1]), scope.builder().scalar(DType::F32, 64.0))
//! });
//! println!("{}", loss.func); // the graph
//! let device = Device::open(&DeviceOptions::default())?; // fetches XLA on first use
//! let program = device.compile(&loss.func)?;
//! let types = loss.func.param_types();
//! let arguments: Vec<Literal> = types.into_iter().map(Literal::zeros).collect();
//! println!("{:?}", program.run(&device, &arguments)?);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! - Only this crate knows file formats, and only this crate prints.
//! - Whatever comes from outside (configs, arguments, data, checkpoints) is refused with an [`Error`], never a panic.
//! - Data are addressed by step and row alone, and checkpoints hold tensors by name: no trace of threads or devices.
//!
//! # Reading order
//! [`training`] is the program's heart and reads from top to bottom; it brings together [`config`] (what the user
//! wants), [`data`] and [`tokenizer`] (what is trained on), [`model`] (from settings to graphs), [`device`] (from
//! graphs to programs), [`tensors`] and [`wasm`] (what programs take, and the interpreter), [`target`] (devices that
//! need not be there), [`plan`] (what a run will take), [`checkpoint`] and [`run`] (what is kept) and [`generation`].
//! [`pretrained`] loads what was trained, by lmc or others, and [`engine`] continues texts with it; [`chat_template`]
//! makes a text of a chat, and [`serve`] does all that over HTTP. [`inspect`] looks inside of what is trained,
//! [`mod@bench`] times its parts, [`web`] makes a page of it. [`cli`] and [`commands`] are the command line, [`error`]
//! how all of it fails.

pub mod aside;
pub mod bench;
pub mod chat_template;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod corpus;
pub mod cuda;
pub mod data;
pub mod device;
mod digest;
pub mod engine;
pub mod error;
pub mod evaluation;
pub mod generation;
pub mod gradcheck;
mod guarded;
pub mod huge_pages;
pub mod inspect;
pub mod installing;
mod memory;
pub mod model;
pub mod offline;
pub mod output;
pub mod plan;
pub mod pretrained;
pub mod profile;
pub mod quantization;
pub mod requirements;
pub mod run;
pub mod serve;
pub mod target;
pub mod tensors;
pub mod tokenize;
pub mod tokenizer;
pub mod training;
pub mod wasm;
pub mod web;
mod whole_folder;

pub use lmc_autodiff as autodiff;
pub use lmc_graph as graph;
pub use lmc_lower as lower;
pub use lmc_models as models;
pub use lmc_runtime as runtime;

pub use device::{Device, DeviceOptions, Program};
pub use error::{Error, ErrorKind, Result};
pub use pretrained::{LoadOptions, Model, load};
