//! The derivative of an attention.

use super::super::pack::{Element, Pack};
use super::super::product::{Left, product};
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{ForEach, Shared, Task, run};
use super::{Attention, HIDDEN, write_row};

/// Operands and results, row-major.
pub(crate) struct Backward<'a, E> {
    pub(crate) attention: Attention,
    /// `B T N H`.
    pub(crate) query: &'a [E],
    /// `B S K H`.
    pub(crate) key: &'a [E],
    /// `B S K V`.
    pub(crate) value: &'a [E],
    /// `B N T`.
    pub(crate) log_sum_exp: &'a [f32],
    /// `B T N V`.
    pub(crate) output: &'a [E],
    /// `B T N V`.
    pub(crate) output_ct: &'a [E],
    /// `B T N H`.
    pub(crate) query_ct: &'a mut [E],
    /// `B S K H`.
    pub(crate) key_ct: &'a mut [E],
    /// `B S K V`.
    pub(crate) value_ct: &'a mut [E],
}

/// Computes the cotangents with this instruction set, which the processor must have, on about `threads` threads.
pub(crate) fn backward<E: Element>(isa: Isa, call: Backward<'_, E>, threads: usize, for_each: ForEach<'_>) {
    assert!(Isa::available().contains(&isa));
    let a = call.attention;
    let sizes = [a.batch * a.queries * a.heads, a.batch * a.keys * a.key_heads];
    assert_eq!([call.query.len(), call.query_ct.len()], [sizes[0] * a.head_size; 2]);
    assert_eq!([call.output.len(), call.output_ct.len()], [sizes[0] * a.value_size; 2]);
    assert_eq!([call.key.len(), call.key_ct.len()], [sizes[1] * a.head_size; 2]);
    assert_eq!([call.value.len(), call.value_ct.len()], [sizes[1] * a.value_size; 2]);
    assert_eq!(call.log_sum_exp.len(), sizes[0]);
    let groups = a.batch * a.key_heads;
    // Blocks of keys of one head in several tasks, where heads are too few for the threads. Each then has a gradient of
    // the queries of its own, and these are added up in order.
    let parts = if groups == 0 { 1 } else { threads.div_ceil(groups).clamp(1, a.keys.div_ceil(a.key_block())) };
    let mut partial = vec![0.0f32; if parts > 1 { parts * call.query.len() } else { 0 }];
    let row = a.head_size;
    let task = Groups {
        a,
        parts,
        query: call.query,
        key: call.key,
        value: call.value,
        lse: call.log_sum_exp,
        output: call.output,
        output_ct: call.output_ct,
        query_ct: Shared::new(call.query_ct),
        partial: Shared::new(&mut partial),
        key_ct: Shared::new(call.key_ct),
        value_ct: Shared::new(call.value_ct),
    };
    // SAFETY: the processor has the instructions; a task writes its own heads' rows, and of the gradient of keys and
    // values those of its own blocks.
    unsafe { run(isa, &task, groups * parts, for_each) };
    if parts > 1 {
        let len = call.query.len();
        let query_ct = task.query_ct;
        for_each(len / row, &|t| {
            // SAFETY: every index has its own row.
            let to = unsafe { query_ct.part(t * row, row) };
            for (i, to) in to.iter_mut().enumerate() {
                *to = E::from_f32((0..parts).map(|part| partial[part * len + t * row + i]).sum());
            }
        });
    }
}

/// A task is a sequence's query heads that share a key head, and of the blocks of keys every `parts`-th.
struct Groups<'a, 'p, E> {
    a: Attention,
    parts: usize,
    query: &'a [E],
    key: &'a [E],
    value: &'a [E],
    lse: &'a [f32],
    output: &'a [E],
    output_ct: &'a [E],
    query_ct: Shared<'a, E>,
    /// With more than one part, a gradient of the queries for each.
    partial: Shared<'p, f32>,
    key_ct: Shared<'a, E>,
    value_ct: Shared<'a, E>,
}

/// The heads of a task, packed.
struct Packed {
    /// For each head and block: the queries and the output's cotangents as left operands, then as right ones.
    queries: Vec<f32>,
    cts: Vec<f32>,
    query_columns: Vec<f32>,
    ct_columns: Vec<f32>,
    /// For each head and query: log-sum-exp, and the product of output and cotangent.
    lse: Vec<f32>,
    delta: Vec<f32>,
}

impl<E: Element> Groups<'_, '_, E> {
    #[inline(always)]
    fn pack<S: Simd, W: Pack>(&self, batch: usize, key_head: usize) -> Packed {
        let a = &self.a;
        let rows = a.query_block();
        let padded = a.queries.div_ceil(rows) * rows;
        let (h, v, group) = (a.head_size, a.value_size, a.group());
        let (words, ct_words) = (h.div_ceil(W::PER_WORD), v.div_ceil(W::PER_WORD));
        let (columns, ct_columns) = (h.next_multiple_of(LANES), v.next_multiple_of(LANES));
        let row_words = rows / W::PER_WORD;
        let mut packed = Packed {
            queries: vec![0.0; group * padded * words],
            cts: vec![0.0; group * padded * ct_words],
            query_columns: vec![0.0; group * padded / W::PER_WORD * columns],
            ct_columns: vec![0.0; group * padded / W::PER_WORD * ct_columns],
            // Rows that are not there have probability 0.
            lse: vec![-HIDDEN; group * padded],
            delta: vec![0.0; group * padded],
        };
        for g in 0..group {
            let head = key_head * group + g;
            let query = a.query_rows(self.query, batch, head, h);
            let output = a.query_rows(self.output, batch, head, v);
            let ct = a.query_rows(self.output_ct, batch, head, v);
            query.pack_left::<W>(&mut packed.queries[g * padded * words..][..padded * words], 0, words);
            ct.pack_left::<W>(&mut packed.cts[g * padded * ct_words..][..padded * ct_words], 0, ct_words);
            for first in (0..padded).step_by(rows) {
                let at = (g * padded + first) / W::PER_WORD;
                let to = &mut packed.query_columns[at * columns..][..row_words * columns];
                query.pack_right::<S, W>(to, first, columns, row_words);
                let to = &mut packed.ct_columns[at * ct_columns..][..row_words * ct_columns];
                ct.pack_right::<S, W>(to, first, ct_columns, row_words);
            }
            let at = (batch * a.heads + head) * a.queries;
            packed.lse[g * padded..][..a.queries].copy_from_slice(&self.lse[at..][..a.queries]);
            for (t, delta) in packed.delta[g * padded..][..a.queries].iter_mut().enumerate() {
                let (Some(output), Some(ct)) = (output.row(t), ct.row(t)) else { continue };
                *delta = output.iter().zip(ct).map(|(output, ct)| output.to_f32() * ct.to_f32()).sum();
            }
        }
        packed
    }
}

impl<E: Element> Task for Groups<'_, '_, E> {
    const PAIRS: bool = E::IS_BF16;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let a = &self.a;
        let (h, v, group) = (a.head_size, a.value_size, a.group());
        let (part, index) = (index % self.parts, index / self.parts);
        let (batch, key_head) = (index / a.key_heads, index % a.key_heads);
        let (rows, most_keys) = (a.query_block(), a.key_block());
        let padded = a.queries.div_ceil(rows) * rows;
        let (words, ct_words) = (h.div_ceil(W::PER_WORD), v.div_ceil(W::PER_WORD));
        let (columns, ct_columns) = (h.next_multiple_of(LANES), v.next_multiple_of(LANES));
        let row_words = rows / W::PER_WORD;
        let packed = self.pack::<S, W>(batch, key_head);
        let key = a.key_rows(self.key, batch, key_head, h);
        let value = a.key_rows(self.value, batch, key_head, v);

        let mut query_ct = vec![0.0; group * padded * columns];
        let mut keys = vec![0.0; most_keys * words];
        let mut values = vec![0.0; most_keys * ct_words];
        let mut scratch = vec![0.0; most_keys * words.max(ct_words)];
        let mut key_columns = vec![0.0; most_keys / W::PER_WORD * columns];
        let mut tile = Tile {
            scores: vec![0.0; rows * most_keys],
            slopes: vec![0.0; rows * most_keys],
            score_pairs: vec![0.0; if W::PER_WORD == 2 { row_words * most_keys } else { 0 }],
            slope_pairs: vec![0.0; if W::PER_WORD == 2 { row_words * most_keys } else { 0 }],
            slope_rows: vec![0.0; if W::PER_WORD == 2 { rows * most_keys / 2 } else { 0 }],
        };
        let mut key_ct = vec![0.0; most_keys * columns];
        let mut value_ct = vec![0.0; most_keys * ct_columns];
        for first_key in (part * most_keys..a.keys).step_by(self.parts * most_keys) {
            let num_keys = most_keys.min(a.keys - first_key);
            let n = num_keys.next_multiple_of(LANES);
            key.pack_columns::<S, W>(&mut keys, &mut scratch, first_key, n, words);
            value.pack_columns::<S, W>(&mut values, &mut scratch, first_key, n, ct_words);
            key.pack_right::<S, W>(&mut key_columns, first_key, columns, n / W::PER_WORD);
            key_ct.fill(0.0);
            value_ct.fill(0.0);
            // Queries that see one of these keys.
            let begin = if a.causal { first_key.min(a.queries) } else { 0 };
            let end = a.window.map_or(a.queries, |window| a.queries.min(first_key + num_keys - 1 + window));
            for g in 0..group {
                for first in (begin / rows * rows..end).step_by(rows) {
                    let at = g * padded + first;
                    let queries = Left { words: &packed.queries[at * words..][..rows * words], row: words, word: 1 };
                    let cts = Left { words: &packed.cts[at * ct_words..][..rows * ct_words], row: ct_words, word: 1 };
                    let statistics = (&packed.lse[at..][..rows], &packed.delta[at..][..rows]);
                    // SAFETY: the caller's.
                    unsafe {
                        product::<S, W, false>([rows, n, words], queries, &keys, &mut tile.scores, n);
                        product::<S, W, false>([rows, n, ct_words], cts, &values, &mut tile.slopes, n);
                        tile.differentiate::<S, W>(a, first, first_key, n, statistics);
                        let (scores, slopes, slope_rows) = if W::PER_WORD == 2 {
                            (&tile.score_pairs, &tile.slope_pairs, &tile.slope_rows)
                        } else {
                            (&tile.scores, &tile.slopes, &tile.slopes)
                        };
                        let across = |words| Left { words, row: 1, word: n };
                        let at_words = at / W::PER_WORD;
                        let cts = &packed.ct_columns[at_words * ct_columns..][..row_words * ct_columns];
                        product::<S, W, true>(
                            [n, ct_columns, row_words],
                            across(scores),
                            cts,
                            &mut value_ct,
                            ct_columns,
                        );
                        let queries = &packed.query_columns[at_words * columns..][..row_words * columns];
                        product::<S, W, true>([n, columns, row_words], across(slopes), queries, &mut key_ct, columns);
                        let n_words = n / W::PER_WORD;
                        let left = Left { words: slope_rows, row: n_words, word: 1 };
                        let query_ct = &mut query_ct[at * columns..][..rows * columns];
                        product::<S, W, true>([rows, columns, n_words], left, &key_columns, query_ct, columns);
                    }
                }
            }
            for s in 0..num_keys {
                let at = (batch * a.keys + first_key + s) * a.key_heads + key_head;
                // SAFETY: no other task has this block of keys; the rest is the caller's.
                unsafe {
                    write_row::<S, E>(self.key_ct.part(at * h, h), &key_ct[s * columns..][..columns], 1.0);
                    write_row::<S, E>(self.value_ct.part(at * v, v), &value_ct[s * ct_columns..][..ct_columns], 1.0);
                }
            }
        }
        for g in 0..group {
            for t in 0..a.queries {
                let at = ((batch * a.queries + t) * a.heads + key_head * group + g) * h;
                let row = &query_ct[(g * padded + t) * columns..][..columns];
                // SAFETY: no other task has these heads, or they are in another part; the rest is the caller's.
                unsafe {
                    if self.parts == 1 {
                        write_row::<S, E>(self.query_ct.part(at, h), row, 1.0);
                    } else {
                        self.partial.part(part * self.query.len() + at, h).copy_from_slice(&row[..h]);
                    }
                }
            }
        }
    }
}

/// Scores of a block of queries and keys, `dP = dO V^T` ("slopes"), and what becomes of them.
struct Tile {
    /// `Q K^T`, then the probabilities.
    scores: Vec<f32>,
    /// `dO V^T`, then the gradient of the scores.
    slopes: Vec<f32>,
    /// Where a word is a pair: probabilities and gradient in pairs of rows, and the gradient in pairs of columns.
    score_pairs: Vec<f32>,
    slope_pairs: Vec<f32>,
    slope_rows: Vec<f32>,
}

impl Tile {
    /// Makes probabilities of the scores, `P = exp(scale Q K^T - lse)`, and the gradient of the scores of the slopes,
    /// `scale P (dP - delta)`: `n` keys from `first_key` on for the queries from `first` on.
    ///
    /// # Safety
    /// That of [`Simd`].
    #[inline(always)]
    unsafe fn differentiate<S: Simd, W: Pack>(
        &mut self,
        a: &Attention,
        first: usize,
        first_key: usize,
        n: usize,
        (lse, delta): (&[f32], &[f32]),
    ) {
        for r in 0..lse.len() {
            a.hide(&mut self.scores[r * n..][..n], first + r, first_key);
        }
        // SAFETY: rows have whole vectors; the rest is the caller's.
        unsafe {
            let scale = S::splat(a.scale);
            if W::PER_WORD == 2 {
                for r in (0..lse.len()).step_by(2) {
                    for i in (0..n).step_by(LANES) {
                        let (p, slope) = self.vector::<S>(r * n + i, scale, lse[r], delta[r]);
                        let (next_p, next_slope) = self.vector::<S>((r + 1) * n + i, scale, lse[r + 1], delta[r + 1]);
                        let at = r / 2 * n + i;
                        S::store(self.score_pairs[at..][..LANES].as_mut_ptr(), S::narrow_pairs(p, next_p));
                        S::store(self.slope_pairs[at..][..LANES].as_mut_ptr(), S::narrow_pairs(slope, next_slope));
                        for (r, slope) in [(r, slope), (r + 1, next_slope)] {
                            let to = &mut self.slope_rows[(r * n + i) / 2..][..LANES / 2];
                            S::narrow(to.as_mut_ptr().cast(), slope);
                        }
                    }
                }
            } else {
                for r in 0..lse.len() {
                    for i in (0..n).step_by(LANES) {
                        let (p, slope) = self.vector::<S>(r * n + i, scale, lse[r], delta[r]);
                        S::store(self.scores[r * n + i..][..LANES].as_mut_ptr(), p);
                        S::store(self.slopes[r * n + i..][..LANES].as_mut_ptr(), slope);
                    }
                }
            }
        }
    }

    /// Probabilities and gradient of 16 scores. (A function, as a closure would be compiled without the instruction set.)
    ///
    /// # Safety
    /// That of [`Simd`].
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, at: usize, scale: S::V, lse: f32, delta: f32) -> (S::V, S::V) {
        // SAFETY: the slices have 16 elements; the rest is the caller's.
        unsafe {
            let score = S::load(self.scores[at..][..LANES].as_ptr());
            let slope = S::load(self.slopes[at..][..LANES].as_ptr());
            let p = S::exp(S::mul_add(score, scale, S::splat(-lse)));
            (p, S::mul(S::mul(p, scale), S::sub(slope, S::splat(delta))))
        }
    }
}
