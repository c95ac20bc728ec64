//! Token shards: what the `shards.json` beside them decides and refuses, document ends, and sets of any size.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::config::TokenDType;
use crate::data::sidecar::{ShardEntry, Sidecar, TokenizerFile};
use crate::tokenizer::CharTokenizer;

/// Ids as a shard of two bytes each.
pub(super) fn shard(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    crate::digest::sha256(bytes)
}

/// A sidecar of the byte tokenizer for these shards.
pub(super) fn sidecar(shards: &[(&str, &[u16])]) -> Sidecar {
    let entry = |(file, ids): &(&str, &[u16])| ShardEntry {
        file: (*file).to_owned(),
        tokens: ids.len() as u64,
        documents: ids.iter().filter(|&&id| id == 256).count() as u64,
        sha256: sha256(&shard(ids)),
    };
    let shards: Vec<ShardEntry> = shards.iter().map(entry).collect();
    Sidecar {
        format: Sidecar::FORMAT,
        dtype: TokenDType::Uint16,
        vocab_size: 257,
        end_of_document: Some(256),
        tokenizer: TokenizerFile {
            file: "tokenizer.json".into(),
            sha256: sha256(Tokenizer::Byte.to_json().as_bytes()),
        },
        tokens: shards.iter().map(|shard| shard.tokens).sum(),
        documents: shards.iter().map(|shard| shard.documents).sum(),
        text_bytes: 1,
        shards,
    }
}

const IDS: [u16; 12] = [97, 98, 256, 99, 100, 101, 256, 102, 256, 103, 104, 256];

/// A folder of two shards with a sidecar that `change` changed.
fn described(change: impl FnOnce(&mut Sidecar)) -> tempfile::TempDir {
    let mut sidecar = sidecar(&[("a.bin", &IDS), ("b.bin", &IDS)]);
    change(&mut sidecar);
    let (shard, tokenizer) = (shard(&IDS), Tokenizer::Byte.to_json());
    write(&[
        ("a.bin", &shard),
        ("b.bin", &shard),
        ("tokenizer.json", tokenizer.as_bytes()),
        ("shards.json", sidecar.to_json().unwrap().as_bytes()),
    ])
}

#[test]
fn a_description_fills_in_what_the_config_leaves_out() {
    let folder = described(|_| {});
    for (data, sets) in [
        ("train='$/*.bin'", &[][..]),
        ("train='$/*.bin'\ntokenizer='byte'", &["model.vocab_size=300"]),
        ("train='$/*.bin'\ntoken_dtype='uint16'\nend_of_document_id=256", &["model.vocab_size=257"]),
    ] {
        let (config, data) = open_in(folder.path(), data, sets, None).unwrap();
        assert_eq!(data.tokenizer(), Some(&Tokenizer::Byte));
        assert_eq!(data.end_of_document(), Some(256));
        assert_eq!(config.model.vocab_size(), Some(if sets == ["model.vocab_size=300"] { 300 } else { 257 }));
        assert_eq!(data.train_tokens(), 23);
    }
    // The tokenizer of the run, where the file has gone.
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let (_, data) = open_in(folder.path(), "train='$/*.bin'", &[], None).unwrap();
    assert_eq!(data.tokenizer(), None);
    let (_, data) = open_in(folder.path(), "train='$/*.bin'", &[], Some(&Tokenizer::Byte)).unwrap();
    assert_eq!(data.tokenizer(), Some(&Tokenizer::Byte));
}

#[test]
fn wide_tokens_are_described() {
    let mut sidecar = sidecar(&[("a.bin", &IDS)]);
    sidecar.dtype = TokenDType::Uint32;
    sidecar.tokens = 12;
    let wide: Vec<u8> = IDS.iter().flat_map(|&id| u32::from(id).to_le_bytes()).collect();
    let json = sidecar.to_json().unwrap();
    let files: &[(&str, &[u8])] = &[("a.bin", &wide), ("shards.json", json.as_bytes())];
    let (_, data) = try_open(files, "train='$/a.bin'\norder='sequential'", &[]).unwrap();
    assert_eq!(rows(&data, 1)[0].0, [97, 98, 256, 99]);
}

#[test]
fn what_contradicts_a_description_is_refused() {
    type Change = fn(&mut Sidecar);
    let keep: Change = |_| {};
    let chars = Tokenizer::Char(CharTokenizer::new("ab".chars(), true).unwrap());
    for (change, data, sets, saved, expected) in [
        (keep, "", &["model.vocab_size=200"][..], None, "`vocab_size` 200 is less than the 257 of "),
        (keep, "token_dtype='uint32'", &[], None, "`token_dtype` is uint32, and "),
        (keep, "end_of_document_id=0", &[], None, "`end_of_document_id` is 0, and "),
        (keep, "tokenizer='char'", &[], None, "\"char\" is made from text"),
        (keep, "", &[], Some(&chars), "the run was trained with another one"),
        (keep, "tokenizer='char'", &[], Some(&chars), "and `data.tokenizer` is another one; leave it out"),
        (|s| s.tokenizer.sha256 = "0".repeat(64), "", &[], None, "tokenizer.json is not the tokenizer that the shards"),
        (|s| s.shards[1].tokens = 13, "", &[], None, "b.bin: it has 12 tokens, and the shards.json beside it says 13"),
        (|s| s.dtype = TokenDType::Uint32, "", &[], None, "a.bin: it has 6 tokens, and the shards.json"),
        (|s| s.end_of_document = Some(257), "", &[], None, "the document end 257 is outside of the vocabulary"),
        (|s| s.format = 9, "", &[], None, "format 9"),
        (
            |s| s.end_of_document = None,
            "mask_end_of_document=true",
            &[],
            None,
            "`mask_end_of_document` needs to know which id ends a document",
        ),
        (
            |s| s.end_of_document = None,
            "reset_attention_mask=true",
            &[],
            None,
            "`reset_attention_mask` needs to know which id ends a document",
        ),
    ] {
        let folder = described(change);
        let error = open_in(folder.path(), &format!("train='$/*.bin'\n{data}"), sets, saved).unwrap_err();
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
        assert_eq!(error.exit_code(), 2);
        assert!(error.message().contains("\n --> "), "no place: {error}");
    }
    // A description that does not list a shard says nothing of it.
    let folder = described(|sidecar| _ = sidecar.shards.pop());
    let error = open_in(folder.path(), "train='$/b.bin'", &[], None).unwrap_err();
    assert!(error.message().contains("[model] lacks `vocab_size`, which token shards need"), "{error}");

    let (mut one, other) = (sidecar(&[("a.bin", &IDS)]), sidecar(&[("b.bin", &IDS)]));
    one.tokenizer.sha256 = "1".repeat(64);
    let (one, other, ids) = (one.to_json().unwrap(), other.to_json().unwrap(), shard(&IDS));
    let files: &[(&str, &[u8])] =
        &[("x/a.bin", &ids), ("x/shards.json", one.as_bytes()), ("y/b.bin", &ids), ("y/shards.json", other.as_bytes())];
    let error = try_open(files, "train='$/*/*.bin'", &[]).unwrap_err();
    assert!(error.message().contains("the shards are not of one tokenizer: "), "{error}");
    assert!(error.message().contains("x/shards.json says "), "{error}");
}

#[test]
fn nothing_is_predicted_from_a_document_s_end() {
    let folder = described(|_| {});
    let settings = "train='$/*.bin'\norder='sequential'\nval_fraction=0.5";
    let (_, plain) = open_in(folder.path(), settings, &[], None).unwrap();
    let (_, masked) = open_in(folder.path(), &format!("{settings}\nmask_end_of_document=true"), &[], None).unwrap();
    let check = |plain: Vec<(Vec<i32>, Vec<i32>)>, masked: Vec<(Vec<i32>, Vec<i32>)>| {
        assert_eq!(plain.len(), masked.len());
        for ((tokens, labels), (same, masked)) in plain.into_iter().zip(masked) {
            assert_eq!(tokens, same);
            let hide = |(&token, label): (&i32, i32)| if token == 256 { IGNORED } else { label };
            assert_eq!(masked, tokens.iter().zip(labels).map(hide).collect::<Vec<_>>());
        }
    };
    assert_eq!(rows(&masked, 1)[0].1, [98, 256, IGNORED, 100]);
    check(rows(&plain, 4), rows(&masked, 4));
    check(held_out(&plain, 0), held_out(&masked, 0));
    let labels = |data: &Data| data.batches(0..1).unwrap().next().unwrap().unwrap().num_labels;
    assert_eq!((labels(&plain), labels(&masked)), (8, 6));

    // Without a description the config says what ends a document.
    std::fs::remove_file(folder.path().join("shards.json")).unwrap();
    let settings = format!("{settings}\nmask_end_of_document=true\nend_of_document_id=101");
    let (_, data) = open_in(folder.path(), &settings, &["model.vocab_size=257"], None).unwrap();
    assert_eq!(rows(&data, 1)[1], (vec![100, 101, 256, 102], vec![101, IGNORED, 102, 256]));
}

/// What attention has to know is in the config when data are open, and how many documents rows hold is counted.
#[test]
fn documents_of_rows_are_known() {
    let check = |folder: &Path, data: &str, end: u32, most: usize, rows: u64| {
        let data = format!("{data}\nreset_attention_mask=true\nval_fraction=0\norder='sequential'");
        let (config, data) = open_in(folder, &data, &[], None).unwrap();
        let told = (config.data.end_of_document_id, config.data.documents_per_row);
        assert_eq!(told, (Some(end), Some(4)));
        assert_eq!(data.most_documents_per_row().unwrap(), Some((most, rows)));
        // As a run's config has it.
        let path = Path::new("run.toml");
        let again = RawConfig::parse(path, &config.to_toml().unwrap(), &[]).and_then(RawConfig::validate).unwrap();
        assert_eq!((Data::open(&again, None).unwrap().0).data, config.data);
    };
    // Windows of 4 tokens: a b end c, d e end f, end g h end, a b end c, and so on.
    check(described(|_| {}).path(), "train='$/*.bin'", 256, 2, 5);
    let folder = write(&[("t", b"a\nb\nc\nabcabc\n")]);
    // Every document has its end behind it, and the first one before it: end a end b, end c end a, b c a b.
    check(folder.path(), "train='$/t'\ntokenizer='char'\ndocuments='lines'\npacking=true", 3, 3, 3);
    check(folder.path(), "train='$/t'\ntokenizer='byte'\ndocuments='lines'\npacking=true", 256, 3, 3);
    let wrong = "train='$/t'\ntokenizer='byte'\ndocuments='lines'\npacking=true\nreset_attention_mask=true";
    let error = open_in(folder.path(), &format!("{wrong}\nend_of_document_id=7"), &[], None).unwrap_err();
    assert!(error.message().contains("`end_of_document_id` is 7, and the tokenizer's is another one"), "{error}");
}

/// A hundred shards of a gigabyte, nearly all of it holes: opened without reading them, and read at any place.
#[test]
fn a_hundred_gigabytes_open_and_are_read_at_any_place() {
    const FILES: u64 = 100;
    const TOKENS: u64 = 500_000_000;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        let file = File::create(folder.path().join(format!("{number:03}.bin"))).unwrap();
        file.set_len(2 * TOKENS).unwrap();
        // At the end of each its number from 1, which the windows across files show.
        file.write_all_at(&(number as u16 + 1).to_le_bytes(), 2 * (TOKENS - 1)).unwrap();
    }
    let sets = ["model.vocab_size=1000", "train.micro_batch_size=1", "train.seq_len=1000"];
    let (_, data) = open_in(folder.path(), "train='$/*.bin'\norder='sequential'", &sets, None).unwrap();
    assert_eq!(data.train_tokens(), FILES * TOKENS - 1);
    for number in [0, 57, 98] {
        // The window with the last token of a file.
        let step = ((number + 1) * TOKENS - 1) / 1000;
        let batch = data.batches(step..step + 1).unwrap().next().unwrap().unwrap();
        let tokens = batch.tokens.elements::<i32>();
        assert_eq!((tokens[999], tokens.iter().sum::<i32>()), (number as i32 + 1, number as i32 + 1));
        let places = data.origin(step).places;
        let Place::Tokens { file, positions } = &places[0] else { panic!("{places:?}") };
        assert!(file.ends_with(format!("{number:03}.bin")));
        assert_eq!(*positions, TOKENS - 1000..TOKENS);
    }
    let print = data.fingerprint().unwrap();
    assert!(print.train[0].iter().all(|file| file.blocks == 2 && file.bytes == 2 * TOKENS));
    assert_ne!(print.train[0][3].sha256, print.train[0][4].sha256, "the last tokens are in it");
}
