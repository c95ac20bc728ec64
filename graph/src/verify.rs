//! Checks that a function is one: what later stages rely on without looking.
//!
//! [`Func::push`] and the [`Builder`](crate::Builder) make most of these faults impossible; a pass with a mistake can
//! still make some, and a text can ask for impossible donations. Each has a label, as the constraints of ops have:
//!
//! - (V1) Every value, node and region that is mentioned exists.
//! - (V2) A node stands in one region, once. A region belongs to one node, once; the function's body to none.
//! - (V3) A value is defined before it is used, in the same region or one around it.
//! - (V4) A value that is listed as a parameter or result knows itself as that, and its type is addressable.
//! - (V5) The constraints of every op hold, under the op's own labels; there are as many results as the type rule says,
//!   with the types it says.
//! - (V6) There are as many parameter descriptions as parameters, and as many result names as results.
//! - (V7) A donated parameter goes to a result that exists, has its type, and gets no other parameter.
//!
//! Nodes and regions that cannot be reached from the body are dead and not looked at.

use std::fmt;

use crate::entity::{Entity, NodeId, RegionId, ValueId};
use crate::error::{TypeError, Violation};
use crate::func::{Definition, Func, Location};
use crate::text::{header_line, node_line};

/// Every fault found in one function, in the order of its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct VerifyErrors {
    /// The function's name.
    pub func: String,
    /// The faults, at least one.
    pub errors: Vec<TypeError>,
}

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        let count = self.errors.len();
        write!(f, "@{}: {count} error{}", self.func, if count == 1 { "" } else { "s" })
    }
}

/// Checks everything listed at the top of this module.
///
/// # Errors
/// All faults found; one that hides others (a value that does not exist) is reported alone for its node.
pub fn verify(func: &Func) -> Result<(), VerifyErrors> {
    let mut verifier = Verifier {
        func,
        errors: Vec::new(),
        visible: vec![false; func.values().count()],
        seen_nodes: vec![false; func.num_nodes()],
        seen_regions: vec![false; func.num_regions()],
    };
    verifier.region(func.body(), None);
    verifier.signature();
    if verifier.errors.is_empty() {
        return Ok(());
    }
    Err(VerifyErrors { func: func.name.clone(), errors: verifier.errors })
}

struct Verifier<'a> {
    func: &'a Func,
    errors: Vec<TypeError>,
    /// The values that a node standing here may use.
    visible: Vec<bool>,
    seen_nodes: Vec<bool>,
    seen_regions: Vec<bool>,
}

impl Verifier<'_> {
    /// Reports a fault of a node, or of the function itself.
    fn report(&mut self, node: Option<NodeId>, constraint: &'static str, message: String) {
        let violation = Violation { constraint, message };
        let error = match node.and_then(|node| self.func.find_node(node)) {
            Some(data) => TypeError {
                op: data.op.name().to_string(),
                violation,
                location: data.location.clone(),
                context: node.into_iter().map(|node| node_line(self.func, node)).collect(),
            },
            None => TypeError {
                op: "func".into(),
                violation,
                location: Location::unknown(),
                context: [header_line(self.func)].into(),
            },
        };
        self.errors.push(error);
    }

    /// A region that belongs to `owner`, the body to none.
    fn region(&mut self, region: RegionId, owner: Option<NodeId>) {
        let func = self.func;
        let Some(data) = func.find_region(region) else {
            return self.report(owner, "V1", format!("{region} does not exist"));
        };
        if std::mem::replace(&mut self.seen_regions[region.index()], true) {
            return self.report(owner, "V2", format!("{region} already belongs to another node or the function"));
        }
        // What becomes visible here is not visible outside.
        let mut defined = Vec::new();
        for (i, &value) in data.params.iter().enumerate() {
            self.definition(owner, value, Definition::Param(region, i), &mut defined);
        }
        for &node in &data.nodes {
            self.node(node, owner, &mut defined);
        }
        for &value in &data.results {
            self.usage(owner, value, "returned");
        }
        defined.into_iter().for_each(|value| self.visible[value.index()] = false);
    }

    fn node(&mut self, node: NodeId, owner: Option<NodeId>, defined: &mut Vec<ValueId>) {
        let func = self.func;
        let Some(data) = func.find_node(node) else {
            return self.report(owner, "V1", format!("{node} does not exist"));
        };
        if std::mem::replace(&mut self.seen_nodes[node.index()], true) {
            return self.report(Some(node), "V2", format!("{node} is listed twice"));
        }
        let faults = self.errors.len();
        for &value in &data.operands {
            self.usage(Some(node), value, "used");
        }
        for &region in &data.regions {
            self.region(region, Some(node));
        }
        for (i, &value) in data.results.iter().enumerate() {
            self.definition(Some(node), value, Definition::Result(node, i), defined);
        }
        // The type rule of a node whose operands or regions are broken would fail for their sake, or not run.
        if self.errors.len() == faults {
            self.types(node);
        }
    }

    /// A value is defined here.
    fn definition(&mut self, node: Option<NodeId>, value: ValueId, definition: Definition, defined: &mut Vec<ValueId>) {
        let Some(data) = self.func.find_value(value) else {
            return self.report(node, "V1", format!("{value} does not exist"));
        };
        let describe = |definition| match definition {
            Definition::Param(region, i) => format!("parameter {i} of {region}"),
            Definition::Result(node, i) => format!("result {i} of {node}"),
        };
        if data.definition != definition {
            let message = format!("{value} is {}, it stands as {}", describe(data.definition), describe(definition));
            return self.report(node, "V4", message);
        }
        if !data.ty.is_addressable() {
            return self.report(node, "V4", format!("{value}: {} is larger than any memory", data.ty));
        }
        self.visible[value.index()] = true;
        defined.push(value);
    }

    /// A value is used here.
    fn usage(&mut self, node: Option<NodeId>, value: ValueId, used: &str) {
        if self.func.find_value(value).is_none() {
            self.report(node, "V1", format!("{value} does not exist"));
        } else if !self.visible[value.index()] {
            self.report(node, "V3", format!("{value} is {used} but not defined before, here or around here"));
        }
    }

    fn types(&mut self, node: NodeId) {
        let data = self.func.node(node);
        let inferred = match self.func.infer(&data.op, &data.operands, &data.regions) {
            Ok(inferred) => inferred,
            Err(violation) => return self.report(Some(node), violation.constraint, violation.message),
        };
        let found = data.results.iter().map(|&value| self.func.ty(value));
        if inferred.iter().ne(found.clone()) {
            let list = |types: Vec<String>| types.join(", ");
            let inferred = list(inferred.iter().map(ToString::to_string).collect());
            let found = list(found.map(ToString::to_string).collect());
            self.report(Some(node), "V5", format!("the results are ({inferred}), they stand as ({found})"));
        }
    }

    /// What the function says about its parameters and results.
    fn signature(&mut self) {
        let func = self.func;
        let (params, results) = (func.param_values(), func.result_values());
        for (what, found, expected) in [
            ("parameter descriptions", func.params.len(), params.len()),
            ("result names", func.result_names.len(), results.len()),
        ] {
            if found != expected {
                self.report(None, "V6", format!("expected {expected} {what}, found {found}"));
            }
        }
        let mut taken: Vec<Option<usize>> = vec![None; results.len()];
        for (i, param) in func.params.iter().enumerate() {
            let Some(result) = param.donated_to else { continue };
            let name = format!("parameter {i} (`{}`)", param.name);
            let types = (params.get(i), results.get(result));
            let (Some(param_ty), Some(result_ty)) =
                (types.0.and_then(|&value| func.find_value(value)), types.1.and_then(|&value| func.find_value(value)))
            else {
                let message = format!("{name} is donated to result {result}, found {} results", results.len());
                self.report(None, "V7", message);
                continue;
            };
            if let Some(other) = taken[result].replace(i) {
                self.report(None, "V7", format!("{name} is donated to result {result}, and so is parameter {other}"));
            } else if param_ty.ty != result_ty.ty {
                let (from, to) = (&param_ty.ty, &result_ty.ty);
                self.report(None, "V7", format!("{name} is {from} and donated to result {result}, which is {to}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// Values have their ids for names. node0 is the first `add`, node1 the scan's, node2 the `scan`, node3 the `tanh`.
    const TEXT: &str = "\
func @f(%0: f32[2] \"x\", %1: f32[3,2]) -> (f32[2]) {
  %2: f32[2] = add(%0, %0) loc(\"a\")
  %6: f32[2], %7: f32[3,2] = scan(%2, %1) {num_carry = 1, length = 3, reverse = false} ({
    ^(%3: f32[2], %4: f32[2]):
    %5: f32[2] = add(%3, %2) loc(\"b\")
    return %5, %4
  }) loc(\"c\")
  %8: f32[2] = tanh(%6) loc(\"d\")
  return %8
}
";

    /// Breaks the function and expects these faults: the label, op and message of each.
    fn check(breaks: impl FnOnce(&mut Func), expected: &[&str]) {
        let mut func = parse("test", TEXT).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(verify(&func), Ok(()));
        breaks(&mut func);
        let errors = verify(&func).map_or_else(|errors| errors.errors, |()| Vec::new());
        let found: Vec<String> = errors
            .iter()
            .map(|error| format!("{} {}: {}", error.violation.constraint, error.op, error.violation.message))
            .collect();
        assert_eq!(found, expected);
    }

    fn value(index: usize) -> ValueId {
        ValueId::new(index)
    }

    fn node(index: usize) -> NodeId {
        NodeId::new(index)
    }

    /// The body of the scan. The parser makes it after the function's.
    fn scan_body() -> RegionId {
        RegionId::new(1)
    }

    #[test]
    fn v1_existence() {
        check(|func| func.node_mut(node(0)).operands[1] = value(99), &["V1 add: %99 does not exist"]);
        check(|func| func.region_mut(scan_body()).nodes.push(node(99)), &["V1 scan: node99 does not exist"]);
        check(|func| func.node_mut(node(3)).regions.push(RegionId::new(9)), &["V1 tanh: region9 does not exist"]);
        check(|func| func.region_mut(func.body()).results[0] = value(99), &["V1 func: %99 does not exist"]);
        check(
            |func| func.node_mut(node(3)).results[0] = value(99),
            &["V1 tanh: %99 does not exist", "V3 func: %8 is returned but not defined before, here or around here"],
        );
    }

    #[test]
    fn v2_ownership() {
        check(|func| func.region_mut(func.body()).nodes.push(node(0)), &["V2 add: node0 is listed twice"]);
        check(
            |func| func.node_mut(node(3)).regions.push(scan_body()),
            &["V2 tanh: region1 already belongs to another node or the function"],
        );
        check(
            |func| func.node_mut(node(1)).regions.push(scan_body()),
            &["V2 add: region1 already belongs to another node or the function"],
        );
        check(
            |func| func.node_mut(node(3)).regions.push(RegionId::new(0)),
            &["V2 tanh: region0 already belongs to another node or the function"],
        );
    }

    #[test]
    fn v3_order_and_visibility() {
        check(
            |func| func.region_mut(func.body()).nodes.swap(0, 1),
            &[
                "V3 scan: %2 is used but not defined before, here or around here",
                "V3 add: %2 is used but not defined before, here or around here",
            ],
        );
        // A value of a region, outside of it.
        check(
            |func| func.node_mut(node(3)).operands[0] = value(5),
            &["V3 tanh: %5 is used but not defined before, here or around here"],
        );
    }

    #[test]
    fn v4_definitions() {
        check(
            |func| func.region_mut(func.body()).params.swap(0, 1),
            &[
                "V4 func: %1 is parameter 1 of region0, it stands as parameter 0 of region0",
                "V4 func: %0 is parameter 0 of region0, it stands as parameter 1 of region0",
                "V3 add: %0 is used but not defined before, here or around here",
                "V3 add: %0 is used but not defined before, here or around here",
                "V3 scan: %1 is used but not defined before, here or around here",
            ],
        );
        check(
            |func| func.value_mut(value(1)).ty.shape = vec![usize::MAX, 2],
            &[
                "V4 func: %1: f32[18446744073709551615,2] is larger than any memory",
                "V3 scan: %1 is used but not defined before, here or around here",
            ],
        );
    }

    #[test]
    fn v5_types() {
        check(
            |func| func.value_mut(value(2)).ty.shape = vec![7],
            &[
                "V5 add: the results are (f32[2]), they stand as (f32[7])",
                "C1 add: the operands must have the same type, found f32[2] and f32[7]",
            ],
        );
        check(
            |func| {
                func.node_mut(node(3)).results.clear();
                func.region_mut(func.body()).results[0] = value(0);
            },
            &["V5 tanh: the results are (f32[2]), they stand as ()"],
        );
        // Regions are part of the type rule.
        check(
            |func| func.region_mut(scan_body()).results.truncate(0),
            &["C4 scan: the body must return the carries (f32[2]) first, it returns ()"],
        );
    }

    #[test]
    fn v6_names() {
        check(|func| func.params.truncate(1), &["V6 func: expected 2 parameter descriptions, found 1"]);
        check(|func| func.result_names.clear(), &["V6 func: expected 1 result names, found 0"]);
    }

    #[test]
    fn v7_donation() {
        check(|func| func.params[0].donated_to = Some(0), &[]);
        check(
            |func| func.params[0].donated_to = Some(1),
            &["V7 func: parameter 0 (`x`) is donated to result 1, found 1 results"],
        );
        check(
            |func| func.params[1].donated_to = Some(0),
            &["V7 func: parameter 1 (``) is f32[3,2] and donated to result 0, which is f32[2]"],
        );
        check(
            |func| {
                func.params[0].donated_to = Some(0);
                func.params[1].donated_to = Some(0);
            },
            &["V7 func: parameter 1 (``) is donated to result 0, and so is parameter 0"],
        );
    }

    #[test]
    fn rendered() {
        let mut func = parse("test", TEXT).unwrap_or_else(|error| panic!("{error}"));
        func.node_mut(node(2)).operands[0] = value(7);
        func.params[0].donated_to = Some(3);
        let expected = "\
error: scan (V3): %7 is used but not defined before, here or around here
  --> in c
 > | %6: f32[2], %7: f32[3,2] = scan(%7, %1) {num_carry = 1, length = 3, reverse = false} ({…})
error: func (V7): parameter 0 (`x`) is donated to result 3, found 1 results
  --> unknown location
 > | func @f(%0: f32[2] \"x\" donated(3), %1: f32[3,2]) -> (f32[2]) {
@f: 2 errors";
        assert_eq!(verify(&func).map_err(|errors| errors.to_string()), Err(expected.to_string()));
    }
}
