//! Products summed over dimensions.

use lmc_graph::TensorType;
use lmc_graph::ops::DotGeneral;

use super::emitter::{Emitter, Value, names, types};
use super::shape::reshape;
use super::syntax::{list, tensor};
use crate::choices::{self, DotForm};
use crate::report::{Direction, Form, Kind, Row};

pub(super) fn dot_general(e: &mut Emitter<'_>, op: &DotGeneral, lhs: &Value, rhs: &Value, ty: &TensorType) -> Value {
    let form = choices::dot_general(e.target, op, &lhs.ty, &rhs.ty);
    e.report.rows.push(Row {
        kind: Kind::Dot,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        operands: vec![lhs.ty.clone(), rhs.ty.clone()],
        results: vec![ty.clone()],
        form: match form {
            DotForm::Plain => Form::DotGeneral,
            DotForm::Collapsed(_) => Form::DotGeneralCollapsed,
        },
        refused: None,
        flops: flops(op, &lhs.ty, ty),
        times: e.times,
        part_of: e.attention,
    });
    match form {
        DotForm::Plain => plain(e, op, lhs, rhs, ty),
        DotForm::Collapsed(collapsed) => {
            let lhs = reshape(e, lhs, &collapsed.lhs);
            let rhs = reshape(e, rhs, &collapsed.rhs);
            let product = plain(e, &collapsed.op, &lhs, &rhs, &ty.with_shape(collapsed.result));
            reshape(e, &product, &ty.shape)
        }
    }
}

fn plain(e: &mut Emitter<'_>, op: &DotGeneral, lhs: &Value, rhs: &Value, ty: &TensorType) -> Value {
    let DotGeneral {
        lhs_batching_dimensions,
        rhs_batching_dimensions,
        lhs_contracting_dimensions,
        rhs_contracting_dimensions,
        result_dtype: _,
    } = op;
    let mut attributes = String::new();
    if !lhs_batching_dimensions.is_empty() {
        let (lhs, rhs) = (list(lhs_batching_dimensions), list(rhs_batching_dimensions));
        attributes += &format!(", batching_dims = {lhs} x {rhs}");
    }
    let (lhs_sum, rhs_sum) = (list(lhs_contracting_dimensions), list(rhs_contracting_dimensions));
    attributes += &format!(", contracting_dims = {lhs_sum} x {rhs_sum}");
    let operands = [lhs.clone(), rhs.clone()];
    let op =
        format!("stablehlo.dot_general {}{attributes} : ({}) -> {}", names(&operands), types(&operands), tensor(ty));
    e.op(&op, ty)
}

/// A multiplication and an addition for each element of the result and each summed index.
fn flops(op: &DotGeneral, lhs: &TensorType, result: &TensorType) -> u64 {
    let summed = op.lhs_contracting_dimensions.iter().map(|&d| lhs.shape[d]);
    let sizes = summed.chain(result.shape.iter().copied());
    sizes.fold(2, |product, size| product.saturating_mul(u64::try_from(size).unwrap_or(u64::MAX)))
}
