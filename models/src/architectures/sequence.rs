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
pub struct WholeSequences<'g> {
    attention_dropout: f64,
    /// The bounds of documents that do not see each other, as [`DocumentMask::bounds`](crate::DocumentMask::bounds).
    documents: Option<Value<'g>>,
}

impl<'g> WholeSequences<'g> {
    /// Sequences of one document each, without dropout.
    pub const PLAIN: WholeSequences<'g> = WholeSequences { attention_dropout: 0.0, documents: None };

    /// The sequences `tokens`, `i32 B T`, of the documents that the scope's [`Compute`](crate::Compute) tells apart, with
    /// this rate of dropout.
    ///
    /// # Panics
    /// If there are more places for documents than a row of so many tokens can have.
    #[track_caller]
    pub fn new(scope: &Scope<'g>, tokens: Value<'g>, attention_dropout: f64) -> WholeSequences<'g> {
        let documents = scope.compute().documents;
        let documents = documents.map(|documents| scope.sub("documents", |_| documents.bounds(tokens)));
        WholeSequences { attention_dropout, documents }
    }
}

impl<'g> Sequence<'g> for WholeSequences<'g> {
    fn positions(&self) -> Option<Value<'g>> {
        None
    }

    #[track_caller]
    fn attend(&self, scope: &Scope<'g>, _: usize, parts: [Value<'g>; 3], attention: &Attention) -> Value<'g> {
        let WholeSequences { attention_dropout, documents } = *self;
        causal_attention_with_dropout(scope, "attn_dropout", parts, documents, attention, attention_dropout)
    }
}
