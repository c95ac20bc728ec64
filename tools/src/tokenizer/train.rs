//! Training a byte-level BPE: from the words of a text to a `tokenizer.json` of Hugging Face.
//!
//! The most frequent pair of neighbours becomes a token, again and again (Sennrich, Haddow and Birch, 2016, algorithm
//! 1). Counts of pairs are kept up to date rather than counted again: a merge touches the words that have its pair, and
//! in these only the pairs beside it. Ties go to the pair of smaller ids, so the result is that of the trainer of the
//! crate `tokenizers`, and does not depend on threads.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde_json::{Map, Value, json};

use super::bpe::{BuildFold, GPT2, LLAMA3, Pattern, alphabet};
use crate::error::{Error, Result};

/// What is trained.
#[derive(Clone, Debug)]
pub struct Training {
    /// Tokens of the result, special tokens and the 256 bytes included.
    pub vocab_size: usize,
    /// How text is split into words.
    pub pattern: Pattern,
    /// Tokens that no text makes by merges; they have the first ids.
    pub special_tokens: Vec<String>,
    /// A pair must be met this often to become a token.
    pub min_frequency: u64,
}

/// How often each word of a text was met.
#[derive(Clone, Debug, Default)]
pub struct WordCounts {
    counts: HashMap<Box<[u8]>, u64, BuildFold>,
}

/// A trained tokenizer.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The `tokenizer.json`.
    pub json: String,
    /// Its tokens: fewer than asked for if the text has no more pairs.
    pub vocab_size: usize,
}

impl WordCounts {
    /// Counts the words of a text.
    pub fn add(&mut self, text: &str, pattern: Pattern) {
        let text = text.as_bytes();
        pattern.split(text, |start, end| {
            let word = &text[start..end];
            match self.counts.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = self.counts.insert(word.into(), 1),
            }
        });
    }

    /// Takes in the counts of another part of the text.
    pub fn merge(&mut self, other: WordCounts) {
        for (word, count) in other.counts {
            *self.counts.entry(word).or_default() += count;
        }
    }

    /// Distinct words.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl Training {
    /// Refuses what cannot be trained.
    ///
    /// # Errors
    /// If there is no room for the bytes and the special tokens, or a special token is empty or given twice.
    pub fn check(&self) -> Result<()> {
        let least = 256 + self.special_tokens.len();
        // Ids are 31 bits in a batch.
        if self.vocab_size < least || self.vocab_size > i32::MAX as usize {
            return Err(Error::input(format!(
                "the vocabulary must have at least {least} tokens (256 bytes, {} special) and at most {}, found {}",
                self.special_tokens.len(),
                i32::MAX,
                self.vocab_size
            )));
        }
        for (i, token) in self.special_tokens.iter().enumerate() {
            if token.is_empty() {
                return Err(Error::input("a special token is empty"));
            }
            let is_byte = token.chars().count() == 1 && token.chars().all(|c| alphabet().contains(&c));
            if self.special_tokens[..i].contains(token) || is_byte {
                return Err(Error::input(format!("the special token {token:?} is given twice, or is that of a byte")));
            }
        }
        Ok(())
    }

    /// Trains on words. `progress` is told the number of tokens from time to time.
    ///
    /// # Errors
    /// As `check`.
    pub fn train(&self, words: WordCounts, mut progress: impl FnMut(usize)) -> Result<Trained> {
        self.check()?;
        let mut tokens = self.special_tokens.clone();
        let first_byte = tokens.len();
        // As the crate does, bytes have their ids in the order of their characters.
        let alphabet = alphabet();
        let mut bytes: Vec<usize> = (0..256).collect();
        bytes.sort_unstable_by_key(|&byte| alphabet[byte]);
        let mut id_of_byte = [0; 256];
        for (id, &byte) in (0..).zip(&bytes) {
            id_of_byte[byte] = first_byte as u32 + id;
            tokens.push(alphabet[byte].to_string());
        }
        let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let mut pairs = Pairs::new(words, &id_of_byte);
        let mut merges = Vec::new();
        while tokens.len() < self.vocab_size {
            let Some((left, right)) = pairs.most_frequent(self.min_frequency.max(1)) else { break };
            let (left_token, right_token) = (tokens[left as usize].clone(), tokens[right as usize].clone());
            let joined = format!("{left_token}{right_token}");
            // Two ways to the same text are the same token.
            let id = *ids.entry(joined.clone()).or_insert_with(|| {
                tokens.push(joined);
                tokens.len() as u32 - 1
            });
            merges.push(json!([left_token, right_token]));
            pairs.merge(left, right, id);
            if merges.len().is_multiple_of(64) {
                progress(tokens.len());
            }
        }
        progress(tokens.len());
        Ok(Trained { vocab_size: tokens.len(), json: self.to_json(tokens, merges)? })
    }

    fn to_json(&self, tokens: Vec<String>, merges: Vec<Value>) -> Result<String> {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
            })
        };
        let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let pre_tokenizer = match self.pattern {
            Pattern::Gpt2 => byte_level(true),
            Pattern::Llama3 | Pattern::Qwen2 => {
                json!({ "type": "Sequence", "pretokenizers": [split(self.pattern.regex()), byte_level(false)] })
            }
        };
        let added: Vec<Value> = (0..)
            .zip(&self.special_tokens)
            .map(|(id, content): (u32, _)| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            })
            .collect();
        let vocabulary: Map<String, Value> = tokens.into_iter().zip((0..).map(|id: u32| json!(id))).collect();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocabulary,
                "merges": merges,
            },
        });
        let text = serde_json::to_string_pretty(&file);
        let text = text.map_err(|error| Error::run(format!("the tokenizer cannot be written as JSON: {error}")))?;
        Ok(format!("{text}\n"))
    }
}

impl Pattern {
    /// The regex, as a `tokenizer.json` spells it.
    pub fn regex(self) -> &'static str {
        match self {
            Pattern::Gpt2 => GPT2,
            Pattern::Llama3 => LLAMA3,
            Pattern::Qwen2 => super::bpe::QWEN2,
        }
    }
}

type Pair = (u32, u32);

/// Words as tokens so far, and where which pairs of neighbours are.
struct Pairs {
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64, BuildFold>,
    /// Words that have, or had, the pair.
    places: HashMap<Pair, Vec<u32>, BuildFold>,
    /// Pairs by count; a count is checked when it comes up.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Pairs {
    fn new(counts: WordCounts, id_of_byte: &[u32; 256]) -> Pairs {
        // The order of words decides nothing, but an order makes every run do the same.
        let mut words: Vec<(Box<[u8]>, u64)> = counts.counts.into_iter().collect();
        words.sort_unstable();
        let to_ids = |(word, count): (Box<[u8]>, u64)| {
            let ids = word.iter().map(|&byte| id_of_byte[usize::from(byte)]).collect();
            (ids, i64::try_from(count).unwrap_or(i64::MAX))
        };
        let words: Vec<(Vec<u32>, i64)> = words.into_iter().map(to_ids).collect();
        let mut pairs =
            Pairs { words, counts: HashMap::default(), places: HashMap::default(), queue: BinaryHeap::new() };
        for (index, (word, count)) in (0..).zip(&pairs.words) {
            for pair in word.windows(2) {
                let pair = (pair[0], pair[1]);
                *pairs.counts.entry(pair).or_default() += count;
                note(&mut pairs.places, pair, index);
            }
        }
        pairs.queue = pairs.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        pairs
    }

    /// The most frequent pair; of equals the one of smaller ids.
    fn most_frequent(&mut self, least: u64) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now == count {
                return (now.cast_unsigned() >= least && now > 0).then_some(pair);
            }
            if now > 0 {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Makes the pair the token `id` wherever it is.
    fn merge(&mut self, left: u32, right: u32, id: u32) {
        let mut grown = Vec::new();
        for index in self.places.remove(&(left, right)).unwrap_or_default() {
            let (word, count) = &mut self.words[index as usize];
            let count = *count;
            let mut change = |pair: Pair, by: i64| {
                *self.counts.entry(pair).or_default() += by;
                if by > 0 {
                    note(&mut self.places, pair, index);
                    grown.push(pair);
                }
            };
            let (mut from, mut to) = (0, 0);
            while from < word.len() {
                if word[from] == left && word.get(from + 1) == Some(&right) {
                    change((left, right), -count);
                    if to > 0 {
                        change((word[to - 1], left), -count);
                        change((word[to - 1], id), count);
                    }
                    if let Some(&after) = word.get(from + 2) {
                        change((right, after), -count);
                        change((id, after), count);
                    }
                    word[to] = id;
                    from += 2;
                } else {
                    word[to] = word[from];
                    from += 1;
                }
                to += 1;
            }
            word.truncate(to);
        }
        self.counts.remove(&(left, right));
        grown.sort_unstable();
        grown.dedup();
        for pair in grown {
            if let Some(&count) = self.counts.get(&pair).filter(|&&count| count > 0) {
                self.queue.push((count, Reverse(pair)));
            }
        }
    }
}

/// Notes that a word has a pair; words come one after the other.
fn note(places: &mut HashMap<Pair, Vec<u32>, BuildFold>, pair: Pair, word: u32) {
    let words = places.entry(pair).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}
