//! Products as calls that take matrices.

use super::collapse::Collapsed;

/// A call of a product of matrices, or of batches of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matmul {
    /// The product.
    pub(crate) product: Collapsed,
    /// Whether the last two dimensions of an operand are the other way round: contracting and free on the left, free
    /// and contracting on the right.
    pub(crate) transpose_lhs: bool,
    pub(crate) transpose_rhs: bool,
}

impl Matmul {
    /// The call for a product, or what it does that this product does not.
    pub(super) fn of(product: &Collapsed) -> Result<Matmul, &'static str> {
        let op = &product.op;
        let batch = op.lhs_batching_dimensions.len();
        let leading: Vec<usize> = (0..batch).collect();
        let is_matrix = |shape: &[usize], batching: &[usize]| shape.len() == batch + 2 && batching == leading;
        let (&[lhs_sum], &[rhs_sum]) = (&op.lhs_contracting_dimensions[..], &op.rhs_contracting_dimensions[..]) else {
            return Err("sums over one dimension, and these do not collapse to one");
        };
        if !is_matrix(&product.lhs, &op.lhs_batching_dimensions)
            || !is_matrix(&product.rhs, &op.rhs_batching_dimensions)
        {
            return Err("takes matrices behind their batch, and these do not collapse to that");
        }
        Ok(Matmul { transpose_lhs: lhs_sum == batch, transpose_rhs: rhs_sum == batch + 1, product: product.clone() })
    }
}
