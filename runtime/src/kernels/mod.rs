//! Kernels of our own for the CPU, for what XLA's backend has no fast form of. Programs reach them by custom calls.

#![allow(unsafe_code, reason = "vector instructions, and slices that threads share; each block with its argument")]
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused_imports, reason = "products of pairs are for AVX-512")
)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod matmul;
mod pack;
mod product;
mod simd;
mod task;
mod weight;

use half::bf16;

use crate::pjrt::ffi::{Call, FfiElement};
use attention::{Attention, Backward, CacheSizes, Cached, Forward};
use pack::Element;
use simd::Isa;

/// A kernel: what it does with a call's operands and results, or why it cannot.
pub(crate) type Kernel = fn(&Call<'_>) -> Result<(), String>;

/// The kernels by the name of their custom call.
pub(crate) const KERNELS: [(&str, Kernel); 8] = [
    ("lmc.scaled_dot_product_attention", attention_forward),
    ("lmc.scaled_dot_product_attention_backward", attention_backward),
    ("lmc.cached_attention", cached_attention),
    ("lmc.cache_update", cache_update),
    ("lmc.optimization_barrier", optimization_barrier),
    ("lmc.dot_general", dot_general),
    ("lmc.weight_product", weight::call::product),
    ("lmc.dequantize", weight::call::dequantize),
];

/// Nothing: its result lies where its operand does. To XLA it is a value that cannot be computed again.
fn optimization_barrier(_: &Call<'_>) -> Result<(), String> {
    Ok(())
}

/// The four dimensions of operand `i`.
fn dims(call: &Call<'_>, i: usize) -> Result<[usize; 4], String> {
    let dims = call.operand_dims(i)?;
    let sizes = dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<usize>, _>>();
    sizes.ok().and_then(|sizes| sizes.try_into().ok()).ok_or_else(|| format!("operand {i} has dimensions {dims:?}"))
}

/// Whether every key head serves as many query heads.
fn check_heads(heads: usize, key_heads: usize) -> Result<(), String> {
    match key_heads > 0 && heads.is_multiple_of(key_heads) {
        true => Ok(()),
        false => Err(format!("{heads} query heads are not a multiple of {key_heads} key heads")),
    }
}

/// Sizes from operands 0 to 2 (query, key and value) and the attributes `scale`, `causal` and `sliding_window` (0 for
/// none).
fn attention(call: &Call<'_>) -> Result<Attention, String> {
    let dims = |i| dims(call, i);
    let ([batch, queries, heads, head_size], [_, keys, key_heads, _]) = (dims(0)?, dims(1)?);
    let value_size = dims(2)?[3];
    if dims(1)? != [batch, keys, key_heads, head_size] || dims(2)? != [batch, keys, key_heads, value_size] {
        return Err("query, key and value do not fit together".to_string());
    }
    check_heads(heads, key_heads)?;
    let (scale, causal) = (call.f64("scale")? as f32, call.bool("causal")?);
    let window = usize::try_from(call.i64("sliding_window")?).ok().filter(|&window| window > 0);
    if scale <= 0.0 || window.is_some() && !(causal && queries <= keys) {
        return Err(format!("scale {scale}, window {window:?} of {keys} keys for {queries} queries, causal: {causal}"));
    }
    Ok(Attention { batch, queries, keys, heads, key_heads, head_size, value_size, scale, causal, window })
}

/// The bounds of documents in packed rows, which are operand `i` if there is one.
fn bounds<'a>(call: &Call<'a>, attention: &Attention, i: usize) -> Result<Option<&'a [i32]>, String> {
    if call.num_operands() <= i {
        return Ok(None);
    }
    match call.operand_dims(i)? {
        &[batch, bounds] if usize::try_from(batch) == Ok(attention.batch) && bounds > 1 => {}
        dims => return Err(format!("bounds of dimensions {dims:?} for {} rows", attention.batch)),
    }
    if attention.queries != attention.keys {
        return Err(format!("{} queries and {} keys in packed rows", attention.queries, attention.keys));
    }
    call.operand(i).map(Some)
}

fn attention_forward(call: &Call<'_>) -> Result<(), String> {
    fn forward<E: FfiElement + Element>(call: &Call<'_>) -> Result<(), String> {
        let attention = attention(call)?;
        let operands = Forward {
            attention,
            query: call.operand::<E>(0)?,
            key: call.operand(1)?,
            value: call.operand(2)?,
            bounds: bounds(call, &attention, 3)?,
            output: call.result(0)?,
            log_sum_exp: call.result(1)?,
        };
        attention::forward(Isa::detect(), operands, call.num_threads(), &|number, f| call.for_each(number, f));
        Ok(())
    }
    if call.operand_is::<bf16>(0) { forward::<bf16>(call) } else { forward::<f32>(call) }
}

fn attention_backward(call: &Call<'_>) -> Result<(), String> {
    fn backward<E: FfiElement + Element>(call: &Call<'_>) -> Result<(), String> {
        let attention = attention(call)?;
        let operands = Backward {
            attention,
            query: call.operand::<E>(0)?,
            key: call.operand(1)?,
            value: call.operand(2)?,
            log_sum_exp: call.operand(3)?,
            output: call.operand(4)?,
            output_ct: call.operand(5)?,
            bounds: bounds(call, &attention, 6)?,
            query_ct: call.result(0)?,
            key_ct: call.result(1)?,
            value_ct: call.result(2)?,
        };
        attention::backward(Isa::detect(), operands, call.num_threads(), &|number, f| call.for_each(number, f));
        Ok(())
    }
    if call.operand_is::<bf16>(0) { backward::<bf16>(call) } else { backward::<f32>(call) }
}

/// Operands: query, key, value, `i32 B` of starts and of counts. Attributes `scale`, `sliding_window` (0 for none) and
/// `visible_rows`.
fn cached_attention(call: &Call<'_>) -> Result<(), String> {
    fn cached<E: FfiElement + Element>(call: &Call<'_>, sizes: CacheSizes) -> Result<(), String> {
        let operands = Cached {
            sizes,
            query: call.operand::<E>(0)?,
            key: call.operand(1)?,
            value: call.operand(2)?,
            start: call.operand(3)?,
            count: call.operand(4)?,
            output: call.result(0)?,
        };
        attention::cached(Isa::detect(), operands, call.num_threads(), &|number, f| call.for_each(number, f));
        Ok(())
    }
    let ([batch, queries, heads, head_size], [_, key_heads, rows, _]) = (dims(call, 0)?, dims(call, 1)?);
    let value_size = dims(call, 2)?[3];
    if dims(call, 1)? != [batch, key_heads, rows, head_size] || dims(call, 2)? != [batch, key_heads, rows, value_size] {
        return Err("query, key and value do not fit together".to_string());
    }
    check_heads(heads, key_heads)?;
    let scale = call.f64("scale")? as f32;
    let number = |name: &str| call.i64(name).and_then(|x| usize::try_from(x).map_err(|_| format!("`{name}` is {x}")));
    let (window, visible_rows) =
        (Some(number("sliding_window")?).filter(|&window| window > 0), number("visible_rows")?);
    if scale <= 0.0 || visible_rows > rows {
        return Err(format!("scale {scale}, {visible_rows} visible rows of {rows}"));
    }
    let sizes =
        CacheSizes { batch, queries, heads, key_heads, rows, visible_rows, head_size, value_size, scale, window };
    if call.operand_is::<bf16>(0) { cached::<bf16>(call, sizes) } else { cached::<f32>(call, sizes) }
}

/// Writes new tokens into a cache. Operands: the cache, which is the result too and is not read here; the new keys or
/// values, `B T K H`; the `i32` slot of the first text; `i32 B` of starts and of counts.
fn cache_update(call: &Call<'_>) -> Result<(), String> {
    fn update<E: FfiElement>(call: &Call<'_>) -> Result<(), String> {
        let ([slots, heads, rows, size], [texts, tokens, new_heads, new_size]) = (dims(call, 0)?, dims(call, 1)?);
        let (new, slot) = (call.operand::<E>(1)?, call.operand::<i32>(2)?);
        let (start, count) = (call.operand::<i32>(3)?, call.operand::<i32>(4)?);
        if [heads, size] != [new_heads, new_size] || [start.len(), count.len()] != [texts; 2] || rows == 0 {
            return Err("the new tokens do not fit the cache".to_string());
        }
        let cache = call.result::<E>(0)?;
        // As `scatter` does it, what is outside of the cache is left out.
        let number = |x: i64| usize::try_from(x).ok();
        for text in 0..texts {
            let slot = i64::from(*slot.first().ok_or("no slot")?) + text as i64;
            let Some(slot) = number(slot).filter(|&slot| slot < slots) else { continue };
            let written = tokens.min(usize::try_from(count[text]).unwrap_or(0));
            for token in 0..written {
                let Some(position) = number(i64::from(start[text]) + token as i64) else { continue };
                for head in 0..heads {
                    let to = ((slot * heads + head) * rows + position % rows) * size;
                    let from = ((text * tokens + token) * heads + head) * size;
                    cache[to..][..size].copy_from_slice(&new[from..][..size]);
                }
            }
        }
        Ok(())
    }
    if call.operand_is::<bf16>(0) { update::<bf16>(call) } else { update::<f32>(call) }
}

/// Whether this processor has what the kernel `lmc.dot_general` needs: AMX with bf16, which the system lets this process
/// use, and AVX-512 with bf16.
pub fn has_matrix_unit() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        matmul::is_available()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Products of matrices of bf16, behind a batch dimension if there are three dimensions; the attributes `transpose_lhs` and
/// `transpose_rhs` say that the last two dimensions of an operand are the other way round.
#[cfg(target_arch = "x86_64")]
fn dot_general(call: &Call<'_>) -> Result<(), String> {
    use matmul::{Major, Matrix, Output};

    fn products<T: FfiElement + Output>(call: &Call<'_>) -> Result<(), String> {
        let matrix = |i: usize, is_summed_last: bool| -> Result<(usize, [usize; 2], Major), String> {
            let dims = call.operand_dims(i)?;
            let sizes: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
            match (sizes.as_deref(), is_summed_last) {
                (Some(&[.., free, summed]), true) => Ok((free * summed, [free, summed], Major::Summed)),
                (Some(&[.., summed, free]), false) => Ok((free * summed, [free, summed], Major::Free)),
                _ => Err(format!("operand {i} has dimensions {dims:?}")),
            }
        };
        let (left_size, [rows, left_summed], left_major) = matrix(0, !call.bool("transpose_lhs")?)?;
        let (right_size, [columns, summed], right_major) = matrix(1, call.bool("transpose_rhs")?)?;
        let (left, right) = (call.operand::<bf16>(0)?, call.operand::<bf16>(1)?);
        let result = call.result::<T>(0)?;
        if left_summed != summed {
            return Err(format!("sums over {left_summed} and over {summed} elements"));
        }
        if !has_matrix_unit() {
            return Err("this processor has no AMX, for which the program was compiled".to_string());
        }
        if rows * columns == 0 {
            return Ok(());
        }
        let batch = result.len() / (rows * columns);
        if left.len() != batch * left_size || right.len() != batch * right_size {
            return Err("operands and result have different batches".to_string());
        }
        let product = |i: usize, result: &mut [T], threads: usize, for_each: task::ForEach<'_>| {
            let elements = &left[i * left_size..][..left_size];
            let left = Matrix { elements, free: rows, summed, major: left_major };
            let elements = &right[i * right_size..][..right_size];
            let right = Matrix { elements, free: columns, summed, major: right_major };
            matmul::matmul(left, right, result, threads, for_each);
        };
        if batch == 1 {
            product(0, result, call.num_threads(), &|number, f| call.for_each(number, f));
        } else {
            let results = task::Shared::new(result);
            call.for_each(batch, &|i| {
                // SAFETY: each product of the batch has a result of its own.
                let result = unsafe { results.part(i * rows * columns, rows * columns) };
                product(i, result, 1, &|number, f| (0..number).for_each(f));
            });
        }
        Ok(())
    }
    if call.result_is::<f32>(0) { products::<f32>(call) } else { products::<bf16>(call) }
}

/// There is none.
#[cfg(not(target_arch = "x86_64"))]
fn dot_general(_: &Call<'_>) -> Result<(), String> {
    Err("this architecture has no AMX".to_string())
}
