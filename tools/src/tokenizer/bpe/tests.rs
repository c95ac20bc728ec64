//! Our encoder against the crate `tokenizers`, on texts of every kind.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tokenizer::train::{Training, WordCounts};
use crate::tokenizer::{Engine, Tokenizer};

/// What the tokenizers of these tests are trained on: several scripts, code, numbers, white space.
const TEXT: &str = include_str!("tests.txt");

fn trained(pattern: Pattern, vocab_size: usize) -> Value {
    let mut words = WordCounts::default();
    words.add(TEXT, pattern);
    let training = Training {
        vocab_size,
        pattern,
        special_tokens: vec!["<|endoftext|>".to_owned(), "<|end".to_owned(), "[X]".to_owned()],
        min_frequency: 1,
    };
    serde_json::from_str(&training.train(words, |_| ()).unwrap().json).unwrap()
}

/// `json` with changes: the value at each pointer.
fn with(mut json: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = json.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
            None => parent[key] = value.clone(),
        }
    }
    json
}

fn read(json: &Value) -> crate::tokenizer::HuggingFace {
    match Tokenizer::from_json(std::path::Path::new("t.json"), &json.to_string()).unwrap() {
        Tokenizer::HuggingFace(tokenizer) => tokenizer,
        other @ (Tokenizer::Char(_) | Tokenizer::Byte) => panic!("{other:?}"),
    }
}

/// All forms that our encoder takes.
fn forms() -> Vec<Value> {
    let gpt2 = trained(Pattern::Gpt2, 700);
    let llama3 = trained(Pattern::Llama3, 700);
    let nfc = json!({ "type": "NFC" });
    let cl100k = SPELLINGS[3].0;
    vec![
        with(gpt2.clone(), &[("/pre_tokenizer/add_prefix_space", json!(true))]),
        with(gpt2.clone(), &[("/added_tokens/0/normalized", json!(true)), ("/added_tokens/2/normalized", json!(true))]),
        with(
            gpt2,
            &[(
                "/pre_tokenizer",
                json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": SPELLINGS[1].0 }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] }),
            )],
        ),
        with(llama3.clone(), &[("/model/ignore_merges", json!(true))]),
        with(llama3, &[("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!(cl100k))]),
        with(trained(Pattern::Qwen2, 500), &[("/normalizer", nfc), ("/added_tokens/1/normalized", json!(true))]),
    ]
}

#[track_caller]
fn compare(tokenizer: &crate::tokenizer::HuggingFace, text: &str) {
    assert_eq!(tokenizer.engine(), Engine::ByteLevelBpe);
    let mut ours = Vec::new();
    tokenizer.encode_into(text, &mut ours).unwrap();
    let theirs = tokenizer.whole().encode(text, false).unwrap();
    assert_eq!(ours, theirs.get_ids(), "{text:?}\n{:?}", theirs.get_tokens());
}

#[test]
fn known_texts_have_the_ids_of_the_crate() {
    let mut texts = vec![TEXT.to_owned(), String::new()];
    for text in [
        "'s 'S 'ſ 'T 're 'RE 'rE 've 'Ve 'll 'LL 'lL 'm 'M 'd 'D 'x ''s 'sx 'l 'r '",
        "it's IT'S i'Ll we'Re'ſx'",
        " \n \n\n a\n\n  b \r\n\r\n\tc\t d   e   \n",
        "   ",
        "\n",
        " \n",
        "\n ",
        "\r\n\r\n",
        "\u{85}\u{A0}\u{2003}a\u{3000}\u{3000}b\u{2028}",
        "1 12 123 1234 12345  1234567 ²³ ½ Ⅻ ١٢٣٤ 1a1 a1",
        "!!! ?!\n\n ... \n---\n#!/bin --x=y<|endoftext|>",
        "<|endoftext|><|end<|endof[X][X]] [X <|endoftext|>\n<|endoftext|> x",
        "e\u{301} é a\u{300}\u{301}\u{323} Å \u{212B} 각 \u{1100}\u{1161}\u{11A8} क्षि \u{FB01} \u{2126} \u{958}",
        "👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 \u{1F600}\u{FE0F} \u{200D}\u{200B}\u{FEFF}\u{0}\u{1}\u{7F}",
        "नमस्ते दुनिया สวัสดี 你好，世界。こんにちは 한국어 עברית العربية Ελληνικά",
        "\u{10FFFF}\u{E000}\u{FFFD}\u{FFFF}\u{1D400}\u{20000}",
    ] {
        texts.push(text.to_owned());
    }
    // Words of every length around where the encoder changes its ways, met twice.
    for length in [1, 14, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000] {
        let mut word = String::new();
        for i in 0..length {
            word.push(char::from(b'a' + (i * i % 26) as u8));
        }
        texts.push(format!("{word} {word} {}", "=".repeat(length)));
        texts.push(format!("{word} "));
        texts.push(word);
    }
    for form in forms() {
        let tokenizer = read(&form);
        texts.iter().for_each(|text| compare(&tokenizer, text));
        // Every character of the first planes, next to what decides about it.
        let mut all = String::new();
        for c in ('\0'..='\u{33FF}').chain('\u{A000}'..='\u{ABFF}').chain('\u{F900}'..='\u{11FFF}') {
            writeln!(all, "{c}a {c} 1{c}'{c}").unwrap();
        }
        compare(&tokenizer, &all);
    }
}

#[test]
fn other_forms_are_left_to_the_crate_with_the_reason() {
    let gpt2 = trained(Pattern::Gpt2, 300);
    let llama3 = trained(Pattern::Llama3, 300);
    let split = "/pre_tokenizer/pretokenizers/0";
    let no_byte = {
        let mut json = gpt2.clone();
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.shift_remove("Ā").unwrap();
        vocabulary.insert("Āx".to_owned(), id);
        json
    };
    for (json, expected) in [
        (with(gpt2.clone(), &[("/normalizer", json!({ "type": "Lowercase" }))]), "its normalizer is"),
        (with(gpt2.clone(), &[("/pre_tokenizer", json!(null))]), "no byte-level pre-tokenizer"),
        (with(gpt2.clone(), &[("/pre_tokenizer", json!({ "type": "Whitespace" }))]), "its pre-tokenizer is"),
        (with(gpt2.clone(), &[("/pre_tokenizer/use_regex", json!(false))]), "its pre-tokenizer is"),
        (with(llama3.clone(), &[(&format!("{split}/invert"), json!(true))]), "its pre-tokenizer is"),
        (with(llama3.clone(), &[(&format!("{split}/behavior"), json!("Removed"))]), "its pre-tokenizer is"),
        (with(llama3, &[(&format!("{split}/pattern/Regex"), json!("\\w+"))]), "not a known one: \"\\\\w+\""),
        (with(gpt2.clone(), &[("/model/dropout", json!(0.1))]), "drops merges by chance"),
        (with(gpt2.clone(), &[("/model/end_of_word_suffix", json!("</w>"))]), "marks the pieces of words"),
        (with(gpt2.clone(), &[("/added_tokens/0/lstrip", json!(true))]), "takes its surroundings"),
        (with(gpt2.clone(), &[("/added_tokens/2/single_word", json!(true))]), "takes its surroundings"),
        (no_byte, "not every byte is a token"),
        (
            with(gpt2, &[("/added_tokens/2/id", json!(299)), ("/added_tokens/2/content", json!("[Y]"))]),
            "\"[Y]\" has an id out of order",
        ),
    ] {
        match read(&json).engine() {
            Engine::Crate(reason) => assert!(reason.contains(expected), "expected {expected:?} in {reason}"),
            Engine::ByteLevelBpe => panic!("expected {expected:?}"),
        }
    }
}

#[test]
fn the_alphabet_is_the_crates() {
    let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    assert!(alphabet().iter().all(|c| theirs.contains(c)));
    for (byte, c) in (0..=255).zip(alphabet()) {
        assert_eq!(byte_of(c), Some(byte));
    }
    assert_eq!((byte_of(' '), byte_of('\u{144}'), byte_of('Ġ'), byte_of('Ċ')), (None, None, Some(b' '), Some(b'\n')));
}

/// Pieces that decide about words, and any character at all.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<char>().prop_map(String::from),
        "[a-zA-Z]{1,6}",
        "[0-9]{1,5}",
        "[ \t\r\n]{1,4}",
        "\\p{L}{1,3}",
        "\\p{N}{1,3}",
        "\\p{M}{1,3}",
        "\\p{Z}{1,3}",
        "\\p{P}{1,3}",
        "\\p{S}{1,3}",
        "[\u{1F600}-\u{1F64F}\u{200D}\u{FE0F}]{1,4}",
        "'(s|t|re|ve|m|ll|d|S|ſ|LL|x)",
        prop::sample::select(vec![
            "<|endoftext|>",
            "<|end",
            "<|endof",
            "[X]",
            "[X",
            "<|",
            "|>",
            "e\u{301}",
            "\u{212B}"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_has_the_ids_of_the_crate(pieces in prop::collection::vec(piece(), 0..20), form in 0..6_usize) {
        thread_local! {
            static TOKENIZERS: Vec<crate::tokenizer::HuggingFace> = forms().iter().map(read).collect();
        }
        let text = pieces.concat();
        TOKENIZERS.with(|tokenizers| compare(&tokenizers[form], &text));
    }
}
