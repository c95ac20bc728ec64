//! Matrix products.

use lmc_graph::ops::{BinaryOp, DotGeneral};
use lmc_graph::{DType, Func, Node, Op};

use super::affine::Affine;
use super::expr::{Address, Expr, Id, Place, is_narrow};
use super::kernel::Product;
use super::nest::{Nest, Reduction, Store};
use super::schedule::{Expressions, Schedule, Work};

/// The loops of a product: batch, rows of `lhs`, rows of `rhs`, and the sum, in this order.
pub(super) fn dot_general(s: &mut Schedule<'_>, op: &DotGeneral, node: &Node, home: &Place) -> Vec<Work> {
    let func = s.func;
    let (lhs, rhs) = (node.operands[0], node.operands[1]);
    let (lhs_type, rhs_type, ty) = (func.ty(lhs), func.ty(rhs), func.ty(node.results[0]).clone());
    let free = |rank: usize, batching: &[usize], contracting: &[usize]| -> Vec<usize> {
        (0..rank).filter(|d| !batching.contains(d) && !contracting.contains(d)).collect()
    };
    let lhs_free = free(lhs_type.rank(), &op.lhs_batching_dimensions, &op.lhs_contracting_dimensions);
    let rhs_free = free(rhs_type.rank(), &op.rhs_batching_dimensions, &op.rhs_contracting_dimensions);
    let summed: Vec<usize> = op.lhs_contracting_dimensions.iter().map(|&d| lhs_type.shape[d]).collect();
    let shape = [&ty.shape[..], &summed].concat();
    let (mut e, index) = Expressions::over(s, &shape);
    let (batch, rest) = index.split_at(op.lhs_batching_dimensions.len());
    let (rows, rest) = rest.split_at(lhs_free.len());
    let (columns, sum) = rest.split_at(rhs_free.len());
    let spread = |rank: usize, parts: [(&[usize], &[Affine]); 3]| -> Vec<Affine> {
        let mut index = vec![Affine::constant(0, 0); rank];
        for (dimensions, own) in parts {
            dimensions.iter().zip(own).for_each(|(&d, own)| index[d] = own.clone());
        }
        index
    };
    let lhs_index = spread(
        lhs_type.rank(),
        [(&op.lhs_batching_dimensions, batch), (&lhs_free, rows), (&op.lhs_contracting_dimensions, sum)],
    );
    let rhs_index = spread(
        rhs_type.rank(),
        [(&op.rhs_batching_dimensions, batch), (&rhs_free, columns), (&op.rhs_contracting_dimensions, sum)],
    );
    let (x, y) = (e.value(lhs, &lhs_index), e.value(rhs, &rhs_index));
    let address = e.address(home, &ty, &index[..ty.rank()]);
    let size = |shape: &[usize]| shape.iter().filter(|&&size| size != 1).count();
    let counts = [
        size(&ty.shape[..batch.len()]),
        size(&ty.shape[batch.len()..batch.len() + rows.len()]),
        size(&ty.shape[batch.len() + rows.len()..]),
        size(&summed),
    ];
    if let Some((lhs, rhs)) = strided(&e, x, y, ty.dtype) {
        let product = Product::new(&e.dag.loops, counts, lhs, rhs, address.clone());
        if let Some(mut product) = product {
            product.copies = product.copied_bytes().map(|bytes| {
                let copy = Place::of(s.buffers.temporary(bytes?));
                s.touch(&copy);
                Some(copy)
            });
            return vec![Work::Product(product)];
        }
    }
    vec![Work::Nest(sum_of_products(e, x, y, address, ty.dtype, counts[3]))]
}

/// The addresses of two operands of f32 that are elements of memory.
fn strided(e: &Expressions<'_, '_>, x: Id, y: Id, dtype: DType) -> Option<(Address, Address)> {
    let address = |id: Id| match &e.dag.nodes[id].expr {
        expr @ Expr::Load { address, .. } if super::shape::as_strided(expr) && e.dag.dtype(id) == DType::F32 => {
            Some(address.clone())
        }
        Expr::Load { .. }
        | Expr::Constant(_)
        | Expr::Index(_)
        | Expr::Unary(..)
        | Expr::Binary(..)
        | Expr::Compare(..)
        | Expr::Select(..)
        | Expr::Convert(_)
        | Expr::Bitcast(_)
        | Expr::Round(_) => None,
    };
    if dtype != DType::F32 {
        return None;
    }
    Some((address(x)?, address(y)?))
}

/// A product as a nest: of other element types, and of operands that are no plain views of memory.
fn sum_of_products(mut e: Expressions<'_, '_>, x: Id, y: Id, address: Address, dtype: DType, loops: usize) -> Nest {
    // Narrow floats are multiplied without error and summed in f32.
    let wide = if is_narrow(dtype) { DType::F32 } else { dtype };
    let (x, y) = (e.dag.convert(x, wide), e.dag.convert(y, wide));
    let value = e.dag.binary(BinaryOp::Multiply, x, y);
    let neutral = e.dag.constant(wide, 0.0);
    let store = Store { value, address, dtype, guard: None };
    let reduction = Some(Reduction { op: BinaryOp::Add, neutral, loops });
    Nest { dag: e.dag, reduction, store, independent_from: 0 }
}

/// Two operations for each product of elements; 0 for other ops.
pub(super) fn flops(func: &Func, node: &Node) -> u64 {
    let Op::DotGeneral(op) = &node.op else { return 0 };
    let summed = op.lhs_contracting_dimensions.iter().map(|&d| func.ty(node.operands[0]).shape[d] as u64);
    summed.fold(2 * func.ty(node.results[0]).num_elements() as u64, u64::saturating_mul)
}
