//! Derivatives of reading and writing at positions that are values.

use lmc_graph::ops::{Gather, Scatter, ScatterOp};
use lmc_graph::{DType, Literal, TensorType, Value};

/// `dynamic_slice`: the block of cotangents written into zeros; both limit the start in the same way.
pub(crate) fn dynamic_slice<'g>(x: Value<'g>, start: &[Value<'g>], ct: Value<'g>) -> Vec<Option<Value<'g>>> {
    let dx = x.full_like(0.0).dynamic_update_slice(ct, start);
    std::iter::once(Some(dx)).chain(start.iter().map(|_| None)).collect()
}

/// `dynamic_update_slice`: to the update its block, to the operand the rest.
pub(crate) fn dynamic_update_slice<'g>(
    update: Value<'g>,
    start: &[Value<'g>],
    ct: Value<'g>,
) -> Vec<Option<Value<'g>>> {
    let dx = ct.dynamic_update_slice(update.full_like(0.0), start);
    let dupdate = ct.dynamic_slice(start, &update.shape());
    [Some(dx), Some(dupdate)].into_iter().chain(start.iter().map(|_| None)).collect()
}

/// `gather`: blocks of cotangents added into zeros where they were read, in the element type that is wanted.
///
/// A gather limits its starts where a scatter drops what lies outside, so the starts are limited first.
pub(crate) fn gather<'g>(
    op: &Gather,
    x: Value<'g>,
    indices: Value<'g>,
    ct: Value<'g>,
    want: DType,
) -> [Option<Value<'g>>; 2] {
    let sizes = x.shape();
    let last_start: Vec<usize> = op.start_index_map.iter().map(|&d| sizes[d] - op.slice_sizes[d]).collect();
    let scatter = Scatter {
        update_window_dims: op.offset_dims.clone(),
        inserted_window_dims: op.collapsed_slice_dims.clone(),
        input_batching_dims: op.operand_batching_dims.clone(),
        scatter_indices_batching_dims: op.start_indices_batching_dims.clone(),
        scatter_dims_to_operand_dims: op.start_index_map.clone(),
        index_vector_dim: op.index_vector_dim,
        // Limiting the parts of a vector does not keep the order of the vectors.
        indices_are_sorted: op.indices_are_sorted && last_start.len() == 1,
        unique_indices: false,
        update_computation: ScatterOp::Add,
    };
    let zeros = x.builder().full(&x.ty().with_dtype(want), 0.0);
    let dx = zeros.scatter(limit(indices, op.index_vector_dim, &last_start), ct.convert(want), scatter);
    [Some(dx), None]
}

/// Index vectors with each part limited to `0 ..= last`.
fn limit<'g>(indices: Value<'g>, index_vector_dim: usize, last: &[usize]) -> Value<'g> {
    let zero = indices.builder().scalar(indices.dtype(), 0.0);
    indices.clamp(zero, part_vector(indices, index_vector_dim, last))
}

/// For index vectors along `index_vector_dim`, a tensor of the same type with `parts` as every vector, each part
/// limited to what the type can hold: indices of the type are not above that either.
fn part_vector<'g>(indices: Value<'g>, index_vector_dim: usize, parts: &[usize]) -> Value<'g> {
    let (builder, dtype) = (indices.builder(), indices.dtype());
    let bits = if dtype.is_signed_int() { dtype.bits() - 1 } else { dtype.bits() };
    let largest = usize::MAX >> (usize::BITS as usize).saturating_sub(bits);
    let elements: Vec<f64> = parts.iter().map(|&part| part.min(largest) as f64).collect();
    let literal = |shape: Vec<usize>| builder.constant(Literal::from_f64s(TensorType::new(dtype, shape), &elements));
    if index_vector_dim == indices.rank() {
        return literal(vec![]).broadcast_in_dim(&indices.shape(), &[]);
    }
    literal(vec![parts.len()]).broadcast_in_dim(&indices.shape(), &[index_vector_dim])
}

/// `scatter`; `is_active` says whether the updates need a cotangent.
///
/// # Errors
/// The reason, for the updates of an `update_computation` whose derivative is not known.
pub(crate) fn scatter<'g>(
    op: &Scatter,
    x: Value<'g>,
    indices: Value<'g>,
    updates: Value<'g>,
    ct: Value<'g>,
    is_active: bool,
) -> Result<[Option<Value<'g>>; 3], &'static str> {
    match op.update_computation {
        ScatterOp::Add => Ok([Some(ct), None, Some(read_updates(op, ct, indices, updates))]),
        ScatterOp::Multiply if is_active && !op.unique_indices => Err(
            "the derivative for the updates of a product needs positions that are written once: set `unique_indices`",
        ),
        ScatterOp::Multiply => {
            let dx = ct.scatter(indices, updates, op.clone());
            Ok([Some(dx), None, Some(read_updates(op, ct * x, indices, updates))])
        }
        ScatterOp::Replace => {
            let dx = ct.scatter(indices, updates.full_like(0.0), op.clone());
            let dupdates = read_updates(op, ct, indices, updates);
            if op.unique_indices {
                return Ok([Some(dx), None, Some(dupdates)]);
            }
            let is_kept = kept_updates(op, x, indices, updates);
            Ok([Some(dx), None, Some(is_kept.select(dupdates, updates.full_like(0.0)))])
        }
        ScatterOp::Maximum | ScatterOp::Minimum => {
            Err("the choice of the greater or lesser has no derivative here: use `add` or `replace`, or `reduce`")
        }
    }
}

/// Which updates of a `replace` stay where several are written to one position: numbers that are scattered in the same
/// way tell. (As jax.lax.scatter.)
fn kept_updates<'g>(op: &Scatter, x: Value<'g>, indices: Value<'g>, updates: Value<'g>) -> Value<'g> {
    let (builder, num_updates) = (x.builder(), updates.ty().num_elements());
    let dtype = if i32::try_from(num_updates).is_ok() { DType::I32 } else { DType::I64 };
    // From 1, as 0 stands for no update.
    let numbers = builder.iota(&TensorType::new(dtype, [num_updates]), 0) + 1.0;
    let numbers = numbers.reshape(&updates.shape());
    let scattered = builder.full(&x.ty().with_dtype(dtype), 0.0).scatter(indices, numbers, op.clone());
    read_updates(op, scattered, indices, updates).equal(numbers)
}

/// For each update the element of `y` at its position, and zero for the blocks that were dropped as they do not lie
/// within `y`.
fn read_updates<'g>(op: &Scatter, y: Value<'g>, indices: Value<'g>, updates: Value<'g>) -> Value<'g> {
    let (sizes, update_sizes) = (y.shape(), updates.shape());
    let mut windows = op.update_window_dims.iter().map(|&d| update_sizes[d]);
    let is_window = |d: usize| !op.inserted_window_dims.contains(&d) && !op.input_batching_dims.contains(&d);
    let slice_sizes: Vec<usize> =
        (0..sizes.len()).map(|d| if is_window(d) { windows.next().unwrap_or(1) } else { 1 }).collect();

    let last: Vec<usize> = op.scatter_dims_to_operand_dims.iter().map(|&d| sizes[d] - slice_sizes[d]).collect();
    let last = part_vector(indices, op.index_vector_dim, &last);
    let is_within = indices.greater_equal(indices.full_like(0.0)).and(indices.less_equal(last));
    let is_within =
        if op.index_vector_dim < indices.rank() { is_within.all(&[op.index_vector_dim]) } else { is_within };
    let batch: Vec<usize> = (0..update_sizes.len()).filter(|d| !op.update_window_dims.contains(d)).collect();

    let read = y.gather(
        indices,
        Gather {
            offset_dims: op.update_window_dims.clone(),
            collapsed_slice_dims: op.inserted_window_dims.clone(),
            operand_batching_dims: op.input_batching_dims.clone(),
            start_indices_batching_dims: op.scatter_indices_batching_dims.clone(),
            start_index_map: op.scatter_dims_to_operand_dims.clone(),
            index_vector_dim: op.index_vector_dim,
            slice_sizes,
            indices_are_sorted: op.indices_are_sorted,
        },
    );
    is_within.broadcast_in_dim(&update_sizes, &batch).select(read, read.full_like(0.0))
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{Gather, Scatter, ScatterOp};
    use lmc_graph::{Builder, DType, Literal, TensorType, Value};

    use crate::check::{check, check_in, gradients};

    fn indices<'g>(b: Builder<'g>, shape: &[usize], elements: &[i32]) -> Value<'g> {
        b.constant(Literal::new(shape, elements))
    }

    #[test]
    fn blocks_at_a_start_that_is_limited() {
        for start in [[0, 0], [1, 2], [7, -3]] {
            check(&[&[3, 4]], |x| {
                let start = start.map(|index| indices(x[0].builder(), &[], &[index]));
                x[0].exp().dynamic_slice(&start, &[2, 3]).exp()
            });
            check(&[&[3, 4], &[2, 3]], |x| {
                let start = start.map(|index| indices(x[0].builder(), &[], &[index]));
                x[0].exp().dynamic_update_slice(x[1] * x[1], &start).exp()
            });
        }
    }

    #[test]
    fn gathers() {
        // Rows of a table, some of them twice and some outside.
        check(&[&[4, 3]], |x| x[0].exp().take_rows(indices(x[0].builder(), &[2, 3], &[0, 3, 3, -5, 9, 1])).exp());
        check(&[&[4]], |x| x[0].exp().take_rows(indices(x[0].builder(), &[3], &[2, 2, 0])).exp());
        let blocks = Gather {
            offset_dims: vec![1, 2],
            collapsed_slice_dims: vec![],
            operand_batching_dims: vec![],
            start_indices_batching_dims: vec![],
            start_index_map: vec![1, 0],
            index_vector_dim: 0,
            slice_sizes: vec![2, 3],
            indices_are_sorted: true,
        };
        check(&[&[4, 5]], |x| {
            let start = indices(x[0].builder(), &[2, 3], &[0, 1, 9, -4, 2, 3]);
            x[0].exp().gather(start, blocks.clone()).exp()
        });
        let batched = Gather {
            offset_dims: vec![2],
            collapsed_slice_dims: vec![1],
            operand_batching_dims: vec![0],
            start_indices_batching_dims: vec![0],
            start_index_map: vec![1],
            index_vector_dim: 2,
            slice_sizes: vec![1, 1, 2],
            indices_are_sorted: false,
        };
        check(&[&[2, 4, 2]], |x| {
            let start = indices(x[0].builder(), &[2, 3, 1], &[0, 1, 1, 7, 2, 3]);
            x[0].exp().gather(start, batched.clone()).exp()
        });
    }

    #[test]
    fn a_gather_by_narrow_indices_is_not_limited_wrongly() {
        let taken = gradients(&[&[0.0; 300]], |x| {
            x[0].take_rows(x[0].builder().constant(Literal::new([3], &[255_u8, 7, 255])))
        });
        assert_eq!((taken[0][255], taken[0][7], taken[0].iter().sum::<f64>()), (2.0, 1.0, 3.0));
        let written = gradients(&[&[0.0; 300], &[0.0; 3]], |x| {
            let start = x[0].builder().constant(Literal::new([3], &[255_u8, 7, 8]));
            x[0].scatter(start, x[1] * 2.0, rows(ScatterOp::Replace, false))
        });
        assert_eq!((&written[1][..], written[0].iter().sum::<f64>()), (&[2.0; 3][..], 297.0));
    }

    /// Scatters elements into a vector.
    fn rows(update_computation: ScatterOp, unique_indices: bool) -> Scatter {
        Scatter {
            update_window_dims: vec![],
            inserted_window_dims: vec![0],
            input_batching_dims: vec![],
            scatter_indices_batching_dims: vec![],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            indices_are_sorted: false,
            unique_indices,
            update_computation,
        }
    }

    #[test]
    fn scatters_of_elements() {
        let cases: [(ScatterOp, bool, [i32; 4]); 5] = [
            (ScatterOp::Add, false, [1, 1, 4, 0]),
            (ScatterOp::Add, false, [-1, 5, 2, 7]),
            (ScatterOp::Multiply, true, [3, 1, -1, 0]),
            (ScatterOp::Replace, true, [3, 1, 8, 0]),
            (ScatterOp::Replace, false, [3, 1, 3, 9]),
        ];
        for (op, unique, at) in cases {
            check_in(0.5..1.5, &[&[5], &[4]], |x| {
                let at = indices(x[0].builder(), &[4], &at);
                x[0].exp().scatter(at, x[1] * x[1], rows(op, unique)).exp()
            });
        }
    }

    #[test]
    fn scatters_of_blocks() {
        for (op, unique) in [(ScatterOp::Add, false), (ScatterOp::Multiply, true), (ScatterOp::Replace, true)] {
            let blocks = Scatter {
                update_window_dims: vec![1, 2],
                inserted_window_dims: vec![],
                scatter_dims_to_operand_dims: vec![1, 0],
                index_vector_dim: 0,
                ..rows(op, unique)
            };
            // The second and the third lie outside in part.
            check(&[&[6, 5], &[3, 2, 3]], |x| {
                let start = indices(x[0].builder(), &[2, 3], &[0, 4, -1, 0, 2, 5]);
                x[0].exp().scatter(start, x[1] * x[1], blocks.clone()).sine()
            });
            let batched = Scatter {
                update_window_dims: vec![2],
                inserted_window_dims: vec![1],
                input_batching_dims: vec![0],
                scatter_indices_batching_dims: vec![0],
                scatter_dims_to_operand_dims: vec![1],
                index_vector_dim: 2,
                ..rows(op, unique)
            };
            check(&[&[2, 4, 3], &[2, 2, 3]], |x| {
                let start = indices(x[0].builder(), &[2, 2, 1], &[0, 2, 3, 9]);
                x[0].exp().scatter(start, x[1] * x[1], batched.clone()).sine()
            });
        }
    }

    #[test]
    fn the_gradient_of_a_rounded_table_is_summed_unrounded() {
        let func = Builder::build("embedding", |b| {
            let table = b.param("table", TensorType::new(DType::F32, [4, 3]));
            let tokens = b.param("tokens", TensorType::new(DType::I32, [5]));
            vec![table.convert(DType::BF16).take_rows(tokens)]
        });
        let vjp = crate::vjp(&func, &[0]).expect("gather has a derivative");
        let nodes = vjp.walk(vjp.body()).into_iter().map(|node| vjp.node(node));
        let scatters: Vec<String> =
            nodes.filter(|node| node.op.name() == "scatter").map(|node| vjp.ty(node.operands[2]).to_string()).collect();
        assert_eq!(scatters, ["f32[5,3]"], "{}", lmc_graph::text::print(&vjp));
    }

    #[test]
    fn choices_and_products_of_several_updates_are_refused() {
        let cases = [
            (
                ScatterOp::Maximum,
                "the choice of the greater or lesser has no derivative here: use `add` or `replace`, or `reduce`",
            ),
            (
                ScatterOp::Minimum,
                "the choice of the greater or lesser has no derivative here: use `add` or `replace`, or `reduce`",
            ),
            (
                ScatterOp::Multiply,
                "the derivative for the updates of a product needs positions that are written once: set `unique_indices`",
            ),
        ];
        for (op, reason) in cases {
            let func = Builder::build("scatter", |b| {
                let x = b.param("x", TensorType::new(DType::F32, [5]));
                let y = b.param("y", TensorType::new(DType::F32, [2]));
                vec![x.scatter(indices(b, &[2], &[0, 1]), y, rows(op, false))]
            });
            let error = crate::vjp(&func, &[1]).expect_err("there is no rule").to_string();
            assert!(error.starts_with(&format!("error: scatter: {reason}\n  --> ")), "{error}");
        }
    }
}
