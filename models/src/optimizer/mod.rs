//! Optimizers, a file each, and gradient clipping; all of it is computed in f32, but for what a file says.
//!
//! An optimizer says which tensors it keeps of a parameter, its slots, and how a step changes the parameter and them. A
//! new one is a file with a `Rule` and a line in `Optimizer::rule`.

mod adamw;
mod lion;
mod muon;

use std::fmt;

use lmc_graph::Value;

use crate::architectures::ConfigError;
use crate::params::ParamSpec;

pub use adamw::AdamW;
pub use lion::Lion;
pub use muon::{Muon, RateAdjustment};

/// How gradients become updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Adam with decoupled weight decay; without decay it is Adam.
    AdamW(AdamW),
    /// The sign of an average gradient.
    Lion(Lion),
    /// Orthogonalized momentum for hidden matrices, and AdamW for the rest.
    Muon(Muon),
}

/// What an optimizer is to a training step.
pub(crate) trait Rule: fmt::Debug {
    /// The tensors kept of a parameter, each with the parameter's type and zero at first; a slot's tensor is named by
    /// the slot, a dot and the parameter's path: `adam.m.lm_head.weight`.
    fn slots(&self, spec: &ParamSpec) -> &'static [&'static str];

    /// What a step does with each parameter. Whatever depends on the step alone is computed here, once. Weight and slots
    /// are [chosen](StepScalars::choose), each before anything is computed from what it becomes: a tensor that is needed as
    /// it was after it has been replaced is one that is copied.
    fn step<'g>(&self, step: StepScalars<'g>) -> StepRule<'g>;

    /// Checks the numbers.
    fn validate(&self) -> Result<(), ConfigError>;
}

/// What is the same for every parameter in a step.
#[derive(Clone, Copy, Debug)]
pub struct StepScalars<'g> {
    /// The number of the step, f32, counted from 1.
    pub t: Value<'g>,
    /// The learning rate, f32.
    pub learning_rate: Value<'g>,
    /// Whether the step changes anything, a boolean: one that is not finite does not.
    pub applied: Value<'g>,
}

impl<'g> StepScalars<'g> {
    /// `after` if the step is applied, else `before`.
    ///
    /// # Panics
    /// If the types differ.
    #[track_caller]
    pub fn choose(&self, after: Value<'g>, before: Value<'g>) -> Value<'g> {
        self.applied.select(after, before)
    }
}

/// What a step does with a parameter, its gradient and its spec.
pub type StepRule<'g> = Box<dyn Fn(&Slots<'g>, Value<'g>, &ParamSpec) -> Slots<'g> + 'g>;

/// A parameter and what its optimizer keeps of it; all have one type.
#[derive(Clone, Debug)]
pub struct Slots<'g> {
    /// The weight.
    pub weight: Value<'g>,
    /// The slots in the order of [`Optimizer::slots`].
    pub state: Vec<Value<'g>>,
}

impl Optimizer {
    fn rule(&self) -> &dyn Rule {
        match self {
            Optimizer::AdamW(rule) => rule,
            Optimizer::Lion(rule) => rule,
            Optimizer::Muon(rule) => rule,
        }
    }

    /// The names of the tensors kept of a parameter, each with the parameter's type and zero at first.
    pub fn slots(&self, spec: &ParamSpec) -> &'static [&'static str] {
        self.rule().slots(spec)
    }

    /// What a step does with each parameter.
    ///
    /// # Panics
    /// If the scalars are not of the types that [`StepScalars`] says.
    #[track_caller]
    pub fn step<'g>(&self, step: StepScalars<'g>) -> StepRule<'g> {
        self.rule().step(step)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.rule().validate()
    }
}

/// A weight after decay: `(1 - learning_rate * weight_decay) weight`, where its spec says that it decays.
#[track_caller]
fn decayed<'g>(weight: Value<'g>, learning_rate: Value<'g>, weight_decay: f64, spec: &ParamSpec) -> Value<'g> {
    if spec.decay && weight_decay != 0.0 { weight * (learning_rate * -weight_decay + 1.0) } else { weight }
}

/// Refuses shares of an average that are not from 0 to below 1.
fn check_shares(shares: &[(&'static str, f64)]) -> Result<(), ConfigError> {
    match shares.iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
        None => Ok(()),
        Some(&(field, share)) => {
            Err(ConfigError { field, reason: format!("must be at least 0 and below 1, found {share}") })
        }
    }
}

/// Refuses numbers that are not finite or below 0.
fn check_not_negative(numbers: &[(&'static str, f64)]) -> Result<(), ConfigError> {
    match numbers.iter().find(|(_, number)| !(number.is_finite() && *number >= 0.0)) {
        None => Ok(()),
        Some(&(field, number)) => {
            Err(ConfigError { field, reason: format!("must be a finite number, at least 0, found {number}") })
        }
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
