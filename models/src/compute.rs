//! How a model computes: what decides speed, memory and rounding, and not the function itself.

use lmc_graph::DType;

use crate::layers::DocumentMask;

/// The element type in which layers compute. Parameters, norms, softmax, logits and the loss are f32 in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 throughout.
    Float32,
    /// Activations and products in bfloat16; weights are rounded where they are used.
    BFloat16,
}

impl Precision {
    /// The element type of activations and of the operands of products.
    pub fn compute_dtype(self) -> DType {
        match self {
            Precision::Float32 => DType::F32,
            Precision::BFloat16 => DType::BF16,
        }
    }
}

/// How a model computes. Every choice has the same parameters, and all but `documents` have the same results up to rounding.
///
/// A [`Precision`] converts into one that keeps everything else at its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compute {
    /// The element type of the layers.
    pub precision: Precision,
    /// How many tokens of a sequence have logits at once, in a loss.
    pub loss_chunk: LossChunk,
    /// What the backward pass computes again.
    pub remat: Remat,
    /// How the blocks of a model stand in the graph.
    pub layers: Layers,
    /// The documents in rows of tokens, if attention is not to reach across them. Positions count on from one document to
    /// the next: of rotary ones only differences matter, learned ones are those of the row.
    pub documents: Option<DocumentMask>,
}

impl From<Precision> for Compute {
    fn from(precision: Precision) -> Compute {
        Compute { precision, loss_chunk: LossChunk::Auto, remat: Remat::None, layers: Layers::Unroll, documents: None }
    }
}

/// What the backward pass computes again, rather than to keep it from the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remat {
    /// Nothing: fastest, and every activation is kept.
    None,
    /// The inside of every block: only what goes into a block is kept, for about a third more operations (Chen et al.
    /// 2016, section 4). How much memory that saves is the compiler's to decide: XLA's for the CPU drops the barriers
    /// before it orders the program, and may recompute blocks long before they are needed; [`Layers::Scan`] leaves it no
    /// choice.
    Layer,
}

/// How the blocks of a model stand in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layers {
    /// One after the other: what differs between blocks can be optimized.
    Unroll,
    /// Once, as the body of a scan over their stacked parameters: a program whose size and time to compile do not grow
    /// with the number of blocks, for a stacked copy of their parameters and gradients. The inside of a block is always
    /// computed again in the backward pass, as with [`Remat::Layer`].
    Scan,
}

/// How many tokens of each sequence have logits at the same time while a loss is computed.
///
/// Logits are by far the largest values of a model with a large vocabulary. A loss in chunks never holds those of more
/// than one chunk, forward or backward, and computes none twice: a chunk's gradient is computed where its loss is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossChunk {
    /// The fewest chunks whose f32 logits, over all sequences of the batch, take at most 128 MiB each, but no more than 8. A
    /// vocabulary of characters is never divided; one of 32,000 tokens is from 1049 tokens a batch on.
    Auto,
    /// All tokens at once.
    Whole,
    /// At most this many. Where they do not divide the sequence, chunks are made shorter until they nearly do.
    Tokens(usize),
}

/// What [`LossChunk::Auto`] lets the logits of a chunk take: enough rows for products to run at full speed, and little
/// beside the state of a model that has so large a vocabulary.
const CHUNK_BYTES: usize = 128 << 20;

/// The most chunks of [`LossChunk::Auto`]. Every chunk reads and writes the sum of the head's gradient once more, and what
/// an eighth of the logits takes is little beside the activations of a batch so large.
const MOST_CHUNKS: usize = 8;

impl LossChunk {
    /// The tokens of a chunk: from 1 to `seq_len`, and `seq_len` for a loss that is not divided.
    pub fn tokens(self, batch: usize, seq_len: usize, vocab_size: usize) -> usize {
        let limit = match self {
            LossChunk::Auto => {
                let bytes_of_token = batch.saturating_mul(vocab_size).saturating_mul(size_of::<f32>()).max(1);
                (CHUNK_BYTES / bytes_of_token).max(seq_len.div_ceil(MOST_CHUNKS))
            }
            LossChunk::Whole => seq_len,
            LossChunk::Tokens(tokens) => tokens,
        };
        // As few chunks as that takes, and these as equal as can be.
        let num_chunks = seq_len.div_ceil(limit.clamp(1, seq_len.max(1)));
        seq_len.div_ceil(num_chunks.max(1))
    }
}

#[cfg(test)]
mod tests {
    use lmc_autodiff::value_and_grad;
    use lmc_graph::ops::Op;
    use lmc_graph::{Func, Literal, NodeId, dce, eval, verify};

    use super::*;
    use crate::architectures::gpt2::Gpt2Config;
    use crate::architectures::llama::LlamaConfig;
    use crate::architectures::{Dropout, ModelConfig};
    use crate::init;
    use crate::loss::{LossFunc, loss_func, training_loss_func};

    /// Tied and untied, with biases and without, and of several layers.
    fn models(vocab_size: usize) -> [ModelConfig; 2] {
        let llama = LlamaConfig {
            vocab_size,
            hidden_size: 4,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
            intermediate_size: 6,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            initializer_range: 0.3,
            dropout: Dropout::NONE,
        };
        let gpt2 = Gpt2Config { initializer_range: 0.3, ..Gpt2Config::new(vocab_size, 64, 4, 3, 2) };
        [ModelConfig::Llama(llama), ModelConfig::Gpt2(gpt2)]
    }

    fn differentiated(loss: &LossFunc) -> Func {
        let wrt: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
        dce(&value_and_grad(&loss.func, &wrt).expect("the loss has a derivative"))
    }

    fn evaluate(loss: &LossFunc) -> Vec<Vec<f64>> {
        let data = [
            Literal::new([2, 5], &[1i32, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            Literal::new([2, 5], &[2i32, 3, 4, 5, -100, 7, 8, -100, 10, 0]),
        ];
        let key = loss.takes_key.then(|| Literal::new([2], &[11_u64, 0]));
        let weights = init::initialize(&loss.specs, 5).into_values();
        let args: Vec<Literal> = data.into_iter().chain(key).chain(weights).collect();
        eval(&differentiated(loss), &args).expect("the arguments fit").iter().map(Literal::to_f64s).collect()
    }

    /// The same model with dropout everywhere.
    fn with_dropout(model: &ModelConfig) -> ModelConfig {
        let dropout = Dropout { embedding: 0.2, residual: 0.3, attention: 0.4 };
        match model.clone() {
            ModelConfig::Llama(config) => ModelConfig::Llama(LlamaConfig { dropout, ..config }),
            ModelConfig::Gpt2(config) => ModelConfig::Gpt2(Gpt2Config { dropout, ..config }),
        }
    }

    /// What [`Compute`] changes: nothing in parameters, loss and gradients, also of what is drawn by dropout.
    fn check(change: fn(&mut Compute)) {
        for model in models(11).iter().flat_map(|model| [model.clone(), with_dropout(model)]) {
            let mut compute = Compute { loss_chunk: LossChunk::Whole, ..Precision::Float32.into() };
            assert_eq!((compute.remat, compute.layers), (Remat::None, Layers::Unroll));
            let expected = training_loss_func(&model, 2, 5, compute, 0.0);
            assert_eq!(expected.takes_key, model.dropout() != Dropout::NONE);
            change(&mut compute);
            let found = training_loss_func(&model, 2, 5, compute, 0.0);
            assert_eq!(found.specs, expected.specs, "{compute:?}");
            assert!(found.specs.keys().eq(expected.specs.keys()), "{compute:?}: the order of parameters");
            verify(&found.func).unwrap_or_else(|errors| panic!("{errors:?}"));
            let (found, expected) = (evaluate(&found), evaluate(&expected));
            assert_eq!(found[1], [8.0], "as many labels count");
            assert_eq!(found.len(), expected.len());
            let scale = |x: &[f64]| x.iter().fold(1.0, |scale: f64, x| scale.max(x.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.len(), expected.len());
                for (x, y) in found.iter().zip(expected) {
                    // Sums of f32 in another order.
                    assert!((x - y).abs() <= 1e-6 * scale(expected), "{compute:?}: {x}, not {y}");
                }
            }
        }
    }

    #[test]
    fn a_loss_in_chunks_is_the_same() {
        // 5 tokens in chunks of 1, of 2 with the last one not full, and of 3.
        check(|compute| compute.loss_chunk = LossChunk::Tokens(1));
        check(|compute| compute.loss_chunk = LossChunk::Tokens(2));
        check(|compute| compute.loss_chunk = LossChunk::Tokens(4));
        check(|compute| compute.loss_chunk = LossChunk::Tokens(5));
    }

    #[test]
    fn recomputed_and_scanned_blocks_are_the_same() {
        check(|compute| compute.remat = Remat::Layer);
        check(|compute| compute.layers = Layers::Scan);
        check(|compute| (compute.remat, compute.layers) = (Remat::Layer, Layers::Scan));
        check(|compute| (compute.loss_chunk, compute.layers) = (LossChunk::Tokens(2), Layers::Scan));
    }

    /// Loss, labels that count and gradients of one row of tokens, with the labels that it predicts.
    fn of_row(model: &ModelConfig, row: &[(i32, i32)], compute: Compute) -> Vec<Vec<f64>> {
        let (tokens, labels): (Vec<i32>, Vec<i32>) = row.iter().copied().unzip();
        let loss = training_loss_func(model, 1, row.len(), compute, 0.0);
        verify(&loss.func).unwrap_or_else(|errors| panic!("{errors:?}"));
        let data = [tokens, labels].map(|ids| Literal::new([1, row.len()], &ids));
        let key = loss.takes_key.then(|| Literal::new([2], &[11_u64, 0]));
        let weights = init::initialize(&loss.specs, 5).into_values();
        let args: Vec<Literal> = data.into_iter().chain(key).chain(weights).collect();
        let func = differentiated(&loss);
        // The bounds of documents are found once, whatever is computed again.
        let sorts = func.walk(func.body()).into_iter().filter(|&node| matches!(func.node(node).op, Op::Sort(_)));
        assert_eq!(sorts.count(), usize::from(compute.documents.is_some()), "{compute:?}");
        eval(&func, &args).expect("the arguments fit").iter().map(Literal::to_f64s).collect()
    }

    /// The largest difference of what was computed from what is expected, relative to the largest element of each.
    fn difference(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let largest = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let of_one = |(found, expected): (&Vec<f64>, &Vec<f64>)| {
            assert_eq!(found.len(), expected.len());
            let difference = largest(&mut found.iter().zip(expected).map(|(x, y)| x - y));
            difference / largest(&mut expected.iter().copied()).max(1e-3)
        };
        largest(&mut found.iter().zip(expected).map(of_one))
    }

    /// Every way to compute a row of documents.
    fn ways() -> [Compute; 4] {
        let documents = Some(DocumentMask { end: 9, places: 4 });
        let plain = Compute { loss_chunk: LossChunk::Whole, documents, ..Precision::Float32.into() };
        [
            plain,
            Compute { loss_chunk: LossChunk::Tokens(3), ..plain },
            Compute { remat: Remat::Layer, ..plain },
            Compute { layers: Layers::Scan, ..plain },
        ]
    }

    /// Three documents of which 9 is the end; the last is cut. Nothing is predicted from an end.
    const DOCUMENTS: [&[(i32, i32)]; 3] =
        [&[(1, 2), (2, 9), (9, -100)], &[(3, 4), (4, 3), (3, 5), (5, 9), (9, -100)], &[(6, 7), (7, 8), (8, 6)]];

    #[test]
    fn a_row_of_documents_is_the_sum_of_its_documents() {
        let [llama, _] = models(11);
        // Attention is composed where it has dropout, at a rate at which nothing is dropped.
        let mut composed = llama.clone();
        if let ModelConfig::Llama(config) = &mut composed {
            config.dropout.attention = 1e-12;
        }
        for model in [llama, composed] {
            for compute in ways() {
                let apart = Compute { documents: None, ..compute };
                let alone = DOCUMENTS.map(|document| of_row(&model, document, apart));
                let add = |x: Vec<Vec<f64>>, y: &Vec<Vec<f64>>| {
                    let both = x.iter().zip(y);
                    both.map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect()
                };
                let [first, rest @ ..] = &alone;
                let expected = rest.iter().fold(first.clone(), add);
                let row = DOCUMENTS.concat();
                let found = difference(&of_row(&model, &row, compute), &expected);
                // Sums of f32 in another order, and rotations by other angles.
                assert!(found < 1e-5, "{compute:?}: {found:e}");
                let reaching = difference(&of_row(&model, &row, apart), &expected);
                assert!(reaching > 1e-2, "{apart:?}: {reaching:e}");
            }
        }
    }

    /// Of what stands before in the row a document knows how much it is, with learned positions, and nothing else; unless
    /// there are too few places.
    #[test]
    fn a_document_does_not_see_those_before() {
        let other: [&[(i32, i32)]; 2] = [&[(8, 1), (4, 9), (9, -100)], &[(6, 6), (6, 6), (1, 1), (0, 9), (9, -100)]];
        let unlabeled = |documents: [&[(i32, i32)]; 2]| -> Vec<(i32, i32)> {
            documents.concat().into_iter().map(|(token, _)| (token, -100)).chain(DOCUMENTS[2].iter().copied()).collect()
        };
        let rows = [unlabeled([DOCUMENTS[0], DOCUMENTS[1]]), unlabeled(other)];
        for mut model in models(11) {
            if let ModelConfig::Gpt2(config) = &mut model {
                config.n_positions = 16;
            }
            for compute in ways() {
                let losses = |compute: Compute| rows.each_ref().map(|row| of_row(&model, row, compute)[0][0]);
                let [x, y] = losses(compute);
                assert!((x - y).abs() < 1e-6, "{compute:?}: {x} and {y}");
                let few = Compute { documents: Some(DocumentMask { end: 9, places: 2 }), ..compute };
                for reaching in [Compute { documents: None, ..compute }, few] {
                    let [x, y] = losses(reaching);
                    assert!((x - y).abs() > 1e-4, "{reaching:?}: {x} and {y}");
                }
            }
        }
    }

    /// How often `op` is in the differentiated loss of `layers` blocks.
    fn count(op: &str, layers: usize, change: fn(&mut Compute)) -> usize {
        let [_, gpt2] = models(11);
        let ModelConfig::Gpt2(config) = gpt2 else { panic!("the second model is a GPT-2") };
        let mut compute = Compute::from(Precision::BFloat16);
        change(&mut compute);
        let model = ModelConfig::Gpt2(Gpt2Config { n_layer: layers, ..config });
        let func = differentiated(&loss_func(&model, 2, 5, compute));
        func.walk(func.body()).into_iter().filter(|&node| func.node(node).op.name() == op).count()
    }

    #[test]
    fn blocks_are_recomputed_or_built_once() {
        // Four products forward and eight backward in a block, and three of the head. Of the forward ones all are computed
        // again but the last of the block, on which no derivative depends.
        assert_eq!([1, 3].map(|layers| count("dot_general", layers, |_| ())), [15, 39]);
        let remat = |compute: &mut Compute| compute.remat = Remat::Layer;
        assert_eq!([1, 3].map(|layers| count("dot_general", layers, remat)), [18, 48]);
        assert_eq!([1, 3].map(|layers| count("optimization_barrier", layers, remat)), [1, 3]);
        let scan = |compute: &mut Compute| compute.layers = Layers::Scan;
        assert_eq!([1, 3].map(|layers| count("dot_general", layers, scan)), [18, 18]);
    }

    /// The products of the differentiated loss of 64 tokens, and the elements of the largest value in it.
    fn products_and_largest(model: &ModelConfig, loss_chunk: LossChunk) -> (usize, usize) {
        let compute = Compute { loss_chunk, ..Precision::BFloat16.into() };
        let func = differentiated(&loss_func(model, 1, 64, compute));
        let values = || func.walk(func.body()).into_iter().flat_map(|node| &func.node(node).results);
        let largest = values().map(|&value| func.ty(value).num_elements()).max().unwrap_or(0);
        let is_product = |node: &&NodeId| matches!(func.node(**node).op, Op::DotGeneral(_));
        (func.walk(func.body()).iter().filter(is_product).count(), largest)
    }

    #[test]
    fn logits_of_a_loss_in_chunks_never_exist_whole() {
        const MANY: usize = 4096;
        for model in models(MANY) {
            let (products, largest) = products_and_largest(&model, LossChunk::Whole);
            assert_eq!(largest, 64 * MANY);
            // All of them stay products, and none is computed again: each chunk's gradient is computed where its loss is.
            assert_eq!(products_and_largest(&model, LossChunk::Tokens(16)), (products, 16 * MANY));
        }
    }

    #[test]
    fn chunks_are_few_and_equal() {
        for (chunk, [batch, seq_len, vocab_size], expected) in [
            // Characters; the tiny and the large model of the comparisons with PyTorch.
            (LossChunk::Auto, [32, 64, 65], 64),
            (LossChunk::Auto, [4, 512, 4096], 512),
            (LossChunk::Auto, [1, 1048, 32000], 1048),
            (LossChunk::Auto, [1, 1049, 32000], 525),
            (LossChunk::Auto, [4, 512, 32000], 256),
            (LossChunk::Auto, [2, 2048, 32000], 512),
            (LossChunk::Auto, [4, 2048, 32000], 256),
            (LossChunk::Auto, [32, 2048, 32000], 256),
            (LossChunk::Auto, [1 << 20, 8, 32000], 1),
            (LossChunk::Auto, [usize::MAX, 8, usize::MAX], 1),
            (LossChunk::Whole, [4, 512, 32000], 512),
            (LossChunk::Tokens(1000), [4, 512, 32000], 512),
            (LossChunk::Tokens(1), [4, 512, 32000], 1),
            (LossChunk::Tokens(0), [4, 512, 32000], 1),
            (LossChunk::Tokens(100), [4, 512, 32000], 86),
            (LossChunk::Tokens(2), [1, 5, 7], 2),
            (LossChunk::Tokens(4), [1, 9, 7], 3),
        ] {
            let found = chunk.tokens(batch, seq_len, vocab_size);
            assert_eq!(found, expected, "{chunk:?} of {batch} x {seq_len} tokens of {vocab_size}");
            // No chunk is nothing but padding.
            assert!(seq_len.div_ceil(found) * found - seq_len < found);
        }
    }
}
