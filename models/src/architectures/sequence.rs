//! What a model's blocks ask of the sequences that they compute.

use lmc_graph::Value;

use crate::layers::{Attention, causal_attention_with_dropout};
use crate::scope::Scope;

/// Sequences: where their tokens stand, and which keys and values each sees. Blocks are the same whether whole sequences
/// are computed at once or tokens one by one.
pub trait Sequence<'g> {
    /// The position of every token, `i32 B T`; `None` if each row begins at 0.
    fn positions(&self) -> Option<Value<'g>>;

    /// What the queries of block number `layer` see: `B T N H`, `B T K H`, `B T K H → B T N H`, for query, key and value
    /// of these tokens.
    fn attend(&self, scope: &Scope<'g>, layer: usize, parts: [Value<'g>; 3], attention: &Attention) -> Value<'g>;
}

/// Whole sequences, with dropout of the probabilities of attention where a model is trained.
#[derive(Clone, Copy, Debug)]
pub struct WholeSequences {
    /// The rate of dropout.
    pub attention_dropout: f64,
}

impl<'g> Sequence<'g> for WholeSequences {
    fn positions(&self) -> Option<Value<'g>> {
        None
    }

    #[track_caller]
    fn attend(&self, scope: &Scope<'g>, _: usize, parts: [Value<'g>; 3], attention: &Attention) -> Value<'g> {
        causal_attention_with_dropout(scope, "attn_dropout", parts, attention, self.attention_dropout)
    }
}
