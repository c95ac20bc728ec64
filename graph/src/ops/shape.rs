//! Ops that make tensors from nothing, and ops that move elements without computing.

use crate::attributes::attributes;
use crate::builder::Value;
use crate::dtype::TensorType;
use crate::error::require;
use crate::eval::{Offsets, Tensor, at, strides};
use crate::literal::Literal;
use crate::ops::{Inferred, Op, arity, is_unique};

attributes! {
    /// `result = value`: a tensor known when the graph is built. No operands.
    ///
    /// *Constraints*: (C1) the result has the value's type.
    pub struct Constant {
        /// The tensor.
        pub value: Literal,
    }
}

pub(crate) fn constant_type(op: &Constant, operands: &[&TensorType]) -> Inferred {
    let [] = arity(operands)?;
    Ok(vec![op.value.ty().clone()])
}

pub(crate) fn eval_constant(op: &Constant) -> Tensor {
    Tensor::from(&op.value)
}

attributes! {
    /// `result[i] = i[iota_dimension]`: counts from 0 along a dimension. No operands.
    ///
    /// *Constraints*: (I1) numbers, not booleans. (C1) `iota_dimension` is a dimension of the output.
    pub struct Iota {
        /// The dimension along which elements count.
        pub iota_dimension: usize,
        /// The type of the result.
        pub output: TensorType,
    }
}

pub(crate) fn iota_type(op: &Iota, operands: &[&TensorType]) -> Inferred {
    let [] = arity(operands)?;
    let Iota { iota_dimension, output } = op;
    require!(output.dtype != crate::DType::Bool, "I1", "the output must be of integers or floats, found {output}");
    require!(*iota_dimension < output.rank(), "C1", "{output} has no dimension {iota_dimension}");
    Ok(vec![output.clone()])
}

pub(crate) fn eval_iota(op: &Iota) -> Tensor {
    let Iota { iota_dimension, output: ty } = op;
    let mut along = vec![0; ty.rank()];
    along[*iota_dimension] = 1;
    let counts = Offsets::new(&ty.shape, &along, 0);
    if ty.dtype.is_float() {
        Tensor::from_floats(ty.clone(), counts.map(|i| i as f64).collect())
    } else {
        Tensor::from_ints(ty.clone(), counts.map(|i| i as i128).collect())
    }
}

attributes! {
    /// `result[r] = operand[i]` with `i[d] = 0` where the operand's size is 1, else `r[broadcast_dimensions[d]]`.
    ///
    /// *Constraints*: (C1) the element type stays. (C2) one of `broadcast_dimensions` for each dimension of the
    /// operand. (C3) they are dimensions of the result. (C4) they are distinct. (C5) each size of the operand is 1 or
    /// that of the result's dimension.
    pub struct BroadcastInDim {
        /// The shape of the result.
        pub shape: Vec<usize>,
        /// For each dimension of the operand, the dimension of the result it becomes.
        pub broadcast_dimensions: Vec<usize>,
    }
}

pub(crate) fn broadcast_in_dim_type(op: &BroadcastInDim, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let BroadcastInDim { shape, broadcast_dimensions } = op;
    require!(
        broadcast_dimensions.len() == x.rank(),
        "C2",
        "expected a broadcast dimension for each dimension of {x}, found {broadcast_dimensions:?}"
    );
    require!(
        broadcast_dimensions.iter().all(|&d| d < shape.len()),
        "C3",
        "broadcast dimensions {broadcast_dimensions:?} are not all dimensions of {shape:?}"
    );
    require!(is_unique(broadcast_dimensions), "C4", "broadcast dimensions are listed twice: {broadcast_dimensions:?}");
    for (i, &d) in broadcast_dimensions.iter().enumerate() {
        require!(
            x.shape[i] == 1 || x.shape[i] == shape[d],
            "C5",
            "cannot broadcast dimension {i} of {x} to size {} (dimension {d} of {shape:?})",
            shape[d]
        );
    }
    Ok(vec![x.with_shape(shape.clone())])
}

pub(crate) fn eval_broadcast_in_dim(op: &BroadcastInDim, x: &Tensor, ty: &TensorType) -> Tensor {
    let x_strides = strides(&x.ty().shape);
    let mut along = vec![0; ty.rank()];
    for (i, &d) in op.broadcast_dimensions.iter().enumerate() {
        if x.ty().shape[i] != 1 {
            along[d] = x_strides[i];
        }
    }
    x.pick(ty, Offsets::new(&ty.shape, &along, 0))
}

attributes! {
    /// The same elements in row-major order with another shape.
    ///
    /// *Constraints*: (C1) the element type stays. (C2) the number of elements stays.
    pub struct Reshape {
        /// The shape of the result.
        pub shape: Vec<usize>,
    }
}

pub(crate) fn reshape_type(op: &Reshape, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let result = x.with_shape(op.shape.clone());
    require!(
        x.num_elements() == result.num_elements(),
        "C2",
        "cannot reshape {x} with {} elements to {result} with {}",
        x.num_elements(),
        result.num_elements()
    );
    Ok(vec![result])
}

attributes! {
    /// `result[r] = operand[i]` with `r[d] = i[permutation[d]]`.
    ///
    /// *Constraints*: (C1) the element type stays. (C2) `permutation` is a permutation of the operand's dimensions.
    /// (C3) the result's shape is the operand's, permuted.
    pub struct Transpose {
        /// For each dimension of the result, the operand's dimension it is.
        pub permutation: Vec<usize>,
    }
}

pub(crate) fn transpose_type(op: &Transpose, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let Transpose { permutation } = op;
    require!(
        permutation.len() == x.rank() && is_unique(permutation) && permutation.iter().all(|&d| d < x.rank()),
        "C2",
        "{permutation:?} is not a permutation of the dimensions of {x}"
    );
    Ok(vec![x.with_shape(permutation.iter().map(|&d| x.shape[d]).collect::<Vec<_>>())])
}

pub(crate) fn eval_transpose(op: &Transpose, x: &Tensor, ty: &TensorType) -> Tensor {
    let along = at(&strides(&x.ty().shape), &op.permutation);
    x.pick(ty, Offsets::new(&ty.shape, &along, 0))
}

attributes! {
    /// `result[i] = operand[j]` with `j[d] = size[d] - 1 - i[d]` for the listed dimensions, else `i[d]`.
    ///
    /// *Constraints*: (C1) the type stays. (C2) `dimensions` are distinct. (C3) they are dimensions of the operand.
    pub struct Reverse {
        /// The dimensions to reverse.
        pub dimensions: Vec<usize>,
    }
}

pub(crate) fn reverse_type(op: &Reverse, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let Reverse { dimensions } = op;
    require!(is_unique(dimensions), "C2", "dimensions are listed twice: {dimensions:?}");
    require!(dimensions.iter().all(|&d| d < x.rank()), "C3", "{x} does not have the dimensions {dimensions:?}");
    Ok(vec![x.clone()])
}

pub(crate) fn eval_reverse(op: &Reverse, x: &Tensor) -> Tensor {
    let ty = x.ty();
    let mut along = strides(&ty.shape);
    let mut last = 0;
    for &d in &op.dimensions {
        last += along[d] as usize * ty.shape[d].saturating_sub(1);
        along[d] = -along[d];
    }
    x.pick(ty, Offsets::new(&ty.shape, &along, last))
}

attributes! {
    /// `result[i] = operand[start_indices + i * strides]`.
    ///
    /// *Constraints*: (C1) the element type stays. (C2) one start, limit and stride for each dimension.
    /// (C3) `0 <= start <= limit <= size`. (C4) strides are above 0. (C5) sizes are `ceil((limit - start) / stride)`.
    pub struct Slice {
        /// The first index, for each dimension.
        pub start_indices: Vec<usize>,
        /// One past the last index, for each dimension.
        pub limit_indices: Vec<usize>,
        /// The distance of neighbours, for each dimension.
        pub strides: Vec<usize>,
    }
}

pub(crate) fn slice_type(op: &Slice, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let Slice { start_indices: start, limit_indices: limit, strides } = op;
    require!(
        start.len() == x.rank() && limit.len() == x.rank() && strides.len() == x.rank(),
        "C2",
        "expected a start, limit and stride for each dimension of {x}, found {start:?}, {limit:?} and {strides:?}"
    );
    let mut shape = Vec::with_capacity(x.rank());
    for d in 0..x.rank() {
        require!(
            start[d] <= limit[d] && limit[d] <= x.shape[d],
            "C3",
            "{}..{} is not within dimension {d} of {x}",
            start[d],
            limit[d]
        );
        require!(strides[d] > 0, "C4", "the stride of dimension {d} is 0");
        shape.push((limit[d] - start[d]).div_ceil(strides[d]));
    }
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn eval_slice(op: &Slice, x: &Tensor, ty: &TensorType) -> Tensor {
    let x_strides = strides(&x.ty().shape);
    let start = position(&op.start_indices, &x_strides);
    let along: Vec<isize> = x_strides.iter().zip(&op.strides).map(|(&x, &stride)| x * stride as isize).collect();
    x.pick(ty, Offsets::new(&ty.shape, &along, start))
}

/// Where the element at `index` lies.
pub(crate) fn position(index: &[usize], strides: &[isize]) -> usize {
    index.iter().zip(strides).map(|(&i, &stride)| i * stride as usize).sum()
}

attributes! {
    /// The operands one after another along a dimension.
    ///
    /// *Constraints*: (C1) the operands have one element type. (C2) they have the same shape but for `dimension`.
    /// (C3) there is at least one. (C4) `dimension` is a dimension of theirs. (C6) sizes along it add up.
    pub struct Concatenate {
        /// The dimension along which the operands follow each other.
        pub dimension: usize,
    }
}

pub(crate) fn concatenate_type(op: &Concatenate, operands: &[&TensorType]) -> Inferred {
    let dimension = op.dimension;
    let Some((first, rest)) = operands.split_first() else {
        require!(false, "C3", "expected at least one operand, found none");
        return Ok(vec![]);
    };
    require!(dimension < first.rank(), "C4", "{first} has no dimension {dimension}");
    let mut shape = first.shape.clone();
    for x in rest {
        require!(x.dtype == first.dtype, "C1", "the element types must be the same, found {first} and {x}");
        let same = x.rank() == first.rank() && (0..x.rank()).all(|d| d == dimension || x.shape[d] == first.shape[d]);
        require!(same, "C2", "the shapes must be the same but for dimension {dimension}, found {first} and {x}");
        shape[dimension] += x.shape[dimension];
    }
    Ok(vec![first.with_shape(shape)])
}

pub(crate) fn eval_concatenate(op: &Concatenate, operands: &[&Tensor], ty: &TensorType) -> Tensor {
    let along = strides(&ty.shape);
    let mut result = Tensor::zeros(ty.clone());
    let mut start = 0;
    for x in operands {
        let shape = &x.ty().shape;
        result.put(Offsets::new(shape, &along, start), x, 0..x.ty().num_elements());
        start += shape[op.dimension] * along[op.dimension] as usize;
    }
    result
}

attributes! {
    /// `result[edge_padding_low + i * (interior_padding + 1)] = operand[i]`, and the padding value elsewhere; the
    /// operands are `operand` and the scalar `padding_value`. Negative edges cut off.
    ///
    /// *Constraints*: (I1) the padding value is a scalar. (C1) both have one element type. (C2) one number of each
    /// kind for each dimension. (C3) `interior_padding` is not negative. (C4) sizes are
    /// `low + max(size - 1, 0) * interior + size + high` and not negative.
    pub struct Pad {
        /// Elements before the first, for each dimension; negative ones cut off.
        pub edge_padding_low: Vec<i64>,
        /// Elements after the last, for each dimension; negative ones cut off.
        pub edge_padding_high: Vec<i64>,
        /// Elements between neighbours, for each dimension.
        pub interior_padding: Vec<i64>,
    }
}

pub(crate) fn pad_type(op: &Pad, operands: &[&TensorType]) -> Inferred {
    let [x, value] = arity(operands)?;
    let Pad { edge_padding_low: low, edge_padding_high: high, interior_padding: interior } = op;
    require!(value.rank() == 0, "I1", "the padding value must be a scalar, found {value}");
    require!(x.dtype == value.dtype, "C1", "the element types must be the same, found {x} and {value}");
    require!(
        low.len() == x.rank() && high.len() == x.rank() && interior.len() == x.rank(),
        "C2",
        "expected paddings for each dimension of {x}, found {low:?}, {high:?} and {interior:?}"
    );
    let mut shape = Vec::with_capacity(x.rank());
    for d in 0..x.rank() {
        require!(interior[d] >= 0, "C3", "the interior padding of dimension {d} is {}", interior[d]);
        let size = i128::try_from(x.shape[d]).expect("a usize fits an i128");
        let padded = i128::from(low[d]) + (size - 1).max(0) * i128::from(interior[d]) + size + i128::from(high[d]);
        let Ok(padded) = usize::try_from(padded) else {
            require!(false, "C4", "dimension {d} of {x} padded by {} and {} has size {padded}", low[d], high[d]);
            return Ok(vec![]);
        };
        shape.push(padded);
    }
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn eval_pad(op: &Pad, x: &Tensor, value: &Tensor, ty: &TensorType) -> Tensor {
    let (x_strides, along) = (strides(&x.ty().shape), strides(&ty.shape));
    // The block of the operand that is not cut off: its first index and sizes, and where its first element goes.
    let (mut first, mut block, mut target) = (vec![], vec![], vec![]);
    for (d, (&size, &limit)) in x.ty().shape.iter().zip(&ty.shape).enumerate() {
        let (low, step) = (op.edge_padding_low[d], op.interior_padding[d] + 1);
        let kept: Vec<usize> = (0..size).filter(|&i| (0..limit as i64).contains(&(low + i as i64 * step))).collect();
        let start = kept.first().copied().unwrap_or(0);
        first.push(start);
        block.push(kept.len());
        target.push(if kept.is_empty() { 0 } else { (low + start as i64 * step) as usize });
    }
    let steps: Vec<isize> =
        along.iter().zip(&op.interior_padding).map(|(&along, &interior)| along * (interior as isize + 1)).collect();
    let mut result = value.pick(ty, std::iter::repeat_n(0, ty.num_elements()));
    result.put(
        Offsets::new(&block, &steps, position(&target, &along)),
        x,
        Offsets::new(&block, &x_strides, position(&first, &x_strides)),
    );
    result
}

impl<'g> Value<'g> {
    /// `broadcast_in_dim`: dimension `d` of `self` becomes `broadcast_dimensions[d]` of `shape`; no node when nothing
    /// changes.
    ///
    /// # Panics
    /// If a constraint of [`BroadcastInDim`] is broken.
    #[track_caller]
    pub fn broadcast_in_dim(self, shape: &[usize], broadcast_dimensions: &[usize]) -> Value<'g> {
        if self.shape() == shape && broadcast_dimensions.iter().copied().eq(0..shape.len()) {
            return self;
        }
        let op = BroadcastInDim { shape: shape.to_vec(), broadcast_dimensions: broadcast_dimensions.to_vec() };
        self.builder().push1(Op::BroadcastInDim(op), &[self])
    }

    /// Broadcasts to `shape` as NumPy does: dimensions are matched from the last one.
    ///
    /// # Panics
    /// If the shapes do not match.
    #[track_caller]
    pub fn broadcast_to(self, shape: &[usize]) -> Value<'g> {
        let rank = self.rank();
        assert!(rank <= shape.len(), "cannot broadcast {} to {shape:?}", self.ty());
        let dimensions: Vec<usize> = (shape.len() - rank..shape.len()).collect();
        self.broadcast_in_dim(shape, &dimensions)
    }

    /// Both values broadcast to their common shape as NumPy does, by `broadcast_in_dim` nodes where needed.
    ///
    /// # Panics
    /// If the shapes have no common one.
    #[track_caller]
    pub fn broadcast_together(self, rhs: Value<'g>) -> (Value<'g>, Value<'g>) {
        let (a, b) = (self.shape(), rhs.shape());
        if a == b {
            return (self, rhs);
        }
        let rank = a.len().max(b.len());
        let size = |shape: &[usize], d: usize| (d + shape.len()).checked_sub(rank).map_or(1, |d| shape[d]);
        let shape: Vec<usize> = (0..rank)
            .map(|d| match (size(&a, d), size(&b, d)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                (x, y) => panic!("cannot broadcast {} and {} together: sizes {x} and {y}", self.ty(), rhs.ty()),
            })
            .collect();
        (self.broadcast_to(&shape), rhs.broadcast_to(&shape))
    }

    /// `reshape`; no node when the shape stays.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    pub fn reshape(self, shape: &[usize]) -> Value<'g> {
        if self.shape() == shape {
            return self;
        }
        self.builder().push1(Op::Reshape(Reshape { shape: shape.to_vec() }), &[self])
    }

    /// `transpose`: dimension `d` of the result is `permutation[d]` of `self`; no node for the identity.
    ///
    /// # Panics
    /// If `permutation` is not one of the dimensions.
    #[track_caller]
    pub fn transpose(self, permutation: &[usize]) -> Value<'g> {
        if permutation.iter().copied().eq(0..self.rank()) {
            return self;
        }
        self.builder().push1(Op::Transpose(Transpose { permutation: permutation.to_vec() }), &[self])
    }

    /// `reverse` along `dimensions`.
    ///
    /// # Panics
    /// If a dimension is listed twice or is not one of `self`.
    #[track_caller]
    pub fn reverse(self, dimensions: &[usize]) -> Value<'g> {
        self.builder().push1(Op::Reverse(Reverse { dimensions: dimensions.to_vec() }), &[self])
    }

    /// `slice` with all attributes.
    ///
    /// # Panics
    /// If a constraint of [`Slice`] is broken.
    #[track_caller]
    pub fn slice(self, start_indices: &[usize], limit_indices: &[usize], strides: &[usize]) -> Value<'g> {
        let op = Slice {
            start_indices: start_indices.to_vec(),
            limit_indices: limit_indices.to_vec(),
            strides: strides.to_vec(),
        };
        self.builder().push1(Op::Slice(op), &[self])
    }

    /// `slice` of one dimension: indices `range` of `dimension`, everything of the others; no node for everything.
    ///
    /// # Panics
    /// If the range is not within the dimension.
    #[track_caller]
    pub fn slice_dim(self, dimension: usize, range: std::ops::Range<usize>) -> Value<'g> {
        let mut limit = self.shape();
        assert!(dimension < limit.len(), "{} has no dimension {dimension}", self.ty());
        if range == (0..limit[dimension]) {
            return self;
        }
        let (mut start, strides) = (vec![0; limit.len()], vec![1; limit.len()]);
        start[dimension] = range.start;
        limit[dimension] = range.end;
        self.slice(&start, &limit, &strides)
    }

    /// `pad` with all attributes.
    ///
    /// # Panics
    /// If a constraint of [`Pad`] is broken.
    #[track_caller]
    pub fn pad(self, padding_value: Value<'g>, low: &[i64], high: &[i64], interior: &[i64]) -> Value<'g> {
        let op = Pad {
            edge_padding_low: low.to_vec(),
            edge_padding_high: high.to_vec(),
            interior_padding: interior.to_vec(),
        };
        self.builder().push1(Op::Pad(op), &[self, padding_value])
    }
}
