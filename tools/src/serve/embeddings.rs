//! `/v1/embeddings`: vectors for texts.

use serde_json::{Value, json};

use super::completions::prompts;
use super::error::ApiError;
use super::fields::Fields;
use super::model::ServedModel;

/// A request that was read.
#[derive(Debug)]
pub(super) struct Embeddings {
    /// The texts, as tokens.
    pub(super) inputs: Vec<Vec<u32>>,
    base64: bool,
    dimensions: Option<usize>,
}

impl Embeddings {
    /// Reads a request.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub(super) fn read(mut fields: Fields, model: &ServedModel) -> Result<Embeddings, ApiError> {
        if let Some(asked) = fields.text("model")?
            && asked != model.name
        {
            return Err(ApiError::no_such_model(&asked, &model.name));
        }
        fields.ignore(&["user"]);
        let inputs = prompts("input", fields.value("input"), model)?;
        for (i, input) in inputs.iter().enumerate() {
            if input.is_empty() || input.len() > model.max_context {
                let (most, found) = (model.max_context, input.len());
                let message = format!("text {i} of `input` has from 1 to {most} tokens, found {found}");
                return Err(ApiError::field("input", message));
            }
        }
        let base64 = match fields.text("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("`encoding_format` is \"float\" or \"base64\", found {other:?}");
                return Err(ApiError::field("encoding_format", message));
            }
        };
        let dimensions = fields.count("dimensions", 1..=u32::MAX)?;
        fields.finish()?;
        Ok(Embeddings { inputs, base64, dimensions })
    }

    /// The answer with `vectors`, one for each text.
    ///
    /// # Errors
    /// If the vectors have not the number of dimensions that was asked for.
    pub(super) fn answer(&self, vectors: &[Vec<f32>], model: &ServedModel) -> Result<Value, ApiError> {
        let found = vectors.first().map_or(0, Vec::len);
        if let Some(dimensions) = self.dimensions
            && dimensions != found
        {
            let message = format!("the vectors of this model have {found} dimensions, not {dimensions}");
            return Err(ApiError::field("dimensions", message));
        }
        let one = |(index, vector): (usize, &Vec<f32>)| {
            let embedding = if self.base64 { json!(base64(vector)) } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        };
        let tokens: usize = self.inputs.iter().map(Vec::len).sum();
        Ok(json!({
            "object": "list",
            "data": vectors.iter().enumerate().map(one).collect::<Vec<_>>(),
            "model": model.name,
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        }))
    }
}

/// Little-endian floats in base 64 (RFC 4648, section 4).
fn base64(vector: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0_u32, |bits, (i, &byte)| bits | u32::from(byte) << (16 - 8 * i));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= three.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}
