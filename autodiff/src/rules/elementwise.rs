//! Derivatives of ops that work element by element.

use lmc_graph::Value;
use lmc_graph::ops::{BinaryOp, UnaryOp};

/// Ops of one operand.
pub(crate) fn unary<'g>(op: UnaryOp, x: Value<'g>, z: Value<'g>, ct: Value<'g>) -> Option<Value<'g>> {
    match op {
        UnaryOp::Abs => Some(ct * x.sign()),
        UnaryOp::Negate => Some(-ct),
        UnaryOp::Exponential => Some(ct * z),
        UnaryOp::ExponentialMinusOne => Some(ct * (z + 1.0)),
        UnaryOp::Log => Some(ct / x),
        UnaryOp::LogPlusOne => Some(ct / (x + 1.0)),
        UnaryOp::Logistic => Some(ct * z * (-z + 1.0)),
        // 1 - z² as a product keeps its digits where z is close to ±1.
        UnaryOp::Tanh => Some(ct * (z + 1.0) * (-z + 1.0)),
        UnaryOp::Sine => Some(ct * x.cosine()),
        UnaryOp::Cosine => Some(-ct * x.sine()),
        UnaryOp::Sqrt => Some(ct * 0.5 / z),
        UnaryOp::Rsqrt => Some(ct * -0.5 * (z / x)),
        // Constant wherever they have a derivative.
        UnaryOp::Sign | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::RoundNearestEven => None,
        UnaryOp::Not | UnaryOp::IsFinite => None,
    }
}

/// Ops of two operands.
pub(crate) fn binary<'g>(
    op: BinaryOp,
    x: Value<'g>,
    y: Value<'g>,
    z: Value<'g>,
    ct: Value<'g>,
) -> [Option<Value<'g>>; 2] {
    let [dx, dy] = match op {
        BinaryOp::Add => [ct, ct],
        BinaryOp::Subtract => [ct, -ct],
        BinaryOp::Multiply => [ct * y, ct * x],
        BinaryOp::Divide => [ct / y, -(ct / y) * z],
        // x - trunc(x / y) y, and truncation is constant wherever it has a derivative.
        BinaryOp::Remainder => [ct, -ct * (x / y).sign() * (x / y).abs().floor()],
        BinaryOp::Power => power(x, y, z, ct),
        BinaryOp::Maximum | BinaryOp::Minimum => [ct * share(x, y, z), ct * share(y, x, z)],
        BinaryOp::Atan2 => {
            let square = x * x + y * y;
            [ct * (y / square), ct * (-x / square)]
        }
        BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRightArithmetic
        | BinaryOp::ShiftRightLogical => return [None, None],
    };
    [Some(dx), Some(dy)]
}

/// `y x^(y-1)` and `x^y ln x`. At `y = 0` the first is 0, also where `x^(y-1)` is infinite; at `x = 0` the second is
/// taken for 0, where `ln x` is infinite. (As jax.lax.pow.)
fn power<'g>(x: Value<'g>, y: Value<'g>, z: Value<'g>, ct: Value<'g>) -> [Value<'g>; 2] {
    let (zero, one) = (y.full_like(0.0), y.full_like(1.0));
    let is_constant = y.equal(zero);
    let slope = is_constant.select(zero, y * x.power(is_constant.select(one, y - one)));
    let log = x.equal(zero).select(one, x).log();
    [ct * slope, ct * (log * z)]
}

/// The share of `x` in the choice `z` of one of `x` and `y`: 1 or 0, and 1/2 when they are equal. (As jax.lax.max.)
fn share<'g>(x: Value<'g>, y: Value<'g>, z: Value<'g>) -> Value<'g> {
    let chosen = x.equal(z).select(z.full_like(1.0), z.full_like(0.0));
    chosen * y.equal(z).select(z.full_like(0.5), z.full_like(1.0))
}

/// `select`.
pub(crate) fn select<'g>(pred: Value<'g>, ct: Value<'g>) -> [Option<Value<'g>>; 3] {
    let zero = ct.full_like(0.0);
    [None, Some(pred.select(ct, zero)), Some(pred.select(zero, ct))]
}

/// `clamp`: the cotangent goes to the one of the three that the result is; to none where the operand equals a limit.
/// (As jax.lax.clamp.)
pub(crate) fn clamp<'g>(min: Value<'g>, x: Value<'g>, max: Value<'g>, ct: Value<'g>) -> [Option<Value<'g>>; 3] {
    let zero = ct.full_like(0.0);
    // A scalar limit was broadcast, so its cotangent is a sum.
    let limit = |limit: Value<'g>, ct: Value<'g>| if limit.rank() == ct.rank() { ct } else { ct.sum(&all(ct)) };
    let below = x.less(min).and(min.less(max));
    let within = x.greater(min).and(x.less(max));
    let above = x.greater(max);
    [Some(limit(min, below.select(ct, zero))), Some(within.select(ct, zero)), Some(limit(max, above.select(ct, zero)))]
}

/// Every dimension of `x`.
fn all(x: Value<'_>) -> Vec<usize> {
    (0..x.rank()).collect()
}

/// `convert`.
pub(crate) fn convert<'g>(x: Value<'g>, ct: Value<'g>) -> Option<Value<'g>> {
    x.dtype().is_float().then(|| ct.convert(x.dtype()))
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, TensorType, Value};

    use crate::check::{check, check_in, count, gradients};

    #[test]
    fn unary_ops() {
        type Method = for<'g> fn(Value<'g>) -> Value<'g>;
        let anywhere: [Method; 10] = [
            |x| x.negate(),
            |x| x.abs() * x,
            |x| x.exp(),
            |x| x.expm1(),
            |x| x.logistic(),
            |x| x.tanh(),
            |x| x.sine(),
            |x| x.cosine(),
            |x| x.sign() * x * x,
            |x| x.floor() * x + x.ceil() * x + x.round_nearest_even(),
        ];
        anywhere.into_iter().for_each(|method| check(&[&[2, 3]], |x| method(x[0])));
        let positive: [Method; 4] = [|x| x.log(), |x| x.log1p(), |x| x.sqrt(), |x| x.rsqrt()];
        positive.into_iter().for_each(|method| check_in(0.5..3.0, &[&[2, 3]], |x| method(x[0])));
        check_in(-0.9..-0.1, &[&[3]], |x| x[0].log1p());
    }

    #[test]
    fn binary_ops() {
        type Method = for<'g> fn(Value<'g>, Value<'g>) -> Value<'g>;
        let ops: [Method; 8] = [
            |x, y| x + y,
            |x, y| x - y,
            |x, y| x * y,
            |x, y| x / y,
            |x, y| (x + y).power(y),
            |x, y| x.maximum(y) * x,
            |x, y| x.minimum(y) * y,
            |x, y| x.atan2(y),
        ];
        ops.into_iter().for_each(|op| check_in(0.5..2.0, &[&[2, 3], &[2, 3]], |x| op(x[0], x[1])));
        check_in(-2.0..-0.5, &[&[3], &[3]], |x| x[0].atan2(x[1]) + x[0] / x[1]);
        // Bases and exponents of either sign, away from where the quotient jumps.
        check_in(-2.0..2.0, &[&[4], &[4]], |x| (x[0] * 3.0).remainder(x[1] + 5.0) * x[1]);
        check(&[&[3]], |x| x[0].power(x[0].full_like(3.0)) + x[0].power(x[0].full_like(2.0)));
        // Operands that are broadcast.
        check(&[&[2, 3], &[3], &[2, 1]], |x| x[0] * x[1] - x[2] * x[1]);
    }

    #[test]
    fn edges_have_the_derivatives_of_jax() {
        type Op = for<'g> fn(Value<'g>, Value<'g>) -> Value<'g>;
        let cases: [(Op, f64, f64, f64, f64); 9] = [
            (|x, y| x.power(y), 0.0, 0.0, 0.0, 0.0),
            (|x, y| x.power(y), 0.0, 1.0, 1.0, 0.0),
            (|x, y| x.power(y), 0.0, 2.0, 0.0, 0.0),
            (|x, y| x.maximum(y), 1.0, 1.0, 0.5, 0.5),
            (|x, y| x.maximum(y), 2.0, 1.0, 1.0, 0.0),
            (|x, y| x.minimum(y), 1.0, 1.0, 0.5, 0.5),
            (|x, y| x.minimum(y), 2.0, 1.0, 0.0, 1.0),
            (|x, y| x.remainder(y), -7.0, 2.0, 1.0, 3.0),
            (|x, y| x.abs() * y, 0.0, 1.0, 0.0, 0.0),
        ];
        for (i, (op, x, y, dx, dy)) in cases.into_iter().enumerate() {
            assert_eq!(gradients(&[&[x], &[y]], |x| op(x[0], x[1])), [[dx], [dy]], "case {i}");
        }
    }

    #[test]
    fn select_and_clamp() {
        check(&[&[2, 3], &[2, 3]], |x| x[0].greater(x[1]).select(x[0] * x[1], x[1].exp()));
        check(&[&[3], &[3]], |x| {
            let pred = x[0].sum(&[0]).greater(x[1].sum(&[0]));
            pred.select(x[0] * x[0], x[1] * x[0])
        });
        check(&[&[4, 3]], |x| (x[0] * x[0]).clamp(x[0].full_like(0.5), x[0].full_like(2.0)) * x[0]);
        check(&[&[4, 3], &[], &[]], |x| x[0].clamp(x[1].logistic() - 1.0, x[2].logistic()) * x[0]);
        let clamped = gradients(&[&[0.0, 1.0, 2.0, 3.0, 4.0], &[1.0], &[3.0]], |x| {
            x[0].clamp(x[1].reshape(&[]), x[2].reshape(&[]))
        });
        assert_eq!(clamped, [vec![0.0, 0.0, 1.0, 0.0, 0.0], vec![1.0], vec![1.0]]);
    }

    #[test]
    fn convert() {
        check(&[&[3]], |x| x[0].convert(DType::F64).exp().convert(DType::F32) * x[0]);
        // What passes through integers or bits is constant.
        let constant = gradients(&[&[1.5, 2.5]], |x| {
            let bits = x[0].bitcast_convert(DType::I32).bitcast_convert(DType::F32);
            x[0].convert(DType::I32).convert(DType::F32) * x[0] + bits
        });
        assert_eq!(constant, [[1.0, 2.0]]);
    }

    #[test]
    fn a_gradient_that_nothing_needs_is_zeros() {
        let func = Builder::build("constant", |b| {
            let (x, y) = (b.param("x", TensorType::new(DType::F32, [2])), b.param("y", TensorType::scalar(DType::F32)));
            vec![x.floor().sum(&[0]) + y.stop_gradient()]
        });
        let grad = crate::grad(&func, &[0, 1]).expect("there is nothing to refuse");
        assert_eq!(
            grad.walk(grad.body()).len(),
            3,
            "two zeros, one of them broadcast:\n{}",
            lmc_graph::text::print(&grad)
        );
        assert_eq!(count(&grad, "add"), 0);
    }
}
