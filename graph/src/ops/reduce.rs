//! Ops that combine or order elements along dimensions.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::eval::{Elements, Offsets, Tensor, at, int_range, strides};
use crate::ops::elementwise::{maximum, minimum};
use crate::ops::{Inferred, Op, arity, is_unique};

words! {
    /// The associative operation of a [`Reduce`], with its neutral element.
    pub enum ReduceOp {
        /// the sum, from 0
        Add = "add",
        /// the product, from 1
        Multiply = "multiply",
        /// the greatest, from the least value of the type (-∞); NaN if any is
        Maximum = "maximum",
        /// the least, from the greatest value of the type (∞); NaN if any is
        Minimum = "minimum",
        /// whether all hold, from true; bit by bit for integers
        And = "and",
        /// whether any holds, from false; bit by bit for integers
        Or = "or",
    }
}

attributes! {
    /// `result[i] = op over j of operand[i, j]`, with `j` running over `dimensions`, which the result does not have.
    ///
    /// The order of combination is not specified.
    ///
    /// *Constraints*: (C2) the element type is one that `op` takes: numbers for `add`, `multiply`, `maximum` and
    /// `minimum`, booleans and integers for `and` and `or`. (C4) `dimensions` are dimensions of the operand. (C5) they
    /// are distinct. (C7) the result's shape is the operand's without them.
    pub struct Reduce {
        /// The operation.
        pub op: ReduceOp,
        /// The dimensions that are combined.
        pub dimensions: Vec<usize>,
    }
}

pub(crate) fn reduce_type(op: &Reduce, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let Reduce { op, dimensions } = op;
    let takes = match op {
        ReduceOp::Add | ReduceOp::Multiply | ReduceOp::Maximum | ReduceOp::Minimum => x.dtype != DType::Bool,
        ReduceOp::And | ReduceOp::Or => !x.dtype.is_float(),
    };
    require!(takes, "C2", "`{}` does not combine elements of {x}", op.name());
    require!(dimensions.iter().all(|&d| d < x.rank()), "C4", "{x} does not have the dimensions {dimensions:?}");
    require!(is_unique(dimensions), "C5", "dimensions are listed twice: {dimensions:?}");
    let shape: Vec<usize> = (0..x.rank()).filter(|d| !dimensions.contains(d)).map(|d| x.shape[d]).collect();
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn eval_reduce(op: &Reduce, x: &Tensor, ty: &TensorType) -> Tensor {
    let shape = &x.ty().shape;
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !op.dimensions.contains(d)).collect();
    let mut along = vec![0; shape.len()];
    kept.iter().zip(strides(&ty.shape)).for_each(|(&d, stride)| along[d] = stride);
    let targets = Offsets::new(shape, &along, 0);
    if ty.dtype.is_float() {
        let (neutral, f): (f64, fn(f64, f64) -> f64) = match op.op {
            ReduceOp::Add => (0.0, |x, y| x + y),
            ReduceOp::Multiply => (1.0, |x, y| x * y),
            ReduceOp::Maximum => (f64::NEG_INFINITY, maximum),
            ReduceOp::Minimum => (f64::INFINITY, minimum),
            ReduceOp::And | ReduceOp::Or => unreachable!("`{}` does not take floats", op.op.name()),
        };
        let mut result = vec![neutral; ty.num_elements()];
        targets.zip(x.floats()).for_each(|(i, &x)| result[i] = f(result[i], x));
        Tensor::from_floats(ty.clone(), result)
    } else {
        let (least, greatest) = int_range(ty.dtype);
        let (neutral, f): (i128, fn(i128, i128) -> i128) = match op.op {
            ReduceOp::Add => (0, i128::wrapping_add),
            ReduceOp::Multiply => (1, i128::wrapping_mul),
            ReduceOp::Maximum => (least, i128::max),
            ReduceOp::Minimum => (greatest, i128::min),
            ReduceOp::And => (-1, |x, y| x & y),
            ReduceOp::Or => (0, |x, y| x | y),
        };
        let mut result = vec![neutral; ty.num_elements()];
        targets.zip(x.ints()).for_each(|(i, &x)| result[i] = f(result[i], x));
        Tensor::from_ints(ty.clone(), result)
    }
}

attributes! {
    /// `result[i] = the least j for which operand[i, j] is greatest`, `j` running over `dimension`; a NaN counts as
    /// greatest, and the first of several wins.
    ///
    /// *Constraints*: (I1) numbers, not booleans. (C1) `dimension` is a dimension of the operand and not empty.
    /// (C2) `index_dtype` is of integers.
    pub struct Argmax {
        /// The dimension that is searched.
        pub dimension: usize,
        /// The element type of the result.
        pub index_dtype: DType,
    }
}

pub(crate) fn argmax_type(op: &Argmax, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let Argmax { dimension, index_dtype } = op;
    require!(x.dtype != DType::Bool, "I1", "the operand must be of integers or floats, found {x}");
    require!(
        x.shape.get(*dimension).is_some_and(|&size| size > 0),
        "C1",
        "{x} has no elements along dimension {dimension}"
    );
    require!(index_dtype.is_int(), "C2", "indices must be integers, found {index_dtype}");
    let mut shape = x.shape.clone();
    shape.remove(*dimension);
    Ok(vec![TensorType::new(*index_dtype, shape)])
}

pub(crate) fn eval_argmax(op: &Argmax, x: &Tensor, ty: &TensorType) -> Tensor {
    let lines = lines(&x.ty().shape, op.dimension);
    let first_greatest = |line: &Vec<usize>| -> i128 {
        let found = match x.elements() {
            Elements::Float(x) => greatest(line, |i, j| x[i] > x[j] || (x[i].is_nan() && !x[j].is_nan())),
            Elements::Int(x) => greatest(line, |i, j| x[i] > x[j]),
        };
        found as i128
    };
    Tensor::from_ints(ty.clone(), lines.iter().map(first_greatest).collect())
}

/// The position in `line` of the first element that no other one beats.
fn greatest(line: &[usize], beats: impl Fn(usize, usize) -> bool) -> usize {
    (1..line.len()).fold(0, |best, i| if beats(line[i], line[best]) { i } else { best })
}

/// The offsets of the elements along `dimension`, for each index of the other dimensions in row-major order.
fn lines(shape: &[usize], dimension: usize) -> Vec<Vec<usize>> {
    let all = strides(shape);
    let others: Vec<usize> = (0..shape.len()).filter(|&d| d != dimension).collect();
    Offsets::new(&at(shape, &others), &at(&all, &others), 0)
        .map(|start| Offsets::new(&[shape[dimension]], &[all[dimension]], start).collect())
        .collect()
}

words! {
    /// The order in which [`Sort`] puts elements.
    pub enum SortDirection {
        /// least first
        Ascending = "ascending",
        /// greatest first
        Descending = "descending",
    }
}

attributes! {
    /// The operands, all of one shape, put in the order of the first along `dimension`.
    ///
    /// Floats are in the total order of IEEE 754: -NaN, -∞, …, -0, 0, …, ∞, NaN.
    ///
    /// *Constraints*: (C1) there is at least one operand. (C2) all have the same shape. (C4) `dimension` is a dimension
    /// of theirs. (C5) the first is of numbers.
    pub struct Sort {
        /// The dimension along which elements are ordered.
        pub dimension: usize,
        /// Whether equal elements keep their order.
        pub is_stable: bool,
        /// Least or greatest first.
        pub direction: SortDirection,
    }
}

pub(crate) fn sort_type(op: &Sort, operands: &[&TensorType]) -> Inferred {
    let Some((first, rest)) = operands.split_first() else {
        require!(false, "C1", "expected at least one operand, found none");
        return Ok(vec![]);
    };
    for x in rest {
        require!(x.shape == first.shape, "C2", "the operands must have the same shape, found {first} and {x}");
    }
    require!(op.dimension < first.rank(), "C4", "{first} has no dimension {}", op.dimension);
    require!(first.dtype != DType::Bool, "C5", "booleans have no order; found {first}");
    Ok(operands.iter().map(|&x| x.clone()).collect())
}

pub(crate) fn eval_sort(op: &Sort, operands: &[&Tensor]) -> Vec<Tensor> {
    let keys = operands[0];
    let compare = |&i: &usize, &j: &usize| match keys.elements() {
        Elements::Float(keys) => keys[i].total_cmp(&keys[j]),
        Elements::Int(keys) => keys[i].cmp(&keys[j]),
    };
    let mut results: Vec<Tensor> = operands.iter().map(|&x| x.clone()).collect();
    for line in lines(&keys.ty().shape, op.dimension) {
        let mut sorted = line.clone();
        match op.direction {
            SortDirection::Ascending => sorted.sort_by(compare),
            // Equal elements keep their order, so this is not the ascending order reversed.
            SortDirection::Descending => sorted.sort_by(|i, j| compare(j, i)),
        }
        for (result, x) in results.iter_mut().zip(operands) {
            result.put(line.iter().copied(), x, sorted.iter().copied());
        }
    }
    results
}

macro_rules! reduce_methods {
    ($($(#[$doc:meta])* $method:ident = $op:ident;)*) => {
        impl<'g> Value<'g> {$(
            $(#[$doc])*
            /// The result does not have these dimensions; no node when none are listed.
            ///
            /// # Panics
            /// If a constraint of [`Reduce`] is broken.
            #[track_caller]
            pub fn $method(self, dimensions: &[usize]) -> Value<'g> {
                self.reduce(ReduceOp::$op, dimensions)
            }
        )*}
    };
}

reduce_methods! {
    /// `reduce add`: the sum over `dimensions`.
    sum = Add;
    /// `reduce multiply`: the product over `dimensions`.
    product = Multiply;
    /// `reduce maximum` over `dimensions`.
    max = Maximum;
    /// `reduce minimum` over `dimensions`.
    min = Minimum;
    /// `reduce and`: whether all hold, over `dimensions`.
    all = And;
    /// `reduce or`: whether any holds, over `dimensions`.
    any = Or;
}

impl<'g> Value<'g> {
    /// `reduce`; no node when no dimensions are listed.
    ///
    /// # Panics
    /// If a constraint of [`Reduce`] is broken.
    #[track_caller]
    pub fn reduce(self, op: ReduceOp, dimensions: &[usize]) -> Value<'g> {
        if dimensions.is_empty() {
            return self;
        }
        self.builder().push1(Op::Reduce(Reduce { op, dimensions: dimensions.to_vec() }), &[self])
    }

    /// `argmax`: the index of the first greatest element along `dimension`, as `index_dtype`.
    ///
    /// # Panics
    /// If a constraint of [`Argmax`] is broken.
    #[track_caller]
    pub fn argmax(self, dimension: usize, index_dtype: DType) -> Value<'g> {
        self.builder().push1(Op::Argmax(Argmax { dimension, index_dtype }), &[self])
    }

    /// `sort` of one tensor along `dimension`, stable.
    ///
    /// # Panics
    /// If a constraint of [`Sort`] is broken.
    #[track_caller]
    pub fn sort(self, dimension: usize, direction: SortDirection) -> Value<'g> {
        self.builder().push1(Op::Sort(Sort { dimension, is_stable: true, direction }), &[self])
    }

    /// `sort` of `self` with `values` carried along, stable: the sorted keys, and the values in their order.
    ///
    /// # Panics
    /// If a constraint of [`Sort`] is broken.
    #[track_caller]
    pub fn sort_by_key(self, values: Value<'g>, dimension: usize, direction: SortDirection) -> (Value<'g>, Value<'g>) {
        let op = Op::Sort(Sort { dimension, is_stable: true, direction });
        let [keys, values] = self.builder().push_n(op, &[self, values]);
        (keys, values)
    }
}
