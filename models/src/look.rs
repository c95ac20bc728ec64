//! What a model makes of a text, for people to look at: its logits, and where it looks.

use lmc_graph::{Builder, Copier, DType, Func, Op, Value, decompose};

use crate::architectures::ModelConfig;
use crate::compute::{Compute, Layers, Remat};
use crate::loss::logits_func;
use crate::params::{ParamSpec, Params};

/// A function that tells what a model makes of texts.
///
/// Parameters are `tokens`, `i32[batch, seq_len]`, then the weights; results are `logits`, `f32[batch, seq_len, vocab]`,
/// then the attention of every layer, `f32[batch, heads, seq_len, seq_len]`: how much each position attends to each,
/// rows that sum to 1.
#[derive(Clone, Debug)]
pub struct Look {
    /// The function.
    pub func: Func,
    /// The weights.
    pub specs: Params<ParamSpec>,
    /// The scope of each attention, in the order of the results.
    pub layers: Vec<String>,
}

/// [`logits_func`] with the probabilities of every attention beside the logits.
///
/// # Panics
/// If the configuration is not valid or the sequence longer than the model takes.
#[track_caller]
pub fn look_func(model: &ModelConfig, batch: usize, seq_len: usize, compute: impl Into<Compute>) -> Look {
    // In a loop a layer would have no place of its own. A text is one document.
    let compute = Compute { remat: Remat::None, layers: Layers::Unroll, documents: None, ..compute.into() };
    let (plain, specs) = logits_func(model, batch, seq_len, compute);
    let mut layers = Vec::new();
    let mut func = Builder::build("look", |b| {
        let params: Vec<Value<'_>> =
            plain.params.iter().zip(plain.param_types()).map(|(param, ty)| b.param(&param.name, ty)).collect();
        let mut copy = Copier::new(b, &plain);
        plain.param_values().iter().zip(&params).for_each(|(&old, &new)| copy.map(old, new));
        let mut results = Vec::new();
        for &id in &plain.region(plain.body()).nodes {
            let node = plain.node(id);
            if let Op::ScaledDotProductAttention(op) = &node.op {
                let operands: Vec<Value<'_>> = node.operands.iter().map(|&value| copy.get(value)).collect();
                layers.push(node.location.scope.to_string());
                let attention = b.at(node.location.clone(), || {
                    decompose::attention_probabilities(op, &operands).convert(DType::F32)
                });
                results.push(attention);
            }
            copy.node(id);
        }
        plain.result_values().iter().map(|&value| copy.get(value)).chain(results).collect()
    });
    func.result_names = std::iter::once("logits".to_owned()).chain(layers.iter().cloned()).collect();
    Look { func, specs, layers }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, TensorType, eval, verify};

    use super::*;
    use crate::architectures::Dropout;
    use crate::architectures::gpt2::Gpt2Config;
    use crate::architectures::llama::LlamaConfig;
    use crate::compute::Precision;
    use crate::init::initialize;

    /// The logits are those of the model, and the attention is the softmax of its masked scores: rows of positions that
    /// were, which sum to 1, and of which the first sees itself alone.
    #[test]
    fn attention_is_beside_the_logits() {
        const T: usize = 5;
        let gpt2 = Gpt2Config { initializer_range: 0.5, ..Gpt2Config::new(7, T, 8, 2, 2) };
        let llama = LlamaConfig {
            vocab_size: 7,
            hidden_size: 8,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            intermediate_size: 12,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.5,
            dropout: Dropout::NONE,
        };
        let models = [
            (ModelConfig::Gpt2(gpt2), "transformer.h.1.attn", 2, 2),
            (ModelConfig::Llama(llama), "model.layers.2.self_attn", 3, 4),
        ];
        for (model, last_layer, num_layers, heads) in models {
            let Look { func, specs, layers } = look_func(&model, 1, T, Precision::Float32);
            verify(&func).unwrap_or_else(|errors| panic!("{errors:?}"));
            assert_eq!((layers.len(), layers.last().map(String::as_str)), (num_layers, Some(last_layer)));
            let tokens = Literal::new([1, T], &[1i32, 2, 3, 4, 5]);
            let args: Vec<Literal> = std::iter::once(tokens).chain(initialize(&specs, 3).into_values()).collect();
            let results = eval(&func, &args).expect("the arguments fit");
            let (plain, _) = logits_func(&model, 1, T, Precision::Float32);
            assert_eq!(results[0], eval(&plain, &args).expect("the arguments fit")[0]);
            for attention in &results[1..] {
                assert_eq!(*attention.ty(), TensorType::new(DType::F32, [1, heads, T, T]));
                let mut seen_many = false;
                for (row, weights) in attention.to_f64s().chunks(T).enumerate() {
                    let (seen, hidden) = weights.split_at(row % T + 1);
                    assert!((seen.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{weights:?}");
                    assert!(hidden.iter().all(|&weight| weight == 0.0), "{weights:?}");
                    seen_many |= seen.iter().filter(|&&weight| weight > 0.01).count() > 1;
                }
                assert!(seen_many, "a position attends to others");
            }
        }
    }
}
