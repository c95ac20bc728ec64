//! Rows: the `seq_len` tokens and labels at a global row number, for each kind of data.
//!
//! A label is the token after; `IGNORED` where there is nothing to predict. Row numbers never end: row `r` is in epoch
//! `r / rows_per_epoch`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

use super::IGNORED;
use super::order::{Permutation, Purpose, draw};
use super::shards::Shards;

/// What rows are cut from, and how.
#[derive(Debug)]
pub(super) struct Rows {
    layout: Layout,
    seq_len: usize,
    order: RowOrder,
    /// Labels after this token are ignored.
    masked_after: Option<i32>,
    /// Pairs of token and label in the data.
    pairs: u64,
    /// Rows of an epoch.
    per_epoch: u64,
}

/// Where tokens of a row lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file that is one stream of tokens.
    Tokens {
        /// The file.
        file: PathBuf,
        /// The positions in the file, in tokens, from 0.
        positions: std::ops::Range<u64>,
    },
    /// In a document that is a line of a file.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
    },
}

/// The order of rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowOrder {
    /// As they lie; what does not fill a row at the end is left out.
    Sequential,
    /// As they lie; the last row is padded, so that nothing is left out: for evaluation.
    Whole,
    /// Shuffled by this seed, another way every epoch.
    Shuffle(u64),
}

/// The three ways from data to rows.
#[derive(Debug)]
pub(super) enum Layout {
    /// Windows of a token stream.
    Windows(Stream),
    /// Documents end to end, cut into windows.
    Packed(Packed),
    /// A row a document, or several for a long one.
    Padded(Padded),
}

/// A part of a token stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) tokens: Tokens,
    pub(super) start: u64,
    pub(super) len: u64,
}

/// A token stream.
#[derive(Clone, Debug)]
pub(super) enum Tokens {
    Memory(Arc<Text>),
    Shards(Arc<Shards>),
}

/// Running text, tokenized.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) ids: Vec<u32>,
    /// The files, each with the position of its first token.
    pub(super) files: Vec<(PathBuf, u64)>,
}

/// Documents: ids end to end and where each begins, with the end of the last.
#[derive(Debug)]
pub(super) struct Documents {
    pub(super) ids: Vec<u32>,
    pub(super) bounds: Vec<usize>,
    /// The token between documents.
    pub(super) separator: i32,
    /// The files.
    pub(super) files: Vec<PathBuf>,
    /// Of each document its place in `files` and its line, from 1.
    pub(super) lines: Vec<(u32, u32)>,
}

/// Some of the documents, in the order of the files.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) documents: Arc<Documents>,
    pub(super) indices: Vec<usize>,
}

/// Documents to pack, with the layout of the epoch that was last asked for.
#[derive(Debug)]
pub(super) struct Packed {
    chosen: Chosen,
    epoch: Mutex<Option<(u64, Arc<Epoch>)>>,
}

/// The documents of an epoch in their order, and where each begins in its stream.
#[derive(Debug)]
struct Epoch {
    order: Vec<usize>,
    starts: Vec<u64>,
}

/// Documents to pad, with their rows.
#[derive(Debug)]
pub(super) struct Padded {
    chosen: Chosen,
    /// Of each row the document's place in `chosen` and the first of its tokens.
    rows: Vec<(usize, usize)>,
}

impl Tokens {
    fn read(&self, start: u64, out: &mut [i32]) -> Result<()> {
        match self {
            Tokens::Shards(shards) => shards.read(start, out),
            Tokens::Memory(text) => {
                let ids = &text.ids[start as usize..start as usize + out.len()];
                out.iter_mut().zip(ids).for_each(|(slot, &id)| *slot = id.cast_signed());
                Ok(())
            }
        }
    }
}

impl Tokens {
    /// Where the tokens of a stretch lie, a place a file.
    fn places(&self, stretch: std::ops::Range<u64>) -> Vec<Place> {
        let files: Vec<(&PathBuf, u64)> = match self {
            Tokens::Memory(text) => text.files.iter().map(|(path, start)| (path, *start)).collect(),
            Tokens::Shards(shards) => shards.starts().collect(),
        };
        let ends = files.iter().skip(1).map(|(_, start)| *start).chain([u64::MAX]);
        let parts = files.iter().zip(ends).map(|(&(path, start), end)| {
            let positions = stretch.start.max(start) - start..stretch.end.min(end).max(start) - start;
            Place::Tokens { file: path.clone(), positions }
        });
        let is_there = |place: &Place| match place {
            Place::Tokens { positions, .. } => !positions.is_empty(),
            Place::Line { .. } => true,
        };
        parts.filter(is_there).collect()
    }
}

impl Chosen {
    fn place(&self, place: usize) -> Place {
        let (file, line) = self.documents.lines[self.indices[place]];
        Place::Line { file: self.documents.files[file as usize].clone(), line: u64::from(line) }
    }

    fn document(&self, place: usize) -> &[u32] {
        let index = self.indices[place];
        let Documents { ids, bounds, .. } = &*self.documents;
        &ids[bounds[index]..bounds[index + 1]]
    }

    /// Pairs of token and label: of each document its tokens and its end.
    fn pairs(&self) -> u64 {
        (0..self.indices.len()).map(|place| self.document(place).len() as u64 + 1).sum()
    }

    /// The token at `position` of separator, document, separator.
    fn token(&self, place: usize, position: usize) -> i32 {
        match position.checked_sub(1).and_then(|at| self.document(place).get(at)) {
            Some(&id) => id.cast_signed(),
            None => self.documents.separator,
        }
    }
}

impl Packed {
    pub(super) fn new(chosen: Chosen) -> Packed {
        Packed { chosen, epoch: Mutex::new(None) }
    }

    fn epoch(&self, epoch: u64, order: RowOrder) -> Arc<Epoch> {
        // A layout is whole or absent whatever happened to another thread, so a poisoned lock is as good as any.
        let mut cached = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, layout)) = &*cached
            && *of == epoch
        {
            return Arc::clone(layout);
        }
        let count = self.chosen.indices.len();
        let order: Vec<usize> = match order {
            RowOrder::Sequential | RowOrder::Whole => (0..count).collect(),
            RowOrder::Shuffle(seed) => {
                let permutation = Permutation::new(seed, Purpose::Documents, epoch, count as u64);
                (0..count as u64).map(|place| permutation.at(place) as usize).collect()
            }
        };
        let mut at = 0;
        let starts = order
            .iter()
            .map(|&place| {
                let start = at;
                at += self.chosen.document(place).len() as u64 + 1;
                start
            })
            .collect();
        let layout = Arc::new(Epoch { order, starts });
        *cached = Some((epoch, Arc::clone(&layout)));
        layout
    }

    /// The tokens of an epoch's stream from `start` on; the stream ends with a separator.
    fn read(&self, epoch: &Epoch, start: u64, out: &mut [i32]) {
        let mut index = epoch.starts.partition_point(|&begin| begin <= start).saturating_sub(1);
        let mut position = (start - epoch.starts[index]) as usize;
        for slot in out {
            let place = epoch.order[index];
            *slot = self.chosen.token(place, position);
            position += 1;
            // The separator after a document is the one before the next; the last document keeps its own.
            if position > self.chosen.document(place).len() && index + 1 < epoch.order.len() {
                (index, position) = (index + 1, 0);
            }
        }
    }
}

impl Padded {
    pub(super) fn new(chosen: Chosen, seq_len: usize) -> Padded {
        let rows = (0..chosen.indices.len())
            .flat_map(|place| (0..=chosen.document(place).len()).step_by(seq_len).map(move |from| (place, from)))
            .collect();
        Padded { chosen, rows }
    }
}

impl Rows {
    pub(super) fn new(layout: Layout, seq_len: usize, order: RowOrder) -> Rows {
        let pairs = match &layout {
            Layout::Windows(stream) => stream.len.saturating_sub(1),
            Layout::Packed(packed) => packed.chosen.pairs(),
            Layout::Padded(padded) => padded.chosen.pairs(),
        };
        let per_epoch = match (&layout, order) {
            (Layout::Padded(padded), _) => padded.rows.len() as u64,
            (Layout::Windows(_) | Layout::Packed(_), RowOrder::Whole) => pairs.div_ceil(seq_len as u64),
            (Layout::Windows(_) | Layout::Packed(_), RowOrder::Sequential | RowOrder::Shuffle(_)) => {
                pairs / seq_len as u64
            }
        };
        Rows { layout, seq_len, order, masked_after: None, pairs, per_epoch }
    }

    /// These rows with the labels after the token `end` ignored.
    pub(super) fn masked_after(self, end: Option<i32>) -> Rows {
        Rows { masked_after: end, ..self }
    }

    /// Pairs of token and label in the data.
    pub(super) fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Rows of an epoch; 0 when the data do not fill one.
    pub(super) fn per_epoch(&self) -> u64 {
        self.per_epoch
    }

    /// Of row `row` its epoch, its place in the epoch's sequence, and what the order puts there.
    fn of_epoch(&self, row: u64) -> (u64, u64, u64) {
        let (epoch, place) = (row / self.per_epoch, row % self.per_epoch);
        let index = match self.order {
            RowOrder::Sequential | RowOrder::Whole => place,
            RowOrder::Shuffle(seed) => Permutation::new(seed, Purpose::Rows, epoch, self.per_epoch).at(place),
        };
        (epoch, place, index)
    }

    /// The pair that window `window` of this epoch begins with.
    fn window_start(&self, epoch: u64, window: u64) -> u64 {
        let phase = match self.order {
            RowOrder::Sequential | RowOrder::Whole => 0,
            RowOrder::Shuffle(seed) => draw(seed, Purpose::Phase, epoch) % self.pairs,
        };
        (phase + window * self.seq_len as u64) % self.pairs
    }

    /// Writes row `row`: `seq_len` tokens and labels. There must be rows.
    pub(super) fn fill(&self, row: u64, tokens: &mut [i32], labels: &mut [i32]) -> Result<()> {
        self.fill_unmasked(row, tokens, labels)?;
        if let Some(end) = self.masked_after {
            let after_end = tokens.iter().zip(labels).filter(|(token, _)| **token == end);
            after_end.for_each(|(_, label)| *label = IGNORED);
        }
        Ok(())
    }

    /// Where the tokens of row `row` lie, in their sequence.
    pub(super) fn places(&self, row: u64) -> Vec<Place> {
        let (epoch, place, index) = self.of_epoch(row);
        match &self.layout {
            Layout::Windows(stream) => {
                let start = self.window_start(epoch, index);
                let end = start + self.seq_len as u64;
                let stretch = |from: u64, to: u64| stream.tokens.places(stream.start + from..stream.start + to);
                match end.checked_sub(self.pairs).filter(|&over| over > 0) {
                    None => stretch(start, end),
                    Some(_) if matches!(self.order, RowOrder::Whole) => stretch(start, self.pairs),
                    Some(over) => [stretch(start, self.pairs), stretch(0, over)].concat(),
                }
            }
            Layout::Packed(packed) => {
                let epoch = packed.epoch(epoch, self.order);
                let start = place * self.seq_len as u64;
                let first = epoch.starts.partition_point(|&begin| begin <= start).saturating_sub(1);
                let end = epoch.starts.partition_point(|&begin| begin < start + self.seq_len as u64);
                epoch.order[first..end].iter().map(|&place| packed.chosen.place(place)).collect()
            }
            Layout::Padded(padded) => vec![padded.chosen.place(padded.rows[index as usize].0)],
        }
    }

    /// The epoch that row `row` is of.
    pub(super) fn epoch(&self, row: u64) -> u64 {
        row / self.per_epoch
    }

    fn fill_unmasked(&self, row: u64, tokens: &mut [i32], labels: &mut [i32]) -> Result<()> {
        let (epoch, place, index) = self.of_epoch(row);
        match &self.layout {
            Layout::Windows(stream) => self.fill_window(stream, self.window_start(epoch, index), tokens, labels),
            Layout::Packed(packed) => {
                let epoch = packed.epoch(epoch, self.order);
                let start = place * self.seq_len as u64;
                let count = (self.pairs - start).min(self.seq_len as u64) as usize;
                let mut buffer = vec![0; count + 1];
                packed.read(&epoch, start, &mut buffer);
                put(&buffer, 0, tokens, labels);
                pad(count, packed.chosen.documents.separator, tokens, labels);
                Ok(())
            }
            Layout::Padded(padded) => {
                let (place, from) = padded.rows[index as usize];
                let count = (padded.chosen.document(place).len() + 1 - from).min(self.seq_len);
                for i in 0..count {
                    tokens[i] = padded.chosen.token(place, from + i);
                    labels[i] = padded.chosen.token(place, from + i + 1);
                }
                pad(count, padded.chosen.documents.separator, tokens, labels);
                Ok(())
            }
        }
    }

    /// The window of a stream that begins with pair `start`.
    ///
    /// The pairs are taken as a circle, so that with any phase every pair is in at most one window and fewer than
    /// `seq_len` of them are left out. Every label is the token that truly follows; only the context of the one window
    /// that crosses the end is broken.
    fn fill_window(&self, stream: &Stream, start: u64, tokens: &mut [i32], labels: &mut [i32]) -> Result<()> {
        let (pairs, seq_len) = (self.pairs, self.seq_len as u64);
        let before_end = (pairs - start).min(seq_len) as usize;
        let mut buffer = vec![0; before_end + 1];
        stream.tokens.read(stream.start + start, &mut buffer)?;
        put(&buffer, 0, tokens, labels);
        if matches!(self.order, RowOrder::Whole) || before_end == self.seq_len {
            pad(before_end, 0, tokens, labels);
            return Ok(());
        }
        let mut buffer = vec![0; self.seq_len - before_end + 1];
        stream.tokens.read(stream.start, &mut buffer)?;
        put(&buffer, before_end, tokens, labels);
        Ok(())
    }
}

/// Puts the pairs of a stretch of tokens at `at`.
fn put(stretch: &[i32], at: usize, tokens: &mut [i32], labels: &mut [i32]) {
    let count = stretch.len() - 1;
    tokens[at..at + count].copy_from_slice(&stretch[..count]);
    labels[at..at + count].copy_from_slice(&stretch[1..]);
}

/// Fills up a row with a token whose labels are ignored.
fn pad(from: usize, token: i32, tokens: &mut [i32], labels: &mut [i32]) {
    tokens[from..].fill(token);
    labels[from..].fill(IGNORED);
}
