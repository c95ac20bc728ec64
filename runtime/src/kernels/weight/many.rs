//! Products of many rows with a weight, which are bound by computing: some rows of the result's columns at a time are read
//! from the form in which the weight is stored and packed as words, and multiplied with all rows of operands while they lie
//! in the cache (Goto and van de Geijn 2008).
//!
//! Words are f32, also of bf16, which it holds exactly, or pairs of bf16 where the processor multiplies those faster: see
//! [`Isa::has_fast_pairs`]. What codes mean is rounded to bf16 then.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::pack::{Pack, write_row};
use super::super::product::{Pair, Single, panel};
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{Buffer, ForEach, Shared, Task, run};
use super::stored::{Stored, WithForm, with_form};
use super::{Floats, Form, Groups, Offset, SharedOutput, Weight};

/// Columns of the result in a task.
const COLUMNS: usize = 64;

/// Words of the summed dimension in one go: with [`COLUMNS`], 32 KiB of a first-level cache.
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
    /// Whether words may be pairs of bf16: operands are, and weights, or they are codes.
    pub(super) fn fits_pairs(&self) -> bool {
        matches!(self.x, Floats::Bf16(_)) && (self.weight.form == Form::Bf16 || self.weight.form.is_code())
    }

    /// Computes it with this instruction set, which the processor must have; with words of pairs, if they fit, where the
    /// instruction set has them.
    pub(super) fn run(&self, isa: Isa, pairs: bool, for_each: ForEach<'_>) {
        if pairs { self.by_words::<Pair>(isa, for_each) } else { self.by_words::<Single>(isa, for_each) }
    }

    fn by_words<P: Pack + Send + Sync>(&self, isa: Isa, for_each: ForEach<'_>) {
        let words = self.summed().div_ceil(P::PER_WORD);
        for first in (0..self.tokens).step_by(MOST_ROWS) {
            let tokens = first..self.tokens.min(first + MOST_ROWS);
            let rows = tokens.len().next_multiple_of(P::ROWS);
            let mut operands = Buffer::zeros(rows * words);
            let to = Shared::new(&mut operands);
            let packing = Packing::<P> { many: self, tokens: tokens.clone(), rows, to, words: PhantomData };
            // SAFETY: the processor has the instructions; a task writes the words of its own row of operands.
            unsafe { run(isa, &packing, tokens.len(), for_each) };
            let call = Call::<P> { isa, many: self, tokens, rows, operands: &operands, for_each, words: PhantomData };
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

/// Where the operands of rows lie that are summed from word `first` on: part after part of the summed dimension, in each row
/// after row.
fn part(rows: usize, words: usize, first: usize) -> (usize, usize) {
    (rows * first, SUMMED.min(words - first))
}

/// A task packs a row of operands.
struct Packing<'a, 'm, P> {
    many: &'m Many<'a>,
    tokens: Range<usize>,
    rows: usize,
    to: Shared<'m, f32>,
    words: PhantomData<P>,
}

impl<P: Pack + Send + Sync> Task for Packing<'_, '_, P> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, row: usize) {
        let summed = self.many.summed();
        let words = summed.div_ceil(P::PER_WORD);
        for first in (0..words).step_by(SUMMED) {
            let (start, len) = part(self.rows, words, first);
            // SAFETY: no other task has this row.
            let to = unsafe { self.to.part(start + row * len, len) };
            let elements = first * P::PER_WORD..summed.min((first + len) * P::PER_WORD);
            let at = (self.tokens.start + row) * summed + elements.start;
            match self.many.x {
                Floats::Bf16(x) => P::along(to, &x[at..][..elements.len()]),
                x @ (Floats::F32(_) | Floats::F16(_)) => x.copy(at, to),
            }
        }
    }
}

struct Call<'a, 'm, P> {
    isa: Isa,
    many: &'m Many<'a>,
    tokens: Range<usize>,
    rows: usize,
    operands: &'m Buffer,
    for_each: ForEach<'m>,
    words: PhantomData<P>,
}

impl<P: Pack + Send + Sync> WithForm for Call<'_, '_, P> {
    unsafe fn call<F: Stored>(self) -> Result<(), String> {
        let Call { isa, many, tokens, rows, operands, for_each, words } = self;
        let task = Block::<F, P> { many, tokens, rows, operands, form: PhantomData, words };
        // SAFETY: the caller's.
        unsafe { run(isa, &task, many.out().div_ceil(COLUMNS), for_each) };
        Ok(())
    }
}

/// A task is [`COLUMNS`] of the result.
struct Block<'a, 'm, F, P> {
    many: &'m Many<'a>,
    /// The rows of operands, and their number with what is missing to whole tiles.
    tokens: Range<usize>,
    rows: usize,
    operands: &'m Buffer,
    form: PhantomData<F>,
    words: PhantomData<P>,
}

impl<F: Stored, P: Pack + Send + Sync> Task for Block<'_, '_, F, P> {
    const PAIRS: bool = P::PER_WORD == 2;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let (summed, out) = (self.many.summed(), self.many.out());
        let words = summed.div_ceil(P::PER_WORD);
        let columns = index * COLUMNS..out.min((index + 1) * COLUMNS);
        let width = columns.len().next_multiple_of(LANES);
        let mut packed = Buffer::zeros(SUMMED * width);
        let mut sums = Buffer::zeros(self.rows * width);
        for first in (0..words).step_by(SUMMED) {
            let (start, len) = part(self.rows, words, first);
            let operands = &self.operands[start..][..self.rows * len];
            let elements = first * P::PER_WORD..summed.min((first + len) * P::PER_WORD);
            // SAFETY: the caller's; the columns and what is summed are the weight's.
            unsafe {
                if self.many.transposed {
                    self.pack_rows::<S>(&mut packed, columns.clone(), elements);
                } else {
                    self.pack_columns::<S>(&mut packed, columns.clone(), elements);
                }
                let sizes = [self.rows, width, len];
                match first {
                    0 => P::product::<S, false>(sizes, operands, &packed, &mut sums, width),
                    _ => P::product::<S, true>(sizes, operands, &packed, &mut sums, width),
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

impl<F: Stored, P: Pack> Block<'_, '_, F, P> {
    /// Packs columns of the result of a weight `[in, out]`: parts of its rows.
    ///
    /// # Safety
    /// That of [`Simd`]; the columns and what is summed are the weight's.
    #[inline(always)]
    unsafe fn pack_rows<S: Simd>(&self, to: &mut [f32], columns: Range<usize>, summed: Range<usize>) {
        let weight = &self.many.weight;
        let (width, words) = (columns.len().next_multiple_of(LANES), summed.len().div_ceil(P::PER_WORD));
        for k in 0..words {
            let row = summed.start + k * P::PER_WORD;
            for column in (0..width).step_by(LANES) {
                let count = LANES.min(columns.len() - column);
                let elements = |row: usize| {
                    let from = &weight.bytes[F::FORM.bytes(row * weight.columns + columns.start + column)..];
                    // SAFETY: as many elements are there; the rest is the caller's. The same holds below.
                    unsafe { load::<S, F>(&from[..F::FORM.bytes(count)])[0] }
                };
                // SAFETY: as above.
                unsafe {
                    let x = match (P::PER_WORD, row + 1 < summed.end) {
                        (1, _) => elements(row),
                        (_, true) => S::narrow_pairs(elements(row), elements(row + 1)),
                        (_, false) => S::narrow_pairs(elements(row), S::splat(0.0)),
                    };
                    S::store(place::<S>(to, words, width, k, column), x);
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
        let (width, words) = (columns.len().next_multiple_of(LANES), summed.len().div_ceil(P::PER_WORD));
        // Of words of pairs one vector at a time, of others as many as the form gives at once.
        let (vectors, step) = if P::PER_WORD == 2 { (1, 2 * LANES) } else { (F::VECTORS, F::VECTORS * LANES) };
        for column in (0..width).step_by(LANES) {
            for k in (0..summed.len()).step_by(step) {
                let elements = summed.start + k..summed.end.min(summed.start + k + step);
                // SAFETY: elements of rows that are there are read, places for words that are there are written; the rest is
                // the caller's.
                unsafe {
                    let mut block = [[S::splat(0.0); LANES]; 2];
                    for lane in 0..LANES.min(columns.len() - column) {
                        let row = columns.start + column + lane;
                        let x = match P::PER_WORD {
                            2 => [self.pairs::<S>(row, elements.clone()); 2],
                            _ => self.elements::<S>(row, elements.clone()),
                        };
                        for v in 0..vectors {
                            block[v][lane] = x[v];
                        }
                    }
                    for v in 0..vectors {
                        let transposed = S::transpose(block[v]);
                        for lane in 0..LANES {
                            let word = lane * vectors + v + k / P::PER_WORD;
                            if word < words {
                                S::store(place::<S>(to, words, width, word, column), transposed[lane]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// At most a step's elements of a row of the weight, with zeros behind them; in the order of [`Stored::load`].
    ///
    /// # Safety
    /// That of [`Simd`]; the elements are the weight's, and of one group.
    #[inline(always)]
    unsafe fn elements<S: Simd>(&self, row: usize, elements: Range<usize>) -> [S::V; 2] {
        let weight = &self.many.weight;
        let from = &weight.bytes[F::FORM.bytes(row * weight.columns + elements.start)..];
        // SAFETY: the caller's.
        unsafe {
            let x = load::<S, F>(&from[..F::FORM.bytes(elements.len())]);
            match &weight.groups {
                Some(groups) => meant::<S>(x, groups, row * weight.num_groups() + elements.start / groups.size),
                None => x,
            }
        }
    }

    /// At most 32 elements of a row of the weight as pairs of bf16, with zeros behind them.
    ///
    /// # Safety
    /// As [`Block::elements`]; elements of a step are of one group.
    #[inline(always)]
    unsafe fn pairs<S: Simd>(&self, row: usize, elements: Range<usize>) -> S::V {
        let weight = &self.many.weight;
        let mut words = [0.0f32; LANES];
        // SAFETY: the caller's; the array has room for 32 bf16.
        unsafe {
            if F::FORM == Form::Bf16 {
                // They are what is stored.
                let bytes = F::FORM.bytes(elements.len());
                let from = &weight.bytes[F::FORM.bytes(row * weight.columns + elements.start)..][..bytes];
                if elements.len() == 2 * LANES {
                    return S::load(from.as_ptr().cast());
                }
                from.as_ptr().copy_to_nonoverlapping(words.as_mut_ptr().cast(), bytes);
            } else if F::VECTORS == 2 {
                let [even, odd] = self.elements::<S>(row, elements);
                return S::narrow_pairs(even, odd);
            } else {
                let middle = elements.end.min(elements.start + LANES);
                let to = words.as_mut_ptr().cast::<u16>();
                S::narrow(to, self.elements::<S>(row, elements.start..middle)[0]);
                if middle < elements.end {
                    S::narrow(to.add(LANES), self.elements::<S>(row, middle..elements.end)[0]);
                }
            }
            S::load(words.as_ptr())
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
unsafe fn meant<S: Simd>(codes: [S::V; 2], groups: &Groups<'_>, group: usize) -> [S::V; 2] {
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
