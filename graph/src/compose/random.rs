//! Random numbers as a function of a key.
//!
//! A key is a state of `THREE_FRY`, `ui64[2]`: key and counter. It is a value like any other, so that a function gets
//! its randomness through a parameter. Draw from a key once only, and derive further ones by [`Value::fold_in`]: from
//! the step, then from whatever tells apart what draws.

use crate::builder::{Builder, Value};
use crate::dtype::{DType, TensorType};
use crate::literal::Literal;
use crate::ops::RngAlgorithm;

/// Parts the keys that [`Value::fold_in`] derives from the bits that are drawn: 2^64 divided by the golden ratio.
const FOLD: u64 = 0x9E37_79B9_7F4A_7C15;

impl<'g> Builder<'g> {
    /// The key of a seed, an integer scalar that is converted to `ui64`.
    ///
    /// # Panics
    /// If `seed` is not an integer scalar.
    #[track_caller]
    pub fn rng_key(self, seed: Value<'g>) -> Value<'g> {
        let words = [word(seed), self.constant(Literal::new([1], &[0_u64]))];
        self.concatenate(&words, 0)
    }
}

/// An integer scalar as `ui64[1]`.
#[track_caller]
fn word<'g>(x: Value<'g>) -> Value<'g> {
    let ty = x.ty();
    assert!(ty.rank() == 0 && ty.dtype.is_int(), "expected an integer scalar, found {ty}");
    x.convert(DType::U64).reshape(&[1])
}

impl<'g> Value<'g> {
    /// With `self` as the key: the key of `data`, an integer scalar. Different data give keys that have nothing to do
    /// with each other or with what is drawn from `self`.
    ///
    /// # Panics
    /// If `self` is not a key or `data` is not an integer scalar.
    #[track_caller]
    pub fn fold_in(self, data: Value<'g>) -> Value<'g> {
        let b = self.builder();
        let (key, counter) = (self.slice_dim(0, 0..1), self.slice_dim(0, 1..2));
        let state = [key.xor(b.constant(Literal::new([1], &[FOLD]))), word(data)];
        let bits = TensorType::new(DType::U64, [1]);
        let (_, key) = b.concatenate(&state, 0).rng_bit_generator(RngAlgorithm::ThreeFry, bits);
        b.concatenate(&[key, counter], 0)
    }

    /// With `self` as the key: numbers evenly distributed over `[0, 1)`, multiples of `2^-b` with as many bits `b` as
    /// the fraction of the element type tells apart (24 for f32).
    ///
    /// # Panics
    /// If `self` is not a key or `ty` is not of floats.
    #[track_caller]
    pub fn uniform(self, ty: &TensorType) -> Value<'g> {
        // The bits of the fraction, with the implicit one.
        let precision = match ty.dtype {
            DType::BF16 => 8,
            DType::F16 => 11,
            DType::F32 => 24,
            DType::F64 => 53,
            DType::Bool
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => panic!("uniform numbers are floats, found {ty}"),
        };
        let bits = ty.with_dtype(if ty.dtype == DType::F64 { DType::U64 } else { DType::U32 });
        let width = bits.dtype.bits() as u32;
        let (_, bits) = self.rng_bit_generator(RngAlgorithm::ThreeFry, bits);
        let bits = bits.shift_right_logical(bits.full_like(f64::from(width - precision)));
        bits.convert(ty.dtype) * 0.5_f64.powi(precision as i32)
    }

    /// With `self` as the key: numbers of the normal distribution with mean 0 and variance 1, computed in f32 for bf16
    /// and f16. (Box and Muller 1958.) No f32 is beyond 5.8, the tail that 24 bits reach.
    ///
    /// # Panics
    /// If `self` is not a key or `ty` is not of floats.
    #[track_caller]
    pub fn normal(self, ty: &TensorType) -> Value<'g> {
        assert!(ty.dtype.is_float(), "normal numbers are floats, found {ty}");
        let dtype = if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let num_elements = ty.num_elements();
        let pairs = num_elements.div_ceil(2);
        let uniform = self.uniform(&TensorType::new(dtype, [2, pairs]));
        let (u, v) = (uniform.slice_dim(0, 0..1), uniform.slice_dim(0, 1..2));
        // `1 - u` is above 0, where the logarithm is finite.
        let radius = ((-u + 1.0).log() * -2.0).sqrt();
        let angle = v * std::f64::consts::TAU;
        let numbers = self.builder().concatenate(&[radius * angle.cosine(), radius * angle.sine()], 0);
        numbers.reshape(&[2 * pairs]).slice_dim(0, 0..num_elements).reshape(&ty.shape).convert(ty.dtype)
    }

    /// With `self` as logits: indices along the last dimension, as `i32`, each drawn with the probability
    /// `softmax(self)`. A logit of -∞ is never drawn beside a finite one.
    ///
    /// The index of the greatest logit plus Gumbel noise has this distribution. (Maddison et al. 2014, section 2.)
    ///
    /// # Panics
    /// If `self` is a scalar or not of floats, or `key` is not a key.
    #[track_caller]
    pub fn categorical(self, key: Value<'g>) -> Value<'g> {
        let ty = self.ty();
        assert!(ty.rank() > 0 && ty.dtype.is_float(), "logits are floats with a dimension, found {ty}");
        let logits = self.convert(if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 });
        // Noise of -∞ where the number is 0: once in 2^24, and harmless, unlike the ∞ that a 1 would give.
        let noise = -(-key.uniform(&logits.ty()).log()).log();
        (logits + noise).argmax(ty.rank() - 1, DType::I32)
    }
}
