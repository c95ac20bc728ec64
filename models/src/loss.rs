//! Losses as functions of inputs and weights, and the functions for evaluation.

use lmc_graph::{Builder, DType, Func, TensorType, Value};

use crate::architectures::{Dropout, ModelConfig};
use crate::compute::Compute;
use crate::params::{ParamSpec, Params};
use crate::scope::Scope;
use crate::stored::Storage;

/// The label of a position that does not count, as PyTorch's `ignore_index`.
pub const IGNORE_INDEX: i32 = -100;

/// A function from inputs and weights, and what its weights are.
///
/// As a loss it returns first the sum of the losses, f32 scalar, and second the number of what was summed, f32 scalar:
/// means over several batches are then exact.
#[derive(Clone, Debug)]
pub struct LossFunc {
    /// The function; its parameters are the inputs, then the weights in the order of `specs`.
    pub func: Func,
    /// The weights, in the order of declaration.
    pub specs: Params<ParamSpec>,
    /// Whether the last input is a key, `ui64[2]`, from which the loss draws random numbers.
    pub takes_key: bool,
}

impl LossFunc {
    /// Builds a loss: `body` gets the root scope and the inputs, declares weights, and returns the sum of the losses and
    /// their number.
    ///
    /// # Panics
    /// If the sum or the number is not an f32 scalar, or the body makes an error as in [`Scope::param`].
    #[track_caller]
    pub fn build(
        name: &str,
        compute: impl Into<Compute>,
        inputs: &[(&str, TensorType)],
        body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> (Value<'g>, Value<'g>),
    ) -> LossFunc {
        LossFunc::build_with(name, compute, inputs, false, body)
    }

    /// [`LossFunc::build`] with one input more, `key`, from which the body's scope draws random numbers: the loss of
    /// training with dropout.
    ///
    /// # Panics
    /// As [`LossFunc::build`].
    #[track_caller]
    pub fn build_random(
        name: &str,
        compute: impl Into<Compute>,
        inputs: &[(&str, TensorType)],
        body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> (Value<'g>, Value<'g>),
    ) -> LossFunc {
        LossFunc::build_with(name, compute, inputs, true, body)
    }

    #[track_caller]
    fn build_with(
        name: &str,
        compute: impl Into<Compute>,
        inputs: &[(&str, TensorType)],
        takes_key: bool,
        body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> (Value<'g>, Value<'g>),
    ) -> LossFunc {
        let key = ("key", TensorType::new(DType::U64, [2]));
        let all = [inputs, if takes_key { std::slice::from_ref(&key) } else { &[] }].concat();
        let (mut func, specs) = build(name, compute, &all, |scope, all| {
            let (data, key) = all.split_at(inputs.len());
            let scope = key.first().map_or_else(|| scope.clone(), |&key| scope.with_key(key));
            let (loss_sum, num_tokens) = body(&scope, data);
            vec![loss_sum, num_tokens]
        });
        let scalar = TensorType::scalar(DType::F32);
        let found = func.result_types();
        assert!(found == [scalar.clone(), scalar], "a loss returns two scalars f32[], found {found:?}");
        func.result_names = vec!["loss_sum".into(), "num_tokens".into()];
        LossFunc { func, specs, takes_key }
    }

    /// How many of the function's parameters are inputs, the key included; the rest are weights.
    pub fn num_inputs(&self) -> usize {
        self.func.params.len() - self.specs.len()
    }

    /// The names and types of the inputs that are data, not the key.
    pub fn inputs(&self) -> Vec<(&str, TensorType)> {
        let types = self.func.param_types();
        let num_data = self.num_inputs() - usize::from(self.takes_key);
        self.func.params.iter().zip(types).take(num_data).map(|(param, ty)| (&*param.name, ty)).collect()
    }
}

/// The cross-entropy of a model: inputs `tokens` and `labels`, each `i32[batch, seq_len]`. A label is the token that
/// comes after its position, or [`IGNORE_INDEX`]; results in nats.
///
/// # Panics
/// If the configuration is not valid or the sequence longer than the model takes.
#[track_caller]
pub fn loss_func(model: &ModelConfig, batch: usize, seq_len: usize, compute: impl Into<Compute>) -> LossFunc {
    z_loss_func(model, batch, seq_len, compute, 0.0)
}

/// [`loss_func`] with `z_loss * log²(Σ_v e^logits[v])` added at every position that counts, which keeps logits from
/// drifting away from 0 (Chowdhery et al. 2022, section 5, with a coefficient of 1e-4). 0 adds nothing.
///
/// # Panics
/// As [`loss_func`].
#[track_caller]
pub fn z_loss_func(
    model: &ModelConfig,
    batch: usize,
    seq_len: usize,
    compute: impl Into<Compute>,
    z_loss: f64,
) -> LossFunc {
    cross_entropy_loss_func(model, batch, seq_len, compute.into(), z_loss, false)
}

/// [`z_loss_func`] as it is trained with: with the model's dropout, for which it takes a key if any rate is above 0.
///
/// # Panics
/// As [`loss_func`].
#[track_caller]
pub fn training_loss_func(
    model: &ModelConfig,
    batch: usize,
    seq_len: usize,
    compute: impl Into<Compute>,
    z_loss: f64,
) -> LossFunc {
    cross_entropy_loss_func(model, batch, seq_len, compute.into(), z_loss, model.dropout() != Dropout::NONE)
}

#[track_caller]
fn cross_entropy_loss_func(
    model: &ModelConfig,
    batch: usize,
    seq_len: usize,
    compute: Compute,
    z_loss: f64,
    takes_key: bool,
) -> LossFunc {
    let ids = TensorType::new(DType::I32, [batch, seq_len]);
    let inputs = [("tokens", ids.clone()), ("labels", ids)];
    LossFunc::build_with("loss", compute, &inputs, takes_key, |scope, inputs| {
        let hidden = model.hidden(scope, inputs[0]);
        let chunk = scope.compute().loss_chunk.tokens(batch, seq_len, model.vocab_size());
        chunked_cross_entropy_sum(hidden, inputs[1], chunk, z_loss, |hidden| model.head(scope, hidden))
    })
}

/// A loss with the weights first, as in a training state: parameters are the weights, then the inputs; results are the
/// sum of the losses and their number.
///
/// # Panics
/// If the loss takes a key: a loss that is drawn by lot tells nothing of a model.
#[track_caller]
pub fn eval_func(loss: &LossFunc) -> Func {
    assert!(!loss.takes_key, "`{}` takes a key, and an evaluation has none", loss.func.name);
    let mut func = Builder::build("eval_step", |b| {
        let weights: Vec<Value<'_>> = loss.specs.iter().map(|(path, spec)| b.param(path, spec.ty.clone())).collect();
        let inputs: Vec<Value<'_>> = loss.inputs().into_iter().map(|(name, ty)| b.param(name, ty)).collect();
        b.call(&loss.func, &[inputs, weights].concat())
    });
    func.result_names.clone_from(&loss.func.result_names);
    func
}

/// The f32 logits of the next token at every position: parameters are `tokens`, `i32[batch, seq_len]`, then the
/// weights; the result is `f32[batch, seq_len, vocab]`.
///
/// # Panics
/// As [`loss_func`].
#[track_caller]
pub fn logits_func(
    model: &ModelConfig,
    batch: usize,
    seq_len: usize,
    compute: impl Into<Compute>,
) -> (Func, Params<ParamSpec>) {
    let ids = TensorType::new(DType::I32, [batch, seq_len]);
    let (mut func, specs) =
        build("logits", compute, &[("tokens", ids)], |scope, inputs| vec![model.logits(scope, inputs[0])]);
    func.result_names = vec!["logits".into()];
    (func, specs)
}

/// A function of inputs and of the weights that `body` declares.
#[track_caller]
pub(crate) fn build(
    name: &str,
    compute: impl Into<Compute>,
    inputs: &[(&str, TensorType)],
    body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> Vec<Value<'g>>,
) -> (Func, Params<ParamSpec>) {
    build_stored(name, compute, &Storage::default(), inputs, body)
}

/// [`build`] with weights that are stored as `storage` says.
#[track_caller]
pub(crate) fn build_stored(
    name: &str,
    compute: impl Into<Compute>,
    storage: &Storage,
    inputs: &[(&str, TensorType)],
    body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> Vec<Value<'g>>,
) -> (Func, Params<ParamSpec>) {
    let mut specs = Params::new();
    let func = Builder::build(name, |b| {
        let inputs: Vec<Value<'_>> = inputs.iter().map(|(name, ty)| b.param(name, ty.clone())).collect();
        let scope = Scope::new(b, compute).with_storage(storage.clone());
        let results = body(&scope, &inputs);
        specs = scope.specs();
        results
    });
    (func, specs)
}

/// [`cross_entropy_sum`] of the logits that `head` makes of the last activations, `chunk` tokens of every sequence at a
/// time: `B T C`, `i32 B T → f32, f32`. A `chunk` that is not less than `T` is the whole.
///
/// It is a scan over the chunks, so that the logits of no more than one are held at a time. As it only adds up, and a loss
/// has the cotangent 1, its derivative computes the gradient of a chunk where it computes the chunk's loss, and no logits
/// twice. Chunks go along the sequence, so that a batch that is split over devices stays so. A last
/// chunk that is not full ends in positions that count nothing.
///
/// # Panics
/// If the shapes do not fit, or `chunk` is 0.
#[track_caller]
pub fn chunked_cross_entropy_sum<'g>(
    hidden: Value<'g>,
    labels: Value<'g>,
    chunk: usize,
    z_loss: f64,
    head: impl FnOnce(Value<'g>) -> Value<'g>,
) -> (Value<'g>, Value<'g>) {
    let b = hidden.builder();
    let sum = |hidden: Value<'g>, labels: Value<'g>| {
        let logits = head(hidden);
        b.scope("loss", || cross_entropy_sum(logits, labels, z_loss))
    };
    let [batch, seq_len, width] = hidden.dims();
    if chunk >= seq_len {
        return sum(hidden, labels);
    }
    let num_chunks = seq_len.div_ceil(chunk);
    let padding = (num_chunks * chunk - seq_len) as i64;
    let (hidden, labels, zero) = b.scope("loss", || {
        let ignored = b.scalar(labels.dtype(), f64::from(IGNORE_INDEX));
        let hidden = hidden.pad(b.scalar(hidden.dtype(), 0.0), &[0; 3], &[0, padding, 0], &[0; 3]);
        let labels = labels.pad(ignored, &[0; 2], &[0, padding], &[0; 2]);
        // The chunks are what is scanned over: they come first.
        let hidden = hidden.reshape(&[batch, num_chunks, chunk, width]).transpose(&[1, 0, 2, 3]);
        let labels = labels.reshape(&[batch, num_chunks, chunk]).transpose(&[1, 0, 2]);
        (hidden, labels, b.scalar(DType::F32, 0.0))
    });
    let sums = b.scan(&[zero, zero], &[hidden, labels], num_chunks, |sums, chunk| {
        let (loss_sum, num_tokens) = sum(chunk[0], chunk[1]);
        (vec![sums[0] + loss_sum, sums[1] + num_tokens], vec![])
    });
    (sums.carries[0], sums.carries[1])
}

/// The sum over positions of `z - logits[label] + z_loss * z²` with `z = log Σ_v e^logits[v]`, in nats, and the number of
/// positions: `B T V`, `i32 B T → f32, f32`. Positions with the label [`IGNORE_INDEX`] count nothing.
///
/// The label's logit is picked by comparison with an `iota`, which stays local when the vocabulary is split over
/// devices.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn cross_entropy_sum<'g>(logits: Value<'g>, labels: Value<'g>, z_loss: f64) -> (Value<'g>, Value<'g>) {
    let b = logits.builder();
    let shape = logits.shape();
    let vocab = shape.len() - 1;
    let wide = |x: Value<'g>| x.broadcast_in_dim(&shape, &(0..vocab).collect::<Vec<_>>());
    let logits = logits.convert(DType::F32);
    let is_label = b.iota(&TensorType::new(DType::I32, shape.clone()), vocab).equal(wide(labels));
    let label_logit = is_label.select(logits, logits.full_like(0.0)).sum(&[vocab]);
    let counted = labels.not_equal(labels.full_like(f64::from(IGNORE_INDEX)));
    let z = logits.log_sum_exp(vocab);
    let cross_entropy = z - label_logit;
    let losses = if z_loss == 0.0 { cross_entropy } else { cross_entropy + z * z * z_loss };
    let losses = counted.select(losses, losses.full_like(0.0));
    let all: Vec<usize> = (0..vocab).collect();
    (losses.sum(&all), counted.convert(DType::F32).sum(&all))
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, eval};

    use super::*;
    use crate::architectures::gpt2::Gpt2Config;
    use crate::compute::{LossChunk, Precision};
    use crate::init::initialize;

    /// The z-loss of a model reaches its loss, in chunks as in the whole.
    #[test]
    fn z_loss_is_added() {
        let model = ModelConfig::Gpt2(Gpt2Config::new(7, 4, 4, 1, 2));
        let loss = |chunk: LossChunk, z_loss: f64| {
            let compute = Compute { loss_chunk: chunk, ..Precision::Float32.into() };
            let loss = z_loss_func(&model, 1, 4, compute, z_loss);
            let data = [[1i32, 2, 3, 4], [2, 3, -100, 5]].map(|ids| Literal::new([1, 4], &ids));
            let args: Vec<Literal> = data.into_iter().chain(initialize(&loss.specs, 5).into_values()).collect();
            eval(&loss.func, &args).expect("the arguments fit")[0].to_f64s()[0]
        };
        let added = |chunk: LossChunk| loss(chunk, 0.5) - loss(chunk, 0.0);
        // Logits are near 0 at first: three positions count the square of the logarithm of 7 tokens.
        let expected = 0.5 * 3.0 * 7f64.ln().powi(2);
        assert!((added(LossChunk::Whole) - expected).abs() < 0.05 * expected);
        assert!((added(LossChunk::Tokens(3)) - added(LossChunk::Whole)).abs() < 1e-5);
    }

    #[test]
    fn cross_entropy_is_torchs() {
        let func = |z_loss: f64| {
            Builder::build("f", |b| {
                let logits = b.param("logits", TensorType::new(DType::F32, [2, 2, 3]));
                let labels = b.param("labels", TensorType::new(DType::I32, [2, 2]));
                let (sum, count) = cross_entropy_sum(logits, labels, z_loss);
                vec![sum, count]
            })
        };
        let logits = [1f32, 2.0, -1.0, 0.5, 0.0, 3.0, 100.0, -100.0, 0.0, -2.0, -2.0, -2.0];
        let check = |labels: [i32; 4], z_loss: f64, sum: f64, count: f64| {
            let args = [Literal::new([2, 2, 3], &logits), Literal::new([2, 2], &labels)];
            let found: Vec<f64> =
                eval(&func(z_loss), &args).expect("the arguments fit").iter().flat_map(Literal::to_f64s).collect();
            assert!((found[0] - sum).abs() < 1e-4 && found[1] == count, "{labels:?}: {found:?}, not {sum} of {count}");
        };
        // torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        // of torch 2.15.
        check([1, -100, 1, 2], 0.0, 201.447632, 3.0);
        check([-100; 4], 0.0, 0.0, 0.0);
        // With the squares of logsumexp, 2.3490121, 100 and -2 + log 3, at the positions that count.
        check([1, -100, 1, 2], 0.01, 201.447632 + 0.01 * 10006.330358, 3.0);
        check([-100; 4], 0.01, 0.0, 0.0);
    }
}
