//! Attention and its backward.

use lmc_graph::decompose::decompose_by_blocks;
use lmc_graph::ops::{AttentionMask, ScaledDotProductAttention};
use lmc_graph::{Op, TensorType};

use super::Frame;
use super::emitter::{Emitter, Value, names, types};
use super::syntax;
use crate::choices;
use crate::report::{Direction, Form, Kind, Row};

/// A call of lmc's kernel, or the ops of the decomposition, all at the location of the node. `attributes` are the
/// forward op's, also for its backward.
pub(super) fn attention(
    e: &mut Emitter<'_>,
    op: &Op,
    attributes: &ScaledDotProductAttention,
    x: &[Value],
    result_types: &[TensorType],
) -> Vec<Value> {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    let refused = choices::attention_refusal(e.target, attributes, &operands);
    // Queries are `B T N H`.
    let num_queries = operands[0].shape[1];
    let block = choices::attention_block(e.target, num_queries).max(1);
    let row = e.report.rows.len();
    e.report.rows.push(Row {
        kind: Kind::Attention,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        operands: operands.clone(),
        results: result_types.to_vec(),
        form: match refused {
            None => Form::AttentionKernel,
            Some(_) if block < num_queries => Form::DecomposedByBlocks,
            Some(_) => Form::Decomposed,
        },
        refused: refused.map(str::to_string),
        flops: 0,
        times: e.times,
        part_of: None,
    });
    if refused.is_none() {
        e.report.rows[row].flops = flops(attributes, &operands);
        return kernel(e, op, attributes, x, result_types);
    }
    let func =
        decompose_by_blocks(op, &operands, block).unwrap_or_else(|| panic!("{} has no decomposition", op.name()));
    let outer = e.attention.replace(row);
    let mut frame = Frame { keeps_location: true, ..Frame::new(&func) };
    let results = frame.inline(e, func.body(), x);
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

/// The custom call of a kernel of `lmc_runtime`, which has the op's name.
fn kernel(
    e: &mut Emitter<'_>,
    op: &Op,
    attributes: &ScaledDotProductAttention,
    x: &[Value],
    result_types: &[TensorType],
) -> Vec<Value> {
    let ScaledDotProductAttention { scale, mask, sliding_window } = attributes;
    let config = format!(
        "{{scale = {} : f64, causal = {}, sliding_window = {} : i64}}",
        syntax::float(*scale),
        *mask == AttentionMask::Causal,
        sliding_window.unwrap_or(0)
    );
    let text = format!(
        "stablehlo.custom_call @lmc.{}({}) {{api_version = 4 : i32, backend_config = {config}}} : ({}) -> {}",
        op.name(),
        names(x),
        types(x),
        syntax::results(result_types)
    );
    e.op_n(&text, result_types)
}

/// Operations of the products of an attention, of visible scores only: scores and values, and with an output's cotangent
/// (operand 5) three more.
fn flops(attributes: &ScaledDotProductAttention, operands: &[TensorType]) -> u64 {
    let [b, t, n, h] = [0, 1, 2, 3].map(|d| operands[0].shape[d]);
    let (s, v) = (operands[2].shape[1], operands[2].shape[3]);
    let per_score = if operands.len() > 3 { 3 * h + 2 * v } else { h + v };
    let visible: usize = match attributes.mask {
        AttentionMask::Full => t.saturating_mul(s),
        AttentionMask::Causal => {
            let window = attributes.sliding_window.unwrap_or(usize::MAX);
            (0..t).map(|t| s.min(t + 1) - s.min((t + 1).saturating_sub(window))).sum()
        }
    };
    [2, b, n, visible, per_score].into_iter().fold(1, |product, size| product.saturating_mul(size as u64))
}
