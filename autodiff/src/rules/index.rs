//! Derivatives of reading and writing at positions that are values.

use lmc_graph::ops::{Gather, Scatter, ScatterOp};
use lmc_graph::{DType, Literal, TensorType, Value};

use crate::rules::shape::{signed, zero};

/// `dynamic_slice`: the block of cotangents written into zeros; both limit the start in the same way.
pub(crate) fn dynamic_slice<'g>(x: Value<'g>, start: &[Value<'g>], ct: Value<'g>) -> Vec<Option<Value<'g>>> {
    let dx = x.full_like(0.0).dynamic_update_slice(ct, start);
    std::iter::once(Some(dx)).chain(start.iter().map(|_| None)).collect()
}

/// `dynamic_update_slice`: to the update its block, to the operand the rest.
pub(crate) fn dynamic_update_slice<'g>(
    update: Value<'g>,
    start: &[Value<'g>],
    ct: Value<'g>,
) -> Vec<Option<Value<'g>>> {
    let dx = ct.dynamic_update_slice(update.full_like(0.0), start);
    let dupdate = ct.dynamic_slice(start, &update.shape());
    [Some(dx), Some(dupdate)].into_iter().chain(start.iter().map(|_| None)).collect()
}

/// `gather`: blocks of cotangents added into zeros where they were read, in the element type that is wanted.
///
/// A gather limits its starts where a scatter drops what lies outside, so the starts are limited first.
pub(crate) fn gather<'g>(
    op: &Gather,
    x: Value<'g>,
    indices: Value<'g>,
    ct: Value<'g>,
    want: DType,
) -> [Option<Value<'g>>; 2] {
    let sizes = x.shape();
    let last_start: Vec<usize> = op.start_index_map.iter().map(|&d| sizes[d] - op.slice_sizes[d]).collect();
    let scatter = Scatter {
        update_window_dims: op.offset_dims.clone(),
        inserted_window_dims: op.collapsed_slice_dims.clone(),
        input_batching_dims: op.operand_batching_dims.clone(),
        scatter_indices_batching_dims: op.start_indices_batching_dims.clone(),
        scatter_dims_to_operand_dims: op.start_index_map.clone(),
        index_vector_dim: op.index_vector_dim,
        // Limiting the parts of a vector does not keep the order of the vectors.
        indices_are_sorted: op.indices_are_sorted && last_start.len() == 1,
        unique_indices: false,
        update_computation: ScatterOp::Add,
    };
    let zeros = x.builder().full(&x.ty().with_dtype(want), 0.0);
    let dx = zeros.scatter(limit(indices, op.index_vector_dim, &last_start), ct.convert(want), scatter);
    [Some(dx), None]
}

/// Index vectors with each part limited to `0 ..= last`.
fn limit<'g>(indices: Value<'g>, index_vector_dim: usize, last: &[usize]) -> Value<'g> {
    // An index type too narrow for the limit cannot exceed it.
    let largest = |dtype: DType| if dtype.is_signed_int() { dtype.bits() - 1 } else { dtype.bits() };
    let last: Vec<usize> = last
        .iter()
        .map(|&last| last.min(1_usize.checked_shl(u32_of(largest(indices.dtype()))).map_or(usize::MAX, |n| n - 1)))
        .collect();
    let min = indices.builder().scalar(indices.dtype(), 0.0);
    indices.clamp(min, part_vector(indices, index_vector_dim, &last))
}

/// A number of bits.
fn u32_of(bits: usize) -> u32 {
    u32::try_from(bits).expect("an element has at most 64 bits")
}

/// For index vectors along `index_vector_dim`, a tensor of the same shape with `parts` as every vector.
fn part_vector<'g>(indices: Value<'g>, index_vector_dim: usize, parts: &[usize]) -> Value<'g> {
    let elements: Vec<f64> = parts.iter().map(|&part| part as f64).collect();
    let literal = |shape: Vec<usize>| Literal::from_f64s(TensorType::new(indices.dtype(), shape), &elements);
    if index_vector_dim == indices.rank() {
        return indices.builder().constant(literal(vec![])).broadcast_in_dim(&indices.shape(), &[]);
    }
    indices.builder().constant(literal(vec![parts.len()])).broadcast_in_dim(&indices.shape(), &[index_vector_dim])
}

/// `scatter`; `is_active` says whether the updates need a cotangent.
///
/// # Errors
/// The reason, for the updates of an `update_computation` whose derivative is not known.
pub(crate) fn scatter<'g>(
    op: &Scatter,
    x: Value<'g>,
    indices: Value<'g>,
    updates: Value<'g>,
    ct: Value<'g>,
    is_active: bool,
) -> Result<[Option<Value<'g>>; 3], &'static str> {
    match op.update_computation {
        ScatterOp::Add => Ok([Some(ct), None, Some(read_updates(op, ct, indices, updates))]),
        ScatterOp::Multiply if is_active && !op.unique_indices => Err(
            "the derivative for the updates of a product needs positions that are written once: set `unique_indices`",
        ),
        ScatterOp::Multiply => {
            let dx = ct.scatter(indices, updates, op.clone());
            Ok([Some(dx), None, Some(read_updates(op, ct * x, indices, updates))])
        }
        ScatterOp::Replace => {
            let dx = ct.scatter(indices, updates.full_like(0.0), op.clone());
            let dupdates = read_updates(op, ct, indices, updates);
            if op.unique_indices {
                return Ok([Some(dx), None, Some(dupdates)]);
            }
            let is_kept = kept_updates(op, x, indices, updates);
            Ok([Some(dx), None, Some(is_kept.select(dupdates, updates.full_like(0.0)))])
        }
        ScatterOp::Maximum | ScatterOp::Minimum => {
            Err("the choice of the greater or lesser has no derivative here: use `add` or `replace`, or `reduce`")
        }
    }
}

/// Which updates of a `replace` stay where several are written to one position: numbers that are scattered in the same
/// way tell. (As jax.lax.scatter.)
fn kept_updates<'g>(op: &Scatter, x: Value<'g>, indices: Value<'g>, updates: Value<'g>) -> Value<'g> {
    let (builder, num_updates) = (x.builder(), updates.ty().num_elements());
    let dtype = if i32::try_from(num_updates).is_ok() { DType::I32 } else { DType::I64 };
    // From 1, as 0 stands for no update.
    let numbers = builder.iota(&TensorType::new(dtype, [num_updates]), 0) + 1.0;
    let numbers = numbers.reshape(&updates.shape());
    let scattered = builder.full(&x.ty().with_dtype(dtype), 0.0).scatter(indices, numbers, op.clone());
    read_updates(op, scattered, indices, updates).equal(numbers)
}

/// For each update the element of `y` at its position, and zero for one that was dropped as it lies outside.
fn read_updates<'g>(op: &Scatter, y: Value<'g>, indices: Value<'g>, updates: Value<'g>) -> Value<'g> {
    let (rank, update_sizes) = (y.rank(), updates.shape());
    let mut windows = op.update_window_dims.iter().map(|&d| update_sizes[d]);
    let is_window = |d: usize| !op.inserted_window_dims.contains(&d) && !op.input_batching_dims.contains(&d);
    let slice_sizes: Vec<usize> =
        (0..rank).map(|d| if is_window(d) { windows.next().unwrap_or(1) } else { 1 }).collect();

    // A border of zeros as wide as a block: what a gather limits to it reads only zeros.
    let border: Vec<usize> =
        (0..rank).map(|d| if op.scatter_dims_to_operand_dims.contains(&d) { slice_sizes[d] } else { 0 }).collect();
    let padding: Vec<i64> = border.iter().map(|&size| signed(size)).collect();
    let padded = y.pad(zero(y), &padding, &padding, &vec![0; rank]);

    // Wide enough that a shifted index within the operand is still one; beyond, it wraps into the border.
    let dtype = match indices.dtype() {
        DType::Bool | DType::I8 | DType::I16 | DType::U8 | DType::U16 | DType::I32 => DType::I32,
        DType::U32 | DType::I64 | DType::U64 => DType::I64,
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 => unreachable!("indices are integers (scatter, I1)"),
    };
    let indices = indices.convert(dtype);
    let shift: Vec<usize> = op.scatter_dims_to_operand_dims.iter().map(|&d| border[d]).collect();
    let starts = indices + part_vector(indices, op.index_vector_dim, &shift);
    padded.gather(
        starts,
        Gather {
            offset_dims: op.update_window_dims.clone(),
            collapsed_slice_dims: op.inserted_window_dims.clone(),
            operand_batching_dims: op.input_batching_dims.clone(),
            start_indices_batching_dims: op.scatter_indices_batching_dims.clone(),
            start_index_map: op.scatter_dims_to_operand_dims.clone(),
            index_vector_dim: op.index_vector_dim,
            slice_sizes,
            indices_are_sorted: op.indices_are_sorted,
        },
    )
}
