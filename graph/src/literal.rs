//! Dense host data with a type: the value of a constant, a parameter on its way to a device, a result read back.

use std::fmt;

use half::{bf16, f16};

use crate::dtype::{DType, TensorType};

/// A tensor on the host: row-major, little-endian, booleans as one byte of 0 or 1.
///
/// Equality is equality of bits, so NaNs with equal payloads are equal and `0.0` differs from `-0.0`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Literal {
    ty: TensorType,
    bytes: Vec<u8>,
}

/// A Rust type that is the host form of an element type.
pub trait Element: Copy + Send + Sync + 'static {
    /// The element type it is the host form of.
    const DTYPE: DType;
    /// Appends the little-endian bytes of `self`.
    fn write(self, bytes: &mut Vec<u8>);
    /// Reads an element from exactly `DTYPE.size()` bytes.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($rust:ty = $dtype:ident;)*) => {$(
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$rust>()];
                array.copy_from_slice(bytes);
                <$rust>::from_le_bytes(array)
            }
        }
    )*};
}

elements! {
    i8 = I8; i16 = I16; i32 = I32; i64 = I64;
    u8 = U8; u16 = U16; u32 = U32; u64 = U64;
    bf16 = BF16; f16 = F16; f32 = F32; f64 = F64;
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn write(self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self));
    }
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
}

impl Literal {
    /// A tensor from its elements in row-major order.
    ///
    /// # Panics
    /// If the number of elements is not that of the shape.
    #[track_caller]
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, elements: &[T]) -> Literal {
        let ty = TensorType::new(T::DTYPE, shape);
        assert_eq!(ty.num_elements(), elements.len(), "{ty} does not hold {} elements", elements.len());
        let mut bytes = Vec::with_capacity(ty.num_bytes());
        elements.iter().for_each(|element| element.write(&mut bytes));
        Literal { ty, bytes }
    }

    /// A scalar.
    pub fn scalar<T: Element>(element: T) -> Literal {
        Literal::new([], &[element])
    }

    /// A tensor of a float type from f64 values, or of an integer or boolean type from whole ones, each rounded to
    /// nearest even (floats) or wrapped (integers).
    ///
    /// # Panics
    /// If the number of elements is not that of the shape.
    #[track_caller]
    pub fn from_f64s(ty: TensorType, elements: &[f64]) -> Literal {
        assert_eq!(ty.num_elements(), elements.len(), "{ty} does not hold {} elements", elements.len());
        let mut bytes = Vec::with_capacity(ty.num_bytes());
        for &x in elements {
            match ty.dtype {
                DType::Bool => (x != 0.0).write(&mut bytes),
                DType::I8 => (x as i8).write(&mut bytes),
                DType::I16 => (x as i16).write(&mut bytes),
                DType::I32 => (x as i32).write(&mut bytes),
                DType::I64 => (x as i64).write(&mut bytes),
                DType::U8 => (x as u8).write(&mut bytes),
                DType::U16 => (x as u16).write(&mut bytes),
                DType::U32 => (x as u32).write(&mut bytes),
                DType::U64 => (x as u64).write(&mut bytes),
                DType::BF16 => round_to_bf16(x).write(&mut bytes),
                DType::F16 => round_to_f16(x).write(&mut bytes),
                DType::F32 => (x as f32).write(&mut bytes),
                DType::F64 => x.write(&mut bytes),
            }
        }
        Literal { ty, bytes }
    }

    /// A tensor from its bytes: row-major, little-endian, one byte a boolean.
    ///
    /// # Errors
    /// The reason, when the number of bytes is not that of the type.
    pub fn from_bytes(ty: TensorType, bytes: Vec<u8>) -> Result<Literal, String> {
        if bytes.len() != ty.num_bytes() {
            return Err(format!("{ty} takes {} bytes, found {}", ty.num_bytes(), bytes.len()));
        }
        Ok(Literal { ty, bytes })
    }

    /// A tensor whose elements are all zero (false).
    pub fn zeros(ty: TensorType) -> Literal {
        let bytes = vec![0; ty.num_bytes()];
        Literal { ty, bytes }
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The bytes: row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The elements, row-major.
    ///
    /// # Panics
    /// If `T` is not the host form of the element type.
    #[track_caller]
    pub fn elements<T: Element>(&self) -> Vec<T> {
        assert_eq!(T::DTYPE, self.ty.dtype, "the tensor is {}", self.ty);
        self.bytes.chunks_exact(T::DTYPE.size()).map(T::read).collect()
    }

    /// The elements as f64, row-major; 64-bit integers are rounded, booleans are 0 and 1.
    pub fn to_f64s(&self) -> Vec<f64> {
        self.bytes.chunks_exact(self.ty.dtype.size()).map(|bytes| read_f64(self.ty.dtype, bytes)).collect()
    }

    /// The bytes of the first element when all elements have the same bits, for tensors of at least one element.
    pub fn splat(&self) -> Option<&[u8]> {
        let size = self.ty.dtype.size();
        let first = self.bytes.get(..size)?;
        self.bytes.chunks_exact(size).all(|element| element == first).then_some(first)
    }
}

/// `x` rounded to nearest even.
///
/// Not `bf16::from_f64`, which drops the lower half of the fraction before it rounds, so that what lies just above a tie
/// is taken for the tie.
pub(crate) fn round_to_bf16(x: f64) -> bf16 {
    bf16::from_f32(round_to_odd(x))
}

/// `x` rounded to nearest even; for the reason of [`round_to_bf16`] not by `f16::from_f64`.
pub(crate) fn round_to_f16(x: f64) -> f16 {
    f16::from_f32(round_to_odd(x))
}

/// `x` if it is an f32, else its neighbour among them whose last bit is set: a second rounding, to a type at least two
/// bits shorter, is then the same as a single one. (Boldo and Melquiond, "When double rounding is odd", 2005.)
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let wide = f64::from(nearest);
    let bits = nearest.to_bits();
    if wide == x || x.is_nan() || bits & 1 == 1 {
        nearest
    } else if wide.abs() > x.abs() {
        f32::from_bits(bits - 1)
    } else {
        f32::from_bits(bits + 1)
    }
}

/// One element as f64.
fn read_f64(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::Bool => f64::from(u8::from(bool::read(bytes))),
        DType::I8 => f64::from(i8::read(bytes)),
        DType::I16 => f64::from(i16::read(bytes)),
        DType::I32 => f64::from(i32::read(bytes)),
        DType::I64 => i64::read(bytes) as f64,
        DType::U8 => f64::from(u8::read(bytes)),
        DType::U16 => f64::from(u16::read(bytes)),
        DType::U32 => f64::from(u32::read(bytes)),
        DType::U64 => u64::read(bytes) as f64,
        DType::BF16 => f64::from(bf16::read(bytes)),
        DType::F16 => f64::from(f16::read(bytes)),
        DType::F32 => f64::from(f32::read(bytes)),
        DType::F64 => f64::read(bytes),
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.ty, self.to_f64s())
    }
}
