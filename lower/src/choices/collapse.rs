//! Neighbouring dimensions of a product taken as one.

use lmc_graph::TensorType;
use lmc_graph::ops::DotGeneral;

/// A product with fewer dimensions whose elements, in row-major order, are those of another one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Collapsed {
    /// The product on the reshaped operands.
    pub(crate) op: DotGeneral,
    /// The reshaped operands' shapes.
    pub(crate) lhs: Vec<usize>,
    pub(crate) rhs: Vec<usize>,
    /// The shape of the product, before it is reshaped to the op's result.
    pub(crate) result: Vec<usize>,
}

impl Collapsed {
    /// Whether an operand has fewer dimensions than that of the product it stands for.
    pub(super) fn has_fewer_dimensions(&self, lhs: &TensorType, rhs: &TensorType) -> bool {
        self.lhs.len() < lhs.rank() || self.rhs.len() < rhs.rank()
    }

    /// A multiplication and an addition for each element of the result and each summed index.
    pub(super) fn flops(&self) -> usize {
        let summed = self.op.lhs_contracting_dimensions.iter().map(|&d| self.lhs[d]);
        summed.chain(self.result.iter().copied()).fold(2, usize::saturating_mul)
    }
}

/// Collapses neighbouring dimensions that play the same part in the product: the product itself when there are none.
pub(super) fn collapse(op: &DotGeneral, lhs: &TensorType, rhs: &TensorType) -> Collapsed {
    let pairs = |lhs: &[usize], rhs: &[usize]| -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        for (&l, &r) in lhs.iter().zip(rhs) {
            match pairs.last_mut() {
                // Listed next to each other and neighbours in both operands: row-major order pairs the same elements.
                Some(last) if last.lhs.end == l && last.rhs.end == r => (last.lhs.end, last.rhs.end) = (l + 1, r + 1),
                Some(_) | None => pairs.push(Pair { lhs: l..l + 1, rhs: r..r + 1 }),
            }
        }
        pairs
    };
    let batching = pairs(&op.lhs_batching_dimensions, &op.rhs_batching_dimensions);
    let contracting = pairs(&op.lhs_contracting_dimensions, &op.rhs_contracting_dimensions);
    let lhs_free = runs(&op.lhs_free_dimensions(lhs.rank()));
    let rhs_free = runs(&op.rhs_free_dimensions(rhs.rank()));
    let lhs_runs: Vec<&Run> = batching.iter().chain(&contracting).map(|pair| &pair.lhs).chain(&lhs_free).collect();
    let rhs_runs: Vec<&Run> = batching.iter().chain(&contracting).map(|pair| &pair.rhs).chain(&rhs_free).collect();
    let size = |ty: &TensorType, run: &Run| ty.shape[run.clone()].iter().product::<usize>();
    let result = batching
        .iter()
        .map(|pair| size(lhs, &pair.lhs))
        .chain(lhs_free.iter().map(|run| size(lhs, run)))
        .chain(rhs_free.iter().map(|run| size(rhs, run)))
        .collect();
    // A run's place among the reshaped operand's dimensions is the number of runs before it.
    let place = |runs: &[&Run], run: &Run| runs.iter().filter(|other| other.start < run.start).count();
    let lhs_places = |pairs: &[Pair]| pairs.iter().map(|pair| place(&lhs_runs, &pair.lhs)).collect();
    let rhs_places = |pairs: &[Pair]| pairs.iter().map(|pair| place(&rhs_runs, &pair.rhs)).collect();
    let shape = |ty: &TensorType, runs: &[&Run]| {
        let mut runs = runs.to_vec();
        runs.sort_by_key(|run| run.start);
        runs.into_iter().map(|run| size(ty, run)).collect()
    };
    Collapsed {
        op: DotGeneral {
            lhs_batching_dimensions: lhs_places(&batching),
            rhs_batching_dimensions: rhs_places(&batching),
            lhs_contracting_dimensions: lhs_places(&contracting),
            rhs_contracting_dimensions: rhs_places(&contracting),
            result_dtype: op.result_dtype,
        },
        lhs: shape(lhs, &lhs_runs),
        rhs: shape(rhs, &rhs_runs),
        result,
    }
}

/// Neighbouring dimensions.
type Run = std::ops::Range<usize>;

/// Neighbouring dimensions of both operands that are listed together.
struct Pair {
    lhs: Run,
    rhs: Run,
}

/// Ascending dimensions as runs of neighbours.
fn runs(dimensions: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &d in dimensions {
        match runs.last_mut() {
            Some(last) if last.end == d => last.end = d + 1,
            Some(_) | None => runs.push(d..d + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use lmc_graph::DType;

    use super::*;
    use crate::choices::{DotForm, dot_general};
    use crate::target::Target;

    /// Dimensions of an operand: shape, batching, contracting.
    type Side<'a> = (&'a [usize], &'a [usize], &'a [usize]);

    #[track_caller]
    fn check(lhs: Side<'_>, rhs: Side<'_>, expected: Option<(Side<'_>, Side<'_>, &[usize])>) {
        let dot = |lhs: Side<'_>, rhs: Side<'_>| DotGeneral {
            lhs_batching_dimensions: lhs.1.to_vec(),
            rhs_batching_dimensions: rhs.1.to_vec(),
            lhs_contracting_dimensions: lhs.2.to_vec(),
            rhs_contracting_dimensions: rhs.2.to_vec(),
            result_dtype: DType::F32,
        };
        let ty = |side: Side<'_>| TensorType::new(DType::F32, side.0);
        let expected = expected.map_or(DotForm::Plain, |(lhs, rhs, result)| {
            let (l, r, result) = (lhs.0.to_vec(), rhs.0.to_vec(), result.to_vec());
            DotForm::Collapsed(Collapsed { op: dot(lhs, rhs), lhs: l, rhs: r, result })
        });
        let form = |target: &Target| dot_general(target, &dot(lhs, rhs), &ty(lhs), &ty(rhs)).0;
        assert_eq!(form(&Target::cpu(None)), expected);
        assert_eq!(form(&Target::generic()), DotForm::Plain);
    }

    #[test]
    fn collapses_neighbours_of_one_kind() {
        // Matrices stay.
        check((&[2, 3], &[], &[1]), (&[4, 3], &[], &[1]), None);
        // A linear layer on [B, T, C], and its weight gradient.
        check(
            (&[2, 5, 3], &[], &[2]),
            (&[4, 3], &[], &[1]),
            Some(((&[10, 3], &[], &[1]), (&[4, 3], &[], &[1]), &[10, 4])),
        );
        check(
            (&[2, 5, 3], &[], &[0, 1]),
            (&[2, 5, 4], &[], &[0, 1]),
            Some(((&[10, 3], &[], &[0]), (&[10, 4], &[], &[0]), &[3, 4])),
        );
        // Contracting dimensions that are listed in another order pair other elements.
        check((&[2, 5, 3], &[], &[1, 0]), (&[5, 2, 4], &[], &[0, 1]), None);
        check((&[2, 5, 3], &[], &[0, 1]), (&[5, 2, 4], &[], &[1, 0]), None);
        // Batching dimensions of scores, [B, N, T, H] with [B, N, S, H].
        check(
            (&[2, 6, 5, 3], &[0, 1], &[3]),
            (&[2, 6, 7, 3], &[0, 1], &[3]),
            Some(((&[12, 5, 3], &[0], &[2]), (&[12, 7, 3], &[0], &[2]), &[12, 5, 7])),
        );
        // Batching dimensions with a free one between them stay.
        check((&[2, 5, 6, 3], &[0, 2], &[3]), (&[2, 7, 6, 3], &[0, 2], &[3]), None);
        // Free dimensions behind the contracting one.
        check(
            (&[3, 2, 5], &[], &[0]),
            (&[4, 3], &[], &[1]),
            Some(((&[3, 10], &[], &[0]), (&[4, 3], &[], &[1]), &[10, 4])),
        );
    }
}
