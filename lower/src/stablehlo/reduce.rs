//! Ops that combine or order elements along dimensions.

use lmc_graph::ops::{Argmax, BinaryOp, BroadcastInDim, ComparisonDirection, Reduce, ReduceOp, Sort, SortDirection};
use lmc_graph::{DType, Literal, TensorType};

use super::control;
use super::elementwise::{self, compare, compare_in};
use super::emitter::{Emitter, Value, names, types};
use super::shape;
use super::syntax::{list, results, tensor};
use crate::choices::{self, ArgmaxForm, ReduceStep};

/// Whether sums and products of this type go through f32: rounding every partial result to a narrow float loses digits
/// that the reference, which rounds once, keeps. XLA's CPU backend leaves an error of 2 units in the last place in a
/// bf16 sum of 4096 numbers otherwise.
pub(super) fn accumulates_in_f32(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

pub(super) fn reduce(e: &mut Emitter<'_>, op: &Reduce, x: &Value, ty: &TensorType) -> Value {
    let Reduce { op, dimensions } = op;
    if dimensions.is_empty() {
        return x.clone();
    }
    let accumulates = match op {
        ReduceOp::Add | ReduceOp::Multiply => true,
        ReduceOp::Maximum | ReduceOp::Minimum | ReduceOp::And | ReduceOp::Or => false,
    };
    if !(accumulates && accumulates_in_f32(ty.dtype)) {
        return reduce_with(e, *op, x, dimensions, ty);
    }
    let wide = elementwise::convert(e, x, DType::F32);
    let wide = reduce_with(e, *op, &wide, dimensions, &ty.with_dtype(DType::F32));
    elementwise::convert(e, &wide, ty.dtype)
}

fn reduce_with(e: &mut Emitter<'_>, op: ReduceOp, x: &Value, dimensions: &[usize], ty: &TensorType) -> Value {
    let init = shape::constant(e, &neutral(op, ty.dtype));
    let mut x = x.clone();
    let mut steps = choices::reduce_steps(e.target, &x.ty, dimensions).into_iter().peekable();
    while let Some(step) = steps.next() {
        x = match step {
            ReduceStep::Plain { shape, dimensions } => {
                let reshaped = shape::reshape(e, &x, &shape);
                let reduced = plain(e, op, &reshaped, &init, &dimensions);
                if steps.peek().is_some() { control::kept(e, &reduced) } else { reduced }
            }
            ReduceStep::Window { dimension, size } => window(e, op, &x, &init, dimension, size),
        };
    }
    debug_assert_eq!(&x.ty, ty);
    x
}

fn plain(e: &mut Emitter<'_>, op: ReduceOp, x: &Value, init: &Value, dimensions: &[usize]) -> Value {
    let kept = (0..x.ty.rank()).filter(|d| !dimensions.contains(d)).map(|d| x.ty.shape[d]);
    let ty = x.ty.with_shape(kept.collect::<Vec<_>>());
    let op = format!(
        "stablehlo.reduce({} init: {}) applies stablehlo.{} across dimensions = {} : ({}, {}) -> {}",
        x.name,
        init.name,
        op.name(),
        list(dimensions),
        tensor(&x.ty),
        tensor(&init.ty),
        tensor(&ty)
    );
    e.op(&op, &ty)
}

/// Each of the windows along a dimension, `size` elements that it is a multiple of, reduced to one element.
fn window(e: &mut Emitter<'_>, op: ReduceOp, x: &Value, init: &Value, dimension: usize, size: usize) -> Value {
    let mut ty = x.ty.clone();
    ty.shape[dimension] /= size;
    let (left, values) = e.results(std::slice::from_ref(&ty));
    let sizes =
        (0..ty.rank()).map(|d| if d == dimension { size } else { 1 }.to_string()).collect::<Vec<_>>().join(", ");
    e.open(&format!(
        "{left}\"stablehlo.reduce_window\"({}, {}) <{{window_dimensions = array<i64: {sizes}>, window_strides = \
         array<i64: {sizes}>}}> ({{",
        x.name, init.name
    ));
    let arguments = e.arguments([&init.ty, &init.ty]);
    e.block_label(&arguments);
    let text = format!("stablehlo.{} {} : {}", op.name(), names(&arguments), tensor(&init.ty));
    let value = e.op(&text, &init.ty);
    e.return_values(&[value]);
    e.close(&format!("}}) : ({}, {}) -> {}", tensor(&x.ty), tensor(&init.ty), tensor(&ty)));
    values.into_iter().next().unwrap_or_else(|| unreachable!("one type was given"))
}

/// The neutral element of a reduction's op.
fn neutral(op: ReduceOp, dtype: DType) -> Literal {
    let ty = TensorType::scalar(dtype);
    match op {
        ReduceOp::Add | ReduceOp::Or => Literal::zeros(ty),
        ReduceOp::Multiply => Literal::from_f64s(ty, &[1.0]),
        ReduceOp::Maximum => least(dtype),
        ReduceOp::Minimum => greatest(dtype),
        ReduceOp::And if dtype == DType::Bool => Literal::scalar(true),
        ReduceOp::And => from_bytes(ty, vec![0xFF; dtype.size()]),
    }
}

fn from_bytes(ty: TensorType, bytes: Vec<u8>) -> Literal {
    Literal::from_bytes(ty, bytes).expect("as many bytes as the type has")
}

/// The greatest element of a type: ∞ for floats.
fn greatest(dtype: DType) -> Literal {
    let ty = TensorType::scalar(dtype);
    if dtype.is_float() {
        return Literal::from_f64s(ty, &[f64::INFINITY]);
    }
    // All bits are set, of a signed integer but for the sign.
    let top = if dtype.is_signed_int() { 0x7F } else { 0xFF };
    from_bytes(ty, [vec![0xFF; dtype.size() - 1], vec![top]].concat())
}

/// The least element of a type: -∞ for floats.
fn least(dtype: DType) -> Literal {
    let ty = TensorType::scalar(dtype);
    if dtype.is_float() {
        return Literal::from_f64s(ty, &[f64::NEG_INFINITY]);
    }
    // Of a signed integer, the sign bit alone.
    let top = if dtype.is_signed_int() { 0x80 } else { 0x00 };
    from_bytes(ty, [vec![0x00; dtype.size() - 1], vec![top]].concat())
}

pub(super) fn argmax(e: &mut Emitter<'_>, op: &Argmax, x: &Value) -> Value {
    let Argmax { dimension, index_dtype } = op;
    // Indices are compared, so they must not wrap in a narrow type before the end.
    let fits = i32::try_from(x.ty.shape[*dimension]).is_ok();
    let wide = if fits { DType::I32 } else { DType::I64 };
    let indices = shape::iota(e, *dimension, &x.ty.with_dtype(wide));
    let found = match choices::argmax(e.target) {
        ArgmaxForm::Greatest => first_greatest(e, x, *dimension, &indices),
        ArgmaxForm::Pairs => of_pairs(e, x, *dimension, &indices),
    };
    if *index_dtype == wide { found } else { elementwise::convert(e, &found, *index_dtype) }
}

/// The least of the indices of elements that are the greatest, or no number.
fn first_greatest(e: &mut Emitter<'_>, x: &Value, dimension: usize, indices: &Value) -> Value {
    let mut reduced = x.ty.clone();
    reduced.shape.remove(dimension);
    let kept: Vec<usize> = (0..x.ty.rank()).filter(|&d| d != dimension).collect();
    let maximum = reduce_with(e, ReduceOp::Maximum, x, &[dimension], &reduced);
    let spread = BroadcastInDim { shape: x.ty.shape.clone(), broadcast_dimensions: kept };
    let maximum = shape::broadcast_in_dim(e, &spread, &maximum);
    let mut is_greatest = compare(e, ComparisonDirection::Eq, x, &maximum);
    if x.ty.dtype.is_float() {
        // Of elements with a NaN the greatest is one.
        let is_nan = compare(e, ComparisonDirection::Ne, x, x);
        is_greatest = elementwise::binary(e, BinaryOp::Or, &is_greatest, &is_nan);
    }
    let none = shape::full(e, &indices.ty, &neutral(ReduceOp::Minimum, indices.ty.dtype));
    let candidates = elementwise::select(e, &is_greatest, indices, &none);
    reduce_with(e, ReduceOp::Minimum, &candidates, &[dimension], &reduced.with_dtype(indices.ty.dtype))
}

/// A reduction of pairs of an element and its index, by an operation that is the same in any order.
fn of_pairs(e: &mut Emitter<'_>, x: &Value, dimension: usize, indices: &Value) -> Value {
    let wide = indices.ty.dtype;
    let init = [shape::constant(e, &least(x.ty.dtype)), shape::constant(e, &Literal::zeros(TensorType::scalar(wide)))];
    let mut reduced = x.ty.shape.clone();
    reduced.remove(dimension);
    let reduced = [x.ty.with_shape(reduced.clone()), TensorType::new(wide, reduced)];

    let (left, values) = e.results(&reduced);
    let operands = [x.clone(), indices.clone()];
    e.open(&format!(
        "{left}stablehlo.reduce({} init: {}), ({} init: {}) across dimensions = [{dimension}] : ({}, {}) -> {}",
        x.name,
        init[0].name,
        indices.name,
        init[1].name,
        types(&operands),
        types(&init),
        results(&reduced)
    ));
    let (element, index) = (TensorType::scalar(x.ty.dtype), TensorType::scalar(wide));
    let arguments = e.arguments([&element, &element, &index, &index]);
    let [a, b, i, j] = &arguments[..] else { unreachable!("four types were given") };
    e.next_block(&format!(
        "reducer({}: {element}, {}: {element}) ({}: {index}, {}: {index}) {{",
        a.name,
        b.name,
        i.name,
        j.name,
        element = tensor(&element),
        index = tensor(&index)
    ));
    let (wins, ties) = beats(e, a, b);
    let first = compare(e, ComparisonDirection::Lt, i, j);
    let tie_won = elementwise::binary(e, BinaryOp::And, &ties, &first);
    let wins = elementwise::binary(e, BinaryOp::Or, &wins, &tie_won);
    let element = elementwise::select(e, &wins, a, b);
    let index = elementwise::select(e, &wins, i, j);
    e.return_values(&[element, index]);
    e.close("}");
    let [_, found] = &values[..] else { unreachable!("two types were given") };
    found.clone()
}

/// Whether `a` is greater than `b`, and whether they are equal, a NaN being greater than numbers and equal to itself.
fn beats(e: &mut Emitter<'_>, a: &Value, b: &Value) -> (Value, Value) {
    let greater = compare(e, ComparisonDirection::Gt, a, b);
    let equal = compare(e, ComparisonDirection::Eq, a, b);
    if !a.ty.dtype.is_float() {
        return (greater, equal);
    }
    let a_nan = compare(e, ComparisonDirection::Ne, a, a);
    let b_nan = compare(e, ComparisonDirection::Ne, b, b);
    let both = elementwise::binary(e, BinaryOp::And, &a_nan, &b_nan);
    let only_a = elementwise::binary(e, BinaryOp::Xor, &a_nan, &both);
    let greater = elementwise::binary(e, BinaryOp::Or, &greater, &only_a);
    (greater, elementwise::binary(e, BinaryOp::Or, &equal, &both))
}

pub(super) fn sort(e: &mut Emitter<'_>, op: &Sort, x: &[Value]) -> Vec<Value> {
    let Sort { dimension, is_stable, direction } = op;
    let result_types: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    let (left, values) = e.results(&result_types);
    let operands = names(x);
    e.open(&format!(
        "{left}\"stablehlo.sort\"({operands}) <{{dimension = {dimension} : i64, is_stable = {is_stable}}}> ({{"
    ));
    let elements: Vec<TensorType> = x.iter().map(|x| TensorType::scalar(x.ty.dtype)).collect();
    let arguments = e.arguments(elements.iter().flat_map(|ty| [ty, ty]));
    e.block_label(&arguments);
    let direction = match direction {
        SortDirection::Ascending => ComparisonDirection::Lt,
        SortDirection::Descending => ComparisonDirection::Gt,
    };
    let (a, b) = (&arguments[0], &arguments[1]);
    let before =
        if a.ty.dtype.is_float() { compare_in(e, direction, "TOTALORDER", a, b) } else { compare(e, direction, a, b) };
    e.return_values(&[before]);
    e.close(&format!("}}) : ({}) -> {}", types(x), results(&result_types)));
    values
}
