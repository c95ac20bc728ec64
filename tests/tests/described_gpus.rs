//! Whole programs compiled for GPUs that this machine need not have: which kernels they are made of, and how much memory
//! they take. Nothing runs, so nothing is said of numbers or speed.
//!
//! It needs the CUDA plugin with NVIDIA's libraries, more than a gigabyte, which `lmc plugin install cuda13` fetches;
//! where it is not installed the tests are listed as ignored, and that is said.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Failed, Trial};
use lmc::DeviceOptions;
use lmc::config::Config;
use lmc::device::compile_options;
use lmc::model::step_config;
use lmc::plan::{PlanOptions, plan};
use lmc::target::TargetDevice;
use lmc_autodiff::grad;
use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Func, TensorType, Value};
use lmc_lower::gpu::DESCRIPTION_PLUGIN;
use lmc_lower::optimized::Optimized;
use lmc_lower::report::Form;
use lmc_lower::{CudnnVersion, Gpu, Lowered, lower};
use lmc_models::{Dropout, Gpt2Config, LlamaConfig, ModelConfig, StepConfig, train_step};
use lmc_runtime::CompileOptions;
use lmc_runtime::deviceless::{Described, DevicelessError};
use lmc_runtime::plugin::managed_plugin;
use lmc_tests::described::{self, compile_described, gpu};
use lmc_tests::source::workspace;

fn main() -> ExitCode {
    let descriptions = Trial::test("descriptions_are_for_the_plugin_that_lmc_installs", || {
        descriptions_are_for_the_plugin_that_lmc_installs();
        Ok(())
    });
    described::main(
        &[
            ("llama_of_100m", llama_of_100m),
            ("llama_of_100m_in_large_batches", llama_of_100m_in_large_batches),
            ("llama_of_1b_with_long_sequences", llama_of_1b_with_long_sequences),
            ("gpt2_of_124m", gpt2_of_124m),
            ("llama_within_documents", llama_within_documents),
            ("attention_has_plans_on_every_gpu", attention_has_plans_on_every_gpu),
            ("deterministic_attention_takes_more_memory", deterministic_attention_takes_more_memory),
            ("every_deterministic_call_says_so", every_deterministic_call_says_so),
            ("estimates_are_near_what_is_compiled", estimates_are_near_what_is_compiled),
        ],
        vec![descriptions],
    )
}

fn descriptions_are_for_the_plugin_that_lmc_installs() {
    let managed = managed_plugin("cuda13").expect("lmc manages a plugin for CUDA");
    let version = |distribution: &str| {
        let wheel = managed.wheels.iter().find(|wheel| wheel.distribution == distribution);
        wheel.unwrap_or_else(|| panic!("{distribution} is among the wheels")).version.clone()
    };
    assert_eq!(DESCRIPTION_PLUGIN.1, version(DESCRIPTION_PLUGIN.0));
    let cudnn = CudnnVersion::parse(&version("nvidia-cudnn-cu13"));
    for name in Gpu::names() {
        assert_eq!(Some(gpu(name).cudnn), cudnn, "{name}");
    }
}

fn described(
    plugin: &Path,
    gpu: &Gpu,
    stablehlo: &str,
    options: &CompileOptions,
) -> Result<Described, DevicelessError> {
    compile_described(plugin, gpu.description, stablehlo, options, false)
}

/// An example's config with settings in place of its own.
fn config(example: &str, settings: &[&str]) -> Config {
    read(&workspace().join("examples").join(example), settings)
}

/// The matched model of 100M parameters, as the example trains it.
fn example() -> StepConfig {
    step_config(&config("lm-100m.toml", &[])).unwrap_or_else(|e| panic!("{e}"))
}

/// What is asked of a training step's program for an H200.
struct Limits {
    /// Forward and backward attentions together.
    attentions: usize,
    /// The most memory that is taken at once, in bytes.
    peak: i64,
}

/// Compiles a training step for an H200 and checks the program: fused attentions with plans, products that are products,
/// nothing as large as all scores or all logits, the whole state updated in place.
fn check_step(plugin: &Path, name: &str, config: &StepConfig, limits: &Limits) -> Result<(), Failed> {
    let gpu = gpu("h200");
    let step = train_step(config).map_err(|error| error.to_string())?;
    let Lowered { text, report } = lower(&step.func, &gpu.target());
    assert!(report.rows.iter().all(|row| row.refused.is_none()), "{report}");
    let program = described(plugin, &gpu, &text, &compile_options(&gpu.target()))?;
    let found = Optimized::read(&program.optimized_hlo)?;
    let memory = program.memory;
    eprintln!(
        "{name}: peak {} bytes (arguments {}, temporaries {}, aliased {}), {} attentions, {} products, {:.1} s",
        memory.peak,
        memory.arguments,
        memory.temporaries,
        memory.alias,
        found.attentions.len(),
        found.products.len(),
        program.elapsed.as_secs_f64(),
    );
    assert_eq!(found.differences(&report), Vec::<String>::new());
    assert_eq!(found.attentions.len(), limits.attentions);
    // On an H200 the forward pass has a workspace too.
    assert!(found.attentions.iter().all(|call| call.workspace > 0), "{:?}", found.attentions);
    // All products have narrow operands, but for those of norms that are not there.
    for product in &found.products {
        assert!(product.operands.iter().all(|ty| ty.starts_with("bf16[")), "{product:?}");
    }
    let StepConfig { model, micro_batch_size: b, seq_len: t, .. } = config;
    let (heads, vocab) = match model {
        ModelConfig::Llama(model) => (model.num_attention_heads, model.vocab_size),
        ModelConfig::Gpt2(model) => (model.n_head, model.vocab_size),
    };
    let (scores, logits) = (b * heads * t * t, b * t * vocab);
    // The bytes of workspaces are part of the peak.
    for ty in found.tensors.iter().filter(|ty| !ty.starts_with("u8[")) {
        let sizes = ty.split_once('[').map_or("", |x| x.1).trim_end_matches(']').split(',');
        let elements: usize = sizes.filter_map(|size| size.parse::<usize>().ok()).product();
        assert!(elements < scores.min(logits), "{ty} is as large as all scores ({scores}) or logits ({logits})");
    }
    let donated = step.func.params.iter().zip(step.func.param_types()).filter(|(param, _)| param.donated_to.is_some());
    let state: usize = donated.map(|(_, ty)| ty.num_elements() * ty.dtype.size()).sum();
    assert_eq!(memory.alias, state as i64);
    assert!(memory.peak <= limits.peak, "{} bytes, more than {}", memory.peak, limits.peak);
    Ok(())
}

fn llama_of_100m(plugin: &Path) -> Result<(), Failed> {
    check_step(plugin, "llama 100M, 2 x 2048", &example(), &Limits { attentions: 24, peak: 3_300_000_000 })
}

fn llama_of_100m_in_large_batches(plugin: &Path) -> Result<(), Failed> {
    let config = StepConfig { micro_batch_size: 32, grad_accum_steps: 2, ..example() };
    check_step(plugin, "llama 100M, 32 x 2048", &config, &Limits { attentions: 24, peak: 22_000_000_000 })
}

fn llama_of_1b_with_long_sequences(plugin: &Path) -> Result<(), Failed> {
    // The sizes of Llama 3.2 1B.
    let model = LlamaConfig {
        vocab_size: 128_256,
        hidden_size: 2048,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 64,
        intermediate_size: 8192,
        rope_theta: 500_000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        dropout: Dropout::NONE,
    };
    let model = ModelConfig::Llama(model);
    let config = StepConfig { model, micro_batch_size: 1, grad_accum_steps: 16, seq_len: 4096, ..example() };
    // State and gradients of 1.24e9 parameters take 16 bytes each; the rest is activations.
    check_step(plugin, "llama 1B, 1 x 4096", &config, &Limits { attentions: 32, peak: 32_000_000_000 })
}

fn gpt2_of_124m(plugin: &Path) -> Result<(), Failed> {
    let model = ModelConfig::Gpt2(Gpt2Config::new(50_257, 1024, 768, 12, 12));
    let config = StepConfig { model, micro_batch_size: 4, grad_accum_steps: 8, seq_len: 1024, ..example() };
    check_step(plugin, "gpt2 124M, 4 x 1024", &config, &Limits { attentions: 24, peak: 5_000_000_000 })
}

/// Rows of documents that do not see each other, as a config asks for them; with two layers for a short test.
const DOCUMENTS: [&str; 3] =
    ["model.num_hidden_layers=2", "data.reset_attention_mask=true", "data.end_of_document_id=2"];

fn llama_within_documents(plugin: &Path) -> Result<(), Failed> {
    let config = step_config(&config("lm-100m.toml", &DOCUMENTS)).unwrap_or_else(|error| panic!("{error}"));
    let step = train_step(&config).map_err(|error| error.to_string())?;
    let text = lower(&step.func, &gpu("h200").target()).text;
    assert_eq!(text.matches("max_seg_per_batch").count(), 4, "{text}");
    check_step(plugin, "llama of 2 layers, documents", &config, &Limits { attentions: 4, peak: 1_650_000_000 })
}

/// An attention and the gradient of its output's sum of squares.
struct Variant {
    name: &'static str,
    dtype: DType,
    /// Batch, queries, keys, query heads, key heads.
    sizes: [usize; 5],
    /// Elements of a head of keys, and of values.
    heads: [usize; 2],
    mask: AttentionMask,
    sliding_window: Option<usize>,
    rows: AttentionRows,
}

const PLAIN: Variant = Variant {
    name: "causal, grouped",
    dtype: DType::BF16,
    sizes: [2, 256, 256, 4, 2],
    heads: [64, 64],
    mask: AttentionMask::Causal,
    sliding_window: None,
    rows: AttentionRows::Whole,
};

const VARIANTS: [Variant; 11] = [
    PLAIN,
    Variant { name: "full", mask: AttentionMask::Full, ..PLAIN },
    Variant { name: "sliding", sliding_window: Some(64), ..PLAIN },
    Variant { name: "f16, a head of keys for each", dtype: DType::F16, sizes: [2, 256, 256, 4, 4], ..PLAIN },
    Variant { name: "one head of keys", sizes: [2, 256, 256, 4, 1], ..PLAIN },
    Variant { name: "more keys than queries", sizes: [2, 128, 256, 4, 2], mask: AttentionMask::Full, ..PLAIN },
    Variant { name: "heads of 128", heads: [128, 128], ..PLAIN },
    Variant { name: "odd length", sizes: [2, 255, 255, 4, 2], ..PLAIN },
    Variant { name: "padded", rows: AttentionRows::Padded, ..PLAIN },
    Variant { name: "padded, full", mask: AttentionMask::Full, rows: AttentionRows::Padded, ..PLAIN },
    Variant { name: "packed", rows: AttentionRows::Packed, ..PLAIN },
];

impl Variant {
    fn func(&self) -> Func {
        let [b, t, s, n, k] = self.sizes;
        let [h, v] = self.heads;
        let ints = |shape: &[usize]| TensorType::new(DType::I32, shape);
        let loss = Builder::build("attention", |builder| {
            let x = |name: &str, shape: [usize; 4]| builder.param(name, TensorType::new(self.dtype, shape));
            let (query, key, value) = (x("query", [b, t, n, h]), x("key", [b, s, k, h]), x("value", [b, s, k, v]));
            let rows: Vec<Value<'_>> = match self.rows {
                AttentionRows::Whole => vec![],
                AttentionRows::Padded => {
                    vec![builder.param("query_lengths", ints(&[b])), builder.param("key_lengths", ints(&[b]))]
                }
                // Up to three documents.
                AttentionRows::Packed => vec![builder.param("bounds", ints(&[b, 4]))],
            };
            let Variant { mask, sliding_window, rows: kind, .. } = *self;
            let op = ScaledDotProductAttention { scale: 0.125, mask, sliding_window, rows: kind };
            let attend = || query.scaled_dot_product_attention_of(key, value, &rows, op);
            let (output, _) = builder.scope("attn", attend);
            vec![output.convert(DType::F32).square().sum(&[0, 1, 2, 3])]
        });
        grad(&loss, &[0, 1, 2]).expect("attention has a derivative")
    }
}

/// Where lowering chooses cuDNN, cuDNN has plans, and on every GPU it chooses it.
fn attention_has_plans_on_every_gpu(plugin: &Path) -> Result<(), Failed> {
    for name in ["h200", "a100", "a6000", "l4", "b200", "rtx5090"] {
        let gpu = gpu(name);
        for variant in &VARIANTS {
            let at = |what: &dyn std::fmt::Display| format!("{name}, {}: {what}", variant.name);
            let Lowered { text, report } = lower(&variant.func(), &gpu.target());
            assert!(report.rows.iter().all(|row| row.form == Form::Cudnn), "{}", at(&report));
            let program =
                described(plugin, &gpu, &text, &CompileOptions::default()).map_err(|error| at(&error).to_string())?;
            let found = Optimized::read(&program.optimized_hlo)?;
            assert_eq!(found.differences(&report), Vec::<String>::new(), "{}", at(&text));
            assert_eq!(found.attentions.len(), 2, "{}", at(&program.optimized_hlo));
            // No activation is laid out anew for cuDNN, nor what it returns.
            let moved = program.optimized_hlo.lines().find(|line| {
                let is_moved = line.contains(" transpose(") || line.contains(" copy(");
                is_moved && (line.contains("= bf16[") || line.contains("= f16["))
            });
            assert_eq!(moved, None, "{}", at(&""));
        }
    }
    Ok(())
}

fn deterministic_attention_takes_more_memory(plugin: &Path) -> Result<(), Failed> {
    let gpu = gpu("h200");
    let text = lower(&PLAIN.func(), &gpu.target()).text;
    let workspace = |options: &CompileOptions| -> Result<u64, Failed> {
        let program = described(plugin, &gpu, &text, options)?;
        let calls = Optimized::read(&program.optimized_hlo)?.attentions;
        Ok(calls.iter().map(|call| call.workspace).max().unwrap_or(0))
    };
    let plain = workspace(&CompileOptions::default())?;
    let deterministic = workspace(&CompileOptions::default().with("xla_gpu_deterministic_ops", true))?;
    assert!(deterministic > plain && plain > 0, "{plain} and {deterministic} bytes");
    Ok(())
}

/// Of equal calls XLA tells only the first to be deterministic, and fails when it loads the others, which is seen on a GPU
/// alone.
fn every_deterministic_call_says_so(plugin: &Path) -> Result<(), Failed> {
    let settings = ["model.num_hidden_layers=3", "train.grad_accum_steps=1", "runtime.deterministic=true"];
    let config = config("lm-100m.toml", &settings);
    let step = train_step(&step_config(&config)?)?;
    let gpu = gpu("h200");
    let target = TargetDevice::Gpu(gpu).lowering(&config.runtime);
    let program = described(plugin, &gpu, &lower(&step.func, &target).text, &compile_options(&target))?;
    let occurrences = |what: &str| program.optimized_hlo.matches(what).count();
    assert_eq!(occurrences("custom_call_target=\"__cudnn$fmhaSoftmaxBackward\""), 3);
    assert_eq!(occurrences("\"force_deterministic\":true"), 3);
    Ok(())
}

/// GPT-2 with the sizes of its smallest release, in rows of 1024 tokens.
const GPT2_124M: &str = r#"
[model]
arch = "gpt2"
vocab_size = 50257
n_positions = 1024
n_embd = 768
n_layer = 12
n_head = 12
[data]
train = "none.bin"
[optimizer]
kind = "adamw"
learning_rate = 4e-4
[train]
steps = 100
seq_len = 1024
micro_batch_size = 16
grad_accum_steps = 2
precision = "bfloat16"
"#;

/// Llama with the sizes of Llama 3.2 1B, a row of 4096 tokens.
const LLAMA_1B: &str = r#"
[model]
arch = "llama"
vocab_size = 128256
hidden_size = 2048
num_hidden_layers = 16
num_attention_heads = 32
num_key_value_heads = 8
head_dim = 64
intermediate_size = 8192
rope_theta = 500000.0
rms_norm_eps = 1e-5
tie_word_embeddings = true
[data]
train = "none.bin"
[optimizer]
kind = "adamw"
learning_rate = 4e-4
[train]
steps = 100
seq_len = 4096
micro_batch_size = 1
grad_accum_steps = 16
precision = "bfloat16"
"#;

fn read(path: &Path, settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    Config::read(path, &settings).unwrap_or_else(|error| panic!("{error}"))
}

/// The config of a text.
fn written(text: &str, settings: &[&str]) -> Config {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{error}"));
    read(&path, settings)
}

/// What `plan` tells without a compiler, beside what the compiler plans.
fn estimates_are_near_what_is_compiled(plugin: &Path) -> Result<(), Failed> {
    /// How far they may be apart.
    const TOLERANCE: f64 = 0.1;
    let check_config = |name: &str, config: &Config| -> Result<(), Failed> {
        let gpu = gpu("h200");
        let device = DeviceOptions::default();
        let options = PlanOptions { target: TargetDevice::Gpu(gpu), compile: false, device };
        let estimated = plan(config, &options)?.estimated_peak_bytes as f64;
        let step = train_step(&step_config(config)?).map_err(|error| error.to_string())?;
        let text = lower(&step.func, &gpu.target()).text;
        let compiled = described(plugin, &gpu, &text, &compile_options(&gpu.target()))?.memory.peak as f64;
        eprintln!("{name}: {estimated} estimated, {compiled} compiled, {:.3}", estimated / compiled);
        assert!((estimated / compiled - 1.0).abs() < TOLERANCE, "{name}: {estimated}, {compiled}");
        Ok(())
    };
    let check = |name: &str, settings: &[&str]| check_config(&format!("{name} {settings:?}"), &config(name, settings));
    // Where the vocabulary is a large part: the embedding is the head, too.
    let remat = "train.remat=\"layer\"";
    check_config("gpt2 124M, 16 x 1024, remat", &written(GPT2_124M, &[remat]))?;
    check_config("llama 1B, 1 x 4096, remat", &written(LLAMA_1B, &[remat]))?;
    check("names.toml", &["model.vocab_size=27"])?;
    check("microgpt.toml", &["model.vocab_size=27"])?;
    check("shakespeare.toml", &["model.vocab_size=65"])?;
    check("lm-100m.toml", &[])?;
    check("lm-100m.toml", &["train.micro_batch_size=32", "train.grad_accum_steps=2"])?;
    check("lm-100m.toml", &DOCUMENTS)?;
    check("lm-100m.toml", &["train.layers=\"scan\""])?;
    check("lm-100m.toml", &["train.remat=\"layer\""])
}
