//! Reading and writing at positions that are values.

use lmc_graph::ops::{BinaryOp, ComparisonDirection, DynamicSlice, Gather, Scatter, ScatterOp};
use lmc_graph::{DType, ValueId};

use super::affine::{Affine, i64_of, strides};
use super::expr::{Address, Expr, Id, Place};
use super::nest::{Nest, Store};
use super::schedule::{Expressions, Schedule, Work};

/// An index that is a value: the greatest that it may be, and the bytes that it moves on by.
struct Start {
    index: Id,
    limit: usize,
    bytes: i64,
}

/// An index in a type that holds every limit.
fn widened(e: &mut Expressions<'_, '_>, index: Id) -> Id {
    let dtype = e.dag.dtype(index);
    if dtype.size() < 4 { e.dag.convert(index, DType::I32) } else { index }
}

/// The bytes that starts move on by together, each within `0 ..= limit`.
fn offset(e: &mut Expressions<'_, '_>, starts: &[Start]) -> Option<Id> {
    let mut sum = None;
    for start in starts {
        let index = widened(e, start.index);
        let dtype = e.dag.dtype(index);
        let (zero, limit) = (e.dag.constant(dtype, 0.0), e.dag.constant(dtype, start.limit as f64));
        let index = e.dag.binary(BinaryOp::Maximum, index, zero);
        let index = e.dag.binary(BinaryOp::Minimum, index, limit);
        let index = e.dag.convert(index, DType::I32);
        let bytes = e.dag.constant(DType::I32, start.bytes as f64);
        let moved = e.dag.binary(BinaryOp::Multiply, index, bytes);
        sum = Some(sum.map_or(moved, |sum| e.dag.binary(BinaryOp::Add, sum, moved)));
    }
    sum
}

/// Starts that are scalars, one a dimension, of a block of these sizes.
fn scalar_starts(e: &mut Expressions<'_, '_>, x: ValueId, starts: &[ValueId], sizes: &[usize]) -> Vec<Start> {
    let ty = e.ty(x);
    let along = strides(&ty.shape);
    (0..ty.rank())
        .map(|d| {
            let index = e.value(starts[d], &[]);
            let bytes = along[d] * i64_of(ty.dtype.size());
            Start { index, limit: ty.shape[d] - sizes[d], bytes }
        })
        .collect()
}

pub(super) fn dynamic_slice(e: &mut Expressions<'_, '_>, op: &DynamicSlice, x: &[ValueId], index: &[Affine]) -> Id {
    let starts = scalar_starts(e, x[0], &x[1..], &op.slice_sizes);
    let offset = offset(e, &starts);
    let (place, ty) = (e.schedule.place(x[0]), e.ty(x[0]));
    let address = Address { offset, ..e.address(&place, ty, index) };
    e.dag.push(Expr::Load { address, pinned: false }, ty.dtype)
}

/// The operand everywhere, then the update where it goes.
pub(super) fn dynamic_update_slice(s: &mut Schedule<'_>, x: &[ValueId], home: &Place) -> Vec<Work> {
    let func = s.func;
    let copy = s.copy(x[0], home);
    let (ty, update) = (func.ty(x[0]), func.ty(x[1]));
    let (mut e, index) = Expressions::over(s, &update.shape);
    let starts = scalar_starts(&mut e, x[0], &x[2..], &update.shape);
    let offset = offset(&mut e, &starts);
    let value = e.value(x[1], &index);
    let address = Address { offset, ..e.address(home, ty, &index) };
    let put = Nest::map(e.dag, Store { value, address, dtype: ty.dtype, guard: None });
    vec![Work::Nest(copy), Work::Nest(put)]
}

/// The index of index vector element `k` for a batch index.
fn vector_index(batch: &[Affine], index_vector_dim: usize, rank: usize, k: usize) -> Vec<Affine> {
    let mut own = batch.to_vec();
    if index_vector_dim < rank {
        own.insert(index_vector_dim, Affine::constant(0, i64_of(k)));
    }
    let num_loops = batch.iter().map(|index| index.coefficients.len()).max().unwrap_or(0);
    own.iter_mut().for_each(|index| index.coefficients.resize(num_loops, 0));
    own
}

/// The batch's index for each batching dimension of the operand.
fn batching(batch: &[Affine], index_vector_dim: usize, dimensions: &[usize]) -> Vec<Affine> {
    // Dimensions of the indices behind the index vectors' count one less in the batch.
    dimensions.iter().map(|&d| batch[if d > index_vector_dim { d - 1 } else { d }].clone()).collect()
}

pub(super) fn gather(e: &mut Expressions<'_, '_>, op: &Gather, x: ValueId, indices: ValueId, index: &[Affine]) -> Id {
    let (ty, rank) = (e.ty(x), e.ty(indices).rank());
    let batch: Vec<Affine> =
        (0..index.len()).filter(|d| !op.offset_dims.contains(d)).map(|d| index[d].clone()).collect();
    let along = strides(&ty.shape);
    let mut starts = Vec::new();
    for (k, &d) in op.start_index_map.iter().enumerate() {
        let index = with_loops(e, vector_index(&batch, op.index_vector_dim, rank, k));
        let index = e.value(indices, &index);
        let bytes = along[d] * i64_of(ty.dtype.size());
        starts.push(Start { index, limit: ty.shape[d] - op.slice_sizes[d], bytes });
    }
    let offset = offset(e, &starts);
    let mut own = vec![Affine::constant(e.num_loops(), 0); ty.rank()];
    let block =
        (0..ty.rank()).filter(|d| !op.collapsed_slice_dims.contains(d) && !op.operand_batching_dims.contains(d));
    block.zip(&op.offset_dims).for_each(|(d, &r)| own[d] = index[r].clone());
    let of_batch = batching(&batch, op.index_vector_dim, &op.start_indices_batching_dims);
    op.operand_batching_dims.iter().zip(of_batch).for_each(|(&d, index)| own[d] = index);
    let place = e.schedule.place(x);
    let address = Address { offset, ..e.address(&place, ty, &own) };
    e.dag.push(Expr::Load { address, pinned: false }, ty.dtype)
}

/// Indices over all loops of the nest.
fn with_loops(e: &Expressions<'_, '_>, mut index: Vec<Affine>) -> Vec<Affine> {
    index.iter_mut().for_each(|index| index.coefficients.resize(e.num_loops(), 0));
    index
}

/// The operand everywhere, then the updates, block by block.
pub(super) fn scatter(s: &mut Schedule<'_>, op: &Scatter, x: &[ValueId], home: &Place) -> Vec<Work> {
    let func = s.func;
    let copy = s.copy(x[0], home);
    let (ty, indices, updates) = (func.ty(x[0]), func.ty(x[1]), func.ty(x[2]));
    // Blocks may lie on each other: only the elements of one are independent.
    let batch_dims: Vec<usize> = (0..updates.rank()).filter(|d| !op.update_window_dims.contains(d)).collect();
    let order: Vec<usize> = batch_dims.iter().chain(&op.update_window_dims).copied().collect();
    let sizes: Vec<usize> = order.iter().map(|&d| updates.shape[d]).collect();
    let independent_from = sizes[..batch_dims.len()].iter().filter(|&&size| size != 1).count();
    let (mut e, along) = Expressions::over(s, &sizes);
    let mut index = along.clone();
    order.iter().zip(&along).for_each(|(&d, along)| index[d] = along.clone());
    let (batch, window) = along.split_at(batch_dims.len());

    let spread: Vec<usize> = (0..ty.rank())
        .filter(|d| !op.inserted_window_dims.contains(d) && !op.input_batching_dims.contains(d))
        .collect();
    let mut sizes = vec![1; ty.rank()];
    spread.iter().zip(&op.update_window_dims).for_each(|(&d, &u)| sizes[d] = updates.shape[u]);
    let strides = strides(&ty.shape);
    let (mut starts, mut guard) = (Vec::new(), None);
    for (k, &d) in op.scatter_dims_to_operand_dims.iter().enumerate() {
        let index = with_loops(&e, vector_index(batch, op.index_vector_dim, indices.rank(), k));
        let index = e.value(x[1], &index);
        let index = widened(&mut e, index);
        let limit = ty.shape[d] - sizes[d].min(ty.shape[d]);
        let within = within(&mut e, index, limit);
        guard = Some(guard.map_or(within, |guard| e.dag.binary(BinaryOp::And, guard, within)));
        starts.push(Start { index, limit, bytes: strides[d] * i64_of(ty.dtype.size()) });
    }
    let offset = offset(&mut e, &starts);
    let mut own = vec![Affine::constant(e.num_loops(), 0); ty.rank()];
    spread.iter().zip(window).for_each(|(&d, index)| own[d] = index.clone());
    let of_batch = batching(batch, op.index_vector_dim, &op.scatter_indices_batching_dims);
    op.input_batching_dims.iter().zip(of_batch).for_each(|(&d, index)| own[d] = index);
    let address = Address { offset, ..e.address(home, ty, &own) };
    let there = e.dag.push(Expr::Load { address: address.clone(), pinned: true }, ty.dtype);
    let update = e.value(x[2], &index);
    let value = match op.update_computation {
        ScatterOp::Add => e.dag.binary(BinaryOp::Add, there, update),
        ScatterOp::Multiply => e.dag.binary(BinaryOp::Multiply, there, update),
        ScatterOp::Maximum => e.dag.binary(BinaryOp::Maximum, there, update),
        ScatterOp::Minimum => e.dag.binary(BinaryOp::Minimum, there, update),
        ScatterOp::Replace => update,
    };
    let store = Store { value, address, dtype: ty.dtype, guard };
    // An operand without elements takes no updates.
    let empty = ty.num_elements() == 0;
    let put = (!empty).then_some(Work::Nest(Nest { dag: e.dag, reduction: None, store, independent_from }));
    std::iter::once(Work::Nest(copy)).chain(put).collect()
}

/// Whether `0 <= index <= limit`.
fn within(e: &mut Expressions<'_, '_>, index: Id, limit: usize) -> Id {
    let dtype = e.dag.dtype(index);
    let (zero, limit) = (e.dag.constant(dtype, 0.0), e.dag.constant(dtype, limit as f64));
    let begun = e.dag.compare(ComparisonDirection::Ge, index, zero);
    let not_over = e.dag.compare(ComparisonDirection::Le, index, limit);
    e.dag.binary(BinaryOp::And, begun, not_over)
}
