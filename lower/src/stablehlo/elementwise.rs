//! Ops that work element by element. Their names in the IR are StableHLO's.

use lmc_graph::ops::{BinaryOp, ComparisonDirection, UnaryOp};
use lmc_graph::{DType, TensorType};

use super::emitter::{Emitter, Value, names, types};
use super::syntax::tensor;

pub(super) fn unary(e: &mut Emitter<'_>, op: UnaryOp, x: &Value, ty: &TensorType) -> Value {
    // The short form has one type for both sides.
    let signature = if *ty == x.ty { tensor(ty) } else { format!("({}) -> {}", tensor(&x.ty), tensor(ty)) };
    e.op(&format!("stablehlo.{} {} : {signature}", op.name(), x.name), ty)
}

pub(super) fn binary(e: &mut Emitter<'_>, op: BinaryOp, lhs: &Value, rhs: &Value) -> Value {
    e.op(&format!("stablehlo.{} {}, {} : {}", op.name(), lhs.name, rhs.name, tensor(&lhs.ty)), &lhs.ty)
}

pub(super) fn compare(e: &mut Emitter<'_>, direction: ComparisonDirection, lhs: &Value, rhs: &Value) -> Value {
    let dtype = lhs.ty.dtype;
    let order = if dtype.is_float() {
        "FLOAT"
    } else if dtype.is_signed_int() {
        "SIGNED"
    } else {
        "UNSIGNED"
    };
    compare_in(e, direction, order, lhs, rhs)
}

/// `compare` in a stated order, such as `TOTALORDER`.
pub(super) fn compare_in(
    e: &mut Emitter<'_>,
    direction: ComparisonDirection,
    order: &str,
    lhs: &Value,
    rhs: &Value,
) -> Value {
    let ty = lhs.ty.with_dtype(DType::Bool);
    let (name, operands) = (direction.name(), [lhs.clone(), rhs.clone()]);
    let op =
        format!("stablehlo.compare {name}, {}, {order} : ({}) -> {}", names(&operands), types(&operands), tensor(&ty));
    e.op(&op, &ty)
}

pub(super) fn select(e: &mut Emitter<'_>, pred: &Value, on_true: &Value, on_false: &Value) -> Value {
    let ty = &on_true.ty;
    let operands = [pred.clone(), on_true.clone(), on_false.clone()];
    e.op(&format!("stablehlo.select {} : {}, {}", names(&operands), tensor(&pred.ty), tensor(ty)), ty)
}

pub(super) fn clamp(e: &mut Emitter<'_>, min: &Value, x: &Value, max: &Value) -> Value {
    let operands = [min.clone(), x.clone(), max.clone()];
    let signature = if min.ty == x.ty && max.ty == x.ty {
        tensor(&x.ty)
    } else {
        format!("({}) -> {}", types(&operands), tensor(&x.ty))
    };
    e.op(&format!("stablehlo.clamp {} : {signature}", names(&operands)), &x.ty)
}

pub(super) fn convert(e: &mut Emitter<'_>, x: &Value, dtype: DType) -> Value {
    conversion(e, "convert", x, dtype)
}

pub(super) fn bitcast_convert(e: &mut Emitter<'_>, x: &Value, dtype: DType) -> Value {
    conversion(e, "bitcast_convert", x, dtype)
}

fn conversion(e: &mut Emitter<'_>, name: &str, x: &Value, dtype: DType) -> Value {
    let ty = x.ty.with_dtype(dtype);
    e.op(&format!("stablehlo.{name} {} : ({}) -> {}", x.name, tensor(&x.ty), tensor(&ty)), &ty)
}
