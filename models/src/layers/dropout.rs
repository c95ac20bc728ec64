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
