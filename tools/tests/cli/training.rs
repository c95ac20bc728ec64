//! `train`: what a run leaves, and how it is continued.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use lmc::config::Config;
use lmc::training::{TrainOptions, train};

use crate::{Folder, Ran, events, has, names, shard};

#[test]
fn an_evaluation_that_an_interruption_left_out_is_made_up_for() {
    let folder = Folder::new();
    let out = format!("train.out_dir={:?}", folder.path("run"));
    let config = Config::read(&folder.path("run.toml"), &[out]).unwrap_or_else(|error| panic!("{error}"));
    let evaluated = || -> Vec<u64> {
        let metrics = folder.metrics("run");
        events(&metrics, "eval").iter().map(|line| line["step"].as_u64().expect("a step")).collect()
    };
    // Evaluations are due after steps 3 and 6.
    let interrupted = TrainOptions { stop_after: Some(3), ..TrainOptions::default() };
    train(&config, &interrupted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(evaluated(), [0; 0]);
    let interrupted = TrainOptions { stop_after: Some(4), ..TrainOptions::default() };
    train(&config, &interrupted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(evaluated(), [3]);
    train(&config, &TrainOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(evaluated(), [3, 6]);
    // It is that of the weights of that step.
    folder.ok(&["train", "run.toml", "--out", "straight"]);
    let losses = |run: &str| -> Vec<f64> {
        events(&folder.metrics(run), "eval").iter().filter_map(|line| line["val_loss"].as_f64()).collect()
    };
    assert_eq!(losses("run"), losses("straight"));
}

#[test]
fn a_run_leaves_samples_metrics_and_a_checkpoint() {
    let folder = Folder::new();
    let ran = folder.ok(&["train", "run.toml"]);
    assert_eq!(ran.stdout.lines().count(), 3, "three samples: {}", ran.stdout);
    has(&ran.stderr, &["parameters", "run folder", "training step: ", "step 6/6  loss ", "held-out loss"]);

    let metrics = folder.metrics("run");
    let kinds: Vec<&str> = metrics.iter().map(|line| line["event"].as_str().expect("a word")).collect();
    let expected = "start train train train eval train train train eval save sample sample sample done";
    assert_eq!(kinds.join(" "), expected);
    let drawn: Vec<_> = events(&metrics, "sample").iter().map(|line| line["text"].as_str().expect("a text")).collect();
    assert_eq!(drawn, ran.stdout.lines().collect::<Vec<_>>(), "what was printed");
    for (line, step) in events(&metrics, "train").into_iter().zip(1..) {
        assert_eq!(line["step"], step);
        for key in ["loss", "grad_norm", "learning_rate", "tokens_per_s", "step_ms", "peak_memory_bytes"] {
            assert!(line[key].as_f64().is_some_and(|number| number > 0.0), "{key} of {line}");
        }
        // The config's rate, rounded to f32.
        assert_eq!(line["learning_rate"], f64::from(1e-2_f32));
    }
    let first = &events(&metrics, "train")[0]["loss"].as_f64().expect("a loss");
    // A uniform guess among the 20 letters and the end costs 3.04 nats; the initial weights are near it.
    assert!((first - 21_f64.ln()).abs() < 0.1, "{first}");
    let start = events(&metrics, "start")[0];
    assert_eq!(start["step"], 0);
    assert_eq!(start["tokens_per_step"], 4 * 8);
    assert_eq!(events(&metrics, "save")[0]["checkpoint"], "checkpoints/step-00000006");
    assert_eq!(folder.checkpoints("run"), [6]);

    // What is complete stays as it is.
    let weights = folder.weights("run", 6);
    let before = folder.snapshot();
    let again = folder.ok(&["train", "run.toml"]);
    has(&again.stderr, &["has all 6 steps", "--steps N", "--fresh"]);
    assert_eq!(again.stdout, ran.stdout, "the same samples");
    assert!(folder.snapshot() == before, "nothing was touched");

    // More steps continue it.
    let more = folder.ok(&["train", "run.toml", "--steps", "8"]);
    has(&more.stderr, &["from step 6", "changed: train.steps: 6 -> 8"]);
    let metrics = folder.metrics("run");
    let steps: Vec<_> = events(&metrics, "train").iter().map(|line| line["step"].as_u64().expect("a step")).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8]);
    let resume = *events(&metrics, "resume").last().expect("it was continued");
    assert_eq!((&resume["step"], &resume["changed"][0]), (&6.into(), &"train.steps: 6 -> 8".into()));
    assert_eq!(folder.checkpoints("run"), [6, 8]);

    // Other settings do not.
    let before = folder.snapshot();
    let other = folder.lmc(&["train", "run.toml", "--set", "optimizer.learning_rate=1e-3"]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    has(&other.stderr, &["optimizer.learning_rate: 0.01 -> 0.001", "--fresh", "--out"]);
    assert!(folder.snapshot() == before, "nothing was touched");

    // A plugin that is wrong does not move the old run out of the way; a fresh run does, and keeps it.
    let wrong = folder.lmc(&["train", "run.toml", "--fresh", "--plugin", "none.so"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(folder.snapshot() == before, "nothing was touched");
    let fresh = folder.ok(&["train", "run.toml", "--fresh"]);
    has(&fresh.stderr, &["the earlier run is now ", "run-1"]);
    assert_eq!((folder.checkpoints("run"), folder.checkpoints("run-1")), (vec![6], vec![6, 8]));
    assert_eq!(folder.weights("run", 6), weights, "the same seed gives the same weights, bit by bit");
    folder.ok(&["train", "run.toml", "--out", "other", "--set", "train.seed=2"]);
    assert_ne!(folder.weights("other", 6), weights, "another seed gives others");
}

#[test]
fn samples_are_drawn_on_the_way() {
    let folder = Folder::new();
    let sets = ["--set", "sample.every=2", "--set", "sample.prompt=[\"ab\", \"\"]", "--set", "sample.count=2"];
    let ran = folder.ok(&[&["train", "run.toml"], &sets[..]].concat());
    assert_eq!(ran.stdout.lines().count(), 4, "two for each prompt: {}", ran.stdout);
    has(&ran.stderr, &["step 2: ab", "step 4: ab"]);
    let metrics = folder.metrics("run");
    let samples: Vec<_> = events(&metrics, "sample").into_iter().map(|s| (&s["step"], &s["prompt"])).collect();
    let at = |step: u64| [(step, "ab"), (step, "ab"), (step, ""), (step, "")];
    let expected: Vec<_> =
        [at(2), at(4), at(6)].concat().into_iter().map(|(step, p)| (step.into(), p.into())).collect();
    assert!(samples.iter().copied().eq(expected.iter().map(|(step, p)| (step, p))), "{samples:?}");
    let texts = |step: u64| -> Vec<&str> {
        let of_step = events(&metrics, "sample").into_iter().filter(|s| s["step"] == step);
        of_step.map(|s| s["text"].as_str().expect("a text")).collect()
    };
    assert!(texts(2).iter().zip(["ab", "ab", "", ""]).all(|(text, prompt)| text.starts_with(prompt)));
    // Drawing changes nothing of the training.
    folder.ok(&["train", "run.toml", "--out", "silent"]);
    assert_eq!(folder.weights("run", 6), folder.weights("silent", 6));
    let none = folder.lmc(&["train", "run.toml", "--fresh", "--set", "sample.prompt=[]"]);
    assert_eq!(none.code, 2);
    has(&none.stderr, &["`prompt` is an empty list"]);
}

#[test]
fn a_checkpoint_can_begin_another_run() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let from = "model.init_from=\"run/checkpoints/step-00000006/model.safetensors\"";
    let ran = folder.ok(&["train", "run.toml", "--out", "tuned", "--set", from]);
    assert_eq!(ran.stdout.lines().count(), 3);
    let loss = |run: &str, at: usize| events(&folder.metrics(run), "train")[at]["loss"].as_f64().expect("a loss");
    assert!(loss("tuned", 0) < loss("run", 0) - 0.02, "it begins where the other ended");
}

#[test]
fn an_interrupted_run_continues_as_if_nothing_had_happened() {
    const STEPS: u64 = 3000;
    let folder = Folder::new();
    let steps = STEPS.to_string();
    let args = ["train", "run.toml", "--steps", &steps, "--set", "train.log_every=1", "--set", "train.eval_every=0"];
    folder.ok(&[&args[..], &["--out", "whole"]].concat());

    let args = [&args[..], &["--out", "parts"]].concat();
    let mut child =
        folder.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map(|line| line.expect("UTF-8"));
    lines.find(|line| line.starts_with("step 5/")).expect("it trains");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", rest.join("\n"));
    has(&rest.join("\n"), &["interrupted: saving", "stopped at step", "the same command continues"]);

    let [step] = folder.checkpoints("parts")[..] else { panic!("one checkpoint") };
    assert!((5..STEPS).contains(&step), "it was stopped on the way, at {step}");
    let metrics = folder.metrics("parts");
    assert_eq!(metrics.last().expect("a line")["event"], "signal");
    assert_eq!(metrics.last().expect("a line")["step"], step);
    has(&folder.read("parts/report.html"), &["class=\"status warn\">stopped", "stopped by a signal, state saved"]);

    has(&folder.ok(&args).stderr, &[&format!("from step {step}")]);
    assert_eq!(folder.checkpoints("parts"), [step, STEPS]);
    assert!(folder.weights("whole", STEPS) == folder.weights("parts", STEPS), "the weights are equal, bit by bit");
    let losses = |run: &str| -> Vec<_> {
        events(&folder.metrics(run), "train").iter().map(|line| (line["step"].clone(), line["loss"].clone())).collect()
    };
    assert!(losses("whole") == losses("parts"), "and so is every loss on the way");
}

#[test]
fn damaged_checkpoints_are_named_and_passed_over() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--set", "train.save_every=2"];
    folder.ok(&args);
    assert_eq!(folder.checkpoints("run"), [2, 4, 6]);
    let weights = folder.weights("run", 6);
    let damage = |step: u64| {
        let name = format!("run/checkpoints/step-{step:08}/model.safetensors");
        let mut bytes = fs::read(folder.path(&name)).expect("it is there");
        *bytes.last_mut().expect("it has bytes") ^= 1;
        folder.write(&name, bytes);
    };
    damage(6);
    let ran = folder.ok(&["generate", "run"]);
    has(&ran.stderr, &["passed over the checkpoint", "step-00000006", "model.safetensors", "SHA-256"]);
    let ran = folder.ok(&args);
    has(&ran.stderr, &["passed over the checkpoint", "step-00000006", "from step 4"]);
    assert!(folder.weights("run", 6) == weights, "done again, with the same result");

    // Where none is whole, nothing is begun over what is there.
    [2, 4, 6].into_iter().for_each(damage);
    let before = folder.snapshot();
    for args in [&args[..], &["generate", "run"], &["eval", "run"]] {
        let ran = folder.lmc(args);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &["step-00000002", "step-00000004", "step-00000006"]);
    }
    assert!(folder.snapshot() == before, "nothing was touched");
    folder.ok(&[&args[..], &["--fresh"]].concat());
}

#[test]
fn what_is_not_finite_ends_the_run_and_is_not_saved() {
    let folder = Folder::new();
    // The first step has a finite loss and leaves weights that are far too large, so the second has none.
    let every_step = ["train", "run.toml", "--set", "train.save_every=1", "--set"];
    let ran = folder.lmc(&[&every_step[..], &["optimizer.learning_rate=1e30"]].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{}", ran.stderr);
    has(&ran.stderr, &["is not finite in step 2", "optimizer.learning_rate"]);
    let metrics = folder.metrics("run");
    assert_eq!(metrics.last().expect("a line")["event"], "nan");
    assert_eq!(metrics.last().expect("a line")["step"], 2);
    assert_eq!(folder.checkpoints("run"), [1], "the last good state is kept");

    // The first step's update is itself beyond f32.
    let ran = folder.lmc(&[&every_step[..], &["optimizer.learning_rate=3e38", "--out", "beyond"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(folder.metrics("beyond").last().expect("a line")["event"], "nan");
    for step in folder.checkpoints("beyond") {
        let path = folder.path(&format!("beyond/checkpoints/step-{step:08}"));
        let saved = lmc::checkpoint::read(&path).expect("it is whole");
        let finite = |(_, tensor): (_, &lmc_graph::Literal)| tensor.elements::<f32>().iter().all(|x| x.is_finite());
        assert!(saved.model.iter().all(finite) && saved.optimizer.iter().all(finite), "step {step}");
    }
}

#[test]
fn readers_that_go_away_are_no_error() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    for args in [&["train", "run.toml"][..], &["generate", "run"], &["dump", "run.toml", "--stage", "grad"]] {
        let mut child =
            folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        drop(child.stdout.take());
        let ran = Ran::new(child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    }
    let mut child = folder
        .command(&["train", "run.toml", "--fresh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(folder.checkpoints("run"), [6], "it trained for nobody to see");
}

#[test]
fn both_forms_of_shards_are_the_same_data() {
    let folder = Folder::new();
    let ids: Vec<u16> = names().bytes().map(|byte| u16::from(byte % 27)).collect();
    folder.write("raw-0.bin", shard(&ids[..150], false));
    folder.write("raw-1.bin", shard(&ids[150..], false));
    folder.write("header.bin", shard(&ids, true));
    let wide: Vec<u8> = ids.iter().flat_map(|&id| u32::from(id).to_le_bytes()).collect();
    folder.write("wide.bin", wide);
    folder.write(
        "shards.toml",
        crate::CONFIG
            .replace("tokenizer = \"char\"\ndocuments = \"lines\"\n", "")
            .replace("names.txt", "header.bin")
            .replace("n_embd", "vocab_size = 27\nn_embd"),
    );
    let mut losses = Vec::new();
    for (out, settings) in [
        ("header", &["data.train=\"header.bin\""][..]),
        ("raw", &["data.train=\"raw-*.bin\""]),
        ("wide", &["data.train=\"wide.bin\"", "data.token_dtype=\"uint32\""]),
    ] {
        let mut args = vec!["train", "shards.toml", "--out", out];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        assert_eq!(folder.ok(&args).stdout, "", "without a tokenizer there is no text");
        let metrics = folder.metrics(out);
        let of = |kind, key: &str| -> Vec<_> { events(&metrics, kind).iter().map(|line| line[key].clone()).collect() };
        losses.push((of("train", "loss"), of("eval", "val_loss")));
    }
    assert_eq!((losses[0].0.len(), losses[0].1.len()), (6, 2));
    assert!(losses.iter().all(|each| *each == losses[0]), "{losses:?}");

    let ran = folder.lmc(&["generate", "raw"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["raw was trained on token shards", "no tokenizer"]);
}

#[test]
fn one_process_trains_in_a_folder() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--steps", "1000000", "--set", "train.log_every=1"];
    let mut child =
        folder.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map(|line| line.expect("UTF-8"));
    lines.find(|line| line.starts_with("step 1/")).expect("it trains");
    let second = folder.lmc(&args);
    child.kill().expect("it is running");
    child.wait().expect("it ends");
    assert_eq!(second.code, 2, "{}", second.stderr);
    has(&second.stderr, &["another process is training in"]);
}

#[test]
#[cfg(target_os = "linux")]
fn threads_are_as_many_as_the_config_says() {
    let folder = Folder::new();
    let count = |threads: &str| {
        let threads = format!("runtime.threads={threads}");
        let mut args = vec!["train", "run.toml", "--fresh", "--steps", "1000000", "--set", "train.log_every=1"];
        args.extend(["--set", &threads]);
        let mut child =
            folder.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        stderr.lines().map_while(Result::ok).find(|line| line.starts_with("step 1/")).expect("it trains");
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("it is running");
        let names = tasks.map(|task| fs::read_to_string(task.expect("it is running").path().join("comm")));
        // XLA's name of the threads that compute. Others, which load programs and wait for them, come as they are needed.
        let computing = names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "tf_XLAEigen")).count();
        child.kill().expect("it is running");
        child.wait().expect("it ends");
        computing
    };
    assert_eq!([count("7"), count("3")], [7, 3]);
}
