//! Products summed over dimensions.

use lmc_graph::TensorType;
use lmc_graph::ops::DotGeneral;

use super::emitter::{Emitter, Value, names, types};
use super::shape::reshape;
use super::syntax::{self, list, tensor};
use crate::choices::{self, DotForm, Matmul, StoredWeight};
use crate::report::{Direction, Form, Kind, Row};

/// A product that does not read a stored weight, and why, if it could.
pub(super) fn dot_general(
    e: &mut Emitter<'_>,
    op: &DotGeneral,
    [lhs, rhs]: [&Value; 2],
    ty: &TensorType,
    reads_no_weight: Option<String>,
) -> Value {
    let (form, refused) = choices::dot_general(e.target, op, &lhs.ty, &rhs.ty);
    let row_form = match &form {
        DotForm::Plain => Form::DotGeneral,
        DotForm::Collapsed(_) => Form::DotGeneralCollapsed,
        DotForm::Kernel(_) => Form::MatmulKernel,
        DotForm::OneDnn(_) => Form::OneDnnMatmul,
    };
    report(e, op, [&lhs.ty, &rhs.ty, ty], row_form, reads_no_weight.or(refused));
    match form {
        DotForm::Plain => plain(e, op, lhs, rhs, ty),
        DotForm::Collapsed(collapsed) => {
            let lhs = reshape(e, lhs, &collapsed.lhs);
            let rhs = reshape(e, rhs, &collapsed.rhs);
            let product = plain(e, &collapsed.op, &lhs, &rhs, &ty.with_shape(collapsed.result));
            reshape(e, &product, &ty.shape)
        }
        DotForm::Kernel(call) => of_matrices(e, &call, matmul, lhs, rhs, ty),
        DotForm::OneDnn(call) => of_matrices(e, &call, onednn, lhs, rhs, ty),
    }
}

/// Tells of a product in the report.
pub(super) fn report(
    e: &mut Emitter<'_>,
    op: &DotGeneral,
    [lhs, rhs, result]: [&TensorType; 3],
    form: Form,
    refused: Option<String>,
) {
    e.report.rows.push(Row {
        kind: Kind::Dot,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        operands: vec![lhs.clone(), rhs.clone()],
        results: vec![result.clone()],
        form,
        refused,
        flops: flops(op, lhs, result),
        times: e.times,
        part_of: e.attention,
    });
}

/// The custom call of the kernel of `lmc_runtime` for products of the same operands with weights as they are stored, which
/// are of one kind.
pub(super) fn weight_products(
    e: &mut Emitter<'_>,
    lhs: &Value,
    weights: &[StoredWeight<Value>],
    transposed: bool,
    results: &[TensorType],
) -> Vec<Value> {
    let operands: Vec<Value> = [lhs].into_iter().chain(weights.iter().flat_map(StoredWeight::parts)).cloned().collect();
    let attributes = format!("transposed = {transposed}, weights = {} : i64, ", weights.len());
    kernel(e, "weight_product", &operands, (&weights[0], &attributes), results)
}

/// The floats of a weight that is stored as codes, by the kernel of `lmc_runtime`.
pub(super) fn dequantized(e: &mut Emitter<'_>, weight: &StoredWeight<Value>, ty: &TensorType) -> Value {
    let operands: Vec<Value> = weight.parts().cloned().collect();
    kernel(e, "dequantize", &operands, (weight, ""), std::slice::from_ref(ty)).remove(0)
}

/// The custom call of a kernel that takes weights of the kind of `weight`.
fn kernel(
    e: &mut Emitter<'_>,
    name: &str,
    operands: &[Value],
    (weight, attributes): (&StoredWeight<Value>, &str),
    results: &[TensorType],
) -> Vec<Value> {
    let (bits, signed) = weight.groups.as_ref().map_or((0, false), |groups| (groups.bits, groups.signed));
    let config = format!("{{{attributes}bits = {bits} : i64, signed = {signed}}}");
    let op = format!(
        "stablehlo.custom_call @lmc.{name}({}) {{api_version = 4 : i32, backend_config = {config}}} : ({}) -> {}",
        names(operands),
        types(operands),
        syntax::results(results)
    );
    e.op_n(&op, results)
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
