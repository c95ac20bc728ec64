//! Weights in few bits: made from floats when a model is loaded or by `lmc quantize`, and read from the formats that others
//! write.
//!
//! In memory and on the device there is one form, codes in groups of neighbouring columns (see
//! [`Quantization`]); [`round`] makes it of floats, [`layouts`] reorders what MLX, GPTQ
//! and AWQ keep in safetensors, [`gguf`] what llama.cpp keeps, none with a change to a value. [`files`] are folders of
//! such weights, [`loading`] quantizes the weights of any other source, [`saving`] writes a folder.

pub mod files;
pub mod gguf;
pub mod layouts;
pub mod loading;
pub mod round;
pub mod saving;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use lmc_graph::DType;
use lmc_models::layers::{Codes, Offset, Quantization};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What weights are quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheme {
    /// Bits of a code: 4 or 8.
    pub bits: u8,
    /// Columns that share a scale.
    pub group_size: usize,
    /// Whether groups have a zero as well as a scale, so that their numbers need not be symmetric about zero.
    #[serde(default)]
    pub zeros: bool,
}

/// The sizes of groups that are made.
pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

impl Scheme {
    /// `int8` or `int4`: groups of 64 without zeros.
    ///
    /// # Errors
    /// For another word.
    pub fn named(name: &str) -> Result<Scheme> {
        let bits = match name {
            "int8" => 8,
            "int4" => 4,
            other => return Err(Error::input(format!("weights are quantized to int8 or int4, not to {other:?}"))),
        };
        Ok(Scheme { bits, group_size: 64, zeros: false })
    }

    /// The same, if it is one that is made.
    ///
    /// # Errors
    /// With what is.
    pub fn checked(self) -> Result<Scheme> {
        if ![4, 8].contains(&self.bits) {
            return Err(Error::input(format!("weights are quantized to 4 or 8 bits, not to {}", self.bits)));
        }
        if !GROUP_SIZES.contains(&self.group_size) {
            return Err(Error::input(format!("a group has 32, 64 or 128 columns, not {}", self.group_size)));
        }
        Ok(self)
    }

    /// How a weight of this type of floats is stored: of f32 the scales are f32, too, else bf16.
    pub fn quantization(self, of: DType) -> Quantization {
        let codes = match (self.bits, self.zeros) {
            (4, false) => Codes::I4,
            (4, true) => Codes::U4,
            (_, false) => Codes::I8,
            (_, true) => Codes::U8,
        };
        let scales = if of == DType::F32 { DType::F32 } else { DType::BF16 };
        let offset = if self.zeros { Offset::Zeros(DType::U8) } else { Offset::None };
        Quantization { codes, group_size: self.group_size, scales, offset }
    }

    /// Whether a weight of this path and shape is quantized: a matrix that is multiplied along its rows, with whole groups.
    pub fn takes(self, path: &str, shape: &[usize]) -> bool {
        // GPT-2's `Conv1D` is multiplied along its columns.
        let by_columns = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
        let is_matrix = matches!(shape, [_, columns] if columns.is_multiple_of(self.group_size) && *columns > 0);
        is_matrix && path.ends_with(".weight") && !by_columns.iter().any(|name| path.ends_with(name))
    }
}

/// A matrix in few bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizedMatrix {
    /// How.
    pub quantization: Quantization,
    /// Rows, or outputs.
    pub rows: usize,
    /// Columns, or inputs.
    pub columns: usize,
    /// Codes, scales, and zeros or biases, row-major and little-endian, of the types that
    /// [`Quantization::types`] says.
    pub parts: Vec<Vec<u8>>,
}

impl QuantizedMatrix {
    /// The elements, row-major, computed in f32.
    pub fn elements(&self) -> Vec<f32> {
        let Quantization { codes, group_size, scales, offset } = self.quantization;
        let scale = floats(&self.parts[1], scales);
        let biases = match offset {
            Offset::Biases(dtype) => floats(&self.parts[2], dtype),
            Offset::None | Offset::Zeros(_) => Vec::new(),
        };
        let bytes = &self.parts[0];
        let code = |i: usize| match codes {
            Codes::I8 => f32::from(bytes[i].cast_signed()),
            Codes::U8 => f32::from(bytes[i]),
            Codes::I4 => f32::from((bytes[i / 2] >> (i % 2 * 4)) & 15) - 8.0,
            Codes::U4 => f32::from((bytes[i / 2] >> (i % 2 * 4)) & 15),
        };
        let element = |i: usize| {
            let group = i / group_size;
            match offset {
                Offset::None => scale[group] * code(i),
                Offset::Zeros(_) => scale[group] * (code(i) - f32::from(self.parts[2][group])),
                Offset::Biases(_) => scale[group] * code(i) + biases[group],
            }
        };
        (0..self.rows * self.columns).map(element).collect()
    }
}

/// Floats of a type, from their bytes, as f32.
pub(crate) fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    if dtype == DType::BF16 {
        halves().map(|x| bf16::from_le_bytes(x).to_f32()).collect()
    } else if dtype == DType::F16 {
        halves().map(|x| f16::from_le_bytes(x).to_f32()).collect()
    } else {
        bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }
}
