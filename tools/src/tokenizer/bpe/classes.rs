//! The classes of characters that splitting regexes tell apart, by table.
//!
//! The ranges are those of `regex-syntax`, of the version of Unicode (16) that Oniguruma knows, with which the crate
//! `tokenizers` matches here and in its Python package.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// What a character is to a splitting regex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// None of the others: `[^\s\p{L}\p{N}]`.
    Other,
    /// `\p{L}`.
    Letter,
    /// `\p{N}`.
    Number,
    /// `\s` that is no line break.
    Space,
    /// `[\r\n]`.
    Break,
}

impl Kind {
    /// `\s`.
    pub(super) fn is_space(self) -> bool {
        matches!(self, Kind::Space | Kind::Break)
    }
}

/// A block of 256 code points for every distinct block, and which one each 256 code points have.
pub(super) struct Classes {
    ascii: [Kind; 128],
    block_of: Vec<u8>,
    blocks: Vec<[Kind; 256]>,
}

/// Unicode's, made once.
pub(super) static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);

impl Classes {
    fn new() -> Classes {
        let mut kinds = vec![Kind::Other; 0x11_0000];
        for (pattern, kind) in [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space)] {
            for (first, last) in ranges(pattern) {
                kinds[first as usize..=last as usize].fill(kind);
            }
        }
        kinds['\r' as usize] = Kind::Break;
        kinds['\n' as usize] = Kind::Break;
        let mut blocks: Vec<[Kind; 256]> = Vec::new();
        let mut block_of = Vec::new();
        for block in kinds.chunks_exact(256) {
            let index = blocks.iter().position(|known| known == block).unwrap_or_else(|| {
                blocks.push(std::array::from_fn(|i| block[i]));
                blocks.len() - 1
            });
            block_of.push(u8::try_from(index).expect("Unicode has fewer than 256 distinct blocks of these classes"));
        }
        Classes { ascii: std::array::from_fn(|code| kinds[code]), block_of, blocks }
    }

    /// The class of the character that begins at byte `at` of UTF-8, and its length in bytes.
    #[inline(always)]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (Kind, usize) {
        let first = text[at];
        match self.ascii.get(usize::from(first)) {
            Some(&kind) => (kind, 1),
            None => self.beyond_ascii(text, at, first),
        }
    }

    fn beyond_ascii(&self, text: &[u8], at: usize, first: u8) -> (Kind, usize) {
        let rest = |i: usize| u32::from(text[at + i] & 0x3F);
        let (code, length) = match first {
            0..0xE0 => (u32::from(first & 0x1F) << 6 | rest(1), 2),
            0xE0..0xF0 => (u32::from(first & 0x0F) << 12 | rest(1) << 6 | rest(2), 3),
            0xF0.. => (u32::from(first & 0x07) << 18 | rest(1) << 12 | rest(2) << 6 | rest(3), 4),
        };
        let block = self.block_of[(code >> 8) as usize];
        (self.blocks[usize::from(block)][(code & 0xFF) as usize], length)
    }
}

/// The code points of a class of `regex-syntax`.
pub(crate) fn ranges(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern).expect("the pattern is a class of Unicode");
    let HirKind::Class(Class::Unicode(class)) = hir.kind() else { unreachable!("{pattern} is a class of Unicode") };
    class.iter().map(|range| (range.start(), range.end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_class() {
        let mut counts = [0_usize; 5];
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let (kind, length) = CLASSES.at(text.as_bytes(), 0);
            assert_eq!(length, text.len());
            counts[kind as usize] += 1;
            // The standard library has the same classes under other names, of its own version of Unicode, so these
            // are compared where all versions agree.
            if c < '\u{0250}' {
                let expected = match c {
                    '\r' | '\n' => Kind::Break,
                    c if c.is_whitespace() => Kind::Space,
                    'ª' | 'º' => Kind::Letter,
                    c if c.is_alphabetic() => Kind::Letter,
                    c if c.is_numeric() => Kind::Number,
                    _ => Kind::Other,
                };
                assert_eq!(kind, expected, "{c:?}");
            }
        }
        let [_, letters, numbers, spaces, breaks] = counts;
        // Oniguruma, with which the Python package `tokenizers` 0.23 matches, has these numbers.
        assert_eq!((letters, numbers, spaces + breaks), (141_028, 1911, 25));
    }
}
