//! `checkpoint`, `verify-resume`, what a run keeps, and what it may be continued with.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use lmc::checkpoint::{self, Checkpoint};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kills::Moment;
use crate::{CONFIG, Folder, events, has, shard, text};

/// What train events tell that the clock does not decide.
pub(crate) fn exact_lines(folder: &Folder, run: &str) -> Vec<[Value; 4]> {
    let keys = ["step", "loss", "grad_norm", "learning_rate"];
    events(&folder.metrics(run), "train").iter().map(|line| keys.map(|key| line[key].clone())).collect()
}

/// The folder of a run's checkpoint.
pub(crate) fn checkpoint_path(folder: &Folder, run: &str, step: u64) -> PathBuf {
    folder.path(run).join(format!("checkpoints/step-{step:08}"))
}

/// Names in the folder of checkpoints, hidden ones included.
pub(crate) fn names_of_checkpoints(folder: &Folder, run: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.path(run).join("checkpoints")).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let folder = Folder::new();
    let args = ["train", "run.toml", "--set", "train.save_every=2", "--out"];
    folder.ok(&[&args[..], &["a"]].concat());
    folder.ok(&[&args[..], &["b"]].concat());
    let diff = folder.ok(&["checkpoint", "diff", "a", "b"]);
    assert!(diff.stdout.lines().skip(1).all(|line| line.ends_with("  equal")), "{}", diff.stdout);
    assert!(diff.stdout.lines().any(|line| line.starts_with("adam.v.")), "the optimizer is compared: {}", diff.stdout);
    let lines = exact_lines(&folder, "a");
    assert_eq!(lines.len(), 6);
    assert_eq!(lines, exact_lines(&folder, "b"));
    let saves = folder.metrics("a");
    let saves = events(&saves, "save");
    assert_eq!(saves.iter().map(|line| line["step"].as_u64().expect("a step")).collect::<Vec<_>>(), [2, 4, 6]);
    for save in saves {
        let seconds = |key: &str| save[key].as_f64().expect("seconds");
        assert!(seconds("blocked_seconds") > 0.0 && seconds("blocked_seconds") <= seconds("seconds"), "{save}");
    }
}

/// A weight is updated where it lies, so no product may have kept a copy of it: here the head's, which is read forward and
/// backward and is large enough for a library to pack.
#[test]
fn steps_see_the_weights_of_the_step_before() {
    let folder = Folder::new();
    let ids: Vec<u16> = (0..5000_u32).map(|i| (i * i % 997) as u16).collect();
    folder.write("shard.bin", shard(&ids, false));
    let config = "[model]\narch = \"llama\"\nvocab_size = 1000\nhidden_size = 64\nnum_hidden_layers = 1\n\
        num_attention_heads = 4\nintermediate_size = 128\n[data]\ntrain = \"shard.bin\"\n[optimizer]\n\
        learning_rate = 2e-3\n[train]\nsteps = 4\nseq_len = 64\nmicro_batch_size = 8\neval_every = 0\n";
    for head in ["model.tie_word_embeddings=false", "model.tie_word_embeddings=true"] {
        folder.write("head.toml", config);
        let ran = folder.ok(&["verify-resume", "head.toml", "--steps", "4", "--set", head]);
        has(&ran.stdout, &["4 of 4"]);
    }
}

#[test]
fn resuming_is_verified() {
    let folder = Folder::new();
    let before = folder.snapshot();
    let ran = folder.ok(&["verify-resume", "run.toml", "--steps", "5", "--set", "schedule.kind=cosine"]);
    let rows: Vec<Vec<&str>> = ran.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["1", "2", "4"]);
    for row in rows {
        assert_eq!(row[1], "5");
        assert_eq!((row[2], &row[5..]), (row[4], &["5", "of", "5"][..]), "{}", ran.stdout);
    }
    let ran = folder.ok(&["verify-resume", "run.toml", "--json", "--set", "train.precision=bfloat16"]);
    let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(
        (&found["exact"], &found["steps"], found["runs"].as_array().map(Vec::len)),
        (&json!(true), &json!(6), Some(3))
    );
    assert_eq!(found["runs"][2]["interrupted_at"], 5);
    assert!(found["runs"][0]["tensors"].as_u64() > Some(10));
    for steps in ["1", "7"] {
        let ran = folder.lmc(&["verify-resume", "run.toml", "--steps", steps]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &["--steps", "2 to 6 steps"]);
    }
    assert!(folder.snapshot() == before, "nothing is left here");
}

#[test]
fn checkpoints_are_listed_verified_compared_and_pruned() {
    let folder = Folder::new();
    let keep_all = ["--set", "train.save_every=1", "--set", "train.keep_last=0"];
    folder.ok(&[&["train", "run.toml"][..], &keep_all].concat());
    assert_eq!(folder.checkpoints("run"), [1, 2, 3, 4, 5, 6]);

    folder.ok(&["checkpoint", "verify", "run"]);
    let file = checkpoint_path(&folder, "run", 5).join("optimizer.safetensors");
    let mut bytes = fs::read(&file).expect("it is there");
    *bytes.last_mut().expect("bytes") ^= 0x40;
    fs::write(&file, bytes).expect("written");
    let damaged_tensor = "adam.v.transformer.wte.weight";
    for path in ["run", "run/checkpoints/step-00000005"] {
        let ran = folder.lmc(&["checkpoint", "verify", path]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        has(&ran.stdout, &["step-00000005: damaged\n", "optimizer.safetensors: its SHA-256", damaged_tensor]);
        has(&ran.stderr, &["1 of ", "checkpoints are damaged"]);
    }
    let ran = folder.lmc(&["checkpoint", "verify", "run", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&found[4]["whole"], &found[3]["whole"]), (&json!(false), &json!(true)));
    assert_eq!(found[4]["damage"][0]["tensors"], json!([damaged_tensor]));

    // Evaluated after steps 3 and 6; 1, 2 and so on were not.
    let list: Value = serde_json::from_str(&folder.ok(&["checkpoint", "list", "run", "--json"]).stdout).expect("JSON");
    let of =
        |key: &str| -> Vec<Value> { list.as_array().expect("a list").iter().map(|row| row[key].clone()).collect() };
    assert_eq!(of("step"), [1, 2, 3, 4, 5, 6].map(Value::from));
    assert_eq!(
        of("val_loss").iter().map(Value::is_number).collect::<Vec<_>>(),
        [false, false, true, false, false, true]
    );
    assert_eq!(list[4]["kept"], json!(["damaged"]));
    assert_eq!(list[5]["kept"], json!(["last", "best"]), "the loss falls");
    let table = folder.ok(&["checkpoint", "list", "run"]).stdout;
    has(&table, &["held-out loss", "whole", "last, best", "damaged  optimizer.safetensors: its SHA-256"]);

    let ran = folder.lmc(&["checkpoint", "diff", "run/checkpoints/step-00000003", "run", "--json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&found["steps"], &found["equal"]), (&json!([3, 6]), &json!(false)));
    let tensor = &found["tensors"][0];
    assert!(tensor["max_abs"].as_f64() > Some(0.0) && tensor["count"].as_u64() > Some(0), "{tensor}");
    folder.ok(&["checkpoint", "diff", "run", "run"]);
    let ran = folder.lmc(&["checkpoint", "diff", "run", "run/checkpoints/step-00000005"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["step-00000005 is not a whole checkpoint", damaged_tensor]);

    let before = folder.snapshot();
    let ran = folder.ok(&["checkpoint", "prune", "run", "--keep-last", "2", "--keep-every", "3", "--dry-run"]);
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout);
    has(&ran.stdout, &["would remove run/checkpoints/step-00000001\n", "step-00000002\n"]);
    assert!(folder.snapshot() == before, "nothing was touched");
    folder.ok(&["checkpoint", "prune", "run", "--keep-last", "2", "--keep-every", "3"]);
    // Of 4, 5 and 6 the damaged 5 does not count, and stays.
    assert_eq!(names_of_checkpoints(&folder, "run"), [3, 4, 5, 6].map(|step| format!("step-{step:08}")));
    assert_eq!(folder.ok(&["checkpoint", "prune", "run"]).stdout, "", "the run's settings keep all");

    for (path, expected) in [("none", "none has no checkpoints"), ("names.txt", "not a directory")] {
        let ran = folder.lmc(&["checkpoint", "list", path]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &[expected]);
    }
}

#[test]
fn a_run_keeps_what_its_settings_say() {
    let folder = Folder::new();
    let set = |key: &str| ["--set".to_owned(), key.to_owned()];
    let args: Vec<String> = ["train", "run.toml", "--steps", "12"].map(str::to_owned).to_vec();
    let settings = ["train.save_every=1", "train.eval_every=4", "train.keep_last=2", "train.keep_every=5"];
    let args: Vec<String> = args.into_iter().chain(settings.into_iter().flat_map(set)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    folder.ok(&args);
    // 12 is the best as well as the last.
    assert_eq!(names_of_checkpoints(&folder, "run"), [5, 10, 11, 12].map(|step| format!("step-{step:08}")));
    // What is learnt of a's makes b's ever less likely, so an early one is the best, and stays when it is old.
    folder.write("a.txt", "aaaaaa\n".repeat(50));
    folder.write("b.txt", "bbbbbb\n".repeat(50));
    let data = "train = \"a.txt\"\nval = \"b.txt\"\ntokenizer = \"byte\"";
    let config = CONFIG.replace("train = \"names.txt\"\ntokenizer = \"char\"", data).replace("val_fraction = 0.2", "");
    folder.write("run.toml", config);
    folder.ok(&[&args[..], &["--out", "rising"]].concat());
    assert_eq!(folder.checkpoints("rising"), [4, 5, 10, 11, 12]);
}

/// Changes a saved checkpoint, as another version of lmc might have saved it.
fn change(folder: &Folder, step: u64, change: impl Fn(&mut Checkpoint)) {
    let mut saved = checkpoint::read(&checkpoint_path(folder, "run", step)).expect("it is whole");
    change(&mut saved);
    checkpoint::save(&folder.path("run"), &saved).expect("saved");
}

#[test]
fn what_makes_it_another_run_is_refused_with_the_difference() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let nine = ["train", "run.toml", "--steps", "9"];
    let refused = |args: &[&str], parts: &[&str]| {
        let before = folder.snapshot();
        let ran = folder.lmc(args);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, parts);
        has(&ran.stderr, &["the run in run was started with", "--fresh"]);
        assert!(folder.snapshot() == before, "nothing was touched");
    };
    let sizes = [&nine[..], &["--set", "model.n_embd=16", "--set", "data.order=sequential"]].concat();
    refused(&sizes, &["data.order: \"shuffle\" -> \"sequential\"", "model.n_embd: 8 -> 16"]);

    let whole = checkpoint::read(&checkpoint_path(&folder, "run", 6)).expect("it is whole");
    // Another version of lmc, whose graph is still in the run folder.
    let graph = folder.read("run/graph.lmir");
    let other = graph.replacen("multiply", "divide", 1);
    assert_ne!(graph, other);
    folder.write("run/graph.lmir", &other);
    change(&folder, 6, |saved| saved.graph_hash = Some(checkpoint::text_hash(&other)));
    refused(&nine, &["another version of lmc", "\n  line ", "divide", "\n  now: ", "multiply", "--accept-graph"]);
    // And where it is not.
    folder.write("run/graph.lmir", "");
    refused(&nine, &["graph: SHA-256 ", " -> ", "--accept-graph"]);
    change(&folder, 6, |saved| saved.tokenizer_hash = Some("abc".to_owned()));
    refused(&nine, &["another tokenizer", "tokenizer: SHA-256 abc -> SHA-256 "]);
    change(&folder, 6, |saved| saved.tokenizer_hash.clone_from(&whole.tokenizer_hash));
    let ran = folder.ok(&[&nine[..], &["--accept-graph"]].concat());
    has(&ran.stderr, &["changed: train.steps: 6 -> 9", "changed: the training step's graph", "from step 6"]);
    assert!(folder.read("run/graph.lmir").contains("multiply"));
}

#[test]
fn settings_that_may_change_may_be_part_of_the_graph() {
    let folder = Folder::new();
    let cosine = ["train", "run.toml", "--set", "schedule.kind=cosine"];
    folder.ok(&cosine);
    // A process that ended before its first checkpoint has left its settings, and no checkpoint with them.
    let mut child = folder
        .command(&[&cosine[..], &["--steps", "1000000", "--set", "train.log_every=1"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    assert!(Moment::Steps(1).wait(&mut child, &folder.path("run"), 6));
    child.kill().expect("it is running");
    child.wait().expect("it ends");
    let ran = folder.ok(&[&cosine[..], &["--steps", "9", "--set", "train.remat=layer"]].concat());
    has(
        &ran.stderr,
        &[
            "changed: train.remat: \"none\" -> \"layer\"",
            "changed: train.steps: 6 -> 9",
            // After 6 of 6 steps it is zero, and a quarter of the peak after 6 of 9.
            "changed: the learning rate of step 7: 0e0 -> 2.5",
            "from step 6",
        ],
    );
}

#[test]
fn a_checkpoint_of_format_1_is_continued() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml", "--out", "whole", "--steps", "9"]);
    folder.ok(&["train", "run.toml"]);
    let path = checkpoint_path(&folder, "run", 6);
    let mut state: Value = serde_json::from_slice(&fs::read(path.join("state.json")).expect("a file")).expect("JSON");
    let map = state.as_object_mut().expect("an object");
    map["format"] = 1.into();
    for key in ["graph_hash", "tokenizer_hash", "rows", "learning_rate", "val_loss"] {
        assert!(map.shift_remove(key).is_some(), "{key}");
    }
    let files = map["files"].as_object_mut().expect("an object");
    files.shift_remove("config.toml").expect("it is listed");
    files.values_mut().for_each(|record| _ = record.as_object_mut().expect("an object").shift_remove("tensors"));
    state["sha256"] = Value::Null;
    let hash: String = Sha256::digest(state.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
    state["sha256"] = hash.into();
    fs::write(path.join("state.json"), format!("{state:#}\n")).expect("written");
    fs::remove_file(path.join("config.toml")).expect("removed");

    let other = folder.lmc(&["train", "run.toml", "--steps", "9", "--set", "train.seed=1"]);
    has(&other.stderr, &["train.seed: 1337 -> 1"]);
    has(&folder.ok(&["train", "run.toml", "--steps", "9"]).stderr, &["changed: train.steps: 6 -> 9", "from step 6"]);
    assert!(folder.weights("run", 9) == folder.weights("whole", 9));
}

#[test]
fn an_export_is_a_folder_for_transformers() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    let ran = folder.ok(&["checkpoint", "export", "run", "out/names", "--dtype", "bfloat16"]);
    has(&ran.stderr, &["step 6 is in out/names"]);
    let json =
        |name: &str| -> Value { serde_json::from_str(&folder.read(&format!("out/names/{name}"))).expect("JSON") };
    let config = json("config.json");
    assert_eq!((&config["torch_dtype"], &config["eos_token_id"]), (&json!("bfloat16"), &json!(20)));
    assert_eq!(json("generation_config.json")["bos_token_id"], 20);
    assert_eq!(json("tokenizer_config.json")["eos_token"], "<|endoftext|>");
    assert_eq!(json("tokenizer_config.json")["model_max_length"], 8);
    assert_eq!(json("tokenizer.json")["model"]["vocab"]["b"], 1);
    let saved =
        checkpoint::read_safetensors(&checkpoint_path(&folder, "run", 6).join("model.safetensors")).expect("whole");
    let exported = checkpoint::load_safetensors(&folder.path("out/names/model.safetensors")).expect("whole");
    assert!(exported.keys().eq(saved.keys()));
    for (name, tensor) in &exported {
        for (found, exact) in tensor.elements::<f32>().into_iter().zip(saved[name].elements::<f32>()) {
            // bf16 has 8 bits, so it is half of 2^-7 off at most.
            assert!((found - exact).abs() <= exact.abs() / 256.0, "{name}: {found} for {exact}");
        }
    }
    let before = folder.snapshot();
    for (args, expected) in [
        (&["run", "out/names"][..], "is there and not an empty folder"),
        (&["run", "names.txt"], "is there and not an empty folder"),
        (&["run", "names.txt/below"], "cannot export to"),
        (&["none", "new"], "none has no whole checkpoint"),
    ] {
        let ran = folder.lmc(&[&["checkpoint", "export"][..], args].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &[expected]);
    }
    folder.ok(&["train", "run.toml", "--out", "plain", "--set", "model.final_norm=false"]);
    let ran = folder.lmc(&["checkpoint", "export", text(&folder.path("plain")), "new"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["no architecture of transformers is this model"]);
    assert!(!folder.path("new").exists());
    fs::remove_dir_all(folder.path("plain")).expect("removed");
    assert!(folder.snapshot() == before, "nothing is left of what failed");
}
