//! Continuing texts: a chunk of a prompt, or a token of every text.

use std::cell::RefCell;

use lmc_graph::ops::{Scatter, ScatterOp};
use lmc_graph::{DType, Func, TensorType, Value};

use crate::compute::Compute;
use crate::inference::Architecture;
use crate::inference::cache::{CacheShape, Cached, Tokens};
use crate::inference::sampling::{Drawn, Rows, is_token};
use crate::loss::build_stored;
use crate::params::{ParamSpec, Params};
use crate::scope::Scope;
use crate::stored::Storage;

/// Which function of a model it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A chunk of a prompt.
    Prefill {
        /// The tokens of a chunk; fewer are padded.
        tokens: usize,
        /// Whether it is the first of its text: it looks into no cache.
        is_first: bool,
        /// As [`Step::Decode::visible`]: positions up to the end of the chunk are below.
        visible: usize,
    },
    /// One or more tokens of every slot.
    Decode {
        /// How many, one after the other.
        tokens: usize,
        /// Rows of layers without a window that are looked at: all positions of the texts are below. A multiple of the
        /// chunk, or at least the whole context.
        visible: usize,
    },
}

/// The inputs of [`prefill_func`] before the state, in order.
pub const PREFILL_INPUTS: [&str; 9] =
    ["tokens", "slot", "start", "count", "settings", "top_k", "seed", "wants_likeliest", "bias_row"];

/// The inputs of [`decode_func`] before the state, in order.
pub const DECODE_INPUTS: [&str; 6] = ["tokens", "positions", "settings", "top_k", "seed", "wants_likeliest"];

/// The numbers of a row of `settings`, in order: those of [`Rows`].
const SETTINGS: usize = 6;

/// The types of the state: `in_prompt`, `bias`, `generated`, then keys and values of each layer.
fn state_types(model: &Architecture, cache: &CacheShape) -> Vec<(String, TensorType)> {
    let counts = |dtype| TensorType::new(dtype, [cache.slots, model.vocab_size()]);
    let mut types = vec![
        ("in_prompt".to_owned(), counts(DType::Bool)),
        ("bias".to_owned(), counts(DType::F32)),
        ("generated".to_owned(), counts(DType::I32)),
    ];
    for (i, layer) in model.layers().iter().enumerate() {
        types.extend(["key", "value"].map(|name| (format!("cache.{i}.{name}"), cache.ty(layer))));
    }
    types
}

/// How many of the state's tensors [`decode_func`] only reads: `in_prompt` and `bias`.
const READ_ONLY: usize = 2;

/// How many of [`DECODE_INPUTS`], `tokens` and `positions`, are the first results of [`decode_func`], too.
const NEXT: usize = 2;

/// A function that takes a chunk of a text's prompt into its slot and draws the token behind it, and the weights it needs.
///
/// Parameters are [`PREFILL_INPUTS`], the state, and the weights:
/// - `tokens` `i32 1 T`, of which the first `count` (`i32`) stand at positions from `start` (`i32`) on;
/// - `slot` `i32`;
/// - `settings` `f32 1 6`: temperature, top-p, min-p, penalties for repetition, presence and frequency, as in [`Rows`];
///   `top_k` `i32 1`, `seed` `ui64 1`, `bias_row` `f32 1 V`; `wants_likeliest` `i1`;
/// - the state, which is donated: `in_prompt` `i1 S V`, `bias` `f32 S V`, `generated` `i32 S V`, and of every layer
///   `cache.i.key` and `cache.i.value`, `S K R H` (see [`CacheShape`]).
///
/// Results are the state after it, the token `i32 1`, its log-probability `f32 1`, the likeliest tokens `i32 1 L` and their
/// log-probabilities `f32 1 L` (zeros unless wanted). Only after the last chunk they mean anything.
///
/// # Panics
/// If the configuration is not valid, or `tokens` does not divide the chunk.
#[track_caller]
pub fn prefill_func(
    model: &Architecture,
    cache: &CacheShape,
    tokens: usize,
    is_first: bool,
    visible: usize,
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    assert!(tokens <= cache.chunk, "{tokens} tokens are more than a chunk of {}", cache.chunk);
    let vocab = model.vocab_size();
    let (int, ints) = (TensorType::scalar(DType::I32), TensorType::new(DType::I32, [1, tokens]));
    let types = [
        ints,
        int.clone(),
        int.clone(),
        int,
        TensorType::new(DType::F32, [1, SETTINGS]),
        TensorType::new(DType::I32, [1]),
        TensorType::new(DType::U64, [1]),
        TensorType::scalar(DType::Bool),
        TensorType::new(DType::F32, [1, vocab]),
    ];
    let state = state_types(model, cache);
    let inputs = PREFILL_INPUTS.into_iter().zip(types);
    let inputs: Vec<(&str, TensorType)> =
        inputs.chain(state.iter().map(|(name, ty)| (name.as_str(), ty.clone()))).collect();
    let (mut func, specs) = build_stored("prefill", compute, storage, &inputs, |scope, inputs| {
        prefill(scope, model, is_first, visible, inputs)
    });
    func.result_names = result_names(&state);
    (func, specs)
}

/// The body of [`prefill_func`].
#[track_caller]
fn prefill<'g>(
    scope: &Scope<'g>,
    model: &Architecture,
    is_first: bool,
    visible: usize,
    inputs: &[Value<'g>],
) -> Vec<Value<'g>> {
    let vocab = model.vocab_size();
    let (inputs, state) = inputs.split_at(PREFILL_INPUTS.len());
    for (i, &value) in state.iter().enumerate() {
        scope.builder().donate(value, i);
    }
    let &[tokens, slot, start, count, settings, top_k, seed, wants_likeliest, bias_row] = inputs else {
        unreachable!("as many inputs as names")
    };
    let [_, t] = tokens.dims();
    let b = scope.builder();
    let start = if is_first { None } else { Some(start) };
    let offsets = b.iota(&TensorType::new(DType::I32, [1, t]), 1);
    let positions = start.map_or(offsets, |start| offsets + start);
    let &[in_prompt, bias, generated, ref caches @ ..] = state else { unreachable!("the state begins with counts") };
    let cached = Cached {
        tokens: Tokens::Chunk { slot, start, count, positions },
        visible,
        layers: RefCell::new(pairs(caches)),
    };
    let hidden = model.hidden(scope, tokens, &cached);
    let [_, _, c] = hidden.dims();
    let zero = count.full_like(0.0);
    let last = hidden.dynamic_slice(&[zero, count - 1.0, zero], &[1, 1, c]).reshape(&[1, c]);
    let logits = model.head(scope, last);
    let row_of = |state: Value<'g>| state.dynamic_slice(&[slot, zero], &[1, vocab]);
    let (prompt_row, counts_row) = b.scope("counts", || {
        let is_token = offsets.less(count);
        let before = if is_first { row_of(in_prompt).full_like(0.0) } else { row_of(in_prompt) };
        let prompt_row = before.or(among(tokens.reshape(&[t]), is_token.reshape(&[t]), vocab));
        (prompt_row, row_of(generated).full_like(0.0))
    });
    let position = start.map_or(count, |start| start + count).reshape(&[1]);
    let rows = rows_of(settings, top_k, seed, position, [prompt_row, counts_row, bias_row]);
    let drawn = b.scope("sample", || rows.draw(logits, wants_likeliest));
    let put = |state: Value<'g>, row: Value<'g>| state.dynamic_update_slice(row, &[slot, zero]);
    let state = [put(in_prompt, prompt_row), put(bias, bias_row), put(generated, counts_row)];
    let caches = cached.layers.into_inner().into_iter().flatten();
    state.into_iter().chain(caches).chain(results_of(drawn)).collect()
}

/// A function that takes `steps` tokens of every slot, one after the other, each drawn by the model; and the weights it
/// needs.
///
/// Parameters are [`DECODE_INPUTS`], the state of [`prefill_func`], and the weights:
/// - `tokens` `i32 S`: the last token of each text, at `positions` `i32 S`, which are below 0 for slots without a text; both
///   are donated;
/// - `settings` `f32 S 6`, `top_k` `i32 S`, `seed` `ui64 S`, `wants_likeliest` `i1` as there.
///
/// Results are `tokens` and `positions` for the steps behind these, the state after them but for `in_prompt` and `bias`,
/// which are not donated, then of each step the tokens `i32 N S`, log-probabilities `f32 N S`, likeliest tokens `i32 N S L`
/// and their log-probabilities `f32 N S L`.
///
/// # Panics
/// If the configuration is not valid.
#[track_caller]
pub fn decode_func(
    model: &Architecture,
    cache: &CacheShape,
    steps: usize,
    visible: usize,
    compute: impl Into<Compute>,
    storage: &Storage,
) -> (Func, Params<ParamSpec>) {
    let slots = cache.slots;
    let ints = TensorType::new(DType::I32, [slots]);
    let types = [
        ints.clone(),
        ints.clone(),
        TensorType::new(DType::F32, [slots, SETTINGS]),
        ints,
        TensorType::new(DType::U64, [slots]),
        TensorType::scalar(DType::Bool),
    ];
    let state = state_types(model, cache);
    let inputs = DECODE_INPUTS.into_iter().zip(types);
    let inputs: Vec<(&str, TensorType)> =
        inputs.chain(state.iter().map(|(name, ty)| (name.as_str(), ty.clone()))).collect();
    let (mut func, specs) =
        build_stored("decode", compute, storage, &inputs, |scope, inputs| decode(scope, model, steps, visible, inputs));
    let next = DECODE_INPUTS[..NEXT].iter().map(|&name| name.to_owned());
    func.result_names = next.chain(result_names(&state[READ_ONLY..])).collect();
    (func, specs)
}

/// The body of [`decode_func`].
#[track_caller]
fn decode<'g>(
    scope: &Scope<'g>,
    model: &Architecture,
    steps: usize,
    visible: usize,
    inputs: &[Value<'g>],
) -> Vec<Value<'g>> {
    let (inputs, state) = inputs.split_at(DECODE_INPUTS.len());
    let (kept, changed) = state.split_at(READ_ONLY);
    for (i, &value) in inputs[..NEXT].iter().chain(changed).enumerate() {
        scope.builder().donate(value, i);
    }
    let &[tokens, positions, settings, top_k, seed, wants_likeliest] = inputs else {
        unreachable!("as many inputs as names")
    };
    let step = |carried: &[Value<'g>]| {
        let &[tokens, positions, generated, ref caches @ ..] = carried else { unreachable!("so it is carried") };
        let rows = |generated| rows_of(settings, top_k, seed, positions + 1.0, [kept[0], generated, kept[1]]);
        let (changed, drawn) =
            decode_step(scope, model, visible, [tokens, positions, generated], caches, &rows, wants_likeliest);
        let next = positions.less(positions.full_like(0.0)).select(positions, positions + 1.0);
        ([&[drawn.token, next], &changed[..]].concat(), results_of(drawn).to_vec())
    };
    let carried = [&[tokens, positions], changed].concat();
    let (carried, results) = if steps == 1 {
        let (carried, results) = step(&carried);
        let stacked = |x: Value<'g>| x.reshape(&[&[1], &x.shape()[..]].concat());
        (carried, results.into_iter().map(stacked).collect())
    } else {
        let scanned = scope.builder().scan(&carried, &[], steps, |carried, _| step(carried));
        (scanned.carries, scanned.stacked)
    };
    carried.into_iter().chain(results).collect()
}

/// One token of every slot: `generated` and the caches after it, and what was drawn.
#[track_caller]
fn decode_step<'g>(
    scope: &Scope<'g>,
    model: &Architecture,
    visible: usize,
    [tokens, positions, generated]: [Value<'g>; 3],
    caches: &[Value<'g>],
    rows: &dyn Fn(Value<'g>) -> Rows<'g>,
    wants_likeliest: Value<'g>,
) -> (Vec<Value<'g>>, Drawn<'g>) {
    let b = scope.builder();
    let ([slots], vocab) = (tokens.dims(), model.vocab_size());
    // The token that comes in was generated the step before.
    let generated = b.scope("counts", || {
        let is_text = positions.greater_equal(positions.full_like(0.0));
        let new = is_token(tokens, vocab).and(is_text.broadcast_in_dim(&[slots, vocab], &[0]));
        generated + new.convert(DType::I32)
    });
    let cached = Cached { tokens: Tokens::Each { positions }, visible, layers: RefCell::new(pairs(caches)) };
    let hidden = model.hidden(scope, tokens.reshape(&[slots, 1]), &cached);
    let logits = model.head(scope, hidden.reshape(&[slots, model.hidden_size()]));
    let drawn = b.scope("sample", || rows(generated).draw(logits, wants_likeliest));
    let caches = cached.layers.into_inner().into_iter().flatten();
    ([generated].into_iter().chain(caches).collect(), drawn)
}

/// Keys and values of each layer.
fn pairs<'g>(caches: &[Value<'g>]) -> Vec<[Value<'g>; 2]> {
    caches.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect()
}

/// The settings of rows from the inputs that hold them, and what the rows have seen.
#[track_caller]
fn rows_of<'g>(
    settings: Value<'g>,
    top_k: Value<'g>,
    seed: Value<'g>,
    position: Value<'g>,
    [in_prompt, generated, bias]: [Value<'g>; 3],
) -> Rows<'g> {
    let [batch, _] = settings.dims();
    let number = |i: usize| settings.slice_dim(1, i..i + 1).reshape(&[batch]);
    Rows {
        temperature: number(0),
        top_k,
        top_p: number(1),
        min_p: number(2),
        repetition_penalty: number(3),
        presence_penalty: number(4),
        frequency_penalty: number(5),
        in_prompt,
        generated,
        bias,
        seed,
        position,
    }
}

fn results_of(drawn: Drawn<'_>) -> [Value<'_>; 4] {
    [drawn.token, drawn.log_prob, drawn.likeliest, drawn.likeliest_log_probs]
}

fn result_names(state: &[(String, TensorType)]) -> Vec<String> {
    let drawn = ["token", "log_prob", "likeliest", "likeliest_log_probs"].map(str::to_owned);
    state.iter().map(|(name, _)| name.clone()).chain(drawn).collect()
}

/// Which of `vocab` tokens are among `tokens`, `i32 T`, where `counts`, `i1 T`, says that they count: `i1 1 V`.
#[track_caller]
fn among<'g>(tokens: Value<'g>, counts: Value<'g>, vocab: usize) -> Value<'g> {
    let b = tokens.builder();
    let [t] = tokens.dims();
    let index = counts.select(tokens, tokens.full_like(vocab as f64)).reshape(&[t, 1]);
    let none = b.full(&TensorType::new(DType::I32, [vocab]), 0.0);
    let attributes = Scatter {
        update_window_dims: vec![],
        inserted_window_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        indices_are_sorted: false,
        unique_indices: false,
        update_computation: ScatterOp::Add,
    };
    let times = none.scatter(index, tokens.full_like(1.0), attributes);
    times.greater(times.full_like(0.0)).reshape(&[1, vocab])
}
