//! Models with weights in few bits: what is saved is what was loaded, and what it computes is near what its floats compute.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
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
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensors = weights.iter().map(|(name, shape, values)| (name.clone(), Dtype::F32, shape.clone(), bytes(values)));
    write_tensors(folder, config, &tensors.collect::<Vec<Tensor>>());
}

/// A tensor in a file: its name, type, shape and bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Writes a folder with these tensors.
fn write_tensors(folder: &Path, config: &str, tensors: &[Tensor]) {
    fs::write(folder.join("config.json"), config).unwrap();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// Numbers below 2^24 without a pattern.
fn numbers(mut state: u64) -> impl FnMut() -> u32 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u32
    }
}

/// Weights by name.
type Weights = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Weights without a pattern.
fn random_weights(folder: &Path) -> Weights {
    let architecture = lmc::pretrained::config::architecture(folder, CONFIG).unwrap();
    let mut numbers = numbers(0x9e37_79b9_7f4a_7c15);
    let mut next = || numbers() as f32 / 8_388_608.0 - 1.0;
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

/// Codes of `bits` bits along the rows of a matrix in words, the first lowest; `order[i]` is the code in place `i`.
fn words(codes: &[Vec<u32>], bits: u32, order: &[usize]) -> Vec<u8> {
    let word =
        |codes: &[u32]| order.iter().enumerate().fold(0u32, |word, (i, &at)| word | codes[at] << (bits * i as u32));
    codes.iter().flat_map(|row| row.chunks(order.len()).flat_map(move |codes| word(codes).to_le_bytes())).collect()
}

fn transposed<T: Copy>(rows: &[Vec<T>]) -> Vec<Vec<T>> {
    (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).collect()).collect()
}

/// A weight in another program's layout, made of random codes, scales and zeros, and its elements.
fn packed(layout: &str, name: &str, [out, input]: [usize; 2], seed: u64) -> (Vec<Tensor>, Vec<f32>) {
    const GROUP: usize = 32;
    let mut numbers = numbers(seed | 1);
    let (bits, is_mlx) = (if layout == "mlx8" { 8 } else { 4 }, layout.starts_with("mlx"));
    let groups = input / GROUP;
    let mut table = |width: usize, from: u32, to: u32| -> Vec<Vec<u32>> {
        (0..out).map(|_| (0..width).map(|_| from + numbers() % (to - from)).collect()).collect()
    };
    let (codes, zeros, steps) = (table(input, 0, 1 << bits), table(groups, 1, 16), table(groups, 1, 64));
    // What a half holds exactly.
    let scale = |o: usize, g: usize| f16::from_f32(steps[o][g] as f32 / (1 << (bits + 7)) as f32);
    let offset = |o: usize, g: usize| f16::from_f32(-(zeros[o][g] as f32) / 128.0);
    let element = |o: usize, i: usize| {
        let (code, scale, g) = (codes[o][i] as f32, scale(o, i / GROUP).to_f32(), i / GROUP);
        if is_mlx { scale * code + offset(o, g).to_f32() } else { scale * (code - zeros[o][g] as f32) }
    };
    let elements = (0..out).flat_map(|o| (0..input).map(move |i| (o, i))).map(|(o, i)| element(o, i)).collect();
    let stem = name.strip_suffix("weight").expect("a weight");
    let named =
        |ending: &str, dtype, shape: [usize; 2], bytes| (format!("{stem}{ending}"), dtype, shape.to_vec(), bytes);
    let halves = |rows: usize, columns: usize, of: &dyn Fn(usize, usize) -> f16| -> Vec<u8> {
        (0..rows).flat_map(|r| (0..columns).flat_map(move |c| of(r, c).to_le_bytes())).collect()
    };
    let straight = [0, 1, 2, 3, 4, 5, 6, 7];
    let awq = [0, 2, 4, 6, 1, 3, 5, 7];
    let scales = || named("scales", Dtype::F16, [groups, out], halves(groups, out, &|g, o| scale(o, g)));
    let tensors = match layout {
        "mlx4" | "mlx8" => vec![
            named("weight", Dtype::U32, [out, input * bits / 32], words(&codes, bits as u32, &straight[..32 / bits])),
            named("scales", Dtype::F16, [out, groups], halves(out, groups, &scale)),
            named("biases", Dtype::F16, [out, groups], halves(out, groups, &offset)),
        ],
        "awq" => vec![
            named("qweight", Dtype::I32, [input, out / 8], words(&transposed(&codes), 4, &awq)),
            scales(),
            named("qzeros", Dtype::I32, [groups, out / 8], words(&transposed(&zeros), 4, &awq)),
        ],
        _ => {
            let lower = u32::from(layout == "gptq");
            let zeros: Vec<Vec<u32>> = zeros.iter().map(|row| row.iter().map(|zero| zero - lower).collect()).collect();
            // Words of eight inputs each, side by side.
            let by_input = words(&codes, 4, &straight);
            let by_input: Vec<Vec<[u8; 4]>> =
                by_input.as_chunks::<4>().0.chunks(input / 8).map(<[[u8; 4]]>::to_vec).collect();
            let order = (0..input).flat_map(|i| ((i / GROUP) as i32).to_le_bytes()).collect();
            vec![
                named("qweight", Dtype::I32, [input / 8, out], transposed(&by_input).concat().concat()),
                scales(),
                named("qzeros", Dtype::I32, [groups, out / 8], words(&transposed(&zeros), 4, &straight)),
                (format!("{stem}g_idx"), Dtype::I32, vec![input], order),
            ]
        }
    };
    (tensors, elements)
}

/// Folders as MLX, GPTQ and AWQ write them have the logits of their elements.
#[test]
fn folders_of_other_programs() {
    let mlx = |bits: u32| format!(r#""quantization": {{"group_size": 32, "bits": {bits}}}"#);
    let other = |method: &str, more: &str| {
        format!(r#""quantization_config": {{"quant_method": "{method}", "bits": 4, "group_size": 32{more}}}"#)
    };
    for (layout, described) in [
        ("mlx4", mlx(4)),
        ("mlx8", mlx(8)),
        ("gptq", other("gptq", r#", "desc_act": false, "sym": true"#)),
        ("gptq_v2", other("gptq", r#", "checkpoint_format": "gptq_v2""#)),
        ("awq", other("awq", r#", "zero_point": true, "version": "gemm""#)),
    ] {
        let (folder, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut tensors, mut weights) = (Vec::<Tensor>::new(), Weights::new());
        for (i, (name, shape, values)) in random_weights(plain.path()).into_iter().enumerate() {
            // MLX packs the embedding, too; the others leave it as it is.
            let is_packed = shape.len() == 2 && (layout.starts_with("mlx") || !name.contains("embed"));
            let values = if is_packed {
                let (packed, elements) = packed(layout, &name, [shape[0], shape[1]], 77 + i as u64);
                tensors.extend(packed);
                elements
            } else {
                let values: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.push((name.clone(), Dtype::BF16, shape.clone(), bytes));
                values.iter().map(|x| x.to_f32()).collect()
            };
            weights.push((name, shape, values));
        }
        write(plain.path(), CONFIG, &weights);
        let config = CONFIG.trim_end().trim_end_matches('}').to_owned() + ", " + &described + "}";
        write_tensors(folder.path(), &config, &tensors);
        let (loaded, expected) = (model(folder.path(), None), model(plain.path(), None));
        assert!(3 * loaded.weight_bytes() < 2 * expected.weight_bytes(), "{layout}: weights are kept in few bits");
        let logits = |model: &Arc<Model>| model.logits(&PROMPT).unwrap().elements::<f32>();
        // Layers with weights in few bits compute in bf16.
        let off = difference(&logits(&loaded), &logits(&expected));
        println!("{layout}: logits {off:.1e} of the largest apart");
        assert!(off < 2e-2, "{layout}: {off}");
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
