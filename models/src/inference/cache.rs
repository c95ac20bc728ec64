//! The cache of keys and values.

use std::cell::RefCell;

use lmc_graph::{DType, TensorType, Value};

use crate::architectures::sequence::Sequence;
use crate::layers::{Attention, Keys, causal_attention, masked_attention};
use crate::scope::Scope;

/// Slots up to which a program writes to each by ops of its own; more are written to in a loop, which compiles sooner.
const MOST_UNROLLED: usize = 8;

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
        let cached = self.layers.borrow()[layer];
        let cached = scope.sub("cache", |_| {
            let new = [key, value];
            std::array::from_fn(|i| self.tokens.written(cached[i], new[i]))
        });
        self.layers.borrow_mut()[layer] = cached;
        if let Tokens::Chunk { start: None, .. } = self.tokens {
            // Padding stands behind the tokens, where they do not look.
            return causal_attention(query, key, value, attention);
        }
        let [_, _, rows, _] = cached[0].dims();
        let visible_rows = if attention.sliding_window.is_some() { rows } else { self.visible.min(rows) };
        let keys = cached.map(|cached| self.tokens.rows_of(cached, visible_rows));
        let visible = self.tokens.visible(rows, visible_rows, attention.sliding_window);
        masked_attention(query, Keys::by_head(keys[0], keys[1]), visible, attention, |weights| weights)
    }
}

impl<'g> Tokens<'g> {
    /// The cache `S K R H` with `new`, `B T K H`, in it.
    #[track_caller]
    fn written(self, cache: Value<'g>, new: Value<'g>) -> Value<'g> {
        let ([_, k, rows, h], [_, t, _, _]) = (cache.dims(), new.dims());
        let new = new.convert(cache.dtype());
        match self {
            Tokens::Chunk { slot, start, count, .. } => {
                let b = cache.builder();
                let zero = b.scalar(DType::I32, 0.0);
                let row = start.map_or(zero, |start| start.remainder(start.full_like(rows as f64)));
                let place = [slot, zero, row, zero];
                // Padding would overwrite positions that are still looked at, one turn of the ring before.
                let shape = [1, k, t, h];
                let is_token = b.iota(&TensorType::new(DType::I32, shape), 2).less(count.broadcast_in_dim(&shape, &[]));
                let old = cache.dynamic_slice(&place, &shape);
                let new = is_token.select(new.transpose(&[0, 2, 1, 3]), old);
                cache.dynamic_update_slice(new, &place)
            }
            Tokens::Each { positions } => {
                let [slots] = positions.dims();
                let b = cache.builder();
                let zero = b.scalar(DType::I32, 0.0);
                // Slot by slot, and without a choice of what is written: for a scatter or a select of bf16, XLA's CPU
                // backend makes a copy of all of the cache in f32. What a slot without a text, at a position below 0,
                // has in row 0 is nothing that anyone looks at before the next text writes there.
                let written = |cache: Value<'g>, slot: Value<'g>, position: Value<'g>, new: Value<'g>| {
                    let row = position.remainder(position.full_like(rows as f64));
                    cache.dynamic_update_slice(new.reshape(&[1, k, 1, h]), &[slot, zero, row, zero])
                };
                if slots <= MOST_UNROLLED {
                    return (0..slots).fold(cache, |cache, slot| {
                        let position = positions.slice_dim(0, slot..slot + 1).reshape(&[]);
                        let new = new.slice_dim(0, slot..slot + 1);
                        written(cache, b.scalar(DType::I32, slot as f64), position, new)
                    });
                }
                let all = b.iota(&TensorType::new(DType::I32, [slots]), 0);
                let scanned = b.scan(&[cache], &[all, positions, new], slots, |cache, row| {
                    (vec![written(cache[0], row[0], row[1], row[2])], Vec::new())
                });
                scanned.carries[0]
            }
        }
    }

    /// The first rows of these tokens' slots: `B K R' H`.
    #[track_caller]
    fn rows_of(self, cache: Value<'g>, visible_rows: usize) -> Value<'g> {
        let [_, k, _, h] = cache.dims();
        match self {
            Tokens::Chunk { slot, .. } => {
                let zero = slot.full_like(0.0);
                cache.dynamic_slice(&[slot, zero, zero, zero], &[1, k, visible_rows, h])
            }
            Tokens::Each { .. } => cache.slice_dim(2, 0..visible_rows),
        }
    }

    /// Which of the first `visible_rows` of `rows` rows each token sees, `i1 B T R'`. With `l` the last position that was
    /// written, row `r` holds the latest position up to `l` that is `r` modulo `rows`.
    #[track_caller]
    fn visible(self, rows: usize, visible_rows: usize, sliding_window: Option<usize>) -> Value<'g> {
        let (query, last) = match self {
            Tokens::Chunk { start, count, positions, .. } => {
                let end = start.map_or(count, |start| start + count);
                (positions, (end - 1.0).reshape(&[1]))
            }
            Tokens::Each { positions } => {
                let [slots] = positions.dims();
                (positions.reshape(&[slots, 1]), positions)
            }
        };
        let [b, t] = query.dims();
        let shape = [b, t, visible_rows];
        let row = query.builder().iota(&TensorType::new(DType::I32, shape), 2);
        let (query, last) = (query.broadcast_in_dim(&shape, &[0, 1]), last.broadcast_in_dim(&shape, &[0]));
        // `last` is at least -1, so that the dividend is not below 0.
        let back = (last - row + rows as f64).remainder(row.full_like(rows as f64));
        let position = last - back;
        let visible = position.greater_equal(row.full_like(0.0)).and(position.less_equal(query));
        match sliding_window {
            None => visible,
            Some(window) => visible.and(position.greater(query - window as f64)),
        }
    }
}
