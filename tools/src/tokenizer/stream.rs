//! Text of tokens that come one by one.

use super::Tokenizer;

/// Tokens in, text out as soon as it is whole: a character of several bytes may be spread over several tokens, and some
/// tokenizers write a token's space by what stands before it.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The tokens whose text was given last: what the next ones are decoded behind.
    before: Vec<i32>,
    /// Tokens whose text is still to be given.
    pending: Vec<i32>,
}

/// The most tokens to wait with for the end of a character, which has at most four bytes.
const MOST_PENDING: usize = 8;

impl<'t> TextStream<'t> {
    /// A text that begins.
    pub fn new(tokenizer: &'t Tokenizer) -> TextStream<'t> {
        TextStream { tokenizer, before: Vec::new(), pending: Vec::new() }
    }

    /// Takes a token, and returns the text that is now whole, often that of this token.
    pub fn push(&mut self, id: i32) -> String {
        self.pending.push(id);
        let text = self.text();
        match text.ends_with('\u{FFFD}') && self.pending.len() < MOST_PENDING {
            true => String::new(),
            false => self.give(text),
        }
    }

    /// The text that was still to come; a character without its end is U+FFFD.
    pub fn finish(mut self) -> String {
        let text = self.text();
        self.give(text)
    }

    /// The text of the pending tokens.
    fn text(&self) -> String {
        let before = self.tokenizer.decode(&self.before);
        let all = self.tokenizer.decode(&[self.before.as_slice(), &self.pending].concat());
        match all.strip_prefix(&before) {
            Some(new) => new.to_owned(),
            // What was given ended within a character, so it does not go on.
            None => self.tokenizer.decode(&self.pending),
        }
    }

    fn give(&mut self, text: String) -> String {
        // A token without text, such as a special one, is nothing to decode behind.
        if !text.is_empty() {
            self.before = std::mem::take(&mut self.pending);
        }
        text
    }
}
