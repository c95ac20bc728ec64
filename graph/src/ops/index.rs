//! Reading and writing at positions that are values.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::TensorType;
use crate::error::{Violation, require};
use crate::eval::{Offsets, Tensor, at, strides};
use crate::ops::elementwise::{maximum, minimum};
use crate::ops::shape::position;
use crate::ops::{Inferred, Op, arity, is_sorted, is_unique};

attributes! {
    /// `result[i] = operand[start + i]`, the start limited so that the block lies within the operand.
    ///
    /// The operands are `operand` and a scalar start index for each of its dimensions.
    ///
    /// *Constraints*: (I1) start indices are scalars of integers. (C1) the element type stays. (C2) one start index
    /// for each dimension. (C3) they have one type. (C4) `0 <= slice_sizes <= shape`. (C5) the result's shape is
    /// `slice_sizes`.
    pub struct DynamicSlice {
        /// The sizes of the block.
        pub slice_sizes: Vec<usize>,
    }
}

/// Checks scalar start indices: integers, one for each dimension, all of one type.
fn start_indices(
    x: &TensorType,
    start: &[&TensorType],
    count: &'static str,
    same: &'static str,
) -> Result<(), Violation> {
    for index in start {
        require!(
            index.rank() == 0 && index.dtype.is_int(),
            "I1",
            "start indices must be scalars of integers, found {index}"
        );
    }
    if start.len() != x.rank() {
        let message = format!("expected a start index for each dimension of {x}, found {}", start.len());
        return Err(Violation { constraint: count, message });
    }
    if let Some(pair) = start.windows(2).find(|pair| pair[0] != pair[1]) {
        let message = format!("start indices must have the same type, found {} and {}", pair[0], pair[1]);
        return Err(Violation { constraint: same, message });
    }
    Ok(())
}

pub(crate) fn dynamic_slice_type(op: &DynamicSlice, operands: &[&TensorType]) -> Inferred {
    let Some((x, start)) = operands.split_first() else {
        require!(false, "I0", "expected an operand and start indices, found no operands");
        return Ok(vec![]);
    };
    start_indices(x, start, "C2", "C3")?;
    let sizes = &op.slice_sizes;
    require!(
        sizes.len() == x.rank() && sizes.iter().zip(&x.shape).all(|(size, limit)| size <= limit),
        "C4",
        "a block of {sizes:?} does not lie within {x}"
    );
    Ok(vec![x.with_shape(sizes.clone())])
}

pub(crate) fn eval_dynamic_slice(x: &Tensor, start: &[&Tensor], ty: &TensorType) -> Tensor {
    let along = strides(&x.ty().shape);
    x.pick(ty, Offsets::new(&ty.shape, &along, block_start(x, start, &ty.shape)))
}

/// Where a block of `sizes` begins whose start indices are limited so that it lies within `x`.
fn block_start(x: &Tensor, start: &[&Tensor], sizes: &[usize]) -> usize {
    let limits = x.ty().shape.iter().zip(sizes).map(|(limit, size)| limit - size);
    let start: Vec<usize> = start.iter().zip(limits).map(|(start, limit)| limited(start.ints()[0], limit)).collect();
    position(&start, &strides(&x.ty().shape))
}

/// `index` within `0 ..= limit`.
fn limited(index: i128, limit: usize) -> usize {
    // Whatever does not fit a usize is either negative or beyond the limit.
    if index < 0 { 0 } else { usize::try_from(index).unwrap_or(limit).min(limit) }
}

/// `dynamic_update_slice`: the operand with `update` written at `start`, limited as in `dynamic_slice`. The operands
/// are `operand`, `update` and a scalar start index for each dimension.
///
/// *Constraints*: (I1) start indices are scalars of integers. (C1) the result has the operand's type. (C2) `update` has
/// its element type. (C3) and its rank. (C4) one start index for each dimension. (C5) they have one type. (C6) no size
/// of `update` is above the operand's.
pub(crate) fn dynamic_update_slice_type(operands: &[&TensorType]) -> Inferred {
    let [x, update, start @ ..] = operands else {
        require!(false, "I0", "expected an operand, an update and start indices, found {} operands", operands.len());
        return Ok(vec![]);
    };
    require!(x.dtype == update.dtype, "C2", "the element types must be the same, found {x} and {update}");
    require!(x.rank() == update.rank(), "C3", "the ranks must be the same, found {x} and {update}");
    start_indices(x, start, "C4", "C5")?;
    require!(
        update.shape.iter().zip(&x.shape).all(|(size, limit)| size <= limit),
        "C6",
        "an update of {update} does not lie within {x}"
    );
    Ok(vec![(*x).clone()])
}

pub(crate) fn eval_dynamic_update_slice(x: &Tensor, update: &Tensor, start: &[&Tensor]) -> Tensor {
    let sizes = &update.ty().shape;
    let along = strides(&x.ty().shape);
    let mut result = x.clone();
    result.put(Offsets::new(sizes, &along, block_start(x, start, sizes)), update, 0..update.ty().num_elements());
    result
}

attributes! {
    /// Blocks of `operand` at positions listed in `start_indices` (the two operands), as StableHLO's `gather`.
    ///
    /// For a result index `r`, `batch = r` without `offset_dims`, and `offset = r` at `offset_dims`. The start is the
    /// vector at `start_indices[batch]` (its elements along `index_vector_dim`), spread over `start_index_map` and
    /// limited so that the block lies within the operand; batching dimensions take the batch's index. The element is
    /// `operand[start + offset]`.
    ///
    /// *Constraints*: (I1) `start_indices` is of integers. (C1) `offset_dims`, `collapsed_slice_dims` and
    /// `operand_batching_dims` together are as many as the operand's dimensions. (C2) `index_vector_dim` is at most the
    /// rank of `start_indices`. (C3) `start_index_map` is as long as the index vector. (C4) `offset_dims` are distinct
    /// and sorted. (C5) they are dimensions of the result. (C6) `collapsed_slice_dims` and `operand_batching_dims` are
    /// distinct. (C7) `collapsed_slice_dims` are sorted. (C8) they are dimensions of the operand. (C9) slice sizes are
    /// at most 1 there. (C10) `operand_batching_dims` are sorted. (C11) they are dimensions of the operand. (C12) slice
    /// sizes are at most 1 there. (C13) `start_indices_batching_dims` are distinct. (C14) they are dimensions of
    /// `start_indices`. (C15) `index_vector_dim` is not among them. (C16) they are as many as `operand_batching_dims`.
    /// (C17) and of the same sizes. (C18) `start_index_map` and `operand_batching_dims` are distinct. (C19)
    /// `start_index_map` are dimensions of the operand. (C20) one slice size for each dimension. (C21) slice sizes are
    /// at most the operand's. (C22) the result's shape.
    pub struct Gather {
        /// Dimensions of the result that run over a block.
        pub offset_dims: Vec<usize>,
        /// Dimensions of the operand, of slice size 1, that the result does not have.
        pub collapsed_slice_dims: Vec<usize>,
        /// Dimensions of the operand that run along with `start_indices_batching_dims`.
        pub operand_batching_dims: Vec<usize>,
        /// Dimensions of `start_indices` that run along with `operand_batching_dims`.
        pub start_indices_batching_dims: Vec<usize>,
        /// For each element of the index vector, the dimension of the operand it is an index of.
        pub start_index_map: Vec<usize>,
        /// The dimension of `start_indices` that holds index vectors; its rank when they are scalars.
        pub index_vector_dim: usize,
        /// The sizes of a block.
        pub slice_sizes: Vec<usize>,
        /// A promise that starts are ascending; the compiler may use it.
        pub indices_are_sorted: bool,
    }
}

/// The index vector's length, and the shape of `indices` without it.
fn index_vectors(indices: &TensorType, index_vector_dim: usize) -> (usize, Vec<usize>) {
    let length = indices.shape.get(index_vector_dim).copied().unwrap_or(1);
    let batch = (0..indices.rank()).filter(|&d| d != index_vector_dim).map(|d| indices.shape[d]).collect();
    (length, batch)
}

pub(crate) fn gather_type(op: &Gather, operands: &[&TensorType]) -> Inferred {
    let [x, indices] = arity(operands)?;
    let Gather {
        offset_dims,
        collapsed_slice_dims: collapsed,
        operand_batching_dims: batching,
        start_indices_batching_dims: indices_batching,
        start_index_map,
        index_vector_dim,
        slice_sizes,
        indices_are_sorted: _,
    } = op;
    let rank = x.rank();
    let within = |dimensions: &[usize], rank: usize| dimensions.iter().all(|&d| d < rank);
    require!(indices.dtype.is_int(), "I1", "`start_indices` must be of integers, found {indices}");
    require!(
        offset_dims.len() + collapsed.len() + batching.len() == rank,
        "C1",
        "{offset_dims:?}, {collapsed:?} and {batching:?} together are not as many as the dimensions of {x}"
    );
    require!(*index_vector_dim <= indices.rank(), "C2", "{indices} has no dimension {index_vector_dim}");
    let (length, batch) = index_vectors(indices, *index_vector_dim);
    require!(
        start_index_map.len() == length,
        "C3",
        "index vectors have {length} elements, start_index_map is {start_index_map:?}"
    );
    require!(
        is_unique(offset_dims) && is_sorted(offset_dims),
        "C4",
        "offset_dims {offset_dims:?} are not distinct and sorted"
    );
    let result_rank = batch.len() + offset_dims.len();
    require!(
        within(offset_dims, result_rank),
        "C5",
        "offset_dims {offset_dims:?} are not dimensions of a result of rank {result_rank}"
    );
    require!(
        is_unique(&[&collapsed[..], batching].concat()),
        "C6",
        "dimensions are listed twice in {collapsed:?} and {batching:?}"
    );
    require!(is_sorted(collapsed), "C7", "collapsed_slice_dims {collapsed:?} are not sorted");
    require!(within(collapsed, rank), "C8", "{x} does not have the dimensions {collapsed:?}");
    let at_most_one =
        |dimensions: &[usize]| dimensions.iter().all(|&d| slice_sizes.get(d).is_none_or(|&size| size <= 1));
    require!(
        at_most_one(collapsed),
        "C9",
        "slice sizes {slice_sizes:?} are above 1 at collapsed dimensions {collapsed:?}"
    );
    require!(is_sorted(batching), "C10", "operand_batching_dims {batching:?} are not sorted");
    require!(within(batching, rank), "C11", "{x} does not have the dimensions {batching:?}");
    require!(
        at_most_one(batching),
        "C12",
        "slice sizes {slice_sizes:?} are above 1 at batching dimensions {batching:?}"
    );
    require!(is_unique(indices_batching), "C13", "dimensions are listed twice: {indices_batching:?}");
    require!(
        within(indices_batching, indices.rank()),
        "C14",
        "{indices} does not have the dimensions {indices_batching:?}"
    );
    require!(
        !indices_batching.contains(index_vector_dim),
        "C15",
        "index_vector_dim {index_vector_dim} is a batching dimension"
    );
    require!(
        batching.len() == indices_batching.len(),
        "C16",
        "numbers of batching dimensions differ: {batching:?} and {indices_batching:?}"
    );
    require!(
        batching.iter().zip(indices_batching).all(|(&d, &i)| x.shape[d] == indices.shape[i]),
        "C17",
        "batching sizes differ: dimensions {batching:?} of {x} and {indices_batching:?} of {indices}"
    );
    require!(
        is_unique(&[&start_index_map[..], batching].concat()),
        "C18",
        "dimensions are listed twice in {start_index_map:?} and {batching:?}"
    );
    require!(within(start_index_map, rank), "C19", "{x} does not have the dimensions {start_index_map:?}");
    require!(
        slice_sizes.len() == rank,
        "C20",
        "expected a slice size for each dimension of {x}, found {slice_sizes:?}"
    );
    require!(
        slice_sizes.iter().zip(&x.shape).all(|(size, limit)| size <= limit),
        "C21",
        "a block of {slice_sizes:?} does not lie within {x}"
    );
    let mut batch = batch.into_iter();
    let mut block = (0..rank).filter(|d| !collapsed.contains(d) && !batching.contains(d)).map(|d| slice_sizes[d]);
    let shape: Option<Vec<usize>> =
        (0..result_rank).map(|d| if offset_dims.contains(&d) { block.next() } else { batch.next() }).collect();
    let shape = shape.expect("C1 and C5 fix the numbers of batch and block dimensions");
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn eval_gather(op: &Gather, x: &Tensor, indices: &Tensor, ty: &TensorType) -> Tensor {
    let mut result = Tensor::zeros(ty.clone());
    let shape = &x.ty().shape;
    let along = strides(shape);
    let spread: Vec<usize> = (0..shape.len())
        .filter(|d| !op.collapsed_slice_dims.contains(d) && !op.operand_batching_dims.contains(d))
        .collect();
    let block: Vec<usize> = Offsets::new(&at(&op.slice_sizes, &spread), &at(&along, &spread), 0).collect();
    let places = Places::new(
        x.ty(),
        indices.ty(),
        &op.operand_batching_dims,
        &op.start_indices_batching_dims,
        op.index_vector_dim,
    );
    let result_strides = strides(&ty.shape);
    let batch_dims: Vec<usize> = (0..ty.rank()).filter(|d| !op.offset_dims.contains(d)).collect();
    let block_targets: Vec<usize> =
        Offsets::new(&at(&ty.shape, &op.offset_dims), &at(&result_strides, &op.offset_dims), 0).collect();
    let batch_targets = Offsets::new(&at(&ty.shape, &batch_dims), &at(&result_strides, &batch_dims), 0);
    for (target, (vector, batch)) in batch_targets.zip(places.iter()) {
        let mut start = batch;
        for (k, &d) in op.start_index_map.iter().enumerate() {
            let index = indices.ints()[vector + k * places.vector_stride];
            start += limited(index, shape[d] - op.slice_sizes[d]) * along[d] as usize;
        }
        result.put(block_targets.iter().map(|block| target + block), x, block.iter().map(|block| start + block));
    }
    result
}

/// Where index vectors lie in a tensor of indices, and the operand's batching dimensions that go along with them.
struct Places {
    /// The offset of each index vector, in the order of the batch.
    vectors: Vec<usize>,
    /// For each of them, the offset in the operand that its batching dimensions make.
    batches: Vec<usize>,
    /// The distance of an index vector's elements.
    vector_stride: usize,
}

impl Places {
    fn new(
        x: &TensorType,
        indices: &TensorType,
        batching: &[usize],
        indices_batching: &[usize],
        index_vector_dim: usize,
    ) -> Places {
        let (x_strides, along) = (strides(&x.shape), strides(&indices.shape));
        let batch: Vec<usize> = (0..indices.rank()).filter(|&d| d != index_vector_dim).collect();
        let x_along: Vec<isize> = batch
            .iter()
            .map(|d| indices_batching.iter().position(|i| i == d).map_or(0, |i| x_strides[batching[i]]))
            .collect();
        let sizes = at(&indices.shape, &batch);
        Places {
            vectors: Offsets::new(&sizes, &at(&along, &batch), 0).collect(),
            batches: Offsets::new(&sizes, &x_along, 0).collect(),
            vector_stride: along.get(index_vector_dim).map_or(0, |&stride| stride as usize),
        }
    }

    /// The offset of each index vector in the indices, and of its batch in the operand.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.vectors.iter().copied().zip(self.batches.iter().copied())
    }
}

words! {
    /// How [`Scatter`] combines an update with what is there.
    pub enum ScatterOp {
        /// `there + update`
        Add = "add",
        /// `there * update`
        Multiply = "multiply",
        /// the greater
        Maximum = "maximum",
        /// the lesser
        Minimum = "minimum",
        /// `update`; with several at one position, an unspecified one of them (here the last)
        Replace = "replace",
    }
}

attributes! {
    /// `operand` with blocks of `updates` combined into it at positions listed in `scatter_indices` (the three
    /// operands), as StableHLO's `scatter`.
    ///
    /// For an update index `u`, `batch = u` without `update_window_dims`, and `window = u` at `update_window_dims`.
    /// The start is the vector at `scatter_indices[batch]` (its elements along `index_vector_dim`), spread over
    /// `scatter_dims_to_operand_dims`; batching dimensions take the batch's index. The element at `start + window` is
    /// combined with `updates[u]`. A block that does not lie within the operand is dropped as a whole: so does XLA,
    /// while StableHLO's specification drops only the elements that lie outside.
    ///
    /// *Constraints*: (I1) `scatter_indices` is of integers. (C2) `update_window_dims`, `inserted_window_dims` and
    /// `input_batching_dims` together are as many as the operand's dimensions. (C4) the shape of `updates`: the batch's
    /// sizes, and at `update_window_dims` sizes of at most the operand's. (C6) `updates` has the operand's element
    /// type. (C7) `update_window_dims` are distinct and sorted. (C8) they are dimensions of `updates`. (C9)
    /// `inserted_window_dims` and `input_batching_dims` are distinct. (C10) `inserted_window_dims` are sorted. (C11)
    /// they are dimensions of the operand. (C12) `input_batching_dims` are sorted. (C13) they are dimensions of the
    /// operand. (C14) `scatter_indices_batching_dims` are distinct. (C15) they are dimensions of `scatter_indices`.
    /// (C16) `index_vector_dim` is not among them. (C17) they are as many as `input_batching_dims`. (C18) and of the
    /// same sizes. (C19) `scatter_dims_to_operand_dims` is as long as the index vector. (C20) together with
    /// `input_batching_dims` distinct. (C21) they are dimensions of the operand. (C22) `index_vector_dim` is at most
    /// the rank of `scatter_indices`. (C23) the element type is one that `update_computation` takes: numbers, and
    /// anything for `replace`.
    pub struct Scatter {
        /// Dimensions of `updates` that run over a block.
        pub update_window_dims: Vec<usize>,
        /// Dimensions of the operand that `updates` does not have.
        pub inserted_window_dims: Vec<usize>,
        /// Dimensions of the operand that run along with `scatter_indices_batching_dims`.
        pub input_batching_dims: Vec<usize>,
        /// Dimensions of `scatter_indices` that run along with `input_batching_dims`.
        pub scatter_indices_batching_dims: Vec<usize>,
        /// For each element of the index vector, the dimension of the operand it is an index of.
        pub scatter_dims_to_operand_dims: Vec<usize>,
        /// The dimension of `scatter_indices` that holds index vectors; its rank when they are scalars.
        pub index_vector_dim: usize,
        /// A promise that starts are ascending; the compiler may use it.
        pub indices_are_sorted: bool,
        /// A promise that no position is written twice; the compiler may use it.
        pub unique_indices: bool,
        /// How an update is combined with what is there.
        pub update_computation: ScatterOp,
    }
}

pub(crate) fn scatter_type(op: &Scatter, operands: &[&TensorType]) -> Inferred {
    let [x, indices, updates] = arity(operands)?;
    let Scatter {
        update_window_dims: window,
        inserted_window_dims: inserted,
        input_batching_dims: batching,
        scatter_indices_batching_dims: indices_batching,
        scatter_dims_to_operand_dims: map,
        index_vector_dim,
        indices_are_sorted: _,
        unique_indices: _,
        update_computation,
    } = op;
    let rank = x.rank();
    let within = |dimensions: &[usize], rank: usize| dimensions.iter().all(|&d| d < rank);
    require!(indices.dtype.is_int(), "I1", "`scatter_indices` must be of integers, found {indices}");
    require!(
        window.len() + inserted.len() + batching.len() == rank,
        "C2",
        "{window:?}, {inserted:?} and {batching:?} together are not as many as the dimensions of {x}"
    );
    require!(x.dtype == updates.dtype, "C6", "the element types must be the same, found {x} and {updates}");
    require!(is_unique(window) && is_sorted(window), "C7", "update_window_dims {window:?} are not distinct and sorted");
    require!(within(window, updates.rank()), "C8", "{updates} does not have the dimensions {window:?}");
    require!(
        is_unique(&[&inserted[..], batching].concat()),
        "C9",
        "dimensions are listed twice in {inserted:?} and {batching:?}"
    );
    require!(is_sorted(inserted), "C10", "inserted_window_dims {inserted:?} are not sorted");
    require!(within(inserted, rank), "C11", "{x} does not have the dimensions {inserted:?}");
    require!(is_sorted(batching), "C12", "input_batching_dims {batching:?} are not sorted");
    require!(within(batching, rank), "C13", "{x} does not have the dimensions {batching:?}");
    require!(is_unique(indices_batching), "C14", "dimensions are listed twice: {indices_batching:?}");
    require!(
        within(indices_batching, indices.rank()),
        "C15",
        "{indices} does not have the dimensions {indices_batching:?}"
    );
    require!(
        !indices_batching.contains(index_vector_dim),
        "C16",
        "index_vector_dim {index_vector_dim} is a batching dimension"
    );
    require!(
        batching.len() == indices_batching.len(),
        "C17",
        "numbers of batching dimensions differ: {batching:?} and {indices_batching:?}"
    );
    require!(
        batching.iter().zip(indices_batching).all(|(&d, &i)| x.shape[d] == indices.shape[i]),
        "C18",
        "batching sizes differ: dimensions {batching:?} of {x} and {indices_batching:?} of {indices}"
    );
    let (length, batch) = index_vectors(indices, *index_vector_dim);
    require!(
        map.len() == length,
        "C19",
        "index vectors have {length} elements, scatter_dims_to_operand_dims is {map:?}"
    );
    require!(
        is_unique(&[&map[..], batching].concat()),
        "C20",
        "dimensions are listed twice in {map:?} and {batching:?}"
    );
    require!(within(map, rank), "C21", "{x} does not have the dimensions {map:?}");
    require!(*index_vector_dim <= indices.rank(), "C22", "{indices} has no dimension {index_vector_dim}");
    require!(
        x.dtype != crate::DType::Bool || *update_computation == ScatterOp::Replace,
        "C23",
        "`{}` does not combine booleans",
        update_computation.name()
    );
    let mut batch = batch.into_iter();
    let mut block = (0..rank).filter(|d| !inserted.contains(d) && !batching.contains(d)).map(|d| x.shape[d]);
    let fits = (0..updates.rank()).all(|d| {
        if window.contains(&d) {
            block.next().is_some_and(|limit| updates.shape[d] <= limit)
        } else {
            batch.next() == Some(updates.shape[d])
        }
    });
    require!(fits && batch.next().is_none(), "C4", "{updates} are not blocks for the positions {indices} of {x}");
    Ok(vec![x.clone()])
}

pub(crate) fn eval_scatter(op: &Scatter, x: &Tensor, indices: &Tensor, updates: &Tensor) -> Tensor {
    let shape = &x.ty().shape;
    let along = strides(shape);
    let spread: Vec<usize> = (0..shape.len())
        .filter(|d| !op.inserted_window_dims.contains(d) && !op.input_batching_dims.contains(d))
        .collect();
    let sizes = at(&updates.ty().shape, &op.update_window_dims);
    let mut block_sizes = vec![1; shape.len()];
    spread.iter().zip(&sizes).for_each(|(&d, &size)| block_sizes[d] = size);
    let block: Vec<usize> = Offsets::new(&sizes, &at(&along, &spread), 0).collect();
    let places = Places::new(
        x.ty(),
        indices.ty(),
        &op.input_batching_dims,
        &op.scatter_indices_batching_dims,
        op.index_vector_dim,
    );
    let update_strides = strides(&updates.ty().shape);
    let batch_dims: Vec<usize> = (0..updates.ty().rank()).filter(|d| !op.update_window_dims.contains(d)).collect();
    let block_sources: Vec<usize> = Offsets::new(&sizes, &at(&update_strides, &op.update_window_dims), 0).collect();
    let batch_sources = Offsets::new(&at(&updates.ty().shape, &batch_dims), &at(&update_strides, &batch_dims), 0);
    let mut pairs = Vec::with_capacity(updates.ty().num_elements());
    for (source, (vector, batch)) in batch_sources.zip(places.iter()) {
        let start = op.scatter_dims_to_operand_dims.iter().enumerate().try_fold(batch, |start, (k, &d)| {
            let index = usize::try_from(indices.ints()[vector + k * places.vector_stride]).ok()?;
            (index.checked_add(block_sizes[d])? <= shape[d]).then(|| start + index * along[d] as usize)
        });
        let Some(start) = start else { continue };
        pairs.extend(block.iter().zip(&block_sources).map(|(ours, theirs)| (start + ours, source + theirs)));
    }
    if x.ty().dtype.is_float() {
        let f: fn(f64, f64) -> f64 = match op.update_computation {
            ScatterOp::Add => |x, y| x + y,
            ScatterOp::Multiply => |x, y| x * y,
            ScatterOp::Maximum => maximum,
            ScatterOp::Minimum => minimum,
            ScatterOp::Replace => |_, y| y,
        };
        let (mut result, updates) = (x.floats().to_vec(), updates.floats());
        pairs.into_iter().for_each(|(i, j)| result[i] = f(result[i], updates[j]));
        Tensor::from_floats(x.ty().clone(), result)
    } else {
        let f: fn(i128, i128) -> i128 = match op.update_computation {
            ScatterOp::Add => i128::wrapping_add,
            ScatterOp::Multiply => i128::wrapping_mul,
            ScatterOp::Maximum => i128::max,
            ScatterOp::Minimum => i128::min,
            ScatterOp::Replace => |_, y| y,
        };
        let (mut result, updates) = (x.ints().to_vec(), updates.ints());
        pairs.into_iter().for_each(|(i, j)| result[i] = f(result[i], updates[j]));
        Tensor::from_ints(x.ty().clone(), result)
    }
}

impl<'g> Value<'g> {
    /// `dynamic_slice`: the block of `slice_sizes` at scalar `start_indices`, one for each dimension.
    ///
    /// # Panics
    /// If a constraint of [`DynamicSlice`] is broken.
    #[track_caller]
    pub fn dynamic_slice(self, start_indices: &[Value<'g>], slice_sizes: &[usize]) -> Value<'g> {
        let operands = [&[self], start_indices].concat();
        self.builder().push1(Op::DynamicSlice(DynamicSlice { slice_sizes: slice_sizes.to_vec() }), &operands)
    }

    /// `dynamic_update_slice`: `self` with `update` written at scalar `start_indices`, one for each dimension.
    ///
    /// # Panics
    /// If a constraint of `dynamic_update_slice` is broken.
    #[track_caller]
    pub fn dynamic_update_slice(self, update: Value<'g>, start_indices: &[Value<'g>]) -> Value<'g> {
        self.builder().push1(Op::DynamicUpdateSlice, &[&[self, update], start_indices].concat())
    }

    /// `gather` with all attributes.
    ///
    /// # Panics
    /// If a constraint of [`Gather`] is broken.
    #[track_caller]
    pub fn gather(self, start_indices: Value<'g>, attributes: Gather) -> Value<'g> {
        self.builder().push1(Op::Gather(attributes), &[self, start_indices])
    }

    /// Rows of `self` by index: `V C..`, indices `I.. → I.. C..`, as an embedding looks tokens up. Indices outside are
    /// limited to the first and last row.
    ///
    /// # Panics
    /// If `self` is a scalar or `indices` is not of integers.
    #[track_caller]
    pub fn take_rows(self, indices: Value<'g>) -> Value<'g> {
        let (mut slice_sizes, batch_rank) = (self.shape(), indices.rank());
        assert!(!slice_sizes.is_empty(), "a scalar has no rows");
        slice_sizes[0] = 1;
        self.gather(
            indices,
            Gather {
                offset_dims: (batch_rank..batch_rank + slice_sizes.len() - 1).collect(),
                collapsed_slice_dims: vec![0],
                operand_batching_dims: vec![],
                start_indices_batching_dims: vec![],
                start_index_map: vec![0],
                index_vector_dim: batch_rank,
                slice_sizes,
                indices_are_sorted: false,
            },
        )
    }

    /// `scatter` with all attributes, `self` being the operand.
    ///
    /// # Panics
    /// If a constraint of [`Scatter`] is broken.
    #[track_caller]
    pub fn scatter(self, scatter_indices: Value<'g>, updates: Value<'g>, attributes: Scatter) -> Value<'g> {
        self.builder().push1(Op::Scatter(attributes), &[self, scatter_indices, updates])
    }
}
