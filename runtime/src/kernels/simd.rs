//! Sixteen f32 at a time, by whatever the processor has.
//!
//! A kernel is written once, generic over [`Simd`], with everything it calls `#[inline(always)]`; a function with
//! `#[target_feature]` around it for each [`Isa`] makes machine code of it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::sync::OnceLock;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with products of pairs of bf16, and AMX for those of tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with products of pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the architecture has.
    Baseline,
}

impl Isa {
    /// Whether it multiplies pairs of bf16.
    pub(crate) fn has_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512Bf16 => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Baseline => false,
        }
    }

    /// Whether it multiplies pairs of bf16 at the rate of f32, so that products of pairs take half the time. Processors of
    /// AMD do (a core of the fifth generation of EPYC takes two instructions of either in a cycle); with Intel's without AMX
    /// the same product took twice as long (two cores of a Xeon: 130 GFLOP/s by pairs, 260 by f32).
    pub(crate) fn has_fast_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => is_of_amd(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 | Isa::Avx2 => false,
            Isa::Baseline => false,
        }
    }

    /// The best that this processor has.
    pub(crate) fn detect() -> Isa {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let available = Isa::available();
            available[0]
        })
    }

    /// All that this processor has, the best first.
    pub(crate) fn available() -> Vec<Isa> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
                if super::amx::is_available() {
                    available.push(Isa::Amx);
                }
                available.push(Isa::Avx512Bf16);
            }
            if avx512 {
                available.push(Isa::Avx512);
            }
            if avx2 {
                available.push(Isa::Avx2);
            }
        }
        available.push(Isa::Baseline);
        available
    }
}

/// Whether AMD made this processor: `cpuid` says so in the registers EBX, EDX and ECX of leaf 0.
#[cfg(target_arch = "x86_64")]
fn is_of_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Vectors of [`LANES`] f32.
///
/// # Safety
/// The methods may only be called where the processor has the instructions that the implementation is named after; a
/// pointer given to one must be valid for what it says.
pub(crate) unsafe trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// Vectors side by side in a tile of a product, so that the accumulators of four rows fit the registers.
    const TILE: usize;

    unsafe fn splat(x: f32) -> Self::V;
    /// Reads 16 f32 or words.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Asks for the cache line at an address, which need not be valid.
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an instruction of every processor of the architecture that reads nothing the program sees.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
    /// Asks for so many bytes from an address on, line by line.
    #[inline(always)]
    unsafe fn prefetch_bytes(at: *const u8, bytes: usize) {
        /// Bytes of a cache line.
        const LINE: usize = 64;
        for line in (0..bytes).step_by(LINE) {
            // SAFETY: the caller's.
            unsafe { Self::prefetch(at.wrapping_add(line)) };
        }
    }
    /// Reads 16 bf16.
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    /// Reads 16 f16.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Reads 16 signed bytes.
    unsafe fn load_i8(from: *const u8) -> Self::V;
    /// Reads 16 unsigned bytes.
    unsafe fn load_u8(from: *const u8) -> Self::V;
    /// Reads 16 bytes of two numbers each, stored as their distance from `FIRST`: those of the low halves, and those of
    /// the high ones.
    unsafe fn load_nibbles<const FIRST: i8>(from: *const u8) -> [Self::V; 2];
    /// Reads 16 bytes of two such numbers each as pairs of bf16: the lowest halves of a byte of the eight words of 16
    /// bits, the next of each, and so on.
    unsafe fn load_nibble_pairs<const FIRST: i8>(from: *const u8) -> Self::V;
    /// Reads 32 signed bytes as pairs of 16-bit integers.
    unsafe fn load_i8_words(from: *const u8) -> Self::V;
    /// Reads 32 unsigned bytes as pairs of 16-bit integers.
    unsafe fn load_u8_words(from: *const u8) -> Self::V;
    /// Reads 64 bytes of two numbers from 0 to 15 each as bytes: those of the low halves, and those of the high ones.
    unsafe fn load_nibble_bytes(from: *const u8) -> [Self::V; 2];
    /// Reads `N` f32, 1, 2 or 4, and gives each part of the lanes, from the first on, one of them.
    #[inline(always)]
    unsafe fn spread<const N: usize>(from: *const f32) -> Self::V {
        let mut spread = [0.0; LANES];
        for (l, x) in spread.iter_mut().enumerate() {
            // SAFETY: the caller gives a pointer that is valid for N elements.
            *x = unsafe { from.add(l / (LANES / N)).read() };
        }
        // SAFETY: the array has a vector's elements; the rest is the caller's.
        unsafe { Self::load(spread.as_ptr()) }
    }
    /// Writes 16 f32 or words.
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `a * 2^n` for integers `n` in `-160 ..= 0`, with gradual underflow.
    unsafe fn scale_by_power(a: Self::V, n: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    unsafe fn maximum(a: Self::V) -> f32;
    /// Lanes are pairs of bf16, low half first: `c + a.0 * b.0 + a.1 * b.1`.
    unsafe fn dot_pairs(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lanes of `a` and `b` are pairs of 16-bit integers, those of `c` 32-bit integers: `c + a.0 * b.0 + a.1 * b.1`, modulo
    /// `2^32`.
    unsafe fn dot_words(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lanes of `a` are four bytes from 0 to 15, those of `b` four signed ones, those of `c` 32-bit integers: `c` and the
    /// products of the bytes of both pairs, modulo `2^32`.
    unsafe fn dot_nibbles(a: [Self::V; 2], b: [Self::V; 2], c: Self::V) -> Self::V;
    /// `256 * high + low` of 32-bit integers, modulo `2^32`.
    unsafe fn join_bytes(high: Self::V, low: Self::V) -> Self::V;
    /// 32-bit integers as f32, rounded to nearest, ties to even.
    unsafe fn from_integers(a: Self::V) -> Self::V;
    /// Writes 16 f32 as bf16, rounded to nearest, ties to even.
    unsafe fn narrow(to: *mut u16, x: Self::V);
    /// Pairs of bf16: `low` rounded in the low halves, `high` in the high ones.
    unsafe fn narrow_pairs(low: Self::V, high: Self::V) -> Self::V;

    /// The transpose of 16 rows of 16 words.
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES];

    /// `e^x` for `x <= 0`, within 2 units in the last place; not a number where `x` is not.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the caller keeps this trait's contract.
        unsafe {
            // e^-104 is below half of the smallest subnormal number. `max` keeps a NaN in its second operand.
            let x = Self::max(Self::splat(-104.0), x);
            // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first with trailing zeros (Cody and Waite 1980).
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::mul_add(n, Self::splat(-0.693_359_4), x);
            let r = Self::mul_add(n, Self::splat(2.121_944_4e-4), r);
            // The polynomial of `expf` in Cephes (Moshier 1992): e^r = 1 + r + r^2 p(r).
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::mul_add(p, r, Self::splat(c));
            }
            let p = Self::add(Self::mul_add(Self::mul(r, r), p, r), Self::splat(1.0));
            Self::scale_by_power(p, n)
        }
    }
}

/// One bf16 of a finite or infinite f32, rounded to nearest, ties to even; a NaN stays one.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) | 0x40 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

/// The value of an f16, by a multiplication that moves the exponent, which is right for subnormal numbers too.
#[inline(always)]
fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(bits);
    // 2^112: the distance of the exponents' biases, 127 and 15.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let is_finite = bits & 0x7c00 != 0x7c00;
    let magnitude = if is_finite { magnitude.to_bits() } else { 0x7f80_0000 | ((bits & 0x3ff) << 13) };
    f32::from_bits(magnitude | ((bits & 0x8000) << 16))
}

/// Arrays, which the compiler turns into vectors of the enclosing function's width. `FMA` says whether a fused
/// multiplication and addition is an instruction; on x86-64 AVX2 then is there, too.
#[derive(Clone, Copy)]
pub(crate) struct Wide<const FMA: bool>;

/// A lane at a time.
#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    let mut result = [0.0; LANES];
    for (i, x) in result.iter_mut().enumerate() {
        *x = f(i);
    }
    result
}

/// Pairs of 16-bit integers.
#[inline(always)]
fn words(f: impl Fn(usize) -> i16) -> [f32; LANES] {
    lanes(|i| {
        let [low, high] = [f(2 * i), f(2 * i + 1)].map(|x| u32::from(x.cast_unsigned()));
        f32::from_bits(low | (high << 16))
    })
}

// SAFETY: nothing here but plain Rust; pointers are read and written as the trait says.
unsafe impl<const FMA: bool> Simd for Wide<FMA> {
    type V = [f32; LANES];
    const TILE: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller gives a pointer that is valid for 16 f32, at any alignment.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::V {
        // SAFETY: the caller gives a pointer that is valid for 16 elements, at any alignment. The same holds below.
        let x = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes(|i| f32::from_bits(u32::from(x[i]) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::V {
        // SAFETY: as above.
        let x = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes(|i| f16_value(x[i]))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self::V {
        // SAFETY: as above.
        let x = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        lanes(|i| f32::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::V {
        // SAFETY: as above.
        let x = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        lanes(|i| f32::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_nibbles<const FIRST: i8>(from: *const u8) -> [Self::V; 2] {
        // SAFETY: as above.
        let x = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        let first = f32::from(FIRST);
        [lanes(|i| f32::from(x[i] & 15) + first), lanes(|i| f32::from(x[i] >> 4) + first)]
    }
    #[inline(always)]
    unsafe fn load_nibble_pairs<const FIRST: i8>(from: *const u8) -> Self::V {
        // SAFETY: as above.
        let x = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        let nibble = |at: usize| (x[at % 8 * 2 + at / 16] >> (at / 8 % 2 * 4)) & 15;
        let bits = |at: usize| (f32::from(nibble(at)) + f32::from(FIRST)).to_bits() >> 16;
        lanes(|l| f32::from_bits(bits(2 * l) | (bits(2 * l + 1) << 16)))
    }
    #[inline(always)]
    unsafe fn load_i8_words(from: *const u8) -> Self::V {
        #[cfg(target_arch = "x86_64")]
        if FMA {
            // SAFETY: as above, and AVX2 is there.
            return unsafe { avx2::load_i8_words(from) };
        }
        // SAFETY: as above.
        let x = unsafe { from.cast::<[i8; 2 * LANES]>().read_unaligned() };
        words(|i| i16::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_u8_words(from: *const u8) -> Self::V {
        #[cfg(target_arch = "x86_64")]
        if FMA {
            // SAFETY: as above, and AVX2 is there.
            return unsafe { avx2::load_u8_words(from) };
        }
        // SAFETY: as above.
        let x = unsafe { from.cast::<[u8; 2 * LANES]>().read_unaligned() };
        words(|i| i16::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_nibble_bytes(from: *const u8) -> [Self::V; 2] {
        // SAFETY: the caller gives a pointer that is valid for 64 bytes, at any alignment.
        let x = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        let low = |x: u32| f32::from_bits(x & 0x0f0f_0f0f);
        [lanes(|i| low(x[i])), lanes(|i| low(x[i] >> 4))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::V) {
        // SAFETY: the caller gives a pointer that is valid for 16 f32, at any alignment.
        unsafe { to.cast::<Self::V>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes(|i| if FMA { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no bits for a fraction; |a| is far below 2^22.
        const SHIFT: f32 = 12_582_912.0;
        lanes(|i| (a[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn scale_by_power(a: Self::V, n: Self::V) -> Self::V {
        // In two factors, each of them a normal number.
        lanes(|i| {
            let n = n[i] as i32;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            a[i] * power(n >> 1) * power(n - (n >> 1))
        })
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        let mut half = [0.0; LANES / 2];
        for (i, x) in half.iter_mut().enumerate() {
            *x = a[i] + a[i + LANES / 2];
        }
        half.iter().sum()
    }
    #[inline(always)]
    unsafe fn maximum(a: Self::V) -> f32 {
        a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let low = |x: f32| f32::from_bits(x.to_bits() << 16);
        let high = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        lanes(|i| low(a[i]) * low(b[i]) + (high(a[i]) * high(b[i]) + c[i]))
    }
    #[inline(always)]
    unsafe fn dot_words(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        #[cfg(target_arch = "x86_64")]
        if FMA {
            // SAFETY: AVX2 is there.
            return unsafe { avx2::dot_words(a, b, c) };
        }
        let low = |x: f32| i32::from(x.to_bits() as i16);
        let high = |x: f32| x.to_bits().cast_signed() >> 16;
        lanes(|i| {
            let sum = (low(a[i]) * low(b[i])).wrapping_add(high(a[i]) * high(b[i]));
            f32::from_bits(c[i].to_bits().wrapping_add(sum.cast_unsigned()))
        })
    }
    #[inline(always)]
    unsafe fn dot_nibbles(a: [Self::V; 2], b: [Self::V; 2], c: Self::V) -> Self::V {
        #[cfg(target_arch = "x86_64")]
        if FMA {
            // SAFETY: AVX2 is there.
            return unsafe { avx2::dot_nibbles(a, b, c) };
        }
        let dot = |a: f32, b: f32| -> i32 {
            let (a, b) = (a.to_bits().to_le_bytes(), b.to_bits().to_le_bytes());
            a.iter().zip(b).map(|(&a, b)| i32::from(a) * i32::from(b.cast_signed())).sum()
        };
        lanes(|i| {
            let sum = dot(a[0][i], b[0][i]) + dot(a[1][i], b[1][i]);
            f32::from_bits(c[i].to_bits().wrapping_add(sum.cast_unsigned()))
        })
    }
    #[inline(always)]
    unsafe fn join_bytes(high: Self::V, low: Self::V) -> Self::V {
        lanes(|i| f32::from_bits((high[i].to_bits() << 8).wrapping_add(low[i].to_bits())))
    }
    #[inline(always)]
    unsafe fn from_integers(a: Self::V) -> Self::V {
        lanes(|i| a[i].to_bits().cast_signed() as f32)
    }
    #[inline(always)]
    unsafe fn narrow(to: *mut u16, x: Self::V) {
        let mut bits = [0u16; LANES];
        for (bits, x) in bits.iter_mut().zip(x) {
            *bits = bf16_bits(x) as u16;
        }
        // SAFETY: the caller gives a pointer that is valid for 16 u16, at any alignment.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut columns = rows;
        for (i, column) in columns.iter_mut().enumerate() {
            *column = lanes(|j| rows[j][i]);
        }
        columns
    }
    #[inline(always)]
    unsafe fn narrow_pairs(low: Self::V, high: Self::V) -> Self::V {
        lanes(|i| f32::from_bits(bf16_bits(low[i]) | (bf16_bits(high[i]) << 16)))
    }
}

/// AVX-512, `PAIRS` with its bf16 instructions.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PAIRS: bool>;
