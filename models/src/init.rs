//! Initial values, made on the host.
//!
//! An element depends on the seed, the parameter's path and the element's place alone: not on the order of parameters,
//! on threads or on the machine. The generator is counter-based, and the normal distribution is made with IEEE 754
//! operations only, no function of a math library.

use std::f64::consts::{FRAC_PI_2, LN_2, SQRT_2};

use lmc_graph::{DType, Literal};

use crate::params::{Init, ParamSpec, Params};

/// The initial value of every parameter.
///
/// # Panics
/// If a parameter is not f32.
pub fn initialize(specs: &Params<ParamSpec>, seed: u64) -> Params<Literal> {
    let mut values: Vec<Vec<u8>> = specs.values().map(constant_bytes).collect();
    fill_normal(specs, seed, &mut values);
    let mut values = values.into_iter();
    specs.map(|_, spec| {
        let bytes = values.next().expect("one value a spec");
        Literal::from_bytes(spec.ty.clone(), bytes).expect("as many bytes as the type takes")
    })
}

/// The bytes of ones, or of zeros: what is normal is filled later.
fn constant_bytes(spec: &ParamSpec) -> Vec<u8> {
    assert!(spec.ty.dtype == DType::F32, "parameters are f32, found {}", spec.ty);
    match spec.init {
        Init::Ones => 1f32.to_le_bytes().repeat(spec.ty.num_elements()),
        Init::Zeros | Init::Normal { .. } => vec![0; spec.ty.num_bytes()],
    }
}

/// Zeros of every parameter's type: moments before the first step.
pub fn zeros(specs: &Params<ParamSpec>) -> Params<Literal> {
    specs.map(|_, spec| Literal::zeros(spec.ty.clone()))
}

/// A part of a parameter that is filled at once.
struct Chunk<'a> {
    bytes: &'a mut [u8],
    path_hash: u64,
    /// The number of blocks before the chunk.
    block: u64,
    std: f64,
}

/// Elements of a block: what one call of the generator gives.
const BLOCK: usize = 4;

/// Blocks of a chunk; a few milliseconds of work.
const CHUNK: usize = 1 << 16;

/// Fills what is normal, on all processors.
fn fill_normal(specs: &Params<ParamSpec>, seed: u64, values: &mut [Vec<u8>]) {
    let mut chunks = Vec::new();
    for ((path, spec), bytes) in specs.iter().zip(values) {
        if let Init::Normal { std } = spec.init {
            let path_hash = fnv1a(path.as_bytes());
            let parts = bytes.chunks_mut(CHUNK * BLOCK * size_of::<f32>()).zip((0..).step_by(CHUNK));
            chunks.extend(parts.map(|(bytes, block)| Chunk { bytes, path_hash, block, std }));
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(chunks.len()).max(1);
    let mut shares: Vec<Vec<Chunk<'_>>> = (0..threads).map(|_| Vec::new()).collect();
    for (i, chunk) in chunks.into_iter().enumerate() {
        shares[i % threads].push(chunk);
    }
    std::thread::scope(|scope| {
        for share in shares {
            scope.spawn(move || share.into_iter().for_each(|chunk| chunk.fill(seed)));
        }
    });
}

impl Chunk<'_> {
    fn fill(self, seed: u64) {
        let Chunk { bytes, path_hash, block, std } = self;
        for (block, bytes) in (block..).zip(bytes.chunks_mut(BLOCK * size_of::<f32>())) {
            let normals = normals(philox4x32([low(block), high(block), low(path_hash), high(path_hash)], seed));
            for (bytes, normal) in bytes.chunks_exact_mut(size_of::<f32>()).zip(normals) {
                bytes.copy_from_slice(&((std * normal) as f32).to_le_bytes());
            }
        }
    }
}

fn low(x: u64) -> u32 {
    x as u32
}

fn high(x: u64) -> u32 {
    (x >> 32) as u32
}

/// The 64-bit FNV-1a hash (Fowler, Noll and Vo).
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// 128 random bits for a counter and a key: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// SC 2011, section 3.3 and table 2).
fn philox4x32(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    let (mut k0, mut k1) = (low(key), high(key));
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [high(b) ^ counter[1] ^ k0, low(b), high(a) ^ counter[3] ^ k1, low(a)];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter
}

/// Four standard normal numbers from 128 random bits (Box and Muller 1958).
fn normals(bits: [u32; 4]) -> [f64; BLOCK] {
    let pair = |u: u32, v: u32| {
        // u is in (0, 1], so that its logarithm is finite; v is in [0, 1).
        let radius = (-2.0 * ln((f64::from(u) + 1.0) * 2f64.powi(-32))).sqrt();
        let (sin, cos) = sin_cos_turns(f64::from(v) * 2f64.powi(-32));
        (radius * cos, radius * sin)
    };
    let ((a, b), (c, d)) = (pair(bits[0], bits[1]), pair(bits[2], bits[3]));
    [a, b, c, d]
}

/// The natural logarithm of a normal number, to about 1e-14 absolutely.
fn ln(x: f64) -> f64 {
    // x = m 2^e with m within a factor sqrt(2) of 1, and ln m = 2 artanh((m - 1) / (m + 1)).
    const FRACTION: u64 = (1 << 52) - 1;
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let fraction = f64::from_bits(x.to_bits() & FRACTION | 1023 << 52);
    let (m, e) = if fraction > SQRT_2 { (fraction * 0.5, exponent + 1) } else { (fraction, exponent) };
    let s = (m - 1.0) / (m + 1.0);
    let terms = [1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    2.0 * s * polynomial(&terms, s * s) + f64::from(e) * LN_2
}

/// The sine and cosine of `2π turns`, to about 1e-13, for `0 <= turns < 1`.
fn sin_cos_turns(turns: f64) -> (f64, f64) {
    // The nearest quarter turn, and what is left of it: at most π/4.
    let quarter = (turns * 4.0 + 0.5) as u32;
    let x = (turns * 4.0 - f64::from(quarter)) * FRAC_PI_2;
    let square = x * x;
    // Taylor series: 1/(2n+1)! and 1/(2n)! with alternating signs, highest first.
    let sine =
        [1.0 / 6_227_020_800.0, -1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5_040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0];
    let cosine = [
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
        1.0,
    ];
    let (sin, cos) = (x * polynomial(&sine, square), polynomial(&cosine, square));
    match quarter % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// A polynomial from its coefficients, highest first (Horner's scheme).
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, &coefficient| sum * x + coefficient)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors of Philox publish with Random123 (`kat_vectors`, philox 4x32 10).
    #[test]
    fn philox_known_answers() {
        let check = |counter, key, expected: [u32; 4]| assert_eq!(philox4x32(counter, key), expected);
        check([0; 4], 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        check(pi, 0x299f_31d0_a409_3822, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn elementary_functions() {
        for i in 1..=1000u32 {
            let x = f64::from(i) / 1000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-13, "ln {x}");
            let turns = f64::from(i - 1) / 1000.0;
            let ((sin, cos), (expected_sin, expected_cos)) =
                (sin_cos_turns(turns), (turns * std::f64::consts::TAU).sin_cos());
            // The series end after x^13 and x^14: the next terms are below 3e-14 at π/4.
            assert!((sin - expected_sin).abs() < 1e-13 && (cos - expected_cos).abs() < 1e-13, "{turns} turns");
        }
        assert!((ln(2f64.powi(-32)) + 32.0 * LN_2).abs() < 1e-13);
    }

    fn specs(paths: &[&str], size: usize) -> Params<ParamSpec> {
        let spec = ParamSpec::new(&[("vocab", size), ("hidden", 8)], Init::Normal { std: 0.5 });
        paths.iter().map(|&path| (path, spec.clone())).collect()
    }

    #[test]
    fn a_value_depends_on_seed_and_path_alone() {
        let values = initialize(&specs(&["a", "b"], 33), 7);
        let swapped = initialize(&specs(&["b", "a"], 33), 7);
        assert!(values.get("a") == swapped.get("a") && values.get("b") == swapped.get("b"));
        assert!(values.get("a") != values.get("b"));
        assert!(values.get("a") != initialize(&specs(&["a"], 33), 8).get("a"));
        // A longer parameter starts like a shorter one: chunks and threads leave no trace.
        let long = initialize(&specs(&["a"], CHUNK), 7).get("a").map(Literal::elements::<f32>);
        let short = values.get("a").map(Literal::elements::<f32>);
        assert!(long.zip(short).is_some_and(|(long, short)| long[..short.len()] == short));
    }

    #[test]
    fn normal_elements_are_normal() {
        let n = 8 * CHUNK;
        let values = initialize(&specs(&["a"], CHUNK), 1).get("a").map(Literal::to_f64s).unwrap_or_default();
        assert_eq!(values.len(), n);
        let moment = |power: i32| values.iter().map(|x| (x / 0.5).powi(power)).sum::<f64>() / n as f64;
        // The standard errors of the moments of n standard normal numbers are sqrt(1, 2, 15, 96 / n); 5 of them.
        for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let error = (moment(power) - expected).abs();
            assert!(error < 5.0 * (variance / n as f64).sqrt(), "moment {power} is off by {error}");
        }
        // No counter is used twice, in whatever chunk.
        let blocks: std::collections::HashSet<Vec<u64>> =
            values.chunks(BLOCK).map(|block| block.iter().map(|x| x.to_bits()).collect()).collect();
        assert_eq!(blocks.len(), n / BLOCK);
        // Neighbours are independent: their correlation is within 5 standard errors of 0.
        let correlation = values.windows(2).map(|pair| pair[0] * pair[1] / 0.25).sum::<f64>() / n as f64;
        assert!(correlation.abs() < 5.0 / (n as f64).sqrt());
    }

    #[test]
    fn ones_and_zeros() {
        let spec = |init| ParamSpec::new(&[("hidden", 3)], init);
        let specs: Params<ParamSpec> = [("one", spec(Init::Ones)), ("zero", spec(Init::Zeros))].into_iter().collect();
        let values = initialize(&specs, 0);
        assert_eq!(values.get("one"), Some(&Literal::new([3], &[1f32; 3])));
        assert_eq!(values.get("zero"), Some(&Literal::new([3], &[0f32; 3])));
        assert_eq!(zeros(&specs).get("one"), Some(&Literal::new([3], &[0f32; 3])));
    }
}
