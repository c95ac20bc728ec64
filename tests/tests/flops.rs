//! The operations of training, counted by convention from a model's sizes, against those of its graph's products.

use lmc_lower::report::Direction;
use lmc_lower::{Target, lower};
use lmc_models::{Compute, Dropout, Gpt2Config, LlamaConfig, ModelConfig, Precision, loss_func};

/// Forward, each element of a matrix is a multiplication and an addition of every token, a third of what training counts;
/// and attention is computed in full, of which training counts half: 4 of its 12 as against 6.
fn check(model: &ModelConfig, batch: usize, seq_len: usize) {
    let loss = loss_func(model, batch, seq_len, Compute::from(Precision::Float32));
    let report = lower(&loss.func, &Target::generic()).report;
    let found = report.total_flops_of(Direction::Forward) as f64;
    let (matrices, all) = (model.flops_per_token(0), model.flops_per_token(seq_len));
    let expected = (batch * seq_len) as f64 * (matrices / 3.0 + (all - matrices) * 4.0 / 6.0);
    assert!((found / expected - 1.0).abs() < 1e-12, "{found} in the graph, {expected} by convention: {model:?}");
}

#[test]
fn the_convention_counts_the_products_of_the_graph() {
    let llama = LlamaConfig {
        vocab_size: 101,
        hidden_size: 24,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        intermediate_size: 40,
        rope_theta: 10000.0,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        dropout: Dropout::NONE,
    };
    check(&ModelConfig::Llama(llama.clone()), 2, 16);
    check(&ModelConfig::Llama(LlamaConfig { tie_word_embeddings: false, ..llama }), 3, 7);
    let gpt2 = Gpt2Config::new(53, 16, 24, 2, 3);
    check(&ModelConfig::Gpt2(gpt2.clone()), 2, 16);
    check(&ModelConfig::Gpt2(Gpt2Config { n_inner: Some(31), tie_word_embeddings: false, bias: false, ..gpt2 }), 1, 5);
}
