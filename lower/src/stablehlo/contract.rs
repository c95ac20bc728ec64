//! Products summed over dimensions.

use lmc_graph::TensorType;
use lmc_graph::ops::DotGeneral;

use super::emitter::{Emitter, Value, names, types};
use super::shape::reshape;
use super::syntax::{list, tensor};
use crate::choices::{self, DotForm, Matmul, StoredWeight, WeightForm};
use crate::report::{Direction, Form, Kind, Row};

/// A product whose right operand, of type `rhs_ty`, is a weight in some form.
pub(super) fn dot_general(
    e: &mut Emitter<'_>,
    op: &DotGeneral,
    lhs: &Value,
    (weight, rhs_ty): (WeightForm<Value>, &TensorType),
    ty: &TensorType,
) -> Value {
    let (form, refused) = choices::dot_general(e.target, op, &lhs.ty, rhs_ty);
    let (row_form, refused) = match (&weight, &form) {
        (WeightForm::Kernel { .. }, _) => (Form::WeightKernel, None),
        (WeightForm::Dequantized { refused, .. }, form) => (dot_form(form), Some(refused.clone())),
        (WeightForm::Operand { refused: few_rows, .. }, form) => (dot_form(form), refused.or(few_rows.clone())),
    };
    e.report.rows.push(Row {
        kind: Kind::Dot,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        operands: vec![lhs.ty.clone(), rhs_ty.clone()],
        results: vec![ty.clone()],
        form: row_form,
        refused,
        flops: flops(op, &lhs.ty, ty),
        times: e.times,
        part_of: e.attention,
    });
    let rhs = match weight {
        WeightForm::Kernel { weight, transposed } => {
            return kernel(e, "weight_product", Some(lhs), &weight, &format!("transposed = {transposed}, "), ty);
        }
        WeightForm::Dequantized { weight, .. } => kernel(e, "dequantize", None, &weight, "", rhs_ty),
        WeightForm::Operand { value, .. } => value,
    };
    match form {
        DotForm::Plain => plain(e, op, lhs, &rhs, ty),
        DotForm::Collapsed(collapsed) => {
            let lhs = reshape(e, lhs, &collapsed.lhs);
            let rhs = reshape(e, &rhs, &collapsed.rhs);
            let product = plain(e, &collapsed.op, &lhs, &rhs, &ty.with_shape(collapsed.result));
            reshape(e, &product, &ty.shape)
        }
        DotForm::Kernel(call) => of_matrices(e, &call, matmul, lhs, &rhs, ty),
        DotForm::OneDnn(call) => of_matrices(e, &call, onednn, lhs, &rhs, ty),
    }
}

/// How a call is written: for its operands and the type of its result.
type Write = fn(&mut Emitter<'_>, &Matmul, &Value, &Value, &TensorType) -> Value;

/// A call between reshapes.
fn of_matrices(e: &mut Emitter<'_>, call: &Matmul, write: Write, lhs: &Value, rhs: &Value, ty: &TensorType) -> Value {
    let lhs = reshape(e, lhs, &call.product.lhs);
    let rhs = reshape(e, rhs, &call.product.rhs);
    let product = write(e, call, &lhs, &rhs, &ty.with_shape(call.product.result.clone()));
    reshape(e, &product, &ty.shape)
}

/// The custom call of the kernel of `lmc_runtime` for products.
fn matmul(e: &mut Emitter<'_>, call: &Matmul, lhs: &Value, rhs: &Value, ty: &TensorType) -> Value {
    let operands = [lhs.clone(), rhs.clone()];
    let op = format!(
        "stablehlo.custom_call @lmc.dot_general({}) {{api_version = 4 : i32, backend_config = {{transpose_lhs = {}, \
         transpose_rhs = {}}}}} : ({}) -> {}",
        names(&operands),
        call.transpose_lhs,
        call.transpose_rhs,
        types(&operands),
        tensor(ty)
    );
    e.op(&op, ty)
}

fn dot_form(form: &DotForm) -> Form {
    match form {
        DotForm::Plain => Form::DotGeneral,
        DotForm::Collapsed(_) => Form::DotGeneralCollapsed,
        DotForm::Kernel(_) => Form::MatmulKernel,
        DotForm::OneDnn(_) => Form::OneDnnMatmul,
    }
}

/// The custom call of a kernel of `lmc_runtime` that takes a weight as it is stored, behind other operands and with other
/// attributes.
fn kernel(
    e: &mut Emitter<'_>,
    name: &str,
    lhs: Option<&Value>,
    weight: &StoredWeight<Value>,
    attributes: &str,
    ty: &TensorType,
) -> Value {
    let mut operands: Vec<Value> = lhs.into_iter().chain([&weight.elements]).cloned().collect();
    let (bits, signed) = weight.groups.as_ref().map_or((0, false), |groups| (groups.bits, groups.signed));
    if let Some(groups) = &weight.groups {
        operands.extend([&groups.scales].into_iter().chain(&groups.offset).cloned());
    }
    let config = format!("{{{attributes}bits = {bits} : i64, signed = {signed}}}");
    let op = format!(
        "stablehlo.custom_call @lmc.{name}({}) {{api_version = 4 : i32, backend_config = {config}}} : ({}) -> {}",
        names(&operands),
        types(&operands),
        tensor(ty)
    );
    e.op(&op, ty)
}

/// The custom call that XLA's own rewrite of a product to oneDNN makes (`xla/service/cpu/onednn_contraction_rewriter.cc`).
/// Its backend config is JSON of `OneDnnMatMulConfig` (`onednn_config.proto`); a tensor's `dimensions` count from 1 and
/// say the order of its dimensions in memory, here row-major.
fn onednn(e: &mut Emitter<'_>, call: &Matmul, lhs: &Value, rhs: &Value, ty: &TensorType) -> Value {
    let tensor_config = |ty: &TensorType| {
        let dimensions: Vec<String> = (1..=ty.rank()).map(|d| format!("\\\"{d}\\\"")).collect();
        format!("{{\\\"tensor\\\":{{\\\"dimensions\\\":[{}]}}}}", dimensions.join(","))
    };
    let config = format!(
        "{{\\\"onednn_matmul_config\\\":{{\\\"transpose_a\\\":{},\\\"transpose_b\\\":{},\\\"lhs\\\":{},\\\"rhs\\\":{},\
         \\\"result\\\":{}}}}}",
        call.transpose_lhs,
        call.transpose_rhs,
        tensor_config(&lhs.ty),
        tensor_config(&rhs.ty),
        tensor_config(ty)
    );
    let operands = [lhs.clone(), rhs.clone()];
    let op = format!(
        "stablehlo.custom_call @\"__onednn$matmul\"({}) {{backend_config = \"{config}\", api_version = 1 : i32}} : ({}) -> {}",
        names(&operands),
        types(&operands),
        tensor(ty)
    );
    e.op(&op, ty)
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
