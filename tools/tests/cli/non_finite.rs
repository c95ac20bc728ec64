//! `train` where a loss or a gradient is not finite: what is said, what is saved, and how it goes on.

use std::fs;

use lmc::checkpoint::Checkpoint;
use serde_json::Value;

use crate::{Folder, events, has, names};

/// The token that only one of the names has, and its place in the alphabet.
const RARE: (char, usize) = ('z', 20);

/// A folder whose names have one with a rare letter.
fn rare_folder() -> Folder {
    let folder = Folder::new();
    folder.write("names.txt", names() + &format!("{}\n", RARE.0));
    folder
}

/// Settings with which the rare letter's embedding is one of its own.
const UNTIED: [&str; 4] = ["--set", "model.tie_word_embeddings=false", "--set", "data.val_fraction=0"];

fn saved(folder: &Folder, run: &str, step: u64) -> Checkpoint {
    let path = folder.path(run).join(format!("checkpoints/step-{step:08}"));
    let saved = lmc::checkpoint::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // The config tells of the run's folder, in which runs that are compared differ.
    Checkpoint { config_toml: None, ..saved }
}

/// Writes `into`, the weights of a run of one step with some elements replaced: numbers `range` of the tensor `name`.
fn spoil(folder: &Folder, name: &str, range: std::ops::Range<usize>, value: f32, into: &str) {
    folder.ok(&[&["train", "run.toml", "--steps", "1", "--out", "init"], &UNTIED[..]].concat());
    let mut bytes = fs::read(folder.path("init/checkpoints/step-00000001/model.safetensors")).expect("it is saved");
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).expect("a header");
    let begin = header[name]["data_offsets"][0].as_u64().expect("the tensor is there") as usize;
    for element in range {
        let at = 8 + header_len + begin + 4 * element;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    folder.write(into, bytes);
}

#[test]
fn the_first_tensor_is_named_and_what_was_saved_stays() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--set", "optimizer.learning_rate=1e30", "--set", "train.eval_every=0"];
    folder.ok(&[&args[..], &["--steps", "1"]].concat());
    let before = saved(&folder, "run", 1);
    let files = fs::read_dir(folder.path("run/checkpoints")).expect("a folder").count();
    let ran = folder.lmc(&args);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(
        &ran.stderr,
        &[
            "the loss is not finite in step 2",
            "the first tensor that is not is the result of `multiply` in transformer.h.0.ln_1 (models/src/architectures/gpt2.rs:",
            "operand 1: f32[4,8,8], of `",
            "operand 2: f32[4,8,8], of `",
            ", mean ",
            "train.non_finite",
        ],
    );
    assert_eq!(saved(&folder, "run", 1), before);
    assert_eq!(fs::read_dir(folder.path("run/checkpoints")).expect("a folder").count(), files);
    let metrics = folder.metrics("run");
    has(metrics.last().expect("a line")["message"].as_str().expect("a text"), &["transformer.h.0.ln_1"]);
}

#[test]
fn a_weight_that_is_infinite_is_named() {
    let folder = rare_folder();
    spoil(&folder, "transformer.h.0.attn.c_proj.weight", 3..4, f32::INFINITY, "bad.safetensors");
    let args = ["train", "run.toml", "--set", "model.init_from=\"bad.safetensors\""];
    let ran = folder.lmc(&[&args[..], &UNTIED].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(&ran.stderr, &["in step 1", "the first tensor that is not is the weight `transformer.h.0.attn.c_proj.weight`"]);
    assert_eq!(folder.checkpoints("run"), [0; 0]);
}

#[test]
fn the_micro_batch_is_named() {
    let folder = rare_folder();
    // The sum of such activations is beyond f32.
    spoil(&folder, "transformer.wte.weight", 8 * RARE.1..8 * RARE.1 + 4, 3e38, "bad.safetensors");
    let settings = ["--set", "model.init_from=\"bad.safetensors\"", "--set", "train.grad_accum_steps=27"];
    let ran = folder.lmc(&[&["train", "run.toml"], &settings[..], &UNTIED].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(&ran.stderr, &["the loss is not finite in step 1", "in transformer.h.0.ln_1", "in micro-batch ", " of 27"]);
}

#[test]
fn steps_in_a_row_are_not_skipped_forever() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--set", "optimizer.learning_rate=1e30", "--set", "train.non_finite=skip"];
    let ran = folder.lmc(&[&args[..], &["--set", "train.non_finite_limit=3"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(&ran.stderr, &["skipped: the loss is not finite in step 2", "in step 4", "3 steps in a row"]);
    let metrics = folder.metrics("run");
    let skipped: Vec<_> = events(&metrics, "skip").iter().map(|line| line["skipped"].as_u64()).collect();
    assert_eq!(skipped, [Some(1), Some(2)]);
}

#[test]
fn a_run_goes_on_without_a_step_and_continues_exactly() {
    let folder = rare_folder();
    spoil(&folder, "transformer.wte.weight", 8 * RARE.1..8 * RARE.1 + 4, 3e38, "bad.safetensors");
    let train = |out: &str, settings: &[&str]| {
        let given =
            ["model.init_from=\"bad.safetensors\"", "train.eval_every=0", "train.save_every=1", "train.keep_last=0"];
        let mut args = vec!["train", "run.toml", "--out", out];
        given.iter().chain(settings).for_each(|setting| args.extend(["--set", setting]));
        args.extend(UNTIED);
        folder.ok(&args);
    };
    let count = |out: &str, kind: &str| events(&folder.metrics(out), kind).len() as u64;
    // 101 names in rows of four: an epoch has 26 steps, and one of them the rare letter.
    train("skip", &["train.steps=30", "train.non_finite=skip"]);
    let whole = saved(&folder, "skip", 30);
    let skipped = whole.optimizer["skipped_steps"].elements::<i64>()[0];
    assert!((1..=2).contains(&skipped) && count("skip", "skip") == skipped as u64, "{skipped}");
    assert_eq!(count("skip", "train"), 30);
    let metrics = folder.metrics("skip");
    let bad = events(&metrics, "skip")[0]["step"].as_u64().expect("a step");
    assert_eq!(saved(&folder, "skip", bad).model, saved(&folder, "skip", bad - 1).model, "the step changes nothing");

    // Where nothing waits for the step that is not finite, the one after it has begun, and is done again.
    train("late", &["train.steps=30", "train.non_finite=skip", "train.save_every=0"]);
    assert!(saved(&folder, "late", 30) == whole, "bit by bit");

    // In two parts, with the step in the second or in the first.
    let half = if bad > 15 { "train.steps=15" } else { "train.steps=29" };
    train("parts", &[half, "train.non_finite=skip"]);
    train("parts", &["train.steps=30", "train.non_finite=skip"]);
    assert!(saved(&folder, "parts", 30) == whole, "bit by bit");

    // With a checkpoint after every step, going back is skipping.
    train("back", &["train.steps=30", "train.non_finite=rollback"]);
    assert!(saved(&folder, "back", 30) == whole, "bit by bit");
    assert_eq!(count("back", "rollback"), skipped as u64);

    // With fewer, the steps since the last one are passed over.
    let far = ["train.steps=30", "train.non_finite=rollback", "train.save_every=6"];
    train("far", &far);
    let to = (bad - 1) / 6 * 6;
    let metrics = folder.metrics("far");
    let event = events(&metrics, "rollback")[0];
    assert_eq!((event["step"].as_u64(), event["skipped"].as_u64()), (Some(bad), Some(bad - to)));
    if to > 0 {
        assert_eq!(event["checkpoint"], format!("checkpoints/step-{to:08}"));
    }
    let far_whole = saved(&folder, "far", 30);
    assert!(far_whole.model != whole.model);
    let losses = || -> Vec<_> {
        events(&folder.metrics("far"), "train")
            .iter()
            .map(|line| (line["step"].clone(), line["loss"].clone()))
            .collect()
    };
    let before = losses();
    assert_eq!(before.len(), 30);
    // Killed somewhere after that: what is done again comes to the same.
    for step in (6..=30).step_by(6).filter(|step| *step > to.max(6)) {
        fs::remove_dir_all(folder.path(&format!("far/checkpoints/step-{step:08}"))).expect("it is there");
    }
    train("far", &far);
    assert!(saved(&folder, "far", 30) == far_whole, "bit by bit");
    assert_eq!(losses(), before);
}
