//! Which values get memory; the others are computed where they are read.
//!
//! A value gets memory if an op that is no expression makes it (a product, a sum, a loop); if an op needs it in memory
//! (a product's operand, a table to gather from); if it is computed and read by several groups, in a loop around which it
//! is, or over and over along a dimension that a broadcast adds before its own. Views (transposes, slices, broadcasts)
//! never do: their readers follow other strides.

use std::collections::HashMap;

use lmc_graph::func::Definition;
use lmc_graph::ops::{BroadcastInDim, Reshape};
use lmc_graph::{DType, Entity, Func, Node, NodeId, Op, RegionId, TensorType, ValueId};

/// What becomes of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Computed element by element, worth keeping.
    Computed,
    /// Computed element by element, with less work than a load.
    Cheap,
    /// Other indices of its operand.
    View,
    /// Elements at indices that are values.
    Indexed,
    /// Known without operands.
    Leaf,
    /// Groups of its own.
    Whole,
}

/// What becomes of a node.
pub(super) fn class(func: &Func, node: &Node) -> Class {
    match &node.op {
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Clamp => {
            if func.ty(node.results[0]).dtype.is_float() {
                Class::Computed
            } else {
                Class::Cheap
            }
        }
        Op::Compare(_) | Op::Convert(_) | Op::BitcastConvert(_) => Class::Cheap,
        Op::BroadcastInDim(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Reverse(_)
        | Op::Slice(_)
        | Op::StopGradient
        | Op::OptimizationBarrier => Class::View,
        Op::DynamicSlice(_) | Op::Gather(_) => Class::Indexed,
        Op::Constant(_) | Op::Iota(_) => Class::Leaf,
        Op::DynamicUpdateSlice
        | Op::While
        | Op::If
        | Op::Remat
        | Op::Concatenate(_)
        | Op::Pad(_)
        | Op::Scatter(_)
        | Op::DotGeneral(_)
        | Op::Reduce(_)
        | Op::Argmax(_)
        | Op::Sort(_)
        | Op::Scan(_)
        | Op::RngBitGenerator(_)
        | Op::ScaledDotProductAttention(_)
        | Op::ScaledDotProductAttentionBackward(_)
        | Op::CachedAttention(_)
        | Op::CacheUpdate => Class::Whole,
    }
}

/// The groups that read a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Roots {
    #[default]
    None,
    One(usize),
    Many,
}

impl Roots {
    fn and(self, other: Roots) -> Roots {
        match (self, other) {
            (Roots::None, x) | (x, Roots::None) => x,
            (Roots::One(x), Roots::One(y)) if x == y => self,
            (Roots::One(_) | Roots::Many, Roots::One(_) | Roots::Many) => Roots::Many,
        }
    }
}

/// What the readers of a value ask of it.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    roots: Roots,
    /// In memory, itself.
    in_memory: bool,
    /// In memory, or a view of what is.
    as_view: bool,
    /// Read by a region around which it is.
    captured: bool,
    /// Read again and again along outer dimensions.
    repeated: bool,
}

/// Which values of a function get memory.
#[derive(Debug)]
pub(super) struct Groups {
    stored: Vec<bool>,
    order: HashMap<NodeId, usize>,
    readers: Vec<Vec<NodeId>>,
    returned: Vec<bool>,
}

/// More operations than this are not repeated in every group that reads them.
const CHEAP: usize = 8;

impl Groups {
    /// Of a function without fused ops.
    pub(super) fn of(func: &Func) -> Groups {
        let num_values = func.values().count();
        let walk = func.walk(func.body());
        let order: HashMap<NodeId, usize> = walk.iter().enumerate().map(|(i, &node)| (node, i)).collect();
        let regions = regions_of(func);
        let costs = costs(func, &walk);
        let mut groups = Groups {
            stored: vec![false; num_values],
            order,
            readers: vec![Vec::new(); num_values],
            returned: vec![false; num_values],
        };
        let mut wanted = vec![Wanted::default(); num_values];
        let bodies = walk.iter().flat_map(|&node| func.node(node).regions.clone()).chain([func.body()]);
        for (i, region) in bodies.enumerate() {
            for &param in &func.region(region).params {
                groups.stored[param.index()] = true;
            }
            for &result in &func.region(region).results {
                groups.returned[result.index()] = true;
                // Each is a reader like no other.
                let roots = &mut wanted[result.index()].roots;
                *roots = roots.and(Roots::One(walk.len() + i));
            }
        }
        for &id in walk.iter().rev() {
            let node = func.node(id);
            let class = class(func, node);
            let stored = class == Class::Whole || groups.is_stored_expression(func, node, class, &wanted, &costs);
            for &result in &node.results {
                groups.stored[result.index()] = stored;
            }
            let own = node.results.first().map(|result| wanted[result.index()]).unwrap_or_default();
            for (i, &operand) in node.operands.iter().enumerate() {
                groups.readers[operand.index()].push(id);
                let wants = &mut wanted[operand.index()];
                let roots = if stored { Roots::One(groups.order[&id]) } else { own.roots };
                wants.roots = wants.roots.and(roots);
                wants.captured |= regions[&id] != region_of(func, &regions, operand) || (own.captured && !stored);
                wants.in_memory |= needs_memory(func, node, i);
                wants.as_view |= matches!(node.op, Op::DotGeneral(_)) || (class == Class::View && own.as_view);
                wants.repeated |= (!stored && own.repeated) || repeats(node, func.ty(operand));
            }
        }
        groups
    }

    fn is_stored_expression(&self, func: &Func, node: &Node, class: Class, wanted: &[Wanted], costs: &[usize]) -> bool {
        let result = node.results[0];
        let wants = wanted[result.index()];
        let shared = wants.roots == Roots::Many || wants.captured || wants.repeated;
        let size = func.ty(result).num_elements();
        wants.in_memory
            || match class {
                Class::Leaf => false,
                Class::View => false,
                Class::Computed => self.returned[result.index()] || wants.as_view || (shared && size > 0),
                Class::Cheap => {
                    wants.as_view || (shared && costs[result.index()] > CHEAP) || self.returned[result.index()]
                }
                Class::Indexed => wants.as_view || shared || self.returned[result.index()],
                Class::Whole => true,
            }
    }

    /// Whether a value gets memory.
    pub(super) fn is_stored(&self, value: ValueId) -> bool {
        self.stored[value.index()]
    }

    /// Whether the group that computes `result` may write it where `param` is: it reads no other element of that than the
    /// one it replaces, and nobody reads it later.
    pub(super) fn may_replace(&self, func: &Func, param: ValueId, result: ValueId) -> bool {
        let Some(writer) = func.defining_node(result) else { return false };
        let class = class(func, func.node(writer));
        let elementwise = matches!(class, Class::Computed | Class::Cheap) && self.is_stored(result);
        elementwise && !self.returned[param.index()] && self.reads_before(func, param, writer, true)
    }

    /// Whether all readers of `value` come before `writer`, or are part of it and read the same element.
    fn reads_before(&self, func: &Func, value: ValueId, writer: NodeId, same_element: bool) -> bool {
        self.readers[value.index()].iter().all(|&reader| {
            let node = func.node(reader);
            let class = class(func, node);
            let result = node.results[0];
            let same = same_element
                && matches!(class, Class::Computed | Class::Cheap)
                && func.ty(value).shape == func.ty(result).shape;
            if reader == writer {
                return same;
            }
            if class == Class::Whole || self.is_stored(result) {
                return self.order[&reader] < self.order[&writer];
            }
            !self.returned[result.index()] && self.reads_before(func, result, writer, same)
        })
    }
}

/// Whether an operand has to be in memory.
fn needs_memory(func: &Func, node: &Node, operand: usize) -> bool {
    match &node.op {
        Op::Reshape(op) => !splits(func.ty(node.operands[0]), op),
        Op::DynamicSlice(_) | Op::Gather(_) => operand == 0,
        Op::Scan(op) => operand >= op.num_carry,
        Op::If | Op::RngBitGenerator(_) => true,
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Clamp
        | Op::DynamicUpdateSlice
        | Op::While
        | Op::Remat
        | Op::StopGradient
        | Op::OptimizationBarrier
        | Op::Compare(_)
        | Op::Convert(_)
        | Op::BitcastConvert(_)
        | Op::Constant(_)
        | Op::Iota(_)
        | Op::BroadcastInDim(_)
        | Op::Transpose(_)
        | Op::Reverse(_)
        | Op::Slice(_)
        | Op::Concatenate(_)
        | Op::Pad(_)
        | Op::Scatter(_)
        | Op::DotGeneral(_)
        | Op::Reduce(_)
        | Op::Argmax(_)
        | Op::Sort(_)
        | Op::ScaledDotProductAttention(_)
        | Op::ScaledDotProductAttentionBackward(_)
        | Op::CachedAttention(_)
        | Op::CacheUpdate => false,
    }
}

/// For each dimension of the operand the dimensions of the result that it becomes, if a reshape only splits dimensions,
/// and adds and removes those of size 1.
pub(super) fn split_dimensions(operand: &TensorType, op: &Reshape) -> Option<Vec<Vec<usize>>> {
    let mut parts = Vec::with_capacity(operand.rank());
    let mut d = 0;
    for &size in &operand.shape {
        let (mut own, mut product) = (Vec::new(), 1);
        while product < size && d < op.shape.len() {
            product *= op.shape[d];
            own.push(d);
            d += 1;
        }
        if product != size.max(1) {
            return None;
        }
        parts.push(own);
    }
    Some(parts)
}

fn splits(operand: &TensorType, op: &Reshape) -> bool {
    operand.num_elements() > 0 && split_dimensions(operand, op).is_some()
}

/// Whether a node reads an operand again and again along dimensions before its own.
fn repeats(node: &Node, operand: &TensorType) -> bool {
    let Op::BroadcastInDim(BroadcastInDim { shape, broadcast_dimensions }) = &node.op else { return false };
    let kept: Vec<usize> =
        (0..operand.rank()).filter(|&d| operand.shape[d] != 1).map(|d| broadcast_dimensions[d]).collect();
    let Some(last) = kept.iter().copied().max() else { return false };
    (0..last).any(|d| shape[d] > 1 && !kept.contains(&d))
}

/// The region that each node is in.
fn regions_of(func: &Func) -> HashMap<NodeId, RegionId> {
    let walk = func.walk(func.body());
    let inner = walk.iter().flat_map(|&node| func.node(node).regions.iter().copied());
    let regions: Vec<RegionId> = inner.chain([func.body()]).collect();
    regions.into_iter().flat_map(|region| func.region(region).nodes.iter().map(move |&node| (node, region))).collect()
}

fn region_of(func: &Func, regions: &HashMap<NodeId, RegionId>, value: ValueId) -> RegionId {
    match func.value(value).definition {
        Definition::Param(region, _) => region,
        Definition::Result(node, _) => regions[&node],
    }
}

/// About how many operations an element of each value takes from what is in memory.
fn costs(func: &Func, walk: &[NodeId]) -> Vec<usize> {
    let mut costs = vec![0_usize; func.values().count()];
    for &id in walk {
        let node = func.node(id);
        let of_operands = node.operands.iter().map(|operand| costs[operand.index()]).fold(0, usize::saturating_add);
        let own = match class(func, node) {
            Class::Computed | Class::Cheap => 1,
            Class::Indexed => 4,
            Class::View | Class::Leaf => 0,
            Class::Whole => continue,
        };
        let narrow = |value: &ValueId| matches!(func.ty(*value).dtype, DType::F16 | DType::BF16);
        let own = if node.results.iter().any(narrow) { 4 * own } else { own };
        node.results.iter().for_each(|result| costs[result.index()] = of_operands.saturating_add(own));
    }
    costs
}
