//! The forms that the CPU's target takes where sizes are large, against the reference evaluator.

use lmc::device::cpu_target;
use lmc_graph::ops::{AttentionMask, AttentionRows, DotGeneral, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Func, Literal, TensorType, Value, eval};
use lmc_lower::report::Form;
use lmc_lower::{Target, lower};
use lmc_models::layers::{Codes, Offset, Quantization, QuantizedWeight, quantized_product};
use lmc_tests::plugin;

/// Numbers between -1 and 1 without a pattern; whole numbers are any.
fn numbers(ty: &TensorType, seed: u64) -> Literal {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    });
    let values = values.take(ty.num_elements());
    let whole = |offset: f64| move |x: f64| (x * 127.0).round() + offset;
    let values: Vec<f64> = if ty.dtype == DType::I8 {
        values.map(whole(0.0)).collect()
    } else if ty.dtype == DType::U8 {
        values.map(whole(128.0)).collect()
    } else {
        values.collect()
    };
    Literal::from_f64s(ty.clone(), &values)
}

/// Runs a function on the CPU and by the evaluator on the same arguments: differences of at most `tolerance` of each
/// result's largest element. Returns the forms that its products and attentions took.
#[track_caller]
fn check(func: &Func, target: &Target, tolerance: f64) -> Vec<Form> {
    let args: Vec<Literal> = func.param_types().iter().zip(1..).map(|(ty, seed)| numbers(ty, seed)).collect();
    let expected = eval(func, &args).unwrap();
    let program = plugin::compile_for(func, target).unwrap();
    let results = plugin::execute(&program, &args).unwrap();
    for (i, (result, expected)) in results.iter().zip(&expected).enumerate() {
        let (result, expected) = (result.to_f64s(), expected.to_f64s());
        let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let error = result
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, |m: f64, x| if x <= m || m.is_nan() { m } else { x });
        assert!(error <= tolerance * largest, "{}: result {i} is {:.1e} off", func.name, error / largest);
    }
    lower(func, target).report.rows.iter().map(|row| row.form).collect()
}

/// This machine's form of a product that is worth a call.
fn library_form(dtype: DType) -> Form {
    let processor = cpu_target().processor.unwrap();
    if processor.amx && dtype == DType::BF16 {
        return Form::MatmulKernel;
    }
    let has = processor.architecture == "x86_64" && (processor.avx512_bf16 || dtype != DType::BF16);
    if has { Form::OneDnnMatmul } else { Form::DotGeneral }
}

#[test]
fn products_of_every_orientation() {
    // Batch, rows, columns and terms: bf16 from 2 million operations on, f32 from 32 million.
    for (dtype, [batch, m, n, k]) in
        [(DType::BF16, [0, 96, 80, 160]), (DType::BF16, [3, 64, 48, 128]), (DType::F32, [0, 160, 224, 480])]
    {
        for result_dtype in [dtype, DType::F32] {
            for (lhs_sum, rhs_sum) in [(1, 0), (1, 1), (0, 0), (0, 1)] {
                let leading: Vec<usize> = if batch > 0 { vec![batch] } else { vec![] };
                let shape = |sum: usize, free: usize, free_size: usize| {
                    let mut matrix = [0; 2];
                    (matrix[sum], matrix[free]) = (k, free_size);
                    TensorType::new(dtype, [&leading[..], &matrix[..]].concat())
                };
                let (lhs, rhs) = (shape(lhs_sum, 1 - lhs_sum, m), shape(rhs_sum, 1 - rhs_sum, n));
                let batching: Vec<usize> = (0..leading.len()).collect();
                let op = DotGeneral {
                    lhs_batching_dimensions: batching.clone(),
                    rhs_batching_dimensions: batching,
                    lhs_contracting_dimensions: vec![leading.len() + lhs_sum],
                    rhs_contracting_dimensions: vec![leading.len() + rhs_sum],
                    result_dtype,
                };
                let func = Builder::build("product", |b| {
                    let (lhs, rhs) = (b.param("lhs", lhs.clone()), b.param("rhs", rhs.clone()));
                    vec![lhs.dot_general(rhs, op.clone())]
                });
                let tolerance = if result_dtype == DType::BF16 { 4e-3 } else { 2e-6 };
                assert_eq!(check(&func, &cpu_target(), tolerance), [library_form(dtype)], "{lhs} {rhs}");
            }
        }
    }
}

#[test]
fn a_layer_of_sequences_is_one_product() {
    let func = Builder::build("layer", |b| {
        let x = b.param("x", TensorType::new(DType::BF16, [4, 64, 96]));
        let w = b.param("w", TensorType::new(DType::BF16, [128, 96]));
        let op = DotGeneral {
            lhs_batching_dimensions: vec![],
            rhs_batching_dimensions: vec![],
            lhs_contracting_dimensions: vec![2],
            rhs_contracting_dimensions: vec![1],
            result_dtype: DType::BF16,
        };
        vec![x.dot_general(w, op)]
    });
    let form = library_form(DType::BF16);
    let form = if form == Form::DotGeneral { Form::DotGeneralCollapsed } else { form };
    assert_eq!(check(&func, &cpu_target(), 4e-3), [form]);
}

#[test]
fn sums_of_many_elements() {
    // A sum of 3 million squares in f32 that is right to 6 digits, along rows, columns and everything.
    for (shape, dimensions) in [
        (vec![4, 32000], vec![1]),
        (vec![4096, 768], vec![0, 1]),
        (vec![4096, 24], vec![0]),
        (vec![2, 512, 40], vec![0, 1]),
        (vec![5, 8209], vec![1]),
        (vec![33, 65, 7], vec![0, 2]),
    ] {
        let func = Builder::build("sums", |b| {
            let x = b.param("x", TensorType::new(DType::F32, shape.clone()));
            vec![(x * x).sum(&dimensions), x.max(&dimensions), x.min(&dimensions)]
        });
        check(&func, &cpu_target(), 1e-6);
    }
}

#[test]
fn not_a_number_outlasts_a_maximum() {
    let func = Builder::build("maxima", |b| {
        let x = b.param("x", TensorType::new(DType::F32, [3, 32000]));
        vec![x.max(&[1]), x.min(&[1]), x.max(&[0])]
    });
    let mut values = vec![1.0f32; 3 * 32000];
    values[32000 + 12345] = f32::NAN;
    let program = plugin::compile(&func).unwrap();
    let results = plugin::execute(&program, &[Literal::new([3, 32000], &values)]).unwrap();
    for result in &results[..2] {
        assert_eq!(result.to_f64s().iter().map(|x| x.is_nan()).collect::<Vec<_>>(), [false, true, false]);
    }
    assert_eq!(results[2].to_f64s().iter().position(|x| x.is_nan()), Some(12345));
}

#[test]
fn a_residual_stream_is_kept() {
    // Rows, sums, and how many sums are kept: each but the last has two users, the next sum and a product. The first begins
    // the chain; of short work only the fifth, the ninth and so on are kept.
    for (rows, sums, kept) in [(128, 4, 2), (128, 12, 10), (1, 4, 0), (1, 6, 1), (1, 12, 2)] {
        let func = Builder::build("stream", |b| {
            let ty = |rows| TensorType::new(DType::BF16, [rows, 128]);
            let (mut x, w) = (b.param("x", ty(rows)), b.param("w", ty(128)));
            for _ in 0..sums {
                x = x + x.dot(w) * x.full_like(0.1);
            }
            vec![x]
        });
        check(&func, &cpu_target(), 2e-2);
        let calls = |target: &Target| lower(&func, target).text.matches("@lmc.optimization_barrier").count();
        assert_eq!((calls(&cpu_target()), calls(&Target::cpu(None))), (kept, 0), "{rows} rows, {sums} sums");
    }
}

#[test]
fn attention_in_every_form() {
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::BF16, 2e-2)] {
        for (mask, sliding_window) in
            [(AttentionMask::Causal, None), (AttentionMask::Full, None), (AttentionMask::Causal, Some(50))]
        {
            // Three documents, and two with something before and behind them that nobody sees.
            let bounds = Literal::new([2, 4], &[0_i32, 50, 135, 160, 10, 140, 140, 155]);
            for rows in [AttentionRows::Whole, AttentionRows::Packed] {
                let op = ScaledDotProductAttention { scale: 0.3, mask, sliding_window, rows };
                let func = Builder::build("attention", |b| {
                    let ty = |heads| TensorType::new(dtype, [2, 160, heads, 32]);
                    let (q, k, v) = (b.param("q", ty(4)), b.param("k", ty(2)), b.param("v", ty(2)));
                    let bounds = (rows == AttentionRows::Packed).then(|| b.constant(bounds.clone()));
                    let (output, _) = q.scaled_dot_product_attention_of(k, v, bounds.as_slice(), op.clone());
                    let output = output.convert(DType::F32);
                    vec![(output * output).sum(&[0, 1, 2, 3])]
                });
                let func = lmc_autodiff::value_and_grad(&func, &[0, 1, 2]).unwrap();
                assert_eq!(check(&func, &cpu_target(), tolerance), [Form::AttentionKernel; 2]);
                let forms = check(&func, &Target::cpu(None), tolerance);
                assert!(forms.contains(&Form::DecomposedByBlocks), "{forms:?}");
                let forms = check(&func, &Target::generic(), tolerance);
                assert!(forms.contains(&Form::Decomposed), "{forms:?}");
            }
        }
    }
}

/// The product of this operand with a weight `[384, 512]` in this form.
fn quantized(x: &TensorType, quantization: Quantization, result_dtype: DType) -> Func {
    Builder::build("quantized", |b| {
        let (codes, scales, offset) = quantization.types(384, 512);
        let weight = QuantizedWeight {
            stored: quantization.codes,
            codes: b.param("codes", codes),
            scales: b.param("scales", scales),
            offset: offset.map(|ty| b.param("offset", ty)),
        };
        vec![quantized_product(b.param("x", x.clone()), weight, result_dtype)]
    })
}

#[test]
fn products_of_few_rows_with_a_quantized_weight() {
    for codes in [Codes::I8, Codes::U8, Codes::I4, Codes::U4] {
        for (scales, offset) in [
            (DType::F32, Offset::None),
            (DType::BF16, Offset::Zeros(DType::U8)),
            (DType::F16, Offset::Biases(DType::F16)),
        ] {
            if codes == Codes::I8 && matches!(offset, Offset::Zeros(_)) || codes == Codes::I4 && offset != Offset::None
            {
                continue;
            }
            for (group_size, shape, dtype) in
                [(32, vec![1, 512], DType::BF16), (64, vec![2, 3, 512], DType::F32), (128, vec![512], DType::BF16)]
            {
                let quantization = Quantization { codes, group_size, scales, offset };
                let func = quantized(&TensorType::new(dtype, shape), quantization, dtype);
                // The graph rounds a weight to bf16, the kernel does not.
                let tolerance = if dtype == DType::BF16 { 1e-2 } else { 4e-6 };
                let what = format!("{quantization:?}");
                assert_eq!(check(&func, &cpu_target(), tolerance), [Form::WeightKernel], "{what}");
                let text = lower(&func, &cpu_target()).text;
                assert!(!text.contains("stablehlo.multiply"), "the weight is also de-quantized: {what}\n{text}");
                assert_eq!(check(&func, &Target::cpu(None), tolerance).len(), 1, "{what}");
            }
        }
    }
}

#[test]
fn products_of_many_rows_with_a_quantized_weight() {
    for codes in [Codes::I8, Codes::U4] {
        let quantization = Quantization { codes, group_size: 64, scales: DType::F32, offset: Offset::None };
        for dtype in [DType::BF16, DType::F32] {
            let func = quantized(&TensorType::new(dtype, [96, 512]), quantization, DType::F32);
            assert_eq!(check(&func, &cpu_target(), 4e-6).len(), 1);
            let lowered = lower(&func, &cpu_target());
            assert!(lowered.text.contains("@lmc.dequantize") && !lowered.text.contains("stablehlo.multiply"));
            let refused = lowered.report.rows[0].refused.as_deref().unwrap_or_default();
            assert!(refused.contains("de-quantized first"), "{refused}");
        }
    }
}

/// Programs of models that are used call no library: their products with weights are lmc's, or XLA's own.
#[test]
fn products_of_models_that_are_used() {
    let target = Target { for_use: true, ..cpu_target() };
    let has_amx = target.processor.as_ref().is_some_and(|processor| processor.amx);
    let many = |dtype| if has_amx && dtype == DType::BF16 { Form::MatmulKernel } else { Form::WeightKernel };
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::BF16, 4e-3)] {
        let x = TensorType::new(dtype, [2, 65, 512]);
        for contracting in [0, 1] {
            let mut shape = [260; 2];
            shape[contracting] = 512;
            let op = DotGeneral {
                lhs_batching_dimensions: vec![],
                rhs_batching_dimensions: vec![],
                lhs_contracting_dimensions: vec![2],
                rhs_contracting_dimensions: vec![contracting],
                result_dtype: dtype,
            };
            let func = Builder::build("layer", |b| {
                vec![b.param("x", x.clone()).dot_general(b.param("w", TensorType::new(dtype, shape)), op)]
            });
            assert_eq!(check(&func, &target, tolerance), [many(dtype)], "{dtype} {contracting}");
        }
        let quantization = Quantization { codes: Codes::U4, group_size: 64, scales: dtype, offset: Offset::None };
        let func = quantized(&x, quantization, dtype);
        // The graph rounds a weight to bf16, the kernel does not.
        let tolerance = if dtype == DType::BF16 { 1e-2 } else { 4e-6 };
        assert_eq!(check(&func, &target, tolerance), [many(dtype)], "{dtype} int4");
        // No weight: for scores of attention there is no kernel, and oneDNN would be called.
        let func = Builder::build("scores", |b| {
            let ty = TensorType::new(dtype, [4, 256, 128]);
            let (q, k) = (b.param("q", ty.clone()), b.param("k", ty));
            let op = DotGeneral {
                lhs_batching_dimensions: vec![0],
                rhs_batching_dimensions: vec![0],
                lhs_contracting_dimensions: vec![2],
                rhs_contracting_dimensions: vec![2],
                result_dtype: DType::F32,
            };
            vec![q.dot_general(k, op)]
        });
        let forms = check(&func, &target, 2e-6);
        assert!(!forms.contains(&Form::OneDnnMatmul), "{forms:?}");
    }
}

#[test]
fn products_of_few_rows_with_a_weight_of_floats() {
    // The operand's type, the stored weight's, and whether the weight is `[in, out]`.
    for (dtype, stored) in [
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F16),
        (DType::F32, DType::BF16),
        (DType::F32, DType::F16),
        (DType::F32, DType::F32),
    ] {
        for contracting in [0, 1] {
            for x in [vec![256], vec![3, 256], vec![2, 4, 256]] {
                let func = Builder::build("layer", |b| {
                    let shape = if contracting == 0 { [256, 300] } else { [300, 256] };
                    let (x, w) =
                        (b.param("x", TensorType::new(dtype, x.clone())), b.param("w", TensorType::new(stored, shape)));
                    let w = if stored == dtype { w } else { w.convert(dtype) };
                    let op = DotGeneral {
                        lhs_batching_dimensions: vec![],
                        rhs_batching_dimensions: vec![],
                        lhs_contracting_dimensions: vec![x.rank() - 1],
                        rhs_contracting_dimensions: vec![contracting],
                        result_dtype: DType::F32,
                    };
                    vec![x.dot_general(w, op)]
                });
                // A weight of f16 is not rounded to bf16. Sums of 256 products in f32, with AVX2 one behind the other, are
                // off by some 16 roundings.
                let tolerance = if (dtype, stored) == (DType::BF16, DType::F16) { 4e-3 } else { 4e-6 };
                assert_eq!(check(&func, &cpu_target(), tolerance), [Form::WeightKernel], "{stored} {contracting}");
            }
        }
    }
}

/// What lies beside each other is computed by one call; what differs is not.
#[test]
fn products_of_the_same_rows_are_one_call() {
    let calls = |func: &Func| {
        let text = lower(func, &cpu_target()).text;
        let calls = text.lines().filter(|line| line.contains("@lmc.weight_product"));
        let number =
            |call: &str| call.split_once("weights = ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        calls.map(|call| number(call).expect("how many weights it has")).collect::<Vec<usize>>()
    };
    let check = |func: &Func, expected: &[usize]| {
        let num_products = expected.iter().sum();
        assert_eq!(check(func, &cpu_target(), 4e-6), vec![Form::WeightKernel; num_products]);
        assert_eq!(calls(func), expected, "{}", lower(func, &cpu_target()).text);
    };
    let ty = |rows: usize, columns: usize| TensorType::new(DType::BF16, [rows, columns]);
    // Queries, keys and values; then the gate and what it lets through; then one that depends on them.
    check(
        &Builder::build("layer", |b| {
            let x = b.param("x", ty(2, 256));
            let [q, k, v] = [("q", 512), ("k", 256), ("v", 300)].map(|(name, out)| b.param(name, ty(out, 256)));
            let [gate, up, down] = ["gate", "up", "down"].map(|name| b.param(name, ty(256, 256)));
            let [q, k, v] = [q, k, v].map(|w| x.dot_general(w, of_rows(DType::F32)));
            let hidden = narrow(q.exp().slice(&[0, 0], &[2, 256], &[1, 1]) + k);
            let [gate, up] = [gate, up].map(|w| hidden.dot_general(w, of_rows(DType::F32)));
            vec![v, narrow(gate * up).dot_general(down, of_rows(DType::F32))]
        }),
        &[3, 2, 1],
    );
    // Another element type, another result, other rows; a weight that is made of a result before it.
    check(
        &Builder::build("layer", |b| {
            let (x, y) = (b.param("x", ty(2, 256)), b.param("y", ty(2, 256)));
            let w = b.param("w", ty(256, 256));
            let wide = b.param("wide", TensorType::new(DType::F16, [256, 256]));
            let first = x.dot_general(w, of_rows(DType::F32));
            let later = narrow(first.sum(&[0, 1]) * 1e-3).broadcast_to(&[256, 256]) + w;
            vec![
                first,
                x.convert(DType::F32).dot_general(wide.convert(DType::F32), of_rows(DType::F32)),
                narrow(x.dot_general(w, of_rows(DType::BF16)).convert(DType::F32)).convert(DType::F32),
                y.dot_general(w, of_rows(DType::F32)),
                x.dot_general(later, of_rows(DType::F32)),
            ]
        }),
        &[1, 1, 1, 1, 1],
    );
}

fn narrow(x: Value<'_>) -> Value<'_> {
    x.convert(DType::BF16)
}

/// A product of rows with a weight `[out, in]`.
fn of_rows(result_dtype: DType) -> DotGeneral {
    DotGeneral {
        lhs_batching_dimensions: vec![],
        rhs_batching_dimensions: vec![],
        lhs_contracting_dimensions: vec![1],
        rhs_contracting_dimensions: vec![1],
        result_dtype,
    }
}

#[test]
fn a_weight_that_is_used_twice_stays() {
    let func = Builder::build("layer", |b| {
        let x = b.param("x", TensorType::new(DType::BF16, [2, 256]));
        let w = b.param("w", TensorType::new(DType::F16, [300, 256])).convert(DType::BF16);
        vec![x.dot(w), w]
    });
    assert_eq!(check(&func, &cpu_target(), 4e-3), [Form::WeightKernel]);
}
