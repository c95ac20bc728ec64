//! Ops that work element by element.

use half::bf16;

use super::{check, f32s, i32s};
use crate::ops::{BinaryOp, ComparisonDirection, Op, UnaryOp};
use crate::{DType, Element, Literal};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn vector<T: Element>(elements: &[T]) -> Literal {
    Literal::new([elements.len()], elements)
}

#[track_caller]
fn unary<T: Element>(op: UnaryOp, x: &[T], expected: &[T]) {
    check(&[vector(x)], |x| x[0].builder().push1(Op::Unary(op), x), &vector(expected));
}

#[track_caller]
fn binary<T: Element>(op: BinaryOp, lhs: &[T], rhs: &[T], expected: &[T]) {
    check(&[vector(lhs), vector(rhs)], |x| x[0].builder().push1(Op::Binary(op), x), &vector(expected));
}

#[test]
fn unary_ops() {
    unary(UnaryOp::Abs, &[-1.5, -0.0, -INF, NAN], &[1.5, 0.0, INF, NAN]);
    unary(UnaryOp::Abs, &[-128_i8, -3, 4], &[-128_i8, 3, 4]);
    unary(UnaryOp::Negate, &[1.5, 0.0, -INF], &[-1.5, -0.0, INF]);
    unary(UnaryOp::Negate, &[i32::MIN, 5], &[i32::MIN, -5]);
    unary(UnaryOp::Negate, &[1_u8, 0], &[255_u8, 0]);
    unary(UnaryOp::Sign, &[-0.0, 0.0, -3.0, INF, NAN], &[-0.0, 0.0, -1.0, 1.0, NAN]);
    unary(UnaryOp::Sign, &[-7_i64, 0, 9], &[-1_i64, 0, 1]);
    unary(UnaryOp::Exponential, &[0.0, 1.0, -INF, 89.0, NAN], &[1.0, std::f32::consts::E, 0.0, INF, NAN]);
    unary(UnaryOp::ExponentialMinusOne, &[1e-10, 0.0, -INF], &[1e-10, 0.0, -1.0]);
    unary(UnaryOp::Log, &[1.0, 0.0, -1.0, INF], &[0.0, -INF, NAN, INF]);
    unary(UnaryOp::LogPlusOne, &[1e-10, -1.0, -2.0], &[1e-10, -INF, NAN]);
    unary(UnaryOp::Logistic, &[0.0, -INF, INF, -200.0], &[0.5, 0.0, 1.0, 0.0]);
    unary(UnaryOp::Tanh, &[0.0, 30.0, -INF], &[0.0, 1.0, -1.0]);
    unary(UnaryOp::Sine, &[0.0, 1.0, INF], &[0.0, 0.841_470_96, NAN]);
    unary(UnaryOp::Cosine, &[0.0, 1.0, INF], &[1.0, 0.540_302_3, NAN]);
    unary(UnaryOp::Sqrt, &[4.0, -0.0, -1.0], &[2.0, -0.0, NAN]);
    unary(UnaryOp::Rsqrt, &[4.0, 0.0, -1.0, INF], &[0.5, INF, NAN, 0.0]);
    unary(UnaryOp::Floor, &[-1.5, 1.5], &[-2.0, 1.0]);
    unary(UnaryOp::Ceil, &[-1.5, 1.5], &[-1.0, 2.0]);
    unary(UnaryOp::RoundNearestEven, &[0.5, 1.5, 2.5, -0.5, -1.5], &[0.0, 2.0, 2.0, -0.0, -2.0]);
    unary(UnaryOp::Not, &[true, false], &[false, true]);
    unary(UnaryOp::Not, &[0_u8, 5], &[255_u8, 250]);
    unary(UnaryOp::Not, &[0_i32, 5], &[-1_i32, -6]);
    check(&[vector(&[1.0, INF, NAN])], |x| x[0].is_finite(), &vector(&[true, false, false]));
}

#[test]
fn binary_ops_of_floats() {
    binary(BinaryOp::Add, &[0.1, INF], &[0.2, -INF], &[0.3, NAN]);
    binary(BinaryOp::Subtract, &[1.0, INF], &[0.75, INF], &[0.25, NAN]);
    binary(BinaryOp::Multiply, &[1e30, 0.0], &[1e30, INF], &[INF, NAN]);
    binary(BinaryOp::Divide, &[1.0, -1.0, 0.0], &[0.0, 0.0, 0.0], &[INF, -INF, NAN]);
    binary(BinaryOp::Remainder, &[5.5, -5.5, 5.5, 1.0], &[2.0, 2.0, -2.0, 0.0], &[1.5, -1.5, 1.5, NAN]);
    binary(BinaryOp::Power, &[-2.0, -2.0, 0.0, 0.0, 2.0], &[3.0, 0.5, 0.0, -1.0, -1.0], &[-8.0, NAN, 1.0, INF, 0.5]);
    binary(BinaryOp::Maximum, &[NAN, 1.0, -0.0, 0.0, 1.0], &[1.0, NAN, 0.0, -0.0, 2.0], &[NAN, NAN, 0.0, 0.0, 2.0]);
    binary(BinaryOp::Minimum, &[NAN, 1.0, -0.0, 0.0, 1.0], &[1.0, NAN, 0.0, -0.0, 2.0], &[NAN, NAN, -0.0, -0.0, 1.0]);
    let pi = std::f32::consts::PI;
    binary(BinaryOp::Atan2, &[0.0, -0.0, 1.0, 1.0], &[-1.0, -1.0, 0.0, 1.0], &[pi, -pi, pi / 2.0, pi / 4.0]);
    // A sum of bf16 is rounded to bf16: 256 has no odd neighbour above it.
    binary(BinaryOp::Add, &[bf16::from_f32(256.0)], &[bf16::from_f32(1.0)], &[bf16::from_f32(256.0)]);
}

#[test]
fn binary_ops_of_integers() {
    binary(BinaryOp::Add, &[127_i8, -128], &[1, -1], &[-128, 127]);
    binary(BinaryOp::Add, &[u64::MAX], &[2], &[1]);
    binary(BinaryOp::Subtract, &[0_u32, 5], &[1, 3], &[u32::MAX, 2]);
    binary(BinaryOp::Multiply, &[u64::MAX, 1 << 63], &[u64::MAX, 2], &[1, 0]);
    binary(BinaryOp::Divide, &[-128_i8, -128, 7, -7, 7], &[-1, 0, -2, 2, 0], &[-128, -1, -3, -3, -1]);
    binary(BinaryOp::Divide, &[7_u8, 200], &[0, 3], &[255, 66]);
    binary(BinaryOp::Remainder, &[-128_i8, -128, 7, -7, 7], &[-1, 0, -2, 2, 0], &[0, -128, 1, -1, 7]);
    binary(
        BinaryOp::Power,
        &[0_i32, 1, -1, -1, 2, 3, 3, 0],
        &[-1, -5, -3, -2, -1, 4, 40, 0],
        &[0, 1, -1, 1, 0, 81, 689_956_897, 1],
    );
    binary(BinaryOp::Maximum, &[-1_i32, 4], &[2, 3], &[2, 4]);
    binary(BinaryOp::Minimum, &[u64::MAX, 4], &[2, 3], &[2, 3]);
    binary(BinaryOp::And, &[0b1100_i8, -1], &[0b1010, 5], &[0b1000, 5]);
    binary(BinaryOp::Or, &[0b1100_u8], &[0b1010], &[0b1110]);
    binary(BinaryOp::Xor, &[0b1100_u8], &[0b1010], &[0b0110]);
    binary(BinaryOp::ShiftLeft, &[1_i32, -8, -8, 5, 1], &[33, 40, -1, -1, 31], &[0, 0, 0, 0, i32::MIN]);
    binary(BinaryOp::ShiftRightArithmetic, &[1_i32, -8, -8, 5, -8], &[33, 40, -1, -1, 1], &[0, -1, -1, 0, -4]);
    binary(BinaryOp::ShiftRightArithmetic, &[128_u8, 128], &[1, 9], &[192, 255]);
    binary(BinaryOp::ShiftRightLogical, &[1_i32, -8, -8, -8], &[33, 40, -1, 28], &[0, 0, 0, 15]);
}

#[test]
fn binary_ops_of_booleans() {
    let (x, y) = ([false, false, true, true], [false, true, false, true]);
    binary(BinaryOp::Add, &x, &y, &[false, true, true, true]);
    binary(BinaryOp::Multiply, &x, &y, &[false, false, false, true]);
    binary(BinaryOp::Maximum, &x, &y, &[false, true, true, true]);
    binary(BinaryOp::Minimum, &x, &y, &[false, false, false, true]);
    binary(BinaryOp::And, &x, &y, &[false, false, false, true]);
    binary(BinaryOp::Or, &x, &y, &[false, true, true, true]);
    binary(BinaryOp::Xor, &x, &y, &[false, true, true, false]);
}

#[test]
fn compare() {
    use ComparisonDirection::{Eq, Ge, Gt, Le, Lt, Ne};
    let cases = [
        (Eq, [false, true, false, true]),
        (Ne, [true, false, true, false]),
        (Ge, [false, true, false, true]),
        (Gt, [false, false, false, false]),
        (Le, [true, true, false, true]),
        (Lt, [true, false, false, false]),
    ];
    for (direction, expected) in cases {
        let args = [vector(&[1.0, 2.0, NAN, 0.0]), vector(&[2.0, 2.0, NAN, -0.0])];
        check(&args, |x| x[0].compare(direction, x[1]), &vector(&expected));
    }
    check(&[vector(&[u64::MAX]), vector(&[1_u64])], |x| x[0].greater(x[1]), &vector(&[true]));
    check(&[vector(&[-1_i8]), vector(&[1_i8])], |x| x[0].greater(x[1]), &vector(&[false]));
}

#[test]
fn select_and_clamp() {
    let (x, y) = (vector(&[1_f32, 2.0, 3.0]), vector(&[4.0, 5.0, NAN]));
    let pred = vector(&[true, false, true]);
    check(&[pred, x.clone(), y.clone()], |x| x[0].select(x[1], x[2]), &vector(&[1_f32, 5.0, 3.0]));
    check(&[Literal::scalar(false), x.clone(), y.clone()], |x| x[0].select(x[1], x[2]), &y);
    check(&[Literal::scalar(true), x.clone(), y], |x| x[0].select(x[1], x[2]), &x);
    let clamped = vector(&[2.0, NAN, 3.0]);
    let args = [Literal::scalar(2_f32), vector(&[1.0, NAN, 5.0]), Literal::scalar(3_f32)];
    check(&args, |x| x[1].clamp(x[0], x[2]), &clamped);
    let args = [i32s(&[3], &[0, 3, 3]), i32s(&[3], &[1, 2, 5]), Literal::scalar(2)];
    check(&args, |x| x[1].clamp(x[0], x[2]), &i32s(&[3], &[1, 2, 2]));
}

#[test]
fn convert() {
    let convert = |x: Literal, expected: Literal| {
        let dtype = expected.ty().dtype;
        check(&[x], |x| x[0].convert(dtype), &expected);
    };
    let x = || vector(&[2.9_f32, -2.9, NAN, INF, -INF, 3e9, 300.0]);
    convert(x(), vector(&[2_i32, -2, 0, i32::MAX, i32::MIN, i32::MAX, 300]));
    convert(x(), vector(&[2_u8, 0, 0, 255, 0, 255, 255]));
    convert(x(), vector(&[2_i8, -2, 0, 127, -128, 127, 127]));
    convert(x(), vector(&[2_i64, -2, 0, i64::MAX, i64::MIN, 3_000_000_000, 300]));
    convert(x(), vector(&[2_u64, 0, 0, u64::MAX, 0, 3_000_000_000, 300]));
    convert(x(), vector(&[true; 7]));
    convert(vector(&[0.0_f32, -0.0]), vector(&[false, false]));
    convert(vector(&[300_i32, -1, 0]), vector(&[44_u8, 255, 0]));
    convert(vector(&[300_i32, -1, 0]), vector(&[true, true, false]));
    convert(vector(&[true, false]), vector(&[1_f32, 0.0]));
    convert(vector(&[u64::MAX]), vector(&[18_446_744_073_709_551_615_f32]));
    // Above the middle of two f32 by one: rounded once, not by way of an f64.
    convert(vector(&[(1_i64 << 54) + (1 << 30) + 1]), vector(&[f32::from_bits(0x5A80_0001)]));
    convert(vector(&[-(1_i64 << 54) - (1 << 30) - 1]), vector(&[f32::from_bits(0xDA80_0001)]));
    convert(vector(&[1.0_f32 / 3.0]), vector(&[bf16::from_bits(0x3EAB)]));
    convert(vector(&[bf16::from_bits(0x3EAB)]), vector(&[0.333_984_38_f32]));
}

#[test]
fn bitcast_convert() {
    check(&[f32s(&[2], &[1.0, -0.0])], |x| x[0].bitcast_convert(DType::U32), &vector(&[0x3F80_0000_u32, 0x8000_0000]));
    check(&[vector(&[0x3F80_0000_u32])], |x| x[0].bitcast_convert(DType::F32), &vector(&[1_f32]));
    check(&[vector(&[-1_i64])], |x| x[0].bitcast_convert(DType::U64), &vector(&[u64::MAX]));
    check(&[vector(&[bf16::ONE])], |x| x[0].bitcast_convert(DType::I16), &vector(&[0x3F80_i16]));
}
