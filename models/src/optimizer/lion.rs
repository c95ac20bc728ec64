//! Lion.

use super::{Rule, Slots, StepRule, StepScalars, check_not_negative, check_shares, decayed};
use crate::architectures::ConfigError;
use crate::params::ParamSpec;

/// Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2): the sign of an average of the
/// gradients, in which every element of a weight moves by the learning rate. Slot: the mean gradient, `lion.m`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// How much of the mean gradient, beside the present one, is in the average whose sign is taken.
    pub beta1: f64,
    /// How much of the mean gradient stays in a step.
    pub beta2: f64,
    /// The share of a weight that a step with learning rate 1 takes away, of weights whose spec says so.
    pub weight_decay: f64,
}

impl Rule for Lion {
    fn slots(&self, _: &ParamSpec) -> &'static [&'static str] {
        &["lion.m"]
    }

    fn step<'g>(&self, step: StepScalars<'g>) -> StepRule<'g> {
        let Lion { beta1, beta2, weight_decay } = *self;
        let learning_rate = step.learning_rate;
        Box::new(move |before, gradient, spec| {
            let [mean] = before.state[..] else { unreachable!("Lion has one slot") };
            let direction = (mean * beta1 + gradient * (1.0 - beta1)).sign();
            let kept = decayed(before.weight, learning_rate, weight_decay, spec);
            let weight = step.choose(kept - direction * learning_rate, before.weight);
            Slots { weight, state: vec![step.choose(mean * beta2 + gradient * (1.0 - beta2), mean)] }
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        check_shares(&[("beta1", self.beta1), ("beta2", self.beta2)])?;
        check_not_negative(&[("weight_decay", self.weight_decay)])
    }
}
