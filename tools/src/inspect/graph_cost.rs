//! What nodes of a graph cost, counted as in [`hlo`](super::hlo): as XLA would count them if it changed nothing.

use lmc_graph::decompose::decompose;
use lmc_graph::{Func, Node, NodeId, Op, RegionId, TensorType, ValueId};
use lmc_lower::Report;
use lmc_lower::report::Kind;

/// What a node costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeCost {
    /// The node.
    pub node: NodeId,
    /// Operations each time it runs.
    pub flops: f64,
    /// Transcendental functions each time it runs.
    pub transcendentals: f64,
    /// Bytes of operands and results each time it runs, as if nothing was fused.
    pub bytes: f64,
    /// How often it runs in an execution; inside `while`, in one iteration.
    pub times: f64,
}

/// What every node costs that runs, an owner of regions before the nodes within. Both branches of an `if` count. An
/// attention costs what its products do by `report`, which tells how it was lowered, and the softmax in proportion.
pub fn node_costs(func: &Func, report: &Report) -> Vec<NodeCost> {
    node_costs_with(func, &attention_flops(report))
}

/// Operations of the products of each attention, each time it runs, in the order of the program.
pub(super) fn attention_flops(report: &Report) -> Vec<u64> {
    report.rows.iter().filter(|row| row.kind == Kind::Attention).map(|row| row.flops).collect()
}

/// [`node_costs`] with the [`attention_flops`] of the function, or of one that begins as it does.
pub(super) fn node_costs_with(func: &Func, attention_flops: &[u64]) -> Vec<NodeCost> {
    let mut visit = Visit { func, attentions: attention_flops.iter().copied(), costs: Vec::new() };
    visit.region(func.body(), 1.0);
    visit.costs
}

struct Visit<'f, I> {
    func: &'f Func,
    /// Operations in products of the attentions to come.
    attentions: I,
    costs: Vec<NodeCost>,
}

impl<I: Iterator<Item = u64>> Visit<'_, I> {
    fn region(&mut self, region: RegionId, times: f64) {
        let func = self.func;
        for &id in &func.region(region).nodes {
            let node = func.node(id);
            let is_attention = matches!(
                &node.op,
                Op::ScaledDotProductAttention(_) | Op::ScaledDotProductAttentionBackward(_) | Op::CachedAttention(_)
            );
            let (flops, transcendentals) = match is_attention {
                true => attention_cost(func, node, self.attentions.next()),
                false => own_cost(func, node),
            };
            let size = |value: &ValueId| bytes(func.ty(*value));
            let bytes = match is_view(&node.op) {
                true => 0.0,
                false => node.operands.iter().chain(&node.results).map(size).sum(),
            };
            self.costs.push(NodeCost { node: id, flops, transcendentals, bytes, times });
            let inner = if let Op::Scan(scan) = &node.op { times * scan.length as f64 } else { times };
            if inner > 0.0 {
                node.regions.iter().for_each(|&region| self.region(region, inner));
            }
        }
    }
}

fn elements(ty: &TensorType) -> f64 {
    ty.shape.iter().map(|&size| size as f64).product()
}

fn bytes(ty: &TensorType) -> f64 {
    elements(ty) * ty.dtype.size() as f64
}

/// Whether an op moves nothing itself: it only names what is there, or holds regions that do.
fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Constant(_)
            | Op::Reshape(_)
            | Op::Scan(_)
            | Op::While
            | Op::If
            | Op::Remat
            | Op::StopGradient
            | Op::OptimizationBarrier
    )
}

/// Operations and transcendentals of a node that is no attention.
fn own_cost(func: &Func, node: &Node) -> (f64, f64) {
    let ty = |index: usize| func.ty(node.operands[index]);
    let result = node.results.first().map_or(0.0, |&value| elements(func.ty(value)));
    match &node.op {
        Op::Unary(_) | Op::Binary(_) if TRANSCENDENTAL.contains(&node.op.name()) => (0.0, result),
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Clamp | Op::Compare(_) | Op::Convert(_) => (result, 0.0),
        Op::BitcastConvert(_) => (result, 0.0),
        Op::DotGeneral(op) => {
            let lhs = ty(0);
            let summed: f64 = op.lhs_contracting_dimensions.iter().map(|&d| lhs.shape[d] as f64).product();
            (2.0 * result * summed, 0.0)
        }
        Op::Reduce(_) | Op::Argmax(_) => ((elements(ty(0)) - result).max(0.0), 0.0),
        Op::Sort(_) => {
            let count = elements(ty(0));
            (count * count.max(1.0).log2().ceil(), 0.0)
        }
        Op::Scatter(_) => (elements(ty(2)), 0.0),
        Op::Constant(_)
        | Op::Iota(_)
        | Op::BroadcastInDim(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Reverse(_)
        | Op::Slice(_)
        | Op::Concatenate(_)
        | Op::Pad(_)
        | Op::DynamicSlice(_)
        | Op::DynamicUpdateSlice
        | Op::Gather(_)
        | Op::Scan(_)
        | Op::While
        | Op::If
        | Op::Remat
        | Op::StopGradient
        | Op::OptimizationBarrier
        | Op::RngBitGenerator(_)
        | Op::ScaledDotProductAttention(_)
        | Op::ScaledDotProductAttentionBackward(_)
        | Op::CachedAttention(_)
        | Op::CacheUpdate => (0.0, 0.0),
    }
}

const TRANSCENDENTAL: [&str; 12] = [
    "cosine",
    "exponential",
    "exponential_minus_one",
    "log",
    "log_plus_one",
    "logistic",
    "power",
    "rsqrt",
    "sine",
    "sqrt",
    "tan",
    "tanh",
];

/// An attention's cost: its decomposition's, in proportion to the products that lowering left of it.
fn attention_cost(func: &Func, node: &Node, lowered: Option<u64>) -> (f64, f64) {
    let types: Vec<TensorType> = node.operands.iter().map(|&value| func.ty(value).clone()).collect();
    let Some(plain) = decompose(&node.op, &types) else { return (0.0, 0.0) };
    let (mut products, mut flops, mut transcendentals) = (0.0, 0.0, 0.0);
    for &id in &plain.region(plain.body()).nodes {
        let inner = plain.node(id);
        let cost = own_cost(&plain, inner);
        if matches!(inner.op, Op::DotGeneral(_)) {
            products += cost.0;
        }
        flops += cost.0;
        transcendentals += cost.1;
    }
    let share = match lowered {
        Some(lowered) if products > 0.0 => lowered as f64 / products,
        Some(_) | None => 1.0,
    };
    (flops * share, transcendentals * share)
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
    use lmc_graph::{Builder, DType, Value};
    use lmc_lower::{Target, lower};

    use super::*;

    #[track_caller]
    fn check(
        target: &Target,
        build: impl for<'g> Fn(Builder<'g>, Value<'g>) -> Value<'g>,
        expected: impl Fn(f64, f64, f64) -> bool,
    ) {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [4, 8]));
            vec![build(b, x)]
        });
        let costs = node_costs(&func, &lower(&func, target).report);
        let sum = |of: fn(&NodeCost) -> f64| costs.iter().map(|cost| of(cost) * cost.times).sum::<f64>();
        let (flops, transcendentals, bytes) =
            (sum(|cost| cost.flops), sum(|cost| cost.transcendentals), sum(|cost| cost.bytes));
        assert!(expected(flops, transcendentals, bytes), "{flops}, {transcendentals}, {bytes}: {func}");
    }

    #[test]
    fn nodes_are_counted() {
        let generic = Target::generic();
        let equal = |a: f64, b: f64, c: f64| move |x: f64, y: f64, z: f64| (x, y, z) == (a, b, c);
        check(&generic, |_, x| x + x, equal(32.0, 0.0, 3.0 * 128.0));
        check(&generic, |_, x| x.exp(), equal(0.0, 32.0, 2.0 * 128.0));
        check(&generic, |_, x| x.reshape(&[32]), equal(0.0, 0.0, 0.0));
        check(&generic, |_, x| x.sum(&[1]), equal(28.0, 0.0, 128.0 + 16.0));
        check(
            &generic,
            |b, x| b.scan(&[x], &[], 5, |c, _| (vec![c[0] * c[0]], vec![])).carries[0],
            |x, _, _| x == 160.0,
        );
    }

    /// An attention by blocks costs less than one in one piece, and its softmax with it.
    #[test]
    fn attention_costs_what_it_was_lowered_to() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [1, 512, 2, 4]));
            let op = ScaledDotProductAttention {
                scale: 0.5,
                mask: AttentionMask::Causal,
                sliding_window: None,
                rows: AttentionRows::Whole,
            };
            let (output, _) = x.scaled_dot_product_attention(x, x, op);
            vec![output]
        });
        let cost = |target: &Target| node_costs(&func, &lower(&func, target).report)[0];
        let (whole, blocks) = (cost(&Target::generic()), cost(&Target::cpu(None)));
        let products = 4.0 * 2.0 * 512.0 * 512.0 * 4.0;
        assert!(whole.flops > products && whole.flops < 2.0 * products, "{whole:?}");
        // Four blocks of 128 queries: 10 / 16 of the scores.
        assert!((blocks.flops / whole.flops - 10.0 / 16.0).abs() < 1e-12, "{blocks:?} {whole:?}");
        assert!((blocks.transcendentals / whole.transcendentals - 10.0 / 16.0).abs() < 1e-12);
    }
}
