//! The IR of lmc.

pub mod attributes;
pub mod builder;
pub mod dce;
pub mod decompose;
pub mod dtype;
pub mod entity;
pub mod error;
pub mod eval;
pub mod func;
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
pub use literal::{Element, Literal};
pub use ops::Op;
pub use verify::{VerifyErrors, verify};
