//! Random bits from a key that is a value.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::eval::{Offsets, Tensor, strides};
use crate::ops::{Inferred, Op, arity};

words! {
    /// A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    pub enum RngAlgorithm {
        /// Threefry-2x32 with 20 rounds; the state is `ui64[2]`: key, counter.
        ThreeFry = "THREE_FRY",
        /// Philox-4x32 with 10 rounds; the state is `ui64[3]`: key, counter low, counter high.
        Philox = "PHILOX",
    }
}

attributes! {
    /// `(output_state, output)`: random bits, and the state that continues the sequence.
    ///
    /// The bits are those of XLA's expansion of the op, on every target. The operand is the state.
    ///
    /// *Constraints*: (I1) the state is `ui64[2]` for `THREE_FRY` and `ui64[3]` for `PHILOX`. (C1) the output state has
    /// its type. (C2) the output is of 32-bit or 64-bit integers.
    pub struct RngBitGenerator {
        /// The generator.
        pub rng_algorithm: RngAlgorithm,
        /// The type of the bits.
        pub output: TensorType,
    }
}

pub(crate) fn rng_bit_generator_type(op: &RngBitGenerator, operands: &[&TensorType]) -> Inferred {
    let [state] = arity(operands)?;
    let size = match op.rng_algorithm {
        RngAlgorithm::ThreeFry => 2,
        RngAlgorithm::Philox => 3,
    };
    let expected = TensorType::new(DType::U64, [size]);
    require!(*state == expected, "I1", "the state of {} is {expected}, found {state}", op.rng_algorithm.name());
    let dtype = op.output.dtype;
    require!(dtype.is_int() && dtype.size() >= 4, "C2", "the bits must be 32-bit or 64-bit integers, found {dtype}");
    Ok(vec![state.clone(), op.output.clone()])
}

pub(crate) fn eval_rng_bit_generator(op: &RngBitGenerator, state: &Tensor) -> Vec<Tensor> {
    let RngBitGenerator { rng_algorithm, output } = op;
    let words: Vec<u64> = state.ints().iter().map(|&word| word as u64).collect();
    let (words, bits) = match rng_algorithm {
        RngAlgorithm::ThreeFry => three_fry_bits(words[0], words[1], output),
        RngAlgorithm::Philox => philox_bits(words[0], u128::from(words[1]) | u128::from(words[2]) << 64, output),
    };
    let state = Tensor::from_ints(state.ty().clone(), words.into_iter().map(i128::from).collect());
    vec![state, Tensor::from_ints(output.clone(), bits.into_iter().map(i128::from).collect())]
}

/// The low and the high half.
fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The next state and the bits of a type, as XLA expands `THREE_FRY` (`xla/hlo/builder/lib/prng.cc`, commit 4ead6719).
///
/// Call number `i` of the generator, on `counter + i`, makes element `i` of 64 bits, in row-major order. For elements
/// of 32 bits the calls are numbered along a shape that is half as long in one dimension, the first even or else the
/// longest one, and call `[.., i, ..]` makes elements `[.., 2 i, ..]` and `[.., 2 i + 1, ..]`.
fn three_fry_bits(key: u64, counter: u64, output: &TensorType) -> (Vec<u64>, Vec<u64>) {
    let call = |i: usize| three_fry(halves(key), halves(counter.wrapping_add(i as u64)));
    let next = |num_calls: usize| vec![key, counter.wrapping_add(num_calls as u64)];
    let shape = &output.shape;
    if output.dtype.size() == 8 {
        let num_calls = output.num_elements();
        return (next(num_calls), (0..num_calls).map(|i| join(call(i))).collect());
    }
    let longest = || (0..shape.len()).rev().max_by_key(|&d| shape[d]);
    let Some(split) = (0..shape.len()).find(|&d| shape[d].is_multiple_of(2)).or_else(longest) else {
        return (next(1), vec![u64::from(call(0)[0])]);
    };
    let mut calls = shape.clone();
    calls[split] = shape[split].div_ceil(2);
    let strides = strides(&calls);
    let (before, inner) = (&shape[..split], strides[split] as usize);
    let bits = Offsets::new(before, &strides[..split], 0).flat_map(|start| {
        (0..shape[split])
            .flat_map(move |i| (0..inner).map(move |after| u64::from(call(start + i / 2 * inner + after)[i % 2])))
    });
    (next(calls.iter().product()), bits.collect())
}

/// Threefry-2x32 with 20 rounds. (Salmon et al. 2011, section 4.2; rotations: table 4.)
fn three_fry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    // Threefish's parity constant, cut to 32 bits.
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    let [mut x, mut y] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for group in 0..5 {
        for rotation in ROTATIONS[group % 2] {
            x = x.wrapping_add(y);
            y = y.rotate_left(rotation) ^ x;
        }
        x = x.wrapping_add(keys[(group + 1) % 3]);
        y = y.wrapping_add(keys[(group + 2) % 3]).wrapping_add(group as u32 + 1);
    }
    [x, y]
}

/// The next state and the bits of a type, as XLA expands `PHILOX` (`xla/hlo/builder/lib/prng.cc`, commit 4ead6719).
///
/// Call number `i` of the generator, on `counter + i`, makes four elements of 32 bits or two of 64 bits, in row-major
/// order; what the last call makes too many is dropped.
fn philox_bits(key: u64, counter: u128, output: &TensorType) -> (Vec<u64>, Vec<u64>) {
    let (num_elements, wide) = (output.num_elements(), output.dtype.size() == 8);
    let num_calls = num_elements.div_ceil(if wide { 2 } else { 4 });
    let mut bits = Vec::with_capacity(4 * num_calls);
    for i in 0..num_calls {
        let counter = counter.wrapping_add(i as u128);
        let [[a, b], [c, d]] = [halves(counter as u64), halves((counter >> 64) as u64)];
        let [a, b, c, d] = philox(halves(key), [a, b, c, d]);
        if wide {
            bits.extend([join([a, b]), join([c, d])]);
        } else {
            bits.extend([a, b, c, d].map(u64::from));
        }
    }
    bits.truncate(num_elements);
    let counter = counter.wrapping_add(num_calls as u128);
    (vec![key, counter as u64, (counter >> 64) as u64], bits)
}

/// Philox-4x32 with 10 rounds. (Salmon et al. 2011, section 4.3; multipliers: table 3; the key's increments are the
/// golden ratio and the square root of 3 less 1.)
fn philox(mut key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let product = |x: u32, multiplier: u32| halves(u64::from(x) * u64::from(multiplier));
    let mut x = counter;
    for _ in 0..10 {
        let [low0, high0] = product(x[0], 0xD251_1F53);
        let [low1, high1] = product(x[2], 0xCD9E_8D57);
        x = [high1 ^ x[1] ^ key[0], low1, high0 ^ x[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    x
}

impl<'g> Value<'g> {
    /// `rng_bit_generator` with `self` as the state: the state that continues the sequence, and the bits.
    ///
    /// # Panics
    /// If `self` is not a state of the algorithm, or `output` not of 32-bit or 64-bit integers.
    #[track_caller]
    pub fn rng_bit_generator(self, rng_algorithm: RngAlgorithm, output: TensorType) -> (Value<'g>, Value<'g>) {
        let op = Op::RngBitGenerator(RngBitGenerator { rng_algorithm, output });
        let [state, bits] = self.builder().push_n(op, &[self]);
        (state, bits)
    }
}
