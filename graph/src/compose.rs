//! Functions composed of ops: convenience that leaves ordinary nodes behind.
//!
//! All of them are differentiable where it makes sense, by the derivatives of the ops they consist of.

mod random;
#[cfg(test)]
mod tests;

use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::eval::int_range;
use crate::ops::SortDirection;

/// Of `erf(x) / x` by powers of `x²`, highest first: Eigen's `generic_fast_erf_float`, which XLA has for `erf` of f32 too
/// (`ErfImpl32` in `xla/hlo/builder/lib/math.cc`).
const ERF_NUMERATOR: [f64; 5] = [
    0.000_229_050_658_613_506_46,
    0.003_408_291_010_710_950_6,
    0.050_955_695_062_380_86,
    0.185_208_322_399_761_45,
    1.128_379_143_519_084,
];

/// See [`ERF_NUMERATOR`].
const ERF_DENOMINATOR: [f64; 7] = [
    -1.179_160_295_436_169_7e-7,
    0.000_023_547_966_471_313_185,
    0.001_017_962_527_891_488_5,
    0.014_070_470_171_167_667,
    0.110_985_051_782_852_62,
    0.497_469_251_100_675_38,
    1.0,
];

/// Where `erf(x)` is `1 - 2^-23`.
const ERF_LIMIT: f64 = 3.743_921_162_776_799_4;

impl<'g> Value<'g> {
    /// `softmax(x)[i] = exp(x[i]) / Σ_j exp(x[j])` along `dimension`, in the element type of `self`.
    ///
    /// The maximum is subtracted first, behind `stop_gradient` as the result does not depend on it (as
    /// `jax.nn.softmax`). NaN where all elements are -∞.
    ///
    /// # Panics
    /// If `self` is not of floats or does not have the dimension.
    #[track_caller]
    pub fn softmax(self, dimension: usize) -> Value<'g> {
        let max = self.max(&[dimension]).stop_gradient();
        let exp = (self - max.spread(self, &[dimension])).exp();
        exp / exp.sum(&[dimension]).spread(self, &[dimension])
    }

    /// `log_softmax(x)[i] = x[i] - log Σ_j exp(x[j])` along `dimension`, without overflow.
    ///
    /// # Panics
    /// If `self` is not of floats or does not have the dimension.
    #[track_caller]
    pub fn log_softmax(self, dimension: usize) -> Value<'g> {
        let max = self.max(&[dimension]).stop_gradient();
        let shifted = self - max.spread(self, &[dimension]);
        shifted - shifted.exp().sum(&[dimension]).log().spread(self, &[dimension])
    }

    /// `log Σ_j exp(x[j])` along `dimension`, which the result does not have, without overflow; -∞ where all elements
    /// are -∞.
    ///
    /// # Panics
    /// If `self` is not of floats or does not have the dimension.
    #[track_caller]
    pub fn log_sum_exp(self, dimension: usize) -> Value<'g> {
        let max = self.max(&[dimension]).stop_gradient();
        // An infinite maximum would make ∞ - ∞ of the elements that equal it (as `jax.nn.logsumexp`).
        let max = max.is_finite().select(max, max.full_like(0.0));
        (self - max.spread(self, &[dimension])).exp().sum(&[dimension]).log() + max
    }

    /// The mean over `dimensions`, which the result does not have, in the element type of `self`: convert bf16 and f16
    /// to f32 first where the rounding of the sum matters. NaN over no elements.
    ///
    /// # Panics
    /// If `self` is not of floats, lacks one of the dimensions, or one is listed twice.
    #[track_caller]
    pub fn mean(self, dimensions: &[usize]) -> Value<'g> {
        let ty = self.ty();
        assert!(ty.dtype.is_float(), "a mean is of floats, found {ty}");
        let sum = self.sum(dimensions);
        let count: usize = dimensions.iter().map(|&d| ty.shape[d]).product();
        sum / count as f64
    }

    /// The mean squared distance from the mean over `dimensions`, which the result does not have: divided by their
    /// number, as LayerNorm takes it, not by one less.
    ///
    /// # Panics
    /// If `self` is not of floats, lacks one of the dimensions, or one is listed twice.
    #[track_caller]
    pub fn variance(self, dimensions: &[usize]) -> Value<'g> {
        (self - self.mean(dimensions).spread(self, dimensions)).square().mean(dimensions)
    }

    /// `result[i.., j] = 1 if self[i..] = j else 0` for `j` below `depth`, a new last dimension; a row of zeros for an
    /// index outside.
    ///
    /// # Panics
    /// If `self` is not of integers.
    #[track_caller]
    pub fn one_hot(self, depth: usize, dtype: DType) -> Value<'g> {
        let ty = self.ty();
        assert!(ty.dtype.is_int(), "indices are integers, found {ty}");
        // Counting to `depth` must not wrap.
        let fits = depth as i128 <= int_range(ty.dtype).1;
        let indices = if fits { self } else { self.convert(DType::I64) };
        let shape = [&ty.shape[..], &[depth]].concat();
        let classes = self.builder().iota(&TensorType::new(indices.dtype(), shape.clone()), ty.rank());
        let dimensions: Vec<usize> = (0..ty.rank()).collect();
        indices.broadcast_in_dim(&shape, &dimensions).equal(classes).convert(dtype)
    }

    /// `x²`.
    ///
    /// # Panics
    /// If `self` is of booleans.
    #[track_caller]
    pub fn square(self) -> Value<'g> {
        assert!(self.dtype() != DType::Bool, "a square is of numbers, found {}", self.ty());
        self * self
    }

    /// `x` where it is above 0, else 0; NaN stays. The derivative at 0 is 0, as PyTorch and JAX take it.
    ///
    /// # Panics
    /// If `self` is of booleans.
    #[track_caller]
    pub fn relu(self) -> Value<'g> {
        assert!(self.dtype() != DType::Bool, "relu is of numbers, found {}", self.ty());
        // Not `maximum`, whose derivative at a tie is shared.
        let zero = self.full_like(0.0);
        self.less_equal(zero).select(zero, self)
    }

    /// [`Value::logistic`] by its everyday name.
    ///
    /// # Panics
    /// If `self` is not of floats.
    #[track_caller]
    pub fn sigmoid(self) -> Value<'g> {
        self.logistic()
    }

    /// `x / (1 + e^-x)`, also known as swish. (Elfwing et al. 2017.)
    ///
    /// # Panics
    /// If `self` is not of floats.
    #[track_caller]
    pub fn silu(self) -> Value<'g> {
        self * self.logistic()
    }

    /// `2/√π ∫ e^(-t²) dt` from 0 to `x`, to about 4e-7 in f32, and no better in f64: an odd rational function up to where
    /// f32 has nothing between `erf(x)` and 1, and the sign of `x` beyond, where the derivative is 0.
    ///
    /// # Panics
    /// If `self` is not of floats.
    #[track_caller]
    pub fn erf(self) -> Value<'g> {
        let square = self * self;
        let polynomial = |coefficients: &[f64]| {
            let (&highest, rest) = coefficients.split_first().expect("a polynomial has coefficients");
            rest.iter().fold(square.full_like(highest), |sum, &coefficient| sum * square + coefficient)
        };
        let inside = self * polynomial(&ERF_NUMERATOR) / polynomial(&ERF_DENOMINATOR);
        // Rounding must not lead beyond 1.
        let inside = inside.clamp(self.full_like(-1.0), self.full_like(1.0));
        // NaN is not beyond.
        self.abs().greater(self.full_like(ERF_LIMIT)).select(self.sign(), inside)
    }

    /// `x / 2 (1 + erf(x / √2))`: GELU as it is defined, Hugging Face's `gelu`, with [`Value::erf`]. (Hendrycks and Gimpel
    /// 2016, section 2.)
    ///
    /// # Panics
    /// If `self` is not of floats.
    #[track_caller]
    pub fn gelu_exact(self) -> Value<'g> {
        self * 0.5 * ((self * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0)
    }

    /// `x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: GELU in its tanh form, Hugging Face's `gelu_new`. (Hendrycks and
    /// Gimpel 2016, section 2.)
    ///
    /// # Panics
    /// If `self` is not of floats.
    #[track_caller]
    pub fn gelu(self) -> Value<'g> {
        let inner = (self + self * self * self * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
        self * 0.5 * (inner.tanh() + 1.0)
    }

    /// `result[i] = Σ_{j <= i} x[j]` along `dimension`.
    ///
    /// For a size of `n`, `ceil(log2 n)` times the tensor is added to itself, shifted by 1, 2, 4, … (Hillis and Steele
    /// 1986): `n log n` additions, all of them in parallel, where a scan would take `n` steps one after another.
    ///
    /// # Panics
    /// If `self` is of booleans or does not have the dimension.
    #[track_caller]
    pub fn cumulative_sum(self, dimension: usize) -> Value<'g> {
        let ty = self.ty();
        assert!(dimension < ty.rank() && ty.dtype != DType::Bool, "{ty} has no numbers along dimension {dimension}");
        let zero = self.builder().scalar(ty.dtype, 0.0);
        let none = vec![0; ty.rank()];
        let mut sum = self;
        let mut shift = 1;
        while shift < ty.shape[dimension] {
            let (mut low, mut high) = (none.clone(), none.clone());
            low[dimension] = shift as i64;
            high[dimension] = -low[dimension];
            sum = sum + sum.pad(zero, &low, &high, &none);
            shift *= 2;
        }
        sum
    }

    /// Which elements are among the `k` greatest along the last dimension: exactly `k` of them are true (all, if there
    /// are fewer), and of equal ones those that come first. NaN counts as greatest.
    ///
    /// # Panics
    /// If `self` is a scalar or of booleans.
    #[track_caller]
    pub fn top_k_mask(self, k: usize) -> Value<'g> {
        let (_, order) = self.descending();
        let last = self.rank() - 1;
        let ranks = self.builder().iota(&order.ty(), last);
        let k = order.full_like(k.min(self.shape()[last]) as f64);
        // Sorting by the positions undoes the order.
        order.sort_by_key(ranks, last, SortDirection::Ascending).1.less(k)
    }

    /// Which of the logits `self` are in the nucleus along the last dimension: the fewest of the most probable whose
    /// probabilities, `softmax(self)`, reach `p`; at least one. (Holtzman et al. 2020, section 3.1.)
    ///
    /// # Panics
    /// If `self` is a scalar or not of floats, or `p` is not above 0.
    #[track_caller]
    pub fn top_p_mask(self, p: f64) -> Value<'g> {
        assert!(p > 0.0, "a nucleus has a probability above 0, found {p}");
        let (sorted, order) = self.descending();
        let last = self.rank() - 1;
        let probabilities = sorted.softmax(last);
        let before = probabilities.cumulative_sum(last) - probabilities;
        let kept = before.less(before.full_like(p));
        order.sort_by_key(kept, last, SortDirection::Ascending).1
    }

    /// `self` sorted along the last dimension, greatest first, and the position of each element in `self`.
    #[track_caller]
    fn descending(self) -> (Value<'g>, Value<'g>) {
        let ty = self.ty();
        assert!(ty.rank() > 0, "a scalar has no order, found {ty}");
        let positions = self.builder().iota(&ty.with_dtype(DType::I32), ty.rank() - 1);
        self.sort_by_key(positions, ty.rank() - 1, SortDirection::Descending)
    }

    /// The outcome of a reduction of `from` over `dimensions` broadcast back to its shape.
    #[track_caller]
    fn spread(self, from: Value<'g>, dimensions: &[usize]) -> Value<'g> {
        let shape = from.shape();
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !dimensions.contains(d)).collect();
        self.broadcast_in_dim(&shape, &kept)
    }
}
