//! What a model makes of whole texts: logits, log-probabilities, embeddings, attention.

use std::time::Instant;

use lmc_graph::Literal;

use super::{Model, ProgramKey};
use crate::device::{Argument, run_error};
use crate::error::{Error, Result};

/// The fewest tokens that a program is compiled for; others take the next power of two.
const SMALLEST: usize = 16;

/// What attention sees in a text, in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionOf {
    /// The layer.
    pub layer: usize,
    /// Keys as the cache keeps them, rotated by position: tokens, key heads, elements of a head.
    pub keys: Literal,
    /// How much each query head's token (second dimension) takes of each (third), f32; rows add up to 1.
    pub weights: Literal,
}

/// How well a model foretells a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// The mean of the negative log-probability of a token, in nats.
    pub loss: f64,
    /// Tokens whose probability was taken.
    pub tokens: u64,
    /// The time that took in seconds, without compiling.
    pub seconds: f64,
}

impl Perplexity {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

impl Model {
    /// The logits of the next token behind each token of a text, f32, tokens times vocabulary.
    ///
    /// # Errors
    /// If the text is empty, longer than the model takes or has a token that the model has not, or the device fails.
    pub fn logits(&self, tokens: &[u32]) -> Result<Literal> {
        let size = self.padded_size(tokens)?;
        let results = self.run(&ProgramKey::Logits(size), vec![padded(tokens, size)])?;
        first_rows(&results[0], &[tokens.len(), self.architecture().vocab_size()])
    }

    /// The log-probability of each token of a text but the first, by what stands before it.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn log_probs(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let size = self.padded_size(tokens)?;
        let arguments = vec![padded(tokens, size), padded(&tokens[1..], size)];
        let results = self.run(&ProgramKey::LogProbs(size), arguments)?;
        let mut log_probs: Vec<f32> = results[0].elements();
        log_probs.truncate(tokens.len() - 1);
        Ok(log_probs)
    }

    /// The mean of a text's last activations, of length one.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn embeddings(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let size = self.padded_size(tokens)?;
        let count = Literal::scalar(tokens.len() as i32);
        let results = self.run(&ProgramKey::Embeddings(size), vec![padded(tokens, size), count])?;
        Ok(results[0].elements())
    }

    /// The label that most likely follows each prompt, with the probability of each: that of its tokens, of all labels
    /// together 1.
    ///
    /// # Errors
    /// As [`Model::logits`], and if there are no labels or one is empty.
    pub fn classify(&self, prompts: &[Vec<u32>], labels: &[Vec<u32>]) -> Result<Vec<(usize, Vec<f64>)>> {
        if labels.is_empty() || labels.iter().any(Vec::is_empty) {
            return Err(Error::input("a text is classified by labels of at least one token"));
        }
        let classify = |prompt: &Vec<u32>| -> Result<(usize, Vec<f64>)> {
            let score = |label: &Vec<u32>| -> Result<f64> {
                let log_probs = self.log_probs(&[&prompt[..], label].concat())?;
                Ok(log_probs.iter().rev().take(label.len()).map(|&x| f64::from(x)).sum())
            };
            let scores: Vec<f64> = labels.iter().map(score).collect::<Result<_>>()?;
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let best = scores.iter().position(|&score| score == greatest).unwrap_or(0);
            Ok((best, weights.into_iter().map(|weight| weight / sum).collect()))
        };
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::input("a prompt has at least one token"));
        }
        prompts.iter().map(classify).collect()
    }

    /// What attention sees in a text, in some layers.
    ///
    /// # Errors
    /// As [`Model::logits`], and if a layer is not the model's.
    pub fn inspect_attention(&self, tokens: &[u32], layers: &[usize]) -> Result<Vec<AttentionOf>> {
        let count = self.architecture().layers().len();
        if let Some(layer) = layers.iter().find(|&&layer| layer >= count) {
            return Err(Error::input(format!("the model has layers 0 to {}, and {layer} was asked for", count - 1)));
        }
        let size = self.padded_size(tokens)?;
        let key = ProgramKey::Attention(size, layers.to_vec());
        let results = self.run(&key, vec![padded(tokens, size)])?;
        let t = tokens.len();
        let of = |(&layer, results): (&usize, &[Literal])| {
            let [_, _, heads, head_dim] = results[0].ty().shape[..] else {
                return Err(Error::run(format!("keys are {}", results[0].ty())));
            };
            let keys = first_rows(&results[0], &[t, heads, head_dim])?;
            let weights: Vec<f32> = results[1].elements();
            let rows = weights.chunks_exact(size).enumerate().filter(|(row, _)| row % size < t);
            let weights: Vec<f32> = rows.flat_map(|(_, row)| row[..t].to_vec()).collect();
            Ok(AttentionOf { layer, keys, weights: Literal::new([weights.len() / (t * t), t, t], &weights) })
        };
        layers.iter().zip(results.chunks_exact(2)).map(of).collect()
    }

    /// How well the model foretells a text, in windows of `context` tokens that begin every `stride` tokens: each token
    /// counts once, in the window that has most before it.
    ///
    /// # Errors
    /// As [`Model::logits`], and if the text has fewer than two tokens, or `stride` is not from 1 to below `context`.
    pub fn perplexity(&self, tokens: &[u32], context: usize, stride: usize) -> Result<Perplexity> {
        if tokens.len() < 2 {
            return Err(Error::input(format!("a perplexity takes at least two tokens, found {}", tokens.len())));
        }
        if stride == 0 || stride >= context {
            return Err(Error::input(format!("a stride is from 1 to below the context of {context}, found {stride}")));
        }
        self.program(&ProgramKey::LogProbs(self.padded_size(&tokens[..tokens.len().min(context)])?))?;
        let begin = Instant::now();
        let (mut sum, mut counted) = (0.0, 1);
        let mut start = 0;
        while counted < tokens.len() {
            let end = (start + context).min(tokens.len());
            let log_probs = self.log_probs(&tokens[start..end])?;
            let new = end - counted;
            sum -= log_probs[log_probs.len() - new..].iter().map(|&x| f64::from(x)).sum::<f64>();
            counted = end;
            start += stride;
        }
        let counted = (tokens.len() - 1) as u64;
        Ok(Perplexity { loss: sum / counted as f64, tokens: counted, seconds: begin.elapsed().as_secs_f64() })
    }

    /// The size of the program for a text, which is checked.
    fn padded_size(&self, tokens: &[u32]) -> Result<usize> {
        let longest = self.architecture().max_context();
        self.check_tokens(tokens)?;
        if let Some(longest) = longest.filter(|&longest| longest < tokens.len()) {
            return Err(Error::input(format!("the text has {} tokens, and the model takes {longest}", tokens.len())));
        }
        let size = tokens.len().next_power_of_two().max(SMALLEST);
        Ok(longest.map_or(size, |longest| size.min(longest.max(tokens.len()))))
    }

    /// Refuses no tokens, and such as the model has not.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.architecture().vocab_size();
        if tokens.is_empty() {
            return Err(Error::input("a text has at least one token"));
        }
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(token) => Err(Error::input(format!("token {token} is none of the model's {vocab}"))),
            None => Ok(()),
        }
    }

    fn run(&self, key: &ProgramKey, inputs: Vec<Literal>) -> Result<Vec<Literal>> {
        let program = self.program(key)?;
        let inputs = inputs.iter().map(|input| Ok(Argument::Donate(self.device().buffer(input)?)));
        let results = self.execute(&program, inputs.collect::<Result<_>>()?)?;
        results.iter().map(|buffer| buffer.to_literal().map_err(run_error)).collect()
    }
}

/// Tokens as `i32 1 size`, with zeros behind them.
fn padded(tokens: &[u32], size: usize) -> Literal {
    let tokens = tokens.iter().map(|token| token.cast_signed());
    let padded: Vec<i32> = tokens.chain(std::iter::repeat(0)).take(size).collect();
    Literal::new([1, size], &padded)
}

/// The beginning of a tensor, in another shape.
fn first_rows(tensor: &Literal, shape: &[usize]) -> Result<Literal> {
    let ty = lmc_graph::TensorType::new(tensor.ty().dtype, shape);
    let bytes = tensor.bytes()[..ty.num_bytes()].to_vec();
    Literal::from_bytes(ty, bytes).map_err(Error::run)
}
