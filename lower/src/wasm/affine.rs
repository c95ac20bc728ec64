//! Numbers that depend on loop variables linearly: indices and addresses.

/// `constant + Σ coefficients[l] * variable[l]` over the loops of a nest, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Affine {
    /// What every loop's variable is multiplied by.
    pub(super) coefficients: Vec<i64>,
    /// The value when all variables are 0.
    pub(super) constant: i64,
}

impl Affine {
    /// A number that no loop changes.
    pub(super) fn constant(num_loops: usize, constant: i64) -> Affine {
        Affine { coefficients: vec![0; num_loops], constant }
    }

    /// The variable of a loop.
    pub(super) fn variable(num_loops: usize, index: usize) -> Affine {
        let mut affine = Affine::constant(num_loops, 0);
        affine.coefficients[index] = 1;
        affine
    }

    /// The sum of `self` and `factor * other`.
    pub(super) fn plus(&self, other: &Affine, factor: i64) -> Affine {
        let coefficients = self.coefficients.iter().zip(&other.coefficients).map(|(a, b)| a + b * factor).collect();
        Affine { coefficients, constant: self.constant + other.constant * factor }
    }

    /// `self * factor + shift`.
    pub(super) fn scaled(&self, factor: i64, shift: i64) -> Affine {
        let coefficients = self.coefficients.iter().map(|a| a * factor).collect();
        Affine { coefficients, constant: self.constant * factor + shift }
    }

    /// `Σ indices[d] * strides[d]`.
    pub(super) fn dot(num_loops: usize, indices: &[Affine], strides: &[i64]) -> Affine {
        let zero = Affine::constant(num_loops, 0);
        indices.iter().zip(strides).fold(zero, |sum, (index, &stride)| sum.plus(index, stride))
    }

    /// The number of loops down to the innermost that changes it: 0 when none does.
    pub(super) fn depth(&self) -> usize {
        self.coefficients.iter().rposition(|&a| a != 0).map_or(0, |last| last + 1)
    }
}

/// The distances of neighbours along each dimension in row-major order.
pub(super) fn strides(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * i64_of(shape[d].max(1));
    }
    strides
}

/// A size as a number to calculate with.
pub(super) fn i64_of(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of tensors fit an i64")
}
