//! Values of the composed functions, compared with PyTorch's in f64 and with XLA's random bits.

use std::slice::from_ref;

use crate::eval::tests::{check, check_close, f32s, i32s, results};
use crate::{Builder, DType, Literal, TensorType, Value, eval};

const INF: f64 = f64::INFINITY;
/// The expected numbers were computed in f64 as well, in another order.
const TOLERANCE: f64 = 1e-12;

fn f64s(shape: &[usize], elements: &[f64]) -> Literal {
    Literal::new(shape, elements)
}

#[track_caller]
fn close(x: &Literal, f: impl for<'g> Fn(Value<'g>) -> Value<'g>, expected: &[f64]) {
    check_close(from_ref(x), |x| f(x[0]), expected, TOLERANCE);
}

#[test]
fn softmax_and_its_logarithm() {
    let x = f64s(&[2, 3], &[1.0, -2.0, 0.5, 1000.0, 999.0, -1000.0]);
    let (p, q) = (0.731_058_578_630_004_9, 0.268_941_421_369_995_16);
    close(
        &x,
        |x| x.softmax(1),
        &[0.603_748_896_148_625_8, 0.030_058_887_569_574_023, 0.366_192_216_281_800_2, p, q, 0.0],
    );
    close(&x, |x| x.softmax(0), &[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
    close(
        &x,
        |x| x.log_softmax(1),
        &[
            -0.504_596_902_342_283_5,
            -3.504_596_902_342_283_4,
            -1.004_596_902_342_283_4,
            -0.313_261_687_518_222_86,
            -1.313_261_687_518_222_8,
            -2_000.313_261_687_518_2,
        ],
    );
    close(&x, |x| x.log_sum_exp(1), &[1.504_596_902_342_283_4, 1_000.313_261_687_518_2]);
    let infinite = f64s(&[3, 2], &[-INF, -INF, INF, 0.0, -INF, 0.0]);
    close(&infinite, |x| x.log_sum_exp(1), &[-INF, INF, 0.0]);
}

#[test]
fn mean_and_variance() {
    let x = f64s(&[2, 3], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.5]);
    close(&x, |x| x.mean(&[1]), &[2.333_333_333_333_333_5, 18.833_333_333_333_332]);
    close(&x, |x| x.mean(&[0, 1]), &[10.583_333_333_333_334]);
    close(&x, |x| x.variance(&[1]), &[1.555_555_555_555_555_4, 104.055_555_555_555_56]);
    close(&x, |x| x.variance(&[0]), &[12.25, 49.0, 203.0625]);
}

#[test]
fn activations() {
    let x = f64s(&[7], &[-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 4.0]);
    close(
        &x,
        |x| x.gelu(),
        &[
            -0.003_637_392_081_772_994_3,
            -0.158_808_009_391_723_24,
            -0.154_285_990_174_856_06,
            0.0,
            0.149_675_350_701_685,
            0.841_191_990_608_276_8,
            3.999_929_754_051_807_5,
        ],
    );
    close(
        &x,
        |x| x.silu(),
        &[
            -0.142_277_619_532_700_35,
            -0.268_941_421_369_995_1,
            -0.188_770_334_399_072_7,
            0.0,
            0.140_544_125_221_449_52,
            0.731_058_578_630_004_9,
            3.928_055_160_151_634,
        ],
    );
    close(
        &x,
        |x| x.sigmoid(),
        &[
            0.047_425_873_177_566_78,
            0.268_941_421_369_995_1,
            0.377_540_668_798_145_4,
            0.5,
            0.562_176_500_885_798_1,
            0.731_058_578_630_004_9,
            0.982_013_790_037_908_5,
        ],
    );
    close(&x, |x| x.square(), &[9.0, 1.0, 0.25, 0.0, 0.0625, 1.0, 16.0]);
    check(&[f32s(&[3], &[-1.0, 2.0, f32::NAN])], |x| x[0].relu(), &f32s(&[3], &[0.0, 2.0, f32::NAN]));
}

#[test]
fn error_function() {
    let points = [-100.0, -5.0, -3.74, -3.0, -1.5, -0.75, -1e-3, 0.0, 1e-20, 0.3, 1.0, 2.0, 3.7, 4.0, 100.0];
    // torch.erf of torch 2.15 in float64.
    let expected: [f64; 15] = [
        -1.0,
        -1.0,
        -0.999_999_877,
        -0.999_977_91,
        -0.966_105_146,
        -0.711_155_634,
        -0.001_128_378_79,
        0.0,
        1.128_379_17e-20,
        0.328_626_759,
        0.842_700_793,
        0.995_322_265,
        0.999_999_833,
        0.999_999_985,
        1.0,
    ];
    let infinite = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
    let x: Vec<f32> = points.iter().map(|&x| x as f32).chain(infinite).collect();
    let func = Builder::build("f", |b| vec![b.param("x", TensorType::new(DType::F32, [x.len()])).erf()]);
    let found = eval(&func, &[Literal::new([x.len()], &x)]).expect("the argument fits")[0].to_f64s();
    for ((x, found), expected) in points.iter().zip(&found).zip(expected) {
        assert!(
            (found - expected).abs() <= 4e-7 * expected.abs() && found.abs() <= 1.0,
            "erf({x}): {found}, not {expected}"
        );
    }
    assert!(found[points.len()] == -1.0 && found[points.len() + 1] == 1.0 && found[points.len() + 2].is_nan());
}

#[test]
fn one_hot() {
    let rows = f32s(&[3, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    check(&[i32s(&[3], &[1, 3, -1])], |x| x[0].one_hot(3, DType::F32), &rows);
    // 256 would be 0 if it were counted in the indices' own type.
    let mut row = vec![false; 257];
    row[0] = true;
    check(&[Literal::scalar(0_u8)], |x| x[0].one_hot(257, DType::Bool), &Literal::new([257], &row));
}

#[test]
fn cumulative_sum() {
    let x = i32s(&[2, 5], &[1, 2, 3, 4, 5, 1, 0, -1, 0, 1]);
    check(from_ref(&x), |x| x[0].cumulative_sum(1), &i32s(&[2, 5], &[1, 3, 6, 10, 15, 1, 1, 0, 0, 1]));
    check(&[x], |x| x[0].cumulative_sum(0), &i32s(&[2, 5], &[1, 2, 3, 4, 5, 2, 2, 2, 4, 6]));
    check(&[f32s(&[0], &[])], |x| x[0].cumulative_sum(0), &f32s(&[0], &[]));
    let ones = vec![1_i32; 100];
    let counts: Vec<i32> = (1..=100).collect();
    check(&[i32s(&[100], &ones)], |x| x[0].cumulative_sum(0), &i32s(&[100], &counts));
}

#[test]
fn masks_of_the_greatest() {
    let logits = || f32s(&[1, 6], &[1.0, 3.0, 2.0, 3.0, -1.0, 0.0]);
    let mask = |kept: &[usize]| Literal::new([1, 6], &[0, 1, 2, 3, 4, 5].map(|i| kept.contains(&i)));
    for (k, kept) in [(0, &[][..]), (1, &[1]), (2, &[1, 3]), (4, &[0, 1, 2, 3]), (9, &[0, 1, 2, 3, 4, 5])] {
        check(&[logits()], |x| x[0].top_k_mask(k), &mask(kept));
    }
    // Sorted probabilities: 0.389, 0.389, 0.143, 0.053, 0.019, 0.007.
    for (p, kept) in [(1e-9, &[1][..]), (0.3, &[1]), (0.5, &[1, 3]), (0.9, &[1, 2, 3]), (1.0, &[0, 1, 2, 3, 4, 5])] {
        check(&[logits()], |x| x[0].top_p_mask(p), &mask(kept));
    }
    let rows = i32s(&[2, 3], &[3, 1, 2, 1, 2, 3]);
    let expected = Literal::new([2, 3], &[true, false, true, false, true, true]);
    check(&[rows], |x| x[0].top_k_mask(2), &expected);
}

/// The first word of the key of seed 42 folded with 7.
const FOLDED: u64 = 0xE195_2717_8773_85BC;
/// What the key of seed 42 gives, as f32 and as f64, and the Box-Muller transform of the former in f64.
const UNIFORM: [f64; 4] =
    [0.869_048_357_009_887_7, 0.150_632_381_439_208_98, 0.310_253_500_938_415_5, 0.992_753_386_497_497_6];
const UNIFORM_64: [f64; 2] = [0.310_253_506_728_692, 0.992_753_395_612_964_5];
const NORMAL: [f64; 3] = [-0.745_270_234_782_696_7, 0.570_832_637_346_623_6, 1.873_613_247_168_436_8];

/// The key of seed 42.
fn key() -> Literal {
    Literal::new([2], &[42_u64, 0])
}

#[test]
fn keys() {
    check(&[Literal::scalar(42_i32)], |x| x[0].builder().rng_key(x[0]), &key());
    let folded = Literal::new([2], &[FOLDED, 0_u64]);
    check(&[key(), Literal::scalar(7_u32)], |x| x[0].fold_in(x[1]), &folded);
    // The counter stays, so that two keys of one seed give two keys again.
    let folded = Literal::new([2], &[FOLDED, 5_u64]);
    check(&[Literal::new([2], &[42_u64, 5]), Literal::scalar(7_i64)], |x| x[0].fold_in(x[1]), &folded);
}

#[test]
fn uniform_and_normal_numbers() {
    let f32_ty = TensorType::new(DType::F32, [2, 2]);
    check_close(&[key()], |x| x[0].uniform(&f32_ty), &UNIFORM, 0.0);
    let f64_ty = TensorType::new(DType::F64, [2]);
    check_close(&[key()], |x| x[0].uniform(&f64_ty), &UNIFORM_64, 0.0);
    let normal_ty = TensorType::new(DType::F32, [3]);
    // f32 keeps 24 bits of numbers below 4.
    check_close(&[key()], |x| x[0].normal(&normal_ty), &NORMAL, 1e-6);
}

#[test]
fn random_numbers_have_their_moments() {
    // 1e5 draws: a sample's mean is off by 1/316 of the deviation, its variance by about 1/224; allow five times that.
    const COUNT: usize = 100_000;
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
        let ty = TensorType::new(dtype, [COUNT]);
        let moments = |x: Vec<f64>| {
            let mean = x.iter().sum::<f64>() / COUNT as f64;
            (mean, x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / COUNT as f64)
        };
        let uniform = results(&[key()], |x| vec![x[0].uniform(&ty)]).remove(0).to_f64s();
        assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)), "{dtype}");
        let (mean, variance) = moments(uniform);
        // bf16 has 8 bits, which takes half of 2^-8 from the mean.
        let half_step = if dtype == DType::BF16 { 0.5 / 256.0 } else { 0.0 };
        assert!((mean + half_step - 0.5).abs() < 5.0 / 316.0 * 0.289, "{dtype}: mean {mean}");
        assert!((variance - 1.0 / 12.0).abs() < 5.0 / 224.0 / 12.0, "{dtype}: variance {variance}");
        let normal = results(&[key()], |x| vec![x[0].normal(&ty)]).remove(0).to_f64s();
        let (mean, variance) = moments(normal);
        assert!(mean.abs() < 5.0 / 316.0, "{dtype}: mean {mean}");
        assert!((variance - 1.0).abs() < 5.0 / 224.0, "{dtype}: variance {variance}");
    }
}

#[test]
fn categorical_draws_by_probability() {
    const COUNT: usize = 20_000;
    let logits = f32s(&[4], &[0.0, f32::NEG_INFINITY, 2_f32.ln(), 5_f32.ln()]);
    let drawn = results(&[logits, key()], |x| {
        let rows = x[0].broadcast_in_dim(&[COUNT, 4], &[1]);
        vec![rows.categorical(x[1])]
    });
    let drawn: Vec<i32> = drawn[0].elements();
    for (index, probability) in [(0, 0.125), (1, 0.0), (2, 0.25), (3, 0.625)] {
        let share = drawn.iter().filter(|&&i| i == index).count() as f64 / COUNT as f64;
        // Five deviations of a share are at most 5 * 0.5 / sqrt(20,000).
        assert!((share - probability).abs() < 0.018, "index {index}: {share}");
        assert!(probability > 0.0 || share == 0.0, "index {index} was drawn");
    }
}
