//! Counting documents that came before, in bounded memory.

use std::collections::HashMap;

/// The most hashes that are remembered: some 32 MB.
const MOST_HASHES: usize = 1 << 20;

/// How often each document came, by hash.
///
/// When there are too many, those whose hash ends in one more binary 0 stay, with all of their copies, and the count is
/// scaled: a sample of documents, not of copies, so that duplicates are as frequent in it as in all.
#[derive(Debug)]
pub(super) struct Duplicates {
    most: usize,
    /// Remembered are the hashes that end in so many binary 0.
    zeros: u32,
    copies: HashMap<u64, u64>,
    example: Option<String>,
}

impl Default for Duplicates {
    fn default() -> Duplicates {
        Duplicates::with_most(MOST_HASHES)
    }
}

impl Duplicates {
    fn with_most(most: usize) -> Duplicates {
        Duplicates { most, zeros: 0, copies: HashMap::new(), example: None }
    }

    /// Counts a document; `place` says where it is.
    pub(super) fn insert(&mut self, hash: u64, place: impl FnOnce() -> String) {
        if hash.trailing_zeros() < self.zeros {
            return;
        }
        let copies = self.copies.entry(hash).or_insert(0);
        *copies += 1;
        if *copies > 1 && self.example.is_none() {
            self.example = Some(place());
        }
        while self.copies.len() > self.most {
            self.zeros += 1;
            self.copies.retain(|hash, _| hash.trailing_zeros() >= self.zeros);
        }
    }

    /// Documents that came before.
    pub(super) fn count(&self) -> u64 {
        self.copies.values().map(|copies| copies - 1).sum::<u64>() << self.zeros
    }

    /// Whether `count` is an estimate.
    pub(super) fn is_estimate(&self) -> bool {
        self.zeros > 0
    }

    /// Where the first copy is.
    pub(super) fn example(&self) -> Option<&str> {
        self.example.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::order::mix;

    #[test]
    fn duplicates_are_counted() {
        let mut duplicates = Duplicates::default();
        for (place, hash) in [1, 2, 1, 3, 1, 3].into_iter().enumerate() {
            duplicates.insert(hash, || place.to_string());
        }
        assert_eq!((duplicates.count(), duplicates.is_estimate(), duplicates.example()), (3, false, Some("2")));
    }

    #[test]
    fn many_documents_are_sampled() {
        let mut duplicates = Duplicates::with_most(1000);
        for document in 0..100_000_u64 {
            // Every fourth comes twice.
            for _ in 0..1 + u64::from(document.is_multiple_of(4)) {
                duplicates.insert(mix(document + 1), String::new);
            }
        }
        assert!(duplicates.is_estimate() && duplicates.copies.len() <= 1000);
        // 25,000, from a sample of at least 400 documents, a quarter of them twice: standard deviation below 9 %.
        assert!(duplicates.count().abs_diff(25_000) < 10_000, "{}", duplicates.count());
    }
}
