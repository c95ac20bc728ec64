//! The forms of attention to a cache, and of writing into one.

use lmc_graph::TensorType;
use lmc_graph::ops::CachedAttention;

use super::{AttentionForm, kernels_take};
use crate::target::{Platform, Target};

/// The form of an attention to a cache on this target.
pub(crate) fn cached_attention(target: &Target, op: &CachedAttention, operands: &[TensorType]) -> AttentionForm {
    // Queries are `B T N H`.
    let num_queries = operands[0].shape[1];
    let reason = match target.platform {
        Platform::Generic | Platform::Cuda(_) => Err("this target has no fused attention to a cache"),
        Platform::Cpu => kernel_fits(target, op, operands),
    };
    match reason {
        Ok(()) => AttentionForm::Kernel,
        Err(reason) => {
            AttentionForm::Decomposed { block: num_queries.max(1), refused: format!("decomposed: {reason}") }
        }
    }
}

/// Whether lmc's kernel for the CPU computes this attention, or why not.
fn kernel_fits(target: &Target, op: &CachedAttention, operands: &[TensorType]) -> Result<(), &'static str> {
    kernels_take(target, operands[0].dtype)?;
    if op.soft_cap.is_some() {
        return Err("lmc's kernel is for scores without a cap");
    }
    if op.scale <= 0.0 {
        return Err("lmc's kernel is for a scale above 0");
    }
    if operands.iter().any(|ty| ty.num_elements() == 0) {
        return Err("there is nothing to attend to");
    }
    Ok(())
}

/// Whether lmc's kernel for the CPU writes into a cache of these operands.
pub(crate) fn cache_kernel_fits(target: &Target, operands: &[TensorType]) -> bool {
    target.platform == Platform::Cpu
        && kernels_take(target, operands[0].dtype).is_ok()
        && operands.iter().all(|ty| ty.num_elements() > 0)
}
