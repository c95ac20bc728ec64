//! Attention and its backward.

use lmc_graph::decompose::decompose_by_blocks;
use lmc_graph::{Op, TensorType};

use super::Frame;
use super::emitter::{Emitter, Value};
use crate::choices;
use crate::report::{Direction, Form, Kind, Row};

/// The ops of the decomposition, all at the location of the node.
pub(super) fn attention(e: &mut Emitter<'_>, op: &Op, x: &[Value], result_types: &[TensorType]) -> Vec<Value> {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    // Queries are `B T N H`.
    let num_queries = operands[0].shape[1];
    let block = choices::attention_block(e.target, num_queries).max(1);
    let func =
        decompose_by_blocks(op, &operands, block).unwrap_or_else(|| panic!("{} has no decomposition", op.name()));
    let row = e.report.rows.len();
    e.report.rows.push(Row {
        kind: Kind::Attention,
        location: e.location.clone(),
        direction: Direction::of(&e.location),
        operands,
        results: result_types.to_vec(),
        form: if block < num_queries { Form::DecomposedByBlocks } else { Form::Decomposed },
        refused: Some(choices::attention_refusal(e.target).to_string()),
        flops: 0,
        times: e.times,
        part_of: None,
    });
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
