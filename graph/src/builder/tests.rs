//! Messages of panics, and the nodes that convenience leaves behind.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::Func;

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// The message of the panic that building the function ends in.
fn panic_of(body: impl for<'g> FnOnce(Builder<'g>) -> Vec<Value<'g>>) -> String {
    let payload = catch_unwind(AssertUnwindSafe(|| Builder::build("f", body))).expect_err("a panic");
    payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref().map(|s: &&str| s.to_string())).unwrap()
}

#[test]
fn a_wrong_shape_is_rendered() {
    let mut line = 0;
    let message = panic_of(|b| {
        let x = b.param("x", f32s(&[2, 3]));
        let y = b.scope("model", || x.transpose(&[1, 0]));
        let z = y.tanh();
        line = line!() + 1;
        b.scope("model", || b.scope("head", || vec![z.matmul(y)]))
    });
    let expected = format!(
        "\
error: dot_general (C10): contracting sizes differ: [2] of f32[3,2] and [3] of f32[3,2]
  --> {}:{line} in model.head
   | %1: f32[3,2] = transpose(%0) {{permutation = [1, 0]}}
   | %2: f32[3,2] = tanh(%1)
 > | dot_general(%2: f32[3,2], %1: f32[3,2]) {{lhs_batching_dimensions = [], rhs_batching_dimensions = [], \
lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0], result_dtype = f32}}",
        file!()
    );
    assert_eq!(message, expected);
}

#[test]
fn long_constants_and_regions_are_abbreviated() {
    let message = panic_of(|b| {
        let x = b.constant(Literal::new([10], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let y = b.remat(|| vec![x]);
        vec![b.push1(Op::Binary(crate::ops::BinaryOp::Add), &[x, y[0].reshape(&[5, 2])])]
    });
    // Of the reshape the operand's node is not shown: at most two lines stand before the culprit.
    let lines: Vec<&str> = message.lines().skip(2).collect();
    let expected = [
        "   | %0: i32[10] = constant() {value = dense<i32[10]: 0, 1, 2, 3, 4, 5, 6, 7, …>}",
        "   | %2: i32[5,2] = reshape(%1) {shape = [5, 2]}",
        " > | add(%0: i32[10], %2: i32[5,2])",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn misuse_panics() {
    let cases = [
        (
            panic_of(|b| {
                let [_, _] = x_in(b).dims();
                vec![]
            }),
            "expected 2 dimensions, found f32[2]",
        ),
        (
            panic_of(|b| {
                let y = x_in(b).tanh();
                b.donate(y, 0);
                vec![y]
            }),
            "only a parameter of the function can be donated, found %1: f32[2]",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
}

fn x_in(b: Builder<'_>) -> Value<'_> {
    b.param("x", f32s(&[2]))
}

/// A value of a function around this one cannot be used, although closures could smuggle it in.
#[test]
fn values_of_other_functions_are_refused() {
    let message = panic_of(|outer| {
        let x = x_in(outer);
        Builder::build("inner", |inner| {
            let y = x_in(inner);
            // Both handles are shortened to one lifetime here.
            let both = [x, y];
            let _ = both[1].add(both[0]);
            vec![y]
        });
        vec![x]
    });
    assert_eq!(message, "%0: f32[2] is a value of another function");
}

#[test]
fn call_copies_with_nested_scopes() {
    let inner = Builder::build("inner", |b| {
        let x = x_in(b);
        let w = b.scope("a", || x.tanh());
        let scanned = b.scan(&[x], &[], 3, |carries, _| (vec![carries[0] + w], vec![]));
        scanned.carries
    });
    let func = Builder::build("outer", |b| {
        let x = x_in(b);
        b.scope("layer", || b.call(&inner, &[x.sine()]))
    });
    crate::verify(&func).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<String> = func
        .walk(func.body())
        .iter()
        .map(|&node| format!("{} {}", func.node(node).op.name(), func.node(node).location.scope))
        .collect();
    assert_eq!(found, ["sine layer", "tanh layer.a", "scan layer", "add layer"]);
    // The copied nodes keep their lines.
    let lines = |func: &Func, name: &str| {
        let nodes = func.walk(func.body());
        let node = nodes.into_iter().find(|&node| func.node(node).op.name() == name);
        node.map(|node| func.node(node).location.line)
    };
    assert_eq!(lines(&func, "tanh"), lines(&inner, "tanh"));
}

#[test]
fn a_parameter_that_is_added_in_a_region_is_the_functions() {
    let func = Builder::build("f", |b| {
        let x = x_in(b);
        let results = b.remat(|| vec![x * b.param("gain", f32s(&[2]))]);
        vec![results[0] + x]
    });
    let names: Vec<&str> = func.params.iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names, ["x", "gain"]);
    crate::verify(&func).expect("parameters may be used in regions");
    let text = func.to_string();
    assert_eq!(crate::text::parse("f", &text).map(|func| func.to_string()), Ok(text));
}

#[test]
fn operators_broadcast_by_nodes() {
    let func = Builder::build("f", |b| {
        let (x, y) = (b.param("x", f32s(&[2, 3])), b.param("y", f32s(&[3])));
        vec![-(x * y - 1.0)]
    });
    let expected = "\
func @f(%0: f32[2,3] \"x\", %1: f32[3] \"y\") -> (f32[2,3]) {
  %2: f32[2,3] = broadcast_in_dim(%1) {shape = [2, 3], broadcast_dimensions = [1]}
  %3: f32[2,3] = multiply(%0, %2)
  %4: f32[] = constant() {value = dense<f32[]: 1.0>}
  %5: f32[2,3] = broadcast_in_dim(%4) {shape = [2, 3], broadcast_dimensions = []}
  %6: f32[2,3] = subtract(%3, %5)
  %7: f32[2,3] = negate(%6)
  return %7
}
";
    assert_eq!(func.to_string(), expected);
}
