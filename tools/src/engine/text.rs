//! The text of a generation as it grows: whole characters only, and an end at a stop string.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tokenizer::{TextStream, Tokenizer};

/// Strings that end a text, which does not show them. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    each: Arc<[StopString]>,
}

/// One stop string, as the automaton of Knuth, Morris and Pratt: matching costs a step a byte, whatever the string is.
#[derive(Debug)]
struct StopString {
    bytes: Box<[u8]>,
    /// For each length of a beginning, the length of the longest shorter beginning that it ends with.
    shorter: Box<[usize]>,
}

impl StopStrings {
    /// These strings; none of them ends no text.
    ///
    /// # Errors
    /// If one is empty, as that would end every text before it begins.
    pub fn new<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Result<StopStrings> {
        let each = strings.into_iter().map(|string| match string.as_ref() {
            "" => Err(Error::input("a stop string is empty")),
            string => Ok(StopString::new(string)),
        });
        Ok(StopStrings { each: each.collect::<Result<_>>()? })
    }
}

impl StopString {
    fn new(string: &str) -> StopString {
        let bytes: Box<[u8]> = string.as_bytes().into();
        let mut stop = StopString { shorter: vec![0; bytes.len() + 1].into(), bytes };
        for length in 1..stop.bytes.len() {
            stop.shorter[length + 1] = stop.next(stop.shorter[length], stop.bytes[length]);
        }
        stop
    }

    /// How long a beginning of the string a text ends with, after one that ended with `matched` bytes of it.
    fn next(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.bytes[matched] != byte {
            matched = self.shorter[matched];
        }
        if self.bytes[matched] == byte { matched + 1 } else { 0 }
    }
}

/// What a token added to a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPiece {
    /// Text that nothing later changes; empty while a character or a stop string may be incomplete.
    pub text: String,
    /// The stop string that is now complete, by its index: the text ends before it.
    pub stop: Option<usize>,
}

/// Tokens in, text out, up to a stop string wherever the borders of tokens fall.
///
/// Of several stop strings the one that is complete first counts, and of those complete at the same byte the longest:
/// the text does not depend on how it was cut into tokens. Text that may be the beginning of a stop string is held back
/// until that is decided.
#[derive(Debug)]
pub struct StoppingText<T> {
    stream: TextStream<T>,
    stops: StopStrings,
    /// For each stop string, how much of it the text ends with.
    matched: Vec<usize>,
    /// The end of the text, which may begin a stop string.
    held: String,
    stopped: bool,
}

impl<T: Deref<Target = Tokenizer>> StoppingText<T> {
    /// A text that goes on behind the tokens of a prompt, whose text is not given again; after none of them it begins.
    pub fn new(tokenizer: T, prompt: &[u32], stops: StopStrings) -> StoppingText<T> {
        let before: Vec<i32> = prompt.iter().copied().map(u32::cast_signed).collect();
        let matched = vec![0; stops.each.len()];
        let stream = TextStream::behind(tokenizer, &before);
        StoppingText { stream, stops, matched, held: String::new(), stopped: false }
    }

    /// Takes a token. After a stop string there is no more text.
    pub fn push(&mut self, token: u32) -> TextPiece {
        let new = self.stream.push(token.cast_signed());
        self.take(&new)
    }

    /// The text that was still held back, for a generation that ended otherwise than by a stop string.
    pub fn finish(&mut self) -> TextPiece {
        let new = self.stream.finish();
        let mut piece = self.take(&new);
        piece.text += &std::mem::take(&mut self.held);
        piece
    }

    fn take(&mut self, new: &str) -> TextPiece {
        if self.stopped {
            return TextPiece { text: String::new(), stop: None };
        }
        let before = self.held.len();
        self.held.push_str(new);
        for (at, byte) in new.bytes().enumerate() {
            for (stop, matched) in self.stops.each.iter().zip(&mut self.matched) {
                *matched = stop.next(*matched, byte);
            }
            let complete = self.stops.each.iter().enumerate().filter(|(i, stop)| self.matched[*i] == stop.bytes.len());
            if let Some((index, stop)) = complete.max_by_key(|(_, stop)| stop.bytes.len()) {
                // A match begins with a character's first byte, so what stands before it is whole.
                self.held.truncate(before + at + 1 - stop.bytes.len());
                self.stopped = true;
                return TextPiece { text: std::mem::take(&mut self.held), stop: Some(index) };
            }
        }
        let held_back = self.matched.iter().copied().max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - held_back);
        TextPiece { text: std::mem::replace(&mut self.held, rest), stop: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text of `tokens` of one byte each, the pieces joined by `|`, and the stop string that ended it.
    fn pieces(tokens: &[u8], stops: &[&str]) -> (String, Option<usize>) {
        let tokenizer = Tokenizer::Byte;
        let mut text = StoppingText::new(&tokenizer, &[], StopStrings::new(stops).unwrap());
        let mut pieces = Vec::new();
        for &token in tokens {
            let piece = text.push(u32::from(token));
            pieces.push(piece.text);
            if piece.stop.is_some() {
                assert_eq!(text.push(u32::from(b'x')), TextPiece { text: String::new(), stop: None });
                return (pieces.join("|"), piece.stop);
            }
        }
        let rest = text.finish();
        pieces.push(rest.text);
        (pieces.join("|"), rest.stop)
    }

    #[test]
    fn a_text_ends_before_a_stop_string() {
        for (text, stops, expected) in [
            ("abc", &[][..], ("a|b|c|", None)),
            ("abc", &["b"], ("a|", Some(0))),
            // Held back until it is decided.
            ("abcab", &["abd"], ("||abc|||ab", None)),
            ("xabd", &["abd"], ("x|||", Some(0))),
            // Beginnings within beginnings.
            ("aaab", &["aab"], ("||a|", Some(0))),
            ("ababac", &["abac"], ("|||ab||", Some(0))),
            // The one that is complete first, and the longest of those that are complete together.
            ("xabc", &["abc", "b"], ("x||a", Some(1))),
            ("xab", &["b", "ab"], ("x||", Some(1))),
            ("xab", &["ab", "ab"], ("x||", Some(1))),
            // Characters of several bytes; the last one is also the beginning of no stop string.
            ("aé", &["é"], ("a||", Some(0))),
            ("aéè", &["éè"], ("a||||", Some(0))),
            ("aé", &["è"], ("a||é|", None)),
            ("", &["a"], ("", None)),
        ] {
            let (text_pieces, stop) = pieces(text.as_bytes(), stops);
            assert_eq!((text_pieces.as_str(), stop), expected, "{text:?} with {stops:?}");
        }
        // A stop string that the end of the text completes: a character without its end is U+FFFD.
        assert_eq!(pieces(b"a\xE2", &["\u{FFFD}"]), ("a||".to_owned(), Some(0)));
        assert_eq!(StopStrings::new(["a", ""]).unwrap_err().message(), "a stop string is empty");
    }

    /// The text before the stop string that is complete first, found the plain way.
    fn stopped_at(text: &str, stops: &[String]) -> (String, Option<usize>) {
        for end in 0..=text.len() {
            let complete =
                stops.iter().enumerate().filter(|(_, stop)| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some((index, stop)) = complete.max_by_key(|(_, stop)| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_text_before_the_stop_string(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,5}", 0..4),
        ) {
            let stop_strings: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (text_pieces, stop) = pieces(text.as_bytes(), &stop_strings);
            prop_assert_eq!((text_pieces.replace('|', ""), stop), stopped_at(&text, &stops));
        }
    }
}
