//! Tokenizers that need no file of their own: characters and bytes.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The spelling of the document end where a token must be shown; GPT-2's.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// Text to token ids and back.
///
/// As JSON it is `{"type": "char", "characters": "\nabc", "end_of_document": true}` or `{"type": "byte"}`; ids follow
/// from that, so a saved tokenizer cannot contradict itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenizer {
    /// A token a character.
    Char(CharTokenizer),
    /// A token a byte of UTF-8: ids 0 to 255, and 256 the document end.
    Byte,
}

/// A token a character: the sorted distinct characters of a training text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharTokenizer {
    /// Sorted and distinct; the id of a character is its position.
    characters: Vec<char>,
    ids: HashMap<char, u32>,
    /// Whether the id after the last character is the document end.
    end_of_document: bool,
}

/// The saved form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Saved {
    Char { characters: String, end_of_document: bool },
    Byte {},
}

/// The most characters of a vocabulary: with the document end its ids fit into two bytes.
const MOST_CHARACTERS: usize = u16::MAX as usize;

/// Id of the document end of the byte tokenizer: the first after the bytes.
const BYTE_END: u32 = 256;

impl CharTokenizer {
    /// The tokenizer of these characters, in any order and repeated as they are in a text.
    ///
    /// # Errors
    /// If there are none, or more than 65,535 distinct ones.
    pub fn new(characters: impl IntoIterator<Item = char>, end_of_document: bool) -> Result<CharTokenizer> {
        // Nearly all characters of most texts are ASCII: a table for those spares the tree a lookup a character.
        let mut ascii = [false; 128];
        let mut others = BTreeSet::new();
        for c in characters {
            match ascii.get_mut(c as usize) {
                Some(seen) => *seen = true,
                None => _ = others.insert(c),
            }
        }
        let ascii = (0u8..128).zip(ascii).filter(|(_, seen)| *seen).map(|(code, _)| char::from(code));
        let characters: Vec<char> = ascii.chain(others).collect();
        if characters.is_empty() {
            return Err(Error::input("the text has no characters to make a vocabulary of"));
        }
        if characters.len() > MOST_CHARACTERS {
            let count = characters.len();
            return Err(Error::input(format!(
                "the text has {count} distinct characters; \"char\" takes up to {MOST_CHARACTERS}, \"byte\" \
                 takes any text"
            )));
        }
        let ids = characters.iter().copied().zip(0u32..).collect();
        Ok(CharTokenizer { characters, ids, end_of_document })
    }

    /// The characters, sorted; the id of a character is its position.
    pub fn characters(&self) -> &[char] {
        &self.characters
    }
}

impl Tokenizer {
    /// Number of tokens, the document end included.
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Char(chars) => chars.characters.len() + usize::from(chars.end_of_document),
            Tokenizer::Byte => BYTE_END as usize + 1,
        }
    }

    /// The id of the document end, which also begins every document. A character vocabulary of a running text has none.
    pub fn end_of_document(&self) -> Option<u32> {
        match self {
            Tokenizer::Char(chars) => u32::try_from(chars.characters.len()).ok().filter(|_| chars.end_of_document),
            Tokenizer::Byte => Some(BYTE_END),
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
    pub(crate) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match self {
            Tokenizer::Byte => ids.extend(text.bytes().map(u32::from)),
            Tokenizer::Char(chars) => {
                for (at, c) in text.char_indices() {
                    let Some(&id) = chars.ids.get(&c) else { return Err(chars.unknown(text, at, c)) };
                    ids.push(id);
                }
            }
        }
        Ok(())
    }

    /// What generation begins with for a prompt: the document end if there is one, then the prompt. Without a document
    /// end an empty prompt is a line break if the vocabulary has it, as in nanoGPT, else the first character.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<i32>> {
        let mut ids: Vec<u32> = self.end_of_document().into_iter().collect();
        self.encode_into(prompt, &mut ids)
            .map_err(|error| Error::input(format!("in the prompt {prompt:?}: {error}")))?;
        if ids.is_empty()
            && let Tokenizer::Char(chars) = self
        {
            ids.push(chars.ids.get(&'\n').copied().unwrap_or(0));
        }
        Ok(ids.into_iter().map(u32::cast_signed).collect())
    }

    /// The text of ids. Document ends, and ids outside the vocabulary (of a padded embedding), give nothing; bytes that
    /// are not UTF-8 give U+FFFD.
    pub fn decode(&self, ids: &[i32]) -> String {
        match self {
            Tokenizer::Byte => {
                let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Tokenizer::Char(chars) => {
                ids.iter().filter_map(|&id| chars.characters.get(usize::try_from(id).ok()?)).collect()
            }
        }
    }

    /// The saved form, JSON with a line break at the end.
    pub fn to_json(&self) -> String {
        let saved = match self {
            Tokenizer::Byte => Saved::Byte {},
            Tokenizer::Char(chars) => {
                Saved::Char { characters: chars.characters.iter().collect(), end_of_document: chars.end_of_document }
            }
        };
        format!("{}\n", serde_json::json!(saved))
    }

    /// Reads the saved form. `path` names the file in errors.
    ///
    /// # Errors
    /// If it is not the JSON that `to_json` writes, or its characters are not sorted and distinct.
    pub fn from_json(path: &Path, json: &str) -> Result<Tokenizer> {
        let fail = |reason: String| Error::input(format!("{} is not a saved tokenizer: {reason}", path.display()));
        match serde_json::from_str(json).map_err(|error| fail(error.to_string()))? {
            Saved::Byte {} => Ok(Tokenizer::Byte),
            Saved::Char { characters, end_of_document } => {
                let chars =
                    CharTokenizer::new(characters.chars(), end_of_document).map_err(|error| fail(error.to_string()))?;
                if !chars.characters.iter().copied().eq(characters.chars()) {
                    return Err(fail("its characters are not sorted and distinct".to_owned()));
                }
                Ok(Tokenizer::Char(chars))
            }
        }
    }
}

impl CharTokenizer {
    fn unknown(&self, text: &str, at: usize, c: char) -> Error {
        let line = text[..at].matches('\n').count() + 1;
        let column = text[..at].chars().rev().take_while(|&c| c != '\n').count() + 1;
        Error::input(format!(
            "the character {c:?} (U+{:04X}) at line {line}, column {column} is not among the {} characters of \
             the vocabulary",
            u32::from(c),
            self.characters.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chars(text: &str, end: bool) -> Tokenizer {
        Tokenizer::Char(CharTokenizer::new(text.chars(), end).unwrap())
    }

    #[test]
    fn ids_are_positions_among_the_sorted_characters() {
        let tokenizer = chars("hello wörld", true);
        assert_eq!(tokenizer.encode("hö").unwrap(), [3, 8]);
        assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_document()), (10, Some(9)));
        assert_eq!(tokenizer.decode(&[9, 3, 8, 9, 77, -1]), "hö");
        assert_eq!((chars("ab", false).vocab_size(), chars("ab", false).end_of_document()), (2, None));
        assert_eq!(Tokenizer::Byte.encode("ö").unwrap(), [0xC3, 0xB6]);
        assert_eq!(Tokenizer::Byte.decode(&[0xC3, 256, 65]), "\u{FFFD}A");
    }

    #[test]
    fn prompts_begin_where_documents_do() {
        assert_eq!(chars("ab", true).encode_prompt("b").unwrap(), [2, 1]);
        assert_eq!(chars("ab", true).encode_prompt("").unwrap(), [2]);
        assert_eq!(chars("b\na", false).encode_prompt("").unwrap(), [0]);
        assert_eq!(chars("b\na", false).encode_prompt("ab").unwrap(), [1, 2]);
        assert_eq!(Tokenizer::Byte.encode_prompt("A").unwrap(), [256, 65]);
    }

    #[test]
    fn unknown_characters_are_named() {
        let error = chars("ab\n", true).encode_prompt("ab\naé").unwrap_err();
        assert!(error.message().contains("'é' (U+00E9) at line 2, column 2"), "{error}");
        assert!(CharTokenizer::new("".chars(), true).is_err());
    }

    #[test]
    fn saved_tokenizers_are_checked() {
        for (json, expected) in [
            ("{}", "missing field `type`"),
            ("{\"type\": \"bpe\"}", "unknown variant"),
            ("{\"type\": \"char\", \"characters\": \"ba\", \"end_of_document\": true}", "not sorted and distinct"),
            ("{\"type\": \"char\", \"characters\": \"\", \"end_of_document\": true}", "no characters"),
            ("{\"type\": \"byte\"", "EOF"),
        ] {
            let error = Tokenizer::from_json(Path::new("t.json"), json).unwrap_err();
            assert!(error.message().contains(expected), "expected {expected:?} in {error}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in "\\PC{1,40}", end: bool) {
            for tokenizer in [chars(&text, end), Tokenizer::Byte] {
                let ids: Vec<i32> = tokenizer.encode(&text).unwrap().into_iter().map(u32::cast_signed).collect();
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                prop_assert_eq!(tokenizer.decode(&ids), text.clone());
                let again = Tokenizer::from_json(Path::new("t.json"), &tokenizer.to_json()).unwrap();
                prop_assert_eq!(tokenizer, again);
            }
        }
    }
}
