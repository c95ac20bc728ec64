//! Attention and its derivative, a block of queries against a block of keys at a time, so that the scores never leave
//! the cache (Dao et al. 2022, algorithms 1 and 4; Dao 2023, section 3.1).

mod backward;
mod cached;
mod forward;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::pack::Rows;
use super::product::Words;

pub(crate) use backward::{Backward, backward};
pub(crate) use cached::{CacheSizes, Cached, cached};
pub(crate) use forward::{Forward, forward};

/// Queries in a block: four panels of rows.
const QUERY_BLOCK: usize = 64;

/// Keys in a block. Scores and their gradient, 32 KiB each, lie in the second-level cache with all that a block needs.
const KEY_BLOCK: usize = 128;

/// The score of a hidden key, before scaling: finite, so that a block of hidden keys has a maximum.
const HIDDEN: f32 = -1e30;

/// Sizes and attributes of an attention: query `B T N H`, key `B S K H`, value `B S K V`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) head_size: usize,
    pub(crate) value_size: usize,
    /// What scores are multiplied with; above 0.
    pub(crate) scale: f32,
    /// Whether query `t` sees only keys up to `t`.
    pub(crate) causal: bool,
    /// Whether it sees, of these, only keys above `t - window`. A window needs as many keys as queries: every query
    /// sees one.
    pub(crate) window: Option<usize>,
}

/// Where the document of each position begins and ends; `0..0` for a position that is in none.
type Documents = Vec<Range<usize>>;

impl Attention {
    /// The documents of all rows, from `bounds`, `B (M + 1)`, of packed rows; `None` for rows that are sequences. Numbers
    /// below 0 mean 0, those beyond the row its end.
    ///
    /// # Panics
    /// If the bounds are not as many for each row, or packed rows have not as many queries as keys.
    fn documents(&self, bounds: Option<&[i32]>) -> Option<Documents> {
        let bounds = bounds?;
        assert!(self.queries == self.keys && bounds.len().is_multiple_of(self.batch));
        let mut documents = vec![0..0; self.batch * self.keys];
        let position = |bound: i32| usize::try_from(bound).unwrap_or(0).min(self.keys);
        for (row, documents) in documents.chunks_exact_mut(self.keys).enumerate() {
            let each = bounds.len() / self.batch;
            for bounds in bounds[row * each..][..each].windows(2) {
                let document = position(bounds[0])..position(bounds[1]);
                if let Some(documents) = documents.get_mut(document.clone()) {
                    documents.fill(document);
                }
            }
        }
        Some(documents)
    }

    /// What the queries of a row of the batch see, with the documents of all rows.
    fn sight<'a>(&self, documents: Option<&'a Documents>, batch: usize) -> Sight<'a> {
        let documents = documents.map(|documents| &documents[batch * self.keys..][..self.keys]);
        Sight { a: *self, keys: self.keys, before: 0, documents }
    }

    /// A head's rows of an array `B T N width`.
    fn query_rows<'a, E>(&self, elements: &'a [E], batch: usize, head: usize, width: usize) -> Rows<'a, E> {
        let (len, heads) = (self.queries, self.heads);
        Rows { elements, start: (batch * len * heads + head) * width, stride: heads * width, len, width }
    }

    /// A head's rows of an array `B S K width`.
    fn key_rows<'a, E>(&self, elements: &'a [E], batch: usize, head: usize, width: usize) -> Rows<'a, E> {
        let (len, heads) = (self.keys, self.key_heads);
        Rows { elements, start: (batch * len * heads + head) * width, stride: heads * width, len, width }
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.key_heads
    }

    /// Queries in a block.
    fn query_block<W: Words>(&self) -> usize {
        QUERY_BLOCK.min(self.queries.next_multiple_of(W::ROWS))
    }

    /// Keys in a block.
    fn key_block<W: Words>(&self) -> usize {
        KEY_BLOCK.min(self.keys.next_multiple_of(W::COLUMNS))
    }
}

/// What the queries of a row see.
#[derive(Clone, Copy)]
struct Sight<'a> {
    a: Attention,
    /// The keys that there are.
    keys: usize,
    /// Those before the first query's own.
    before: usize,
    /// The document of each position, if there are several in a row.
    documents: Option<&'a [Range<usize>]>,
}

impl Sight<'_> {
    /// The keys that query `t` sees; none for a query that is not there.
    #[inline(always)]
    fn visible(&self, t: usize) -> Range<usize> {
        let a = &self.a;
        let document = match self.documents {
            None => 0..self.keys,
            Some(documents) => documents.get(t).cloned().unwrap_or(0..0),
        };
        let own = self.before + t;
        let end = if a.causal { document.end.min(own + 1) } else { document.end };
        let start = a.window.map_or(0, |window| (own + 1).saturating_sub(window)).max(document.start);
        start.min(end)..end
    }

    /// From the first key to the last that one of these queries sees.
    #[inline(always)]
    fn visible_to(&self, queries: Range<usize>) -> Range<usize> {
        if self.documents.is_none() {
            return self.visible(queries.start).start..self.visible(queries.end - 1).end;
        }
        hull(queries.map(|t| self.visible(t)))
    }

    /// From the first query to the last that sees one of these keys, of which none are before the queries.
    #[inline(always)]
    fn seeing(&self, keys: Range<usize>) -> Range<usize> {
        let a = &self.a;
        let (first, last) = (keys.start, keys.end - 1);
        let documents = self.documents.map_or(0..a.queries, |documents| hull(documents[keys].iter().cloned()));
        let start = if a.causal { documents.start.max(first) } else { documents.start };
        let end = a.window.map_or(documents.end, |window| documents.end.min(last + window));
        start.min(end)..end
    }

    /// Makes the scores of a query's hidden keys so small that their probability is 0; `scores` are of the keys from
    /// `first_key` on. Returns whether the query sees one of them.
    #[inline(always)]
    fn hide(&self, scores: &mut [f32], t: usize, first_key: usize) -> bool {
        let visible = self.visible(t);
        let start = visible.start.saturating_sub(first_key).min(scores.len());
        let end = visible.end.saturating_sub(first_key).clamp(start, scores.len());
        scores[..start].fill(HIDDEN);
        scores[end..].fill(HIDDEN);
        start < end
    }
}

/// From the beginning of the first of these that is not empty to the end of the last; `0..0` if all are empty.
#[inline(always)]
fn hull(ranges: impl Iterator<Item = Range<usize>>) -> Range<usize> {
    let both = |all: Range<usize>, x: Range<usize>| match (all.is_empty(), x.is_empty()) {
        (_, true) => all,
        (true, false) => x,
        (false, false) => all.start.min(x.start)..all.end.max(x.end),
    };
    ranges.fold(0..0, both)
}

/// Words of rows of so many elements.
fn words_of<W: Words>(elements: usize) -> usize {
    elements.div_ceil(W::PER_WORD).next_multiple_of(W::WORDS)
}
