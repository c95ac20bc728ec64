//! A row of tokens and labels as text.

use crate::data::IGNORED;
use crate::tokenizer::{END_OF_DOCUMENT, Tokenizer};

/// How a row is written.
pub(super) struct Style<'a> {
    /// Without one, ids are written.
    pub(super) tokenizer: Option<&'a Tokenizer>,
    pub(super) end_of_document: Option<u32>,
    /// What stands around what is not predicted.
    pub(super) masked: [&'static str; 2],
    /// What stands around a document's end.
    pub(super) end: [&'static str; 2],
    /// Where a row goes on at another place.
    pub(super) cut: &'static str,
}

/// Marks for anything but a terminal.
const MARKS: ([&str; 2], [&str; 2]) = (["⟦", "⟧"], ["", ""]);
/// Dim and struck out; cyan. Each is ended by itself, so that they may stand in each other.
const COLORS: ([&str; 2], [&str; 2]) = (["\u{1b}[2;9m", "\u{1b}[22;29m"], ["\u{1b}[36m", "\u{1b}[39m"]);

/// A token of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    Token {
        id: i32,
        masked: bool,
    },
    /// Between tokens that do not follow one another.
    Cut,
}

impl<'a> Style<'a> {
    pub(super) fn new(tokenizer: Option<&'a Tokenizer>, end_of_document: Option<u32>, colors: bool) -> Style<'a> {
        let (masked, end) = if colors { COLORS } else { MARKS };
        Style { tokenizer, end_of_document, masked, end, cut: " ⟂ " }
    }

    /// The row's text: its first token, which is only read, and then what follows each of its tokens.
    pub(super) fn text(&self, tokens: &[i32], labels: &[i32]) -> String {
        let row = sequence(tokens, labels);
        let mut text = String::new();
        for run in row.chunk_by(|a, b| self.run(*a) == self.run(*b)) {
            match run[0] {
                Shown::Cut => text += self.cut,
                Shown::Token { masked, .. } => {
                    let ids: Vec<i32> = run.iter().filter_map(|shown| shown.id()).collect();
                    let written = self.ids(&ids);
                    let [before, after] = if masked { self.masked } else { ["", ""] };
                    // Ids must not grow together.
                    let apart = self.tokenizer.is_some() || text.is_empty() || text.ends_with(' ');
                    let space = if apart { "" } else { " " };
                    text += &format!("{space}{before}{written}{after}");
                }
            }
        }
        text
    }

    /// What tokens written in one go have in common.
    fn run(&self, shown: Shown) -> Option<bool> {
        match shown {
            Shown::Cut => None,
            Shown::Token { masked, .. } => Some(masked),
        }
    }

    fn is_end(&self, id: i32) -> bool {
        self.end_of_document.is_some_and(|end| end.cast_signed() == id)
    }

    fn ids(&self, ids: &[i32]) -> String {
        let separator = if self.tokenizer.is_some() { "" } else { " " };
        let runs = ids.chunk_by(|a, b| self.is_end(*a) == self.is_end(*b)).map(|run| {
            if self.is_end(run[0]) {
                let times = if run.len() > 1 { format!("×{}", run.len()) } else { String::new() };
                return format!("{}{END_OF_DOCUMENT}{times}{}", self.end[0], self.end[1]);
            }
            match self.tokenizer {
                Some(tokenizer) => printable(&tokenizer.decode(run)),
                None => run.iter().map(i32::to_string).collect::<Vec<_>>().join(" "),
            }
        });
        runs.collect::<Vec<_>>().join(separator)
    }
}

impl Shown {
    fn id(self) -> Option<i32> {
        match self {
            Shown::Token { id, .. } => Some(id),
            Shown::Cut => None,
        }
    }
}

/// The first token of a row, then what follows each token: its label, or where that is masked the next token.
fn sequence(tokens: &[i32], labels: &[i32]) -> Vec<Shown> {
    let first = tokens.first().map(|&id| Shown::Token { id, masked: false });
    let mut row: Vec<Shown> = first.into_iter().collect();
    for (i, &label) in labels.iter().enumerate() {
        let next = tokens.get(i + 1).copied();
        if label == IGNORED {
            row.extend(next.map(|id| Shown::Token { id, masked: true }));
            continue;
        }
        row.push(Shown::Token { id: label, masked: false });
        if let Some(id) = next.filter(|&next| next != label) {
            row.extend([Shown::Cut, Shown::Token { id, masked: false }]);
        }
    }
    row
}

/// A text that cannot command a terminal: line breaks and tabs stay, other control characters are written out.
fn printable(text: &str) -> String {
    let escape = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if escape(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[i32], labels: &[i32], expected: &str, as_ids: &str) {
        assert_eq!(Style::new(Some(&Tokenizer::Byte), Some(256), false).text(tokens, labels), expected);
        assert_eq!(Style::new(None, Some(256), false).text(tokens, labels), as_ids);
    }

    #[test]
    fn rows_show_ends_masks_and_cuts() {
        check(&[97, 98, 256, 99], &[98, 256, 99, 10], "ab<|endoftext|>c\n", "97 98 <|endoftext|> 99 10");
        check(
            &[97, 256, 99, 27],
            &[256, IGNORED, 27, 13],
            "a<|endoftext|>⟦c⟧\\u{1b}\\r",
            "97 <|endoftext|> ⟦99⟧ 27 13",
        );
        // Padding.
        let padded = [256, 97, 256, 256, 256];
        check(
            &padded,
            &[97, 256, IGNORED, IGNORED, IGNORED],
            "<|endoftext|>a<|endoftext|>⟦<|endoftext|>×2⟧",
            "<|endoftext|> 97 <|endoftext|> ⟦<|endoftext|>×2⟧",
        );
        // A window over the end of the data.
        check(&[97, 98, 99], &[100, 99, 101], "ad ⟂ bce", "97 100 ⟂ 98 99 101");
    }

    #[test]
    fn colors_are_ended() {
        let text = Style::new(Some(&Tokenizer::Byte), Some(256), true).text(&[256, 256], &[256, IGNORED]);
        assert_eq!(text, "\u{1b}[36m<|endoftext|>×2\u{1b}[39m");
        let text = Style::new(Some(&Tokenizer::Byte), Some(256), true).text(&[97, 98], &[IGNORED, 99]);
        assert_eq!(text, "a\u{1b}[2;9mb\u{1b}[22;29mc");
    }
}
