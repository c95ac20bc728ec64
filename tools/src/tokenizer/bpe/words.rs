//! The tokens of words that were seen before: most of a text is the same few thousand words.

use std::collections::HashMap;

use super::hash::{BuildFold, fold};
use super::merge::Scratch;

/// What one thread remembers: bounded, whatever the text.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// Words of at most 15 bytes and four tokens, each in the one place its hash gives it: a new one takes the place
    /// of the old. Made at the first word.
    slots: Vec<Slot>,
    /// Other words.
    others: HashMap<Box<[u8]>, Box<[u32]>, BuildFold>,
    other_bytes: usize,
    pub(super) scratch: Scratch,
}

/// A word and its tokens, in half a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Slot {
    /// The bytes, and their number in the highest byte; 0 is no word.
    key: u128,
    /// Filled up with `UNUSED`.
    ids: [u32; 4],
}

const UNUSED: u32 = u32::MAX;

/// 2 MiB of slots: about what a core has of second-level cache. Half or twice as many measured no faster.
const SLOTS: usize = 1 << 16;

/// Words longer than this are rarely met again.
const LONGEST: usize = 128;

/// The most that `others` may hold before it starts over, in bytes of words and tokens.
const MOST_OTHER_BYTES: usize = 16 << 20;

/// The key of the word at `start..end` of `text`, if it is short.
#[inline(always)]
fn short_key(text: &[u8], start: usize, end: usize) -> Option<u128> {
    let length = end - start;
    if length > 15 {
        return None;
    }
    // Sixteen bytes at once where there are, without what follows the word.
    let bytes = match text.get(start..start + 16).and_then(|bytes| bytes.first_chunk::<16>()) {
        Some(chunk) => u128::from_le_bytes(*chunk) & ((1 << (8 * length)) - 1),
        None => text[start..end].iter().rev().fold(0, |bytes, &byte| bytes << 8 | u128::from(byte)),
    };
    Some(bytes | (length as u128) << 120)
}

#[inline(always)]
fn slot_of(key: u128) -> usize {
    (fold(key as u64, (key >> 64) as u64) as usize) % SLOTS
}

impl Words {
    /// Appends the tokens of the word at `start..end` of `text`, by `encode` if it is not remembered.
    #[inline(always)]
    pub(super) fn get(
        &mut self,
        text: &[u8],
        start: usize,
        end: usize,
        out: &mut Vec<u32>,
        encode: impl FnOnce(&[u8], &mut Scratch, &mut Vec<u32>),
    ) {
        let Some(key) = short_key(text, start, end) else { return self.get_other(&text[start..end], out, encode) };
        let index = slot_of(key);
        if let Some(slot) = self.slots.get(index)
            && slot.key == key
        {
            out.push(slot.ids[0]);
            if slot.ids[1] != UNUSED {
                out.extend(slot.ids[1..].iter().take_while(|&&id| id != UNUSED));
            }
            return;
        }
        self.learn(&text[start..end], key, index, out, encode);
    }

    #[inline(never)]
    fn learn(
        &mut self,
        word: &[u8],
        key: u128,
        index: usize,
        out: &mut Vec<u32>,
        encode: impl FnOnce(&[u8], &mut Scratch, &mut Vec<u32>),
    ) {
        let before = out.len();
        encode(word, &mut self.scratch, out);
        let new = &out[before..];
        let mut ids = [UNUSED; 4];
        if (1..=ids.len()).contains(&new.len()) {
            ids[..new.len()].copy_from_slice(new);
            if self.slots.is_empty() {
                self.slots = vec![Slot { key: 0, ids: [UNUSED; 4] }; SLOTS];
            }
            self.slots[index] = Slot { key, ids };
        }
    }

    #[inline(never)]
    fn get_other(&mut self, word: &[u8], out: &mut Vec<u32>, encode: impl FnOnce(&[u8], &mut Scratch, &mut Vec<u32>)) {
        if word.len() > LONGEST {
            return encode(word, &mut self.scratch, out);
        }
        if let Some(ids) = self.others.get(word) {
            return out.extend_from_slice(ids);
        }
        let before = out.len();
        encode(word, &mut self.scratch, out);
        let ids = &out[before..];
        // A map's entry has two fat pointers beside them.
        self.other_bytes += word.len() + size_of_val(ids) + 32;
        if self.other_bytes > MOST_OTHER_BYTES {
            self.others.clear();
            self.other_bytes = 0;
        }
        self.others.insert(word.into(), ids.into());
    }
}
