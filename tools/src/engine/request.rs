//! What is asked of an engine and what it answers: plain values, in tokens.

use crate::error::{Error, Result};

/// How tokens are drawn. The default is the model's own distribution: temperature 1, nothing cut off, nothing penalized.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the likeliest token, without chance.
    pub temperature: f32,
    /// Draw from this many likeliest tokens, and those as likely as the last of them; 0 means all.
    pub top_k: usize,
    /// Of those, draw from the fewest likeliest whose probabilities together reach this; 1 means all.
    pub top_p: f32,
    /// Of those, draw from tokens at least this many times as likely as the likeliest; 0 means all.
    pub min_p: f32,
    /// Logits of tokens that stand in the prompt or were generated are divided by this if above 0, else multiplied with
    /// it (Keskar et al. 2019, section 4.1); 1 means no penalty.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that were generated.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens as often as they were generated.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, before everything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens for the same prompt, whatever else is generated beside.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// The likeliest token each time.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that no distribution has, or a bias for a token that is not below `vocab_size`.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let check = |name: &str, number: f32, allowed: bool, range: &str| match allowed {
            true => Ok(()),
            false => Err(Error::input(format!("{name} must be {range}, found {number}"))),
        };
        let Sampling { temperature, top_p, min_p, repetition_penalty: repetition, .. } = *self;
        let any = "a finite number";
        check("temperature", temperature, temperature.is_finite() && temperature >= 0.0, "0 or more")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1")?;
        check("repetition_penalty", repetition, repetition.is_finite() && repetition > 0.0, "above 0")?;
        check("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), any)?;
        check("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), any)?;
        for &(token, bias) in &self.logit_bias {
            check(&format!("the logit_bias of token {token}"), bias, bias.is_finite(), any)?;
            if token as usize >= vocab_size {
                return Err(Error::input(format!(
                    "logit_bias names token {token}, and the model has {vocab_size} tokens"
                )));
            }
        }
        Ok(())
    }
}

/// A text to be continued.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The tokens that the text begins with; at least one.
    pub prompt: Vec<u32>,
    /// How further ones are drawn.
    pub sampling: Sampling,
    /// The most tokens to generate; at least one. Fewer are where the context ends before.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that does is emitted, too.
    pub stop_tokens: Vec<u32>,
    /// How many of the likeliest tokens to report with their log-probabilities beside each token; `None` reports none,
    /// not even the token's own.
    pub logprobs: Option<usize>,
}

/// The most likely tokens that are reported beside a token.
pub const MOST_LOGPROBS: usize = 20;

/// A row of the engine's batch: what [`Engine::add`](super::Engine::add) returns. Free again once the text is finished or
/// cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub usize);

/// A token that was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// Whose text it continues.
    pub slot: SlotId,
    /// The token.
    pub token: u32,
    /// Its log-probability and the likeliest tokens', where the request asked for them.
    pub logprobs: Option<Logprobs>,
    /// Why this is the text's last token; `None` while it goes on.
    pub finished: Option<Reason>,
}

/// Natural logarithms of probabilities, by the model's logits with biases and penalties, before temperature and cut-offs.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token itself.
    pub token: f32,
    /// The likeliest tokens with theirs, likeliest first; as many as the request asked for.
    pub likeliest: Vec<(u32, f32)>,
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// With one of its stop tokens.
    StopToken,
    /// With as many tokens as were asked for, or where the context ends.
    Length,
}

/// How many of the newest tokens of a prompt that does not fit a context are kept: all but the room for an answer of so
/// many tokens, at most half of the context, or a quarter of it where the answer's length is not known.
pub fn kept_tokens(context: usize, answer: Option<usize>) -> usize {
    let room = answer.unwrap_or(context / 4).min(context / 2).max(1);
    context.saturating_sub(room).max(1)
}
