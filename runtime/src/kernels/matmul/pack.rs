//! Operands of a product of matrices as tiles.

use std::arch::x86_64::*;

use half::bf16;

use super::super::amx::{BLOCK, Line, STEP, TILE};
use super::super::simd::{Avx512, Simd};

/// Which dimension of an operand has its elements side by side in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    /// The one that is summed.
    Summed,
    /// The one that the result keeps.
    Free,
}

/// The side of the product that an operand stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A matrix of `free` by `summed` elements without gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) elements: &'a [bf16],
    pub(crate) free: usize,
    pub(crate) summed: usize,
    pub(crate) major: Major,
}

impl Matrix<'_> {
    /// The tiles of one half of a block: the [`TILE`] rows of the free dimension from `free` on, `lines.len() / TILE` steps
    /// of the summed one from `summed` on. What lies outside of the matrix or at `end` or behind in the summed dimension is
    /// zeros.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn pack(&self, side: Side, free: usize, summed: usize, end: usize, lines: &mut [Line]) {
        let end = end.min(self.summed);
        for (step, tile) in lines.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            let summed = summed + step * STEP;
            // SAFETY: the caller's.
            let rows = unsafe {
                match self.major {
                    Major::Summed => self.rows(free, summed, end),
                    Major::Free => self.pairs(free, summed, end),
                }
            };
            let rows = match (side, self.major) {
                (Side::Left, Major::Summed) | (Side::Right, Major::Free) => rows,
                // SAFETY: the caller's.
                (Side::Left, Major::Free) | (Side::Right, Major::Summed) => unsafe { Avx512::<true>::transpose(rows) },
            };
            for (line, row) in tile.iter_mut().zip(rows) {
                // SAFETY: a line has 64 bytes, at an address that they divide.
                unsafe { _mm512_store_ps(line.0.as_mut_ptr().cast(), row) };
            }
        }
    }

    /// Of [`TILE`] rows, [`STEP`] elements each.
    ///
    /// # Safety
    /// As [`Matrix::pack`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn rows(&self, free: usize, summed: usize, end: usize) -> [__m512; TILE] {
        let mut rows = [_mm512_setzero_ps(); TILE];
        let inside = end.saturating_sub(summed).min(STEP);
        let mask = (((1u64 << inside) - 1) & 0xffff_ffff) as u32;
        for (r, row) in rows.iter_mut().enumerate() {
            if free + r < self.free && inside > 0 {
                let from = &self.elements[(free + r) * self.summed + summed..][..inside];
                // SAFETY: only elements of the slice are read.
                *row = _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(mask, from.as_ptr().cast()) });
            }
        }
        rows
    }

    /// Of [`TILE`] pairs of rows, [`TILE`] pairs each.
    ///
    /// # Safety
    /// As [`Matrix::pack`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn pairs(&self, free: usize, summed: usize, end: usize) -> [__m512; TILE] {
        let mut rows = [_mm512_setzero_ps(); TILE];
        let inside = self.free.saturating_sub(free).min(TILE);
        let mask = ((1u32 << inside) - 1) as u16;
        let part = |at: usize| {
            if at >= end || inside == 0 {
                return _mm512_setzero_si512();
            }
            let from = &self.elements[at * self.free + free..][..inside];
            // SAFETY: only elements of the slice are read.
            _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.as_ptr().cast()) })
        };
        for (r, row) in rows.iter_mut().enumerate() {
            let (low, high) = (part(summed + 2 * r), part(summed + 2 * r + 1));
            *row = _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)));
        }
        rows
    }
}

/// How many lines a block's tiles take for so many elements of the summed dimension.
pub(super) fn lines_of_block(summed: usize) -> usize {
    summed.div_ceil(STEP) * BLOCK
}
