//! Products with a weight `[in, out]`: multiples of its rows, added up.

use std::marker::PhantomData;

use super::super::pack::Pack;
use super::super::simd::{LANES, Simd};
use super::super::task::Task;
use super::stored::Stored;
use super::{Floats, SharedOutput, Weight};

/// Columns of a task: rows of a kilobyte, whose sums stay in the first-level cache.
const BLOCK: usize = 256;

/// Rows of the weight that are taken together, so that sums are read and written once for all of them.
const ROWS: usize = 4;

/// Rows of operands that are taken together.
const TOKENS: usize = 4;

/// A product, divided into tasks of some columns of the weight.
pub(super) struct Columns<'a> {
    tokens: usize,
    /// `[tokens, in]`, `in` a multiple of [`ROWS`]: zeros behind the last operand.
    operands: Vec<f32>,
    width: usize,
    weight: Weight<'a>,
    output: SharedOutput<'a>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(tokens: usize, x: Floats<'_>, weight: Weight<'a>, output: SharedOutput<'a>) -> Columns<'a> {
        let width = weight.rows.next_multiple_of(ROWS);
        let mut operands = vec![0.0; tokens * width];
        for (t, row) in operands.chunks_exact_mut(width.max(1)).enumerate() {
            x.copy(t * weight.rows, &mut row[..weight.rows]);
        }
        Columns { tokens, operands, width, weight, output }
    }

    pub(super) fn num_tasks(&self) -> usize {
        self.weight.columns.div_ceil(BLOCK)
    }
}

/// [`Columns`] of a form.
pub(super) struct ColumnsOf<'a, 'p, F> {
    pub(super) columns: &'a Columns<'p>,
    pub(super) form: PhantomData<F>,
}

impl<F: Stored> Task for ColumnsOf<'_, '_, F> {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let tokens = self.columns.tokens;
        for token in (0..tokens).step_by(TOKENS) {
            // SAFETY: the caller's; tokens are those that there are.
            unsafe {
                match tokens - token {
                    1 => self.block::<S, 1>(index * BLOCK, token),
                    _ => self.block::<S, TOKENS>(index * BLOCK, token),
                }
            }
        }
    }
}

impl<F: Stored> ColumnsOf<'_, '_, F> {
    /// The columns of a block with `M` rows of operands; where there are fewer, the last one is taken again.
    ///
    /// # Safety
    /// That of [`Simd`]; no other thread writes these results.
    #[inline(always)]
    unsafe fn block<S: Simd, const M: usize>(&self, first: usize, token: usize) {
        if F::FORM.is_code() {
            unreachable!("codes have groups");
        }
        let Columns { tokens, operands, width, weight, output } = self.columns;
        let (rows, columns) = (weight.rows, weight.columns);
        let end = columns.min(first + BLOCK);
        // A column that is not of a whole vector is read with what is before it, in its row or in a copy.
        let mut padded = [[0u8; 4 * LANES]; ROWS];
        let bytes = F::FORM.bytes(1);
        let mut acc = [[0.0f32; BLOCK]; M];
        for row in (0..rows).step_by(ROWS) {
            let x: [[f32; ROWS]; M] = std::array::from_fn(|m| {
                let token = (token + m).min(tokens - 1);
                std::array::from_fn(|i| operands[token * width + row + i])
            });
            for (v, column) in (first..end).step_by(LANES).enumerate() {
                let count = LANES.min(end - column);
                let mut w: [*const u8; ROWS] = [padded[0].as_ptr(); ROWS];
                for (i, (w, padded)) in w.iter_mut().zip(&mut padded).enumerate() {
                    if row + i >= rows {
                        padded.fill(0);
                        *w = padded.as_ptr();
                        continue;
                    }
                    let from = &weight.bytes[((row + i) * columns + column) * bytes..][..count * bytes];
                    if count == LANES {
                        *w = from.as_ptr();
                    } else {
                        padded[..from.len()].copy_from_slice(from);
                        *w = padded.as_ptr();
                    }
                }
                // SAFETY: a vector's bytes are there, in the row or in the copy; the rest is the caller's.
                unsafe {
                    let w = w.map(|w| F::load::<S>(w)[0]);
                    for (x, acc) in x.iter().zip(&mut acc) {
                        let to = acc[v * LANES..][..LANES].as_mut_ptr();
                        let mut sum = S::load(to);
                        for (x, w) in x.iter().zip(w) {
                            sum = S::mul_add(S::splat(*x), w, sum);
                        }
                        S::store(to, sum);
                    }
                }
            }
        }
        for (m, acc) in acc.iter().enumerate().take(tokens - token) {
            for (i, sum) in acc[..end - first].iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { output.write((token + m) * columns + first + i, *sum) };
            }
        }
    }
}
