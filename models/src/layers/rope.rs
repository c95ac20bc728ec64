//! Rotary position embedding.

use lmc_graph::{Builder, DType, Literal, TensorType, Value};

/// How positions become angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies: pair `i` of a head turns by `theta^(-2i / head_dim)` radians a position.
    pub theta: f64,
    /// How the frequencies are changed for longer texts.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies, by which a model takes longer texts than it was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies are divided by `factor` (Chen et al. 2023, section 2.3).
    Linear {
        /// The quotient of the lengths.
        factor: f64,
    },
    /// Llama 3.1's: frequencies of wavelengths above `original / low_freq_factor` are divided by `factor`, those below
    /// `original / high_freq_factor` stay, and between them it is interpolated.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// The quotient of the first length and the wavelength above which frequencies are low.
        low_freq_factor: f64,
        /// The quotient of the first length and the wavelength below which frequencies are high.
        high_freq_factor: f64,
        /// The first length, `original_max_position_embeddings`.
        original: usize,
    },
    /// YaRN (Peng et al. 2023, section 3): pairs that turn more than `beta_fast` times in the first length keep their
    /// frequency, that of those that turn less than `beta_slow` times is divided by `factor`, and between them it is
    /// interpolated by the pair's number. Cosines and sines are multiplied by `attention_factor`.
    Yarn {
        /// The quotient of the lengths.
        factor: f64,
        /// The first length, `original_max_position_embeddings`.
        original: usize,
        /// Turns in the first length from which on frequencies stay.
        beta_fast: f64,
        /// Turns in the first length up to which they are divided.
        beta_slow: f64,
        /// What keys and queries are multiplied by.
        attention_factor: f64,
        /// Whether the pairs at which interpolation begins and ends are whole numbers.
        truncate: bool,
    },
}

impl RopeScaling {
    /// `attention_factor` where a config does not say: `0.1 ln factor + 1`.
    pub fn yarn_attention_factor(factor: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
    }
}

impl RopeConfig {
    /// Unscaled frequencies of this base.
    pub fn new(theta: f64) -> RopeConfig {
        RopeConfig { theta, scaling: RopeScaling::None }
    }

    /// The radians a position of the `head_dim / 2` pairs, in f32 from the exponent on, as Hugging Face's, so that the
    /// angles are the same.
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = |i: usize| 1.0 / (self.theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let scaled = |i: usize, frequency: f32| match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let last = head_dim as f64 - 1.0;
                let pair = |turns: f64| {
                    head_dim as f64 * (original as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(last));
                let high = if low == high { high + 0.001 } else { high };
                let divided = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let interpolated = 1.0 / (factor as f32 * (self.theta as f32).powf((2 * i) as f32 / head_dim as f32));
                interpolated * divided + frequency * (1.0 - divided)
            }
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original } => {
                let wavelength = std::f32::consts::TAU / frequency;
                let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
                if wavelength > original / low {
                    frequency / factor
                } else if wavelength < original / high {
                    frequency
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        };
        (0..head_dim / 2).map(|i| scaled(i, plain(i))).collect()
    }
}

/// The cosines and sines of a rotation by position, each f32 `[T, 1, 1, H / 2]`, or `[B, T, 1, 1, H / 2]` where rows differ.
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
    pub fn new(builder: Builder<'g>, length: usize, head_dim: usize, config: &RopeConfig) -> Rope<'g> {
        let shape = [length, 1, 1, head_dim / 2];
        Rope::of(builder, &shape, head_dim, config, || builder.iota(&TensorType::new(DType::F32, shape), 0))
    }

    /// The rotation for these positions, `i32 B T`.
    ///
    /// # Panics
    /// If `head_dim` is odd or 0.
    #[track_caller]
    pub fn at(positions: Value<'g>, head_dim: usize, config: &RopeConfig) -> Rope<'g> {
        let [b, t] = positions.dims();
        let shape = [b, t, 1, 1, head_dim / 2];
        let spread = || positions.convert(DType::F32).broadcast_in_dim(&shape, &[0, 1]);
        Rope::of(positions.builder(), &shape, head_dim, config, spread)
    }

    /// The rotation for positions of `shape`, whose last size is that of the frequencies.
    #[track_caller]
    fn of(
        builder: Builder<'g>,
        shape: &[usize],
        head_dim: usize,
        config: &RopeConfig,
        positions: impl FnOnce() -> Value<'g>,
    ) -> Rope<'g> {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary heads have an even size, found {head_dim}");
        let last = shape.len() - 1;
        let frequencies = builder.constant(Literal::new([head_dim / 2], &config.frequencies(head_dim)));
        let frequencies = frequencies.broadcast_in_dim(shape, &[last]);
        let angles = positions() * frequencies;
        let (cos, sin) = (angles.cosine(), angles.sine());
        match config.scaling {
            RopeScaling::Yarn { attention_factor, .. } => {
                Rope { cos: cos * attention_factor, sin: sin * attention_factor }
            }
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => Rope { cos, sin },
        }
    }
}

/// `x` rotated by position, `B T N H → B T N H`: element `i` of a head is paired with element `i + H / 2`, as in Hugging
/// Face's models (`rotate_half`). Computed in f32; the result has the type of `x`.
///
/// Heads are taken as their two halves, which change places by a `reverse`: unlike a `concatenate` of the halves, that is
/// part of the same loop as the rest.
///
/// # Panics
/// If the length or the head size of `x` is not that of `rope`.
#[track_caller]
pub fn rotate<'g>(x: Value<'g>, rope: Rope<'g>) -> Value<'g> {
    let [b, t, n, h] = x.dims();
    let halves = x.reshape(&[b, t, n, 2, h / 2]).convert(DType::F32);
    // (low, high) becomes (low cos - high sin, high cos + low sin).
    let signs = x.builder().constant(Literal::new([2, 1], &[-1.0_f32, 1.0]));
    let rotated = halves * rope.cos + halves.reverse(&[3]) * (rope.sin * signs);
    rotated.convert(x.dtype()).reshape(&[b, t, n, h])
}
