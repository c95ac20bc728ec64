//! The tokenizers of Hugging Face: any `tokenizer.json` by the crate `tokenizers`, byte-level BPEs faster by our own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::bpe::{ByteLevelBpe, Words};
use super::spelling::{byte_level_bytes, is_byte_level, sentence_piece_bytes};
use crate::error::{Error, Result};
use crate::guarded::guarded;

/// A `tokenizer.json` of Hugging Face; a clone shares it.
#[derive(Clone)]
pub struct HuggingFace {
    file: Arc<File>,
    end_of_document: Option<u32>,
}

/// What follows from the file.
struct File {
    json: String,
    whole: tokenizers::Tokenizer,
    bpe: Result<ByteLevelBpe, String>,
    vocab_size: usize,
    /// Whether its tokens are written in the byte-level alphabet.
    byte_level: bool,
    /// The special tokens, in the order of their ids.
    special: Vec<(String, u32)>,
    /// Words that threads remembered, for the next one to use.
    idle: Mutex<Vec<Words>>,
}

/// What encodes a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// lmc's byte-level BPE.
    ByteLevelBpe,
    /// The crate `tokenizers`, and why.
    Crate(String),
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::ByteLevelBpe => f.write_str("lmc's byte-level BPE encoder"),
            Engine::Crate(reason) => write!(f, "the crate `tokenizers`, which is slower: {reason}"),
        }
    }
}

/// Names that tokenizers have for the end of a document. Those for the end of a turn (`<|im_end|>`, `<|eot_id|>`) end
/// something else.
const ENDS: [&str; 9] = [
    super::END_OF_DOCUMENT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<|eos|>",
    "<EOS>",
    "<｜end▁of▁sentence｜>",
    "<|end▁of▁sentence|>",
];

impl HuggingFace {
    /// Takes the text of a `tokenizer.json`, and the same as a value.
    pub(super) fn new(json: String, value: &Value) -> Result<HuggingFace, String> {
        check_merges(&value["model"])?;
        check_templates(&value["post_processor"])?;
        let mut whole: tokenizers::Tokenizer =
            guarded(|| json.parse())?.map_err(|error: tokenizers::Error| error.to_string())?;
        // What a model can take at a time is no matter of its tokenizer here: a document is all of its tokens.
        whole.with_truncation(None).map_err(|error| error.to_string())?;
        whole.with_padding(None);
        let vocabulary = whole.get_vocab(true);
        let largest = vocabulary.values().copied().max().ok_or("it has no tokens")?;
        if largest > i32::MAX.cast_unsigned() {
            return Err(format!("its largest id is {largest}; ids are 31 bits"));
        }
        let added = whole.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special: Vec<_> = special.map(|(&id, token)| (token.content.clone(), id)).collect();
        special.sort_unstable_by_key(|&(_, id)| id);
        let bpe = agree_on_added(value, &whole).and_then(|()| ByteLevelBpe::from_json(value));
        let (vocab_size, byte_level) = (largest as usize + 1, is_byte_level(&value["decoder"]));
        let file = File { json, whole, bpe, vocab_size, byte_level, special, idle: Mutex::default() };
        let end_of_document = match file.ends().as_slice() {
            [(_, id)] => Some(*id),
            _ => None,
        };
        Ok(HuggingFace { file: Arc::new(file), end_of_document })
    }

    /// The file's text.
    pub fn json(&self) -> &str {
        &self.file.json
    }

    /// What encodes texts.
    pub fn engine(&self) -> Engine {
        match &self.file.bpe {
            Ok(_) => Engine::ByteLevelBpe,
            Err(reason) => Engine::Crate(reason.clone()),
        }
    }

    /// The tokenizer as the crate has it.
    pub fn whole(&self) -> &tokenizers::Tokenizer {
        &self.file.whole
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.file.vocab_size
    }

    pub(super) fn end_of_document(&self) -> Option<u32> {
        self.end_of_document
    }

    pub(super) fn with_end_of_document(&self, token: Option<&str>) -> Result<HuggingFace> {
        let list = |tokens: &[&str]| tokens.iter().map(|token| format!("{token:?}")).collect::<Vec<_>>().join(", ");
        let end_of_document = match (token, self.file.ends().as_slice()) {
            (Some(token), _) => Some(self.file.whole.token_to_id(token).ok_or_else(|| {
                let special: Vec<&str> = self.file.special.iter().map(|(token, _)| token.as_str()).take(16).collect();
                let known = if special.is_empty() { "none".to_owned() } else { list(&special) };
                Error::input(format!(
                    "the tokenizer has no token {token:?} to end documents with; its special tokens: {known}"
                ))
            })?),
            (None, []) => None,
            (None, [(_, id)]) => Some(*id),
            (None, several) => {
                let several: Vec<&str> = several.iter().map(|(token, _)| *token).collect();
                return Err(Error::input(format!(
                    "the tokenizer has several special tokens that may end a document: {}; say which one is meant \
                     (`data.end_of_document` of a config, --end-of-document of `lmc tokenize`)",
                    list(&several)
                )));
            }
        };
        Ok(HuggingFace { file: Arc::clone(&self.file), end_of_document })
    }

    pub(super) fn with_end_of_document_id(&self, id: u32) -> HuggingFace {
        HuggingFace { file: Arc::clone(&self.file), end_of_document: Some(id) }
    }

    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let Ok(bpe) = &self.file.bpe else {
            ids.extend(self.encode_by_crate(text, false)?);
            return Ok(());
        };
        // Nothing that panics holds the lock, and what it guards cannot be half-made.
        let idle = || self.file.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = idle().pop().unwrap_or_default();
        bpe.encode_into(text, &mut words, ids);
        idle().push(words);
        Ok(())
    }

    /// With the special tokens that the file's post-processor adds.
    pub(super) fn encode_beginning(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_by_crate(text, true)
    }

    /// Also where the file has what the crate does not expect, such as a normalizer that puts nothing before a text.
    fn encode_by_crate(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.file.whole.encode_fast(text, special));
        let encoding = encoding.and_then(|encoding| encoding.map_err(|error| error.to_string()));
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|reason| {
            let beginning: String = text.chars().take(40).collect();
            Error::input(format!("the tokenizer cannot encode the text that begins with {beginning:?}: {reason}"))
        })
    }

    pub(super) fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.file.whole.id_to_token(id) else { return Vec::new() };
        if self.file.whole.get_added_tokens_decoder().contains_key(&id) {
            return token.into_bytes();
        }
        if self.file.byte_level { byte_level_bytes(&token) } else { sentence_piece_bytes(&token) }
    }

    pub(super) fn decode(&self, ids: &[i32]) -> String {
        let known = |id: &i32| u32::try_from(*id).ok().filter(|&id| (id as usize) < self.file.vocab_size);
        let ids: Vec<u32> = ids.iter().filter_map(known).collect();
        // No decoder of the crate fails on tokens of the vocabulary; should one, then its text is what it is: unknown.
        let text = guarded(|| self.file.whole.decode(&ids, true));
        text.ok().and_then(Result::ok).unwrap_or_else(|| "\u{FFFD}".to_owned())
    }
}

impl File {
    /// The special tokens that may be the document end.
    fn ends(&self) -> Vec<(&str, u32)> {
        let ends = self.special.iter().filter(|(token, _)| ENDS.contains(&token.as_str()));
        ends.map(|(token, id)| (token.as_str(), *id)).collect()
    }
}

/// Refuses a BPE whose merges join what is no token, which the crate does not expect.
fn check_merges(model: &Value) -> Result<(), String> {
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (rank, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => pair.first().and_then(Value::as_str).zip(pair.get(1).and_then(Value::as_str)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        let Some((left, right)) = pair else { return Err(format!("its merge {rank} is not a pair of tokens")) };
        let joined = right.get(prefix.len()..).map(|right| format!("{left}{right}"));
        let known = |token: &str| vocabulary.contains_key(token);
        if !known(left) || !known(right) || !joined.is_some_and(|joined| known(&joined)) {
            return Err(format!("its merge {rank}, of {left:?} and {right:?}, has or makes what is no token"));
        }
    }
    Ok(())
}

/// Refuses templates of special tokens around a text that name a token or a text which is not there, which the crate finds
/// out when it encodes.
fn check_templates(processor: &Value) -> Result<(), String> {
    for processor in processor["processors"].as_array().into_iter().flatten() {
        check_templates(processor)?;
    }
    let tokens = processor["special_tokens"].as_object();
    for (template, texts) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        for piece in processor[template].as_array().into_iter().flatten() {
            let id = |kind: &str| piece[kind]["id"].as_str();
            if let Some(token) = id("SpecialToken").filter(|&id| !tokens.is_some_and(|tokens| tokens.contains_key(id)))
            {
                return Err(format!("its template `{template}` has {token:?}, which `special_tokens` does not tell"));
            }
            if let Some(text) = id("Sequence").filter(|text| !texts.contains(text)) {
                return Err(format!("its template `{template}` has the text {text:?}, of {}", texts.join(" and ")));
            }
        }
    }
    Ok(())
}

/// Whether the crate gives the added tokens the ids that the file has: it numbers those that the model lacks itself.
fn agree_on_added(value: &Value, whole: &tokenizers::Tokenizer) -> Result<(), String> {
    for token in value["added_tokens"].as_array().into_iter().flatten() {
        let (content, id) = (token["content"].as_str().unwrap_or_default(), token["id"].as_u64());
        if !content.is_empty() && whole.token_to_id(content).map(u64::from) != id {
            return Err(format!("its added token {content:?} has an id out of order"));
        }
    }
    Ok(())
}

impl fmt::Debug for HuggingFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (engine, end) = (self.engine(), self.end_of_document);
        f.debug_struct("HuggingFace")
            .field("bytes", &self.file.json.len())
            .field("vocab_size", &self.file.vocab_size)
            .field("end_of_document", &end)
            .field("engine", &engine)
            .finish()
    }
}

impl PartialEq for HuggingFace {
    fn eq(&self, other: &HuggingFace) -> bool {
        (&self.file.json, self.end_of_document) == (&other.file.json, other.end_of_document)
    }
}

impl Eq for HuggingFace {}
