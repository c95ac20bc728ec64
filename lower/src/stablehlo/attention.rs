//! Attention and its backward.

use lmc_graph::decompose::decompose_by_blocks;
use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention, Transpose};
use lmc_graph::{Builder, DType, Func, Literal, Op, TensorType};

use super::Frame;
use super::cudnn::{Call, Layout, MaskType};
use super::emitter::{Emitter, Value, names, types};
use super::shape::transpose;
use super::syntax;
use crate::choices::{self, Attention, AttentionForm};
use crate::documents;
use crate::report::{Direction, Form, Kind, Row, fused_attention_flops};
use crate::target::{Cuda, Platform};

/// An attention in the form that the target has for it. The log-sum-exp is left out of the results where it is not used
/// and a fused kernel need not write it.
pub(super) fn attention(
    e: &mut Emitter<'_>,
    op: Attention<'_>,
    x: &[Value],
    result_types: &[TensorType],
    uses_log_sum_exp: bool,
) -> Vec<Value> {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    let form = choices::attention(e.target, op, &operands);
    let is_backward = matches!(op, Attention::Backward(_));
    let flops = fused_attention_flops(&op.attributes(), is_backward, [&x[0].ty.shape, &x[2].ty.shape]);
    let row = report(e, &form, operands, result_types, flops);
    match (form, op) {
        (AttentionForm::Decomposed { block, .. }, op) => decomposed(e, &op.op(), x, block, row),
        (AttentionForm::Kernel, op) => {
            let ScaledDotProductAttention { scale, mask, sliding_window, rows: _ } = op.attributes();
            let is_causal = mask == AttentionMask::Causal;
            let attributes = [("causal", is_causal.to_string()), ("sliding_window", window(sliding_window))];
            kernel(e, &op.op(), scale, &attributes, x, result_types)
        }
        (AttentionForm::Cudnn, Attention::Forward(op)) => forward(e, op, x, result_types, uses_log_sum_exp),
        (AttentionForm::Cudnn, Attention::Backward(op)) => backward(e, &op.forward(), x, result_types),
    }
}

/// The ops of the decomposition, all at the location of the node; `row` is the attention's in the report.
pub(super) fn decomposed(e: &mut Emitter<'_>, op: &Op, x: &[Value], block: usize, row: usize) -> Vec<Value> {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    let func =
        decompose_by_blocks(op, &operands, block).unwrap_or_else(|| panic!("{} has no decomposition", op.name()));
    let outer = e.attention.replace(row);
    let results = inline(e, &func, x);
    e.attention = outer;
    // A decomposition may loop: its products count per run of the attention.
    let per_run = |product: &Row| match (product.times, e.times) {
        (Some(times), Some(outer)) if outer > 0 => product.flops.saturating_mul(times / outer),
        (Some(_) | None, Some(_) | None) => product.flops,
    };
    let products = e.report.rows[row + 1..].iter().map(per_run);
    e.report.rows[row].flops = products.fold(0, u64::saturating_add);
    results
}

/// The ops of a function at the present location.
pub(super) fn inline(e: &mut Emitter<'_>, func: &Func, x: &[Value]) -> Vec<Value> {
    let mut frame = Frame { keeps_location: true, ..Frame::new(func, e.target) };
    frame.inline(e, func.body(), x)
}

/// Puts an attention into the report; returns its row.
pub(super) fn report(
    e: &mut Emitter<'_>,
    form: &AttentionForm,
    operands: Vec<TensorType>,
    results: &[TensorType],
    flops: u64,
) -> usize {
    let row = Row {
        kind: Kind::Attention,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        form: match form {
            AttentionForm::Cudnn => Form::Cudnn,
            AttentionForm::Kernel => Form::AttentionKernel,
            AttentionForm::Decomposed { block, .. } if *block < operands[0].shape[1] => Form::DecomposedByBlocks,
            AttentionForm::Decomposed { .. } => Form::Decomposed,
        },
        refused: match form {
            AttentionForm::Cudnn | AttentionForm::Kernel => None,
            AttentionForm::Decomposed { refused, .. } => Some(refused.clone()),
        },
        operands,
        results: results.to_vec(),
        flops,
        times: e.times,
        part_of: None,
    };
    e.report.rows.push(row);
    e.report.rows.len() - 1
}

/// A sliding window as kernels read it.
pub(super) fn window(size: Option<usize>) -> String {
    format!("{} : i64", size.unwrap_or(0))
}

/// The custom call of a kernel of `lmc_runtime`, which has the op's name, with these attributes beside the scale.
pub(super) fn kernel(
    e: &mut Emitter<'_>,
    op: &Op,
    scale: f64,
    attributes: &[(&str, String)],
    x: &[Value],
    result_types: &[TensorType],
) -> Vec<Value> {
    let attributes: String = attributes.iter().map(|(name, value)| format!(", {name} = {value}")).collect();
    let config = format!("{{scale = {} : f64{attributes}}}", syntax::float(scale));
    let text = format!(
        "stablehlo.custom_call @lmc.{}({}) {{api_version = 4 : i32, backend_config = {config}}} : ({}) -> {}",
        op.name(),
        names(x),
        types(x),
        syntax::results(result_types)
    );
    e.op_n(&text, result_types)
}

/// cuDNN's attention.
fn forward(
    e: &mut Emitter<'_>,
    op: &ScaledDotProductAttention,
    x: &[Value],
    types: &[TensorType],
    uses_log_sum_exp: bool,
) -> Vec<Value> {
    let rows = Rows::new(e, op, x, &x[3..]);
    let mut results = vec![by_head(&types[0])];
    if uses_log_sum_exp {
        results.push((rows.log_sum_exp_type(&types[1]), Layout::RowMajor));
    }
    let operands = [&x[..3], &rows.operands[..]].concat();
    let results = call(e, op, false, &rows, operands, results);
    let output = by_position(e, &results[0]);
    match results.get(1) {
        Some(log_sum_exp) if uses_log_sum_exp => vec![output, rows.to_positions(e, log_sum_exp)],
        Some(_) | None => vec![output],
    }
}

/// The derivative of cuDNN's attention.
fn backward(e: &mut Emitter<'_>, op: &ScaledDotProductAttention, x: &[Value], types: &[TensorType]) -> Vec<Value> {
    let rows = Rows::new(e, op, x, &x[6..]);
    let (log_sum_exp, output, ct) = (rows.to_documents(e, &x[3]), &x[4], &x[5]);
    let operands = [&x[..3], &[log_sum_exp, ct.clone(), output.clone()], &rows.operands[..]].concat();
    let results = call(e, op, true, &rows, operands, types.iter().map(by_head).collect());
    results[..3].iter().map(|result| by_position(e, result)).collect()
}

/// Writes a call; a workspace, whose size XLA finds, is the last of its results.
fn call(
    e: &mut Emitter<'_>,
    op: &ScaledDotProductAttention,
    is_backward: bool,
    rows: &Rows,
    operands: Vec<Value>,
    mut results: Vec<(TensorType, Layout)>,
) -> Vec<Value> {
    results.push((TensorType::new(DType::U8, [0]), Layout::RowMajor));
    let call = Call {
        is_backward,
        scale: op.scale,
        mask_type: match (op.mask, op.rows) {
            (AttentionMask::Full, AttentionRows::Whole) => MaskType::NoMask,
            (AttentionMask::Causal, AttentionRows::Whole) => MaskType::Causal,
            (AttentionMask::Full, AttentionRows::Padded | AttentionRows::Packed) => MaskType::Padding,
            (AttentionMask::Causal, AttentionRows::Padded | AttentionRows::Packed) => MaskType::PaddingCausal,
        },
        // A window of all keys limits nothing.
        sliding_window_length: op.sliding_window.filter(|&window| window < operands[1].ty.shape[1]).unwrap_or(0),
        max_seg_per_batch: rows.places,
        deterministic: matches!(e.target.platform, Platform::Cuda(Cuda { deterministic: true, .. })),
        operands: operands.iter().map(|operand| operand.ty.clone()).collect(),
        results,
    };
    let types: Vec<TensorType> = call.results.iter().map(|(ty, _)| ty.clone()).collect();
    e.op_n(&call.text(&operands), &types)
}

/// `B T N H` as the call returns it: `B N T H`, laid out as it was.
fn by_head(ty: &TensorType) -> (TensorType, Layout) {
    let [b, t, n, h] = [0, 1, 2, 3].map(|d| ty.shape[d]);
    (ty.with_shape([b, n, t, h]), Layout::HeadsBehindPositions)
}

/// Back from [`by_head`]. The bytes stay where they are.
fn by_position(e: &mut Emitter<'_>, x: &Value) -> Value {
    let [b, n, t, h] = [0, 1, 2, 3].map(|d| x.ty.shape[d]);
    transpose(e, &Transpose { permutation: vec![0, 2, 1, 3] }, x, &x.ty.with_shape([b, t, n, h]))
}

/// What the call has to know of the rows.
struct Rows {
    /// The places for documents in a row; 1 where rows are not packed.
    places: usize,
    /// The operands that say it.
    operands: Vec<Value>,
    /// Of packed rows the bounds, and where documents begin among all positions.
    bounds: Option<[Value; 2]>,
}

impl Rows {
    /// From the operands of the op, `of_rows` being those that its rows ask for.
    fn new(e: &mut Emitter<'_>, op: &ScaledDotProductAttention, x: &[Value], of_rows: &[Value]) -> Rows {
        let (query, key) = (&x[0].ty.shape, &x[1].ty.shape);
        match op.rows {
            AttentionRows::Whole => Rows { places: 1, operands: vec![], bounds: None },
            AttentionRows::Padded => {
                let lengths = within_rows(&of_rows[0].ty, [query[1], key[1]]);
                Rows { places: 1, operands: inline(e, &lengths, of_rows), bounds: None }
            }
            AttentionRows::Packed => {
                let bounds = &of_rows[0];
                let list = documents::list(&bounds.ty, query[1], &[1, query[2] * query[3], key[2] * key[3]]);
                let [lengths, begins, of_queries, of_keys] =
                    <[Value; 4]>::try_from(inline(e, &list, of_rows)).expect("lengths, and a result for each size");
                Rows {
                    places: bounds.ty.shape[1] - 1,
                    operands: vec![lengths.clone(), lengths, of_queries, of_keys],
                    bounds: Some([bounds.clone(), begins]),
                }
            }
        }
    }

    /// The type in which the call has a log-sum-exp that is `B N T` in the graph.
    fn log_sum_exp_type(&self, ty: &TensorType) -> TensorType {
        ty.with_shape([ty.shape[0] * self.places, ty.shape[1], ty.shape[2]])
    }

    /// The log-sum-exp of positions from that of the call.
    fn to_positions(&self, e: &mut Emitter<'_>, x: &Value) -> Value {
        match &self.bounds {
            None => x.clone(),
            Some([bounds, _]) => {
                let func = documents::to_positions(&bounds.ty, &x.ty);
                inline(e, &func, &[bounds.clone(), x.clone()]).remove(0)
            }
        }
    }

    /// The log-sum-exp for the call from that of positions.
    fn to_documents(&self, e: &mut Emitter<'_>, x: &Value) -> Value {
        match &self.bounds {
            None => x.clone(),
            Some([_, begins]) => {
                let func = documents::to_documents(&begins.ty, &x.ty);
                inline(e, &func, &[begins.clone(), x.clone()]).remove(0)
            }
        }
    }
}

/// Lengths of queries and keys, limited to their rows: cuDNN reads as far as it is told.
fn within_rows(ty: &TensorType, limits: [usize; 2]) -> Func {
    Builder::build("lengths", |b| {
        let limited = |limit: usize| {
            let bound = |x: usize| b.constant(Literal::scalar(i32::try_from(x).unwrap_or(i32::MAX)));
            b.param("lengths", ty.clone()).clamp(bound(0), bound(limit))
        };
        limits.map(limited).to_vec()
    })
}
