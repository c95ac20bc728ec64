//! Configs as data: text in, settings or the message out.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A config that holds, to break one thing at a time with `--set`.
const NAMES: &str = r#"
[model]
arch = "gpt2"
n_embd = 64
n_layer = 4
n_head = 4

[data]
train = "names.txt"
tokenizer = "char"
documents = "lines"

[optimizer]
learning_rate = 1e-3

[train]
steps = 100
seq_len = 16
micro_batch_size = 32
"#;

const LLAMA: &str = r#"
[model]
arch = "llama"
vocab_size = 4096
hidden_size = 384
num_hidden_layers = 6
num_attention_heads = 6
num_key_value_heads = 2
head_dim = 64
intermediate_size = 1024
rope_theta = 10000.0
rms_norm_eps = 1e-05
tie_word_embeddings = true
init_from = "/tmp/init.safetensors"

[data]
train = "/tmp/shard.bin"
order = "sequential"

[optimizer]
kind = "adamw"
learning_rate = 0.001
betas = [0.9, 0.95]
eps = 1e-08
weight_decay = 0.1
grad_clip_norm = 1.0

[schedule]
kind = "wsd"
warmup_steps = 10
decay_fraction = 0.0

[train]
steps = 10
seq_len = 512
micro_batch_size = 4
grad_accum_steps = 2
precision = "float32"
out_dir = "/tmp/lmc-out"
save_every = 0
eval_every = 0
seed = 1337

[runtime]
device = "cpu"
"#;

fn parse(text: &str, sets: &[&str]) -> Result<Config> {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    RawConfig::parse(Path::new("run.toml"), text, &sets)?.validate()
}

/// The message of a broken config contains every expected part.
#[track_caller]
fn check_error(text: &str, sets: &[&str], expected: &[&str]) {
    let error = parse(text, sets).expect_err("the config should be refused");
    assert_eq!(error.exit_code(), 2);
    for part in expected {
        assert!(error.message().contains(part), "expected {part:?} in\n{error}");
    }
}

#[test]
fn a_matched_run_is_accepted_as_written() {
    let config = parse(LLAMA, &[]).unwrap();
    assert_eq!(config.data.order, Order::Sequential);
    assert_eq!(config.data.val_fraction, Some(0.0), "all of a shard is trained on");
    assert_eq!(config.schedule.decay_fraction, Some(0.0));
    assert_eq!(config.train.out_dir, Path::new("/tmp/lmc-out"));
    assert_eq!(config.tokens_per_step(), 2 * 4 * 512);
    let ModelConfig::Llama(model) = &config.model else { panic!("{:?}", config.model) };
    assert_eq!((model.head_dim, model.rms_norm_eps), (64, 1e-5));
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = parse(NAMES, &[]).unwrap();
    let ModelConfig::Gpt2(model) = &config.model else { panic!("{:?}", config.model) };
    assert_eq!((model.n_positions, model.n_inner, model.vocab_size), (16, 256, None));
    assert!(model.tie_word_embeddings && model.bias && model.final_norm && !model.embedding_norm);
    assert_eq!((config.data.packing, config.data.val_fraction), (false, Some(0.1)));
    assert_eq!(config.optimizer.betas, [0.9, 0.95]);
    assert_eq!(
        (config.optimizer.weight_decay, config.optimizer.eps, config.optimizer.momentum),
        (0.1, Some(1e-8), None)
    );
    assert_eq!((config.train.ema_decay, config.train.non_finite), (0.0, NonFinite::Stop));
    assert_eq!((model.embd_pdrop, model.resid_pdrop, model.attn_pdrop), (0.0, 0.0, 0.0));
    let of = |sets: &[&str]| parse(NAMES, sets).unwrap().optimizer.clone();
    let lion = of(&["optimizer.kind=lion"]);
    assert_eq!((lion.betas, lion.weight_decay, lion.eps), ([0.9, 0.99], 1.0, None));
    let muon = of(&["optimizer.kind=muon"]);
    assert_eq!((muon.momentum, muon.muon_learning_rate), (Some(0.95), Some(1e-3)));
    assert_eq!((muon.adjust_lr_fn, muon.weight_decay), (Some(AdjustLrFn::MatchRmsAdamW), 0.1));
    let dropped = parse(NAMES, &["model.dropout=0.2", "model.attn_pdrop=0"]).unwrap();
    let ModelConfig::Gpt2(dropped) = &dropped.model else { panic!("{:?}", dropped.model) };
    assert_eq!((dropped.embd_pdrop, dropped.resid_pdrop, dropped.attn_pdrop), (0.2, 0.2, 0.0));
    assert_eq!(config.train.out_dir, Path::new("runs/run"));
    assert_eq!((config.train.seed, config.sample.clone()), (1337, None));
    let TrainConfig { loss_chunk, remat, layers, .. } = config.train;
    assert_eq!((loss_chunk, remat, layers), (None, Remat::None, Layers::Unroll));
    // Undecided, rows go one by one.
    let auto = parse(NAMES, &["train.micro_batch_size=auto", "train.batch_size=24"]).unwrap();
    assert_eq!((auto.train.micro_batch_size, auto.train.grad_accum_steps), (1, 24));
    assert!(auto.train.micro_batch_auto && !config.train.micro_batch_auto);
    assert_eq!(config.with_tokenizer_size(27).unwrap().model.vocab_size(), Some(27));
}

#[test]
fn resolved_toml_reads_back_as_the_same_config() {
    for (text, sets) in [
        (NAMES, &["sample.count=20", "sample.prompt=\"a\\nb\"", "schedule.kind=cosine"][..]),
        (
            NAMES,
            &[
                "train.loss_chunk=0",
                "train.remat=layer",
                "train.layers=scan",
                "train.z_loss=1e-4",
                "optimizer.eps=1e-300",
                "train.seed=9223372036854775807",
                "data.val=['a', 'b*.txt']",
            ],
        ),
        (LLAMA, &["data.tokenizer=t.json", "data.end_of_document=</s>", "data.token_dtype=uint32"]),
        (LLAMA, &["model.rope_theta=500000", "runtime.plugin=a.so"]),
        (LLAMA, &["data.reset_attention_mask=true", "data.documents_per_row=7"]),
        (NAMES, &["data.packing=true", "data.reset_attention_mask=true", "data.end_of_document_id=26"]),
        (LLAMA, &["model.dropout=0.1", "optimizer.kind=muon", "train.ema_decay=0.999", "train.non_finite=skip"]),
        (NAMES, &["model.dropout=0.1", "optimizer.kind=lion", "train.non_finite_limit=3"]),
    ] {
        let config = parse(text, sets).unwrap();
        let written = config.to_toml().unwrap();
        let again = parse(&written, &[]).unwrap_or_else(|error| panic!("{error}\n{written}"));
        assert_eq!(config, again, "{written}");
        assert_eq!(config.hash(), again.hash());
    }
}

#[test]
fn places_for_documents_fit_the_row() {
    let places = |sets: &[&str]| parse(LLAMA, sets).unwrap().data.documents_per_row;
    assert_eq!(places(&[]), None);
    assert_eq!(places(&["data.reset_attention_mask=true"]), Some(32));
    assert_eq!(places(&["data.reset_attention_mask=true", "train.seq_len=8"]), Some(8));
    assert_eq!(places(&["data.reset_attention_mask=true", "data.documents_per_row=512"]), Some(512));
}

#[test]
fn set_takes_toml_and_bare_words() {
    let config = parse(NAMES, &["data.train=../shared/data/names.txt", "train.steps=7", "data.order='sequential'"]);
    let config = config.unwrap();
    assert!(config.data.train[0].is_absolute() && config.data.train[0].ends_with("shared/data/names.txt"));
    assert_eq!((config.train.steps, config.data.order), (7, Order::Sequential));
    let config = parse(NAMES, &["sample.prompt = Once upon a time", "train.out_dir=2026-run"]).unwrap();
    assert_eq!(config.sample.as_ref().unwrap().prompt, ["Once upon a time"]);
    assert_eq!(config.train.out_dir, Path::new("2026-run"));
}

#[test]
fn a_problem_is_shown_with_its_place() {
    let text = NAMES.replace("n_embd", "n_emdb");
    let expected = "unknown key `n_emdb` in [model]\n --> run.toml:4:1\n  |\n4 | n_emdb = 64\n  | ^^^^^^\n  \
                    = did you mean `n_embd`?";
    check_error(&text, &[], &["run.toml: 2 problems", expected, "[model] lacks `n_embd`\n --> run.toml:2:2"]);
    check_error(
        NAMES,
        &["train.steps=ten"],
        &["`steps` takes a whole number, found the string \"ten\"\n --> --set 'train.steps=ten', column 13\n  |\n \
           | train.steps=ten\n  |             ^^^"],
    );
}

#[test]
fn long_rows_are_for_fused_attention() {
    // 2^20 tokens: 2^42 scores of each head.
    let long = ["train.seq_len=1048576", "train.micro_batch_size=1"];
    let validated = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        RawConfig::parse(Path::new("run.toml"), NAMES, &settings).and_then(RawConfig::validate)
    };
    assert!(validated(&long).is_ok());
    let error = validated(&[&long[..], &["model.attn_pdrop=0.1"]].concat()).expect_err("scores are kept");
    assert!(error.message().contains("the attention of a micro-batch") && error.message().contains("2^40"), "{error}");
}

#[test]
fn problems_of_one_setting() {
    for (set, expected) in [
        ("model.n_embd=0", "`n_embd` must be at least 1, found 0"),
        ("model.n_embd=-3", "`n_embd` must be at least 1, found -3"),
        ("model.n_embd=3000000000", "`n_embd` must be at most 2147483647"),
        ("model.n_embd=64.0", "`n_embd` takes a whole number, found the number 64.0"),
        ("model.n_embd=99999999999999999999", "does not fit 64 bits"),
        ("model.n_head=5", "`n_embd` 64 is not a multiple of `n_head` 5"),
        ("model.n_layer=100000", "`n_layer` must be at most 4096"),
        ("model.n_positions=8", "`seq_len` 16 is more than the model's `n_positions` 8"),
        ("model.arch=\"gtp2\"", "did you mean \"gpt2\"?"),
        ("model.arch=7", "`arch` takes one of \"llama\", \"gpt2\", found the whole number 7"),
        ("model.hidden_size=64", "GPT-2's word for it is `n_embd`"),
        ("model.bias=\"no\"", "`bias` takes true or false, found the string \"no\""),
        ("model.seq_len=4", "it belongs in [train]"),
        ("model.n_embd=[1]", "found a list of 1"),
        ("model.layer_norm_epsilon=0", "must be a finite number more than 0, found 0.0"),
        ("model.n_inner=2147483647", "parameters; the most is 2^40"),
        ("data.end_of_document=\"</s>\"", "`end_of_document` is a token of a tokenizer.json"),
        ("model.end_of_document=\"</s>\"", "it belongs in [data]"),
        ("data.tokenizer=\"bytes\"", "did you mean \"byte\"?"),
        ("data.train=[]", "an empty list"),
        ("data.train=[\"\"]", "an empty path"),
        ("data.train=[1]", "`train` takes a path in quotes or a list of paths, found the whole number 1"),
        ("data.val_fraction=1.0", "at least 0 and less than 1, found 1.0"),
        ("data.token_dtype=\"uint16\"", "is for token shards"),
        ("data.documents=\"none\"\ndata.packing=false", "this one has a line break"),
        ("data.end_of_document_id=3", "`end_of_document_id` is for token shards"),
        ("data.mask_end_of_document=true", "`mask_end_of_document` is for token shards"),
        (
            "data.reset_attention_mask=true",
            "`reset_attention_mask` is for rows that hold several documents: token shards",
        ),
        ("data.reset_attention_mask=1", "`reset_attention_mask` takes true or false, found the whole number 1"),
        ("data.documents_per_row=4", "`documents_per_row` goes with reset_attention_mask = true"),
        ("train.reset_attention_mask=true", "it belongs in [data]"),
        ("data.order=\"random\"", "`order` is one of \"shuffle\", \"sequential\", found \"random\""),
        ("optimizer.learning_rate=nan", "must be a finite number more than 0, found NaN"),
        ("optimizer.learning_rate=inf", "found inf"),
        ("optimizer.learning_rate=0", "found 0.0"),
        ("optimizer.betas=[0.9]", "`betas` takes two numbers such as [0.9, 0.95], found a list of 1"),
        ("optimizer.betas=[0.9, 1]", "at least 0 and less than 1, found 1.0"),
        ("optimizer.weight_decay=-0.1", "0 or more, found -0.1"),
        ("optimizer.kind=\"sgd\"", "`kind` is one of \"adamw\", \"adam\", \"lion\", \"muon\", found \"sgd\""),
        ("optimizer.momentum=0.9", "`momentum` is for kind = \"muon\", found kind = \"adamw\""),
        ("optimizer.muon_learning_rate=0.1", "`muon_learning_rate` is for kind = \"muon\""),
        ("optimizer.adjust_lr_fn=original", "`adjust_lr_fn` is for kind = \"muon\""),
        ("train.ema_decay=1", "`ema_decay` must be at least 0 and less than 1, found 1.0"),
        ("train.non_finite=\"ignore\"", "`non_finite` is one of \"stop\", \"skip\", \"rollback\", found \"ignore\""),
        (
            "train.micro_batch_size=auto",
            "with `micro_batch_size = \"auto\"`, `batch_size` says how many rows a step has",
        ),
        ("train.micro_batch_size=most", "`micro_batch_size` takes a whole number or \"auto\", found"),
        ("train.batch_size=8", "`batch_size` goes with `micro_batch_size = \"auto\"`"),
        ("train.non_finite_limit=0", "`non_finite_limit` must be at least 1, found 0"),
        ("model.dropout=1", "`dropout` must be at least 0 and less than 1, found 1.0"),
        ("model.attn_pdrop=-0.5", "`attn_pdrop` must be at least 0 and less than 1, found -0.5"),
        ("model.attention_dropout=0.1", "unknown key `attention_dropout` in [model]"),
        ("train.dropout=0.1", "it belongs in [model]"),
        ("schedule.decay_fraction=0.1", "`decay_fraction` is for kind = \"wsd\", found kind = \"constant\""),
        ("schedule.min_learning_rate=1", "is more than [optimizer]'s `learning_rate` 0.001"),
        ("train.steps=0", "`steps` must be at least 1"),
        ("train.seed=-1", "`seed` must be at least 0"),
        ("train.precision=\"fp16\"", "`precision` is one of \"bfloat16\", \"float32\", found \"fp16\""),
        ("train.seq_len=2147483647", "the most is 2^40"),
        ("train.loss_chunk=-1", "`loss_chunk` must be at least 0, found -1"),
        ("model.loss_chunk=64", "it belongs in [train]"),
        ("train.keep_last=-1", "`keep_last` must be at least 0, found -1"),
        ("train.keep_every=2.5", "`keep_every` takes a whole number, found the number 2.5"),
        ("train.keep_best=true", "`keep_best` takes a whole number, found the boolean true"),
        ("train.save_total_limit=2", "the key is `keep_last`"),
        ("optimizer.keep_best=1", "it belongs in [train]"),
        ("train.remat=\"layers\"", "did you mean \"layer\"?"),
        ("train.layers=true", "`layers` takes one of \"unroll\", \"scan\", found the boolean true"),
        ("train.z_loss=-1", "`z_loss` must be a finite number, 0 or more, found -1.0"),
        ("train.lr=1", "the key is `learning_rate`, in [optimizer]"),
        ("train.tensorboard=1", "`tensorboard` takes true or false, found the whole number 1"),
        ("model.tensorboard=true", "it belongs in [train]"),
        ("runtime.peak_tflops=-1", "`peak_tflops` must be a finite number, 0 or more, found -1.0"),
        ("train.peak_tflops=1", "it belongs in [runtime]"),
        ("runtime.memory_fraction=0", "`memory_fraction` must be more than 0 and at most 1, found 0"),
        ("runtime.memory_fraction=90", "`memory_fraction` must be more than 0 and at most 1, found 90"),
        ("runtime.preallocate=1", "`preallocate` takes true or false, found the whole number 1"),
        ("runtime.deterministic=\"yes\"", "`deterministic` takes true or false"),
        ("runtime.visible_devices=0", "`visible_devices` takes a list of one GPU's number, such as [0]"),
        ("runtime.visible_devices=[]", "`visible_devices` takes one GPU, as a step runs on one, found 0 of them"),
        ("runtime.visible_devices=[0, 1]", "found 2 of them"),
        ("runtime.visible_devices=[-1]", "`visible_devices` has numbers from 0 to 1023, found the whole number -1"),
        ("train.deterministic=true", "it belongs in [runtime]"),
        ("train.memory_fraction=1", "it belongs in [runtime]"),
        ("sample.top_p=0", "more than 0 and at most 1"),
        ("sample.temprature=1", "did you mean `temperature`?"),
        ("runtime.device=\"gpu\"", "`device` is one of \"auto\", \"cpu\", \"cuda\""),
        (
            "compile.require=\"flash_attention\"",
            "`require` takes a list of \"flash_attention\", \"gemm_backward\", found",
        ),
        (
            "compile.require=[\"flash\"]",
            "`require` is a list of \"flash_attention\", \"gemm_backward\", found \"flash\"",
        ),
        ("compile.require=[1]", "found the whole number 1"),
        ("compile.requires=[]", "unknown key `requires` in [compile]"),
        ("train.require=[]", "it belongs in [compile]"),
        ("parallel.data=2", "[parallel] is reserved"),
        ("optimiser.eps=1", "did you mean `optimizer`?"),
        ("train=5", "`train` is a section, found the whole number 5"),
        ("steps", "expected key=value after --set"),
        ("train.steps=", "a value is TOML"),
        ("train..steps=1", "not TOML"),
        ("data.train=[\"a\"", "not TOML"),
    ] {
        check_error(NAMES, &[set], &[expected]);
    }
}

#[test]
fn problems_of_a_llama() {
    for (sets, expected) in [
        (&["model.num_key_value_heads=4"][..], "`num_attention_heads` 6 is not a multiple of `num_key_value_heads` 4"),
        (&["model.head_dim=63"], "a head is 63 wide, which must be even"),
        (&["data.tokenizer=char", "model.vocab_size=0"], "`vocab_size` must be at least 1"),
        (&["data.train=names.txt"], "looks like text"),
        (&["data.documents=lines"], "documents = \"lines\" is for text"),
        (
            &["data.reset_attention_mask=true", "data.documents_per_row=1"],
            "`documents_per_row` must be at least 2 and at most `seq_len` 512, found 1",
        ),
        (&["data.reset_attention_mask=true", "data.documents_per_row=513"], "at most `seq_len` 512, found 513"),
        (
            &["data.reset_attention_mask=true", "data.tokenizer=byte", "data.train=a.txt"],
            "token shards, or text with documents = \"lines\" and packing = true",
        ),
        (&["data.tokenizer=t.json", "data.val=a.txt"], "is not named .bin, and what is trained on are token shards"),
        (&["data.tokenizer=t.json", "data.documents=lines"], "files that are not named .bin"),
        (
            &["data.tokenizer=t.json", "data.train=a.txt", "data.token_dtype=uint16"],
            "`token_dtype` is for token shards",
        ),
        (&["data.packing=false"], "packing = false is for documents"),
        (&["data.val=a.bin", "data.val_fraction=0.1"], "say one of them"),
        (&["optimizer.kind=adam"], "kind = \"adam\" has no weight decay"),
        (&["optimizer.kind=lion"], "kind = \"lion\" has no `eps`"),
        (&["optimizer.kind=muon", "optimizer.adjust_lr_fn=original"], "needs `muon_learning_rate`"),
        (&["optimizer.kind=muon", "optimizer.momentum=1"], "`momentum` must be at least 0 and less than 1"),
        (&["model.attn_pdrop=0.1"], "unknown key `attn_pdrop` in [model]"),
        (&["schedule.kind=constant"], "`decay_fraction` is for kind = \"wsd\""),
    ] {
        check_error(LLAMA, sets, &[expected]);
    }
    let no_head = LLAMA.replace("head_dim = 64\n", "").replace("hidden_size = 384", "hidden_size = 386");
    check_error(&no_head, &[], &["`hidden_size` 386 is not a multiple of `num_attention_heads` 6"]);
}

/// `LLAMA` with a mixture in place of its shard.
const MIXTURE: &str = "[[data.mixture]]\nname = 'web'\nfiles = '/tmp/web-*.bin'\nweight = 0.7\n\
                       [[data.mixture]]\nfiles = ['/tmp/a.bin', '/tmp/b.bin']\nweight = 3\n";

fn mixture(replaced: &str, by: &str) -> String {
    let text = LLAMA.replace("train = \"/tmp/shard.bin\"\n", "") + MIXTURE;
    assert!(text.contains(replaced), "{replaced}");
    text.replace(replaced, by)
}

#[test]
fn sources_of_a_mixture() {
    let config = parse(&mixture("", ""), &[]).unwrap();
    let sources: Vec<_> = config.data.mixture.iter().map(|s| (s.name.as_str(), s.weight, s.files.len())).collect();
    assert_eq!(sources, [("web", 0.7, 1), ("2", 3.0, 2)]);
    assert_eq!(parse(&config.to_toml().unwrap(), &[]).unwrap(), config);
    for (replaced, by, expected) in [
        ("weight = 0.7", "wieght = 0.7", "unknown key `wieght` in [data.mixture]"),
        ("weight = 0.7", "", "[data.mixture] lacks `weight`"),
        ("weight = 0.7", "weight = 0", "`weight` must be a finite number more than 0, found 0.0"),
        ("weight = 0.7", "weight = 1e-9", "source \"web\" has less than a millionth of all weights"),
        ("files = '/tmp/web-*.bin'", "", "[data.mixture] lacks `files`"),
        ("files = '/tmp/web-*.bin'", "files = []", "`files` is an empty list"),
        ("files = '/tmp/web-*.bin'", "train = 'a'", "the files of a source are its `files`"),
        ("files = '/tmp/web-*.bin'", "files = 'web.txt'", "\"web.txt\" looks like text"),
        ("name = 'web'", "name = '2'", "two sources have the name \"2\""),
        ("name = 'web'", "name = 7", "`name` takes a name in quotes, found the whole number 7"),
        ("[data]", "[data]\ntrain = 'x.bin'", "`train` and `mixture` both say what to train on"),
        ("[data]", "[data]\nval = 'x.txt'\ntokenizer = 'byte'", "x.txt is not named .bin"),
        ("/tmp/a.bin", "/tmp/a.txt", "looks like text"),
        ("[data]", "[data]\nend_of_document_id = -1", "`end_of_document_id` must be at least 0, found -1"),
    ] {
        check_error(&mixture(replaced, by), &[], &[expected]);
    }
    let mixed = mixture("[data]", "[data]\ntokenizer = 'byte'").replace("/tmp/a.bin", "/tmp/a.txt");
    check_error(&mixed, &[], &["web-*.bin is a token shard by its name, and others are not"]);
    for set in ["data.mixture=[]", "data.mixture=1", "data.mixture=[1]"] {
        check_error(&mixture("", ""), &[set], &["mixture"]);
    }
}

#[test]
fn data_may_be_moved_and_not_reweighted() {
    let saved = parse(&mixture("", ""), &[]).unwrap();
    for (replaced, by, key, allowed) in [
        ("/tmp/web-*.bin", "/data/web-*.bin", "data.mixture.0.files", true),
        ("name = 'web'", "name = 'text'", "data.mixture.0.name", true),
        ("weight = 3", "weight = 4", "data.mixture.1.weight", false),
    ] {
        let now = parse(&mixture(replaced, by), &[]).unwrap();
        let differences = now.differences(&saved).unwrap();
        assert_eq!(differences.iter().map(|d| (d.key.as_str(), d.allowed)).collect::<Vec<_>>(), [(key, allowed)]);
        assert_eq!(now.hash() == saved.hash(), allowed);
    }
    let more = parse(&(mixture("", "") + "[[data.mixture]]\nfiles = 'c.bin'\nweight = 1\n"), &[]).unwrap();
    assert!(more.differences(&saved).unwrap().iter().any(|difference| !difference.allowed));
    let moved = parse(LLAMA, &["data.train=/data/shard.bin"]).unwrap();
    assert_eq!(moved.hash(), parse(LLAMA, &[]).unwrap().hash());
}

#[test]
fn all_problems_come_at_once() {
    check_error(
        "[model]\narch = \"llama\"\nhidden_size = \"x\"\n[train]\nsteps = 0\nsede = 1\n",
        &["runtime.device=tpu"],
        &[
            "`hidden_size` takes a whole number",
            "lacks `intermediate_size`",
            "the section [data] is missing",
            "the section [optimizer] is missing",
            "`steps` must be at least 1",
            "did you mean `seed`?",
            "`device` is one of",
        ],
    );
    check_error("a = \nb = 1\nc = [\n", &[], &["not TOML"]);
    check_error("", &[], &["the section [model] is missing"]);
}

#[test]
fn what_may_change_when_a_run_is_continued() {
    let saved = parse(NAMES, &[]).unwrap();
    let now = parse(NAMES, &["train.steps=200", "model.n_embd=128", "data.order=sequential"]).unwrap();
    let differences = now.differences(&saved).unwrap();
    let refused: Vec<&str> = differences.iter().filter(|d| !d.allowed).map(|d| d.key.as_str()).collect();
    assert_eq!(refused, ["data.order", "model.n_embd", "model.n_inner"]);
    assert_eq!(differences.iter().filter(|d| d.allowed).map(|d| d.key.as_str()).collect::<Vec<_>>(), ["train.steps"]);
    assert_ne!(saved.hash(), now.hash());
    assert_eq!(saved.hash(), parse(NAMES, &["train.steps=200", "runtime.device=cpu"]).unwrap().hash());
}

#[test]
fn a_tokenizer_must_fit_the_vocabulary() {
    let config = parse(NAMES, &["model.vocab_size=20"]).unwrap();
    let error = config.with_tokenizer_size(27).unwrap_err();
    assert!(error.message().contains("`vocab_size` 20 is less than the tokenizer's 27 tokens"), "{error}");
    assert!(error.message().contains("--set 'model.vocab_size=20'"), "{error}");
    assert_eq!(
        parse(NAMES, &["model.vocab_size=64"]).unwrap().with_tokenizer_size(27).unwrap().model.vocab_size(),
        Some(64)
    );
}

#[test]
fn files_that_are_not_configs() {
    let folder = tempfile::tempdir().unwrap();
    let error = Config::read(folder.path(), &[]).unwrap_err();
    assert!(error.message().ends_with("is a folder; give a TOML file"), "{error}");
    let error = Config::read(&folder.path().join("none.toml"), &[]).unwrap_err();
    assert!(error.message().ends_with("none.toml: no such file or directory"), "{error}");
    let path = folder.path().join("latin1.toml");
    std::fs::write(&path, b"# caf\xe9").unwrap();
    let error = Config::read(&path, &[]).unwrap_err();
    assert!(error.message().ends_with("is not UTF-8 text: byte 5 does not belong"), "{error}");
}

#[test]
fn relative_data_is_found_beside_the_config() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("names.txt"), "a\nb\n").unwrap();
    let path = folder.path().join("names.toml");
    std::fs::write(&path, NAMES).unwrap();
    let config = Config::read(&path, &[]).unwrap();
    assert_eq!(config.data.train, [folder.path().join("names.txt")]);
    assert_eq!(config.train.out_dir, Path::new("runs/names"));
    let config = Config::read(&path, &["data.train=n*.txt".to_owned()]).unwrap();
    assert_eq!(config.data.train, [folder.path().join("n*.txt")]);
}

/// The examples of the repository hold, and say the same when read back.
#[test]
fn the_examples_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let config = Config::read(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parse(&config.to_toml().unwrap(), &[]).unwrap(), config, "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "{count} examples");
}

proptest! {
    #[test]
    fn no_text_panics(
        text in "\\PC*|(\\[?[a-z_]{1,6}\\]?( ?= ?[0-9\"a-z.\\[\\]{}-]{0,6})?\n){0,8}",
        set in "\\PC{0,20}|[a-z.]{1,8}=\\PC{0,8}",
    ) {
        _ = parse(&text, &[]);
        _ = parse(NAMES, &[&set]);
    }

    #[test]
    fn no_bytes_panic(at in 0..LLAMA.len(), byte: u8) {
        let mut bytes = LLAMA.as_bytes().to_vec();
        bytes[at] = byte;
        _ = parse(&String::from_utf8_lossy(&bytes), &[]);
    }

    #[test]
    fn numbers_of_any_size_do_not_panic(a: i64, b in 1..=i32::MAX, c in 1..=i32::MAX, d in 1..5000) {
        let sets = [
            format!("model.hidden_size={b}"),
            format!("model.num_attention_heads={c}"),
            format!("model.num_key_value_heads={c}"),
            format!("model.num_hidden_layers={d}"),
            format!("model.vocab_size={b}"),
            format!("train.seq_len={b}"),
            format!("train.micro_batch_size={c}"),
            format!("train.seed={a}"),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        if let Ok(config) = parse(LLAMA, &sets) {
            _ = config.with_tokenizer_size(1);
        }
    }
}
