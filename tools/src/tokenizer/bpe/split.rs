//! Where words end: the splitting regexes of byte-level BPEs as scanners.
//!
//! A regex engine spends most of the time of tokenizing on these few patterns. Each alternative of a pattern begins
//! with another class of character, so one look at the first two characters tells which one matches.

use super::classes::{CLASSES, Classes, Kind};

/// A splitting regex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// GPT-2's: letters, numbers and the rest apart, each with at most one space before.
    Gpt2,
    /// That of Llama 3 and of OpenAI's cl100k: numbers by three digits, any one mark before letters, line breaks with
    /// the marks before.
    Llama3,
    /// Qwen2's: Llama 3's, with numbers by single digits.
    Qwen2,
}

/// GPT-2's regex, which the pre-tokenizer `ByteLevel` has built in.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's regex, as its `tokenizer.json` spells it.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2's regex, as its `tokenizer.json` spells it.
pub(crate) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every known spelling.
pub(super) const SPELLINGS: [(&str, Pattern); 5] = [
    (GPT2, Pattern::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (LLAMA3, Pattern::Llama3),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Pattern::Llama3,
    ),
    (QWEN2, Pattern::Qwen2),
];

impl Pattern {
    /// Hands every word of `text` to `word`: where it begins and ends. Together they are the whole text.
    #[inline]
    pub(crate) fn split(self, text: &[u8], mut word: impl FnMut(usize, usize)) {
        let scan = Scan { text, classes: &CLASSES };
        let mut at = 0;
        match self {
            Pattern::Gpt2 => {
                while at < text.len() {
                    let end = scan.gpt2(at);
                    word(at, end);
                    at = end;
                }
            }
            Pattern::Llama3 | Pattern::Qwen2 => {
                let most_digits = if self == Pattern::Llama3 { 3 } else { 1 };
                while at < text.len() {
                    let end = scan.llama3(at, most_digits);
                    word(at, end);
                    at = end;
                }
            }
        }
    }
}

/// A text being split.
struct Scan<'a> {
    text: &'a [u8],
    classes: &'a Classes,
}

impl Scan<'_> {
    /// The end of GPT-2's word that begins at `at`.
    #[inline(always)]
    fn gpt2(&self, at: usize) -> usize {
        let first = self.text[at];
        if first == b'\''
            && let Some(end) = self.contraction(at)
        {
            return end;
        }
        let (kind, length) = self.classes.at(self.text, at);
        let (kind, next) = match first {
            b' ' if at + 1 < self.text.len() => {
                let (kind, length) = self.classes.at(self.text, at + 1);
                (kind, at + 1 + length)
            }
            _ => (kind, at + length),
        };
        match kind {
            Kind::Letter | Kind::Number | Kind::Other => self.run(kind, next),
            Kind::Space | Kind::Break => self.white_space(at).end,
        }
    }

    /// The end of Llama 3's word that begins at `at`.
    #[inline(always)]
    fn llama3(&self, at: usize, most_digits: usize) -> usize {
        let first = self.text[at];
        if first == b'\''
            && let Some(end) = self.contraction_of_any_case(at)
        {
            return end;
        }
        let (kind, length) = self.classes.at(self.text, at);
        let next = at + length;
        match kind {
            Kind::Letter => return self.run(Kind::Letter, next),
            Kind::Number => return self.digits(next, most_digits - 1),
            Kind::Other | Kind::Space | Kind::Break => {}
        }
        if kind != Kind::Break && next < self.text.len() {
            let (following, length) = self.classes.at(self.text, next);
            match following {
                Kind::Letter => return self.run(Kind::Letter, next + length),
                Kind::Other if first == b' ' => return self.breaks(self.run(Kind::Other, next + length)),
                Kind::Other | Kind::Number | Kind::Space | Kind::Break => {}
            }
        }
        if kind == Kind::Other {
            return self.breaks(self.run(Kind::Other, next));
        }
        let space = self.white_space(at);
        space.after_last_break.unwrap_or(space.end)
    }

    /// The end of a run of characters of one class that goes on at `at`.
    #[inline(always)]
    fn run(&self, kind: Kind, mut at: usize) -> usize {
        while at < self.text.len() {
            let (here, length) = self.classes.at(self.text, at);
            if here != kind {
                break;
            }
            at += length;
        }
        at
    }

    /// The end of at most `most` numbers at `at`.
    fn digits(&self, mut at: usize, most: usize) -> usize {
        for _ in 0..most {
            match (at < self.text.len()).then(|| self.classes.at(self.text, at)) {
                Some((Kind::Number, length)) => at += length,
                Some(_) | None => break,
            }
        }
        at
    }

    /// The end of the line breaks at `at`.
    fn breaks(&self, mut at: usize) -> usize {
        while matches!(self.text.get(at), Some(b'\r' | b'\n')) {
            at += 1;
        }
        at
    }

    /// The white space at `at`, which is not empty: `\s+(?!\S)|\s+`, all but the last character, unless the text ends
    /// or there is only one.
    #[inline(always)]
    fn white_space(&self, start: usize) -> WhiteSpace {
        let (mut at, mut last, mut after_last_break) = (start, start, None);
        while at < self.text.len() {
            let (kind, length) = self.classes.at(self.text, at);
            if !kind.is_space() {
                let end = if last == start { at } else { last };
                return WhiteSpace { end, after_last_break };
            }
            last = at;
            at += length;
            if kind == Kind::Break {
                after_last_break = Some(at);
            }
        }
        WhiteSpace { end: at, after_last_break }
    }

    /// The end of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at an apostrophe.
    #[inline]
    fn contraction(&self, at: usize) -> Option<usize> {
        match (self.text.get(at + 1)?, self.text.get(at + 2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
            _ => None,
        }
    }

    /// The same in capitals too. The long s, whose capital is S, is an s.
    #[inline]
    fn contraction_of_any_case(&self, at: usize) -> Option<usize> {
        match (self.text.get(at + 1)?.to_ascii_lowercase(), self.text.get(at + 2).map(u8::to_ascii_lowercase)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) | (0xC5, Some(0xBF)) => Some(at + 3),
            _ => None,
        }
    }
}

/// What follows from a run of white space.
struct WhiteSpace {
    /// Where the word ends by `\s+(?!\S)|\s+`.
    end: usize,
    /// Where it ends by `\s*[\r\n]+`.
    after_last_break: Option<usize>,
}
