//! The op set: one file a theme, each op with its attributes, constraints, type rule, reference value and builder
//! method together.
//!
//! The names, attribute names and constraint labels are StableHLO's. The exceptions are `scan`, `remat`,
//! `stop_gradient`, `argmax`, `scaled_dot_product_attention` and its backward. A reduction, a scatter and a sort name
//! their scalar function with a word instead of a region.

pub mod attention;
pub mod contract;
pub mod control;
pub mod elementwise;
pub mod index;
pub mod random;
pub mod reduce;
pub mod shape;

use crate::attributes::{Attr, Attributes, refuse_unknown};
use crate::dtype::TensorType;
use crate::error::{Violation, require};

pub use attention::{
    AttentionMask, AttentionRows, CachedAttention, ScaledDotProductAttention, ScaledDotProductAttentionBackward,
};
pub use contract::DotGeneral;
pub use control::Scan;
pub use elementwise::{BinaryOp, BitcastConvert, Compare, ComparisonDirection, Convert, UnaryOp};
pub use index::{DynamicSlice, Gather, Scatter, ScatterOp};
pub use random::{RngAlgorithm, RngBitGenerator};
pub use reduce::{Argmax, Reduce, ReduceOp, Sort, SortDirection};
pub use shape::{BroadcastInDim, Concatenate, Constant, Iota, Pad, Reshape, Reverse, Slice, Transpose};

/// The result of a type rule: the types of the op's results, or the broken constraint.
pub type Inferred = Result<Vec<TensorType>, Violation>;

/// The types of a region's parameters and results, as a type rule sees them.
#[derive(Clone, Debug)]
pub struct RegionTypes<'a> {
    /// The types of the parameters.
    pub params: Vec<&'a TensorType>,
    /// The types of the results.
    pub results: Vec<&'a TensorType>,
}

/// Makes [`Op`], and the part of it that follows from names and attributes alone.
macro_rules! ops {
    (
        families { $($(#[$family_doc:meta])* $family:ident($family_op:ident),)* }
        plain { $($(#[$plain_doc:meta])* $plain:ident = $plain_name:literal,)* }
        with_attributes { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }
    ) => {
        /// An op with its attributes; the operands are in the node.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$family_doc])* $family($family_op),)*
            $($(#[$plain_doc])* $plain,)*
            $($(#[$doc])* $variant($variant),)*
        }

        impl Op {
            /// The name in the text form, which is StableHLO's where StableHLO has the op.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$family(op) => op.name(),)*
                    $(Op::$plain => $plain_name,)*
                    $(Op::$variant(_) => $name,)*
                }
            }

            /// Names and values of the attributes, in the order of declaration.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self {
                    $(Op::$family(_) => Vec::new(),)*
                    $(Op::$plain => Vec::new(),)*
                    $(Op::$variant(attributes) => attributes.to_attrs(),)*
                }
            }

            /// The op with this name and these attributes.
            ///
            /// # Errors
            /// The reason, when there is no such op or its attributes are others.
            pub fn from_attrs(name: &str, attrs: &[(String, Attr)]) -> Result<Op, String> {
                $(if let Some(op) = $family_op::from_name(name) {
                    refuse_unknown(attrs, &[])?;
                    return Ok(Op::$family(op));
                })*
                match name {
                    $($plain_name => refuse_unknown(attrs, &[]).map(|()| Op::$plain),)*
                    $($name => $variant::from_attrs(attrs).map(Op::$variant),)*
                    _ => Err(format!("unknown op `{name}`")),
                }
            }

            /// Every name of an op, in the order of the op table.
            pub fn names() -> Vec<&'static str> {
                let mut names = Vec::new();
                $(names.extend($family_op::ALL.iter().map(|op| op.name()));)*
                names.extend([$($plain_name,)* $($name,)*]);
                names
            }
        }
    };
}

ops! {
    families {
        /// One operand, element by element.
        Unary(UnaryOp),
        /// Two operands of one type, element by element.
        Binary(BinaryOp),
    }
    plain {
        /// Picks elements of one of two tensors.
        Select = "select",
        /// Limits elements to an interval.
        Clamp = "clamp",
        /// Writes a block at a position that is a value.
        DynamicUpdateSlice = "dynamic_update_slice",
        /// Writes new tokens into a cache of keys or values.
        CacheUpdate = "cache_update",
        /// A loop with a condition.
        While = "while",
        /// One of two regions.
        If = "if",
        /// A region that is computed again in the backward pass.
        Remat = "remat",
        /// The identity, without a derivative.
        StopGradient = "stop_gradient",
        /// The identity, which no optimization looks through.
        OptimizationBarrier = "optimization_barrier",
    }
    with_attributes {
        /// Compares, element by element.
        Compare = "compare",
        /// Changes the element type, keeping values.
        Convert = "convert",
        /// Changes the element type, keeping bits.
        BitcastConvert = "bitcast_convert",
        /// A tensor known when the graph is built.
        Constant = "constant",
        /// Counts along a dimension.
        Iota = "iota",
        /// Repeats along new dimensions and dimensions of size 1.
        BroadcastInDim = "broadcast_in_dim",
        /// The same elements in row-major order with another shape.
        Reshape = "reshape",
        /// Permutes dimensions.
        Transpose = "transpose",
        /// Reverses the order along dimensions.
        Reverse = "reverse",
        /// A block with strides at a position known when the graph is built.
        Slice = "slice",
        /// Joins tensors along a dimension.
        Concatenate = "concatenate",
        /// Adds a border, and gaps between elements.
        Pad = "pad",
        /// A block at a position that is a value.
        DynamicSlice = "dynamic_slice",
        /// Blocks at many positions that are values.
        Gather = "gather",
        /// Combines blocks into a tensor at many positions that are values.
        Scatter = "scatter",
        /// Products summed over contracting dimensions.
        DotGeneral = "dot_general",
        /// Combines elements along dimensions.
        Reduce = "reduce",
        /// The position of the greatest element along a dimension.
        Argmax = "argmax",
        /// Sorts tensors together along a dimension.
        Sort = "sort",
        /// A loop of known length with carried values and stacked results.
        Scan = "scan",
        /// Random bits from a counter-based generator.
        RngBitGenerator = "rng_bit_generator",
        /// Attention.
        ScaledDotProductAttention = "scaled_dot_product_attention",
        /// The derivative of attention.
        ScaledDotProductAttentionBackward = "scaled_dot_product_attention_backward",
        /// Attention to a cache of keys and values.
        CachedAttention = "cached_attention",
    }
}

impl Op {
    /// The types of the results.
    ///
    /// # Errors
    /// The first broken constraint, in the order of the op's documentation.
    pub fn infer(&self, operands: &[&TensorType], regions: &[RegionTypes<'_>]) -> Inferred {
        let num_regions = match self {
            Op::Scan(_) | Op::Remat => 1,
            Op::While | Op::If => 2,
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Clamp
            | Op::DynamicUpdateSlice
            | Op::CacheUpdate
            | Op::StopGradient
            | Op::OptimizationBarrier
            | Op::Compare(_)
            | Op::Convert(_)
            | Op::BitcastConvert(_)
            | Op::Constant(_)
            | Op::Iota(_)
            | Op::BroadcastInDim(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Reverse(_)
            | Op::Slice(_)
            | Op::Concatenate(_)
            | Op::Pad(_)
            | Op::DynamicSlice(_)
            | Op::Gather(_)
            | Op::Scatter(_)
            | Op::DotGeneral(_)
            | Op::Reduce(_)
            | Op::Argmax(_)
            | Op::Sort(_)
            | Op::RngBitGenerator(_)
            | Op::ScaledDotProductAttention(_)
            | Op::ScaledDotProductAttentionBackward(_)
            | Op::CachedAttention(_) => 0,
        };
        require!(regions.len() == num_regions, "I0", "expected {num_regions} regions, found {}", regions.len());
        let x = operands;
        match self {
            Op::Unary(op) => elementwise::unary_type(*op, x),
            Op::Binary(op) => elementwise::binary_type(*op, x),
            Op::Select => elementwise::select_type(x),
            Op::Clamp => elementwise::clamp_type(x),
            Op::Compare(op) => elementwise::compare_type(op, x),
            Op::Convert(op) => elementwise::convert_type(op, x),
            Op::BitcastConvert(op) => elementwise::bitcast_convert_type(op, x),
            Op::Constant(op) => shape::constant_type(op, x),
            Op::Iota(op) => shape::iota_type(op, x),
            Op::BroadcastInDim(op) => shape::broadcast_in_dim_type(op, x),
            Op::Reshape(op) => shape::reshape_type(op, x),
            Op::Transpose(op) => shape::transpose_type(op, x),
            Op::Reverse(op) => shape::reverse_type(op, x),
            Op::Slice(op) => shape::slice_type(op, x),
            Op::Concatenate(op) => shape::concatenate_type(op, x),
            Op::Pad(op) => shape::pad_type(op, x),
            Op::DynamicSlice(op) => index::dynamic_slice_type(op, x),
            Op::DynamicUpdateSlice => index::dynamic_update_slice_type(x),
            Op::Gather(op) => index::gather_type(op, x),
            Op::Scatter(op) => index::scatter_type(op, x),
            Op::DotGeneral(op) => contract::dot_general_type(op, x),
            Op::Reduce(op) => reduce::reduce_type(op, x),
            Op::Argmax(op) => reduce::argmax_type(op, x),
            Op::Sort(op) => reduce::sort_type(op, x),
            Op::Scan(op) => control::scan_type(op, x, &regions[0]),
            Op::While => control::while_type(x, &regions[0], &regions[1]),
            Op::If => control::if_type(x, &regions[0], &regions[1]),
            Op::Remat => control::remat_type(x, &regions[0]),
            Op::StopGradient => control::stop_gradient_type(x),
            Op::OptimizationBarrier => control::optimization_barrier_type(x),
            Op::RngBitGenerator(op) => random::rng_bit_generator_type(op, x),
            Op::ScaledDotProductAttention(op) => attention::scaled_dot_product_attention_type(op, x),
            Op::ScaledDotProductAttentionBackward(op) => attention::scaled_dot_product_attention_backward_type(op, x),
            Op::CachedAttention(op) => attention::cached_attention_type(op, x),
            Op::CacheUpdate => attention::cache_update_type(x),
        }
    }
}

/// The operands as an array, or a violation of `I0` when their number is another.
pub(crate) fn arity<'a, const N: usize>(operands: &[&'a TensorType]) -> Result<[&'a TensorType; N], Violation> {
    <[&TensorType; N]>::try_from(operands).map_err(|_| Violation {
        constraint: "I0",
        message: format!("expected {N} operands, found {}", operands.len()),
    })
}

/// Whether no dimension is listed twice.
pub(crate) fn is_unique(dimensions: &[usize]) -> bool {
    dimensions.iter().enumerate().all(|(i, dimension)| !dimensions[..i].contains(dimension))
}

/// Whether the dimensions are in ascending order.
pub(crate) fn is_sorted(dimensions: &[usize]) -> bool {
    dimensions.windows(2).all(|pair| pair[0] <= pair[1])
}
