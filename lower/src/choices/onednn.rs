//! Products as calls of oneDNN, which XLA's CPU plugin has linked in.
//!
//! Measured on two cores of a server with AVX-512 and its bf16 products, in GFLOP/s: 2048x384 . 384x1024 in bf16 360 to
//! 410 by oneDNN in every orientation, 170 to 200 by XLA's own `dot_general` (which converts to f32), 335 where its
//! result is f32 and no operand is transposed; in f32 200 to 215 and 145 to 195. On two cores with AVX-512 but without
//! products of bf16, products in bf16: 50 to 60 by oneDNN, 120 to 200 by `dot_general`, and no more by oneDNN in f32 between
//! conversions.

use lmc_graph::DType;

use super::collapse::Collapsed;
use super::matmul::Matmul;
use crate::target::{PluginIdentity, Target};

/// The plugins whose oneDNN takes the calls, by package and version: the call is no public contract.
const PLUGINS: [(&str, &str); 1] = [("xla-cpu-pjrt", "0.0.1")];

/// Operations from which a call is faster than a `dot_general`. A call takes 8 us for itself; in bf16 the two are even at
/// 256x64 . 64x64, in f32 at 1024x128 . 128x128.
const LEAST_FLOPS_BF16: usize = 1 << 21;
const LEAST_FLOPS_F32: usize = 1 << 25;

/// The call for a product, or why there is none: `None` where nothing faster is missed.
pub(super) fn call(target: &Target, product: &Collapsed, lhs: DType, rhs: DType) -> Result<Matmul, Option<String>> {
    let least = match (lhs, rhs, product.op.result_dtype) {
        (DType::BF16, DType::BF16, DType::BF16 | DType::F32) => LEAST_FLOPS_BF16,
        (DType::F32, DType::F32, DType::F32) => LEAST_FLOPS_F32,
        (_, _, _) => return Err(None),
    };
    if product.flops() < least {
        return Err(None);
    }
    if target.for_use {
        return Err(Some("a program that calls oneDNN could not be kept for the next start".to_string()));
    }
    let is_known = |PluginIdentity { name, version }: &PluginIdentity| PLUGINS.contains(&(name, version));
    if !target.plugin.as_ref().is_some_and(is_known) {
        return Err(Some("oneDNN is called only in a plugin that is known to have it".to_string()));
    }
    let Some(processor) = target.processor.as_ref().filter(|processor| processor.architecture == "x86_64") else {
        return Err(Some("this plugin has oneDNN on x86-64 only".to_string()));
    };
    if lhs == DType::BF16 && !processor.avx512_bf16 {
        return Err(Some("oneDNN is slow with bf16 where the processor has no products of it".to_string()));
    }
    Matmul::of(product).map_err(|reason| Some(format!("oneDNN {reason}")))
}
