//! Against the reference evaluator, with every instruction set that the processor has.

use half::bf16;
use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Literal, Op, TensorType, eval};

use super::*;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::Avx512;
use crate::kernels::simd::{Isa, Simd, Wide};

/// Lengths `T` and `S`, heads `N` and `K`, sizes `H` and `V`.
type Sizes = [usize; 6];

fn attention(sizes: Sizes, causal: bool, window: Option<usize>) -> Attention {
    let [queries, keys, heads, key_heads, head_size, value_size] = sizes;
    Attention { batch: 2, queries, keys, heads, key_heads, head_size, value_size, scale: 0.4, causal, window }
}

/// Numbers between -1 and 1 without a pattern.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
    .take(len)
    .collect()
}

/// Output, log-sum-exp and the three cotangents, by the evaluator in f64.
fn expected(a: &Attention, [query, key, value, ct]: [&[f32]; 4]) -> Vec<Vec<f64>> {
    let shapes = [
        [a.batch, a.queries, a.heads, a.head_size],
        [a.batch, a.keys, a.key_heads, a.head_size],
        [a.batch, a.keys, a.key_heads, a.value_size],
        [a.batch, a.queries, a.heads, a.value_size],
    ];
    let op = ScaledDotProductAttention {
        scale: f64::from(a.scale),
        mask: if a.causal { AttentionMask::Causal } else { AttentionMask::Full },
        sliding_window: a.window,
        rows: AttentionRows::Whole,
    };
    let func = Builder::build("attention", |b| {
        let params = ["q", "k", "v", "ct"].into_iter().zip(shapes);
        let params: Vec<_> = params.map(|(name, shape)| b.param(name, TensorType::new(DType::F64, shape))).collect();
        let [q, k, v, ct] = params[..] else { unreachable!("four names") };
        let (output, lse) = q.scaled_dot_product_attention(k, v, op.clone());
        let backward = Op::ScaledDotProductAttentionBackward(op.backward());
        let grads = b.push(backward, &[q, k, v, lse, output, ct], &[]);
        [vec![output, lse], grads].concat()
    });
    let literal = |shape: [usize; 4], x: &[f32]| {
        Literal::from_f64s(TensorType::new(DType::F64, shape), &x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
    };
    let arguments: Vec<Literal> = shapes.into_iter().zip([query, key, value, ct]).map(|(s, x)| literal(s, x)).collect();
    eval(&func, &arguments).unwrap().iter().map(Literal::to_f64s).collect()
}

/// The kernels' results with operands of type `E`.
fn computed<E: Element>(isa: Isa, a: &Attention, operands: [&[f32]; 4], threads: usize) -> Vec<Vec<f64>> {
    let [query, key, value, ct] = operands.map(|x| x.iter().map(|&x| E::from_f32(x)).collect::<Vec<E>>());
    let mut output = vec![E::from_f32(f32::NAN); ct.len()];
    let mut log_sum_exp = vec![f32::NAN; a.batch * a.heads * a.queries];
    // In reverse, which is as good an order as any.
    let for_each = |number: usize, f: &(dyn Fn(usize) + Sync)| (0..number).rev().for_each(f);
    let call = Forward {
        attention: *a,
        query: &query,
        key: &key,
        value: &value,
        output: &mut output,
        log_sum_exp: &mut log_sum_exp,
    };
    forward(isa, call, threads, &for_each);
    let [mut query_ct, mut key_ct, mut value_ct] = [&query, &key, &value].map(|x| vec![E::from_f32(f32::NAN); x.len()]);
    let call = Backward {
        attention: *a,
        query: &query,
        key: &key,
        value: &value,
        log_sum_exp: &log_sum_exp,
        output: &output,
        output_ct: &ct,
        query_ct: &mut query_ct,
        key_ct: &mut key_ct,
        value_ct: &mut value_ct,
    };
    backward(isa, call, threads, &for_each);
    let wide = |x: &[E]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
    let lse = log_sum_exp.iter().map(|&x| f64::from(x)).collect();
    vec![wide(&output), lse, wide(&query_ct), wide(&key_ct), wide(&value_ct)]
}

#[track_caller]
fn check(sizes: Sizes, causal: bool, window: Option<usize>) {
    let a = attention(sizes, causal, window);
    let rows = [a.queries * a.heads * a.head_size, a.keys * a.key_heads * a.head_size];
    let more = [a.keys * a.key_heads * a.value_size, a.queries * a.heads * a.value_size];
    let operands = [rows[0], rows[1], more[0], more[1]].map(|len| numbers(a.batch * len, len as u64 + 1));
    let narrow = operands.each_ref().map(|x| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<f32>>());
    let exact = expected(&a, operands.each_ref().map(|x| &x[..]));
    let exact_narrow = expected(&a, narrow.each_ref().map(|x| &x[..]));
    for isa in Isa::available() {
        for threads in [1, 7] {
            let results = computed::<f32>(isa, &a, operands.each_ref().map(|x| &x[..]), threads);
            compare(&results, &exact, 2e-6, &format!("{isa:?}, f32, {threads} threads, {a:?}"));
            let results = computed::<bf16>(isa, &a, narrow.each_ref().map(|x| &x[..]), threads);
            compare(&results, &exact_narrow, 8e-3, &format!("{isa:?}, bf16, {threads} threads, {a:?}"));
        }
    }
}

/// Differences relative to the largest element of each result.
#[track_caller]
fn compare(results: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64, what: &str) {
    let names = ["output", "log-sum-exp", "query_ct", "key_ct", "value_ct"];
    for ((name, result), expected) in names.iter().zip(results).zip(expected) {
        // With one key in the window the scores have no gradient: what is there is rounding of terms about 1.
        let largest = expected.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
        let error =
            result.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, x| if x <= m { m } else { x });
        assert!(error <= tolerance * largest, "{name} is {:.1e} of its largest element off: {what}", error / largest);
    }
}

#[test]
fn attention_and_its_derivative() {
    for causal in [true, false] {
        // One block, and less than a vector.
        check([1, 1, 1, 1, 1, 1], causal, None);
        check([5, 5, 2, 1, 8, 8], causal, None);
        // Several blocks that do not divide the lengths; grouped heads; heads of whole vectors, of odd size, of more than a
        // panel, and of another size for values.
        check([150, 150, 4, 2, 16, 16], causal, None);
        check([70, 70, 2, 2, 7, 19], causal, None);
        check([130, 130, 3, 1, 80, 64], causal, None);
        // More keys than queries, and fewer.
        check([33, 200, 2, 1, 8, 8], causal, None);
        check([200, 33, 2, 1, 8, 8], causal, None);
    }
    for window in [1, 3, 64, 100, 1000] {
        check([150, 150, 2, 1, 8, 8], true, Some(window));
        check([300, 310, 1, 1, 8, 8], true, Some(window));
    }
}

#[test]
fn not_a_number_is_seen() {
    let a = attention([6, 6, 1, 1, 4, 4], true, None);
    let mut operands = [1, 2, 3, 4].map(|seed| numbers(a.batch * 6 * 4, seed));
    operands[1][8] = f32::NAN; // key 2 of the first sequence
    for isa in Isa::available() {
        let results = computed::<f32>(isa, &a, operands.each_ref().map(|x| &x[..]), 1);
        let finite: Vec<bool> = results[0].chunks(4).map(|row| row.iter().all(|x| x.is_finite())).collect();
        assert_eq!(finite, [true, true, false, false, false, false, true, true, true, true, true, true], "{isa:?}");
    }
}

#[test]
fn exponential() {
    fn check<S: Simd>(name: &str) {
        let mut worst: f64 = 0.0;
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.0005;
            let mut y = [0.0f32; 16];
            // SAFETY: plain Rust, or instructions that the caller has looked for.
            unsafe { S::store(y.as_mut_ptr(), S::exp(S::splat(x as f32))) };
            let exact = f64::from(x as f32).exp();
            if exact > 2e-38 {
                worst = worst.max(((f64::from(y[0]) - exact) / exact).abs());
            }
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{name}: {worst:e}");
        let mut y = [0.0f32; 16];
        for x in [-104.0, -200.0, -1e30, f32::NEG_INFINITY] {
            // SAFETY: as above.
            unsafe { S::store(y.as_mut_ptr(), S::exp(S::splat(x))) };
            assert_eq!(y, [0.0; 16], "{name}: {x}");
        }
        // SAFETY: as above.
        unsafe { S::store(y.as_mut_ptr(), S::exp(S::splat(f32::NAN))) };
        assert!(y[0].is_nan(), "{name}");
    }
    check::<Wide<false>>("baseline");
    #[cfg(target_arch = "x86_64")]
    if Isa::available().contains(&Isa::Avx512) {
        check::<Avx512<false>>("AVX-512");
    }
}
