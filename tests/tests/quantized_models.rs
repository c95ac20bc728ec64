//! Models with weights in few bits: what is saved is what was loaded, and what it computes is near what its floats compute.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lmc::engine::{Engine, EngineOptions, Request, Sampling};
use lmc::graph::DType;
use lmc::quantization::round::quantize;
use lmc::quantization::{Scheme, saving};
use lmc::{LoadOptions, Model, load};
use lmc_tests::source::workspace;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};

const CONFIG: &str = r#"{
    "model_type": "qwen3", "vocab_size": 384, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true
}"#;

/// Writes a folder with these weights, f32.
fn write(folder: &Path, config: &str, weights: &[(String, Vec<usize>, Vec<f32>)]) {
    fs::write(folder.join("config.json"), config).unwrap();
    let bytes: Vec<Vec<u8>> =
        weights.iter().map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = weights
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Weights by name.
type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Weights without a pattern.
fn random_weights(folder: &Path) -> Weights {
    let architecture = lmc::pretrained::config::architecture(folder, CONFIG).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let mut weights = Vec::new();
    for (path, spec) in architecture.specs().iter() {
        let is_norm = spec.ty.shape.len() == 1;
        let values = (0..spec.ty.num_elements()).map(|_| if is_norm { 1.0 } else { 0.2 * next() });
        weights.push((path.to_string(), spec.ty.shape.clone(), values.collect()));
    }
    weights
}

fn model(folder: &Path, quantize: Option<Scheme>) -> Arc<Model> {
    Arc::new(
        load(folder, &LoadOptions { quantize, ..LoadOptions::default() }).unwrap_or_else(|error| panic!("{error}")),
    )
}

const PROMPT: [u32; 9] = [5, 300, 7, 21, 9, 150, 2, 83, 44];

fn continuation(model: &Arc<Model>) -> Vec<u32> {
    let options = EngineOptions { max_context: Some(128), slots: 2, ..EngineOptions::default() };
    let mut engine = Engine::new(Arc::clone(model), &options).unwrap();
    let request =
        Request { prompt: PROMPT.to_vec(), max_tokens: 48, sampling: Sampling::greedy(), ..Request::default() };
    engine.complete(vec![request]).unwrap().remove(0).tokens
}

/// The difference of logits relative to the largest of them.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| if (a - b).abs() <= m { m } else { (a - b).abs() }) / scale
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_weights(folder.path());
    write(folder.path(), CONFIG, &weights);
    let exact = model(folder.path(), None);
    let logits: Vec<f32> = exact.logits(&PROMPT).unwrap().elements();
    for (bits, group_size, zeros) in [(8, 64, false), (8, 128, true), (4, 32, false), (4, 64, true)] {
        let scheme = Scheme { bits, group_size, zeros };
        let at_load = model(folder.path(), Some(scheme));
        let found: Vec<f32> = at_load.logits(&PROMPT).unwrap().elements();
        let off = difference(&found, &logits);
        println!("{scheme:?}: logits {off:.1e} of the largest apart, {} bytes", at_load.weight_bytes());
        // It is another model: that of the elements that the codes stand for.
        assert!(off > 1e-5, "{scheme:?}: {off}");
        let rounded = tempfile::tempdir().unwrap();
        let elements = weights.iter().map(|(name, shape, values)| {
            let quantization = scheme.quantization(DType::F32);
            let values = match shape[..] {
                [rows, columns] => quantize(values, rows, columns, quantization).elements(),
                _ => values.clone(),
            };
            (name.clone(), shape.clone(), values)
        });
        write(rounded.path(), CONFIG, &elements.collect::<Weights>());
        let expected: Vec<f32> = model(rounded.path(), None).logits(&PROMPT).unwrap().elements();
        let off = difference(&found, &expected);
        assert!(off < 1e-4, "{scheme:?}: {off}");
        assert!(at_load.weight_bytes() * u64::from(16 / bits) < exact.weight_bytes(), "{scheme:?}");
        let out = folder.path().join(format!("{bits}-{group_size}"));
        let saved = saving::save(folder.path(), &out, scheme).unwrap();
        assert!(saved.quantized == 15 && saved.bytes == at_load.weight_bytes(), "{saved:?}");
        let again = model(&out, None);
        assert_eq!(again.logits(&PROMPT).unwrap().elements::<f32>(), found, "{scheme:?}");
        assert_eq!(continuation(&again), continuation(&at_load), "{scheme:?}");
        let error = saving::save(folder.path(), &out, scheme).unwrap_err();
        assert!(error.message().contains("is there already"), "{error}");
        let error = saving::save(&out, &folder.path().join("twice"), scheme).unwrap_err();
        assert!(error.message().contains("quantized already"), "{error}");
    }
}

/// The logits of a file of llama.cpp's are those of its elements under Hugging Face's names.
#[test]
fn a_file_of_gguf() {
    let references = workspace().join("tests/references");
    let file = lmc::quantization::gguf::model::GgufFile::open(&references.join("quantized.gguf")).unwrap();
    let config = file.config().unwrap().to_string();
    let recorded: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(references.join("quantized.json")).unwrap()).unwrap();
    let architecture = lmc::pretrained::config::architecture(&references, &config).unwrap();
    let mut weights = Vec::new();
    for (path, spec) in architecture.specs().iter() {
        let values = recorded["file"][path].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32);
        weights.push((path.to_string(), spec.ty.shape.clone(), values.collect()));
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &config, &weights);
    fs::copy(references.join("quantized.gguf"), folder.path().join("model.gguf")).unwrap();
    let tokens = [1, 7, 3, 0, 6, 2];
    let expected: Vec<f32> = model(folder.path(), None).logits(&tokens).unwrap().elements();
    let found: Vec<f32> = model(&folder.path().join("model.gguf"), None).logits(&tokens).unwrap().elements();
    // Layers of a file in few bits compute in bf16.
    let off = difference(&found, &expected);
    assert!(off < 2e-2, "{off}");
}
