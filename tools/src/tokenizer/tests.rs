//! Tokenizers as their callers meet them: saved and read, encoded and decoded, trained, and fed with garbage.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::train::{Training, WordCounts};
use super::*;

const TEXT: &str = include_str!("bpe/tests.txt");

fn chars(text: &str, end: bool) -> Tokenizer {
    Tokenizer::Char(CharTokenizer::new(text.chars(), end).unwrap())
}

fn train(text: &str, pattern: Pattern, vocab_size: usize, special: &[&str]) -> Result<train::Trained> {
    let mut words = WordCounts::default();
    words.add(text, pattern);
    let special_tokens = special.iter().map(|token| (*token).to_owned()).collect();
    Training { vocab_size, pattern, special_tokens, min_frequency: 1 }.train(words, |_| ())
}

fn trained(special: &[&str]) -> String {
    train(TEXT, Pattern::Llama3, 400, special).unwrap().json
}

fn read(json: &str) -> Result<Tokenizer> {
    Tokenizer::from_json(Path::new("t.json"), json)
}

fn signed(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(u32::cast_signed).collect()
}

#[test]
fn ids_are_positions_among_the_sorted_characters() {
    let tokenizer = chars("hello wörld", true);
    assert_eq!(tokenizer.encode("hö").unwrap(), [3, 8]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_document()), (10, Some(9)));
    assert_eq!(tokenizer.decode(&[9, 3, 8, 9, 77, -1]), "hö");
    assert_eq!((chars("ab", false).vocab_size(), chars("ab", false).end_of_document()), (2, None));
    assert_eq!(Tokenizer::Byte.encode("ö").unwrap(), [0xC3, 0xB6]);
    assert_eq!(Tokenizer::Byte.decode(&[0xC3, 256, 65]), "\u{FFFD}A");
}

#[test]
fn prompts_begin_where_documents_do() {
    assert_eq!(chars("ab", true).encode_prompt("b").unwrap(), [2, 1]);
    assert_eq!(chars("ab", true).encode_prompt("").unwrap(), [2]);
    assert_eq!(chars("b\na", false).encode_prompt("").unwrap(), [0]);
    assert_eq!(chars("ba", false).encode_prompt("").unwrap(), [0]);
    assert_eq!(chars("b\na", false).encode_prompt("ab").unwrap(), [1, 2]);
    assert_eq!(Tokenizer::Byte.encode_prompt("A").unwrap(), [256, 65]);
    assert_eq!(read(&trained(&["<s>", "</s>"])).unwrap().encode_prompt("").unwrap(), [1]);
}

#[test]
fn unknown_characters_are_named() {
    let error = chars("ab\n", true).encode_prompt("ab\naé").unwrap_err();
    assert!(error.message().contains("'é' (U+00E9) at line 2, column 2"), "{error}");
    assert!(CharTokenizer::new("".chars(), true).is_err());
}

#[test]
fn saved_tokenizers_are_checked() {
    let bpe = |vocabulary: Value, merges: Value| {
        json!({ "model": { "type": "BPE", "vocab": vocabulary, "merges": merges } }).to_string()
    };
    // A template for one text of these pieces, alone and in a sequence of processors.
    let around = |piece: Value, in_sequence: bool| {
        let template = json!({
            "type": "TemplateProcessing", "single": [piece, { "Sequence": { "id": "A", "type_id": 0 } }], "pair": [],
            "special_tokens": { "a": { "id": "a", "ids": [0], "tokens": ["a"] } },
        });
        let processor = if in_sequence { json!({ "type": "Sequence", "processors": [template] }) } else { template };
        json!({ "post_processor": processor, "model": { "type": "BPE", "vocab": { "a": 0 }, "merges": [] } })
            .to_string()
    };
    let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    assert_eq!(read(&around(token("a"), true)).unwrap().encode_beginning("a").unwrap(), [0, 0]);
    for (json, expected) in [
        ("{}", "missing field `type`"),
        ("{\"type\": \"bpe\"}", "unknown variant"),
        ("{\"type\": \"char\", \"characters\": \"ba\", \"end_of_document\": true}", "not sorted and distinct"),
        ("{\"type\": \"char\", \"characters\": \"\", \"end_of_document\": true}", "no characters"),
        ("{\"type\": \"byte\"", "EOF"),
        ("[]", "is not a saved tokenizer"),
        ("{\"model\": 3}", "not a tokenizer of Hugging Face"),
        (&bpe(json!({}), json!([])), "it has no tokens"),
        (&bpe(json!({ "a": 0, "b": 1 }), json!([["a", "b"]])), "its merge 0, of \"a\" and \"b\", has or makes"),
        (&bpe(json!({ "a": 0, "b": 1 }), json!(["a c"])), "its merge 0, of \"a\" and \"c\", has or makes"),
        (&bpe(json!({ "a": 0, "b": 1 }), json!([["a"]])), "its merge 0 is not a pair"),
        (&around(token("b"), false), "its template `single` has \"b\", which `special_tokens` does not tell"),
        (&around(token("b"), true), "its template `single` has \"b\", which `special_tokens` does not tell"),
        (&around(json!({ "Sequence": { "id": "B", "type_id": 0 } }), false), "has the text \"B\", of A"),
        (&bpe(json!({ "a": 4_000_000_000_u32 }), json!([])), "its largest id is 4000000000; ids are 31 bits"),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
        assert!(error.message().starts_with("t.json is not a"), "{error}");
    }
}

#[test]
fn the_document_end_is_found_or_named() {
    for (special, expected) in [
        (&["<|endoftext|>"][..], Some(0)),
        (&["<pad>", "<s>", "</s>"], Some(2)),
        (&["<|im_end|>", "<|eot_id|>"], None),
        (&[], None),
        (&["<|endoftext|>", "</s>"], None),
    ] {
        let tokenizer = read(&trained(special)).unwrap();
        assert_eq!(tokenizer.end_of_document(), expected, "{special:?}");
    }
    let several = read(&trained(&["<|endoftext|>", "</s>"])).unwrap();
    let error = several.with_end_of_document(None).unwrap_err();
    assert!(error.message().contains("\"<|endoftext|>\", \"</s>\"; say which one"), "{error}");
    assert_eq!(several.with_end_of_document(Some("</s>")).unwrap().end_of_document(), Some(1));
    let error = several.with_end_of_document(Some("<eos>")).unwrap_err();
    assert!(error.message().contains("no token \"<eos>\""), "{error}");
    assert!(error.message().contains("special tokens: \"<|endoftext|>\", \"</s>\""), "{error}");
    assert_eq!(Tokenizer::Byte.with_end_of_document(None).unwrap(), Tokenizer::Byte);
    assert!(Tokenizer::Byte.with_end_of_document(Some("</s>")).is_err());
}

#[test]
fn a_file_of_hugging_face_is_kept_byte_for_byte() {
    let json = trained(&["</s>"]).replacen('{', "{ ", 1);
    let tokenizer = read(&json).unwrap();
    assert_eq!(tokenizer.to_json(), json);
    assert_eq!(tokenizer, read(&tokenizer.to_json()).unwrap());
    assert_eq!(tokenizer.vocab_size(), 400);
    assert_ne!(tokenizer, read(&trained(&["<s>"])).unwrap());
}

/// A tokenizer of another kind than ours takes, as of WordPiece or Unigram, is the crate's business.
#[test]
fn other_kinds_are_encoded_by_the_crate() {
    let json = json!({
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": {
            "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 9,
            "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": [],
        "pre_tokenizer": { "type": "Whitespace" },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": false },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": { "[UNK]": 0, "token": 1, "##izer": 2, "a": 3, "far": 9 },
        },
    });
    let tokenizer = read(&json.to_string()).unwrap();
    let Tokenizer::HuggingFace(inner) = &tokenizer else { panic!("{tokenizer:?}") };
    assert!(matches!(inner.engine(), Engine::Crate(_)), "{inner:?}");
    // Without the truncation and the padding of the file.
    assert_eq!(tokenizer.encode("a tokenizer x a a").unwrap(), [3, 1, 2, 0, 3, 3]);
    assert_eq!(tokenizer.decode(&[3, 1, 2, 77, -1]), "a tokenizer");
    // A word's space is written before it, so a token's text depends on whether one stands before.
    let mut stream = TextStream::new(&tokenizer);
    assert_eq!([3, 1, 2, 9].map(|id| stream.push(id)), ["a", " token", "izer", " far"]);
    assert_eq!(
        (tokenizer.decode_behind(&[3], &[1]), tokenizer.decode_behind(&[], &[1])),
        (" token".into(), "token".into())
    );
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_document()), (10, None));
    assert_eq!(tokenizer.encode_prompt("").unwrap(), [0]);
}

/// The trainer of the crate gives the same tokens and merges.
#[test]
fn training_is_that_of_the_crate() {
    // Overlapping pairs, ties, and words that differ in their number.
    let tricky = "aaaa aaaaaaa aaa abababab abab bababa aabbaabb ccc ccc a b c aaaa\n\n  xx  xxx xxxx ";
    for (text, vocab_size, special) in
        [(TEXT, 500, &["<|endoftext|>"][..]), (TEXT, 257, &[]), (tricky, 300, &["<s>", "</s>"])]
    {
        let ours: Value = serde_json::from_str(&train(text, Pattern::Gpt2, vocab_size, special).unwrap().json).unwrap();
        let special_tokens: Vec<AddedToken> = special.iter().map(|token| AddedToken::from(*token, true)).collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(1)
            .show_progress(false)
            .special_tokens(special_tokens)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut theirs = tokenizers::Tokenizer::new(BPE::default());
        theirs.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        theirs.train(&mut TrainerWrapper::from(trainer), std::iter::once(text)).unwrap();
        let theirs: Value = serde_json::from_str(&theirs.to_string(false).unwrap()).unwrap();
        for key in ["vocab", "merges"] {
            assert_eq!(ours["model"][key], theirs["model"][key], "{key} of {vocab_size}");
        }
    }
}

#[test]
fn training_stops_and_refuses() {
    let few = train("ab ab", Pattern::Gpt2, 1000, &[]).unwrap();
    let tokenizer = read(&few.json).unwrap();
    // `ab`, ` ab`... and no more pairs.
    assert_eq!((few.vocab_size, tokenizer.vocab_size()), (258, 258));
    for (vocab_size, special, expected) in [
        (256, &["<s>"][..], "at least 257 tokens (256 bytes, 1 special)"),
        (1 << 31, &[], "at most 2147483647"),
        (300, &[""], "is empty"),
        (300, &["a", "<s>"], "\"a\" is given twice, or is that of a byte"),
        (300, &["<s>", "<s>"], "\"<s>\" is given twice"),
    ] {
        let error = train("ab", Pattern::Gpt2, vocab_size, special).unwrap_err();
        assert!(error.message().contains(expected), "expected {expected:?} in {error}");
    }
    let mut words = WordCounts::default();
    words.add("ab ab ab cd", Pattern::Gpt2);
    let training = Training { vocab_size: 1000, pattern: Pattern::Gpt2, special_tokens: vec![], min_frequency: 2 };
    assert_eq!(training.train(words, |_| ()).unwrap().vocab_size, 258, "cd is met once");
}

#[test]
fn a_stream_gives_characters_when_they_are_whole() {
    let tokenizer = Tokenizer::Byte;
    let mut stream = TextStream::new(&tokenizer);
    let mut push = |bytes: &[u8]| bytes.iter().map(|&byte| stream.push(i32::from(byte))).collect::<Vec<_>>();
    assert_eq!(push("aö€".as_bytes()), ["a", "", "ö", "", "", "€"]);
    assert_eq!(push(&[0xF0, 0x9F, 0x99, b'x']), ["", "", "", "\u{FFFD}x"]);
    assert_eq!(push("\u{FFFD}\u{FFFD}🮔".as_bytes()).concat(), "\u{FFFD}\u{FFFD}🮔");
    assert_eq!(push(&[0x80; 1000]).concat().chars().count(), 999, "only the last one may become something yet");
    assert_eq!(push(&[0xE2, 0x82]), ["\u{FFFD}", ""]);
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(tokenizer.decode_behind(&[0x61, 0xC3], &[0xB6]), "\u{FFFD}");
}

#[test]
fn a_stream_goes_on_behind_a_prompt() {
    let json = json!({
        "added_tokens": [{ "id": 3, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
                           "rstrip": false, "normalized": false }],
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false },
        "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false },
        "model": { "type": "WordLevel", "unk_token": "a", "vocab": { "a": 0, "▁b": 1, "▁c": 2, "<end>": 3, "<0xE2>": 4 } },
    });
    let tokenizer = read(&json.to_string()).unwrap();
    let text = |before: &[i32], ids: &[i32]| {
        let mut stream = TextStream::behind(&tokenizer, before);
        ids.iter().map(|&id| stream.push(id)).collect::<Vec<_>>()
    };
    // The first word of a text has no space before it.
    assert_eq!(text(&[], &[1, 2]), ["b", " c"]);
    assert_eq!(text(&[0], &[1, 2]), [" b", " c"]);
    assert_eq!(text(&[0; 100], &[1, 2]), [" b", " c"]);
    assert_eq!(text(&[3], &[1]), ["b"], "a special token is no text");
    // However many tokens without text come, what waits for the next one with text has an end.
    let many = [vec![3; 10_000], vec![0]].concat();
    assert_eq!(text(&[0], &many).concat(), "a");
    let spelt = [0, 1, 3, 4, 99].map(|id| tokenizer.token_bytes(id));
    assert_eq!(spelt, [&b"a"[..], b" b", b"<end>", b"\xE2", b""]);
    let byte_level = read(&trained(&["<s>"])).unwrap();
    let spelt: Vec<u8> =
        byte_level.encode("<s>é €").unwrap().into_iter().flat_map(|id| byte_level.token_bytes(id)).collect();
    assert_eq!(spelt, "<s>é €".as_bytes());
    assert_eq!((Tokenizer::Byte.token_text(256), Tokenizer::Byte.token_text(65)), (END_OF_DOCUMENT.into(), "A".into()));
    assert_eq!((chars("ab", true).token_text(1), chars("ab", false).token_text(2)), ("b".into(), String::new()));
}

/// The crate `tokenizers` panics on what some files make of some texts.
#[test]
fn a_panic_of_the_crate_is_an_error() {
    let mut json: Value = serde_json::from_str(&trained(&["</s>"])).unwrap();
    json["normalizer"] = json!([""]);
    let tokenizer = read(&json.to_string()).unwrap();
    let error = tokenizer.encode(" \u{1EEA5}").unwrap_err();
    assert!(error.message().contains("cannot encode the text that begins with"), "{error}");
}

/// A form of JSON that is nearly a tokenizer: one that is, with some values changed.
fn nearly_a_tokenizer() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,4}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([["a", "b"]])),
        Just(json!({ "a": 0, "b": 0 })),
        prop::sample::select(vec!["ByteLevel", "Split", "Sequence", "NFC", "BPE", "WordPiece", "Isolated"])
            .prop_map(Value::from),
    ];
    prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 1..6), odd), 1..4).prop_map(|changes| {
        let mut json: Value = serde_json::from_str(&trained(&["</s>"])).unwrap();
        for (path, odd) in changes {
            let mut at = &mut json;
            for step in path {
                let next = match &*at {
                    Value::Object(map) if !map.is_empty() => map.keys().nth(step.index(map.len())).cloned(),
                    Value::Array(list) if !list.is_empty() => Some(step.index(list.len()).to_string()),
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Array(_)
                    | Value::Object(_) => None,
                };
                let Some(key) = next else { break };
                at = at.pointer_mut(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))).unwrap();
            }
            *at = odd;
        }
        json.to_string()
    })
}

proptest! {
    #[test]
    fn text_comes_back(text in "[\\PC\u{FFFD}]{1,40}", end: bool) {
        let bpe = read(&trained(&["</s>"])).unwrap();
        for tokenizer in [chars(&text, end), Tokenizer::Byte, bpe] {
            let ids = signed(tokenizer.encode(&text).unwrap());
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            prop_assert_eq!(tokenizer.decode(&ids), text.clone());
            let mut stream = TextStream::new(&tokenizer);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            streamed += &stream.finish();
            prop_assert_eq!(streamed, text.clone());
            prop_assert_eq!(&tokenizer, &read(&tokenizer.to_json()).unwrap());
        }
    }

    #[test]
    fn no_ids_panic(ids in prop::collection::vec(any::<i32>(), 0..20), small in prop::collection::vec(0..420, 0..20)) {
        let tokenizer = read(&trained(&["</s>"])).unwrap();
        for ids in [ids, small] {
            tokenizer.decode(&ids);
            let mut stream = TextStream::new(&tokenizer);
            ids.into_iter().for_each(|id| _ = stream.push(id));
            stream.finish();
        }
    }

    #[test]
    fn no_file_panics(json in nearly_a_tokenizer(), text in "\\PC{0,10}") {
        if let Ok(tokenizer) = read(&json) {
            if let Ok(ids) = tokenizer.encode(&text) {
                tokenizer.decode(&signed(ids));
            }
            _ = tokenizer.with_end_of_document(None);
        }
    }
}
