//! Text from a trained model.

use lmc_graph::{DType, Literal, TensorType};
use lmc_models::sample::{GenerateShape, generate_func};
use lmc_models::{ModelConfig, StepConfig};
use lmc_runtime::{Argument, Buffer};

use crate::config::SampleConfig;
use crate::device::{Device, run_error};
use crate::error::{Error, Result};
use crate::memory;
use crate::tokenizer::Tokenizer;

/// What to generate, and how tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Texts to generate.
    pub count: usize,
    /// Tokens a text may have after the prompt.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw from this many likeliest tokens; 0 means all.
    pub top_k: usize,
    /// Draw from the likeliest tokens that together have this probability; 1 means all.
    pub top_p: f64,
    /// What every text begins with.
    pub prompt: String,
    /// The same seed gives the same texts.
    pub seed: u64,
}

impl Sampling {
    /// What `[sample]` says, with a seed.
    pub fn from_config(config: &SampleConfig, seed: u64) -> Sampling {
        let SampleConfig { count, max_new_tokens, temperature, top_k, top_p, ref prompt } = *config;
        Sampling { count, max_new_tokens, temperature, top_k, top_p, prompt: prompt.clone(), seed }
    }
}

/// Refuses what cannot be generated, before a device is opened: a prompt with a character that the tokenizer does not
/// know, and texts that do not fit into memory.
///
/// # Errors
/// Which of them it is.
pub fn check(step_config: &StepConfig, tokenizer: &Tokenizer, sampling: &Sampling) -> Result<()> {
    tokenizer.encode_prompt(&sampling.prompt)?;
    let width = match &step_config.model {
        ModelConfig::Gpt2(model) => model.n_embd,
        ModelConfig::Llama(model) => model.hidden_size,
    };
    // The embedded window, and the new tokens, four bytes each; what else the model computes comes on top.
    let each = step_config.seq_len as u128 * width as u128 + sampling.max_new_tokens as u128;
    let needed = sampling.count as u128 * each * 4;
    match memory::available_bytes() {
        Some(available) if needed > u128::from(available) => Err(Error::input(format!(
            "{} samples of up to {} tokens take at least {} of memory, and {} are available: ask for fewer or shorter \
             ones",
            sampling.count,
            sampling.max_new_tokens,
            memory::size(needed),
            memory::size(available.into())
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Texts that continue the prompt, the prompt included, each up to a document end if the tokenizer has one.
///
/// # Errors
/// As [`check`], and if the program cannot be compiled or fails.
pub fn generate(
    device: &Device,
    step_config: &StepConfig,
    tokenizer: &Tokenizer,
    weights: &[Buffer],
    sampling: &Sampling,
) -> Result<Vec<String>> {
    if sampling.count == 0 || sampling.max_new_tokens == 0 {
        return Ok(vec![sampling.prompt.clone(); sampling.count]);
    }
    check(step_config, tokenizer, sampling)?;
    let context = step_config.seq_len;
    let prompt = tokenizer.encode_prompt(&sampling.prompt)?;
    // The model sees the end of a prompt that is longer than its window.
    let seen = &prompt[prompt.len().saturating_sub(context)..];
    let shape = GenerateShape { batch: sampling.count, context, max_new_tokens: sampling.max_new_tokens };
    let (func, _) = generate_func(&step_config.model, shape, step_config.compute);
    let program = device.compile_for(&func, 1)?;

    let mut window = vec![0_i32; sampling.count * context];
    for row in window.chunks_exact_mut(context) {
        row[..seen.len()].copy_from_slice(seen);
    }
    let length = i32::try_from(seen.len()).map_err(|_| Error::input("the prompt is longer than 2^31 tokens"))?;
    let top_k = i32::try_from(sampling.top_k).unwrap_or(i32::MAX);
    let inputs = [
        Literal::new([sampling.count, context], &window),
        Literal::scalar(length),
        Literal::new([2], &[sampling.seed, 0_u64]),
        Literal::from_f64s(TensorType::scalar(DType::F32), &[sampling.temperature]),
        Literal::scalar(top_k),
        Literal::from_f64s(TensorType::scalar(DType::F32), &[sampling.top_p]),
    ];
    let inputs: Vec<Buffer> = inputs.iter().map(|input| device.buffer(input)).collect::<Result<_>>()?;
    let arguments = weights.iter().map(Argument::Keep).chain(inputs.into_iter().map(Argument::Donate));
    let results = program.execute(arguments.collect())?;
    let tokens = results[0].to_literal().map_err(run_error)?.elements::<i32>();
    let end = tokenizer.end_of_document().map(u32::cast_signed);
    let text = |row: &[i32]| {
        let new = row.split(|&id| Some(id) == end).next().unwrap_or_default();
        format!("{}{}", sampling.prompt, tokenizer.decode_behind(&prompt, new))
    };
    Ok(tokens.chunks_exact(sampling.max_new_tokens).map(text).collect())
}
