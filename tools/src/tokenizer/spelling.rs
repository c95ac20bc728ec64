//! Single tokens, as what they spell: a token may be a part of a character, and a special one has a name.

use serde_json::Value;

use super::{END_OF_DOCUMENT, Tokenizer, bpe, byte};

impl Tokenizer {
    /// The bytes that a token stands for, those of its name if it is special; nothing outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match self {
            Tokenizer::Byte => match u8::try_from(id) {
                Ok(byte) => vec![byte],
                Err(_) if id == byte::END => END_OF_DOCUMENT.into(),
                Err(_) => Vec::new(),
            },
            Tokenizer::Char(chars) => match chars.characters().get(id as usize) {
                Some(character) => character.to_string().into_bytes(),
                None if chars.end_id() == Some(id) => END_OF_DOCUMENT.into(),
                None => Vec::new(),
            },
            Tokenizer::HuggingFace(tokenizer) => tokenizer.token_bytes(id),
        }
    }

    /// The same as text; bytes that are a part of a character only give U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }
}

/// Whether the decoder of a `tokenizer.json` takes tokens to be written in the byte-level alphabet.
pub(super) fn is_byte_level(decoder: &Value) -> bool {
    decoder["type"] == "ByteLevel" || decoder["decoders"].as_array().is_some_and(|all| all.iter().any(is_byte_level))
}

/// The bytes of a token that is spelt as SentencePiece does: with `▁` for a space, and single bytes as `<0xE2>`.
pub(super) fn sentence_piece_bytes(token: &str) -> Vec<u8> {
    let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match byte.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => token.replace('▁', " ").into_bytes(),
    }
}

/// The bytes of a token that is written in the byte-level alphabet; those of its letters if it is not.
pub(super) fn byte_level_bytes(token: &str) -> Vec<u8> {
    bpe::bytes_of(token).map_or_else(|| token.as_bytes().to_vec(), Vec::from)
}
