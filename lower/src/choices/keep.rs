//! Values that are worth keeping in memory.
//!
//! XLA's CPU backend computes an elementwise value again in every fusion that uses it. That is right for a scale or a
//! mask, and wrong for the sum along a residual stream: layer after layer it becomes a longer chain, whose operands are
//! all read anew. In a model of 12 layers the chains took 10 to 15 % of a training step.

use lmc_graph::ops::{BinaryOp, UnaryOp};
use lmc_graph::{Entity, Func, Op, ValueId};

use crate::target::{Platform, Target};

/// How often each value of a function is used.
#[derive(Clone)]
pub(crate) struct Uses {
    counts: Vec<u32>,
}

impl Uses {
    /// Counts operands of nodes and results of regions.
    pub(crate) fn of(func: &Func) -> Uses {
        let mut counts = vec![0; func.values().count()];
        let nodes: Vec<_> = func.walk(func.body()).into_iter().map(|node| func.node(node)).collect();
        let regions = nodes.iter().flat_map(|node| &node.regions).copied().chain([func.body()]);
        let results = regions.flat_map(|region| &func.region(region).results);
        for value in nodes.iter().flat_map(|node| &node.operands).chain(results) {
            counts[value.index()] += 1;
        }
        Uses { counts }
    }

    /// Whether a value has a user.
    pub(crate) fn are_any(&self, value: ValueId) -> bool {
        self.counts[value.index()] > 0
    }

    /// Counts one use more.
    pub(super) fn add(&mut self, value: ValueId) {
        self.counts[value.index()] += 1;
    }

    /// Counts one use less; whether it was the last.
    pub(super) fn release(&mut self, value: ValueId) -> bool {
        self.counts[value.index()] -= 1;
        self.counts[value.index()] == 0
    }

    /// Whether a value has more than one user.
    fn are_many(&self, value: ValueId) -> bool {
        self.counts[value.index()] > 1
    }
}

/// Elements from which computing a sum again costs more than a call.
const LEAST_ELEMENTS: usize = 1 << 14;

/// Of the sums of a chain with fewer elements, each that ends so many links more. The chain of a text's newest token is
/// short work, but a fusion that has all of it is much machine code: with 56 links a program took 15 s to compile.
const LINKS: usize = 4;

/// Whether the value is kept in memory for its users on this target.
pub(crate) fn keeps(target: &Target, func: &Func, uses: &Uses, value: ValueId) -> bool {
    match target.platform {
        Platform::Generic | Platform::Cuda(_) => false,
        Platform::Cpu if !target.has_kernels || !uses.are_many(value) => false,
        Platform::Cpu => match op(func, value) {
            // By the C library, an element at a time.
            Some(Op::Unary(UnaryOp::Sine | UnaryOp::Cosine)) => true,
            Some(Op::Binary(BinaryOp::Add)) if func.ty(value).dtype.is_float() => {
                let every = if func.ty(value).num_elements() >= LEAST_ELEMENTS { 1 } else { LINKS };
                let links = links(func, uses, value);
                links > 0 && links.is_multiple_of(every)
            }
            Some(_) | None => false,
        },
    }
}

/// How many sums with several users stand one behind the other before this one.
fn links(func: &Func, uses: &Uses, mut sum: ValueId) -> usize {
    let mut links = 0;
    while let Some(before) = operands(func, sum).iter().find_map(|&operand| link(func, uses, operand)) {
        sum = before;
        links += 1;
    }
    links
}

/// The sum with several users that a value is; between two sums there may be a change of type or shape.
fn link(func: &Func, uses: &Uses, mut value: ValueId) -> Option<ValueId> {
    while let Some(Op::Convert(_) | Op::Reshape(_)) = op(func, value) {
        value = operands(func, value)[0];
    }
    (matches!(op(func, value), Some(Op::Binary(BinaryOp::Add))) && uses.are_many(value)).then_some(value)
}

/// The op that makes a value; `None` for a parameter.
fn op(func: &Func, value: ValueId) -> Option<&Op> {
    func.defining_node(value).map(|node| &func.node(node).op)
}

fn operands(func: &Func, value: ValueId) -> &[ValueId] {
    func.defining_node(value).map_or(&[], |node| &func.node(node).operands)
}
