//! Scoring texts as a whole, without a cache.

use std::cell::RefCell;

use lmc_graph::{DType, Func, TensorType, Value};

use crate::architectures::sequence::{Sequence, WholeSequences};
use crate::compute::{Compute, LossChunk};
use crate::inference::Architecture;
use crate::inference::sampling::is_token;
use crate::layers::{Attention, attention_weights, causal_attention, causal_mask};
use crate::loss::build_stored;
use crate::params::{ParamSpec, Params};
use crate::scope::Scope;
use crate::stored::Storage;

/// The f32 logits of the next token at every position: parameters are `tokens` `i32 1 T` and the weights, the result is
/// `f32 1 T V`. What stands behind a token does not matter to it, so that texts may be padded.
///
/// # Panics
/// If the configuration is not valid.
#[track_caller]
pub fn logits_func(
    model: &Architecture,
    tokens: usize,
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    let inputs = [("tokens", TensorType::new(DType::I32, [1, tokens]))];
    let (mut func, specs) = build_stored("logits", compute, storage, &inputs, |scope, inputs| {
        let hidden = model.hidden(scope, inputs[0], &WholeSequences::PLAIN);
        vec![model.head(scope, hidden)]
    });
    func.result_names = vec!["logits".into()];
    (func, specs)
}

/// The log-probability of a label at every position: parameters are `tokens` and `labels`, each `i32 1 T`, and the weights;
/// the result is `f32 1 T`, of no meaning where a label is no token. Logits of at most 128 MiB are held at a time.
///
/// # Panics
/// If the configuration is not valid.
#[track_caller]
pub fn log_probs_func(
    model: &Architecture,
    tokens: usize,
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    let ty = TensorType::new(DType::I32, [1, tokens]);
    let inputs = [("tokens", ty.clone()), ("labels", ty)];
    let (mut func, specs) = build_stored("log_probs", compute, storage, &inputs, |scope, inputs| {
        let hidden = model.hidden(scope, inputs[0], &WholeSequences::PLAIN);
        let ([_, t, c], b) = (hidden.dims(), scope.builder());
        let chunk = LossChunk::Auto.tokens(1, t, model.vocab_size());
        let chunks = t.div_ceil(chunk);
        let behind = (chunks * chunk - t) as i64;
        let hidden = hidden.pad(b.scalar(hidden.dtype(), 0.0), &[0, 0, 0], &[0, behind, 0], &[0, 0, 0]);
        let labels = inputs[1].pad(b.scalar(DType::I32, 0.0), &[0, 0], &[0, behind], &[0, 0]);
        let slices = [hidden.reshape(&[chunks, chunk, c]), labels.reshape(&[chunks, chunk])];
        let scanned = b.scan(&[], &slices, chunks, |_, slices| {
            let log_probs = model.head(scope, slices[0]).log_softmax(1);
            let is_label = is_token(slices[1], model.vocab_size());
            (vec![], vec![is_label.select(log_probs, log_probs.full_like(0.0)).sum(&[1])])
        });
        vec![scanned.stacked[0].reshape(&[1, chunks * chunk]).slice_dim(1, 0..t)]
    });
    func.result_names = vec!["log_probs".into()];
    (func, specs)
}

/// The mean of a text's last activations, of length one: parameters are `tokens` `i32 1 T`, `count` `i32`, the number of
/// those that are no padding, and the weights; the result is `f32 1 C`.
///
/// # Panics
/// If the configuration is not valid.
#[track_caller]
pub fn embeddings_func(
    model: &Architecture,
    tokens: usize,
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    let inputs = [("tokens", TensorType::new(DType::I32, [1, tokens])), ("count", TensorType::scalar(DType::I32))];
    let (mut func, specs) = build_stored("embeddings", compute, storage, &inputs, |scope, inputs| {
        let (tokens, count) = (inputs[0], inputs[1]);
        let hidden = model.hidden(scope, tokens, &WholeSequences::PLAIN).convert(DType::F32);
        let position = scope.builder().iota(&tokens.ty(), 1);
        let is_token = position.less(count).broadcast_in_dim(&hidden.shape(), &[0, 1]);
        let sum = is_token.select(hidden, hidden.full_like(0.0)).sum(&[1]);
        let [_, c] = sum.dims();
        let length = (sum * sum).sum(&[1]).sqrt().broadcast_in_dim(&[1, c], &[0]);
        vec![sum / length.maximum(length.full_like(1e-12))]
    });
    func.result_names = vec!["embedding".into()];
    (func, specs)
}

/// What attention sees in a text: parameters are `tokens` `i32 1 T` and the weights; for each of `layers` the results are
/// the keys as the cache keeps them, rotated by position, `1 T K H` in the compute type, and the probabilities of every
/// query head, `f32 N T T`.
///
/// # Panics
/// If the configuration is not valid or a layer is not the model's.
#[track_caller]
pub fn attention_func(
    model: &Architecture,
    tokens: usize,
    layers: &[usize],
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    assert!(layers.iter().all(|&layer| layer < model.layers().len()), "{layers:?} are layers of the model");
    let inputs = [("tokens", TensorType::new(DType::I32, [1, tokens]))];
    let (mut func, specs) = build_stored("attention", compute, storage, &inputs, |scope, inputs| {
        let watched = Watched { seen: RefCell::default() };
        model.hidden(scope, inputs[0], &watched);
        let seen = watched.seen.into_inner();
        layers.iter().flat_map(|&layer| seen[layer]).collect()
    });
    let names = layers.iter().flat_map(|layer| [format!("layers.{layer}.key"), format!("layers.{layer}.weights")]);
    func.result_names = names.collect();
    (func, specs)
}

/// Whole sequences whose keys and probabilities are kept.
struct Watched<'g> {
    seen: RefCell<Vec<[Value<'g>; 2]>>,
}

impl<'g> Sequence<'g> for Watched<'g> {
    fn positions(&self) -> Option<Value<'g>> {
        None
    }

    #[track_caller]
    fn attend(&self, _: &Scope<'g>, _: usize, parts: [Value<'g>; 3], attention: &Attention) -> Value<'g> {
        let [query, key, value] = parts;
        let [_, t, n, _] = query.dims();
        let weights = attention_weights([query, key], causal_mask(query, attention), attention);
        // B K T G S, with the query heads of a key head beside each other.
        let weights = weights.transpose(&[0, 1, 3, 2, 4]).reshape(&[n, t, t]);
        self.seen.borrow_mut().push([key, weights]);
        causal_attention(query, key, value, attention)
    }
}
