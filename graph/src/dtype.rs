//! Element types and tensor types.

use std::fmt;
use std::str::FromStr;

/// The type of one element. `Display` and `FromStr` use StableHLO's spelling (`f32`, `i64`, `ui8`, `i1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Boolean, StableHLO `i1`; one byte on the host, 0 or 1.
    Bool,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// bfloat16: f32 with a 7-bit fraction.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 13] = [
        DType::Bool,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::BF16,
        DType::F16,
        DType::F32,
        DType::F64,
    ];

    /// StableHLO's spelling.
    pub fn name(self) -> &'static str {
        match self {
            DType::Bool => "i1",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "ui8",
            DType::U16 => "ui16",
            DType::U32 => "ui32",
            DType::U64 => "ui64",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }

    /// Bytes of one element on the host, in row-major dense buffers.
    pub fn size(self) -> usize {
        match self {
            DType::Bool | DType::I8 | DType::U8 => 1,
            DType::I16 | DType::U16 | DType::BF16 | DType::F16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
        }
    }

    /// Bits of one element: `8 * size()`, and 1 for booleans.
    pub fn bits(self) -> usize {
        if self == DType::Bool { 1 } else { 8 * self.size() }
    }

    /// Whether this is a floating-point type: the types that have derivatives.
    pub fn is_float(self) -> bool {
        matches!(self, DType::BF16 | DType::F16 | DType::F32 | DType::F64)
    }

    /// Whether this is a signed or unsigned integer type (booleans are not).
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// Whether this is a signed integer type.
    pub fn is_signed_int(self) -> bool {
        matches!(self, DType::I8 | DType::I16 | DType::I32 | DType::I64)
    }

    /// Whether this is an unsigned integer type.
    pub fn is_unsigned_int(self) -> bool {
        matches!(self, DType::U8 | DType::U16 | DType::U32 | DType::U64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<DType, String> {
        DType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| format!("unknown element type `{text}`; known: {}", DType::ALL.map(DType::name).join(", ")))
    }
}

/// An element type and a static shape; spelled `f32[2,3]`, a scalar `f32[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The type of every element.
    pub dtype: DType,
    /// The size of every dimension, major first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// The type with these parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> TensorType {
        TensorType { dtype, shape: shape.into() }
    }

    /// A scalar type.
    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, shape: Vec::new() }
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements: 1 for a scalar, 0 when a dimension is 0. A number beyond `usize`, which only a type that
    /// is not [addressable](TensorType::is_addressable) has, is given as `usize::MAX`.
    pub fn num_elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().fold(1, |n, &size| usize::saturating_mul(n, size)) }
    }

    /// Bytes of a dense row-major buffer of this type, `usize::MAX` if there are more.
    pub fn num_bytes(&self) -> usize {
        self.num_elements().saturating_mul(self.dtype.size())
    }

    /// Whether a buffer of this type can exist: the bytes, and the distances between elements even where a dimension
    /// is 0, fit an `isize`. Every value of a function has such a type, so arithmetic on its sizes does not overflow.
    pub fn is_addressable(&self) -> bool {
        let mut sizes = self.shape.iter().map(|&size| size.max(1));
        let bytes = sizes.try_fold(self.dtype.size(), usize::checked_mul);
        bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok())
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType { dtype, shape: self.shape.clone() }
    }

    /// The same element type with another shape.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> TensorType {
        TensorType { dtype: self.dtype, shape: shape.into() }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, size) in self.shape.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{size}")?;
        }
        f.write_str("]")
    }
}
