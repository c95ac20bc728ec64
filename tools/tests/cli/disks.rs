//! Disks that are full or read-only, and files that are damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::checkpoints::{checkpoint_path, exact_lines, names_of_checkpoints};
use crate::{Folder, Ran, has};

/// Runs a shell script in the folder, in a mount namespace of its own: what it mounts is gone when it ends. `None` where
/// the system does not allow that.
fn with_mounts(folder: &Folder, script: &str) -> Option<Ran> {
    // As root, or as a user who may be root in a namespace.
    let allowed = |flags: &&str| {
        Command::new("unshare").args([flags, "true"]).output().is_ok_and(|output| output.status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(allowed) else {
        println!("not tested here, for it takes the right to mount: {script}");
        return None;
    };
    Some(shell(folder, Command::new("unshare").args([flags, "sh", "-c", script])))
}

fn shell(folder: &Folder, command: &mut Command) -> Ran {
    let command = command.current_dir(folder.path("")).env_remove("RUST_LOG").stdin(Stdio::null());
    Ran::new(command.env("LMC", env!("CARGO_BIN_EXE_lmc")).output().expect("the shell starts"))
}

/// A model of about 200 kB, whose checkpoints are three times that.
const LARGER: &str = "train run.toml --set model.n_embd=64 --set train.save_every=2";

#[test]
fn a_checkpoint_that_does_not_fit_is_a_warning_until_it_is_the_last() {
    let folder = Folder::new();
    // The first one fits, the others do not, until the filler is gone.
    let script = format!(
        "mkdir run && mount -t tmpfs -o size=3m tmpfs run && head -c 1900000 /dev/zero > run/filler && \
         $LMC {LARGER}; echo code $?; ls -A run/checkpoints; cat run/metrics.jsonl; rm run/filler; \
         $LMC {LARGER}; echo code $?; ls -A run/checkpoints"
    );
    let Some(ran) = with_mounts(&folder, &script) else { return };
    has(
        &ran.stderr,
        &[
            "warning: cannot write the checkpoint run/checkpoints/step-00000004: it takes ",
            " are free: make space",
            "nothing was written; the earlier checkpoints are kept",
            "error: cannot write the checkpoint run/checkpoints/step-00000006",
            "the newest checkpoint is of step 2: the same command continues from there",
            "continuing run from step 2",
        ],
    );
    let lines: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with('{')).collect();
    let first = lines.iter().position(|line| line.starts_with("code ")).expect("it ended");
    assert_eq!(lines[first..first + 2], ["code 1", "step-00000002"], "{lines:?}");
    assert_eq!(lines[lines.len() - 4..], ["code 0", "step-00000002", "step-00000004", "step-00000006"]);
    let events: Vec<Value> = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let told: Vec<&Value> = events.iter().filter(|e| e["event"] == "warning" || e["event"] == "save").collect();
    assert_eq!(told.iter().map(|event| &event["step"]).collect::<Vec<_>>(), [2, 4, 6], "{told:?}");
}

#[test]
fn writing_that_fails_half_way_leaves_nothing() {
    let folder = Folder::new();
    let args: Vec<&str> = LARGER.split(' ').collect();
    // The compile cache is filled by a run without a limit.
    folder.ok(&[&args[..], &["--out", "before"]].concat());
    // No file may have more than 512 blocks of 512 bytes: the weights fit, the optimizer's state does not.
    let script = format!("trap '' XFSZ; ulimit -f 512; exec $LMC {LARGER}");
    let ran = shell(&folder, Command::new("sh").args(["-c", &script]));
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    has(
        &ran.stderr,
        &[
            "warning: cannot write the checkpoint run/checkpoints/step-00000002: file too large",
            "warning: cannot write the checkpoint run/checkpoints/step-00000004: file too large",
            "error: cannot write the checkpoint run/checkpoints/step-00000006: file too large",
            "there is no earlier checkpoint: the same command starts over",
        ],
    );
    assert_eq!(names_of_checkpoints(&folder, "run"), [""; 0], "nothing half done");
    assert_eq!(exact_lines(&folder, "run"), exact_lines(&folder, "before"), "and the run went on");
    folder.ok(&args);
    assert!(folder.weights("run", 6) == folder.weights("before", 6));
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_and_untouched() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let before = folder.snapshot();
    let read_only = "mount --bind run run && mount -o remount,ro,bind run && exec $LMC train run.toml --steps 9";
    if let Some(ran) = with_mounts(&folder, read_only) {
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &["cannot write to the run folder", "read-only"]);
        assert!(folder.snapshot() == before, "nothing was touched");
    }
    // For all but root, who may write anywhere, a folder's mode says the same.
    let run = folder.path("run");
    let mode =
        |mode: u32| fs::set_permissions(run.join(".lock"), fs::Permissions::from_mode(mode)).expect("it is ours");
    mode(0o444);
    if fs::File::options().write(true).open(run.join(".lock")).is_err() {
        let ran = folder.lmc(&["train", "run.toml", "--steps", "9"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &["cannot write to the run folder", "permission denied"]);
        assert!(folder.snapshot() == before, "nothing was touched");
    }
    mode(0o644);
    // Only the checkpoints: training is done before it is noticed, and nothing that was there is harmed.
    let checkpoints = "run/checkpoints";
    let script = format!(
        "mount --bind {checkpoints} {checkpoints} && mount -o remount,ro,bind {checkpoints} && \
         exec $LMC train run.toml --steps 9"
    );
    if let Some(ran) = with_mounts(&folder, &script) {
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        has(&ran.stderr, &["step-00000009: read-only file system", "the newest checkpoint is of step 6"]);
        assert_eq!(folder.checkpoints("run"), [6]);
        folder.ok(&["checkpoint", "verify", "run"]);
    }
    folder.ok(&["train", "run.toml", "--steps", "9"]);
}

#[test]
fn whatever_is_damaged_an_older_checkpoint_is_continued() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--set", "train.save_every=2"];
    folder.ok(&args);
    let path = checkpoint_path(&folder, "run", 6);
    let whole: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&path)
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .map(|p| (p.clone(), fs::read(p).expect("a file")))
        .collect();
    assert_eq!(whole.len(), 6, "weights, optimizer, config.json, config.toml, tokenizer, state");
    let continued = |what: &str, named: &str| {
        let ran = folder.ok(&args);
        has(&ran.stderr, &["passed over the checkpoint", "step-00000006", named, "from step 4"]);
        for (file, content) in &whole {
            let again = fs::read(file).unwrap_or_else(|error| panic!("{what}: {}: {error}", file.display()));
            assert!(again == *content, "{what}: {} is as before", file.display());
        }
    };
    for (file, content) in &whole {
        let name = file.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let mut flipped = content.clone();
        flipped[content.len() / 2] ^= 4;
        fs::write(file, flipped).expect("written");
        continued("a flipped bit", name);
        fs::remove_file(file).expect("removed");
        continued("a deleted file", name);
    }
    fs::remove_dir_all(&path).expect("removed");
    fs::write(&path, "a file where a folder belongs").expect("written");
    continued("a file", "not a directory");
    assert_eq!(names_of_checkpoints(&folder, "run"), [2, 4, 6].map(|step| format!("step-{step:08}")));

    // A file where all checkpoints belong is no run to continue, and nothing to write over.
    fs::remove_dir_all(folder.path("run/checkpoints")).expect("removed");
    folder.write("run/checkpoints", "precious");
    let ran = folder.lmc(&args);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["cannot read the folder of checkpoints", "not a directory"]);
    assert_eq!(folder.read("run/checkpoints"), "precious");
}
