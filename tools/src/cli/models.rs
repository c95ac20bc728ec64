//! Models that are used: talking with them, and how any command uses one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::PluginArgs;

/// Talk with a model in the terminal: /reset begins anew, /system TEXT says what the model is, /save FILE keeps the talk
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc chat Qwen3-0.6B --system 'You answer in one sentence.'")]
pub struct ChatArgs {
    /// The folder of a model with a chat template
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// What the model is told before the talk begins
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// 0 takes the most likely token [default: of the folder's generation_config.json]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Sample among the K most likely tokens only; 0 is all [default: likewise]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Sample among the most likely tokens that together have this probability; 1 is all [default: likewise]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// The same seed gives the same talk
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How the model is used.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Show what attention sees in a text, layer by layer and head by head, as tensors and pictures
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc attention Qwen3-0.6B --text 'The cat sat on the mat' --layers 0,13 -o seen")]
pub struct AttentionArgs {
    /// The folder of a model
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// The text
    #[arg(long)]
    pub text: String,
    /// The layers, from 0 on [default: all]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub layers: Vec<usize>,
    /// The query heads, from 0 on [default: all]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub heads: Vec<usize>,
    /// Where to put attention.safetensors and the pictures
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// How the model is used.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// How a model is used; with a run folder, too.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "How the model is used")]
pub struct ModelArgs {
    /// Keep weights and compute in this type [default: as the files have them, float16 as float32]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub dtype: Option<ComputeDType>,
    /// Keep matrices in fewer bits, in groups of 64 columns, quantized as they are read
    #[arg(long, value_name = "int8|int4")]
    pub quantize: Option<String>,
    /// The longest text, prompt and new tokens together [default: the model's, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Drop the first tokens of a prompt that does not fit the context, where it would be refused
    #[arg(long)]
    pub truncate_prompt: bool,
    /// Bytes that the cache of keys and values may take; a context that was not asked for is shortened to fit
    #[arg(long, value_name = "BYTES")]
    pub cache_budget: Option<u64>,
    /// Tokens that one launch of the device draws [default: 1 on the CPU, 8 on a GPU]
    #[arg(long, value_name = "N")]
    pub launch_tokens: Option<usize>,
    /// Sample among tokens at least this many times as likely as the most likely one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Divide logits of tokens that were there before by this
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from logits of tokens that were generated
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract this from logits of tokens for each time they were generated
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl Default for ModelArgs {
    fn default() -> ModelArgs {
        ModelArgs {
            dtype: None,
            quantize: None,
            context: None,
            truncate_prompt: false,
            cache_budget: None,
            launch_tokens: None,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            stop: Vec::new(),
        }
    }
}

/// The element types in which a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeDType {
    /// 32 bits
    Float32,
    /// 16 bits with the exponent of 32
    Bfloat16,
}
