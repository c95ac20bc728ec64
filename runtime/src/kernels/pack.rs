//! Rows of the operands as words for [`super::product`].

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::product::TilePair;
use super::product::{Pair, Single, Words, panel};
use super::simd::{LANES, Simd};

/// What the operands and results are stored as.
pub(crate) trait Element: Copy + Send + Sync {
    /// Whether it is bf16, so that pairs in a word lose nothing.
    const IS_BF16: bool;

    fn to_f32(self) -> f32;
    fn bf16_bits(self) -> u32;

    /// Reads 16 elements.
    ///
    /// # Safety
    /// That of [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;

    /// Writes 16 elements.
    ///
    /// # Safety
    /// That of [`Simd::store`].
    unsafe fn store<S: Simd>(to: *mut Self, x: S::V);

    /// Writes 32 elements: in turn one of the first vector and one of the second.
    ///
    /// # Safety
    /// That of [`Simd::store`], for 32 elements.
    unsafe fn interleave<S: Simd>(to: *mut Self, x: [S::V; 2]);

    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    const IS_BF16: bool = false;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn bf16_bits(self) -> u32 {
        u32::from(bf16::from_f32(self).to_bits())
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut f32, x: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(to, x) }
    }
    #[inline(always)]
    unsafe fn interleave<S: Simd>(to: *mut f32, x: [S::V; 2]) {
        let mut vectors = [[0.0; LANES]; 2];
        // SAFETY: the arrays have a vector's elements; `to` is the caller's.
        unsafe {
            S::store(vectors[0].as_mut_ptr(), x[0]);
            S::store(vectors[1].as_mut_ptr(), x[1]);
            let turns: [f32; 2 * LANES] = std::array::from_fn(|i| vectors[i % 2][i / 2]);
            to.cast::<[f32; 2 * LANES]>().write_unaligned(turns);
        }
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
}

impl Element for bf16 {
    const IS_BF16: bool = true;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn bf16_bits(self) -> u32 {
        u32::from(self.to_bits())
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const bf16) -> S::V {
        // SAFETY: the caller's; a `bf16` is a `u16`.
        unsafe { S::load_bf16(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut bf16, x: S::V) {
        // SAFETY: the caller's; a `bf16` is a `u16`.
        unsafe { S::narrow(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn interleave<S: Simd>(to: *mut bf16, x: [S::V; 2]) {
        // SAFETY: the caller's; a pair of bf16 is a word.
        unsafe { S::store(to.cast(), S::narrow_pairs(x[0], x[1])) }
    }
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

/// Writes as many f32 of a row as there is room for as elements, each multiplied by `factor`.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn write_row<S: Simd, E: Element>(to: &mut [E], from: &[f32], factor: f32) {
    let vectors = to.len() / LANES;
    for v in 0..vectors {
        let at = v * LANES;
        let from = &from[at..][..LANES];
        let to = &mut to[at..][..LANES];
        // SAFETY: the slices have 16 elements.
        unsafe { E::store::<S>(to.as_mut_ptr(), S::mul(S::load(from.as_ptr()), S::splat(factor))) };
    }
    for (to, from) in to.iter_mut().zip(from).skip(vectors * LANES) {
        *to = E::from_f32(from * factor);
    }
}

/// Packing of elements to the words of a product.
pub(crate) trait Pack: Words {
    /// Words of `row`, along it; what is left of `to` becomes zero.
    fn along<E: Element>(to: &mut [f32], row: &[E]);

    /// Words across rows: word `n` has element `n` of each row. A missing row is zeros.
    fn across<E: Element>(to: &mut [f32], rows: [Option<&[E]>; 2]);
}

impl Pack for Single {
    #[inline(always)]
    fn along<E: Element>(to: &mut [f32], row: &[E]) {
        let (to, rest) = to.split_at_mut(row.len());
        for (to, x) in to.iter_mut().zip(row) {
            *to = x.to_f32();
        }
        rest.fill(0.0);
    }
    #[inline(always)]
    fn across<E: Element>(to: &mut [f32], rows: [Option<&[E]>; 2]) {
        match rows[0] {
            Some(row) => Self::along(to, row),
            None => to.fill(0.0),
        }
    }
}

impl Pack for Pair {
    #[inline(always)]
    fn along<E: Element>(to: &mut [f32], row: &[E]) {
        let (pairs, last) = row.as_chunks::<2>();
        let (to, rest) = to.split_at_mut(pairs.len());
        for (to, [low, high]) in to.iter_mut().zip(pairs) {
            *to = f32::from_bits(low.bf16_bits() | (high.bf16_bits() << 16));
        }
        rest.fill(0.0);
        if let (Some(to), [x]) = (rest.first_mut(), last) {
            *to = f32::from_bits(x.bf16_bits());
        }
    }
    #[inline(always)]
    fn across<E: Element>(to: &mut [f32], rows: [Option<&[E]>; 2]) {
        let Some(low) = rows[0] else { return to.fill(0.0) };
        let (to, rest) = to.split_at_mut(low.len());
        rest.fill(0.0);
        match rows[1] {
            Some(high) => {
                for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                    *to = f32::from_bits(low.bf16_bits() | (high.bf16_bits() << 16));
                }
            }
            None => {
                for (to, low) in to.iter_mut().zip(low) {
                    *to = f32::from_bits(low.bf16_bits());
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Pack for TilePair {
    #[inline(always)]
    fn along<E: Element>(to: &mut [f32], row: &[E]) {
        Pair::along(to, row);
    }
    #[inline(always)]
    fn across<E: Element>(to: &mut [f32], rows: [Option<&[E]>; 2]) {
        Pair::across(to, rows);
    }
}

/// A matrix of words, transposed: `to[c * rows + r] = from[r * columns + c]`.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(from: &[f32], [rows, columns]: [usize; 2], to: &mut [f32]) {
    let (from, to) = (&from[..rows * columns], &mut to[..rows * columns]);
    let (whole_rows, whole_columns) = (rows / LANES * LANES, columns / LANES * LANES);
    for r in (0..whole_rows).step_by(LANES) {
        for c in (0..whole_columns).step_by(LANES) {
            // SAFETY: the slices have 16 elements; the rest is the caller's.
            unsafe {
                let mut block = [S::splat(0.0); LANES];
                for (i, row) in block.iter_mut().enumerate() {
                    *row = S::load(from[(r + i) * columns + c..][..LANES].as_ptr());
                }
                for (i, column) in S::transpose(block).into_iter().enumerate() {
                    S::store(to[(c + i) * rows + r..][..LANES].as_mut_ptr(), column);
                }
            }
        }
    }
    for r in 0..rows {
        for c in if r < whole_rows { whole_columns } else { 0 }..columns {
            to[c * rows + r] = from[r * columns + c];
        }
    }
}

/// One head of one sequence: `len` rows of `width` elements, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, E> {
    pub(crate) elements: &'a [E],
    pub(crate) start: usize,
    pub(crate) stride: usize,
    pub(crate) len: usize,
    pub(crate) width: usize,
}

impl<'a, E: Element> Rows<'a, E> {
    /// Row `t`, if there is one.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize) -> Option<&'a [E]> {
        (t < self.len).then(|| &self.elements[self.start + t * self.stride..][..self.width])
    }

    /// Rows `first ..` as a left operand, or as results transposed: row after row of `words` words, as many as fit.
    #[inline(always)]
    pub(crate) fn pack_left<W: Pack>(&self, to: &mut [f32], first: usize, words: usize) {
        for (r, to) in to.chunks_exact_mut(words).enumerate() {
            match self.row(first + r) {
                Some(row) => W::along(to, row),
                None => to.fill(0.0),
            }
        }
    }

    /// Rows `first ..` as a right operand that is summed over their width: each row is a column of the panels.
    /// `scratch` has room for a panel's columns as rows.
    ///
    /// # Safety
    /// That of [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn pack_columns<S: Simd, W: Pack>(
        &self,
        to: &mut [f32],
        scratch: &mut [f32],
        first: usize,
        columns: usize,
        words: usize,
    ) {
        let mut column = 0;
        while column < columns {
            let width = panel::<S>().min(columns - column);
            let rows = &mut scratch[..width * words];
            self.pack_left::<W>(rows, first + column, words);
            // SAFETY: the caller's.
            unsafe { transpose::<S>(rows, [width, words], &mut to[column * words..][..width * words]) };
            column += width;
        }
    }

    /// Rows `first ..` as a left operand that is summed over them: each row's element is a row, of `words` words of rows;
    /// `columns` is the width of a row and what is missing to the operand's rows. `scratch` has room for as much.
    ///
    /// # Safety
    /// That of [`Simd`].
    #[inline(always)]
    pub(crate) unsafe fn pack_left_across<S: Simd, W: Pack>(
        &self,
        to: &mut [f32],
        scratch: &mut [f32],
        first: usize,
        columns: usize,
        words: usize,
    ) {
        let rows = &mut scratch[..words * columns];
        for (k, to) in rows.chunks_exact_mut(columns).enumerate() {
            let t = first + k * W::PER_WORD;
            W::across(to, [self.row(t), if W::PER_WORD == 2 { self.row(t + 1) } else { None }]);
        }
        // SAFETY: the caller's.
        unsafe { transpose::<S>(rows, [words, columns], &mut to[..words * columns]) };
    }

    /// Rows `first ..` as a right operand that is summed over them, `words` words of rows; `columns` is the width of a
    /// row and what is missing to whole vectors.
    #[inline(always)]
    pub(crate) fn pack_right<S: Simd, W: Pack>(&self, to: &mut [f32], first: usize, columns: usize, words: usize) {
        let mut column = 0;
        while column < columns {
            let width = panel::<S>().min(columns - column);
            let to = &mut to[column * words..][..width * words];
            let end = (column + width).min(self.width);
            for (k, to) in to.chunks_exact_mut(width).enumerate() {
                let part = |t| self.row(t).map(|row| &row[column.min(end)..end]);
                let t = first + k * W::PER_WORD;
                W::across(to, [part(t), if W::PER_WORD == 2 { part(t + 1) } else { None }]);
            }
            column += width;
        }
    }
}
