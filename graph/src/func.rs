//! A function: values, nodes and regions, with their types and locations.

use std::fmt;
use std::sync::Arc;

use crate::dtype::TensorType;
use crate::entity::{Arena, NodeId, RegionId, ValueId};
use crate::error::{TypeError, Violation, require};
use crate::ops::{Op, RegionTypes};

/// Where in the user's model a node was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The path of scopes, outermost first, joined by dots: `model.layers.0.self_attn`. Empty at the top.
    pub scope: Arc<str>,
    /// The source file; empty when not known.
    pub file: Arc<str>,
    /// The line in `file`, counted from 1; 0 when not known.
    pub line: u32,
}

impl Location {
    /// A location about which nothing is known.
    pub fn unknown() -> Location {
        Location { scope: "".into(), file: "".into(), line: 0 }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.file, &*self.scope) {
            ("", "") => write!(f, "unknown location"),
            ("", scope) => write!(f, "in {scope}"),
            (file, "") => write!(f, "{file}:{}", self.line),
            (file, scope) => write!(f, "{file}:{} in {scope}", self.line),
        }
    }
}

/// What defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// The parameter of a region with this index.
    Param(RegionId, usize),
    /// The result of a node with this index.
    Result(NodeId, usize),
}

/// A value's type and where it comes from.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// The type, inferred once when the value was made.
    pub ty: TensorType,
    /// The node or region that defines the value.
    pub definition: Definition,
}

/// The application of an op to operands.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op with its attributes.
    pub op: Op,
    /// The operands, in the op's order. All are defined before this node.
    pub operands: Vec<ValueId>,
    /// The results, in the op's order.
    pub results: Vec<ValueId>,
    /// The nested bodies of a control-flow op.
    pub regions: Vec<RegionId>,
    /// Where the model made the node.
    pub location: Location,
}

/// A list of nodes with parameters and results; it may use values of the regions around it.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// Values that whoever runs the region supplies.
    pub params: Vec<ValueId>,
    /// The nodes, in order: operands come before their users.
    pub nodes: Vec<NodeId>,
    /// What the region returns.
    pub results: Vec<ValueId>,
}

/// What the caller of a function may know and ask about one of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The name, for messages and dumps; a path such as `model.norm.weight`.
    pub name: String,
    /// The index of the result that may take over this parameter's memory: the caller gives the buffer up (donation).
    pub donated_to: Option<usize>,
}

/// A graph with parameters and results.
///
/// Entries are only ever added; a node that is not listed in any region is dead and is not printed, evaluated or
/// lowered ([`dce`](crate::dce::dce) builds a function without them).
#[derive(Clone, Debug)]
pub struct Func {
    /// The name, `main` if nobody cares.
    pub name: String,
    /// Names and donation of the parameters; as many as the body region has parameters.
    pub params: Vec<Param>,
    /// Names of the results; as many as the body region has results.
    pub result_names: Vec<String>,
    values: Arena<ValueId, ValueData>,
    nodes: Arena<NodeId, Node>,
    regions: Arena<RegionId, Region>,
}

impl Func {
    /// A function without parameters, nodes or results.
    pub fn new(name: impl Into<String>) -> Func {
        let mut regions = Arena::new();
        regions.push(Region::default());
        Func {
            name: name.into(),
            params: Vec::new(),
            result_names: Vec::new(),
            values: Arena::new(),
            nodes: Arena::new(),
            regions,
        }
    }

    /// The region that holds the function's parameters, nodes and results.
    pub fn body(&self) -> RegionId {
        crate::entity::Entity::new(0)
    }

    /// Adds a parameter of the function.
    pub fn add_param(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        self.params.push(Param { name: name.into(), donated_to: None });
        self.add_region_param(self.body(), ty)
    }

    /// Makes an empty region, to be filled and then owned by a node.
    pub fn add_region(&mut self) -> RegionId {
        self.regions.push(Region::default())
    }

    /// Adds a parameter of a region.
    pub fn add_region_param(&mut self, region: RegionId, ty: TensorType) -> ValueId {
        let definition = Definition::Param(region, self.regions[region].params.len());
        let value = self.values.push(ValueData { ty, definition });
        self.regions[region].params.push(value);
        value
    }

    /// Sets what a region returns. The function's own results are those of [`Func::body`].
    pub fn set_results(&mut self, region: RegionId, results: Vec<ValueId>) {
        if region == self.body() {
            self.result_names.resize_with(results.len(), String::new);
        }
        self.regions[region].results = results;
    }

    /// Appends the application of `op` to the end of `region` and infers the types of its results.
    ///
    /// The nested `regions` must be complete: their parameters, nodes and results set.
    ///
    /// # Errors
    /// A broken constraint of the op; the function is then unchanged.
    pub fn push(
        &mut self,
        region: RegionId,
        op: Op,
        operands: &[ValueId],
        regions: &[RegionId],
        location: Location,
    ) -> Result<NodeId, TypeError> {
        let types = match self.infer(&op, operands, regions) {
            Ok(types) => types,
            Err(violation) => return Err(self.type_error(region, &op, operands, violation, location)),
        };
        let node = self.nodes.next_id();
        let results = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| self.values.push(ValueData { ty, definition: Definition::Result(node, i) }))
            .collect();
        self.nodes.push(Node { op, operands: operands.to_vec(), results, regions: regions.to_vec(), location });
        self.regions[region].nodes.push(node);
        Ok(node)
    }

    /// The types of the results of `op` applied to these operands and regions.
    ///
    /// # Errors
    /// The first broken constraint; `I0` for a result that no memory could hold.
    pub fn infer(&self, op: &Op, operands: &[ValueId], regions: &[RegionId]) -> Result<Vec<TensorType>, Violation> {
        let operands: Vec<&TensorType> = operands.iter().map(|&value| self.ty(value)).collect();
        let regions: Vec<RegionTypes<'_>> = regions.iter().map(|&region| self.region_types(region)).collect();
        let results = op.infer(&operands, &regions)?;
        for ty in &results {
            require!(ty.is_addressable(), "I0", "the result {ty} is larger than any memory");
        }
        Ok(results)
    }

    /// The types of a region's parameters and results.
    pub fn region_types(&self, region: RegionId) -> RegionTypes<'_> {
        let region = &self.regions[region];
        RegionTypes {
            params: region.params.iter().map(|&value| self.ty(value)).collect(),
            results: region.results.iter().map(|&value| self.ty(value)).collect(),
        }
    }

    /// An error about an op that would have stood at the end of `region`, with the IR before it.
    fn type_error(
        &self,
        region: RegionId,
        op: &Op,
        operands: &[ValueId],
        violation: Violation,
        location: Location,
    ) -> TypeError {
        let mut context: Vec<String> =
            self.context_before(region, operands).into_iter().map(|node| crate::text::node_line(self, node)).collect();
        context.push(crate::text::untyped_line(self, op, operands));
        TypeError { op: op.name().to_string(), violation, location, context: context.into() }
    }

    /// At most two nodes that explain a failing one: those that define its operands, else the last of the region.
    fn context_before(&self, region: RegionId, operands: &[ValueId]) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = operands.iter().filter_map(|&value| self.defining_node(value)).collect();
        if nodes.is_empty() {
            nodes.extend(self.regions[region].nodes.iter().rev().take(2));
        }
        nodes.sort_unstable();
        nodes.dedup();
        nodes.split_off(nodes.len().saturating_sub(2))
    }

    /// A value's type.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value].ty
    }

    /// A value's type and definition.
    pub fn value(&self, value: ValueId) -> &ValueData {
        &self.values[value]
    }

    /// The node whose result `value` is, or `None` for a parameter.
    pub fn defining_node(&self, value: ValueId) -> Option<NodeId> {
        match self.values[value].definition {
            Definition::Result(node, _) => Some(node),
            Definition::Param(..) => None,
        }
    }

    /// A node.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node]
    }

    /// A region.
    pub fn region(&self, region: RegionId) -> &Region {
        &self.regions[region]
    }

    /// The number of nodes, dead ones included.
    pub(crate) fn num_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The number of regions, dead ones included.
    pub(crate) fn num_regions(&self) -> usize {
        self.regions.len()
    }

    /// A value's type and definition, or `None` when there is no such value.
    pub(crate) fn find_value(&self, value: ValueId) -> Option<&ValueData> {
        self.values.get(value)
    }

    /// A node, or `None` when there is no such node.
    pub(crate) fn find_node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// A region, or `None` when there is no such region.
    pub(crate) fn find_region(&self, region: RegionId) -> Option<&Region> {
        self.regions.get(region)
    }

    /// The values of the function's parameters.
    pub fn param_values(&self) -> &[ValueId] {
        &self.regions[self.body()].params
    }

    /// The values that the function returns.
    pub fn result_values(&self) -> &[ValueId] {
        &self.regions[self.body()].results
    }

    /// The types of the parameters.
    pub fn param_types(&self) -> Vec<TensorType> {
        self.param_values().iter().map(|&value| self.ty(value).clone()).collect()
    }

    /// The types of the results.
    pub fn result_types(&self) -> Vec<TensorType> {
        self.result_values().iter().map(|&value| self.ty(value).clone()).collect()
    }

    /// All values, dead ones included, in the order they were made.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &ValueData)> {
        self.values.iter()
    }

    /// The nodes of `region` and of the regions within, in order, an owner before its regions.
    pub fn walk(&self, region: RegionId) -> Vec<NodeId> {
        let mut found = Vec::new();
        let mut stack = vec![self.regions[region].nodes.iter()];
        while let Some(nodes) = stack.last_mut() {
            let Some(&node) = nodes.next() else {
                stack.pop();
                continue;
            };
            found.push(node);
            let regions = &self.nodes[node].regions;
            stack.extend(regions.iter().rev().map(|&region| self.regions[region].nodes.iter()));
        }
        found
    }

    /// The values of enclosing regions that `region` uses, each once, in order of first use.
    pub fn captures(&self, region: RegionId) -> Vec<ValueId> {
        let mut inside: Vec<bool> = vec![false; self.values.len()];
        let mut captures = Vec::new();
        self.collect_captures(region, &mut inside, &mut captures);
        captures
    }

    fn collect_captures(&self, region: RegionId, inside: &mut [bool], captures: &mut Vec<ValueId>) {
        use crate::entity::Entity;
        let Region { params, nodes, results } = &self.regions[region];
        params.iter().for_each(|value| inside[value.index()] = true);
        let capture = |value: ValueId, inside: &mut [bool], captures: &mut Vec<ValueId>| {
            // Marked as seen, so that it is listed once.
            if !std::mem::replace(&mut inside[value.index()], true) {
                captures.push(value);
            }
        };
        for &node in nodes {
            let node = &self.nodes[node];
            node.operands.iter().for_each(|&value| capture(value, inside, captures));
            for &region in &node.regions {
                self.collect_captures(region, inside, captures);
            }
            node.results.iter().for_each(|value| inside[value.index()] = true);
        }
        results.iter().for_each(|&value| capture(value, inside, captures));
    }
}

/// Ways to break a function, for tests of the verifier.
#[cfg(test)]
impl Func {
    pub(crate) fn value_mut(&mut self, value: ValueId) -> &mut ValueData {
        &mut self.values[value]
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node]
    }

    pub(crate) fn region_mut(&mut self, region: RegionId) -> &mut Region {
        &mut self.regions[region]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    const NESTED: &str = "\
func @f(%0: f32[], %1: f32[]) -> (f32[]) {
  %2: f32[] = tanh(%1)
  %8: f32[] = scan(%0) {num_carry = 1, length = 2, reverse = false} ({
    ^(%3: f32[]):
    %4: f32[] = sine(%2)
    %7: f32[] = remat() ({
      %5: f32[] = add(%4, %0)
      %6: f32[] = add(%5, %2)
      return %6
    })
    return %7
  })
  %9: i1[] = is_finite(%8)
  %10: f32[] = if(%9) ({
    return %8
  }, {
    %11: f32[] = cosine(%1)
    return %11
  })
  return %10
}
";

    #[test]
    fn walk_goes_in_order_owners_first() {
        let func = parse("test", NESTED).unwrap_or_else(|error| panic!("{error}"));
        let names: Vec<&str> = func.walk(func.body()).iter().map(|&node| func.node(node).op.name()).collect();
        assert_eq!(names, ["tanh", "scan", "sine", "remat", "add", "add", "is_finite", "if", "cosine"]);
    }

    #[test]
    fn captures_are_listed_once_in_order_of_use() {
        let func = parse("test", NESTED).unwrap_or_else(|error| panic!("{error}"));
        let captures: Vec<String> = func
            .walk(func.body())
            .iter()
            .flat_map(|&node| &func.node(node).regions)
            .map(|&region| format!("{:?}", func.captures(region)))
            .collect();
        // Of the scan, the remat, and the two regions of the if.
        assert_eq!(captures, ["[%2, %0]", "[%4, %0, %2]", "[%8]", "[%1]"]);
        assert_eq!(func.captures(func.body()), []);
    }

    #[test]
    fn definitions() {
        let func = parse("test", NESTED).unwrap_or_else(|error| panic!("{error}"));
        for (value, data) in func.values() {
            let found = match data.definition {
                Definition::Param(region, i) => func.region(region).params[i],
                Definition::Result(node, i) => func.node(node).results[i],
            };
            assert_eq!(found, value);
        }
    }

    #[test]
    fn a_refused_node_changes_nothing() {
        let mut func = parse("test", NESTED).unwrap_or_else(|error| panic!("{error}"));
        let before = (func.to_string(), func.values().count(), func.num_nodes());
        let operands = func.param_values().to_vec();
        let result = func.push(func.body(), Op::Select, &operands, &[], Location::unknown());
        assert_eq!(result.map_err(|error| error.violation.constraint), Err("I0"));
        assert_eq!((func.to_string(), func.values().count(), func.num_nodes()), before);
    }
}
