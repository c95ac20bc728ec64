//! Small programs whose memory is known by counting.

use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_graph::{Builder, DType, Func, TensorType};
use lmc_lower::{Platform, Target, lower};

use super::*;

const CPU: Platform = Platform::Cpu;

/// What a function is estimated to need beside its arguments and results, in bytes.
fn temporaries(func: &Func, platform: Platform) -> u64 {
    let target = match platform {
        Platform::Cpu => Target::cpu(None),
        Platform::Generic | Platform::Cuda(_) => Target::generic(),
    };
    estimate(&lower(func, &target).text, &Rules::of(platform)).expect("lmc's own text").temporaries
}

fn matrix(rows: usize, columns: usize) -> TensorType {
    TensorType::new(DType::F32, [rows, columns])
}

/// Bytes of an f32 matrix of 64 x 64.
const SQUARE: u64 = 4 * 64 * 64;

#[test]
fn what_is_fused_takes_nothing() {
    let func = Builder::build("f", |b| {
        let x = b.param("x", matrix(64, 64));
        vec![(x * 2.0 + 1.0).tanh() * x]
    });
    assert_eq!(temporaries(&func, CPU), 0);
}

#[test]
fn operands_of_products_are_written() {
    let func = Builder::build("f", |b| {
        let (x, w) = (b.param("x", matrix(64, 64)), b.param("w", matrix(64, 64)));
        // The sum before the product, and the product, of which the result is made.
        vec![(x + w).dot(w) + 1.0]
    });
    assert_eq!(temporaries(&func, CPU), 2 * SQUARE);
}

#[test]
fn equal_ops_are_one_and_what_nothing_reads_is_none() {
    let func = Builder::build("f", |b| {
        let (x, w) = (b.param("x", matrix(64, 64)), b.param("w", matrix(64, 64)));
        let (once, again) = (x.dot(w), x.dot(w));
        _ = w.dot(x);
        vec![once + again]
    });
    assert_eq!(temporaries(&func, CPU), SQUARE);
}

#[test]
fn a_products_bfloat16_is_float32_on_the_cpu() {
    let half = TensorType::new(DType::BF16, [64, 64]);
    let func = Builder::build("f", |b| {
        let (x, w) = (b.param("x", half.clone()), b.param("w", half.clone()));
        vec![x.dot(w)]
    });
    // Both operands and the result.
    assert_eq!(temporaries(&func, CPU), 3 * SQUARE);
    assert_eq!(temporaries(&func, Platform::Generic), 0);
}

#[test]
fn a_loops_invariants_are_computed_before_it_and_kept() {
    let func = Builder::build("f", |b| {
        let (x, w) = (b.param("x", matrix(64, 64)), b.param("w", matrix(64, 64)));
        // The product of weights does not depend on the iteration; what goes round takes the result's place.
        let scanned = b.scan(&[x], &[], 3, |carry, _| (vec![carry[0].dot(w.dot(w))], vec![]));
        vec![scanned.carries[0] + w]
    });
    // The product before the loop, what goes round, and the product in the loop; and the loop's counter, as it goes round
    // and as it is next.
    assert_eq!(temporaries(&func, CPU), 3 * SQUARE + 2 * 4);
}

/// What a function is estimated to need for an H200 beside its arguments and results, in bytes.
fn on_a_gpu(func: &Func) -> u64 {
    let target = Target::named("h200").expect("there is one");
    estimate(&lower(func, &target).text, &Rules::of(target.platform)).expect("lmc's own text").temporaries
}

#[test]
fn attention_by_cudnn_takes_its_workspace_and_no_scores() {
    let (b, t, n, k, h) = (2_u64, 256_u64, 4_u64, 2_u64, 64_u64);
    let func = Builder::build("f", |builder| {
        let x = |name: &str, heads: u64| {
            let shape = [b, t, heads, h].map(|size| size as usize);
            builder.param(name, TensorType::new(DType::BF16, shape))
        };
        let op = ScaledDotProductAttention {
            scale: 0.125,
            mask: AttentionMask::Causal,
            sliding_window: None,
            rows: AttentionRows::Whole,
        };
        let (output, _) = x("query", n).scaled_dot_product_attention(x("key", k), x("value", k), op);
        vec![output.convert(DType::F32).square().sum(&[0, 1, 2, 3])]
    });
    let grad = lmc_autodiff::grad(&func, &[0, 1, 2]).expect("attention has a derivative");
    // At the derivative: the output, its cotangent, one number a row; and in the workspace sums of the query's gradient, one
    // number a row again, and the gradients of key and value for each query head.
    let output = 2 * b * t * n * h;
    let workspace = 4 * b * t * n * (h + 1) + 2 * b * t * n * 2 * h;
    assert_eq!(on_a_gpu(&grad), 2 * output + 4 * b * n * t + workspace);
}

/// Every place for a document has a workspace, and a log-sum-exp, as a row of its own would have them.
#[test]
fn attention_within_documents_takes_a_workspace_for_each_place() {
    let (b, t, n, h) = (2, 256, 4, 64);
    let of_places = |places: usize| {
        let func = Builder::build("f", |builder| {
            let x = |name: &str| builder.param(name, TensorType::new(DType::BF16, [b, t, n, h]));
            let [query, key, value] = ["query", "key", "value"].map(x);
            let bounds = builder.param("bounds", TensorType::new(DType::I32, [b, places + 1]));
            let op = ScaledDotProductAttention {
                scale: 0.125,
                mask: AttentionMask::Causal,
                sliding_window: None,
                rows: AttentionRows::Packed,
            };
            let (output, _) = query.scaled_dot_product_attention_of(key, value, &[bounds], op);
            vec![output.convert(DType::F32).square().sum(&[0, 1, 2, 3])]
        });
        on_a_gpu(&lmc_autodiff::grad(&func, &[0, 1, 2]).expect("attention has a derivative"))
    };
    let each = (of_places(20) - of_places(10)) as f64 / 10.0;
    let expected = (4 * b * t * n * (h + 1) + 4 * b * t * n) as f64;
    // Beside them are lists of a few numbers for each place.
    assert!((1.0..1.01).contains(&(each / expected)), "{each} bytes a place, {expected} expected");
}

#[test]
fn what_a_program_is_given_and_gives_is_counted_once() {
    let func = Builder::build("f", |b| {
        let (x, y) = (b.param("x", matrix(64, 64)), b.param("y", matrix(64, 64)));
        b.donate(x, 0);
        vec![x + y, x * y]
    });
    let text = lower(&func, &Target::cpu(None)).text;
    let estimate = estimate(&text, &Rules::of(CPU)).expect("lmc's own text");
    assert_eq!((estimate.arguments, estimate.results, estimate.temporaries), (2 * SQUARE, SQUARE, 0));
    assert_eq!(estimate.peak(), 3 * SQUARE);
}

#[test]
fn buffers_tell_where_the_model_made_them() {
    let func = Builder::build("f", |b| {
        let (x, w) = (b.param("x", matrix(64, 64)), b.param("w", matrix(64, 64)));
        let y = b.scope("mlp", || b.scope("up", || x.dot(w)));
        vec![y.sum(&[0, 1])]
    });
    let estimate = estimate(&lower(&func, &Target::cpu(None)).text, &Rules::of(CPU)).expect("lmc's own text");
    let [buffer, ..] = &estimate.alive[..] else { panic!("nothing is alive") };
    assert_eq!((&*buffer.op, &*buffer.scope, buffer.bytes), ("dot_general", "mlp.up", SQUARE));
    assert!(buffer.line.starts_with("tools/src/plan/estimate/tests.rs:"), "{}", buffer.line);
    assert!(!buffer.of_arguments || buffer.bytes == SQUARE);
}

#[test]
fn other_texts_are_refused() {
    for (text, expected) in [
        ("module @m {}", "there is no function"),
        ("func.func public @main(%arg0: tensor<4xf32>) -> tensor<4xf32> {", "does not return"),
        ("func.func public @main(%arg0: tensor<4xwide>) -> tensor<4xf32> {", "cannot read `4xwide`"),
    ] {
        let error = estimate(text, &Rules::of(CPU)).expect_err("no program");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_behind_a_barrier_waits_for_all_that_goes_in() {
    fn block<'g>(x: lmc_graph::Value<'g>, w: lmc_graph::Value<'g>) -> lmc_graph::Value<'g> {
        (0..2).fold(x, |x, _| x + x.dot(w).tanh())
    }
    // Blocks on a residual stream, computed again in the backward pass; the gradients of their weights go round in a loop.
    let blocks = |count: usize| {
        let loss = Builder::build("loss", |b| {
            let mut x = b.param("x", matrix(64, 64));
            for _ in 0..count {
                let (before, w) = (x, b.param("w", matrix(64, 64)));
                x = b.remat(|| vec![block(before, w)])[0];
            }
            vec![x.square().sum(&[0, 1])]
        });
        let wrt: Vec<usize> = (1..=count).collect();
        let gradients = lmc_autodiff::grad(&loss, &wrt).expect("it has a derivative");
        on_a_gpu(&Builder::build("f", |b| {
            let xs = b.param("xs", TensorType::new(DType::F32, [3, 64, 64]));
            let weights: Vec<lmc_graph::Value<'_>> = (0..count).map(|_| b.param("w", matrix(64, 64))).collect();
            let zeros: Vec<lmc_graph::Value<'_>> = weights.iter().map(|w| w.full_like(0.0)).collect();
            let scanned = b.scan(&zeros, &[xs], 3, |sums, slices| {
                let terms = b.call(&gradients, &[slices, &weights[..]].concat());
                (sums.iter().zip(terms).map(|(&sum, term)| sum + term).collect(), vec![])
            });
            scanned.carries
        }))
    };
    // A block more has its sum, and keeps its input in one piece and nothing of its inside.
    assert_eq!(blocks(6) - blocks(5), 2 * SQUARE);
}

#[test]
fn gradients_of_weights_are_added_where_they_are_made() {
    // The program adds the terms of all weights to what goes round at the end of the loop's body.
    let blocks = |count: usize| {
        let func = Builder::build("f", |b| {
            let xs = b.param("xs", TensorType::new(DType::F32, [3, 64, 64]));
            let weights: Vec<lmc_graph::Value<'_>> = (0..count).map(|_| b.param("w", matrix(64, 64))).collect();
            let zeros: Vec<lmc_graph::Value<'_>> = weights.iter().map(|w| w.full_like(0.0)).collect();
            let scanned = b.scan(&zeros, &[xs], 3, |sums, slices| {
                let (mut y, mut terms) = (slices[0], Vec::new());
                for &w in &weights {
                    y = y.dot(w);
                    terms.push(y.dot(slices[0]));
                }
                (sums.iter().zip(terms).map(|(&sum, term)| sum + term).collect(), vec![])
            });
            scanned.carries
        });
        on_a_gpu(&func)
    };
    // What goes round, and no term beside it.
    assert_eq!(blocks(6) - blocks(5), SQUARE);
}

#[test]
fn loops_on_gpus_compute_anew_what_they_could_keep() {
    let func = Builder::build("f", |b| {
        let [x, v, w] = ["x", "v", "w"].map(|name| b.param(name, matrix(64, 64)));
        let scanned = b.scan(&[x], &[], 3, |carry, _| (vec![carry[0].dot(v.tanh()).dot(w.tanh())], vec![]));
        vec![scanned.carries[0] + w]
    });
    // What goes round, both operands that are made of weights, and both products; and the loop's counter twice.
    assert_eq!(temporaries(&func, CPU), 5 * SQUARE + 2 * 4);
    // One such operand at a time, what a product wants beside it, and the counter, which is written over.
    assert_eq!(on_a_gpu(&func), 4 * SQUARE + 4 + (4 << 20));
}

#[test]
fn rows_are_added_to_the_sum_that_their_gradient_is_added_to() {
    // An embedding that is read by row and as a whole, as one that is tied to the head; its gradient goes round in a loop.
    let embedding = |rows: usize| {
        let loss = Builder::build("loss", |b| {
            let (x, w) = (b.param("x", matrix(64, 64)), b.param("w", matrix(64, 64)));
            let ids = b.param("ids", TensorType::new(DType::I32, [rows]));
            let whole = x.dot(w).square().sum(&[0, 1]);
            vec![if rows > 0 { whole + w.take_rows(ids).square().sum(&[0, 1]) } else { whole }]
        });
        let gradient = lmc_autodiff::grad(&loss, &[1]).expect("it has a derivative");
        let func = Builder::build("f", |b| {
            let xs = b.param("xs", TensorType::new(DType::F32, [3, 64, 64]));
            let w = b.param("w", matrix(64, 64));
            let ids = b.param("ids", TensorType::new(DType::I32, [rows]));
            let scanned = b.scan(&[w.full_like(0.0)], &[xs], 3, |sums, slices| {
                let terms = b.call(&gradient, &[slices[0], w, ids]);
                (vec![sums[0] + terms[0]], vec![])
            });
            scanned.carries
        });
        [on_a_gpu(&func), temporaries(&func, CPU)]
    };
    // Two rows take no more than themselves, and not a second gradient of the whole.
    let (with, without) = (embedding(2), embedding(0));
    assert!(with.iter().zip(without).all(|(with, without)| *with < without + SQUARE / 2), "{with:?} and {without:?}");
}
