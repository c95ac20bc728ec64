//! The decoder that most of today's models share: rotary positions, root mean square norms, grouped-query attention, a gated
//! feed-forward layer. Families differ in options, which [`DecoderConfig`] states. Paths and shapes are those of Hugging
//! Face's models.
//!
//! | family | what it adds to Llama's first form |
//! |---|---|
//! | Llama 3 (Grattafiori et al. 2024) | [`RopeScaling::Llama3`](crate::layers::RopeScaling) |
//! | Mistral (Jiang et al. 2023) | a sliding window |
//! | Qwen2 (Yang et al. 2024) | biases of query, key and value |
//! | Qwen3 (Yang et al. 2025) | norms of query and key |
//! | Gemma 2 (Gemma Team 2024b) | GEGLU, scaled embeddings, norms behind layers, soft caps, windows in half of them |
//! | Gemma 3 (Gemma Team 2025) | as Gemma 2, norms of query and key for caps, a rotation of its own under a window |

use lmc_graph::Value;

use crate::architectures::sequence::{Sequence, WholeSequences};
use crate::architectures::{ConfigError, Dropout, check_layers, check_positive, check_sizes, residual_std};
use crate::layers::{Attention, Embedding, Gate, GatedMlp, Linear, Rope, RopeConfig, RopeScaling};
use crate::layers::{
    blocks, dropout, embedding, gated_mlp, linear, logits, rms_norm, rms_norm_about_one, rotate, tied_logits,
};
use crate::scope::{Dimension, Scope};

/// The sizes and options of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Elements of an activation.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; the query heads are a multiple of them.
    pub num_key_value_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Elements between the projections of the feed-forward layer.
    pub intermediate_size: usize,
    /// The longest sequence that the model was made for; `None` where it says nothing.
    pub max_position_embeddings: Option<usize>,
    /// For each block its sliding window, or `None` if it sees all positions.
    pub sliding_windows: Vec<Option<usize>>,
    /// The rotation of blocks that see all positions.
    pub rope: RopeConfig,
    /// The rotation of blocks with a sliding window.
    pub sliding_rope: RopeConfig,
    /// What scores of attention are multiplied with.
    pub attention_scale: f64,
    /// The soft cap of scores.
    pub attention_soft_cap: Option<f64>,
    /// The soft cap of logits.
    pub logit_soft_cap: Option<f64>,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// How gains of norms are stored.
    pub gain: Gain,
    /// Where a block has norms.
    pub norms: Norms,
    /// Whether queries and keys are normalized, each head by itself.
    pub query_key_norm: bool,
    /// Whether `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// Whether `o_proj` has a bias.
    pub output_bias: bool,
    /// Whether the products of the feed-forward layer have biases.
    pub mlp_bias: bool,
    /// The function of the feed-forward layer's gate.
    pub gate: Gate,
    /// What embeddings are multiplied with, rounded to the compute type.
    pub embedding_scale: Option<f64>,
    /// Whether the head is the embedding table, or a matrix of its own.
    pub tie_word_embeddings: bool,
    /// The standard deviation of initial weights.
    pub initializer_range: f64,
    /// The rates of dropout.
    pub dropout: Dropout,
}

/// How a norm's gain is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// As it is.
    Plain,
    /// As its distance from one.
    AboutOne,
}

/// Where a block has norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// Before each of its two layers.
    Before,
    /// Before and behind each of them.
    Around,
}

/// The rotations of a model at the positions that it computes.
#[derive(Clone, Copy, Debug)]
struct Ropes<'g> {
    all: Rope<'g>,
    sliding: Rope<'g>,
}

impl DecoderConfig {
    /// The last activations of whole sequences, normalized: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid, or its blocks differ.
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        let (first, layers) = (self.sliding_windows[0], self.sliding_windows.len());
        assert!(self.sliding_windows.iter().all(|&window| window == first), "the blocks are equal");
        let sequences = WholeSequences::new(scope, tokens, self.dropout.attention);
        scope.sub("model", |scope| {
            let x = self.embedded(scope, tokens);
            let ropes = self.ropes(scope, tokens, &sequences);
            let x = blocks(scope, "layers", layers, x, |scope, x| self.block(scope, x, ropes, 0, &sequences));
            self.norm(scope, "norm", x, ("hidden", self.hidden_size))
        })
    }

    /// [`DecoderConfig::hidden`] of any sequences, block after block.
    ///
    /// # Panics
    /// If the configuration is not valid.
    #[track_caller]
    pub fn hidden_of<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>, sequences: &dyn Sequence<'g>) -> Value<'g> {
        scope.sub("model", |scope| {
            let x = self.embedded(scope, tokens);
            let ropes = self.ropes(scope, tokens, sequences);
            let x = (0..self.sliding_windows.len()).fold(x, |x, layer| {
                scope.sub(&format!("layers.{layer}"), |scope| self.block(scope, x, ropes, layer, sequences))
            });
            self.norm(scope, "norm", x, ("hidden", self.hidden_size))
        })
    }

    /// The f32 logits of the last activations: `.. C → .. V`.
    ///
    /// # Panics
    /// If the last size of `hidden` is not `hidden_size`.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        let table = self.embedding();
        let logits = if self.tie_word_embeddings {
            scope.sub("model.embed_tokens", |scope| tied_logits(scope, hidden, &table))
        } else {
            let layer = Linear { input: table.row, output: table.rows, std: self.initializer_range, bias: false };
            scope.sub("lm_head", |scope| logits(scope, hidden, &layer))
        };
        match self.logit_soft_cap {
            None => logits,
            Some(cap) => (logits / cap).tanh() * cap,
        }
    }

    fn embedded<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        let x = scope.sub("embed_tokens", |scope| embedding(scope, tokens, &self.embedding()));
        let x = match self.embedding_scale {
            None => x,
            Some(scale) => x * scale,
        };
        dropout(scope, "embd_dropout", x, self.dropout.embedding)
    }

    fn ropes<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>, sequences: &dyn Sequence<'g>) -> Ropes<'g> {
        let [_, t] = tokens.dims();
        let rope = |config: &RopeConfig| match sequences.positions() {
            None => Rope::new(scope.builder(), t, self.head_dim, config),
            Some(positions) => Rope::at(positions, self.head_dim, config),
        };
        scope.sub("rotary_emb", |_| {
            let all = rope(&self.rope);
            Ropes { all, sliding: if self.sliding_rope == self.rope { all } else { rope(&self.sliding_rope) } }
        })
    }

    fn block<'g>(
        &self,
        scope: &Scope<'g>,
        x: Value<'g>,
        ropes: Ropes<'g>,
        layer: usize,
        sequences: &dyn Sequence<'g>,
    ) -> Value<'g> {
        // Hugging Face's names: what stands behind attention is `post_attention_layernorm` only where it is not the norm
        // before the feed-forward layer.
        let (before_mlp, behind) = match self.norms {
            Norms::Before => ("post_attention_layernorm", None),
            Norms::Around => {
                ("pre_feedforward_layernorm", Some(("post_attention_layernorm", "post_feedforward_layernorm")))
            }
        };
        let norm = |name: &str, x: Value<'g>| self.norm(scope, name, x, ("hidden", self.hidden_size));
        let h = norm("input_layernorm", x);
        let h = scope.sub("self_attn", |scope| self.attention(scope, h, ropes, layer, sequences));
        let h = behind.map_or(h, |(name, _)| norm(name, h));
        let x = x + dropout(scope, "self_attn.resid_dropout", h, self.dropout.residual);
        let h = norm(before_mlp, x);
        let mlp = GatedMlp {
            hidden: ("hidden", self.hidden_size),
            intermediate: ("intermediate", self.intermediate_size),
            std: self.initializer_range,
            residual_std: residual_std(self.initializer_range, self.sliding_windows.len()),
            bias: self.mlp_bias,
            gate: self.gate,
        };
        let h = scope.sub("mlp", |scope| gated_mlp(scope, h, &mlp));
        let h = behind.map_or(h, |(_, name)| norm(name, h));
        x + dropout(scope, "mlp.resid_dropout", h, self.dropout.residual)
    }

    fn attention<'g>(
        &self,
        scope: &Scope<'g>,
        x: Value<'g>,
        ropes: Ropes<'g>,
        layer: usize,
        sequences: &dyn Sequence<'g>,
    ) -> Value<'g> {
        let [b, t, _] = x.dims();
        let (n, k, h) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        let (hidden, std) = (("hidden", self.hidden_size), self.initializer_range);
        let project = |name: &str, dimension: &'static str, heads: usize| {
            let layer = Linear { input: hidden, output: (dimension, heads * h), std, bias: self.qkv_bias };
            scope.sub(name, |scope| linear(scope, x, &layer)).reshape(&[b, t, heads, h])
        };
        let (query, key) = (project("q_proj", "heads", n), project("k_proj", "kv_heads", k));
        let value = project("v_proj", "kv_heads", k);
        let norm = |name, x| if self.query_key_norm { self.norm(scope, name, x, ("head_dim", h)) } else { x };
        let (query, key) = (norm("q_norm", query), norm("k_norm", key));
        let sliding_window = self.sliding_windows[layer];
        let rope = if sliding_window.is_some() { ropes.sliding } else { ropes.all };
        let parts = [rotate(query, rope), rotate(key, rope), value];
        let attention = Attention { scale: self.attention_scale, sliding_window, soft_cap: self.attention_soft_cap };
        let output = sequences.attend(scope, layer, parts, &attention).reshape(&[b, t, n * h]);
        let std = residual_std(std, self.sliding_windows.len());
        let layer = Linear { input: ("heads", n * h), output: hidden, std, bias: self.output_bias };
        scope.sub("o_proj", |scope| linear(scope, output, &layer))
    }

    fn norm<'g>(&self, scope: &Scope<'g>, name: &str, x: Value<'g>, dimension: Dimension) -> Value<'g> {
        scope.sub(name, |scope| match self.gain {
            Gain::Plain => rms_norm(scope, x, dimension, self.rms_norm_eps),
            Gain::AboutOne => rms_norm_about_one(scope, x, dimension, self.rms_norm_eps),
        })
    }

    fn embedding(&self) -> Embedding {
        let (rows, row) = (("vocab", self.vocab_size), ("hidden", self.hidden_size));
        Embedding { rows, row, std: self.initializer_range }
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings.unwrap_or(1)),
        ])?;
        check_layers("num_hidden_layers", self.sliding_windows.len())?;
        for window in self.sliding_windows.iter().flatten() {
            check_sizes(&[("sliding_window", *window)])?;
        }
        for rope in [&self.rope, &self.sliding_rope] {
            check_positive(&[("rope_theta", rope.theta)])?;
            match rope.scaling {
                RopeScaling::None => {}
                RopeScaling::Linear { factor } => check_positive(&[("factor", factor)])?,
                RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => {
                    check_positive(&[
                        ("factor", factor),
                        ("beta_fast", beta_fast),
                        ("beta_slow", beta_slow),
                        ("attention_factor", attention_factor),
                    ])?;
                    check_sizes(&[("original_max_position_embeddings", original)])?;
                    if beta_slow >= beta_fast {
                        let reason = format!("must be below beta_fast = {beta_fast}, found {beta_slow}");
                        return Err(ConfigError { field: "beta_slow", reason });
                    }
                    if rope.theta <= 1.0 {
                        let reason = format!("must be above 1 with YaRN, found {}", rope.theta);
                        return Err(ConfigError { field: "rope_theta", reason });
                    }
                }
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                    check_positive(&[
                        ("factor", factor),
                        ("low_freq_factor", low_freq_factor),
                        ("high_freq_factor", high_freq_factor),
                    ])?;
                    check_sizes(&[("original_max_position_embeddings", original)])?;
                    if low_freq_factor >= high_freq_factor {
                        let reason =
                            format!("must be below high_freq_factor = {high_freq_factor}, found {low_freq_factor}");
                        return Err(ConfigError { field: "low_freq_factor", reason });
                    }
                }
            }
        }
        check_positive(&[
            ("initializer_range", self.initializer_range),
            ("rms_norm_eps", self.rms_norm_eps),
            ("query_pre_attn_scalar", self.attention_scale),
            ("attn_logit_softcapping", self.attention_soft_cap.unwrap_or(1.0)),
            ("final_logit_softcapping", self.logit_soft_cap.unwrap_or(1.0)),
        ])?;
        self.dropout.validate()?;
        let (n, k) = (self.num_attention_heads, self.num_key_value_heads);
        if !n.is_multiple_of(k) {
            let reason = format!("must divide num_attention_heads = {n}, found {k}");
            return Err(ConfigError { field: "num_key_value_heads", reason });
        }
        let widest = (1 << 24) / n;
        if self.head_dim > widest {
            let reason = format!("must be at most {widest} with num_attention_heads = {n}, found {}", self.head_dim);
            return Err(ConfigError { field: "head_dim", reason });
        }
        if !self.head_dim.is_multiple_of(2) {
            let reason = format!("must be even, as rotary positions turn pairs of elements, found {}", self.head_dim);
            return Err(ConfigError { field: "head_dim", reason });
        }
        Ok(())
    }
}
