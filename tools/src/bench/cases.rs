//! What is timed.

use lmc_autodiff::{DiffError, value_and_grad};
use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Func, TensorType, Value};
use lmc_models::layers::{Codes, Offset, Quantization, QuantizedWeight, quantized_product, rms_normalize};
use lmc_models::loss::cross_entropy_sum;
use lmc_models::{
    AdamW, Compute, Dropout, LlamaConfig, ModelConfig, Optimizer, Precision, Schedule, ScheduleKind, StepConfig,
    Update, train_step,
};

use super::Case;

/// All cases.
///
/// # Errors
/// If a case has no derivative, which would be a mistake in it.
pub fn cases() -> Result<Vec<Case>, DiffError> {
    let mut cases = Vec::new();
    for dtype in [DType::BF16, DType::F32] {
        products(&mut cases, dtype);
        attentions(&mut cases, dtype)?;
    }
    decoding(&mut cases);
    elementwise(&mut cases)?;
    steps(&mut cases)?;
    Ok(cases)
}

fn case(group: &'static str, name: String, func: Func) -> Case {
    Case { group, name, func }
}

/// The products of a linear layer and of a head: `[tokens, in]` with weights `[out, in]`.
fn products(cases: &mut Vec<Case>, dtype: DType) {
    for [tokens, input, output] in [[2048, 384, 1024], [2048, 768, 2048], [1024, 768, 32000]] {
        let ty = |shape: [usize; 2]| TensorType::new(dtype, shape);
        let name = |what: &str| format!("{what} {tokens}x{input}x{output} {dtype}");
        let (x, w, y) = (ty([tokens, input]), ty([output, input]), ty([tokens, output]));
        let product = |name: String, lhs: &TensorType, rhs: &TensorType, sums: [usize; 2], result: DType| {
            let func = Builder::build("product", |b| {
                let (lhs, rhs) = (b.param("lhs", lhs.clone()), b.param("rhs", rhs.clone()));
                vec![lhs.dot_general(rhs, dot(sums, result))]
            });
            case("product", name, func)
        };
        cases.push(product(name("forward"), &x, &w, [1, 1], dtype));
        cases.push(product(name("input gradient"), &y, &w, [1, 0], dtype));
        cases.push(product(name("weight gradient"), &y, &x, [0, 0], DType::F32));
    }
}

/// The products of a few tokens with one weight after the other, a hundred million parameters in all, so that what is
/// timed is how fast weights are read from memory.
fn decoding(cases: &mut Vec<Case>) {
    let quantized =
        |codes: Codes, offset: Offset<DType>| Some(Quantization { codes, group_size: 64, scales: DType::BF16, offset });
    let forms = [
        ("bf16", None),
        ("int8", quantized(Codes::I8, Offset::None)),
        ("int8 with zeros", quantized(Codes::U8, Offset::Zeros(DType::U8))),
        ("int4", quantized(Codes::I4, Offset::None)),
        ("int4 with zeros", quantized(Codes::U4, Offset::Zeros(DType::U8))),
    ];
    for (name, quantization) in forms {
        for tokens in [1, 8] {
            let func = Builder::build("decoding", |b| {
                let mut x = b.param("x", TensorType::new(DType::BF16, [tokens, 1024]));
                for layer in 0..16 {
                    for [input, out] in [[1024, 3072], [3072, 1024]] {
                        let param = |part: &str, ty: TensorType| b.param(&format!("{layer}.{out}.{part}"), ty);
                        x = match &quantization {
                            None => x.dot(param("weight", TensorType::new(DType::BF16, [out, input]))),
                            Some(quantization) => {
                                let (codes, scales, offset) = quantization.types(out, input);
                                let weight = QuantizedWeight {
                                    stored: quantization.codes,
                                    codes: param("codes", codes),
                                    scales: param("scales", scales),
                                    offset: offset.map(|ty| param("offset", ty)),
                                };
                                quantized_product(x, weight, DType::BF16)
                            }
                        };
                    }
                }
                vec![x]
            });
            cases.push(case("decode", format!("{tokens} tokens, 32 weights of 1024x3072, {name}"), func));
        }
    }
}

/// A product of matrices, summed over these dimensions.
fn dot([lhs, rhs]: [usize; 2], result_dtype: DType) -> lmc_graph::ops::DotGeneral {
    lmc_graph::ops::DotGeneral {
        lhs_batching_dimensions: vec![],
        rhs_batching_dimensions: vec![],
        lhs_contracting_dimensions: vec![lhs],
        rhs_contracting_dimensions: vec![rhs],
        result_dtype,
    }
}

/// Causal attention and its derivative. (Few heads at the longest: the plain form stores all scores.)
fn attentions(cases: &mut Vec<Case>, dtype: DType) -> Result<(), DiffError> {
    for [batch, length, heads, key_heads] in [[8, 512, 12, 4], [2, 2048, 12, 4], [1, 8192, 2, 2]] {
        let ty = |heads| TensorType::new(dtype, [batch, length, heads, 64]);
        let op = ScaledDotProductAttention {
            scale: 0.125,
            mask: AttentionMask::Causal,
            sliding_window: None,
            rows: AttentionRows::Whole,
        };
        let name = format!("{batch}x{length}, {heads}/{key_heads} heads of 64, {dtype}, with gradients");
        let func = differentiated("attention", &[ty(heads), ty(key_heads), ty(key_heads)], |x| {
            x[0].scaled_dot_product_attention(x[1], x[2], op.clone()).0
        })?;
        cases.push(case("attention", name, func));
    }
    Ok(())
}

/// The sum of a function's squared elements and its gradient.
fn differentiated(
    name: &str,
    params: &[TensorType],
    f: impl for<'g> Fn(&[Value<'g>]) -> Value<'g>,
) -> Result<Func, DiffError> {
    let func = Builder::build(name, |b| {
        let x: Vec<Value<'_>> =
            params.iter().enumerate().map(|(i, ty)| b.param(&format!("x{i}"), ty.clone())).collect();
        let y = f(&x).convert(DType::F32);
        vec![(y * y).sum(&(0..y.rank()).collect::<Vec<_>>())]
    });
    value_and_grad(&func, &(0..params.len()).collect::<Vec<_>>())
}

/// Softmax, normalization, gate and loss.
fn elementwise(cases: &mut Vec<Case>) -> Result<(), DiffError> {
    let f32 = |shape: &[usize]| TensorType::new(DType::F32, shape);
    let bf16 = |shape: &[usize]| TensorType::new(DType::BF16, shape);
    let softmax = Builder::build("softmax", |b| vec![b.param("x", f32(&[12288, 512])).softmax(1)]);
    cases.push(case("softmax", "12288x512 f32".to_string(), softmax));
    let norm = differentiated("norm", &[bf16(&[4, 512, 768])], |x| rms_normalize(x[0], 1e-5))?;
    cases.push(case("norm", "rms norm 4x512x768 bf16, with gradient".to_string(), norm));
    let gate = differentiated("gate", &[bf16(&[2048, 2048]), bf16(&[2048, 2048])], |x| x[0].silu() * x[1])?;
    cases.push(case("gate", "silu(x) y 2048x2048 bf16, with gradients".to_string(), gate));
    for vocab in [4096, 32000] {
        let func = Builder::build("loss", |b| {
            let logits = b.param("logits", f32(&[2, 512, vocab]));
            let labels = b.param("labels", TensorType::new(DType::I32, [2, 512]));
            let (sum, count) = cross_entropy_sum(logits, labels, 0.0);
            vec![sum / count]
        });
        let name = format!("cross-entropy 1024x{vocab} f32, with gradient");
        cases.push(case("loss", name, value_and_grad(&func, &[0])?));
    }
    Ok(())
}

/// Whole training steps of a small Llama: the first, one of four times the tokens, and one of four times the layers.
fn steps(cases: &mut Vec<Case>) -> Result<(), DiffError> {
    for (batch, layers) in [(1, 4), (4, 4), (1, 16)] {
        let model = LlamaConfig {
            vocab_size: 4096,
            hidden_size: 384,
            num_hidden_layers: layers,
            num_attention_heads: 6,
            num_key_value_heads: 2,
            head_dim: 64,
            intermediate_size: 1024,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            dropout: Dropout::NONE,
        };
        let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let config = StepConfig {
            model: ModelConfig::Llama(model),
            micro_batch_size: batch,
            grad_accum_steps: 1,
            seq_len: 512,
            compute: Compute::from(Precision::BFloat16),
            z_loss: 0.0,
            seed: 0,
            update: Update {
                optimizer: Optimizer::AdamW(adamw),
                schedule: Schedule {
                    kind: ScheduleKind::Constant,
                    learning_rate: 1e-4,
                    min_learning_rate: 0.0,
                    warmup_steps: 0,
                    total_steps: 100,
                },
                grad_clip_norm: 1.0,
                ema_decay: 0.0,
            },
        };
        let name = format!("{batch}x512 tokens, {layers} layers of 384, bf16");
        cases.push(case("step", name, train_step(&config)?.func));
    }
    Ok(())
}
