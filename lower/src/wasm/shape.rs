//! Ops that make tensors from nothing, and ops that move elements: most are other indices of their operand.

use lmc_graph::ops::{BroadcastInDim, Concatenate, Iota, Pad, Reshape, Reverse, Slice, Transpose};
use lmc_graph::{Literal, Node, ValueId};

use super::affine::{Affine, i64_of, strides};
use super::expr::{Expr, Id, Place};
use super::group::split_dimensions;
use super::nest::{Nest, Store};
use super::schedule::{Expressions, Schedule, Work};

pub(super) fn constant(e: &mut Expressions<'_, '_>, value: &Literal, index: &[Affine]) -> Id {
    if let Some(element) = value.splat() {
        return e.dag.element(element, value.ty().dtype);
    }
    let place = Place::of(e.schedule.buffers.constant(value));
    e.load(&place, value.ty(), index)
}

pub(super) fn iota(e: &mut Expressions<'_, '_>, op: &Iota, index: &[Affine]) -> Id {
    e.dag.index(index[op.iota_dimension].clone(), op.output.dtype)
}

pub(super) fn broadcast_in_dim(e: &mut Expressions<'_, '_>, op: &BroadcastInDim, x: ValueId, index: &[Affine]) -> Id {
    let none = Affine::constant(e.num_loops(), 0);
    let sizes = e.ty(x).shape.iter().zip(&op.broadcast_dimensions);
    let own: Vec<Affine> = sizes.map(|(&size, &d)| if size == 1 { none.clone() } else { index[d].clone() }).collect();
    e.value(x, &own)
}

pub(super) fn reshape(e: &mut Expressions<'_, '_>, op: &Reshape, x: ValueId, index: &[Affine]) -> Id {
    let ty = e.ty(x);
    if e.schedule.groups.is_stored(x) {
        // The same elements in the same order.
        let place = e.schedule.place(x);
        return e.load(&place, &ty.with_shape(op.shape.clone()), index);
    }
    let parts = split_dimensions(ty, op).expect("an operand is in memory unless its dimensions are split");
    let own: Vec<Affine> = parts
        .iter()
        .map(|part| {
            let sizes: Vec<usize> = part.iter().map(|&d| op.shape[d]).collect();
            let index: Vec<Affine> = part.iter().map(|&d| index[d].clone()).collect();
            Affine::dot(e.num_loops(), &index, &strides(&sizes))
        })
        .collect();
    e.value(x, &own)
}

pub(super) fn transpose(e: &mut Expressions<'_, '_>, op: &Transpose, x: ValueId, index: &[Affine]) -> Id {
    let mut own = index.to_vec();
    op.permutation.iter().zip(index).for_each(|(&d, index)| own[d] = index.clone());
    e.value(x, &own)
}

pub(super) fn reverse(e: &mut Expressions<'_, '_>, op: &Reverse, x: ValueId, index: &[Affine]) -> Id {
    let mut own = index.to_vec();
    for &d in &op.dimensions {
        own[d] = index[d].scaled(-1, i64_of(e.ty(x).shape[d]) - 1);
    }
    e.value(x, &own)
}

pub(super) fn slice(e: &mut Expressions<'_, '_>, op: &Slice, x: ValueId, index: &[Affine]) -> Id {
    let along = op.strides.iter().zip(&op.start_indices);
    let own: Vec<Affine> =
        index.iter().zip(along).map(|(index, (&stride, &start))| index.scaled(i64_of(stride), i64_of(start))).collect();
    e.value(x, &own)
}

/// A nest an operand.
pub(super) fn concatenate(s: &mut Schedule<'_>, op: &Concatenate, x: &[ValueId], home: &Place) -> Vec<Work> {
    let func = s.func;
    let mut ty = func.ty(x[0]).clone();
    ty.shape[op.dimension] = x.iter().map(|&x| func.ty(x).shape[op.dimension]).sum();
    let mut start = 0;
    x.iter()
        .map(|&x| {
            let shape = &func.ty(x).shape;
            let (mut e, index) = Expressions::over(s, shape);
            let value = e.value(x, &index);
            let mut target = index.clone();
            target[op.dimension].constant += start;
            let address = e.address(home, &ty, &target);
            start += i64_of(shape[op.dimension]);
            Work::Nest(Nest::map(e.dag, Store { value, address, dtype: ty.dtype, guard: None }))
        })
        .collect()
}

/// The padding value everywhere, then the operand where it goes.
pub(super) fn pad(s: &mut Schedule<'_>, op: &Pad, node: &Node, home: &Place) -> Vec<Work> {
    let func = s.func;
    let (x, value) = (node.operands[0], node.operands[1]);
    let ty = func.ty(node.results[0]).clone();
    let fill = s.map(&ty, home, |e, _| e.value(value, &[]));
    // The block that is not cut off: its sizes, its first index and where that goes.
    let (mut sizes, mut first, mut target) = (vec![], vec![], vec![]);
    for (d, (&size, &limit)) in func.ty(x).shape.iter().zip(&ty.shape).enumerate() {
        let (low, step) = (op.edge_padding_low[d], op.interior_padding[d] + 1);
        let fits = |&i: &i64| (0..i64_of(limit)).contains(&(low + i * step));
        let mut kept = (0..i64_of(size)).filter(fits);
        let begin = kept.next();
        sizes.push(begin.map_or(0, |_| 1 + kept.count()));
        first.push(begin.unwrap_or(0));
        target.push(low + begin.unwrap_or(0) * step);
    }
    let (mut e, index) = Expressions::over(s, &sizes);
    let source: Vec<Affine> = index.iter().zip(&first).map(|(index, &first)| index.scaled(1, first)).collect();
    let value = e.value(x, &source);
    let steps = op.interior_padding.iter().zip(&target);
    let target: Vec<Affine> =
        index.iter().zip(steps).map(|(index, (&interior, &target))| index.scaled(interior + 1, target)).collect();
    let address = e.address(home, &ty, &target);
    let put = Nest::map(e.dag, Store { value, address, dtype: ty.dtype, guard: None });
    vec![Work::Nest(fill), Work::Nest(put)]
}

/// Whether an expression is an element of memory at an index that only loops change.
pub(super) fn as_strided(expr: &Expr) -> bool {
    matches!(expr, Expr::Load { address, pinned: false } if address.offset.is_none())
}
