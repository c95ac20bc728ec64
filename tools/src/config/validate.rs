//! From what was written to settings that hold: types, ranges, and the rules between keys.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::absurd::absurd_sizes;
use super::compile::read_compile;
use super::mixture::read_mixture;
use super::model::{Activation, Arch, Gpt2Config, LlamaConfig, ModelConfig, Normalization};
use super::optimizer::{read_optimizer, read_schedule};
use super::runtime::read_runtime;
use super::section::{BELOW_ONE, NOT_NEGATIVE, POSITIVE, PROBABILITY, Section};
use super::settings::{
    DataConfig, Documents, Layers, NonFinite, Order, OwnTokenizer, Precision, Remat, SampleConfig, Settings,
    TokenDType, TokenizerKind, TrainConfig,
};
use super::source::Problem;
use super::tree::{Kind, Table};

/// The most blocks: graphs grow with them, and the deepest published Transformer (DeepNet) has 1000.
const MOST_LAYERS: usize = 4096;

/// Sections that mean something in a later version.
const RESERVED: [&str; 2] = ["parallel", "distributed"];

/// What depends on where the config was read.
pub(super) struct Origin<'a> {
    /// The folder relative paths are looked for in after the current one.
    pub(super) folder: &'a Path,
    /// The config file's name without its ending, for the default `out_dir`.
    pub(super) stem: &'a str,
}

/// The settings of `tree`, unless there are problems.
pub(super) fn validate(tree: &Table, origin: &Origin<'_>) -> Result<Settings, Vec<Problem>> {
    let problems = RefCell::new(Vec::new());
    let root = Section::new("", tree, None, &problems);
    for name in RESERVED {
        if let Some(node) = root.node(name) {
            let message = format!("[{name}] is reserved for a later version");
            root.problem(name, Problem::new(node.place, message).help("remove it"));
        }
    }
    let empty = Table::new();
    // The keys of a section that is absent are not asked for one by one.
    let ignored = RefCell::new(Vec::new());
    let section = |name: &'static str, required: bool| match root.node(name) {
        Some(node) => match &node.kind {
            Kind::Table(table) => Section::new(name, table, tree.get(name).map(|entry| entry.key), &problems),
            Kind::String(_)
            | Kind::Integer(_)
            | Kind::Oversized(_)
            | Kind::Float(_)
            | Kind::Boolean(_)
            | Kind::Datetime(_)
            | Kind::Array(_) => {
                let message = format!("`{name}` is a section, found {}", node.kind.describe());
                root.problem(name, Problem::new(node.place, message).help(format!("write it as [{name}]")));
                Section::new(name, &empty, None, &ignored)
            }
        },
        None if required => {
            root.problem(name, Problem::new(None, format!("the section [{name}] is missing")));
            Section::new(name, &empty, None, &ignored)
        }
        None => Section::new(name, &empty, None, &problems),
    };
    let (model, data, optimizer) = (section("model", true), section("data", true), section("optimizer", true));
    let (schedule, train, runtime) = (section("schedule", false), section("train", true), section("runtime", false));
    let compile = section("compile", false);
    let sample = root.has("sample").then(|| section("sample", false));
    root.node("sample");

    let train_config = read_train(&train, origin);
    let model_config = read_model(&model, &train, &train_config, origin);
    let data_config = read_data(&data, (&train, &train_config), origin);
    let optimizer_config = read_optimizer(&optimizer);
    let schedule_config = read_schedule(&schedule, optimizer_config.learning_rate, optimizer.sound(&["learning_rate"]));
    let sample_config = sample.as_ref().map(read_sample);
    let runtime_config = read_runtime(&runtime, origin);
    let compile_config = read_compile(&compile);

    for section in [model, data, optimizer, schedule, train, runtime, compile].into_iter().chain(sample) {
        section.finish(elsewhere);
    }
    root.finish(|_| None);

    let settings = Settings {
        model: model_config,
        data: data_config,
        optimizer: optimizer_config,
        schedule: schedule_config,
        train: train_config,
        sample: sample_config,
        runtime: runtime_config,
        compile: compile_config,
    };
    if problems.borrow().is_empty() {
        let place = |key: &str| match tree.get("model").map(|entry| &entry.node.kind) {
            Some(Kind::Table(table)) => table.get(key).map(|entry| entry.node.place),
            Some(_) | None => None,
        };
        problems.borrow_mut().extend(absurd_sizes(&settings, place("vocab_size")));
    }
    let problems = problems.into_inner();
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

fn read_model(
    section: &Section<'_>,
    train_section: &Section<'_>,
    train: &TrainConfig,
    origin: &Origin<'_>,
) -> ModelConfig {
    section.present("arch");
    let arch = section.choice("arch");
    let vocab_size = section.optional_size("vocab_size");
    let tie = |default| section.boolean_or("tie_word_embeddings", default);
    let initializer_range = section.number_or("initializer_range", 0.02, &NOT_NEGATIVE);
    let dropout = section.number_or("dropout", 0.0, &BELOW_ONE);
    let rate = |key| section.number_or(key, dropout, &BELOW_ONE);
    let (embd_pdrop, resid_pdrop) = (rate("embd_pdrop"), rate("resid_pdrop"));
    let init_from = section.path("init_from").map(|path| find(path, origin.folder));
    let Some(arch) = arch else {
        // Which keys are known depends on the architecture, so none is called unknown here.
        ARCH_KEYS.iter().for_each(|key| _ = section.node(key));
        return ModelConfig::Gpt2(Gpt2Config {
            vocab_size,
            n_embd: 1,
            n_layer: 1,
            n_head: 1,
            n_positions: train.seq_len,
            n_inner: 1,
            activation_function: Activation::GeluNew,
            normalization: Normalization::LayerNorm,
            embedding_norm: false,
            final_norm: true,
            layer_norm_epsilon: 1.0,
            bias: true,
            tie_word_embeddings: tie(true),
            initializer_range,
            embd_pdrop,
            resid_pdrop,
            attn_pdrop: 0.0,
            init_from,
        });
    };
    match arch {
        Arch::Llama => {
            let hidden_size = section.size("hidden_size");
            let num_hidden_layers = section.size("num_hidden_layers");
            let heads = section.size("num_attention_heads");
            let kv_heads = section.size_or("num_key_value_heads", heads);
            let given = section.optional_size("head_dim");
            let head_dim = given.unwrap_or_else(|| {
                section.require(&["num_attention_heads", "hidden_size"], hidden_size.is_multiple_of(heads), || {
                    format!(
                        "`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {heads}, and there is no \
                         `head_dim`"
                    )
                });
                (hidden_size / heads).max(1)
            });
            let key = if given.is_some() { "head_dim" } else { "num_attention_heads" };
            section.require(&[key, "hidden_size"], head_dim.is_multiple_of(2), || {
                format!("a head is {head_dim} wide, which must be even: rotary positions turn pairs of numbers")
            });
            section.require(&["num_key_value_heads", "num_attention_heads"], heads.is_multiple_of(kv_heads), || {
                format!("`num_attention_heads` {heads} is not a multiple of `num_key_value_heads` {kv_heads}")
            });
            limit_layers(section, "num_hidden_layers", num_hidden_layers);
            ModelConfig::Llama(LlamaConfig {
                vocab_size,
                hidden_size,
                num_hidden_layers,
                num_attention_heads: heads,
                num_key_value_heads: kv_heads,
                head_dim,
                intermediate_size: section.size("intermediate_size"),
                rope_theta: section.number_or("rope_theta", 10_000.0, &POSITIVE),
                rms_norm_eps: section.number_or("rms_norm_eps", 1e-5, &POSITIVE),
                tie_word_embeddings: tie(false),
                initializer_range,
                embd_pdrop,
                resid_pdrop,
                attention_dropout: rate("attention_dropout"),
                init_from,
            })
        }
        Arch::Gpt2 => {
            let (n_embd, n_layer, n_head) = (section.size("n_embd"), section.size("n_layer"), section.size("n_head"));
            section.require(&["n_head", "n_embd"], n_embd.is_multiple_of(n_head), || {
                format!("`n_embd` {n_embd} is not a multiple of `n_head` {n_head}")
            });
            limit_layers(section, "n_layer", n_layer);
            let n_positions = section.size_or("n_positions", train.seq_len);
            if section.sound(&["n_positions"]) {
                train_section.require(&["seq_len"], train.seq_len <= n_positions, || {
                    format!("`seq_len` {} is more than the model's `n_positions` {n_positions}", train.seq_len)
                });
            }
            ModelConfig::Gpt2(Gpt2Config {
                vocab_size,
                n_embd,
                n_layer,
                n_head,
                n_positions,
                n_inner: section.size_or("n_inner", n_embd.saturating_mul(4)),
                activation_function: section.choice_or("activation_function", Activation::GeluNew),
                normalization: section.choice_or("normalization", Normalization::LayerNorm),
                embedding_norm: section.boolean_or("embedding_norm", false),
                final_norm: section.boolean_or("final_norm", true),
                layer_norm_epsilon: section.number_or("layer_norm_epsilon", 1e-5, &POSITIVE),
                bias: section.boolean_or("bias", true),
                tie_word_embeddings: tie(true),
                initializer_range,
                embd_pdrop,
                resid_pdrop,
                attn_pdrop: rate("attn_pdrop"),
                init_from,
            })
        }
    }
}

/// Keys that only some architectures have.
const ARCH_KEYS: [&str; 20] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rope_theta",
    "rms_norm_eps",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
    "n_inner",
    "activation_function",
    "normalization",
    "embedding_norm",
    "final_norm",
    "layer_norm_epsilon",
    "attn_pdrop",
    "attention_dropout",
];

fn limit_layers(section: &Section<'_>, key: &'static str, layers: usize) {
    section.require(&[key], layers <= MOST_LAYERS, || format!("`{key}` must be at most {MOST_LAYERS}, found {layers}"));
}

/// Places for documents in a row unless the config says how many.
const DOCUMENTS_PER_ROW: usize = 32;

fn read_data(section: &Section<'_>, train: (&Section<'_>, &TrainConfig), origin: &Origin<'_>) -> DataConfig {
    let (train_section, seq_len) = (train.0, train.1.seq_len);
    let find_all = |paths: Vec<&str>| paths.into_iter().map(|path| find(path, origin.folder)).collect::<Vec<_>>();
    let mixture = read_mixture(section, &find_all);
    if !section.has("mixture") {
        section.present("train");
    }
    let (train, val) = (find_all(section.paths("train")), find_all(section.paths("val")));
    section.require(&["mixture", "train"], mixture.is_empty() || train.is_empty(), || {
        "`train` and `mixture` both say what to train on; say one of them".to_owned()
    });
    let files_key = if section.has("mixture") { "mixture" } else { "train" };
    let files = || train.iter().chain(mixture.iter().flat_map(|source| &source.files));
    let ending = |path: &&PathBuf, endings: &[&str]| {
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
    };
    let looks_like_text = files().find(|path| ending(path, &["txt", "md", "text", "csv", "json", "jsonl"]));
    let tokenizer = read_tokenizer(section, origin);
    let shard = |path: &&PathBuf| ending(path, &[DataConfig::SHARD_ENDING]);
    let is_text = tokenizer.is_some() && (files().next().is_none() || !files().all(|path| shard(&path)));
    if let (true, Some(odd)) = (is_text, files().chain(&val).find(shard)) {
        section.require(&[files_key], false, || {
            format!(
                "{} is a token shard by its name, and others are not: all must be shards, or all text",
                odd.display()
            )
        });
    }
    if let (false, Some(odd)) = (is_text || tokenizer.is_none(), val.iter().find(|path| !shard(path))) {
        section.require(&["val", files_key], false, || {
            format!("{} is not named .bin, and what is trained on are token shards", odd.display())
        });
    }
    if let Some(path) = looks_like_text {
        let path = path.file_name().unwrap_or_default();
        section.require(&[files_key, "tokenizer"], tokenizer.is_some(), || {
            format!(
                "{path:?} looks like text, and without `tokenizer` the files are token shards; say \
                 tokenizer = \"char\", \"byte\", or the path of a tokenizer.json"
            )
        });
    }
    let end_of_document = section.string("end_of_document", "a token in quotes").map(str::to_owned);
    let is_file = matches!(tokenizer, Some(TokenizerKind::File(_)));
    section.require(&["end_of_document", "tokenizer"], end_of_document.is_none() || is_file, || {
        "`end_of_document` is a token of a tokenizer.json, and `tokenizer` does not name one".to_owned()
    });
    let documents = section.choice_or("documents", Documents::None);
    let lines = documents == Documents::Lines;
    section.require(&["documents", "tokenizer"], is_text || !lines, || {
        "documents = \"lines\" is for text: it needs `tokenizer`, and files that are not named .bin".to_owned()
    });
    let packing = section.boolean_or("packing", !lines);
    section.require(&["packing", "documents"], packing || lines, || {
        "packing = false is for documents = \"lines\": running text and token shards have no document bounds".to_owned()
    });
    let token_dtype = section.choice::<TokenDType>("token_dtype");
    section.require(&["token_dtype", "tokenizer"], token_dtype.is_none() || !is_text, || {
        "`token_dtype` is for token shards, which end in .bin where there is a `tokenizer`".to_owned()
    });
    let reset_attention_mask = section.boolean_or("reset_attention_mask", false);
    let holds_documents = !is_text || lines && packing;
    section.require(
        &["reset_attention_mask", "tokenizer", "documents", "packing"],
        !reset_attention_mask || holds_documents,
        || {
            "`reset_attention_mask` is for rows that hold several documents: token shards, or text with documents = \
             \"lines\" and packing = true"
                .to_owned()
        },
    );
    let documents_per_row = section.optional_size("documents_per_row");
    section.require(
        &["documents_per_row", "reset_attention_mask"],
        documents_per_row.is_none() || reset_attention_mask,
        || "`documents_per_row` goes with reset_attention_mask = true".to_owned(),
    );
    if let (Some(places), true) = (documents_per_row, train_section.sound(&["seq_len"])) {
        section.require(&["documents_per_row"], (2..=seq_len.max(2)).contains(&places), || {
            format!("`documents_per_row` must be at least 2 and at most `seq_len` {seq_len}, found {places}")
        });
    }
    let end_of_document_id = section.optional_id("end_of_document_id");
    section.require(
        &["end_of_document_id", "tokenizer"],
        end_of_document_id.is_none() || !is_text || reset_attention_mask,
        || "`end_of_document_id` is for token shards; of text it is the tokenizer's".to_owned(),
    );
    let mask_end_of_document = section.boolean_or("mask_end_of_document", false);
    section.require(&["mask_end_of_document", "tokenizer"], !mask_end_of_document || !is_text, || {
        "`mask_end_of_document` is for token shards, and `tokenizer` says the files are text".to_owned()
    });
    section.require(&["val_fraction"], val.is_empty() || !section.has("val_fraction"), || {
        "`val_fraction` holds out a part of `train`, but `val` gives held-out files; say one of them".to_owned()
    });
    let default_fraction = if is_text { 0.1 } else { 0.0 };
    let val_fraction = section.number_or("val_fraction", default_fraction, &BELOW_ONE);
    DataConfig {
        train,
        val_fraction: val.is_empty().then_some(val_fraction),
        val,
        tokenizer,
        end_of_document,
        documents,
        packing,
        order: section.choice_or("order", Order::Shuffle),
        token_dtype,
        end_of_document_id,
        mask_end_of_document,
        reset_attention_mask,
        documents_per_row: reset_attention_mask
            .then(|| documents_per_row.unwrap_or(DOCUMENTS_PER_ROW.min(seq_len).max(2))),
        mixture,
    }
}

fn read_tokenizer(section: &Section<'_>, origin: &Origin<'_>) -> Option<TokenizerKind> {
    if let Some(Kind::String(text)) = section.node("tokenizer").map(|node| &node.kind)
        && (text.ends_with(".json") || text.contains('/'))
    {
        return Some(TokenizerKind::File(find(text, origin.folder)));
    }
    section.choice("tokenizer").map(|own| match own {
        OwnTokenizer::Char => TokenizerKind::Char,
        OwnTokenizer::Byte => TokenizerKind::Byte,
    })
}

/// Rows of a micro-batch, micro-batches of a step, and whether they are still to be decided.
fn read_batch(section: &Section<'_>) -> (usize, usize, bool) {
    let node = section.node("micro_batch_size");
    match node.map(|node| (&node.kind, node)) {
        Some((Kind::String(word), node)) if *word == "auto" => {
            if !section.has("batch_size") {
                let message = "with `micro_batch_size = \"auto\"`, `batch_size` says how many rows a step has";
                section.problem("micro_batch_size", Problem::new(node.place, message).help("add `batch_size`"));
            }
            section.require(&["grad_accum_steps"], !section.has("grad_accum_steps"), || {
                "`grad_accum_steps` follows from `batch_size` where `micro_batch_size = \"auto\"`".to_owned()
            });
            section.node("grad_accum_steps");
            (1, section.size_or("batch_size", 1), true)
        }
        Some((Kind::String(_), node)) => {
            section.wrong_type("micro_batch_size", node, "a whole number or \"auto\"");
            (1, section.size_or("grad_accum_steps", 1), false)
        }
        Some(_) | None => {
            section.require(&["batch_size"], !section.has("batch_size"), || {
                "`batch_size` goes with `micro_batch_size = \"auto\"`; otherwise it is `micro_batch_size` times \
                 `grad_accum_steps`"
                    .to_owned()
            });
            section.node("batch_size");
            (section.size("micro_batch_size"), section.size_or("grad_accum_steps", 1), false)
        }
    }
}

fn read_train(section: &Section<'_>, origin: &Origin<'_>) -> TrainConfig {
    let (micro_batch_size, grad_accum_steps, micro_batch_auto) = read_batch(section);
    let loss_chunk = usize::try_from(section.count_or("loss_chunk", 0)).unwrap_or(usize::MAX);
    TrainConfig {
        steps: section.positive("steps"),
        seq_len: section.size("seq_len"),
        micro_batch_size,
        grad_accum_steps,
        micro_batch_auto,
        precision: section.choice_or("precision", Precision::Float32),
        z_loss: section.number_or("z_loss", 0.0, &NOT_NEGATIVE),
        remat: section.choice_or("remat", Remat::None),
        layers: section.choice_or("layers", Layers::Unroll),
        loss_chunk: section.has("loss_chunk").then_some(loss_chunk),
        ema_decay: section.number_or("ema_decay", 0.0, &BELOW_ONE),
        non_finite: section.choice_or("non_finite", NonFinite::Stop),
        non_finite_limit: if section.has("non_finite_limit") { section.positive("non_finite_limit") } else { 10 },
        seed: section.count_or("seed", 1337),
        eval_every: section.count_or("eval_every", 250),
        eval_batches: section.count_or("eval_batches", 0),
        save_every: section.count_or("save_every", 1000),
        keep_last: section.count_or("keep_last", 3),
        keep_every: section.count_or("keep_every", 0),
        keep_best: section.count_or("keep_best", 1),
        log_every: section.count_or("log_every", 0),
        tensorboard: section.boolean_or("tensorboard", true),
        out_dir: match section.path("out_dir") {
            Some(path) => PathBuf::from(path),
            None => Path::new("runs").join(origin.stem),
        },
    }
}

fn read_sample(section: &Section<'_>) -> SampleConfig {
    let default = SampleConfig::default();
    SampleConfig {
        every: section.count_or("every", default.every),
        count: section.size_or("count", default.count),
        max_new_tokens: section.size_or("max_new_tokens", default.max_new_tokens),
        temperature: section.number_or("temperature", default.temperature, &NOT_NEGATIVE),
        top_k: usize::try_from(section.count_or("top_k", 0)).unwrap_or(usize::MAX),
        top_p: section.number_or("top_p", default.top_p, &PROBABILITY),
        prompt: match section.strings("prompt", "a text in quotes or a list of texts") {
            Some(prompts) => {
                section.require(&["prompt"], !prompts.is_empty(), || {
                    "`prompt` is an empty list; leave it out for texts that begin with nothing".to_owned()
                });
                prompts.into_iter().map(str::to_owned).collect()
            }
            None => default.prompt,
        },
    }
}

/// The absolute form of a path or pattern: in the current folder if it is there, else beside the config file if it is
/// there, else in the current folder, where it will be reported missing.
pub(super) fn find(path: &str, folder: &Path) -> PathBuf {
    let here = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    if exists(&here) {
        return here;
    }
    let beside = std::path::absolute(folder.join(path)).unwrap_or_else(|_| folder.join(path));
    if exists(&beside) { beside } else { here }
}

fn exists(path: &Path) -> bool {
    path.exists()
        || path
            .to_str()
            .and_then(|pattern| glob::glob(pattern).ok())
            .is_some_and(|mut matches| matches.any(|path| path.is_ok()))
}

/// Where a key belongs that was written in the wrong place, or in another program's word.
fn elsewhere(key: &str) -> Option<String> {
    let hint = match key {
        "n_embd" => "a Llama's word for it is `hidden_size`",
        "n_layer" => "a Llama's word for it is `num_hidden_layers`",
        "n_head" => "a Llama's word for it is `num_attention_heads`",
        "n_inner" => "a Llama's word for it is `intermediate_size`",
        "hidden_size" => "GPT-2's word for it is `n_embd`",
        "num_hidden_layers" => "GPT-2's word for it is `n_layer`",
        "num_attention_heads" => "GPT-2's word for it is `n_head`",
        "intermediate_size" => "GPT-2's word for it is `n_inner`",
        "lr" => "the key is `learning_rate`, in [optimizer]",
        "learning_rate" | "weight_decay" | "betas" | "grad_clip_norm" | "momentum" | "muon_learning_rate" => {
            "it belongs in [optimizer]"
        }
        "warmup_steps" | "min_learning_rate" | "decay_fraction" => "it belongs in [schedule]",
        "block_size" | "context_length" | "max_position_embeddings" => "the length of a row is `seq_len`, in [train]",
        "batch_size" => "the keys are `micro_batch_size` and `grad_accum_steps`, in [train]",
        "max_steps" | "max_iters" => "the key is `steps`, in [train]",
        "steps" | "seq_len" | "micro_batch_size" | "grad_accum_steps" | "precision" | "loss_chunk" | "remat"
        | "z_loss" | "ema_decay" | "non_finite" | "seed" | "tensorboard" | "out_dir" | "keep_last" | "keep_every"
        | "keep_best" => "it belongs in [train]",
        "save_total_limit" => "the key is `keep_last`, in [train]",
        "vocab_size" | "init_from" | "dropout" => "it belongs in [model]",
        "tokenizer" | "end_of_document" | "reset_attention_mask" | "documents_per_row" => "it belongs in [data]",
        "device" | "plugin" | "threads" | "peak_tflops" | "visible_devices" | "memory_fraction" | "preallocate"
        | "deterministic" => "it belongs in [runtime]",
        "require" => "it belongs in [compile]",
        _ => return None,
    };
    Some(hint.to_owned())
}
