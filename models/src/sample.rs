//! Generation: one function that extends sequences token by token.

use lmc_graph::ops::{RngAlgorithm, SortDirection};
use lmc_graph::{Builder, DType, Func, TensorType, Value};

use crate::architectures::ModelConfig;
use crate::compute::{Compute, Layers, Remat};
use crate::loss::build;
use crate::params::{ParamSpec, Params};

/// The sizes of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GenerateShape {
    /// Sequences that are extended side by side.
    pub batch: usize,
    /// Tokens that the model sees: the longest prompt. A longer text is seen from its end.
    pub context: usize,
    /// Tokens that are appended to each sequence.
    pub max_new_tokens: usize,
}

/// The parameters of [`generate_func`] after the weights: names, in order.
pub const GENERATE_INPUTS: [&str; 6] = ["tokens", "length", "key", "temperature", "top_k", "top_p"];

/// A function that extends prompts, and its weights.
///
/// Parameters are the weights, then:
/// - `tokens`, `i32[batch, context]`: the prompts, from the left; what comes after `length` is not seen;
/// - `length`, `i32[]`: the length of every prompt, 1 to `context`;
/// - `key`, `ui64[2]`: a state of Threefry, such as `[seed, 0]`; the same key gives the same tokens;
/// - `temperature`, `f32[]`: what logits are divided by; 0 takes the most likely token, without chance;
/// - `top_k`, `i32[]`: only this many most likely tokens, and those as likely as the last of them; 0 for all;
/// - `top_p`, `f32[]`: of these, the fewest most likely whose probabilities together reach this; 1 for all.
///
/// The result is `i32[batch, max_new_tokens]`. Settings are parameters, so that one executable serves all of them. There
/// is no cache of keys and values: every token costs a pass over the whole window.
///
/// # Panics
/// If the configuration is not valid or `context` is longer than the model takes.
#[track_caller]
pub fn generate_func(
    model: &ModelConfig,
    shape: GenerateShape,
    compute: impl Into<Compute>,
) -> (Func, Params<ParamSpec>) {
    let GenerateShape { batch, context, max_new_tokens } = shape;
    let window = TensorType::new(DType::I32, [batch, context]);
    let scalar = TensorType::scalar;
    // Without a backward pass there is nothing to recompute, and parameters would be stacked anew for every token. A text
    // is one document.
    let compute = Compute { remat: Remat::None, layers: Layers::Unroll, documents: None, ..compute.into() };
    let (next_logits, specs) = next_logits_func(model, &window, compute);
    let mut func = Builder::build("generate", |b| {
        let weights: Vec<Value<'_>> = specs.iter().map(|(path, spec)| b.param(path, spec.ty.clone())).collect();
        let types = [
            window,
            scalar(DType::I32),
            TensorType::new(DType::U64, [2]),
            scalar(DType::F32),
            scalar(DType::I32),
            scalar(DType::F32),
        ];
        let [tokens, length, key, temperature, top_k, top_p] = {
            let mut params = GENERATE_INPUTS.into_iter().zip(types).map(|(name, ty)| b.param(name, ty));
            std::array::from_fn(|_| params.next().expect("as many types as names"))
        };
        let sampling = Sampling { temperature, top_k, top_p };
        let scanned = b.scan(&[tokens, length, key], &[], max_new_tokens, |state, _| {
            let [tokens, length, key] = [state[0], state[1], state[2]];
            let inputs = [&[tokens, length - 1.0], &weights[..]].concat();
            let logits = b.call(&next_logits, &inputs)[0];
            let (key, next) = b.scope("sample", || sampling.sample(logits, key));
            let (tokens, length) = b.scope("append", || append(tokens, length, next));
            (vec![tokens, length, key], vec![next])
        });
        vec![scanned.stacked[0].transpose(&[1, 0])]
    });
    func.result_names = vec!["new_tokens".into()];
    (func, specs)
}

/// The logits after one position: `tokens` `i32 B T`, `position` `i32[]` and weights to `f32 B V`.
fn next_logits_func(
    model: &ModelConfig,
    window: &TensorType,
    compute: impl Into<Compute>,
) -> (Func, Params<ParamSpec>) {
    let inputs = [("tokens", window.clone()), ("position", TensorType::scalar(DType::I32))];
    build("next_logits", compute, &inputs, |scope, inputs| {
        let hidden = model.hidden(scope, inputs[0]);
        let [b, _, c] = hidden.dims();
        let zero = inputs[1].full_like(0.0);
        let last = hidden.dynamic_slice(&[zero, inputs[1], zero], &[b, 1, c]).reshape(&[b, c]);
        vec![model.head(scope, last)]
    })
}

/// A window `B T` of which `length` positions are filled, with one token more; a full window loses its first.
fn append<'g>(tokens: Value<'g>, length: Value<'g>, next: Value<'g>) -> (Value<'g>, Value<'g>) {
    let b = tokens.builder();
    let [batch, context] = tokens.dims();
    let limit = b.scalar(DType::I32, context as f64);
    let shifted = b.concatenate(&[tokens.slice_dim(1, 1..context), tokens.slice_dim(1, 0..1)], 1);
    let tokens = length.greater_equal(limit).select(shifted, tokens);
    let position = length.minimum(limit - 1.0);
    let tokens = tokens.dynamic_update_slice(next.reshape(&[batch, 1]), &[position.full_like(0.0), position]);
    (tokens, (length + 1.0).minimum(limit))
}

/// How a token is drawn.
#[derive(Clone, Copy)]
struct Sampling<'g> {
    temperature: Value<'g>,
    top_k: Value<'g>,
    top_p: Value<'g>,
}

impl<'g> Sampling<'g> {
    /// A token for each row of `f32 B V` logits, and the state of the generator after it.
    fn sample(self, logits: Value<'g>, key: Value<'g>) -> (Value<'g>, Value<'g>) {
        let Sampling { temperature, .. } = self;
        let is_random = temperature.greater(temperature.full_like(0.0));
        let logits = logits / is_random.select(temperature, temperature.full_like(1.0));
        let allowed = logits.greater_equal(self.threshold(logits));
        let (key, noise) = gumbel(key, &logits.ty());
        // The greatest of logits with independent Gumbel noise is each token with its softmax probability (Gumbel 1954;
        // Maddison et al. 2014, section 2).
        let noise = is_random.select(noise, noise.full_like(0.0));
        let scores = allowed.select(logits + noise, logits.full_like(EXCLUDED));
        (key, scores.argmax(1, DType::I32))
    }

    /// The least logit of each row that top-k and top-p allow, `f32 B 1`.
    fn threshold(self, logits: Value<'g>) -> Value<'g> {
        let b = logits.builder();
        let [batch, vocab] = logits.dims();
        let Sampling { top_k, top_p, .. } = self;
        let all = top_k.full_like(vocab as f64);
        let top_k = top_k.greater(top_k.full_like(0.0)).select(top_k.minimum(all), all);
        let restricts_p = top_p.less(top_p.full_like(1.0));
        // Sorting a whole vocabulary takes long, so it is done only if it decides anything.
        let threshold = b.if_else(
            top_k.less(all).or(restricts_p),
            || {
                let sorted = logits.sort(1, SortDirection::Descending);
                let in_k = b.iota(&TensorType::new(DType::I32, [batch, vocab]), 1).less(top_k);
                let weight = (sorted - sorted.slice_dim(1, 0..1)).exp();
                let weight = in_k.select(weight, weight.full_like(0.0));
                let probability = weight / weight.sum(&[1]).reshape(&[batch, 1]);
                let before = probability.cumulative_sum(1) - probability;
                // The most likely token is always allowed: nothing is before it.
                let in_p = before.less_equal(before.full_like(0.0)).or(before.less(top_p));
                let allowed = in_k.and(in_p.or(restricts_p.logical_not().broadcast_in_dim(&[batch, vocab], &[])));
                vec![allowed.select(sorted, sorted.full_like(-EXCLUDED)).min(&[1]).reshape(&[batch, 1])]
            },
            || vec![b.full(&TensorType::new(DType::F32, [batch, 1]), EXCLUDED)],
        );
        threshold[0]
    }
}

/// Below every logit: the score of a token that may not be drawn.
const EXCLUDED: f64 = -3e38;

/// Independent noise with the density `e^(-x - e^-x)`, and the state of the generator after it.
fn gumbel<'g>(key: Value<'g>, ty: &TensorType) -> (Value<'g>, Value<'g>) {
    let (key, bits) = key.rng_bit_generator(RngAlgorithm::ThreeFry, ty.with_dtype(DType::U32));
    // The middles of 2^23 equal parts of (0, 1): neither 0 nor 1, and each exact in f32.
    let uniform = bits.shift_right_logical(bits.full_like(9.0)).convert(DType::F32) * 2f64.powi(-23) + 2f64.powi(-24);
    (key, -(-uniform.log()).log())
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, eval};

    use super::*;
    use crate::architectures::gpt2::Gpt2Config;
    use crate::compute::Precision;
    use crate::init::initialize;

    /// Tokens drawn for `rows` equal rows of logits.
    fn draw(row: &[f32], rows: usize, temperature: f32, top_k: i32, top_p: f32) -> Vec<i32> {
        let func = Builder::build("draw", |b| {
            let logits = b.param("logits", TensorType::new(DType::F32, [rows, row.len()]));
            let key = b.param("key", TensorType::new(DType::U64, [2]));
            let [temperature, top_p] =
                ["temperature", "top_p"].map(|name| b.param(name, TensorType::scalar(DType::F32)));
            let top_k = b.param("top_k", TensorType::scalar(DType::I32));
            let (_, tokens) = Sampling { temperature, top_k, top_p }.sample(logits, key);
            vec![tokens]
        });
        let args = [
            Literal::new([rows, row.len()], &row.repeat(rows)),
            Literal::new([2], &[42u64, 0]),
            Literal::scalar(temperature),
            Literal::scalar(top_p),
            Literal::scalar(top_k),
        ];
        eval(&func, &args).expect("the arguments fit")[0].elements()
    }

    #[test]
    fn tokens_have_their_probabilities() {
        const ROWS: usize = 2000;
        // Probabilities 0.1, 0.4, 0.3, 0.2 at temperature 1.
        let row = [0.1f32, 0.4, 0.3, 0.2].map(f32::ln);
        let check = |temperature: f32, top_k: i32, top_p: f32, expected: [f64; 4]| {
            let tokens = draw(&row, ROWS, temperature, top_k, top_p);
            for (token, p) in expected.into_iter().enumerate() {
                let share = tokens.iter().filter(|&&found| found == token as i32).count() as f64 / ROWS as f64;
                // 4 standard errors of a share; a probability of 0 or 1 is exact.
                let tolerance = 4.0 * (p * (1.0 - p) / ROWS as f64).sqrt();
                assert!(
                    (share - p).abs() <= tolerance,
                    "T {temperature} k {top_k} p {top_p}: {token} in {share}, not {p}"
                );
            }
        };
        check(1.0, 0, 1.0, [0.1, 0.4, 0.3, 0.2]);
        check(1.0, 9, 1.0, [0.1, 0.4, 0.3, 0.2]);
        // Squares of the probabilities, normalized.
        check(0.5, 0, 1.0, [0.01 / 0.3, 0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3]);
        check(1.0, 2, 1.0, [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
        check(1.0, 0, 0.5, [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
        check(1.0, 0, 0.8, [0.0, 4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0]);
        // Of the two that top-k leaves, the first has 4/7 of the probability.
        check(1.0, 2, 0.5, [0.0, 1.0, 0.0, 0.0]);
        check(1.0, 0, 0.0, [0.0, 1.0, 0.0, 0.0]);
        check(1.0, 1, 1.0, [0.0, 1.0, 0.0, 0.0]);
        check(0.0, 0, 1.0, [0.0, 1.0, 0.0, 0.0]);
    }

    /// What generation without chance gives is the most likely token after each text, computed by the model itself on
    /// the window alone.
    #[test]
    fn the_window_follows_the_text() {
        const CONTEXT: usize = 4;
        const NEW: usize = 6;
        let config = Gpt2Config { initializer_range: 0.5, ..Gpt2Config::new(7, CONTEXT, 8, 1, 2) };
        let model = ModelConfig::Gpt2(config);
        let shape = GenerateShape { batch: 2, context: CONTEXT, max_new_tokens: NEW };
        let (func, specs) = generate_func(&model, shape, Precision::Float32);
        let weights: Vec<Literal> = initialize(&specs, 3).into_values().collect();
        let prompts = [[3, 1], [5, 2]];
        let tokens: Vec<i32> = prompts.iter().flat_map(|prompt| [prompt[0], prompt[1], 6, 6]).collect();
        let mut args = weights.clone();
        args.extend([Literal::new([2, CONTEXT], &tokens), Literal::scalar(2i32), Literal::new([2], &[1u64, 0])]);
        args.extend([Literal::scalar(0f32), Literal::scalar(0i32), Literal::scalar(1f32)]);
        let found = eval(&func, &args).expect("the arguments fit")[0].elements::<i32>();
        for (prompt, found) in prompts.iter().zip(found.chunks(NEW)) {
            let mut text = prompt.to_vec();
            for _ in 0..NEW {
                let window = &text[text.len().saturating_sub(CONTEXT)..];
                let (func, _) = crate::loss::logits_func(&model, 1, window.len(), Precision::Float32);
                let args = [&[Literal::new([1, window.len()], window)], &weights[..]].concat();
                let logits = eval(&func, &args).expect("the arguments fit")[0].to_f64s();
                let last = &logits[logits.len() - 7..];
                let best = (0..7).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap_or_default();
                text.push(best as i32);
            }
            assert_eq!(found, &text[prompt.len()..]);
        }
    }
}
