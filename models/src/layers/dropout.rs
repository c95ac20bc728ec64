//! Dropout.

use lmc_graph::ops::RngAlgorithm;
use lmc_graph::{DType, Value};

use crate::scope::Scope;

/// `x` with a share of `rate` of its elements, drawn in the place `name`, set to 0, and the others divided by
/// `1 - rate`, so that the mean stays (Srivastava et al. 2014, section 10). `x` itself where the scope has no key, as in
/// evaluation, or the rate is 0.
///
/// The mask is a function of the scope's key and the place: the backward pass, and one that computes a block again, has
/// the one of the forward pass.
///
/// # Panics
/// If `rate` is not from 0 to below 1.
#[track_caller]
pub fn dropout<'g>(scope: &Scope<'g>, name: &str, x: Value<'g>, rate: f64) -> Value<'g> {
    assert!((0.0..1.0).contains(&rate), "a rate of dropout is at least 0 and below 1, found {rate}");
    if rate == 0.0 {
        return x;
    }
    scope.sub(name, |inner| {
        let Some(key) = scope.key(name) else { return x };
        let (_, bits) = key.rng_bit_generator(RngAlgorithm::ThreeFry, x.ty().with_dtype(DType::U32));
        // Of the 2^32 numbers, as many as are kept; a rate below 2^-32 still drops one of them.
        let threshold = ((1.0 - rate) * 2f64.powi(32)).round().min(f64::from(u32::MAX));
        let kept = bits.less(inner.builder().scalar(DType::U32, threshold).broadcast_in_dim(&x.shape(), &[]));
        let scaled = (x.convert(DType::F32) * (1.0 / (1.0 - rate))).convert(x.dtype());
        kept.select(scaled, x.full_like(0.0))
    })
}

#[cfg(test)]
mod tests {
    use lmc_autodiff::value_and_grad;
    use lmc_graph::{Builder, Func, Literal, TensorType, eval};

    use super::*;
    use crate::compute::Precision;
    use crate::layers::{Attention, causal_attention, causal_attention_with_dropout};

    /// The sum of the squares of `x` after dropout, and what is left of it.
    fn func(count: usize, rate: f64) -> Func {
        Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [count]));
            let key = b.param("key", TensorType::new(DType::U64, [2]));
            let scope = Scope::new(b, Precision::Float32).with_key(key);
            let y = scope.sub("block", |scope| dropout(scope, "drop", x, rate));
            vec![(y * y).sum(&[0]), y]
        })
    }

    fn run(func: &Func, x: &[f32], seed: u64) -> Vec<Vec<f64>> {
        let args = [Literal::new([x.len()], x), Literal::new([2], &[seed, 0])];
        eval(func, &args).expect("the arguments fit").iter().map(Literal::to_f64s).collect()
    }

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        const COUNT: usize = 10_000;
        for (rate, seed) in [(0.1, 1), (0.5, 2), (0.9, 3), (0.5, 4)] {
            let y = &run(&func(COUNT, rate), &[1.0; COUNT], seed)[1];
            let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / COUNT as f64;
            // Four standard deviations of a share of so many draws.
            let deviation = 4.0 * (rate * (1.0 - rate) / COUNT as f64).sqrt();
            assert!((dropped - rate).abs() < deviation, "{dropped} of {rate}");
            assert!(y.iter().all(|&y| y == 0.0 || (y - 1.0 / (1.0 - rate)).abs() < 1e-5), "the rest is scaled");
        }
        let masks = [1, 2, 1].map(|seed| run(&func(COUNT, 0.5), &[1.0; COUNT], seed).remove(1));
        assert!(masks[0] == masks[2] && masks[0] != masks[1], "the key decides");
        // Two masks that have nothing to do with each other agree on half of the elements, give or take.
        let equal = masks[0].iter().zip(&masks[1]).filter(|(x, y)| x == y).count() as f64 / COUNT as f64;
        assert!((equal - 0.5).abs() < 0.02, "{equal}");
    }

    #[test]
    fn the_backward_pass_has_the_mask_of_the_forward_pass() {
        let func = value_and_grad(&func(64, 0.3), &[0]).expect("dropout has a derivative");
        let x: Vec<f32> = (1..=64).map(|i| i as f32).collect();
        let found = run(&func, &x, 5);
        let (y, gradient) = (&found[1], &found[2]);
        assert!(y.contains(&0.0) && y.iter().any(|&y| y != 0.0));
        for (y, gradient) in y.iter().zip(gradient) {
            // The derivative of (s x)² is 2 s (s x).
            let expected = 2.0 * y / 0.7;
            assert!((gradient - expected).abs() <= 1e-5 * expected, "{gradient}, not {expected}");
        }
    }

    #[test]
    fn nothing_is_drawn_without_a_key_or_a_rate() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [3]));
            let scope = Scope::new(b, Precision::Float32);
            let key = b.constant(Literal::new([2], &[1_u64, 0]));
            vec![dropout(&scope, "drop", x, 0.5), dropout(&scope.with_key(key), "drop", x, 0.0)]
        });
        let x = func.param_values()[0];
        assert_eq!(func.result_values(), [x, x]);
    }

    /// Places, blocks and what is below them all have keys of their own.
    #[test]
    fn every_place_has_a_key_of_its_own() {
        let func = Builder::build("f", |b| {
            let scope = Scope::new(b, Precision::Float32).with_key(b.constant(Literal::new([2], &[1_u64, 0])));
            let mut keys: Vec<Option<Value<'_>>> = ["a", "b", "a.b"].map(|name| scope.key(name)).to_vec();
            let block =
                |number: f64| scope.key("a").map(|key| scope.with_key(key.fold_in(b.scalar(DType::I32, number))));
            keys.extend([0.0, 1.0].map(|number| block(number).and_then(|scope| scope.key("b"))));
            keys.into_iter().flatten().collect()
        });
        let keys = eval(&func, &[]).expect("there are no arguments");
        assert_eq!(keys.len(), 5);
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}");
        }
    }

    /// With a rate so low that nothing is dropped, attention that could drop is the other one.
    #[test]
    fn attention_with_dropout_is_attention() {
        let func = Builder::build("f", |b| {
            let param = |name, heads| b.param(name, TensorType::new(DType::F32, [2, 3, heads, 2]));
            let parts = [param("q", 4), param("k", 2), param("v", 2)];
            let scope = Scope::new(b, Precision::Float32).with_key(b.constant(Literal::new([2], &[1_u64, 0])));
            let drawn = |rate| causal_attention_with_dropout(&scope, "drop", parts, None, &Attention::new(2), rate);
            vec![causal_attention(parts[0], parts[1], parts[2], &Attention::new(2)), drawn(1e-12), drawn(0.5)]
        });
        let args: Vec<Literal> = (func.param_types().into_iter().enumerate())
            .map(|(i, ty)| {
                let numbers: Vec<f64> = (0..ty.num_elements()).map(|j| ((7 * j + 3 * i) % 11) as f64 / 5.0).collect();
                Literal::from_f64s(ty, &numbers)
            })
            .collect();
        let found: Vec<Vec<f64>> =
            eval(&func, &args).expect("the arguments fit").iter().map(Literal::to_f64s).collect();
        let far = |x: &[f64], y: &[f64]| x.iter().zip(y).any(|(x, y)| (x - y).abs() > 1e-5);
        assert!(!far(&found[0], &found[1]) && far(&found[0], &found[2]));
    }
}
