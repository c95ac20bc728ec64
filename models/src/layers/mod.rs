//! Layers: functions of a scope and activations.
//!
//! Activations are `[batch, sequence, hidden]` in the scope's compute type. Shape letters: B batch, T time, C channels
//! (hidden size), N query heads, K key and value heads, H head size, V vocabulary.

mod attention;
mod blocks;
mod documents;
mod dropout;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod quantized;
mod rope;

pub(crate) use attention::causal_mask;
pub use attention::{Attention, attention_weights, causal_attention, causal_attention_with_dropout, masked_attention};
pub use blocks::blocks;
pub use documents::DocumentMask;
pub use dropout::dropout;
pub use embedding::{Embedding, embedding, tied_logits};
pub use linear::{Linear, conv1d, linear, logits};
pub use mlp::{Gate, GatedMlp, gated_mlp, gelu, gelu_new};
pub use norm::{LayerNorm, layer_norm, rms_norm, rms_norm_about_one, rms_normalize};
pub use quantized::{Codes, Offset, Quantization, QuantizedWeight, dequantize, quantized_product};
pub use rope::{Rope, RopeConfig, RopeScaling, rotate};

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, Literal, TensorType, Value, eval};

    use super::*;
    use crate::compute::Precision;
    use crate::scope::Scope;

    /// A layer at `[1, -2, 0.5, 3]`, with gains of one and biases of zero.
    fn check(layer: impl for<'g> FnOnce(&Scope<'g>, Value<'g>) -> Value<'g>, expected: [f64; 4]) {
        let mut args = vec![Literal::new([1, 4], &[1f32, -2.0, 0.5, 3.0])];
        let func = Builder::build("f", |b| {
            let scope = Scope::new(b, Precision::Float32);
            let y = layer(&scope, b.param("x", TensorType::new(DType::F32, [1, 4])));
            args.extend(crate::init::initialize(&scope.specs(), 0).into_values());
            vec![y]
        });
        let found = eval(&func, &args).expect("the arguments fit")[0].to_f64s();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        }
    }

    /// The numbers are those of torch.nn.functional in torch 2.15: layer_norm, rms_norm (eps 1e-5), gelu
    /// (approximate="tanh").
    #[test]
    fn layers_are_torchs() {
        let dimension = ("hidden", 4);
        let normal = [0.210558385, -1.473908782, -0.070186131, 1.333536506];
        check(|scope, x| layer_norm(scope, x, &LayerNorm { dimension, eps: 1e-5, bias: true }), normal);
        let rms = [0.529812157, -1.059624314, 0.264906079, 1.589436531];
        check(|scope, x| rms_norm(scope, x, dimension, 1e-5), rms);
        check(|_, x| rms_normalize(x, 1e-5), rms);
        check(|_, x| gelu(x), [0.841344747, -0.045500264, 0.345731231, 2.995950306]);
        check(|_, x| gelu_new(x), [0.841192007, -0.045402288, 0.345714003, 2.996362686]);
    }

    /// The derivative of [`gelu`] is that of torch.nn.functional.gelu in float64.
    #[test]
    fn gelus_derivative_is_torchs() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [5]));
            vec![gelu(x).sum(&[0])]
        });
        let func = lmc_autodiff::grad(&func, &[0]).expect("it has a derivative");
        let x = Literal::new([5], &[-40f32, -3.0, -0.4, 0.0, 2.2]);
        let found = eval(&func, &[x]).expect("the argument fits")[0].to_f64s();
        for (found, expected) in found.iter().zip([0.0, -0.011945647, 0.197270202, 0.5, 1.064140657]) {
            // Terms of the derivative of the rational function that is computed cancel each other.
            assert!((found - expected).abs() < 2e-6, "{found}, not {expected}");
        }
    }

    /// Position 0 stays; position `t` turns the pair `(x[0], x[2])` by `t` radians and `(x[1], x[3])` by `t / 100`.
    #[test]
    fn rotates_by_position() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [1, 3, 1, 4]));
            vec![rotate(x, Rope::new(b, 3, 4, &RopeConfig::new(10000.0)))]
        });
        let row = [1f32, 2.0, 3.0, 4.0];
        let found = eval(&func, &[Literal::new([1, 3, 1, 4], &row.repeat(3))]).expect("the argument fits")[0].to_f64s();
        for (t, found) in found.chunks(4).enumerate() {
            let turned =
                |x: f64, y: f64, angle: f64| [x * angle.cos() - y * angle.sin(), y * angle.cos() + x * angle.sin()];
            let ([a, c], [b, d]) = (turned(1.0, 3.0, t as f64), turned(2.0, 4.0, t as f64 / 100.0));
            for (found, expected) in found.iter().zip([a, b, c, d]) {
                assert!((found - expected).abs() < 1e-5, "position {t}: {found}, not {expected}");
            }
        }
    }
}
