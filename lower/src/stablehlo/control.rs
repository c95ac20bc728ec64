//! Loops, branches and barriers.

use lmc_graph::ops::{BinaryOp, ComparisonDirection, Scan};
use lmc_graph::{DType, Literal, RegionId, TensorType};

use super::emitter::{Emitter, Value, names, types};
use super::syntax::{joined, operand_alias, results, tensor};
use super::{Frame, elementwise, index, shape};

/// A `while` over a counter, the carries and the stacked results; the body reads a slice of each tensor and writes an
/// element of each stacked result at the counter.
pub(super) fn scan(
    e: &mut Emitter<'_>,
    frame: &mut Frame<'_>,
    op: &Scan,
    x: &[Value],
    body: RegionId,
    result_types: &[TensorType],
) -> Vec<Value> {
    let Scan { num_carry, length, reverse } = *op;
    let (carries, xs) = x.split_at(num_carry);
    let stacked_types = &result_types[num_carry..];
    let stacked: Vec<Value> =
        stacked_types.iter().map(|ty| shape::full(e, ty, &Literal::zeros(TensorType::scalar(ty.dtype)))).collect();
    if length == 0 {
        // Nothing runs, and the stacked results have no elements.
        return [carries, &stacked].concat();
    }
    let location = e.location.clone();
    let counter_dtype = if i32::try_from(length).is_ok() { DType::I32 } else { DType::I64 };
    let counter_type = TensorType::scalar(counter_dtype);
    let number = |e: &mut Emitter<'_>, n: usize| {
        let bytes = n.to_le_bytes()[..counter_dtype.size()].to_vec();
        shape::constant(e, &Literal::from_bytes(counter_type.clone(), bytes).expect("as many bytes as the type has"))
    };
    let zero = number(e, 0);
    let one = number(e, 1);
    let limit = number(e, length);
    let last = if reverse { Some(number(e, length - 1)) } else { None };
    let init = [std::slice::from_ref(&zero), carries, &stacked].concat();

    let (values, state) = open_while(e, &init);
    let more = elementwise::compare(e, ComparisonDirection::Lt, &state[0], &limit);
    e.return_values(&[more]);
    e.next_block("} do {");
    let times = e.times;
    e.times = times.map(|times| times.saturating_mul(u64::try_from(length).unwrap_or(u64::MAX)));

    let counter = &state[0];
    let at = match &last {
        Some(last) => elementwise::binary(e, BinaryOp::Subtract, last, counter),
        None => counter.clone(),
    };
    let start = |rank: usize| -> Vec<Value> {
        std::iter::once(&at).chain(std::iter::repeat_n(&zero, rank - 1)).cloned().collect()
    };
    let mut arguments = state[1..=num_carry].to_vec();
    for x in xs {
        let inner = &x.ty.shape[1..];
        let row = index::dynamic_slice(e, x, &start(x.ty.rank()), &[&[1], inner].concat());
        arguments.push(shape::reshape(e, &row, inner));
    }
    let mut next = frame.inline(e, body, &arguments);
    e.location = location;
    let elements = next.split_off(num_carry);
    for (stacked, element) in state[num_carry + 1..].iter().zip(&elements) {
        let row = shape::reshape(e, element, &[&[1], &element.ty.shape[..]].concat());
        next.push(index::dynamic_update_slice(e, stacked, &row, &start(stacked.ty.rank())));
    }
    next.insert(0, elementwise::binary(e, BinaryOp::Add, counter, &one));
    e.return_values(&next);
    e.close("}");
    e.times = times;
    values[1..].to_vec()
}

/// `while` up to the start of its condition: its results, and its state inside of it.
fn open_while(e: &mut Emitter<'_>, init: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let (left, values) = e.results(&init.iter().map(|x| x.ty.clone()).collect::<Vec<_>>());
    let state = e.arguments(init.iter().map(|x| &x.ty));
    let assignments = joined(state.iter().zip(init).map(|(state, init)| format!("{} = {}", state.name, init.name)));
    e.open(&format!("{left}stablehlo.while({assignments}) : {}", types(init)));
    e.next_block("cond {");
    (values, state)
}

pub(super) fn while_loop(
    e: &mut Emitter<'_>,
    frame: &mut Frame<'_>,
    init: &[Value],
    cond: RegionId,
    body: RegionId,
) -> Vec<Value> {
    if init.is_empty() {
        // Without values nothing can come of it.
        return Vec::new();
    }
    let (location, times) = (e.location.clone(), e.times);
    let (values, state) = open_while(e, init);
    e.times = None;
    let more = frame.inline(e, cond, &state);
    e.location = location.clone();
    e.return_values(&more);
    e.next_block("} do {");
    let next = frame.inline(e, body, &state);
    e.location = location;
    e.return_values(&next);
    e.close("}");
    e.times = times;
    values
}

pub(super) fn if_else(
    e: &mut Emitter<'_>,
    frame: &mut Frame<'_>,
    pred: &Value,
    on_true: RegionId,
    on_false: RegionId,
    result_types: &[TensorType],
) -> Vec<Value> {
    if result_types.is_empty() {
        return Vec::new();
    }
    let location = e.location.clone();
    let (left, values) = e.results(result_types);
    e.open(&format!("{left}\"stablehlo.if\"({}) ({{", pred.name));
    for region in [on_true, on_false] {
        let results = frame.inline(e, region, &[]);
        e.location = location.clone();
        e.return_values(&results);
        if region == on_true {
            e.next_block("}, {");
        }
    }
    e.close(&format!("}}) : ({}) -> {}", types(std::slice::from_ref(pred)), results(result_types)));
    values
}

pub(super) fn optimization_barrier(e: &mut Emitter<'_>, x: &[Value]) -> Vec<Value> {
    if x.is_empty() {
        return Vec::new();
    }
    let result_types: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    e.op_n(&format!("stablehlo.optimization_barrier {} : {}", names(x), types(x)), &result_types)
}

/// A value that XLA's CPU backend keeps in memory for its users, by a kernel of `lmc_runtime` that does nothing: the
/// result is the operand's memory.
pub(super) fn kept(e: &mut Emitter<'_>, x: &Value) -> Value {
    let ty = tensor(&x.ty);
    let alias = operand_alias("[]", 0);
    let op = format!(
        "stablehlo.custom_call @lmc.optimization_barrier({}) {{api_version = 4 : i32, output_operand_aliases = [{alias}]}} \
         : ({ty}) -> {ty}",
        x.name
    );
    e.op(&op, &x.ty)
}
