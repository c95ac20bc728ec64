//! Files of every kind in, documents out.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::Compression as Codec;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;
use crate::error::Result;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

/// A Parquet file with a column `id` and a column `text` of these, in groups of three rows.
fn parquet_file(texts: &[Option<&str>], codec: Codec, optional: bool) -> Vec<u8> {
    let kind = if optional { "optional" } else { "required" };
    let schema = format!("message rows {{ required int32 id; {kind} binary text (UTF8); required int32 other; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for rows in texts.chunks(3) {
        let numbers: Vec<i32> = (0..).take(rows.len()).collect();
        let mut group = writer.next_row_group().unwrap();
        for index in 0..3 {
            let mut column = group.next_column().unwrap().unwrap();
            if index == 1 {
                let values: Vec<ByteArray> = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect();
                let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
                let levels = optional.then_some(levels.as_slice());
                column.typed::<ByteArrayType>().write_batch(&values, levels, None).unwrap();
            } else {
                column.typed::<Int32Type>().write_batch(&numbers, None, None).unwrap();
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// Reads one file of this name. The documents, and what was passed over.
fn read(name: &str, bytes: &[u8], change: impl FnOnce(&mut Reading)) -> Result<(Vec<String>, Skipped)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    read_in(folder.path(), name, change)
}

fn read_in(folder: &Path, name: &str, change: impl FnOnce(&mut Reading)) -> Result<(Vec<String>, Skipped)> {
    let mut reading = Reading {
        inputs: expand(&[folder.join(name)], None)?,
        documents: Documents::Lines,
        field: "text".to_owned(),
        max_document_bytes: 1 << 20,
        skip_invalid: false,
        threads: 2,
    };
    change(&mut reading);
    let (mut documents, mut skipped) = (Vec::new(), Skipped::default());
    reading.for_each(
        &mut Progress::of_bytes("reading", 0),
        || (),
        |(), chunk| {
            let mut texts = Vec::new();
            let skipped = chunk.texts(&reading, |text| {
                texts.push(text.to_owned());
                Ok(())
            })?;
            Ok((texts, skipped))
        },
        |(texts, other), _| {
            documents.extend(texts);
            skipped.add(other);
            Ok(())
        },
    )?;
    Ok((documents, skipped))
}

#[test]
fn text_is_cut_into_documents() {
    let text = "\u{FEFF}one\r\ntwo\n\n \n\nthree\nfour\n\n";
    for (documents, expected) in [
        (Documents::Lines, &["one", "two", "three", "four"][..]),
        (Documents::Paragraphs, &["one\ntwo", "three\nfour"]),
        (Documents::File, &["one\r\ntwo\n\n \n\nthree\nfour\n\n"]),
        (Documents::Running, &["one\r\ntwo\n\n \n\nthree\nfour\n\n"]),
    ] {
        for (name, bytes) in [
            ("a.txt", text.as_bytes().to_vec()),
            ("a.txt.gz", gzip(text.as_bytes())),
            ("a.zst", zstd(text.as_bytes())),
            // Packed files may be put one after the other.
            ("b.gz", [gzip(&text.as_bytes()[..5]), gzip(&text.as_bytes()[5..])].concat()),
            ("b.zst", [zstd(&text.as_bytes()[..5]), zstd(&text.as_bytes()[5..])].concat()),
        ] {
            let (found, skipped) = read(name, &bytes, |reading| reading.documents = documents).unwrap();
            assert_eq!(
                (found.as_slice(), skipped),
                (expected.map_to_strings().as_slice(), Skipped::default()),
                "{name}"
            );
        }
    }
    assert_eq!(read("a.txt", b"x", |reading| reading.documents = Documents::Paragraphs).unwrap().0, ["x"]);
    assert_eq!(read("a.txt", b"", |reading| reading.documents = Documents::File).unwrap().0, [""; 0]);
}

trait MapToStrings {
    fn map_to_strings(&self) -> Vec<String>;
}

impl MapToStrings for &[&str] {
    fn map_to_strings(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn running_text_is_cut_where_no_word_goes_on() {
    // Lines that begin with white space or another script may go on a word; so may blank ones.
    let text: String =
        (0..60_000).map(|i| ["a line\n", "\n", "  deep\n", "\u{3000}x\n", "end \n"][i % 5].repeat(20)).collect();
    let (pieces, _) = read("a.txt", text.as_bytes(), |reading| {
        reading.documents = Documents::Running;
        reading.max_document_bytes = 2 << 20;
    })
    .unwrap();
    assert_eq!(pieces.concat(), text);
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() < (1 << 20) + 1000), "{}", pieces.len());
    for pair in pieces.windows(2) {
        assert!(pair[0].ends_with('\n') && pair[1].starts_with(|c: char| c.is_ascii_graphic()));
    }
}

#[test]
fn json_has_its_text_in_a_field() {
    let json = r#"{"id": [1, {"text": 2}], "text": "pl\u00e4in", "z": null}
{"text":""}

{"text": "two\nlines", "te\u0078t2": 1}"#;
    let (found, skipped) = read("a.jsonl", json.as_bytes(), |_| ()).unwrap();
    assert_eq!((found, skipped.empty), (vec!["pläin".to_owned(), "two\nlines".to_owned()], 1));
    for (line, expected) in [
        ("{\"txt\": \"a\"}", "the object has no field \"text\""),
        ("{\"text\": 5}", "invalid type: integer `5`, expected a text in quotes, at column 10"),
        ("{\"text\": null}", "invalid type: null, expected a text in quotes"),
        ("{\"text\": \"a\", \"text\": \"b\"}", "the field \"text\" is there twice"),
        ("{\"text\": \"a\"", "EOF while parsing an object, at column 12"),
        ("{\"text\": \"a\"} x", "trailing characters, at column 15"),
        ("[\"text\"]", "expected a JSON object with the text in the field \"text\""),
        ("{\"text\": \"\\ud800\"}", "unexpected end of hex escape"),
        ("text", "expected"),
    ] {
        let bytes = format!("{{\"text\": \"good\"}}\n{line}\n{{\"text\": \"also\"}}\n");
        let error = read("a.jsonl", bytes.as_bytes(), |_| ()).unwrap_err();
        assert!(error.message().contains("a.jsonl, line 2: "), "{error}");
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
        assert_eq!(error.exit_code(), 2);
        let (found, skipped) = read("a.jsonl", bytes.as_bytes(), |reading| reading.skip_invalid = true).unwrap();
        assert_eq!((found, skipped.invalid), (vec!["good".to_owned(), "also".to_owned()], 1), "{line}");
        assert!(skipped.first.unwrap().contains(expected));
    }
}

#[test]
fn a_column_of_parquet_is_read() {
    let texts = ["eins", "zwei", "", "vier", "fünf", "sechs", "sieben"];
    let some: Vec<Option<&str>> = texts.iter().copied().map(Some).collect();
    let full: Vec<&str> = texts.iter().copied().filter(|text| !text.is_empty()).collect();
    for codec in [
        Codec::UNCOMPRESSED,
        Codec::SNAPPY,
        Codec::GZIP(Default::default()),
        Codec::LZ4_RAW,
        Codec::ZSTD(Default::default()),
    ] {
        for optional in [false, true] {
            let bytes = parquet_file(&some, codec, optional);
            let (found, skipped) = read("a.parquet", &bytes, |_| ()).unwrap();
            assert_eq!((found.as_slice(), skipped.empty), (full.as_slice().map_to_strings().as_slice(), 1));
        }
    }
    let holes = parquet_file(&[Some("a"), None, Some("c"), None], Codec::SNAPPY, true);
    let error = read("a.parquet", &holes, |_| ()).unwrap_err();
    assert!(error.message().contains("a.parquet, row 2: there is no text"), "{error}");
    let (found, skipped) = read("a.parquet", &holes, |reading| reading.skip_invalid = true).unwrap();
    assert_eq!((found, skipped.invalid), (vec!["a".to_owned(), "c".to_owned()], 2));
    for (field, expected) in [
        ("txt", "it has no column \"txt\"; its columns: id, text, other; see --field"),
        ("id", "the column \"id\" holds INT32, not text"),
    ] {
        let error = read("a.parquet", &holes, |reading| reading.field = field.to_owned()).unwrap_err();
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
    }
    for name in ["a.parquet", "a.parquet.gz"] {
        let error = read(name, b"PAR1 and no more", |_| ()).unwrap_err();
        assert!(error.message().contains("cannot be read as Parquet"), "{error}");
    }
}

/// The crate's own checks do not find all damage: some ends in a panic of its, which must not be one of ours.
#[test]
fn no_damaged_byte_of_parquet_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let whole = parquet_file(&[Some("eins"), None, Some("drei")], Codec::UNCOMPRESSED, true);
    let mut refused = 0;
    for at in 0..whole.len() {
        for byte in [0, 7, 0x7F, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            std::fs::write(&path, bytes).unwrap();
            refused += usize::from(read_in(folder.path(), "a.parquet", |reading| reading.skip_invalid = true).is_err());
        }
    }
    assert!(refused > whole.len() / 4, "{refused} of {}", 4 * whole.len());
}

/// However long a line is, it is not held.
#[test]
fn what_is_too_long_is_refused() {
    let long = "x".repeat(5000);
    for (documents, name, text, number) in [
        (Documents::Lines, "a.txt", format!("a\n{long}\nb\n"), 2),
        (Documents::Lines, "a.jsonl", format!("{{\"text\":\"a\"}}\n{{\"text\":\"{long}\"}}\n{{\"text\":\"b\"}}\n"), 2),
        (Documents::Paragraphs, "a.txt", format!("a\n\nc\n{long}\nd\n\nb\n"), 3),
        (Documents::Paragraphs, "a.txt", format!("a\n\n{}\n\nb\n", "x\n".repeat(600)), 3),
        (Documents::File, "a.txt", "x\n".repeat(600), 1),
        (Documents::Running, "a.txt", format!("{long}\n"), 1),
        (Documents::Running, "a.txt", " x\n".repeat(400), 1),
    ] {
        let limit = |reading: &mut Reading| {
            reading.documents = documents;
            reading.max_document_bytes = 1000;
        };
        let error = read(name, text.as_bytes(), limit).unwrap_err();
        let expected = format!("{name}, line {number}: the document is longer than --max-document-mb");
        assert!(error.message().contains(&expected), "expected {expected:?} in {error}");
        let (found, skipped) = read(name, text.as_bytes(), |reading| {
            limit(reading);
            reading.skip_invalid = true;
        })
        .unwrap();
        assert_eq!(skipped.invalid, 1, "{text:.20}");
        if documents != Documents::File && documents != Documents::Running {
            assert_eq!(found, ["a", "b"]);
        }
    }
    let long = parquet_file(&[Some("a"), Some(&long), Some("b")], Codec::SNAPPY, false);
    let error = read("a.parquet", &long, |reading| reading.max_document_bytes = 1000).unwrap_err();
    assert!(error.message().contains("row 2: the document is longer"), "{error}");
}

#[test]
fn broken_packing_is_an_error_whatever_is_skipped() {
    let text = "a line of text\n".repeat(1000);
    for (name, bytes) in [("a.gz", gzip(text.as_bytes())), ("a.zst", zstd(text.as_bytes()))] {
        for bytes in [&bytes[..bytes.len() / 2], text.as_bytes(), b"\0"] {
            let error = read(name, bytes, |reading| reading.skip_invalid = true).unwrap_err();
            assert!(error.message().contains("cannot read the input"), "{error}");
            assert!(error.message().contains(name), "{error}");
        }
    }
}

/// The first error in the order of the files is told, and those who wait are woken.
#[test]
fn an_error_ends_everything() {
    let folder = tempfile::tempdir().unwrap();
    let good = "good\n".repeat(1 << 20);
    for name in ["a.txt", "c.txt", "e.txt"] {
        std::fs::write(folder.path().join(name), &good).unwrap();
    }
    std::fs::write(folder.path().join("b.txt"), b"bad \xFF\n").unwrap();
    std::fs::write(folder.path().join("d.gz"), b"no gzip").unwrap();
    for threads in [1, 2, 8] {
        let error = read_in(folder.path(), "", |reading| reading.threads = threads).unwrap_err();
        assert!(error.message().contains("b.txt, line 1: not UTF-8 text: byte 4"), "{error}");
        let skip = |reading: &mut Reading| (reading.threads, reading.skip_invalid) = (threads, true);
        let error = read_in(folder.path(), "", skip).unwrap_err();
        assert!(error.message().contains("d.gz"), "{error}");
    }
}

#[test]
fn a_panic_of_a_worker_is_not_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "x\n".repeat(1 << 20)).unwrap();
    let reading = Reading {
        inputs: expand(&[folder.path().to_owned()], None).unwrap(),
        documents: Documents::Lines,
        field: String::new(),
        max_document_bytes: 100,
        skip_invalid: false,
        threads: 2,
    };
    let run = || {
        reading.for_each(
            &mut Progress::of_bytes("reading", 0),
            || (),
            |(), _| -> Result<()> { panic!("of the work") },
            |(), _| Ok(()),
        )
    };
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the work"));
}

proptest! {
    #[test]
    fn any_lines_come_back(
        lines in prop::collection::vec("[^\n\r]{0,30}", 0..30), block in 1..4_usize, packed in 0..3, json: bool,
    ) {
        let lines: Vec<String> = lines.iter().map(|line| line.trim_start_matches('\u{FEFF}').repeat(block)).collect();
        let line = |text: &String| if json { serde_json::json!({ "text": text }).to_string() } else { text.clone() };
        let text = lines.iter().map(line).collect::<Vec<_>>().join("\n");
        let ending = if json { "jsonl" } else { "txt" };
        let (name, bytes) = match packed {
            0 => (format!("a.{ending}"), text.into_bytes()),
            1 => (format!("a.{ending}.gz"), gzip(text.as_bytes())),
            _ => (format!("a.{ending}.zst"), zstd(text.as_bytes())),
        };
        let blank = |line: &str| line.bytes().all(|byte| byte.is_ascii_whitespace());
        let kept = |line: &&String| if json { !line.is_empty() } else { !blank(line) };
        let expected: Vec<String> = lines.iter().filter(kept).cloned().collect();
        prop_assert_eq!(read(&name, &bytes, |_| ()).unwrap().0, expected);
    }

    #[test]
    fn no_bytes_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        name in prop::sample::select(vec!["a.txt", "a.jsonl", "a.gz", "a.jsonl.zst", "a.parquet"]),
        skip_invalid: bool, documents in 0..4_usize,
    ) {
        let documents = [Documents::File, Documents::Lines, Documents::Paragraphs, Documents::Running][documents];
        _ = read(name, &bytes, |reading| (reading.skip_invalid, reading.documents) = (skip_invalid, documents));
    }

    /// A good file with a few bytes changed.
    #[test]
    fn no_damage_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        kind in 0..5, cut in any::<prop::sample::Index>(), whole: bool,
    ) {
        let json = "{\"text\": \"a \\u00e4 text\"}\n".repeat(5);
        let rows = [Some("eins"), None, Some("drei"), Some("eins")];
        let (name, mut bytes) = match kind {
            0 => ("a.jsonl", json.into_bytes()),
            1 => ("a.jsonl.gz", gzip(json.as_bytes())),
            2 => ("a.jsonl.zst", zstd(json.as_bytes())),
            3 => ("a.parquet", parquet_file(&rows, Codec::SNAPPY, true)),
            _ => ("a.parquet", parquet_file(&rows, Codec::UNCOMPRESSED, true)),
        };
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        _ = read(name, &bytes, |reading| reading.skip_invalid = true);
    }
}
