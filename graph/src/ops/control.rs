//! Loops, branches, and ops that only speak to the compiler and to differentiation.

use crate::attributes::attributes;
use crate::builder::{Builder, Value};
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::eval::Tensor;
use crate::ops::{Inferred, Op, RegionTypes};

attributes! {
    /// A loop of known length; the differentiable one.
    ///
    /// The operands are the first carries, then tensors with a leading dimension of `length`. The region's parameters
    /// are the carries and one slice of each tensor; it returns the next carries and elements of the stacked results.
    /// ```text
    /// for i in 0..length (from the last, if reverse):
    ///     carries, elements[i] = body(carries, xs[i])
    /// return carries, elements
    /// ```
    /// *Constraints*: (C1) there are at least `num_carry` operands. (C2) the others have a leading dimension of
    /// `length`. (C3) the region's parameters are the carries and slices of the others. (C4) its first results have
    /// the carries' types.
    pub struct Scan {
        /// How many operands and results are carried from iteration to iteration.
        pub num_carry: usize,
        /// The number of iterations.
        pub length: usize,
        /// Whether iterations go from the last index to the first.
        pub reverse: bool,
    }
}

pub(crate) fn scan_type(op: &Scan, operands: &[&TensorType], body: &RegionTypes<'_>) -> Inferred {
    let Scan { num_carry, length, reverse: _ } = *op;
    require!(num_carry <= operands.len(), "C1", "expected {num_carry} carries, found {} operands", operands.len());
    let (carries, xs) = operands.split_at(num_carry);
    let mut expected: Vec<TensorType> = carries.iter().map(|&x| x.clone()).collect();
    for x in xs {
        require!(x.shape.first() == Some(&length), "C2", "expected a leading dimension of {length}, found {x}");
        expected.push(x.with_shape(&x.shape[1..]));
    }
    require!(
        body.params.iter().copied().eq(&expected),
        "C3",
        "the body must take ({}), it takes ({})",
        list(&expected),
        list(body.params.iter().copied())
    );
    require!(
        body.results.len() >= num_carry && body.results[..num_carry] == *carries,
        "C4",
        "the body must return the carries ({}) first, it returns ({})",
        list(carries.iter().copied()),
        list(body.results.iter().copied())
    );
    let stacked = |x: &TensorType| x.with_shape([&[length], &x.shape[..]].concat());
    expected.truncate(num_carry);
    expected.extend(body.results[num_carry..].iter().map(|&x| stacked(x)));
    Ok(expected)
}

/// Runs `body` on the carries and one slice of each of the other operands, `op.length` times.
pub(crate) fn eval_scan(
    op: &Scan,
    mut operands: Vec<Tensor>,
    types: &[&TensorType],
    mut body: impl FnMut(Vec<Tensor>) -> Vec<Tensor>,
) -> Vec<Tensor> {
    let xs = operands.split_off(op.num_carry);
    let mut carries = operands;
    let mut stacked: Vec<Tensor> = types[op.num_carry..].iter().map(|&ty| Tensor::zeros(ty.clone())).collect();
    for step in 0..op.length {
        let i = if op.reverse { op.length - 1 - step } else { step };
        let mut args = carries;
        for x in &xs {
            let ty = x.ty().with_shape(&x.ty().shape[1..]);
            args.push(x.pick(&ty, element(i, ty.num_elements())));
        }
        let mut results = body(args);
        let elements = results.split_off(op.num_carry);
        carries = results;
        for (stacked, x) in stacked.iter_mut().zip(&elements) {
            let size = x.ty().num_elements();
            stacked.put(element(i, size), x, 0..size);
        }
    }
    carries.extend(stacked);
    carries
}

/// The offsets of element `i` of a stack of elements of `size`.
fn element(i: usize, size: usize) -> std::ops::Range<usize> {
    i * size..(i + 1) * size
}

/// Types separated by commas.
fn list<'a>(types: impl IntoIterator<Item = &'a TensorType>) -> String {
    types.into_iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}

/// `while`: repeats a body as long as a condition holds; the operands are the first values. Not differentiable in
/// reverse, as its length is not known: use `scan`.
/// ```text
/// while cond(values): values = body(values)
/// return values
/// ```
/// *Constraints*: (C1) the first region takes the operands' types and returns a boolean scalar. (C2) the second takes
/// and returns the operands' types. (C3) the results have the operands' types.
pub(crate) fn while_type(operands: &[&TensorType], cond: &RegionTypes<'_>, body: &RegionTypes<'_>) -> Inferred {
    let pred = TensorType::scalar(DType::Bool);
    require!(
        cond.params == operands && cond.results == [&pred],
        "C1",
        "the condition must be ({}) -> {pred}, found ({}) -> ({})",
        list(operands.iter().copied()),
        list(cond.params.iter().copied()),
        list(cond.results.iter().copied())
    );
    require!(
        body.params == operands && body.results == operands,
        "C2",
        "the body must take and return ({}), found ({}) -> ({})",
        list(operands.iter().copied()),
        list(body.params.iter().copied()),
        list(body.results.iter().copied())
    );
    Ok(operands.iter().map(|&x| x.clone()).collect())
}

/// `run` runs the condition (0) or the body (1).
pub(crate) fn eval_while(
    mut values: Vec<Tensor>,
    mut run: impl FnMut(usize, Vec<Tensor>) -> Vec<Tensor>,
) -> Vec<Tensor> {
    while run(0, values.clone())[0].is_true() {
        values = run(1, values);
    }
    values
}

/// `if`: the results of the first region if `pred` holds, else of the second. The operand is `pred`.
///
/// *Constraints*: (I1) `pred` is a boolean scalar. (C1) the regions take nothing. (C2) they return the same types.
/// (C3) the results have these types.
pub(crate) fn if_type(operands: &[&TensorType], on_true: &RegionTypes<'_>, on_false: &RegionTypes<'_>) -> Inferred {
    let [pred] = crate::ops::arity(operands)?;
    require!(*pred == TensorType::scalar(DType::Bool), "I1", "`pred` must be i1[], found {pred}");
    require!(on_true.params.is_empty() && on_false.params.is_empty(), "C1", "the regions of `if` take no parameters");
    require!(
        on_true.results == on_false.results,
        "C2",
        "the regions must return the same types, found ({}) and ({})",
        list(on_true.results.iter().copied()),
        list(on_false.results.iter().copied())
    );
    Ok(on_true.results.iter().map(|&x| x.clone()).collect())
}

/// `remat`: the results of its region, whose inside the backward pass computes again instead of keeping it. No
/// operands: the region uses values around it.
///
/// *Constraints*: (C1) the region takes nothing.
pub(crate) fn remat_type(operands: &[&TensorType], body: &RegionTypes<'_>) -> Inferred {
    let [] = crate::ops::arity(operands)?;
    require!(body.params.is_empty(), "C1", "the region of `remat` takes no parameters");
    Ok(body.results.iter().map(|&x| x.clone()).collect())
}

/// `stop_gradient`: the operand; differentiation takes it for a constant.
pub(crate) fn stop_gradient_type(operands: &[&TensorType]) -> Inferred {
    let [x] = crate::ops::arity(operands)?;
    Ok(vec![x.clone()])
}

/// `optimization_barrier`: the operands; the compiler neither moves computation across it nor merges computations on
/// its two sides.
///
/// *Constraints*: (C1) the results have the operands' types.
pub(crate) fn optimization_barrier_type(operands: &[&TensorType]) -> Inferred {
    Ok(operands.iter().map(|&x| x.clone()).collect())
}

/// The outcome of a [`Builder::scan`]: the last carries, and the stacked results.
#[derive(Clone, Debug)]
pub struct Scanned<'g> {
    /// The carries after the last iteration.
    pub carries: Vec<Value<'g>>,
    /// The stacked results, with a leading dimension of the scan's length.
    pub stacked: Vec<Value<'g>>,
}

impl<'g> Builder<'g> {
    /// `scan` over the leading dimension of `xs`, `length` times, first index first.
    ///
    /// `body(carries, slices)` returns the next carries and the elements of the stacked results; it may use values
    /// around it.
    ///
    /// # Panics
    /// If a constraint of [`Scan`] is broken.
    #[track_caller]
    pub fn scan(
        self,
        init: &[Value<'g>],
        xs: &[Value<'g>],
        length: usize,
        body: impl FnOnce(&[Value<'g>], &[Value<'g>]) -> (Vec<Value<'g>>, Vec<Value<'g>>),
    ) -> Scanned<'g> {
        self.scan_with(Scan { num_carry: init.len(), length, reverse: false }, init, xs, body)
    }

    /// `scan` with all attributes.
    ///
    /// # Panics
    /// If a constraint of [`Scan`] is broken.
    #[track_caller]
    pub fn scan_with(
        self,
        attributes: Scan,
        init: &[Value<'g>],
        xs: &[Value<'g>],
        body: impl FnOnce(&[Value<'g>], &[Value<'g>]) -> (Vec<Value<'g>>, Vec<Value<'g>>),
    ) -> Scanned<'g> {
        let num_carry = init.len();
        let slice = |x: &Value<'g>| {
            let ty = x.ty();
            assert!(ty.rank() > 0, "a scan goes over a leading dimension, found {ty}");
            ty.with_shape(&ty.shape[1..])
        };
        let params: Vec<TensorType> = init.iter().map(Value::ty).chain(xs.iter().map(slice)).collect();
        let region = self.region(&params, |params| {
            let (carries, slices) = params.split_at(num_carry);
            let (mut results, stacked) = body(carries, slices);
            results.extend(stacked);
            results
        });
        let mut carries = self.push(Op::Scan(attributes), &[init, xs].concat(), &[region]);
        let stacked = carries.split_off(num_carry);
        Scanned { carries, stacked }
    }

    /// `while`: `values = body(values)` as long as `cond(values)` holds.
    ///
    /// # Panics
    /// If the condition does not return a boolean scalar or the body not the types it takes.
    #[track_caller]
    pub fn while_loop(
        self,
        init: &[Value<'g>],
        cond: impl FnOnce(&[Value<'g>]) -> Value<'g>,
        body: impl FnOnce(&[Value<'g>]) -> Vec<Value<'g>>,
    ) -> Vec<Value<'g>> {
        let types: Vec<TensorType> = init.iter().map(Value::ty).collect();
        let cond = self.region(&types, |values| vec![cond(values)]);
        let body = self.region(&types, |values| body(values));
        self.push(Op::While, init, &[cond, body])
    }

    /// `if`: what `on_true` returns if `pred` holds, else what `on_false` returns.
    ///
    /// # Panics
    /// If `pred` is not a boolean scalar or the closures return different types.
    #[track_caller]
    pub fn if_else(
        self,
        pred: Value<'g>,
        on_true: impl FnOnce() -> Vec<Value<'g>>,
        on_false: impl FnOnce() -> Vec<Value<'g>>,
    ) -> Vec<Value<'g>> {
        let on_true = self.region(&[], |_| on_true());
        let on_false = self.region(&[], |_| on_false());
        self.push(Op::If, &[pred], &[on_true, on_false])
    }

    /// `remat`: what `body` returns; the backward pass computes its inside again instead of keeping it.
    #[track_caller]
    pub fn remat(self, body: impl FnOnce() -> Vec<Value<'g>>) -> Vec<Value<'g>> {
        let region = self.region(&[], |_| body());
        self.push(Op::Remat, &[], &[region])
    }

    /// `optimization_barrier` around several values.
    #[track_caller]
    pub fn optimization_barrier(self, values: &[Value<'g>]) -> Vec<Value<'g>> {
        self.push(Op::OptimizationBarrier, values, &[])
    }
}

impl<'g> Value<'g> {
    /// `stop_gradient`: `self`, which differentiation takes for a constant.
    #[track_caller]
    pub fn stop_gradient(self) -> Value<'g> {
        self.builder().push1(Op::StopGradient, &[self])
    }
}
