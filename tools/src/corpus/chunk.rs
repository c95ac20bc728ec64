//! A part of a file, and the documents in it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Reading, Skipped};
use crate::error::{Error, Result};

/// A part of a file: whole documents, still as they were read.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The file.
    pub path: Arc<Path>,
    /// What a document's number counts: `"line"` or `"row"`.
    pub counted: &'static str,
    /// Whether a document is a JSON object with the text in a field.
    pub json: bool,
    /// The documents, one after the other.
    pub bytes: Vec<u8>,
    /// Where each ends.
    pub pieces: Vec<Piece>,
}

/// A document in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its bytes end; they begin where those of the one before end.
    pub end: usize,
    /// The number of its line or row, from 1.
    pub number: u64,
    /// Why there is none in this place.
    pub missing: Option<&'static str>,
}

impl Chunk {
    /// Hands the text of every document to `take`, with its place for messages, and returns what was passed over.
    ///
    /// # Errors
    /// If a document is not what it should be, unless these are skipped; or what `take` fails with.
    pub fn texts(&self, reading: &Reading, mut take: impl FnMut(&str) -> Result<()>) -> Result<Skipped> {
        let mut skipped = Skipped::default();
        let mut start = 0;
        for piece in &self.pieces {
            let bytes = &self.bytes[start..piece.end];
            start = piece.end;
            let text = match piece.missing {
                Some(reason) => Err(reason.to_owned()),
                None if self.json => field(bytes, &reading.field),
                None => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| not_utf8(error.valid_up_to())),
            };
            let result = text.and_then(|text| match text.is_empty() {
                true => {
                    skipped.empty += 1;
                    Ok(())
                }
                false => take(&text).map_err(|error| error.message().to_owned()),
            });
            if let Err(reason) = result {
                let message = format!("{}, {} {}: {reason}", self.path.display(), self.counted, piece.number);
                if !reading.skip_invalid {
                    return Err(Error::input(message + "; --skip-invalid passes over such documents"));
                }
                skipped.invalid += 1;
                skipped.first.get_or_insert(message);
            }
        }
        Ok(skipped)
    }
}

fn not_utf8(at: usize) -> String {
    format!("not UTF-8 text: byte {at} of the document does not belong")
}

/// The text in a field of a JSON object.
fn field<'a>(json: &'a [u8], name: &str) -> Result<Cow<'a, str>, String> {
    let text = std::str::from_utf8(json).map_err(|error| not_utf8(error.valid_up_to()))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let found = Field(name).deserialize(&mut parser).and_then(|found| parser.end().map(|()| found));
    found.map_err(|error| {
        // The line is told before; within it, serde counts a first one.
        let reason = error.to_string();
        match reason.rsplit_once(" at line 1 column ") {
            Some((reason, column)) => format!("{reason}, at column {column}"),
            None => reason,
        }
    })
}

/// One field of an object, the others ignored.
struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object with the text in the field {:?}", self.0)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Cow<'de, str>, M::Error> {
        let mut found = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value_seed(Text)?).is_some() {
                return Err(M::Error::custom(format_args!("the field {:?} is there twice", self.0)));
            }
        }
        found.ok_or_else(|| M::Error::custom(format_args!("the object has no field {:?}", self.0)))
    }
}

/// A string, borrowed where it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
