//! `report`, and what a run leaves to be seen: the page, the plot, TensorBoard's events, the account of its time.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::browser::{browse, chromium};
use crate::{Folder, events, has};

/// The event files of a run.
fn event_files(folder: &Folder, run: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder.path(run)).expect("the run folder is listed").map(|entry| entry.expect("an entry"));
    let name = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tfevents."));
    entries.map(|entry| entry.path()).filter(name).collect()
}

#[test]
fn a_run_leaves_a_report() {
    let folder = Folder::new();
    let ran = folder.ok(&["train", "run.toml", "--set", "runtime.peak_tflops=0.001"]);
    has(&ran.stderr, &[" in all: ", "report.html", "MFU "]);
    let page = folder.read("run/report.html");
    has(
        &page,
        &[
            "<title>run · lmc</title>",
            "class=\"line c0\" d=\"M",
            "held-out loss",
            "Model FLOPs utilization",
            "After step 6",
            "n_embd = 8",
            "saved checkpoints/step-00000006",
            "Every product and attention",
            "<td>backward</td>",
            "lmc train run.toml",
            "data wait",
        ],
    );
    for forbidden in ["http://", "https://", "src=", "@import"] {
        let rest = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains(forbidden), "the page is complete in itself, but has {forbidden}");
    }
    has(&folder.read("run/loss.svg"), &["<svg xmlns=\"http://www.w3.org/2000/svg\"", "prefers-color-scheme"]);
    assert_eq!(event_files(&folder, "run").len(), 1);

    let metrics = folder.metrics("run");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let start = events(&metrics, "start")[0];
    let utilization = number(&start["flops_per_token"]) / number(&start["peak_flops"]);
    assert_eq!(start["peak_flops"], 1e9);
    for line in events(&metrics, "train") {
        let expected = number(&line["tokens_per_s"]) * utilization;
        assert!((number(&line["mfu"]) / expected - 1.0).abs() < 1e-9, "{line}");
    }
    // The parts of the time make up the whole.
    let time = &events(&metrics, "done")[0]["time"];
    let parts =
        ["compile", "data", "step", "evaluation", "checkpoint", "samples", "other"].map(|part| number(&time[part]));
    let total = number(&time["total"]);
    assert!((parts.iter().sum::<f64>() - total).abs() < 1e-6 * total.max(1.0), "{time}");
    assert!(parts.iter().all(|&part| part > 0.0), "each of them took some: {time}");

    // Continued, it tells of both processes.
    folder.ok(&["train", "run.toml", "--steps", "8", "--set", "runtime.peak_tflops=0.001"]);
    let metrics = folder.metrics("run");
    assert_eq!(number(&events(&metrics, "resume")[0]["time_before"]["total"]), total);
    has(
        &folder.read("run/report.html"),
        &["continued; changed: train.steps: 6 -&gt; 8", "2, the last one from step 6"],
    );
    assert_eq!(event_files(&folder, "run").len(), 2, "TensorBoard's events go on in a file of their own");

    // No events where none are wanted, and no utilization of a device whose peak is not known.
    folder.ok(&["train", "run.toml", "--out", "other", "--set", "train.tensorboard=false"]);
    assert_eq!(event_files(&folder, "other").len(), 0);
    assert!(events(&folder.metrics("other"), "train").iter().all(|line| line["mfu"].is_null()));
    has(&folder.read("other/report.html"), &["unknown device “cpu”"]);
}

#[test]
fn a_failed_run_has_a_report() {
    let folder = Folder::new();
    let ran = folder.lmc(&["train", "run.toml", "--set", "optimizer.learning_rate=1e30"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    has(&folder.read("run/report.html"), &["not finite", "is not finite in step 2"]);

    // A checkpoint cannot be written where its folder is a link to nowhere.
    fs::create_dir(folder.path("blocked")).expect("a folder is made");
    std::os::unix::fs::symlink("/nowhere/at/all", folder.path("blocked/checkpoints")).expect("a link is made");
    let ran = folder.lmc(&["train", "run.toml", "--out", "blocked"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let metrics = folder.metrics("blocked");
    let last = metrics.last().expect("a line");
    assert_eq!((&last["event"], &last["step"]), (&"failed".into(), &6.into()));
    has(
        &folder.read("blocked/report.html"),
        &["class=\"status bad\">failed", "cannot write", "class=\"line c0\" d=\"M"],
    );
}

#[test]
fn reports_are_made_and_compared() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml", "--out", "a"]);
    folder.ok(&["train", "run.toml", "--out", "b", "--set", "optimizer.learning_rate=1e-3"]);
    let before = folder.read("a/report.html");
    fs::remove_file(folder.path("a/report.html")).expect("it was there");
    let ran = folder.ok(&["report", "a"]);
    assert_eq!(ran.stdout.trim_end(), "a/report.html");
    assert_eq!(folder.read("a/report.html"), before, "the page that the run itself made");

    let ran = folder.ok(&["report", "a", "b"]);
    assert_eq!(ran.stdout.trim_end(), "comparison.html");
    let page = folder.read("comparison.html");
    has(&page, &["2 runs", "against tokens", "against time", "Settings that differ", "optimizer.learning_rate"]);
    assert!(!page.contains("<code>train.steps</code>"), "what is the same is not listed");
    folder.ok(&["report", "a", "-o", "page.html"]);
    assert!(folder.path("page.html").exists());

    let snapshot = folder.snapshot();
    let ran = folder.ok(&["report", "a", "b", "--json"]);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.iter().map(|line| &line["run"]).collect::<Vec<_>>(), ["a", "b"]);
    let last = |run: &str| events(&folder.metrics(run), "train").last().expect("a step")["loss"].clone();
    for (line, run) in lines.iter().zip(["a", "b"]) {
        assert_eq!((&line["status"], &line["step"], &line["tokens"]), (&"done".into(), &6.into(), &(6 * 4 * 8).into()));
        assert_eq!(line["loss"], last(run));
    }
    assert!(folder.snapshot() == snapshot, "nothing was written");
}

#[test]
fn a_report_of_what_is_left_of_a_run() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml", "--out", "run"]);
    let metrics = folder.read("run/metrics.jsonl");
    let four: String = metrics.split_inclusive('\n').take(4).collect();
    // Cut off in the middle of a line, with things of another version between.
    folder.write("run/metrics.jsonl", format!("{four}{{\"event\":\"new\",\"what\":[]}}\n{{\"event\":\"train\",\"ste"));
    fs::remove_file(folder.path("run/lowering.json")).expect("it was there");
    folder.ok(&["report", "run"]);
    has(&folder.read("run/report.html"), &["unfinished", "class=\"line c0\" d=\"M"]);
    let json: Value = serde_json::from_str(&folder.ok(&["report", "run", "--json"]).stdout).expect("JSON");
    assert_eq!((&json["status"], &json["step"]), (&"unfinished".into(), &3.into()));
    // Before the first step there is nothing to plot, and still a page.
    folder.write("run/metrics.jsonl", "");
    folder.ok(&["report", "run"]);
    has(&folder.read("run/report.html"), &["There are no numbers yet."]);
}

#[test]
fn what_is_no_run_has_no_report() {
    let folder = Folder::new();
    fs::create_dir(folder.path("empty")).expect("a folder is made");
    for (args, parts) in [
        (&["report", "none"][..], &["none is not a run folder", "no such folder"][..]),
        (&["report", "empty"], &["empty is not a run folder", "config.toml"]),
        (&["report", "run.toml"], &["run.toml is not a run folder", "it is a file"]),
        (&["report", "empty", "none", "--json"], &["is not a run folder"]),
        (&["report"], &["<RUN>"]),
    ] {
        let ran = folder.lmc(args);
        assert_eq!((ran.code, &*ran.stdout), (2, ""), "{args:?}: {}", ran.stderr);
        has(&ran.stderr, parts);
    }
    folder.ok(&["train", "run.toml"]);
    let ran = folder.lmc(&["report", "run", "-o", "no/such/folder.html"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["cannot write the report no/such/folder.html"]);
}

#[test]
fn a_browser_shows_the_report() {
    let Some(chromium) = chromium("a_browser_shows_the_report") else { return };
    let folder = Folder::new();
    folder.ok(&["train", "run.toml", "--out", "a"]);
    folder.ok(&["train", "run.toml", "--out", "b", "--steps", "70"]);
    folder.ok(&["report", "a", "b"]);
    // A page with an error, to see that errors are seen.
    folder.write("wrong.html", "<script>nowhere()</script>");
    let (_, console) = browse(&chromium, &folder.path("wrong.html"));
    has(&console, &["nowhere is not defined"]);
    for (page, plots) in [("a/report.html", 8), ("b/report.html", 8), ("comparison.html", 12)] {
        let (document, console) = browse(&chromium, &folder.path(page));
        assert_eq!(console, "", "{page}");
        assert!(document.matches("<svg").count() >= plots, "{page}: {}", document.matches("<svg").count());
        let curves = document.matches("class=\"line c").count();
        let drawn = document.split("class=\"line c").skip(1).filter(|rest| rest[1..].starts_with("\" d=\"M")).count();
        assert!(curves >= plots && drawn == curves, "{page}: {drawn} of {curves} curves are drawn");
        // Made by the script, for the values under the pointer.
        let tips = document.matches("class=\"tip\"").count();
        assert_eq!(tips, document.matches("<figure>").count(), "{page}: the script ran to its end");
    }
    let (document, console) = browse(&chromium, &folder.path("a/loss.svg"));
    assert_eq!(console, "");
    has(&document, &["class=\"line c0\""]);
}
