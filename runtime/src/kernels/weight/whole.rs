//! Products of operands in bf16 with codes, in whole numbers: of a group of columns, operands become 16-bit integers in
//! units of a power of two, so that the largest of them has 15 bits. Products with codes and their sums are then exact, at a
//! third of the instructions that sums of floats take.
//!
//! An operand of bf16 has eight bits, so it is exact too if it is at least a 128th of the group's largest; a smaller one is
//! rounded to a multiple of the unit, which is at most 2^-14 of the largest.

use std::marker::PhantomData;

use super::super::pack::Pack;
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{ForEach, Shared, Task, run};
use super::rows::{AHEAD, Rows, Sums, read, read_bytes};
use super::stored::Stored;
use super::{Floats, Groups, Offset, Weight};

/// Bytes of codes that are taken at once.
const STEP_BYTES: usize = 32;

/// The most columns of a group whose sums certainly fit 32 bits: a lane adds up a 16th of a group's products, each below
/// 2^15 times 2^8.
const MOST_COLUMNS: usize = 2048;

/// Whether products of these operands with this weight are computed so.
pub(super) fn fits(x: Floats<'_>, weight: &Weight<'_>) -> bool {
    let step = if weight.form.is_packed() { 2 * STEP_BYTES } else { STEP_BYTES };
    let fits = |groups: Groups<'_>| groups.size.is_multiple_of(step) && groups.size <= MOST_COLUMNS;
    matches!(x, Floats::Bf16(_)) && weight.form.is_code() && weight.groups.is_some_and(fits)
}

/// Rows of operands as integers.
pub(super) struct Whole {
    /// `[tokens, width]` pairs of 16-bit integers, in the order in which codes come out of their form.
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
        let (width, numbers) = (columns / 2, tokens * groups);
        let (mut words, mut units, mut sums) = (vec![0.0; tokens * width], vec![0.0; numbers], vec![0.0; numbers]);
        let task = Rounding {
            x,
            columns,
            size: columns.checked_div(num_groups).unwrap_or(0),
            is_packed: weight.form.is_packed(),
            words: Shared::new(&mut words),
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
    units: Shared<'w, f32>,
    sums: Shared<'w, f32>,
    /// Numbers of a row in `units` and `sums`.
    groups: usize,
}

impl Task for Rounding<'_, '_> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, token: usize) {
        let Rounding { x, columns, size, is_packed, words, units, sums, groups } = self;
        let mut row = vec![0.0; *columns];
        x.copy(token * columns, &mut row);
        let mut integers = vec![0i16; *size];
        // SAFETY: no other task has this row.
        let (words, units, sums) = unsafe {
            let width = columns / 2;
            (words.part(token * width, width), units.part(token * groups, *groups), sums.part(token * groups, *groups))
        };
        let rows = row.chunks_exact(*size).zip(words.chunks_exact_mut(size / 2));
        for ((row, words), (unit, sum)) in rows.zip(units.iter_mut().zip(sums)) {
            *unit = round(row, &mut integers);
            *sum = integers.iter().map(|&x| i32::from(x)).sum::<i32>() as f32 * *unit;
            put(&integers, *is_packed, words);
        }
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
    // Below 2^-100 everything is next to nothing, and the unit's inverse would be no number.
    let unit = exponent.max(27) - 14;
    let inverse = f32::from_bits((254 - unit) << 23);
    for (to, x) in to.iter_mut().zip(from) {
        // Below 2^15 in size: the largest of bf16 below a power of two is a 256th away from it. Adding 1.5 * 2^23 rounds to
        // nearest, ties to even, and leaves the integer in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        *to = ((x * inverse + SHIFT).to_bits() & 0xffff) as i16;
    }
    f32::from_bits(unit << 23)
}

/// Writes integers as pairs: two after each other, or, of codes that share bytes, of every 64 the even ones and then the odd
/// ones.
#[inline(always)]
fn put(integers: &[i16], is_packed: bool, words: &mut [f32]) {
    let pair =
        |low: i16, high: i16| f32::from_bits(u32::from(low.cast_unsigned()) | (u32::from(high.cast_unsigned()) << 16));
    if !is_packed {
        for (word, [low, high]) in words.iter_mut().zip(integers.as_chunks::<2>().0) {
            *word = pair(*low, *high);
        }
        return;
    }
    let halves = words.as_chunks_mut::<{ 2 * LANES }>().0;
    for (words, integers) in halves.iter_mut().zip(integers.as_chunks::<{ 4 * LANES }>().0) {
        for (i, [a, b, c, d]) in integers.as_chunks::<4>().0.iter().enumerate() {
            words[i] = pair(*a, *c);
            words[LANES + i] = pair(*b, *d);
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
    const PAIRS: bool = false;

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
        let (step_words, vectors) = (F::VECTORS * LANES, F::VECTORS);
        let steps = F::FORM.bytes(groups.size) / STEP_BYTES;
        let w = rows.map(|row| self.rows.row(row));
        let x = tokens.map(|token| whole.words[token * whole.width..][..whole.width].as_ptr());
        // SAFETY: a row of the weight and of operands has `num_groups` times `steps` steps, and units and sums are whole
        // vectors.
        unsafe {
            let mut acc = [[S::splat(0.0); M]; R];
            let (mut w_at, mut x_at) = (0, 0);
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
                for g in 0..number {
                    for r in 0..R {
                        S::prefetch(w[r].wrapping_add(w_at + AHEAD));
                    }
                    let mut partial = [[S::splat(0.0); M]; R];
                    for _ in 0..steps {
                        for r in 0..R {
                            let codes = F::load_words::<S>(w[r].add(w_at));
                            for m in 0..M {
                                for v in 0..vectors {
                                    let x = S::load(x[m].add(x_at + v * LANES));
                                    partial[r][m] = S::dot_words(codes[v], x, partial[r][m]);
                                }
                            }
                        }
                        (w_at, x_at) = (w_at + STEP_BYTES, x_at + step_words);
                    }
                    for r in 0..R {
                        for m in 0..M {
                            let sum = S::from_integers(partial[r][m]);
                            acc[r][m] = S::mul_add(sum, S::splat(units[r][m][g]), acc[r][m]);
                        }
                    }
                }
            }
            acc
        }
    }
}
