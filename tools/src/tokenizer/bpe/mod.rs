//! A byte-level BPE encoder that gives the ids of the crate `tokenizers`, many times faster.
//!
//! It takes the `tokenizer.json` files whose form it knows (byte-level BPE with one of a few splitting regexes) and
//! refuses all others with the reason. What makes it fast: scanners in place of a regex engine, a table of words seen
//! before, and nothing but ids as the result: no offsets, no strings.

mod classes;
mod hash;
mod merge;
mod split;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use classes::ranges;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use unicode_normalization_alignments::{UnicodeNormalization, is_nfc};

pub(crate) use hash::BuildFold;
pub use split::Pattern;
pub(crate) use split::{GPT2, LLAMA3, QWEN2};
pub(crate) use words::Words;

use merge::{Merge, Merges};
use split::SPELLINGS;

/// The encoder of one `tokenizer.json`.
#[derive(Debug)]
pub(crate) struct ByteLevelBpe {
    pattern: Pattern,
    /// The id of every byte.
    bytes: [u32; 256],
    merges: Merges,
    /// With `ignore_merges`, every token by its bytes: a word that is a token is that, whatever its merges say.
    whole_words: Option<HashMap<Box<[u8]>, u32, BuildFold>>,
    add_prefix_space: bool,
    /// Whether text is first brought to Unicode's normal form C.
    nfc: bool,
    /// Tokens that are found in the text as it is.
    added: AddedTokens,
    /// Tokens that are found in the normalized text.
    normalized: AddedTokens,
}

/// Tokens that are looked for before words.
#[derive(Debug, Default)]
struct AddedTokens {
    finder: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl AddedTokens {
    fn new(tokens: Vec<(String, u32)>) -> Result<AddedTokens, String> {
        if tokens.is_empty() {
            return Ok(AddedTokens::default());
        }
        let (texts, ids): (Vec<String>, Vec<u32>) = tokens.into_iter().unzip();
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        let finder = finder.map_err(|error| format!("its added tokens cannot be searched for: {error}"))?;
        Ok(AddedTokens { finder: Some(finder), ids })
    }

    /// Cuts a text at the tokens: hands pieces between them to `piece`, and their ids to it as `Err`.
    fn cut<'t>(&self, text: &'t str, mut piece: impl FnMut(Result<&'t str, u32>)) {
        let mut at = 0;
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            if at < found.start() {
                piece(Ok(&text[at..found.start()]));
            }
            piece(Err(self.ids[found.pattern().as_usize()]));
            at = found.end();
        }
        if at < text.len() {
            piece(Ok(&text[at..]));
        }
    }
}

/// The byte of a character of the byte-level alphabet: printable bytes of Latin-1 are themselves, the others follow
/// from U+0100 on.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x143 => (0..=255).filter(|&byte| !is_printable(byte)).nth(code as usize - 0x100),
        _ => None,
    }
}

/// The byte-level alphabet: the character of every byte.
pub(crate) fn alphabet() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match u8::try_from(byte) {
        Ok(byte) if is_printable(byte) => char::from(byte),
        _ => others.next().expect("there are characters beyond U+0100"),
    })
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The bytes that a token stands for; `None` for one that is not written in the byte-level alphabet.
pub(crate) fn bytes_of(token: &str) -> Option<Box<[u8]>> {
    token.chars().map(byte_of).collect()
}

impl ByteLevelBpe {
    /// Takes a `tokenizer.json`.
    ///
    /// # Errors
    /// The reason why it is not of the form that is known.
    pub(crate) fn from_json(json: &Value) -> Result<ByteLevelBpe, String> {
        let nfc = normal_form(&json["normalizer"])?;
        let (pattern, add_prefix_space) = splitting(&json["pre_tokenizer"])?;
        let model = &json["model"];
        expect(model, "type", |kind| kind == "BPE" || kind.is_null(), "its model is not a BPE")?;
        expect(model, "dropout", |p| p.is_null() || p.as_f64() == Some(0.0), "it drops merges by chance")?;
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            let none = |value: &Value| value.is_null() || value == "";
            expect(model, key, none, "it marks the pieces of words")?;
        }
        let vocabulary = model["vocab"].as_object().ok_or("it has no vocabulary")?;
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(vocabulary.len());
        let mut distinct = HashSet::with_capacity(vocabulary.len());
        for (token, id) in vocabulary {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("an id of its vocabulary is no number")?;
            if id >= u32::MAX - 1 || !distinct.insert(id) {
                return Err(format!("the id {id} of its vocabulary has two tokens or is too large"));
            }
            ids.insert(token, id);
        }
        let mut bytes = [0; 256];
        for (byte, c) in alphabet().into_iter().enumerate() {
            bytes[byte] = *ids.get(c.encode_utf8(&mut [0; 4]) as &str).ok_or("not every byte is a token")?;
        }
        let merges = read_merges(&model["merges"], &ids)?;
        let whole_words = match model["ignore_merges"].as_bool() {
            Some(true) => Some(ids.iter().filter_map(|(token, &id)| Some((bytes_of(token)?, id))).collect()),
            Some(false) | None => None,
        };
        let (added, normalized) = read_added(&json["added_tokens"], &ids, nfc)?;
        Ok(ByteLevelBpe { pattern, bytes, merges, whole_words, add_prefix_space, nfc, added, normalized })
    }

    /// Appends the ids of a text.
    pub(crate) fn encode_into(&self, text: &str, words: &mut Words, out: &mut Vec<u32>) {
        self.added.cut(text, |piece| match piece {
            Err(id) => out.push(id),
            Ok(piece) => {
                let piece = if self.nfc { to_nfc(piece) } else { Cow::Borrowed(piece) };
                self.normalized.cut(&piece, |piece| match piece {
                    Err(id) => out.push(id),
                    Ok(piece) => self.encode_piece(piece, words, out),
                });
            }
        });
    }

    fn encode_piece(&self, piece: &str, words: &mut Words, out: &mut Vec<u32>) {
        let prefixed;
        let text = if self.add_prefix_space && !piece.starts_with(' ') {
            prefixed = format!(" {piece}");
            prefixed.as_bytes()
        } else {
            piece.as_bytes()
        };
        self.pattern.split(text, |start, end| {
            words.get(text, start, end, out, |word, scratch, out| {
                if let Some(id) = self.whole_words.as_ref().and_then(|tokens| tokens.get(word)) {
                    return out.push(*id);
                }
                self.merges.apply(word.iter().map(|&byte| self.bytes[usize::from(byte)]), scratch, out);
            });
        });
    }
}

/// Refuses a value of `object` that does not hold.
fn expect(object: &Value, key: &str, holds: impl Fn(&Value) -> bool, reason: &str) -> Result<(), String> {
    match holds(&object[key]) {
        true => Ok(()),
        false => Err(format!("{reason} (`{key}` is {})", shown(&object[key]))),
    }
}

/// The beginning of a value, for messages.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether a normalizer is NFC, or none at all.
fn normal_form(normalizer: &Value) -> Result<bool, String> {
    match normalizer["type"].as_str() {
        None if normalizer.is_null() => Ok(false),
        Some("NFC") => Ok(true),
        Some("Sequence") => match normalizer["normalizers"].as_array().map(Vec::as_slice) {
            Some([]) => Ok(false),
            Some([one]) => normal_form(one),
            Some(_) | None => Err(format!("its normalizer is {}", shown(normalizer))),
        },
        Some(_) | None => Err(format!("its normalizer is {}", shown(normalizer))),
    }
}

/// The splitting regex of a pre-tokenizer, and whether a text gets a space in front.
fn splitting(pre_tokenizer: &Value) -> Result<(Pattern, bool), String> {
    let unknown = || format!("its pre-tokenizer is {}", shown(pre_tokenizer));
    let steps = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().ok_or_else(unknown)?.as_slice(),
        Some(_) => std::slice::from_ref(pre_tokenizer),
        None => return Err("it has no byte-level pre-tokenizer".to_owned()),
    };
    let flag = |step: &Value, key| step[key].as_bool();
    match steps {
        [bytes] if bytes["type"] == "ByteLevel" && flag(bytes, "use_regex") != Some(false) => {
            Ok((Pattern::Gpt2, flag(bytes, "add_prefix_space").ok_or_else(unknown)?))
        }
        [split, bytes]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && flag(split, "invert") == Some(false)
                && bytes["type"] == "ByteLevel"
                && flag(bytes, "use_regex") == Some(false)
                && flag(bytes, "add_prefix_space") == Some(false) =>
        {
            let regex = &split["pattern"]["Regex"];
            let known = SPELLINGS.into_iter().find(|(spelling, _)| regex == spelling);
            let (_, pattern) = known.ok_or_else(|| format!("its splitting regex is not a known one: {regex}"))?;
            Ok((pattern, false))
        }
        _ => Err(unknown()),
    }
}

/// The merges, written as `"a b"` or as `["a", "b"]`.
fn read_merges(merges: &Value, ids: &HashMap<&str, u32>) -> Result<Merges, String> {
    let list = merges.as_array().ok_or("it has no merges")?;
    let mut table = Merges::default();
    let mut joined = String::new();
    for (rank, merge) in (0..).zip(list) {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        let (left, right) = pair.ok_or_else(|| format!("its merge {rank} is not a pair: {}", shown(merge)))?;
        joined.clear();
        joined.extend([left, right]);
        let id = |token: &str| {
            ids.get(token).copied().ok_or_else(|| format!("its merge {rank} has {token:?}, which is no token"))
        };
        table.insert(id(left)?, id(right)?, Merge { rank, id: id(&joined)? });
    }
    Ok(table)
}

/// The added tokens that are found in the text as it is, and those in the normalized text.
fn read_added(tokens: &Value, ids: &HashMap<&str, u32>, nfc: bool) -> Result<(AddedTokens, AddedTokens), String> {
    let (mut plain, mut normalized) = (Vec::new(), Vec::new());
    for token in tokens.as_array().into_iter().flatten() {
        let content = token["content"].as_str().ok_or("an added token has no content")?;
        for key in ["single_word", "lstrip", "rstrip"] {
            expect(token, key, |flag| flag == false, &format!("its added token {content:?} takes its surroundings"))?;
        }
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or("an added token has no id")?;
        // Where these differ, the crate goes by the vocabulary and by order.
        if ids.get(content).is_some_and(|&known| known != id) {
            return Err(format!("its added token {content:?} has another id than in the vocabulary"));
        }
        if content.is_empty() {
            continue;
        }
        match token["normalized"].as_bool() {
            Some(false) => plain.push((content.to_owned(), id)),
            Some(true) => normalized.push((if nfc { to_nfc(content).into_owned() } else { content.to_owned() }, id)),
            None => return Err(format!("its added token {content:?} does not say whether it is normalized")),
        }
    }
    Ok((AddedTokens::new(plain)?, AddedTokens::new(normalized)?))
}

/// A text in Unicode's normal form C, of the version of Unicode that the crate `tokenizers` normalizes by.
fn to_nfc(text: &str) -> Cow<'_, str> {
    match text.is_ascii() || is_nfc(text) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.nfc().map(|(c, _)| c).collect()),
    }
}
