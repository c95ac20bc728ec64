//! Weights in few bits, and products with them.
//!
//! A weight `[out, in]` is stored as codes, integers of 8 or 4 bits, in groups of neighbouring columns. A group has a
//! scale, and a zero or a bias if its codes are not symmetric about zero; an element is `scale * code`,
//! `scale * (code - zero)` or `scale * code + bias`. The ops that say so stand in front of the product: a compiler fuses
//! them with it, and on the CPU lmc's kernel takes the product and the ops together.

use lmc_graph::{DType, TensorType, Value};

use super::linear::product;

/// How codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// Signed bytes, -128 to 127, in `i8`.
    I8,
    /// Bytes, 0 to 255, in `ui8`.
    U8,
    /// -8 to 7, stored 8 higher: two in a byte of `ui8`, the first in its low half.
    I4,
    /// 0 to 15: two in a byte of `ui8`, the first in its low half.
    U4,
}

impl Codes {
    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Codes::I8 | Codes::U8 => 8,
            Codes::I4 | Codes::U4 => 4,
        }
    }

    /// The type of the codes of a weight `[out, in]`; with two codes a byte half as many columns.
    pub fn ty(self, out: usize, input: usize) -> TensorType {
        match self {
            Codes::I8 => TensorType::new(DType::I8, [out, input]),
            Codes::U8 => TensorType::new(DType::U8, [out, input]),
            Codes::I4 | Codes::U4 => TensorType::new(DType::U8, [out, input / 2]),
        }
    }
}

/// What keeps codes from being symmetric about zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offset<T> {
    /// Nothing.
    None,
    /// A code for each group, subtracted before scaling: `ui8`, `[out, groups]`.
    Zeros(T),
    /// A number for each group, added after scaling: of a float type, `[out, groups]`.
    Biases(T),
}

impl<T> Offset<T> {
    /// The same with something else in place of the zeros or biases.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Offset<U> {
        match self {
            Offset::None => Offset::None,
            Offset::Zeros(zeros) => Offset::Zeros(f(zeros)),
            Offset::Biases(biases) => Offset::Biases(f(biases)),
        }
    }
}

/// How a weight is quantized: codes, the size of a group, and the types of what a group has. Groups divide the columns;
/// for lmc's kernel a group is a multiple of 16 codes of 8 bits or 32 of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// How codes are stored.
    pub codes: Codes,
    /// Columns in a group.
    pub group_size: usize,
    /// The float type of scales.
    pub scales: DType,
    /// The type of zeros (`ui8`) or biases (a float).
    pub offset: Offset<DType>,
}

impl Quantization {
    /// The types of codes, scales and zeros or biases of a weight `[out, in]`.
    pub fn types(&self, out: usize, input: usize) -> (TensorType, TensorType, Offset<TensorType>) {
        let of_groups = |dtype: DType| TensorType::new(dtype, [out, input / self.group_size]);
        (self.codes.ty(out, input), of_groups(self.scales), self.offset.map(of_groups))
    }
}

/// A quantized weight in a graph.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedWeight<'g> {
    /// How codes are stored.
    pub stored: Codes,
    /// `[out, in]`, or `[out, in / 2]` with two codes a byte.
    pub codes: Value<'g>,
    /// `[out, groups]`.
    pub scales: Value<'g>,
    /// `[out, groups]`.
    pub offset: Offset<Value<'g>>,
}

/// The elements of a weight, `[out, in]`, computed in f32 and rounded to a float type once.
///
/// # Panics
/// If the parts do not have the shapes and types that [`QuantizedWeight`] says.
#[track_caller]
pub fn dequantize<'g>(weight: QuantizedWeight<'g>, dtype: DType) -> Value<'g> {
    let QuantizedWeight { stored, codes, scales, offset } = weight;
    let [out, groups] = scales.dims();
    let codes = match stored {
        Codes::I8 | Codes::U8 => codes,
        Codes::I4 | Codes::U4 => halves(codes),
    };
    let input = codes.ty().num_elements() / out.max(1);
    assert!(groups > 0 && input.is_multiple_of(groups), "{groups} groups do not divide {input} columns");
    let shape = [out, groups, input / groups];
    let of_groups = |x: Value<'g>| x.convert(DType::F32).broadcast_in_dim(&shape, &[0, 1]);
    let codes = codes.reshape(&shape).convert(DType::F32);
    let codes = match stored {
        Codes::I4 => codes - codes.full_like(8.0),
        Codes::I8 | Codes::U8 | Codes::U4 => codes,
    };
    let elements = match offset {
        Offset::None => codes * of_groups(scales),
        Offset::Zeros(zeros) => (codes - of_groups(zeros)) * of_groups(scales),
        Offset::Biases(biases) => codes * of_groups(scales) + of_groups(biases),
    };
    let elements = elements.reshape(&[out, input]);
    if dtype == DType::F32 { elements } else { elements.convert(dtype) }
}

/// `x Wᵀ` with a quantized weight: `.. in → .. out` in the given float type, the operands' or f32.
///
/// # Panics
/// If the last size of `x` is not the weight's, or as [`dequantize`].
#[track_caller]
pub fn quantized_product<'g>(x: Value<'g>, weight: QuantizedWeight<'g>, result_dtype: DType) -> Value<'g> {
    product(x, dequantize(weight, x.dtype()), 1, result_dtype)
}

/// The low and the high half of each byte: `[out, n] → [out, n, 2]`.
fn halves(bytes: Value<'_>) -> Value<'_> {
    let [out, n] = bytes.dims();
    let low = bytes.and(bytes.full_like(15.0)).reshape(&[out, n, 1]);
    let high = bytes.shift_right_logical(bytes.full_like(4.0)).reshape(&[out, n, 1]);
    bytes.builder().concatenate(&[low, high], 2)
}
