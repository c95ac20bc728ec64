//! Activation functions and the gated feed-forward layer.

use lmc_graph::{DType, Value};

use crate::layers::linear::{Linear, linear};
use crate::scope::{Dimension, Scope};

/// The sizes of a gated feed-forward layer and how it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedMlp {
    /// The last dimension of the operand and of the result.
    pub hidden: Dimension,
    /// What lies between.
    pub intermediate: Dimension,
    /// The standard deviation of the initial weights of `gate_proj` and `up_proj`.
    pub std: f64,
    /// The standard deviation of the initial weight of `down_proj`, which writes to the residual stream.
    pub residual_std: f64,
    /// Whether the three products have biases.
    pub bias: bool,
    /// The function of the gate.
    pub gate: Gate,
}

/// The function of a gate, by Hugging Face's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `silu`, which makes SwiGLU.
    Silu,
    /// `gelu_pytorch_tanh`: GELU by a hyperbolic tangent, which makes GEGLU.
    GeluTanh,
    /// `gelu`: GELU by the error function.
    Gelu,
}

/// `down_proj(gate(gate_proj(x)) * up_proj(x))` (Shazeer 2020, eq. 6).
///
/// # Panics
/// As [`linear`].
#[track_caller]
pub fn gated_mlp<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &GatedMlp) -> Value<'g> {
    let widen = Linear { input: layer.hidden, output: layer.intermediate, std: layer.std, bias: layer.bias };
    let narrow = Linear { input: layer.intermediate, output: layer.hidden, std: layer.residual_std, bias: layer.bias };
    let gate = scope.sub("gate_proj", |scope| linear(scope, x, &widen));
    let up = scope.sub("up_proj", |scope| linear(scope, x, &widen));
    let gate = match layer.gate {
        Gate::Silu => silu(gate),
        Gate::GeluTanh => gelu_new(gate),
        Gate::Gelu => gelu(gate),
    };
    let gated = gate * up;
    scope.sub("down_proj", |scope| linear(scope, gated, &narrow))
}

/// [`Value::silu`], computed in f32 and rounded once.
#[track_caller]
fn silu(x: Value<'_>) -> Value<'_> {
    x.convert(DType::F32).silu().convert(x.dtype())
}

/// [`Value::gelu_exact`], computed in f32 and rounded once.
///
/// # Panics
/// If `x` is not of floats.
#[track_caller]
pub fn gelu(x: Value<'_>) -> Value<'_> {
    x.convert(DType::F32).gelu_exact().convert(x.dtype())
}

/// GPT-2's activation, [`Value::gelu`], computed in f32 and rounded once.
///
/// # Panics
/// If `x` is not of floats.
#[track_caller]
pub fn gelu_new(x: Value<'_>) -> Value<'_> {
    x.convert(DType::F32).gelu().convert(x.dtype())
}
