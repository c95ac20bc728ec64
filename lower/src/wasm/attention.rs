//! Attention and its backward, in terms of other ops.

use lmc_graph::decompose::decompose;
use lmc_graph::{Func, Op, TensorType};

/// The function that an attention is, from its operands to its results. Scores exist whole: the models that run in a
/// browser have short rows.
pub(super) fn decomposition(op: &Op, operands: &[TensorType]) -> Func {
    decompose(op, operands).unwrap_or_else(|| panic!("`{}` has no decomposition", op.name()))
}
