//! The target-specific choices, side by side: which form a product and an attention take.
//!
//! | IR | generic | cpu |
//! |---|---|---|
//! | `dot_general` | as it is | a call of oneDNN; neighbouring dimensions of one kind collapsed around either |
//! | `reduce` | as it is | in steps: short enough to be exact, and by windows where the last dimension stays |
//! | chains of `add`, `sine`, `cosine` | as they are | kept in memory for their users |
//! | `scaled_dot_product_attention`, `…_backward` | decomposed | lmc's kernel; decomposed by blocks of queries |

mod collapse;
mod keep;
mod onednn;
mod reduce;

use lmc_graph::ops::{DotGeneral, ScaledDotProductAttention};
use lmc_graph::{DType, TensorType};

pub(crate) use collapse::Collapsed;
pub(crate) use keep::{Uses, keeps};
pub(crate) use onednn::OneDnn;
pub(crate) use reduce::{ReduceStep, reduce_steps};

use crate::target::{Platform, Target};

/// The form a `dot_general` takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DotForm {
    /// One `dot_general` with the op's own dimensions.
    Plain,
    /// Reshapes to fewer dimensions around the product.
    Collapsed(Collapsed),
    /// A call of oneDNN's matrix product, between reshapes.
    OneDnn(OneDnn),
}

/// The form of a product on this target, and why a faster one was refused.
pub(crate) fn dot_general(
    target: &Target,
    op: &DotGeneral,
    lhs: &TensorType,
    rhs: &TensorType,
) -> (DotForm, Option<String>) {
    match target.platform {
        Platform::Generic => (DotForm::Plain, None),
        Platform::Cpu => {
            let product = collapse::collapse(op, lhs, rhs);
            match onednn::call(target, &product, lhs.dtype, rhs.dtype) {
                Ok(call) => (DotForm::OneDnn(call), None),
                // XLA's CPU library kernels take matrices: a bf16 product on [8,512,768] runs at half the speed of the
                // same one on [4096,768].
                Err(refused) if product.has_fewer_dimensions(lhs, rhs) => (DotForm::Collapsed(product), refused),
                Err(refused) => (DotForm::Plain, refused),
            }
        }
    }
}

/// How many of `num_queries` queries a decomposed attention takes at a time on this target: all of them, where that is no
/// less.
pub(crate) fn attention_block(target: &Target, num_queries: usize) -> usize {
    match target.platform {
        Platform::Generic => num_queries,
        // Scores that are computed in one piece are written to memory and read back by every step of the softmax, and half
        // of them are masked. Smaller blocks make products too small to be fast, and more blocks a program that takes long
        // to compile.
        Platform::Cpu => num_queries.div_ceil(MOST_BLOCKS).max(SMALLEST_BLOCK),
    }
}

/// With eight blocks a causal attention takes 9/16 of the operations of one in one piece.
const MOST_BLOCKS: usize = 8;

/// Queries that make a product large enough to be fast.
const SMALLEST_BLOCK: usize = 128;

/// Why attention is decomposed on this target; `None` where it is a call of lmc's kernel. The operands begin with query,
/// key and value.
pub(crate) fn attention_refusal(
    target: &Target,
    op: &ScaledDotProductAttention,
    operands: &[TensorType],
) -> Option<&'static str> {
    match target.platform {
        Platform::Generic => Some("decomposed: this target has no fused attention"),
        Platform::Cpu if !target.has_kernels => Some("decomposed: lmc's kernel does not fit this plugin"),
        Platform::Cpu if !matches!(operands[0].dtype, DType::F32 | DType::BF16) => {
            Some("decomposed: lmc's kernel is for f32 and bf16")
        }
        Platform::Cpu if op.scale <= 0.0 => Some("decomposed: lmc's kernel is for a scale above 0"),
        Platform::Cpu if op.sliding_window.is_some() && operands[0].shape[1] > operands[1].shape[1] => {
            Some("decomposed: lmc's kernel with a window is for no more queries than keys")
        }
        Platform::Cpu if operands.iter().take(3).any(|ty| ty.num_elements() == 0) => Some("decomposed: no elements"),
        Platform::Cpu => None,
    }
}
