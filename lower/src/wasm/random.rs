//! Random bits: Threefry and Philox, with the bits of every other target.

use lmc_graph::ops::{RngAlgorithm, RngBitGenerator};
use lmc_graph::{TensorType, ValueId};
use wasm_encoder::{BlockType, ValType};

use super::code::{Code, at, i32_of};
use super::expr::Place;
use super::memory::address_of;
use super::nest::Addresses;
use super::schedule::{Schedule, Work};

/// A state, the next one, and bits.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    algorithm: RngAlgorithm,
    output: TensorType,
    state: Place,
    next: Place,
    bits: Place,
}

pub(super) fn rng_bit_generator(
    s: &mut Schedule<'_>,
    op: &RngBitGenerator,
    state: ValueId,
    homes: &[Place],
) -> Vec<Work> {
    let state = s.place(state);
    s.touch(&state);
    let (algorithm, output) = (op.rng_algorithm, op.output.clone());
    vec![Work::Bits(Bits { algorithm, output, state, next: homes[0].clone(), bits: homes[1].clone() })]
}

impl Bits {
    /// Writes the generator.
    pub(super) fn emit(&self, code: &mut Code, addresses: &Addresses) {
        let [state, next, bits] =
            [&self.state, &self.next, &self.bits].map(|place| address_of(code, place, 0, addresses));
        let words = if self.algorithm == RngAlgorithm::ThreeFry { 2 } else { 3 };
        let words: Vec<u32> = (0..words)
            .map(|word| {
                code.i().local_get(state).i64_load(at(8 * word));
                code.set_new(ValType::I64)
            })
            .collect();
        let calls = match self.algorithm {
            RngAlgorithm::ThreeFry => self.three_fry(code, &words, bits),
            RngAlgorithm::Philox => self.philox(code, &words, bits),
        };
        code.i().local_get(next).local_get(words[0]).i64_store(at(0));
        let counter = counter(code, &words, |code| {
            code.i().i64_const(calls as i64);
        });
        for (word, local) in (1..).zip(counter) {
            code.i().local_get(next).local_get(local).i64_store(at(8 * word));
        }
    }

    /// Call `i` makes element `i` of 64 bits, or elements `2 i` and `2 i + 1` along a dimension; returns their number.
    fn three_fry(&self, code: &mut Code, words: &[u32], bits: u32) -> usize {
        let shape = &self.output.shape;
        let wide = self.output.dtype.size() == 8;
        let longest = || (0..shape.len()).rev().max_by_key(|&d| shape[d]);
        let even = || (0..shape.len()).find(|&d| shape[d].is_multiple_of(2)).or_else(longest);
        let (before, length, behind) = match if wide { None } else { even() } {
            Some(d) => (shape[..d].iter().product(), shape[d], shape[d + 1..].iter().product()),
            None => (self.output.num_elements(), 1, 1),
        };
        let pairs: usize = length.div_ceil(2);
        let calls = before * pairs * behind;
        if calls == 0 {
            return 0;
        }
        let call = code.local(ValType::I32);
        let target = code.local(ValType::I32);
        code.i().local_get(bits).local_set(target);
        let (row, pair) = (code.local(ValType::I32), code.local(ValType::I32));
        code.i().i32_const(0).local_set(call);
        code.begin_for(row, 0);
        code.begin_for(pair, 0);
        let element = code.local(ValType::I32);
        code.begin_for(element, 0);
        let counter = counter(code, words, |code| {
            code.i().local_get(call).i64_extend_i32_u();
        });
        let made = three_fry(code, words[0], counter[0]);
        if wide {
            code.i().local_get(target).local_get(made[0]).i32_store(at(0));
            code.i().local_get(target).local_get(made[1]).i32_store(at(4));
            code.i().local_get(target).i32_const(8).i32_add().local_set(target);
        } else {
            code.i().local_get(target).local_get(made[0]).i32_store(at(0));
            // The last pair of an odd number has no second element.
            if length.is_multiple_of(2) || length > 1 {
                code.i().local_get(pair).i32_const(i32_of(length / 2)).i32_lt_u().if_(BlockType::Empty);
                code.i().local_get(target).local_get(made[1]).i32_store(at(4 * behind as u64)).end();
            }
            code.i().local_get(target).i32_const(4).i32_add().local_set(target);
        }
        code.i().local_get(call).i32_const(1).i32_add().local_set(call);
        code.end_for(element, behind, 1);
        if !wide {
            // Past the second row of the pair, if there is one.
            code.i().local_get(target).i32_const(i32_of(4 * behind)).i32_const(0);
            code.i().local_get(pair).i32_const(i32_of(length / 2)).i32_lt_u().select().i32_add().local_set(target);
        }
        code.end_for(pair, pairs, 1);
        code.end_for(row, before, 1);
        calls
    }

    /// Call `i` makes four elements of 32 bits or two of 64 bits; returns the number of calls.
    fn philox(&self, code: &mut Code, words: &[u32], bits: u32) -> usize {
        let words_in_all = self.output.num_elements() * self.output.dtype.size() / 4;
        let calls = words_in_all.div_ceil(4);
        let emit = |code: &mut Code, call: u32, target: u32, count: usize| {
            let counter = counter(code, words, |code| {
                code.i().local_get(call).i64_extend_i32_u();
            });
            let made = philox(code, words[0], counter[0], counter[1]);
            for (i, word) in made.into_iter().take(count).enumerate() {
                code.i().local_get(target).local_get(word).i32_store(at(4 * i as u64));
            }
        };
        let call = code.local(ValType::I32);
        let (whole, rest) = (words_in_all / 4, words_in_all % 4);
        if whole > 0 {
            code.begin_for(call, 0);
            code.i().local_get(call).i32_const(16).i32_mul().local_get(bits).i32_add();
            let target = code.set_new(ValType::I32);
            emit(code, call, target, 4);
            code.end_for(call, whole, 1);
        }
        if rest > 0 {
            code.i().i32_const(i32_of(whole)).local_set(call);
            code.i().local_get(bits).i32_const(i32_of(16 * whole)).i32_add();
            let target = code.set_new(ValType::I32);
            emit(code, call, target, rest);
        }
        calls
    }
}

/// The words of the counter, all but the key, after as many more calls as `calls` pushes.
fn counter(code: &mut Code, words: &[u32], calls: impl FnOnce(&mut Code)) -> Vec<u32> {
    calls(code);
    code.i().local_get(words[1]).i64_add();
    let low = code.set_new(ValType::I64);
    if words.len() == 2 {
        return vec![low];
    }
    // It has wrapped if it is less than before.
    code.i().local_get(words[2]).local_get(low).local_get(words[1]).i64_lt_u().i64_extend_i32_u().i64_add();
    vec![low, code.set_new(ValType::I64)]
}

/// The low and the high half of a word.
fn halves(code: &mut Code, word: u32) -> [u32; 2] {
    code.i().local_get(word).i32_wrap_i64();
    let low = code.set_new(ValType::I32);
    code.i().local_get(word).i64_const(32).i64_shr_u().i32_wrap_i64();
    [low, code.set_new(ValType::I32)]
}

/// Threefry-2x32 with 20 rounds. (Salmon et al. 2011, section 4.2; rotations: table 4.)
fn three_fry(code: &mut Code, key: u32, counter: u32) -> [u32; 2] {
    const ROTATIONS: [[i32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let [low, high] = halves(code, key);
    // Threefish's parity constant, cut to 32 bits.
    code.i().local_get(low).local_get(high).i32_xor().i32_const(0x1BD1_1BDA).i32_xor();
    let keys = [low, high, code.set_new(ValType::I32)];
    let [x, y] = halves(code, counter);
    let add = |code: &mut Code, to: u32, other: u32, more: i32| {
        code.i().local_get(to).local_get(other).i32_add().i32_const(more).i32_add().local_set(to);
    };
    add(code, x, keys[0], 0);
    add(code, y, keys[1], 0);
    for group in 0..5 {
        for rotation in ROTATIONS[group % 2] {
            add(code, x, y, 0);
            code.i().local_get(y).i32_const(rotation).i32_rotl().local_get(x).i32_xor().local_set(y);
        }
        add(code, x, keys[(group + 1) % 3], 0);
        add(code, y, keys[(group + 2) % 3], group as i32 + 1);
    }
    [x, y]
}

/// Philox-4x32 with 10 rounds. (Salmon et al. 2011, section 4.3; multipliers: table 3.)
fn philox(code: &mut Code, key: u32, low: u32, high: u32) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    /// The golden ratio and the square root of 3 less 1.
    const INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let key = halves(code, key);
    let ([a, b], [c, d]) = (halves(code, low), halves(code, high));
    let mut x = [a, b, c, d];
    for _ in 0..10 {
        let [first, second] = [(x[0], MULTIPLIERS[0]), (x[2], MULTIPLIERS[1])].map(|(factor, multiplier)| {
            code.i().local_get(factor).i64_extend_i32_u().i64_const(i64::from(multiplier)).i64_mul();
            let product = code.set_new(ValType::I64);
            halves(code, product)
        });
        let mut mixed = |high: u32, word: u32, key: u32| {
            code.i().local_get(high).local_get(word).i32_xor().local_get(key).i32_xor();
            code.set_new(ValType::I32)
        };
        x = [mixed(second[1], x[1], key[0]), second[0], mixed(first[1], x[3], key[1]), first[0]];
        for (key, increment) in key.into_iter().zip(INCREMENTS) {
            code.i().local_get(key).i32_const(increment.cast_signed()).i32_add().local_set(key);
        }
    }
    x
}
