//! What memory is for.

use std::collections::{BTreeMap, HashSet};

use lmc_lower::report::Direction;
use lmc_models::{StepConfig, TrainStep};
use serde::Serialize;

use super::estimate::{Buffer, Estimate};
use crate::inspect::Place;

/// The memory of a step by what it is for, in bytes. All of it together is the peak.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// The weights.
    pub parameters: u64,
    /// What the optimizer keeps of each weight, averages of the weights included.
    pub optimizer: u64,
    /// The tokens of a step.
    pub data: u64,
    /// Gradients and their sums over micro-batches.
    pub gradients: u64,
    /// What layers keep and compute, by [`Parts::layers`].
    pub activations: u64,
    /// Logits and what is made of them.
    pub logits: u64,
    /// Weights in another type or layout, metrics, and what belongs to no layer.
    pub workspace: u64,
    /// The activations by layer, in the order of the model.
    pub layers: Vec<Layer>,
    /// The largest tensors beside parameters, optimizer and data.
    pub largest: Vec<Tensor>,
}

/// The activations of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The scope in the model.
    pub scope: String,
    /// Bytes.
    pub bytes: u64,
}

/// Tensors of one kind that are alive when most memory is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Element type and shape.
    pub ty: String,
    /// The scope in the model, with the numbers of layers as `*`.
    pub scope: String,
    /// The file and line of the model.
    pub line: String,
    /// The op that makes it.
    pub op: String,
    /// How many there are.
    pub count: u64,
    /// All of them together.
    pub bytes: u64,
}

/// How many of the largest tensors are told.
const LARGEST: usize = 8;

impl Parts {
    /// The parts of an estimate, of which the temporary ones are scaled so that everything is `peak_bytes`.
    pub(super) fn of(step: &TrainStep, config: &StepConfig, estimate: &Estimate, peak_bytes: u64) -> Parts {
        let types = step.func.param_types();
        let bytes = |range: std::ops::Range<usize>| types[range].iter().map(|ty| ty.num_bytes() as u64).sum::<u64>();
        let mut parts = Parts {
            parameters: bytes(step.weights()),
            optimizer: bytes(step.slots()),
            data: bytes(step.step()..types.len()),
            ..Parts::default()
        };
        let given = parts.parameters + parts.optimizer + parts.data;
        let scale = peak_bytes.saturating_sub(given) as f64 / (estimate.peak().saturating_sub(given) as f64).max(1.0);
        let scaled = |bytes: u64| (bytes as f64 * scale) as u64;
        let weights: HashSet<usize> = step.specs.values().map(|spec| spec.ty.num_elements()).collect();
        let mut layers: BTreeMap<Vec<Piece>, u64> = BTreeMap::new();
        for buffer in &estimate.alive {
            let bytes = scaled(buffer.bytes);
            match kind(buffer, config.model.vocab_size(), &weights) {
                Kind::Gradient => parts.gradients += bytes,
                Kind::Logits => parts.logits += bytes,
                Kind::Workspace => parts.workspace += bytes,
                Kind::Activation => {
                    parts.activations += bytes;
                    *layers.entry(layer(&buffer.scope)).or_default() += bytes;
                }
            }
        }
        let others = parts.gradients + parts.logits + parts.workspace + parts.activations;
        parts.workspace += peak_bytes.saturating_sub(given + others);
        parts.layers = layers
            .into_iter()
            .map(|(pieces, bytes)| {
                let scope = pieces.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
                Layer { scope, bytes }
            })
            .collect();
        parts.largest = largest(&estimate.alive);
        parts
    }
}

/// What a buffer is for.
enum Kind {
    Gradient,
    Logits,
    Activation,
    Workspace,
}

fn kind(buffer: &Buffer, vocab_size: usize, weights: &HashSet<usize>) -> Kind {
    let like_a_weight = weights.contains(&buffer.ty.num_elements());
    let direction = Direction::of_scope(&buffer.scope);
    let backward = direction == Direction::Backward;
    let loop_or_optimizer = &*buffer.scope == "micro_batches" || direction == Direction::Optimizer;
    if buffer.of_arguments && !loop_or_optimizer {
        Kind::Workspace
    } else if like_a_weight && (buffer.for_optimizer || backward || loop_or_optimizer) {
        Kind::Gradient
    } else if buffer.ty.rank() > 1 && buffer.ty.shape.last() == Some(&vocab_size) {
        Kind::Logits
    } else if bare(&buffer.scope).is_empty() || loop_or_optimizer {
        Kind::Workspace
    } else {
        Kind::Activation
    }
}

/// A scope without the loop over micro-batches, and without the marks of the passes.
fn bare(scope: &str) -> String {
    Place::of(scope).layer
}

/// A piece of a scope, ordered as people count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Number(u64),
    Name(String),
}

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Piece::Number(number) => write!(f, "{number}"),
            Piece::Name(name) => f.write_str(name),
        }
    }
}

/// The layer of a scope: up to the first number, or two names.
fn layer(scope: &str) -> Vec<Piece> {
    let bare = bare(scope);
    let pieces: Vec<Piece> = bare
        .split('.')
        .map(|piece| piece.parse().map_or_else(|_| Piece::Name(piece.to_owned()), Piece::Number))
        .collect();
    let end = pieces.iter().position(|piece| matches!(piece, Piece::Number(_))).map_or(2, |number| number + 1);
    pieces.into_iter().take(end).collect()
}

/// The layer that an op of a scope belongs to; empty outside of the model.
pub(crate) fn layer_of(scope: &str) -> String {
    layer(scope).iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// The kinds of tensors that take most.
fn largest(alive: &[Buffer]) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::new();
    for buffer in alive {
        let scope = bare(&buffer.scope);
        let starred = scope.split('.').map(|piece| if piece.parse::<u64>().is_ok() { "*" } else { piece });
        let tensor = Tensor {
            ty: buffer.ty.to_string(),
            scope: starred.collect::<Vec<_>>().join("."),
            line: buffer.line.to_string(),
            op: buffer.op.to_string(),
            count: 1,
            bytes: buffer.bytes,
        };
        let alike = |other: &&mut Tensor| {
            (&other.ty, &other.scope, &other.line, &other.op) == (&tensor.ty, &tensor.scope, &tensor.line, &tensor.op)
        };
        match tensors.iter_mut().find(alike) {
            Some(other) => {
                other.count += 1;
                other.bytes += tensor.bytes;
            }
            None => tensors.push(tensor),
        }
    }
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
    tensors.truncate(LARGEST);
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_belong_to_layers() {
        for (scope, expected) in [
            ("micro_batches.model.layers.3.self_attn.q_proj", "model.layers.3"),
            ("micro_batches.vjp(model.layers.11.mlp)", "model.layers.11"),
            ("vjp(model.layers)", "model.layers"),
            ("micro_batches.remat(model.layers.2.mlp)", "model.layers.2"),
            ("optimizer.model.layers.2.mlp.up_proj.weight", "model.layers.2"),
            ("transformer.h.0.attn", "transformer.h.0"),
            ("loss", "loss"),
        ] {
            let pieces: Vec<String> = layer(scope).iter().map(ToString::to_string).collect();
            assert_eq!(pieces.join("."), expected);
        }
        assert!(layer("model.layers.2.mlp") < layer("model.layers.10.mlp"));
    }
}
