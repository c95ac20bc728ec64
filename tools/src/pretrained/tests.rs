//! Folders that are read, and such as are refused, with what.

use std::fs;
use std::path::Path;

use lmc_models::architectures::decoder::DecoderConfig;
use lmc_models::inference::Architecture;
use lmc_models::layers::{Gate, RopeConfig, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::config::architecture;
use super::files::SafetensorsFiles;
use super::{WeightSource as _, open};

fn read(config: &Value) -> Result<Architecture, String> {
    architecture(Path::new("config.json"), &config.to_string()).map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.message().to_owned()
    })
}

fn decoder(config: &Value) -> DecoderConfig {
    match read(config) {
        Ok(Architecture::Decoder(config)) => config,
        other => panic!("{config}: {other:?}"),
    }
}

/// A config with these sizes, changed.
fn sizes(model_type: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    for (key, value) in changes.as_object().expect("changes") {
        config[key] = value.clone();
    }
    config
}

#[test]
fn older_configs_are_read() {
    let llama3 = json!({
        "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    });
    let config = decoder(&sizes("llama", llama3));
    let scaling = RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
    assert_eq!(config.rope, RopeConfig { theta: 500000.0, scaling });
    assert_eq!((config.head_dim, config.tie_word_embeddings, config.gate), (2, false, Gate::Silu));

    let gemma = decoder(&json!({
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 512, "vocab_size": 262144,
        "rope_scaling": {"type": "linear", "factor": 8.0},
    }));
    assert_eq!(gemma.sliding_windows, [[Some(512); 5].as_slice(), &[None]].concat());
    assert_eq!(gemma.rope, RopeConfig { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!((gemma.sliding_rope, gemma.head_dim), (RopeConfig::new(1e4), 256));
    assert!(gemma.tie_word_embeddings && gemma.query_key_norm && gemma.attention_soft_cap.is_none());

    let qwen = |changes| decoder(&sizes("qwen2", changes)).sliding_windows;
    assert_eq!(qwen(json!({"sliding_window": 5})), [None; 4]);
    let sliding = json!({"sliding_window": 5, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(qwen(sliding), [None, None, None, Some(5)]);
    let mistral = |changes| decoder(&sizes("mistral", changes)).sliding_windows;
    assert_eq!(mistral(json!({"sliding_window": null})), [None; 4]);
    assert_eq!(mistral(json!({})), [Some(4096); 4]);
}

#[test]
fn configs_that_cannot_be_are_refused() {
    for (config, expected) in [
        (json!([]), "a config is an object"),
        (json!({}), "it has no `model_type`; known: llama"),
        (json!({"model_type": 3}), "`model_type` must be a string, found 3"),
        (json!({"model_type": "mamba"}), "`model_type` \"mamba\" is not known to lmc; known: llama, mistral"),
        (json!({"model_type": "gemma3"}), "a `gemma3` has an object `text_config`"),
        (json!({"model_type": "llama"}), "it has no `hidden_size`"),
        (sizes("llama", json!({"vocab_size": "x"})), "`vocab_size` must be a whole number, found \"x\""),
        (sizes("llama", json!({"vocab_size": -1})), "`vocab_size` must be a whole number, found -1"),
        (sizes("llama", json!({"hidden_size": 1e300})), "`hidden_size` must be a whole number"),
        (sizes("llama", json!({"num_hidden_layers": 99999})), "`num_hidden_layers` must be between 1 and 4096"),
        (sizes("llama", json!({"num_attention_heads": 0})), "must be between 1 and"),
        (sizes("llama", json!({"num_key_value_heads": 3})), "`num_key_value_heads` must divide"),
        (sizes("llama", json!({"head_dim": 3})), "`head_dim` must be even"),
        (sizes("llama", json!({"hidden_act": "mish"})), "`hidden_act` \"mish\" is not known"),
        (sizes("llama", json!({"rope_theta": 0})), "`rope_theta` must be a finite number above 0"),
        (sizes("llama", json!({"rope_scaling": {"rope_type": "dynamic"}})), "\"dynamic\" is not computed by lmc"),
        (sizes("llama", json!({"rope_scaling": {"rope_type": "linear"}})), "it has no `factor`"),
        (sizes("qwen2", json!({"layer_types": ["full_attention"]})), "`layer_types` has 1 entries"),
        (sizes("qwen2", json!({"layer_types": [1, 2, 3, 4]})), "an entry of `layer_types` is 1"),
        (sizes("qwen2", json!({"layer_types": ["sliding_attention", 2, 3, 4]})), "there is no `sliding_window`"),
        (sizes("mistral", json!({"sliding_window": 0})), "`sliding_window` must be between 1"),
        (sizes("gemma3_text", json!({"use_bidirectional_attention": true})), "from left to right"),
        (json!({"model_type": "gpt2", "activation_function": "mish"}), "`activation_function` \"mish\""),
        (json!({"model_type": "gpt2", "scale_attn_weights": false}), "`scale_attn_weights` = false is not computed"),
        (json!({"model_type": "gpt2", "n_head": 5}), "`n_head` must divide n_embd"),
    ] {
        let error = read(&config).expect_err(expected);
        assert!(error.contains(expected) && error.starts_with("config.json: "), "{error}, expected {expected}");
    }
}

/// A safetensors file of one tensor.
fn file(name: &str, dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let header = json!({ name: {"dtype": dtype, "shape": shape, "data_offsets": [0, data.len()]} }).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn refused(folder: &Path, expected: &str) {
    let error = match open(folder, None) {
        Err(error) => error,
        Ok(opened) => {
            let specs = opened.architecture.specs();
            let refused = specs.iter().find_map(|(path, spec)| opened.weights.stored(path, spec).err());
            refused.unwrap_or_else(|| panic!("it should be refused: {expected}"))
        }
    };
    assert!(error.message().contains(expected), "{error}, expected {expected}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn folders_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let write = |name: &str, content: &[u8]| fs::write(path.join(name), content).unwrap();
    refused(&path.join("none"), "is not there");
    refused(path, "has neither config.json nor config.toml: name a folder");
    write("config.json", b"{");
    refused(path, "config.json is not JSON");
    let config =
        json!({"model_type": "gpt2", "vocab_size": 5, "n_positions": 4, "n_embd": 2, "n_layer": 1, "n_head": 1});
    write("config.json", config.to_string().as_bytes());
    refused(path, "has no model.safetensors and no model.safetensors.index.json");
    write("pytorch_model.bin", b"");
    refused(path, "convert it to safetensors");

    let table = "transformer.wte.weight";
    let good = file(table, "F32", &[5, 2], &[0; 40]);
    for (content, expected) in [
        (Vec::new(), "it has 0 bytes"),
        ([&(1_u64 << 42).to_le_bytes()[..], &[0; 100]].concat(), "it claims a header of 4398046511104 bytes"),
        ([&8_u64.to_le_bytes()[..], b"not json"].concat(), "is not a whole safetensors file"),
        (good[..good.len() - 1].to_vec(), "cut short or damaged"),
        ([&good[..], &[0]].concat(), "cut short or damaged"),
        (file(table, "F32", &[5, 2], &[0; 36]), "is not a whole safetensors file"),
        (file(table, "F32", &[usize::MAX, 2], &[0; 40]), "is not a whole safetensors file"),
        (file(table, "F32", &[5, 3], &[0; 60]), "has the shape [5, 3], and by config.json the model needs [5, 2]"),
        (file(table, "I32", &[5, 2], &[0; 40]), "is of i32, expected f32, bf16 or f16"),
    ] {
        write("model.safetensors", &content);
        refused(path, expected);
    }

    fs::remove_file(path.join("model.safetensors")).unwrap();
    for (index, expected) in [
        ("{".to_owned(), "model.safetensors.index.json: not JSON"),
        ("{}".to_owned(), "it has no object `weight_map`"),
        (json!({"weight_map": {"a": "../x.safetensors"}}).to_string(), "no name of a file"),
        (json!({"weight_map": {"a": 3}}).to_string(), "no name of a file"),
        (
            json!({"weight_map": {"a": "x.safetensors"}}).to_string(),
            "it names x.safetensors, and there is no such file",
        ),
        (json!({"weight_map": {"a": "y.safetensors"}}).to_string(), "`a` should be in y.safetensors, and is not"),
    ] {
        write("y.safetensors", &good);
        write("model.safetensors.index.json", index.as_bytes());
        refused(path, expected);
    }
    write("model.safetensors", &good);
    write("tokenizer.json", b"{\"model\": 3}");
    refused(path, "is not a tokenizer");
    write("tokenizer.json", b"{\"type\": \"byte\"}");
    refused(path, "the tokenizer has 257 tokens, and the model only 5");
    fs::remove_file(path.join("tokenizer.json")).unwrap();
    write("generation_config.json", b"[");
    refused(path, "generation_config.json is not JSON");
    write("generation_config.json", br#"{"do_sample": true, "top_p": 7}"#);
    refused(path, "top_p must be above 0 and at most 1, found 7");
    write("generation_config.json", br#"{"eos_token_id": [1, 9]}"#);
    refused(path, "`eos_token_id` is [1,9], and the model has 5 tokens");
    write("generation_config.json", br#"{"eos_token_id": [1, 3], "bos_token_id": 2, "do_sample": true, "top_p": 0.5}"#);
    let generation = open(path, None).unwrap().generation;
    assert_eq!((generation.bos, generation.eos), (Some(2), vec![1, 3]));
    assert_eq!((generation.sampling.top_k, generation.sampling.top_p), (50, 0.5));
}

/// Floats become what is asked for, and keep their values where they can.
#[test]
fn floats_are_converted() {
    use super::files::convert;
    use lmc_graph::{DType, Literal, TensorType};
    let values = [0.5, -2.0, 3.0, f64::INFINITY];
    let floats = [DType::F32, DType::BF16, DType::F16];
    for from in floats {
        for to in floats {
            let of = |dtype| Literal::from_f64s(TensorType::new(dtype, [4]), &values);
            let mut converted = vec![0; 4 * to.size()];
            convert(of(from).bytes(), from, &mut converted, to);
            assert_eq!(converted, of(to).bytes(), "{from} to {to}");
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["full_attention", "sliding_attention", "llama3", "linear", "silu"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "vocab_size",
        "hidden_size",
        "head_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "layer_types",
        "sliding_window",
        "rope_type",
        "factor",
        "full_attention",
        "sliding_window_pattern",
        "n_embd",
        "n_head",
        "text_config",
        "tie_word_embeddings",
        "model_type",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn no_config_panics(
        family in prop::sample::select(super::config::MODEL_TYPES.to_vec()),
        changes in prop::collection::vec((key(), json_value()), 0..4),
    ) {
        let mut config = sizes(family, json!({}));
        for (key, value) in changes {
            config[key] = value;
        }
        if let Ok(model) = read(&config)
            && model.layers().len() < 8 && model.hidden_size() < 1 << 12 && model.vocab_size() < 1 << 12
        {
            // What is accepted can be built.
            model.specs();
        }
    }

    #[test]
    fn no_bytes_of_weights_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        junk in prop::collection::vec(any::<u8>(), 0..30),
        index in json_value(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = file("a", "BF16", &[2, 3], &[1; 12]);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for content in [bytes, junk] {
            fs::write(folder.path().join("model.safetensors"), content).unwrap();
            if let Ok(files) = SafetensorsFiles::open(folder.path(), None) {
                let names: Vec<String> = files.tensors().map(|(name, _)| name.to_owned()).collect();
                for name in names {
                    files.read_tensor(&name, &mut Vec::new()).unwrap();
                }
                files.unused(&|_| false);
            }
        }
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": index}).to_string()).unwrap();
        _ = SafetensorsFiles::open(folder.path(), None);
    }
}

/// A header of safetensors with tensors that may be anywhere, of anything.
fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![0_u64..64, any::<u64>(), Just(u64::MAX), Just(1 << 62)];
    let dtype = prop::sample::select(vec!["F32", "F16", "BF16", "I8", "BOOL", "F64", "F8_E4M3", "F4", "X"]);
    let shape = prop::collection::vec(number(), 0..4);
    let names = prop::sample::select(vec!["a", "b", "__metadata__", ""]).prop_map(str::to_owned);
    let name = prop_oneof![names, "\\PC{0,4}"];
    let tensor = (name, dtype, shape, (number(), number()));
    (prop::collection::vec(tensor, 0..4), any::<Option<u64>>(), 0_usize..80).prop_map(|(tensors, length, data)| {
        let tensor = |(name, dtype, shape, (first, last)): (String, &str, Vec<u64>, (u64, u64))| {
            let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [first, last] });
            format!("{}:{info}", Value::from(name))
        };
        // Names may come twice, which a JSON value could not say.
        let header = format!("{{{}}}", tensors.into_iter().map(tensor).collect::<Vec<_>>().join(","));
        let length = length.unwrap_or(header.len() as u64);
        [&length.to_le_bytes()[..], header.as_bytes(), &vec![1; data]].concat()
    })
}

/// A text with some other bytes, and perhaps without its end.
fn changed(text: &str, changes: &[(prop::sample::Index, u8)], end: Option<prop::sample::Index>) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(end) = end {
        bytes.truncate(end.index(bytes.len()));
    }
    bytes
}

/// A tokenizer with all that those of the families have.
fn tokenizer_json() -> String {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" }, { "type": "Prepend", "prepend": "_" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "_" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "\\w+|\\s+(?!\\S)" }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": { "<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "Ġ": 5 }, "merges": [["a", "b"]] },
    })
    .to_string()
}

proptest! {
    #[test]
    fn no_header_of_weights_panics(header in any_header()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, &header).unwrap();
        if let Ok(files) = SafetensorsFiles::open(folder.path(), None) {
            let tensors: Vec<_> = files.tensors().map(|(name, ty)| (name.to_owned(), ty.num_bytes())).collect();
            for (name, bytes) in tensors {
                // What is accepted is in the file.
                prop_assert!(bytes <= header.len());
                files.read_tensor(&name, &mut Vec::new()).unwrap();
            }
        }
        _ = crate::checkpoint::load_safetensors(&path);
    }

    #[test]
    fn no_tokenizer_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        text in "[ab \\PC]{0,12}",
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, changed(&tokenizer_json(), &changes, end)).unwrap();
        if let Ok(tokenizer) = crate::tokenizer::Tokenizer::read(&path) {
            if let Ok(ids) = tokenizer.encode_beginning(&text) {
                tokenizer.decode(&ids.into_iter().map(u32::cast_signed).collect::<Vec<_>>());
            }
            tokenizer.vocab_size();
        }
    }

    #[test]
    fn no_generation_config_panics(config in json_value(), more in json_value()) {
        let folder = tempfile::tempdir().unwrap();
        let mut given = json!({ "do_sample": true });
        for key in ["eos_token_id", "bos_token_id", "temperature", "top_k", "top_p", "repetition_penalty"] {
            given[key] = if key.len() % 2 == 0 { config.clone() } else { more.clone() };
        }
        for text in [given.to_string(), config.to_string()] {
            fs::write(folder.path().join("generation_config.json"), text).unwrap();
            _ = super::GenerationConfig::read(folder.path(), &more.to_string(), 64);
        }
    }
}
