//! The errors of the IR, in one rendered form.

use std::fmt;

use crate::func::Location;

/// A broken constraint of an op: its label and what was expected and found.
///
/// The label is StableHLO's where the constraint is StableHLO's (`C10` of `dot_general`), else ours; it stands in the
/// op's documentation, at the check, and in the name of the test that breaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `C1`, `C2`, … as the op's documentation numbers them; `I1`, … for the number and kinds of operands.
    pub constraint: &'static str,
    /// What the constraint says and what was found instead.
    pub message: String,
}

/// Returns a [`Violation`] from a type rule unless the condition holds.
macro_rules! require {
    ($condition:expr, $constraint:literal, $($message:tt)*) => {
        if !$condition {
            return Err($crate::error::Violation { constraint: $constraint, message: format!($($message)*) });
        }
    };
}
pub(crate) use require;

/// A node that the type rules or the verifier refuse.
///
/// Renders as the constraint, then where the model made the node, then the IR around it with the culprit marked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TypeError {
    /// The op's name in the text form; `func` for a fault of the function itself.
    pub op: String,
    /// The broken constraint.
    pub violation: Violation,
    /// Where the node was made.
    pub location: Location,
    /// Lines of IR before the culprit, and the culprit last.
    pub context: Box<[String]>,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {} ({}): {}", self.op, self.violation.constraint, self.violation.message)?;
        write!(f, "\n  --> {}", self.location)?;
        for (i, line) in self.context.iter().enumerate() {
            let mark = if i + 1 == self.context.len() { ">" } else { " " };
            write!(f, "\n {mark} | {line}")?;
        }
        Ok(())
    }
}
