//! Constants, and ops that arrange elements.

use lmc_graph::ops::{BroadcastInDim, Concatenate, Pad, Reverse, Slice, Transpose};
use lmc_graph::{DType, Literal, TensorType};

use super::elementwise;
use super::emitter::{Emitter, Value, names, types};
use super::syntax::{dense, joined, list, tensor};

pub(super) fn constant(e: &mut Emitter<'_>, value: &Literal) -> Value {
    if let Some(dense) = dense(value) {
        return e.op(&format!("stablehlo.constant {dense} : {}", tensor(value.ty())), value.ty());
    }
    // Booleans without a spelling of their own are bytes first.
    let bytes: Vec<u8> = value.bytes().to_vec();
    let bytes = constant(e, &Literal::new(value.ty().shape.clone(), &bytes));
    elementwise::convert(e, &bytes, DType::Bool)
}

/// A constant whose elements all are `element`, a scalar.
pub(super) fn full(e: &mut Emitter<'_>, ty: &TensorType, element: &Literal) -> Value {
    if ty.num_elements() == 0 {
        return constant(e, &Literal::zeros(ty.clone()));
    }
    let element = dense(element).expect("a scalar has a spelling");
    e.op(&format!("stablehlo.constant {element} : {}", tensor(ty)), ty)
}

pub(super) fn iota(e: &mut Emitter<'_>, iota_dimension: usize, ty: &TensorType) -> Value {
    e.op(&format!("stablehlo.iota dim = {iota_dimension} : {}", tensor(ty)), ty)
}

pub(super) fn broadcast_in_dim(e: &mut Emitter<'_>, op: &BroadcastInDim, x: &Value) -> Value {
    let BroadcastInDim { shape, broadcast_dimensions } = op;
    let ty = x.ty.with_shape(shape.clone());
    one_operand(e, "broadcast_in_dim", x, &format!(", dims = {}", list(broadcast_dimensions)), &ty)
}

/// `reshape`; nothing when the shape stays.
pub(super) fn reshape(e: &mut Emitter<'_>, x: &Value, shape: &[usize]) -> Value {
    if x.ty.shape == shape {
        return x.clone();
    }
    one_operand(e, "reshape", x, "", &x.ty.with_shape(shape))
}

pub(super) fn transpose(e: &mut Emitter<'_>, op: &Transpose, x: &Value, ty: &TensorType) -> Value {
    one_operand(e, "transpose", x, &format!(", dims = {}", list(&op.permutation)), ty)
}

pub(super) fn reverse(e: &mut Emitter<'_>, op: &Reverse, x: &Value) -> Value {
    e.op(&format!("stablehlo.reverse {}, dims = {} : {}", x.name, list(&op.dimensions), tensor(&x.ty)), &x.ty)
}

pub(super) fn slice(e: &mut Emitter<'_>, op: &Slice, x: &Value, ty: &TensorType) -> Value {
    let Slice { start_indices, limit_indices, strides } = op;
    let ranges = start_indices.iter().zip(limit_indices).zip(strides).map(|((start, limit), stride)| match stride {
        1 => format!("{start}:{limit}"),
        stride => format!("{start}:{limit}:{stride}"),
    });
    one_operand(e, "slice", x, &format!(" {}", list(ranges)), ty)
}

pub(super) fn concatenate(e: &mut Emitter<'_>, op: &Concatenate, x: &[Value], ty: &TensorType) -> Value {
    let Concatenate { dimension } = op;
    e.op(&format!("stablehlo.concatenate {}, dim = {dimension} : ({}) -> {}", names(x), types(x), tensor(ty)), ty)
}

pub(super) fn pad(e: &mut Emitter<'_>, op: &Pad, x: &Value, padding_value: &Value, ty: &TensorType) -> Value {
    let Pad { edge_padding_low, edge_padding_high, interior_padding } = op;
    let operands = [x.clone(), padding_value.clone()];
    let attributes = joined([
        format!("low = {}", list(edge_padding_low)),
        format!("high = {}", list(edge_padding_high)),
        format!("interior = {}", list(interior_padding)),
    ]);
    e.op(&format!("stablehlo.pad {}, {attributes} : ({}) -> {}", names(&operands), types(&operands), tensor(ty)), ty)
}

/// `stablehlo.name %x<attributes> : (type of x) -> type`.
fn one_operand(e: &mut Emitter<'_>, name: &str, x: &Value, attributes: &str, ty: &TensorType) -> Value {
    e.op(&format!("stablehlo.{name} {}{attributes} : ({}) -> {}", x.name, tensor(&x.ty), tensor(ty)), ty)
}
