//! The cache of keys and values.

use std::cell::RefCell;

use lmc_graph::ops::CachedAttention;
use lmc_graph::{DType, TensorType, Value};

use crate::architectures::sequence::Sequence;
use crate::layers::{Attention, causal_attention};
use crate::scope::Scope;

/// What a block keeps of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCache {
    /// Key and value heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The positions that a query sees, if not all.
    pub sliding_window: Option<usize>,
}

/// The sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    /// Texts side by side.
    pub slots: usize,
    /// The longest text.
    pub context: usize,
    /// The most tokens of a prompt that are taken at a time. Chunks start at multiples of it.
    pub chunk: usize,
    /// The element type of keys and values.
    pub dtype: DType,
}

impl CacheShape {
    /// The positions that a layer keeps: position `p` lies in row `p` modulo this. A multiple of `chunk`, so that no chunk
    /// runs over the end. With a sliding window of `w` it is at least `w - 1 + chunk`: a chunk is written before its first
    /// query looks `w - 1` positions back.
    pub fn rows(&self, sliding_window: Option<usize>) -> usize {
        let whole = self.context.next_multiple_of(self.chunk);
        sliding_window.map_or(whole, |window| (window - 1 + self.chunk).next_multiple_of(self.chunk).min(whole))
    }

    /// The type of a layer's keys, and of its values: slots, heads, rows, elements of a head.
    pub fn ty(&self, layer: &LayerCache) -> TensorType {
        let rows = self.rows(layer.sliding_window);
        TensorType::new(self.dtype, [self.slots, layer.heads, rows, layer.head_dim])
    }

    /// Bytes of the keys and values of these layers.
    pub fn num_bytes(&self, layers: &[LayerCache]) -> usize {
        layers.iter().fold(0, |sum, layer| usize::saturating_add(sum, self.ty(layer).num_bytes().saturating_mul(2)))
    }
}

/// Tokens whose keys and values go into a cache, and whose queries see what is in it.
pub(super) struct Cached<'g> {
    pub(super) tokens: Tokens<'g>,
    /// How many rows of a layer that keeps the whole context are looked at: all positions so far are below.
    pub(super) visible: usize,
    /// Keys and values of each layer, as they are now.
    pub(super) layers: RefCell<Vec<[Value<'g>; 2]>>,
}

/// Which tokens they are.
#[derive(Clone, Copy)]
pub(super) enum Tokens<'g> {
    /// A part of one text, `i32 1 T`.
    Chunk {
        /// The slot, `i32`.
        slot: Value<'g>,
        /// The position of the first token, `i32`; `None` if it is 0.
        start: Option<Value<'g>>,
        /// The number of tokens, `i32`; what comes behind them is padding.
        count: Value<'g>,
        /// Positions, `i32 1 T`.
        positions: Value<'g>,
    },
    /// One token of every slot, `i32 S 1`, at positions `i32 S`; below 0 for a slot that has none.
    Each {
        /// The positions.
        positions: Value<'g>,
    },
}

impl<'g> Sequence<'g> for Cached<'g> {
    fn positions(&self) -> Option<Value<'g>> {
        match self.tokens {
            Tokens::Chunk { start: None, .. } => None,
            Tokens::Chunk { positions, .. } => Some(positions),
            Tokens::Each { positions } => {
                let [slots] = positions.dims();
                Some(positions.reshape(&[slots, 1]))
            }
        }
    }

    #[track_caller]
    fn attend(
        &self,
        scope: &Scope<'g>,
        layer: usize,
        [query, key, value]: [Value<'g>; 3],
        attention: &Attention,
    ) -> Value<'g> {
        let (cached, places) = (self.layers.borrow()[layer], self.tokens.places());
        let cached = scope.sub("cache", |_| {
            let new = [key, value];
            std::array::from_fn(|i| self.tokens.written(cached[i], new[i], places))
        });
        self.layers.borrow_mut()[layer] = cached;
        if let Tokens::Chunk { start: None, .. } = self.tokens {
            // Padding stands behind the tokens, where they do not look.
            return causal_attention(query, key, value, attention);
        }
        let [_, _, rows, _] = cached[0].dims();
        let visible_rows = if attention.sliding_window.is_some() { rows } else { self.visible.min(rows) };
        let attributes = CachedAttention {
            scale: attention.scale,
            sliding_window: attention.sliding_window,
            soft_cap: attention.soft_cap,
            visible_rows,
        };
        let cached = cached.map(|cached| self.tokens.slots_of(cached, visible_rows));
        query.cached_attention(cached, places, attributes)
    }
}

impl<'g> Tokens<'g> {
    /// The cache `S K R H` with `new`, `B T K H`, in it.
    #[track_caller]
    fn written(self, cache: Value<'g>, new: Value<'g>, places: [Value<'g>; 2]) -> Value<'g> {
        let slot = match self {
            Tokens::Chunk { slot, .. } => slot,
            Tokens::Each { .. } => cache.builder().scalar(DType::I32, 0.0),
        };
        cache.cache_update(new.convert(cache.dtype()), slot, places)
    }

    /// Rows of these tokens' slots, at least the first `visible_rows`, which are all or hold all positions: `B K R' H`.
    #[track_caller]
    fn slots_of(self, cache: Value<'g>, visible_rows: usize) -> Value<'g> {
        let [slots, k, _, h] = cache.dims();
        match self {
            Tokens::Chunk { slot, .. } if slots > 1 => {
                let zero = slot.full_like(0.0);
                cache.dynamic_slice(&[slot, zero, zero, zero], &[1, k, visible_rows, h])
            }
            Tokens::Chunk { .. } | Tokens::Each { .. } => cache,
        }
    }

    /// The position of each slot's first token, and how many there are: `i32 B` each.
    #[track_caller]
    fn places(self) -> [Value<'g>; 2] {
        match self {
            Tokens::Chunk { start, count, .. } => {
                [start.unwrap_or_else(|| count.full_like(0.0)), count].map(|x| x.reshape(&[1]))
            }
            Tokens::Each { positions } => [positions, positions.full_like(1.0)],
        }
    }
}
