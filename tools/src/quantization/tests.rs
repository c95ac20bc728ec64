//! What is made and what is read, against formulas and what llama.cpp's own package computes.

use std::path::PathBuf;

use lmc_graph::TensorType;
use lmc_models::ParamSpec;
use lmc_models::params::Init;
use lmc_models::stored::Stored;
use proptest::prelude::*;
use serde_json::json;

use super::files::{Described, described};
use super::gguf::Header;
use super::gguf::blocks::{BlockType, matrix};
use super::gguf::model::GgufFile;
use super::layouts::{Layout, Tensors};
use super::round::quantize;
use super::*;
use crate::pretrained::WeightSource as _;

fn references() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/references")
}

fn recorded() -> serde_json::Value {
    let text = std::fs::read_to_string(references().join("quantized.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn bytes_of(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    text.as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) * 16 + digit(*b)).collect()
}

fn values_of(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Numbers about zero, some far from it.
fn weights(len: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next() * next() * 0.1).collect()
}

#[test]
fn blocks_are_what_gguf_computes() {
    for case in recorded()["blocks"].as_array().unwrap() {
        let ty = BlockType::numbered(case["type"].as_u64().unwrap() as u32).unwrap();
        let [rows, columns] = [0, 1].map(|i| case["shape"][i].as_u64().unwrap() as usize);
        let (bytes, expected) = (bytes_of(&case["bytes"]), values_of(&case["values"]));
        assert_eq!(ty.bytes(&[rows, columns]), Some(bytes.len()), "{ty:?}");
        let found = match ty.float() {
            Some(dtype) => floats(&bytes, dtype),
            None => matrix(ty, &bytes, rows, columns).unwrap().elements(),
        };
        // A bias is added here, and its opposite subtracted there; all else is the same arithmetic.
        assert_eq!(found, expected, "{ty:?}");
        assert!(ty.float().is_some() || matrix(ty, &bytes[1..], rows, columns).is_none(), "{ty:?}: too few bytes");
    }
}

#[test]
fn layouts_of_safetensors() {
    let recorded = recorded();
    let layouts = &recorded["layouts"];
    let shape = [0, 1].map(|i| layouts["shape"][i].as_u64().unwrap() as usize);
    let group_size = layouts["group_size"].as_u64().unwrap() as usize;
    for case in layouts["cases"].as_array().unwrap() {
        let name = case["layout"].as_str().unwrap();
        let layout = match name {
            "mlx4" => Layout::Mlx { bits: 4 },
            "mlx8" => Layout::Mlx { bits: 8 },
            "gptq" => Layout::Gptq { zero_offset: 1 },
            "gptq_v2" => Layout::Gptq { zero_offset: 0 },
            "awq" => Layout::Awq,
            other => panic!("{other}"),
        };
        let part = |name: &str| bytes_of(&case[name]);
        let tensors = Tensors { codes: part("codes"), scales: part("scales"), offsets: part("offsets"), groups: None };
        let quantization = layout.quantization(group_size, DType::F16);
        let found = layout.matrix(tensors.clone(), shape, quantization).unwrap();
        assert_eq!(found.elements(), values_of(&case["values"]), "{name}");
        for (part, shape) in [&tensors.codes, &tensors.scales].iter().zip(layout.shapes(shape[0], shape[1], group_size))
        {
            assert!(
                part.len() == shape.iter().product::<usize>() * 4 || part.len() == shape.iter().product::<usize>() * 2
            );
        }
        // Inputs in order of their groups are as good as no order; others are refused.
        let order: Vec<u8> = (0..shape[1]).flat_map(|i| ((i / group_size) as u32).to_le_bytes()).collect();
        let with = |groups: Vec<u8>| Tensors { groups: Some(groups), ..tensors.clone() };
        assert_eq!(layout.matrix(with(order.clone()), shape, quantization).unwrap(), found, "{name}");
        let reversed = order.as_chunks::<4>().0.iter().rev().flatten().copied().collect();
        assert!(layout.matrix(with(reversed), shape, quantization).unwrap_err().contains("desc_act"));
    }
}

#[test]
fn elements_are_within_half_a_step() {
    let elements = weights(6 * 256);
    for bits in [4, 8] {
        for (zeros, group_size, dtype) in
            [(false, 32, DType::F32), (true, 64, DType::F32), (false, 128, DType::BF16), (true, 32, DType::BF16)]
        {
            let quantization = Scheme { bits, group_size, zeros }.quantization(dtype);
            let quantized = quantize(&elements, 6, 256, quantization);
            let found = quantized.elements();
            for (group, (found, exact)) in found.chunks(group_size).zip(elements.chunks(group_size)).enumerate() {
                let range = |f: fn(f32, f32) -> f32| exact.iter().copied().fold(0.0, f);
                let (low, high) = (range(f32::min), range(f32::max));
                let largest = high.max(-low);
                let step = match (bits, zeros) {
                    (8, false) => largest / 127.0,
                    (8, true) => (high - low) / 255.0,
                    (_, false) => largest / 7.0,
                    (_, true) => (high - low) / 15.0,
                };
                // A scale is rounded up by up to a 256th; with zeros, the ends are a fraction of a step off; without, of
                // four bits the positive end may be the code 7 for 8.
                let limit = match (bits, zeros) {
                    (4, false) => 1.01 * step,
                    (_, true) => 1.02 * step,
                    (_, false) => 0.51 * step,
                };
                for (found, exact) in found.iter().zip(exact) {
                    assert!((found - exact).abs() <= limit, "{found} for {exact}, group {group}: {quantization:?}");
                }
            }
            let sizes: Vec<usize> = quantized.parts.iter().map(Vec::len).collect();
            let spec = ParamSpec::new(&[("out", 6), ("in", 256)], Init::Zeros);
            let expected = Stored::Quantized(quantization).parts(&spec);
            assert_eq!(sizes, expected.iter().map(|(_, ty)| ty.num_bytes()).collect::<Vec<_>>());
        }
    }
    // What is zero stays zero.
    let nothing =
        quantize(&[0.0; 64], 1, 64, Scheme { bits: 4, group_size: 64, zeros: true }.quantization(DType::BF16));
    assert_eq!(nothing.elements(), [0.0; 64]);
}

#[test]
fn descriptions() {
    let check =
        |config: serde_json::Value, expected: Result<Option<Described>, &str>| match (described(&config), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{config}"),
            (Err(found), Err(part)) => assert!(found.contains(part), "{config}: {found}"),
            (found, expected) => panic!("{config}: {found:?}, not {expected:?}"),
        };
    let foreign = |layout, group_size| Ok(Some(Described::Foreign { layout, group_size }));
    check(json!({}), Ok(None));
    check(json!({"quantization": {"group_size": 64, "bits": 4}}), foreign(Layout::Mlx { bits: 4 }, 64));
    let mlx = json!({"group_size": 32, "bits": 8, "mode": "affine"});
    check(json!({"quantization": mlx, "quantization_config": mlx}), foreign(Layout::Mlx { bits: 8 }, 32));
    check(json!({"quantization": {"group_size": 64, "bits": 3}}), Err("4 or 8 bits"));
    check(json!({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}), Err("mode"));
    let gptq = |more: serde_json::Value| {
        let mut config = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "quantization_config": config })
    };
    check(gptq(json!({})), foreign(Layout::Gptq { zero_offset: 1 }, 128));
    check(gptq(json!({"checkpoint_format": "gptq_v2"})), foreign(Layout::Gptq { zero_offset: 0 }, 128));
    check(gptq(json!({"bits": 3})), Err("4 bits"));
    check(gptq(json!({"group_size": -1})), Err("group_size"));
    check(gptq(json!({"group_size": 33})), Err("multiples of 32"));
    check(gptq(json!({"quant_method": "awq"})), foreign(Layout::Awq, 128));
    check(gptq(json!({"quant_method": "awq", "version": "gemv"})), Err("gemv"));
    check(gptq(json!({"quant_method": "bitsandbytes"})), Err("bitsandbytes"));
    let own = Scheme { bits: 8, group_size: 32, zeros: true };
    let lmc = json!({"quant_method": "lmc", "bits": 8, "group_size": 32, "zeros": true});
    check(json!({ "quantization_config": lmc }), Ok(Some(Described::Own(own))));
    check(json!({"quantization_config": {"quant_method": "lmc", "bits": 5, "group_size": 32}}), Err("4 or 8 bits"));
}

#[test]
fn a_file_by_gguf_s_writer() {
    let file = GgufFile::open(&references().join("quantized.gguf")).unwrap();
    let config = file.config().unwrap();
    let expected = json!({
        "model_type": "llama", "max_position_embeddings": 128, "hidden_size": 32, "num_hidden_layers": 1,
        "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "vocab_size": 8, "tie_word_embeddings": true,
    });
    assert_eq!(config, expected);
    let architecture = crate::pretrained::config::architecture(&references(), &config.to_string()).unwrap();
    let (recorded, specs) = (recorded(), architecture.specs());
    for (path, spec) in specs.iter() {
        let stored = file.stored(path, spec).unwrap().unwrap();
        let types: Vec<TensorType> = stored.parts(spec).into_iter().map(|(_, ty)| ty).collect();
        let mut parts: Vec<Vec<u8>> = types.iter().map(|ty| vec![0; ty.num_bytes()]).collect();
        file.read(path, &types, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).unwrap();
        let found = match stored {
            Stored::Plain(dtype) => floats(&parts[0], dtype),
            Stored::Quantized(quantization) => {
                let [rows, columns] = [0, 1].map(|i| spec.ty.shape[i]);
                QuantizedMatrix { quantization, rows, columns, parts }.elements()
            }
        };
        assert_eq!(found, values_of(&recorded["file"][path]), "{path}");
    }
    assert!(file.unused(&|path| specs.get(path).is_some()).is_empty());
    assert_eq!(file.unused(&|path| specs.get(path).is_some() && !path.contains("q_proj")), ["blk.0.attn_q.weight"]);
}

#[test]
fn damaged_headers() {
    let bytes = std::fs::read(references().join("quantized.gguf")).unwrap();
    let length = bytes.len() as u64;
    assert!(Header::read(&bytes, length).is_ok());
    let with = |at: usize, new: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        format!("{:?}", Header::read(&changed, length).unwrap_err())
    };
    assert!(with(0, b"GGML").contains("does not begin"));
    assert!(with(4, &[0, 0, 0, 3]).contains("big-endian"));
    assert!(with(4, &[1, 0, 0, 0]).contains("version is 1"));
    // Numbers of tensors and values beyond all bounds end with the file, without memory for them.
    assert!(with(8, &[255; 8]).contains("behind the file"));
    assert!(with(16, &[255; 8]).contains("behind the file"));
    // The length of the first key.
    assert!(with(24, &[255; 8]).contains("behind the file"));
    assert!(format!("{:?}", Header::read(&bytes, length - 1).unwrap_err()).contains("ends behind"));
    assert_eq!(Header::read(&bytes[..100], length), Err(super::gguf::ReadError::Truncated));
}

proptest! {
    /// A whole file with other bytes here and there: what is accepted is read.
    #[test]
    fn no_gguf_file_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        in_header in prop::collection::vec((0_usize..1200, any::<u8>()), 0..4),
    ) {
        let mut bytes = std::fs::read(references().join("quantized.gguf")).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, byte) in in_header {
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let Ok(file) = GgufFile::open(&path) else { return Ok(()) };
        let Ok(config) = file.config() else { return Ok(()) };
        let Ok(model) = crate::pretrained::config::architecture(&path, &config.to_string()) else { return Ok(()) };
        if model.layers().len() > 4 || model.vocab_size() > 1 << 12 || model.hidden_size() > 1 << 12 {
            return Ok(());
        }
        for (path, spec) in model.specs().iter() {
            if let Ok(Some(stored)) = file.stored(path, spec) {
                let types: Vec<TensorType> = stored.parts(spec).into_iter().map(|(_, ty)| ty).collect();
                let mut parts: Vec<Vec<u8>> = types.iter().map(|ty| vec![0; ty.num_bytes()]).collect();
                _ = file.read(path, &types, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_header_panics(changes in prop::collection::vec((0usize..600, any::<u8>()), 0..6), length in 0usize..2000) {
        let mut bytes = std::fs::read(references().join("quantized.gguf")).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length.max(24));
        let length = bytes.len() as u64;
        if let Ok(header) = Header::read(&bytes, length) {
            for info in header.tensors.values() {
                prop_assert!(info.begin + info.bytes as u64 <= length);
            }
        }
    }
}
