//! Ops that combine or order elements along dimensions.

use lmc_graph::ops::{Argmax, BinaryOp, ComparisonDirection, Reduce, ReduceOp, Sort, SortDirection};
use lmc_graph::{DType, Node, ValueId};

use super::affine::Affine;
use super::expr::{Dag, Id, Place, is_narrow};
use super::nest::{Nest, Reduction, Store};
use super::schedule::{Expressions, Schedule, Work};

/// The dimensions that stay, then those that are combined, and the operand's index over both.
fn split<'s, 'f>(
    s: &'s mut Schedule<'f>,
    x: ValueId,
    dimensions: &[usize],
) -> (Expressions<'s, 'f>, Vec<Affine>, Vec<Affine>, usize) {
    let shape = &s.func.ty(x).shape;
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !dimensions.contains(d)).collect();
    let order: Vec<usize> = kept.iter().chain(dimensions).copied().collect();
    let sizes: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    let loops = dimensions.iter().filter(|&&d| shape[d] != 1).count();
    let (e, along) = Expressions::over(s, &sizes);
    let mut index = along.clone();
    order.iter().zip(&along).for_each(|(&d, along)| index[d] = along.clone());
    (e, index, along[..kept.len()].to_vec(), loops)
}

/// How two are combined, and what changes nothing.
fn operation(dag: &mut Dag, op: ReduceOp, dtype: DType) -> (BinaryOp, Id) {
    let (least, greatest) = (f64::NEG_INFINITY, f64::INFINITY);
    match op {
        ReduceOp::Add => (BinaryOp::Add, dag.constant(dtype, 0.0)),
        ReduceOp::Multiply => (BinaryOp::Multiply, dag.constant(dtype, 1.0)),
        // Of an integer type it is the nearest end of its range.
        ReduceOp::Maximum => (BinaryOp::Maximum, dag.constant(dtype, least)),
        ReduceOp::Minimum => (BinaryOp::Minimum, dag.constant(dtype, greatest)),
        ReduceOp::And if dtype == DType::Bool => (BinaryOp::And, dag.constant(dtype, 1.0)),
        ReduceOp::And => (BinaryOp::And, dag.element(&[0xff; 8][..dtype.size()], dtype)),
        ReduceOp::Or => (BinaryOp::Or, dag.constant(dtype, 0.0)),
    }
}

pub(super) fn reduce(s: &mut Schedule<'_>, op: &Reduce, node: &Node, home: &Place) -> Vec<Work> {
    let x = node.operands[0];
    let ty = s.func.ty(node.results[0]).clone();
    let (mut e, index, target, loops) = split(s, x, &op.dimensions);
    let value = e.value(x, &index);
    // Narrow floats are combined in f32, and rounded once.
    let wide = if is_narrow(ty.dtype) { DType::F32 } else { ty.dtype };
    let value = e.dag.convert(value, wide);
    let (op, neutral) = operation(&mut e.dag, op.op, wide);
    let address = e.address(home, &ty, &target);
    let store = Store { value, address, dtype: ty.dtype, guard: None };
    vec![Work::Nest(Nest { dag: e.dag, reduction: Some(Reduction { op, neutral, loops }), store, independent_from: 0 })]
}

/// The greatest element, then the least index of one that equals it, or of a NaN.
pub(super) fn argmax(s: &mut Schedule<'_>, op: &Argmax, node: &Node, home: &Place) -> Vec<Work> {
    let x = node.operands[0];
    let ty = s.func.ty(node.results[0]).clone();
    let dtype = s.func.ty(x).dtype;
    let greatest_type = ty.with_dtype(dtype);
    let between = Place::of(s.buffers.temporary(greatest_type.num_bytes()));
    let (mut e, index, target, loops) = split(s, x, &[op.dimension]);
    let value = e.value(x, &index);
    let (op_max, neutral) = operation(&mut e.dag, ReduceOp::Maximum, dtype);
    let address = e.address(&between, &greatest_type, &target);
    let store = Store { value, address, dtype, guard: None };
    let reduction = Some(Reduction { op: op_max, neutral, loops });
    let greatest = Nest { dag: e.dag, reduction, store, independent_from: 0 };

    let (mut e, index, target, loops) = split(s, x, &[op.dimension]);
    let value = e.value(x, &index);
    let best = e.load(&between, &greatest_type, &target);
    let equal = e.dag.compare(ComparisonDirection::Eq, value, best);
    let nan = e.dag.compare(ComparisonDirection::Ne, value, value);
    let found = e.dag.binary(BinaryOp::Or, equal, nan);
    let wide = if ty.dtype.size() == 8 { ty.dtype } else { DType::I32 };
    let position = e.dag.index(index[op.dimension].clone(), wide);
    let (op_min, neutral) = operation(&mut e.dag, ReduceOp::Minimum, wide);
    let value = e.dag.select(found, position, neutral);
    let address = e.address(home, &ty, &target);
    let store = Store { value, address, dtype: ty.dtype, guard: None };
    let reduction = Some(Reduction { op: op_min, neutral, loops });
    let first = Nest { dag: e.dag, reduction, store, independent_from: 0 };
    vec![Work::Nest(greatest), Work::Nest(first)]
}

/// Lines of several tensors that are put in the order of the first.
#[derive(Clone, Debug)]
pub(super) struct Sorting {
    /// The tensors and as much room again, with element types.
    pub(super) operands: Vec<(Place, Place, DType)>,
    /// Lines before and behind the dimension, which is `length` long.
    pub(super) before: usize,
    /// The elements of a line.
    pub(super) length: usize,
    /// How far apart a line's elements are.
    pub(super) behind: usize,
    /// Least or greatest first.
    pub(super) direction: SortDirection,
}

pub(super) fn sort(s: &mut Schedule<'_>, op: &Sort, x: &[ValueId], homes: &[Place]) -> Vec<Work> {
    let mut work: Vec<Work> = x.iter().zip(homes).map(|(&x, home)| Work::Nest(s.copy(x, home))).collect();
    let func = s.func;
    let operands = x.iter().zip(homes).map(|(&x, home)| {
        let room = Place::of(s.buffers.temporary(func.ty(x).num_bytes()));
        s.touch(&room);
        (home.clone(), room, func.ty(x).dtype)
    });
    let operands = operands.collect();
    let shape = &func.ty(x[0]).shape;
    let (before, rest) = shape.split_at(op.dimension);
    let sorting = Sorting {
        operands,
        before: before.iter().product(),
        length: rest[0],
        behind: rest[1..].iter().product(),
        direction: op.direction,
    };
    work.push(Work::Sorting(sorting));
    work
}
