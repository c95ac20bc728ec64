//! Which documents are held out for validation: a draw by the document's text and the seed.
//!
//! A document's draw is the first eight bytes (big-endian) of the SHA-256 of the seed (eight bytes, little-endian) and
//! its text. So it does not depend on what else is tokenized, and copies of a document stay together.

use std::collections::{BinaryHeap, HashSet};

use sha2::{Digest, Sha256};

use crate::corpus::{Progress, Reading};
use crate::error::{Error, Result};

/// How many documents are held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeldOut {
    /// None.
    None,
    /// About this part, more than 0 and less than 1.
    Fraction(f64),
    /// This many, those of lowest draw; it takes reading all inputs twice.
    Documents(u64),
}

/// The draw of a document, if it matters.
pub(super) type Choice = Option<u64>;

/// Which documents are held out.
pub(super) enum Chosen {
    None,
    /// Those with a draw below this.
    Below {
        limit: u64,
        seed: u64,
    },
    /// Those with these numbers, counted from 0.
    Indices(HashSet<u64>),
}

impl HeldOut {
    /// Chooses; for a number of documents that needs to know them all.
    pub(super) fn choose(self, reading: &Reading, seed: u64, progress: &mut Progress) -> Result<Chosen> {
        match self {
            HeldOut::None | HeldOut::Documents(0) => Ok(Chosen::None),
            HeldOut::Fraction(part) => Ok(Chosen::Below { limit: (part * 2_f64.powi(64)) as u64, seed }),
            HeldOut::Documents(count) => {
                let mut lowest = BinaryHeap::new();
                let mut index = 0;
                reading.for_each(
                    progress,
                    || (),
                    |(), chunk| {
                        let mut draws = Vec::new();
                        chunk.texts(reading, |text| {
                            draws.push(draw(seed, text));
                            Ok(())
                        })?;
                        Ok(draws)
                    },
                    |draws, progress| {
                        for draw in draws {
                            lowest.push((draw, index));
                            if lowest.len() as u64 > count {
                                lowest.pop();
                            }
                            index += 1;
                        }
                        progress.update(index, "documents");
                        Ok(())
                    },
                )?;
                if index <= count {
                    return Err(Error::input(format!(
                        "--val-documents {count} of {index} documents leaves nothing to train on"
                    )));
                }
                Ok(Chosen::Indices(lowest.into_iter().map(|(_, index)| index).collect()))
            }
        }
    }
}

impl Chosen {
    /// What is to be known of a document's text.
    pub(super) fn of_text(&self, text: &str) -> Choice {
        match self {
            Chosen::Below { seed, .. } => Some(draw(*seed, text)),
            Chosen::None | Chosen::Indices(_) => None,
        }
    }

    /// Whether the document of this number is held out.
    pub(super) fn of_index(&self, index: u64, choice: Choice) -> bool {
        match self {
            Chosen::None => false,
            Chosen::Below { limit, .. } => choice.is_some_and(|draw| draw < *limit),
            Chosen::Indices(indices) => indices.contains(&index),
        }
    }
}

fn draw(seed: u64, text: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(text).finalize();
    digest.iter().take(8).fold(0, |draw, &byte| draw << 8 | u64::from(byte))
}
