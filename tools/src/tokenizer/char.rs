//! A token a character.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Result};

/// A token a character: the sorted distinct characters of a training text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharTokenizer {
    /// Sorted and distinct; the id of a character is its position.
    characters: Vec<char>,
    ids: HashMap<char, u32>,
    /// Whether the id after the last character is the document end.
    pub(super) end_of_document: bool,
}

/// The most characters of a vocabulary: with the document end its ids fit into two bytes.
const MOST_CHARACTERS: usize = u16::MAX as usize;

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

    /// The id of a character.
    pub(super) fn id(&self, c: char) -> Option<u32> {
        self.ids.get(&c).copied()
    }

    /// The id after the last character, if it is the document end.
    pub(super) fn end_id(&self) -> Option<u32> {
        u32::try_from(self.characters.len()).ok().filter(|_| self.end_of_document)
    }

    pub(super) fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        for (at, c) in text.char_indices() {
            let Some(id) = self.id(c) else { return Err(self.unknown(text, at, c)) };
            ids.push(id);
        }
        Ok(())
    }

    pub(super) fn decode(&self, ids: &[i32]) -> String {
        ids.iter().filter_map(|&id| self.characters.get(usize::try_from(id).ok()?)).collect()
    }

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
