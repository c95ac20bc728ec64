//! `lmc doctor --attention`: attention on the device, forward and gradients, beside its definition in float32.

use lmc_autodiff::value_and_grad;
use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Func, Literal, TensorType};
use lmc_lower::report::Kind;
use serde_json::{Value, json};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::model::differentiation_error;
use crate::output::print;

/// A form that attention takes in models.
struct Variant {
    name: &'static str,
    dtype: DType,
    /// Heads of queries, and of keys and values.
    heads: (usize, usize),
    head_size: usize,
    mask: AttentionMask,
    sliding_window: Option<usize>,
    rows: AttentionRows,
}

const BATCH: usize = 2;

/// Longer than a kernel's blocks, and no multiple of them.
const LENGTH: usize = 200;

const fn variant(name: &'static str, heads: (usize, usize), head_size: usize) -> Variant {
    let (mask, rows) = (AttentionMask::Causal, AttentionRows::Whole);
    Variant { name, dtype: DType::BF16, heads, head_size, mask, sliding_window: None, rows }
}

fn variants() -> Vec<Variant> {
    vec![
        variant("causal", (4, 4), 64),
        Variant { dtype: DType::F16, ..variant("causal, float16", (4, 4), 64) },
        Variant { mask: AttentionMask::Full, ..variant("full", (4, 4), 64) },
        variant("grouped queries", (12, 4), 64),
        variant("one key head", (4, 1), 64),
        variant("heads of 128", (4, 2), 128),
        Variant { sliding_window: Some(64), ..variant("sliding window", (4, 2), 64) },
        Variant { rows: AttentionRows::Padded, ..variant("padded rows", (4, 2), 64) },
        Variant { rows: AttentionRows::Packed, ..variant("packed documents", (4, 2), 64) },
        Variant { rows: AttentionRows::Packed, sliding_window: Some(64), ..variant("packed, window", (4, 2), 64) },
    ]
}

/// The largest difference, as a part of the norm of what is right, that rounding explains. bf16 has 8 bits of precision:
/// one rounding is 0.2 % of a number in the mean, and probabilities, outputs and cotangents are rounded on the way.
const TOLERANCE: f64 = 0.01;

/// What is compared.
const COMPARED: [&str; 4] = ["output", "query", "key", "value"];

/// Compares all variants and prints a row for each.
///
/// # Errors
/// If one is further off than rounding explains, after all rows.
pub(super) fn run(device: &Device, json: bool) -> Result<Vec<Value>> {
    let (mut rows, mut problem) = (Vec::new(), None);
    if !json {
        print(&format!("\nattention of {} beside float32: differences by norm\n", device.name()))?;
        print(&format!(
            "{:18} {:32} {:>9} {:>9} {:>9} {:>9}\n",
            "variant", "form", "output", "d query", "d key", "d value"
        ))?;
    }
    for variant in variants() {
        let (form, differences) = compare(device, &variant)?;
        if !json {
            let numbers: String = differences.iter().map(|difference| format!(" {difference:9.5}")).collect();
            print(&format!("{:18} {form:32}{numbers}\n", variant.name))?;
        }
        let [output, query, key, value] = differences;
        rows.push(json!({
            "variant": variant.name, "form": form, "output": output, "d_query": query, "d_key": key, "d_value": value,
        }));
        let within = |difference: &f64| (0.0..=TOLERANCE).contains(difference);
        // What is not a number is not within.
        if let Some(index) = differences.iter().position(|difference| !within(difference)) {
            let what = if index == 0 { "output".to_owned() } else { format!("gradient of {}", COMPARED[index]) };
            problem.get_or_insert_with(|| {
                Error::run(format!(
                    "attention is wrong on {}: the {what} of `{}` ({form}) differs from float32 by {:.5} of its norm, and \
                     rounding explains {TOLERANCE}",
                    device.name(),
                    variant.name,
                    differences[index]
                ))
            });
        }
    }
    problem.map_or(Ok(rows), Err)
}

/// The form that a variant takes on the device, and how far its output and gradients are from those in float32.
fn compare(device: &Device, variant: &Variant) -> Result<(String, [f64; 4])> {
    let arguments = arguments(variant);
    let fast = device.compile(&func(variant, variant.dtype)?)?;
    let forms: Vec<&str> =
        fast.report().rows.iter().filter(|row| row.kind == Kind::Attention).map(|row| row.form.name()).collect();
    let form = match forms.as_slice() {
        [first, rest @ ..] if rest.iter().all(|form| form == first) => (*first).to_owned(),
        forms => forms.join(", "),
    };
    let found = fast.run(device, &arguments)?;
    let right = device.compile(&func(variant, DType::F32)?)?.run(device, &arguments)?;
    // Result 0 is the loss.
    Ok((form, std::array::from_fn(|index| difference(&found[index + 1], &right[index + 1]))))
}

/// A sum of the output weighted by `ct`, so that its gradient is that of the output for the cotangent `ct`; the output;
/// and the gradients for query, key and value. Attention itself is in `dtype`, all else in f32.
fn func(variant: &Variant, dtype: DType) -> Result<Func> {
    let forward = Builder::build("attention", |b| {
        let [query, key, _] = types(variant);
        let params = [("q", &query), ("k", &key), ("v", &key)].map(|(name, ty)| b.param(name, ty.clone()));
        let ct = b.param("ct", query.clone());
        let rows: Vec<_> = row_types(variant).into_iter().map(|(name, ty)| b.param(name, ty)).collect();
        let [q, k, v] = params.map(|x| if dtype == DType::F32 { x } else { x.convert(dtype) });
        let attributes = ScaledDotProductAttention {
            scale: 1.0 / (variant.head_size as f64).sqrt(),
            mask: variant.mask,
            sliding_window: variant.sliding_window,
            rows: variant.rows,
        };
        let (output, _) = q.scaled_dot_product_attention_of(k, v, &rows, attributes);
        let output = if dtype == DType::F32 { output } else { output.convert(DType::F32) };
        vec![(output * ct).sum(&[0, 1, 2, 3]), output]
    });
    value_and_grad(&forward, &[0, 1, 2]).map_err(differentiation_error)
}

/// The types of query, key and value.
fn types(variant: &Variant) -> [TensorType; 3] {
    let (heads, kv_heads) = variant.heads;
    [heads, kv_heads, kv_heads].map(|n| TensorType::new(DType::F32, [BATCH, LENGTH, n, variant.head_size]))
}

/// The types of the operands that tell what rows hold.
fn row_types(variant: &Variant) -> Vec<(&'static str, TensorType)> {
    let lengths = || TensorType::new(DType::I32, [BATCH]);
    match variant.rows {
        AttentionRows::Whole => Vec::new(),
        AttentionRows::Padded => vec![("query_lengths", lengths()), ("key_lengths", lengths())],
        AttentionRows::Packed => vec![("bounds", TensorType::new(DType::I32, [BATCH, BOUNDS[0].len()]))],
    }
}

/// The lengths of padded rows.
const LENGTHS: [i32; BATCH] = [200, 77];

/// The bounds of three documents a row, the last of the second row empty.
const BOUNDS: [[i32; 4]; BATCH] = [[0, 50, 51, 200], [0, 130, 200, 200]];

/// Numbers that the variant's type has, so that both programs begin with the same.
fn arguments(variant: &Variant) -> Vec<Literal> {
    let [query, key, value] = types(variant);
    let mut state = 1u64;
    let mut arguments: Vec<Literal> = [query.clone(), key, value, query]
        .into_iter()
        .map(|ty| {
            let numbers: Vec<f64> = (0..ty.num_elements()).map(|_| normal(&mut state)).collect();
            let rounded = Literal::from_f64s(TensorType::new(variant.dtype, ty.shape.clone()), &numbers).to_f64s();
            Literal::from_f64s(ty, &rounded)
        })
        .collect();
    match variant.rows {
        AttentionRows::Whole => {}
        AttentionRows::Padded => arguments.extend([0, 1].map(|_| Literal::new([BATCH], &LENGTHS))),
        AttentionRows::Packed => arguments.push(Literal::new([BATCH, BOUNDS[0].len()], BOUNDS.as_flattened())),
    }
    arguments
}

/// The next of numbers that are about normal: the sum of four uniform ones, of variance 1.
fn normal(state: &mut u64) -> f64 {
    // Of variance 1/12 each.
    const SCALE: f64 = 1.732_050_807_568_877_2;
    let uniform = |state: &mut u64| {
        // Knuth's MMIX; the high bits are the good ones.
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f64 / f64::from(1u32 << 24) - 0.5
    };
    (0..4).map(|_| uniform(state)).sum::<f64>() * SCALE
}

/// The norm of the difference of two tensors, by the norm of the second.
fn difference(found: &Literal, right: &Literal) -> f64 {
    let (found, right) = (found.to_f64s(), right.to_f64s());
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(&right).map(|(a, b)| a - b)) / norm(&mut right.iter().copied())
}
