//! Output and log-sum-exp of an attention.

use super::super::pack::{Element, Pack, Rows, write_row};
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::{Attention, Documents, HIDDEN, QUERY_BLOCK, Sight, words_of};

/// Operands and results, row-major.
pub(crate) struct Forward<'a, E> {
    pub(crate) attention: Attention,
    /// `B T N H`.
    pub(crate) query: &'a [E],
    /// `B S K H`.
    pub(crate) key: &'a [E],
    /// `B S K V`.
    pub(crate) value: &'a [E],
    /// Of packed rows, `B (M + 1)`.
    pub(crate) bounds: Option<&'a [i32]>,
    /// `B T N V`.
    pub(crate) output: &'a mut [E],
    /// `B N T`.
    pub(crate) log_sum_exp: &'a mut [f32],
}

/// Blocks of queries that share what is packed of the keys.
const MOST_BLOCKS: usize = 4;

/// Computes output and log-sum-exp with this instruction set, which the processor must have, on about `threads` threads.
pub(crate) fn forward<E: Element>(isa: Isa, call: Forward<'_, E>, threads: usize, for_each: ForEach<'_>) {
    assert!(Isa::available().contains(&isa));
    let Forward { attention: a, query, key, value, bounds, output, log_sum_exp } = call;
    assert_eq!(query.len(), a.batch * a.queries * a.heads * a.head_size);
    assert_eq!(output.len(), a.batch * a.queries * a.heads * a.value_size);
    assert_eq!(key.len(), a.batch * a.keys * a.key_heads * a.head_size);
    assert_eq!(value.len(), a.batch * a.keys * a.key_heads * a.value_size);
    assert_eq!(log_sum_exp.len(), a.batch * a.queries * a.heads);
    let documents = a.documents(bounds);
    let source = Whole { a, documents: documents.as_ref(), key, value };
    by_blocks(isa, a, query, &source, (output, Some(log_sum_exp)), threads, for_each);
}

/// Where keys and values come from.
pub(super) trait Source<E>: Sync {
    /// What the queries of a row of the batch see.
    fn sight(&self, batch: usize) -> Sight<'_>;

    /// Keys and values of a head, as many as [`Sight`] says.
    fn rows(&self, batch: usize, key_head: usize) -> [Rows<'_, E>; 2];
}

/// Arrays `B S K H` and `B S K V`.
struct Whole<'a, E> {
    a: Attention,
    documents: Option<&'a Documents>,
    key: &'a [E],
    value: &'a [E],
}

impl<E: Element> Source<E> for Whole<'_, E> {
    fn sight(&self, batch: usize) -> Sight<'_> {
        self.a.sight(self.documents, batch)
    }

    fn rows(&self, batch: usize, key_head: usize) -> [Rows<'_, E>; 2] {
        let Whole { a, key, value, .. } = self;
        [a.key_rows(key, batch, key_head, a.head_size), a.key_rows(value, batch, key_head, a.value_size)]
    }
}

/// Computes output and, where it is wanted, log-sum-exp, a block of queries against a block of keys at a time.
pub(super) fn by_blocks<E: Element>(
    isa: Isa,
    a: Attention,
    query: &[E],
    source: &impl Source<E>,
    (output, log_sum_exp): (&mut [E], Option<&mut [f32]>),
    threads: usize,
    for_each: ForEach<'_>,
) {
    let (blocks, groups) = (a.queries.div_ceil(QUERY_BLOCK), a.batch * a.key_heads);
    let per_task = (blocks * groups / (4 * threads)).clamp(1, MOST_BLOCKS);
    let tasks = blocks.div_ceil(per_task);
    let (output, lse) = (Shared::new(output), log_sum_exp.map(Shared::new));
    let task = Blocks { a, tasks, per_task, query, source, output, lse };
    // SAFETY: the processor has the instructions; a task writes the rows of its own block and heads.
    unsafe { run(isa, &task, groups * tasks, for_each) }
}

/// A task is some blocks of queries with all heads that share a key head.
struct Blocks<'a, 's, E, K> {
    a: Attention,
    /// Tasks of a head.
    tasks: usize,
    /// Blocks of a task.
    per_task: usize,
    query: &'a [E],
    source: &'s K,
    output: Shared<'a, E>,
    lse: Option<Shared<'a, f32>>,
}

impl<E: Element, K: Source<E>> Task for Blocks<'_, '_, E, K> {
    const PAIRS: bool = E::IS_BF16;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let a = &self.a;
        let (h, v, heads, key_heads) = (a.head_size, a.value_size, a.heads, a.key_heads);
        // The last blocks see the most keys: they begin first, so that threads end together.
        let task = self.tasks - 1 - index / (a.batch * key_heads);
        let (batch, key_head) = (index % (a.batch * key_heads) / key_heads, index % key_heads);
        let sight = self.source.sight(batch);
        let [key, value] = self.source.rows(batch, key_head);
        let (rows, most_keys) = (a.query_block::<W>(), a.key_block::<W>());
        let first = task * self.per_task * rows;
        let num_rows = (self.per_task * rows).min(a.queries - first);
        let (words, columns) = (words_of::<W>(h), v.next_multiple_of(W::COLUMNS));
        let group = a.group();
        // Rows of a head in this task.
        let span = num_rows.next_multiple_of(rows);
        let mut queries = Buffer::zeros(group * span * words);
        for (g, queries) in queries.chunks_exact_mut(span * words).enumerate() {
            let head = key_head * group + g;
            a.query_rows(self.query, batch, head, h).pack_left::<W>(queries, first, words);
        }
        let mut keys = Buffer::zeros(most_keys * words);
        let mut scratch = Buffer::zeros(most_keys * words);
        let mut values = Buffer::zeros(most_keys / W::PER_WORD * columns);
        let mut scores = Buffer::zeros(rows * most_keys);
        let mut pairs = Buffer::zeros(if W::PER_WORD == 2 { rows * most_keys / 2 } else { 0 });
        let mut outputs = Buffer::zeros(group * span * columns);
        let mut state = vec![(HIDDEN, 0.0f32); group * span];

        let seen = sight.visible_to(first..first + num_rows);
        for first_key in (seen.start / most_keys * most_keys..seen.end).step_by(most_keys) {
            let num_keys = most_keys.min(sight.keys - first_key).next_multiple_of(W::COLUMNS);
            // SAFETY: the caller's.
            unsafe { key.pack_columns::<S, W>(&mut keys, &mut scratch, first_key, num_keys, words) };
            value.pack_right::<S, W>(&mut values, first_key, columns, num_keys / W::PER_WORD);
            let blocks = (0..group).flat_map(|g| (0..span).step_by(rows).map(move |row| (g * span + row, first + row)));
            for (at, first) in blocks {
                let num_rows = rows.min(a.queries - first);
                let seen = sight.visible_to(first..first + num_rows);
                if first_key >= seen.end || first_key + num_keys <= seen.start {
                    continue;
                }
                let queries = &queries[at * words..][..rows * words];
                let outputs = &mut outputs[at * columns..][..rows * columns];
                let state = &mut state[at..][..rows];
                // SAFETY: the caller's.
                unsafe {
                    W::product::<S, false>([rows, num_keys, words], queries, &keys, &mut scores, num_keys);
                    for r in 0..num_rows {
                        let scores = &mut scores[r * num_keys..][..num_keys];
                        let pairs =
                            if W::PER_WORD == 2 { &mut pairs[r * num_keys / 2..][..num_keys / 2] } else { &mut [] };
                        if !sight.hide(scores, first + r, first_key) {
                            // Nothing of this block is the query's: its largest score and its sum stay as they are.
                            scores.fill(0.0);
                            pairs.fill(0.0);
                            continue;
                        }
                        let factor = softmax_row::<S, W>(scores, pairs, a.scale, &mut state[r]);
                        if factor != 1.0 {
                            for x in &mut outputs[r * columns..][..columns] {
                                *x *= factor;
                            }
                        }
                    }
                    let probabilities = if W::PER_WORD == 2 { &pairs } else { &scores };
                    let words = num_keys / W::PER_WORD;
                    W::product::<S, true>([rows, columns, words], probabilities, &values, outputs, columns);
                }
            }
        }
        for g in 0..group {
            let head = key_head * group + g;
            // SAFETY: no other task has this block of this head; the rest is the caller's.
            unsafe {
                let lse = self.lse.as_ref().map(|lse| lse.part((batch * heads + head) * a.queries + first, num_rows));
                let mut lse = lse.into_iter().flatten();
                for r in 0..num_rows {
                    let (maximum, sum) = state[g * span + r];
                    // A query that sees no key has the output 0, and a log-sum-exp that means nothing.
                    let (factor, log) = match sight.visible(first + r).is_empty() {
                        true => (0.0, 0.0),
                        false => (1.0 / sum, maximum + sum.ln()),
                    };
                    if let Some(lse) = lse.next() {
                        *lse = log;
                    }
                    let at = ((batch * a.queries + first + r) * heads + head) * v;
                    let output = &outputs[(g * span + r) * columns..][..columns];
                    write_row::<S, E>(self.output.part(at, v), output, factor);
                }
            }
        }
    }
}

/// Turns scaled scores into their exponentials above the largest score of the row so far, in place or, where a word is a
/// pair, in `pairs`. Brings the row's maximum and sum up to date, and returns what sums before are multiplied with.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(super) unsafe fn softmax_row<S: Simd, W: Pack>(
    scores: &mut [f32],
    pairs: &mut [f32],
    scale: f32,
    (maximum, sum): &mut (f32, f32),
) -> f32 {
    // SAFETY: rows have whole vectors, and pairs half as many words; the rest is the caller's.
    unsafe {
        let mut largest = S::splat(HIDDEN);
        for scores in scores.as_chunks::<LANES>().0 {
            largest = S::max(largest, S::load(scores.as_ptr()));
        }
        let new = maximum.max(S::maximum(largest) * scale);
        let (scale, offset) = (S::splat(scale), S::splat(-new));
        let mut total = S::splat(0.0);
        for (i, scores) in scores.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let p = S::exp(S::mul_add(S::load(scores.as_ptr()), scale, offset));
            total = S::add(total, p);
            if W::PER_WORD == 2 {
                S::narrow(pairs[i * LANES / 2..][..LANES / 2].as_mut_ptr().cast(), p);
            } else {
                S::store(scores.as_mut_ptr(), p);
            }
        }
        let factor = (*maximum - new).exp();
        *sum = *sum * factor + S::sum(total);
        *maximum = new;
        factor
    }
}
