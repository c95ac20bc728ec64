//! Products, reductions and orders.

use std::slice::from_ref;

use half::bf16;

use super::{check, check_all, check_close, count, f32s, i32s, results};
use crate::ops::{AttentionMask, AttentionRows, DotGeneral, ReduceOp, ScaledDotProductAttention, SortDirection};
use crate::{DType, Literal};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn dimensions(batching: [&[usize]; 2], contracting: [&[usize]; 2], result_dtype: DType) -> DotGeneral {
    DotGeneral {
        lhs_batching_dimensions: batching[0].to_vec(),
        rhs_batching_dimensions: batching[1].to_vec(),
        lhs_contracting_dimensions: contracting[0].to_vec(),
        rhs_contracting_dimensions: contracting[1].to_vec(),
        result_dtype,
    }
}

#[test]
fn dot_general() {
    let product = f32s(&[2, 2], &[5.0, 14.0, 14.0, 50.0]);
    check(&[count(&[2, 3]), count(&[2, 3])], |x| x[0].dot(x[1]), &product);
    check(&[count(&[2, 3]), count(&[3, 1])], |x| x[0].matmul(x[1]), &f32s(&[2, 1], &[5.0, 14.0]));
    // The batch comes first wherever it was: lhs K B M, rhs B N K.
    let op = dimensions([&[1], &[0]], [&[0], &[2]], DType::F32);
    let expected = f32s(&[2, 1, 1], &[2.0, 11.0]);
    check(&[count(&[2, 2, 1]), count(&[2, 1, 2])], |x| x[0].dot_general(x[1], op.clone()), &expected);
    // Several contracting dimensions, in the listed order.
    let op = dimensions([&[], &[]], [&[0, 1], &[1, 0]], DType::F32);
    check(&[count(&[2, 2]), count(&[2, 2])], |x| x[0].dot_general(x[1], op.clone()), &Literal::scalar(13_f32));
    // An outer product, and an empty sum.
    let op = dimensions([&[], &[]], [&[], &[]], DType::I32);
    let args = [i32s(&[2], &[1, 2]), i32s(&[2], &[3, 4])];
    check(&args, |x| x[0].dot_general(x[1], op.clone()), &i32s(&[2, 2], &[3, 4, 6, 8]));
    check(&[count(&[1, 0]), count(&[2, 0])], |x| x[0].dot(x[1]), &f32s(&[1, 2], &[0.0, 0.0]));
    let args = [Literal::new([2], &[100_i8, 1]), Literal::new([2], &[2_i8, 60])];
    check(&args, |x| x[0].dot(x[1]), &Literal::scalar(4_i8));
}

#[test]
fn dot_general_rounds_once() {
    let x = || Literal::new([3], &[256.0, 1.0, 1.0].map(bf16::from_f32));
    let ones = || Literal::new([3], &[bf16::ONE; 3]);
    check(&[x(), ones()], |x| x[0].dot(x[1]), &Literal::scalar(bf16::from_f32(258.0)));
    let op = dimensions([&[], &[]], [&[0], &[0]], DType::F32);
    let args = [Literal::new([2], &[256.0, 1.0].map(bf16::from_f32)), Literal::new([2], &[bf16::ONE; 2])];
    check(&args, |x| x[0].dot_general(x[1], op.clone()), &Literal::scalar(257_f32));
}

#[test]
fn a_million_products_are_quick() {
    // 2^21 products; the bound is generous for a busy machine and far below what an allocation per element would take.
    let start = std::time::Instant::now();
    results(&[count(&[128, 128]), count(&[128, 128])], |x| vec![x[0].dot(x[1])]);
    assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
}

#[test]
fn reduce() {
    #[track_caller]
    fn reduced(op: ReduceOp, dimensions: &[usize], shape: &[usize], expected: &[f32]) {
        check(&[count(&[2, 3])], |x| x[0].reduce(op, dimensions), &f32s(shape, expected));
    }
    reduced(ReduceOp::Add, &[1], &[2], &[3.0, 12.0]);
    reduced(ReduceOp::Add, &[0], &[3], &[3.0, 5.0, 7.0]);
    reduced(ReduceOp::Multiply, &[1], &[2], &[0.0, 60.0]);
    reduced(ReduceOp::Maximum, &[1, 0], &[], &[5.0]);
    reduced(ReduceOp::Minimum, &[1], &[2], &[0.0, 3.0]);
    for op in [ReduceOp::Maximum, ReduceOp::Minimum] {
        check(&[f32s(&[3], &[1.0, NAN, 2.0])], |x| x[0].reduce(op, &[0]), &Literal::scalar(NAN));
    }
    let bools = || Literal::new([2, 2], &[true, true, true, false]);
    check(&[bools()], |x| x[0].all(&[1]), &Literal::new([2], &[true, false]));
    check(&[bools()], |x| x[0].any(&[0]), &Literal::new([2], &[true, true]));
    check(&[Literal::new([2], &[6_u8, 3])], |x| x[0].all(&[0]), &Literal::scalar(2_u8));
    check(&[Literal::new([2], &[200_u8, 100])], |x| x[0].sum(&[0]), &Literal::scalar(44_u8));
    let sum = [256.0, 1.0, 1.0].map(bf16::from_f32);
    check(&[Literal::new([3], &sum)], |x| x[0].sum(&[0]), &Literal::scalar(bf16::from_f32(258.0)));
}

#[test]
fn reduce_of_nothing_is_neutral() {
    let cases = [
        (ReduceOp::Add, 0.0, 0),
        (ReduceOp::Multiply, 1.0, 1),
        (ReduceOp::Maximum, -INF, -128),
        (ReduceOp::Minimum, INF, 127),
    ];
    for (op, float, int) in cases {
        check(&[f32s(&[0], &[])], |x| x[0].reduce(op, &[0]), &Literal::scalar(float));
        check(&[Literal::new::<i8>([0], &[])], |x| x[0].reduce(op, &[0]), &Literal::scalar(int as i8));
    }
    for (op, value, bits) in [(ReduceOp::And, true, u16::MAX), (ReduceOp::Or, false, 0)] {
        check(&[Literal::new::<bool>([0], &[])], |x| x[0].reduce(op, &[0]), &Literal::scalar(value));
        check(&[Literal::new::<u16>([0], &[])], |x| x[0].reduce(op, &[0]), &Literal::scalar(bits));
    }
}

#[test]
fn argmax() {
    let cases: [(&[f32], i32); 5] =
        [(&[1.0, 3.0, 3.0], 1), (&[1.0, NAN, 9.0, NAN], 1), (&[-INF, -INF], 0), (&[-0.0, 0.0], 0), (&[2.0], 0)];
    for (x, expected) in cases {
        check(&[f32s(&[x.len()], x)], |x| x[0].argmax(0, DType::I32), &Literal::scalar(expected));
    }
    let x = i32s(&[2, 3], &[1, 5, 2, 9, 0, 9]);
    check(from_ref(&x), |x| x[0].argmax(1, DType::U8), &Literal::new([2], &[1_u8, 0]));
    check(&[x], |x| x[0].argmax(0, DType::I64), &Literal::new([3], &[1_i64, 0, 1]));
}

#[test]
fn sort() {
    use SortDirection::{Ascending, Descending};
    let x = f32s(&[8], &[1.0, -NAN, NAN, -0.0, 0.0, -INF, 0.0, -0.0]);
    let sorted = f32s(&[8], &[-NAN, -INF, -0.0, -0.0, 0.0, 0.0, 1.0, NAN]);
    check(&[x], |x| x[0].sort(0, Ascending), &sorted);
    let x = i32s(&[2, 3], &[3, 1, 2, 6, 5, 4]);
    check(from_ref(&x), |x| x[0].sort(1, Descending), &i32s(&[2, 3], &[3, 2, 1, 6, 5, 4]));
    check(&[x], |x| x[0].sort(0, Descending), &i32s(&[2, 3], &[6, 5, 4, 3, 1, 2]));
    // Equal keys keep their order in both directions.
    let args = || [i32s(&[4], &[1, 2, 1, 2]), count(&[4])];
    for (direction, keys, values) in
        [(Ascending, [1, 1, 2, 2], [0.0, 2.0, 1.0, 3.0]), (Descending, [2, 2, 1, 1], [1.0, 3.0, 0.0, 2.0])]
    {
        let expected = [i32s(&[4], &keys), f32s(&[4], &values)];
        check_all(&args(), |x| <[_; 2]>::from(x[0].sort_by_key(x[1], 0, direction)).to_vec(), &expected);
    }
}

#[test]
fn attention_is_its_decomposition() {
    // Two keys of equal score: the causal mask leaves the first query one of them.
    let op = ScaledDotProductAttention {
        scale: 1.0,
        mask: AttentionMask::Causal,
        sliding_window: None,
        rows: AttentionRows::Whole,
    };
    let (q, k, v) =
        (f32s(&[1, 2, 1, 1], &[1.0, 1.0]), f32s(&[1, 2, 1, 1], &[2.0, 2.0]), f32s(&[1, 2, 1, 1], &[3.0, 5.0]));
    let args = [q, k, v];
    check_close(&args, |x| x[0].scaled_dot_product_attention(x[1], x[2], op.clone()).0, &[3.0, 4.0], 1e-6);
    let log_sum_exp = [2.0, 2.0 + std::f64::consts::LN_2];
    check_close(&args, |x| x[0].scaled_dot_product_attention(x[1], x[2], op.clone()).1, &log_sum_exp, 1e-6);
}
