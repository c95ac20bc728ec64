//! A model in a GGUF file: its architecture in the words of `config.json`, and its weights by Hugging Face's names.

use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lmc_graph::{DType, TensorType};
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;
use serde_json::{Map, json};

use super::blocks::{BlockType, matrix};
use super::{Header, ReadError, TensorInfo, Value};
use crate::error::{Error, Result};
use crate::pretrained::WeightSource;
use crate::quantization::floats;

/// The architectures that are read, by `general.architecture`, and their `model_type`.
pub const ARCHITECTURES: [(&str, &str); 5] =
    [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma2", "gemma2"), ("gemma3", "gemma3_text")];

/// Keys of the metadata, behind the architecture's name, and the keys of `config.json` with the same number.
const NUMBERS: [(&str, &str); 11] = [
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

/// Names of tensors, and Hugging Face's: of the model, and of block `N` behind `blk.N.` and `model.layers.N.`.
const OF_MODEL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];
const OF_BLOCK: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// The norms between attention and feed-forward layer, which are two in Gemma.
const BEFORE_MLP: [(&str, &str); 1] = [("ffn_norm", "post_attention_layernorm")];
const AROUND_MLP: [(&str, &str); 2] =
    [("post_attention_norm", "post_attention_layernorm"), ("ffn_norm", "pre_feedforward_layernorm")];

/// Rows of a matrix in few bits that are reordered at a time.
const ROWS_AT_A_TIME: usize = 256;

/// A file whose header was read.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    header: Header,
    model_type: &'static str,
    /// Query and key heads.
    heads: [usize; 2],
}

impl GgufFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// If it is no whole GGUF file, or of an architecture that is not read.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let cannot_read = |error: &std::io::Error| Error::cannot_read("the model", path, error);
        let file = File::open(path).map_err(|error| cannot_read(&error))?;
        let length = file.metadata().map_err(|error| cannot_read(&error))?.len();
        let mut bytes = Vec::new();
        let header = loop {
            // The vocabulary is in the header, so that most have some megabytes.
            let more = bytes.len().max(1 << 20).min(usize::try_from(length).unwrap_or(usize::MAX) - bytes.len());
            let at = bytes.len();
            bytes.resize(at + more, 0);
            read_at(&file, &mut bytes[at..], at as u64).map_err(|error| cannot_read(&error))?;
            match Header::read(&bytes, length) {
                Ok(header) => break header,
                Err(ReadError::Truncated) if more > 0 => {}
                Err(ReadError::Truncated) => return Err(wrong(path, "it is cut short")),
                Err(ReadError::Wrong(reason)) => return Err(wrong(path, &reason)),
            }
        };
        let name = header.text("general.architecture").unwrap_or_default().to_owned();
        let Some((_, model_type)) = ARCHITECTURES.into_iter().find(|(ggufs, _)| *ggufs == name) else {
            let known = ARCHITECTURES.map(|(name, _)| name).join(", ");
            return Err(wrong(path, &format!("its architecture {name:?} is not read; known: {known}")));
        };
        let mut file = GgufFile { path: path.to_owned(), file, header, model_type, heads: [0; 2] };
        let heads = file.number("attention.head_count")?;
        let key_heads = file.number("attention.head_count_kv").unwrap_or(heads);
        file.heads = [heads, key_heads];
        Ok(file)
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// A whole number of the architecture's.
    fn number(&self, key: &str) -> Result<usize> {
        let name = format!("{}.{key}", self.header.text("general.architecture").unwrap_or_default());
        match self.header.metadata.get(&name) {
            Some(Value::Integer(number)) if (1..=1 << 32).contains(number) => Ok(*number as usize),
            Some(other) => Err(wrong(&self.path, &format!("`{name}` is {other:?}"))),
            None => Err(wrong(&self.path, &format!("it has no `{name}`"))),
        }
    }

    /// The architecture as a `config.json` says it.
    ///
    /// # Errors
    /// If a number is of another kind, or positions are scaled in a way that is not read.
    pub fn config(&self) -> Result<serde_json::Value> {
        let architecture = self.header.text("general.architecture").unwrap_or_default();
        let mut config = Map::new();
        config.insert("model_type".to_owned(), json!(self.model_type));
        for (key, name) in NUMBERS {
            let key = format!("{architecture}.{key}");
            match self.header.metadata.get(&key) {
                None => {}
                Some(Value::Integer(number)) => drop(config.insert(name.to_owned(), json!(*number as i64))),
                // An f32 as it was written, and not the nearest f64's digits.
                Some(Value::Float(number)) => {
                    let number: f64 = (*number as f32).to_string().parse().unwrap_or(*number);
                    config.insert(name.to_owned(), json!(number));
                }
                Some(other) => return Err(wrong(&self.path, &format!("`{key}` is {other:?}"))),
            }
        }
        let Some(embeddings) = self.header.tensors.get("token_embd.weight") else {
            return Err(wrong(&self.path, "it has no `token_embd.weight`"));
        };
        config.insert("vocab_size".to_owned(), json!(embeddings.shape.first()));
        config.insert("tie_word_embeddings".to_owned(), json!(!self.header.tensors.contains_key("output.weight")));
        if self.model_type == "qwen2" {
            config.remove("head_dim");
        }
        if let Some(window) = self.header.metadata.get(&format!("{architecture}.attention.sliding_window"))
            && self.is_gemma()
            && let Value::Integer(window) = window
        {
            config.insert("sliding_window".to_owned(), json!(*window as i64));
        }
        if self.is_gemma() {
            // The scale of scores is that of a head, but for the largest of each.
            config.insert("query_pre_attn_scalar".to_owned(), json!(self.query_scalar(&config)));
        }
        let scaling = format!("{architecture}.rope.scaling.type");
        match self.header.text(&scaling) {
            None | Some("none") => {}
            Some("linear") => {
                let factor = match self.header.metadata.get(&format!("{architecture}.rope.scaling.factor")) {
                    Some(Value::Float(factor)) => *factor,
                    Some(_) | None => return Err(wrong(&self.path, "it has no number `rope.scaling.factor`")),
                };
                config.insert("rope_scaling".to_owned(), json!({ "rope_type": "linear", "factor": factor }));
            }
            Some(other) => return Err(wrong(&self.path, &format!("`{scaling}` {other:?} is not read"))),
        }
        if self.header.tensors.contains_key("rope_freqs.weight") {
            config.insert("rope_scaling".to_owned(), self.llama3_scaling()?);
        }
        Ok(serde_json::Value::Object(config))
    }

    fn is_gemma(&self) -> bool {
        self.model_type.starts_with("gemma")
    }

    /// What `query_pre_attn_scalar` is: the size of a head, but in the models of 27 billion parameters the hidden size over
    /// the number of heads. Files do not say it; llama.cpp tells these by their blocks.
    fn query_scalar(&self, config: &Map<String, serde_json::Value>) -> u64 {
        let number = |name: &str| config.get(name).and_then(serde_json::Value::as_u64);
        let is_largest =
            matches!((self.model_type, number("num_hidden_layers")), ("gemma2", Some(46)) | ("gemma3_text", Some(62)));
        let head_dim = number("head_dim").unwrap_or(256);
        match (number("hidden_size"), number("num_attention_heads")) {
            (Some(hidden), Some(heads)) if is_largest && heads > 0 => hidden / heads,
            (_, _) => head_dim,
        }
    }

    /// The scaling of Llama 3, of which a file has only the factor of each frequency: the largest is the model's factor, and
    /// the others follow from it and the numbers that all these models share.
    fn llama3_scaling(&self) -> Result<serde_json::Value> {
        let info = &self.header.tensors["rope_freqs.weight"];
        if info.ty != BlockType::F32 {
            return Err(wrong(&self.path, "`rope_freqs.weight` is not of f32"));
        }
        let mut bytes = vec![0; info.bytes];
        read_at(&self.file, &mut bytes, info.begin).map_err(|e| Error::cannot_read("the model", &self.path, &e))?;
        let factors = floats(&bytes, DType::F32);
        let factor = factors.iter().copied().fold(1.0, f32::max);
        let architecture = self.header.text("general.architecture").unwrap_or_default();
        let theta = match self.header.metadata.get(&format!("{architecture}.rope.freq_base")) {
            Some(Value::Float(theta)) => *theta,
            Some(_) | None => 10_000.0,
        };
        let (low, high, original) = (1.0, 4.0, 8192.0);
        for (i, &found) in factors.iter().enumerate() {
            let wavelength = std::f64::consts::TAU * theta.powf(i as f64 / factors.len() as f64);
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - smooth) / f64::from(factor) + smooth);
            if (f64::from(found) - expected).abs() > 1e-3 * expected {
                return Err(wrong(&self.path, "`rope_freqs.weight` are not the factors of Llama 3's scaling"));
            }
        }
        Ok(json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        }))
    }

    /// The tensor of a weight, by Hugging Face's path.
    fn tensor(&self, path: &str) -> Option<(String, &TensorInfo)> {
        let name = self.name(path)?;
        self.header.tensors.get(&name).map(|info| (name, info))
    }

    /// The name of a weight's tensor.
    fn name(&self, path: &str) -> Option<String> {
        if let Some((name, _)) = OF_MODEL.iter().find(|(_, theirs)| *theirs == path) {
            return Some((*name).to_owned());
        }
        let (block, rest) = path.strip_prefix("model.layers.")?.split_once('.')?;
        let (place, ending) = rest.rsplit_once('.')?;
        let around: &[(&str, &str)] = if self.is_gemma() { &AROUND_MLP } else { &BEFORE_MLP };
        let (name, _) = OF_BLOCK.iter().chain(around).find(|(_, theirs)| *theirs == place)?;
        Some(format!("blk.{block}.{name}.{ending}"))
    }

    /// In a row of heads, how many there are; where llama.cpp keeps the pairs of a rotation next to each other.
    fn interleaved_heads(&self, path: &str) -> Option<usize> {
        let of = |part: &str| path.ends_with(&format!("{part}.weight")) || path.ends_with(&format!("{part}.bias"));
        match self.model_type {
            "llama" if of("q_proj") => Some(self.heads[0]),
            "llama" if of("k_proj") => Some(self.heads[1]),
            _ => None,
        }
    }

    /// Whether a weight is stored one higher: the norms of Gemma.
    fn is_one_higher(&self, path: &str) -> bool {
        self.is_gemma() && (path.ends_with("norm.weight") || path.ends_with("layernorm.weight"))
    }
}

impl WeightSource for GgufFile {
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        let Some((name, info)) = self.tensor(path) else { return Ok(None) };
        if info.shape != spec.ty.shape {
            let (found, needed) = (&info.shape, &spec.ty.shape);
            return Err(wrong(
                &self.path,
                &format!("`{name}` has the shape {found:?}, and the model needs {needed:?}"),
            ));
        }
        if let Some(heads) = self.interleaved_heads(path)
            && (heads == 0 || !info.shape[0].is_multiple_of(2 * heads))
        {
            return Err(wrong(&self.path, &format!("`{name}` has {} rows for {heads} heads", info.shape[0])));
        }
        Ok(Some(match info.ty.quantization() {
            Some(quantization) if info.shape.len() == 2 => Stored::Quantized(quantization),
            Some(_) => return Err(wrong(&self.path, &format!("`{name}` is quantized, and no matrix"))),
            None => Stored::Plain(info.ty.float().unwrap_or(DType::F32)),
        }))
    }

    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()> {
        let Some((name, info)) = self.tensor(path) else {
            return Err(wrong(&self.path, &format!("it has no tensor for `{path}`")));
        };
        let cannot_read = |error: std::io::Error| Error::cannot_read("the model", &self.path, &error);
        let rows = info.shape.first().copied().unwrap_or(1).max(1);
        let interleaved = self.interleaved_heads(path);
        if info.ty.quantization().is_none() {
            read_at(&self.file, parts[0], info.begin).map_err(cannot_read)?;
            if let Some(heads) = interleaved {
                let reordered = uninterleaved(parts[0], heads, rows);
                parts[0].copy_from_slice(&reordered);
            }
            if self.is_one_higher(path) {
                let dtype = types[0].dtype;
                let higher = floats(parts[0], dtype);
                let lower = higher.into_iter().map(|x| x - 1.0);
                let lower: Vec<u8> = if dtype == DType::F32 {
                    lower.flat_map(f32::to_le_bytes).collect()
                } else if dtype == DType::BF16 {
                    lower.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
                } else {
                    lower.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect()
                };
                parts[0].copy_from_slice(&lower);
            }
            return Ok(());
        }
        // Rows are whole blocks. Those of a rotation are reordered together; others are read piece by piece.
        let step = if interleaved.is_some() { rows } else { ROWS_AT_A_TIME.min(rows) };
        let (row, columns) = (info.bytes / rows, info.shape.last().copied().unwrap_or(1));
        let mut bytes = vec![0; step * row];
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let bytes = &mut bytes[..count * row];
            read_at(&self.file, bytes, info.begin + (first * row) as u64).map_err(cannot_read)?;
            let reordered = interleaved.map(|heads| uninterleaved(bytes, heads, rows));
            let matrix = matrix(info.ty, reordered.as_deref().unwrap_or(bytes), count, columns);
            let matrix = matrix.ok_or_else(|| wrong(&self.path, &format!("`{name}` is not of whole blocks")))?;
            for (piece, part) in matrix.parts.iter().zip(parts.iter_mut()) {
                let row = part.len() / rows;
                part[first * row..(first + count) * row].copy_from_slice(piece);
            }
        }
        Ok(())
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        let path = |name: &str| -> Option<String> {
            if let Some((_, path)) = OF_MODEL.iter().find(|(ours, _)| *ours == name) {
                return Some((*path).to_owned());
            }
            let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let (place, ending) = rest.rsplit_once('.')?;
            let around: &[(&str, &str)] = if self.is_gemma() { &AROUND_MLP } else { &BEFORE_MLP };
            let (_, path) = OF_BLOCK.iter().chain(around).find(|(ours, _)| *ours == place)?;
            Some(format!("model.layers.{block}.{path}.{ending}"))
        };
        let is_used = |name: &str| name == "rope_freqs.weight" || path(name).is_some_and(|path| used(&path));
        self.header.tensors.keys().filter(|name| !is_used(name)).cloned().collect()
    }
}

/// Rows in Hugging Face's order: of each head the first halves of the pairs of a rotation, then the second ones.
fn uninterleaved(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (row, head) = (bytes.len() / rows, rows / heads);
    let from = |at: usize| at / head * head + at % (head / 2) * 2 + at % head / (head / 2);
    (0..rows).flat_map(|at| bytes[from(at) * row..][..row].iter().copied()).collect()
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::input(format!("{} is no GGUF file that lmc reads: {reason}", path.display()))
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}
