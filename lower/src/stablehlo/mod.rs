//! StableHLO text from a function: the frame of the module, and one rule an op.
//!
//! A rule takes the emitter, the op's attributes and the operands as values of the program being written, writes lines
//! and returns the results.

mod attention;
mod contract;
mod control;
mod elementwise;
mod emitter;
mod index;
mod location;
mod random;
mod reduce;
mod shape;
mod syntax;

use lmc_graph::{Entity, Func, Node, NodeId, Op, RegionId, TensorType, ValueId};

use crate::target::Target;
use crate::{Lowered, Options};
use emitter::{Emitter, Value};

/// The module with the function as `main`.
pub(crate) fn lower(func: &Func, target: &Target, options: &Options) -> Lowered {
    let mut e = Emitter::new(target, options);
    let attributes = match target.num_devices {
        1 => String::new(),
        n => format!(" attributes {{mhlo.num_partitions = {n} : i32, mhlo.num_replicas = 1 : i32}}"),
    };
    e.open(&format!("module {}{attributes} {{", syntax::symbol(&func.name)));
    let arguments = e.arguments(&func.param_types());
    open_main(&mut e, func, &arguments);
    let mut frame = Frame::new(func);
    let results = frame.inline(&mut e, func.body(), &arguments);
    e.location = lmc_graph::Location::unknown();
    match &results[..] {
        [] => e.line("return"),
        results => e.line(&format!("return {} : {}", emitter::names(results), emitter::types(results))),
    }
    e.close_unlocated("}");
    e.close_unlocated("}");
    let (text, report) = e.finish();
    Lowered { text, report }
}

/// A signature that would be longer is written a parameter a line. The width of the repository's own sources.
const MAX_WIDTH: usize = 120;

/// `func.func public @main(…) -> … {`, donation as an attribute of the parameter.
fn open_main(e: &mut Emitter<'_>, func: &Func, arguments: &[Value]) {
    let params: Vec<String> = arguments
        .iter()
        .zip(&func.params)
        .map(|(Value { name, ty }, param)| {
            let donation = param.donated_to.map(|j| format!(" {{tf.aliasing_output = {j} : i32}}")).unwrap_or_default();
            format!("{name}: {}{donation}{}", syntax::tensor(ty), e.parameter_location(&param.name))
        })
        .collect();
    let results = match func.result_types() {
        types if types.is_empty() => String::new(),
        types => format!("-> {} ", syntax::results(&types)),
    };
    let line = format!("func.func public @main({}) {results}{{", params.join(", "));
    if line.len() <= MAX_WIDTH {
        e.open(&line);
        return;
    }
    e.open("func.func public @main(");
    for (i, param) in params.iter().enumerate() {
        let comma = if i + 1 < params.len() { "," } else { "" };
        e.unlocated_line(&format!("{param}{comma}"));
    }
    e.next_block(&format!(") {results}{{"));
}

/// A function being lowered: what its values are in the program being written.
struct Frame<'f> {
    func: &'f Func,
    values: Vec<Option<Value>>,
    /// Whether nodes keep the emitter's location instead of having their own.
    keeps_location: bool,
}

impl<'f> Frame<'f> {
    fn new(func: &'f Func) -> Frame<'f> {
        Frame { func, values: vec![None; func.values().count()], keeps_location: false }
    }

    fn get(&self, value: ValueId) -> Value {
        // The verifier has seen to it that definitions come before uses.
        self.values[value.index()].clone().unwrap_or_else(|| panic!("{value} of `{}` is not defined", self.func.name))
    }

    fn set(&mut self, ids: &[ValueId], values: &[Value]) {
        for (&id, value) in ids.iter().zip(values) {
            debug_assert_eq!(self.func.ty(id), &value.ty, "the rule of {id} of `{}`", self.func.name);
            self.values[id.index()] = Some(value.clone());
        }
    }

    /// Writes the nodes of a region here, with `arguments` in place of its parameters, and returns its results.
    fn inline(&mut self, e: &mut Emitter<'_>, region: RegionId, arguments: &[Value]) -> Vec<Value> {
        let func = self.func;
        let region = func.region(region);
        self.set(&region.params, arguments);
        for &node in &region.nodes {
            self.node(e, node);
        }
        region.results.iter().map(|&value| self.get(value)).collect()
    }

    fn node(&mut self, e: &mut Emitter<'_>, node: NodeId) {
        let func = self.func;
        let node = func.node(node);
        if !self.keeps_location {
            e.location = node.location.clone();
        }
        let operands: Vec<Value> = node.operands.iter().map(|&value| self.get(value)).collect();
        let types: Vec<TensorType> = node.results.iter().map(|&value| func.ty(value).clone()).collect();
        let results = self.rule(e, node, &operands, &types);
        self.set(&node.results, &results);
    }

    /// The rule of every op.
    fn rule(&mut self, e: &mut Emitter<'_>, node: &Node, x: &[Value], types: &[TensorType]) -> Vec<Value> {
        let regions = &node.regions;
        match &node.op {
            Op::Unary(op) => vec![elementwise::unary(e, *op, &x[0], &types[0])],
            Op::Binary(op) => vec![elementwise::binary(e, *op, &x[0], &x[1])],
            Op::Select => vec![elementwise::select(e, &x[0], &x[1], &x[2])],
            Op::Clamp => vec![elementwise::clamp(e, &x[0], &x[1], &x[2])],
            Op::Compare(op) => vec![elementwise::compare(e, op.direction, &x[0], &x[1])],
            Op::Convert(op) => vec![elementwise::convert(e, &x[0], op.dtype)],
            Op::BitcastConvert(op) => vec![elementwise::bitcast_convert(e, &x[0], op.dtype)],
            Op::Constant(op) => vec![shape::constant(e, &op.value)],
            Op::Iota(op) => vec![shape::iota(e, op.iota_dimension, &op.output)],
            Op::BroadcastInDim(op) => vec![shape::broadcast_in_dim(e, op, &x[0])],
            Op::Reshape(op) => vec![shape::reshape(e, &x[0], &op.shape)],
            Op::Transpose(op) => vec![shape::transpose(e, op, &x[0], &types[0])],
            Op::Reverse(op) => vec![shape::reverse(e, op, &x[0])],
            Op::Slice(op) => vec![shape::slice(e, op, &x[0], &types[0])],
            Op::Concatenate(op) => vec![shape::concatenate(e, op, x, &types[0])],
            Op::Pad(op) => vec![shape::pad(e, op, &x[0], &x[1], &types[0])],
            Op::DynamicSlice(op) => vec![index::dynamic_slice(e, &x[0], &x[1..], &op.slice_sizes)],
            Op::DynamicUpdateSlice => vec![index::dynamic_update_slice(e, &x[0], &x[1], &x[2..])],
            Op::Gather(op) => vec![index::gather(e, op, &x[0], &x[1], &types[0])],
            Op::Scatter(op) => vec![index::scatter(e, op, &x[0], &x[1], &x[2])],
            Op::DotGeneral(op) => vec![contract::dot_general(e, op, &x[0], &x[1], &types[0])],
            Op::Reduce(op) => vec![reduce::reduce(e, op, &x[0], &types[0])],
            Op::Argmax(op) => vec![reduce::argmax(e, op, &x[0])],
            Op::Sort(op) => reduce::sort(e, op, x),
            Op::Scan(op) => control::scan(e, self, op, x, regions[0], types),
            Op::While => control::while_loop(e, self, x, regions[0], regions[1]),
            Op::If => control::if_else(e, self, &x[0], regions[0], regions[1], types),
            Op::Remat => self.inline(e, regions[0], &[]),
            Op::StopGradient => vec![x[0].clone()],
            Op::OptimizationBarrier => control::optimization_barrier(e, x),
            Op::RngBitGenerator(op) => random::rng_bit_generator(e, op, &x[0]),
            Op::ScaledDotProductAttention(_) | Op::ScaledDotProductAttentionBackward(_) => {
                attention::attention(e, &node.op, x, types)
            }
        }
    }
}
