//! Text from a trained model.

use lmc_graph::{DType, Func, Literal, TensorType};
use lmc_models::sample::{GenerateShape, generate_func};
use lmc_models::{ModelConfig, StepConfig};

use crate::aside::Aside;
use crate::config::SampleConfig;
use crate::device::{Argument, Buffer, Device, Program, run_error};
use crate::error::{Error, Result};
use crate::memory;
use crate::tokenizer::Tokenizer;

/// What to generate, and how tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Texts to generate for each prompt.
    pub count: usize,
    /// Tokens a text may have after the prompt.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw from this many likeliest tokens; 0 means all.
    pub top_k: usize,
    /// Draw from the likeliest tokens that together have this probability; 1 means all.
    pub top_p: f64,
    /// What texts begin with: `count` of them for each.
    pub prompts: Vec<String>,
    /// The same seed gives the same texts.
    pub seed: u64,
}

impl Sampling {
    /// What `[sample]` says, with a seed.
    pub fn from_config(config: &SampleConfig, seed: u64) -> Sampling {
        let SampleConfig { count, max_new_tokens, temperature, top_k, top_p, ref prompt, every: _ } = *config;
        Sampling { count, max_new_tokens, temperature, top_k, top_p, prompts: prompt.clone(), seed }
    }
}

/// Refuses what cannot be generated, before a device is opened: a prompt with a character that the tokenizer does not
/// know, and texts that do not fit into memory.
///
/// # Errors
/// Which of them it is.
pub fn check(step_config: &StepConfig, tokenizer: &Tokenizer, sampling: &Sampling) -> Result<()> {
    for prompt in &sampling.prompts {
        tokenizer.encode_prompt(prompt)?;
    }
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

/// Texts from one model: a program for a number of texts and tokens, which serves every prompt.
#[derive(Debug)]
pub struct Generator {
    step_config: StepConfig,
    tokenizer: Tokenizer,
    sampling: Sampling,
    /// Compiled when it is first needed.
    program: Option<Program>,
    /// It is being compiled.
    compiling: Option<Aside<Result<Option<Program>>>>,
}

/// How often the program runs: as if once, however often it does, for a text depends on its prompt and seed alone.
const EXECUTIONS: u64 = 1;

impl Generator {
    /// A generator for `sampling`.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(step_config: &StepConfig, tokenizer: &Tokenizer, sampling: &Sampling) -> Result<Generator> {
        check(step_config, tokenizer, sampling)?;
        let (step_config, tokenizer, sampling) = (step_config.clone(), tokenizer.clone(), sampling.clone());
        Ok(Generator { step_config, tokenizer, sampling, program: None, compiling: None })
    }

    /// Begins to compile what texts need, beside what goes on, if it is little work.
    pub fn compile_aside(&mut self, device: &Device) {
        if self.program.is_none() && self.compiling.is_none() && !self.is_trivial() {
            let (device, func) = (device.clone(), self.func());
            self.compiling = Some(Aside::begin(move || device.compile_little(&func, EXECUTIONS)));
        }
    }

    /// For each prompt, `sampling.count` texts that continue it, the prompt included, each up to a document end if the
    /// tokenizer has one: pairs of prompt and text.
    ///
    /// # Errors
    /// If the program cannot be compiled or fails.
    pub fn generate(&mut self, device: &Device, weights: &[Buffer]) -> Result<Vec<(String, String)>> {
        let prompts = self.sampling.prompts.clone();
        let mut texts = Vec::with_capacity(prompts.len() * self.sampling.count);
        for prompt in prompts {
            let continued = self.continue_prompt(device, weights, &prompt)?;
            texts.extend(continued.into_iter().map(|text| (prompt.clone(), text)));
        }
        Ok(texts)
    }

    fn continue_prompt(&mut self, device: &Device, weights: &[Buffer], prompt: &str) -> Result<Vec<String>> {
        let Sampling { count, max_new_tokens, temperature, top_k, top_p, seed, .. } = self.sampling;
        if self.is_trivial() {
            return Ok(vec![prompt.to_owned(); count]);
        }
        let context = self.step_config.seq_len;
        let ids = self.tokenizer.encode_prompt(prompt)?;
        // The model sees the end of a prompt that is longer than its window.
        let seen = &ids[ids.len().saturating_sub(context)..];
        let mut window = vec![0_i32; count * context];
        for row in window.chunks_exact_mut(context) {
            row[..seen.len()].copy_from_slice(seen);
        }
        let length = i32::try_from(seen.len()).map_err(|_| Error::input("the prompt is longer than 2^31 tokens"))?;
        let inputs = [
            Literal::new([count, context], &window),
            Literal::scalar(length),
            Literal::new([2], &[seed, 0_u64]),
            Literal::from_f64s(TensorType::scalar(DType::F32), &[temperature]),
            Literal::scalar(i32::try_from(top_k).unwrap_or(i32::MAX)),
            Literal::from_f64s(TensorType::scalar(DType::F32), &[top_p]),
        ];
        let inputs: Vec<Buffer> = inputs.iter().map(|input| device.buffer(input)).collect::<Result<_>>()?;
        let arguments = weights.iter().map(Argument::Keep).chain(inputs.into_iter().map(Argument::Donate));
        let results = self.program(device)?.execute(arguments.collect())?;
        let tokens = results[0].to_literal().map_err(run_error)?.elements::<i32>();
        let end = self.tokenizer.end_of_document().map(u32::cast_signed);
        let text = |row: &[i32]| {
            let new = row.split(|&id| Some(id) == end).next().unwrap_or_default();
            format!("{prompt}{}", self.tokenizer.decode_behind(&ids, new))
        };
        Ok(tokens.chunks_exact(max_new_tokens).map(text).collect())
    }

    /// Whether there is nothing to compute.
    fn is_trivial(&self) -> bool {
        self.sampling.count == 0 || self.sampling.max_new_tokens == 0
    }

    fn func(&self) -> Func {
        let Sampling { count, max_new_tokens, .. } = self.sampling;
        let shape = GenerateShape { batch: count, context: self.step_config.seq_len, max_new_tokens };
        generate_func(&self.step_config.model, shape, self.step_config.compute).0
    }

    fn program(&mut self, device: &Device) -> Result<&Program> {
        let beside = self.compiling.take().map(Aside::wait).transpose()?.flatten();
        let program = match self.program.take().or(beside) {
            Some(program) => program,
            None => device.compile_for(&self.func(), EXECUTIONS)?,
        };
        Ok(self.program.insert(program))
    }
}
