//! Every setting of a run, with its meaning, unit and default. This file is the manual of the config.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::compile::CompileConfig;
use super::model::ModelConfig;
use super::runtime::RuntimeConfig;

/// A setting that is one of a few words.
pub trait Choice: Copy + 'static {
    /// The words and what they mean.
    const ALL: &'static [(&'static str, Self)];
}

/// An enum whose variants are words of the config: one table gives parsing, printing and the list in error messages.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Choice for $name {
            const ALL: &'static [(&'static str, $name)] = &[$(($word, $name::$variant),)*];
        }

        impl $name {
            /// The word in the config.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let word = String::deserialize(deserializer)?;
                let known = $name::ALL.iter().find(|(name, _)| *name == word);
                known.map(|(_, value)| *value).ok_or_else(|| {
                    serde::de::Error::unknown_variant(&word, const { &[$($word,)*] })
                })
            }
        }
    };
}
pub(crate) use choices;

/// All settings, each with a value: what `Config` gives to read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// `[model]`: the architecture and its sizes.
    pub model: ModelConfig,
    /// `[data]`: what to train on.
    pub data: DataConfig,
    /// `[optimizer]`: how a gradient becomes an update.
    pub optimizer: OptimizerConfig,
    /// `[schedule]`: how the learning rate changes over the run. Default: constant, without warm-up.
    pub schedule: ScheduleConfig,
    /// `[train]`: how long, how much at a time, and where results go.
    pub train: TrainConfig,
    /// `[sample]`: texts to generate during training and when it is done. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleConfig>,
    /// `[runtime]`: the device.
    pub runtime: RuntimeConfig,
    /// `[compile]`: what the compiled training step has to have. Default: what its device is fast with.
    #[serde(skip_serializing_if = "CompileConfig::is_default")]
    pub compile: CompileConfig,
}

/// `[data]`: what to train on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataConfig {
    /// Training files: a path or a list of paths, `*`, `?`, `[a-z]` and `**` allowed. The files of a pattern are
    /// sorted; all files together are one stream in the order given. A relative path is looked for in the current
    /// folder, then beside the config file. Required, unless `mixture` says what to train on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<PathBuf>,
    /// Held-out files, like `train`. Default: none; a part of `train` is held out instead, see `val_fraction`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// The part of `train` to hold out when `val` is absent, from 0 (none) to less than 1. Documents are drawn by
    /// `train.seed`; of running text and of token shards it is the end. Default: 0.1 for text, as in nanoGPT's
    /// character recipe; 0 for token shards, whose validation split is usually a shard of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_fraction: Option<f64>,
    /// How text becomes tokens: `"char"`, `"byte"`, or the path of a Hugging Face `tokenizer.json`, looked for as
    /// `train` is. Default: absent, and the files are token shards. Files whose names end in `.bin` are token shards in any
    /// case; of those it is what prompts are read, and samples and `lmc data` are written with, and the one that a
    /// `shards.json` beside them names is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerKind>,
    /// The token of a `tokenizer.json` that ends a document: `"<|endoftext|>"`. Default: the special token that has a
    /// usual name for it (`<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>` and a few more); several such are an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<String>,
    /// Whether a text has document bounds: `"lines"` or `"none"`. Default `"none"`: running text.
    pub documents: Documents,
    /// What a row of a batch is when `documents = "lines"`. `true`: documents in this epoch's order, end to end, cut
    /// into rows of `seq_len`: no padding, but a row starts anywhere. `false`: one document a row, padded to `seq_len`
    /// with masked labels; a longer document takes several rows. Default `false`, which is what short documents such
    /// as names want. Running text and token shards are always packed.
    pub packing: bool,
    /// The order of rows: `"shuffle"` or `"sequential"`. Default `"shuffle"`.
    pub order: Order,
    /// The type of a token in raw shards. Default: what the `shards.json` beside them says; without one `"uint16"`, or
    /// `"uint32"` when `model.vocab_size` is more than 65,536. Shards with the 256-word header tell it themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_dtype: Option<TokenDType>,
    /// The id that ends every document in token shards. Default: what the `shards.json` beside them says; without one
    /// the tokenizer's, if there is one; else none is known, and the shards are one running text. Of text it is the
    /// tokenizer's; there it is written where `reset_attention_mask` needs it, into the config of a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_document_id: Option<u32>,
    /// Whether the token after a document's end, which the end cannot tell, is left unpredicted in token shards: its
    /// label is masked, as by Megatron's `--eod-mask-loss`. Attention still reaches across, unless `reset_attention_mask`
    /// stops it. Default `false`: windows as they are, as in nanoGPT, where a model learns from the end alone how documents
    /// begin.
    pub mask_end_of_document: bool,
    /// Whether attention stays within documents, as with Megatron's `--reset-attention-mask`: a token sees none of the
    /// documents before its own in the row. The end belongs to the document that it ends. Positions are not reset. For rows
    /// that hold several documents: token shards whose end of documents is known, and `documents = "lines"` with
    /// `packing = true`. In training and evaluation; a prompt is one document. Default `false`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset_attention_mask: bool,
    /// With `reset_attention_mask`, the places for documents in a row, from 2 to `train.seq_len`. Programs have fixed sizes:
    /// in a row of more documents the last place holds all of the rest, which then see each other; `lmc check` tells how
    /// many there are. On a GPU cuDNN's attention takes memory for every place as for a row of its own. Default: 32, or
    /// `train.seq_len` if that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents_per_row: Option<usize>,
    /// `[[data.mixture]]`, once a source, in place of `train`: several sources, each with its share of the rows. Which
    /// source a row is from follows from `train.seed` and the row's number alone, and the shares hold closely over any
    /// stretch of rows; each source goes through epochs of its own. `lmc check` tells how many. `val_fraction` holds out
    /// that part of every source. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mixture: Vec<SourceConfig>,
}

impl DataConfig {
    /// The file name's ending of token shards.
    pub(crate) const SHARD_ENDING: &'static str = "bin";

    /// Whether the files are token shards, rather than text.
    pub(crate) fn is_shards(&self) -> bool {
        let mut files = self.train.iter().chain(self.mixture.iter().flat_map(|source| &source.files));
        self.tokenizer.is_none()
            || files.all(|path| path.extension().is_some_and(|ending| ending == Self::SHARD_ENDING))
    }

    /// Whether the files are text, rather than token shards.
    pub fn is_text(&self) -> bool {
        !self.is_shards()
    }
}

/// `[[data.mixture]]`: a source of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceConfig {
    /// What reports call it; every source has another. Default: its number, from 1.
    pub name: String,
    /// Its files, like `data.train`. Required.
    pub files: Vec<PathBuf>,
    /// Its share of the rows, more than 0, relative to the weights of the others: 7 and 3 are the same as 0.7 and 0.3.
    /// Required.
    pub weight: f64,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// `"char"`, see [`OwnTokenizer::Char`].
    Char,
    /// `"byte"`, see [`OwnTokenizer::Byte`].
    Byte,
    /// The path of a `tokenizer.json`.
    File(PathBuf),
}

impl Serialize for TokenizerKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenizerKind::Char => OwnTokenizer::Char.serialize(serializer),
            TokenizerKind::Byte => OwnTokenizer::Byte.serialize(serializer),
            TokenizerKind::File(path) => path.serialize(serializer),
        }
    }
}

choices! {
    /// The tokenizers that need no file.
    OwnTokenizer {
        /// The sorted distinct characters of the training text; with `documents = "lines"` the document end follows.
        Char = "char",
        /// The 256 bytes of UTF-8, then the document end: 257 tokens.
        Byte = "byte",
    }
}

choices! {
    /// The document bounds of a text.
    Documents {
        /// Every non-empty line is a document, such as a name.
        Lines = "lines",
        /// There are none: the files are one running text.
        None = "none",
    }
}

choices! {
    /// The order of rows.
    Order {
        /// Another order every epoch, by `train.seed`; each epoch sees everything once. Windows of a running text also
        /// begin at another offset every epoch, so that their cuts fall elsewhere.
        Shuffle = "shuffle",
        /// Consecutive windows of `seq_len` (or documents in file order), wrapping at the end.
        Sequential = "sequential",
    }
}

choices! {
    /// The type of a token in a raw shard, little-endian; NumPy's words.
    TokenDType {
        /// Two bytes.
        Uint16 = "uint16",
        /// Four bytes.
        Uint32 = "uint32",
    }
}

/// `[optimizer]`: how a gradient becomes an update.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OptimizerConfig {
    /// `"adamw"`, `"adam"`, `"lion"` or `"muon"`. Default `"adamw"`.
    pub kind: OptimizerKind,
    /// The peak learning rate, more than 0. Required: it depends on the model's size. Lion's is three to ten times
    /// smaller than AdamW's, as every element of a weight moves by all of it.
    pub learning_rate: f64,
    /// The decay rates of the two moments, each at least 0 and less than 1; for `"lion"`, of the average whose sign is
    /// taken and of the one that is kept; for `"muon"`, of its AdamW. Default `[0.9, 0.95]`, as for GPT-3; for `"lion"`
    /// `[0.9, 0.99]`, as in its paper.
    pub betas: [f64; 2],
    /// Added to the root of the second moment. Default 1e-8, as in the Adam paper. Not for `"lion"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Decoupled decay, on matrices only; 0 disables. Default 0.1 for `"adamw"`, as for GPT-3, and for `"muon"`, as in
    /// PyTorch; 1.0 for `"lion"`, since the decay of a step is `learning_rate * weight_decay`, and its rate about ten
    /// times smaller; always 0 for `"adam"`.
    pub weight_decay: f64,
    /// Clip gradients to this global norm; 0 disables. Default 1.0, as in nanoGPT.
    pub grad_clip_norm: f64,
    /// `"muon"` only: how much of the momentum stays in a step, at least 0 and less than 1. Default 0.95, as in PyTorch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// `"muon"` only: the peak learning rate of hidden matrices; it follows the same schedule. Default `learning_rate`
    /// with `adjust_lr_fn = "match_rms_adamw"`, which is made for that; required with `"original"`, whose rates are
    /// larger (0.02 is usual).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_learning_rate: Option<f64>,
    /// `"muon"` only: how the rate of a hidden matrix depends on its shape, in PyTorch's words. Default
    /// `"match_rms_adamw"`: rate and decay of AdamW may be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjust_lr_fn: Option<AdjustLrFn>,
}

choices! {
    /// The optimizer.
    OptimizerKind {
        /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
        AdamW = "adamw",
        /// Adam (Kingma and Ba, 2015): no decay.
        Adam = "adam",
        /// The sign of an averaged gradient (Chen et al., 2023): half of AdamW's state.
        Lion = "lion",
        /// Orthogonalized momentum for the matrices of blocks (Jordan et al., 2024), AdamW for embeddings, the head,
        /// gains and biases. Computed in `train.precision`.
        Muon = "muon",
    }
}

choices! {
    /// How Muon's learning rate depends on the shape of a matrix.
    AdjustLrFn {
        /// Times `sqrt(max(1, rows / columns))`, as of the weight in the file.
        Original = "original",
        /// Times `0.2 sqrt(max(rows, columns))`: updates are about as long as AdamW's.
        MatchRmsAdamW = "match_rms_adamw",
    }
}

/// `[schedule]`: how the learning rate changes over the run.
///
/// `step` counts from 0, `steps` is `train.steps`. For the first `warmup_steps` the rate is
/// `learning_rate * (step + 1) / warmup_steps`. After that, with `decay_start` and `p`, which goes from 0 at
/// `decay_start` to 1 at `steps`:
/// `constant` holds the rate; `linear` goes to the minimum as `1 - p`, and `cosine` as `(1 + cos(pi p)) / 2`, both with
/// `decay_start = warmup_steps`; `wsd` holds the rate, then goes linearly, with
/// `decay_start = steps - decay_fraction * steps`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleConfig {
    /// `"constant"`, `"linear"`, `"cosine"` or `"wsd"`. Default `"constant"`.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up; 0 means none. May exceed `train.steps`, for a short trial of a long run. Default 0.
    pub warmup_steps: u64,
    /// The rate the decay ends at, at most `optimizer.learning_rate`. Default 0. Not for `"constant"`.
    pub min_learning_rate: f64,
    /// `"wsd"` only: the part of `train.steps`, at the end, that decays; 0 means no decay. Default 0.1, as MiniCPM
    /// found enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_fraction: Option<f64>,
}

choices! {
    /// The shape of the learning rate after warm-up.
    ScheduleKind {
        /// The peak rate throughout.
        Constant = "constant",
        /// Straight down to the minimum at the last step.
        Linear = "linear",
        /// Half a cosine down to the minimum at the last step.
        Cosine = "cosine",
        /// Warm-up, stable, decay: constant, then straight down over the last `decay_fraction`.
        Wsd = "wsd",
    }
}

/// `[train]`: how long, how much at a time, and where results go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run, at least 1. Required.
    pub steps: u64,
    /// Tokens of a row. Required.
    pub seq_len: usize,
    /// Rows of a micro-batch, or `"auto"`: the most that are sure to fit into the memory there is, by `lmc plan`'s
    /// estimate, and divide `batch_size`. A run that is continued keeps what it was started with. Required: memory
    /// decides.
    pub micro_batch_size: usize,
    /// Micro-batches of a step; their gradients are averaged over tokens. Default 1. With `micro_batch_size = "auto"` it
    /// is `batch_size / micro_batch_size`, and not to be given.
    pub grad_accum_steps: usize,
    /// Whether `micro_batch_size = "auto"` was asked for and is not decided yet; rows go one by one until then. In the
    /// config that is `batch_size` too, the rows of a step, which is required then and not to be given otherwise.
    #[serde(skip)]
    pub micro_batch_auto: bool,
    /// The type products are computed in: `"float32"` or `"bfloat16"`. Weights, moments, reductions and the loss are
    /// float32 in both. Default `"float32"`.
    pub precision: Precision,
    /// Compute the loss by chunks of this many tokens of each row, whose logits alone are held at a time, forward and
    /// backward; 0 means all at once. Default: all at once while the logits of a micro-batch take at most 128 MiB
    /// (`micro_batch_size * seq_len * vocab_size * 4` bytes), else the fewest chunks of at most that much, but no
    /// more than 8. It saves memory, and changes nothing but rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_chunk: Option<usize>,
    /// Add `z_loss * z^2` to the training loss of every token, `z` being the logarithm of the sum of the exponentials of
    /// its logits, which keeps logits from drifting; the loss that is recorded in training has it, the held-out loss does
    /// not. 0 disables. Default 0; PaLM used 1e-4.
    pub z_loss: f64,
    /// What the backward pass computes again, rather than to keep it: `"none"`, or `"layer"`, the inside of every block,
    /// for about a third more operations. It changes memory and speed only; on the CPU, where XLA may recompute early,
    /// `layers = "scan"` saves far more. Default `"none"`.
    pub remat: Remat,
    /// Blocks in the program: `"unroll"`, one after the other, or `"scan"`, once, in a loop over their stacked
    /// parameters. A loop is compiled in a time that does not grow with the number of blocks, and always computes the
    /// inside of a block again in the backward pass; checkpoints are the same. Default `"unroll"`.
    pub layers: Layers,
    /// Keep an exponential moving average of the weights, of which this much stays in a step, but only
    /// `(1 + t) / (10 + t)` after `t` steps where that is less, so that the initial weights are soon forgotten; at least 0
    /// and less than 1; 0 keeps none. Where it is kept, it is what is evaluated and
    /// sampled, in training as by `eval` and `generate`; checkpoints have both. Costs 4 bytes a parameter. Default 0;
    /// 0.999 to 0.9999 are usual.
    #[serde(skip_serializing_if = "is_zero")]
    pub ema_decay: f64,
    /// What to do when the loss or the gradient norm of a step is not finite. Its update is applied in no case, and the
    /// first tensor that is not finite is named with its place. `"stop"` ends the run with exit code 3, and saves
    /// nothing. `"skip"` goes on with the next step. `"rollback"` goes on with the next step too, but from the weights
    /// and the optimizer's state of the newest checkpoint, or of the start, so that all steps since then are passed
    /// over, as for PaLM. Default `"stop"`: somebody should look.
    pub non_finite: NonFinite,
    /// Stop, with exit code 3, when this many steps in a row were skipped, or when the run was to be rolled back to the
    /// same checkpoint more often than this; at least 1. Default 10: a run that cannot go on should not seem to.
    pub non_finite_limit: u64,
    /// Decides initial weights, order of data, held-out documents and what dropout draws. Default 1337, as in nanoGPT.
    pub seed: u64,
    /// Evaluate on held-out data every so many steps, and after the last; 0 means never. Default 250, as in nanoGPT's
    /// character recipe; without held-out data there is nothing to evaluate.
    pub eval_every: u64,
    /// Micro-batches of an evaluation: always the first ones; 0 means all of the held-out data. Default 0.
    pub eval_batches: u64,
    /// Save a checkpoint every so many steps; 0 means only at the end and when interrupted. Training waits only for a
    /// copy of weights and optimizer state to the host's memory, which is written while it goes on. One that cannot be
    /// written, as on a full disk, is a warning, and the earlier ones stay; if it is the last, the run fails.
    /// Default 1000.
    pub save_every: u64,
    /// Keep so many of the newest checkpoints, and remove an older one when a new one is safe on disk, so the disk needs
    /// space for one more; 0 keeps all. Damaged ones do not count and are not removed. Default 3: one to continue from,
    /// and two should it turn out damaged.
    pub keep_last: u64,
    /// Keep the checkpoints whose step is a multiple of this, however old; 0 means none for that. Default 0.
    pub keep_every: u64,
    /// Keep so many of the checkpoints with the lowest held-out loss, of the steps that were both evaluated and saved; 0
    /// means none for that. Default 1.
    pub keep_best: u64,
    /// Where there is no terminal, print a line every so many steps; 0 means every ten seconds. `metrics.jsonl` has
    /// every step in any case. Default 0.
    pub log_every: u64,
    /// Write TensorBoard events into the run folder, every few seconds. Default `true`.
    pub tensorboard: bool,
    /// The run folder. A relative path is relative to the current folder. Default `runs/` and the config file's name.
    pub out_dir: PathBuf,
}

choices! {
    /// What to do about a step that is not finite.
    NonFinite {
        /// End the run.
        Stop = "stop",
        /// Go on without its update.
        Skip = "skip",
        /// Go on without its update and those since the newest checkpoint.
        Rollback = "rollback",
    }
}

/// Whether a setting that is off is left out of the resolved config, as in configs of the versions that had none.
pub(crate) fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

choices! {
    /// What the backward pass computes again.
    Remat {
        /// Nothing: every activation is kept.
        None = "none",
        /// The inside of every block: only what goes into a block is kept.
        Layer = "layer",
    }
}

choices! {
    /// How blocks stand in the program.
    Layers {
        /// One after the other.
        Unroll = "unroll",
        /// Once, in a loop over their stacked parameters.
        Scan = "scan",
    }
}

choices! {
    /// The type matrix products are computed in.
    Precision {
        /// Products of bf16 operands, accumulated in f32.
        Bfloat16 = "bfloat16",
        /// f32 throughout.
        Float32 = "float32",
    }
}

/// `[sample]`: texts to generate during training and when it is done, and the defaults of `generate`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleConfig {
    /// Also generate them every so many steps, to watch the model learn: they are recorded in `metrics.jsonl`, and their
    /// beginnings shown. 0 means only when training is done, when they are printed. Default 0.
    pub every: u64,
    /// Texts for each prompt. Default 10.
    pub count: usize,
    /// Tokens a text may have; a document end stops it earlier. Default 256.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 takes the likeliest token each time. Default 1.0: the model's own distribution.
    pub temperature: f64,
    /// Draw from this many likeliest tokens; 0 means all. Default 0.
    pub top_k: usize,
    /// Draw from the likeliest tokens that together have this probability; 1 means all. Default 1.0.
    pub top_p: f64,
    /// What texts begin with: one text, or a list of them. Default empty: a document's start, or a line's in running text.
    pub prompt: Vec<String>,
}

impl Default for SampleConfig {
    fn default() -> SampleConfig {
        let prompt = vec![String::new()];
        SampleConfig { every: 0, count: 10, max_new_tokens: 256, temperature: 1.0, top_k: 0, top_p: 1.0, prompt }
    }
}
