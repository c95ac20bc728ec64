//! Products with a weight.

use lmc_graph::ops::DotGeneral;
use lmc_graph::{DType, Value};

use crate::params::Init;
use crate::scope::{Dimension, Scope};

/// The sizes of a linear layer and how it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// The last dimension of the operand.
    pub input: Dimension,
    /// The last dimension of the result.
    pub output: Dimension,
    /// The standard deviation of the initial weight.
    pub std: f64,
    /// Whether a bias, zero at first, is added.
    pub bias: bool,
}

/// `x Wᵀ + b`: `.. in → .. out`, with `weight` `[out, in]` as of PyTorch's `Linear`, and `bias` `[out]`.
///
/// # Panics
/// If the last size of `x` is not `in`, or its element type is not the scope's.
#[track_caller]
pub fn linear<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &Linear) -> Value<'g> {
    let weight = scope.weight("weight", &[layer.output, layer.input], Init::Normal { std: layer.std });
    add_bias(scope, product(x, weight, 1, scope.compute_dtype()), layer)
}

/// `x W + b`: `.. in → .. out`, with `weight` `[in, out]` as of GPT-2's `Conv1D`, and `bias` `[out]`.
///
/// # Panics
/// As [`linear`].
#[track_caller]
pub fn conv1d<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &Linear) -> Value<'g> {
    let weight = scope.weight("weight", &[layer.input, layer.output], Init::Normal { std: layer.std });
    add_bias(scope, product(x, weight, 0, scope.compute_dtype()), layer)
}

/// Logits: [`linear`] with an f32 result. The sum of products is f32 anyway; it is not rounded to the compute type, as
/// the loss is f32.
///
/// # Panics
/// As [`linear`].
#[track_caller]
pub fn logits<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &Linear) -> Value<'g> {
    let weight = scope.weight("weight", &[layer.output, layer.input], Init::Normal { std: layer.std });
    let logits = product(x, weight, 1, DType::F32);
    if !layer.bias {
        return logits;
    }
    logits + scope.param("bias", &[layer.output], Init::Zeros)
}

/// The product over the last dimension of `x` and dimension `contracting` of a matrix.
#[track_caller]
pub(super) fn product<'g>(x: Value<'g>, weight: Value<'g>, contracting: usize, result_dtype: DType) -> Value<'g> {
    let rank = x.rank();
    assert!(rank > 0, "a linear layer takes at least one dimension, found {}", x.ty());
    let attributes = DotGeneral {
        lhs_batching_dimensions: vec![],
        rhs_batching_dimensions: vec![],
        lhs_contracting_dimensions: vec![rank - 1],
        rhs_contracting_dimensions: vec![contracting],
        result_dtype,
    };
    x.dot_general(weight, attributes)
}

#[track_caller]
fn add_bias<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &Linear) -> Value<'g> {
    if layer.bias { x + scope.weight("bias", &[layer.output], Init::Zeros) } else { x }
}
