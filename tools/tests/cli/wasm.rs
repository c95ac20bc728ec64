//! `--device wasm`: training and generating without a plugin.

use std::path::Path;

use serde_json::Value;

use crate::{Folder, Ran, events, has, text};

/// The losses of a run, step by step.
fn losses(metrics: &[Value]) -> Vec<f64> {
    events(metrics, "train").iter().map(|line| line["loss"].as_f64().expect("a loss")).collect()
}

/// The largest distance between two lists.
fn apart(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// A thousand steps of microgpt on both devices.
#[test]
fn a_run_learns_what_it_learns_through_xla() {
    let folder = Folder::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/microgpt.toml");
    let train = |out: &str, device: &str| {
        folder.ok(&["train", text(&config), "--out", out, "--device", device]);
        let metrics = folder.metrics(out);
        let start = events(&metrics, "start")[0].clone();
        (start, losses(&metrics))
    };
    let (start, found) = train("wasm", "wasm");
    assert_eq!(start["device"], "wasm");
    let (start, expected) = train("cpu", "cpu");
    assert_ne!(start["device"], "wasm");
    assert_eq!(found.len(), 1000);
    let first = apart(&found[..20], &expected[..20]);
    assert!(first <= 1e-4, "the first 20 losses are {first} apart");
    let mean = |losses: &[f64]| losses[950..].iter().sum::<f64>() / 50.0;
    let last = apart(&[mean(&found)], &[mean(&expected)]);
    assert!(last <= 1e-3, "the means of the last 50 losses are {last} apart");
}

/// Held-out loss, micro-batches in a loop, a continued run, and generation.
#[test]
fn what_else_a_run_does() {
    let folder = Folder::new();
    let sets = ["--set", "train.grad_accum_steps=2", "--set", "train.micro_batch_size=2"];
    let run = |out: &str, device: &str| {
        folder.ok(&[&["train", "run.toml", "--out", out, "--device", device], &sets[..]].concat());
        let metrics = folder.metrics(out);
        let held_out = events(&metrics, "eval").iter().map(|line| line["val_loss"].as_f64().expect("a loss")).collect();
        [losses(&metrics), held_out]
    };
    let found: [Vec<f64>; 2] = run("wasm", "wasm");
    for (found, expected) in found.iter().zip(run("cpu", "cpu")) {
        let apart = apart(found, &expected);
        assert!(apart <= 1e-4, "{apart}: {found:?}, {expected:?}");
    }
    let more =
        folder.ok(&[&["train", "run.toml", "--out", "wasm", "--device", "wasm", "--steps", "8"], &sets[..]].concat());
    has(&more.stderr, &["from step 6", "WebAssembly"]);
    // The same weights, prompts and bits give the same texts.
    let generate = |device: &str| {
        let args = ["generate", "wasm", "--prompt", "a", "--samples", "20", "--top-k", "5", "--top-p", "0.9"];
        folder.ok(&[&args[..], &["--device", device]].concat()).stdout
    };
    let texts = generate("wasm");
    assert_eq!(texts.lines().count(), 20, "{texts}");
    assert_eq!(texts, generate("cpu"));
}

/// Without a plugin a small model has a way, which the error names.
#[test]
fn it_is_offered_where_there_is_no_plugin() {
    let folder = Folder::new();
    let without = |args: &[&str]| {
        let mut command = folder.command(args);
        command.env("LMC_CACHE", folder.path("empty")).env("LMC_OFFLINE", "1").env("PATH", "");
        command.env_remove("LMC_PJRT_PLUGIN");
        Ran::new(command.output().expect("the program starts"))
    };
    let refused = without(&["train", "run.toml"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    has(&refused.stderr, &["this model is small (", "--device wasm"]);
    let large = without(&["train", "run.toml", "--set", "model.n_embd=512"]);
    assert_eq!(large.code, 1, "{}", large.stderr);
    assert!(!large.stderr.contains("--device wasm"), "{}", large.stderr);
    let ran = without(&["train", "run.toml", "--device", "wasm"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // The run keeps the device that it was trained on.
    assert_eq!(without(&["generate", "run"]).code, 0);
    assert_eq!(without(&["generate", "run", "--device", "cpu"]).code, 1);
}

#[test]
fn wrong_devices() {
    let folder = Folder::new();
    let cases: [(&[&str], &[&str]); 2] = [
        (&["train", "run.toml", "--device", "wasn"], &["runtime.device", "wasm"]),
        (&["train", "run.toml", "--device", "wasm", "--plugin", "none.so"], &["wasm", "--plugin"]),
    ];
    for (args, parts) in cases {
        let ran = folder.lmc(args);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, parts);
    }
}
