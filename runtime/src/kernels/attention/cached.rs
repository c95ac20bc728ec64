//! Attention to a cache of keys and values, which is read as it is stored: of a few queries a row of the cache at a time
//! with all that see it, of more by blocks, as attention without a cache.

use super::super::pack::{Element, Pack, Rows, write_row};
use super::super::product::Single;
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::forward::{Source, by_blocks, softmax_row};
use super::{Attention, HIDDEN, Sight};

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

/// Queries of a text up to which a row of the cache at a time is as fast as the cache can be read.
const FEW_QUERIES: usize = 8;

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
    if s.queries > FEW_QUERIES
        && let Some(texts) = Texts::new(s, (key, value), start, count)
    {
        by_blocks(isa, texts.a, query, &texts, (output, None), threads, for_each);
        return;
    }
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

/// A cache by positions.
struct Texts<'a, E> {
    /// Keys are those of the text that has the most, at least one.
    a: Attention,
    /// Rows of the cache.
    rows: usize,
    key: &'a [E],
    value: &'a [E],
    texts: Vec<Text<E>>,
}

/// The positions of a text that its queries may see, one after the other.
struct Text<E> {
    /// How many there are.
    positions: usize,
    /// Those before the first query's own.
    before: usize,
    /// Their keys and values, `K R H` and `K R V`, where the cache has them in another order.
    ordered: Option<[Vec<E>; 2]>,
}

impl<'a, E: Element> Texts<'a, E> {
    /// `None` where positions that are seen lie in rows that are not visible.
    fn new(s: CacheSizes, (key, value): (&'a [E], &'a [E]), start: &[i32], count: &[i32]) -> Option<Texts<'a, E>> {
        let texts = start.iter().zip(count).enumerate().map(|(batch, (&start, &count))| {
            let end = usize::try_from(i64::from(start) + i64::from(count)).unwrap_or(0);
            let start = usize::try_from(start).ok()?;
            if end <= s.visible_rows {
                return Some(Text { positions: end, before: start, ordered: None });
            }
            let first = s.window.map_or(0, |window| (start + 1).saturating_sub(window)).max(end.saturating_sub(s.rows));
            if s.visible_rows < s.rows || first > start {
                return None;
            }
            let ordered = |cache: &[E], width: usize| -> Vec<E> {
                let heads =
                    cache[batch * s.key_heads * s.rows * width..].chunks_exact(s.rows * width).take(s.key_heads);
                let mut ordered = Vec::with_capacity(s.key_heads * (end - first) * width);
                for head in heads {
                    for position in first..end {
                        ordered.extend_from_slice(&head[position % s.rows * width..][..width]);
                    }
                }
                ordered
            };
            let ordered = Some([ordered(key, s.head_size), ordered(value, s.value_size)]);
            Some(Text { positions: end - first, before: start - first, ordered })
        });
        let texts = texts.collect::<Option<Vec<_>>>()?;
        let a = Attention {
            batch: s.batch,
            queries: s.queries,
            keys: texts.iter().map(|text| text.positions).fold(1, usize::max),
            heads: s.heads,
            key_heads: s.key_heads,
            head_size: s.head_size,
            value_size: s.value_size,
            scale: s.scale,
            causal: true,
            window: s.window,
        };
        Some(Texts { a, rows: s.rows, key, value, texts })
    }
}

impl<E: Element> Source<E> for Texts<'_, E> {
    fn sight(&self, batch: usize) -> Sight<'_> {
        let Text { positions, before, .. } = self.texts[batch];
        Sight { a: self.a, keys: positions, before, documents: None }
    }

    fn rows(&self, batch: usize, key_head: usize) -> [Rows<'_, E>; 2] {
        let Texts { a, texts, .. } = self;
        let Text { positions, ordered, .. } = &texts[batch];
        let (key, value, head, rows) = match ordered {
            Some([key, value]) => (&key[..], &value[..], key_head, *positions),
            None => (self.key, self.value, batch * a.key_heads + key_head, self.rows),
        };
        [(key, a.head_size), (value, a.value_size)].map(|(elements, width)| Rows {
            elements,
            start: head * rows * width,
            stride: width,
            len: *positions,
            width,
        })
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
            let next = self.key[pair * s.rows * h..].as_ptr().wrapping_add((first + ROWS) * h);
            // SAFETY: the caller's.
            unsafe {
                let mut i = 0;
                while i < queries {
                    let (query, scores) = (&query[i * words..], &mut scores[i * ROWS..]);
                    // Values are asked for while keys are multiplied.
                    let ahead = (i == 0).then_some(value.as_ptr());
                    i += match queries - i {
                        1 => products::<S, E, 1>(query, (key, h), (ahead, v), scores),
                        2 | 3 => products::<S, E, 2>(query, (key, h), (ahead, v), scores),
                        _ => products::<S, E, 4>(query, (key, h), (ahead, v), scores),
                    };
                }
                for (i, scores) in scores.chunks_exact_mut(ROWS).enumerate() {
                    let position = start + (i / (s.heads / s.key_heads)) as i64;
                    scores[rows..].fill(HIDDEN);
                    if !s.hide(&mut scores[..rows], first, position, last) {
                        scores.fill(0.0);
                        continue;
                    }
                    let (sums, state) = partial[i * self.stride..][..self.stride].split_at_mut(columns);
                    let mut largest_and_sum = (state[0], state[1]);
                    let factor = softmax_row::<S, Single>(scores, &mut [], s.scale, &mut largest_and_sum);
                    (state[0], state[1]) = largest_and_sum;
                    if factor != 1.0 {
                        for x in &mut *sums {
                            *x *= factor;
                        }
                    }
                }
                let mut i = 0;
                while i < queries {
                    let (weights, sums) = (&scores[i * ROWS..], &mut partial[i * self.stride..]);
                    // The next keys are asked for while values are weighed.
                    let ahead = (i == 0).then_some(next);
                    i += match queries - i {
                        1 => weigh::<S, E, 1>(weights, (value, v), (ahead, h), (sums, self.stride)),
                        2 | 3 => weigh::<S, E, 2>(weights, (value, v), (ahead, h), (sums, self.stride)),
                        _ => weigh::<S, E, 4>(weights, (value, v), (ahead, h), (sums, self.stride)),
                    };
                }
            }
        }
    }
}

/// Asks for so many elements from an address on, which need not be valid, if there is one.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn prefetch<S: Simd, E>(from: Option<*const E>, elements: usize) {
    let Some(from) = from else { return };
    // SAFETY: the caller's.
    unsafe { S::prefetch_bytes(from.cast(), elements * size_of::<E>()) };
}

/// The products of `Q` queries with every row of `key`, each of `h` elements, [`ROWS`] scores for each query. Queries are
/// f32, with zeros behind their end up to a whole vector. For each row one of `ahead` is asked for. Returns `Q`.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
unsafe fn products<S: Simd, E: Element, const Q: usize>(
    query: &[f32],
    (key, h): (&[E], usize),
    (ahead, width): (Option<*const E>, usize),
    scores: &mut [f32],
) -> usize {
    /// Rows at a time: with each query a sum that does not wait for the others.
    const TOGETHER: usize = 4;
    let (vectors, words) = (h / LANES, h.next_multiple_of(LANES));
    let query: [&[f32]; Q] = std::array::from_fn(|q| &query[q * words..][..words]);
    let rows = key.len() / h;
    for row in (0..rows).step_by(TOGETHER) {
        let number = TOGETHER.min(rows - row);
        // Where there are fewer, the last one is taken again.
        let key: [&[E]; TOGETHER] = std::array::from_fn(|r| &key[(row + r.min(number - 1)) * h..][..h]);
        // SAFETY: whole vectors of queries and rows; the rest is the caller's.
        unsafe {
            prefetch::<S, E>(ahead.map(|ahead| ahead.wrapping_add(row * width)), number * width);
            let mut sums = [[S::splat(0.0); TOGETHER]; Q];
            for i in 0..vectors {
                let mut keys = [S::splat(0.0); TOGETHER];
                for r in 0..TOGETHER {
                    keys[r] = E::load::<S>(key[r][i * LANES..][..LANES].as_ptr());
                }
                for q in 0..Q {
                    let query = S::load(query[q][i * LANES..][..LANES].as_ptr());
                    for r in 0..TOGETHER {
                        sums[q][r] = S::mul_add(query, keys[r], sums[q][r]);
                    }
                }
            }
            for q in 0..Q {
                for r in 0..number {
                    let mut sum = S::sum(sums[q][r]);
                    for i in vectors * LANES..h {
                        sum += query[q][i] * key[r][i].to_f32();
                    }
                    scores[q * ROWS + row + r] = sum;
                }
            }
        }
    }
    Q
}

/// Adds rows of `value`, each of `v` elements, to the sums of `Q` queries, which are `stride` apart, each multiplied by its
/// weight: [`ROWS`] of each query. For each row one of `ahead` is asked for. Returns `Q`.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn weigh<S: Simd, E: Element, const Q: usize>(
    weights: &[f32],
    (value, v): (&[E], usize),
    (ahead, width): (Option<*const E>, usize),
    (sums, stride): (&mut [f32], usize),
) -> usize {
    let rows = value.len() / v;
    let mut column = 0;
    // SAFETY: whole vectors within a row; the rest is the caller's.
    unsafe {
        while column + 4 * LANES <= v {
            let ahead = ahead.filter(|_| column == 0);
            weigh_columns::<S, E, Q, 4>(weights, (value, v), column, (ahead, width), (sums, stride));
            column += 4 * LANES;
        }
        while column + LANES <= v {
            let ahead = ahead.filter(|_| column == 0);
            weigh_columns::<S, E, Q, 1>(weights, (value, v), column, (ahead, width), (sums, stride));
            column += LANES;
        }
    }
    for q in 0..Q {
        for row in 0..rows {
            for i in column..v {
                sums[q * stride + i] += weights[q * ROWS + row] * value[row * v + i].to_f32();
            }
        }
    }
    Q
}

/// [`weigh`] of `N` vectors of columns.
///
/// # Safety
/// That of [`Simd`]; rows have these columns.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
unsafe fn weigh_columns<S: Simd, E: Element, const Q: usize, const N: usize>(
    weights: &[f32],
    (value, v): (&[E], usize),
    column: usize,
    (ahead, width): (Option<*const E>, usize),
    (sums, stride): (&mut [f32], usize),
) {
    let weights: [&[f32]; Q] = std::array::from_fn(|q| &weights[q * ROWS..][..ROWS]);
    // SAFETY: slices of whole vectors; the rest is the caller's.
    unsafe {
        let mut sum = [[S::splat(0.0); N]; Q];
        for q in 0..Q {
            for i in 0..N {
                sum[q][i] = S::load(sums[q * stride + column + i * LANES..][..LANES].as_ptr());
            }
        }
        for (row, value) in value.chunks_exact(v).enumerate() {
            prefetch::<S, E>(ahead.map(|ahead| ahead.wrapping_add(row * width)), width);
            let value = &value[column..][..N * LANES];
            let mut values = [S::splat(0.0); N];
            for i in 0..N {
                values[i] = E::load::<S>(value[i * LANES..][..LANES].as_ptr());
            }
            for q in 0..Q {
                let weight = S::splat(weights[q][row]);
                for i in 0..N {
                    sum[q][i] = S::mul_add(weight, values[i], sum[q][i]);
                }
            }
        }
        for q in 0..Q {
            for i in 0..N {
                S::store(sums[q * stride + column + i * LANES..][..LANES].as_mut_ptr(), sum[q][i]);
            }
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
