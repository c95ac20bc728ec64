//! Fingerprints of data as they are opened: moved data are the same, changed data are not.

use super::shards::{shard, sidecar};
use super::*;

const IDS: [u16; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn print(files: &[(&str, &[u8])], data: &str) -> Fingerprint {
    try_open(files, data, &["model.vocab_size=300"]).unwrap().1.fingerprint().unwrap()
}

#[test]
fn moved_data_are_the_same() {
    let ids = shard(&IDS);
    let settings = "train='$/x/*.bin'\nval='$/v.bin'";
    let here = print(&[("x/a.bin", &ids), ("x/b.bin", &ids), ("v.bin", &ids)], settings);
    // Every test folder is another one.
    let listed = settings.replace("'$/x/*.bin'", "['$/y/z/a.bin', '$/y/b.bin']");
    let there = print(&[("y/z/a.bin", &ids), ("y/b.bin", &ids), ("v.bin", &ids)], &listed);
    assert_eq!(there, here);
    assert_eq!((there.differences(&here), there.held_out_differences(&here)), (vec![], vec![]));
}

#[test]
fn changed_data_are_told_by_file() {
    let ids = shard(&IDS);
    let settings = "train='$/*.bin'";
    let saved = print(&[("a.bin", &ids), ("b.bin", &ids)], settings);
    let mut other = ids.clone();
    other[5] ^= 1;
    let wide = format!("{settings}\ntoken_dtype='uint32'");
    for (files, settings, expected) in [
        (&[("a.bin", &ids[..]), ("b.bin", &ids[..20])][..], settings, "b.bin has 4 bytes fewer: 20, and it had 24"),
        (&[("a.bin", &other), ("b.bin", &ids)], settings, "a.bin has other content, of the same size"),
        (&[("a.bin", &ids)], settings, "b.bin is gone"),
    ] {
        assert_eq!(print(files, settings).differences(&saved), [expected]);
    }
    // Of ids that are all below 2^16 when read as four bytes, which the sets have no room for otherwise.
    let zeros = [0; 24];
    let saved = print(&[("a.bin", &zeros)], settings);
    let now = print(&[("a.bin", &zeros)], &wide);
    assert_eq!(now.differences(&saved), ["a.bin is read as uint32 tokens, and was as uint16 tokens"]);
}

#[test]
fn descriptions_and_text_are_part_of_it() {
    let ids: Vec<u16> = IDS.to_vec();
    let (json, tokenizer) = (sidecar(&[("a.bin", &ids)]).to_json().unwrap(), Tokenizer::Byte.to_json());
    let bytes = shard(&ids);
    let files: &[(&str, &[u8])] =
        &[("a.bin", &bytes), ("shards.json", json.as_bytes()), ("tokenizer.json", tokenizer.as_bytes())];
    let described = print(files, "train='$/a.bin'");
    assert!(described.train[0][0].described_sha256.is_some());
    assert!(print(&files[..1], "train='$/a.bin'").differences(&described).is_empty());

    let text = |content: &str| {
        print(&[("t", content.as_bytes()), ("u", b"some text")], "train=['$/t', '$/u']\ntokenizer='byte'")
    };
    assert_eq!(text("a text").train[0][0].dtype, None);
    assert_eq!(text("a text").differences(&text("a test")), ["t has other content, of the same size"]);
    assert_eq!(text("a text"), text("a text"));
}
