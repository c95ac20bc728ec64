//! Why a function cannot be differentiated.

use std::fmt;

use lmc_graph::{Func, Location, NodeId};

/// A function that cannot be differentiated as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// A cotangent arrives at an op that has no derivative.
    Op {
        /// The op's name in the text form.
        op: String,
        /// Why it has no derivative, and what to use instead.
        reason: String,
        /// Where the model made the node.
        location: Location,
        /// The types that the node takes and returns, as in `(f32[2]) -> (f32[2])`.
        signature: String,
    },
    /// The function or the parameters asked for do not fit.
    Request {
        /// The function's name.
        func: String,
        /// What was expected and what was found.
        reason: String,
    },
}

impl DiffError {
    /// The error that `node` of `func` has no derivative because of `reason`.
    pub(crate) fn op(func: &Func, node: NodeId, reason: &str) -> DiffError {
        let node = func.node(node);
        let types = |values: &[lmc_graph::ValueId]| {
            values.iter().map(|&value| func.ty(value).to_string()).collect::<Vec<_>>().join(", ")
        };
        DiffError::Op {
            op: node.op.name().to_string(),
            reason: reason.to_string(),
            location: node.location.clone(),
            signature: format!("({}) -> ({})", types(&node.operands), types(&node.results)),
        }
    }
}

impl fmt::Display for DiffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiffError::Op { op, reason, location, signature } => {
                write!(f, "error: {op}: {reason}\n  --> {location}\n > | {op} : {signature}")
            }
            DiffError::Request { func, reason } => write!(f, "error: cannot differentiate `{func}`: {reason}"),
        }
    }
}
