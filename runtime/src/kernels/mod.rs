//! Kernels of our own for the CPU, for what XLA's backend has no fast form of. Programs reach them by custom calls.

#![allow(unsafe_code, reason = "vector instructions, and slices that threads share; each block with its argument")]
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused_imports, reason = "products of pairs are for AVX-512")
)]

mod attention;
mod pack;
mod product;
mod simd;
mod task;
mod weight;

use half::bf16;

use crate::pjrt::ffi::{Call, FfiElement};
use attention::{Attention, Backward, Forward};
use pack::Element;
use simd::Isa;

/// A kernel: what it does with a call's operands and results, or why it cannot.
pub(crate) type Kernel = fn(&Call<'_>) -> Result<(), String>;

/// The kernels by the name of their custom call.
pub(crate) const KERNELS: [(&str, Kernel); 5] = [
    ("lmc.scaled_dot_product_attention", attention_forward),
    ("lmc.scaled_dot_product_attention_backward", attention_backward),
    ("lmc.optimization_barrier", optimization_barrier),
    ("lmc.weight_product", weight::call::product),
    ("lmc.dequantize", weight::call::dequantize),
];

/// Nothing: its result lies where its operand does. To XLA it is a value that cannot be computed again.
fn optimization_barrier(_: &Call<'_>) -> Result<(), String> {
    Ok(())
}

/// Sizes from operands 0 to 2 (query, key and value) and the attributes `scale`, `causal` and `sliding_window` (0 for
/// none).
fn attention(call: &Call<'_>) -> Result<Attention, String> {
    let dims = |i| -> Result<[usize; 4], String> {
        let dims = call.operand_dims(i)?;
        let sizes = dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<usize>, _>>();
        sizes.ok().and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| format!("operand {i} has dimensions {dims:?}"))
    };
    let ([batch, queries, heads, head_size], [_, keys, key_heads, _]) = (dims(0)?, dims(1)?);
    let value_size = dims(2)?[3];
    if dims(1)? != [batch, keys, key_heads, head_size] || dims(2)? != [batch, keys, key_heads, value_size] {
        return Err("query, key and value do not fit together".to_string());
    }
    if key_heads == 0 || !heads.is_multiple_of(key_heads) {
        return Err(format!("{heads} query heads are not a multiple of {key_heads} key heads"));
    }
    let (scale, causal) = (call.f64("scale")? as f32, call.bool("causal")?);
    let window = usize::try_from(call.i64("sliding_window")?).ok().filter(|&window| window > 0);
    if scale <= 0.0 || window.is_some() && !(causal && queries <= keys) {
        return Err(format!("scale {scale}, window {window:?} of {keys} keys for {queries} queries, causal: {causal}"));
    }
    Ok(Attention { batch, queries, keys, heads, key_heads, head_size, value_size, scale, causal, window })
}

fn attention_forward(call: &Call<'_>) -> Result<(), String> {
    fn forward<E: FfiElement + Element>(call: &Call<'_>) -> Result<(), String> {
        let operands = Forward {
            attention: attention(call)?,
            query: call.operand::<E>(0)?,
            key: call.operand(1)?,
            value: call.operand(2)?,
            output: call.result(0)?,
            log_sum_exp: call.result(1)?,
        };
        attention::forward(Isa::detect(), operands, &|number, f| call.for_each(number, f));
        Ok(())
    }
    if call.operand_is::<bf16>(0) { forward::<bf16>(call) } else { forward::<f32>(call) }
}

fn attention_backward(call: &Call<'_>) -> Result<(), String> {
    fn backward<E: FfiElement + Element>(call: &Call<'_>) -> Result<(), String> {
        let operands = Backward {
            attention: attention(call)?,
            query: call.operand::<E>(0)?,
            key: call.operand(1)?,
            value: call.operand(2)?,
            log_sum_exp: call.operand(3)?,
            output: call.operand(4)?,
            output_ct: call.operand(5)?,
            query_ct: call.result(0)?,
            key_ct: call.result(1)?,
            value_ct: call.result(2)?,
        };
        attention::backward(Isa::detect(), operands, call.num_threads(), &|number, f| call.for_each(number, f));
        Ok(())
    }
    if call.operand_is::<bf16>(0) { backward::<bf16>(call) } else { backward::<f32>(call) }
}
