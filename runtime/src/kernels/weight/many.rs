//! Products of many rows with a weight, which are bound by computing: some rows of the result's columns at a time are read
//! from the form in which the weight is stored and packed as f32, and multiplied with all rows of operands while they lie in
//! the cache (Goto and van de Geijn 2008).
//!
//! In f32 also of bf16, which it holds exactly: instructions for pairs of bf16 are not the faster ones on every processor
//! that has them (two cores of a Xeon: 130 GFLOP/s by pairs, 260 by f32).

use std::marker::PhantomData;
use std::ops::Range;

use super::super::pack::{Pack, write_row};
use super::super::product::{Single, Words, panel};
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::stored::{Stored, WithForm, with_form};
use super::{Floats, Groups, Offset, SharedOutput, Weight};

/// Columns of the result in a task.
const COLUMNS: usize = 64;

/// Elements of the summed dimension in one go: with [`COLUMNS`], 32 KiB of a first-level cache.
const SUMMED: usize = 128;

/// The most rows of operands in one go, whose sums, 128 KiB, lie in the second-level cache.
const MOST_ROWS: usize = 512;

/// A product with many rows.
pub(super) struct Many<'a> {
    pub(super) tokens: usize,
    /// `[tokens, in]`.
    pub(super) x: Floats<'a>,
    pub(super) weight: Weight<'a>,
    /// Whether the weight is `[in, out]`, then without groups.
    pub(super) transposed: bool,
    pub(super) output: SharedOutput<'a>,
}

impl Many<'_> {
    /// Computes it with this instruction set, which the processor must have.
    pub(super) fn run(&self, isa: Isa, for_each: ForEach<'_>) {
        for first in (0..self.tokens).step_by(MOST_ROWS) {
            let tokens = first..self.tokens.min(first + MOST_ROWS);
            let rows = tokens.len().next_multiple_of(Single::ROWS);
            let mut operands = Buffer::zeros(rows * self.summed());
            let packing = Packing { many: self, tokens: tokens.clone(), rows, to: Shared::new(&mut operands) };
            // SAFETY: the processor has the instructions; a task writes the rows of its own row of operands.
            unsafe { run(isa, &packing, tokens.len(), for_each) };
            let call = Call { isa, many: self, tokens, rows, operands: &operands, for_each };
            // SAFETY: as above; a task writes its own columns.
            _ = unsafe { with_form(self.weight.form, call) };
        }
    }

    /// Elements of the summed dimension.
    fn summed(&self) -> usize {
        if self.transposed { self.weight.rows } else { self.weight.columns }
    }

    /// Columns of the result.
    fn out(&self) -> usize {
        if self.transposed { self.weight.columns } else { self.weight.rows }
    }
}

/// Where the operands of rows lie that are summed from `first` on: part after part of the summed dimension, in each row
/// after row.
fn part(rows: usize, summed: usize, first: usize) -> (usize, usize) {
    (rows * first, SUMMED.min(summed - first))
}

/// A task packs a row of operands.
struct Packing<'a, 'm> {
    many: &'m Many<'a>,
    tokens: Range<usize>,
    rows: usize,
    to: Shared<'m, f32>,
}

impl Task for Packing<'_, '_> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, row: usize) {
        let summed = self.many.summed();
        for first in (0..summed).step_by(SUMMED) {
            let (start, len) = part(self.rows, summed, first);
            // SAFETY: no other task has this row.
            let to = unsafe { self.to.part(start + row * len, len) };
            self.many.x.copy((self.tokens.start + row) * summed + first, to);
        }
    }
}

struct Call<'a, 'm> {
    isa: Isa,
    many: &'m Many<'a>,
    tokens: Range<usize>,
    rows: usize,
    operands: &'m Buffer,
    for_each: ForEach<'m>,
}

impl WithForm for Call<'_, '_> {
    unsafe fn call<F: Stored>(self) -> Result<(), String> {
        let Call { isa, many, tokens, rows, operands, for_each } = self;
        let task = Block::<F> { many, tokens, rows, operands, form: PhantomData };
        // SAFETY: the caller's.
        unsafe { run(isa, &task, many.out().div_ceil(COLUMNS), for_each) };
        Ok(())
    }
}

/// A task is [`COLUMNS`] of the result.
struct Block<'a, 'm, F> {
    many: &'m Many<'a>,
    /// The rows of operands, and their number with what is missing to whole tiles.
    tokens: Range<usize>,
    rows: usize,
    operands: &'m Buffer,
    form: PhantomData<F>,
}

impl<F: Stored> Task for Block<'_, '_, F> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let (summed, out) = (self.many.summed(), self.many.out());
        let columns = index * COLUMNS..out.min((index + 1) * COLUMNS);
        let width = columns.len().next_multiple_of(LANES);
        let mut packed = Buffer::zeros(SUMMED * width);
        let mut sums = Buffer::zeros(self.rows * width);
        for first in (0..summed).step_by(SUMMED) {
            let (start, len) = part(self.rows, summed, first);
            let operands = &self.operands[start..][..self.rows * len];
            // SAFETY: the caller's; the columns and what is summed are the weight's.
            unsafe {
                if self.many.transposed {
                    self.pack_rows::<S>(&mut packed, columns.clone(), first..first + len);
                } else {
                    self.pack_columns::<S>(&mut packed, columns.clone(), first..first + len);
                }
                let sizes = [self.rows, width, len];
                match first {
                    0 => Single::product::<S, false>(sizes, operands, &packed, &mut sums, width),
                    _ => Single::product::<S, true>(sizes, operands, &packed, &mut sums, width),
                }
            }
        }
        for (row, token) in self.tokens.clone().enumerate() {
            let (sums, at) = (&sums[row * width..][..width], token * out + columns.start);
            // SAFETY: no other task has these columns; the rest is the caller's.
            unsafe {
                match &self.many.output {
                    SharedOutput::F32(output) => write_row::<S, f32>(output.part(at, columns.len()), sums, 1.0),
                    SharedOutput::Bf16(output) => write_row::<S, half::bf16>(output.part(at, columns.len()), sums, 1.0),
                }
            }
        }
    }
}

impl<F: Stored> Block<'_, '_, F> {
    /// Packs columns of the result of a weight `[in, out]`: parts of its rows.
    ///
    /// # Safety
    /// That of [`Simd`]; the columns and what is summed are the weight's.
    #[inline(always)]
    unsafe fn pack_rows<S: Simd>(&self, to: &mut [f32], columns: Range<usize>, summed: Range<usize>) {
        let weight = &self.many.weight;
        let width = columns.len().next_multiple_of(LANES);
        for (k, row) in summed.clone().enumerate() {
            for column in (0..width).step_by(LANES) {
                let count = LANES.min(columns.len() - column);
                let from = &weight.bytes[F::FORM.bytes(row * weight.columns + columns.start + column)..];
                // SAFETY: as many elements are there; the rest is the caller's.
                unsafe {
                    let x = load::<S, F>(&from[..F::FORM.bytes(count)])[0];
                    S::store(place::<S>(to, summed.len(), width, k, column), x);
                }
            }
        }
    }

    /// Packs columns of the result of a weight `[out, in]`, which are its rows.
    ///
    /// # Safety
    /// That of [`Simd`]; the columns and what is summed are the weight's.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn pack_columns<S: Simd>(&self, to: &mut [f32], columns: Range<usize>, summed: Range<usize>) {
        let weight = &self.many.weight;
        let width = columns.len().next_multiple_of(LANES);
        let (vectors, step) = (F::VECTORS, F::VECTORS * LANES);
        for column in (0..width).step_by(LANES) {
            for k in (0..summed.len()).step_by(step) {
                let count = step.min(summed.len() - k);
                // SAFETY: elements of rows that are there are read, places for words that are there are written; the rest is
                // the caller's.
                unsafe {
                    let mut words = [[S::splat(0.0); LANES]; 2];
                    for lane in 0..LANES.min(columns.len() - column) {
                        let row = columns.start + column + lane;
                        let at = F::FORM.bytes(row * weight.columns + summed.start + k);
                        let from = &weight.bytes[at..][..F::FORM.bytes(count)];
                        let mut x = load::<S, F>(from);
                        if let Some(groups) = &weight.groups {
                            let group = row * weight.num_groups() + (summed.start + k) / groups.size;
                            x = elements::<S>(x, groups, group);
                        }
                        for v in 0..vectors {
                            words[v][lane] = x[v];
                        }
                    }
                    for v in 0..vectors {
                        let transposed = S::transpose(words[v]);
                        for lane in 0..LANES {
                            let k = lane * vectors + v + k;
                            if k < summed.len() {
                                S::store(place::<S>(to, summed.len(), width, k, column), transposed[lane]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The place of sixteen columns from `column` on, of word `k` of `words`, in panels of as many columns as a product takes.
#[inline(always)]
fn place<S: Simd>(to: &mut [f32], words: usize, width: usize, k: usize, column: usize) -> *mut f32 {
    let panel = panel::<S>();
    let first = column / panel * panel;
    let at = first * words + k * panel.min(width - first) + (column - first);
    to[at..][..LANES].as_mut_ptr()
}

/// A step's elements, or as many as there are and zeros behind them.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn load<S: Simd, F: Stored>(from: &[u8]) -> [S::V; 2] {
    let mut padded = [0u8; 4 * LANES];
    let from = if from.len() < F::BYTES {
        padded[..from.len()].copy_from_slice(from);
        &padded
    } else {
        from
    };
    // SAFETY: there are the bytes of a step.
    unsafe { F::load::<S>(from.as_ptr()) }
}

/// What codes of a group mean.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn elements<S: Simd>(codes: [S::V; 2], groups: &Groups<'_>, group: usize) -> [S::V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let scale = S::splat(groups.scales.get(group));
        let [zero, bias] = match &groups.offset {
            Offset::None => [0.0, 0.0],
            Offset::Zeros(zeros) => [f32::from(zeros[group]), 0.0],
            Offset::Biases(biases) => [0.0, biases.get(group)],
        };
        let (zero, bias) = (S::splat(zero), S::splat(bias));
        let [a, b] = codes;
        [S::mul_add(S::sub(a, zero), scale, bias), S::mul_add(S::sub(b, zero), scale, bias)]
    }
}
