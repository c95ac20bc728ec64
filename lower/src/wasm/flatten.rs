//! The function that is lowered: without ops that are only for other passes, fused ops decomposed.

use super::attention;
use lmc_graph::{Builder, Entity, Func, Location, Node, NodeId, Op, RegionId, TensorType, Value, ValueId, dce};

/// A function with the same parameters and results in which `remat` is its inside, barriers and `stop_gradient` their
/// operands, and attention its decomposition. Every node keeps its location.
pub(super) fn flatten(func: &Func) -> Func {
    let mut flat = Builder::build(&func.name, |b| {
        let params: Vec<Value<'_>> =
            func.params.iter().zip(func.param_types()).map(|(param, ty)| b.param(&param.name, ty)).collect();
        Flattener::new(b, func, None).region(func.body(), &params)
    });
    flat.params.clone_from(&func.params);
    flat.result_names.clone_from(&func.result_names);
    dce(&flat)
}

struct Flattener<'f, 'g> {
    builder: Builder<'g>,
    func: &'f Func,
    values: Vec<Option<Value<'g>>>,
    /// The location of every node, if not its own: that of the node which is decomposed.
    location: Option<Location>,
}

impl<'f, 'g> Flattener<'f, 'g> {
    fn new(builder: Builder<'g>, func: &'f Func, location: Option<Location>) -> Flattener<'f, 'g> {
        Flattener { builder, func, values: vec![None; func.values().count()], location }
    }

    fn get(&self, value: ValueId) -> Value<'g> {
        self.values[value.index()].unwrap_or_else(|| panic!("{value} of `{}` is not defined", self.func.name))
    }

    fn set(&mut self, ids: &[ValueId], values: &[Value<'g>]) {
        ids.iter().zip(values).for_each(|(id, &value)| self.values[id.index()] = Some(value));
    }

    /// The nodes of a region here, with `arguments` in place of its parameters; returns its results.
    fn region(&mut self, region: RegionId, arguments: &[Value<'g>]) -> Vec<Value<'g>> {
        let func = self.func;
        let region = func.region(region);
        self.set(&region.params, arguments);
        for &node in &region.nodes {
            self.node(node);
        }
        region.results.iter().map(|&value| self.get(value)).collect()
    }

    fn node(&mut self, node: NodeId) {
        let func = self.func;
        let node = func.node(node);
        let operands: Vec<Value<'g>> = node.operands.iter().map(|&value| self.get(value)).collect();
        let results = match &node.op {
            Op::Remat => self.region(node.regions[0], &[]),
            Op::StopGradient | Op::OptimizationBarrier => operands,
            Op::ScaledDotProductAttention(_)
            | Op::ScaledDotProductAttentionBackward(_)
            | Op::CachedAttention(_)
            | Op::CacheUpdate => {
                let types: Vec<TensorType> = operands.iter().map(Value::ty).collect();
                let decomposition = attention::decomposition(&node.op, &types);
                let location = Some(self.location(node));
                Flattener::new(self.builder, &decomposition, location).region(decomposition.body(), &operands)
            }
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Clamp
            | Op::DynamicUpdateSlice
            | Op::While
            | Op::If
            | Op::Compare(_)
            | Op::Convert(_)
            | Op::BitcastConvert(_)
            | Op::Constant(_)
            | Op::Iota(_)
            | Op::BroadcastInDim(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Reverse(_)
            | Op::Slice(_)
            | Op::Concatenate(_)
            | Op::Pad(_)
            | Op::DynamicSlice(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::DotGeneral(_)
            | Op::Reduce(_)
            | Op::Argmax(_)
            | Op::Sort(_)
            | Op::Scan(_)
            | Op::RngBitGenerator(_) => self.copied(node, &operands),
        };
        self.set(&node.results, &results);
    }

    fn copied(&mut self, node: &Node, operands: &[Value<'g>]) -> Vec<Value<'g>> {
        let builder = self.builder;
        let regions: Vec<RegionId> = node
            .regions
            .iter()
            .map(|&region| {
                let params = &self.func.region(region).params;
                let types: Vec<TensorType> = params.iter().map(|&param| self.func.ty(param).clone()).collect();
                builder.region(&types, |params| self.region(region, params))
            })
            .collect();
        builder.at(self.location(node), || builder.push(node.op.clone(), operands, &regions))
    }

    fn location(&self, node: &Node) -> Location {
        self.location.clone().unwrap_or_else(|| node.location.clone())
    }
}
