//! From files to chunks: unpacking, lines, documents.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::chunk::{Chunk, Piece};
use super::inputs::{Compression, Format, Input};
use super::progress::{Counted, Counter};
use super::{Documents, Reading, parquet};
use crate::error::{Error, Result};

/// A chunk is sent when it has this many bytes: enough that handing it over costs nothing, little enough that all
/// threads have some to do.
const CHUNK_BYTES: usize = 1 << 20;

/// A chunk of many tiny documents is sent by their number.
const CHUNK_PIECES: usize = 1 << 14;

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1 << 18;

/// Reads all files, and sends their chunks in order until `send` says that nobody wants them.
pub(super) fn read(reading: &Reading, counter: &Counter, send: &mut dyn FnMut(Chunk) -> bool) -> Result<()> {
    for input in &reading.inputs {
        let wanted = match input.format {
            Format::Parquet => parquet::read(input, reading, counter, send)?,
            Format::Text | Format::JsonLines => read_text(input, reading, counter, send)?,
        };
        if !wanted {
            break;
        }
    }
    Ok(())
}

/// The chunk being filled.
pub(super) struct Filling<'a> {
    chunk: Chunk,
    send: &'a mut dyn FnMut(Chunk) -> bool,
    wanted: bool,
}

impl<'a> Filling<'a> {
    pub(super) fn new(input: &Input, counted: &'static str, send: &'a mut dyn FnMut(Chunk) -> bool) -> Filling<'a> {
        let path = Arc::from(input.path.as_path());
        let json = input.format == Format::JsonLines;
        let chunk = Chunk { path, counted, json, bytes: Vec::new(), pieces: Vec::new() };
        Filling { chunk, send, wanted: true }
    }

    /// The document that is being read ends; it has this number.
    pub(super) fn end(&mut self, number: u64) {
        self.push(Piece { end: self.chunk.bytes.len(), number, missing: None });
    }

    /// There is no document of this number, and why; what was read of it goes.
    pub(super) fn end_missing(&mut self, number: u64, reason: &'static str) {
        let start = self.start();
        self.chunk.bytes.truncate(start);
        self.push(Piece { end: start, number, missing: Some(reason) });
    }

    fn push(&mut self, piece: Piece) {
        self.chunk.pieces.push(piece);
        if self.chunk.bytes.len() >= CHUNK_BYTES || self.chunk.pieces.len() >= CHUNK_PIECES {
            self.flush();
        }
    }

    /// Where the document begins that is being read.
    fn start(&self) -> usize {
        self.chunk.pieces.last().map_or(0, |piece| piece.end)
    }

    /// Bytes of the document that is being read.
    fn open_bytes(&self) -> usize {
        self.chunk.bytes.len() - self.start()
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.chunk.bytes.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        if !self.chunk.pieces.is_empty() {
            let (bytes, pieces) = (std::mem::take(&mut self.chunk.bytes), std::mem::take(&mut self.chunk.pieces));
            let chunk = Chunk { path: Arc::clone(&self.chunk.path), bytes, pieces, ..self.chunk };
            self.wanted = self.wanted && (self.send)(chunk);
        }
    }

    /// Whether anybody wants more.
    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    /// Sends what is left.
    pub(super) fn finish(mut self) -> bool {
        self.flush();
        self.wanted
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Error {
    Error::cannot_read("the input", path, error)
}

/// The bytes of a file, unpacked.
fn open(input: &Input, counter: &Counter) -> Result<Box<dyn BufRead>> {
    let cannot = |error: io::Error| cannot_read(&input.path, &error);
    let file = Counted { inner: File::open(&input.path).map_err(cannot)?, counter: counter.clone() };
    let file = BufReader::with_capacity(BLOCK_BYTES, file);
    let unpacked: Box<dyn Read> = match input.compression {
        Compression::None => return Ok(Box::new(file)),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file).map_err(cannot)?),
    };
    Ok(Box::new(BufReader::with_capacity(BLOCK_BYTES, unpacked)))
}

/// Reads text or lines of JSON. Returns whether more is wanted.
fn read_text(input: &Input, reading: &Reading, counter: &Counter, send: &mut dyn FnMut(Chunk) -> bool) -> Result<bool> {
    let mut lines = Lines { source: open(input, counter)?, number: 0, limit: reading.max_document_bytes };
    let mut filling = Filling::new(input, "line", send);
    let documents = match input.format {
        Format::JsonLines => Documents::Lines,
        Format::Text | Format::Parquet => reading.documents,
    };
    // The line on which the document being read began; 0 where there is none.
    let mut began = 0;
    let mut line = Vec::new();
    let mut too_long = false;
    const TOO_LONG: &str = "the document is longer than --max-document-mb";
    while filling.wanted() {
        line.clear();
        let read = lines.next(&mut line).map_err(|error| cannot_read(&input.path, &error))?;
        if read == Line::None {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        match documents {
            Documents::Lines if read == Line::TooLong => filling.end_missing(lines.number, TOO_LONG),
            Documents::Lines => {
                // An empty line is no document that is empty.
                if !text.trim_ascii().is_empty() {
                    filling.append(text);
                    filling.end(lines.number);
                }
            }
            Documents::Paragraphs if read == Line::Whole && text.trim_ascii().is_empty() => {
                end_document(&mut filling, &mut began, &mut too_long, TOO_LONG);
            }
            Documents::Running if read == Line::TooLong => filling.end_missing(lines.number, TOO_LONG),
            Documents::Running => {
                // After a line break, before what is no white space, every splitting regex has the end of a word.
                let begins_word = line.first().is_some_and(|byte| byte.is_ascii_graphic());
                if began > 0 && begins_word && filling.open_bytes() >= CHUNK_BYTES {
                    filling.end(began);
                    began = 0;
                }
                if began > 0 && filling.open_bytes() + line.len() > reading.max_document_bytes {
                    filling.end_missing(began, TOO_LONG);
                    began = 0;
                }
                began = if began == 0 { lines.number } else { began };
                filling.append(&line);
            }
            Documents::Paragraphs | Documents::File => {
                let separator: &[u8] = if documents == Documents::Paragraphs && began > 0 { b"\n" } else { b"" };
                began = if began == 0 { lines.number } else { began };
                too_long =
                    too_long || read == Line::TooLong || filling.open_bytes() + line.len() > reading.max_document_bytes;
                if !too_long {
                    filling.append(separator);
                    filling.append(if documents == Documents::File { &line } else { text });
                }
            }
        }
    }
    end_document(&mut filling, &mut began, &mut too_long, TOO_LONG);
    Ok(filling.finish())
}

/// Ends the document that began, if one did.
fn end_document(filling: &mut Filling<'_>, began: &mut u64, too_long: &mut bool, reason: &'static str) {
    match (std::mem::take(began), std::mem::take(too_long)) {
        (0, _) => {}
        (number, false) => filling.end(number),
        (number, true) => filling.end_missing(number, reason),
    }
}

/// What was read of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// All of it, with its line break.
    Whole,
    /// It is longer than what may be held, and was passed over.
    TooLong,
    /// There is none.
    None,
}

/// The lines of a text, without a byte order mark.
struct Lines {
    source: Box<dyn BufRead>,
    /// The number of the line that was read last, from 1.
    number: u64,
    limit: usize,
}

impl Lines {
    /// Appends the next line to `line`.
    fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Line> {
        let mut read = Line::None;
        loop {
            let block = match self.source.fill_buf() {
                Ok(block) => block,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if block.is_empty() {
                break;
            }
            if read == Line::None {
                self.number += 1;
                read = Line::Whole;
            }
            let end = memchr::memchr(b'\n', block);
            let here = end.map_or(block.len(), |end| end + 1);
            if line.len() + here > self.limit {
                read = Line::TooLong;
                line.clear();
            }
            if read == Line::Whole {
                line.extend_from_slice(&block[..here]);
            }
            self.source.consume(here);
            if end.is_some() {
                break;
            }
        }
        if self.number == 1 && line.starts_with("\u{FEFF}".as_bytes()) {
            line.drain(..3);
        }
        Ok(read)
    }
}
