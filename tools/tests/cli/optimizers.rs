//! `train` with each optimizer, an average of the weights, and dropout: continued exactly, and used afterwards.

use lmc::checkpoint::{Checkpoint, load_safetensors};
use serde_json::Value;

use crate::{Folder, events, has};

fn saved(folder: &Folder, run: &str, step: u64) -> Checkpoint {
    let path = folder.path(run).join(format!("checkpoints/step-{step:08}"));
    let saved = lmc::checkpoint::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // The config tells of the run's folder, in which runs that are compared differ.
    Checkpoint { config_toml: None, ..saved }
}

fn train(folder: &Folder, out: &str, settings: &[&str]) {
    let mut args = vec!["train", "run.toml", "--out", out];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    folder.ok(&args);
}

/// A run in two parts is one in one part, bit by bit, and its optimizer keeps these kinds of tensors.
fn check(settings: &[&str], slots: &[&str]) {
    let folder = Folder::new();
    train(&folder, "whole", settings);
    train(&folder, "parts", &[settings, &["train.steps=3"]].concat());
    train(&folder, "parts", settings);
    let whole = saved(&folder, "whole", 6);
    assert!(saved(&folder, "parts", 6) == whole, "{settings:?}");
    let losses = |run: &str| -> Vec<Value> {
        events(&folder.metrics(run), "train").iter().map(|line| line["loss"].clone()).collect()
    };
    assert_eq!(losses("whole"), losses("parts"), "{settings:?}");
    assert!(losses("whole")[5].as_f64() < losses("whole")[0].as_f64(), "{settings:?}: it learns");
    let weights: Vec<&String> = whole.model.keys().collect();
    let mut found: Vec<&str> = whole
        .optimizer
        .keys()
        .map(|name| {
            let path = weights.iter().find(|path| name.ends_with(path.as_str())).expect("a slot of a weight");
            name.strip_suffix(path.as_str()).expect("it ends so")
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, slots, "{settings:?}");
}

#[test]
fn every_optimizer_is_continued_exactly() {
    check(&["optimizer.kind=adamw"], &["adam.m.", "adam.v."]);
    check(&["optimizer.kind=lion", "optimizer.learning_rate=1e-3"], &["lion.m."]);
    check(&["optimizer.kind=muon", "train.precision=bfloat16"], &["adam.m.", "adam.v.", "muon.m."]);
    let original = ["optimizer.kind=muon", "optimizer.adjust_lr_fn=original", "optimizer.muon_learning_rate=0.02"];
    check(
        &[&original[..], &["train.layers=scan", "train.grad_accum_steps=2"]].concat(),
        &["adam.m.", "adam.v.", "muon.m."],
    );
}

#[test]
fn dropout_and_averages_are_continued_exactly() {
    check(&["model.dropout=0.1"], &["adam.m.", "adam.v."]);
    check(&["model.dropout=0.1", "train.layers=scan", "train.grad_accum_steps=2"], &["adam.m.", "adam.v."]);
    check(&["train.ema_decay=0.9", "train.remat=layer"], &["adam.m.", "adam.v.", "ema."]);
}

/// Blocks that are unrolled, computed again, and scanned draw the same.
#[test]
fn dropout_is_the_same_in_every_way_to_compute() {
    let folder = Folder::new();
    let runs = [("plain", "train.remat=none"), ("again", "train.remat=layer"), ("scan", "train.layers=scan")];
    let losses = runs.map(|(out, setting)| {
        train(&folder, out, &["model.dropout=0.2", "model.n_layer=3", "train.steps=4", setting]);
        let metrics = folder.metrics(out);
        events(&metrics, "train").iter().map(|line| line["loss"].as_f64().expect("a loss")).collect::<Vec<f64>>()
    });
    for found in &losses[1..] {
        for (x, y) in found.iter().zip(&losses[0]) {
            // Another mask would change a loss of 3 by more than 0.01; Adam magnifies the rounding of small gradients.
            assert!((x - y).abs() < 1e-4, "{losses:?}");
        }
    }
    train(&folder, "none", &["model.n_layer=3", "train.steps=4"]);
    let without = events(&folder.metrics("none"), "train")[0]["loss"].as_f64().expect("a loss");
    assert!((without - losses[0][0]).abs() > 1e-3, "it drops something");
}

#[test]
fn averaged_weights_are_what_is_evaluated() {
    let folder = Folder::new();
    train(&folder, "run", &["train.ema_decay=0.99"]);
    let loss = |args: &[&str]| -> f64 {
        let ran = folder.ok(&[&["eval", "run", "--json"], args].concat());
        serde_json::from_str::<Value>(&ran.stdout).expect("JSON")["val_loss"].as_f64().expect("a loss")
    };
    let (averaged, trained) = (loss(&["--weights", "averaged"]), loss(&["--weights", "trained"]));
    assert!((averaged - trained).abs() > 1e-5, "{averaged} and {trained}");
    assert_eq!(loss(&[]), averaged);
    let metrics = folder.metrics("run");
    let in_training = events(&metrics, "eval").last().expect("it was evaluated")["val_loss"].as_f64();
    assert!((in_training.expect("a loss") - averaged).abs() < 1e-6);
    folder.ok(&["generate", "run", "--weights", "trained"]);
    exports_are_the_weights_asked_for(&folder);

    train(&folder, "without", &[]);
    let ran = folder.lmc(&["checkpoint", "export", "without", "out", "--weights", "averaged"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["no average of its weights", "leave out --weights"]);
    let ran = folder.lmc(&["eval", "without", "--weights", "averaged"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["keeps no average", "train.ema_decay", "--weights trained"]);
}

/// Exports of a run with an average, beside what its checkpoint has.
fn exports_are_the_weights_asked_for(folder: &Folder) {
    let Checkpoint { model, optimizer, .. } = saved(folder, "run", 6);
    let average = lmc::model::averaged_weights(&optimizer).expect("the run keeps one");
    assert_ne!(model, average);
    for (weights, expected) in [(None, &model), (Some("trained"), &model), (Some("averaged"), &average)] {
        let out = format!("exported-{}", weights.unwrap_or("by-default"));
        let which: Vec<&str> = weights.into_iter().flat_map(|which| ["--weights", which]).collect();
        folder.ok(&[&["checkpoint", "export", "run", &out], &which[..]].concat());
        let exported = load_safetensors(&folder.path(&out).join("model.safetensors"));
        assert!(&exported.unwrap_or_else(|error| panic!("{error}")) == expected, "{out}");
    }
}

#[test]
fn check_lists_what_the_optimizer_keeps() {
    let folder = Folder::new();
    let ran = folder.ok(&["check", "run.toml", "--set", "optimizer.kind=muon", "--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let slots = |path: &str| {
        let parameters = json["parameters"].as_array().expect("a list");
        let found = parameters.iter().find(|parameter| parameter["path"] == path).expect("the parameter is listed");
        found["slots"].clone()
    };
    assert_eq!(slots("transformer.h.0.mlp.c_fc.weight"), serde_json::json!(["muon.m"]));
    for path in ["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.mlp.c_fc.bias"] {
        assert_eq!(slots(path), serde_json::json!(["adam.m", "adam.v"]), "{path}");
    }
    let ran = folder.ok(&["check", "run.toml", "--set", "train.ema_decay=0.9"]);
    has(&ran.stdout, &["; adam.m, adam.v", "of optimizer state", "of averaged weights"]);
}
