//! Products of operands in bf16 with codes, in whole numbers: of a group of columns, operands become 16-bit integers in
//! units of a power of two, so that the largest of them is just below 2^15. Products with codes and their sums are then
//! exact, at a third of the instructions that sums of floats take. With codes of four bits the two bytes of an integer are
//! multiplied each for itself, as no instruction multiplies more numbers than those of bytes.
//!
//! An operand of bf16 has eight bits, so it is exact too if it is at least a 128th of the group's largest (a 64th where
//! that is nearly the next power of two); a smaller one is rounded to a multiple of the unit, which is at most 2^-13 of the
//! largest.

use std::marker::PhantomData;

use super::super::pack::Pack;
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{ForEach, Shared, Task, run};
use super::rows::{Ahead, Rows, Sums, read, read_bytes};
use super::stored::Stored;
use super::{Floats, Groups, Offset, Weight};

/// Codes of a byte that are taken at once.
const STEP: usize = 32;

/// Codes of four bits that are taken at once.
const STEP_OF_NIBBLES: usize = 128;

/// Their bytes.
const STEP_BYTES: usize = STEP_OF_NIBBLES / 2;

/// The most columns of a group whose sums certainly fit 32 bits: a lane adds up a 16th of a group's products, each below
/// 2^15 times 2^8.
const MOST_COLUMNS: usize = 2048;

/// Whether products of these operands with this weight are computed so.
pub(super) fn fits(x: Floats<'_>, weight: &Weight<'_>) -> bool {
    let Some(Groups { size, .. }) = weight.groups else { return false };
    // Of codes of four bits, several groups are in a step, or several steps in a group.
    let is_whole = if weight.form.is_packed() {
        [32, 64].contains(&size) || size.is_multiple_of(STEP_OF_NIBBLES)
    } else {
        size.is_multiple_of(STEP)
    };
    matches!(x, Floats::Bf16(_)) && weight.form.is_code() && is_whole && size <= MOST_COLUMNS
}

/// Rows of operands as integers.
pub(super) struct Whole {
    /// `[tokens, width]`, whole steps: pairs of 16-bit integers; with codes of four bits, of each step four vectors: the
    /// high bytes of the integers with even indices and those with odd ones, and then the low bytes.
    words: Vec<f32>,
    width: usize,
    /// `[tokens, groups]`: what a one of each group is; of whole vectors, the rest zeros.
    units: Vec<f32>,
    /// `[tokens, groups]`: the sum of each group's operands, as they were rounded.
    sums: Vec<f32>,
    groups: usize,
}

impl Whole {
    /// Rounds the operands of a product with this instruction set, which the processor must have.
    pub(super) fn of(isa: Isa, tokens: usize, x: Floats<'_>, weight: &Weight<'_>, for_each: ForEach<'_>) -> Whole {
        let (columns, num_groups) = (weight.columns, weight.num_groups());
        let groups = num_groups.next_multiple_of(LANES);
        let step = if weight.form.is_packed() { STEP_OF_NIBBLES } else { STEP };
        let (width, numbers) = (columns.next_multiple_of(step) / 2, tokens * groups);
        let (mut words, mut units, mut sums) = (vec![0.0; tokens * width], vec![0.0; numbers], vec![0.0; numbers]);
        let task = Rounding {
            x,
            columns,
            size: columns.checked_div(num_groups).unwrap_or(0),
            is_packed: weight.form.is_packed(),
            words: Shared::new(&mut words),
            width,
            units: Shared::new(&mut units),
            sums: Shared::new(&mut sums),
            groups,
        };
        // SAFETY: the processor has the instructions; a task writes what is of its own row.
        unsafe { run(isa, &task, tokens, for_each) };
        Whole { words, width, units, sums, groups }
    }
}

/// A task is a row of operands that is rounded.
struct Rounding<'a, 'w> {
    x: Floats<'a>,
    columns: usize,
    /// Columns in a group.
    size: usize,
    is_packed: bool,
    words: Shared<'w, f32>,
    width: usize,
    units: Shared<'w, f32>,
    sums: Shared<'w, f32>,
    /// Numbers of a row in `units` and `sums`.
    groups: usize,
}

impl Task for Rounding<'_, '_> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, token: usize) {
        let Rounding { x, columns, size, is_packed, words, width, units, sums, groups } = self;
        let mut row = vec![0.0; *columns];
        x.copy(token * columns, &mut row);
        let mut integers = vec![0i16; 2 * width];
        // SAFETY: no other task has this row.
        let (words, units, sums) = unsafe {
            (words.part(token * width, *width), units.part(token * groups, *groups), sums.part(token * groups, *groups))
        };
        let of_groups = row.chunks_exact(*size).zip(integers.chunks_exact_mut(*size));
        for ((row, integers), (unit, sum)) in of_groups.zip(units.iter_mut().zip(sums)) {
            *unit = round(row, integers);
            *sum = integers.iter().map(|&x| i32::from(x)).sum::<i32>() as f32 * *unit;
        }
        if *is_packed { put_bytes(&integers, words) } else { put_pairs(&integers, words) }
    }
}

/// Rounds a group's operands to multiples of a unit, which is returned: not a number if one of them is none or infinite.
#[inline(always)]
fn round(from: &[f32], to: &mut [i16]) -> f32 {
    // Of positive floats the bits are in their order; those of what is not finite are the largest.
    let largest = from.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let exponent = largest >> 23;
    if exponent == 0xff {
        to.fill(0);
        return f32::NAN;
    }
    // Where all eight bits are set, an integer's high byte would be 128, which is no signed byte.
    let is_next_power = (largest >> 16) & 0x7f == 0x7f;
    // Below 2^-100 everything is next to nothing, and the unit's inverse would be no number.
    let unit = exponent.max(27) + u32::from(is_next_power) - 14;
    let inverse = f32::from_bits((254 - unit) << 23);
    for (to, x) in to.iter_mut().zip(from) {
        // Below 2^15 in size: the largest of bf16 below a power of two is a 256th away from it. Adding 1.5 * 2^23 rounds to
        // nearest, ties to even, and leaves the integer in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        *to = ((x * inverse + SHIFT).to_bits() & 0xffff) as i16;
    }
    f32::from_bits(unit << 23)
}

/// Writes integers as pairs.
#[inline(always)]
fn put_pairs(integers: &[i16], words: &mut [f32]) {
    for (word, [low, high]) in words.iter_mut().zip(integers.as_chunks::<2>().0) {
        *word = f32::from_bits(u32::from(low.cast_unsigned()) | (u32::from(high.cast_unsigned()) << 16));
    }
}

/// Writes the bytes of integers, as [`Whole`] says: `256 * high + low`, both signed.
#[inline(always)]
fn put_bytes(integers: &[i16], words: &mut [f32]) {
    let steps = words.as_chunks_mut::<{ 4 * LANES }>().0.iter_mut();
    for (words, integers) in steps.zip(integers.as_chunks::<STEP_OF_NIBBLES>().0) {
        for (l, eight) in integers.as_chunks::<8>().0.iter().enumerate() {
            let low = eight.map(|x| x as i8);
            let mut high = [0; 8];
            for ((high, x), low) in high.iter_mut().zip(eight).zip(low) {
                *high = ((x - i16::from(low)) >> 8) as i8;
            }
            for (plane, [a, b, c, d, e, f, g, h]) in [high, low].into_iter().enumerate() {
                let word = |bytes: [i8; 4]| f32::from_bits(u32::from_le_bytes(bytes.map(i8::cast_unsigned)));
                words[2 * plane * LANES + l] = word([a, c, e, g]);
                words[(2 * plane + 1) * LANES + l] = word([b, d, f, h]);
            }
        }
    }
}

/// [`Rows`] of a form, with operands as integers.
pub(super) struct WholeRows<'a, 'p, F> {
    pub(super) rows: &'a Rows<'p>,
    pub(super) operands: &'a Whole,
    pub(super) form: PhantomData<F>,
}

impl<F: Stored> Sums for WholeRows<'_, '_, F> {
    const PAIRS: bool = true;

    #[inline(always)]
    fn rows(&self) -> &Rows<'_> {
        self.rows
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn sums<S: Simd, W: Pack, const R: usize, const M: usize>(
        &self,
        rows: [usize; R],
        tokens: [usize; M],
    ) -> [[S::V; M]; R] {
        let Rows { weight, .. } = self.rows;
        let Some(groups) = &weight.groups else { unreachable!("codes have groups") };
        let whole = self.operands;
        let num_groups = weight.num_groups();
        // SAFETY: a row of the weight and of operands has `num_groups` groups, and units and sums are whole vectors.
        unsafe {
            let mut acc = [[S::splat(0.0); M]; R];
            let mut ahead = Ahead::new::<R>(self.rows, rows[0]);
            for first in (0..num_groups).step_by(LANES) {
                let number = LANES.min(num_groups - first);
                let mut units = [[[0.0f32; LANES]; M]; R];
                for r in 0..R {
                    let at = rows[r] * num_groups + first;
                    let scale = read::<S>(&groups.scales, at, number);
                    let lowest = S::splat(f32::from(F::FIRST));
                    let offset = match &groups.offset {
                        Offset::None => S::mul(scale, lowest),
                        Offset::Zeros(zeros) => S::mul(scale, S::sub(lowest, read_bytes::<S>(zeros, at, number))),
                        Offset::Biases(biases) => S::mul_add(scale, lowest, read::<S>(biases, at, number)),
                    };
                    for m in 0..M {
                        let at = tokens[m] * whole.groups + first;
                        let unit = S::load(whole.units[at..][..LANES].as_ptr());
                        S::store(units[r][m].as_mut_ptr(), S::mul(scale, unit));
                        acc[r][m] = S::mul_add(offset, S::load(whole.sums[at..][..LANES].as_ptr()), acc[r][m]);
                    }
                }
                let span = Span { rows, tokens, first: first * groups.size, number, units: &units };
                match (F::FORM.is_packed(), groups.size) {
                    (false, size) => self.add_bytes::<S, R, M>(span, size, &mut ahead, &mut acc),
                    (true, 32) => self.add_nibbles::<S, R, M, 4>(span, 32, &mut ahead, &mut acc),
                    (true, 64) => self.add_nibbles::<S, R, M, 2>(span, 64, &mut ahead, &mut acc),
                    (true, size) => self.add_nibbles::<S, R, M, 1>(span, size, &mut ahead, &mut acc),
                }
            }
            acc
        }
    }
}

/// Some groups of some rows.
struct Span<'a, const R: usize, const M: usize> {
    rows: [usize; R],
    tokens: [usize; M],
    /// The first column.
    first: usize,
    /// Groups, at most as many as lanes.
    number: usize,
    /// What the sums of each group are multiplied with, zeros behind the last.
    units: &'a [[[f32; LANES]; M]; R],
}

impl<F: Stored> WholeRows<'_, '_, F> {
    /// The operands from a column on, which is the first of a step.
    #[inline(always)]
    fn operands(&self, token: usize, column: usize) -> *const f32 {
        let Whole { words, width, .. } = self.operands;
        words[token * width..][..*width][column / 2..].as_ptr()
    }

    /// Adds the products of groups of codes of a byte each.
    ///
    /// # Safety
    /// That of [`Simd`]; rows, tokens and columns are there.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn add_bytes<S: Simd, const R: usize, const M: usize>(
        &self,
        span: Span<'_, R, M>,
        size: usize,
        ahead: &mut Ahead,
        acc: &mut [[S::V; M]; R],
    ) {
        let w = span.rows.map(|row| self.rows.row(row).wrapping_add(span.first));
        let x = span.tokens.map(|token| self.operands(token, span.first));
        let mut at = 0;
        // SAFETY: a row of the weight and of operands has these groups.
        unsafe {
            for g in 0..span.number {
                let mut sums = [[S::splat(0.0); M]; R];
                for _ in 0..size / STEP {
                    ahead.ask::<S>(R * STEP);
                    for r in 0..R {
                        let codes = F::load_words::<S>(w[r].add(at));
                        for m in 0..M {
                            sums[r][m] = S::dot_words(codes, S::load(x[m].add(at / 2)), sums[r][m]);
                        }
                    }
                    at += STEP;
                }
                for r in 0..R {
                    for m in 0..M {
                        let sum = S::from_integers(sums[r][m]);
                        acc[r][m] = S::mul_add(sum, S::splat(span.units[r][m][g]), acc[r][m]);
                    }
                }
            }
        }
    }

    /// Adds the products of groups of codes of four bits, `N` groups of a step.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn add_nibbles<S: Simd, const R: usize, const M: usize, const N: usize>(
        &self,
        span: Span<'_, R, M>,
        size: usize,
        ahead: &mut Ahead,
        acc: &mut [[S::V; M]; R],
    ) {
        let w = span.rows.map(|row| self.rows.row(row).wrapping_add(span.first / 2));
        let x = span.tokens.map(|token| self.operands(token, span.first));
        let bytes = span.number * size / 2;
        let steps = (size / STEP_OF_NIBBLES).max(1);
        let mut at = 0;
        // SAFETY: a row of the weight has these groups, and that of operands whole steps.
        unsafe {
            while at + steps * STEP_BYTES <= bytes {
                let mut sums = [[[S::splat(0.0); 2]; M]; R];
                let g = 2 * at / size;
                for _ in 0..steps {
                    ahead.ask::<S>(R * STEP_BYTES);
                    nibble_step::<S, R, M>(w.map(|w| w.add(at)), x.map(|x| x.add(at)), &mut sums);
                    at += STEP_BYTES;
                }
                scale::<S, R, M, N>(sums, &span, g, acc);
            }
            if at < bytes {
                // Part of a step, with zeros behind it: operands have zeros there, too.
                let mut rest = [[0u8; STEP_BYTES]; R];
                for r in 0..R {
                    w[r].add(at).copy_to_nonoverlapping(rest[r].as_mut_ptr(), bytes - at);
                }
                let mut sums = [[[S::splat(0.0); 2]; M]; R];
                nibble_step::<S, R, M>(std::array::from_fn(|r| rest[r].as_ptr()), x.map(|x| x.add(at)), &mut sums);
                scale::<S, R, M, N>(sums, &span, 2 * at / size, acc);
            }
        }
    }
}

/// Adds the products of a step's codes with the high bytes of operands, and with the low ones.
///
/// # Safety
/// That of [`Simd`]; pointers are valid for a step.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
unsafe fn nibble_step<S: Simd, const R: usize, const M: usize>(
    w: [*const u8; R],
    x: [*const f32; M],
    sums: &mut [[[S::V; 2]; M]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        for r in 0..R {
            let codes = S::load_nibble_bytes(w[r]);
            for m in 0..M {
                let plane = |i: usize| S::load(x[m].add(i * LANES));
                sums[r][m][0] = S::dot_nibbles(codes, [plane(0), plane(1)], sums[r][m][0]);
                sums[r][m][1] = S::dot_nibbles(codes, [plane(2), plane(3)], sums[r][m][1]);
            }
        }
    }
}

/// Adds the sums of `N` groups from `g` on, each multiplied by what its one is.
///
/// # Safety
/// That of [`Simd`]; the groups are there.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
unsafe fn scale<S: Simd, const R: usize, const M: usize, const N: usize>(
    sums: [[[S::V; 2]; M]; R],
    span: &Span<'_, R, M>,
    g: usize,
    acc: &mut [[S::V; M]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        for r in 0..R {
            for m in 0..M {
                let [high, low] = sums[r][m];
                let sum = S::from_integers(S::join_bytes(high, low));
                acc[r][m] = S::mul_add(sum, S::spread::<N>(span.units[r][m][g..].as_ptr()), acc[r][m]);
            }
        }
    }
}
