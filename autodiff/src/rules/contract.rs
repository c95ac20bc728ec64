//! Derivatives of products: products.

use lmc_graph::ops::DotGeneral;
use lmc_graph::{DType, Value};

/// `dot_general`: one `dot_general` for each operand, on operands of the forward's element type, with the element types
/// `want_lhs` and `want_rhs` as results.
pub(crate) fn dot_general<'g>(
    op: &DotGeneral,
    lhs: Value<'g>,
    rhs: Value<'g>,
    ct: Value<'g>,
    want_lhs: DType,
    want_rhs: DType,
) -> [Value<'g>; 2] {
    // Of `bf16 x bf16 -> f32` the cotangent is f32; a product of it would leave the fast path.
    let ct = ct.convert(lhs.dtype());
    let (num_batch, lhs_free) = (op.lhs_batching_dimensions.len(), op.lhs_free_dimensions(lhs.rank()));
    let rhs_free = op.rhs_free_dimensions(rhs.rank());
    let (lhs_in_ct, rhs_in_ct) = (num_batch..num_batch + lhs_free.len(), num_batch + lhs_free.len()..ct.rank());
    let lhs_side = Side {
        batching: &op.lhs_batching_dimensions,
        contracting: &op.lhs_contracting_dimensions,
        free: lhs_free,
        in_ct: lhs_in_ct.collect(),
    };
    let rhs_side = Side {
        batching: &op.rhs_batching_dimensions,
        contracting: &op.rhs_contracting_dimensions,
        free: rhs_free,
        in_ct: rhs_in_ct.collect(),
    };
    [product(ct, rhs, &lhs_side, &rhs_side, want_lhs), product(ct, lhs, &rhs_side, &lhs_side, want_rhs)]
}

/// One operand of the forward product.
struct Side<'a> {
    batching: &'a [usize],
    contracting: &'a [usize],
    /// The dimensions that are neither, ascending.
    free: Vec<usize>,
    /// The dimensions of the cotangent that the free ones became.
    in_ct: Vec<usize>,
}

/// The cotangent of the operand of side `own`: the product of `ct` with the other operand `y`, summed over the
/// dimensions that only `y` gave to the result.
fn product<'g>(ct: Value<'g>, y: Value<'g>, own: &Side<'_>, other: &Side<'_>, want: DType) -> Value<'g> {
    let batching: Vec<usize> = (0..own.batching.len()).collect();
    // What the forward summed over comes in the order that it has in `y`; each is a dimension of the operand.
    let mut pairs: Vec<(usize, usize)> =
        other.contracting.iter().copied().zip(own.contracting.iter().copied()).collect();
    pairs.sort_unstable();
    let summed: Vec<usize> = pairs.into_iter().map(|(_, dimension)| dimension).collect();

    // Either order of the factors is right. The one whose result has the operand's dimensions in order needs no
    // transpose: of a linear layer that is (ct, W) for the input and (ct, x) for the weight.
    let ct_first = [own.batching, &own.free, &summed].concat();
    let y_first = [own.batching, &summed, &own.free].concat();
    let is_in_order = |dimensions: &[usize]| dimensions.iter().copied().eq(0..dimensions.len());
    if !is_in_order(&ct_first) && is_in_order(&y_first) {
        return y.dot_general(
            ct,
            DotGeneral {
                lhs_batching_dimensions: other.batching.to_vec(),
                rhs_batching_dimensions: batching,
                lhs_contracting_dimensions: other.free.clone(),
                rhs_contracting_dimensions: other.in_ct.clone(),
                result_dtype: want,
            },
        );
    }
    let product = ct.dot_general(
        y,
        DotGeneral {
            lhs_batching_dimensions: batching,
            rhs_batching_dimensions: other.batching.to_vec(),
            lhs_contracting_dimensions: other.in_ct.clone(),
            rhs_contracting_dimensions: other.free.clone(),
            result_dtype: want,
        },
    );
    let mut order = vec![0; ct_first.len()];
    ct_first.iter().enumerate().for_each(|(position, &dimension)| order[dimension] = position);
    product.transpose(&order)
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{DotGeneral, Op};
    use lmc_graph::{Builder, DType, Func, TensorType, text, verify};

    use crate::check::{check, count};

    /// Dimension numbers with operand shapes: batching and contracting dimensions of lhs, of rhs.
    struct Case {
        lhs: &'static [usize],
        rhs: &'static [usize],
        batching: [&'static [usize]; 2],
        contracting: [&'static [usize]; 2],
    }

    const CASES: [Case; 14] = [
        // A linear layer, with one and with two leading dimensions.
        Case { lhs: &[2, 3], rhs: &[4, 3], batching: [&[], &[]], contracting: [&[1], &[1]] },
        Case { lhs: &[2, 5, 3], rhs: &[4, 3], batching: [&[], &[]], contracting: [&[2], &[1]] },
        // Its weight transposed, its operands exchanged.
        Case { lhs: &[2, 3], rhs: &[3, 4], batching: [&[], &[]], contracting: [&[1], &[0]] },
        Case { lhs: &[4, 3], rhs: &[2, 5, 3], batching: [&[], &[]], contracting: [&[1], &[2]] },
        Case { lhs: &[3, 2], rhs: &[3, 4], batching: [&[], &[]], contracting: [&[0], &[0]] },
        // Inner and outer products.
        Case { lhs: &[3], rhs: &[3], batching: [&[], &[]], contracting: [&[0], &[0]] },
        Case { lhs: &[2], rhs: &[3], batching: [&[], &[]], contracting: [&[], &[]] },
        // Batches: of matrices, of attention scores and outputs, in odd orders.
        Case { lhs: &[2, 3, 4], rhs: &[2, 4, 5], batching: [&[0], &[0]], contracting: [&[2], &[1]] },
        Case { lhs: &[2, 3, 4, 5], rhs: &[2, 2, 4, 5], batching: [&[0, 2], &[0, 2]], contracting: [&[3], &[3]] },
        Case { lhs: &[2, 4, 3, 5], rhs: &[2, 5, 4, 2], batching: [&[0, 1], &[0, 2]], contracting: [&[3], &[1]] },
        Case { lhs: &[3, 4, 2], rhs: &[4, 5, 2], batching: [&[2, 1], &[2, 0]], contracting: [&[], &[]] },
        // Several contracting dimensions, in orders that differ between the sides.
        Case { lhs: &[2, 3, 4], rhs: &[4, 5, 3], batching: [&[], &[]], contracting: [&[1, 2], &[2, 0]] },
        Case { lhs: &[4, 2, 3], rhs: &[3, 4, 5], batching: [&[], &[]], contracting: [&[2, 0], &[0, 1]] },
        Case { lhs: &[5, 3, 2, 4], rhs: &[3, 4, 5, 2], batching: [&[2], &[3]], contracting: [&[1, 0], &[0, 2]] },
    ];

    impl Case {
        fn attributes(&self, result_dtype: DType) -> DotGeneral {
            DotGeneral {
                lhs_batching_dimensions: self.batching[0].to_vec(),
                rhs_batching_dimensions: self.batching[1].to_vec(),
                lhs_contracting_dimensions: self.contracting[0].to_vec(),
                rhs_contracting_dimensions: self.contracting[1].to_vec(),
                result_dtype,
            }
        }

        fn func(&self, dtype: DType, result_dtype: DType) -> Func {
            Builder::build("dot", |b| {
                let lhs = b.param("lhs", TensorType::new(dtype, self.lhs));
                let rhs = b.param("rhs", TensorType::new(dtype, self.rhs));
                vec![lhs.dot_general(rhs, self.attributes(result_dtype))]
            })
        }
    }

    /// Types of operands and result of every `dot_general`.
    fn dots(func: &Func) -> Vec<[DType; 3]> {
        let nodes = func.walk(func.body()).into_iter().map(|node| func.node(node));
        nodes
            .filter(|node| matches!(node.op, Op::DotGeneral(_)))
            .map(|node| [node.operands[0], node.operands[1], node.results[0]].map(|value| func.ty(value).dtype))
            .collect()
    }

    #[test]
    fn products_have_the_derivatives_of_central_differences() {
        for case in &CASES {
            check(&[case.lhs, case.rhs], |x| x[0].dot_general(x[1], case.attributes(DType::F32)));
        }
    }

    #[test]
    fn the_derivative_of_a_product_is_two_products() {
        for dtypes in [[DType::F32, DType::F32], [DType::BF16, DType::BF16], [DType::BF16, DType::F32]] {
            for case in &CASES {
                let [dtype, result_dtype] = dtypes;
                let vjp = crate::vjp(&case.func(dtype, result_dtype), &[0, 1]).expect("dot_general has a derivative");
                verify(&vjp).unwrap_or_else(|error| panic!("{error}"));
                let printed = text::print(&vjp);
                let nodes = vjp.walk(vjp.body()).len();
                let transposes = count(&vjp, "transpose");
                // The forward product is a result too.
                assert_eq!(dots(&vjp), [[dtype, dtype, result_dtype], [dtype; 3], [dtype; 3]], "{printed}");
                assert!(transposes <= 2, "{printed}");
                // Nothing else but the rounding of the cotangent: no multiply and reduce.
                assert_eq!(nodes, 3 + transposes + usize::from(dtype != result_dtype), "{printed}");
            }
        }
    }

    #[test]
    fn linear_layers_and_matmuls_need_no_transpose() {
        for case in CASES[..3].iter().chain(&CASES[7..8]) {
            let vjp = crate::vjp(&case.func(DType::BF16, DType::BF16), &[0, 1]).expect("dot_general has a derivative");
            assert_eq!(count(&vjp, "transpose"), 0, "{}", text::print(&vjp));
        }
    }

    #[test]
    fn the_gradient_of_a_rounded_weight_is_not_rounded() {
        let func = Builder::build("layer", |b| {
            let x = b.param("x", TensorType::new(DType::BF16, [2, 5, 3]));
            let weight = b.param("weight", TensorType::new(DType::F32, [4, 3]));
            vec![x.dot(weight.convert(DType::BF16))]
        });
        let vjp = crate::vjp(&func, &[1]).expect("dot_general has a derivative");
        let (bf16, f32) = (DType::BF16, DType::F32);
        assert_eq!(dots(&vjp), [[bf16, bf16, bf16], [bf16, bf16, f32]], "{}", text::print(&vjp));
        assert_eq!(count(&vjp, "convert"), 1, "{}", text::print(&vjp));
    }

    #[test]
    fn the_gradient_of_a_weight_rounded_outside_of_a_loop_is_summed_unrounded() {
        let func = Builder::build("loop", |b| {
            let x = b.param("x", TensorType::new(DType::BF16, [7, 2, 3]));
            let weight = b.param("weight", TensorType::new(DType::F32, [4, 3])).convert(DType::BF16);
            let scanned = b.scan(&[], &[x], 7, |_, x| (vec![], vec![x[0].dot(weight)]));
            scanned.stacked
        });
        let vjp = crate::vjp(&func, &[1]).expect("scan has a derivative");
        verify(&vjp).unwrap_or_else(|error| panic!("{error}"));
        let (bf16, f32) = (DType::BF16, DType::F32);
        assert_eq!(dots(&vjp), [[bf16, bf16, bf16], [bf16, bf16, f32]], "{}", text::print(&vjp));
        assert_eq!(count(&vjp, "convert"), 1, "{}", text::print(&vjp));
    }
}
