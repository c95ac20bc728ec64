//! Products summed over dimensions.

use crate::attributes::attributes;
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::eval::{Offsets, Tensor, at, strides};
use crate::ops::{Inferred, Op, arity, is_unique};

attributes! {
    /// `result[b.., m.., n..] = Σ_k lhs[b, m, k] * rhs[b, n, k]`: the batching dimensions come first, in their listed
    /// order, then the other dimensions of `lhs`, then those of `rhs`.
    ///
    /// *Shapes*: `B.. M.. K..`, `B.. N.. K.. → B.. M.. N..`, with the dimensions of each operand in any order.
    /// The products of floats narrower than 32 bits are summed in f32 and rounded once, to `result_dtype`.
    ///
    /// *Constraints*: (I1) numbers, not booleans. (C1) as many batching dimensions on both sides. (C2) as many
    /// contracting dimensions. (C3) those of `lhs` are distinct. (C4) those of `rhs` are distinct. (C5) batching
    /// dimensions of `lhs` are dimensions of it. (C6) so are its contracting ones. (C7) batching dimensions of `rhs`
    /// are dimensions of it. (C8) so are its contracting ones. (C9) batching sizes agree. (C10) contracting sizes
    /// agree. (C12) the result's shape. (C13) both element types are the same, and `result_dtype` is theirs or, for
    /// floats, a wider float.
    pub struct DotGeneral {
        /// Dimensions of `lhs` that pair up with `rhs_batching_dimensions`.
        pub lhs_batching_dimensions: Vec<usize>,
        /// Dimensions of `rhs` that pair up with `lhs_batching_dimensions`.
        pub rhs_batching_dimensions: Vec<usize>,
        /// Dimensions of `lhs` that are summed over.
        pub lhs_contracting_dimensions: Vec<usize>,
        /// Dimensions of `rhs` that are summed over.
        pub rhs_contracting_dimensions: Vec<usize>,
        /// The element type of the result.
        pub result_dtype: DType,
    }
}

impl DotGeneral {
    /// The dimensions of `lhs` that are neither batching nor contracting, ascending.
    pub fn lhs_free_dimensions(&self, rank: usize) -> Vec<usize> {
        free_dimensions(rank, &self.lhs_batching_dimensions, &self.lhs_contracting_dimensions)
    }

    /// The dimensions of `rhs` that are neither batching nor contracting, ascending.
    pub fn rhs_free_dimensions(&self, rank: usize) -> Vec<usize> {
        free_dimensions(rank, &self.rhs_batching_dimensions, &self.rhs_contracting_dimensions)
    }
}

fn free_dimensions(rank: usize, batching: &[usize], contracting: &[usize]) -> Vec<usize> {
    (0..rank).filter(|dimension| !batching.contains(dimension) && !contracting.contains(dimension)).collect()
}

pub(crate) fn dot_general_type(op: &DotGeneral, operands: &[&TensorType]) -> Inferred {
    let [lhs, rhs] = arity(operands)?;
    let DotGeneral {
        lhs_batching_dimensions: lb,
        rhs_batching_dimensions: rb,
        lhs_contracting_dimensions: lc,
        rhs_contracting_dimensions: rc,
        result_dtype,
    } = op;
    require!(lhs.dtype != DType::Bool, "I1", "the operands must be of integers or floats, found {lhs}");
    require!(lb.len() == rb.len(), "C1", "numbers of batching dimensions differ: {lb:?} and {rb:?}");
    require!(lc.len() == rc.len(), "C2", "numbers of contracting dimensions differ: {lc:?} and {rc:?}");
    require!(is_unique(&[&lb[..], lc].concat()), "C3", "dimensions of lhs are listed twice: {lb:?} and {lc:?}");
    require!(is_unique(&[&rb[..], rc].concat()), "C4", "dimensions of rhs are listed twice: {rb:?} and {rc:?}");
    let within = |dimensions: &[usize], ty: &TensorType| dimensions.iter().all(|&d| d < ty.rank());
    require!(within(lb, lhs), "C5", "lhs {lhs} does not have the batching dimensions {lb:?}");
    require!(within(lc, lhs), "C6", "lhs {lhs} does not have the contracting dimensions {lc:?}");
    require!(within(rb, rhs), "C7", "rhs {rhs} does not have the batching dimensions {rb:?}");
    require!(within(rc, rhs), "C8", "rhs {rhs} does not have the contracting dimensions {rc:?}");
    let sizes =
        |dimensions: &[usize], ty: &TensorType| -> Vec<usize> { dimensions.iter().map(|&d| ty.shape[d]).collect() };
    let (lhs_batch, rhs_batch) = (sizes(lb, lhs), sizes(rb, rhs));
    require!(lhs_batch == rhs_batch, "C9", "batching sizes differ: {lhs_batch:?} of {lhs} and {rhs_batch:?} of {rhs}");
    let (lhs_sum, rhs_sum) = (sizes(lc, lhs), sizes(rc, rhs));
    require!(lhs_sum == rhs_sum, "C10", "contracting sizes differ: {lhs_sum:?} of {lhs} and {rhs_sum:?} of {rhs}");
    require!(lhs.dtype == rhs.dtype, "C13", "the element types must be the same, found {lhs} and {rhs}");
    let widens = lhs.dtype.is_float() && result_dtype.is_float() && result_dtype.size() > lhs.dtype.size();
    require!(
        lhs.dtype == *result_dtype || widens,
        "C13",
        "the result of {} operands cannot be {result_dtype}; it is of their element type or a wider float",
        lhs.dtype
    );
    let shape =
        [lhs_batch, sizes(&op.lhs_free_dimensions(lhs.rank()), lhs), sizes(&op.rhs_free_dimensions(rhs.rank()), rhs)]
            .concat();
    Ok(vec![TensorType::new(*result_dtype, shape)])
}

pub(crate) fn eval_dot_general(op: &DotGeneral, lhs: &Tensor, rhs: &Tensor, ty: &TensorType) -> Tensor {
    let (lhs_free, rhs_free) = (op.lhs_free_dimensions(lhs.ty().rank()), op.rhs_free_dimensions(rhs.ty().rank()));
    let (lhs_batch, rhs_batch) = (offsets(lhs, &op.lhs_batching_dimensions), offsets(rhs, &op.rhs_batching_dimensions));
    let (lhs_free, rhs_free) = (offsets(lhs, &lhs_free), offsets(rhs, &rhs_free));
    let sum: Vec<(usize, usize)> = offsets(lhs, &op.lhs_contracting_dimensions)
        .into_iter()
        .zip(offsets(rhs, &op.rhs_contracting_dimensions))
        .collect();
    // Where the rows of `lhs` and the columns of `rhs` begin, for each element of the result.
    let pairs = lhs_batch.iter().zip(&rhs_batch).flat_map(|(lhs, rhs)| {
        let rhs_free = &rhs_free;
        lhs_free.iter().flat_map(move |m| rhs_free.iter().map(move |n| (lhs + m, rhs + n)))
    });
    if ty.dtype.is_float() {
        let (x, y) = (lhs.floats(), rhs.floats());
        let dot = |(lhs, rhs): (usize, usize)| sum.iter().fold(0.0, |sum, (i, j)| sum + x[lhs + i] * y[rhs + j]);
        Tensor::from_floats(ty.clone(), pairs.map(dot).collect())
    } else {
        let (x, y) = (lhs.ints(), rhs.ints());
        let dot = |(lhs, rhs): (usize, usize)| {
            sum.iter().fold(0_i128, |sum, (i, j)| sum.wrapping_add(x[lhs + i].wrapping_mul(y[rhs + j])))
        };
        Tensor::from_ints(ty.clone(), pairs.map(dot).collect())
    }
}

/// The offsets of all indices along `dimensions`, the others being 0.
fn offsets(x: &Tensor, dimensions: &[usize]) -> Vec<usize> {
    let shape = &x.ty().shape;
    Offsets::new(&at(shape, dimensions), &at(&strides(shape), dimensions), 0).collect()
}

impl<'g> Value<'g> {
    /// `dot_general` with all attributes.
    ///
    /// # Panics
    /// If a constraint of [`DotGeneral`] is broken.
    #[track_caller]
    pub fn dot_general(self, rhs: Value<'g>, attributes: DotGeneral) -> Value<'g> {
        self.builder().push1(Op::DotGeneral(attributes), &[self, rhs])
    }

    /// The product over the last dimension of `self` and the last of `rhs`, without batching and in the operands'
    /// element type: `.. K`, `N K → .. N`. With `rhs` a weight `[out, in]` it is a linear layer.
    ///
    /// # Panics
    /// If the element types or the last sizes differ, or an operand is a scalar.
    #[track_caller]
    pub fn dot(self, rhs: Value<'g>) -> Value<'g> {
        let (lhs_rank, rhs_rank) = (self.rank(), rhs.rank());
        assert!(lhs_rank > 0 && rhs_rank > 0, "dot needs at least one dimension on each side");
        self.dot_general(
            rhs,
            DotGeneral {
                lhs_batching_dimensions: vec![],
                rhs_batching_dimensions: vec![],
                lhs_contracting_dimensions: vec![lhs_rank - 1],
                rhs_contracting_dimensions: vec![rhs_rank - 1],
                result_dtype: self.dtype(),
            },
        )
    }

    /// The matrix product: the last dimension of `self` with the second last of `rhs`, all before them batching:
    /// `B.. M K`, `B.. K N → B.. M N`.
    ///
    /// # Panics
    /// If the element types, batching sizes or contracting sizes differ, or an operand has fewer than 2 dimensions.
    #[track_caller]
    pub fn matmul(self, rhs: Value<'g>) -> Value<'g> {
        let rank = self.rank();
        assert!(
            rank >= 2 && rhs.rank() == rank,
            "matmul needs equal ranks of at least 2, found {} and {}",
            self.ty(),
            rhs.ty()
        );
        let batch: Vec<usize> = (0..rank - 2).collect();
        self.dot_general(
            rhs,
            DotGeneral {
                lhs_batching_dimensions: batch.clone(),
                rhs_batching_dimensions: batch,
                lhs_contracting_dimensions: vec![rank - 1],
                rhs_contracting_dimensions: vec![rank - 2],
                result_dtype: self.dtype(),
            },
        )
    }
}
