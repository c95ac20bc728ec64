//! Layers: functions of a scope and activations.
//!
//! Activations are `[batch, sequence, hidden]` in the scope's compute type. Shape letters: B batch, T time, C channels
//! (hidden size), N query heads, K key and value heads, H head size, V vocabulary.

mod attention;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod rope;

pub use attention::causal_attention;
pub use embedding::{Embedding, embedding, tied_logits};
pub use linear::{Linear, conv1d, linear, logits};
pub use mlp::{SwiGlu, gelu_new, relu, swiglu};
pub use norm::{LayerNorm, layer_norm, rms_norm, rms_normalize};
pub use rope::{Rope, rotate};
