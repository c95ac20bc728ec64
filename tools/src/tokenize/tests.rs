//! From documents to shards: what is in them, in which order, and what is left where something fails.

use std::path::Path;

use super::*;
use crate::corpus::{Documents, expand};

/// Tokenizes the files of `folder/in` by bytes into `folder/out`.
fn options(folder: &Path) -> Options {
    let reading = Reading {
        inputs: expand(&[folder.join("in")], None).unwrap(),
        documents: Documents::Lines,
        field: "text".to_owned(),
        max_document_bytes: 1 << 20,
        skip_invalid: false,
        threads: 2,
    };
    Options {
        reading,
        tokenizer: Tokenizer::Byte,
        out: folder.join("out"),
        force: false,
        format: ShardFormat::Raw,
        shard_tokens: 1000,
        held_out: HeldOut::None,
        seed: 1,
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("in").join(name), text).unwrap();
    }
    folder
}

fn run(options: &Options) -> Result<Summary> {
    tokenize(options, &mut Progress::of_bytes("tokenizing", 0))
}

/// The documents of shards of bytes, and the sidecar.
fn written(folder: &Path) -> (Vec<String>, Vec<String>, Sidecar) {
    let out = folder.join("out");
    let sidecar = Sidecar::read(&out).unwrap().unwrap();
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for shard in &sidecar.shards {
        let bytes = fs::read(out.join(&shard.file)).unwrap();
        assert_eq!(shard.sha256, sha256(&bytes));
        let ids = if bytes.starts_with(&20_240_520_u32.to_le_bytes()) {
            let count = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            assert_eq!((u64::from(count), &bytes[4..8]), (shard.tokens, &1_u32.to_le_bytes()[..]));
            &bytes[1024..]
        } else {
            &bytes[..]
        };
        assert_eq!(ids.len() as u64, shard.tokens * 2);
        let ids: Vec<u16> = ids.chunks(2).map(|id| u16::from_le_bytes([id[0], id[1]])).collect();
        let mut documents: Vec<String> = Vec::new();
        for document in ids.split_inclusive(|&id| id == 256) {
            let (end, text) = document.split_last().unwrap();
            assert_eq!(*end, 256, "every document ends, and none goes on in another shard");
            documents.push(String::from_utf8(text.iter().map(|&id| id as u8).collect()).unwrap());
        }
        assert_eq!(shard.documents, documents.len() as u64);
        if shard.file.starts_with("train-") { train.extend(documents) } else { val.extend(documents) }
    }
    assert_eq!(sidecar.tokens, sidecar.shards.iter().map(|shard| shard.tokens).sum::<u64>());
    assert_eq!(sidecar.documents, (train.len() + val.len()) as u64);
    (train, val, sidecar)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort_unstable();
    names
}

#[test]
fn shards_hold_all_documents_in_order() {
    let lines: String = (0..400).map(|i| format!("line {i} {}\n", "x".repeat(i % 50))).collect();
    let folder = folder(&[("a.txt", &lines), ("b.jsonl", "{\"text\": \"läst\"}\n")]);
    for format in [ShardFormat::Raw, ShardFormat::Header] {
        let summary = run(&Options { format, force: true, ..options(folder.path()) }).unwrap();
        let (train, val, sidecar) = written(folder.path());
        let expected: Vec<&str> = lines.lines().chain(["läst"]).collect();
        assert_eq!((train, val.len()), (expected.iter().map(ToString::to_string).collect(), 0));
        let text_bytes = expected.iter().map(|line| line.len() as u64).sum::<u64>();
        assert_eq!((summary.documents, summary.tokens, summary.text_bytes), (401, text_bytes + 401, text_bytes));
        assert_eq!((sidecar.vocab_size, sidecar.end_of_document, sidecar.text_bytes), (257, Some(256), text_bytes));
        assert!(sidecar.shards.len() > 10 && sidecar.shards.iter().all(|shard| shard.tokens <= 1000));
        // As full as whole documents allow: the next one, of at most 60 bytes, would not fit.
        assert!(sidecar.shards[..sidecar.shards.len() - 1].iter().all(|shard| shard.tokens > 940));
        let mut expected: Vec<String> = sidecar.shards.iter().map(|shard| shard.file.clone()).collect();
        expected.splice(0..0, ["shards.json".to_owned(), "tokenizer.json".to_owned()]);
        assert_eq!(names(&folder.path().join("out")), expected);
        assert_eq!(Tokenizer::read(&sidecar.tokenizer_path(&folder.path().join("out"))).unwrap(), Tokenizer::Byte);
    }
}

#[test]
fn the_output_does_not_depend_on_threads() {
    // More than a chunk, so that there is something to put in order.
    let lines: String = (0..150_000).map(|i| format!("{i} {}\n", i * i % 1013)).collect();
    let folder = folder(&[("a.txt", &lines), ("b.txt", &lines[..1000]), ("c.txt", &lines)]);
    let mut seen = None;
    for threads in [1, 2, 5] {
        let mut options = Options { force: true, held_out: HeldOut::Documents(1000), ..options(folder.path()) };
        options.reading.threads = threads;
        options.shard_tokens = 1_000_000;
        run(&options).unwrap();
        let sidecar = Sidecar::read(&options.out).unwrap().unwrap();
        assert_eq!(*seen.get_or_insert(sidecar.clone()), sidecar, "{threads} threads");
    }
}

#[test]
fn documents_are_held_out_by_their_text() {
    let lines: String = (0..2000).map(|i| format!("document {}\n", i % 1990)).collect();
    let folder = folder(&[("a.txt", &lines)]);
    let all = |train: &[String], val: &[String]| {
        let mut all: Vec<String> = [train, val].concat();
        all.sort_unstable();
        let mut expected: Vec<String> = lines.lines().map(str::to_owned).collect();
        expected.sort_unstable();
        assert_eq!(all, expected, "each document is on one side");
    };
    let mut draws = Vec::new();
    for (held_out, seed, range) in [
        (HeldOut::Fraction(0.1), 1, 150..250),
        (HeldOut::Fraction(0.1), 2, 150..250),
        (HeldOut::Documents(7), 1, 7..8),
        (HeldOut::Fraction(0.0), 1, 0..1),
        (HeldOut::Documents(0), 1, 0..1),
    ] {
        let summary = run(&Options { force: true, held_out, seed, ..options(folder.path()) }).unwrap();
        let (train, val, _) = written(folder.path());
        all(&train, &val);
        assert!(range.contains(&val.len()), "{held_out:?}: {}", val.len());
        assert_eq!(summary.val_documents, val.len() as u64);
        if let HeldOut::Fraction(_) = held_out {
            assert!(val.iter().all(|document| !train.contains(document)), "copies stay together");
        }
        draws.push(val);
    }
    assert_ne!(draws[0], draws[1], "the seed decides");
    assert!(draws[2].iter().all(|document| draws[0].contains(document)), "the lowest draws come first");
}

#[test]
fn what_was_there_stays_until_the_new_is_whole() {
    let folder = folder(&[("a.txt", "one\ntwo\n")]);
    let out = folder.path().join("out");
    let good = options(folder.path());
    run(&Options { shard_tokens: 1, ..good.clone() }).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let before: Vec<(String, Vec<u8>)> =
        names(&out).into_iter().map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect();
    let unchanged = || {
        let now: Vec<_> =
            names(&out).into_iter().map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect();
        assert_eq!(now, before);
    };
    let error = run(&good).unwrap_err();
    assert!(error.message().contains("holds shards.json already") && error.message().contains("--force"), "{error}");
    assert_eq!(error.exit_code(), 2);
    unchanged();
    std::fs::write(folder.path().join("in/b.txt"), b"good\n\xFF\n").unwrap();
    let error = run(&Options { force: true, ..options(folder.path()) }).unwrap_err();
    assert!(error.message().contains("b.txt, line 2: not UTF-8 text"), "{error}");
    unchanged();
    let mut skipping = Options { force: true, ..options(folder.path()) };
    skipping.reading.skip_invalid = true;
    let summary = run(&skipping).unwrap();
    assert_eq!((summary.documents, summary.invalid_documents), (3, 1));
    assert!(summary.first_invalid.unwrap().contains("b.txt, line 2"));
    // The second shard of the first time is gone; what is not ours is not.
    assert_eq!(names(&out), ["notes.txt", "shards.json", "tokenizer.json", "train-00000.bin"]);
}

#[test]
fn nothing_is_left_of_what_fails() {
    for (files, held_out, expected) in [
        (&[("a.txt", "\n\n")][..], HeldOut::None, "nothing to train on"),
        (&[("a.txt", "a\nb\n")], HeldOut::Documents(2), "--val-documents 2 of 2 documents leaves nothing"),
        (&[("a.jsonl", "{\"text\": 1}")], HeldOut::None, "line 1: invalid type: integer `1`, expected a text"),
    ] {
        let folder = folder(files);
        let error = run(&Options { held_out, ..options(folder.path()) }).unwrap_err();
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
        assert_eq!(names(folder.path()), ["in"]);
    }
    let characters = crate::tokenizer::CharTokenizer::new("ab".chars(), false).unwrap();
    let folder = folder(&[("a.txt", "ab\n")]);
    let tokenizer = Tokenizer::Char(characters);
    let error = run(&Options { tokenizer, ..options(folder.path()) }).unwrap_err();
    assert!(error.message().contains("no token to end documents with"), "{error}");
}

#[test]
fn unknown_characters_are_told_with_their_document() {
    let folder = folder(&[("a.txt", "ab\nabc\nba\n")]);
    let characters = crate::tokenizer::CharTokenizer::new("ab".chars(), true).unwrap();
    let mut options = Options { tokenizer: Tokenizer::Char(characters), ..options(folder.path()) };
    let error = run(&options).unwrap_err();
    assert!(error.message().contains("a.txt, line 2: the character 'c'"), "{error}");
    options.reading.skip_invalid = true;
    let summary = run(&options).unwrap();
    assert_eq!((summary.documents, summary.tokens, summary.invalid_documents), (2, 6, 1));
}
