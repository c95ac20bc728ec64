//! Printing and parsing are inverse; errors are exact; no text makes the parser panic.

use std::sync::Arc;

use proptest::prelude::*;

use crate::dtype::{DType, TensorType};
use crate::entity::Entity;
use crate::func::{Func, Location};
use crate::literal::Literal;
use crate::ops::*;
use crate::text::{Parsed, parse, parse_all, parse_each, print};
use crate::{Builder, RegionId, ValueId, dce, eval, verify};

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// A function in which every op of the op table occurs.
pub(crate) fn every_op() -> Func {
    let mut func = Builder::build("every.op", |b| {
        let x = b.param("model.x", f32s(&[2, 3]));
        let i = b.param("index", TensorType::scalar(DType::I32));
        let p = b.param("", TensorType::scalar(DType::Bool));
        let key = b.param("key", TensorType::new(DType::U64, [2]));
        let q = b.param("q", TensorType::new(DType::BF16, [1, 2, 2, 4]));
        let n = x.convert(DType::I32);
        let mut used = vec![];
        b.scope("elementwise", || {
            for &op in UnaryOp::ALL {
                let x = if op == UnaryOp::Not { n } else { x };
                used.push(b.push1(Op::Unary(op), &[x]));
            }
            for &op in BinaryOp::ALL {
                let ints = op.name().contains("shift") || matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
                let x = if ints { n } else { x };
                used.push(b.push1(Op::Binary(op), &[x, x]));
            }
            used.extend(ComparisonDirection::ALL.iter().map(|&direction| x.compare(direction, x)));
            used.extend([p.select(x, x), x.clamp(x, x), x.bitcast_convert(DType::U32)]);
        });
        let zero = b.scalar(DType::F32, 0.0);
        used.extend([
            b.iota(&TensorType::new(DType::BF16, [4, 0, 2]), 2),
            x.broadcast_in_dim(&[2, 5, 3], &[0, 2]),
            x.reshape(&[6]),
            x.transpose(&[1, 0]),
            x.reverse(&[0, 1]),
            x.slice(&[0, 1], &[2, 3], &[1, 2]),
            b.concatenate(&[x, x], 1),
            x.pad(zero, &[-1, 0], &[0, 2], &[1, 0]),
            x.dynamic_slice(&[i, i], &[1, 2]),
            x.dynamic_update_slice(x, &[i, i]),
            x.dot(x),
            x.sum(&[1]),
            x.argmax(1, DType::U8),
            x.sort(0, SortDirection::Descending),
            x.stop_gradient(),
        ]);
        let rows = x.take_rows(n.reshape(&[6]));
        let scatter = Scatter {
            update_window_dims: vec![1],
            inserted_window_dims: vec![0],
            input_batching_dims: vec![],
            scatter_indices_batching_dims: vec![],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            indices_are_sorted: false,
            unique_indices: true,
            update_computation: ScatterOp::Maximum,
        };
        used.push(x.scatter(n.reshape(&[6]), rows, scatter));
        let scanned = b.scan(&[x], &[rows], 6, |carries, xs| {
            let inner = b.remat(|| vec![carries[0] + xs[0], x]);
            let kept = b.if_else(p, || vec![inner[0]], || vec![x]);
            (vec![kept[0]], vec![xs[0], inner[1]])
        });
        used.extend(scanned.carries);
        used.extend(scanned.stacked);
        used.extend(b.while_loop(&[x, p], |v| v[1], |v| vec![v[0].tanh(), p]));
        used.extend(b.optimization_barrier(&[x, n]));
        let (state, bits) = key.rng_bit_generator(RngAlgorithm::ThreeFry, TensorType::new(DType::U32, [3]));
        used.extend([state, bits]);
        let attention = ScaledDotProductAttention {
            scale: 0.1,
            mask: AttentionMask::Causal,
            sliding_window: Some(2),
            rows: AttentionRows::Whole,
        };
        let (out, lse) = q.scaled_dot_product_attention(q, q, attention.clone());
        let backward = Op::ScaledDotProductAttentionBackward(attention.backward());
        used.extend(b.push(backward, &[q, q, q, lse, out, out], &[]));
        let places = [i.reshape(&[1]); 2];
        let cache = q.cache_update(q, i, places);
        let cached = CachedAttention { scale: 0.1, sliding_window: None, soft_cap: Some(30.0), visible_rows: 1 };
        used.extend([cache, q.cached_attention([cache, cache], places, cached)]);
        used.push(b.constant(Literal::new([2, 2], &[true, false, true, true])));
        used
    });
    func.params[0].donated_to = Some(0);
    func.result_names[0] = "a \"name\"\n".into();
    func
}

/// The text without what differs between equal functions: nothing does.
fn round_trip(func: &Func) {
    let text = print(func);
    let parsed = parse("test", &text).unwrap_or_else(|error| panic!("{error}\n\n{text}"));
    assert_eq!(print(&parsed), text);
    verify(&parsed).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_op_round_trips() {
    let func = every_op();
    verify(&func).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<&str> = func.walk(func.body()).iter().map(|&node| func.node(node).op.name()).collect();
    for name in Op::names() {
        assert!(found.contains(&name), "no `{name}` in the function of every op");
    }
    round_trip(&func);
    let slim = dce(&func);
    round_trip(&slim);
    // Without locations the structure is the same, and a node is located at its own line.
    let text = func.to_string();
    let parsed = parse("here", &text).unwrap_or_else(|error| panic!("{error}\n\n{text}"));
    assert_eq!(parsed.to_string(), text);
    let first = parsed.region(parsed.body()).nodes[0];
    let line = 1 + text.lines().take_while(|line| !line.contains(" = convert(")).count();
    let location = &parsed.node(first).location;
    assert_eq!(location.to_string(), format!("here:{line}"));
}

#[test]
fn text_round_trips() {
    let cases = [
        "func @empty() -> () {\n  return\n}\n",
        "func @\"a b\\n\"(%0: f32[] \"x\\\"\\u{1f}\" donated(0)) -> (f32[] \"y\", f32[]) {\n  return %0, %0\n}\n",
        "func @none() -> () {\n  remat() ({\n    return\n  }) loc(unknown)\n  return\n}\n",
        "func @locs() -> (i1[]) {\n  %0: i1[] = constant() {value = dense<i1[]: true>} loc(\"a.b\")\n  %1: i1[] = not(%0) \
         loc(\"f.rs\":3)\n  %2: i1[] = not(%1) loc(\"s\" \"f.rs\":4)\n  %3: i1[] = not(%2) loc(\"\":5)\n  return %3\n}\n",
    ];
    for text in cases {
        let func = parse("test", text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(print(&func), text);
    }
    // Names of values, spaces and comments are free.
    let text = "// a\nfunc@f(%x:f32[ 2 ])->(f32[2]){ // b\n%x.1:f32[2]=add(%x,%x)return%x.1}// c";
    let func = parse("f.txt", text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        print(&func),
        "func @f(%0: f32[2]) -> (f32[2]) {\n  %1: f32[2] = add(%0, %0) loc(\"f.txt\":3)\n  return %1\n}\n"
    );
}

#[test]
fn long_headers_are_broken_into_lines() {
    let func = Builder::build("f", |b| {
        let params = ["a", "b"].map(|name| b.param(&name.repeat(50), f32s(&[2])));
        params.to_vec()
    });
    let (a, b) = ("a".repeat(50), "b".repeat(50));
    let expected = format!(
        "func @f(\n  %0: f32[2] \"{a}\",\n  %1: f32[2] \"{b}\"\n) -> (\n  f32[2],\n  f32[2]\n) {{\n  return %0, %1\n}}\n"
    );
    assert_eq!(print(&func), expected);
    round_trip(&func);
}

#[test]
fn literals() {
    let nan = f32::from_bits(0x7FC0_0001);
    let cases = [
        (Literal::new([3], &[1.0f32, -0.0, 1e-7]), "dense<f32[3]: 1.0, -0.0, 1e-7>"),
        (Literal::new([2], &[nan, f32::NEG_INFINITY]), "dense<f32[2]: 0x7FC00001, 0xFF800000>"),
        (Literal::new([1], &[0.1f32]), "dense<f32[1]: 0.1>"),
        (Literal::new([2, 3], &[0.5f32; 6]), "dense<f32[2,3]: 0.5 ...>"),
        (Literal::new([0, 3], &[0.0f32; 0]), "dense<f32[0,3]:>"),
        (Literal::new([], &[f64::MIN_POSITIVE]), "dense<f64[]: 2.2250738585072014e-308>"),
        (Literal::new([2], &[half::bf16::from_f32(0.1), half::bf16::INFINITY]), "dense<bf16[2]: 0.1, 0x7F80>"),
        (Literal::new([], &[half::f16::MAX]), "dense<f16[]: 65500.0>"),
        (Literal::new([2], &[i64::MIN, i64::MAX]), "dense<i64[2]: -9223372036854775808, 9223372036854775807>"),
        (Literal::new([2], &[u64::MAX; 2]), "dense<ui64[2]: 18446744073709551615 ...>"),
        (Literal::new([2], &[true, false]), "dense<i1[2]: true, false>"),
        (Literal::new([2], &[-128i8, 127]), "dense<i8[2]: -128, 127>"),
    ];
    for (literal, expected) in cases {
        assert_eq!(literal.to_string(), expected);
        assert_eq!(read_literal(expected), literal);
    }
    let words = Literal::new([4], &[f32::INFINITY, f32::NEG_INFINITY, 3.0, 16_777_216.0]);
    assert_eq!(read_literal("dense<f32[4]: inf, -inf, 3, 16777217>"), words);
}

fn read_literal(text: &str) -> Literal {
    let ty = text.split(['<', ':']).nth(1).unwrap_or("");
    let text = format!("func @f() -> ({ty}) {{\n %0: {ty} = constant() {{value = {text}}}\n return %0\n}}");
    let func = parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
    let node = func.node(func.region(func.body()).nodes[0]);
    let Op::Constant(op) = &node.op else { panic!("{:?}", node.op) };
    op.value.clone()
}

/// Every number of 16 bits, as few digits as they print with.
#[test]
fn narrow_floats_round_trip() {
    for dtype in [DType::BF16, DType::F16] {
        let bytes = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let literal = Literal::from_bytes(TensorType::new(dtype, [1 << 16]), bytes).unwrap();
        let again = read_literal(&literal.to_string());
        assert!(again == literal, "{dtype}");
    }
}

/// Texts of which nothing but the middle is given: a node, in a function of `%x: f32[2]`.
fn in_func(node: &str) -> String {
    format!("func @f(%x: f32[2]) -> () {{\n  {node}\n  return\n}}\n")
}

#[test]
fn errors() {
    let whole = |text: &str| text.to_string();
    let cases = [
        (whole(""), "1:1: expected `func`, found the end of the text"),
        (whole("func f"), "1:6: expected a name such as `@main`, found `f`"),
        (whole("func @"), "1:6: expected a function's name after `@`"),
        (
            whole("func @f() -> () {\n  return\n}\nfunc"),
            "4:1: expected the end of the text after one function, found `func`",
        ),
        (whole("func @f(%0: f32[2] %1"), "1:20: expected `,` or `)`, found `%1`"),
        (
            whole("func @f(%0: f33[2])"),
            "1:13: unknown element type `f33`; known: i1, i8, i16, i32, i64, ui8, ui16, ui32, \
                                         ui64, bf16, f16, f32, f64",
        ),
        (whole("func @f(%0: f32[-1])"), "1:17: expected a size, found `-1`"),
        (
            whole("func @f(%0: f32[4294967296,4294967296,0])"),
            "1:13: f32[4294967296,4294967296,0] is larger than any memory",
        ),
        (whole("func @f(%0: f32[], %0: f32[])"), "1:20: `%0` is defined twice"),
        (whole("func @f(%0: f32[] \"x) ->"), "1:19: the string does not end on its line; write `\\n` for a line break"),
        (
            whole("func @f(%0: f32[] \"\\q\""),
            "1:19: unknown escape 'q' after a backslash; known: n, r, t, 0, \", ', \\, u{…}",
        ),
        (whole("func @f() -> (f32[2]) {\n return\n}"), "2:2: expected 1 results as the header says, found 0"),
        (
            whole("func @f(%0: f32[2]) -> (f32[]) {\n return %0\n}"),
            "1:25: result 0 is written as f32[], but the function \
                                                                 returns f32[2]",
        ),
        (in_func("%y: f32[2] = add(%x, %y)"), "2:24: `%y` is not defined before and around here"),
        (in_func("%y: f32[2] = ad(%x)"), "2:16: unknown op `ad`"),
        (in_func("%y: f32[3] = tanh(%x)"), "2:7: `%y` is written as f32[3], but `tanh` makes f32[2]"),
        (in_func("%y: f32[2], %z: f32[2] = tanh(%x)"), "2:28: `tanh` has 1 results, the text names 2"),
        (in_func("%y: f32[2] = add(%x)"), "2:16: add (I0): expected 2 operands, found 1"),
        (
            in_func("%y: f32[] = reduce(%x) {op = add, dimensions = [1]}"),
            "2:15: reduce (C4): f32[2] does not have the \
                                                                            dimensions [1]",
        ),
        (
            in_func("%y: f32[] = reduce(%x) {op = add}"),
            "2:15: attribute `dimensions` is missing; expected a list of integers \
                                                        of at least 0",
        ),
        (
            in_func("%y: f32[] = reduce(%x) {op = sub, dimensions = [0]}"),
            "2:15: attribute `op`: expected add or multiply or \
                                                                         maximum or minimum or and or or, found sub",
        ),
        (
            in_func("%y: f32[] = reduce(%x) {op = add, axes = [0]}"),
            "2:15: unknown attribute `axes`; known: op, dimensions",
        ),
        (
            in_func("%y: f32[2] = iota() {iota_dimension = 99999999999999999999, output = f32[2]}"),
            "2:41: 99999999999999999999 does not fit 64 bits",
        ),
        (in_func("%y: f32[2] = constant() {value = dense<f32[2]: 1.0>}"), "2:42: f32[2] has 2 elements, found 1"),
        (
            in_func("%y: f32[2] = constant() {value = dense<f32[2]: 1e40, 1.0>}"),
            "2:50: `1e40` is beyond the range of f32; write \
                                                                             inf or -inf if that is meant",
        ),
        (
            in_func("%y: i8[1] = constant() {value = dense<i8[1]: 128>}"),
            "2:48: expected an integer within the range of i8, \
                                                                       found `128`",
        ),
        (
            in_func("%y: f32[] = constant() {value = dense<f32[]: 0x7FC0>}"),
            "2:48: expected 8 hexadecimal digits for f32, \
                                                                         found `0x7FC0`",
        ),
        (
            in_func("%y: f32[] = constant() {value = dense<f32[1000000000000]: 0.5 ...>}"),
            "2:41: tensors filled with one element take more than 268435456 bytes in this text; use a scalar and \
          `broadcast_in_dim`",
        ),
        (
            in_func("%y: f32[9] = reshape(%x) {shape = [4294967296, 4294967296]}"),
            "2:16: reshape (C2): cannot reshape f32[2] with \
             2 elements to f32[4294967296,4294967296] with 18446744073709551615",
        ),
        (
            in_func(
                "%y: f32[9] = broadcast_in_dim(%x) {shape = [4294967296, 4294967296, 2], broadcast_dimensions = [2]}",
            ),
            "2:16: broadcast_in_dim (I0): the result f32[4294967296,4294967296,2] is larger than any memory",
        ),
        (
            in_func("%y: f32[2] = remat() ({\n %z: f32[2] = tanh(%x)\n return %z\n })\n %w: f32[2] = tanh(%z)"),
            "6:20: `%z` is not defined before and around here",
        ),
        (in_func("%y: f32[2] = tanh(%x) loc(3)"), "2:29: expected a scope, a file or `unknown`, found `3`"),
        (in_func("& %y: f32[2] = tanh(%x)"), "2:3: '&' has no meaning here"),
        (in_func(&"remat() ({\n".repeat(200)), "130:10: regions are nested more than 128 deep"),
    ];
    for (text, expected) in cases {
        let error = parse("t", &text).expect_err(expected);
        assert_eq!(format!("{}:{}: {}", error.line, error.column, error.message), expected, "in\n{text}");
    }
}

#[test]
fn errors_are_rendered() {
    let text = "func @f(%0: f32[2,3], %1: f32[3]) -> () {\n\t%2: f32[2,3] = add(%0, %1) loc(\"model\" \"m.rs\":7)\n  return\n}";
    let error = parse("a/b.lmir", text).expect_err("the types differ");
    let expected = "\
error: add (C1): the operands must have the same type, found f32[2,3] and f32[3]
  --> a/b.lmir:2:17
   |
 2 |  %2: f32[2,3] = add(%0, %1) loc(\"model\" \"m.rs\":7)
   |                 ^^^
note: made at m.rs:7 in model";
    assert_eq!(error.to_string(), expected);
    let context = error.type_error.expect("a type rule refused").context;
    assert_eq!(*context, ["add(%0: f32[2,3], %1: f32[3])"]);
    // A long line is cut.
    let long = in_func(&format!("%y: i1[9] = constant() {{value = dense<i1[9]: {}maybe>}}", "true, ".repeat(10_000)));
    let error = parse("t", &long).expect_err("no element");
    assert_eq!(error.column, 60_048);
    assert_eq!(error.source_line.chars().nth(error.source_column - 1), Some('m'));
    assert!(error.source_line.len() <= 200);
}

#[test]
fn many_functions() {
    let text = "// first\n\nfunc @a() -> () {\n return\n}\nfunc @b() -> () { // two\n return }\n";
    let found = parse_all("t", text).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<(&str, u32)> = found.iter().map(|Parsed { func, line }| (func.name.as_str(), *line)).collect();
    assert_eq!(found, [("a", 3), ("b", 6)]);
    assert_eq!(parse_all("t", " // nothing\n").map(|found| found.len()), Ok(0));
    let broken = "junk\nfunc @a() -> () {\n  return %0\n}\nfunc @b() -> () {\n  return\n}\nfunc @c() ->\nfunc @d() -> () {\n return\n}";
    let found: Vec<String> = parse_each("t", broken)
        .into_iter()
        .map(|(line, func)| match func {
            Ok(func) => format!("{line} @{}", func.name),
            Err(error) => format!("{line} error at {}:{}", error.line, error.column),
        })
        .collect();
    assert_eq!(found, ["1 error at 1:1", "2 error at 3:10", "5 @b", "8 error at 9:1", "9 @d"]);
}

/// A function from a list of choices: each adds a node that uses values which are there.
fn random_func(choices: &[(u8, u8, u8)]) -> Func {
    Builder::build("random", |b| {
        let x = b.param("x", f32s(&[2, 3]));
        let y = b.param("y", TensorType::new(DType::BF16, [2, 3]));
        let mut values = vec![x, y];
        for &(kind, first, second) in choices {
            let pick = |n: u8| values[usize::from(n) % values.len()];
            let (x, y) = (pick(first), pick(second));
            let float = |value: crate::Value<'_>| value.dtype() == DType::F32;
            values.push(match kind % 8 {
                0 => x.convert(DType::F32).add(y.convert(DType::F32)),
                1 => b.scope(&format!("s{second}"), || x.tanh()),
                2 => x.transpose(&[1, 0]).reshape(&[2, 3]),
                3 => b.remat(|| vec![x.exp(), y])[usize::from(first % 2)],
                4 => {
                    let (x, y) = (x.convert(DType::F32), y.convert(DType::F32));
                    let scanned = b.scan(&[x, y], &[y], 2, |carries, xs| {
                        let sum = carries[0].sum(&[0]) + xs[0];
                        (vec![carries[usize::from(first % 2)].cosine(), carries[1]], vec![sum])
                    });
                    if second % 2 == 0 { scanned.carries[usize::from(second / 2 % 2)] } else { scanned.stacked[0] }
                }
                5 => {
                    let pred = x.sum(&[0, 1]).is_finite();
                    b.if_else(pred, || vec![x.sine()], || vec![if float(x) == float(y) { y } else { x }])[0]
                }
                6 => b.constant(Literal::new([2, 3], &[f32::from(first), 0.1, f32::from(second), 1.0, -2.5, f32::NAN])),
                _ => b.full(&x.ty(), f64::from(second) / 7.0),
            });
        }
        // One result, so that some nodes are dead.
        values.split_off(values.len() - 1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_functions_round_trip(choices in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..20)) {
        let func = random_func(&choices);
        prop_assert!(verify(&func).is_ok());
        round_trip(&func);
        let slim = dce(&func);
        round_trip(&slim);
        // Nothing more is dead, and ids are dense and in the order of the text.
        let again = dce(&slim);
        prop_assert_eq!(print(&again), print(&slim));
        prop_assert_eq!(again.values().count(), slim.values().count());
        // It means the same.
        let args = func.param_types().into_iter().map(|ty| Literal::from_f64s(ty, &[0.5, -1.0, 2.0, 0.25, 3.0, -0.125]));
        let args: Vec<Literal> = args.collect();
        prop_assert_eq!(eval(&slim, &args), eval(&func, &args));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "(?s).*") {
        let _ = parse_each("t", &text);
    }

    #[test]
    fn arbitrary_tokens_do_not_panic(indices in proptest::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        const TOKENS: [&str; 36] = [
            "func", "@f", "%0", "%1", ":", "f32[2]", "i64[]", "(", ")", "->", "{", "}", "return", "=", "add", "scan", ",",
            "value", "constant", "dense", "<", ">", "...", "[", "]", "0", "-1", "1.5", "0x7F", "nan", "\"s\"", "loc", "^",
            "donated", "while", "iota",
        ];
        let tokens: Vec<&str> = indices.iter().map(|index| TOKENS[index.index(TOKENS.len())]).collect();
        let _ = parse_each("t", &format!("func @f(%0: f32[2]) -> () {{ {}", tokens.join(" ")));
        let _ = parse_each("t", &tokens.join(" "));
    }

    #[test]
    fn mutated_text_does_not_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..40), 1..6),
    ) {
        let mut text = print(&every_op());
        for (at, from, length) in cuts {
            // A piece of the text is put somewhere else, and as many characters there are lost. It is all ASCII.
            let (at, from) = (at.index(text.len()), from.index(text.len()));
            let piece = text[from..(from + length).min(text.len())].to_string();
            let end = (at + length / 2).min(text.len());
            text.replace_range(at..end, &piece);
        }
        for (_, func) in parse_each("t", &text) {
            if let Ok(func) = func && verify(&func).is_ok() {
                round_trip(&func);
                round_trip(&dce(&func));
            }
        }
    }

    #[test]
    fn names_round_trip(names in proptest::array::uniform4(".{0,6}"), line in any::<u32>()) {
        let [name, param, scope, file] = names;
        let mut func = Func::new(&name);
        let x = func.add_param(&param, f32s(&[]));
        let location = Location { scope: Arc::from(scope), file: Arc::from(file), line };
        let node = func.push(func.body(), Op::StopGradient, &[x], &[], location.clone());
        prop_assert!(node.is_ok());
        func.set_results(func.body(), vec![x]);
        let parsed = parse("t", &print(&func));
        let parsed = parsed.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&parsed.name, &name);
        prop_assert_eq!(&parsed.params[0].name, &param);
        let node = parsed.region(RegionId::new(0)).nodes[0];
        prop_assert_eq!(&parsed.node(node).location, &location);
        prop_assert_eq!(parsed.result_values(), [ValueId::new(0)]);
    }
}
