//! AdamW.

use super::{Rule, Slots, StepRule, StepScalars, check_not_negative, check_shares, decayed};
use crate::architectures::ConfigError;
use crate::params::ParamSpec;

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), as PyTorch's `torch.optim.AdamW`. Slots: the first moment, `adam.m`,
/// and the second, `adam.v`.
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

impl Rule for AdamW {
    fn slots(&self, _: &ParamSpec) -> &'static [&'static str] {
        &["adam.m", "adam.v"]
    }

    fn step<'g>(&self, step: StepScalars<'g>) -> StepRule<'g> {
        let AdamW { beta1, beta2, eps, weight_decay } = *self;
        let StepScalars { t, learning_rate, .. } = step;
        // What a moment that started at 0 has seen of the gradients, 1 - beta^t, as 1 - e^(t ln beta), which is exact
        // where beta^t is near 1. For beta = 0 there is no logarithm, and it has seen all.
        let seen = |beta: f64| if beta == 0.0 { t.full_like(1.0) } else { -(t * beta.ln()).expm1() };
        // Scalars are combined before they meet a tensor.
        let (step_size, root) = (learning_rate / seen(beta1), seen(beta2).sqrt());
        Box::new(move |before, gradient, spec| {
            let [first, second] = before.state[..] else { unreachable!("AdamW has two slots") };
            let first_moment = step.choose(first * beta1 + gradient * (1.0 - beta1), first);
            let second_moment = step.choose(second * beta2 + gradient * gradient * (1.0 - beta2), second);
            let denominator = second_moment.sqrt() / root + eps;
            let kept = decayed(before.weight, learning_rate, weight_decay, spec);
            let weight = kept - first_moment / denominator * step_size;
            Slots { weight: step.choose(weight, before.weight), state: vec![first_moment, second_moment] }
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        check_shares(&[("beta1", self.beta1), ("beta2", self.beta2)])?;
        check_not_negative(&[("eps", self.eps), ("weight_decay", self.weight_decay)])
    }
}
