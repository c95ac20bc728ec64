//! Which values need a cotangent: floats that depend on a parameter the gradient is asked for.

use lmc_graph::ops::{Op, UnaryOp};
use lmc_graph::{Entity, Func, NodeId, RegionId, ValueId};

/// The values that need a cotangent.
pub(crate) struct Activity {
    active: Vec<bool>,
}

impl Activity {
    /// The float values of `func` that depend on the values `wrt` through ops that have a derivative.
    pub(crate) fn new(func: &Func, wrt: &[ValueId]) -> Activity {
        let mut activity = Activity { active: vec![false; func.values().count()] };
        wrt.iter().for_each(|&value| activity.set(func, value, true));
        activity.region(func, func.body());
        activity
    }

    /// Whether `value` needs a cotangent.
    pub(crate) fn is_active(&self, value: ValueId) -> bool {
        self.active[value.index()]
    }

    /// Marks a float value, if it is found to depend on something active; a mark stays.
    fn set(&mut self, func: &Func, value: ValueId, active: bool) {
        self.active[value.index()] |= active && func.ty(value).dtype.is_float();
    }

    fn any(&self, values: &[ValueId]) -> bool {
        values.iter().any(|&value| self.is_active(value))
    }

    /// Lets each of `to` depend on its counterpart.
    fn pairwise(&mut self, func: &Func, from: &[ValueId], to: &[ValueId]) {
        for (&from, &to) in from.iter().zip(to) {
            self.set(func, to, self.is_active(from));
        }
    }

    fn region(&mut self, func: &Func, region: RegionId) {
        func.region(region).nodes.iter().for_each(|&node| self.node(func, node));
    }

    fn node(&mut self, func: &Func, node: NodeId) {
        let node = func.node(node);
        let (operands, results) = (&node.operands[..], &node.results[..]);
        if is_locally_constant(&node.op) {
            return;
        }
        if let Op::Scan(op) = &node.op {
            let body = func.region(node.regions[0]);
            self.pairwise(func, operands, &body.params);
            // A carry becomes active when what the body makes of it is; at most `num_carry` rounds change something.
            let carries = &body.params[..op.num_carry];
            loop {
                let before = carries.iter().filter(|&&carry| self.is_active(carry)).count();
                self.region(func, node.regions[0]);
                self.pairwise(func, &body.results, carries);
                if carries.iter().filter(|&&carry| self.is_active(carry)).count() == before {
                    break;
                }
            }
            self.pairwise(func, carries, results);
            self.pairwise(func, &body.results[op.num_carry..], &results[op.num_carry..]);
        } else if matches!(node.op, Op::If | Op::Remat) {
            for &region in &node.regions {
                self.region(func, region);
                self.pairwise(func, &func.region(region).results, results);
            }
        } else if matches!(node.op, Op::Sort(_) | Op::OptimizationBarrier) {
            self.pairwise(func, operands, results);
        } else {
            // A `while` is here too: what flows where inside does not matter, as a cotangent is refused.
            let captures: Vec<ValueId> = node.regions.iter().flat_map(|&region| func.captures(region)).collect();
            let active = self.any(operands) || self.any(&captures);
            results.iter().for_each(|&result| self.set(func, result, active));
        }
    }
}

/// Whether a float result of the op is constant wherever it has a derivative.
fn is_locally_constant(op: &Op) -> bool {
    matches!(
        op,
        Op::StopGradient
            | Op::BitcastConvert(_)
            | Op::Unary(UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::RoundNearestEven)
    )
}
