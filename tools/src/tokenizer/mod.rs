//! Text to token ids and back: by characters, by bytes, and by the tokenizers of Hugging Face.

mod bpe;
mod byte;
mod char;
mod configured;
mod hugging_face;
mod spelling;
mod stream;
#[cfg(test)]
mod tests;
pub mod train;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use bpe::Pattern;
pub(crate) use bpe::ranges;
pub use char::CharTokenizer;
pub(crate) use configured::configured;
pub use hugging_face::{Engine, HuggingFace};
pub use stream::TextStream;

/// The spelling of the document end where a token must be shown; GPT-2's.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// Text to token ids and back.
///
/// As JSON the first two are `{"type": "char", "characters": "\nabc", "end_of_document": true}` and
/// `{"type": "byte"}`; ids follow from that, so a saved tokenizer cannot contradict itself. Hugging Face's is its file,
/// byte for byte, so that `transformers` reads a checkpoint with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// A token a character.
    Char(CharTokenizer),
    /// A token a byte of UTF-8: ids 0 to 255, and 256 the document end.
    Byte,
    /// A `tokenizer.json` of Hugging Face.
    HuggingFace(HuggingFace),
}

/// The saved form of ours.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Saved {
    Char { characters: String, end_of_document: bool },
    Byte {},
}

impl Tokenizer {
    /// Reads a tokenizer's file: a `tokenizer.json` of Hugging Face, or one that lmc saved.
    ///
    /// # Errors
    /// If the file cannot be read or is neither.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        if path.is_dir() {
            let shown = path.display();
            return Err(Error::input(format!(
                "the tokenizer {shown} is a folder; give its file, {shown}/tokenizer.json"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| Error::cannot_read("the tokenizer", path, &error))?;
        let json = String::from_utf8(bytes)
            .map_err(|_| Error::input(format!("{} is not a tokenizer: it is not UTF-8 text", path.display())))?;
        Tokenizer::from_json(path, &json)
    }

    /// Number of tokens, the document end included; ids are below this.
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Char(chars) => chars.characters().len() + usize::from(chars.end_of_document),
            Tokenizer::Byte => byte::END as usize + 1,
            Tokenizer::HuggingFace(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// The id of the document end, which also begins every document. A character vocabulary of a running text has
    /// none, nor has a tokenizer of Hugging Face where no special token, or more than one, has a name for it.
    pub fn end_of_document(&self) -> Option<u32> {
        match self {
            Tokenizer::Char(chars) => chars.end_id(),
            Tokenizer::Byte => Some(byte::END),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.end_of_document(),
        }
    }

    /// This tokenizer with `token` as its document end; with `None`, with the one it has a special token for.
    ///
    /// # Errors
    /// If there is no such token, or several may be meant, or for characters and bytes, whose end is given.
    pub fn with_end_of_document(&self, token: Option<&str>) -> Result<Tokenizer> {
        match (self, token) {
            (Tokenizer::HuggingFace(tokenizer), token) => {
                Ok(Tokenizer::HuggingFace(tokenizer.with_end_of_document(token)?))
            }
            (Tokenizer::Char(_) | Tokenizer::Byte, None) => Ok(self.clone()),
            (Tokenizer::Char(_) | Tokenizer::Byte, Some(_)) => {
                Err(Error::input("the tokenizers \"char\" and \"byte\" have a document end of their own"))
            }
        }
    }

    /// This tokenizer with `id` as its document end, which `None` leaves as it is; that of characters and bytes is given.
    pub(crate) fn with_end_of_document_id(&self, id: Option<u32>) -> Tokenizer {
        match (self, id) {
            (Tokenizer::HuggingFace(tokenizer), Some(id)) => {
                Tokenizer::HuggingFace(tokenizer.with_end_of_document_id(id))
            }
            (Tokenizer::HuggingFace(_) | Tokenizer::Char(_) | Tokenizer::Byte, _) => self.clone(),
        }
    }

    /// The id of a token of Hugging Face's, by its text in the file.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match self {
            Tokenizer::HuggingFace(tokenizer) => tokenizer.whole().token_to_id(token),
            Tokenizer::Char(_) | Tokenizer::Byte => None,
        }
    }

    /// The ids of a text, without document ends.
    ///
    /// # Errors
    /// A character that is not in the vocabulary is named, with its position.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len());
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of a text.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match self {
            Tokenizer::Byte => byte::encode_into(text, ids),
            Tokenizer::Char(chars) => chars.encode_into(text, ids)?,
            Tokenizer::HuggingFace(tokenizer) => tokenizer.encode_into(text, ids)?,
        }
        Ok(())
    }

    /// The ids of a text that begins: with the special tokens that a `tokenizer.json` says such a text has, often one for
    /// the beginning; with the document end, which begins documents too, for characters and bytes.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_beginning(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Tokenizer::HuggingFace(tokenizer) => tokenizer.encode_beginning(text),
            Tokenizer::Char(_) | Tokenizer::Byte => {
                let mut ids: Vec<u32> = self.end_of_document().into_iter().collect();
                self.encode_into(text, &mut ids)?;
                Ok(ids)
            }
        }
    }

    /// What generation begins with for a prompt: the document end if there is one, then the prompt. Without a document
    /// end an empty prompt is a line break if the vocabulary has it, as in nanoGPT, else the first token.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<i32>> {
        let mut ids: Vec<u32> = self.end_of_document().into_iter().collect();
        let in_prompt = |error| Error::input(format!("in the prompt {prompt:?}: {error}"));
        self.encode_into(prompt, &mut ids).map_err(in_prompt)?;
        if ids.is_empty() {
            // The document end of the others is a token; so only characters may lack the line break.
            _ = self.encode_into("\n", &mut ids);
            if ids.is_empty() {
                ids.push(0);
            }
        }
        Ok(ids.into_iter().map(u32::cast_signed).collect())
    }

    /// The text of ids. Document ends, other special tokens, and ids outside the vocabulary (of a padded embedding),
    /// give nothing; bytes that are not UTF-8 give U+FFFD. For tokens that come one by one see [`TextStream`].
    pub fn decode(&self, ids: &[i32]) -> String {
        match self {
            Tokenizer::Byte => byte::decode(ids),
            Tokenizer::Char(chars) => chars.decode(ids),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.decode(ids),
        }
    }

    /// The text of ids that come behind others: some tokenizers write a token's space by what stands before it.
    pub fn decode_behind(&self, before: &[i32], ids: &[i32]) -> String {
        let all = self.decode(&[before, ids].concat());
        match all.strip_prefix(&self.decode(before)) {
            Some(new) => new.to_owned(),
            // What stands before ends within a character, which goes on here.
            None => self.decode(ids),
        }
    }

    /// The saved form: JSON with a line break at the end, or Hugging Face's file as it was.
    pub fn to_json(&self) -> String {
        let saved = match self {
            Tokenizer::Byte => Saved::Byte {},
            Tokenizer::Char(chars) => {
                Saved::Char { characters: chars.characters().iter().collect(), end_of_document: chars.end_of_document }
            }
            Tokenizer::HuggingFace(tokenizer) => return tokenizer.json().to_owned(),
        };
        format!("{}\n", serde_json::json!(saved))
    }

    /// Reads the saved form. `path` names the file in errors.
    ///
    /// # Errors
    /// If it is neither JSON that `to_json` writes, with characters that are sorted and distinct, nor a
    /// `tokenizer.json` of Hugging Face.
    pub fn from_json(path: &Path, json: &str) -> Result<Tokenizer> {
        let fail = |reason: String| Error::input(format!("{} is not a saved tokenizer: {reason}", path.display()));
        let value: serde_json::Value = serde_json::from_str(json).map_err(|error| fail(error.to_string()))?;
        // Hugging Face's file has no type at the top, and always a model.
        if value.get("type").is_none() && value.get("model").is_some() {
            let tokenizer = HuggingFace::new(json.to_owned(), &value).map_err(|reason| {
                Error::input(format!("{} is not a tokenizer of Hugging Face: {reason}", path.display()))
            })?;
            return Ok(Tokenizer::HuggingFace(tokenizer));
        }
        match Saved::deserialize(&value).map_err(|error| fail(error.to_string()))? {
            Saved::Byte {} => Ok(Tokenizer::Byte),
            Saved::Char { characters, end_of_document } => {
                let chars =
                    CharTokenizer::new(characters.chars(), end_of_document).map_err(|error| fail(error.to_string()))?;
                if !chars.characters().iter().copied().eq(characters.chars()) {
                    return Err(fail("its characters are not sorted and distinct".to_owned()));
                }
                Ok(Tokenizer::Char(chars))
            }
        }
    }
}
