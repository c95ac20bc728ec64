//! Muon.

use lmc_graph::ops::DotGeneral;
use lmc_graph::{DType, Value};

use super::{AdamW, Rule, Slots, StepRule, StepScalars, check_not_negative, check_shares, decayed};
use crate::architectures::ConfigError;
use crate::compute::Precision;
use crate::params::ParamSpec;

/// Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"), as PyTorch's
/// `torch.optim.Muon`: a step is the momentum of the gradients with its singular values made about 1. It is for hidden
/// matrices ([`ParamSpec::is_hidden_matrix`]), whose slot is the momentum, `muon.m`; embeddings, the head, gains and
/// biases are [`AdamW`]'s.
///
/// A weight that holds several matrices side by side, such as GPT-2's queries, keys and values, is one matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// How much of the momentum, the mean gradient, stays in a step; 0.95 is usual.
    pub momentum: f64,
    /// The learning rate of hidden matrices as a multiple of that of the others.
    pub rate: f64,
    /// How the learning rate of a matrix depends on its shape.
    pub adjustment: RateAdjustment,
    /// The share of a weight that a step with learning rate 1 takes away, of weights whose spec says so. The learning
    /// rate is that before the adjustment.
    pub weight_decay: f64,
    /// In what the singular values are made 1: bf16 is PyTorch's and the paper's, and is nearly as good.
    pub precision: Precision,
    /// The optimizer of everything else.
    pub others: AdamW,
}

/// How the learning rate of a matrix of `rows` and `columns` depends on them; the words are PyTorch's `adjust_lr_fn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateAdjustment {
    /// `original`: times `sqrt(max(1, rows / columns))`.
    Original,
    /// `match_rms_adamw`: times `0.2 sqrt(max(rows, columns))`, with which an update is about as long as one of AdamW,
    /// so that learning rate and decay are AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
    MatchRmsAdamW,
}

impl RateAdjustment {
    /// The factor for a shape.
    fn factor(self, rows: usize, columns: usize) -> f64 {
        match self {
            RateAdjustment::Original => (rows as f64 / columns as f64).max(1.0).sqrt(),
            RateAdjustment::MatchRmsAdamW => 0.2 * (rows.max(columns) as f64).sqrt(),
        }
    }
}

impl Rule for Muon {
    fn slots(&self, spec: &ParamSpec) -> &'static [&'static str] {
        if spec.is_hidden_matrix() { &["muon.m"] } else { self.others.slots(spec) }
    }

    fn step<'g>(&self, step: StepScalars<'g>) -> StepRule<'g> {
        let Muon { momentum, rate, adjustment, weight_decay, precision, others } = *self;
        let others = others.step(step);
        let learning_rate = step.learning_rate * rate;
        Box::new(move |before, gradient, spec| {
            if !spec.is_hidden_matrix() {
                return others(before, gradient, spec);
            }
            let [mean] = before.state[..] else { unreachable!("Muon has one slot") };
            let mean = step.choose(mean * momentum + gradient * (1.0 - momentum), mean);
            // Nesterov's: a step further along the momentum.
            let direction = gradient * (1.0 - momentum) + mean * momentum;
            let [rows, columns] = gradient.dims();
            let step_size = learning_rate * adjustment.factor(rows, columns);
            let kept = decayed(before.weight, learning_rate, weight_decay, spec);
            let weight = kept - orthogonalize(direction, precision) * step_size;
            Slots { weight: step.choose(weight, before.weight), state: vec![mean] }
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        check_shares(&[("momentum", self.momentum)])?;
        check_not_negative(&[("rate", self.rate), ("weight_decay", self.weight_decay)])?;
        self.others.validate()
    }
}

/// The coefficients of the quintic `a s + b s³ + c s⁵`, chosen for its slope at 0 and not for a fixed point: it takes
/// all singular values from 0.01 to 1 into about 0.7 to 1.2 in five iterations (Jordan et al. 2024).
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Iterations of the quintic.
const ITERATIONS: usize = 5;

/// The least norm that a matrix is divided by, as PyTorch's `eps`.
const LEAST_NORM: f64 = 1e-7;

/// `U Vᵀ` of a matrix `U S Vᵀ`, roughly: its singular values become about 1, by iterations of Newton and Schulz. `R C`
/// f32 to f32.
#[track_caller]
fn orthogonalize(x: Value<'_>, precision: Precision) -> Value<'_> {
    let (b, dtype) = (x.builder(), precision.compute_dtype());
    let [rows, columns] = x.dims();
    let x = x.convert(dtype);
    // The product of the matrix with its transpose is the smaller one.
    let wide = if rows > columns { x.transpose(&[1, 0]) } else { x };
    // With a Frobenius norm of 1 no singular value is beyond 1. It is summed in f32, and rounded once.
    let square = wide.convert(DType::F32);
    let norm = (square * square).sum(&[0, 1]).sqrt().convert(dtype);
    let wide = wide / norm.maximum(norm.full_like(LEAST_NORM));
    let [c1, c3, c5] = COEFFICIENTS;
    // Sums are f32, also those of products with what they are added to, and are rounded once.
    let iterated = b.scan(&[wide], &[], ITERATIONS, |x, _| {
        let (x, wide) = (x[0], x[0].convert(DType::F32));
        let gram = product(x, x, 1);
        let narrow = gram.convert(dtype);
        let update = narrow.convert(DType::F32) * c3 + product(narrow, narrow, 0) * c5;
        let next = wide * c1 + product(update.convert(dtype), x, 0);
        (vec![next.convert(dtype)], vec![])
    });
    let wide = iterated.carries[0];
    let x = if rows > columns { wide.transpose(&[1, 0]) } else { wide };
    x.convert(DType::F32)
}

/// The f32 product of two matrices over the second dimension of the first and dimension `contracting` of the second.
#[track_caller]
fn product<'g>(x: Value<'g>, y: Value<'g>, contracting: usize) -> Value<'g> {
    let attributes = DotGeneral {
        lhs_batching_dimensions: vec![],
        rhs_batching_dimensions: vec![],
        lhs_contracting_dimensions: vec![1],
        rhs_contracting_dimensions: vec![contracting],
        result_dtype: DType::F32,
    };
    x.dot_general(y, attributes)
}
