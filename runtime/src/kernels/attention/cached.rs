//! Attention of a few queries to a cache of keys and values, which is read once, as it is stored.

use super::super::pack::{Element, Pack, write_row};
use super::super::product::Single;
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::HIDDEN;
use super::forward::softmax_row;

/// Sizes and attributes: query `B T N H`, key `B K R H`, value `B K R V`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheSizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    /// Rows of the cache: position `p` lies in row `p` modulo this.
    pub(crate) rows: usize,
    /// The rows that positions may lie in.
    pub(crate) visible_rows: usize,
    pub(crate) head_size: usize,
    pub(crate) value_size: usize,
    /// What scores are multiplied with; above 0.
    pub(crate) scale: f32,
    /// How many positions a query sees, its own among them.
    pub(crate) window: Option<usize>,
}

/// Operands and result, row-major.
pub(crate) struct Cached<'a, E> {
    pub(crate) sizes: CacheSizes,
    /// `B T N H`.
    pub(crate) query: &'a [E],
    /// `B K R H`.
    pub(crate) key: &'a [E],
    /// `B K R V`.
    pub(crate) value: &'a [E],
    /// The position of each text's first query.
    pub(crate) start: &'a [i32],
    /// How many of the queries are no padding.
    pub(crate) count: &'a [i32],
    /// `B T N V`.
    pub(crate) output: &'a mut [E],
}

/// Rows whose scores are computed before they weigh values: with 128 elements of bf16 they stay in the first cache.
const ROWS: usize = 64;

/// Fewer rows are no work for a thread of its own.
const SMALLEST_PART: usize = 4 * ROWS;

/// Computes the output with this instruction set, which the processor must have, on about `threads` threads. A query that
/// sees no position gets zeros.
pub(crate) fn cached<E: Element>(isa: Isa, call: Cached<'_, E>, threads: usize, for_each: ForEach<'_>) {
    assert!(Isa::available().contains(&isa));
    let Cached { sizes: s, query, key, value, start, count, output } = call;
    assert_eq!(query.len(), s.batch * s.queries * s.heads * s.head_size);
    assert_eq!(key.len(), s.batch * s.key_heads * s.rows * s.head_size);
    assert_eq!(value.len(), s.batch * s.key_heads * s.rows * s.value_size);
    assert_eq!(output.len(), s.batch * s.queries * s.heads * s.value_size);
    assert_eq!([start.len(), count.len()], [s.batch; 2]);
    assert!(s.visible_rows <= s.rows);
    let pairs = s.batch * s.key_heads;
    let parts = (2 * threads).div_ceil(pairs.max(1)).min(s.visible_rows.div_ceil(SMALLEST_PART)).max(1);
    let columns = s.value_size.next_multiple_of(LANES);
    // Of each part and query the weighted sum of values, the largest score and the sum of weights.
    let stride = columns + LANES;
    let mut partial = Buffer::zeros(pairs * parts * s.queries_of_head() * stride);
    let task = Parts { s, parts, query, key, value, start, count, partial: Shared::new(&mut partial), stride };
    // SAFETY: the processor has the instructions; a task writes the partial results of its own part and heads.
    unsafe { run(isa, &task, pairs * parts, for_each) }
    let task = Join { s, parts, partial: &partial, output: Shared::new(output), stride };
    // SAFETY: as above; a task, here all of them on this thread, writes the outputs of its own heads.
    unsafe { run(isa, &task, pairs, &|number, f| (0..number).for_each(f)) }
}

impl CacheSizes {
    /// Queries that read the same key head.
    fn queries_of_head(&self) -> usize {
        self.queries * (self.heads / self.key_heads)
    }

    /// The element that query `i` of a key head begins with, in an array `B T N width`.
    fn query_start(&self, batch: usize, key_head: usize, i: usize, width: usize) -> usize {
        let group = self.heads / self.key_heads;
        ((batch * self.queries + i / group) * self.heads + key_head * group + i % group) * width
    }

    /// The rows to look at when the queries begin at `start` and `last` is the last position in the cache.
    fn rows_seen(&self, start: i64, last: i64) -> std::ops::Range<usize> {
        if last < 0 {
            return 0..0;
        }
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        if last >= self.rows {
            return 0..self.visible_rows;
        }
        let end = (last + 1).min(self.visible_rows);
        let behind = |window: usize| usize::try_from(start + 1).unwrap_or(0).saturating_sub(window);
        self.window.map_or(0, behind).min(end)..end
    }

    /// Makes the scores of rows that a query at `position` does not see [`HIDDEN`]; `scores` are of the rows from `first`
    /// on. Whether any is seen.
    #[inline(always)]
    fn hide(&self, scores: &mut [f32], first: usize, position: i64, last: i64) -> bool {
        let window = self.window.map_or(i64::MAX, |window| i64::try_from(window).unwrap_or(i64::MAX));
        let (first, rows) = (first as i64, self.rows as i64);
        if last < rows {
            // Row `r` holds position `r`: those seen lie together.
            let row = |row: i64| usize::try_from(row - first).unwrap_or(0).min(scores.len());
            let seen = row(position.saturating_sub(window).saturating_add(1))..row(position.min(last) + 1);
            scores[..seen.start].fill(HIDDEN);
            scores[seen.end.max(seen.start)..].fill(HIDDEN);
            return !seen.is_empty();
        }
        let mut is_any_seen = false;
        for (r, score) in scores.iter_mut().enumerate() {
            let held = last - (last - first - r as i64).rem_euclid(rows);
            if held <= position && position - held < window {
                is_any_seen = true;
            } else {
                *score = HIDDEN;
            }
        }
        is_any_seen
    }
}

/// A task is a part of the rows of a key head, with all queries that read it.
struct Parts<'a, E> {
    s: CacheSizes,
    /// Parts of a key head.
    parts: usize,
    query: &'a [E],
    key: &'a [E],
    value: &'a [E],
    start: &'a [i32],
    count: &'a [i32],
    partial: Shared<'a, f32>,
    /// Words of a partial result.
    stride: usize,
}

impl<E: Element> Task for Parts<'_, E> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let s = &self.s;
        let (h, v, queries) = (s.head_size, s.value_size, s.queries_of_head());
        let (pair, part) = (index / self.parts, index % self.parts);
        let (batch, key_head) = (pair / s.key_heads, pair % s.key_heads);
        // SAFETY: no other task has this index.
        let partial = unsafe { self.partial.part(index * queries * self.stride, queries * self.stride) };
        let (columns, words) = (self.stride - LANES, h.next_multiple_of(LANES));
        for result in partial.chunks_exact_mut(self.stride) {
            result[columns] = HIDDEN;
        }
        let start = i64::from(self.start[batch]);
        let last = start + i64::from(self.count[batch]) - 1;
        let seen = s.rows_seen(start, last);
        let per_part = seen.len().div_ceil(self.parts).next_multiple_of(ROWS);
        let first = (seen.start + part * per_part).min(seen.end);
        let seen = first..(first + per_part).min(seen.end);

        let mut query = Buffer::zeros(queries * words);
        for (i, query) in query.chunks_exact_mut(words).enumerate() {
            let from = &self.query[s.query_start(batch, key_head, i, h)..][..h];
            for (to, from) in query.iter_mut().zip(from) {
                *to = from.to_f32();
            }
        }
        let key = &self.key[pair * s.rows * h..][..s.rows * h];
        let value = &self.value[pair * s.rows * v..][..s.rows * v];
        let mut scores = Buffer::zeros(queries * ROWS);
        for first in seen.clone().step_by(ROWS) {
            let rows = ROWS.min(seen.end - first);
            let key = &key[first * h..][..rows * h];
            let value = &value[first * v..][..rows * v];
            // SAFETY: the caller's.
            unsafe {
                for (query, scores) in query.chunks_exact(words).zip(scores.chunks_exact_mut(ROWS)) {
                    row_products::<S, E>(query, key, h, scores);
                }
                for (i, scores) in scores.chunks_exact_mut(ROWS).enumerate() {
                    let position = start + (i / (s.heads / s.key_heads)) as i64;
                    scores[rows..].fill(HIDDEN);
                    if !s.hide(&mut scores[..rows], first, position, last) {
                        continue;
                    }
                    let result = &mut partial[i * self.stride..][..self.stride];
                    let (sums, state) = result.split_at_mut(columns);
                    let mut largest_and_sum = (state[0], state[1]);
                    let factor = softmax_row::<S, Single>(scores, &mut [], s.scale, &mut largest_and_sum);
                    (state[0], state[1]) = largest_and_sum;
                    if factor != 1.0 {
                        for x in &mut *sums {
                            *x *= factor;
                        }
                    }
                    weigh::<S, E>(&scores[..rows], value, v, sums);
                }
            }
        }
    }
}

/// The product of a query with every row of `key`, each of `h` elements. The query is f32, with zeros behind its end.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn row_products<S: Simd, E: Element>(query: &[f32], key: &[E], h: usize, scores: &mut [f32]) {
    /// Rows at a time: sums that do not wait for each other.
    const TOGETHER: usize = 4;
    let vectors = h / LANES;
    for (rows, scores) in key.chunks(TOGETHER * h).zip(scores.chunks_mut(TOGETHER)) {
        if rows.len() == TOGETHER * h {
            // SAFETY: whole vectors of the query and of four rows; the rest is the caller's.
            unsafe {
                let mut sums = [S::splat(0.0); TOGETHER];
                for i in 0..vectors {
                    let query = S::load(query[i * LANES..][..LANES].as_ptr());
                    for r in 0..TOGETHER {
                        let key = E::load::<S>(rows[r * h + i * LANES..][..LANES].as_ptr());
                        sums[r] = S::mul_add(query, key, sums[r]);
                    }
                }
                for r in 0..TOGETHER {
                    scores[r] = S::sum(sums[r]);
                }
            }
        } else {
            for (row, score) in rows.chunks_exact(h).zip(&mut *scores) {
                // SAFETY: as above, of one row.
                unsafe {
                    let mut sum = S::splat(0.0);
                    for i in 0..vectors {
                        let key = E::load::<S>(row[i * LANES..][..LANES].as_ptr());
                        sum = S::mul_add(S::load(query[i * LANES..][..LANES].as_ptr()), key, sum);
                    }
                    *score = S::sum(sum);
                }
            }
        }
        for (row, score) in rows.chunks_exact(h).zip(scores) {
            for i in vectors * LANES..h {
                *score += query[i] * row[i].to_f32();
            }
        }
    }
}

/// Adds rows of `value`, each of `v` elements, to `sums`, each multiplied by its weight.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn weigh<S: Simd, E: Element>(weights: &[f32], value: &[E], v: usize, sums: &mut [f32]) {
    let mut column = 0;
    // SAFETY: whole vectors within a row; the rest is the caller's.
    unsafe {
        while column + 8 * LANES <= v {
            weigh_columns::<S, E, 8>(weights, value, v, column, sums);
            column += 8 * LANES;
        }
        while column + 4 * LANES <= v {
            weigh_columns::<S, E, 4>(weights, value, v, column, sums);
            column += 4 * LANES;
        }
        while column + LANES <= v {
            weigh_columns::<S, E, 1>(weights, value, v, column, sums);
            column += LANES;
        }
    }
    for (row, weight) in value.chunks_exact(v).zip(weights) {
        for i in column..v {
            sums[i] += weight * row[i].to_f32();
        }
    }
}

/// [`weigh`] of `N` vectors of columns.
///
/// # Safety
/// That of [`Simd`]; rows have these columns.
#[inline(always)]
unsafe fn weigh_columns<S: Simd, E: Element, const N: usize>(
    weights: &[f32],
    value: &[E],
    v: usize,
    column: usize,
    sums: &mut [f32],
) {
    // SAFETY: slices of whole vectors; the rest is the caller's.
    unsafe {
        let sums = &mut sums[column..][..N * LANES];
        let mut sum = [S::splat(0.0); N];
        for i in 0..N {
            sum[i] = S::load(sums[i * LANES..][..LANES].as_ptr());
        }
        for (row, &weight) in value.chunks_exact(v).zip(weights) {
            let (row, weight) = (&row[column..][..N * LANES], S::splat(weight));
            for i in 0..N {
                sum[i] = S::mul_add(weight, E::load::<S>(row[i * LANES..][..LANES].as_ptr()), sum[i]);
            }
        }
        for i in 0..N {
            S::store(sums[i * LANES..][..LANES].as_mut_ptr(), sum[i]);
        }
    }
}

/// A task is the outputs of the queries of a key head, from the results of its parts.
struct Join<'a, E> {
    s: CacheSizes,
    parts: usize,
    partial: &'a [f32],
    output: Shared<'a, E>,
    stride: usize,
}

impl<E: Element> Task for Join<'_, E> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, pair: usize) {
        let s = &self.s;
        let (v, queries) = (s.value_size, s.queries_of_head());
        let columns = self.stride - LANES;
        let part = |part: usize, i: usize| {
            let result = &self.partial[((pair * self.parts + part) * queries + i) * self.stride..][..self.stride];
            result.split_at(columns)
        };
        let mut sums = Buffer::zeros(columns);
        for i in 0..queries {
            let largest = (0..self.parts).map(|p| part(p, i).1[0]).fold(HIDDEN, f32::max);
            sums.fill(0.0);
            let mut total = 0.0;
            for p in 0..self.parts {
                let (of_part, state) = part(p, i);
                let factor = (state[0] - largest).exp();
                total += state[1] * factor;
                for (sum, x) in sums.iter_mut().zip(of_part) {
                    *sum += x * factor;
                }
            }
            let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
            let at = s.query_start(pair / s.key_heads, pair % s.key_heads, i, v);
            // SAFETY: no other task has this key head of this text; the rest is the caller's.
            unsafe { write_row::<S, E>(self.output.part(at, v), &sums, factor) };
        }
    }
}
