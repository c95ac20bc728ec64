//! Derivatives of attention: its own op, or those of its decomposition.

use lmc_graph::ops::{Op, ScaledDotProductAttention, ScaledDotProductAttentionBackward};
use lmc_graph::{Builder, Location, TensorType, Value, decompose};

use crate::engine;

/// `scaled_dot_product_attention`: the backward op, when only the output has a cotangent; it takes none for the
/// log-sum-exp.
pub(crate) fn scaled_dot_product_attention<'g>(
    op: &ScaledDotProductAttention,
    x: &[Value<'g>],
    z: &[Value<'g>],
    cts: &[Option<Value<'g>>],
    location: &Location,
) -> Vec<Option<Value<'g>>> {
    if let &[Some(ct), None] = cts {
        let backward = Op::ScaledDotProductAttentionBackward(op.backward());
        let operands = [x[0], x[1], x[2], z[1], z[0], ct];
        return ct.builder().push(backward, &operands, &[]).into_iter().map(Some).collect();
    }
    of_decomposition(x, cts, location, |x| {
        let (output, log_sum_exp) = decompose::scaled_dot_product_attention(op, x[0], x[1], x[2]);
        vec![output, log_sum_exp]
    })
}

/// `scaled_dot_product_attention_backward`, for derivatives of second order.
pub(crate) fn scaled_dot_product_attention_backward<'g>(
    op: &ScaledDotProductAttentionBackward,
    x: &[Value<'g>],
    cts: &[Option<Value<'g>>],
    location: &Location,
) -> Vec<Option<Value<'g>>> {
    of_decomposition(x, cts, location, |x| {
        decompose::scaled_dot_product_attention_backward(op, [x[0], x[1], x[2]], x[3], x[4], x[5]).to_vec()
    })
}

/// The cotangents of the operands of an op that means `body`, whose nodes have the op's location.
fn of_decomposition<'g>(
    x: &[Value<'g>],
    cts: &[Option<Value<'g>>],
    location: &Location,
    body: impl for<'h> FnOnce(&[Value<'h>]) -> Vec<Value<'h>>,
) -> Vec<Option<Value<'g>>> {
    let types: Vec<TensorType> = x.iter().map(Value::ty).collect();
    let func = Builder::build("decomposition", |b| {
        let params: Vec<Value<'_>> = types.into_iter().map(|ty| b.param("operand", ty)).collect();
        b.at(location.clone(), || body(&params))
    });
    engine::vjp_of_call(x[0].builder(), &func, x, cts)
}
