//! Normalization over the last dimension, computed in f32.

use lmc_graph::{DType, Value};

use crate::params::Init;
use crate::scope::{Dimension, Scope};

/// `x / sqrt(mean(x²) + eps) * weight`: root mean square normalization with a gain, one at first (Zhang and Sennrich
/// 2019, eq. 4). The result has the type of `x`.
///
/// # Panics
/// If the last size of `x` is not that of `dimension`.
#[track_caller]
pub fn rms_norm<'g>(scope: &Scope<'g>, x: Value<'g>, dimension: Dimension, eps: f64) -> Value<'g> {
    let gain = scope.param("weight", &[dimension], Init::Ones);
    (rms_scaled(x, eps) * gain).convert(x.dtype())
}

/// `x / sqrt(mean(x²) + eps) * (1 + weight)`: as [`rms_norm`], with the gain stored as its distance from one (Gemma Team
/// 2024). The result has the type of `x`.
///
/// # Panics
/// If the last size of `x` is not that of `dimension`.
#[track_caller]
pub fn rms_norm_about_one<'g>(scope: &Scope<'g>, x: Value<'g>, dimension: Dimension, eps: f64) -> Value<'g> {
    let gain = scope.param("weight", &[dimension], Init::Zeros) + 1.0;
    (rms_scaled(x, eps) * gain).convert(x.dtype())
}

/// `x / sqrt(mean(x²) + eps)`: root mean square normalization without a gain. The result has the type of `x`.
///
/// # Panics
/// If `x` is a scalar or not of floats.
#[track_caller]
pub fn rms_normalize(x: Value<'_>, eps: f64) -> Value<'_> {
    rms_scaled(x, eps).convert(x.dtype())
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`: layer normalization (Ba et al. 2016, eq. 4), the variance being
/// the mean of squares. The gain is one at first, the bias, if there is one, zero. The result has the type of `x`.
///
/// # Panics
/// If the last size of `x` is not that of `layer.dimension`.
#[track_caller]
pub fn layer_norm<'g>(scope: &Scope<'g>, x: Value<'g>, layer: &LayerNorm) -> Value<'g> {
    let gain = scope.param("weight", &[layer.dimension], Init::Ones);
    let wide = x.convert(DType::F32);
    let centered = wide - last_mean(wide);
    let scaled = centered * (last_mean(centered * centered) + layer.eps).rsqrt() * gain;
    let shifted = if layer.bias { scaled + scope.param("bias", &[layer.dimension], Init::Zeros) } else { scaled };
    shifted.convert(x.dtype())
}

/// The size of a layer normalization and what is in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// The dimension that is normalized: the last one.
    pub dimension: Dimension,
    /// Added to the variance.
    pub eps: f64,
    /// Whether there is a bias.
    pub bias: bool,
}

#[track_caller]
fn rms_scaled(x: Value<'_>, eps: f64) -> Value<'_> {
    let wide = x.convert(DType::F32);
    wide * (last_mean(wide * wide) + eps).rsqrt()
}

/// The mean over the last dimension, which stays with size 1.
#[track_caller]
fn last_mean(x: Value<'_>) -> Value<'_> {
    let mut shape = x.shape();
    let Some(size) = shape.last_mut() else { panic!("a scalar has no dimension to normalize: {x}") };
    let mean = x.sum(&[x.rank() - 1]) / *size as f64;
    *size = 1;
    mean.reshape(&shape)
}
