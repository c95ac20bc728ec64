//! `data show`, `data lint`, and runs on shards that are described and on mixtures.

use lmc::data::sidecar::Sidecar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Folder, has, shard};

/// The settings of token shards that a `shards.json` describes, with what `[data]` says of them.
fn shards_toml(data: &str) -> String {
    let (before, rest) = crate::CONFIG.split_once("[data]").expect("a section");
    let after = rest.split_once("[optimizer]").expect("a section").1;
    format!("{before}[data]\n{data}\n[optimizer]{after}")
}

/// Writes shards of words as the byte tokenizer makes them, and what describes them; `shards/a.bin` and `shards/b.bin`.
fn write_shards(folder: &Folder) {
    let tokenizer = "{\"type\":\"byte\"}\n";
    let mut entries = Vec::new();
    let mut totals = (0, 0);
    for (name, from) in [("a.bin", 0), ("b.bin", 50)] {
        let words: Vec<String> = crate::names().lines().skip(from).take(50).map(str::to_owned).collect();
        let ids: Vec<u16> = words.iter().flat_map(|word| word.bytes().map(u16::from).chain([256])).collect();
        let bytes = shard(&ids, true);
        folder.write(&format!("shards/{name}"), &bytes);
        totals = (totals.0 + ids.len(), totals.1 + ids.len() - words.len());
        entries.push(json!({"file": name, "tokens": ids.len(), "documents": 50, "sha256": sha256(&bytes)}));
    }
    let sidecar = json!({
        "format": Sidecar::FORMAT, "dtype": "uint16", "vocab_size": 257, "end_of_document": 256,
        "tokenizer": {"file": "tokenizer.json", "sha256": sha256(tokenizer.as_bytes())},
        "tokens": totals.0, "documents": 100, "text_bytes": totals.1, "shards": entries,
    });
    folder.write("shards/tokenizer.json", tokenizer);
    folder.write("shards/shards.json", sidecar.to_string());
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of JSON that a command prints.
fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn rows_are_shown_as_a_model_sees_them() {
    let folder = Folder::new();
    let set = ["--set", "data.order=sequential", "--set", "data.val_fraction=0"];
    let ran = folder.ok(&[&["data", "show", "run.toml", "--rows", "2"][..], &set].concat());
    let first = crate::names().lines().next().expect("a name").to_owned();
    // The first token, the name and its end; the rest of the 8 tokens is padding.
    let padding = 8 - (1 + first.len() + 1);
    has(
        &ran.stdout,
        &[
            "row 0, epoch 0: names.txt:1\n",
            &format!("<|endoftext|>{first}<|endoftext|>⟦<|endoftext|>×{padding}⟧\n"),
            "row 1, epoch 0: names.txt:2\n",
        ],
    );
    has(&ran.stderr, &["step 0: 2 of 4 rows of 8 tokens"]);

    // Names of one epoch, a row each: row 4 is in the second batch.
    let ran = folder.ok(&[&["data", "show", "run.toml", "--step", "1", "--json"][..], &set].concat());
    let rows = lines(&ran.stdout);
    assert_eq!(rows.len(), 4);
    assert_eq!(
        (&rows[0]["row"], &rows[0]["places"][0]["line"], &rows[0]["source"]),
        (&4.into(), &5.into(), &"train".into())
    );
    assert_eq!(rows[0]["labels"].as_array().expect("a list").len(), 8);
    assert_eq!(rows[0]["labels"][7], -100);

    // What is held out, a fifth of the names, is none that is trained on.
    let shown = |more: &[&str]| -> Vec<String> {
        let args = ["data", "show", "run.toml", "--json", "--rows", "1000"];
        let rows = lines(&folder.ok(&[&args[..], more].concat()).stdout);
        rows.iter().map(|row| format!("{}{}", row["source"], row["places"][0]["line"])).collect()
    };
    let held_out = [shown(&["--held-out"]), shown(&["--held-out", "--step", "1"])].concat();
    assert!(held_out.len() > 4 && held_out.iter().all(|row| row.starts_with("\"held out\"")), "{held_out:?}");
    let line = |row: &String| row.trim_start_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let trained: Vec<String> = (0..3).flat_map(|step| shown(&["--step", &step.to_string()])).collect();
    assert!(trained.iter().all(|row| held_out.iter().all(|held| line(held) != line(row))), "{trained:?}");
    let ran = folder.lmc(&["data", "show", "run.toml", "--held-out", "--step", "999"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["the held-out data have ", "--step is at most"]);
    let ran = folder.lmc(&[&["data", "show", "run.toml", "--held-out"][..], &set].concat());
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["no data are held out"]);

    let ran = folder.lmc(&["data", "show", "run.toml", "--step", "18446744073709551615"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["--step 18446744073709551615 is beyond"]);
}

#[test]
fn described_shards_are_trained_on_and_shown() {
    let folder = Folder::new();
    write_shards(&folder);
    folder.write("shards.toml", shards_toml("train = \"shards/*.bin\"\nval_fraction = 0.2\norder = \"sequential\""));
    let ran = folder.ok(&["data", "show", "shards.toml", "--rows", "1", "--set", "data.mask_end_of_document=true"]);
    has(&ran.stdout, &["row 0, epoch 0: shards/a.bin tokens 0..8\n", "<|endoftext|>⟦"]);
    folder.ok(&["train", "shards.toml"]);
    has(&folder.read("run/config.toml"), &["vocab_size = 257"]);
    assert_eq!(folder.ok(&["generate", "run", "--samples", "1"]).stdout.lines().count(), 1);

    // Without a tokenizer there are ids.
    folder.write("raw/c.bin", shard(&[5; 40], false));
    let raw = ["--set", "data.train=raw/c.bin", "--set", "model.vocab_size=9", "--set", "data.end_of_document_id=7"];
    let ran = folder.ok(&[&["data", "show", "shards.toml", "--rows", "1"][..], &raw].concat());
    has(&ran.stdout, &["raw/c.bin tokens 0..8\n5 5 5 5 5 5 5 5 5\n"]);

    let ran = folder.lmc(&["train", "shards.toml", "--fresh", "--set", "model.vocab_size=200"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["`vocab_size` 200 is less than the 257 of ", "shards.json", "--set 'model.vocab_size=200'"]);
}

#[test]
fn mixtures_are_counted_and_warned_of() {
    let folder = Folder::new();
    write_shards(&folder);
    folder.write(
        "mixed.toml",
        shards_toml(
            "[[data.mixture]]\nname = \"web\"\nfiles = \"shards/a.bin\"\nweight = 3\n\
             [[data.mixture]]\nname = \"books\"\nfiles = \"shards/b.bin\"\nweight = 1",
        ),
    );
    let json: Value = serde_json::from_str(&folder.ok(&["check", "mixed.toml", "--json"]).stdout).expect("JSON");
    let names: Vec<&Value> = json["sources"].as_array().expect("a list").iter().map(|source| &source["name"]).collect();
    assert_eq!(names, ["web", "books"]);
    let ran = folder.ok(&["check", "mixed.toml", "--set", "train.steps=1000"]);
    has(&ran.stdout, &["web    75.00 % of the rows", "books  25.00 % of the rows", " epochs\n"]);
    has(&ran.stderr, &["warning: the source \"web\" will be seen ", "warning: the source \"books\""]);
    let ran = folder.ok(&["data", "show", "mixed.toml", "--rows", "4", "--json"]);
    let sources: Vec<Value> = lines(&ran.stdout).into_iter().map(|row| row["source"].clone()).collect();
    assert_eq!(sources.iter().filter(|source| **source == "web").count(), 3, "{sources:?}");

    // Interrupted and continued, with the data at another place, as straight.
    folder.ok(&["train", "mixed.toml", "--out", "straight"]);
    folder.ok(&["train", "mixed.toml", "--out", "parts", "--steps", "2"]);
    std::fs::rename(folder.path("shards"), folder.path("moved")).expect("a folder is moved");
    folder.write("mixed.toml", folder.read("mixed.toml").replace("shards/", "moved/"));
    let ran = folder.ok(&["train", "mixed.toml", "--out", "parts"]);
    has(&ran.stderr, &["changed: data.mixture.0.files: ", "moved/a.bin"]);
    assert!(folder.weights("parts", 6) == folder.weights("straight", 6), "the same run");
    let weights = folder.read("mixed.toml").replace("weight = 3", "weight = 2");
    folder.write("mixed.toml", weights);
    let ran = folder.lmc(&["train", "mixed.toml", "--out", "parts", "--steps", "8"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["data.mixture.0.weight: 3.0 -> 2.0"]);
}

#[test]
fn attention_stays_within_documents() {
    let folder = Folder::new();
    let settings = ["--set", "data.packing=true", "--set", "data.reset_attention_mask=true"];
    let lmc = |args: &[&str]| folder.lmc(&[args, &settings].concat());
    let ok = |args: &[&str]| folder.ok(&[args, &settings].concat());
    let told = ok(&["check", "run.toml"]);
    has(&told.stdout, &["attention within documents: at most 3 in one of the first ", " rows, places for 8\n"]);
    assert!(!told.stderr.contains("warning"), "{}", told.stderr);
    let told = ok(&["check", "run.toml", "--set", "data.documents_per_row=2"]);
    has(&told.stderr, &["warning: rows hold up to 3 documents", "--set data.documents_per_row=3"]);
    // The data tell how many tokens there are and which one ends documents.
    has(&ok(&["dump", "run.toml", "--stage", "graph"]).stdout, &["rows = packed", "sort"]);
    has(&ok(&["explain", "run.toml"]).stdout, &["attention  fused, all 2"]);
    ok(&["gradcheck", "run.toml"]);
    ok(&["plan", "run.toml"]);

    // Interrupted and continued as straight, and other than without.
    ok(&["train", "run.toml", "--out", "straight"]);
    ok(&["train", "run.toml", "--out", "parts", "--steps", "2"]);
    ok(&["train", "run.toml", "--out", "parts"]);
    assert!(folder.weights("parts", 6) == folder.weights("straight", 6), "the same run");
    folder.ok(&["train", "run.toml", "--out", "reaching", "--set", "data.packing=true"]);
    assert!(folder.weights("reaching", 6) != folder.weights("straight", 6), "another run");
    let config = folder.read("parts/config.toml");
    has(&config, &["reset_attention_mask = true", "documents_per_row = 8", "end_of_document_id = 20"]);
    let ran = lmc(&["train", "run.toml", "--out", "parts", "--steps", "8", "--set", "data.documents_per_row=4"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["data.documents_per_row: 8 -> 4"]);
    let losses: Vec<f64> = ["parts", "straight"]
        .map(|run| serde_json::from_str::<Value>(&folder.ok(&["eval", run, "--json"]).stdout).expect("JSON"))
        .iter()
        .filter_map(|line| line["val_loss"].as_f64())
        .collect();
    assert!(losses.len() == 2 && losses[0] == losses[1], "{losses:?}");
    assert_eq!(folder.ok(&["generate", "parts", "--samples", "1"]).stdout.lines().count(), 1);
}

#[test]
fn files_are_linted() {
    let folder = Folder::new();
    write_shards(&folder);
    folder.write("shards.toml", shards_toml("train = \"shards/*.bin\""));
    for args in [&["data", "lint", "shards"][..], &["data", "lint", "shards.toml"], &["data", "lint", "run.toml"]] {
        let ran = folder.ok(args);
        has(&ran.stdout, &["\n0 errors, ", " documents, ", " bytes a token"]);
    }
    let ran = folder.ok(&["data", "lint", "shards/a.bin", "shards/b.bin", "--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["documents"], 100);
    assert_eq!(report["frequent"][0]["text"], "<|endoftext|>");
    assert_eq!((&report["files"][1]["header"], &report["files"][1]["dtype"]), (&true.into(), &"uint16".into()));

    let mut bytes = std::fs::read(folder.path("shards/b.bin")).expect("a shard");
    bytes[1024] ^= 1;
    folder.write("shards/b.bin", &bytes);
    folder.write("latin1.txt", b"anna\ncaf\xe9\n");
    folder.write("plain.bin", shard(&[1, 2, 9, 3], false));
    folder.write("shards/cut.bin", &shard(&[1; 50], true)[..1100]);
    for (args, parts) in [
        (&["shards/b.bin"][..], &["error: its content is not what was described", "1 error was found"][..]),
        (&["shards"], &["shards/cut.bin", "50 tokens", "cut short", "2 errors were found"]),
        (&["latin1.txt"], &["not UTF-8 text: line 2, byte 4"]),
        (
            &["plain.bin", "--vocab-size", "9"],
            &["1 of 4 ids are outside of the vocabulary of 9; the first is 9 at token 2"],
        ),
        (&["plain.bin", "--token-dtype", "uint64"], &["uint64", "uint16"]),
        (&["none.txt"], &["cannot read the data none.txt: no such file"]),
        (&["run"], &["run"]),
        (&["run.toml", "plain.bin"], &["run.toml is a config"]),
        (&["run.toml", "--lines"], &["--set"]),
        (&["plain.bin", "--set", "train.steps=1"], &["there is none"]),
        (&["run.toml", "--set", "data.train=none.txt"], &["none.txt: no such file"]),
        (&[], &["CONFIG|FILE"]),
    ] {
        let ran = folder.lmc(&[&["data", "lint"][..], args].concat());
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        has(&(ran.stdout + &ran.stderr), parts);
    }
    let ran = folder.ok(&["data", "lint", "plain.bin", "--end-of-document", "9"]);
    has(&ran.stdout, &["warning: its last document has no end: the last token is 3"]);
    folder.write("twice.txt", "anna\nbo\nanna\n");
    has(
        &folder.ok(&["data", "lint", "twice.txt", "--lines"]).stdout,
        &["1 of 3 documents came before", "twice.txt, line 3"],
    );
}
