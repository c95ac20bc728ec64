//! StableHLO text from a function: the frame of the module, and one rule an op.
//!
//! A rule takes the emitter, the op's attributes and the operands as values of the program being written, writes lines
//! and returns the results.

mod attention;
mod cache;
mod contract;
mod control;
mod cudnn;
mod elementwise;
mod emitter;
mod index;
mod location;
mod random;
mod reduce;
mod shape;
mod syntax;

use std::collections::HashMap;

use lmc_graph::ops::DotGeneral;
use lmc_graph::{Entity, Func, Node, NodeId, Op, RegionId, TensorType, ValueId};

use crate::choices::{self, Attention, StoredWeight, Uses, WeightForm};
use crate::report::Form;
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
    let mut frame = Frame::new(func, target);
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
    uses: Uses,
    /// The nodes whose work a product does, by index.
    absorbed: Vec<bool>,
    /// Whether nodes keep the emitter's location instead of having their own.
    keeps_location: bool,
    /// The region that is being written.
    region: Option<RegionId>,
    /// Results of products that another's call has computed.
    computed: HashMap<ValueId, Value>,
}

impl<'f> Frame<'f> {
    fn new(func: &'f Func, target: &Target) -> Frame<'f> {
        let uses = Uses::of(func);
        let absorbed = choices::absorbed(target, func, &uses);
        Frame {
            func,
            values: vec![None; func.values().count()],
            uses,
            absorbed,
            keeps_location: false,
            region: None,
            computed: HashMap::new(),
        }
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

    /// Whether a value is made in the region that is being written, so that another may stand for it from here on.
    fn is_of_this_region(&self, value: ValueId) -> bool {
        let node = self.func.defining_node(value);
        node.zip(self.region).is_some_and(|(node, region)| self.func.region(region).nodes.contains(&node))
    }

    /// Writes the nodes of a region here, with `arguments` in place of its parameters, and returns its results.
    fn inline(&mut self, e: &mut Emitter<'_>, region: RegionId, arguments: &[Value]) -> Vec<Value> {
        let func = self.func;
        let around = self.region.replace(region);
        let region = func.region(region);
        self.set(&region.params, arguments);
        for &node in &region.nodes {
            self.node(e, node);
        }
        self.region = around;
        region.results.iter().map(|&value| self.get(value)).collect()
    }

    fn node(&mut self, e: &mut Emitter<'_>, node: NodeId) {
        if self.absorbed[node.index()] {
            return;
        }
        let func = self.func;
        let node = func.node(node);
        if !self.keeps_location {
            e.location = node.location.clone();
        }
        let types: Vec<TensorType> = node.results.iter().map(|&value| func.ty(value).clone()).collect();
        // A product looks for its operands itself: a weight may be there in another form only.
        let looked_up = if matches!(node.op, Op::DotGeneral(_)) { &[] } else { &node.operands[..] };
        let operands: Vec<Value> = looked_up.iter().map(|&value| self.get(value)).collect();
        let mut results = self.rule(e, node, &operands, &types);
        if let ([value], [result]) = (&node.results[..], &mut results[..])
            && choices::keeps(e.target, func, &self.uses, *value)
        {
            *result = control::kept(e, result);
        }
        self.set(&node.results, &results);
    }

    /// A product, by the form that its right operand takes.
    fn dot_general(&mut self, e: &mut Emitter<'_>, node: &Node, op: &DotGeneral, ty: &TensorType) -> Value {
        let (lhs, rhs) = (node.operands[0], node.operands[1]);
        let (rhs, refused) = match choices::weight_form(e.target, self.func, op, lhs, rhs) {
            WeightForm::Kernel { weight, transposed } => {
                return self.weight_product(e, node, op, weight, transposed);
            }
            WeightForm::Dequantized { weight, refused } => {
                let weight = weight.map(|part| self.get(part));
                (contract::dequantized(e, &weight, self.func.ty(rhs)), Some(refused))
            }
            WeightForm::Operand { value, refused } => (self.get(value), refused),
        };
        contract::dot_general(e, op, [&self.get(lhs), &rhs], ty, refused)
    }

    /// A product with a weight as it is stored, and with it those behind it that the same call computes.
    fn weight_product(
        &mut self,
        e: &mut Emitter<'_>,
        node: &Node,
        op: &DotGeneral,
        weight: StoredWeight<ValueId>,
        transposed: bool,
    ) -> Value {
        let func = self.func;
        let (lhs, rhs, result) = (node.operands[0], node.operands[1], node.results[0]);
        contract::report(e, op, [lhs, rhs, result].map(|value| func.ty(value)), Form::WeightKernel, None);
        if let Some(computed) = self.computed.remove(&result) {
            return computed;
        }
        let nodes = self.region.map_or(&[][..], |region| &func.region(region).nodes);
        let behind = nodes.iter().skip_while(|&&other| !func.node(other).results.contains(&result)).skip(1);
        let mut alike = choices::products_alike(e.target, func, behind, (op, lhs, &weight));
        alike.retain(|(_, weight)| weight.parts().all(|part| self.values[part.index()].is_some()));
        let (results, weights): (Vec<_>, Vec<_>) = [(result, weight)].into_iter().chain(alike).unzip();
        let weights: Vec<_> = weights.into_iter().map(|weight| weight.map(|part| self.get(part))).collect();
        let types: Vec<TensorType> = results.iter().map(|&result| func.ty(result).clone()).collect();
        let mut values = contract::weight_products(e, &self.get(lhs), &weights, transposed, &types);
        let others = values.split_off(1);
        self.computed.extend(results.into_iter().skip(1).zip(others));
        values.remove(0)
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
            Op::DotGeneral(op) => vec![self.dot_general(e, node, op, &types[0])],
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
            Op::ScaledDotProductAttention(op) => {
                let uses_log_sum_exp = self.uses.are_any(node.results[1]);
                attention::attention(e, Attention::Forward(op), x, types, uses_log_sum_exp)
            }
            Op::ScaledDotProductAttentionBackward(op) => {
                attention::attention(e, Attention::Backward(op), x, types, false)
            }
            Op::CachedAttention(op) => cache::cached_attention(e, op, x, types),
            Op::CacheUpdate => {
                let (results, tokens) = cache::cache_update(e, x, &types[0]);
                if let Some(tokens) = tokens.filter(|_| self.is_of_this_region(node.operands[1])) {
                    self.set(&node.operands[1..2], &[tokens]);
                }
                results
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{RngAlgorithm, Scan, Scatter, ScatterOp, SortDirection};
    use lmc_graph::{Builder, DType, Literal, Location};

    use super::*;

    const PLAIN: Options = Options { locations: false };

    fn ty(dtype: DType, shape: &[usize]) -> TensorType {
        TensorType::new(dtype, shape)
    }

    /// Compares the lines between the function's head and its end, without their indentation.
    #[track_caller]
    fn check(build: impl for<'g> FnOnce(Builder<'g>) -> Vec<lmc_graph::Value<'g>>, expected: &str) {
        let text = lower(&Builder::build("f", build), &Target::generic(), &PLAIN).text;
        let (_, body) = text.split_once("{\n    ").expect("the function's head ends its line");
        let body = body.strip_suffix("\n  }\n}\n").expect("the function and the module end");
        let lines = body.lines().map(|line| line.strip_prefix("    ").unwrap_or(line));
        assert_eq!(lines.collect::<Vec<_>>().join("\n"), expected.trim());
    }

    #[test]
    fn head_of_the_function() {
        let func = Builder::build("train step", |b| {
            let x = b.param("model.x", ty(DType::F32, &[3]));
            let y = b.param("", ty(DType::BF16, &[]));
            b.donate(x, 0);
            let location = Location { scope: "a.b".into(), file: "m.rs".into(), line: 7 };
            vec![b.at(location, || x.exp()), y]
        });
        let target = Target { num_devices: 2, ..Target::generic() };
        assert_eq!(
            lower(&func, &target, &Options { locations: true }).text,
            "\
module @\"train step\" attributes {mhlo.num_partitions = 2 : i32, mhlo.num_replicas = 1 : i32} {
  func.func public @main(
    %arg0: tensor<3xf32> {tf.aliasing_output = 0 : i32} loc(\"model.x\"),
    %arg1: tensor<bf16>
  ) -> (tensor<3xf32>, tensor<bf16>) {
    %0 = stablehlo.exponential %arg0 : tensor<3xf32> loc(#loc1)
    return %0, %arg1 : tensor<3xf32>, tensor<bf16> loc(#loc2)
  }
}
#loc1 = loc(\"a.b\"(\"m.rs\":7:0))
#loc2 = loc(unknown)
"
        );
    }

    #[test]
    fn scan_is_a_while_over_a_counter() {
        check(
            |b| {
                let xs = b.param("xs", ty(DType::F32, &[4, 2]));
                let attributes = Scan { num_carry: 1, length: 4, reverse: true };
                let init = b.param("init", ty(DType::F32, &[2]));
                let scanned = b.scan_with(attributes, &[init], &[xs], |c, x| (vec![c[0] + x[0]], vec![c[0]]));
                [scanned.carries, scanned.stacked].concat()
            },
            "
%0 = stablehlo.constant dense<0.0> : tensor<4x2xf32>
%1 = stablehlo.constant dense<0> : tensor<i32>
%2 = stablehlo.constant dense<1> : tensor<i32>
%3 = stablehlo.constant dense<4> : tensor<i32>
%4 = stablehlo.constant dense<3> : tensor<i32>
%5:3 = stablehlo.while(%arg2 = %1, %arg3 = %arg1, %arg4 = %0) : tensor<i32>, tensor<2xf32>, tensor<4x2xf32>
cond {
  %6 = stablehlo.compare LT, %arg2, %3, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
  stablehlo.return %6 : tensor<i1>
} do {
  %7 = stablehlo.subtract %4, %arg2 : tensor<i32>
  %8 = stablehlo.dynamic_slice %arg0, %7, %1, sizes = [1, 2] : (tensor<4x2xf32>, tensor<i32>, tensor<i32>) -> tensor<1x2xf32>
  %9 = stablehlo.reshape %8 : (tensor<1x2xf32>) -> tensor<2xf32>
  %10 = stablehlo.add %arg3, %9 : tensor<2xf32>
  %11 = stablehlo.reshape %arg3 : (tensor<2xf32>) -> tensor<1x2xf32>
  %12 = stablehlo.dynamic_update_slice %arg4, %11, %7, %1 : (tensor<4x2xf32>, tensor<1x2xf32>, tensor<i32>, tensor<i32>) -> tensor<4x2xf32>
  %13 = stablehlo.add %arg2, %2 : tensor<i32>
  stablehlo.return %13, %10, %12 : tensor<i32>, tensor<2xf32>, tensor<4x2xf32>
}
return %5#1, %5#2 : tensor<2xf32>, tensor<4x2xf32>",
        );
        // Without iterations there is no loop, and no slice of a tensor without elements.
        check(
            |b| {
                let xs = b.param("xs", ty(DType::F32, &[0, 2]));
                b.scan(&[], &[xs], 0, |_, x| (vec![], vec![x[0]])).stacked
            },
            "
%0 = stablehlo.constant dense<> : tensor<0x2xf32>
return %0 : tensor<0x2xf32>",
        );
    }

    #[test]
    fn regions_and_blocks() {
        check(
            |b| {
                let (p, x) = (b.param("p", ty(DType::Bool, &[])), b.param("x", ty(DType::F32, &[])));
                b.if_else(p, || vec![b.remat(|| vec![x + x])[0]], || vec![x.stop_gradient()])
            },
            "
%0 = \"stablehlo.if\"(%arg0) ({
  %1 = stablehlo.add %arg1, %arg1 : tensor<f32>
  stablehlo.return %1 : tensor<f32>
}, {
  stablehlo.return %arg1 : tensor<f32>
}) : (tensor<i1>) -> tensor<f32>
return %0 : tensor<f32>",
        );
        check(
            |b| {
                let (keys, values) = (b.param("k", ty(DType::F32, &[3])), b.param("v", ty(DType::I32, &[3])));
                let (keys, values) = keys.sort_by_key(values, 0, SortDirection::Descending);
                vec![keys, values]
            },
            "
%0:2 = \"stablehlo.sort\"(%arg0, %arg1) <{dimension = 0 : i64, is_stable = true}> ({
^bb0(%arg2: tensor<f32>, %arg3: tensor<f32>, %arg4: tensor<i32>, %arg5: tensor<i32>):
  %1 = stablehlo.compare GT, %arg2, %arg3, TOTALORDER : (tensor<f32>, tensor<f32>) -> tensor<i1>
  stablehlo.return %1 : tensor<i1>
}) : (tensor<3xf32>, tensor<3xi32>) -> (tensor<3xf32>, tensor<3xi32>)
return %0#0, %0#1 : tensor<3xf32>, tensor<3xi32>",
        );
    }

    #[test]
    fn narrow_floats_accumulate_in_f32() {
        check(
            |b| {
                let x = b.param("x", ty(DType::BF16, &[3]));
                vec![x.sum(&[0]), x.max(&[0])]
            },
            "
%0 = stablehlo.convert %arg0 : (tensor<3xbf16>) -> tensor<3xf32>
%1 = stablehlo.constant dense<0.0> : tensor<f32>
%2 = stablehlo.reduce(%0 init: %1) applies stablehlo.add across dimensions = [0] : (tensor<3xf32>, tensor<f32>) -> tensor<f32>
%3 = stablehlo.convert %2 : (tensor<f32>) -> tensor<bf16>
%4 = stablehlo.constant dense<0xFF80> : tensor<bf16>
%5 = stablehlo.reduce(%arg0 init: %4) applies stablehlo.maximum across dimensions = [0] : (tensor<3xbf16>, tensor<bf16>) -> tensor<bf16>
return %3, %5 : tensor<bf16>, tensor<bf16>",
        );
        check(
            |b| {
                let (x, updates) = (b.param("x", ty(DType::BF16, &[4])), b.param("u", ty(DType::BF16, &[2])));
                let attributes = Scatter {
                    update_window_dims: vec![],
                    inserted_window_dims: vec![0],
                    input_batching_dims: vec![],
                    scatter_indices_batching_dims: vec![],
                    scatter_dims_to_operand_dims: vec![0],
                    index_vector_dim: 1,
                    indices_are_sorted: false,
                    unique_indices: true,
                    update_computation: ScatterOp::Add,
                };
                vec![x.scatter(b.param("i", ty(DType::I32, &[2])), updates, attributes)]
            },
            "
%0 = stablehlo.convert %arg0 : (tensor<4xbf16>) -> tensor<4xf32>
%1 = stablehlo.convert %arg1 : (tensor<2xbf16>) -> tensor<2xf32>
%2 = \"stablehlo.scatter\"(%0, %arg2, %1) <{indices_are_sorted = false, scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, unique_indices = true}> ({
^bb0(%arg3: tensor<f32>, %arg4: tensor<f32>):
  %3 = stablehlo.add %arg3, %arg4 : tensor<f32>
  stablehlo.return %3 : tensor<f32>
}) : (tensor<4xf32>, tensor<2xi32>, tensor<2xf32>) -> tensor<4xf32>
%4 = stablehlo.convert %2 : (tensor<4xf32>) -> tensor<4xbf16>
return %4 : tensor<4xbf16>",
        );
    }

    #[test]
    fn what_stablehlo_or_xla_spell_differently() {
        check(
            |b| {
                let (state, bits) = b
                    .param("key", ty(DType::U64, &[2]))
                    .rng_bit_generator(RngAlgorithm::ThreeFry, ty(DType::I32, &[3]));
                vec![state, bits]
            },
            "
%0:2 = stablehlo.rng_bit_generator %arg0, algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<3xui32>)
%1 = stablehlo.bitcast_convert %0#1 : (tensor<3xui32>) -> tensor<3xi32>
return %0#0, %1 : tensor<2xui64>, tensor<3xi32>",
        );
        // Ops without effect, as they have no results.
        check(
            |b| {
                b.optimization_barrier(&[]);
                b.while_loop(&[], |_| b.constant(Literal::scalar(false)), |_| vec![]);
                vec![]
            },
            "return",
        );
    }
}
