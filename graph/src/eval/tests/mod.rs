//! Values of every op on inputs that can be checked by hand, edge cases included.
//!
//! What is not plain from the op's documentation was compared with XLA's CPU backend.

mod control;
mod elementwise;
mod movement;
mod random;
mod sums;

use crate::{Builder, EvalError, Literal, Tensor, TensorType, Value, eval, eval_f64};

/// Evaluates `f` on `args` and compares its result with `expected`: same type, same bits, any NaN equal to any other.
#[track_caller]
pub(crate) fn check(args: &[Literal], f: impl for<'g> Fn(&[Value<'g>]) -> Value<'g>, expected: &Literal) {
    check_all(args, |x| vec![f(x)], std::slice::from_ref(expected));
}

/// As [`check`], for several results.
#[track_caller]
pub(crate) fn check_all(args: &[Literal], f: impl for<'g> Fn(&[Value<'g>]) -> Vec<Value<'g>>, expected: &[Literal]) {
    let found = results(args, f);
    assert_eq!(found.len(), expected.len(), "number of results");
    for (found, expected) in found.iter().zip(expected) {
        let same = found.ty() == expected.ty()
            && if found.ty().dtype.is_float() {
                let pairs = found.to_f64s().into_iter().zip(expected.to_f64s());
                pairs.into_iter().all(|(x, y)| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()))
            } else {
                found == expected
            };
        assert!(same, "expected {expected:?}\n   found {found:?}");
    }
}

/// Evaluates `f` on `args` and compares the elements of its result with `expected`, within `tolerance`.
#[track_caller]
pub(crate) fn check_close(
    args: &[Literal],
    f: impl for<'g> Fn(&[Value<'g>]) -> Value<'g>,
    expected: &[f64],
    tolerance: f64,
) {
    let found = results(args, |x| vec![f(x)]).remove(0).to_f64s();
    assert_eq!(found.len(), expected.len(), "number of elements");
    let close = found.iter().zip(expected).all(|(x, y)| x == y || (x - y).abs() <= tolerance);
    assert!(close, "expected {expected:?}\n   found {found:?}");
}

pub(crate) fn results(args: &[Literal], f: impl for<'g> Fn(&[Value<'g>]) -> Vec<Value<'g>>) -> Vec<Literal> {
    let func = Builder::build("test", |b| {
        let params: Vec<Value<'_>> =
            args.iter().enumerate().map(|(i, arg)| b.param(&format!("x{i}"), arg.ty().clone())).collect();
        f(&params)
    });
    eval(&func, args).expect("the arguments are those that the function was made for")
}

/// A tensor of f32 with this shape.
pub(crate) fn f32s(shape: &[usize], elements: &[f32]) -> Literal {
    Literal::new(shape, elements)
}

/// A tensor of i32 with this shape.
pub(crate) fn i32s(shape: &[usize], elements: &[i32]) -> Literal {
    Literal::new(shape, elements)
}

/// 0, 1, … as f32 in this shape.
pub(crate) fn count(shape: &[usize]) -> Literal {
    let elements: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
    f32s(shape, &elements)
}

#[test]
fn wrong_arguments_are_refused() {
    let func = Builder::build("double", |b| {
        let x = b.param("x", TensorType::new(crate::DType::F32, [2]));
        vec![x + x]
    });
    let error = eval(&func, &[]).unwrap_err();
    assert_eq!(error, EvalError::ArgCount { func: "double".into(), expected: 1, found: 0 });
    assert_eq!(error.to_string(), "`double` takes 1 arguments, found 0");
    let error = eval(&func, &[i32s(&[2], &[1, 2])]).unwrap_err();
    assert_eq!(error.to_string(), "`double` takes f32[2] for argument 0 (`x`), found i32[2]");
}

#[test]
fn eval_f64_does_not_round() {
    let func = Builder::build("third", |b| {
        let x = b.param("x", TensorType::scalar(crate::DType::BF16));
        vec![(x / 3.0).convert(crate::DType::F16)]
    });
    let x = Tensor::from_floats(TensorType::scalar(crate::DType::BF16), vec![1.0]);
    assert_eq!(eval_f64(&func, &[x]).unwrap()[0].floats(), [1.0 / 3.0]);
}

#[test]
fn narrow_floats_are_rounded_once() {
    // Just above the middle of 1 and its neighbour, by less than an f32 can tell.
    let above_bf16 = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
    let above_f16 = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
    let convert = |x: f64, dtype| results(&[Literal::scalar(x)], |x| vec![x[0].convert(dtype)]).remove(0).to_f64s()[0];
    assert_eq!(convert(above_bf16, crate::DType::BF16), 1.0 + 2f64.powi(-7));
    assert_eq!(convert(above_f16, crate::DType::F16), 1.0 + 2f64.powi(-10));
    assert_eq!(convert(1.0 + 2f64.powi(-8), crate::DType::BF16), 1.0);
    assert_eq!(convert(-above_bf16, crate::DType::BF16), -1.0 - 2f64.powi(-7));
    assert_eq!(convert(1e300, crate::DType::BF16), f64::INFINITY);
    assert_eq!(convert(65519.99, crate::DType::F16), 65504.0);
    assert_eq!(convert(65520.0, crate::DType::F16), f64::INFINITY);
    // Half the least subnormal, and a little more.
    assert_eq!(convert(2f64.powi(-25), crate::DType::F16), 0.0);
    assert_eq!(convert(2f64.powi(-25) * 1.0000001, crate::DType::F16), 2f64.powi(-24));
}
