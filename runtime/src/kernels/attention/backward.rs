//! The derivative of an attention.

use super::super::pack::{Element, Pack, transpose, write_row};
use super::super::product::panel;
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::{Attention, Documents, HIDDEN, KEY_BLOCK, Sight, words_of};

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
    /// Of packed rows, `B (M + 1)`.
    pub(crate) bounds: Option<&'a [i32]>,
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
    let parts = if groups == 0 { 1 } else { threads.div_ceil(groups).clamp(1, a.keys.div_ceil(KEY_BLOCK)) };
    let mut partial = vec![0.0f32; if parts > 1 { parts * call.query.len() } else { 0 }];
    let row = a.head_size;
    let documents = a.documents(call.bounds);
    let task = Groups {
        a,
        documents: documents.as_ref(),
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
    documents: Option<&'p Documents>,
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
    /// For each head and block: the queries and the output's cotangents as left operands summed over their width, then over
    /// the queries.
    queries: Buffer,
    cts: Buffer,
    queries_across: Buffer,
    cts_across: Buffer,
    /// For each head and query: log-sum-exp, and the product of output and cotangent.
    lse: Buffer,
    delta: Buffer,
}

impl<E: Element> Groups<'_, '_, E> {
    /// # Safety
    /// That of [`Simd`].
    #[inline(always)]
    unsafe fn pack<S: Simd, W: Pack>(&self, batch: usize, key_head: usize) -> Packed {
        let a = &self.a;
        let sight = a.sight(self.documents, batch);
        let rows = a.query_block::<W>();
        let padded = a.queries.div_ceil(rows) * rows;
        let (h, v, group) = (a.head_size, a.value_size, a.group());
        let (words, ct_words) = (words_of::<W>(h), words_of::<W>(v));
        let (h_rows, v_rows) = (h.next_multiple_of(W::ROWS), v.next_multiple_of(W::ROWS));
        let row_words = rows / W::PER_WORD;
        let mut scratch = Buffer::zeros(row_words * h_rows.max(v_rows));
        let mut packed = Packed {
            queries: Buffer::zeros(group * padded * words),
            cts: Buffer::zeros(group * padded * ct_words),
            queries_across: Buffer::zeros(group * padded / W::PER_WORD * h_rows),
            cts_across: Buffer::zeros(group * padded / W::PER_WORD * v_rows),
            lse: Buffer::zeros(group * padded),
            delta: Buffer::zeros(group * padded),
        };
        // Rows that are not there have probability 0.
        packed.lse.fill(-HIDDEN);
        for g in 0..group {
            let head = key_head * group + g;
            let query = a.query_rows(self.query, batch, head, h);
            let output = a.query_rows(self.output, batch, head, v);
            let ct = a.query_rows(self.output_ct, batch, head, v);
            query.pack_left::<W>(&mut packed.queries[g * padded * words..][..padded * words], 0, words);
            ct.pack_left::<W>(&mut packed.cts[g * padded * ct_words..][..padded * ct_words], 0, ct_words);
            for first in (0..padded).step_by(rows) {
                let at = (g * padded + first) / W::PER_WORD;
                // SAFETY: the caller's.
                unsafe {
                    let to = &mut packed.queries_across[at * h_rows..][..row_words * h_rows];
                    query.pack_left_across::<S, W>(to, &mut scratch, first, h_rows, row_words);
                    let to = &mut packed.cts_across[at * v_rows..][..row_words * v_rows];
                    ct.pack_left_across::<S, W>(to, &mut scratch, first, v_rows, row_words);
                }
            }
            let at = (batch * a.heads + head) * a.queries;
            let lse = &mut packed.lse[g * padded..][..a.queries];
            lse.copy_from_slice(&self.lse[at..][..a.queries]);
            // Of rows that see nothing it has no meaning: their probabilities are 0 too.
            let is_blind = |t: usize| sight.visible(t).is_empty();
            lse.iter_mut().enumerate().filter(|&(t, _)| is_blind(t)).for_each(|(_, lse)| *lse = -HIDDEN);
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
        let (rows, most_keys) = (a.query_block::<W>(), a.key_block::<W>());
        let padded = a.queries.div_ceil(rows) * rows;
        let (words, ct_words) = (words_of::<W>(h), words_of::<W>(v));
        let (columns, row_words) = (h.next_multiple_of(W::COLUMNS), rows / W::PER_WORD);
        let (h_rows, v_rows) = (h.next_multiple_of(W::ROWS), v.next_multiple_of(W::ROWS));
        // SAFETY: the caller's.
        let packed = unsafe { self.pack::<S, W>(batch, key_head) };
        let sight = a.sight(self.documents, batch);
        let key = a.key_rows(self.key, batch, key_head, h);
        let value = a.key_rows(self.value, batch, key_head, v);

        let mut query_ct = Buffer::zeros(group * padded * columns);
        let mut keys = Buffer::zeros(most_keys * words);
        let mut values = Buffer::zeros(most_keys * ct_words);
        let mut scratch = Buffer::zeros(most_keys * words.max(ct_words).max(h_rows).max(v_rows));
        let mut key_columns = Buffer::zeros(most_keys / W::PER_WORD * columns);
        let mut tile = Tile {
            scores: Buffer::zeros(rows * most_keys),
            slopes: Buffer::zeros(rows * most_keys),
            score_panels: Buffer::zeros(row_words * most_keys),
            slope_panels: Buffer::zeros(row_words * most_keys),
            slope_pairs: Buffer::zeros(if W::PER_WORD == 2 { rows * most_keys / 2 } else { 0 }),
        };
        // The gradients of a block of keys and values, transposed.
        let mut key_ct = Buffer::zeros(h_rows * most_keys);
        let mut value_ct = Buffer::zeros(v_rows * most_keys);
        for first_key in (part * most_keys..a.keys).step_by(self.parts * most_keys) {
            let num_keys = most_keys.min(a.keys - first_key);
            let n = num_keys.next_multiple_of(W::COLUMNS);
            // SAFETY: the caller's.
            unsafe {
                key.pack_columns::<S, W>(&mut keys, &mut scratch, first_key, n, words);
                value.pack_columns::<S, W>(&mut values, &mut scratch, first_key, n, ct_words);
            }
            key.pack_right::<S, W>(&mut key_columns, first_key, columns, n / W::PER_WORD);
            key_ct.fill(0.0);
            value_ct.fill(0.0);
            let seeing = sight.seeing(first_key..first_key + num_keys);
            for g in 0..group {
                for first in (seeing.start / rows * rows..seeing.end).step_by(rows) {
                    let at = g * padded + first;
                    let queries = &packed.queries[at * words..][..rows * words];
                    let cts = &packed.cts[at * ct_words..][..rows * ct_words];
                    let statistics = (&packed.lse[at..][..rows], &packed.delta[at..][..rows]);
                    let across = at / W::PER_WORD;
                    let queries_across = &packed.queries_across[across * h_rows..][..row_words * h_rows];
                    let cts_across = &packed.cts_across[across * v_rows..][..row_words * v_rows];
                    let query_ct = &mut query_ct[at * columns..][..rows * columns];
                    // SAFETY: the caller's.
                    unsafe {
                        W::product::<S, false>([rows, n, words], queries, &keys, &mut tile.scores, n);
                        W::product::<S, false>([rows, n, ct_words], cts, &values, &mut tile.slopes, n);
                        tile.differentiate::<S, W>(sight, first, first_key, n, statistics);
                        W::product::<S, true>([v_rows, n, row_words], cts_across, &tile.score_panels, &mut value_ct, n);
                        W::product::<S, true>(
                            [h_rows, n, row_words],
                            queries_across,
                            &tile.slope_panels,
                            &mut key_ct,
                            n,
                        );
                        let slopes = if W::PER_WORD == 2 { &tile.slope_pairs } else { &tile.slopes };
                        let words = n / W::PER_WORD;
                        W::product::<S, true>([rows, columns, words], slopes, &key_columns, query_ct, columns);
                    }
                }
            }
            for (gradient, [size, size_rows], to) in
                [(&key_ct, [h, h_rows], &self.key_ct), (&value_ct, [v, v_rows], &self.value_ct)]
            {
                // SAFETY: no other task has this block of keys; the rest is the caller's.
                unsafe {
                    transpose::<S>(gradient, [size_rows, n], &mut scratch);
                    for s in 0..num_keys {
                        let at = (batch * a.keys + first_key + s) * a.key_heads + key_head;
                        write_row::<S, E>(to.part(at * size, size), &scratch[s * size_rows..][..size], 1.0);
                    }
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
    /// `Q K^T`.
    scores: Buffer,
    /// `dO V^T`; then, where a word is one element, the gradient of the scores.
    slopes: Buffer,
    /// Probabilities, and the gradient of the scores, as right operands that are summed over the queries.
    score_panels: Buffer,
    slope_panels: Buffer,
    /// Where a word is a pair, the gradient as a left operand that is summed over the keys.
    slope_pairs: Buffer,
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
        sight: Sight<'_>,
        first: usize,
        first_key: usize,
        n: usize,
        (lse, delta): (&[f32], &[f32]),
    ) {
        for r in 0..lse.len() {
            sight.hide(&mut self.scores[r * n..][..n], first + r, first_key);
        }
        let words = lse.len() / W::PER_WORD;
        // Where 16 columns of a word lie in the panels.
        let width = panel::<S>();
        let place = |word: usize, column: usize| {
            let panel = column / width * width;
            panel * words + word * width.min(n - panel) + column - panel
        };
        // SAFETY: rows have whole vectors; the rest is the caller's.
        unsafe {
            let scale = S::splat(sight.a.scale);
            for word in 0..words {
                let r = word * W::PER_WORD;
                for i in (0..n).step_by(LANES) {
                    let at = place(word, i);
                    let (p, slope) = self.vector::<S>(r * n + i, scale, lse[r], delta[r]);
                    let (p, across) = if W::PER_WORD == 2 {
                        let (next_p, next) = self.vector::<S>((r + 1) * n + i, scale, lse[r + 1], delta[r + 1]);
                        for (r, slope) in [(r, slope), (r + 1, next)] {
                            let to = &mut self.slope_pairs[(r * n + i) / 2..][..LANES / 2];
                            S::narrow(to.as_mut_ptr().cast(), slope);
                        }
                        (S::narrow_pairs(p, next_p), S::narrow_pairs(slope, next))
                    } else {
                        S::store(self.slopes[r * n + i..][..LANES].as_mut_ptr(), slope);
                        (p, slope)
                    };
                    S::store(self.score_panels[at..][..LANES].as_mut_ptr(), p);
                    S::store(self.slope_panels[at..][..LANES].as_mut_ptr(), across);
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
