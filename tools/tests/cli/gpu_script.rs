//! The script that checks and measures lmc on a GPU, `tests/gpu/check.py`, as far as it runs without one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, has};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/gpu/check.py")
}

fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new("python3");
    command.arg(script()).args(["--lmc", env!("CARGO_BIN_EXE_lmc")]).args(arguments).env("CUDA_VISIBLE_DEVICES", "");
    Ran::new(command.output().expect("python3 runs"))
}

#[test]
fn without_a_gpu_it_says_what_is_missing() {
    let ran = run(&[]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    has(&ran.stdout, &["WRONG: lmc would run on cpu", "gpu: none", "1 wrong"]);
    // What there is no time for is said, and is not wrong.
    let ran = run(&["--minutes", "0.1"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    has(
        &ran.stdout,
        &["left out: no time", "left out: no --peer", "100M, micro-batch 32", "1B, micro-batch 1", "0 wrong"],
    );
    let ran = run(&["--peer", "/no/python"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["--peer /no/python: there is no such program"]);
}

#[test]
fn its_stages_run_on_the_cpu() {
    // In place of nvidia-smi, a program that says the same of the GPU ten times a second.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let smi = folder.path().join("nvidia-smi");
    fs::write(&smi, "#!/bin/sh\nwhile true; do echo 87; sleep 0.1; done\n").expect("a file is written");
    fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).expect("it may be run");
    let ran = run(&["--device", "cpu", "--preset", "tiny", "--nvidia-smi", smi.to_str().expect("a path of text")]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    has(
        &ran.stdout,
        &[
            "packed documents",
            "tiny, micro-batch 4, lmc",
            "compiled",
            "tiny, micro-batch 2, again",
            "% of",
            "bit for bit",
            "exact",
            "0 wrong",
        ],
    );
    assert!(!ran.stdout.contains("no time"), "{}", ran.stdout);
}
