//! Caches of keys and values: writing, and attention to them.

use lmc_graph::decompose::decompose;
use lmc_graph::ops::CachedAttention;
use lmc_graph::{Op, TensorType};

use super::attention::{decomposed, inline, kernel, report, window};
use super::emitter::{Emitter, Value, names, types};
use super::syntax;
use crate::choices::{self, AttentionForm};
use crate::report::cached_attention_flops;

/// Attention to a cache in the form that the target has for it.
pub(super) fn cached_attention(
    e: &mut Emitter<'_>,
    op: &CachedAttention,
    x: &[Value],
    result_types: &[TensorType],
) -> Vec<Value> {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    let form = choices::cached_attention(e.target, op, &operands);
    let row = report(e, &form, operands, result_types, cached_attention_flops(op, [&x[0].ty.shape, &x[2].ty.shape]));
    let whole = Op::CachedAttention(op.clone());
    match form {
        AttentionForm::Decomposed { block, .. } => decomposed(e, &whole, x, block, row),
        AttentionForm::Cudnn => unreachable!("cuDNN has no attention to a cache"),
        AttentionForm::Kernel => {
            let rows = format!("{} : i64", op.visible_rows);
            let attributes = [("sliding_window", window(op.sliding_window)), ("visible_rows", rows)];
            kernel(e, &whole, op.scale, &attributes, x, result_types)
        }
    }
}

/// A cache with new tokens in it, and these tokens for what comes after it. lmc's kernel writes where the cache lies; XLA's
/// CPU backend has no stores of bf16 into a part of a tensor, and converts all of it to f32 and back.
///
/// That the kernel hands the tokens on, in their memory, makes it run before their other users. XLA would write the caches
/// of all layers at the end of a program, and keep the keys and values of all layers until then.
pub(super) fn cache_update(e: &mut Emitter<'_>, x: &[Value], result_type: &TensorType) -> (Vec<Value>, Option<Value>) {
    let operands: Vec<TensorType> = x.iter().map(|x| x.ty.clone()).collect();
    if !choices::cache_kernel_fits(e.target, &operands) {
        let func = decompose(&Op::CacheUpdate, &operands).expect("it has a decomposition");
        return (inline(e, &func, x), None);
    }
    let types_of_results = [result_type.clone(), x[1].ty.clone()];
    let alias = |i: usize| {
        format!(
            "#stablehlo.output_operand_alias<output_tuple_indices = [{i}], operand_index = {i}, \
             operand_tuple_indices = []>"
        )
    };
    let text = format!(
        "stablehlo.custom_call @lmc.cache_update({}) {{api_version = 4 : i32, output_operand_aliases = [{}, {}]}} : \
         ({}) -> {}",
        names(x),
        alias(0),
        alias(1),
        types(x),
        syntax::results(&types_of_results),
    );
    let mut results = e.op_n(&text, &types_of_results);
    let tokens = results.pop();
    (results, tokens)
}
