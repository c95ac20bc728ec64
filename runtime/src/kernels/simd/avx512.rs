//! Vectors of AVX-512.

use std::arch::x86_64::*;

use super::{Avx512, LANES, Simd};

// SAFETY: instructions of AVX-512 F, BW, DQ and VL, and of BF16 and VNNI with `PAIRS`, which is what the trait's contract
// says; pointers are read and written as it says.
unsafe impl<const PAIRS: bool> Simd for Avx512<PAIRS> {
    type V = __m512;
    const TILE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: the caller keeps the trait's contract, here and below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibbles<const FIRST: i8>(from: *const u8) -> [__m512; 2] {
        // SAFETY: as above. A permutation looks at the last four bits of an index only.
        unsafe {
            let numbers = const { numbers(FIRST) };
            let numbers = _mm512_loadu_ps(numbers.as_ptr());
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm512_srli_epi32::<4>(bytes);
            [_mm512_permutexvar_ps(bytes, numbers), _mm512_permutexvar_ps(high, numbers)]
        }
    }
    #[inline(always)]
    unsafe fn load_nibble_pairs<const FIRST: i8>(from: *const u8) -> __m512 {
        // SAFETY: as above. Of an index a permutation looks at the last five bits, and number 16 is number 0 again.
        unsafe {
            let numbers = const { bf16_numbers(FIRST) };
            let numbers = _mm512_loadu_si512(numbers.as_ptr().cast());
            let shifts = const { nibble_shifts() };
            let shifts = _mm512_loadu_si512(shifts.as_ptr().cast());
            let bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast()));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_srlv_epi16(bytes, shifts), numbers))
        }
    }
    #[inline(always)]
    unsafe fn load_i8_words(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8_words(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibble_bytes(from: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let (bytes, mask) = (_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15));
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
            [_mm512_castsi512_ps(_mm512_and_si512(bytes, mask)), _mm512_castsi512_ps(high)]
        }
    }
    #[inline(always)]
    unsafe fn spread<const N: usize>(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe {
            match N {
                1 => _mm512_set1_ps(*from),
                2 => _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(*from), _mm512_set1_ps(*from.add(1))),
                _ => {
                    let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    _mm512_permutexvar_ps(quarters, _mm512_castps128_ps512(_mm_loadu_ps(from)))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(a: __m512, n: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn maximum(a: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above; the types have the same size and every bit pattern is valid.
        unsafe {
            _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b))
        }
    }
    #[inline(always)]
    unsafe fn dot_words(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (a, b, c) = (_mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_castps_si512(c));
            _mm512_castsi512_ps(match PAIRS {
                true => _mm512_dpwssd_epi32(c, a, b),
                false => _mm512_add_epi32(c, _mm512_madd_epi16(a, b)),
            })
        }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(a: [__m512; 2], b: [__m512; 2], c: __m512) -> __m512 {
        // SAFETY: as above. A sum of four products is at most 4 * 15 * 128 and fits 16 bits.
        unsafe {
            let (a, b) = (
                [_mm512_castps_si512(a[0]), _mm512_castps_si512(a[1])],
                [_mm512_castps_si512(b[0]), _mm512_castps_si512(b[1])],
            );
            let c = _mm512_castps_si512(c);
            _mm512_castsi512_ps(if PAIRS {
                _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(c, a[0], b[0]), a[1], b[1])
            } else {
                let pairs = _mm512_add_epi16(_mm512_maddubs_epi16(a[0], b[0]), _mm512_maddubs_epi16(a[1], b[1]));
                _mm512_add_epi32(c, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            })
        }
    }
    #[inline(always)]
    unsafe fn join_bytes(high: __m512, low: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let high = _mm512_slli_epi32::<8>(_mm512_castps_si512(high));
            _mm512_castsi512_ps(_mm512_add_epi32(high, _mm512_castps_si512(low)))
        }
    }
    #[inline(always)]
    unsafe fn from_integers(a: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(a)) }
    }
    #[inline(always)]
    unsafe fn narrow(to: *mut u16, x: __m512) {
        // SAFETY: as above.
        unsafe {
            let bits = if PAIRS {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x))
            } else {
                _mm512_cvtepi32_epi16(rounded(x))
            };
            _mm256_storeu_si256(to.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
        // Words of two rows interleaved, then pairs of words, then quarters.
        // SAFETY: as above.
        unsafe {
            // (By loops: what is called through a function of the library is compiled without the instructions.)
            let mut words = rows;
            for r in (0..LANES).step_by(2) {
                words[r] = _mm512_unpacklo_ps(rows[r], rows[r + 1]);
                words[r + 1] = _mm512_unpackhi_ps(rows[r], rows[r + 1]);
            }
            // Row 4 q + i now becomes, in its quarter p, the words 4 p + i of rows 4 q to 4 q + 3.
            let mut pairs = words;
            for r in (0..LANES).step_by(4) {
                for (i, half) in [(0, 0), (2, 1)] {
                    pairs[r + i] = interleave_pairs::<false>(words[r + half], words[r + 2 + half]);
                    pairs[r + i + 1] = interleave_pairs::<true>(words[r + half], words[r + 2 + half]);
                }
            }
            let mut result = pairs;
            for i in 0..4 {
                let [a, b, c, d] = [pairs[i], pairs[4 + i], pairs[8 + i], pairs[12 + i]];
                let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                result[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
                result[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
                result[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
                result[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
            }
            result
        }
    }
    #[inline(always)]
    unsafe fn narrow_pairs(low: __m512, high: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let (low, high) = if PAIRS {
                let low = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(low));
                let high = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(high));
                (_mm512_cvtepu16_epi32(low), _mm512_cvtepu16_epi32(high))
            } else {
                (rounded(low), rounded(high))
            };
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }
}

/// Sixteen numbers from `first` on.
const fn numbers(first: i8) -> [f32; 16] {
    let mut numbers = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        numbers[i] = (first as i32 + i as i32) as f32;
        i += 1;
    }
    numbers
}

/// The bf16 of sixteen numbers from `first` on, twice.
const fn bf16_numbers(first: i8) -> [u16; 32] {
    let numbers = numbers(first);
    let mut bits = [0; 32];
    let mut i = 0;
    while i < 32 {
        bits[i] = (numbers[i % 16].to_bits() >> 16) as u16;
        i += 1;
    }
    bits
}

/// By how many bits eight words are shifted, four times: each time by half a byte more.
const fn nibble_shifts() -> [u16; 32] {
    let mut shifts = [0; 32];
    let mut i = 0;
    while i < 32 {
        shifts[i] = (i / 8 * 4) as u16;
        i += 1;
    }
    shifts
}

/// In each quarter the low (or high) pair of words of `a`, then that of `b`.
#[inline(always)]
unsafe fn interleave_pairs<const HIGH: bool>(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller keeps the trait's contract.
    unsafe {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(if HIGH { _mm512_unpackhi_pd(a, b) } else { _mm512_unpacklo_pd(a, b) })
    }
}

/// Lanes as bf16 in their low halves, high halves zero.
#[inline(always)]
unsafe fn rounded(x: __m512) -> __m512i {
    // SAFETY: the caller keeps the trait's contract.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let nearest = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(is_nan, nearest, quiet))
    }
}
