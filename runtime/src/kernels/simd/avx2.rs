//! What [`Wide`](super::Wide) does by instructions of AVX2 that compilers do not find for its arrays.
//!
//! # Safety
//! Of all functions here: the processor has AVX2, and pointers are valid for what is read.

use std::arch::x86_64::*;

use super::LANES;

type Vector = [f32; LANES];

/// Two halves as an array.
#[inline(always)]
unsafe fn joined(halves: [__m256i; 2]) -> Vector {
    // SAFETY: as many bytes, and every bit pattern is valid.
    unsafe { std::mem::transmute::<[__m256i; 2], Vector>(halves) }
}

#[inline(always)]
unsafe fn halves(x: Vector) -> [__m256i; 2] {
    // SAFETY: as above.
    unsafe { std::mem::transmute::<Vector, [__m256i; 2]>(x) }
}

/// `Simd::load_i8_words`.
#[inline(always)]
pub(super) unsafe fn load_i8_words(from: *const u8) -> Vector {
    // SAFETY: the caller's, here and below.
    unsafe {
        let [low, high] = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(LANES).cast())];
        joined([_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)])
    }
}

/// `Simd::load_u8_words`.
#[inline(always)]
pub(super) unsafe fn load_u8_words(from: *const u8) -> Vector {
    // SAFETY: as above.
    unsafe {
        let [low, high] = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(LANES).cast())];
        joined([_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)])
    }
}

/// `Simd::dot_words`.
#[inline(always)]
pub(super) unsafe fn dot_words(a: Vector, b: Vector, c: Vector) -> Vector {
    // SAFETY: as above.
    unsafe {
        let ([a, b], c) = ([halves(a), halves(b)], halves(c));
        let first = _mm256_add_epi32(c[0], _mm256_madd_epi16(a[0], b[0]));
        let second = _mm256_add_epi32(c[1], _mm256_madd_epi16(a[1], b[1]));
        joined([first, second])
    }
}

/// `Simd::dot_nibbles`. A sum of four products is at most 4 * 15 * 128 and fits 16 bits.
#[inline(always)]
pub(super) unsafe fn dot_nibbles(a: [Vector; 2], b: [Vector; 2], c: Vector) -> Vector {
    // SAFETY: as above.
    unsafe {
        let (a, b, c) = ([halves(a[0]), halves(a[1])], [halves(b[0]), halves(b[1])], halves(c));
        let mut sums = c;
        for (i, sum) in sums.iter_mut().enumerate() {
            let pairs = [_mm256_maddubs_epi16(a[0][i], b[0][i]), _mm256_maddubs_epi16(a[1][i], b[1][i])];
            let pairs = _mm256_add_epi16(pairs[0], pairs[1]);
            *sum = _mm256_add_epi32(c[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        joined(sums)
    }
}
