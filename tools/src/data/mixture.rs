//! Several sources of rows as one: in given proportions without end, or every row once.

use crate::error::Result;

use super::order::{Permutation, Purpose, draw};
use super::rows::{Place, Rows};

/// Rows of several sources, numbered as one sequence.
#[derive(Debug)]
pub(super) struct Sources {
    sources: Vec<Rows>,
    arrangement: Arrangement,
}

#[derive(Debug)]
enum Arrangement {
    Mixed(Mixture),
    /// The rows of an epoch of each source, put in an order.
    Once(Permutation),
}

impl Sources {
    /// Rows by these weights, without end: each source goes through its own epochs.
    pub(super) fn mixed(sources: Vec<Rows>, weights: &[f64], seed: u64) -> Sources {
        Sources { sources, arrangement: Arrangement::Mixed(Mixture::new(weights, seed)) }
    }

    /// One epoch of all sources, every row once. The rows of a single source are in its order; those of several are mixed,
    /// always the same way, so that the first of them stand for all.
    pub(super) fn once(sources: Vec<Rows>) -> Sources {
        let rows = sources.iter().map(Rows::per_epoch).sum();
        let order = match sources.len() {
            0 | 1 => Permutation::identity(rows),
            _ => Permutation::new(0, Purpose::Rows, 0, rows),
        };
        Sources { sources, arrangement: Arrangement::Once(order) }
    }

    /// The sources.
    pub(super) fn each(&self) -> &[Rows] {
        &self.sources
    }

    /// Pairs of token and label in all sources.
    pub(super) fn pairs(&self) -> u64 {
        self.sources.iter().map(Rows::pairs).sum()
    }

    /// Rows that hold all sources once.
    pub(super) fn per_epoch(&self) -> u64 {
        self.sources.iter().map(Rows::per_epoch).sum()
    }

    /// The source of row `row`, and which of that source's rows it is.
    pub(super) fn locate(&self, row: u64) -> (usize, u64) {
        match &self.arrangement {
            Arrangement::Mixed(mixture) => mixture.locate(row),
            Arrangement::Once(order) => {
                let mut rest = order.at(row);
                for (index, source) in self.sources.iter().enumerate() {
                    if rest < source.per_epoch() {
                        return (index, rest);
                    }
                    rest -= source.per_epoch();
                }
                unreachable!("row {row} lies behind the last source")
            }
        }
    }

    /// How many of the first `rows` rows are of a source.
    pub(super) fn count(&self, source: usize, rows: u64) -> u64 {
        match &self.arrangement {
            Arrangement::Mixed(mixture) => mixture.count(source, rows),
            Arrangement::Once(_) => {
                (0..rows.min(self.per_epoch())).filter(|&row| self.locate(row).0 == source).count() as u64
            }
        }
    }

    /// Writes row `row`, as [`Rows::fill`].
    pub(super) fn fill(&self, row: u64, tokens: &mut [i32], labels: &mut [i32]) -> Result<()> {
        let (source, row) = self.locate(row);
        self.sources[source].fill(row, tokens, labels)
    }

    /// Where the tokens of row `row` lie.
    pub(super) fn places(&self, row: u64) -> Vec<Place> {
        let (source, row) = self.locate(row);
        self.sources[source].places(row)
    }
}

/// Which source each row is from.
///
/// Row `r` has a point of the unit interval, the van der Corput sequence in base 2 (its digits are those of `r` in
/// reverse) with digits flipped by the seed; the source is the part of the interval, as wide as its share, that the
/// point falls into. Any `n` rows in sequence fill a part of width `w` to `w * n` but for a few rows, at most in the
/// order of `log2(n)`, where random draws would be off by the root of `n`. How many of the first rows fell into a part
/// can be counted digit by digit, so the number of a row within its source needs no memory.
#[derive(Debug)]
struct Mixture {
    /// Source `s` has the points from `bounds[s]` to before `bounds[s + 1]`, in units of `1 / POINTS`.
    bounds: Vec<u64>,
    seed: u64,
}

/// Binary digits of a point. After `2^DIGITS` rows all points were met once, and digits are flipped anew.
const DIGITS: u32 = u32::BITS;
const POINTS: u64 = 1 << DIGITS;

impl Mixture {
    fn new(weights: &[f64], seed: u64) -> Mixture {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let mut bounds = vec![0];
        for weight in weights {
            sum += weight;
            bounds.push((sum / total * POINTS as f64).round() as u64);
        }
        Mixture { bounds, seed }
    }

    fn locate(&self, row: u64) -> (usize, u64) {
        let point = u64::from((row as u32).reverse_bits() ^ self.flips(row >> DIGITS));
        let source = self.bounds.partition_point(|&bound| bound <= point) - 1;
        (source, self.count(source, row))
    }

    fn count(&self, source: usize, rows: u64) -> u64 {
        let (rounds, rest) = (rows >> DIGITS, rows % POINTS);
        let (from, to) = (self.bounds[source], self.bounds[source + 1]);
        let flips = self.flips(rounds);
        rounds * (to - from) + points_below(to, rest, flips) - points_below(from, rest, flips)
    }

    /// The digits that are flipped in this round of points.
    fn flips(&self, round: u64) -> u32 {
        draw(self.seed, Purpose::Mixture, round) as u32
    }
}

/// How many of the first `rows` rows have a point below `limit`.
fn points_below(limit: u64, rows: u64, flips: u32) -> u64 {
    let mut count = 0;
    // The rows before `rows` fall into blocks of a power of two, one for each digit of `rows` that is set: the higher
    // digits are those of `rows`, the digit is 0, the `free` lower ones are any. In reverse, the lower digits of the
    // point are the same throughout the block, and the points are evenly spaced.
    for free in (0..DIGITS).filter(|free| rows >> free & 1 == 1) {
        let block = (rows >> (free + 1) << (free + 1)) as u32;
        let spacing = 1_u64 << (DIGITS - free);
        let first = u64::from(block.reverse_bits() ^ flips) % spacing;
        if first < limit {
            count += (limit - first - 1) / spacing + 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_weights_take_turns() {
        let sources: Vec<usize> = (0..1000).map(|row| Mixture::new(&[1.0, 1.0], 3).locate(row).0).collect();
        assert!(sources.windows(2).all(|pair| pair[0] != pair[1]));
        let order = |seed| (0..64).map(|row| Mixture::new(&[1.0, 2.0, 4.0], seed).locate(row).0).collect::<Vec<_>>();
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    proptest! {
        /// The rows of a source are numbered from 0 without gaps, over the end of a round too.
        #[test]
        fn rows_of_a_source_are_numbered_in_sequence(
            weights in prop::collection::vec(0.001..1.0f64, 1..6), seed: u64, round in 0..3u64, back in 0..200u64,
        ) {
            let mixture = Mixture::new(&weights, seed);
            let from = (round * POINTS).saturating_sub(back);
            let mut next: Vec<u64> = (0..weights.len()).map(|source| mixture.count(source, from)).collect();
            prop_assert_eq!(next.iter().sum::<u64>(), from);
            for row in from..from + 400 {
                let (source, number) = mixture.locate(row);
                prop_assert_eq!(number, next[source]);
                next[source] += 1;
            }
        }

        /// Any stretch of rows has the proportions but for a few rows.
        #[test]
        fn proportions_hold_over_any_stretch(
            weights in prop::collection::vec(0.001..1.0f64, 1..6), seed: u64, from in 0..1_u64 << 40, n in 1..1_u64 << 33,
        ) {
            let mixture = Mixture::new(&weights, seed);
            let total: f64 = weights.iter().sum();
            for (source, weight) in weights.iter().enumerate() {
                let found = mixture.count(source, from + n) - mixture.count(source, from);
                // A part has two ends; a stretch falls into at most two blocks for each digit of its length, and in each
                // an end is off by less than a row.
                let most = 4.0 * (f64::from(n.ilog2()) + 1.0);
                let off = (found as f64 - n as f64 * weight / total).abs();
                prop_assert!(off <= most, "{off} rows off in {n}");
            }
        }
    }
}
