//! The text form.
use crate::{Func, NodeId, Op, ValueId};
pub(crate) fn node_line(func: &Func, node: NodeId) -> String {
    let _ = (func, node);
    String::new()
}
pub(crate) fn untyped_line(func: &Func, op: &Op, operands: &[ValueId]) -> String {
    let _ = func;
    let operands: Vec<String> = operands.iter().map(ToString::to_string).collect();
    format!("{}({})", op.name(), operands.join(", "))
}
