//! `lmc tokenizer train`, `lmc tokenize`, and training on what they make.

use serde_json::Value;

use crate::{CONFIG, Folder, events, has};

/// A folder with texts of several kinds, and a tokenizer of 300 tokens made from one.
fn folder() -> Folder {
    let folder = Folder::new();
    let text: String = (0..300).map(|i| format!("It's the {i}th line, and there's café №{} in it.\n", i * i)).collect();
    folder.write("texts/a.txt", &text);
    let json: String =
        (0..40).map(|i| format!("{{\"body\": \"document {i}\\nof two lines\", \"id\": {i}}}\n")).collect();
    folder.write("texts/b.jsonl", json);
    let ran = folder.ok(&["tokenizer", "train", "texts/a.txt", "-o", "made/tokenizer.json", "--vocab-size", "300"]);
    has(&ran.stdout, &["300 tokens from", "distinct words"]);
    folder
}

const TOKENIZE: [&str; 6] = ["tokenize", "texts/a.txt", "--tokenizer", "made/tokenizer.json", "-o", "shards"];

fn tokenize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TOKENIZE, more].concat()
}

#[test]
fn text_becomes_shards() {
    let folder = folder();
    let ran = folder.ok(&tokenize(&["--documents", "lines", "--val-fraction", "0.1", "--json"]));
    has(&ran.stderr, &["encoding by lmc's byte-level BPE encoder"]);
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    let sidecar: Value = serde_json::from_str(&folder.read("shards/shards.json")).unwrap();
    assert_eq!((&summary["documents"], &sidecar["documents"]), (&300.into(), &300.into()));
    assert_eq!((&summary["dtype"], &sidecar["end_of_document"]), (&"uint16".into(), &0.into()));
    assert_eq!(summary["tokens"], sidecar["tokens"]);
    assert_eq!(folder.read("shards/tokenizer.json"), folder.read("made/tokenizer.json"));
    let tokens: u64 = ["train-00000.bin", "val-00000.bin"]
        .map(|name| (std::fs::metadata(folder.path("shards").join(name)).unwrap().len() - 1024) / 2)
        .iter()
        .sum();
    assert_eq!(summary["tokens"], tokens);

    let first = folder.snapshot();
    folder.ok(&tokenize(&["--documents", "lines", "--val-fraction", "0.1", "--force", "--threads", "1"]));
    assert!(folder.snapshot() == first, "the same again");
    let args = ["tokenize", "texts/*.jsonl", "--field", "body", "--tokenizer", "byte", "--format", "raw", "-o", "raw"];
    let ran = folder.ok(&args);
    has(&ran.stdout, &["of 40 documents", "shards of uint16"]);
    let bytes = std::fs::read(folder.path("raw/train-00000.bin")).unwrap();
    let beginning: Vec<u8> = "document 0\nof two lines".bytes().flat_map(|byte| [byte, 0]).chain([0, 1]).collect();
    assert!(bytes.starts_with(&beginning));
}

#[test]
fn what_is_wrong_is_told_and_nothing_written() {
    let folder = folder();
    folder.write("texts/bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
    folder.write("texts/bad.txt", b"fine\n\xFF\n");
    folder.write("texts/bad.gz", "no gzip");
    folder.write("texts/bad.parquet", "no parquet");
    folder.write("broken.json", "{\"model\": {}}");
    folder.write("made/two.json", folder.read("made/tokenizer.json").replace("\"[\"", "\"</s>\""));
    let input = |path| ["tokenize", path, "--tokenizer", "byte", "-o", "out"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["tokenize"], &["<INPUT>", "--tokenizer", "--output"]),
        (&input("none.txt"), &["cannot read the input none.txt: no such file"]),
        (&input("*.none"), &["no file to read in *.none"]),
        (&input("texts/bad.jsonl"), &["texts/bad.jsonl, line 2: ", "no field \"text\"", "--skip-invalid"]),
        (&input("texts/bad.txt"), &["texts/bad.txt, line 1: not UTF-8 text: byte 5"]),
        (&input("texts/bad.gz"), &["cannot read the input texts/bad.gz"]),
        (&input("texts/bad.parquet"), &["texts/bad.parquet cannot be read as Parquet"]),
        (&tokenize(&["--tokenizer", "x"]), &["--tokenizer"]),
        (&["tokenize", "names.txt", "--tokenizer", "none.json", "-o", "out"], &["none.json: no such file"]),
        (&["tokenize", "names.txt", "--tokenizer", "made", "-o", "out"], &["is a folder", "made/tokenizer.json"]),
        (&["tokenize", "names.txt", "--tokenizer", "broken.json", "-o", "out"], &["broken.json is not a tokenizer"]),
        (&["tokenize", "names.txt", "--tokenizer", "names.txt", "-o", "out"], &["names.txt is not a saved tokenizer"]),
        (&["tokenize", "names.txt", "--tokenizer", "byte", "-o", "run.toml"], &["output folder run.toml"]),
        (&tokenize(&["--val-fraction", "1"]), &["--val-fraction", "less than 1, found 1"]),
        (&tokenize(&["--val-fraction", "nan"]), &["--val-fraction"]),
        (&tokenize(&["--val-fraction", "0.1", "--val-documents", "1"]), &["--val-documents", "cannot be used"]),
        (&tokenize(&["--documents", "lines", "--val-documents", "300"]), &["--val-documents 300 of 300 documents"]),
        (&tokenize(&["--val-documents", "x"]), &["--val-documents"]),
        (&tokenize(&["--shard-tokens", "0"]), &["--shard-tokens"]),
        (&tokenize(&["--end-of-document", "<eos>"]), &["no token \"<eos>\"", "\"<|endoftext|>\""]),
        (
            &["tokenizer", "train", "texts/a.txt", "-o", "made/tokenizer.json"],
            &["made/tokenizer.json exists", "--force"],
        ),
        (&["tokenizer", "train", "texts/a.txt", "-o", "made"], &["made is a folder"]),
        (&["tokenizer", "train", "texts/a.txt", "-o", "t.json", "--vocab-size", "10"], &["at least 257 tokens"]),
        (&["tokenizer", "train", "texts/bad.jsonl", "-o", "t.json"], &["texts/bad.jsonl, line 2"]),
    ];
    crate::bad_input::check(&folder, cases);
    let ran = folder.ok(&["tokenize", "texts/bad.jsonl", "--tokenizer", "byte", "-o", "out", "--skip-invalid"]);
    has(&ran.stderr, &["warning: passed over 1 invalid documents, the first: texts/bad.jsonl, line 2"]);
    crate::bad_input::check(
        &folder,
        &[(&["tokenize", "names.txt", "--tokenizer", "byte", "-o", "out"], &["out holds shards.json already"])],
    );
}

/// `CONFIG` with other data.
fn config(data: &str) -> String {
    CONFIG.replace("train = \"names.txt\"\ntokenizer = \"char\"\ndocuments = \"lines\"\nval_fraction = 0.2", data)
}

#[test]
fn a_model_is_trained_on_them_and_writes_text() {
    let folder = folder();
    folder.ok(&tokenize(&["--documents", "lines", "--val-documents", "30"]));
    let data = "train = \"shards/train-*.bin\"\nval = \"shards/val-*.bin\"\ntokenizer = \"shards/tokenizer.json\"";
    folder.write("shards.toml", config(data));
    let ran = folder.ok(&["train", "shards.toml"]);
    assert_eq!(events(&folder.metrics("run"), "train").len(), 6, "{}", ran.stderr);
    let checkpoint = folder.path("run/checkpoints/step-00000006/tokenizer.json");
    assert_eq!(std::fs::read_to_string(checkpoint).unwrap(), folder.read("made/tokenizer.json"));
    let sample = folder.ok(&["generate", "run", "--prompt", "It's the", "--samples", "2", "--json"]);
    for line in sample.stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["text"].as_str().unwrap().starts_with("It's the"), "{line}");
    }
    folder.ok(&["eval", "run"]);

    // The run goes on without the file, and not with another one.
    let again = ["train", "shards.toml", "--steps", "8"];
    std::fs::rename(folder.path("shards/tokenizer.json"), folder.path("away.json")).unwrap();
    folder.ok(&again);
    folder.ok(&["tokenizer", "train", "texts/a.txt", "-o", "shards/tokenizer.json", "--vocab-size", "299"]);
    let ran = folder.lmc(&["train", "shards.toml", "--steps", "9"]);
    assert_eq!(ran.code, 2);
    has(
        &ran.stderr,
        &["is not the tokenizer that the shards beside it were made with", "tokenizer = \"shards/tokenizer.json\""],
    );
}

#[test]
fn text_is_encoded_as_it_is_read() {
    let folder = folder();
    for (name, data) in [
        ("lines", "train = \"texts/a.txt\"\ntokenizer = \"made/tokenizer.json\"\ndocuments = \"lines\""),
        ("running", "train = \"texts/a.txt\"\ntokenizer = \"made/tokenizer.json\""),
    ] {
        folder.write("text.toml", config(data));
        let ran = folder.ok(&["check", "text.toml", "--json"]);
        let check: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(check["vocab_size"], 300, "{name}");
        let ran = folder.ok(&["train", "text.toml", "--set", &format!("train.out_dir=\"{name}\"")]);
        assert_eq!(folder.checkpoints(name), [6], "{}", ran.stderr);
    }
    for (settings, expected) in [
        (&["data.tokenizer=\"none.json\""][..], &["cannot read the tokenizer", "none.json"][..]),
        (&["model.vocab_size=299"], &["`vocab_size` 299 is less than the tokenizer's 300 tokens"]),
        (&["data.end_of_document=\"</s>\""], &["no token \"</s>\" to end documents with"]),
        (&["data.train=[\"texts/a.txt\", \"x.bin\"]"], &["x.bin is a token shard by its name, and others are not"]),
    ] {
        let mut args = vec!["check", "text.toml"];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        crate::bad_input::check(&folder, &[(&args, expected)]);
    }
}
