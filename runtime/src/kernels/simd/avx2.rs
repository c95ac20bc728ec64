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

/// The same of unsigned bytes.
#[inline(always)]
unsafe fn u8_words(from: *const u8) -> [__m256i; 2] {
    // SAFETY: as above.
    unsafe {
        let [low, high] = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(LANES).cast())];
        [_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)]
    }
}

/// `Simd::load_u8_words`.
#[inline(always)]
pub(super) unsafe fn load_u8_words(from: *const u8) -> Vector {
    // SAFETY: as above.
    unsafe { joined(u8_words(from)) }
}

/// `Simd::load_nibble_words`.
#[inline(always)]
pub(super) unsafe fn load_nibble_words(from: *const u8) -> [Vector; 2] {
    // SAFETY: as above.
    unsafe {
        let ([first, second], mask) = (u8_words(from), _mm256_set1_epi16(15));
        let low = [_mm256_and_si256(first, mask), _mm256_and_si256(second, mask)];
        [joined(low), joined([_mm256_srli_epi16::<4>(first), _mm256_srli_epi16::<4>(second)])]
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
