//! Derivatives of ops that combine or order elements along dimensions.

use lmc_graph::ops::{Op, Reduce, ReduceOp, Sort, SortDirection};
use lmc_graph::{DType, TensorType, Value};

/// `reduce`.
pub(crate) fn reduce<'g>(op: &Reduce, x: Value<'g>, z: Value<'g>, ct: Value<'g>) -> Option<Value<'g>> {
    let sizes = x.shape();
    let kept: Vec<usize> = (0..sizes.len()).filter(|d| !op.dimensions.contains(d)).collect();
    let spread = |value: Value<'g>| value.broadcast_in_dim(&sizes, &kept);
    match op.op {
        ReduceOp::Add => Some(spread(ct)),
        ReduceOp::Multiply => Some(spread(ct) * product_of_others(x, &kept, &op.dimensions)),
        ReduceOp::Maximum | ReduceOp::Minimum => {
            // Ties split evenly, as jax.lax.reduce_max. They are counted in a type that counts far enough.
            let is_chosen = x.equal(spread(z));
            let counter = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let count = is_chosen.convert(counter).sum(&op.dimensions).convert(x.dtype());
            Some(is_chosen.select(spread(ct / count), x.full_like(0.0)))
        }
        // They do not take floats.
        ReduceOp::And | ReduceOp::Or => None,
    }
}

/// For each element the product of the others along `dimensions`, without a division: zeros are no exception, and
/// derivatives of it are right too.
fn product_of_others<'g>(x: Value<'g>, kept: &[usize], dimensions: &[usize]) -> Value<'g> {
    let sizes = x.shape();
    let order = [kept, dimensions].concat();
    let sorted = x.transpose(&order);
    let kept_sizes: Vec<usize> = kept.iter().map(|&d| sizes[d]).collect();
    let length: usize = dimensions.iter().map(|&d| sizes[d]).product();
    let rows = sorted.reshape(&[&kept_sizes[..], &[length]].concat());
    let product = product_of_previous(rows) * product_of_previous(rows.reverse(&[kept.len()])).reverse(&[kept.len()]);
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    product.reshape(&sorted.shape()).transpose(&inverse)
}

/// For each element the product of those before it along the last dimension, in steps that double their reach.
/// (Hillis and Steele, "Data parallel algorithms", 1986.)
fn product_of_previous<'g>(x: Value<'g>) -> Value<'g> {
    let length = x.shape().last().copied().unwrap_or(1);
    // The element `distance` before, and 1 before the first.
    let before = |x: Value<'g>, distance: i64| {
        let (one, last) = (x.builder().scalar(x.dtype(), 1.0), x.rank() - 1);
        let (mut low, mut high) = (vec![0; x.rank()], vec![0; x.rank()]);
        (low[last], high[last]) = (distance, -distance);
        x.pad(one, &low, &high, &vec![0; x.rank()])
    };
    if length == 0 {
        return x;
    }
    let mut product = before(x, 1);
    let mut reach = 1;
    while reach < length {
        product = product * before(product, super::shape::signed(reach));
        reach *= 2;
    }
    product
}

/// `sort`: each cotangent goes back to where its element came from.
///
/// Sorting the positions along with the keys gives the permutation, and sorting by it undoes the permutation.
pub(crate) fn sort<'g>(op: &Sort, keys: Value<'g>, cts: &[Option<Value<'g>>]) -> Vec<Option<Value<'g>>> {
    let (builder, shape) = (keys.builder(), keys.shape());
    let dtype = if i32::try_from(shape[op.dimension]).is_ok() { DType::I32 } else { DType::I64 };
    let positions = builder.iota(&TensorType::new(dtype, shape), op.dimension);
    let [_, permutation] = builder.push_n(Op::Sort(op.clone()), &[keys, positions]);
    let inverse = Op::Sort(Sort { dimension: op.dimension, is_stable: true, direction: SortDirection::Ascending });
    let present: Vec<Value<'g>> = cts.iter().copied().flatten().collect();
    let sorted = builder.push(inverse, &[&[permutation], &present[..]].concat(), &[]);
    let mut sorted = sorted.into_iter().skip(1);
    cts.iter().map(|ct| ct.and_then(|_| sorted.next())).collect()
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{Op, ReduceOp, Sort, SortDirection};
    use lmc_graph::{DType, Value};

    use crate::check::{check, check_in, gradients};

    #[test]
    fn reductions() {
        for op in [ReduceOp::Add, ReduceOp::Multiply, ReduceOp::Maximum, ReduceOp::Minimum] {
            for dimensions in [&[0][..], &[1], &[2], &[0, 2], &[2, 1], &[0, 1, 2]] {
                check_in(0.5..1.2, &[&[2, 3, 4]], |x| (x[0] * x[0]).reduce(op, dimensions).sine());
            }
        }
        check(&[&[1, 5]], |x| x[0].product(&[0]) * x[0].product(&[1]));
        check(&[&[2, 0], &[2]], |x| x[1] * x[0].product(&[1]) + x[0].sum(&[1]));
    }

    #[test]
    fn a_product_with_zeros_has_a_derivative() {
        assert_eq!(gradients(&[&[2.0, 0.0, 3.0]], |x| x[0].product(&[0])), [[0.0, 6.0, 0.0]]);
        assert_eq!(gradients(&[&[2.0, 0.0, 0.0]], |x| x[0].product(&[0])), [[0.0; 3]]);
        check(&[&[4]], |x| {
            (x[0] * x[0].builder().constant(lmc_graph::Literal::new([4], &[1_f32, 0.0, 0.0, 1.0]))).product(&[0])
        });
    }

    #[test]
    fn ties_split_evenly() {
        assert_eq!(gradients(&[&[1.0, 3.0, 3.0, 2.0]], |x| x[0].max(&[0])), [[0.0, 0.5, 0.5, 0.0]]);
        assert_eq!(gradients(&[&[1.0, 1.0, 1.0, 2.0]], |x| x[0].min(&[0]) * 3.0), [[1.0, 1.0, 1.0, 0.0]]);
    }

    #[test]
    fn argmax_has_none() {
        assert_eq!(
            gradients(&[&[1.0, 3.0]], |x| x[0].argmax(0, DType::I32).convert(DType::F32) * x[0].sum(&[0])),
            [[1.0, 1.0]]
        );
    }

    fn sort<'g>(x: &[Value<'g>], dimension: usize, direction: SortDirection) -> Vec<Value<'g>> {
        x[0].builder().push(Op::Sort(Sort { dimension, is_stable: true, direction }), x, &[])
    }

    #[test]
    fn sorts() {
        for direction in [SortDirection::Ascending, SortDirection::Descending] {
            for dimension in [0, 1] {
                check(&[&[3, 4]], |x| sort(x, dimension, direction)[0].exp());
                check(&[&[3, 4], &[3, 4], &[3, 4]], |x| {
                    let sorted = sort(x, dimension, direction);
                    sorted[0] * sorted[1] * sorted[2] * x[1]
                });
                // Keys without a cotangent, and integers on the way.
                check(&[&[3, 4], &[3, 4]], |x| {
                    let sorted = sort(&[x[0], x[0].convert(DType::I32), x[1].exp()], dimension, direction);
                    sorted[2].exp()
                });
            }
        }
        // Equal keys keep their order.
        assert_eq!(
            gradients(&[&[1.0, 0.0, 1.0, 0.0], &[1.0, 2.0, 3.0, 4.0]], |x| {
                let (_, values) = x[0].sort_by_key(x[1], 0, SortDirection::Descending);
                values * values.slice_dim(0, 0..1).broadcast_in_dim(&[4], &[0])
            }),
            [vec![0.0; 4], vec![11.0, 1.0, 1.0, 1.0]]
        );
    }
}
