//! Products with a weight `[out, in]`: a sum along each of its rows.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::pack::Pack;
use super::super::simd::{LANES, Simd};
use super::super::task::Task;
use super::stored::Stored;
use super::{Floats, Groups, Offset, Planes, SharedOutput, Weight};

/// Rows of a weight that are taken together, so that operands are read from the cache once for all of them.
const BLOCK: usize = 4;

/// Rows of operands that are taken together.
const TOKENS: usize = 4;

/// How far behind a block of rows the cache is asked for the next ones, in bytes.
const AHEAD: usize = 8 << 10;

/// Asks the cache for a weight before it is needed: rows are too short for the processor to foresee the next ones. Rows of a
/// block are read side by side, but memory is asked for line after line, as they lie in it, which it answers a fifth faster.
pub(super) struct Ahead(*const u8);

impl Ahead {
    /// For `R` rows of the weight from this one on.
    #[inline(always)]
    pub(super) fn new<const R: usize>(rows: &Rows<'_>, row: usize) -> Ahead {
        let block = R * rows.weight.form.bytes(rows.weight.columns);
        Ahead(rows.row(row).wrapping_add(block + AHEAD))
    }

    /// Asks for as many bytes as the rows' next steps together read.
    #[inline(always)]
    pub(super) fn ask<S: Simd>(&mut self, bytes: usize) {
        // SAFETY: whoever reads the weight keeps the contract of `Simd`; nothing is read that the program sees.
        unsafe { S::prefetch_bytes(self.0, bytes) };
        self.0 = self.0.wrapping_add(bytes);
    }
}

/// A product, divided into tasks of some rows of the weight.
pub(super) struct Rows<'a> {
    /// Rows of operands.
    tokens: usize,
    pub(super) weight: Weight<'a>,
    output: SharedOutput<'a>,
    rows_per_task: usize,
}

impl<'a> Rows<'a> {
    /// With tasks of about so many bytes of the weight.
    pub(super) fn new(tokens: usize, weight: Weight<'a>, output: SharedOutput<'a>, task_bytes: usize) -> Rows<'a> {
        let bytes = weight.form.bytes(weight.columns).max(1);
        let rows_per_task = (task_bytes / bytes).next_multiple_of(BLOCK).max(BLOCK);
        Rows { tokens, weight, output, rows_per_task }
    }

    fn num_tasks(&self) -> usize {
        self.weight.rows.div_ceil(self.rows_per_task)
    }

    /// The rows of the weight of a task, as many as are taken together at a time.
    #[inline(always)]
    fn blocks(&self, task: usize) -> impl Iterator<Item = Range<usize>> {
        let first = task * self.rows_per_task;
        let end = self.weight.rows.min(first + self.rows_per_task);
        (first..end).step_by(BLOCK).map(move |row| row..end.min(row + BLOCK))
    }

    /// The start of a row of the weight.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> *const u8 {
        let bytes = self.weight.form.bytes(self.weight.columns);
        self.weight.bytes[row * bytes..][..bytes].as_ptr()
    }

    /// Writes the sums of these rows with these rows of operands, as many as there are of each.
    ///
    /// # Safety
    /// That of [`Simd`]; no other thread writes these results.
    #[inline(always)]
    unsafe fn write<S: Simd, const R: usize, const M: usize>(
        &self,
        acc: [[S::V; M]; R],
        rows: Range<usize>,
        tokens: Range<usize>,
    ) {
        for (r, acc) in acc.into_iter().enumerate().take(rows.len()) {
            for (m, acc) in acc.into_iter().enumerate().take(tokens.len()) {
                let at = (tokens.start + m) * self.weight.rows + rows.start + r;
                // SAFETY: the caller's.
                unsafe { self.output.write(at, S::sum(acc)) };
            }
        }
    }
}

/// [`Rows`] of a form.
pub(super) struct RowsOf<'a, 'p, F, const PAIRS: bool> {
    pub(super) rows: &'a Rows<'p>,
    pub(super) planes: &'a Planes,
    pub(super) form: PhantomData<F>,
}

/// What sums up rows of a weight with rows of operands, as [`ByBlocks`] takes them.
pub(super) trait Sums: Sync {
    /// That of [`Task`].
    const PAIRS: bool;

    /// The product.
    fn rows(&self) -> &Rows<'_>;

    /// The sums of these rows of the weight with these rows of operands, a lane each for a part.
    ///
    /// # Safety
    /// That of [`Simd`]; rows and tokens are there.
    unsafe fn sums<S: Simd, W: Pack, const R: usize, const M: usize>(
        &self,
        rows: [usize; R],
        tokens: [usize; M],
    ) -> [[S::V; M]; R];
}

/// Products of several weights. A task is some rows of one of them with all rows of operands.
pub(super) struct ByBlocks<T>(pub(super) Vec<T>);

impl<T: Sums> ByBlocks<T> {
    pub(super) fn num_tasks(&self) -> usize {
        self.0.iter().map(|sums| sums.rows().num_tasks()).sum()
    }
}

impl<T: Sums> Task for ByBlocks<T> {
    const PAIRS: bool = T::PAIRS;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let mut index = index;
        for sums in &self.0 {
            let rows = sums.rows();
            if index >= rows.num_tasks() {
                index -= rows.num_tasks();
                continue;
            }
            for block in rows.blocks(index) {
                for token in (0..rows.tokens).step_by(TOKENS) {
                    // SAFETY: the caller's; rows and tokens are those that there are.
                    unsafe {
                        match rows.tokens - token {
                            1 => sum_up::<T, S, W, BLOCK, 1>(sums, block.clone(), token),
                            2 => sum_up::<T, S, W, BLOCK, 2>(sums, block.clone(), token),
                            // More accumulators than that do not fit the registers.
                            _ => sum_up::<T, S, W, 2, TOKENS>(sums, block.clone(), token),
                        }
                    }
                }
            }
            return;
        }
    }
}

/// These rows with `M` rows of operands from `token` on, `R` rows at a time. Where there are fewer of either, the last one
/// is taken again.
///
/// # Safety
/// That of [`Simd`]; the first row of each is there, and no other thread writes their results.
#[inline(always)]
unsafe fn sum_up<T: Sums, S: Simd, W: Pack, const R: usize, const M: usize>(
    sums: &T,
    rows: Range<usize>,
    token: usize,
) {
    let last = sums.rows().tokens - 1;
    let tokens: [usize; M] = std::array::from_fn(|m| last.min(token + m));
    for row in rows.clone().step_by(R) {
        let block: [usize; R] = std::array::from_fn(|r| (rows.end - 1).min(row + r));
        // SAFETY: the caller's.
        unsafe {
            let acc = sums.sums::<S, W, R, M>(block, tokens);
            sums.rows().write::<S, R, M>(acc, row..rows.end, token..last + 1);
        }
    }
}

impl<F: Stored, const PAIRS: bool> Sums for RowsOf<'_, '_, F, PAIRS> {
    const PAIRS: bool = PAIRS;

    #[inline(always)]
    fn rows(&self) -> &Rows<'_> {
        self.rows
    }

    #[inline(always)]
    unsafe fn sums<S: Simd, W: Pack, const R: usize, const M: usize>(
        &self,
        rows: [usize; R],
        tokens: [usize; M],
    ) -> [[S::V; M]; R] {
        // SAFETY: the caller's; a weight of codes has groups.
        unsafe {
            match &self.rows.weight.groups {
                Some(groups) if F::FORM.is_code() => self.grouped::<S, W, R, M>(rows, tokens, groups),
                Some(_) | None => self.plain::<S, W, R, M>(rows, tokens),
            }
        }
    }
}

impl<F: Stored, const PAIRS: bool> RowsOf<'_, '_, F, PAIRS> {
    /// Elements of a step.
    const fn step_elements<W: Pack>() -> usize {
        if W::PER_WORD == 2 { 2 * LANES } else { F::VECTORS * LANES }
    }

    /// The start of a row of operands.
    #[inline(always)]
    fn operands(&self, token: usize) -> *const f32 {
        let planes = self.planes;
        planes.words[token * planes.width..][..planes.width].as_ptr()
    }

    /// `acc[r][m] += w[r] * x[m]` for the step at these places.
    ///
    /// # Safety
    /// That of [`Simd`]; the pointers are valid for a step.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn step<S: Simd, W: Pack, const R: usize, const M: usize>(
        (w, w_at): (&[*const u8; R], usize),
        (x, x_at): (&[*const f32; M], usize),
        acc: &mut [[S::V; M]; R],
    ) {
        // Loops over indices, whose arrays the compiler keeps in registers.
        // SAFETY: the caller's.
        unsafe {
            for r in 0..R {
                if W::PER_WORD == 2 {
                    let w = F::load_pairs::<S>(w[r].add(w_at));
                    for m in 0..M {
                        acc[r][m] = S::dot_pairs(w, S::load(x[m].add(x_at)), acc[r][m]);
                    }
                } else {
                    let w = F::load::<S>(w[r].add(w_at));
                    for m in 0..M {
                        acc[r][m] = S::mul_add(w[0], S::load(x[m].add(x_at)), acc[r][m]);
                        if F::VECTORS == 2 {
                            acc[r][m] = S::mul_add(w[1], S::load(x[m].add(x_at + LANES)), acc[r][m]);
                        }
                    }
                }
            }
        }
    }

    /// `R` rows without groups with `M` rows of operands.
    ///
    /// # Safety
    /// That of [`Sums::sums`].
    #[inline(always)]
    unsafe fn plain<S: Simd, W: Pack, const R: usize, const M: usize>(
        &self,
        rows: [usize; R],
        tokens: [usize; M],
    ) -> [[S::V; M]; R] {
        if F::FORM.is_code() {
            unreachable!("codes have groups");
        }
        let (w, x) = (rows.map(|row| self.rows.row(row)), tokens.map(|token| self.operands(token)));
        let step = Self::step_elements::<W>();
        let (step_words, step_bytes) = (step / W::PER_WORD, F::FORM.bytes(step));
        let (steps, rest) = (self.rows.weight.columns / step, self.rows.weight.columns % step);
        // SAFETY: rows have `steps` whole steps and `rest` elements; operands are padded to a whole step.
        unsafe {
            let mut acc = [[S::splat(0.0); M]; R];
            let mut ahead = Ahead::new::<R>(self.rows, rows[0]);
            for i in 0..steps {
                ahead.ask::<S>(R * step_bytes);
                Self::step::<S, W, R, M>((&w, i * step_bytes), (&x, i * step_words), &mut acc);
            }
            if rest > 0 {
                let mut padded = [[0u8; 4 * LANES]; R];
                for (w, padded) in w.iter().zip(&mut padded) {
                    let bytes = F::FORM.bytes(rest);
                    padded[..bytes].copy_from_slice(std::slice::from_raw_parts(w.add(steps * step_bytes), bytes));
                }
                let w = std::array::from_fn(|r| padded[r].as_ptr());
                Self::step::<S, W, R, M>((&w, 0), (&x, steps * step_words), &mut acc);
            }
            acc
        }
    }

    /// `R` rows with groups with `M` rows of operands.
    ///
    /// # Safety
    /// That of [`Sums::sums`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "arrays stay in registers")]
    unsafe fn grouped<S: Simd, W: Pack, const R: usize, const M: usize>(
        &self,
        rows: [usize; R],
        tokens: [usize; M],
        groups: &Groups<'_>,
    ) -> [[S::V; M]; R] {
        let (w, x) = (rows.map(|row| self.rows.row(row)), tokens.map(|token| self.operands(token)));
        let planes = self.planes;
        let num_groups = self.rows.weight.num_groups();
        let step = Self::step_elements::<W>();
        let (step_words, step_bytes) = (step / W::PER_WORD, F::FORM.bytes(step));
        let steps = groups.size / step;
        // SAFETY: a row of the weight and of operands has `num_groups` times `steps` steps, and sums are whole vectors.
        unsafe {
            let mut acc = [[S::splat(0.0); M]; R];
            let mut ahead = Ahead::new::<R>(self.rows, rows[0]);
            let (mut w_at, mut x_at) = (0, 0);
            for first in (0..num_groups).step_by(LANES) {
                let number = LANES.min(num_groups - first);
                let mut scales = [[0.0f32; LANES]; R];
                for r in 0..R {
                    let at = rows[r] * num_groups + first;
                    let scale = read::<S>(&groups.scales, at, number);
                    S::store(scales[r].as_mut_ptr(), scale);
                    let offset = match &groups.offset {
                        Offset::None => continue,
                        Offset::Zeros(zeros) => {
                            let zeros = read_bytes::<S>(zeros, at, number);
                            S::mul(scale, S::sub(S::splat(0.0), zeros))
                        }
                        Offset::Biases(biases) => read::<S>(biases, at, number),
                    };
                    for m in 0..M {
                        let sums = planes.sums[tokens[m] * planes.groups + first..][..LANES].as_ptr();
                        acc[r][m] = S::mul_add(offset, S::load(sums), acc[r][m]);
                    }
                }
                for g in 0..number {
                    ahead.ask::<S>(R * steps * step_bytes);
                    let mut partial = [[S::splat(0.0); M]; R];
                    for _ in 0..steps {
                        Self::step::<S, W, R, M>((&w, w_at), (&x, x_at), &mut partial);
                        (w_at, x_at) = (w_at + step_bytes, x_at + step_words);
                    }
                    for r in 0..R {
                        let scale = S::splat(scales[r][g]);
                        for m in 0..M {
                            acc[r][m] = S::mul_add(partial[r][m], scale, acc[r][m]);
                        }
                    }
                }
            }
            acc
        }
    }
}

/// `number` floats from `at` on, zeros behind them.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(super) unsafe fn read<S: Simd>(floats: &Floats<'_>, at: usize, number: usize) -> S::V {
    // SAFETY: the slices that are cut out have a vector's elements.
    unsafe {
        if number == LANES {
            match floats {
                Floats::F32(x) => S::load(x[at..][..LANES].as_ptr()),
                Floats::Bf16(x) => S::load_bf16(x[at..][..LANES].as_ptr().cast()),
                Floats::F16(x) => S::load_f16(x[at..][..LANES].as_ptr().cast()),
            }
        } else {
            let mut padded = [0.0; LANES];
            for (i, to) in padded.iter_mut().enumerate().take(number) {
                *to = floats.get(at + i);
            }
            S::load(padded.as_ptr())
        }
    }
}

/// `number` bytes from `at` on, zeros behind them.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(super) unsafe fn read_bytes<S: Simd>(bytes: &[u8], at: usize, number: usize) -> S::V {
    let mut padded = [0; LANES];
    padded[..number].copy_from_slice(&bytes[at..][..number]);
    // SAFETY: the array has a vector's elements.
    unsafe { S::load_u8(padded.as_ptr()) }
}
