//! Models that others trained: `generate`, `chat` and `eval --perplexity` with folders of Hugging Face's.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::{Folder, has};

/// The 64 characters of a vocabulary, in the order of their ids.
fn characters() -> String {
    let mut characters: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').chain(['-', '_']).collect();
    characters.sort_unstable();
    characters.into_iter().collect()
}

/// A folder with the checkpoint `model`, of random weights, and a tokenizer of characters.
fn folder() -> Folder {
    let folder = Folder::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/references/pretrained/qwen3-0");
    for name in ["config.json", "model.safetensors", "reference.safetensors"] {
        folder.write(&format!("model/{name}"), fs::read(source.join(name)).expect("a reference"));
    }
    let tokenizer = json!({"type": "char", "characters": characters(), "end_of_document": false});
    folder.write("model/tokenizer.json", tokenizer.to_string());
    folder
}

/// The first tokens of the reference and their greedy continuation, as text.
fn reference(folder: &Folder) -> (String, String) {
    let bytes = fs::read(folder.path("model/reference.safetensors")).expect("a reference");
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).expect("a header");
    let characters: Vec<char> = characters().chars().collect();
    let text = |name: &str| -> String {
        let offset = |i: usize| 8 + header_len + header[name]["data_offsets"][i].as_u64().expect("an offset") as usize;
        let ids = bytes[offset(0)..offset(1)].chunks_exact(4).map(|x| u32::from_le_bytes([x[0], x[1], x[2], x[3]]));
        ids.map(|id| characters[id as usize]).collect()
    };
    (text("tokens")[..20].to_owned(), text("continuation"))
}

#[test]
fn texts_are_continued() {
    let folder = folder();
    let (prompt, continuation) = reference(&folder);
    let generate =
        |args: &[&str]| folder.ok(&[&["generate", "model", "--dtype", "float32", "--prompt", &prompt], args].concat());
    let ran = generate(&["--max-new-tokens", "64"]);
    assert_eq!(ran.stdout, format!("{prompt}{continuation}\n"));
    has(&ran.stderr, &["prefill", "decode", "tokens/s", "first token after", "cache", "peak memory"]);
    assert_eq!(generate(&["--max-new-tokens", "64", "--launch-tokens", "4"]).stdout, ran.stdout);
    // The context ends the text.
    assert_eq!(generate(&["--context", "30"]).stdout, format!("{prompt}{}\n", &continuation[..10]));
    let stop = &continuation[3..5];
    let end = continuation.find(stop).expect("it is there");
    assert_eq!(generate(&["--stop", stop]).stdout, format!("{prompt}{}\n", &continuation[..end]));
    let drawn = |seed: &str| generate(&["--temperature", "1", "--seed", seed, "--max-new-tokens", "30"]).stdout;
    assert_eq!(drawn("5"), drawn("5"));
    assert_ne!(drawn("5"), drawn("6"));
    let json = generate(&["--json", "--samples", "2", "--max-new-tokens", "4"]).stdout;
    for line in json.lines() {
        let sample: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(sample["text"], format!("{prompt}{}", &continuation[..4]));
        assert_eq!(sample["finish_reason"], "length");
        assert!(sample["figures"]["cache_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{line}");
    }
    assert_eq!(json.lines().count(), 2);
    for (args, parts) in [
        (&["--prompt", "Ω"][..], &["'Ω'"][..]),
        (&["--temperature", "-1"], &["temperature must be 0 or more"]),
        (&["--min-p", "2"], &["min_p must be from 0 to 1"]),
        (&["--context", "5"], &["the prompt has 20 tokens, and the context is 5"]),
        (&["--context", "500"], &["a context is from 2 to 128"]),
        (&["--stop", ""], &["a stop string is empty"]),
        (&["--cache-budget", "10", "--context", "100"], &["the budget is 10 B"]),
    ] {
        let all = [&["generate", "model", "--prompt", &prompt], args].concat();
        let all = if args[0] == "--prompt" { [&["generate", "model"], args].concat() } else { all };
        let ran = folder.lmc(&all);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        has(&ran.stderr, parts);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = folder();
    let refused = |parts: &[&str]| {
        let ran = folder.lmc(&["generate", "model", "--prompt", "a"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        has(&ran.stderr, parts);
    };
    let weights = fs::read(folder.path("model/model.safetensors")).expect("weights");
    folder.write("model/model.safetensors", &weights[..weights.len() / 2]);
    refused(&["model.safetensors is not a whole safetensors file", "cut short"]);
    let header = String::from_utf8_lossy(&weights).replacen("model.norm.weight", "model.nerm.weight", 1);
    assert!(header.contains("nerm"));
    let at = weights.windows(17).position(|window| window == b"model.norm.weight").expect("it is there");
    let mut renamed = weights.clone();
    renamed[at + 7] = b'e';
    folder.write("model/model.safetensors", &renamed);
    refused(&["has no `model.norm.weight`, which the model needs with the shape [16]"]);
    folder.write("model/model.safetensors", &weights);
    let config = folder.read("model/config.json");
    folder.write("model/config.json", config.replace("\"hidden_size\": 16", "\"hidden_size\": 32"));
    refused(&["has the shape", "by config.json the model needs"]);
    folder.write("model/config.json", config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"));
    refused(&["`layer_types` has 3 entries, `num_hidden_layers` is 2"]);
    folder.write("model/config.json", config.replace("\"qwen3\"", "\"qwen9\""));
    refused(&["`model_type` \"qwen9\" is not known to lmc; known: llama"]);
    folder.write("model/config.json", &config);
    folder.write("model/tokenizer.json", "{\"model\": {}}");
    refused(&["tokenizer.json is not a tokenizer"]);
}

#[test]
fn perplexity_is_measured() {
    let folder = folder();
    folder.write("text.txt", characters().repeat(4));
    let eval = |args: &[&str]| -> Value {
        let ran = folder.ok(&[&["eval", "model", "--perplexity", "text.txt", "--json"], args].concat());
        serde_json::from_str(&ran.stdout).expect("JSON")
    };
    let found = eval(&["--dtype", "float32"]);
    assert_eq!((&found["tokens"], &found["context"]), (&json!(255), &json!(128)));
    let (loss, perplexity) = (found["loss"].as_f64().expect("a loss"), found["perplexity"].as_f64().expect("a number"));
    assert!((loss.exp() - perplexity).abs() < 1e-9 * perplexity && loss > 1.0);
    // bf16 is near, and not the same.
    let narrow = eval(&["--dtype", "bfloat16"])["loss"].as_f64().expect("a loss");
    assert!((narrow - loss).abs() < 0.05 * loss && narrow != loss, "{narrow}, {loss}");
    let ran = folder.lmc(&["eval", "model", "--perplexity", "none.txt"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["cannot read the text none.txt: no such file"]);
}

#[test]
fn a_talk_goes_by_the_template() {
    let folder = folder();
    let (prompt, continuation) = reference(&folder);
    let chat = |input: &str, args: &[&str]| {
        let mut command =
            folder.command(&[&["chat", "model", "--dtype", "float32", "--max-new-tokens", "8"], args].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        child.stdin.take().expect("its stdin").write_all(input.as_bytes()).expect("it reads");
        crate::Ran::new(child.wait_with_output().expect("it ends"))
    };
    let ran = chat("hello\n", &[]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["model has no chat template", "lmc generate"]);
    // The texts of all messages, one behind the other.
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    folder.write("model/chat_template.jinja", template);
    let (first, answer) = (&prompt, &continuation[..8]);
    let ran = chat(&format!("{first}\n/save talk.json\n/reset\n{first}\n/what\n"), &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, format!("{answer}\n{answer}\n").as_str()), "{}", ran.stderr);
    has(&ran.stderr, &["the talk is in talk.json", "/what is no command", "tokens/s"]);
    let saved: Value = serde_json::from_str(&folder.read("talk.json")).expect("JSON");
    let expected = json!({"messages": [{"role": "user", "content": first}, {"role": "assistant", "content": answer}]});
    assert_eq!(saved, expected);
    // The talk so far goes into the next answer, and so does what the model was told.
    let ran = chat(&format!("{first}\n{first}\n"), &[]);
    let second = ran.stdout.lines().nth(1).expect("two answers").to_owned();
    assert_ne!(second, answer);
    let told = chat(&format!("/system {first}{answer}\n{first}\n"), &[]);
    assert_eq!(told.stdout, format!("{second}\n"));
    assert_eq!(chat(&format!("{first}\n"), &["--system", &format!("{first}{answer}")]).stdout, told.stdout);
}

#[test]
fn attention_is_shown() {
    let folder = folder();
    let args = ["attention", "model", "--text", "Hello-World", "--layers", "0,2", "--heads", "3", "-o", "seen"];
    let ran = folder.ok(&args);
    assert_eq!(ran.stdout, "seen/attention.safetensors\nseen/layer-0-head-3.svg\nseen/layer-2-head-3.svg\n");
    let picture = folder.read("seen/layer-2-head-3.svg");
    has(&picture, &["layer 2, head 3", "<title>H sees H: 1.0000</title>", ">W</text>"]);
    assert_eq!(picture.matches("<rect").count(), 1 + 11 * 12 / 2, "the lower triangle");
    for (args, parts) in [
        (["--layers", "3"], &["the model has layers 0 to 2, and 3 was asked for"][..]),
        (["--heads", "4"], &["the model has 4 query heads, from 0 on, and 4 was asked for"]),
    ] {
        let ran = folder.lmc(&[&["attention", "model", "--text", "ab", "-o", "other"], &args[..]].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, parts);
    }
}

/// What lmc trained is loaded from its run folder and from its export, and says the same.
#[test]
fn what_was_trained_is_loaded() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    folder.ok(&["checkpoint", "export", "run", "exported", "--dtype", "float32"]);
    let generate = |args: &[&str]| {
        let common = ["--prompt", "ab", "--temperature", "0", "--samples", "1", "--max-new-tokens", "5"];
        folder.ok(&[args, &common].concat()).stdout
    };
    let window = generate(&["generate", "run"]);
    let cached = generate(&["generate", "run", "--launch-tokens", "2"]);
    let exported = generate(&["generate", "exported"]);
    assert!(cached.starts_with("ab") && window.starts_with(cached.trim_end()), "{cached:?}, {window:?}");
    assert!(exported.starts_with("ab"), "{exported:?}");
}
