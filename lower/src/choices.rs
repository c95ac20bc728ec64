//! The target-specific choices, side by side: which form a product, an attention and a reduction take.
//!
//! | IR | generic | cpu | cuda |
//! |---|---|---|---|
//! | `dot_general` of few rows with a weight | as it is | lmc's kernel, which reads weights as they are stored | as it is |
//! | several of the same rows with weights | as they are | one call of that kernel | as they are |
//! | other `dot_general` | as it is | a call of lmc's kernel or of oneDNN; dimensions collapsed | as it is |
//! | attention and its backward | decomposed | lmc's kernel, else decomposed by blocks | cuDNN's, else decomposed |
//! | `reduce` | as it is | in steps: rows short enough to be exact, windows where the last dimension stays | as it is |
//! | `argmax` | a reduction of pairs | the greatest element, and the first that equals it | a reduction of pairs |
//! | attention to a cache | decomposed | lmc's kernel, else decomposed | decomposed |
//! | writing into a cache | decomposed | lmc's kernel | decomposed |
//! | chains of `add`, `sine`, `cosine` | as they are | kept in memory for their users | as they are |

mod amx;
mod cached;
mod collapse;
mod cudnn;
mod keep;
mod matmul;
mod onednn;
mod reduce;
mod weight;

use lmc_graph::ops::{AttentionRows, DotGeneral, ScaledDotProductAttention, ScaledDotProductAttentionBackward};
use lmc_graph::{DType, Op, TensorType};

pub use cached::reads_what_is_seen;
pub(crate) use cached::{cache_kernel_fits, cached_attention};
pub(crate) use collapse::Collapsed;
pub(crate) use keep::{Uses, keeps};
pub(crate) use matmul::Matmul;
pub(crate) use reduce::{ArgmaxForm, ReduceStep, argmax, reduce_steps};
pub(crate) use weight::{StoredWeight, WeightForm, absorbed, products_alike, weight_form};

use crate::target::{Platform, Target};

/// The form a `dot_general` takes that is no call of lmc's kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DotForm {
    /// One `dot_general` with the op's own dimensions.
    Plain,
    /// Reshapes to fewer dimensions around the product.
    Collapsed(Collapsed),
    /// A call of lmc's kernel for the matrix unit of the CPU, between reshapes.
    Kernel(Matmul),
    /// A call of oneDNN's matrix product, between reshapes.
    OneDnn(Matmul),
}

/// The form of a product that reads no stored weight by lmc's kernel on this target, and why a faster one was refused.
pub(crate) fn dot_general(
    target: &Target,
    op: &DotGeneral,
    lhs: &TensorType,
    rhs: &TensorType,
) -> (DotForm, Option<String>) {
    match target.platform {
        // XLA's GPU backend chooses the layouts of products itself.
        Platform::Generic | Platform::Cuda(_) => (DotForm::Plain, None),
        Platform::Cpu => {
            let product = collapse::collapse(op, lhs, rhs);
            if let Some(call) = amx::call(target, &product, lhs.dtype, rhs.dtype) {
                return (DotForm::Kernel(call), None);
            }
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

/// The form an attention takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttentionForm {
    /// One call of cuDNN's.
    Cudnn,
    /// One call of lmc's kernel for the CPU.
    Kernel,
    /// Its decomposition.
    Decomposed {
        /// How many queries are taken at a time; all of them, where that is no less.
        block: usize,
        /// Why it is no call of a fused kernel.
        refused: String,
    },
}

/// An attention, or its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Attention<'a> {
    Forward(&'a ScaledDotProductAttention),
    Backward(&'a ScaledDotProductAttentionBackward),
}

impl Attention<'_> {
    /// The attributes of the forward op.
    pub(crate) fn attributes(self) -> ScaledDotProductAttention {
        match self {
            Attention::Forward(op) => op.clone(),
            Attention::Backward(op) => op.forward(),
        }
    }

    /// The op itself.
    pub(crate) fn op(self) -> Op {
        match self {
            Attention::Forward(op) => Op::ScaledDotProductAttention(op.clone()),
            Attention::Backward(op) => Op::ScaledDotProductAttentionBackward(op.clone()),
        }
    }
}

/// The form of an attention or its backward on this target.
pub(crate) fn attention(target: &Target, op: Attention<'_>, operands: &[TensorType]) -> AttentionForm {
    // Queries are `B T N H`.
    let num_queries = operands[0].shape[1];
    let decomposed = |block: usize, reason: &str| AttentionForm::Decomposed {
        block: block.max(1),
        refused: format!("decomposed: {reason}"),
    };
    match target.platform {
        Platform::Generic => decomposed(num_queries, "this target has no fused attention"),
        Platform::Cpu => match kernel_fits(target, &op.attributes(), operands) {
            Ok(()) => AttentionForm::Kernel,
            // Scores that are computed in one piece are written to memory and read back by every step of the softmax, and
            // half of them are masked. Smaller blocks make products too small to be fast, and more blocks a program that
            // takes long to compile.
            Err(reason) => decomposed(num_queries.div_ceil(MOST_BLOCKS).max(SMALLEST_BLOCK), reason),
        },
        Platform::Cuda(cuda) => match cudnn::attention_fits(target, cuda, op, operands) {
            Ok(()) => AttentionForm::Cudnn,
            Err(reason) => decomposed(num_queries, &reason),
        },
    }
}

/// With eight blocks a causal attention takes 9/16 of the operations of one in one piece.
const MOST_BLOCKS: usize = 8;

/// Queries that make a product large enough to be fast.
const SMALLEST_BLOCK: usize = 128;

/// Whether there are kernels of lmc's for attention and caches of this element type, or why not.
fn kernels_take(target: &Target, dtype: DType) -> Result<(), &'static str> {
    match (target.has_kernels, matches!(dtype, DType::F32 | DType::BF16)) {
        (true, true) => Ok(()),
        (false, _) => Err("lmc's kernel does not fit this plugin"),
        (true, false) => Err("lmc's kernel is for f32 and bf16"),
    }
}

/// Whether lmc's kernel for the CPU computes this attention, or why not.
fn kernel_fits(target: &Target, op: &ScaledDotProductAttention, operands: &[TensorType]) -> Result<(), &'static str> {
    let (query, key) = (&operands[0], &operands[1]);
    kernels_take(target, query.dtype)?;
    if op.rows == AttentionRows::Padded {
        return Err("lmc's kernel is for rows without padding");
    }
    if op.scale <= 0.0 {
        return Err("lmc's kernel is for a scale above 0");
    }
    if op.sliding_window.is_some() && query.shape[1] > key.shape[1] {
        return Err("lmc's kernel with a window is for no more queries than keys");
    }
    if operands.iter().take(3).any(|ty| ty.num_elements() == 0) {
        return Err("there is nothing to attend to");
    }
    Ok(())
}
