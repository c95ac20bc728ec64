//! Checkpoints of every family against what `transformers` computed with them (`references/record_pretrained.py`): logits,
//! greedy continuations by the engine, and the engine against itself: cached against recomputed, texts beside each other
//! against each alone.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lmc::engine::{Engine, EngineOptions, Reason, Request, Sampling, SlotId};
use lmc::graph::DType;
use lmc::{LoadOptions, Model, load};
use lmc_tests::source::workspace;
use safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    workspace().join("tests/references/pretrained").join(name)
}

/// All families, each with two seeds or more, by the names of their folders.
fn names() -> Vec<String> {
    let entries = fs::read_dir(folder("")).expect("the references are there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names.len(), 16, "{names:?}");
    names
}

/// A model in f32.
fn model(name: &str) -> Arc<Model> {
    let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
    Arc::new(load(&folder(name), &options).unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// What is recorded of a model.
struct Reference {
    tokens: Vec<u32>,
    logits: Vec<f32>,
    continuation: Vec<u32>,
}

/// How many tokens of a reference are continued.
const PROMPT: usize = 20;

fn reference(name: &str) -> Reference {
    let bytes = fs::read(folder(name).join("reference.safetensors")).expect("a reference");
    let file = SafeTensors::deserialize(&bytes).expect("a reference is whole");
    let words = |tensor: &str| -> Vec<[u8; 4]> {
        let view = file.tensor(tensor).unwrap_or_else(|error| panic!("{name}: {error}"));
        view.data().chunks_exact(4).map(|x| [x[0], x[1], x[2], x[3]]).collect()
    };
    Reference {
        tokens: words("tokens").into_iter().map(u32::from_le_bytes).collect(),
        logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
        continuation: words("continuation").into_iter().map(u32::from_le_bytes).collect(),
    }
}

/// An engine with chunks of 16 tokens, so that prompts take several.
fn engine(model: &Arc<Model>, slots: usize, launch_tokens: usize) -> Engine {
    let (max_context, launch_tokens) = (Some(100), Some(launch_tokens));
    let options = EngineOptions { max_context, slots, launch_tokens, chunk: Some(16), ..Default::default() };
    Engine::new(Arc::clone(model), &options).unwrap_or_else(|error| panic!("{error}"))
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_tokens, sampling: Sampling::greedy(), ..Request::default() }
}

fn one(engine: &mut Engine, request: Request) -> Vec<u32> {
    engine.complete(vec![request]).unwrap_or_else(|error| panic!("{error}")).remove(0).tokens
}

#[test]
fn logits_are_those_of_transformers() {
    for name in names() {
        let (model, reference) = (model(&name), reference(&name));
        let found: Vec<f32> = model.logits(&reference.tokens).unwrap_or_else(|e| panic!("{name}: {e}")).elements();
        assert_eq!(found.len(), reference.logits.len(), "{name}");
        let scale = reference.logits.iter().fold(0_f32, |max, x| max.max(x.abs()));
        let pairs = found.iter().zip(&reference.logits);
        let difference = pairs.map(|(x, y)| (x - y).abs()).fold(0_f32, f32::max);
        println!("{name}: logits up to {scale}, differences up to {:e} of it", difference / scale);
        // A NaN is not near.
        assert!(difference <= 1e-3 * scale, "{name}: {difference} apart, of {scale}");
        assert!(found.iter().all(|x| x.is_finite()), "{name}");
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for name in names() {
        let (model, reference) = (model(&name), reference(&name));
        // Several tokens a launch once a family.
        let launches: &[usize] = if name.ends_with("-0") { &[1, 4] } else { &[1] };
        for &launch_tokens in launches {
            let mut engine = engine(&model, 1, launch_tokens);
            let found = one(&mut engine, greedy(&reference.tokens[..PROMPT], reference.continuation.len()));
            assert_eq!(found, reference.continuation, "{name}, {launch_tokens} tokens a launch");
        }
    }
}

/// Keys and values come from a cache that turns over, or are computed anew: at every step, the same log-probabilities.
#[test]
fn cached_is_recomputed() {
    for name in names() {
        let (model, reference) = (model(&name), reference(&name));
        let mut engine = engine(&model, 2, 1);
        let request = Request { logprobs: Some(20), ..greedy(&reference.tokens[..PROMPT], 64) };
        engine.add(request).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut steps = Vec::new();
        while engine.is_busy() {
            steps.extend(engine.step().unwrap_or_else(|error| panic!("{name}: {error}")));
        }
        assert_eq!(steps.len(), 64);
        let text = reference.tokens[..PROMPT].iter().copied().chain(steps.iter().map(|emitted| emitted.token));
        let text: Vec<u32> = text.collect();
        // A position sees none behind it: its logits in the whole text are those behind the text up to it.
        let logits: Vec<f32> = model.logits(&text).unwrap_or_else(|e| panic!("{name}: {e}")).elements();
        let vocabulary = logits.len() / text.len();
        for (at, emitted) in (PROMPT - 1..).zip(&steps) {
            let logprobs = emitted.logprobs.as_ref().expect("they were asked for");
            assert_eq!(logprobs.likeliest.len(), 20);
            let row: Vec<f64> = logits[at * vocabulary..][..vocabulary].iter().map(|&x| f64::from(x)).collect();
            let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - greatest).exp()).sum();
            let all = logprobs.likeliest.iter().copied().chain([(emitted.token, logprobs.token)]);
            for (token, log_prob) in all {
                let expected = row[token as usize] - greatest - sum.ln();
                let difference = (f64::from(log_prob) - expected).abs();
                assert!(difference < 1e-4, "{name} at {at}: {log_prob}, recomputed {expected}");
            }
            assert!(logprobs.likeliest.is_sorted_by(|x, y| x.1 >= y.1));
        }
    }
}

/// The model of the tests that are about the engine, with a sliding window.
fn shared() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| model("gemma2-0"))
}

fn mixed_requests() -> Vec<Request> {
    let tokens = reference("gemma2-0").tokens;
    let request = |length: usize, max_tokens: usize, sampling: Sampling| Request {
        prompt: tokens[..length].to_vec(),
        max_tokens,
        sampling,
        ..Request::default()
    };
    let drawn = |seed| Sampling { seed, ..Sampling::default() };
    vec![
        request(1, 30, drawn(1)),
        request(40, 12, Sampling { top_k: 5, temperature: 0.7, ..drawn(2) }),
        request(17, 50, Sampling::greedy()),
        request(17, 20, Sampling { repetition_penalty: 1.5, top_p: 0.9, ..drawn(3) }),
        request(33, 1, drawn(4)),
        request(16, 45, Sampling { frequency_penalty: 0.5, presence_penalty: 0.5, min_p: 0.05, ..drawn(5) }),
        request(2, 60, Sampling { logit_bias: vec![(7, 5.0), (9, -100.0)], ..drawn(6) }),
    ]
}

#[test]
fn texts_beside_each_other_are_each_alone() {
    let requests = mixed_requests();
    let mut batch = engine(shared(), 3, 1);
    let together = batch.complete(requests.clone()).unwrap_or_else(|error| panic!("{error}"));
    for (request, together) in requests.into_iter().zip(&together) {
        let mut alone = engine(shared(), 1, 1);
        assert_eq!(one(&mut alone, request.clone()), together.tokens, "{request:?}");
        let mut several = engine(shared(), 3, 4);
        assert_eq!(one(&mut several, request.clone()), together.tokens, "{request:?}, four a launch");
        assert_eq!(together.tokens.len(), request.max_tokens);
    }
}

/// Texts are added, cancelled and ended by stop tokens between launches in every order; each has the tokens it has alone.
#[test]
fn texts_come_and_go() {
    let mut requests = mixed_requests();
    // The only token of a text leaves its slot before it is handed out.
    requests.retain(|request| request.max_tokens > 1);
    let mut single = engine(shared(), 1, 1);
    let mut expected: Vec<Vec<u32>> = Vec::new();
    for (i, request) in requests.iter_mut().enumerate() {
        let alone = one(&mut single, request.clone());
        // Every other ends where its tenth token first stands.
        if let Some(&stop) = alone.get(9).filter(|_| i % 2 == 1) {
            request.stop_tokens = vec![stop];
            let end = alone.iter().position(|&token| token == stop).map_or(alone.len(), |at| at + 1);
            expected.push(alone[..end].to_vec());
        } else {
            expected.push(alone);
        }
    }
    for launch_tokens in [1, 3] {
        let mut engine = engine(shared(), 2, launch_tokens);
        let mut running: HashMap<SlotId, (usize, Vec<u32>)> = HashMap::new();
        let (mut state, mut ended, mut cancelled) = (launch_tokens as u64, 0, 0);
        for _ in 0..400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 33) as usize;
            if number.is_multiple_of(4) && engine.free_slots() > 0 {
                let which = number / 4 % requests.len();
                let slot = engine.add(requests[which].clone()).unwrap_or_else(|error| panic!("{error}"));
                assert!(running.insert(slot, (which, Vec::new())).is_none());
            } else if number % 29 == 1 && !running.is_empty() {
                let slot = *running.keys().min().expect("there is one");
                engine.cancel(slot);
                running.remove(&slot);
                cancelled += 1;
            } else {
                for emitted in engine.step().unwrap_or_else(|error| panic!("{error}")) {
                    let (which, tokens) = running.get_mut(&emitted.slot).expect("its text runs");
                    tokens.push(emitted.token);
                    assert_eq!(tokens[..], expected[*which][..tokens.len()], "{:?}", requests[*which]);
                    if emitted.finished.is_some() {
                        assert_eq!(tokens.len(), expected[*which].len());
                        running.remove(&emitted.slot);
                        ended += 1;
                    }
                }
            }
        }
        assert!(ended > 5 && cancelled > 3, "{ended} ended, {cancelled} were cancelled");
    }
}

#[test]
fn the_seed_decides() {
    let prompt = reference("gemma2-0").tokens[..10].to_vec();
    let mut engine = engine(shared(), 1, 1);
    let mut draw = |seed| {
        let sampling = Sampling { seed, ..Sampling::default() };
        one(&mut engine, Request { prompt: prompt.clone(), max_tokens: 30, sampling, ..Request::default() })
    };
    let first = draw(1);
    assert_eq!(draw(1), first);
    assert_ne!(draw(2), first);
}

#[test]
fn nothing_is_compiled_while_generating() {
    let model = model("qwen3-0");
    let mut engine = engine(&model, 2, 1);
    engine.prepare().unwrap_or_else(|error| panic!("{error}"));
    let before = engine.figures().compilations;
    assert!(before >= 3, "{before}");
    let tokens = reference("qwen3-0").tokens;
    let requests = (1..=60).step_by(7).map(|length| greedy(&tokens[..length], 30));
    engine.complete(requests.collect()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(engine.figures().compilations, before);
    let figures = engine.figures();
    assert_eq!(figures.prefill_tokens, (1..=60).step_by(7).sum::<usize>() as u64);
    assert!(figures.decode_rate() > 0.0 && figures.prefill_rate() > 0.0);
}

#[test]
fn programs_are_compiled_once_by_threads_that_prepare_at_once() {
    let model = model("llama-0");
    let engine = || engine(&model, 2, 2);
    let engines: Vec<Engine> = (0..3).map(|_| engine()).collect();
    std::thread::scope(|scope| {
        for engine in &engines {
            scope.spawn(|| engine.prepare().unwrap_or_else(|error| panic!("{error}")));
        }
    });
    // A first chunk, one of those behind it, and a step of one token and of two.
    assert_eq!(model.compilations(), 4);
    engine().prepare().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.compilations(), 4);
}

#[test]
fn texts_end_where_they_are_told() {
    let reference = reference("gemma2-0");
    let mut engine = engine(shared(), 2, 1);
    let prompt = &reference.tokens[..PROMPT];
    let stop = reference.continuation[5];
    let first = reference.continuation.iter().position(|&token| token == stop).expect("it is there");
    let stopped = Request { stop_tokens: vec![stop], ..greedy(prompt, 64) };
    let done = engine.complete(vec![stopped]).unwrap_or_else(|error| panic!("{error}")).remove(0);
    assert_eq!((done.tokens.as_slice(), done.finished), (&reference.continuation[..=first], Reason::StopToken));
    // The context is 100.
    let done =
        engine.complete(vec![greedy(&reference.tokens, 1000)]).unwrap_or_else(|error| panic!("{error}")).remove(0);
    assert_eq!((done.tokens.len(), done.finished), (36, Reason::Length));
    // A cancelled text leaves its slot, and nothing behind.
    let slot = engine.add(greedy(prompt, 64)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((engine.free_slots(), engine.is_busy()), (1, true));
    engine.cancel(slot);
    assert_eq!((engine.free_slots(), engine.is_busy()), (2, false));
    assert_eq!(one(&mut engine, greedy(prompt, 64)), reference.continuation);
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let mut engine = engine(shared(), 1, 1);
    let tokens = reference("gemma2-0").tokens;
    let long: Vec<u32> = tokens.iter().copied().cycle().take(100).collect();
    let with = |sampling: Sampling| Request { sampling, ..greedy(&tokens[..3], 5) };
    let any = Sampling::default;
    for (request, expected) in [
        (greedy(&[], 5), "at least one token"),
        (greedy(&[64], 5), "token 64 is none of the model's 64"),
        (greedy(&tokens[..3], 0), "max_tokens = 0"),
        (greedy(&long, 5), "the prompt has 100 tokens, and the context is 100"),
        (with(Sampling { temperature: f32::NAN, ..any() }), "temperature must be 0 or more, found NaN"),
        (with(Sampling { top_p: 0.0, ..any() }), "top_p must be above 0"),
        (with(Sampling { min_p: 2.0, ..any() }), "min_p must be from 0 to 1, found 2"),
        (with(Sampling { repetition_penalty: 0.0, ..any() }), "repetition_penalty must be above 0"),
        (with(Sampling { logit_bias: vec![(64, 1.0)], ..any() }), "logit_bias names token 64"),
        (Request { logprobs: Some(21), ..greedy(&tokens, 1) }, "at most 20"),
    ] {
        let error = engine.add(request).expect_err(expected);
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    for (options, expected) in [
        (EngineOptions { slots: 0, ..Default::default() }, "slots"),
        (EngineOptions { max_context: Some(129), ..Default::default() }, "a context is from 2 to 128"),
        (EngineOptions { launch_tokens: Some(0), ..Default::default() }, "tokens of a launch"),
        (
            EngineOptions { max_context: Some(100), cache_budget: Some(1000), ..Default::default() },
            "the budget is 1.0 kB",
        ),
    ] {
        let error = Engine::new(Arc::clone(shared()), &options).expect_err(expected);
        assert!(error.message().contains(expected), "{error}");
    }
    let budget = EngineOptions { cache_budget: Some(30_000), ..Default::default() };
    let smaller = Engine::new(Arc::clone(shared()), &budget).unwrap_or_else(|error| panic!("{error}"));
    assert!(smaller.max_context() < 128 && smaller.figures().cache_bytes <= 30_000);
}

#[test]
fn texts_are_scored() {
    let model = shared();
    let tokens = reference("gemma2-0").tokens;
    let log_probs = model.log_probs(&tokens).unwrap_or_else(|error| panic!("{error}"));
    let logits: Vec<f32> = model.logits(&tokens).unwrap_or_else(|error| panic!("{error}")).elements();
    for (i, &found) in log_probs.iter().enumerate() {
        let row = &logits[i * 64..(i + 1) * 64];
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let expected = f64::from(row[tokens[i + 1] as usize]) - sum.ln();
        assert!((f64::from(found) - expected).abs() < 1e-4, "{i}: {found}, not {expected}");
    }
    let mean = -log_probs.iter().map(|&x| f64::from(x)).sum::<f64>() / 63.0;
    let whole = model.perplexity(&tokens, 64, 32).unwrap_or_else(|error| panic!("{error}"));
    assert!((whole.loss - mean).abs() < 1e-6 && whole.tokens == 63, "{whole:?}, not {mean}");
    // In windows of 32 of which 16 are new, the first 31 and then 16 a window.
    let windowed = model.perplexity(&tokens, 32, 16).unwrap_or_else(|error| panic!("{error}"));
    let parts = [0, 16, 32].map(|start| model.log_probs(&tokens[start..start + 32]).expect("they fit"));
    let sum: f32 = parts[0].iter().chain(&parts[1][15..]).chain(&parts[2][15..]).sum();
    assert!((windowed.loss + f64::from(sum) / 63.0).abs() < 1e-6);

    let (embedding, padded) = (model.embeddings(&tokens[..20]), model.embeddings(&tokens[..16]));
    let embedding = embedding.unwrap_or_else(|error| panic!("{error}"));
    let length: f32 = embedding.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5 && embedding.len() == 16);
    assert_ne!(embedding, padded.unwrap_or_else(|error| panic!("{error}")));

    let labels = [tokens[21..23].to_vec(), tokens[23..24].to_vec()];
    let classified = model.classify(&[tokens[..20].to_vec()], &labels).unwrap_or_else(|error| panic!("{error}"));
    let score = |label: &Vec<u32>| -> f64 {
        let all = model.log_probs(&[&tokens[..20], label].concat()).expect("they fit");
        all[19..].iter().map(|&x| f64::from(x)).sum()
    };
    let share = 1.0 / (1.0 + (score(&labels[1]) - score(&labels[0])).exp());
    let (best, shares) = &classified[0];
    assert!((shares[0] - share).abs() < 1e-9 && *best == usize::from(share < 0.5), "{classified:?}, {share}");
}

/// What attention sees weighs values to the attention's output; without values at hand, rows are distributions over the
/// positions that the mask leaves.
#[test]
fn attention_is_shown() {
    let tokens = reference("gemma2-0").tokens;
    let shown = shared().inspect_attention(&tokens[..20], &[0, 1]).unwrap_or_else(|error| panic!("{error}"));
    for (attention, window) in shown.iter().zip([8, usize::MAX]) {
        assert_eq!(
            (&attention.keys.ty().shape[..], &attention.weights.ty().shape[..]),
            (&[20, 2, 8][..], &[4, 20, 20][..])
        );
        let weights: Vec<f32> = attention.weights.elements();
        for (row, weights) in weights.chunks_exact(20).enumerate() {
            let query = row % 20;
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            for (key, &weight) in weights.iter().enumerate() {
                assert_eq!(weight > 0.0, key <= query && query - key < window, "{query} sees {key}: {weight}");
            }
        }
    }
}

/// A checkpoint of text and images is read for its text, whatever prefix its names have.
#[test]
fn the_text_of_a_larger_model_is_read() {
    let reference = reference("gemma3_text-0");
    for prefix in ["model.language_model.", "language_model.model."] {
        let copy = tempfile::tempdir().expect("a folder");
        let config = fs::read_to_string(folder("gemma3_text-0").join("config.json")).expect("a config");
        let config = format!("{{\"model_type\": \"gemma3\", \"text_config\": {config}}}");
        fs::write(copy.path().join("config.json"), config).expect("written");
        rename_tensors(&folder("gemma3_text-0"), copy.path(), |name| name.replacen("model.", prefix, 1));
        let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
        let model = Arc::new(load(copy.path(), &options).unwrap_or_else(|error| panic!("{prefix}: {error}")));
        let found = one(&mut engine(&model, 1, 1), greedy(&reference.tokens[..PROMPT], 64));
        assert_eq!(found, reference.continuation, "{prefix}");
    }
}

fn rename_tensors(from: &Path, to: &Path, rename: impl Fn(&str) -> String) {
    let bytes = fs::read(from.join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("weights are whole");
    let mut tensors: Vec<(String, safetensors::tensor::TensorView<'_>)> =
        file.tensors().into_iter().map(|(name, view)| (rename(&name), view)).collect();
    let image = [0_u8; 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &image).expect("a tensor");
    tensors.push(("vision_tower.weight".to_owned(), view));
    safetensors::serialize_to_file(tensors, None, &to.join("model.safetensors")).expect("written");
}
