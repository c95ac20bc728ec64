//! Text of tokens that come one by one.

use std::ops::Deref;

use super::Tokenizer;

/// Tokens in, text out as soon as it is whole: a character of several bytes may be spread over several tokens, and some
/// tokenizers write a token's space by what stands before it.
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    /// The tokens whose text was given last: what the next ones are decoded behind.
    before: Vec<i32>,
    /// Tokens whose text is not all given.
    pending: Vec<i32>,
    /// Bytes of that text that are given.
    given: usize,
}

/// The most tokens to wait with for the end of a character. It has four bytes at most, but what stands before it may be
/// U+FFFD too, in the text itself.
const MOST_PENDING: usize = 256;

/// The tokens before a text that its first token is decoded behind: whether there are any, and what the last ones are,
/// is all that the spelling of a token depends on.
const MOST_BEFORE: usize = 8;

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A text that begins.
    pub fn new(tokenizer: T) -> TextStream<T> {
        TextStream { tokenizer, before: Vec::new(), pending: Vec::new(), given: 0 }
    }

    /// A text that goes on behind the tokens `before`, whose own text is not given again.
    pub fn behind(tokenizer: T, before: &[i32]) -> TextStream<T> {
        let before = before[before.len().saturating_sub(MOST_BEFORE)..].to_vec();
        TextStream { before, ..TextStream::new(tokenizer) }
    }

    /// Takes a token, and returns the text that is now whole, often that of this token.
    pub fn push(&mut self, id: i32) -> String {
        self.pending.push(id);
        let text = self.text();
        // The beginning of a character is decoded as one U+FFFD, and nothing before that changes any more.
        match text.strip_suffix('\u{FFFD}') {
            Some(whole) if self.pending.len() < MOST_PENDING => {
                let new = whole.get(self.given..).unwrap_or_default().to_owned();
                self.given = self.given.max(whole.len());
                new
            }
            Some(_) | None => self.give(&text),
        }
    }

    /// The text that was still to come; a character without its end is U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = self.text();
        self.give(&text)
    }

    /// The text of the pending tokens.
    fn text(&self) -> String {
        self.tokenizer.decode_behind(&self.before, &self.pending)
    }

    fn give(&mut self, text: &str) -> String {
        let new = text.get(self.given..).unwrap_or_default().to_owned();
        // A token without text, such as a special one, is nothing to decode behind.
        if !text.is_empty() || self.pending.len() >= MOST_PENDING {
            self.before = std::mem::take(&mut self.pending);
            self.given = 0;
        }
        new
    }
}
