//! `generate` and `eval`: what a trained model says, and how good it is.

use serde_json::Value;

use crate::{Folder, events, has};

#[test]
fn texts_follow_from_seed_and_settings() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let generate = |args: &[&str]| folder.ok(&[&["generate", "run"], args].concat()).stdout;
    let many = ["--samples", "8"];
    let with = |args: &[&str]| generate(&[&many[..], args].concat());

    assert_eq!(generate(&[]).lines().count(), 3, "sample.count of the run");
    let seeded = with(&["--seed", "7"]);
    assert_eq!(seeded.lines().count(), 8);
    assert_eq!(with(&["--seed", "7"]), seeded, "the same seed, the same texts");
    assert_ne!(with(&["--seed", "8"]), seeded, "another seed, others");
    assert_eq!(with(&["--seed", "7", "--top-k", "0", "--top-p", "1"]), seeded, "which is no restriction");

    let greedy = with(&["--temperature", "0"]);
    let lines: Vec<&str> = greedy.lines().collect();
    assert!(lines.iter().all(|line| *line == lines[0]), "the likeliest text is one: {greedy}");
    assert_eq!(with(&["--top-k", "1"]), greedy);
    assert_eq!(with(&["--top-p", "1e-9"]), greedy);

    let prompted = generate(&["--prompt", "ab", "--json"]);
    for line in prompted.lines() {
        let sample: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(sample["prompt"], "ab");
        assert!(sample["text"].as_str().expect("a text").starts_with("ab"), "{line}");
    }
    assert_eq!(generate(&["--max-new-tokens", "0", "--prompt", "ab"]), "ab\nab\nab\n");
    assert_eq!(generate(&["--samples", "0"]), "");
    // Longer than the model's window of 8: the model sees its end.
    assert!(generate(&["--prompt", "abcdefghijklm"]).starts_with("abcdefghijklm"));

    for (args, parts) in [
        (&["--prompt", "aΩ"][..], &["in the prompt", "'Ω' (U+03A9)", "column 2"][..]),
        (&["--temperature", "-1"], &["--temperature", "-1"]),
        (&["--temperature", "nan"], &["--temperature", "NaN"]),
        (&["--temperature", "hot"], &["--temperature", "hot"]),
        (&["--top-p", "0"], &["--top-p", "0"]),
        (&["--top-p", "1.5"], &["--top-p", "1.5"]),
        (&["--top-k", "-1"], &["-1"]),
        (&["--samples", "9999999"], &["--samples", "9999999"]),
        (&["--samples", "1000000", "--max-new-tokens", "1000000"], &["of memory", "available"]),
        (&["--plugin", "none.so"], &["none.so"]),
    ] {
        let ran = folder.lmc(&[&["generate", "run"], args].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        has(&ran.stderr, parts);
    }
}

#[test]
fn the_held_out_loss_is_that_of_training() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let trained = folder.metrics("run");
    let trained = events(&trained, "eval")[1];
    let json: Value = serde_json::from_str(&folder.ok(&["eval", "run", "--json"]).stdout).expect("JSON");
    assert_eq!(
        (&json["step"], &json["val_loss"], &json["tokens"]),
        (&6.into(), &trained["val_loss"], &trained["tokens"])
    );
    let (loss, perplexity) =
        (json["val_loss"].as_f64().expect("a loss"), json["perplexity"].as_f64().expect("a number"));
    // They are computed from each other, and written with all digits.
    assert!((loss.exp() / perplexity - 1.0).abs() < 1e-12);
    has(&folder.ok(&["eval", "run"]).stdout, &["step 6: held-out loss ", " nats a token over "]);

    folder.ok(&["train", "run.toml", "--out", "all", "--set", "data.val_fraction=0"]);
    let ran = folder.lmc(&["eval", "all"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["all has no held-out data", "data.val_fraction"]);
}
