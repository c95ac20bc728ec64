//! What commands do with a model that was trained before: loading it, and texts and figures from it.

use std::path::Path;
use std::sync::Arc;

use lmc_graph::DType;
use serde_json::{Value, json};

use crate::cli::{EvalArgs, GenerateArgs, ModelArgs, PluginArgs};
use crate::device::DeviceOptions;
use crate::engine::{Engine, EngineOptions, Figures, Reason, Request, Sampling, StopStrings, kept_tokens};
use crate::error::{Error, Result};
use crate::memory::size;
use crate::output::{group_digits, print, print_json, say};
use crate::pretrained::{LoadOptions, Model, load};
use crate::quantization::Scheme;

/// Loads the model of a folder as the command line asks.
pub(super) fn load_model(folder: &Path, model: &ModelArgs, plugin: &PluginArgs) -> Result<Arc<Model>> {
    let dtype = model.dtype.map(|dtype| match dtype {
        crate::cli::ComputeDType::Float32 => DType::F32,
        crate::cli::ComputeDType::Bfloat16 => DType::BF16,
    });
    let device = DeviceOptions { plugin: plugin.plugin.clone(), ..DeviceOptions::default() };
    let quantize = model.quantize.as_deref().map(Scheme::named).transpose()?;
    Ok(Arc::new(load(folder, &LoadOptions { dtype, quantize, device })?))
}

/// The engine that the command line asks for.
pub(super) fn engine(model: &Arc<Model>, args: &ModelArgs, slots: usize) -> Result<Engine> {
    let options = EngineOptions {
        max_context: args.context,
        slots,
        cache_budget: args.cache_budget,
        launch_tokens: args.launch_tokens,
        ..EngineOptions::default()
    };
    Engine::new(Arc::clone(model), &options)
}

/// The context for a text of so many tokens: what the command line says, or a power of two, so that the programs for one
/// text are those for another. `None` is the engine's default.
fn context(model: &Model, args: &ModelArgs, tokens: usize) -> Option<usize> {
    let default = model.architecture().max_context().unwrap_or(usize::MAX).min(EngineOptions::DEFAULT_CONTEXT);
    // The last launch may draw more tokens than are wanted.
    let options = EngineOptions { launch_tokens: args.launch_tokens, ..EngineOptions::default() };
    let tokens = tokens.saturating_add(options.launch_tokens(model.device().target()).saturating_sub(1));
    let enough = tokens.checked_next_power_of_two().map(|tokens| tokens.max(SMALLEST_CONTEXT));
    args.context.or(enough.filter(|&enough| enough < default))
}

/// The shortest context that `lmc generate` takes of its own accord.
const SMALLEST_CONTEXT: usize = 512;

/// The prompt, without its first tokens if it is too long and they may be left out.
pub(super) fn fitting(mut prompt: Vec<u32>, engine: &Engine, truncate: bool, answer: Option<usize>) -> Vec<u32> {
    if truncate && prompt.len() >= engine.max_context() {
        let left_out = prompt.len() - kept_tokens(engine.max_context(), answer);
        prompt.drain(..left_out);
        say(format_args!(
            "warning: the first {left_out} tokens of the prompt are left out, as the context is {} tokens",
            engine.max_context()
        ));
    }
    prompt
}

/// `lmc generate FOLDER`.
pub(super) fn generate(args: &GenerateArgs) -> Result<()> {
    let model = load_model(&args.run, &args.model, &args.plugin)?;
    let tokenizer = model.tokenizer()?;
    let prompt = tokenizer.encode_beginning(&args.prompt)?;
    let prompt = match (prompt.is_empty(), model.generation().bos) {
        (false, _) => prompt,
        (true, Some(bos)) => vec![bos],
        (true, None) => return Err(Error::input("the model has no token that begins a text: give a --prompt")),
    };
    let defaults = &model.generation().sampling;
    let sampling = Sampling {
        temperature: args.temperature.map_or(defaults.temperature, |x| x as f32),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.map_or(defaults.top_p, |x| x as f32),
        min_p: args.model.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: args.model.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: args.model.presence_penalty,
        frequency_penalty: args.model.frequency_penalty,
        logit_bias: Vec::new(),
        seed: args.seed.unwrap_or(0),
    };
    let needed = prompt.len().saturating_add(args.max_new_tokens.unwrap_or(usize::MAX));
    let mut engine =
        engine(&model, &ModelArgs { context: context(&model, &args.model, needed), ..args.model.clone() }, 1)?;
    let prompt = fitting(prompt, &engine, args.model.truncate_prompt, args.max_new_tokens);
    let stops = StopStrings::new(&args.model.stop)?;
    for sample in 0..args.samples.unwrap_or(1) {
        let request = Request {
            prompt: prompt.clone(),
            sampling: Sampling { seed: sampling.seed.wrapping_add(sample as u64), ..sampling.clone() },
            max_tokens: args.max_new_tokens.unwrap_or(usize::MAX),
            stop_tokens: model.generation().eos.clone(),
            logprobs: None,
        };
        let mut text = String::new();
        let mut finished = None;
        if !args.json {
            print(&args.prompt)?;
        }
        for piece in engine.generate(&model, request, &stops)? {
            let piece = piece?;
            if args.json {
                text += &piece.text;
            } else {
                print(&piece.text)?;
            }
            finished = piece.finished;
        }
        if args.json {
            let reason = match finished {
                Some(Reason::StopToken) => "stop",
                Some(Reason::Length) | None => "length",
            };
            let figures = figures_json(&engine.figures());
            print_json(&json!({
                "prompt": args.prompt, "text": format!("{}{text}", args.prompt), "finish_reason": reason,
                "figures": figures,
            }))?;
        } else {
            print("\n")?;
        }
    }
    if !args.json {
        say_figures(&engine.figures());
    }
    Ok(())
}

/// `lmc eval FOLDER --perplexity FILE`.
pub(super) fn perplexity(args: &EvalArgs, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::cannot_read("the text", file, &error))?;
    let model = load_model(&args.run, &args.model, &args.plugin)?;
    let tokens = model.tokenizer()?.encode_beginning(&text)?;
    let longest = model.architecture().max_context().unwrap_or(usize::MAX);
    let context = args.model.context.unwrap_or(longest.min(2048));
    let result = model.perplexity(&tokens, context, (context / 2).max(1))?;
    let rate = result.tokens as f64 / result.seconds;
    if args.json {
        return print_json(&json!({
            "loss": result.loss, "perplexity": result.perplexity(), "tokens": result.tokens, "context": context,
            "tokens_per_s": rate, "weight_bytes": model.weight_bytes(), "peak_memory_bytes": model.peak_memory_bytes(),
        }));
    }
    print(&format!(
        "perplexity {:.4}: {:.4} nats a token over {} tokens, with up to {context} before each ({rate:.0} tokens/s)\n",
        result.perplexity(),
        result.loss,
        group_digits(result.tokens)
    ))
}

/// Says what an engine measured, on stderr.
pub(super) fn say_figures(figures: &Figures) {
    let peak =
        figures.peak_memory_bytes.map_or_else(String::new, |bytes| format!(", peak memory {}", size(bytes.into())));
    say(format_args!(
        "prefill {:.1} tokens/s, decode {:.1} tokens/s, first token after {:.2} s, programs {:.2} s; weights {}, cache {}{peak}",
        figures.prefill_rate(),
        figures.decode_rate(),
        figures.time_to_first_token.as_secs_f64(),
        figures.compile_time.as_secs_f64(),
        size(figures.weight_bytes.into()),
        size(figures.cache_bytes.into()),
    ));
}

fn figures_json(figures: &Figures) -> Value {
    json!({
        "prefill_tokens": figures.prefill_tokens, "prefill_tokens_per_s": figures.prefill_rate(),
        "decode_tokens": figures.decode_tokens, "decode_tokens_per_s": figures.decode_rate(),
        "time_to_first_token_s": figures.time_to_first_token.as_secs_f64(),
        "compile_s": figures.compile_time.as_secs_f64(), "cache_bytes": figures.cache_bytes,
        "weight_bytes": figures.weight_bytes, "peak_memory_bytes": figures.peak_memory_bytes,
    })
}
