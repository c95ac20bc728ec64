//! The blocks that ggml stores rows in (`ggml-common.h`, `ggml-quants.c`), as codes in groups with the same values.
//!
//! - `Q8_0`, 32 numbers: a scale `d` in f16 and 32 signed bytes; a number is `d q`.
//! - `Q4_K`, 256 numbers: `d` and `m` in f16, eight scales and eight minima of 6 bits in 12 bytes, 128 bytes of two codes;
//!   number of sub-block `j` is `d scale[j] q - m min[j]`.
//! - `Q6_K`, 256 numbers: lower four bits of codes in 128 bytes, upper two in 64, sixteen scales in signed bytes, and
//!   `d` in f16; a number is `d scale[j] (q - 32)`.

use half::f16;
use lmc_graph::DType;
use lmc_models::layers::{Codes, Offset, Quantization};

use crate::quantization::QuantizedMatrix;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// f32.
    F32,
    /// f16.
    F16,
    /// bf16.
    Bf16,
    /// Bytes with a scale for 32.
    Q8_0,
    /// Four bits with a scale and a minimum for 32.
    Q4K,
    /// Six bits with a scale for 16.
    Q6K,
}

impl BlockType {
    /// The type that ggml has this number for.
    pub fn numbered(number: u32) -> Option<BlockType> {
        match number {
            0 => Some(BlockType::F32),
            1 => Some(BlockType::F16),
            8 => Some(BlockType::Q8_0),
            12 => Some(BlockType::Q4K),
            14 => Some(BlockType::Q6K),
            30 => Some(BlockType::Bf16),
            _ => None,
        }
    }

    /// Numbers in a block, and its bytes.
    fn block(self) -> (usize, usize) {
        match self {
            BlockType::F32 => (1, 4),
            BlockType::F16 | BlockType::Bf16 => (1, 2),
            BlockType::Q8_0 => (32, 34),
            BlockType::Q4K => (256, 144),
            BlockType::Q6K => (256, 210),
        }
    }

    /// Bytes of a tensor; `None` if its rows are not of whole blocks, or there are too many.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (numbers, bytes) = self.block();
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(numbers) {
            return None;
        }
        let all = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size))?;
        (all / numbers).checked_mul(bytes).filter(|&bytes| isize::try_from(bytes).is_ok())
    }

    /// The type of its floats, if it is not quantized.
    pub fn float(self) -> Option<DType> {
        match self {
            BlockType::F32 => Some(DType::F32),
            BlockType::F16 => Some(DType::F16),
            BlockType::Bf16 => Some(DType::BF16),
            BlockType::Q8_0 | BlockType::Q4K | BlockType::Q6K => None,
        }
    }

    /// How a matrix of such blocks is stored on the device, if it is quantized. Scales of `Q4_K` and `Q6_K` are products
    /// that only f32 holds.
    pub fn quantization(self) -> Option<Quantization> {
        let (codes, group_size, scales, offset) = match self {
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => return None,
            BlockType::Q8_0 => (Codes::I8, 32, DType::F16, Offset::None),
            BlockType::Q4K => (Codes::U4, 32, DType::F32, Offset::Biases(DType::F32)),
            BlockType::Q6K => (Codes::I8, 16, DType::F32, Offset::None),
        };
        Some(Quantization { codes, group_size, scales, offset })
    }
}

/// The matrix that blocks hold; `None` if the type is not quantized or the bytes are not those of the matrix.
pub fn matrix(ty: BlockType, bytes: &[u8], rows: usize, columns: usize) -> Option<QuantizedMatrix> {
    let quantization = ty.quantization()?;
    if ty.bytes(&[rows, columns])? != bytes.len() {
        return None;
    }
    let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for block in bytes.chunks_exact(ty.block().1) {
        match ty {
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => return None,
            BlockType::Q8_0 => {
                scales.extend(&block[..2]);
                codes.extend(&block[2..]);
            }
            BlockType::Q4K => q4_k(block, &mut codes, &mut scales, &mut biases),
            BlockType::Q6K => q6_k(block, &mut codes, &mut scales),
        }
    }
    let parts = match quantization.offset {
        Offset::None => vec![codes, scales],
        Offset::Zeros(_) | Offset::Biases(_) => vec![codes, scales, biases],
    };
    Some(QuantizedMatrix { quantization, rows, columns, parts })
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q4_k(block: &[u8], codes: &mut Vec<u8>, scales: &mut Vec<u8>, biases: &mut Vec<u8>) {
    let (d, m, packed, halves) = (half(block), half(&block[2..]), &block[4..16], &block[16..]);
    for j in 0..8 {
        // The first four are the lower six bits of bytes; of the others the upper two bits are those left over there.
        let (scale, min) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            ((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4), (packed[j + 4] >> 4) | (packed[j] >> 6 << 4))
        };
        scales.extend((d * f32::from(scale)).to_le_bytes());
        biases.extend((-(m * f32::from(min))).to_le_bytes());
    }
    // 32 bytes have the codes of one sub-block in their low halves, and those of the next in their high ones.
    for bytes in halves.chunks_exact(32) {
        for shift in [0, 4] {
            codes
                .extend(bytes.as_chunks::<2>().0.iter().map(|[a, b]| ((a >> shift) & 15) | (((b >> shift) & 15) << 4)));
        }
    }
}

fn q6_k(block: &[u8], codes: &mut Vec<u8>, scales: &mut Vec<u8>) {
    let (low, high, packed, d) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for half in 0..2 {
        let (low, high) = (&low[half * 64..][..64], &high[half * 32..][..32]);
        for quarter in 0..4 {
            for l in 0..32 {
                let four = (low[quarter % 2 * 32 + l] >> (quarter / 2 * 4)) & 15;
                let two = (high[l] >> (quarter * 2)) & 3;
                codes.push((four | (two << 4)).wrapping_sub(32));
            }
        }
    }
    scales.extend(packed.iter().flat_map(|scale| (d * f32::from(scale.cast_signed())).to_le_bytes()));
}
