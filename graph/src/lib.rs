//! The IR of lmc: tensor functions as graphs, with their types, text form, verifier and meaning.
//!
//! Models build it, differentiation turns one function into another, lowering turns a function into StableHLO. This page
//! is its specification; an op's own is the documentation of its attributes, or of its variant in [`ops`].
//!
//! ```
//! use lmc_graph::{Builder, DType, Literal, TensorType, eval, text, verify};
//!
//! let func = Builder::build("mean_square", |b| {
//!     let x = b.param("x", TensorType::new(DType::F32, [4]));
//!     vec![b.scope("square", || x * x).sum(&[0]) * 0.25]
//! });
//! verify(&func)?;
//! assert_eq!(
//!     func.to_string(),
//!     "\
//! func @mean_square(%0: f32[4] \"x\") -> (f32[]) {
//!   %1: f32[4] = multiply(%0, %0)
//!   %2: f32[] = reduce(%1) {op = add, dimensions = [0]}
//!   %3: f32[] = constant() {value = dense<f32[]: 0.25>}
//!   %4: f32[] = multiply(%2, %3)
//!   return %4
//! }
//! "
//! );
//! assert_eq!(text::print(&text::parse("model.lmir", &text::print(&func))?), text::print(&func));
//! assert_eq!(eval(&func, &[Literal::new([4], &[1.0f32, 2.0, 3.0, 4.0])])?, [Literal::scalar(7.5f32)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Functions, values and nodes
//!
//! A [`Func`] takes tensors and returns tensors. It has no state and no effects: the same arguments give the same
//! results, and what the results do not need can be left out ([`dce`](dce::dce)).
//!
//! A *value* is a tensor: a parameter, or a result of a node. It is defined once and never changes (SSA). A [`Node`]
//! applies an [`Op`] to *operands*, which are values, and has any number of *results*. What is known when the graph is
//! built (dimensions, a direction, an element type) is an *attribute* of the op.
//!
//! Nodes stand in order, operands before their users: forward order evaluates, reverse order differentiates. The order
//! means nothing else.
//!
//! # Regions and captures
//!
//! Control flow is an op with [`Region`]s: lists of nodes with parameters and results of their own. A function's body is
//! a region too. A region belongs to one node, and may use the values defined before that node, in the regions around
//! it: it *captures* them ([`Func::captures`]), as a Rust closure would. A value defined inside is visible inside only.
//!
//! `scan` is the loop of known length, and the differentiable one; `while` is the loop with a condition; `if` runs one
//! of two regions; `remat` runs its region, and its inside is computed again by the backward pass.
//!
//! # Types
//!
//! A [`TensorType`] is an element type and a static shape; a scalar has the shape `[]`. Tensors are dense and row-major.
//! A dimension may have size 0, and the tensor then no elements. Every type is
//! [addressable](TensorType::is_addressable).
//!
//! Types are inferred when a node is made, from op, operands and regions alone. Each op lists its constraints, numbered
//! as StableHLO numbers them (`C1`, ...) where it has them; `I1`, ... are about kinds of operands. `I0` belongs to every
//! op: the numbers of operands and regions, and results that are addressable.
//!
//! Nothing is implicit: operands of `add` have one type, and broadcasting and conversion are nodes
//! (`broadcast_in_dim`, `convert`). Methods of [`Value`] add them where NumPy would broadcast.
//!
//! # Numbers
//!
//! - Floats are IEEE 754 (`f64`, `f32`, `f16`) and `bf16`, which is `f32` with 7 bits of fraction. An op's result is the
//!   exact one, rounded to nearest even: this is what [`eval`](eval::eval) computes, up to the error of f64. A device may
//!   differ by its own rounding of transcendental functions, by the order of sums, by keeping more digits between
//!   `bf16` or `f16` ops, and in which NaN it makes.
//! - `dot_general` multiplies floats narrower than 32 bits exactly, sums in `f32` or wider, and rounds once to its
//!   `result_dtype`. Attention computes scores and softmax in `f32`.
//! - Signed and unsigned integers wrap (two's complement). Division by zero and shifts beyond the width have values,
//!   which the ops state.
//! - Booleans (`i1`) are 0 or 1, one byte each on the host.
//! - Random bits are a function of a key, which is a value: the same key gives the same bits on every device.
//!
//! # Locations
//!
//! Every node has a [`Location`]: the path of scopes in the model (`model.layers.0.self_attn`) and the source line that
//! made it. Every pass hands it on, into the lowered program, so that a compiler's message or a profile names the
//! model's line.
//!
//! # Donation
//!
//! A parameter may be *donated* to a result ([`Param::donated_to`]): the caller gives its buffer up, and the result may
//! take over the memory. It must have the result's type, and a result takes over one parameter at most. It changes no
//! value.
//!
//! # Invariants
//!
//! 1. The op set is StableHLO's: its names, attribute names and constraint labels. The exceptions are listed in [`ops`].
//!    What can be composed (softmax, norms, losses) is a function, not an op.
//! 2. A node's operands precede it.
//! 3. Nothing implicit: broadcasting and `convert` are nodes.
//! 4. A verified function prints, evaluates, differentiates (or says which op cannot) and lowers without failing.
//! 5. An op is defined in one file: attributes, constraints, type rule, reference value, builder method, documentation.
//! 6. This crate knows nothing of derivatives or StableHLO text.
//! 7. A match that routes ops to rules has no wildcard arm: forgetting a rule is a compile error.
//! 8. Every node has a location.
//! 9. The reference evaluator is the meaning of the IR; every other way to run is compared with it.
//! 10. Printing and parsing are inverse, with no code per op.
//!
//! # Failure
//!
//! [`Func::push`], [`text::parse`], [`verify`](verify::verify) and [`eval`](eval::eval) return errors: what they are
//! given may come from a file, or from a pass with a mistake. Methods of [`Value`] and [`Builder`] panic, with the same
//! rendered error and the caller's line: in Rust model code a wrong shape is a bug, like an index out of bounds. Passes
//! take verified functions and panic on others.
//!
//! # Reading order
//!
//! [`dtype`] and [`literal`] (types and data), [`entity`] and [`func`] (the graph), [`attributes`] and [`ops`] (what
//! nodes do), [`error`], [`builder`] (how models make graphs), [`text`], [`verify`](mod@verify), [`eval`](mod@eval) (what
//! it all means), [`compose`] (functions of ops), [`decompose`] (attention in terms of other ops), [`dce`](mod@dce) and
//! [`hoist`].

pub mod attributes;
pub mod builder;
pub mod compose;
pub mod dce;
pub mod decompose;
pub mod dtype;
pub mod entity;
pub mod error;
pub mod eval;
pub mod func;
pub mod hoist;
pub mod literal;
pub mod ops;
pub mod text;
pub mod verify;

pub use builder::{Builder, Copier, Value};
pub use dce::dce;
pub use dtype::{DType, TensorType};
pub use entity::{Entity, NodeId, RegionId, ValueId};
pub use error::{TypeError, Violation};
pub use eval::{EvalError, Tensor, eval, eval_f64};
pub use func::{Func, Location, Node, Param, Region};
pub use hoist::hoist_conversions;
pub use literal::{Element, Literal};
pub use ops::Op;
pub use verify::{VerifyErrors, verify};
