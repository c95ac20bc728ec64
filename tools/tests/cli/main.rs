//! The program as its users meet it: arguments and files in; exit code, stdout, stderr and files out.
//!
//! Every test works in a folder of its own. The plugin is the one in lmc's cache folder, which the program fetches if
//! it is not there.

mod bad_input;
mod browser;
mod checkpoints;
mod data;
mod devtools;
mod disks;
mod gpu_script;
mod inspection;
mod kills;
mod looking_inside;
mod non_finite;
mod optimizers;
mod plan;
mod pretrained;
mod reading;
mod report;
mod serving;
mod tokenizing;
mod training;
mod wasm;
mod web;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The config that tests change by `--set`: two heads, one block, names of a few letters.
const CONFIG: &str = r#"
[model]
arch = "gpt2"
n_layer = 1
n_head = 2
n_embd = 8

[data]
train = "names.txt"
tokenizer = "char"
documents = "lines"
val_fraction = 0.2

[optimizer]
learning_rate = 1e-2

[train]
steps = 6
seq_len = 8
micro_batch_size = 4
eval_every = 3
save_every = 0
out_dir = "run"

[sample]
count = 3
max_new_tokens = 8
"#;

/// A folder with `run.toml` and `names.txt`.
struct Folder {
    dir: tempfile::TempDir,
}

/// What a run of the program did.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Folder {
    fn new() -> Folder {
        let folder = Folder { dir: tempfile::tempdir().expect("a temporary folder") };
        folder.write("run.toml", CONFIG);
        folder.write("names.txt", names());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
        fs::write(path, content).expect("a file is written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program with these arguments, to be run in the folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lmc"));
        command.args(args).current_dir(self.dir.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        // On a machine with a GPU, too, these are tests of the CPU.
        command.env("CUDA_VISIBLE_DEVICES", "");
        command
    }

    fn lmc(&self, args: &[&str]) -> Ran {
        Ran::new(self.command(args).output().expect("the program starts"))
    }

    /// Runs the program, which must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.lmc(args);
        assert_eq!(ran.code, 0, "lmc {}\n{}", args.join(" "), ran.stderr);
        ran
    }

    /// Every file below the folder with its content; folders have none.
    fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder is listed") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path.clone());
                    files.insert(path, None);
                } else {
                    let content = fs::read(&path).expect("a file is read");
                    files.insert(path, Some(content));
                }
            }
        }
        files
    }

    /// The lines of a run's `metrics.jsonl`.
    fn metrics(&self, run: &str) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.read(&format!("{run}/metrics.jsonl")).lines().map(parse).collect()
    }

    /// The steps that a run has checkpoints of.
    fn checkpoints(&self, run: &str) -> Vec<u64> {
        let listed = lmc::checkpoint::list(&self.path(run)).expect("checkpoints are listed");
        listed.into_iter().map(|(step, _)| step).collect()
    }

    /// The bytes of the weights that a run has after `step`.
    fn weights(&self, run: &str, step: u64) -> Vec<u8> {
        let path = self.path(run).join(format!("checkpoints/step-{step:08}/model.safetensors"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

impl Ran {
    fn new(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let ran = Ran {
            code: output.status.code().expect("no signal ended it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        ran
    }
}

/// Asserts that a text has all parts.
#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in\n{text}");
    }
}

/// The events of this kind.
fn events<'a>(metrics: &'a [Value], kind: &str) -> Vec<&'a Value> {
    metrics.iter().filter(|line| line["event"] == kind).collect()
}

/// 100 names of two to seven letters, always the same.
fn names() -> String {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        // Knuth's MMIX generator; its high bits are random enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..100)
        .map(|_| {
            let length = 2 + random(6);
            let name: String = (0..length).map(|_| char::from(b'a' + random(20) as u8)).collect();
            name + "\n"
        })
        .collect()
}

/// Token ids as a shard of two bytes each, with or without the header of 256 words.
fn shard(ids: &[u16], header: bool) -> Vec<u8> {
    let words = [20_240_520, 1, ids.len() as i32].into_iter().chain(std::iter::repeat(0)).take(256);
    let header: Vec<u8> = if header { words.flat_map(i32::to_le_bytes).collect() } else { Vec::new() };
    header.into_iter().chain(ids.iter().flat_map(|id| id.to_le_bytes())).collect()
}

/// A safetensors file of zeros with these names and shapes.
fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; end]].concat()
}

/// The path of something that a test refers to, as an argument.
fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
