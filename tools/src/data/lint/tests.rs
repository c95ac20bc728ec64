//! Files in, findings out.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::data::sidecar::{ShardEntry, Sidecar, TokenizerFile};

/// Looks at files written for the test: shards where they end in `.bin`.
fn look(files: &[(&str, &[u8])], looked_at: &[&str], expected: &Expected) -> Report {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let input = |name: &&str| Input { path: folder.path().join(name), shard: name.ends_with(".bin") };
    let inputs: Vec<Input> = looked_at.iter().map(input).collect();
    let mut read = 0;
    let report = lint(&inputs, expected, &mut |bytes| read += bytes);
    if report.count().0 == 0 {
        assert_eq!(read, report.files.iter().map(|file| file.bytes).sum::<u64>(), "progress tells all bytes");
    }
    report
}

/// All findings, errors first, without the folder.
fn findings(report: &Report) -> Vec<String> {
    let all = report.files.iter().flat_map(|file| &file.findings).chain(&report.findings);
    let mut all: Vec<&Finding> = all.collect();
    all.sort_by_key(|finding| !finding.error);
    let folder = report.files[0].path.parent().unwrap_or(Path::new("")).display().to_string();
    let line = |finding: &&Finding| {
        let kind = if finding.error { "error" } else { "warning" };
        format!("{kind}: {}", finding.message.replace(&format!("{folder}/"), ""))
    };
    all.iter().map(line).collect()
}

fn shard(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn with_header(ids: &[u16]) -> Vec<u8> {
    let words = [20_240_520, 1, ids.len() as i32].into_iter().chain(std::iter::repeat(0)).take(256);
    words.flat_map(i32::to_le_bytes).chain(shard(ids)).collect()
}

const END: u16 = 256;
const IDS: [u16; 10] = [97, 98, END, 99, 100, 101, END, 102, 103, END];

fn ending() -> Expected {
    Expected { vocab_size: Some(257), end_of_document: Some(256), ..Expected::default() }
}

#[test]
fn clean_shards_are_measured() {
    for (bytes, header) in [(shard(&IDS), false), (with_header(&IDS), true)] {
        let report = look(&[("a.bin", &bytes)], &["a.bin"], &ending());
        assert_eq!(findings(&report), [""; 0]);
        let file = &report.files[0];
        assert_eq!((file.kind, file.dtype, file.header), ("shard", Some(TokenDType::Uint16), header));
        assert_eq!((file.tokens, file.documents, file.bytes), (Some(10), Some(3), bytes.len() as u64));
        assert_eq!(file.longest, Some(Longest { length: 3, at: 3 }));
        assert_eq!((report.frequent[0].id, report.frequent[0].count, report.frequent[0].share), (256, 3, 0.3));
        assert_eq!(report.frequent[1].id, 97, "the smaller of those that are as frequent");
    }
    // Pieces of the read do not show: here documents end on both sides of a piece's end.
    let mut ids = vec![7; 600_000];
    (ids[524_287], ids[524_288], ids[599_999]) = (END, 8, END);
    let report = look(&[("a.bin", &shard(&ids))], &["a.bin"], &ending());
    assert_eq!(report.files[0].longest, Some(Longest { length: 524_287, at: 0 }));
    assert_eq!((report.documents, report.tokens), (2, 600_000));
}

#[test]
fn faults_of_shards() {
    let cut = with_header(&IDS)[..1030].to_vec();
    for (bytes, expected) in [
        (
            shard(&[1, 300, 2, 301, END]),
            "error: 2 of 5 ids are outside of the vocabulary of 257; the first is 300 at token 1",
        ),
        (cut, "error: its header tells of 10 tokens, but 6 bytes follow it: the file is cut short or not a shard"),
        (vec![1, 0, 2], "error: 3 bytes are not a whole number of uint16 tokens; see `data.token_dtype`"),
        (Vec::new(), "error: it is empty"),
        (shard(&[1, 2, 3]), "warning: no document ends in it: the id 256 is not among its 3 tokens"),
        (shard(&[1, END, 3, 4]), "warning: its last document has no end: the last token is 4, and 256 ends a document"),
        (shard(&[1, END, END, 3, END, END]), "warning: 2 documents are empty; the first at token 2"),
        (
            shard(&[1, 2, END, 3, END, 1, 2, END, 3, END, 2, 1, END]),
            "warning: 2 of 5 documents came before; the first is a.bin, token 5",
        ),
    ] {
        assert_eq!(findings(&look(&[("a.bin", &bytes)], &["a.bin"], &ending())), [expected]);
    }
    let none = look(&[("a.bin", &shard(&[1, 60_000]))], &["a.bin"], &Expected::default());
    assert_eq!((findings(&none), none.documents), (vec![], 0), "nothing is known, so nothing is amiss");
    let gone = look(&[], &["a.bin"], &ending());
    assert_eq!(findings(&gone), ["error: cannot read it: no such file or directory"]);
}

#[test]
fn copies_are_found_across_files() {
    let files: &[(&str, &[u8])] = &[("a.bin", &shard(&IDS)), ("b.bin", &shard(&IDS))];
    let report = look(files, &["a.bin", "b.bin"], &ending());
    assert_eq!(findings(&report), ["warning: 3 of 6 documents came before; the first is b.bin, token 0"]);
}

fn sha256(bytes: &[u8]) -> String {
    crate::digest::sha256(bytes)
}

#[test]
fn shards_are_compared_with_their_description() {
    let tokenizer = Tokenizer::Byte.to_json();
    let good = Sidecar {
        format: Sidecar::FORMAT,
        dtype: TokenDType::Uint16,
        vocab_size: 257,
        end_of_document: Some(256),
        tokenizer: TokenizerFile { file: "tokenizer.json".into(), sha256: sha256(tokenizer.as_bytes()) },
        tokens: 10,
        documents: 3,
        text_bytes: 14,
        shards: vec![ShardEntry { file: "a.bin".into(), tokens: 10, documents: 3, sha256: sha256(&shard(&IDS)) }],
    };
    let look = |sidecar: &Sidecar, ids: &[u16], tokenizer: &str| {
        let (json, bytes) = (sidecar.to_json().unwrap(), shard(ids));
        let files: &[(&str, &[u8])] =
            &[("a.bin", &bytes), ("shards.json", json.as_bytes()), ("tokenizer.json", tokenizer.as_bytes())];
        look(files, &["a.bin"], &Expected::default())
    };
    let report = look(&good, &IDS, &tokenizer);
    assert_eq!((findings(&report), report.bytes_per_token), (vec![], Some(1.4)));
    assert_eq!(report.frequent[0].text.as_deref(), Some("<|endoftext|>"));
    assert_eq!(report.frequent[1].text.as_deref(), Some("a"));

    let mut changed = IDS;
    changed[0] = 98;
    let found = findings(&look(&good, &changed, &tokenizer));
    assert!(found[0].starts_with("error: its content is not what was described: its SHA-256 is "), "{found:?}");
    let found = findings(&look(&good, &IDS[..9], &tokenizer));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("error: it has 9 tokens, and the shards.json beside it says 10"), "{found:?}");
    let found = findings(&look(&good, &IDS, "{}"));
    assert!(found[0].starts_with("error: tokenizer.json is not the tokenizer"), "{found:?}");
    let mut counted = good.clone();
    counted.shards[0].documents = 4;
    assert_eq!(findings(&look(&counted, &IDS, &tokenizer)), ["warning: 3 documents end in it, and shards.json says 4"]);
    let mut more = good.clone();
    more.shards.push(ShardEntry { file: "b.bin".into(), ..more.shards[0].clone() });
    assert_eq!(findings(&look(&more, &IDS, &tokenizer)), ["error: shards.json lists b.bin, which is not there"]);
    let mut unreadable = good;
    unreadable.format = 2;
    assert!(findings(&look(&unreadable, &IDS, &tokenizer))[0].contains("format 2"));
}

#[test]
fn texts_are_looked_at() {
    let byte = Some(TokensOf::Tokenizer(Tokenizer::Byte));
    let lines = Expected { lines: true, tokens: byte.clone(), ..Expected::default() };
    let text = Expected { tokens: byte, ..Expected::default() };
    let plain = Expected { lines: true, ..Expected::default() };
    let chars = Expected { tokens: Some(TokensOf::Characters), ..Expected::default() };
    for (content, expected, found, (tokens, documents, longest)) in [
        (&b"anna\nbo\r\n"[..], &lines, &[][..], (8, Some(2), Some((4, 1)))),
        (b"\xEF\xBB\xBFanna\nbo", &plain, &[], (0, Some(2), Some((4, 1)))),
        (b"anna\nbo\n", &text, &[], (8, None, None)),
        ("süß\n".as_bytes(), &chars, &[], (4, None, None)),
        (
            b"a\n\n\nbb\n",
            &lines,
            &["warning: 2 lines are empty and no documents; the first is line 2"],
            (5, Some(2), Some((2, 4))),
        ),
        (
            b"a\nb\na\n",
            &lines,
            &["warning: 1 of 3 documents came before; the first is t, line 3"],
            (6, Some(3), Some((1, 1))),
        ),
        (
            b"\n\n",
            &plain,
            &[
                "error: it has no lines that are not empty, so no documents",
                "warning: 2 lines are empty and no documents; the first is line 1",
            ],
            (0, None, None),
        ),
        (b"", &text, &["error: it is empty"], (0, None, None)),
        (b"a\nb\xe9c\n", &text, &["error: it is not UTF-8 text: line 2, byte 2 of the line"], (2, None, None)),
    ] {
        let report = look(&[("t", content)], &["t"], expected);
        let shown = String::from_utf8_lossy(content);
        assert_eq!(findings(&report), found, "{shown:?}");
        let longest_found = report.files[0].longest.map(|longest| (longest.length, longest.at));
        assert_eq!(
            (report.tokens, report.files[0].documents, longest_found),
            (tokens, documents, longest),
            "{shown:?}"
        );
    }
    let report = look(&[("t", "süß\n".as_bytes())], &["t"], &chars);
    assert_eq!(report.bytes_per_token, Some(1.5));
    let ab = Tokenizer::Char(crate::tokenizer::CharTokenizer::new("ab".chars(), true).unwrap());
    let known = Expected { lines: true, tokens: Some(TokensOf::Tokenizer(ab)), ..Expected::default() };
    let found = findings(&look(&[("t", b"ab\nac\n")], &["t"], &known));
    assert!(
        found[0].starts_with("error: 1 lines cannot be tokenized; line 2: the character 'c' (U+0063)"),
        "{found:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_file_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..60), header: bool, name in "[at]\\.(bin|txt)", lines: bool,
        vocab_size in prop::option::of(1..500usize), end in prop::option::of(0..300u32), wide: bool,
    ) {
        let start = if header { with_header(&[])[..1024].to_vec() } else { Vec::new() };
        let token_dtype = Some(if wide { TokenDType::Uint32 } else { TokenDType::Uint16 });
        let tokens = Some(TokensOf::Tokenizer(Tokenizer::Byte));
        let expected = Expected { vocab_size, end_of_document: end, token_dtype, tokens, lines };
        let report = look(&[(&name, &[start, bytes].concat())], &[&name], &expected);
        prop_assert!(serde_json::to_value(&report).is_ok());
    }

    /// Tokens, documents and the longest are those of the ids cut at the ends.
    #[test]
    fn documents_are_counted(ids in prop::collection::vec(0..4u16, 1..60)) {
        let expected = Expected { end_of_document: Some(0), ..Expected::default() };
        let report = look(&[("a.bin", &shard(&ids))], &["a.bin"], &expected);
        let documents: Vec<&[u16]> = ids.split(|&id| id == 0).filter(|document| !document.is_empty()).collect();
        prop_assert_eq!((report.tokens, report.documents), (ids.len() as u64, documents.len() as u64));
        let longest = documents.iter().map(|document| document.len() as u64).max();
        prop_assert_eq!(report.files[0].longest.map(|longest| longest.length), longest);
        let distinct: std::collections::BTreeSet<_> = documents.iter().collect();
        prop_assert_eq!(report.duplicates, (documents.len() - distinct.len()) as u64);
    }
}
