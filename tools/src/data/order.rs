//! Order without memory: the place of a row in an epoch is computed from seed, epoch and row alone, so the step is the
//! whole cursor, and the same seed gives the same order whatever the number of threads.

/// Independent uses of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Which documents are held out.
    Split = 1,
    /// The order of windows or rows of an epoch.
    Rows = 2,
    /// The order of documents in a packed epoch.
    Documents = 3,
    /// Where the windows of an epoch begin.
    Phase = 4,
    /// Which source each row of a mixture is from.
    Mixture = 5,
    /// The seed of each source of a mixture.
    Source = 6,
}

/// A permutation of `0..len`, evaluated at any place in constant time and memory.
///
/// It is a Feistel network over the smallest even number of bits that holds `len`, walked along its cycle until it
/// falls into the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, section 4: cycle walking).
/// The domain is less than four times `len`, so fewer than four steps are expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    len: u64,
    /// Bits of a half of the network; 0 for the identity.
    half_bits: u32,
    keys: [u64; ROUNDS],
}

/// Luby and Rackoff need four rounds for a strong pseudorandom permutation; four more make up for narrow halves.
const ROUNDS: usize = 8;

impl Permutation {
    /// The permutation of `0..len` for this use in this epoch.
    pub(crate) fn new(seed: u64, purpose: Purpose, epoch: u64, len: u64) -> Permutation {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = draw(seed, purpose, epoch);
        let keys = [(); ROUNDS].map(|()| {
            state = mix(state.wrapping_add(GOLDEN));
            state
        });
        Permutation { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// The permutation of `0..len` that leaves everything where it is.
    pub(crate) fn identity(len: u64) -> Permutation {
        Permutation { len, half_bits: 0, keys: [0; ROUNDS] }
    }

    /// Where place `index`, less than `len`, goes.
    pub(crate) fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        if self.half_bits == 0 {
            return index;
        }
        let mut value = index;
        loop {
            value = self.round_trip(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn round_trip(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// 64 bits that depend on seed, use and epoch.
pub(crate) fn draw(seed: u64, purpose: Purpose, epoch: u64) -> u64 {
    mix(mix(mix(seed.wrapping_add(GOLDEN)) ^ purpose as u64).wrapping_add(GOLDEN) ^ epoch)
}

/// 2^64 divided by the golden ratio, SplitMix64's increment.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, variant
/// 13 of Stafford's mixers).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_differ_by_seed_purpose_and_epoch() {
        let order = |seed, purpose, epoch| -> Vec<u64> {
            let permutation = Permutation::new(seed, purpose, epoch, 100);
            (0..100).map(|i| permutation.at(i)).collect()
        };
        let first = order(1, Purpose::Rows, 0);
        assert_eq!(first, order(1, Purpose::Rows, 0));
        for other in [order(2, Purpose::Rows, 0), order(1, Purpose::Documents, 0), order(1, Purpose::Rows, 1)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn every_place_is_about_equally_likely() {
        // 6000 draws over 6 places: 1000 each, standard deviation 29; five of them never happen by chance.
        for from in 0..6 {
            let mut counts = [0u32; 6];
            for epoch in 0..6000 {
                counts[Permutation::new(7, Purpose::Rows, epoch, 6).at(from) as usize] += 1;
            }
            assert!(counts.iter().all(|&count| count.abs_diff(1000) < 145), "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_permutation(seed: u64, epoch: u64, len in 1..3000u64) {
            let permutation = Permutation::new(seed, Purpose::Rows, epoch, len);
            let mut seen = vec![false; len as usize];
            for i in 0..len {
                let to = permutation.at(i);
                prop_assert!(to < len && !std::mem::replace(&mut seen[to as usize], true));
            }
        }

        #[test]
        fn it_stays_in_a_range_of_any_size(seed: u64, len in 1..=u64::MAX / 4, index: u64) {
            prop_assert!(Permutation::new(seed, Purpose::Rows, 0, len).at(index % len) < len);
        }
    }
}
