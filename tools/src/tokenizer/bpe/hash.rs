//! A hash for short keys that come from a text: fast, and the same on every run.
//!
//! It does not resist keys that were made to collide; what is kept by it is bounded, so that such a text is slow and
//! nothing worse.

use std::hash::{BuildHasher, Hasher};

/// Makes [`Fold`]s.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuildFold;

/// Folds words of 64 bits by a multiplication of 128.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    state: u64,
}

// Digits of pi, as in wyhash's and others' constants: odd, without a pattern.
const FIRST: u64 = 0x243F_6A88_85A3_08D3;
const SECOND: u64 = 0x1319_8A2E_0370_7345;

/// Both halves of the product of two mixed words.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ FIRST) * u128::from(b ^ SECOND);
    (product as u64) ^ (product >> 64) as u64
}

impl BuildHasher for BuildFold {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold { state: 0 }
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        // The length tells apart rests that differ in zeros.
        let rest = rest.iter().fold(rest.len() as u64, |word, &byte| word << 8 | u64::from(byte));
        self.write_u64(rest);
    }

    #[inline(always)]
    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state, word);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
