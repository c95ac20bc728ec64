//! What is wrong is refused with exit code 2 and one message, and nothing is written.

use crate::{Folder, has, safetensors, shard, text};

pub(crate) type Case<'a> = (&'a [&'a str], &'a [&'a str]);

/// Runs the program with each case's arguments, expects exit code 2 and these parts on stderr, and finds the folder as
/// it was.
#[track_caller]
pub(crate) fn check(folder: &Folder, cases: &[Case<'_>]) {
    for (args, expected) in cases {
        let before = folder.snapshot();
        let ran = folder.lmc(args);
        let shown = format!("lmc {}\n{}", args.join(" "), ran.stderr);
        assert_eq!(ran.code, 2, "{shown}");
        assert_eq!(ran.stdout, "", "{shown}");
        for part in *expected {
            assert!(ran.stderr.contains(part), "expected {part:?} of {shown}");
        }
        assert_eq!(ran.stderr.matches("error: ").count(), 1, "one message: {shown}");
        let after = folder.snapshot();
        assert!(before == after, "the folder was changed to {:?}\n{shown}", after.keys());
    }
}

/// `train` with one setting.
macro_rules! set {
    ($setting:expr) => {
        &["train", "run.toml", "--set", $setting]
    };
}

#[test]
fn configs() {
    let folder = Folder::new();
    folder.write("broken.toml", "[model\narch = 1\n");
    folder.write("empty.toml", "");
    folder.write("latin1.toml", b"# caf\xe9\n");
    folder.write("misspelt.toml", crate::CONFIG.replace("n_embd", "n_emdb").replace("micro_batch_size = 4\n", ""));
    let cases: &[Case<'_>] = &[
        (&["train"], &["<CONFIG>", "lmc train"]),
        (&["train", "none.toml"], &["none.toml", "no such file"]),
        (&["train", "."], &["the config . is a folder"]),
        (&["train", "latin1.toml"], &["latin1.toml", "UTF-8"]),
        (&["train", "broken.toml"], &["broken.toml:1:7"]),
        (set!("train.stepz=5"), &["stepz", "steps", "^"]),
        (set!("trian.steps=5"), &["trian", "train"]),
        (set!("optimizer.lr=1"), &["learning_rate"]),
        (set!("train.steps=\"many\""), &["steps", "many", "^^^^^^"]),
        (set!("train.steps=0"), &["steps", "0"]),
        (set!("train.steps=1.5"), &["steps", "1.5"]),
        (set!("train.steps=-3"), &["steps", "-3"]),
        (set!("train.steps=99999999999999999999"), &["steps"]),
        (set!("train"), &["--set", "="]),
        (set!("train.steps="), &["--set 'train.steps='"]),
        (set!("train.steps=[1"), &["--set 'train.steps=[1'"]),
        (set!("optimizer.learning_rate=-1"), &["learning_rate", "-1"]),
        (set!("optimizer.learning_rate=nan"), &["learning_rate", "nan"]),
        (set!("optimizer.betas=[0.9]"), &["betas"]),
        (set!("optimizer.betas=[0.9, 1.0]"), &["betas"]),
        (set!("optimizer.kind=\"sgd\""), &["sgd", "adamw"]),
        (set!("schedule.kind=\"cosin\""), &["cosin", "cosine"]),
        (set!("runtime.device=\"cuda\""), &["runtime.device = \"cuda\" needs an NVIDIA GPU"]),
        (set!("runtime.threads=100000"), &["threads", "8192"]),
        (
            &["train", "run.toml", "--set", "compile.require=[\"flash_attention\"]", "--set", "model.attn_pdrop=0.25"],
            &["flash_attention", "every layer: dropout", "^^^"],
        ),
        (set!("model.arch=\"bert\""), &["bert", "gpt2"]),
        (&["train", "run.toml", "--steps", "x"], &["--steps", "x"]),
        (&["train", "run.toml", "--stepz", "3"], &["--stepz", "--steps"]),
        (&["tarin", "run.toml"], &["tarin", "train"]),
    ];
    check(&folder, cases);
    for (config, parts) in [
        ("empty.toml", &["[model]", "[data]", "[optimizer]", "[train]"][..]),
        ("misspelt.toml", &["misspelt.toml:6:1", "`n_emdb`", "`n_embd`", "`micro_batch_size`"]),
    ] {
        // Problems are told together.
        let ran = folder.lmc(&["train", config]);
        assert_eq!(ran.code, 2);
        has(&ran.stderr, parts);
        assert!(!folder.path("run").exists());
    }
}

#[test]
fn impossible_sizes() {
    let folder = Folder::new();
    let llama = crate::CONFIG.replace("gpt2", "llama").replace(
        "n_layer = 1\nn_head = 2\nn_embd = 8",
        "num_hidden_layers = 1\nnum_attention_heads = 4\nhidden_size = 8\nintermediate_size = 8",
    );
    folder.write("llama.toml", llama);
    let cases: &[Case<'_>] = &[
        (set!("model.n_head=3"), &["`n_embd` 8 is not a multiple of `n_head` 3"]),
        (set!("model.n_head=0"), &["n_head", "0"]),
        (set!("model.n_layer=100000"), &["n_layer", "at most"]),
        (set!("model.n_positions=7"), &["`seq_len` 8", "`n_positions` 7"]),
        (set!("model.vocab_size=3"), &["vocab_size", "3"]),
        (
            &["train", "llama.toml", "--set", "model.num_key_value_heads=3"],
            &["`num_attention_heads` 4 is not a multiple of `num_key_value_heads` 3"],
        ),
        (&["train", "llama.toml", "--set", "model.head_dim=3"], &["a head is 3 wide", "even"]),
        // More than can be counted; then what can be counted and is not there: before a byte is allocated.
        (
            &["train", "run.toml", "--set", "model.n_embd=1000000", "--set", "model.n_layer=100"],
            &["parameters", "2^40"],
        ),
        (set!("model.n_embd=262144"), &["training takes at least 13.2 TB", "are available", "[model]"]),
        (
            set!("train.micro_batch_size=1000000000"),
            &["training takes at least", "the logits of one chunk of a micro-batch"],
        ),
        (set!("train.grad_accum_steps=2000000000"), &["training takes at least", "the tokens of a step"]),
        (&["train", "run.toml", "--set", "train.seq_len=1000000000"], &["seq_len"]),
        (set!("sample.count=1000000000000"), &["sample", "count"]),
        (set!("sample.max_new_tokens=1000000000000"), &["sample", "max_new_tokens"]),
        (set!("sample.prompt=\"Ω\""), &["Ω", "U+03A9"]),
    ];
    check(&folder, cases);
}

#[test]
fn intermediate_results_that_do_not_fit() {
    // Before a device is touched or a folder made.
    let folder = Folder::new();
    let sets = ["train.seq_len=900", "train.micro_batch_size=500000", "train.loss_chunk=1"];
    let args = [&["train", "run.toml"][..], &sets.map(|set| ["--set", set]).concat()].concat();
    let ran = folder.lmc(&args);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    has(
        &ran.stderr,
        &["training takes", "GB", "available", "activations", "in transformer.h.*", "micro_batch_size=500000"],
    );
    assert!(!folder.path("run").exists());
}

#[test]
fn data() {
    let folder = Folder::new();
    folder.write("empty.txt", "");
    folder.write("blank.txt", "\n\n\n");
    folder.write("latin1.txt", b"anna\ncaf\xe9\n");
    folder.write("folder/names.txt", "anna\n");
    folder.write("other.txt", "ANNA\n");
    folder.write("short.bin", shard(&[1, 2, 3], false));
    folder.write("odd.bin", [0; 31]);
    folder.write("cut.bin", &shard(&[1; 50], true)[..1100]);
    folder.write(
        "shards.toml",
        crate::CONFIG
            .replace("tokenizer = \"char\"\ndocuments = \"lines\"\n", "")
            .replace("n_embd", "vocab_size = 9\nn_embd"),
    );
    let cases: &[Case<'_>] = &[
        (set!("data.train=\"none.txt\""), &["none.txt", "no such file"]),
        (set!("data.train=\"*.none\""), &["no file matches", "*.none"]),
        (set!("data.train=[]"), &["data.train", "[]"]),
        (set!("data.train=\"empty.txt\""), &["empty.txt is empty"]),
        (set!("data.train=\"blank.txt\""), &["no characters to make a vocabulary of"]),
        (set!("data.train=\"folder\""), &["is a folder"]),
        (set!("data.train=\"latin1.txt\""), &["latin1.txt", "UTF-8", "line 2"]),
        (set!("data.val=\"none.txt\""), &["val"]),
        (
            &["train", "shards.toml", "--set", "data.train=\"short.bin\""],
            &["has 3 tokens", "too few for one row of `seq_len` 8"],
        ),
        (&["train", "shards.toml", "--set", "data.train=\"odd.bin\""], &["odd.bin"]),
        (&["train", "shards.toml", "--set", "data.train=\"cut.bin\""], &["cut.bin", "50 tokens", "cut short"]),
        (&["train", "shards.toml"], &["names.txt", "looks like text", "tokenizer"]),
        (
            &["train", "run.toml", "--set", "data.train=\"names.txt\"", "--set", "data.tokenizer=\"bpe\""],
            &["bpe", "char"],
        ),
    ];
    check(&folder, cases);

    // A character of the held-out text that the training text has not.
    folder.write("held.toml", crate::CONFIG.replace("val_fraction = 0.2", "val = \"other.txt\""));
    check(&folder, &[(&["train", "held.toml"], &["other.txt, line 1", "'A' (U+0041)"])]);
}

#[test]
fn token_ids_outside_of_the_vocabulary() {
    let folder = Folder::new();
    let mut ids: Vec<u16> = (0..200).map(|i| i % 9).collect();
    ids[123] = 77;
    folder.write("bad.bin", shard(&ids, true));
    folder.write(
        "shards.toml",
        crate::CONFIG
            .replace("names.txt\"\ntokenizer = \"char\"\ndocuments = \"lines\"\nval_fraction = 0.2", "bad.bin\"")
            .replace("n_embd", "vocab_size = 9\nn_embd"),
    );
    // Shards are read as they are needed, so the run has begun; what it keeps is no checkpoint.
    let ran = folder.lmc(&["train", "shards.toml", "--steps", "50"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    has(&ran.stderr, &["bad.bin has id 77 at token 123", "`model.vocab_size` is 9"]);
    assert!(folder.checkpoints("run").is_empty());
}

#[test]
fn weights_to_begin_with() {
    let folder = Folder::new();
    let whole = safetensors(&[("transformer.wte.weight", &[21, 8])]);
    folder.write("truncated.safetensors", &whole[..whole.len() - 7]);
    folder.write("tiny.safetensors", [1, 2, 3]);
    folder.write("text.safetensors", "these are no tensors, but a text that is a little longer");
    folder.write("lacking.safetensors", &whole);
    folder.write("wrong.safetensors", safetensors(&[("transformer.wte.weight", &[3, 8])]));
    folder.write("empty.safetensors", "");
    folder.write("folder/x", "");
    let at = "model.init_from=";
    let cases: Vec<(String, &[&str])> = [
        ("none.safetensors", &["none.safetensors", "no such file"][..]),
        ("folder", &["folder is a folder"]),
        ("empty.safetensors", &["empty.safetensors"]),
        ("tiny.safetensors", &["tiny.safetensors"]),
        ("text.safetensors", &["text.safetensors"]),
        ("truncated.safetensors", &["truncated.safetensors"]),
        ("wrong.safetensors", &["`transformer.wte.weight` is f32[3,8] there, the model needs f32["]),
        ("lacking.safetensors", &["lacking.safetensors does not fit the model: it has no `transformer.wpe.weight`"]),
    ]
    .map(|(file, parts)| (format!("{at}\"{file}\""), parts))
    .into();
    for (setting, parts) in &cases {
        let setting = setting.as_str();
        let parts = [&["--set 'model.init_from"], *parts].concat();
        check(&folder, &[(set!(setting), &parts), (&["check", "run.toml", "--set", setting], &parts)]);
    }
}

#[test]
fn run_folders() {
    let folder = Folder::new();
    folder.write("file", "precious");
    folder.write("mine/config.toml", "precious");
    folder.write("empty/x", "");
    let cases: &[Case<'_>] = &[
        (&["train", "run.toml", "--out", "file"], &["file is a file"]),
        (&["train", "run.toml", "--out", "file", "--fresh"], &["file is a file"]),
        (
            &["train", "run.toml", "--out", "file/below"],
            &["cannot make the run folder", "file/below", "file is not a folder"],
        ),
        (&["train", "run.toml", "--out", "/proc/lmc/run"], &["cannot make the run folder /proc/lmc/run"]),
        (&["train", "run.toml", "--out", "/sys"], &["/sys"]),
        (&["train", "run.toml", "--out", "mine"], &["mine", "config.toml that is not of a run"]),
        (&["generate", "none"], &["none is not there", "config.json", "run folder"]),
        (&["generate", "file"], &["file is a file", "config.json", "run folder"]),
        (&["eval", "empty"], &["empty is not a run folder", "config.toml"]),
        (&["eval", "mine"], &["config.toml"]),
        (&["dump", "run.toml", "--stage", "graph", "-o", "none/graph.txt"], &["cannot write none/graph.txt"]),
        (&["dump", "run.toml", "--stage", "graph", "-o", "empty"], &["cannot write empty"]),
        (&["dump", "run.toml", "--stage", "cake"], &["cake", "stablehlo"]),
        (&["dump", "run.toml"], &["--stage"]),
        (&["dump", "run.toml", "--stage", "report", "--target", "h999"], &["--target", "\"h999\"", "h200"]),
        (&["dump", "run.toml", "--stage", "ptx"], &["--target", "h200"]),
        (&["plugin", "install", "tpu"], &["no plugin `tpu`", "cpu"]),
        (&["plugin", "path", "tpu"], &["no plugin `tpu`", "cpu"]),
    ];
    check(&folder, cases);
}

#[test]
fn plugins() {
    let folder = Folder::new();
    folder.write("text.so", "no library");
    folder.write("folder/x", "");
    let system = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    let library = system.into_iter().find(|path| std::path::Path::new(path).exists());
    let mut cases: Vec<(&str, &[&str])> = vec![
        ("none.so", &["no PJRT plugin at", "none.so"]),
        ("folder", &["folder is a folder"]),
        ("text.so", &["text.so cannot be loaded", "not a shared library"]),
    ];
    cases.extend(library.map(|path| (path, &["not a PJRT plugin"][..])));
    for (plugin, parts) in cases {
        let setting = format!("runtime.plugin={:?}", text(&folder.dir.path().join(plugin)));
        let cases: &[Case<'_>] = &[
            (&["train", "run.toml", "--plugin", plugin], parts),
            (&["train", "run.toml", "--fresh", "--set", &setting], parts),
            (&["dump", "run.toml", "--stage", "optimized", "--plugin", plugin], parts),
        ];
        check(&folder, cases);
    }
}
