//! AdamW and gradient clipping, all in f32.

use lmc_graph::Value;

use crate::architectures::ConfigError;

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), as PyTorch's `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How much of the first moment, the mean gradient, stays in a step.
    pub beta1: f64,
    /// How much of the second moment, the mean squared gradient, stays in a step.
    pub beta2: f64,
    /// Added to the square root of the second moment, after its bias correction.
    pub eps: f64,
    /// The share of a weight that a step with learning rate 1 takes away, of weights whose spec says so; 0 is Adam.
    pub weight_decay: f64,
}

/// What a step changes of one parameter; all three have one type.
#[derive(Clone, Copy, Debug)]
pub struct Updated<'g> {
    /// The weight.
    pub weight: Value<'g>,
    /// The first moment.
    pub first_moment: Value<'g>,
    /// The second moment.
    pub second_moment: Value<'g>,
}

/// Scalars of a step that are the same for every parameter.
#[derive(Clone, Copy, Debug)]
pub struct StepScalars<'g> {
    /// The learning rate.
    pub learning_rate: Value<'g>,
    /// `1 - beta1^t`, with `t` counted from 1: what a first moment that started at 0 has seen of the gradients.
    pub bias_correction1: Value<'g>,
    /// `1 - beta2^t`.
    pub bias_correction2: Value<'g>,
}

impl AdamW {
    /// The scalars of step number `t`, f32 and counted from 1.
    ///
    /// # Panics
    /// If an operand is not an f32 scalar.
    #[track_caller]
    pub fn step_scalars<'g>(&self, t: Value<'g>, learning_rate: Value<'g>) -> StepScalars<'g> {
        // 1 - e^(t ln beta), exact where beta^t is near 1. For beta = 0 there is no logarithm, and the correction is 1.
        let correction = |beta: f64| if beta == 0.0 { t.full_like(1.0) } else { -(t * beta.ln()).expm1() };
        StepScalars {
            learning_rate,
            bias_correction1: correction(self.beta1),
            bias_correction2: correction(self.beta2),
        }
    }

    /// One parameter after a step with this gradient.
    ///
    /// # Panics
    /// If the types differ.
    #[track_caller]
    pub fn update<'g>(
        &self,
        before: Updated<'g>,
        gradient: Value<'g>,
        step: StepScalars<'g>,
        decay: bool,
    ) -> Updated<'g> {
        let Updated { weight, first_moment, second_moment } = before;
        let first_moment = first_moment * self.beta1 + gradient * (1.0 - self.beta1);
        let second_moment = second_moment * self.beta2 + gradient * gradient * (1.0 - self.beta2);
        // Scalars are combined before they meet a tensor.
        let step_size = step.learning_rate / step.bias_correction1;
        let kept = if decay && self.weight_decay != 0.0 {
            weight * (step.learning_rate * -self.weight_decay + 1.0)
        } else {
            weight
        };
        let denominator = second_moment.sqrt() / step.bias_correction2.sqrt() + self.eps;
        Updated { weight: kept - first_moment / denominator * step_size, first_moment, second_moment }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(ConfigError { field, reason: format!("must be at least 0 and below 1, found {beta}") });
            }
        }
        for (field, number) in [("eps", self.eps), ("weight_decay", self.weight_decay)] {
            if !(number.is_finite() && number >= 0.0) {
                return Err(ConfigError {
                    field,
                    reason: format!("must be a finite number, at least 0, found {number}"),
                });
            }
        }
        Ok(())
    }
}

/// The square root of the sum of the squares of all elements of all values, f32.
///
/// # Panics
/// If there are no values.
#[track_caller]
pub fn global_norm<'g>(values: &[Value<'g>]) -> Value<'g> {
    let squares = values.iter().map(|&x| (x * x).sum(&(0..x.rank()).collect::<Vec<_>>()));
    squares.reduce(|sum, square| sum + square).expect("a norm of at least one value").sqrt()
}

/// What gradients of this global norm are multiplied with so that it is at most `max_norm`:
/// `min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`; 0 for `max_norm` disables clipping.
#[track_caller]
pub fn clip_coefficient(norm: Value<'_>, max_norm: f64) -> Value<'_> {
    if max_norm == 0.0 {
        return norm.full_like(1.0);
    }
    (norm.full_like(max_norm) / (norm + 1e-6)).minimum(norm.full_like(1.0))
}
