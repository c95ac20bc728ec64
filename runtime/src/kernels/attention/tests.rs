//! Against the reference evaluator, with every instruction set that the processor has.

use half::bf16;
use lmc_graph::ops::{AttentionMask, AttentionRows, CachedAttention, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Literal, Op, TensorType, eval};

use super::super::pack::Element;
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
fn expected(a: &Attention, bounds: Option<&[i32]>, [query, key, value, ct]: [&[f32]; 4]) -> Vec<Vec<f64>> {
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
        rows: if bounds.is_some() { AttentionRows::Packed } else { AttentionRows::Whole },
    };
    let bounds = bounds.map(|bounds| Literal::new([a.batch, bounds.len() / a.batch], bounds));
    let func = Builder::build("attention", |b| {
        let params = ["q", "k", "v", "ct"].into_iter().zip(shapes);
        let params: Vec<_> = params.map(|(name, shape)| b.param(name, TensorType::new(DType::F64, shape))).collect();
        let [q, k, v, ct] = params[..] else { unreachable!("four names") };
        let bounds = bounds.as_ref().map(|bounds| b.param("bounds", bounds.ty().clone()));
        let (output, lse) = q.scaled_dot_product_attention_of(k, v, bounds.as_slice(), op.clone());
        let backward = Op::ScaledDotProductAttentionBackward(op.backward());
        let grads = b.push(backward, &[&[q, k, v, lse, output, ct], bounds.as_slice()].concat(), &[]);
        [vec![output, lse], grads].concat()
    });
    let literal = |shape: [usize; 4], x: &[f32]| {
        Literal::from_f64s(TensorType::new(DType::F64, shape), &x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
    };
    let floats = shapes.into_iter().zip([query, key, value, ct]).map(|(s, x)| literal(s, x));
    let arguments: Vec<Literal> = floats.chain(bounds.clone()).collect();
    eval(&func, &arguments).unwrap().iter().map(Literal::to_f64s).collect()
}

/// The places in the log-sum-exp of queries that are in no document.
fn outside(a: &Attention, bounds: Option<&[i32]>) -> Vec<usize> {
    let Some(bounds) = bounds else { return Vec::new() };
    let is_inside = |row: usize, t: usize| {
        let bounds = &bounds[row * (bounds.len() / a.batch)..][..bounds.len() / a.batch];
        bounds.windows(2).any(|document| document[0] <= t as i32 && (t as i32) < document[1])
    };
    let places = (0..a.batch * a.heads * a.queries).map(|i| (i, i / a.queries / a.heads, i % a.queries));
    places.filter(|&(_, row, t)| !is_inside(row, t)).map(|(i, ..)| i).collect()
}

/// The kernels' results with operands of type `E`.
fn computed<E: Element>(
    isa: Isa,
    a: &Attention,
    bounds: Option<&[i32]>,
    operands: [&[f32]; 4],
    threads: usize,
) -> Vec<Vec<f64>> {
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
        bounds,
        output: &mut output,
        log_sum_exp: &mut log_sum_exp,
    };
    forward(isa, call, threads, &for_each);
    // What has no meaning does no harm.
    assert!(log_sum_exp.iter().all(|x| !x.is_nan()) || bounds.is_none());
    outside(a, bounds).into_iter().for_each(|i| log_sum_exp[i] = f32::NAN);
    let [mut query_ct, mut key_ct, mut value_ct] = [&query, &key, &value].map(|x| vec![E::from_f32(f32::NAN); x.len()]);
    let call = Backward {
        attention: *a,
        query: &query,
        key: &key,
        value: &value,
        log_sum_exp: &log_sum_exp,
        output: &output,
        output_ct: &ct,
        bounds,
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
    check_rows(sizes, causal, window, None);
}

/// With `bounds` those of documents in both rows.
#[track_caller]
fn check_rows(sizes: Sizes, causal: bool, window: Option<usize>, bounds: Option<&[i32]>) {
    let a = attention(sizes, causal, window);
    let rows = [a.queries * a.heads * a.head_size, a.keys * a.key_heads * a.head_size];
    let more = [a.keys * a.key_heads * a.value_size, a.queries * a.heads * a.value_size];
    let operands = [rows[0], rows[1], more[0], more[1]].map(|len| numbers(a.batch * len, len as u64 + 1));
    let narrow = operands.each_ref().map(|x| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<f32>>());
    let exact = expected(&a, bounds, operands.each_ref().map(|x| &x[..]));
    let exact_narrow = expected(&a, bounds, narrow.each_ref().map(|x| &x[..]));
    for isa in Isa::available() {
        for threads in [1, 7] {
            let what = format!("{threads} threads, {a:?}, {bounds:?}");
            let results = computed::<f32>(isa, &a, bounds, operands.each_ref().map(|x| &x[..]), threads);
            compare(&results, &exact, &outside(&a, bounds), 2e-6, &format!("{isa:?}, f32, {what}"));
            let results = computed::<bf16>(isa, &a, bounds, narrow.each_ref().map(|x| &x[..]), threads);
            compare(&results, &exact_narrow, &outside(&a, bounds), 8e-3, &format!("{isa:?}, bf16, {what}"));
        }
    }
}

/// Differences relative to the largest element of each result, but for places of the log-sum-exp without a meaning.
#[track_caller]
fn compare(results: &[Vec<f64>], expected: &[Vec<f64>], no_meaning: &[usize], tolerance: f64, what: &str) {
    let names = ["output", "log-sum-exp", "query_ct", "key_ct", "value_ct"];
    for ((name, result), expected) in names.iter().zip(results).zip(expected) {
        let is_compared = |i: &usize| *name != "log-sum-exp" || !no_meaning.contains(i);
        let places = (0..expected.len()).filter(is_compared);
        // With one key in the window the scores have no gradient: what is there is rounding of terms about 1.
        let largest = places.clone().fold(0.1, |m: f64, i| m.max(expected[i].abs()));
        assert_eq!(result.len(), expected.len(), "{name}: {what}");
        let differences = places.map(|i| (result[i] - expected[i]).abs());
        let error = differences.fold(0.0, |m: f64, x| if x <= m || m.is_nan() { m } else { x });
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
fn attention_within_documents() {
    // Bounds of two rows of `T` positions.
    let check = |sizes: Sizes, bounds: [&[i32]; 2]| {
        for (causal, window) in [(true, None), (false, None), (true, Some(2)), (true, Some(100))] {
            check_rows(sizes, causal, window, Some(&bounds.concat()));
        }
    };
    // One block; one document, and two of which one is empty.
    check([5, 5, 2, 1, 8, 8], [&[0, 5, 5], &[0, 0, 5]]);
    // Documents that end within blocks and with them, and that are longer than a block of keys: queries see nothing of
    // blocks of keys that others of their block see.
    check([300, 300, 2, 1, 8, 8], [&[0, 130, 131, 300], &[0, 64, 128, 300]]);
    check([300, 300, 4, 2, 16, 24], [&[0, 1, 2, 2, 290, 300], &[0, 255, 256, 257, 300, 300]]);
    // Nothing before the first document, behind the last one, or at all; bounds out of the row.
    check([150, 150, 2, 1, 7, 19], [&[3, 70, 149], &[0, 0, 0]]);
    check([300, 300, 1, 1, 8, 8], [&[140, 141, 150], &[-7, 200, 999]]);
    // A sequence is one document.
    check([150, 150, 2, 1, 8, 8], [&[0, 150], &[0, 150]]);
}

/// Attention to a cache by the evaluator in f64.
fn expected_of_cache(s: &CacheSizes, [query, key, value]: [&[f32]; 3], [start, count]: [&[i32]; 2]) -> Vec<f64> {
    let shapes = [
        [s.batch, s.queries, s.heads, s.head_size],
        [s.batch, s.key_heads, s.rows, s.head_size],
        [s.batch, s.key_heads, s.rows, s.value_size],
    ];
    let op = CachedAttention {
        scale: f64::from(s.scale),
        sliding_window: s.window,
        soft_cap: None,
        visible_rows: s.visible_rows,
    };
    let func = Builder::build("cached", |b| {
        let params = ["q", "k", "v"].into_iter().zip(shapes);
        let params: Vec<_> = params.map(|(name, shape)| b.param(name, TensorType::new(DType::F64, shape))).collect();
        let places = ["start", "count"].map(|name| b.param(name, TensorType::new(DType::I32, [s.batch])));
        vec![params[0].cached_attention([params[1], params[2]], places, op.clone())]
    });
    let floats = shapes.into_iter().zip([query, key, value]).map(|(shape, x)| {
        let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        Literal::from_f64s(TensorType::new(DType::F64, shape), &x)
    });
    let places = [start, count].map(|x| {
        let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        Literal::from_f64s(TensorType::new(DType::I32, [s.batch]), &x)
    });
    let arguments: Vec<Literal> = floats.chain(places).collect();
    eval(&func, &arguments).unwrap()[0].to_f64s()
}

fn computed_of_cache<E: Element>(
    isa: Isa,
    sizes: CacheSizes,
    operands: [&[f32]; 3],
    [start, count]: [&[i32]; 2],
    threads: usize,
) -> Vec<f64> {
    let [query, key, value] = operands.map(|x| x.iter().map(|&x| E::from_f32(x)).collect::<Vec<E>>());
    let mut output = vec![E::from_f32(f32::NAN); sizes.batch * sizes.queries * sizes.heads * sizes.value_size];
    let for_each = |number: usize, f: &(dyn Fn(usize) + Sync)| (0..number).rev().for_each(f);
    let call = Cached { sizes, query: &query, key: &key, value: &value, start, count, output: &mut output };
    cached(isa, call, threads, &for_each);
    output.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Two texts at these places, with `T`, `N`, `K`, `H`, `V` and rows of which some are visible.
#[track_caller]
fn check_cached(
    sizes: Sizes,
    [rows, visible_rows]: [usize; 2],
    window: Option<usize>,
    start: [i32; 2],
    count: [i32; 2],
) {
    let [queries, _, heads, key_heads, head_size, value_size] = sizes;
    let (batch, scale) = (2, 0.4);
    let s = CacheSizes { batch, queries, heads, key_heads, rows, visible_rows, head_size, value_size, scale, window };
    let lens = [queries * heads * head_size, key_heads * rows * head_size, key_heads * rows * value_size];
    let operands = lens.map(|len| numbers(batch * len, len as u64 + 1));
    let narrow = operands.each_ref().map(|x| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<f32>>());
    let places: [&[i32]; 2] = [&start, &count];
    // What a query that sees no position gets has no meaning: of a text without any, or padding behind the window.
    let sees = |b: usize, t: usize| {
        let (last, own) = (start[b] + count[b] - 1, start[b] + t as i32);
        last >= 0 && window.is_none_or(|window| own - last.min(own) < window as i32)
    };
    let means = |x: Vec<f64>| -> Vec<f64> {
        let per_query = heads * value_size;
        let queries = (0..batch).flat_map(|b| (0..queries).map(move |t| (b, t)));
        let rows = queries.zip(x.chunks(per_query)).filter(|&((b, t), _)| sees(b, t));
        rows.flat_map(|(_, row)| row.to_vec()).collect()
    };
    let check = |found: Vec<f64>, operands: &[Vec<f32>; 3], tolerance: f64, what: &str| {
        assert!(found.iter().all(|x| x.is_finite()), "{what}, {s:?}");
        let expected = means(expected_of_cache(&s, operands.each_ref().map(|x| &x[..]), places));
        let largest = expected.iter().fold(0.1, |m: f64, x| m.max(x.abs()));
        let error = means(found).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error <= tolerance * largest, "{:.1e} of its largest element off: {what}, {s:?}", error / largest);
    };
    for isa in Isa::available() {
        for threads in [1, 7] {
            let what = format!("{isa:?}, {threads} threads");
            let found = computed_of_cache::<f32>(isa, s, operands.each_ref().map(|x| &x[..]), places, threads);
            check(found, &operands, 2e-6, &what);
            let found = computed_of_cache::<bf16>(isa, s, narrow.each_ref().map(|x| &x[..]), places, threads);
            check(found, &narrow, 8e-3, &what);
        }
    }
}

#[test]
fn attention_to_a_cache() {
    // Less than a vector, and less than a block of rows; a text that has one position, and one that has none.
    check_cached([1, 0, 1, 1, 1, 1], [4, 4], None, [3, 0], [1, 1]);
    check_cached([1, 0, 2, 1, 7, 19], [16, 16], None, [5, -1], [1, 1]);
    // Grouped heads, several blocks, parts for several threads, and rows behind the last position.
    check_cached([1, 0, 4, 2, 64, 64], [1024, 768], None, [700, 130], [1, 1]);
    check_cached([1, 0, 6, 2, 128, 80], [600, 600], None, [599, 64], [1, 1]);
    // Several tokens, some of them padding.
    check_cached([5, 0, 4, 2, 16, 16], [96, 64], None, [30, 0], [5, 3]);
    for window in [1, 3, 50, 1000] {
        check_cached([1, 0, 2, 1, 16, 16], [96, 96], Some(window), [40, 95], [1, 1]);
        check_cached([3, 0, 2, 1, 16, 16], [96, 96], Some(window), [40, 0], [3, 3]);
    }
    // Rings that have been round, with a window that they hold.
    for window in [1, 3, 50] {
        check_cached([1, 0, 2, 1, 16, 16], [64, 64], Some(window), [64, 1000], [1, 1]);
        check_cached([8, 0, 4, 2, 16, 32], [64, 64], Some(window), [60, 333], [8, 8]);
    }
}

#[test]
fn attention_of_many_queries_to_a_cache() {
    // The first positions, later ones, padding behind them; heads and sizes that are no whole vectors.
    check_cached([16, 0, 4, 2, 16, 16], [96, 64], None, [0, 40], [16, 9]);
    check_cached([100, 0, 2, 1, 7, 19], [512, 512], None, [300, 17], [100, 77]);
    check_cached([130, 0, 4, 2, 64, 80], [1024, 768], None, [637, 130], [130, 1]);
    // A text without positions beside one that has some.
    check_cached([9, 0, 2, 2, 16, 16], [64, 64], None, [20, -1], [9, 1]);
    check_cached([9, 0, 2, 2, 16, 16], [64, 64], None, [0, 0], [0, 0]);
    for window in [1, 3, 50, 1000] {
        check_cached([33, 0, 2, 1, 16, 16], [256, 256], Some(window), [40, 200], [33, 20]);
    }
    // Rings that have been round, with a window that they hold beside the queries; one that is full, and one that is not.
    for window in [1, 3, 50] {
        check_cached([30, 0, 4, 2, 16, 32], [80, 80], Some(window), [60, 1000], [30, 30]);
        check_cached([14, 0, 2, 1, 16, 16], [64, 64], Some(window), [50, 20], [14, 11]);
    }
    // Some of the rows are visible, and positions lie in all of them.
    check_cached([12, 0, 2, 1, 16, 16], [64, 32], None, [40, 0], [12, 12]);
}

#[test]
fn not_a_number_in_a_cache_is_seen() {
    let s = CacheSizes {
        batch: 1,
        queries: 2,
        heads: 1,
        key_heads: 1,
        rows: 64,
        visible_rows: 64,
        head_size: 4,
        value_size: 4,
        scale: 0.5,
        window: Some(2),
    };
    let mut operands = [numbers(8, 1), numbers(256, 2), numbers(256, 3)];
    operands[1][4 * 7] = f32::NAN;
    for isa in Isa::available() {
        let sees = |start: i32| -> Vec<bool> {
            let x = computed_of_cache::<f32>(isa, s, operands.each_ref().map(|x| &x[..]), [&[start], &[2]], 1);
            x.chunks(4).map(|row| row.iter().any(|x| x.is_nan())).collect()
        };
        assert_eq!(sees(5), [false, false], "{isa:?}");
        assert_eq!(sees(6), [false, true], "{isa:?}");
        assert_eq!(sees(8), [true, false], "{isa:?}");
        // Row 7 holds position 71.
        assert_eq!(sees(70), [false, true], "{isa:?}");
    }
}

#[test]
fn not_a_number_is_seen() {
    let a = attention([6, 6, 1, 1, 4, 4], true, None);
    let mut operands = [1, 2, 3, 4].map(|seed| numbers(a.batch * 6 * 4, seed));
    operands[1][8] = f32::NAN; // key 2 of the first sequence
    for isa in Isa::available() {
        let results = computed::<f32>(isa, &a, None, operands.each_ref().map(|x| &x[..]), 1);
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
