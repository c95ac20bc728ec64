//! Ops that work element by element.

use lmc_graph::ops::{BinaryOp, ComparisonDirection, UnaryOp};
use lmc_graph::{DType, ValueId};

use super::affine::Affine;
use super::expr::{Expr, Id};
use super::schedule::Expressions;

pub(super) fn unary(e: &mut Expressions<'_, '_>, op: UnaryOp, x: ValueId, index: &[Affine]) -> Id {
    let x = e.value(x, index);
    e.dag.unary(op, x)
}

pub(super) fn binary(e: &mut Expressions<'_, '_>, op: BinaryOp, x: ValueId, y: ValueId, index: &[Affine]) -> Id {
    let (x, y) = (e.value(x, index), e.value(y, index));
    e.dag.binary(op, x, y)
}

/// An operand that is a scalar or has an element at every index.
fn scalar_or(e: &mut Expressions<'_, '_>, x: ValueId, index: &[Affine]) -> Id {
    let index = if e.ty(x).rank() == 0 { &[] } else { index };
    e.value(x, index)
}

pub(super) fn select(e: &mut Expressions<'_, '_>, x: &[ValueId], index: &[Affine]) -> Id {
    let pred = scalar_or(e, x[0], index);
    let (on_true, on_false) = (e.value(x[1], index), e.value(x[2], index));
    e.dag.select(pred, on_true, on_false)
}

pub(super) fn clamp(e: &mut Expressions<'_, '_>, x: &[ValueId], index: &[Affine]) -> Id {
    let [min, x, max] = [x[0], x[1], x[2]].map(|x| scalar_or(e, x, index));
    let above = e.dag.binary(BinaryOp::Maximum, x, min);
    e.dag.binary(BinaryOp::Minimum, above, max)
}

pub(super) fn compare(
    e: &mut Expressions<'_, '_>,
    direction: ComparisonDirection,
    x: ValueId,
    y: ValueId,
    index: &[Affine],
) -> Id {
    let (x, y) = (e.value(x, index), e.value(y, index));
    e.dag.compare(direction, x, y)
}

pub(super) fn convert(e: &mut Expressions<'_, '_>, x: ValueId, dtype: DType, index: &[Affine]) -> Id {
    let x = e.value(x, index);
    e.dag.convert(x, dtype)
}

pub(super) fn bitcast_convert(e: &mut Expressions<'_, '_>, x: ValueId, dtype: DType, index: &[Affine]) -> Id {
    let x = e.value(x, index);
    e.dag.push(Expr::Bitcast(x), dtype)
}
