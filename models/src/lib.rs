//! Language models as graphs: parameters, layers, losses, optimizers, architectures, the training step.
//!
//! A model is a Rust function of a [`Scope`] and its inputs; it declares each parameter where it uses it, by Hugging
//! Face's path. [`LossFunc::build`] turns such a function into a graph from inputs and weights to a summed loss,
//! [`step::train_step_of`] turns that into the graph of one whole training step: micro-batches, gradient, clipping,
//! optimizer, schedule, metrics.
//!
//! ```
//! use lmc_graph::{DType, TensorType};
//! use lmc_models::layers::{Linear, linear};
//! use lmc_models::{LossFunc, Precision};
//!
//! // The squared error of a linear model of 3 numbers.
//! let inputs = [("x", TensorType::new(DType::F32, [4, 3])), ("y", TensorType::new(DType::F32, [4, 1]))];
//! let loss = LossFunc::build("loss", Precision::Float32, &inputs, |scope, inputs| {
//!     let layer = Linear { input: ("features", 3), output: ("outputs", 1), std: 0.1, bias: true };
//!     let error = scope.sub("fc", |scope| linear(scope, inputs[0], &layer)) - inputs[1];
//!     let count = scope.builder().scalar(DType::F32, 4.0);
//!     ((error * error).sum(&[0, 1]), count)
//! });
//! assert_eq!(loss.specs.keys().collect::<Vec<_>>(), ["fc.weight", "fc.bias"]);
//! ```
//!
//! # Invariants
//! - Paths, shapes and orientation of parameters are Hugging Face's: a `model.safetensors` needs no table of names.
//! - Parameters, optimizer state and everything that the optimizer computes are f32; layers compute in the
//!   [`Precision`]'s type; norms, softmax, logits and the loss are f32.
//! - A parameter's initial value depends on the seed and its path alone.
//! - A loss is a sum together with the number of what was summed, so that means over micro-batches, batches and devices
//!   are exact.
//! - No configuration that [`ModelConfig::validate`] accepts reaches a panic while a graph is built.
//!
//! # Reading order
//! [`params`], [`compute`] and [`scope`], then [`layers`], [`architectures`], [`loss`]; [`optimizer`] and [`schedule`], then
//! [`step`], where everything comes together; [`stored`] and [`inference`], for models that are used; [`mod@diagnose`],
//! [`look`], [`init`], [`sample`] and [`flops`].

pub mod architectures;
pub mod compute;
pub mod diagnose;
pub mod flops;
pub mod inference;
pub mod init;
pub mod layers;
pub mod look;
pub mod loss;
pub mod optimizer;
pub mod params;
pub mod sample;
pub mod schedule;
pub mod scope;
pub mod step;
pub mod stored;

pub use architectures::gpt2::{ActivationFunction, Gpt2Config, Normalization};
pub use architectures::llama::LlamaConfig;
pub use architectures::{ConfigError, Dropout, ModelConfig};
pub use compute::{Compute, Layers, LossChunk, Precision, Remat};
pub use diagnose::{Diagnosis, OPERAND_NUMBERS, Operand, Place, Probe, diagnose};
pub use layers::DocumentMask;
pub use look::{Look, look_func};
pub use loss::{IGNORE_INDEX, LossFunc, eval_func, logits_func, loss_func, training_loss_func, z_loss_func};
pub use optimizer::{AdamW, Lion, Muon, Optimizer, RateAdjustment};
pub use params::{Init, ParamSpec, Params};
pub use schedule::{Schedule, ScheduleKind};
pub use scope::Scope;
pub use step::{EMA_PREFIX, METRICS, Slot, StepConfig, TrainStep, Update, train_step, train_step_of};
