//! Reading and writing at positions that are values.

use lmc_graph::ops::{BinaryOp, Gather, Scatter, ScatterOp};
use lmc_graph::{DType, TensorType};

use super::elementwise;
use super::emitter::{Emitter, Value, names, types};
use super::reduce::accumulates_in_f32;
use super::syntax::{joined, list, tensor};

pub(super) fn dynamic_slice(e: &mut Emitter<'_>, x: &Value, start_indices: &[Value], slice_sizes: &[usize]) -> Value {
    let ty = x.ty.with_shape(slice_sizes);
    let operands = [std::slice::from_ref(x), start_indices].concat();
    let sizes = list(slice_sizes);
    let op = format!(
        "stablehlo.dynamic_slice {}, sizes = {sizes} : ({}) -> {}",
        names(&operands),
        types(&operands),
        tensor(&ty)
    );
    e.op(&op, &ty)
}

pub(super) fn dynamic_update_slice(e: &mut Emitter<'_>, x: &Value, update: &Value, start_indices: &[Value]) -> Value {
    let operands = [&[x.clone(), update.clone()], start_indices].concat();
    let op =
        format!("stablehlo.dynamic_update_slice {} : ({}) -> {}", names(&operands), types(&operands), tensor(&x.ty));
    e.op(&op, &x.ty)
}

/// The fields of dimension numbers: those with an empty list are left out, as it is their default.
fn dimension_numbers(lists: &[(&str, &[usize])], index_vector_dim: usize) -> String {
    let lists = lists.iter().filter(|(_, dimensions)| !dimensions.is_empty());
    let fields = lists.map(|(name, dimensions)| format!("{name} = {}", list(*dimensions)));
    joined(fields.chain([format!("index_vector_dim = {index_vector_dim}")]))
}

pub(super) fn gather(e: &mut Emitter<'_>, op: &Gather, x: &Value, start_indices: &Value, ty: &TensorType) -> Value {
    let Gather {
        offset_dims,
        collapsed_slice_dims,
        operand_batching_dims,
        start_indices_batching_dims,
        start_index_map,
        index_vector_dim,
        slice_sizes,
        indices_are_sorted,
    } = op;
    let numbers = dimension_numbers(
        &[
            ("offset_dims", offset_dims),
            ("collapsed_slice_dims", collapsed_slice_dims),
            ("operand_batching_dims", operand_batching_dims),
            ("start_indices_batching_dims", start_indices_batching_dims),
            ("start_index_map", start_index_map),
        ],
        *index_vector_dim,
    );
    let sizes = if slice_sizes.is_empty() { String::new() } else { format!(": {}", joined(slice_sizes)) };
    let operands = [x.clone(), start_indices.clone()];
    let op = format!(
        "\"stablehlo.gather\"({}) <{{dimension_numbers = #stablehlo.gather<{numbers}>, indices_are_sorted = \
         {indices_are_sorted}, slice_sizes = array<i64{sizes}>}}> : ({}) -> {}",
        names(&operands),
        types(&operands),
        tensor(ty)
    );
    e.op(&op, ty)
}

/// Narrow floats are added and multiplied in f32 and rounded once: element by element a bf16 sum of ones would stop at
/// 256, where 1 is less than half of the distance to the next number.
pub(super) fn scatter(e: &mut Emitter<'_>, op: &Scatter, x: &Value, indices: &Value, updates: &Value) -> Value {
    let (computation, accumulates) = match op.update_computation {
        ScatterOp::Add => (Some(BinaryOp::Add), true),
        ScatterOp::Multiply => (Some(BinaryOp::Multiply), true),
        ScatterOp::Maximum => (Some(BinaryOp::Maximum), false),
        ScatterOp::Minimum => (Some(BinaryOp::Minimum), false),
        ScatterOp::Replace => (None, false),
    };
    if !(accumulates && accumulates_in_f32(x.ty.dtype)) {
        return scatter_with(e, op, computation, x, indices, updates);
    }
    let wide_x = elementwise::convert(e, x, DType::F32);
    let wide_updates = elementwise::convert(e, updates, DType::F32);
    let wide = scatter_with(e, op, computation, &wide_x, indices, &wide_updates);
    elementwise::convert(e, &wide, x.ty.dtype)
}

/// `scatter` whose computation is this op, or takes the update.
fn scatter_with(
    e: &mut Emitter<'_>,
    op: &Scatter,
    computation: Option<BinaryOp>,
    x: &Value,
    indices: &Value,
    updates: &Value,
) -> Value {
    let Scatter {
        update_window_dims,
        inserted_window_dims,
        input_batching_dims,
        scatter_indices_batching_dims,
        scatter_dims_to_operand_dims,
        index_vector_dim,
        indices_are_sorted,
        unique_indices,
        update_computation: _,
    } = op;
    let numbers = dimension_numbers(
        &[
            ("update_window_dims", update_window_dims),
            ("inserted_window_dims", inserted_window_dims),
            ("input_batching_dims", input_batching_dims),
            ("scatter_indices_batching_dims", scatter_indices_batching_dims),
            ("scatter_dims_to_operand_dims", scatter_dims_to_operand_dims),
        ],
        *index_vector_dim,
    );
    let operands = [x.clone(), indices.clone(), updates.clone()];
    let (left, mut results) = e.results(std::slice::from_ref(&x.ty));
    e.open(&format!(
        "{left}\"stablehlo.scatter\"({}) <{{indices_are_sorted = {indices_are_sorted}, scatter_dimension_numbers = \
         #stablehlo.scatter<{numbers}>, unique_indices = {unique_indices}}}> ({{",
        names(&operands)
    ));
    let element = TensorType::scalar(x.ty.dtype);
    let arguments = e.arguments([&element, &element]);
    e.block_label(&arguments);
    let [there, update] = &arguments[..] else { unreachable!("two types were given") };
    let combined = match computation {
        Some(computation) => elementwise::binary(e, computation, there, update),
        None => update.clone(),
    };
    e.return_values(&[combined]);
    e.close(&format!("}}) : ({}) -> {}", types(&operands), tensor(&x.ty)));
    results.remove(0)
}
