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
        let operands = [&[x[0], x[1], x[2], z[1], z[0], ct], &x[3..]].concat();
        let cts = ct.builder().push(backward, &operands, &[]).into_iter().map(Some);
        // Lengths and bounds have none.
        return cts.chain(x[3..].iter().map(|_| None)).collect();
    }
    of_decomposition(x, cts, location, |x| {
        let (output, log_sum_exp) = decompose::scaled_dot_product_attention(op, x);
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
    of_decomposition(x, cts, location, |x| decompose::scaled_dot_product_attention_backward(op, x).to_vec())
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

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
    use lmc_graph::{Builder, DType, Func, TensorType, Value, text};

    use crate::check::{check, count};

    const MASKS: [(AttentionMask, Option<usize>); 3] =
        [(AttentionMask::Full, None), (AttentionMask::Causal, None), (AttentionMask::Causal, Some(2))];

    fn attributes((mask, sliding_window): (AttentionMask, Option<usize>)) -> ScaledDotProductAttention {
        ScaledDotProductAttention { scale: 0.6, mask, sliding_window, rows: AttentionRows::Whole }
    }

    #[test]
    fn attention_with_and_without_groups() {
        for mask in MASKS {
            check(&[&[2, 3, 2, 2], &[2, 3, 2, 2], &[2, 3, 2, 3]], |x| {
                x[0].scaled_dot_product_attention(x[1], x[2], attributes(mask)).0
            });
            check(&[&[1, 3, 4, 2], &[1, 4, 2, 2], &[1, 4, 2, 1]], |x| {
                x[0].scaled_dot_product_attention(x[1], x[2], attributes(mask)).0.sine()
            });
        }
    }

    #[test]
    fn the_log_sum_exp_has_a_derivative() {
        for mask in MASKS {
            check(&[&[1, 3, 2, 2], &[1, 3, 1, 2], &[1, 3, 1, 2]], |x| {
                let (output, log_sum_exp) = x[0].scaled_dot_product_attention(x[1], x[2], attributes(mask));
                output * log_sum_exp.transpose(&[0, 2, 1]).broadcast_in_dim(&output.shape(), &[0, 1, 2])
            });
            check(&[&[1, 3, 2, 2], &[1, 3, 1, 2], &[1, 3, 1, 2]], |x| {
                x[0].scaled_dot_product_attention(x[1], x[2], attributes(mask)).1
            });
        }
    }

    #[test]
    fn the_derivative_is_one_op_and_that_of_it_has_the_models_location() {
        let ty = |heads| TensorType::new(DType::BF16, [2, 8, heads, 4]);
        let attention = Builder::build("attention", |b| {
            let x: Vec<Value<'_>> = [4, 2, 2].into_iter().map(|heads| b.param("x", ty(heads))).collect();
            let (output, _) = b.scope("attn", || x[0].scaled_dot_product_attention(x[1], x[2], attributes(MASKS[1])));
            vec![output.convert(DType::F32).sum(&[0, 1, 2, 3])]
        });
        let grad = crate::grad(&attention, &[0, 1, 2]).expect("attention has a derivative");
        assert_eq!(count(&grad, "scaled_dot_product_attention_backward"), 1, "{}", text::print(&grad));
        assert_eq!(count(&grad, "dot_general"), 0);
        let scopes = |func: &Func, op: &str| -> Vec<String> {
            let nodes = func.walk(func.body()).into_iter().map(|node| func.node(node));
            let mut scopes: Vec<String> =
                nodes.filter(|node| node.op.name() == op).map(|node| node.location.to_string()).collect();
            scopes.sort();
            scopes.dedup();
            scopes
        };
        let [location] = &scopes(&grad, "scaled_dot_product_attention_backward")[..] else { panic!("one location") };
        assert!(location.contains("attention.rs:") && location.ends_with(" in vjp(attn)"), "{location}");
        let second = crate::vjp(&grad, &[0]).expect("so has its derivative");
        let products = scopes(&second, "dot_general");
        assert!(products.iter().all(|scope| scope.contains("attention.rs:") && scope.contains("attn")), "{products:?}");
    }
}
