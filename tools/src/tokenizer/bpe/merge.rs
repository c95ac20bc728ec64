//! Merging a word's bytes into tokens: of all pairs of neighbours the one of lowest rank first, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::hash::BuildFold;

/// What a pair of neighbours becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower ranks merge earlier.
    pub(super) rank: u32,
    /// The token of both.
    pub(super) id: u32,
}

/// All merges, by the pair of ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Merges {
    pairs: HashMap<u64, Merge, BuildFold>,
}

/// No merge: a rank that none has, for there are fewer merges than ids.
const NONE: Merge = Merge { rank: u32::MAX, id: u32::MAX };

/// The longest word, in bytes, for which looking at all pairs for every merge is faster than to keep them in a heap.
const SHORT: usize = 64;

/// Room for a word being merged, kept between words.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Ids, with the merge of each and the next.
    symbols: Vec<(u32, Merge)>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, usize, u32)>>,
}

/// A symbol of a long word.
#[derive(Clone, Copy, Debug)]
struct Link {
    id: u32,
    previous: usize,
    next: usize,
    /// Whether it was merged into the one before.
    gone: bool,
}

/// Beyond the ends of a long word.
const END: usize = usize::MAX;

impl Merges {
    pub(super) fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        self.pairs.insert(key(left, right), merge);
    }

    fn get(&self, left: u32, right: u32) -> Merge {
        self.pairs.get(&key(left, right)).copied().unwrap_or(NONE)
    }

    /// Appends the tokens of a word whose bytes have these ids.
    pub(super) fn apply(&self, bytes: impl Iterator<Item = u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        symbols.extend(bytes.map(|id| (id, NONE)));
        if symbols.len() <= SHORT {
            self.apply_short(symbols, out);
        } else {
            self.apply_long(scratch, out);
        }
    }

    fn apply_short(&self, symbols: &mut Vec<(u32, Merge)>, out: &mut Vec<u32>) {
        for i in 1..symbols.len() {
            symbols[i - 1].1 = self.get(symbols[i - 1].0, symbols[i].0);
        }
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (i, &(_, merge)) in symbols.iter().enumerate() {
                if merge.rank < best.rank {
                    (best, at) = (merge, i);
                }
            }
            if best.rank == NONE.rank {
                break;
            }
            symbols[at].0 = best.id;
            symbols.remove(at + 1);
            symbols[at].1 = symbols.get(at + 1).map_or(NONE, |next| self.get(best.id, next.0));
            if at > 0 {
                symbols[at - 1].1 = self.get(symbols[at - 1].0, best.id);
            }
        }
        out.extend(symbols.iter().map(|&(id, _)| id));
    }

    fn apply_long(&self, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { symbols, links, heap } = scratch;
        let count = symbols.len();
        links.clear();
        links.extend(symbols.iter().enumerate().map(|(i, &(id, _))| Link {
            id,
            previous: i.checked_sub(1).unwrap_or(END),
            next: if i + 1 < count { i + 1 } else { END },
            gone: false,
        }));
        heap.clear();
        let offer = |heap: &mut BinaryHeap<_>, left: usize, a: u32, b: u32| {
            let merge = self.get(a, b);
            if merge.rank != NONE.rank {
                heap.push(Reverse((merge.rank, left, merge.id)));
            }
        };
        for i in 1..count {
            offer(heap, i - 1, links[i - 1].id, links[i].id);
        }
        while let Some(Reverse((rank, at, id))) = heap.pop() {
            let Link { id: left, previous, next, gone } = links[at];
            // An entry is of no use once one of its two has been merged with another.
            if gone || next == END || self.get(left, links[next].id) != (Merge { rank, id }) {
                continue;
            }
            let after = links[next].next;
            links[next].gone = true;
            links[at].id = id;
            links[at].next = after;
            if after != END {
                links[after].previous = at;
                offer(heap, at, id, links[after].id);
            }
            if previous != END {
                offer(heap, previous, links[previous].id, id);
            }
        }
        out.extend(links.iter().filter(|link| !link.gone).map(|link| link.id));
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: merge the best pair until there is none.
    fn by_definition(merges: &Merges, mut ids: Vec<u32>) -> Vec<u32> {
        loop {
            let ranked = ids.windows(2).enumerate().map(|(i, pair)| (merges.get(pair[0], pair[1]), i));
            let best = ranked.filter(|(merge, _)| *merge != NONE).min_by_key(|&(merge, i)| (merge.rank, i));
            let Some((merge, at)) = best else { return ids };
            ids.splice(at..at + 2, [merge.id]);
        }
    }

    proptest! {
        #[test]
        fn short_and_long_words_follow_the_definition(
            // Each merge joins two earlier ids, as in a trained tokenizer; ids 0 to 2 are the bytes.
            parts in prop::collection::vec((any::<u32>(), any::<u32>()), 0..30),
            word in prop::collection::vec(0..3_u32, 1..200),
        ) {
            let mut merges = Merges::default();
            for (rank, (a, b)) in (0..).zip(parts) {
                let known = 3 + rank;
                let (a, b) = (a % known, b % known);
                if merges.get(a, b) == NONE {
                    merges.insert(a, b, Merge { rank, id: known });
                }
            }
            for length in [word.len(), word.len().min(SHORT)] {
                let word = &word[..length];
                let mut found = Vec::new();
                merges.apply(word.iter().copied(), &mut Scratch::default(), &mut found);
                prop_assert_eq!(found, by_definition(&merges, word.to_vec()));
            }
        }
    }
}
