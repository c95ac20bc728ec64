//! Products as calls of lmc's kernel for the matrix unit of Intel's AMX.

use lmc_graph::DType;

use super::collapse::Collapsed;
use super::matmul::Matmul;
use crate::target::Target;

/// Operations from which a call is faster than a `dot_general`.
const LEAST_FLOPS: usize = 1 << 21;

/// The call for a product; `None` where this is no place for it.
pub(super) fn call(target: &Target, product: &Collapsed, lhs: DType, rhs: DType) -> Option<Matmul> {
    let fits = matches!((lhs, rhs, product.op.result_dtype), (DType::BF16, DType::BF16, DType::BF16 | DType::F32))
        && target.has_kernels
        && target.processor.as_ref().is_some_and(|processor| processor.amx)
        && product.flops() >= LEAST_FLOPS
        && product.op.lhs_batching_dimensions.len() < 2;
    if fits { Matmul::of(product).ok() } else { None }
}
