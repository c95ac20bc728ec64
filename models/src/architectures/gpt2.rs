//! GPT-2: learned positions, LayerNorm before each layer, a feed-forward layer with GELU (Radford et al. 2019, section
//! 2.3). Paths and shapes are those of Hugging Face's `GPT2LMHeadModel`; the options beyond its `config.json` make the
//! small relatives that are trained on characters.

use lmc_graph::{DType, TensorType, Value};

use crate::architectures::sequence::{Sequence, WholeSequences};
use crate::architectures::{ConfigError, Dropout, check_layers, check_positive, check_sizes, residual_std};
use crate::layers::{Attention, Embedding, LayerNorm, Linear};
use crate::layers::{
    blocks, conv1d, dropout, embedding, gelu, gelu_new, layer_norm, logits, rms_normalize, tied_logits,
};
use crate::params::Init;
use crate::scope::{Dimension, Scope};

/// The sizes of a GPT-2, named as in its `config.json`, and options of its relatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// Token ids.
    pub vocab_size: usize,
    /// Positions, the longest sequence.
    pub n_positions: usize,
    /// Elements of an activation.
    pub n_embd: usize,
    /// Blocks of attention and feed-forward layer.
    pub n_layer: usize,
    /// Heads; they divide `n_embd`.
    pub n_head: usize,
    /// Elements between the projections of the feed-forward layer; `None` is `4 * n_embd`.
    pub n_inner: Option<usize>,
    /// The function between them.
    pub activation_function: ActivationFunction,
    /// Added to the variance, or to the mean square, in normalization.
    pub layer_norm_epsilon: f64,
    /// The standard deviation of initial weights; 0.02 in GPT-2.
    pub initializer_range: f64,
    /// Whether the head is the token embedding table, or a matrix of its own.
    pub tie_word_embeddings: bool,
    /// How activations are normalized.
    pub normalization: Normalization,
    /// Whether products and LayerNorm have biases; GPT-2's have.
    pub bias: bool,
    /// Whether embeddings are normalized before the first block; GPT-2's are not. (With LayerNorm, `transformer.ln_e`.)
    pub embedding_norm: bool,
    /// Whether activations are normalized after the last block; GPT-2's are.
    pub final_norm: bool,
    /// The rates of dropout: `embd_pdrop`, `resid_pdrop` and `attn_pdrop`. 0.1 each in GPT-2.
    pub dropout: Dropout,
}

/// The function between the projections of a feed-forward layer, by Hugging Face's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationFunction {
    /// `gelu`: GELU by the error function.
    Gelu,
    /// `gelu_new`: GELU by a hyperbolic tangent.
    GeluNew,
    /// `relu`.
    Relu,
}

/// How activations are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// `layer_norm`: mean and variance, with a gain.
    LayerNorm,
    /// `rms_norm`: root mean square, without a gain.
    RmsNorm,
}

impl Gpt2Config {
    /// GPT-2 with these sizes and everything else as in the published models, but without dropout.
    pub fn new(vocab_size: usize, n_positions: usize, n_embd: usize, n_layer: usize, n_head: usize) -> Gpt2Config {
        Gpt2Config {
            vocab_size,
            n_positions,
            n_embd,
            n_layer,
            n_head,
            n_inner: None,
            activation_function: ActivationFunction::GeluNew,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: true,
            normalization: Normalization::LayerNorm,
            bias: true,
            embedding_norm: false,
            final_norm: true,
            dropout: Dropout::NONE,
        }
    }

    /// Elements between the projections of the feed-forward layer.
    pub fn inner_size(&self) -> usize {
        self.n_inner.unwrap_or_else(|| self.n_embd.saturating_mul(4))
    }

    /// The last activations, normalized: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid or the sequence is longer than `n_positions`.
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        let [_, t] = tokens.dims();
        assert!(t <= self.n_positions, "{t} tokens are more than n_positions = {}", self.n_positions);
        let sequences = WholeSequences::new(scope, tokens, self.dropout.attention);
        scope.sub("transformer", |scope| {
            let x = self.embedded(scope, tokens, &sequences);
            let x = blocks(scope, "h", self.n_layer, x, |scope, x| self.block(scope, x, 0, &sequences));
            self.normalized(scope, x)
        })
    }

    /// [`Gpt2Config::hidden`] of any sequences, block after block.
    ///
    /// # Panics
    /// If the configuration is not valid. Positions beyond `n_positions` are those of the last.
    #[track_caller]
    pub fn hidden_of<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>, sequences: &dyn Sequence<'g>) -> Value<'g> {
        scope.sub("transformer", |scope| {
            let x = self.embedded(scope, tokens, sequences);
            let x = (0..self.n_layer)
                .fold(x, |x, layer| scope.sub(&format!("h.{layer}"), |scope| self.block(scope, x, layer, sequences)));
            self.normalized(scope, x)
        })
    }

    /// The f32 logits of the last activations: `.. C → .. V`.
    ///
    /// # Panics
    /// If the last size of `hidden` is not `n_embd`.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        let table = self.token_embedding();
        if self.tie_word_embeddings {
            return scope.sub("transformer.wte", |scope| tied_logits(scope, hidden, &table));
        }
        let layer = Linear { input: table.row, output: table.rows, std: self.initializer_range, bias: false };
        scope.sub("lm_head", |scope| logits(scope, hidden, &layer))
    }

    fn embedded<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>, sequences: &dyn Sequence<'g>) -> Value<'g> {
        let [_, t] = tokens.dims();
        let tokens = scope.sub("wte", |scope| embedding(scope, tokens, &self.token_embedding()));
        let table = Embedding { rows: ("positions", self.n_positions), ..self.token_embedding() };
        let positions = scope.sub("wpe", |scope| match sequences.positions() {
            None if t <= self.n_positions => self.first_positions(scope, t),
            // Padding stands beyond the last position, and gets that one's embedding.
            None => embedding(scope, scope.builder().iota(&TensorType::new(DType::I32, [1, t]), 1), &table),
            Some(positions) => embedding(scope, positions, &table),
        });
        let mut x = tokens + positions;
        if self.embedding_norm {
            x = self.norm(scope, "ln_e", x);
        }
        dropout(scope, "drop", x, self.dropout.embedding)
    }

    fn normalized<'g>(&self, scope: &Scope<'g>, x: Value<'g>) -> Value<'g> {
        if self.final_norm { self.norm(scope, "ln_f", x) } else { x }
    }

    /// The embeddings of positions `0 .. t`: the first rows of the table, so that their gradient is a pad and no scatter.
    fn first_positions<'g>(&self, scope: &Scope<'g>, t: usize) -> Value<'g> {
        let init = Init::Normal { std: self.initializer_range };
        let table = scope.param("weight", &[("positions", self.n_positions), self.hidden_dimension()], init);
        table.slice_dim(0, 0..t).convert(scope.compute_dtype())
    }

    fn block<'g>(&self, scope: &Scope<'g>, x: Value<'g>, layer: usize, sequences: &dyn Sequence<'g>) -> Value<'g> {
        let h = self.norm(scope, "ln_1", x);
        let h = scope.sub("attn", |scope| self.attention(scope, h, layer, sequences));
        let x = x + dropout(scope, "attn.resid_dropout", h, self.dropout.residual);
        let h = self.norm(scope, "ln_2", x);
        let h = scope.sub("mlp", |scope| self.mlp(scope, h));
        x + dropout(scope, "mlp.dropout", h, self.dropout.residual)
    }

    fn attention<'g>(&self, scope: &Scope<'g>, x: Value<'g>, layer: usize, sequences: &dyn Sequence<'g>) -> Value<'g> {
        let [b, t, c] = x.dims();
        let (n, h) = (self.n_head, self.n_embd / self.n_head);
        let qkv = scope.sub("c_attn", |scope| {
            conv1d(scope, x, &self.linear(self.hidden_dimension(), ("heads", 3 * c), self.initializer_range))
        });
        let part = |i: usize| qkv.slice_dim(2, i * c..(i + 1) * c).reshape(&[b, t, n, h]);
        let parts = [part(0), part(1), part(2)];
        let output = sequences.attend(scope, layer, parts, &Attention::new(h)).reshape(&[b, t, c]);
        let layer = self.linear(("heads", c), self.hidden_dimension(), self.residual_std());
        scope.sub("c_proj", |scope| conv1d(scope, output, &layer))
    }

    fn mlp<'g>(&self, scope: &Scope<'g>, x: Value<'g>) -> Value<'g> {
        let (hidden, intermediate) = (self.hidden_dimension(), ("intermediate", self.inner_size()));
        let widen = self.linear(hidden, intermediate, self.initializer_range);
        let narrow = self.linear(intermediate, hidden, self.residual_std());
        let h = scope.sub("c_fc", |scope| conv1d(scope, x, &widen));
        let h = match self.activation_function {
            ActivationFunction::Gelu => gelu(h),
            ActivationFunction::GeluNew => gelu_new(h),
            ActivationFunction::Relu => h.relu(),
        };
        scope.sub("c_proj", |scope| conv1d(scope, h, &narrow))
    }

    fn norm<'g>(&self, scope: &Scope<'g>, name: &str, x: Value<'g>) -> Value<'g> {
        let (dimension, eps) = (self.hidden_dimension(), self.layer_norm_epsilon);
        scope.sub(name, |scope| match self.normalization {
            Normalization::LayerNorm => layer_norm(scope, x, &LayerNorm { dimension, eps, bias: self.bias }),
            Normalization::RmsNorm => rms_normalize(x, eps),
        })
    }

    fn linear(&self, input: Dimension, output: Dimension, std: f64) -> Linear {
        Linear { input, output, std, bias: self.bias }
    }

    fn token_embedding(&self) -> Embedding {
        Embedding { rows: ("vocab", self.vocab_size), row: self.hidden_dimension(), std: self.initializer_range }
    }

    fn hidden_dimension(&self) -> Dimension {
        ("hidden", self.n_embd)
    }

    fn residual_std(&self) -> f64 {
        residual_std(self.initializer_range, self.n_layer)
    }

    /// The number of parameters; a tied embedding counts once.
    pub fn num_params(&self) -> usize {
        let (c, inner) = (self.n_embd, self.inner_size());
        let tables = if self.tie_word_embeddings { self.vocab_size } else { 2 * self.vocab_size } + self.n_positions;
        // c_attn, attn.c_proj, c_fc, mlp.c_proj.
        let biases = if self.bias { 3 * c + c + inner + c } else { 0 };
        let norm = match (self.normalization, self.bias) {
            (Normalization::LayerNorm, true) => 2 * c,
            (Normalization::LayerNorm, false) => c,
            (Normalization::RmsNorm, _) => 0,
        };
        let norms = 2 * self.n_layer + usize::from(self.embedding_norm) + usize::from(self.final_norm);
        tables * c + self.n_layer * (self.layer_matrix_elements() + biases) + norms * norm
    }

    /// Elements of the matrices of a block.
    pub(crate) fn layer_matrix_elements(&self) -> usize {
        self.n_embd * (4 * self.n_embd + 2 * self.inner_size())
    }

    /// Checks that the model can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.inner_size()),
        ])?;
        check_layers("n_layer", self.n_layer)?;
        check_positive(&[
            ("layer_norm_epsilon", self.layer_norm_epsilon),
            ("initializer_range", self.initializer_range),
        ])?;
        self.dropout.validate()?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            let reason = format!("must divide n_embd = {}, found {}", self.n_embd, self.n_head);
            return Err(ConfigError { field: "n_head", reason });
        }
        Ok(())
    }
}
