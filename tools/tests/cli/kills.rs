//! Processes that are killed at any moment, also while they write a checkpoint.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lmc::checkpoint;

use crate::Folder;
use crate::checkpoints::{checkpoint_path, exact_lines, names_of_checkpoints};

/// The bytes of what decides how a run goes on.
fn state_of(path: &Path) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(path.join(name)).expect("a file"))
}

/// The number of lines of training steps that a run has recorded.
fn lines_recorded(run: &Path) -> usize {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("{\"event\":\"train\"")).count()
}

/// A moment to kill a process at, by what is seen of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// So many steps were recorded since it started.
    Steps(usize),
    /// A checkpoint is being written: the partial folder has this file.
    Partial(&'static str),
    /// An old checkpoint is being removed.
    Pruned,
}

impl Moment {
    fn has_come(self, run: &Path, recorded: usize) -> bool {
        let hidden = |ending: &str, file: &str| {
            let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
            let mut paths = entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(ending));
            paths.any(|path| file.is_empty() || path.join(file).exists())
        };
        match self {
            Moment::Steps(steps) => lines_recorded(run) >= recorded + steps,
            Moment::Partial(file) => hidden(".partial", file),
            Moment::Pruned => hidden(".pruned", ""),
        }
    }

    /// Waits for it; false if the process has ended before.
    pub(crate) fn wait(self, child: &mut Child, run: &Path, recorded: usize) -> bool {
        // Far longer than any step takes, so that a process that hangs fails the test.
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            if child.try_wait().expect("it is a child").is_some() {
                return false;
            }
            if self.has_come(run, recorded) {
                return true;
            }
            assert!(Instant::now() < deadline, "{self:?} does not come");
        }
    }
}

#[test]
fn killed_at_any_moment_a_run_goes_on_as_if_nothing_had_happened() {
    const KILLS: usize = 20;
    const OUT: [&str; 6] = ["parts-0", "parts-1", "parts-2", "parts-3", "parts-4", "parts-5"];
    let folder = Folder::new();
    let settings = ["--steps", "200", "--set", "train.save_every=3", "--set", "train.eval_every=0"];
    let args = |out: &'static str, keep: &'static str| {
        [&["train", "run.toml", "--out", out, "--set", keep][..], &settings].concat()
    };
    folder.ok(&args("whole", "train.keep_last=0"));
    let lines = exact_lines(&folder, "whole");
    assert_eq!(lines.len(), 200);

    // Knuth's MMIX generator, with a seed of its own.
    let mut random = 20_u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let (mut kills, mut during_saves, mut runs) = (0, 0, 0);
    while kills < KILLS {
        // A run that was done before it was killed often enough is followed by another one.
        assert!(runs < OUT.len(), "only {kills} times in {runs} runs of {} steps a moment came", lines.len());
        let out = OUT[runs];
        runs += 1;
        let run = folder.path(out);
        let args = args(out, "train.keep_last=2");
        loop {
            let recorded = folder_steps(&folder, out);
            let mut child =
                folder.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
            let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
            let mut said = String::new();
            // By then the metrics after the checkpoint are cut off.
            while stderr.read_line(&mut said).expect("UTF-8") > 0 && !said.contains("\ntraining step: ") {}
            let moment = match below(6) {
                0 => Moment::Steps(below(4) as usize),
                1 => Moment::Steps(4 + below(6) as usize),
                2 => Moment::Partial("model.safetensors"),
                3 => Moment::Partial("optimizer.safetensors"),
                4 => Moment::Partial("state.json"),
                _ => Moment::Pruned,
            };
            if kills >= KILLS || !moment.wait(&mut child, &run, recorded) {
                stderr.read_to_string(&mut said).expect("UTF-8");
                assert_eq!(child.wait().expect("it ends").code(), Some(0), "{said}");
                break;
            }
            child.kill().expect("it is running");
            child.wait().expect("it ends");
            kills += 1;
            during_saves += usize::from(!matches!(moment, Moment::Steps(_)));
            // Whatever can be loaded is what the undisturbed run had.
            for step in folder.checkpoints(out) {
                let path = checkpoint_path(&folder, out, step);
                assert_eq!(checkpoint::inspect(step, &path).damage, [], "killed at {moment:?}");
                let whole = state_of(&checkpoint_path(&folder, "whole", step));
                assert!(state_of(&path) == whole, "step {step} after being killed at {moment:?}");
            }
        }
        assert!(exact_lines(&folder, out) == lines, "the metrics are those of the undisturbed run");
        let ended = state_of(&checkpoint_path(&folder, out, 200));
        assert!(ended == state_of(&checkpoint_path(&folder, "whole", 200)), "and so is the state, bit by bit");
        let hidden = names_of_checkpoints(&folder, out).into_iter().find(|name| name.starts_with('.'));
        assert_eq!(hidden, None, "nothing is left over");
    }
    println!("{kills} kills, {during_saves} of them while a checkpoint was written or removed, in {runs} runs");
    assert!(during_saves >= KILLS / 3);
}

/// The steps that a run will continue from.
fn folder_steps(folder: &Folder, run: &str) -> usize {
    folder.checkpoints(run).last().map_or(0, |step| *step as usize)
}
