//! Reverse-mode differentiation: a pass from graph to graph.
//!
//! [`value_and_grad`], [`grad`] and [`vjp`] take a [`Func`](lmc_graph::Func) and return one that computes derivatives
//! too. The result is an ordinary function, so it prints, evaluates, lowers, and differentiates again.
//!
//! ```
//! use lmc_autodiff::grad;
//! use lmc_graph::{Builder, DType, TensorType};
//!
//! let func = Builder::build("half_square", |b| {
//!     let x = b.param("x", TensorType::new(DType::F32, [3]));
//!     vec![(x * x * 0.5).sum(&[0])]
//! });
//! let grad = grad(&func, &[0])?;
//! assert_eq!(grad.result_types(), [TensorType::new(DType::F32, [3])]);
//! # Ok::<(), lmc_autodiff::DiffError>(())
//! ```
//!
//! # Invariants
//!
//! - A rule is a formula: operands, results and cotangents in, cotangents out. Only the engine looks values up and
//!   accumulates.
//! - Every cotangent has the type of its primal. The engine checks it, and a rule that breaks it is a bug here: a panic.
//! - An absent cotangent is `None`, never a tensor of zeros. Zeros are made where a tensor is owed to somebody: a gradient
//!   of what the loss does not depend on, a carry of a loop, a branch of an `if` that does not use a value.
//! - A derivative of a product is a product: `dot_general` in, `dot_general` out, on operands of the forward's element
//!   type. Where the forward rounds an operand from a wider float, the gradient is asked for in that wider type.
//! - What is inside of a region (the body of a `scan`, a branch of an `if`, a `remat`) is computed again in the backward
//!   pass. Of a `scan` the carries are kept, of the others nothing. A `scan` that only adds up, for a cotangent that is
//!   known before, is computed in the backward pass alone.
//! - There is one routing match over ops, without a wildcard arm; a missing rule does not compile. An op without a
//!   derivative is an error only where a cotangent arrives, and it names the model's line.
//! - A node of the backward pass has the location of the node it is for, in the scope `vjp(scope)`; a node of the forward
//!   pass that is computed again has its own, in the scope `remat(scope)`.
//!
//! # Reading order
//!
//! `engine.rs`: going forward, going in reverse. `activity.rs`: which values need a cotangent. `rules/mod.rs`: the
//! routing match. Then the formulas, in files named like those of `lmc_graph::ops`; `rules/control.rs` runs the engine
//! on regions.

mod activity;
#[cfg(test)]
mod check;
mod engine;
mod error;
mod rules;

pub use engine::{BACKWARD, RECOMPUTED, grad, value_and_grad, vjp};
pub use error::DiffError;
