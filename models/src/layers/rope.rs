//! Rotary position embedding.

use lmc_graph::{Builder, DType, Literal, TensorType, Value};

/// The cosines and sines of a rotation by position, each f32 `[T, 1, H]`.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'g> {
    cos: Value<'g>,
    sin: Value<'g>,
}

impl<'g> Rope<'g> {
    /// The rotation for positions `0 .. length`: by `position / theta^(2i / head_dim)` radians for pair `i` (Su et al.
    /// 2021, section 3.2.2), in f32.
    ///
    /// # Panics
    /// If `head_dim` is odd or 0.
    #[track_caller]
    pub fn new(builder: Builder<'g>, length: usize, head_dim: usize, theta: f64) -> Rope<'g> {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary heads have an even size, found {head_dim}");
        let half = head_dim / 2;
        // In f32 from the exponent on, as Hugging Face's, so that the angles are the same.
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect();
        let shape = [length, 1, half];
        let frequencies = builder.constant(Literal::new([half], &frequencies)).broadcast_in_dim(&shape, &[2]);
        let angles = builder.iota(&TensorType::new(DType::F32, shape), 0) * frequencies;
        let angles = builder.concatenate(&[angles, angles], 2);
        Rope { cos: angles.cosine(), sin: angles.sine() }
    }
}

/// `x` rotated by position, `B T N H → B T N H`: element `i` of a head is paired with element `i + H / 2`, as in Hugging
/// Face's models (`rotate_half`). Computed in f32; the result has the type of `x`.
///
/// # Panics
/// If the length or the head size of `x` is not that of `rope`.
#[track_caller]
pub fn rotate<'g>(x: Value<'g>, rope: Rope<'g>) -> Value<'g> {
    let [_, _, _, h] = x.dims();
    let wide = x.convert(DType::F32);
    let (low, high) = (wide.slice_dim(3, 0..h / 2), wide.slice_dim(3, h / 2..h));
    let swapped = x.builder().concatenate(&[-high, low], 3);
    (wide * rope.cos + swapped * rope.sin).convert(x.dtype())
}
