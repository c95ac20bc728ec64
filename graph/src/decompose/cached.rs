//! A cache of keys and values: attention to it from products, a softmax and a mask, and writing from `scatter`.

use super::{MASKED, batched, heads_last};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::ops::attention::score_dtype;
use crate::ops::{CachedAttention, Scatter, ScatterOp};

/// The output, `B T N V`, of the op's operands.
pub(super) fn cached_attention<'g>(
    op: &CachedAttention,
    [query, key, value]: [Value<'g>; 3],
    [start, count]: [Value<'g>; 2],
) -> Value<'g> {
    let ([b, t, n, h], [_, k, rows, v], dtype) = (query.dims(), value.dims(), query.dtype());
    let [key, value] = [key, value].map(|x| x.slice_dim(2, 0..op.visible_rows));
    // The heads of queries in groups beside the time, each with its head of keys and values, which are never repeated.
    let grouped = query.reshape(&[b, t, k, n / k, h]);
    let scores = grouped.dot_general(key, batched([0, 2], [0, 1], &[4], &[3], score_dtype(dtype))) * op.scale;
    let scores = match op.soft_cap {
        None => scores,
        Some(cap) => (scores / cap).tanh() * cap,
    };
    let visible = visible(op, rows, t, start, count).broadcast_in_dim(&scores.shape(), &[0, 2, 4]);
    let weights = visible.select(scores, scores.full_like(MASKED)).softmax(4).convert(dtype);
    let output = weights.dot_general(value, batched([0, 1], [0, 1], &[4], &[2], dtype));
    heads_last(output).reshape(&[b, t, n, v])
}

/// Which of the rows that are looked at each of `t` tokens sees, `i1 B T R'`.
fn visible<'g>(op: &CachedAttention, rows: usize, t: usize, start: Value<'g>, count: Value<'g>) -> Value<'g> {
    let [b] = start.dims();
    let ty = TensorType::new(DType::I32, [b, t, op.visible_rows]);
    let along = |dimension: usize| start.builder().iota(&ty, dimension);
    let of_text = |x: Value<'g>| x.broadcast_in_dim(&ty.shape, &[0]);
    let (query, row, last) = (of_text(start) + along(1), along(2), of_text(start + count - 1.0));
    // `last` is at least -1 where the result has a meaning, so that the dividend is not below 0.
    let back = (last - row + rows as f64).remainder(row.full_like(rows as f64));
    let position = last - back;
    let visible = position.greater_equal(row.full_like(0.0)).and(position.less_equal(query));
    match op.sliding_window {
        None => visible,
        Some(window) => {
            // A window beyond 2^31 - 1 hides nothing; the difference is not below 0 where the rest is true.
            let window = i32::try_from(window).unwrap_or(i32::MAX);
            visible.and((query - position).less(row.full_like(f64::from(window))))
        }
    }
}

/// The cache, `S K R H`, with new tokens in it, of the op's operands.
pub(super) fn cache_update<'g>([cache, new, slot]: [Value<'g>; 3], [start, count]: [Value<'g>; 2]) -> Value<'g> {
    let ([_, _, rows, _], [texts, tokens, ..]) = (cache.dims::<4>(), new.dims::<4>());
    let ty = TensorType::new(DType::I32, [texts, tokens]);
    let along = |dimension: usize| cache.builder().iota(&ty, dimension);
    let of_text = |x: Value<'g>| x.broadcast_in_dim(&ty.shape, &[0]);
    let position = of_text(start) + along(1);
    let is_written = along(1).less(of_text(count)).and(position.greater_equal(position.full_like(0.0)));
    // What is not to be written goes behind the last row, that is nowhere.
    let outside = position.full_like(rows as f64);
    let row = is_written.select(position.remainder(outside), outside);
    let slot = slot.broadcast_in_dim(&ty.shape, &[]) + along(0);
    let index = [slot, row].map(|x| x.reshape(&[texts, tokens, 1]));
    let attributes = Scatter {
        update_window_dims: vec![2, 3],
        inserted_window_dims: vec![0, 2],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![0, 2],
        index_vector_dim: 2,
        indices_are_sorted: false,
        unique_indices: false,
        update_computation: ScatterOp::Replace,
    };
    cache.scatter(cache.builder().concatenate(&index, 2), new, attributes)
}
