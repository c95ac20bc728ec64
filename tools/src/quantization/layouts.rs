//! What MLX, GPTQ and AWQ keep in safetensors, as [`QuantizedMatrix`]: the same codes and scales in another order.
//!
//! - MLX, `affine` (`mlx.core.quantize`): `weight` `[out, in * bits / 32]` in words of 32 bits, the first code lowest;
//!   `scales` and `biases` `[out, groups]`; an element is `scale * code + bias`.
//! - GPTQ (AutoGPTQ's kernels): `qweight` `[in / 8, out]` in words, the first row of eight lowest; `scales` `[groups, out]`;
//!   `qzeros` `[groups, out / 8]` in words, each zero stored one lower; `g_idx` `[in]`, the group of each input.
//! - AWQ (AutoAWQ's `gemm`): `qweight` `[in, out / 8]` and `qzeros` `[groups, out / 8]` in words whose halves of bytes are,
//!   from the lowest, outputs 0, 2, 4, 6, 1, 3, 5 and 7; `scales` `[groups, out]`.

use lmc_graph::DType;
use lmc_models::layers::{Codes, Offset, Quantization};

use super::QuantizedMatrix;

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// MLX's, of 4 or 8 bits.
    Mlx {
        /// Bits of a code.
        bits: u8,
    },
    /// GPTQ's of 4 bits.
    Gptq {
        /// What is added to a stored zero: 1, but 0 in `gptq_v2`.
        zero_offset: u8,
    },
    /// AWQ's of 4 bits.
    Awq,
}

/// The order of outputs in a word of AWQ's.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The tensors of a weight, row-major and little-endian.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    /// `weight` or `qweight`.
    pub codes: Vec<u8>,
    /// `scales`.
    pub scales: Vec<u8>,
    /// `biases` or `qzeros`.
    pub offsets: Vec<u8>,
    /// `g_idx`, if it is there.
    pub groups: Option<Vec<u8>>,
}

impl Layout {
    /// The shapes of codes, scales and offsets of a weight `[out, in]`.
    pub fn shapes(self, out: usize, input: usize, group_size: usize) -> [Vec<usize>; 3] {
        let groups = input / group_size;
        match self {
            Layout::Mlx { bits } => [vec![out, input * usize::from(bits) / 32], vec![out, groups], vec![out, groups]],
            Layout::Gptq { .. } => [vec![input / 8, out], vec![groups, out], vec![groups, out / 8]],
            Layout::Awq => [vec![input, out / 8], vec![groups, out], vec![groups, out / 8]],
        }
    }

    /// How such a weight is stored on the device; scales are of this type.
    pub fn quantization(self, group_size: usize, scales: DType) -> Quantization {
        let (codes, offset) = match self {
            Layout::Mlx { bits: 8 } => (Codes::U8, Offset::Biases(scales)),
            Layout::Mlx { .. } => (Codes::U4, Offset::Biases(scales)),
            Layout::Gptq { .. } | Layout::Awq => (Codes::U4, Offset::Zeros(DType::U8)),
        };
        Quantization { codes, group_size, scales, offset }
    }

    /// The weight `[rows, columns]` that tensors of [`Layout::shapes`] hold.
    ///
    /// # Errors
    /// If inputs are not in the order of their groups.
    pub fn matrix(
        self,
        tensors: Tensors,
        [rows, columns]: [usize; 2],
        quantization: Quantization,
    ) -> Result<QuantizedMatrix, String> {
        let Tensors { codes, scales, offsets, groups } = tensors;
        let group_size = quantization.group_size;
        if let Some(groups) = groups {
            let of = |(i, group): (usize, &[u8; 4])| u32::from_le_bytes(*group) as usize == i / group_size;
            if !groups.as_chunks::<4>().0.iter().enumerate().all(of) {
                let reason = "its inputs are not in the order of their groups (`desc_act`): that is not read";
                return Err(reason.to_owned());
            }
        }
        let num_groups = columns / group_size;
        let (size, width) = (quantization.scales.size(), rows / 8);
        let parts = match self {
            // A byte has the first of two codes in its low half in both.
            Layout::Mlx { .. } => vec![codes, scales, offsets],
            Layout::Gptq { zero_offset } => {
                let words = words(&codes);
                let code = |o: usize, i: usize| (words[i / 8 * rows + o] >> (i % 8 * 4)) as u8 & 15;
                let zeros = self::words(&offsets);
                let zero = |o: usize, g: usize| ((zeros[g * width + o / 8] >> (o % 8 * 4)) as u8 & 15) + zero_offset;
                vec![
                    packed(rows, columns, code),
                    transposed(&scales, rows, num_groups, size),
                    table(rows, num_groups, zero),
                ]
            }
            Layout::Awq => {
                let place = |o: usize| AWQ_ORDER.iter().position(|&at| at == o % 8).unwrap_or(0) * 4;
                let (words, zeros) = (words(&codes), words(&offsets));
                let code = |o: usize, i: usize| (words[i * width + o / 8] >> place(o)) as u8 & 15;
                let zero = |o: usize, g: usize| (zeros[g * width + o / 8] >> place(o)) as u8 & 15;
                vec![
                    packed(rows, columns, code),
                    transposed(&scales, rows, num_groups, size),
                    table(rows, num_groups, zero),
                ]
            }
        };
        Ok(QuantizedMatrix { quantization, rows, columns, parts })
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Two codes a byte, row-major.
fn packed(rows: usize, columns: usize, code: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let row = |o: usize| (0..columns / 2).map(move |i| (o, 2 * i));
    (0..rows).flat_map(row).map(|(o, i)| code(o, i) | (code(o, i + 1) << 4)).collect()
}

/// `[rows, groups]` of bytes.
fn table(rows: usize, groups: usize, element: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    (0..rows).flat_map(|o| (0..groups).map(move |g| (o, g))).map(|(o, g)| element(o, g)).collect()
}

/// `[rows, groups]` of `[groups, rows]`, elements of `size` bytes.
fn transposed(bytes: &[u8], rows: usize, groups: usize, size: usize) -> Vec<u8> {
    let places = (0..rows).flat_map(|o| (0..groups).map(move |g| g * rows + o));
    places.flat_map(|at| bytes[at * size..][..size].iter().copied()).collect()
}
