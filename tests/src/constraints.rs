//! The constraint labels of ops, read from the documentation and the code that states them.

use std::collections::{BTreeMap, BTreeSet};

use lmc_graph::ops::{BinaryOp, UnaryOp};
use lmc_graph::{DType, Op};

use crate::source::Source;

/// The labels of an op's constraints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    /// Those after `*Constraints*` in the op's documentation.
    pub documented: BTreeSet<String>,
    /// Those that the op's type rule names where it checks.
    pub checked: BTreeSet<String>,
}

/// The constraints of each op, by its name in the text form, from the sources in `graph/src/ops`.
///
/// An op is documented at its struct of attributes (`pub struct DotGeneral`), at the enumeration of its family
/// (`pub enum UnaryOp`), or at its type rule (`fn select_type`). `I0`, the number of operands and regions, is the same
/// for all ops and left out.
pub fn of_ops(sources: &[Source]) -> BTreeMap<String, Constraints> {
    let mut found: BTreeMap<String, Constraints> = BTreeMap::new();
    for source in sources {
        let mut documentation = String::new();
        let mut rule: Vec<String> = Vec::new();
        for line in source.text.lines() {
            let trimmed = line.trim_start();
            if let Some(text) = trimmed.strip_prefix("///") {
                documentation.push_str(text);
                continue;
            }
            if trimmed.starts_with("#[") {
                continue;
            }
            if let Some(item) = item_name(trimmed) {
                let ops = ops_of_item(item);
                for op in &ops {
                    let documented = &mut found.entry(op.clone()).or_default().documented;
                    if let Some((_, list)) = documentation.split_once("*Constraints*") {
                        documented.extend(labels(list, '(', ')'));
                    }
                }
                if item.ends_with("_type") {
                    rule = ops;
                }
            }
            documentation.clear();
            if line == "}" {
                rule.clear();
            }
            for op in &rule {
                let checked = &mut found.entry(op.clone()).or_default().checked;
                checked.extend(labels(line, '"', '"').into_iter().filter(|label| label != "I0"));
            }
        }
    }
    found
}

/// The name of the struct, enumeration or function that a line declares.
fn item_name(line: &str) -> Option<&str> {
    let rest = ["pub struct ", "pub enum ", "pub(crate) fn "].iter().find_map(|start| line.strip_prefix(start))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The ops whose constraints stand at the item of this name; none for items that are not ops.
fn ops_of_item(item: &str) -> Vec<String> {
    let families: [(&str, &str, Vec<&str>); 2] = [
        ("UnaryOp", "unary_type", UnaryOp::ALL.iter().map(|op| op.name()).collect()),
        ("BinaryOp", "binary_type", BinaryOp::ALL.iter().map(|op| op.name()).collect()),
    ];
    if let Some((_, _, names)) = families.into_iter().find(|(name, rule, _)| [*name, *rule].contains(&item)) {
        return names.into_iter().map(ToString::to_string).collect();
    }
    let name = item.strip_suffix("_type").map_or_else(|| snake_case(item), ToString::to_string);
    if Op::names().contains(&name.as_str()) { vec![name] } else { Vec::new() }
}

/// `DotGeneral` → `dot_general`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// The labels (`C10`, `I1`) that stand between these marks.
fn labels(text: &str, open: char, close: char) -> Vec<String> {
    let candidates = text.split(open).skip(1).filter_map(|rest| rest.split(close).next());
    candidates.filter(|label| is_label(label)).map(ToString::to_string).collect()
}

fn is_label(label: &str) -> bool {
    let number = label.strip_prefix(['C', 'I']);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The op and the label that a filetest function breaks, by its name: `dot_general_c10`, or `dot_general_c10_reason`.
pub fn broken_by(function: &str) -> Option<(String, String)> {
    for (at, _) in function.match_indices('_') {
        let word = function[at + 1..].split('_').next().unwrap_or_default();
        let label = word.to_uppercase();
        let op = &function[..at];
        // `add_i32` is for an element type. Booleans are `bool` there, so that `add_i1` is for the constraint.
        let is_dtype = word != DType::Bool.name() && word.parse::<DType>().is_ok();
        if is_label(&label) && !is_dtype && Op::names().contains(&op) {
            return Some((op.to_string(), label));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_documentation_and_code() {
        let text = r#"
attributes! {
    /// Sorts.
    ///
    /// *Constraints*: (C1) there is at least one operand. (C2) all have
    /// the same shape, (see above). (I1) x.
    pub struct Sort {
        /// (C9) is not among them.
        pub dimension: usize,
    }
}
pub(crate) fn sort_type(op: &Sort, operands: &[&TensorType]) -> Inferred {
    require!(false, "C1", "expected (C5)");
    require!(false, "I0", "x");
}
/// *Constraints*: (I1) floats.
pub enum UnaryOp {
"#;
        let found = of_ops(&[Source { path: "sort.rs".into(), text: text.into() }]);
        let set = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(found["sort"], Constraints { documented: set(&["C1", "C2", "I1"]), checked: set(&["C1"]) });
        assert_eq!(found["tanh"].documented, set(&["I1"]));
    }

    #[test]
    fn names_of_functions() {
        let check = |name: &str, expected: Option<(&str, &str)>| {
            assert_eq!(broken_by(name), expected.map(|(op, label)| (op.to_string(), label.to_string())), "{name}");
        };
        check("dot_general_c10", Some(("dot_general", "C10")));
        check("dot_general_c13_narrower", Some(("dot_general", "C13")));
        check("add_i1", Some(("add", "I1")));
        check("add_cause", None);
        check("add_f32", None);
        check("add_i32", None);
        check("frobnicate_c1", None);
    }
}
