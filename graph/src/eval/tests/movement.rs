//! Ops that move elements: shapes, blocks, gather and scatter.

use std::slice::from_ref;

use super::{check, count, f32s, i32s};
use crate::ops::{Gather, Scatter, ScatterOp};
use crate::{DType, Literal, TensorType};

#[test]
fn iota_counts_in_its_type() {
    let iota = |dtype, shape: &[usize], dimension| {
        let ty = TensorType::new(dtype, shape);
        let func = crate::Builder::build("iota", |b| vec![b.iota(&ty, dimension)]);
        crate::eval(&func, &[]).unwrap().remove(0).to_f64s()
    };
    assert_eq!(iota(DType::I32, &[2, 3], 1), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    assert_eq!(iota(DType::F32, &[2, 3], 0), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    assert_eq!(iota(DType::BF16, &[258], 0)[257], 256.0, "257 is not a bf16; the tie goes to the even one");
    assert_eq!(iota(DType::I8, &[130], 0)[128..], [-128.0, -127.0]);
    assert_eq!(iota(DType::I8, &[0, 3], 1), []);
}

#[test]
fn broadcast_in_dim() {
    let x = f32s(&[2], &[1.0, 2.0]);
    check(from_ref(&x), |x| x[0].broadcast_in_dim(&[2, 3], &[0]), &f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]));
    check(&[x], |x| x[0].broadcast_in_dim(&[2, 2], &[1]), &f32s(&[2, 2], &[1.0, 2.0, 1.0, 2.0]));
    let column = f32s(&[2, 1], &[1.0, 2.0]);
    check(&[column], |x| x[0].broadcast_in_dim(&[2, 2], &[1, 0]), &f32s(&[2, 2], &[1.0, 2.0, 1.0, 2.0]));
    check(&[Literal::scalar(true)], |x| x[0].broadcast_in_dim(&[2], &[]), &Literal::new([2], &[true, true]));
    check(&[f32s(&[1], &[1.0])], |x| x[0].broadcast_in_dim(&[0], &[0]), &f32s(&[0], &[]));
}

#[test]
fn reshape_transpose_reverse() {
    check(&[count(&[2, 3])], |x| x[0].reshape(&[3, 2]), &count(&[3, 2]));
    check(&[count(&[2, 3])], |x| x[0].transpose(&[1, 0]), &f32s(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    let rotated = f32s(&[3, 1, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check(&[count(&[1, 2, 3])], |x| x[0].transpose(&[2, 0, 1]), &rotated);
    check(&[count(&[2, 3])], |x| x[0].reverse(&[1]), &f32s(&[2, 3], &[2.0, 1.0, 0.0, 5.0, 4.0, 3.0]));
    check(&[count(&[2, 2])], |x| x[0].reverse(&[0, 1]), &f32s(&[2, 2], &[3.0, 2.0, 1.0, 0.0]));
    check(&[count(&[0, 2])], |x| x[0].reverse(&[0, 1]), &count(&[0, 2]));
}

#[test]
fn slice_concatenate() {
    check(&[count(&[3, 4])], |x| x[0].slice(&[1, 0], &[3, 4], &[1, 3]), &f32s(&[2, 2], &[4.0, 7.0, 8.0, 11.0]));
    check(&[count(&[3])], |x| x[0].slice(&[2], &[2], &[1]), &count(&[0]));
    let args = [count(&[2, 1]), count(&[2, 2])];
    check(&args, |x| x[0].builder().concatenate(x, 1), &f32s(&[2, 3], &[0.0, 0.0, 1.0, 1.0, 2.0, 3.0]));
    let args = [count(&[1, 2]), count(&[0, 2]), count(&[2, 2])];
    check(&args, |x| x[0].builder().concatenate(x, 0), &f32s(&[3, 2], &[0.0, 1.0, 0.0, 1.0, 2.0, 3.0]));
}

#[test]
fn pad() {
    #[track_caller]
    fn padded(shape: &[usize], [low, high, interior]: [&[i64]; 3], expected: &Literal) {
        check(&[count(shape), Literal::scalar(9_f32)], |x| x[0].pad(x[1], low, high, interior), expected);
    }
    padded(&[2], [&[1], &[2], &[1]], &f32s(&[6], &[9.0, 0.0, 9.0, 1.0, 9.0, 9.0]));
    padded(&[3], [&[-1], &[1], &[0]], &f32s(&[3], &[1.0, 2.0, 9.0]));
    padded(&[4], [&[-1], &[-2], &[1]], &f32s(&[4], &[9.0, 1.0, 9.0, 2.0]));
    padded(&[2], [&[-2], &[3], &[0]], &f32s(&[3], &[9.0, 9.0, 9.0]));
    padded(&[0], [&[1], &[1], &[5]], &f32s(&[2], &[9.0, 9.0]));
    padded(&[2, 2], [&[0, 1], &[1, 0], &[0, 0]], &f32s(&[3, 3], &[9.0, 0.0, 1.0, 9.0, 2.0, 3.0, 9.0, 9.0, 9.0]));
    // The negative edge cuts off the gap as well.
    padded(&[1, 3], [&[1, -2], &[0, 0], &[0, 1]], &f32s(&[2, 3], &[9.0, 9.0, 9.0, 1.0, 9.0, 2.0]));
}

#[test]
fn dynamic_slices_are_limited_to_the_operand() {
    let cases =
        [([1, 1], [5.0, 6.0]), ([-5, 2], [2.0, 3.0]), ([7, 9], [10.0, 11.0]), ([i32::MIN, i32::MAX], [2.0, 3.0])];
    for (start, expected) in cases {
        let args = [count(&[3, 4]), Literal::scalar(start[0]), Literal::scalar(start[1])];
        check(&args, |x| x[0].dynamic_slice(&x[1..], &[1, 2]), &f32s(&[1, 2], &expected));
    }
    let start = Literal::scalar(u64::MAX);
    check(&[count(&[3]), start], |x| x[0].dynamic_slice(&x[1..], &[2]), &f32s(&[2], &[1.0, 2.0]));
    for (start, expected) in [(1, [0.0, 8.0, 9.0]), (-1, [8.0, 9.0, 2.0]), (2, [0.0, 8.0, 9.0])] {
        let args = [count(&[3]), f32s(&[2], &[8.0, 9.0]), Literal::scalar(start)];
        check(&args, |x| x[0].dynamic_update_slice(x[1], &x[2..]), &f32s(&[3], &expected));
    }
}

fn rows_gather(indices_rank: usize) -> Gather {
    Gather {
        offset_dims: vec![indices_rank],
        collapsed_slice_dims: vec![0],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![0],
        index_vector_dim: indices_rank,
        slice_sizes: vec![1, 2],
        indices_are_sorted: false,
    }
}

#[test]
fn gather() {
    // Rows; the indices beyond the ends are limited.
    let rows = f32s(&[4, 2], &[4.0, 5.0, 0.0, 1.0, 4.0, 5.0, 0.0, 1.0]);
    check(&[count(&[3, 2]), i32s(&[4], &[2, 0, 7, -1])], |x| x[0].take_rows(x[1]), &rows);
    check(
        &[count(&[3, 2]), i32s(&[2, 2], &[2, 0, 7, -1])],
        |x| x[0].gather(x[1], rows_gather(2)),
        &f32s(&[2, 2, 2], &[4.0, 5.0, 0.0, 1.0, 4.0, 5.0, 0.0, 1.0]),
    );
    // Blocks of [2, 1] at (row, column), the block's dimensions around the batch.
    let blocks = Gather {
        offset_dims: vec![0, 2],
        collapsed_slice_dims: vec![],
        start_index_map: vec![1, 0],
        index_vector_dim: 0,
        slice_sizes: vec![2, 1],
        ..rows_gather(1)
    };
    // Index vectors (column, row): (0, 1), (2, 0), (1, 9).
    let args = [count(&[3, 3]), i32s(&[2, 3], &[0, 2, 1, 1, 0, 9])];
    let expected = f32s(&[2, 3, 1], &[3.0, 2.0, 4.0, 6.0, 5.0, 7.0]);
    check(&args, |x| x[0].gather(x[1], blocks.clone()), &expected);
    // One element of each row, as of logits at labels.
    let batched = Gather {
        offset_dims: vec![],
        collapsed_slice_dims: vec![1],
        operand_batching_dims: vec![0],
        start_indices_batching_dims: vec![0],
        start_index_map: vec![1],
        index_vector_dim: 1,
        slice_sizes: vec![1, 1],
        indices_are_sorted: false,
    };
    let args = [count(&[3, 4]), i32s(&[3, 1], &[1, 3, 0])];
    check(&args, |x| x[0].gather(x[1], batched.clone()), &f32s(&[3], &[1.0, 7.0, 8.0]));
}

fn rows_scatter(update_computation: ScatterOp) -> Scatter {
    Scatter {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        indices_are_sorted: false,
        unique_indices: false,
        update_computation,
    }
}

#[test]
fn scatter_combines_and_drops() {
    let cases = [
        (ScatterOp::Add, [30.0, 33.0, 2.0, 3.0]),
        (ScatterOp::Multiply, [0.0, 240.0, 2.0, 3.0]),
        (ScatterOp::Maximum, [20.0, 20.0, 2.0, 3.0]),
        (ScatterOp::Minimum, [0.0, 1.0, 2.0, 3.0]),
        (ScatterOp::Replace, [20.0, 12.0, 2.0, 3.0]),
    ];
    for (op, expected) in cases {
        // Rows 0, 0 again, one below and one above.
        let args = [
            count(&[2, 2]),
            i32s(&[4, 1], &[0, 0, -1, 2]),
            f32s(&[4, 2], &[10.0, 20.0, 20.0, 12.0, 100.0, 100.0, 100.0, 100.0]),
        ];
        check(&args, |x| x[0].scatter(x[1], x[2], rows_scatter(op)), &f32s(&[2, 2], &expected));
    }
}

#[test]
fn scatter_drops_whole_blocks() {
    let op = Scatter { inserted_window_dims: vec![], ..rows_scatter(ScatterOp::Add) };
    let args = [
        f32s(&[5], &[0.0; 5]),
        i32s(&[4, 1], &[3, 4, -1, 0]),
        f32s(&[4, 2], &[1.0, 2.0, 10.0, 20.0, 100.0, 200.0, 1000.0, 2000.0]),
    ];
    check(&args, |x| x[0].scatter(x[1], x[2], op.clone()), &f32s(&[5], &[1000.0, 2000.0, 0.0, 1.0, 2.0]));
}

#[test]
fn scatter_with_batching_is_the_reverse_of_gather() {
    let op = Scatter {
        update_window_dims: vec![],
        inserted_window_dims: vec![1],
        input_batching_dims: vec![0],
        scatter_indices_batching_dims: vec![0],
        scatter_dims_to_operand_dims: vec![1],
        ..rows_scatter(ScatterOp::Add)
    };
    let args = [f32s(&[2, 3], &[0.0; 6]), i32s(&[2, 1], &[2, 0]), f32s(&[2], &[5.0, 7.0])];
    check(&args, |x| x[0].scatter(x[1], x[2], op.clone()), &f32s(&[2, 3], &[0.0, 0.0, 5.0, 7.0, 0.0, 0.0]));
    // Integers wrap.
    let args = [Literal::new([1, 2], &[250_u8, 1]), i32s(&[1, 1], &[0]), Literal::new([1], &[10_u8])];
    check(&args, |x| x[0].scatter(x[1], x[2], op.clone()), &Literal::new([1, 2], &[4_u8, 1]));
}
