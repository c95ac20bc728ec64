//! A checkpoint as a folder that `transformers` loads.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use half::{bf16, f16};
use lmc_graph::{DType, Literal};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, reason};
use crate::tokenizer::{END_OF_DOCUMENT, Tokenizer};
use crate::whole_folder::{refuse_content, whole_folder};

use super::safetensors::write_safetensors;
use super::{CONFIG_JSON, Checkpoint, MODEL, TOKENIZER, Tensors};

/// Writes the folder `out`, which must not be there or be empty: `model.safetensors` with weights of `dtype` (f32, bf16
/// or f16), `config.json`, and for a run with a tokenizer `tokenizer.json` and `tokenizer_config.json` in Hugging Face's
/// form, and `generation_config.json`. The folder is there whole or not at all.
///
/// # Errors
/// If `transformers` has no word for the model, `out` has content or cannot be written, or a weight does not fit `dtype`.
pub fn export(checkpoint: &Checkpoint, out: &Path, dtype: DType) -> Result<()> {
    let Some(mut config) = checkpoint.config_json.clone() else {
        return Err(Error::input(format!(
            "no architecture of transformers is this model, so there is no config.json to export; {MODEL} of the \
             checkpoint has its weights by name"
        )));
    };
    refuse_content(out)?;
    let weights = converted(&checkpoint.model, dtype)?;
    config["torch_dtype"] = torch_name(dtype).into();
    let end = checkpoint.tokenizer.as_ref().and_then(Tokenizer::end_of_document);
    for key in ["bos_token_id", "eos_token_id"] {
        // Without a document end nothing ends a text; the ids that are `transformers`' defaults are those of letters.
        config[key] = end.into();
    }
    let longest = config.get("max_position_embeddings").or(config.get("n_positions")).cloned();
    let pretty = |json: &Value| format!("{json:#}\n");
    let mut files = vec![(CONFIG_JSON, pretty(&config))];
    files.push(("generation_config.json", pretty(&json!({"bos_token_id": end, "eos_token_id": end}))));
    if let Some(tokenizer) = &checkpoint.tokenizer {
        let json = match tokenizer {
            // As it was given, byte for byte.
            Tokenizer::HuggingFace(file) => file.json().to_owned(),
            Tokenizer::Char(chars) => {
                pretty(&without_merges(chars.characters(), end, &Value::Null, &json!({"type": "Fuse"})))
            }
            Tokenizer::Byte => {
                let byte_level = json!({
                    "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
                });
                pretty(&without_merges(&gpt2_bytes(), end, &byte_level, &byte_level))
            }
        };
        let settings = tokenizer_settings(tokenizer, longest.as_ref());
        files.extend([(TOKENIZER, json), ("tokenizer_config.json", pretty(&settings))]);
    }
    write_folder(out, &weights, &files)
        .map_err(|error| Error::input(format!("cannot export to {}: {}", out.display(), reason(&error))))
}

fn write_folder(out: &Path, weights: &Tensors, files: &[(&str, String)]) -> io::Result<()> {
    whole_folder(out, |add| {
        add(MODEL, &|file| write_safetensors(weights, file))?;
        files.iter().try_for_each(|(name, text)| add(name, &|file| file.write_all(text.as_bytes())))
    })
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::F32
        | DType::F64
        | DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => "float32",
    }
}

/// The weights, f32, rounded to the nearest of `dtype`.
fn converted(weights: &Tensors, dtype: DType) -> Result<Tensors> {
    let mut all = Tensors::new();
    for (name, tensor) in weights {
        let (shape, elements) = (tensor.ty().shape.clone(), tensor.elements::<f32>());
        let tensor = match dtype {
            DType::BF16 => {
                let rounded: Vec<bf16> = elements.into_iter().map(bf16::from_f32).collect();
                Literal::new(shape, &rounded)
            }
            DType::F16 => {
                if let Some(beyond) = elements.iter().find(|x| x.is_finite() && f16::from_f32(**x).is_infinite()) {
                    return Err(Error::input(format!(
                        "`{name}` has the element {beyond}, and float16 ends at {}: export as bfloat16",
                        f16::MAX
                    )));
                }
                let rounded: Vec<f16> = elements.into_iter().map(f16::from_f32).collect();
                Literal::new(shape, &rounded)
            }
            DType::F32
            | DType::F64
            | DType::Bool
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => tensor.clone(),
        };
        all.insert(name.clone(), tensor);
    }
    Ok(all)
}

/// `tokenizer_config.json`.
fn tokenizer_settings(tokenizer: &Tokenizer, model_max_length: Option<&Value>) -> Value {
    let mut settings = BTreeMap::from([
        ("tokenizer_class", json!("PreTrainedTokenizerFast")),
        ("clean_up_tokenization_spaces", json!(false)),
    ]);
    settings.extend(model_max_length.map(|length| ("model_max_length", length.clone())));
    let end = tokenizer.end_of_document().and_then(|id| match tokenizer {
        Tokenizer::HuggingFace(file) => file.whole().id_to_token(id),
        Tokenizer::Char(_) | Tokenizer::Byte => Some(END_OF_DOCUMENT.to_owned()),
    });
    if let Some(end) = end {
        settings.extend(["bos_token", "eos_token"].map(|key| (key, json!(end))));
    }
    json!(settings)
}

/// The `tokenizer.json` of our own tokenizers. Both are, in Hugging Face's words, byte-pair encodings without a pair to
/// merge: over characters, and over bytes spelled as GPT-2 does.
fn without_merges(spelled: &[char], end: Option<u32>, pre_tokenizer: &Value, decoder: &Value) -> Value {
    let mut vocab: Map<String, Value> =
        spelled.iter().enumerate().map(|(id, character)| (character.to_string(), id.into())).collect();
    let mut added = Vec::new();
    if let Some(end) = end {
        vocab.insert(END_OF_DOCUMENT.to_owned(), end.into());
        added.push(json!({
            "id": end, "content": END_OF_DOCUMENT, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }));
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

/// The character by which GPT-2 spells each byte: itself where it is printable, else the next one from 256 on.
fn gpt2_bytes() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| if printable(&byte) { char::from(byte) } else { others.next().unwrap_or(char::MAX) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_gpt2_does() {
        let spelled = gpt2_bytes();
        // From GPT-2's published vocabulary: a space is Ġ, a line break Ċ, byte 0 Ā, the soft hyphen Ń.
        for (byte, expected) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0, 'Ā'), (0xAD, 'Ń'), (b'a', 'a'), (0xFF, 'ÿ')] {
            assert_eq!(spelled[usize::from(byte)], expected);
        }
        let distinct: std::collections::BTreeSet<char> = spelled.iter().copied().collect();
        assert_eq!(distinct.len(), 256);
    }

    #[test]
    fn weights_are_rounded_to_the_nearest() {
        let tensors = |x: &[f32]| Tensors::from([("w".to_owned(), Literal::new([x.len()], x))]);
        // 1 + 2^-9 is halfway between two bf16 values, and goes to the even one; so is 1 + 2^-12 in f16.
        let x = tensors(&[1.0 + 2_f32.powi(-9), 1.0 + 2_f32.powi(-7), -0.0, 65504.0]);
        for (dtype, expected) in [
            (DType::F32, [1.0 + 2_f64.powi(-9), 1.0 + 2_f64.powi(-7), -0.0, 65504.0]),
            (DType::BF16, [1.0, 1.0 + 2_f64.powi(-7), -0.0, 65536.0]),
            (DType::F16, [1.0 + 2_f64.powi(-9), 1.0 + 2_f64.powi(-7), -0.0, 65504.0]),
        ] {
            let found = &converted(&x, dtype).unwrap()["w"];
            assert_eq!((found.ty().dtype, found.to_f64s()), (dtype, expected.to_vec()));
        }
        let error = converted(&tensors(&[1.0, -70000.0]), DType::F16).unwrap_err();
        assert!(error.message().contains("`w` has the element -70000, and float16 ends at 65504"), "{error}");
        assert!(converted(&tensors(&[f32::INFINITY]), DType::F16).is_ok());
    }
}
