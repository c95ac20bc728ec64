//! Data from files to batches: order, splits, padding and what is refused.

mod fingerprints;
mod mixtures;
mod shards;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::RawConfig;

const BASE: &str = r#"
model = { arch = "gpt2", n_embd = 4, n_layer = 1, n_head = 1 }
optimizer = { learning_rate = 1 }
train = { steps = 1, seq_len = 4, micro_batch_size = 2 }
"#;

fn config(data: &str, sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let text = format!("{BASE}\n[data]\n{data}\n");
    RawConfig::parse(Path::new("run.toml"), &text, &sets).and_then(RawConfig::validate).unwrap()
}

/// A folder with these files, and an empty folder named `folder`.
fn write(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    folder
}

/// Opens data in `folder`, which `$` stands for.
fn open_in(folder: &Path, data: &str, sets: &[&str], saved: Option<&Tokenizer>) -> Result<(Config, Data)> {
    let sets: Vec<String> = sets.iter().map(|set| set.replace('$', folder.to_str().unwrap())).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    Data::open(&config(&data.replace('$', folder.to_str().unwrap()), &sets), saved)
}

/// Opens data in files written for the test; `$` in `data` is their folder.
fn try_open(files: &[(&str, &[u8])], data: &str, sets: &[&str]) -> Result<(Config, Data)> {
    // Shards stay open when the folder goes.
    open_in(write(files).path(), data, sets, None)
}

fn open(text: &str, data: &str, sets: &[&str]) -> Data {
    try_open(&[("t", text.as_bytes())], &format!("train = '$/t'\n{data}"), sets).unwrap().1
}

/// The rows of the first `steps` batches: tokens and labels.
fn rows(data: &Data, steps: u64) -> Vec<(Vec<i32>, Vec<i32>)> {
    split(data.shape().seq_len, data.batches(0..steps).unwrap().map(Result::unwrap))
}

fn split(seq_len: usize, batches: impl Iterator<Item = Batch>) -> Vec<(Vec<i32>, Vec<i32>)> {
    batches
        .flat_map(|batch| {
            let (tokens, labels) = (batch.tokens.elements::<i32>(), batch.labels.elements::<i32>());
            let rows = tokens.chunks(seq_len).zip(labels.chunks(seq_len));
            rows.map(|(tokens, labels)| (tokens.to_vec(), labels.to_vec())).collect::<Vec<_>>()
        })
        .collect()
}

fn held_out(data: &Data, limit: u64) -> Vec<(Vec<i32>, Vec<i32>)> {
    split(data.shape().seq_len, data.held_out_batches(1, limit).map(Result::unwrap))
}

/// A row as text, `.` the document end, `_` padding; the label after the last token follows a space.
fn show(data: &Data, (tokens, labels): &(Vec<i32>, Vec<i32>)) -> String {
    let tokenizer = data.tokenizer().unwrap();
    let letter = |id: i32| {
        if id == IGNORED {
            "_".to_owned()
        } else {
            Some(tokenizer.decode(&[id])).filter(|t| !t.is_empty()).unwrap_or(".".to_owned())
        }
    };
    let text = |ids: &[i32]| ids.iter().map(|&id| letter(id)).collect::<String>();
    format!("{} {}", text(tokens), text(labels))
}

#[test]
fn names_are_padded_a_row_each() {
    let data =
        open("ab\n\nc\r\nabcde\n", "tokenizer='char'\ndocuments='lines'\nval_fraction=0\norder='sequential'", &[]);
    let shown: Vec<String> = rows(&data, 2).iter().map(|row| show(&data, row)).collect();
    assert_eq!(shown, [".ab. ab._", ".c.. c.__", ".abc abcd", "de.. e.__"]);
    assert_eq!((data.train_documents(), data.train_tokens(), data.rows_per_epoch()), (Some(3), 11, 4));
    assert!(held_out(&data, 0).is_empty());
}

#[test]
fn names_are_packed_end_to_end() {
    let text = "ab\nc\nabcde\n";
    let settings = "tokenizer='char'\ndocuments='lines'\npacking=true\norder='sequential'\nval_fraction=0";
    let data = open(text, settings, &["train.micro_batch_size=1"]);
    let shown: Vec<String> = rows(&data, 3).iter().map(|row| show(&data, row)).collect();
    assert_eq!(shown, [".ab. ab.c", "c.ab .abc", ".ab. ab.c"]);
    let data = open("d\n", &format!("{settings}\nval=['$/t']").replace("\nval_fraction=0", ""), &["train.seq_len=2"]);
    assert_eq!(held_out(&data, 0).iter().map(|row| show(&data, row)).collect::<Vec<_>>()[0], ".d d.");
}

#[test]
fn running_text_is_cut_like_the_peers_cut_it() {
    let text = "abcdefghijklmnop";
    let data = open(text, "tokenizer='byte'\norder='sequential'\nval_fraction=0", &["train.grad_accum_steps=2"]);
    let shown: Vec<String> = rows(&data, 1).iter().map(|row| show(&data, row)).collect();
    // (16 - 1) / 4 = 3 windows, wrapping.
    assert_eq!(shown, ["abcd bcde", "efgh fghi", "ijkl jklm", "abcd bcde"]);
    assert_eq!(data.batches(0..1).unwrap().next().unwrap().unwrap().tokens.ty().shape, [2, 2, 4]);
}

#[test]
fn the_end_of_running_text_is_held_out_whole() {
    let text = "abcdefghijklmnopqrst";
    let data = open(text, "tokenizer='char'\nval_fraction=0.35", &[]);
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (12, 6));
    let shown: Vec<String> = held_out(&data, 0).iter().map(|row| show(&data, row)).collect();
    assert_eq!(shown, ["nopq opqr", "rsaa st__"]);
    let data = open(text, "tokenizer='char'\nval_fraction=0.75", &["train.micro_batch_size=3"]);
    assert_eq!(held_out(&data, 1).len(), 3, "one micro-batch");
    assert_eq!(held_out(&data, 0).len(), 6, "two, the second filled up");
    let labels: u64 = data.held_out_batches(1, 0).map(|batch| batch.unwrap().num_labels).sum();
    assert_eq!(labels, 14);
}

#[test]
fn held_out_documents_are_drawn_by_seed_and_disjoint() {
    let text: String = (0..100).map(|i| format!("{}\n", char::from_u32(0x4E00 + i).unwrap())).collect();
    let settings = "tokenizer='char'\ndocuments='lines'\nval_fraction=0.2";
    let first = |rows: &[(Vec<i32>, Vec<i32>)]| {
        let mut ids: Vec<i32> = rows.iter().map(|(_, labels)| labels[0]).filter(|&id| id != IGNORED).collect();
        ids.sort_unstable();
        ids
    };
    let data = open(&text, settings, &[]);
    let (train, held) = (first(&rows(&data, 40)), first(&held_out(&data, 0)));
    assert_eq!((train.len(), held.len()), (80, 20));
    assert_eq!(first(&[rows(&data, 40), held_out(&data, 0)].concat()), (0..100).collect::<Vec<i32>>());
    assert_eq!(held, first(&held_out(&open(&text, settings, &[]), 0)));
    assert_ne!(held, first(&held_out(&open(&text, settings, &["train.seed=2"]), 0)));
}

#[test]
fn bad_files_are_shown_at_their_key() {
    let big = "b".repeat(100);
    let files: &[(&str, &[u8])] =
        &[("t", b"abc\nabd\n"), ("empty", b""), ("blank", b"\n\n"), ("latin", b"ab\nc\xe9"), ("big", big.as_bytes())];
    for (data, expected) in [
        ("train='$/none'\ntokenizer='char'", "none: no such file or directory\n --> run.toml:7:7"),
        ("train='$/empty'\ntokenizer='char'", "empty is empty"),
        ("train='$/folder'\ntokenizer='char'", "folder is a folder; give a file"),
        ("train='$/folder'", "folder is a folder; give a file"),
        ("train='$/x*'\ntokenizer='char'", "no file matches"),
        ("train='$/latin'\ntokenizer='char'", "latin is not UTF-8 text: line 2, byte 4"),
        ("train='$/blank'\ntokenizer='char'\ndocuments='lines'", "no characters"),
        ("train='$/blank'\ntokenizer='byte'\ndocuments='lines'", "no lines that are not empty"),
        ("train='$/t'\nval='$/big'\ntokenizer='char'", ""),
        (
            "train='$/big'\nval='$/t'\ntokenizer='char'",
            "t: the character 'a' (U+0061) at line 1, column 1 is not among",
        ),
        ("train='$/t'\nval='$/t'\ntokenizer='char'\ndocuments='lines'", ""),
        ("train='$/big'\nval='$/t'\ntokenizer='char'\ndocuments='lines'", "t, line 1: the character 'a'"),
    ] {
        match try_open(files, data, &["model.vocab_size=300"]) {
            Ok(_) => assert_eq!(expected, "", "{data} should be refused"),
            Err(error) => {
                assert!(!expected.is_empty() && error.message().contains(expected), "{data}: {error}");
                assert_eq!(error.exit_code(), 2);
            }
        }
    }
    let too_short = try_open(files, "train='$/t'\ntokenizer='byte'", &["train.seq_len=50"]).unwrap_err();
    assert!(too_short.message().contains("has 8 tokens, too few for one row of `seq_len` 50"), "{too_short}");
    let small = try_open(files, "train='$/t'\ntokenizer='byte'", &["model.vocab_size=256"]).unwrap_err();
    assert!(small.message().contains("`vocab_size` 256 is less than the tokenizer's 257"), "{small}");
}

#[test]
fn an_id_outside_the_vocabulary_ends_the_batches() {
    let files: &[(&str, &[u8])] = &[("a.bin", &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 99, 0, 1, 0, 1, 0, 1, 0])];
    let (_, data) =
        try_open(files, "train='$/*.bin'\norder='sequential'", &["model.vocab_size=10", "train.micro_batch_size=1"])
            .unwrap();
    let batches: Vec<_> = data.batches(0..100).unwrap().collect();
    assert_eq!(batches.len(), 2);
    assert!(batches[0].is_ok());
    assert!(batches[1].as_ref().unwrap_err().message().contains("id 99 at token 5"));
}

#[test]
fn waiting_for_batches_is_counted() {
    let data = open("abcdefghijklmnop", "tokenizer='byte'", &[]);
    let mut batches = data.batches(0..3).unwrap();
    assert!(batches.waited().is_zero(), "nothing was asked for");
    assert!(batches.next().unwrap().is_ok());
    let first = batches.waited();
    assert!(!first.is_zero());
    assert_eq!(batches.by_ref().count(), 2);
    assert!(batches.waited() > first, "the sum of all");
}

#[test]
fn batches_can_be_dropped_at_any_time() {
    let data = open("abcdefghijklmnop", "tokenizer='byte'", &[]);
    for taken in 0..10 {
        let mut batches = data.batches(0..u64::MAX / 4).unwrap();
        assert!(batches.by_ref().take(taken).all(|batch| batch.is_ok()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In an epoch of running text every pair is seen at most once, all but fewer than `seq_len` of them are seen, and
    /// every label is the token that follows.
    #[test]
    fn every_token_of_an_epoch_is_seen_once(
        len in 6..200u32, seq_len in 1..5usize, seed in 0..1000u32, epoch in 0..3u64,
    ) {
        let text: String = (0..len).map(|i| char::from_u32(0x4E00 + i).unwrap()).collect();
        let sets = [format!("train.seq_len={seq_len}"), format!("train.seed={seed}")];
        let sets = [&sets[0], &sets[1], "train.micro_batch_size=1"];
        let data = open(&text, "tokenizer='char'\nval_fraction=0", &sets);
        let n = data.rows_per_epoch();
        let mut seen = BTreeMap::new();
        for batch in data.batches(epoch * n..(epoch + 1) * n).unwrap() {
            let batch = batch.unwrap();
            for (token, label) in batch.tokens.elements::<i32>().into_iter().zip(batch.labels.elements::<i32>()) {
                prop_assert_eq!(label, token + 1);
                *seen.entry(token).or_insert(0) += 1;
            }
        }
        prop_assert!(seen.values().all(|&count| count == 1));
        prop_assert!(u64::from(len - 1) - (seen.len() as u64) < seq_len as u64);
    }

    /// Every document of an epoch is seen once, packed or padded.
    #[test]
    fn every_document_of_an_epoch_is_seen_once(
        lengths in prop::collection::vec(1..9usize, 1..30), packing: bool, seed in 0..1000u32,
    ) {
        let text: String = lengths.iter().enumerate().map(|(i, &n)| {
            let letter = char::from_u32(0x4E00 + i as u32).unwrap();
            format!("{}\n", letter.to_string().repeat(n))
        }).collect();
        let total: usize = lengths.iter().map(|n| n + 1).sum();
        // Packed in one row: the whole epoch.
        let seq_len = if packing { total } else { 4 };
        let sets = [
            format!("train.seq_len={seq_len}"),
            format!("train.seed={seed}"),
            format!("data.packing={packing}"),
            "train.micro_batch_size=1".to_owned(),
        ];
        let settings = "tokenizer='char'\ndocuments='lines'\nval_fraction=0";
        let data = open(&text, settings, &sets.each_ref().map(String::as_str));
        let labels = rows(&data, data.rows_per_epoch()).into_iter().flat_map(|(_, labels)| labels);
        let labels: Vec<i32> = labels.filter(|&label| label != IGNORED).collect();
        let count = |id: usize| labels.iter().filter(|&&label| label == id as i32).count();
        for (id, &n) in lengths.iter().enumerate() {
            prop_assert_eq!(count(id), n);
        }
        prop_assert_eq!(count(lengths.len()), lengths.len(), "an end a document");
    }

    /// A batch depends on its step alone, not on where reading began or how far ahead it runs.
    #[test]
    fn the_step_is_the_whole_cursor(from in 0..50u64, ahead in 0..6usize, packing: bool) {
        let text: String = (0..20u32).map(|i| format!("{}\n", "ab".repeat(1 + i as usize % 3))).collect();
        let data = open(&text, &format!("tokenizer='char'\ndocuments='lines'\npacking={packing}"), &[]);
        let all: Vec<Batch> = data.batches(0..60).unwrap().map(Result::unwrap).collect();
        let later = Batches::start(Arc::clone(&data.train), from..60, data.shape, ahead).unwrap();
        let later: Vec<Batch> = later.map(Result::unwrap).collect();
        prop_assert_eq!(&all[from as usize..], &later);
    }
}
