//! Attention and its derivative, a block of queries against a block of keys at a time, so that the scores never leave
//! the cache (Dao et al. 2022, algorithms 1 and 4; Dao 2023, section 3.1).

mod backward;
mod cached;
mod forward;
#[cfg(test)]
mod tests;

use super::pack::{Element, Rows};
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

impl Attention {
    /// The keys that query `t` sees.
    #[inline(always)]
    fn visible(&self, t: usize) -> std::ops::Range<usize> {
        let end = if self.causal { self.keys.min(t + 1) } else { self.keys };
        let start = self.window.map_or(0, |window| (t + 1).saturating_sub(window));
        start.min(end)..end
    }

    /// Makes the scores of a query's hidden keys so small that their probability is 0; `scores` are of the keys from
    /// `first_key` on.
    #[inline(always)]
    fn hide(&self, scores: &mut [f32], t: usize, first_key: usize) {
        let visible = self.visible(t);
        let start = visible.start.saturating_sub(first_key).min(scores.len());
        let end = visible.end.saturating_sub(first_key).clamp(start, scores.len());
        scores[..start].fill(HIDDEN);
        scores[end..].fill(HIDDEN);
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

/// Words of rows of so many elements.
fn words_of<W: Words>(elements: usize) -> usize {
    elements.div_ceil(W::PER_WORD).next_multiple_of(W::WORDS)
}

/// Writes a row of f32 as elements, each multiplied by `factor`.
///
/// # Safety
/// That of [`super::simd::Simd`].
#[inline(always)]
unsafe fn write_row<S: super::simd::Simd, E: Element>(to: &mut [E], from: &[f32], factor: f32) {
    let vectors = to.len() / super::simd::LANES;
    for v in 0..vectors {
        let at = v * super::simd::LANES;
        let from = &from[at..][..super::simd::LANES];
        let to = &mut to[at..][..super::simd::LANES];
        // SAFETY: the slices have 16 elements.
        unsafe { E::store::<S>(to.as_mut_ptr(), S::mul(S::load(from.as_ptr()), S::splat(factor))) };
    }
    for (to, from) in to.iter_mut().zip(from).skip(vectors * super::simd::LANES) {
        *to = E::from_f32(from * factor);
    }
}
