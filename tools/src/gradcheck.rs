//! The derivative of a whole model against central differences, in f64 and without a plugin, on a copy that is small
//! enough for the reference evaluator.

use lmc_autodiff::value_and_grad;
use lmc_graph::{Func, Tensor, eval_f64};
use lmc_models::{DocumentMask, LossChunk, LossFunc, ModelConfig, StepConfig, init};
use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};

/// How the derivative of a model compares with central differences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradCheck {
    /// The sizes of the copy that was checked.
    pub model: String,
    /// The mean loss of the copy.
    pub loss: f64,
    /// The parameters, in the order of the model.
    pub tensors: Vec<TensorCheck>,
}

/// How the derivative by one parameter compares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorCheck {
    /// The path.
    pub path: String,
    /// The shape in the copy.
    pub shape: Vec<usize>,
    /// The largest difference between the two derivatives, relative to the larger one and to the gradient's norm.
    pub error: f64,
    /// The derivative along the direction with that difference.
    pub derivative: f64,
    /// What central differences say of it.
    pub difference: f64,
}

/// The largest relative error of a derivative that is right: central differences with `STEP` are good to about 1e-9,
/// and a wrong term, however small a part of the gradient, is far above.
pub const TOLERANCE: f64 = 1e-6;

/// How far a central difference goes to each side.
const STEP: f64 = 1e-5;

/// Single elements that are looked at in each tensor, beside a direction that changes all of them.
const ELEMENTS: usize = 3;

impl GradCheck {
    /// The parameters whose derivative is wrong.
    pub fn wrong(&self) -> Vec<&TensorCheck> {
        // An error that is not a number is one too.
        self.tensors.iter().filter(|tensor| !matches!(tensor.error, error if error <= TOLERANCE)).collect()
    }
}

/// Checks the derivative of the loss that a config trains: its architecture, its chunks, loops and recomputation, with
/// small sizes.
///
/// # Errors
/// If the model takes no such settings, or has no derivative.
pub fn gradcheck(config: &Config) -> Result<GradCheck> {
    let config = match config.model.vocab_size() {
        Some(_) => config.clone(),
        // Any will do: the copy has a small one.
        None => config.with_tokenizer_size(SMALL_VOCABULARY)?,
    };
    let config = config.with_end_of_document_id(config.data.end_of_document_id.or(Some(0)));
    let small = shrunk(&step_config(&config)?);
    check_loss(&small.loss_func(), small.seed, &describe(&small))
}

/// Tokens of the copy's vocabulary.
const SMALL_VOCABULARY: usize = 11;

/// The same computation with small sizes. Numbers of heads keep their ratio, so that heads are shared as in the model.
fn shrunk(config: &StepConfig) -> StepConfig {
    let mut small = config.clone();
    (small.micro_batch_size, small.grad_accum_steps, small.seq_len) = (2, 1, 6);
    let chunk = config.compute.loss_chunk.tokens(config.micro_batch_size, config.seq_len, config.model.vocab_size());
    small.compute.loss_chunk = if chunk < config.seq_len { LossChunk::Tokens(3) } else { LossChunk::Whole };
    small.compute.documents = config.compute.documents.map(|_| DocumentMask { end: 0, places: 3 });
    match &mut small.model {
        ModelConfig::Llama(model) => {
            let shared = (model.num_attention_heads / model.num_key_value_heads).min(3);
            let kv_heads = model.num_key_value_heads.min(2);
            model.vocab_size = SMALL_VOCABULARY;
            model.num_hidden_layers = model.num_hidden_layers.min(2);
            (model.num_attention_heads, model.num_key_value_heads, model.head_dim) = (kv_heads * shared, kv_heads, 4);
            (model.hidden_size, model.intermediate_size) = (8, 10);
        }
        ModelConfig::Gpt2(model) => {
            model.vocab_size = SMALL_VOCABULARY;
            model.n_layer = model.n_layer.min(2);
            model.n_head = model.n_head.min(2);
            (model.n_embd, model.n_positions) = (4 * model.n_head, small.seq_len);
            model.n_inner = model.n_inner.map(|_| 10);
        }
    }
    small
}

fn describe(config: &StepConfig) -> String {
    let sizes = match &config.model {
        ModelConfig::Llama(model) => {
            let (layers, hidden, heads, kv_heads) =
                (model.num_hidden_layers, model.hidden_size, model.num_attention_heads, model.num_key_value_heads);
            format!("llama of {layers} layers, {hidden} wide, {heads} heads sharing {kv_heads}")
        }
        ModelConfig::Gpt2(model) => {
            format!("gpt2 of {} layers, {} wide, {} heads", model.n_layer, model.n_embd, model.n_head)
        }
    };
    format!("{sizes}, {} rows of {} tokens of {}", config.micro_batch_size, config.seq_len, config.model.vocab_size())
}

/// Checks the derivative of a loss of tokens and labels.
fn check_loss(loss: &LossFunc, seed: u64, model: &str) -> Result<GradCheck> {
    let num_inputs = loss.num_inputs();
    let wrt: Vec<usize> = (num_inputs..num_inputs + loss.specs.len()).collect();
    let differentiated = value_and_grad(&loss.func, &wrt).map_err(differentiation_error)?;
    let mut random = Random(seed);
    let types = loss.func.param_types();
    let mut args: Vec<Tensor> = types[..num_inputs]
        .iter()
        .map(|ty| {
            let ints = (0..ty.num_elements()).map(|_| i128::from(random.next() % SMALL_VOCABULARY as u64));
            Tensor::from_ints(ty.clone(), ints.collect())
        })
        .collect();
    for literal in init::initialize(&loss.specs, seed).values() {
        // What begins as zeros or ones must not hide a wrong derivative.
        let elements = literal.to_f64s().into_iter().map(|x| x + 0.2 * random.symmetric()).collect();
        args.push(Tensor::from_floats(literal.ty().clone(), elements));
    }
    let results = run(&differentiated, &args)?;
    let count = results[1].floats()[0];
    let gradients = &results[2..];
    let norm = gradients.iter().flat_map(|gradient| gradient.floats()).map(|x| x * x).sum::<f64>().sqrt();
    let mut tensors = Vec::new();
    for (index, (path, gradient)) in loss.specs.keys().zip(gradients).enumerate() {
        let len = gradient.floats().len();
        let whole: Vec<f64> = (0..len).map(|_| random.symmetric()).collect();
        let single = |at: usize| (0..len).map(|i| f64::from(u8::from(i == at))).collect::<Vec<f64>>();
        let picks: Vec<usize> = (0..ELEMENTS.min(len)).map(|_| random.next() as usize % len).collect();
        let mut worst: Option<TensorCheck> = None;
        for direction in std::iter::once(whole).chain(picks.into_iter().map(single)) {
            let along = |step: f64| -> Result<f64> {
                let mut moved = args.clone();
                let weight = &mut moved[num_inputs + index];
                let elements = weight.floats().iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                *weight = Tensor::from_floats(weight.ty().clone(), elements);
                Ok(run(&loss.func, &moved)?[0].floats()[0])
            };
            let difference = (along(STEP)? - along(-STEP)?) / (2.0 * STEP);
            let derivative: f64 = gradient.floats().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = derivative.abs().max(difference.abs()).max(1e-3 * norm).max(f64::MIN_POSITIVE);
            let error = (derivative - difference).abs() / size;
            if worst.as_ref().is_none_or(|worst| !matches!(error, error if error <= worst.error)) {
                let shape = gradient.ty().shape.clone();
                worst = Some(TensorCheck { path: path.to_string(), shape, error, derivative, difference });
            }
        }
        tensors.extend(worst);
    }
    Ok(GradCheck { model: model.to_owned(), loss: results[0].floats()[0] / count.max(1.0), tensors })
}

fn run(func: &Func, args: &[Tensor]) -> Result<Vec<Tensor>> {
    eval_f64(func, args).map_err(|error| Error::run(error.to_string()))
}

/// Numbers that look random: SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn symmetric(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lmc_graph::{DType, TensorType};
    use lmc_models::{Init, Precision};

    use super::*;
    use crate::config::RawConfig;

    fn check(model: &str, data: &str, train: &str) {
        let text = format!(
            "[model]\n{model}\n[data]\ntrain = \"x.bin\"\n{data}\n[optimizer]\nlearning_rate = 1\n\
             [train]\nsteps = 1\nseq_len = 64\nmicro_batch_size = 2\n{train}\n"
        );
        let config = RawConfig::parse(Path::new("run.toml"), &text, &[]).and_then(RawConfig::validate).expect("sound");
        let checked = gradcheck(&config).expect("a derivative");
        assert!(checked.wrong().is_empty(), "{model}, {data}, {train}: {:?}", checked.wrong());
        // Near the logarithm of the vocabulary, for weights that are small.
        assert!((1.0..4.0).contains(&checked.loss), "{checked:?}");
    }

    const LLAMA: &str = "arch = \"llama\"\nvocab_size = 99\nhidden_size = 24\nnum_hidden_layers = 9\n\
                         num_attention_heads = 6\nnum_key_value_heads = 2\nhead_dim = 4\nintermediate_size = 9";
    const GPT2: &str = "arch = \"gpt2\"\nn_embd = 24\nn_layer = 1\nn_head = 3";

    #[test]
    fn derivatives_of_models_are_right() {
        check(LLAMA, "", "");
        check(LLAMA, "", "precision = \"bfloat16\"\nloss_chunk = 16\nlayers = \"scan\"\nz_loss = 1e-2");
        check(GPT2, "", "remat = \"layer\"");
        check(&format!("{GPT2}\ndropout = 0.2"), "", "");
        let documents = "reset_attention_mask = true";
        check(LLAMA, documents, "layers = \"scan\"");
        check(&format!("{GPT2}\ndropout = 0.2"), documents, "remat = \"layer\"");
    }

    /// A derivative that is stopped is no longer that of the function.
    #[test]
    fn a_wrong_derivative_is_found() {
        let inputs = [("x", TensorType::new(DType::I32, [3]))];
        let loss = LossFunc::build("loss", Precision::Float32, &inputs, |scope, inputs| {
            let w = scope.param("right", &[("hidden", 3)], Init::Ones);
            let v = scope.param("wrong", &[("hidden", 3)], Init::Ones);
            let x = inputs[0].convert(DType::F32);
            ((x * w * w + v * v.stop_gradient()).sum(&[0]), scope.builder().scalar(DType::F32, 3.0))
        });
        let checked = check_loss(&loss, 1, "by hand").expect("a derivative");
        let wrong: Vec<&str> = checked.wrong().into_iter().map(|tensor| &*tensor.path).collect();
        assert_eq!(wrong, ["wrong"], "{checked:?}");
    }
}
