//! Whole models on the plugin against what `transformers` and PyTorch computed (`references/record_models.py`): logits,
//! loss and gradients of one batch, then the weights after five training steps.

use std::fs;

use lmc_autodiff::value_and_grad;
use lmc_graph::{DType, Func, Literal, TensorType};
use lmc_models::{
    ActivationFunction, AdamW, Compute, Dropout, Gpt2Config, Layers, LlamaConfig, LossChunk, ModelConfig, Optimizer,
    Precision, Remat, Schedule, ScheduleKind, StepConfig, Update, logits_func, loss_func, train_step,
};
use lmc_tests::plugin;
use lmc_tests::source::workspace;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The recorded file of one model.
struct Recorded {
    bytes: Vec<u8>,
    config: Value,
    optimizer: Value,
}

impl Recorded {
    fn open(name: &str) -> Recorded {
        let path = workspace().join(format!("tests/references/{name}.safetensors"));
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) =
            SafeTensors::read_metadata(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let metadata = header.metadata().clone().expect("the file has metadata");
        let json = |key: &str| serde_json::from_str(&metadata[key]).unwrap_or_else(|error| panic!("{key}: {error}"));
        Recorded { config: json("config"), optimizer: json("optimizer"), bytes }
    }

    fn tensor(&self, name: &str) -> Literal {
        let file = SafeTensors::deserialize(&self.bytes).expect("it was read before");
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let known = [(Dtype::F32, DType::F32), (Dtype::I32, DType::I32)];
        let dtype = known.into_iter().find(|(theirs, _)| *theirs == view.dtype());
        let (_, dtype) = dtype.unwrap_or_else(|| panic!("{name} is of {:?}", view.dtype()));
        Literal::from_bytes(TensorType::new(dtype, view.shape()), view.data().to_vec()).expect("the file is whole")
    }

    fn size(&self, key: &str) -> usize {
        let size = self.config[key].as_u64().unwrap_or_else(|| panic!("config has no size {key}"));
        usize::try_from(size).expect("a size")
    }

    fn number(&self, key: &str) -> f64 {
        self.optimizer[key].as_f64().unwrap_or_else(|| panic!("optimizer has no number {key}"))
    }

    fn model(&self) -> ModelConfig {
        let float = |key: &str| self.config[key].as_f64().unwrap_or_else(|| panic!("config has no number {key}"));
        match self.config["model_type"].as_str() {
            Some("llama") => ModelConfig::Llama(LlamaConfig {
                vocab_size: self.size("vocab_size"),
                hidden_size: self.size("hidden_size"),
                num_hidden_layers: self.size("num_hidden_layers"),
                num_attention_heads: self.size("num_attention_heads"),
                num_key_value_heads: self.size("num_key_value_heads"),
                head_dim: self.size("head_dim"),
                intermediate_size: self.size("intermediate_size"),
                rope_theta: float("rope_theta"),
                rms_norm_eps: float("rms_norm_eps"),
                tie_word_embeddings: self.config["tie_word_embeddings"] == true,
                initializer_range: 0.02,
                dropout: Dropout::NONE,
            }),
            Some("gpt2") => {
                let [vocab_size, n_positions, n_embd, n_layer, n_head] =
                    ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"].map(|key| self.size(key));
                let activation_function = match self.config["activation_function"].as_str() {
                    Some("gelu_new") => ActivationFunction::GeluNew,
                    Some("gelu") => ActivationFunction::Gelu,
                    other => panic!("unknown activation_function {other:?}"),
                };
                let config = Gpt2Config::new(vocab_size, n_positions, n_embd, n_layer, n_head);
                ModelConfig::Gpt2(Gpt2Config { activation_function, ..config })
            }
            other => panic!("unknown model_type {other:?}"),
        }
    }
}

/// Inputs and labels, `i32[.., T]` each, from tokens `i32[.., T + 1]`.
fn inputs_and_labels(tokens: &[i32], shape: &[usize]) -> [Literal; 2] {
    let (span, batch) = shape.split_last().expect("tokens have dimensions");
    let part = |range: std::ops::Range<usize>| {
        let elements: Vec<i32> = tokens.chunks_exact(*span).flat_map(|row| row[range.clone()].to_vec()).collect();
        Literal::new([batch, &[span - 1]].concat(), &elements)
    };
    [part(0..span - 1), part(1..*span)]
}

/// Fails unless the Euclidean distance is within `relative` of the length of what is expected.
#[track_caller]
fn assert_near(what: &str, found: &Literal, expected: &Literal, relative: f64) {
    assert_eq!(found.ty(), expected.ty(), "{what}");
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (found, expected) = (found.to_f64s(), expected.to_f64s());
    let difference: Vec<f64> = found.iter().zip(&expected).map(|(x, y)| x - y).collect();
    let (distance, length) = (norm(&difference), norm(&expected));
    // A distance that is not a number is not near.
    let near = distance <= relative * length;
    assert!(near, "{what}: {distance:e} apart, more than {relative:e} of {length:e}");
}

fn run(func: &Func, args: &[Literal]) -> Vec<Literal> {
    let program = plugin::compile(func).unwrap_or_else(|error| panic!("{error}"));
    plugin::execute(&program, args).unwrap_or_else(|error| panic!("{error}"))
}

/// Logits, loss and gradients of the first micro-batch, in every way to compute.
fn check_gradients(name: &str) {
    let recorded = Recorded::open(name);
    let model = recorded.model();
    let tokens = recorded.tensor("tokens");
    let [_, _, batch, span] = tokens.ty().shape[..] else { panic!("tokens are {}", tokens.ty()) };
    let first = &tokens.elements::<i32>()[..batch * span];
    let [inputs, labels] = inputs_and_labels(first, &[batch, span]);

    let (logits, specs) = logits_func(&model, batch, span - 1, Precision::Float32);
    let weights: Vec<Literal> = specs.keys().map(|path| recorded.tensor(&format!("param/{path}"))).collect();
    let found = run(&logits, &[std::slice::from_ref(&inputs), &weights].concat());
    assert_near(&format!("{name}: logits"), &found[0], &recorded.tensor("logits"), 1e-5);

    let plain = Compute::from(Precision::Float32);
    for compute in [
        plain,
        Compute { loss_chunk: LossChunk::Tokens(3), ..plain },
        Compute { remat: Remat::Layer, ..plain },
        Compute { layers: Layers::Scan, ..plain },
    ] {
        let loss = loss_func(&model, batch, span - 1, compute);
        assert!(loss.specs.keys().eq(specs.keys()), "{name}: the loss declares the parameters of the logits");
        let wrt: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
        let differentiated = value_and_grad(&loss.func, &wrt).unwrap_or_else(|error| panic!("{error}"));
        let data = [inputs.clone(), labels.clone()];
        let mut found = run(&differentiated, &[&data, &weights[..]].concat());
        let gradients = found.split_off(loss.func.result_types().len());
        // The function returns the sum and the number of tokens; recorded is the mean.
        let count = (batch * (span - 1)) as f64;
        let mean = |x: &Literal| {
            Literal::from_f64s(x.ty().clone(), &x.to_f64s().iter().map(|x| x / count).collect::<Vec<_>>())
        };
        assert_near(&format!("{name}: loss, {compute:?}"), &mean(&found[0]), &recorded.tensor("loss"), 1e-6);
        for (path, gradient) in loss.specs.keys().zip(&gradients) {
            let expected = recorded.tensor(&format!("grad/{path}"));
            assert_near(&format!("{name}: gradient of {path}, {compute:?}"), &mean(gradient), &expected, 1e-4);
        }
    }
}

/// Five steps of AdamW with micro-batches, clipping and warm-up.
fn check_training(name: &str) {
    let recorded = Recorded::open(name);
    let tokens = recorded.tensor("tokens");
    let [steps, micro_batches, batch, span] = tokens.ty().shape[..] else { panic!("tokens are {}", tokens.ty()) };
    let betas: Vec<f64> =
        recorded.optimizer["betas"].as_array().expect("two").iter().filter_map(Value::as_f64).collect();
    let config = StepConfig {
        model: recorded.model(),
        micro_batch_size: batch,
        grad_accum_steps: micro_batches,
        seq_len: span - 1,
        compute: Precision::Float32.into(),
        z_loss: 0.0,
        seed: 0,
        update: Update {
            optimizer: Optimizer::AdamW(AdamW {
                beta1: betas[0],
                beta2: betas[1],
                eps: recorded.number("eps"),
                weight_decay: recorded.number("weight_decay"),
            }),
            schedule: Schedule {
                kind: ScheduleKind::Constant,
                learning_rate: recorded.number("learning_rate"),
                min_learning_rate: 0.0,
                warmup_steps: recorded.number("warmup_steps") as usize,
                total_steps: steps,
            },
            grad_clip_norm: recorded.number("grad_clip_norm"),
            ema_decay: 0.0,
        },
    };
    let step = train_step(&config).unwrap_or_else(|error| panic!("{error}"));
    let program = plugin::compile(&step.func).unwrap_or_else(|error| panic!("{error}"));
    let types = step.func.param_types();
    let mut state: Vec<Literal> = step.specs.keys().map(|path| recorded.tensor(&format!("param/{path}"))).collect();
    state.extend(types[step.weights().end..step.num_state()].iter().cloned().map(Literal::zeros));

    let expected =
        ["loss", "grad_norm", "learning_rate"].map(|metric| recorded.tensor(&format!("train/{metric}")).to_f64s());
    let per_step = micro_batches * batch * span;
    for (number, tokens) in tokens.elements::<i32>().chunks_exact(per_step).enumerate() {
        let data = inputs_and_labels(tokens, &[micro_batches, batch, span]);
        let mut results =
            plugin::execute(&program, &[&state[..], &data].concat()).unwrap_or_else(|error| panic!("{error}"));
        let metrics = results.split_off(step.num_state());
        for (metric, expected) in metrics.iter().zip(&expected) {
            let expected = Literal::from_f64s(metric.ty().clone(), &[expected[number]]);
            assert_near(&format!("{name}: step {number}, metric"), metric, &expected, 1e-4);
        }
        state = results;
    }
    for (path, weight) in step.specs.keys().zip(&state) {
        let expected = recorded.tensor(&format!("trained/{path}"));
        let what = format!("{name}: trained {path}");
        // Adam divides by the root of the second moment, which magnifies the rounding of small gradients.
        if path.ends_with("c_attn.bias") {
            // A bias of keys shifts all scores of a query alike: its gradient is nothing but rounding, of which Adam
            // makes a whole step.
            let [size] = weight.ty().shape[..] else { panic!("{what} is {}", weight.ty()) };
            let without_keys = |x: &Literal| {
                let x = x.to_f64s();
                let kept = [&x[..size / 3], &x[2 * size / 3..]].concat();
                Literal::from_f64s(TensorType::new(DType::F32, [kept.len()]), &kept)
            };
            assert_near(&what, &without_keys(weight), &without_keys(&expected), 1e-3);
        } else {
            assert_near(&what, weight, &expected, 1e-3);
        }
    }
}

#[test]
fn llama_with_grouped_queries() {
    check_gradients("llama");
    check_training("llama");
}

#[test]
fn llama_with_tied_embeddings() {
    check_gradients("llama_tied");
    check_training("llama_tied");
}

#[test]
fn gpt2() {
    check_gradients("gpt2");
    check_training("gpt2");
}

#[test]
fn gpt2_with_the_error_function() {
    check_gradients("gpt2_gelu");
    check_training("gpt2_gelu");
}

/// Eight sequences at once and one by one, of which each counts another number of labels: the same loss, norm and
/// gradient, by the first moments, which are a tenth of it.
#[test]
fn accumulation_is_one_big_batch() {
    const SEQUENCES: usize = 8;
    let recorded = Recorded::open("llama_tied");
    let tokens = recorded.tensor("tokens");
    let [.., span] = tokens.ty().shape[..] else { panic!("tokens are {}", tokens.ty()) };
    let (seq_len, rows) = (span - 1, &tokens.elements::<i32>()[..SEQUENCES * span]);
    let ignored = |row: usize, at: usize| at >= [8, 1, 5, 0, 2, 7, 3, 4][row];
    let data = |grad_accum_steps: usize| {
        let shape = [grad_accum_steps, SEQUENCES / grad_accum_steps, span];
        let [inputs, labels] = inputs_and_labels(rows, &shape);
        let elements = labels.elements::<i32>();
        let masked: Vec<i32> = elements
            .iter()
            .enumerate()
            .map(|(i, &label)| if ignored(i / seq_len, i % seq_len) { -100 } else { label })
            .collect();
        [inputs, Literal::new(labels.ty().shape.clone(), &masked)]
    };
    let run = |grad_accum_steps: usize| {
        let step = train_step(&StepConfig {
            model: recorded.model(),
            micro_batch_size: SEQUENCES / grad_accum_steps,
            grad_accum_steps,
            seq_len,
            compute: Precision::Float32.into(),
            z_loss: 0.0,
            seed: 0,
            update: Update {
                optimizer: Optimizer::AdamW(AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }),
                schedule: Schedule {
                    kind: ScheduleKind::Constant,
                    learning_rate: 1e-3,
                    min_learning_rate: 0.0,
                    warmup_steps: 0,
                    total_steps: 1,
                },
                grad_clip_norm: 0.0,
                ema_decay: 0.0,
            },
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let state = step.initial_state(step.specs.keys().map(|path| recorded.tensor(&format!("param/{path}"))));
        let program = plugin::compile(&step.func).unwrap_or_else(|error| panic!("{error}"));
        let results = plugin::execute(&program, &[&state[..], &data(grad_accum_steps)].concat());
        let results = results.unwrap_or_else(|error| panic!("{error}"));
        let of = |range: std::ops::Range<usize>| -> Vec<f32> {
            results[range].iter().flat_map(|x| x.elements::<f32>().to_vec()).collect()
        };
        let metrics = of(step.metrics());
        (metrics, of(step.specs.len()..2 * step.specs.len()))
    };
    let ((metrics, moments), (one_by_one, moments_one_by_one)) = (run(1), run(SEQUENCES));
    assert_eq!((metrics[3], one_by_one[3]), (30.0, 30.0), "as many labels count");
    let vector = |x: &[f32]| Literal::new([x.len()], x);
    for (at, metric) in ["loss", "gradient norm"].into_iter().enumerate() {
        assert_near(metric, &vector(&one_by_one[at..=at]), &vector(&metrics[at..=at]), 1e-6);
    }
    assert_near("gradient", &vector(&moments_one_by_one), &vector(&moments), 1e-6);

    // The mean over sequences of their means is another number.
    let (model, [inputs, labels]) = (recorded.model(), data(SEQUENCES));
    let loss = loss_func(&model, 1, seq_len, Precision::Float32);
    let program = plugin::compile(&loss.func).unwrap_or_else(|error| panic!("{error}"));
    let weights: Vec<Literal> = loss.specs.keys().map(|path| recorded.tensor(&format!("param/{path}"))).collect();
    let means = (0..SEQUENCES).map(|row| {
        let ids =
            [&inputs, &labels].map(|x| Literal::new([1, seq_len], &x.elements::<i32>()[row * seq_len..][..seq_len]));
        let sums = plugin::execute(&program, &[&ids[..], &weights].concat()).unwrap_or_else(|error| panic!("{error}"));
        sums[0].elements::<f32>()[0] / sums[1].elements::<f32>()[0].max(1.0)
    });
    let mean_of_means = means.sum::<f32>() / SEQUENCES as f32;
    assert!((mean_of_means - metrics[0]).abs() > 0.01, "{mean_of_means} and {}", metrics[0]);
}
