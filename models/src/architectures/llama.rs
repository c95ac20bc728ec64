//! Llama: RMSNorm before each layer, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023; Ainslie et
//! al. 2023 for the grouped queries). Paths and shapes are those of Hugging Face's `LlamaForCausalLM`.

use lmc_graph::Value;

use crate::architectures::{ConfigError, Dropout, check_layers, check_positive, check_sizes, residual_std};
use crate::layers::{Embedding, Linear, Rope, SwiGlu};
use crate::layers::{
    blocks, causal_attention_with_dropout, dropout, embedding, linear, logits, rms_norm, rotate, swiglu, tied_logits,
};
use crate::scope::Scope;

/// The sizes of a Llama, named as in its `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Token ids.
    pub vocab_size: usize,
    /// Elements of an activation.
    pub hidden_size: usize,
    /// Blocks of attention and feed-forward layer.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; the query heads are a multiple of them.
    pub num_key_value_heads: usize,
    /// Elements of a head; even. Need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Elements between the projections of the feed-forward layer.
    pub intermediate_size: usize,
    /// The base of the rotary frequencies; 10000 in Llama and Llama 2.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding table, or a matrix of its own.
    pub tie_word_embeddings: bool,
    /// The standard deviation of initial weights; 0.02 in Hugging Face's.
    pub initializer_range: f64,
    /// The rates of dropout; Llama's are 0.
    pub dropout: Dropout,
}

impl LlamaConfig {
    /// The last activations, normalized: `i32 B T → B T C`.
    ///
    /// # Panics
    /// If the configuration is not valid.
    #[track_caller]
    pub fn hidden<'g>(&self, scope: &Scope<'g>, tokens: Value<'g>) -> Value<'g> {
        let [_, t] = tokens.dims();
        scope.sub("model", |scope| {
            let x = scope.sub("embed_tokens", |scope| embedding(scope, tokens, &self.embedding()));
            let x = dropout(scope, "embd_dropout", x, self.dropout.embedding);
            let rope = scope.sub("rotary_emb", |scope| Rope::new(scope.builder(), t, self.head_dim, self.rope_theta));
            let block = |scope: &Scope<'g>, x| self.block(scope, x, rope);
            let x = blocks(scope, "layers", self.num_hidden_layers, x, block);
            self.norm(scope, "norm", x)
        })
    }

    /// The f32 logits of the last activations: `.. C → .. V`.
    ///
    /// # Panics
    /// If the last size of `hidden` is not `hidden_size`.
    #[track_caller]
    pub fn head<'g>(&self, scope: &Scope<'g>, hidden: Value<'g>) -> Value<'g> {
        let table = self.embedding();
        if self.tie_word_embeddings {
            return scope.sub("model.embed_tokens", |scope| tied_logits(scope, hidden, &table));
        }
        let layer = Linear { input: table.row, output: table.rows, std: self.initializer_range, bias: false };
        scope.sub("lm_head", |scope| logits(scope, hidden, &layer))
    }

    fn block<'g>(&self, scope: &Scope<'g>, x: Value<'g>, rope: Rope<'g>) -> Value<'g> {
        let h = self.norm(scope, "input_layernorm", x);
        let h = scope.sub("self_attn", |scope| self.attention(scope, h, rope));
        let x = x + dropout(scope, "self_attn.resid_dropout", h, self.dropout.residual);
        let h = self.norm(scope, "post_attention_layernorm", x);
        let mlp = SwiGlu {
            hidden: ("hidden", self.hidden_size),
            intermediate: ("intermediate", self.intermediate_size),
            std: self.initializer_range,
            residual_std: residual_std(self.initializer_range, self.num_hidden_layers),
            bias: false,
        };
        let h = scope.sub("mlp", |scope| swiglu(scope, h, &mlp));
        x + dropout(scope, "mlp.resid_dropout", h, self.dropout.residual)
    }

    fn attention<'g>(&self, scope: &Scope<'g>, x: Value<'g>, rope: Rope<'g>) -> Value<'g> {
        let [b, t, _] = x.dims();
        let (n, k, h) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        let (hidden, std) = (("hidden", self.hidden_size), self.initializer_range);
        let project = |name: &str, dimension: &'static str, heads: usize| {
            let layer = Linear { input: hidden, output: (dimension, heads * h), std, bias: false };
            scope.sub(name, |scope| linear(scope, x, &layer)).reshape(&[b, t, heads, h])
        };
        let (query, key) = (project("q_proj", "heads", n), project("k_proj", "kv_heads", k));
        let value = project("v_proj", "kv_heads", k);
        let parts = [rotate(query, rope), rotate(key, rope), value];
        let output = causal_attention_with_dropout(scope, "attn_dropout", parts, self.dropout.attention);
        let output = output.reshape(&[b, t, n * h]);
        let std = residual_std(std, self.num_hidden_layers);
        let layer = Linear { input: ("heads", n * h), output: hidden, std, bias: false };
        scope.sub("o_proj", |scope| linear(scope, output, &layer))
    }

    fn norm<'g>(&self, scope: &Scope<'g>, name: &str, x: Value<'g>) -> Value<'g> {
        scope.sub(name, |scope| rms_norm(scope, x, ("hidden", self.hidden_size), self.rms_norm_eps))
    }

    fn embedding(&self) -> Embedding {
        let (rows, row) = (("vocab", self.vocab_size), ("hidden", self.hidden_size));
        Embedding { rows, row, std: self.initializer_range }
    }

    /// The number of parameters; a tied embedding counts once.
    pub fn num_params(&self) -> usize {
        let embedding = self.vocab_size * self.hidden_size;
        let gains = (2 * self.num_hidden_layers + 1) * self.hidden_size;
        let tables = if self.tie_word_embeddings { embedding } else { 2 * embedding };
        tables + self.num_hidden_layers * self.layer_matrix_elements() + gains
    }

    /// Elements of the matrices of a block.
    pub(crate) fn layer_matrix_elements(&self) -> usize {
        let query_and_output = 2 * self.num_attention_heads * self.head_dim;
        let key_and_value = 2 * self.num_key_value_heads * self.head_dim;
        self.hidden_size * (query_and_output + key_and_value + 3 * self.intermediate_size)
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
        ])?;
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        check_positive(&[("rope_theta", self.rope_theta), ("initializer_range", self.initializer_range)])?;
        check_positive(&[("rms_norm_eps", self.rms_norm_eps)])?;
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
