//! Losses as functions of inputs and weights, and the functions for evaluation.

use lmc_graph::{Builder, DType, Func, TensorType, Value};

use crate::architectures::ModelConfig;
use crate::params::{ParamSpec, Params};
use crate::scope::{Precision, Scope};

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
        precision: Precision,
        inputs: &[(&str, TensorType)],
        body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> (Value<'g>, Value<'g>),
    ) -> LossFunc {
        let (mut func, specs) = build(name, precision, inputs, |scope, inputs| {
            let (loss_sum, num_tokens) = body(scope, inputs);
            vec![loss_sum, num_tokens]
        });
        let scalar = TensorType::scalar(DType::F32);
        let found = func.result_types();
        assert!(found == [scalar.clone(), scalar], "a loss returns two scalars f32[], found {found:?}");
        func.result_names = vec!["loss_sum".into(), "num_tokens".into()];
        LossFunc { func, specs }
    }

    /// How many of the function's parameters are inputs; the rest are weights.
    pub fn num_inputs(&self) -> usize {
        self.func.params.len() - self.specs.len()
    }

    /// The names and types of the inputs.
    pub fn inputs(&self) -> Vec<(&str, TensorType)> {
        let types = self.func.param_types();
        self.func.params.iter().zip(types).take(self.num_inputs()).map(|(param, ty)| (&*param.name, ty)).collect()
    }
}

/// The cross-entropy of a model: inputs `tokens` and `labels`, each `i32[batch, seq_len]`. A label is the token that
/// comes after its position, or [`IGNORE_INDEX`]; results in nats.
///
/// # Panics
/// If the configuration is not valid or the sequence longer than the model takes.
#[track_caller]
pub fn loss_func(model: &ModelConfig, batch: usize, seq_len: usize, precision: Precision) -> LossFunc {
    let ids = TensorType::new(DType::I32, [batch, seq_len]);
    LossFunc::build("loss", precision, &[("tokens", ids.clone()), ("labels", ids)], |scope, inputs| {
        let logits = model.logits(scope, inputs[0]);
        scope.builder().scope("loss", || cross_entropy_sum(logits, inputs[1]))
    })
}

/// A loss with the weights first, as in a training state: parameters are the weights, then the inputs; results are the
/// sum of the losses and their number.
pub fn eval_func(loss: &LossFunc) -> Func {
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
    precision: Precision,
) -> (Func, Params<ParamSpec>) {
    let ids = TensorType::new(DType::I32, [batch, seq_len]);
    let (mut func, specs) =
        build("logits", precision, &[("tokens", ids)], |scope, inputs| vec![model.logits(scope, inputs[0])]);
    func.result_names = vec!["logits".into()];
    (func, specs)
}

/// A function of inputs and of the weights that `body` declares.
#[track_caller]
pub(crate) fn build(
    name: &str,
    precision: Precision,
    inputs: &[(&str, TensorType)],
    body: impl for<'g> FnOnce(&Scope<'g>, &[Value<'g>]) -> Vec<Value<'g>>,
) -> (Func, Params<ParamSpec>) {
    let mut specs = Params::new();
    let func = Builder::build(name, |b| {
        let inputs: Vec<Value<'_>> = inputs.iter().map(|(name, ty)| b.param(name, ty.clone())).collect();
        let scope = Scope::new(b, precision);
        let results = body(&scope, &inputs);
        specs = scope.specs();
        results
    });
    (func, specs)
}

/// The sum over positions of `log Σ_v e^logits[v] - logits[label]`, in nats, and the number of positions: `B T V`,
/// `i32 B T → f32, f32`. Positions with the label [`IGNORE_INDEX`] count nothing.
///
/// The label's logit is picked by comparison with an `iota`, which stays local when the vocabulary is split over
/// devices.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn cross_entropy_sum<'g>(logits: Value<'g>, labels: Value<'g>) -> (Value<'g>, Value<'g>) {
    let b = logits.builder();
    let shape = logits.shape();
    let vocab = shape.len() - 1;
    let wide = |x: Value<'g>| x.broadcast_in_dim(&shape, &(0..vocab).collect::<Vec<_>>());
    let logits = logits.convert(DType::F32);
    let is_label = b.iota(&TensorType::new(DType::I32, shape.clone()), vocab).equal(wide(labels));
    let label_logit = is_label.select(logits, logits.full_like(0.0)).sum(&[vocab]);
    let counted = labels.not_equal(labels.full_like(f64::from(IGNORE_INDEX)));
    let losses = counted.select(logits.log_sum_exp(vocab) - label_logit, label_logit.full_like(0.0));
    let all: Vec<usize> = (0..vocab).collect();
    (losses.sum(&all), counted.convert(DType::F32).sum(&all))
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Literal, eval};

    use super::*;

    #[test]
    fn cross_entropy_is_torchs() {
        let func = Builder::build("f", |b| {
            let logits = b.param("logits", TensorType::new(DType::F32, [2, 2, 3]));
            let labels = b.param("labels", TensorType::new(DType::I32, [2, 2]));
            let (sum, count) = cross_entropy_sum(logits, labels);
            vec![sum, count]
        });
        let logits = [1f32, 2.0, -1.0, 0.5, 0.0, 3.0, 100.0, -100.0, 0.0, -2.0, -2.0, -2.0];
        let check = |labels: [i32; 4], sum: f64, count: f64| {
            let args = [Literal::new([2, 2, 3], &logits), Literal::new([2, 2], &labels)];
            let found: Vec<f64> =
                eval(&func, &args).expect("the arguments fit").iter().flat_map(Literal::to_f64s).collect();
            assert!((found[0] - sum).abs() < 1e-4 && found[1] == count, "{labels:?}: {found:?}, not {sum} of {count}");
        };
        // torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        // of torch 2.15.
        check([1, -100, 1, 2], 201.447632, 3.0);
        check([-100; 4], 0.0, 0.0);
    }
}
