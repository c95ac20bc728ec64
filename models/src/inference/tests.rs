//! Drawing against exact probabilities, and where keys lie in a cache.

use lmc_graph::{Builder, DType, Literal, TensorType, eval};

use super::sampling::Rows;
use super::{CacheShape, LIKELIEST};

const VOCAB: usize = 8;

/// Settings of a row that are tested, and what the row has seen.
#[derive(Clone, Copy)]
struct Case {
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    repetition: f32,
    presence: f32,
    frequency: f32,
    in_prompt: [bool; VOCAB],
    generated: [i32; VOCAB],
    bias: [f32; VOCAB],
}

const PLAIN: Case = Case {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition: 1.0,
    presence: 0.0,
    frequency: 0.0,
    in_prompt: [false; VOCAB],
    generated: [0; VOCAB],
    bias: [0.0; VOCAB],
};

/// Seen tokens, for the penalties.
const SEEN: Case = Case {
    in_prompt: [true, false, false, true, false, false, false, false],
    generated: [0, 2, 0, 1, 0, 0, 0, 3],
    ..PLAIN
};

const LOGITS: [f32; VOCAB] = [0.3, -0.5, 1.2, 0.9, -1.5, 0.1, 0.0, 1.1];

/// Tokens drawn for every row: of `(seed, position)`; and the log-probabilities of each row's token and likeliest tokens.
fn draw(case: &Case, rows: &[(u64, i32)]) -> (Vec<i32>, Vec<f32>, Vec<i32>, Vec<f32>) {
    let batch = rows.len();
    let func = Builder::build("draw", |b| {
        let numbers = |name| b.param(name, TensorType::new(DType::F32, [batch]));
        let table = |name, dtype| b.param(name, TensorType::new(dtype, [batch, VOCAB]));
        let rows = Rows {
            temperature: numbers("temperature"),
            top_k: b.param("top_k", TensorType::new(DType::I32, [batch])),
            top_p: numbers("top_p"),
            min_p: numbers("min_p"),
            repetition_penalty: numbers("repetition"),
            presence_penalty: numbers("presence"),
            frequency_penalty: numbers("frequency"),
            in_prompt: table("in_prompt", DType::Bool),
            generated: table("generated", DType::I32),
            bias: table("bias", DType::F32),
            seed: b.param("seed", TensorType::new(DType::U64, [batch])),
            position: b.param("position", TensorType::new(DType::I32, [batch])),
        };
        let logits = table("logits", DType::F32);
        let drawn = rows.draw(logits, b.constant(Literal::scalar(true)));
        vec![drawn.token, drawn.log_prob, drawn.likeliest, drawn.likeliest_log_probs]
    });
    let numbers = |x: f32| Literal::new([batch], &vec![x; batch]);
    let args = [
        numbers(case.temperature),
        Literal::new([batch], &vec![case.top_k; batch]),
        numbers(case.top_p),
        numbers(case.min_p),
        numbers(case.repetition),
        numbers(case.presence),
        numbers(case.frequency),
        Literal::new([batch, VOCAB], &case.in_prompt.repeat(batch)),
        Literal::new([batch, VOCAB], &case.generated.repeat(batch)),
        Literal::new([batch, VOCAB], &case.bias.repeat(batch)),
        Literal::new([batch], &rows.iter().map(|row| row.0).collect::<Vec<_>>()),
        Literal::new([batch], &rows.iter().map(|row| row.1).collect::<Vec<_>>()),
        Literal::new([batch, VOCAB], &LOGITS.repeat(batch)),
    ];
    let results = eval(&func, &args).expect("the arguments fit");
    (results[0].elements(), results[1].elements(), results[2].elements(), results[3].elements())
}

/// The logits with biases and penalties.
fn penalized(case: &Case) -> [f64; VOCAB] {
    std::array::from_fn(|i| {
        let mut logit = f64::from(LOGITS[i] + case.bias[i]);
        if case.in_prompt[i] || case.generated[i] > 0 {
            let penalty = f64::from(case.repetition);
            logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
        if case.generated[i] > 0 {
            logit -= f64::from(case.presence);
        }
        logit - f64::from(case.frequency) * f64::from(case.generated[i])
    })
}

/// The probability of each token, by sorting.
fn probabilities(case: &Case) -> [f64; VOCAB] {
    let weights = penalized(case).map(|logit| (logit / f64::from(case.temperature)).exp());
    let mut order: Vec<usize> = (0..VOCAB).collect();
    order.sort_by(|&i, &j| weights[j].total_cmp(&weights[i]));
    if case.top_k > 0 {
        order.truncate(case.top_k as usize);
    }
    let total: f64 = order.iter().map(|&i| weights[i]).sum();
    let mut before = 0.0;
    let mut kept = Vec::new();
    for i in order {
        if kept.is_empty() || before < f64::from(case.top_p) * total {
            kept.push(i);
        }
        before += weights[i];
    }
    let greatest = weights[kept[0]];
    kept.retain(|&i| weights[i] >= f64::from(case.min_p) * greatest);
    let total: f64 = kept.iter().map(|&i| weights[i]).sum();
    std::array::from_fn(|i| if kept.contains(&i) { weights[i] / total } else { 0.0 })
}

/// The value of chi-square that a true distribution exceeds once in 10,000 times, by degrees of freedom from 1.
const CRITICAL: [f64; VOCAB - 1] = [15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88];

fn check_distribution(what: &str, case: &Case, rows: &[(u64, i32)]) {
    let expected = probabilities(case);
    let tokens = draw(case, rows).0;
    let mut statistic = 0.0;
    for (token, &probability) in expected.iter().enumerate() {
        let found = tokens.iter().filter(|&&drawn| drawn == token as i32).count() as f64;
        let mean = probability * rows.len() as f64;
        if probability == 0.0 {
            assert!(found == 0.0, "{what}: {token} has probability 0 and was drawn {found} times");
        } else {
            statistic += (found - mean).powi(2) / mean;
        }
    }
    let possible = expected.iter().filter(|&&probability| probability > 0.0).count();
    let critical = possible.checked_sub(2).map_or(1e-9, |freedom| CRITICAL[freedom]);
    assert!(statistic < critical, "{what}: chi-square {statistic} of {possible} tokens, at most {critical}");
}

#[test]
fn tokens_have_their_probabilities() {
    // Rows of seeds, and rows of one seed at many positions.
    let seeds: Vec<(u64, i32)> = (0..4000).map(|i| (i, 17)).collect();
    let positions: Vec<(u64, i32)> = (0..4000).map(|i| (42, i)).collect();
    for (what, case) in [
        ("plain", PLAIN),
        ("temperature 0.5", Case { temperature: 0.5, ..PLAIN }),
        ("temperature 2", Case { temperature: 2.0, ..PLAIN }),
        ("top-k 3", Case { top_k: 3, ..PLAIN }),
        ("top-k 1", Case { top_k: 1, ..PLAIN }),
        ("top-k beyond", Case { top_k: 100, ..PLAIN }),
        ("top-p 0.6", Case { top_p: 0.6, ..PLAIN }),
        ("top-p 0.01", Case { top_p: 0.01, ..PLAIN }),
        ("top-k 4, top-p 0.7", Case { top_k: 4, top_p: 0.7, ..PLAIN }),
        ("min-p 0.3", Case { min_p: 0.3, ..PLAIN }),
        ("min-p 1", Case { min_p: 1.0, ..PLAIN }),
        ("repetition 2", Case { repetition: 2.0, ..SEEN }),
        ("repetition 0.5", Case { repetition: 0.5, ..SEEN }),
        ("presence 1.5", Case { presence: 1.5, ..SEEN }),
        ("frequency 0.7", Case { frequency: 0.7, ..SEEN }),
        ("bias", Case { bias: [0.0, 2.0, -100.0, 0.0, 1.0, 0.0, 0.0, -1.0], ..PLAIN }),
        (
            "all",
            Case {
                temperature: 0.8,
                top_k: 6,
                top_p: 0.9,
                min_p: 0.1,
                repetition: 1.3,
                presence: 0.2,
                frequency: 0.1,
                ..SEEN
            },
        ),
    ] {
        check_distribution(what, &case, &seeds);
        check_distribution(&format!("{what}, by position"), &case, &positions);
    }
}

#[test]
fn without_chance_the_likeliest_is_taken() {
    let rows = [(0, 1), (1, 2), (2, 3)];
    let check =
        |case: Case, expected: i32| assert_eq!(draw(&Case { temperature: 0.0, ..case }, &rows).0, [expected; 3]);
    check(PLAIN, 2);
    check(Case { top_k: 3, top_p: 0.5, min_p: 0.5, ..PLAIN }, 2);
    check(Case { bias: [0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0], ..PLAIN }, 7);
    check(Case { frequency: 1.0, bias: [0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0], ..SEEN }, 0);
}

#[test]
fn log_probabilities_are_told() {
    let case = Case { repetition: 1.5, presence: 0.5, ..SEEN };
    let rows: Vec<(u64, i32)> = (0..20).map(|i| (i, 0)).collect();
    let (tokens, found, likeliest, likeliest_log_probs) = draw(&case, &rows);
    let logits = penalized(&case);
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    let expected = |token: i32| logits[token as usize] - sum.ln();
    for (&token, &found) in tokens.iter().zip(&found) {
        assert!((f64::from(found) - expected(token)).abs() < 1e-5);
    }
    let width = LIKELIEST.min(VOCAB);
    assert_eq!(likeliest.len(), 20 * width);
    let mut order: Vec<i32> = (0..VOCAB as i32).collect();
    order.sort_by(|&i, &j| logits[j as usize].total_cmp(&logits[i as usize]));
    // Of tokens that are as likely in f32 either may come first.
    for (&found, &expected) in likeliest[..width].iter().zip(&order) {
        assert!((logits[found as usize] - logits[expected as usize]).abs() < 1e-6, "{found} for {expected}");
    }
    let mut all = likeliest[..width].to_vec();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), width);
    for (&token, &found) in likeliest.iter().zip(&likeliest_log_probs) {
        assert!((f64::from(found) - expected(token)).abs() < 1e-5);
    }
}

#[test]
fn a_ring_keeps_what_a_window_needs() {
    let shape = |context, chunk| CacheShape { slots: 1, context, chunk, dtype: DType::F32 };
    for (context, chunk, window, expected) in [
        (100, 16, None, 112),
        (100, 16, Some(8), 32),
        (100, 16, Some(1), 16),
        (100, 16, Some(17), 32),
        (100, 16, Some(18), 48),
        (100, 16, Some(4096), 112),
        (4096, 512, Some(512), 1024),
    ] {
        let rows = shape(context, chunk).rows(window);
        assert_eq!(rows, expected, "{context}, {chunk}, {window:?}");
        assert!(rows.is_multiple_of(chunk));
    }
}
