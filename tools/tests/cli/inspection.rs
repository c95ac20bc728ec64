//! `check`, `doctor`, `plugin` and the help: what the program tells without training.

use serde_json::Value;

use crate::{Folder, has};

#[test]
fn check_tells_what_would_be_trained() {
    let folder = Folder::new();
    let before = folder.snapshot();
    let json: Value = serde_json::from_str(&folder.ok(&["check", "run.toml", "--json"]).stdout).expect("JSON");
    let vocab_size = json["vocab_size"].as_u64().expect("a size");
    assert_eq!(vocab_size, 21, "20 letters and the end");
    let elements = |parameter: &Value| -> u64 {
        parameter["shape"].as_array().expect("a shape").iter().map(|size| size.as_u64().expect("a size")).product()
    };
    let parameters = json["parameters"].as_array().expect("a list");
    assert_eq!(parameters[0]["path"], "transformer.wte.weight");
    assert_eq!(json["num_parameters"], parameters.iter().map(elements).sum::<u64>());
    assert_eq!(json["tokens_per_step"], 32);
    for key in ["train_tokens", "held_out_tokens", "flops_per_token"] {
        assert!(json[key].as_f64().is_some_and(|number| number > 0.0), "{key}");
    }
    let text = folder.ok(&["check", "run.toml"]).stdout;
    has(&text, &["transformer.wte.weight", "f32[21,8]", "vocabulary 21", "6 steps of 32 tokens"]);
    assert!(folder.snapshot() == before, "a check leaves nothing");
}

#[test]
fn the_machine_is_described() {
    let folder = Folder::new();
    // The plugin may not be there yet.
    let path = folder.ok(&["plugin", "install", "cpu"]).stdout;
    assert_eq!(folder.ok(&["plugin", "path"]).stdout, path);
    has(&folder.ok(&["plugin", "list"]).stdout, &["cpu", path.trim(), "cuda13"]);
    let json: Value = serde_json::from_str(&folder.ok(&["doctor", "--json"]).stdout).expect("JSON");
    assert_eq!((&json["lmc"], &json["platform"]), (&env!("CARGO_PKG_VERSION").into(), &"cpu".into()));
    has(json["plugin"].as_str().expect("a text"), &[path.trim()]);
    assert!(json["gpu"].is_string() && json["cuda_plugin"].is_string(), "{json}");
    has(&folder.ok(&["doctor"]).stdout, &["plugin", path.trim(), "everything is in place"]);

    // A plugin that is not there is the finding, told beside the rest.
    let ran = folder.lmc(&["doctor", "--json", "--plugin", "none.so"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["none.so"]);
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    has(json["problem"].as_str().expect("a text"), &["none.so"]);
}

#[test]
fn every_command_explains_itself() {
    let folder = Folder::new();
    for command in
        ["train", "generate", "eval", "check", "data", "dump", "explain", "inspect", "export", "doctor", "plugin"]
    {
        let help = folder.ok(&[command, "--help"]).stdout;
        has(&help, &["Usage: lmc", "Example", &format!("\n  lmc {command}")]);
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }
    has(&folder.ok(&["--help"]).stdout, &["train", "generate", "doctor"]);
    has(&folder.ok(&["--version"]).stdout, &["lmc ", env!("CARGO_PKG_VERSION")]);
    let ran = folder.lmc(&[]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["Usage: lmc"]);
}
