//! Rows of a table by index, and the table as the last layer.

use lmc_graph::Value;

use crate::layers::linear::{Linear, logits};
use crate::params::Init;
use crate::scope::{Dimension, Scope};

/// The sizes of an embedding table and how it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// The rows.
    pub rows: Dimension,
    /// The elements of a row.
    pub row: Dimension,
    /// The standard deviation of the initial table.
    pub std: f64,
}

/// `weight[indices]`: `I.. → I.. C`, with `weight` `[rows, row]`. Indices outside are limited to the first and last row.
///
/// The rows are looked up as they are stored, in training f32, and then rounded to the compute type, so that their
/// gradients are summed in f32.
///
/// # Panics
/// If `indices` is not of integers.
#[track_caller]
pub fn embedding<'g>(scope: &Scope<'g>, indices: Value<'g>, table: &Embedding) -> Value<'g> {
    let weight = scope.as_stored("weight", &[table.rows, table.row], Init::Normal { std: table.std });
    weight.rows(indices, scope.compute_dtype())
}

/// The f32 logits of activations with the embedding table as the weight of the last layer: `.. C → .. V`.
///
/// # Panics
/// If the last size of `x` is not the row's, or its element type is not the scope's.
#[track_caller]
pub fn tied_logits<'g>(scope: &Scope<'g>, x: Value<'g>, table: &Embedding) -> Value<'g> {
    logits(scope, x, &Linear { input: table.row, output: table.rows, std: table.std, bias: false })
}
