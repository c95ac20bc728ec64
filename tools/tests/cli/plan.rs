//! `plan`, `profile`, `gradcheck`, `diff-runs`, refusals of what does not fit, and `micro_batch_size = "auto"`.

use std::path::Path;

use lmc::config::Config;
use lmc::plan::{PlanOptions, Source, plan};
use lmc::target::TargetDevice;
use lmc::{Device, DeviceOptions};
use serde_json::Value;

use crate::{Folder, has};

/// How far lmc's estimate of memory may be from what is compiled.
const TOLERANCE: f64 = 0.1;

/// A small Llama with shared heads, in place of that of 100M parameters.
const SMALL: [&str; 9] = [
    "model.num_hidden_layers=4",
    "model.hidden_size=256",
    "model.intermediate_size=704",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.vocab_size=4096",
    "train.seq_len=256",
    "train.grad_accum_steps=2",
    "train.micro_batch_size=8",
];

#[test]
fn estimates_are_near_what_is_compiled() {
    let device = DeviceOptions::default();
    Device::open(&device).expect("the plugin is there");
    let check = |example: &str, settings: &[&str]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let config = Config::read(&path, &settings).unwrap_or_else(|error| panic!("{example}: {error}"));
        let options = PlanOptions { target: TargetDevice::Cpu, compile: true, device: device.clone() };
        let plan = plan(&config, &options).unwrap_or_else(|error| panic!("{example} with {settings:?}: {error}"));
        assert_eq!(plan.source, Source::Compiled);
        let ratio = plan.estimated_peak_bytes as f64 / plan.peak_bytes as f64;
        assert!((ratio - 1.0).abs() < TOLERANCE, "{example} with {settings:?}: {ratio:.3}");
        let parts = &plan.parts;
        let parts = [
            parts.parameters,
            parts.gradients,
            parts.optimizer,
            parts.activations,
            parts.logits,
            parts.workspace,
            parts.data,
        ];
        let sum: u64 = parts.iter().sum();
        assert!(sum.abs_diff(plan.peak_bytes) <= plan.peak_bytes / 100, "{parts:?} are {sum}, not {}", plan.peak_bytes);
    };
    check("names.toml", &["model.vocab_size=27"]);
    check("microgpt.toml", &["model.vocab_size=27"]);
    check("shakespeare.toml", &["model.vocab_size=65"]);
    check("lm-100m.toml", &SMALL);
    check("lm-100m.toml", &[&SMALL[..], &["train.precision=\"float32\""]].concat());
    check("lm-100m.toml", &[&SMALL[..], &["train.remat=\"layer\""]].concat());
    // Small loops are planned less tightly by XLA; at this size it is within the tolerance.
    check("lm-100m.toml", &["train.layers=\"scan\""]);
}

#[test]
fn a_card_is_answered_for_in_the_first_lines_without_data() {
    let folder = Folder::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lm-100m.toml");
    let example = example.to_str().expect("a path of text");
    let ran = folder.ok(&["plan", example, "--target", "rtx4090"]);
    let first: Vec<&str> = ran.stdout.lines().take(10).collect();
    let answer = first.iter().find(|line| line.contains("24 GB: ")).expect("a verdict for a card of 24 GB");
    assert!(answer.contains("fits, "), "{answer}");
    has(
        &ran.stdout,
        &["on rtx4090 a step takes", "lmc's estimate", "optimizer state", "to take less", "the run, at 40 %"],
    );
    // What does not fit says at once with what it does.
    let large = ["--set", "train.micro_batch_size=64", "--set", "train.grad_accum_steps=1"];
    let ran = folder.ok(&[&["plan", example, "--target", "rtx3090", "--estimate"], &large[..]].concat());
    let lines: Vec<&str> = ran.stdout.lines().collect();
    has(lines[0], &["on rtx3090 a step takes", "it does not fit, 25.8 GB are there"]);
    has(lines[1], &["with `micro_batch_size = 32` and `grad_accum_steps = 2` in [train] it takes", "which fits"]);
    let ran = folder.ok(&["plan", "run.toml", "--target", "rtx3090", "--estimate"]);
    has(&ran.stdout, &["less than 1 ms a step", "without fused attention"]);
    let ran = folder.ok(&["plan", example, "--estimate", "--json"]);
    let plan: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&plan["source"], &plan["num_parameters"]), (&"estimated".into(), &100_092_672.into()));
    // AdamW keeps two moments of each weight.
    assert_eq!(plan["parts"]["optimizer"], 2 * 4 * 100_092_672_u64);
    let ran = folder.lmc(&["plan", example, "--target", "h20"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["no GPU is called \"h20\"; there are a100", "and cpu and generic"]);
    // The vocabulary is that of the characters, which only the data have.
    std::fs::remove_file(folder.path("names.txt")).expect("a file");
    let ran = folder.lmc(&["plan", "run.toml"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["names.txt", "without the data, say the size: --set model.vocab_size=N"]);
    folder.ok(&["plan", "run.toml", "--estimate", "--set", "model.vocab_size=30"]);
}

#[test]
fn micro_batches_are_as_large_as_fits() {
    let folder = Folder::new();
    let auto = ["--set", "train.micro_batch_size=\"auto\"", "--set", "train.batch_size=12"];
    let ran = folder.ok(&[&["train", "run.toml"], &auto[..]].concat());
    has(&ran.stderr, &["micro_batch_size = 12, the most that are sure to fit", "grad_accum_steps = 1"]);
    let resolved = folder.read("run/config.toml");
    has(&resolved, &["micro_batch_size = 12", "grad_accum_steps = 1"]);
    // The same command goes on, with what was decided.
    let ran = folder.ok(&[&["train", "run.toml", "--steps", "8"], &auto[..]].concat());
    has(&ran.stderr, &["continuing"]);
    for (settings, expected) in [
        (&["--set", "train.micro_batch_size=\"auto\""][..], "`batch_size` says how many rows"),
        (&["--set", "train.batch_size=8"], "`batch_size` goes with `micro_batch_size = \"auto\"`"),
        (&["--set", "train.micro_batch_size=\"most\""], "a whole number or \"auto\""),
        (&[&auto[..], &["--set", "train.grad_accum_steps=2"]].concat(), "`grad_accum_steps` follows"),
    ] {
        let ran = folder.lmc(&[&["train", "run.toml"], settings].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &[expected]);
    }
}

#[test]
fn what_cannot_fit_is_refused_with_what_does() {
    let folder = Folder::new();
    // Some terabytes, of which a single row is less than a hundredth.
    let settings = ["--set", "train.seq_len=2000", "--set", "train.micro_batch_size=50000"];
    let ran = folder.lmc(&[&["train", "run.toml"], &settings[..]].concat());
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(
        &ran.stderr,
        &["training takes", "are available", "largest tensors", "gpt2.rs:", "With `micro_batch_size = ", "which fits"],
    );
    assert!(!folder.path("run").exists());
}

#[test]
fn a_profile_tells_where_the_time_goes() {
    let folder = Folder::new();
    let ran = folder.ok(&["profile", "run.toml", "--steps", "2", "--trace", "step.json"]);
    has(
        &ran.stdout,
        &["a step takes", "forward", "optimizer", "transformer.h.0", "timed apart", "roofline as measured"],
    );
    let trace: Value = serde_json::from_str(&folder.read("step.json")).expect("JSON");
    let names: Vec<&str> =
        trace["traceEvents"].as_array().expect("a list").iter().filter_map(|event| event["name"].as_str()).collect();
    for name in ["step 1", "step 2", "transformer.h.0 forward", "transformer.h.0 backward", "optimizer optimizer"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let ran = folder.ok(&["profile", "run.toml", "--steps", "1", "--json"]);
    let profile: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(profile["step_seconds"].as_array().map(Vec::len), Some(1));
    // Two products of queries, keys and values alone are more than nothing.
    let flops =
        profile["parts"].as_array().expect("a list").iter().filter_map(|part| part["flops"].as_f64()).sum::<f64>();
    assert!(flops > 0.0, "{profile}");
}

#[test]
fn derivatives_are_checked_without_data() {
    let folder = Folder::new();
    std::fs::remove_file(folder.path("names.txt")).expect("a file");
    let ran = folder.ok(&["gradcheck", "run.toml"]);
    has(&ran.stdout, &["gpt2 of 1 layers", "transformer.wte.weight", "central difference"]);
    assert!(!ran.stdout.contains("WRONG"), "{}", ran.stdout);
    let ran = folder.ok(&["gradcheck", "run.toml", "--json", "--set", "train.layers=\"scan\""]);
    let checked: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let errors = checked["tensors"].as_array().expect("a list").iter().map(|tensor| tensor["error"].as_f64());
    assert!(errors.clone().count() > 10 && errors.into_iter().all(|error| error.is_some_and(|error| error < 1e-6)));
}

#[test]
fn runs_part_at_a_step_and_a_tensor() {
    let folder = Folder::new();
    let save = ["--set", "train.save_every=2", "--set", "train.keep_last=0"];
    for (out, more) in [("a", &[][..]), ("b", &[]), ("c", &["--set", "optimizer.betas=[0.9,0.999]"])] {
        folder.ok(&[&["train", "run.toml", "--out", out], &save[..], more].concat());
    }
    let ran = folder.ok(&["diff-runs", "a", "b"]);
    has(&ran.stdout, &["the 6 steps of both have the same losses", "the checkpoints of step 6 are equal"]);
    let ran = folder.lmc(&["diff-runs", "a", "c"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    // The first update of Adam does not depend on its decay rates but for rounding, so that the losses of two steps are
    // near; the moments are others from the first.
    has(
        &ran.stdout,
        &[
            "optimizer.betas: [0.9, 0.95] -> [0.9, 0.999]",
            "the training step's graph:",
            "the checkpoints of step 2 differ in",
            "first in `transformer.h.0.",
        ],
    );
    has(&ran.stderr, &["the runs part at step"]);
    let ran = folder.lmc(&["diff-runs", "a", "c", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&found["equal"], &found["tensor"]["step"]), (&false.into(), &2.into()));
    let ran = folder.lmc(&["diff-runs", "a", "nowhere"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["nowhere"]);
}
