//! Caches of keys and values: writing, and attention to them.

use lmc_graph::decompose::decompose;
use lmc_graph::ops::CachedAttention;
use lmc_graph::{Op, TensorType};

use super::attention::{decomposed, inline, kernel, report, window};
use super::emitter::{Emitter, Value, names, types};
use super::syntax::{self, operand_alias};
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
    let text = format!(
        "stablehlo.custom_call @lmc.cache_update({}) {{api_version = 4 : i32, output_operand_aliases = [{}, {}]}} : \
         ({}) -> {}",
        names(x),
        operand_alias("[0]", 0),
        operand_alias("[1]", 1),
        types(x),
        syntax::results(&types_of_results),
    );
    let mut results = e.op_n(&text, &types_of_results);
    let tokens = results.pop();
    (results, tokens)
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, Value};

    use super::*;
    use crate::stablehlo::lower;
    use crate::{Options, Target};

    /// Compares the lines that are written for the CPU's kernels behind the function's head, without locations, the
    /// attributes of custom calls and the types left out.
    #[track_caller]
    fn check(build: impl for<'g> FnOnce(Builder<'g>) -> Vec<Value<'g>>, expected: &[&str]) {
        let target = Target { has_kernels: true, ..Target::cpu(None) };
        let text = lower(&Builder::build("f", build), &target, &Options { locations: false }).text;
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with('%') || line.starts_with("return"));
        let lines = lines.filter(|line| !line.starts_with("%arg"));
        let short = |line: &str| line.split([':', '{']).next().map(|line| line.trim().to_string());
        let lines: Vec<String> = lines.filter(|line| !line.contains("constant")).filter_map(short).collect();
        assert_eq!(lines, expected);
    }

    fn inputs(b: Builder<'_>) -> [Value<'_>; 4] {
        let cache = b.param("cache", TensorType::new(DType::F32, [1, 2, 8, 4]));
        let new = b.param("new", TensorType::new(DType::F32, [1, 3, 2, 4]));
        let places = ["start", "count"].map(|name| b.param(name, TensorType::new(DType::I32, [1])));
        [cache, new, places[0], places[1]]
    }

    #[test]
    fn tokens_are_used_after_they_are_written() {
        check(
            |b| {
                let [cache, new, start, count] = inputs(b);
                let new = new + new;
                let updated = cache.cache_update(new, b.scalar(DType::I32, 0.0), [start, count]);
                vec![updated, new * new]
            },
            &["%0 = stablehlo.add %arg1, %arg1", "%2", "%3 = stablehlo.multiply %2#1, %2#1", "return %2#0, %3"],
        );
    }

    /// A value from outside of a region keeps its name there: what stands for it in the region is not known behind it.
    #[test]
    fn tokens_from_around_a_region_stay() {
        check(
            |b| {
                let [cache, new, start, count] = inputs(b);
                let (new, is_wanted) = (new + new, b.param("is_wanted", TensorType::scalar(DType::Bool)));
                let update = || vec![cache.cache_update(new, b.scalar(DType::I32, 0.0), [start, count])];
                let updated = b.if_else(is_wanted, update, || vec![cache])[0];
                vec![updated, new * new]
            },
            &[
                "%0 = stablehlo.add %arg1, %arg1",
                "%1 = \"stablehlo.if\"(%arg4) (",
                "%3",
                "%4 = stablehlo.multiply %0, %0",
                "return %1, %4",
            ],
        );
    }
}
