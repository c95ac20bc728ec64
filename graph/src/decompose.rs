//! The meaning of fused ops in terms of the others: one function that the evaluator, the generic lowering and
//! second-order differentiation share; and the same meaning by blocks of queries, for targets without a fused op.

mod cached;

use std::ops::Range;

use crate::builder::{Builder, Value};
use crate::dtype::{DType, TensorType};
use crate::ops::attention::score_dtype;
use crate::ops::{
    AttentionMask, AttentionRows, DotGeneral, Op, ScaledDotProductAttention, ScaledDotProductAttentionBackward,
};

/// A function from the op's operands to its results that uses only ops that are not fused; `None` for such ops
/// themselves.
///
/// # Panics
/// If the operands' types break a constraint of the op.
pub fn decompose(op: &Op, operands: &[TensorType]) -> Option<crate::Func> {
    decompose_by_blocks(op, operands, usize::MAX)
}

/// As [`decompose`], with attention computed for `block` queries after the other, each block with no more keys than its
/// queries see. All scores never exist at once, and those that the mask hides are mostly not computed: with `n` blocks a
/// causal attention takes `(n + 1) / 2n` of the operations.
///
/// # Panics
/// As [`decompose`], and if `block` is 0.
pub fn decompose_by_blocks(op: &Op, operands: &[TensorType], block: usize) -> Option<crate::Func> {
    let build = |body: &dyn for<'g> Fn(&[Value<'g>]) -> Vec<Value<'g>>| {
        Builder::build(op.name(), |b| {
            let params: Vec<Value<'_>> =
                operands.iter().enumerate().map(|(i, ty)| b.param(&format!("operand{i}"), ty.clone())).collect();
            body(&params)
        })
    };
    if let Op::ScaledDotProductAttention(op) = op {
        return Some(build(&|x| {
            let (output, log_sum_exp) = attention_by_blocks(op, [x[0], x[1], x[2]], &x[3..], block);
            vec![output, log_sum_exp]
        }));
    }
    if let Op::ScaledDotProductAttentionBackward(op) = op {
        return Some(build(&|x| {
            backward_by_blocks(op, [x[0], x[1], x[2]], [x[3], x[4], x[5]], &x[6..], block).to_vec()
        }));
    }
    if *op == Op::CacheUpdate {
        return Some(build(&|x| vec![cached::cache_update([x[0], x[1], x[2]], [x[3], x[4]])]));
    }
    if let Op::CachedAttention(op) = op {
        return Some(build(&|x| vec![cached::cached_attention(op, [x[0], x[1], x[2]], [x[3], x[4]])]));
    }
    None
}

/// The value of a masked score. Finite, so that a row whose keys are all masked gives no NaN, and so far below any
/// score that its exponential is exactly 0.
const MASKED: f64 = -1e30;

/// Attention from products, a softmax and a mask, of the op's operands: the output `B T N V` and the log-sum-exp
/// `B N T`.
///
/// # Panics
/// If the operands are not those of the op.
pub fn scaled_dot_product_attention<'g>(
    op: &ScaledDotProductAttention,
    operands: &[Value<'g>],
) -> (Value<'g>, Value<'g>) {
    attention_by_blocks(op, [operands[0], operands[1], operands[2]], &operands[3..], usize::MAX)
}

/// How much each query attends to each key: `B N T S`, rows that sum to 1, of the op's operands.
///
/// # Panics
/// If the operands are not those of the op.
pub fn attention_probabilities<'g>(op: &ScaledDotProductAttention, operands: &[Value<'g>]) -> Value<'g> {
    let ([b, t, n, _], [_, s, ..]) = (operands[0].dims::<4>(), operands[1].dims::<4>());
    let block = Block { queries: 0..t, keys: 0..s };
    let (probabilities, _) = probabilities(op, &block, operands[0], operands[1], &operands[3..]);
    probabilities.transpose(&[0, 1, 3, 2, 4]).reshape(&[b, n, t, s])
}

/// The cotangents of query, key and value from the op's operands, with the probabilities computed again from the
/// log-sum-exp.
///
/// # Panics
/// If the operands are not those of the op.
pub fn scaled_dot_product_attention_backward<'g>(
    op: &ScaledDotProductAttentionBackward,
    operands: &[Value<'g>],
) -> [Value<'g>; 3] {
    let (x, rows) = operands.split_at(6);
    backward_by_blocks(op, [x[0], x[1], x[2]], [x[3], x[4], x[5]], rows, usize::MAX)
}

/// Some queries and the keys that they are compared with.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

/// The queries in blocks, each with the keys that at least one of them sees.
fn blocks(op: &ScaledDotProductAttention, num_queries: usize, num_keys: usize, block: usize) -> Vec<Block> {
    assert!(block > 0, "a block has at least one query");
    if block >= num_queries {
        return vec![Block { queries: 0..num_queries, keys: 0..num_keys }];
    }
    let keys = |queries: &Range<usize>| match op.mask {
        AttentionMask::Full => 0..num_keys,
        AttentionMask::Causal => {
            // Queries behind the last key by more than the window see none. What they get instead, the mean of all
            // values, needs all.
            let first = match op.sliding_window {
                Some(window) if queries.end <= num_keys => (queries.start + 1).saturating_sub(window),
                Some(_) | None => 0,
            };
            first..queries.end.min(num_keys)
        }
    };
    let queries = (0..num_queries).step_by(block).map(|start| start..num_queries.min(start.saturating_add(block)));
    queries.map(|queries| Block { keys: keys(&queries), queries }).collect()
}

fn attention_by_blocks<'g>(
    op: &ScaledDotProductAttention,
    [query, key, value]: [Value<'g>; 3],
    rows: &[Value<'g>],
    block: usize,
) -> (Value<'g>, Value<'g>) {
    let ([_, t, ..], [_, s, ..]) = (query.dims::<4>(), key.dims::<4>());
    let parts: Vec<_> = blocks(op, t, s, block)
        .iter()
        .map(|block| {
            let Block { queries, keys } = block;
            let of_keys = |x: Value<'g>| x.slice_dim(1, keys.clone());
            attend(op, block, [query.slice_dim(1, queries.clone()), of_keys(key), of_keys(value)], rows)
        })
        .collect();
    let (outputs, log_sum_exps): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    (joined(&outputs, 1), joined(&log_sum_exps, 2))
}

/// The output and the log-sum-exp of a block.
fn attend<'g>(
    op: &ScaledDotProductAttention,
    block: &Block,
    [query, key, value]: [Value<'g>; 3],
    rows: &[Value<'g>],
) -> (Value<'g>, Value<'g>) {
    let [b, t, n, _] = query.dims();
    let [_, _, k, v] = value.dims();
    let (probabilities, log_sum_exp) = probabilities(op, block, query, key, rows);
    let probabilities = probabilities.convert(value.dtype());
    let output = probabilities.dot_general(value, batched([0, 1], [0, 2], &[4], &[1], value.dtype()));
    (heads_last(output).reshape(&[b, t, n, v]), log_sum_exp.transpose(&[0, 1, 3, 2]).reshape(&[b, k * (n / k), t]))
}

/// The probabilities of a block, `B K T G S`, and their log-sum-exp, `B K T G`.
fn probabilities<'g>(
    op: &ScaledDotProductAttention,
    block: &Block,
    query: Value<'g>,
    key: Value<'g>,
    rows: &[Value<'g>],
) -> (Value<'g>, Value<'g>) {
    let Scores { scores, visible } = masked_scores(op, block, query, key, rows);
    // The maximum only guards against overflow; the result does not depend on it.
    let max = scores.max(&[4]).stop_gradient();
    let exp = (scores - expand(max, &scores.shape())).exp();
    let sum = exp.sum(&[4]);
    let log_sum_exp = max + sum.log();
    (seen(visible, exp / expand(sum, &scores.shape())), log_sum_exp)
}

fn backward_by_blocks<'g>(
    op: &ScaledDotProductAttentionBackward,
    [query, key, value]: [Value<'g>; 3],
    [log_sum_exp, output, ct]: [Value<'g>; 3],
    rows: &[Value<'g>],
    block: usize,
) -> [Value<'g>; 3] {
    let op = op.forward();
    let ([_, t, ..], [_, s, ..]) = (query.dims::<4>(), key.dims::<4>());
    let blocks = blocks(&op, t, s, block);
    // Sums over blocks are in the type of scores, and rounded once.
    let sum_dtype = if blocks.len() == 1 { query.dtype() } else { score_dtype(query.dtype()) };
    let parts: Vec<[Value<'g>; 3]> = blocks
        .iter()
        .map(|block| {
            let of_queries = |x: Value<'g>| x.slice_dim(1, block.queries.clone());
            let of_keys = |x: Value<'g>| x.slice_dim(1, block.keys.clone());
            let operands = [of_queries(query), of_keys(key), of_keys(value)];
            let log_sum_exp = log_sum_exp.slice_dim(2, block.queries.clone());
            let results = [log_sum_exp, of_queries(output), of_queries(ct)];
            attend_backward(&op, block, operands, results, rows, sum_dtype)
        })
        .collect();
    // Every block adds to the keys it has seen.
    let sum = |of: usize| {
        let terms = blocks.iter().zip(&parts).map(|(block, cts)| {
            let (ct, keys) = (cts[of], &block.keys);
            if *keys == (0..s) {
                return ct;
            }
            let mut low = vec![0; ct.rank()];
            let mut high = low.clone();
            (low[1], high[1]) = (keys.start as i64, (s - keys.end) as i64);
            ct.pad(ct.builder().scalar(ct.dtype(), 0.0), &low, &high, &vec![0; ct.rank()])
        });
        terms.reduce(|sum, term| sum + term).expect("there is at least one block")
    };
    let ct_query: Vec<Value<'g>> = parts.iter().map(|cts| cts[0]).collect();
    [joined(&ct_query, 1), sum(1).convert(key.dtype()), sum(2).convert(value.dtype())]
}

/// The cotangents of a block's queries, keys and values, the last two in `sum_dtype`.
fn attend_backward<'g>(
    op: &ScaledDotProductAttention,
    block: &Block,
    [query, key, value]: [Value<'g>; 3],
    [log_sum_exp, output, ct]: [Value<'g>; 3],
    rows: &[Value<'g>],
    sum_dtype: DType,
) -> [Value<'g>; 3] {
    let [b, t, n, h] = query.dims();
    let [_, _, k, v] = value.dims();
    let (group, dtype, score_dtype) = (n / k, query.dtype(), score_dtype(query.dtype()));
    let Scores { scores, visible } = masked_scores(op, block, query, key, rows);
    let shape = scores.shape();
    let log_sum_exp = log_sum_exp.reshape(&[b, k, group, t]).transpose(&[0, 1, 3, 2]);
    let probabilities = seen(visible, (scores - expand(log_sum_exp, &shape)).exp());
    // Σ_s P dP of a row equals its output times its cotangent (Dao et al. 2022, appendix B.4, eq. 4).
    let delta = (output.convert(score_dtype) * ct.convert(score_dtype)).sum(&[3]);
    let delta = delta.reshape(&[b, t, k, group]).transpose(&[0, 2, 1, 3]);
    let (query, ct) = (query.reshape(&[b, t, k, group, h]), ct.reshape(&[b, t, k, group, v]));
    let ct_probabilities = ct.dot_general(value, batched([0, 2], [0, 2], &[4], &[3], score_dtype));
    let ct_scores = (probabilities * (ct_probabilities - expand(delta, &shape)) * op.scale).convert(dtype);
    let ct_value = probabilities.convert(dtype).dot_general(ct, batched([0, 1], [0, 2], &[2, 3], &[1, 3], sum_dtype));
    let ct_query = ct_scores.dot_general(key, batched([0, 1], [0, 2], &[4], &[1], dtype));
    let ct_key = ct_scores.dot_general(query, batched([0, 1], [0, 2], &[2, 3], &[1, 3], sum_dtype));
    [heads_last(ct_query).reshape(&[b, t, n, h]), ct_key.transpose(&[0, 2, 1, 3]), ct_value.transpose(&[0, 2, 1, 3])]
}

/// Scaled and masked scores, `B K T G S`.
struct Scores<'g> {
    scores: Value<'g>,
    /// Which keys each query sees, where there may be queries that see none.
    visible: Option<Value<'g>>,
}

/// The scores of a block. The queries' heads are folded into groups beside the time, so that every key head serves its
/// group in one product and is never repeated.
fn masked_scores<'g>(
    op: &ScaledDotProductAttention,
    block: &Block,
    query: Value<'g>,
    key: Value<'g>,
    rows: &[Value<'g>],
) -> Scores<'g> {
    let [b, t, n, h] = query.dims();
    let [_, s, k, _] = key.dims();
    let dtype = score_dtype(query.dtype());
    let grouped = query.reshape(&[b, t, k, n / k, h]);
    let scores = grouped.dot_general(key, batched([0, 2], [0, 2], &[4], &[3], dtype)) * op.scale;
    let shape = scores.shape();
    // Positions in the row along a dimension of `shape`, from `first` on.
    let positions = |shape: &[usize], dimension: usize, first: usize| {
        let index = query.builder().iota(&TensorType::new(DType::I32, shape), dimension);
        if first == 0 { index } else { index + first as f64 }
    };
    let (queries, keys) = (block.queries.start, block.keys.start);
    let by_mask = match op.mask {
        AttentionMask::Full => None,
        AttentionMask::Causal => {
            let (rows, columns) = (positions(&[t, s], 0, queries), positions(&[t, s], 1, keys));
            let mut visible = columns.less_equal(rows);
            if let Some(window) = op.sliding_window {
                // A window beyond 2^31 - 1 hides nothing.
                let window = i32::try_from(window).unwrap_or(i32::MAX);
                visible = visible.and((rows - columns).less(rows.full_like(f64::from(window))));
            }
            Some(visible.broadcast_in_dim(&shape, &[2, 4]))
        }
    };
    let by_rows = match op.rows {
        AttentionRows::Whole => None,
        AttentionRows::Padded => {
            let within = |length: usize, first: usize, lengths: Value<'g>, dimension: usize| {
                let lengths = lengths.broadcast_in_dim(&[b, length], &[0]);
                positions(&[b, length], 1, first).less(lengths).broadcast_in_dim(&shape, &[0, dimension])
            };
            Some(within(t, queries, rows[0], 2).and(within(s, keys, rows[1], 4)))
        }
        AttentionRows::Packed => {
            let [_, bounds] = rows[0].dims();
            // The number of bounds at or before a position: 0 before all documents, `bounds` behind them.
            let document = |length: usize, first: usize, dimension: usize| {
                let shape_of_bounds = [b, length, bounds];
                let begun = rows[0].broadcast_in_dim(&shape_of_bounds, &[0, 2]).less_equal(positions(
                    &shape_of_bounds,
                    1,
                    first,
                ));
                begun.convert(DType::I32).sum(&[2]).broadcast_in_dim(&shape, &[0, dimension])
            };
            let (of_query, of_key) = (document(t, queries, 2), document(s, keys, 4));
            let inside = of_key.greater(of_key.full_like(0.0)).and(of_key.less(of_key.full_like(bounds as f64)));
            Some(of_query.equal(of_key).and(inside))
        }
    };
    let visible = match (by_mask, by_rows) {
        (Some(x), Some(y)) => Some(x.and(y)),
        (x, y) => x.or(y),
    };
    Scores {
        scores: visible.map_or(scores, |visible| visible.select(scores, scores.full_like(MASKED))),
        visible: visible.filter(|_| by_rows.is_some()),
    }
}

/// Probabilities of a row in which all scores are masked are those of no key.
fn seen<'g>(visible: Option<Value<'g>>, probabilities: Value<'g>) -> Value<'g> {
    visible.map_or(probabilities, |visible| visible.select(probabilities, probabilities.full_like(0.0)))
}

/// Parts of a dimension, end to end.
fn joined<'g>(parts: &[Value<'g>], dimension: usize) -> Value<'g> {
    match parts {
        &[whole] => whole,
        parts => parts[0].builder().concatenate(parts, dimension),
    }
}

/// A product with two batching dimensions.
fn batched(
    lhs_batching: [usize; 2],
    rhs_batching: [usize; 2],
    lhs_contracting: &[usize],
    rhs_contracting: &[usize],
    result_dtype: DType,
) -> DotGeneral {
    DotGeneral {
        lhs_batching_dimensions: lhs_batching.to_vec(),
        rhs_batching_dimensions: rhs_batching.to_vec(),
        lhs_contracting_dimensions: lhs_contracting.to_vec(),
        rhs_contracting_dimensions: rhs_contracting.to_vec(),
        result_dtype,
    }
}

/// `B K T G` repeated along a new last dimension.
fn expand<'g>(x: Value<'g>, shape: &[usize]) -> Value<'g> {
    x.broadcast_in_dim(shape, &[0, 1, 2, 3])
}

/// `B K T G D → B T K G D`.
fn heads_last(x: Value<'_>) -> Value<'_> {
    x.transpose(&[0, 2, 1, 3, 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Func, Literal, eval};

    /// Numbers without a pattern, from -1 to 1.
    fn numbers(ty: &TensorType, seed: usize) -> Literal {
        let values: Vec<f64> = (0..ty.num_elements()).map(|i| ((i * 7 + seed * 31) as f64 * 0.7).sin()).collect();
        Literal::from_f64s(ty.clone(), &values)
    }

    /// The results for floats of [`numbers`] and, as the last arguments, `last`.
    fn results(func: &Func, last: &[Literal]) -> Vec<Vec<f64>> {
        let types = func.param_types();
        let floats = types[..types.len() - last.len()].iter().enumerate().map(|(i, ty)| numbers(ty, i));
        let args: Vec<Literal> = floats.chain(last.iter().cloned()).collect();
        eval(func, &args).expect("the arguments fit").iter().map(Literal::to_f64s).collect()
    }

    /// Attention and its backward by blocks of each size against those in one piece.
    #[track_caller]
    fn check(mask: AttentionMask, sliding_window: Option<usize>, [t, s]: [usize; 2]) {
        check_rows(mask, sliding_window, AttentionRows::Whole, &[], [t, s]);
    }

    #[track_caller]
    fn check_rows(
        mask: AttentionMask,
        sliding_window: Option<usize>,
        rows: AttentionRows,
        of_rows: &[Literal],
        [t, s]: [usize; 2],
    ) {
        let op = ScaledDotProductAttention { scale: 0.6, mask, sliding_window, rows };
        let ty = |shape: [usize; 4]| TensorType::new(DType::F64, shape);
        let (query, key, value) = (ty([2, t, 4, 3]), ty([2, s, 2, 3]), ty([2, s, 2, 5]));
        let (output, log_sum_exp) = (ty([2, t, 4, 5]), TensorType::new(DType::F64, [2, 4, t]));
        let types: Vec<TensorType> = of_rows.iter().map(|rows| rows.ty().clone()).collect();
        let forward = [&[query.clone(), key.clone(), value.clone()], &types[..]].concat();
        let backward = [&[query, key, value, log_sum_exp, output.clone(), output], &types[..]].concat();
        let (forward_op, backward_op) =
            (Op::ScaledDotProductAttention(op.clone()), Op::ScaledDotProductAttentionBackward(op.backward()));
        for (op, operands) in [(forward_op, &forward[..]), (backward_op, &backward)] {
            let whole = results(&decompose(&op, operands).expect("it is fused"), of_rows);
            for block in 1..=t + 1 {
                let parts = results(&decompose_by_blocks(&op, operands, block).expect("it is fused"), of_rows);
                for (found, expected) in parts.iter().flatten().zip(whole.iter().flatten()) {
                    // Sums in another order.
                    let error = (found - expected).abs() / expected.abs().max(1.0);
                    let name = op.name();
                    assert!(error < 1e-12, "{name} {mask:?} {sliding_window:?} {rows:?} {t}x{s} by {block}");
                }
            }
        }
    }

    #[test]
    fn blocks_make_no_difference() {
        for lengths in [[5, 5], [4, 7], [7, 4], [1, 3]] {
            check(AttentionMask::Full, None, lengths);
            check(AttentionMask::Causal, None, lengths);
            for window in [1, 2, 4, 100] {
                check(AttentionMask::Causal, Some(window), lengths);
            }
        }
    }

    #[test]
    fn blocks_of_padded_and_packed_rows_make_no_difference() {
        let ints = |shape: &[usize], elements: &[i32]| Literal::new(shape.to_vec(), elements);
        for (mask, window) in
            [(AttentionMask::Full, None), (AttentionMask::Causal, None), (AttentionMask::Causal, Some(2))]
        {
            // Padding; a row without queries that count, and lengths beyond the row.
            for lengths in [[5, 5], [4, 7]] {
                check_rows(mask, window, AttentionRows::Padded, &[ints(&[2], &[3, 9]), ints(&[2], &[2, 4])], lengths);
                check_rows(mask, window, AttentionRows::Padded, &[ints(&[2], &[0, 4]), ints(&[2], &[4, 0])], lengths);
            }
            // Padding before and behind the documents, an empty document.
            let bounds = ints(&[2, 4], &[0, 2, 5, 5, 1, 1, 2, 4]);
            check_rows(mask, window, AttentionRows::Packed, &[bounds], [5, 5]);
        }
    }

    /// What rows say is what cutting them up gives.
    #[test]
    fn documents_are_attended_to_by_themselves() {
        let op =
            |rows| ScaledDotProductAttention { scale: 0.6, mask: AttentionMask::Causal, sliding_window: None, rows };
        let output = |op: ScaledDotProductAttention, x: &Literal, of_rows: &[Literal]| -> Vec<f64> {
            let func = Builder::build("f", |b| {
                let x = b.param("x", x.ty().clone());
                let rows: Vec<Value<'_>> = of_rows.iter().map(|rows| b.param("rows", rows.ty().clone())).collect();
                vec![x.scaled_dot_product_attention_of(x, x, &rows, op).0]
            });
            eval(&func, &[std::slice::from_ref(x), of_rows].concat()).expect("the arguments fit")[0].to_f64s()
        };
        let x = numbers(&TensorType::new(DType::F64, [1, 7, 2, 3]), 1);
        let part = |range: Range<usize>| {
            let elements = &x.to_f64s()[range.start * 6..range.end * 6];
            Literal::from_f64s(TensorType::new(DType::F64, [1, range.len(), 2, 3]), elements)
        };
        let whole = |range: Range<usize>| output(op(AttentionRows::Whole), &part(range), &[]);
        let near = |found: &[f64], expected: &[f64]| {
            assert_eq!(found.len(), expected.len());
            let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "{found:?}, not {expected:?}");
        };
        let packed = output(op(AttentionRows::Packed), &x, &[Literal::new([1, 4], &[0_i32, 2, 5, 6])]);
        near(&packed, &[whole(0..2), whole(2..5), whole(5..6), vec![0.0; 6]].concat());
        let lengths = || Literal::new([1], &[4_i32]);
        let padded = output(op(AttentionRows::Padded), &x, &[lengths(), lengths()]);
        near(&padded, &[whole(0..4), vec![0.0; 18]].concat());
    }

    #[test]
    fn blocks_take_no_more_keys_than_their_queries_see() {
        let op = |mask, sliding_window| {
            let rows = AttentionRows::Whole;
            ScaledDotProductAttention { scale: 1.0, mask, sliding_window, rows }
        };
        let found = |op: &ScaledDotProductAttention, t, s| -> Vec<_> {
            blocks(op, t, s, 2).into_iter().map(|block| (block.queries, block.keys)).collect()
        };
        let causal = op(AttentionMask::Causal, None);
        assert_eq!(found(&causal, 5, 5), [(0..2, 0..2), (2..4, 0..4), (4..5, 0..5)]);
        assert_eq!(found(&causal, 4, 3), [(0..2, 0..2), (2..4, 0..3)]);
        let sliding = op(AttentionMask::Causal, Some(2));
        assert_eq!(found(&sliding, 5, 5), [(0..2, 0..2), (2..4, 1..4), (4..5, 3..5)]);
        assert_eq!(
            found(&sliding, 4, 2),
            [(0..2, 0..2), (2..4, 0..2)],
            "query 3 sees no key, and takes the mean of all"
        );
        assert_eq!(found(&op(AttentionMask::Full, None), 4, 3), [(0..2, 0..3), (2..4, 0..3)]);
        assert_eq!(found(&causal, 2, 3), [(0..2, 0..3)], "one block is the whole");
    }
}
