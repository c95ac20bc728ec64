//! Derivatives of ops that move elements.

use lmc_graph::ops::{BroadcastInDim, Concatenate, Pad, Slice, Transpose};
use lmc_graph::{DType, Value};

/// `broadcast_in_dim`: the sum over what was repeated, in the element type that is wanted.
pub(crate) fn broadcast_in_dim<'g>(op: &BroadcastInDim, x: Value<'g>, ct: Value<'g>, want: DType) -> Value<'g> {
    let (sizes, dimensions) = (x.shape(), &op.broadcast_dimensions);
    let kept: Vec<usize> =
        sizes.iter().zip(dimensions).filter(|&(&size, &d)| size == op.shape[d]).map(|(_, &d)| d).collect();
    let repeated: Vec<usize> = (0..op.shape.len()).filter(|d| !kept.contains(d)).collect();
    // The sum has the kept dimensions in ascending order; the operand has them in its own.
    let order: Vec<usize> = kept.iter().map(|d| kept.iter().filter(|other| *other < d).count()).collect();
    ct.convert(want).sum(&repeated).transpose(&order).reshape(&sizes)
}

/// `transpose`: by the inverse permutation.
pub(crate) fn transpose<'g>(op: &Transpose, ct: Value<'g>) -> Value<'g> {
    let mut inverse = vec![0; op.permutation.len()];
    op.permutation.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    ct.transpose(&inverse)
}

/// `slice`: zeros around and between the elements that were taken.
pub(crate) fn slice<'g>(op: &Slice, x: Value<'g>, ct: Value<'g>) -> Value<'g> {
    let (sizes, taken) = (x.shape(), ct.shape());
    let end = |d: usize| op.start_indices[d] + taken[d].checked_sub(1).map_or(0, |last| last * op.strides[d] + 1);
    let low: Vec<i64> = op.start_indices.iter().map(|&start| signed(start)).collect();
    let high: Vec<i64> = (0..sizes.len()).map(|d| signed(sizes[d] - end(d))).collect();
    let interior: Vec<i64> = op.strides.iter().map(|&stride| signed(stride - 1)).collect();
    ct.pad(zero(ct), &low, &high, &interior)
}

/// `concatenate`: to each operand its slice.
pub(crate) fn concatenate<'g>(op: &Concatenate, x: &[Value<'g>], ct: Value<'g>) -> Vec<Option<Value<'g>>> {
    let mut start = 0;
    let slice = |x: &Value<'g>| {
        let range = start..start + x.shape()[op.dimension];
        start = range.end;
        Some(ct.slice_dim(op.dimension, range))
    };
    x.iter().map(slice).collect()
}

/// `pad`: to the operand the elements that are its own, zeros where they were cut off; to the padding value the sum of
/// the rest.
pub(crate) fn pad<'g>(op: &Pad, x: Value<'g>, value: Value<'g>, ct: Value<'g>) -> [Option<Value<'g>>; 2] {
    let (low, high, interior) = (&op.edge_padding_low, &op.edge_padding_high, &op.interior_padding);
    let rank = x.rank();
    let negated = |edge: &[i64]| -> Vec<i64> { edge.iter().map(|size| -size).collect() };
    let spread = ct.pad(zero(ct), &negated(low), &negated(high), &vec![0; rank]);
    let strides: Vec<usize> = interior.iter().map(|&gap| size(gap + 1)).collect();
    let dx = spread.slice(&vec![0; rank], &spread.shape(), &strides);

    let builder = x.builder();
    let (no, yes) = (builder.scalar(DType::Bool, 0.0), builder.scalar(DType::Bool, 1.0));
    let is_padding = no.broadcast_in_dim(&x.shape(), &[]).pad(yes, low, high, interior);
    let dimensions: Vec<usize> = (0..rank).collect();
    let dvalue = is_padding.select(ct, ct.full_like(0.0)).sum(&dimensions);
    [Some(dx), Some(dvalue.reshape(&value.shape()))]
}

/// A scalar zero of the element type of `x`.
fn zero<'g>(x: Value<'g>) -> Value<'g> {
    x.builder().scalar(x.dtype(), 0.0)
}

/// A size as a padding.
pub(crate) fn signed(size: usize) -> i64 {
    i64::try_from(size).expect("a dimension has fewer than 2^63 elements")
}

/// A padding that is not negative as a size.
fn size(padding: i64) -> usize {
    usize::try_from(padding).expect("interior padding is not negative (pad, C3)")
}

#[cfg(test)]
mod tests {
    use crate::check::{check, gradients};

    #[test]
    fn broadcasts() {
        let cases: [(&[usize], &[usize], &[usize]); 7] = [
            (&[3], &[3], &[0]),
            (&[], &[2, 3], &[]),
            (&[3], &[2, 3], &[1]),
            (&[2, 3], &[3, 2], &[1, 0]),
            (&[2, 1, 3], &[3, 4, 2], &[2, 1, 0]),
            (&[1, 3], &[2, 1, 3], &[1, 2]),
            (&[1, 1], &[2, 2], &[1, 0]),
        ];
        for (from, to, dimensions) in cases {
            check(&[from], |x| {
                let y = x[0].broadcast_in_dim(to, dimensions);
                y * y
            });
        }
    }

    #[test]
    fn permutations() {
        check(&[&[2, 3]], |x| x[0].reshape(&[3, 2]).exp());
        check(&[&[2, 3, 4]], |x| x[0].transpose(&[2, 0, 1]).exp());
        check(&[&[2, 3, 4]], |x| x[0].reverse(&[0, 2]).exp());
    }

    #[test]
    fn slices() {
        let cases: [([usize; 2], [usize; 2], [usize; 2]); 6] = [
            ([0, 0], [3, 5], [1, 1]),
            ([1, 2], [3, 4], [1, 1]),
            ([0, 0], [3, 5], [2, 3]),
            ([1, 1], [3, 5], [2, 2]),
            ([0, 1], [1, 5], [7, 4]),
            ([2, 2], [2, 2], [1, 1]),
        ];
        for (start, limit, strides) in cases {
            check(&[&[3, 5]], |x| x[0].slice(&start, &limit, &strides).exp());
        }
    }

    #[test]
    fn concatenates() {
        check(&[&[2, 1], &[2, 3], &[2, 2]], |x| {
            let y = x[0].builder().concatenate(&[x[0], x[1], x[2], x[0]], 1);
            y * y * y
        });
        check(&[&[2, 1], &[0, 1]], |x| x[0].builder().concatenate(x, 0).exp());
    }

    #[test]
    fn pads() {
        let cases: [([i64; 2], [i64; 2], [i64; 2]); 7] = [
            ([1, 0], [0, 2], [0, 0]),
            ([1, 2], [2, 1], [2, 1]),
            ([-1, 0], [0, -2], [0, 0]),
            ([-1, 1], [2, -2], [1, 2]),
            ([-2, -3], [-1, -1], [1, 1]),
            ([-3, 0], [1, 0], [0, 0]),
            ([0, 0], [0, 0], [0, 0]),
        ];
        for (low, high, interior) in cases {
            check(&[&[3, 4], &[]], |x| (x[0] * x[0]).pad(x[1].exp(), &low, &high, &interior).exp());
        }
        assert_eq!(gradients(&[&[2.0, 3.0]], |x| x[0].pad(x[0].sum(&[0]), &[-1], &[2], &[1])), [[3.0, 4.0]]);
    }
}
