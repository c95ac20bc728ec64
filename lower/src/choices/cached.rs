//! The forms of attention to a cache, and of writing into one.

use lmc_graph::ops::CachedAttention;
use lmc_graph::{Func, Op, TensorType};

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

/// Whether attentions to a cache in this function read what their queries see and no more, however many rows of the cache
/// they may look at ([`CachedAttention::visible_rows`]), when it is lowered for this target.
pub fn reads_what_is_seen(func: &Func, target: &Target) -> bool {
    func.walk(func.body()).into_iter().map(|node| func.node(node)).all(|node| {
        let Op::CachedAttention(op) = &node.op else { return true };
        let operands: Vec<TensorType> = node.operands.iter().map(|&operand| func.ty(operand).clone()).collect();
        cached_attention(target, op, &operands) == AttentionForm::Kernel
    })
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

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType};

    use super::*;

    #[test]
    fn kernels_read_what_is_seen() {
        let check = |target: &Target, dtype: DType, soft_cap: Option<f64>, expected: bool| {
            let func = Builder::build("decode", |b| {
                let attributes = CachedAttention { scale: 0.5, sliding_window: None, soft_cap, visible_rows: 8 };
                let query = b.param("q", TensorType::new(dtype, [2, 1, 4, 4]));
                let cache = ["k", "v"].map(|name| b.param(name, TensorType::new(dtype, [2, 2, 16, 4])));
                let places = ["start", "count"].map(|name| b.param(name, TensorType::new(DType::I32, [2])));
                // Inside of a loop, as where a launch draws several tokens.
                let scanned = b.scan(&[query], &[], 2, |carried, _| {
                    (vec![carried[0].cached_attention(cache, places, attributes)], vec![])
                });
                scanned.carries
            });
            assert_eq!(reads_what_is_seen(&func, target), expected, "{target:?} {dtype} {soft_cap:?}");
        };
        let cpu = Target { has_kernels: true, ..Target::cpu(None) };
        check(&cpu, DType::BF16, None, true);
        check(&cpu, DType::F32, None, true);
        check(&cpu, DType::F16, None, false);
        check(&cpu, DType::BF16, Some(30.0), false);
        check(&Target::cpu(None), DType::BF16, None, false);
        check(&Target::generic(), DType::BF16, None, false);
    }
}
