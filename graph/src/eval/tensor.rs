//! The tensors of the reference evaluator: every float an f64, every integer an i128, with index arithmetic.

use crate::dtype::{DType, TensorType};
use crate::literal::{Literal, round_to_bf16, round_to_f16};

/// A tensor while it is evaluated: a type, and elements that are wider than it, so that one rule serves all widths.
///
/// Whether a float is a number of its type or any f64 depends on how the function is evaluated ([`super::eval`],
/// [`super::eval_f64`]); integers are always within their type, booleans 0 or 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    ty: TensorType,
    elements: Elements,
}

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elements {
    /// Of a float type.
    Float(Vec<f64>),
    /// Of an integer type or booleans.
    Int(Vec<i128>),
}

impl Tensor {
    /// A tensor of a float type with these elements, which are not rounded to it.
    ///
    /// # Panics
    /// If the type is not of floats, or the number of elements is not that of the shape.
    #[track_caller]
    pub fn from_floats(ty: TensorType, elements: Vec<f64>) -> Tensor {
        assert!(ty.dtype.is_float(), "{ty} is not of floats");
        assert_eq!(ty.num_elements(), elements.len(), "{ty} does not hold {} elements", elements.len());
        Tensor { ty, elements: Elements::Float(elements) }
    }

    /// A tensor of integers or booleans with these elements, wrapped to the type.
    ///
    /// # Panics
    /// If the type is of floats, or the number of elements is not that of the shape.
    #[track_caller]
    pub fn from_ints(ty: TensorType, elements: Vec<i128>) -> Tensor {
        assert!(!ty.dtype.is_float(), "{ty} is of floats");
        assert_eq!(ty.num_elements(), elements.len(), "{ty} does not hold {} elements", elements.len());
        let mut tensor = Tensor { ty, elements: Elements::Int(elements) };
        tensor.wrap();
        tensor
    }

    /// A tensor of zeros (false).
    pub fn zeros(ty: TensorType) -> Tensor {
        let elements = if ty.dtype.is_float() {
            Elements::Float(vec![0.0; ty.num_elements()])
        } else {
            Elements::Int(vec![0; ty.num_elements()])
        };
        Tensor { ty, elements }
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The elements of a tensor of floats, row-major.
    ///
    /// # Panics
    /// If the tensor is not of floats.
    #[track_caller]
    pub fn floats(&self) -> &[f64] {
        match &self.elements {
            Elements::Float(elements) => elements,
            Elements::Int(_) => panic!("{} is not of floats", self.ty),
        }
    }

    /// The elements of a tensor of integers or booleans, row-major.
    ///
    /// # Panics
    /// If the tensor is of floats.
    #[track_caller]
    pub fn ints(&self) -> &[i128] {
        match &self.elements {
            Elements::Int(elements) => elements,
            Elements::Float(_) => panic!("{} is of floats", self.ty),
        }
    }

    /// The host form: floats rounded to nearest even of their type.
    pub fn to_literal(&self) -> Literal {
        match &self.elements {
            Elements::Float(elements) => Literal::from_f64s(self.ty.clone(), elements),
            Elements::Int(elements) => {
                let size = self.ty.dtype.size();
                let mut bytes = Vec::with_capacity(self.ty.num_bytes());
                elements.iter().for_each(|element| bytes.extend_from_slice(&element.to_le_bytes()[..size]));
                Literal::from_bytes(self.ty.clone(), bytes).expect("one element after another fills the type")
            }
        }
    }

    pub(crate) fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The only element of a boolean scalar.
    pub(crate) fn is_true(&self) -> bool {
        self.ints()[0] != 0
    }

    /// A tensor of type `ty` whose elements are those of `self` at `offsets`.
    pub(crate) fn pick(&self, ty: &TensorType, offsets: impl Iterator<Item = usize>) -> Tensor {
        let elements = match &self.elements {
            Elements::Float(x) => Elements::Float(offsets.map(|offset| x[offset]).collect()),
            Elements::Int(x) => Elements::Int(offsets.map(|offset| x[offset]).collect()),
        };
        Tensor { ty: ty.clone(), elements }
    }

    /// Copies the elements of `from` at the offsets `theirs` to the offsets `ours` of `self`, pair by pair.
    pub(crate) fn put(
        &mut self,
        ours: impl Iterator<Item = usize>,
        from: &Tensor,
        theirs: impl Iterator<Item = usize>,
    ) {
        let pairs = ours.zip(theirs);
        match (&mut self.elements, &from.elements) {
            (Elements::Float(x), Elements::Float(y)) => pairs.for_each(|(ours, theirs)| x[ours] = y[theirs]),
            (Elements::Int(x), Elements::Int(y)) => pairs.for_each(|(ours, theirs)| x[ours] = y[theirs]),
            (Elements::Float(_), Elements::Int(_)) | (Elements::Int(_), Elements::Float(_)) => {
                panic!("{} cannot hold elements of {}", self.ty, from.ty)
            }
        }
    }

    /// The same elements with another shape of as many.
    pub(crate) fn with_type(&self, ty: &TensorType) -> Tensor {
        self.pick(ty, 0..ty.num_elements())
    }

    /// Wraps integers to the type; anything but 0 becomes true.
    pub(crate) fn wrap(&mut self) {
        let dtype = self.ty.dtype;
        if let Elements::Int(elements) = &mut self.elements {
            elements.iter_mut().for_each(|x| *x = wrap_int(dtype, *x));
        }
    }

    /// Rounds floats to nearest even of the type.
    pub(crate) fn round(&mut self) {
        let dtype = self.ty.dtype;
        if let Elements::Float(elements) = &mut self.elements {
            elements.iter_mut().for_each(|x| *x = round_float(dtype, *x));
        }
    }
}

impl From<&Literal> for Tensor {
    fn from(literal: &Literal) -> Tensor {
        let ty = literal.ty().clone();
        if ty.dtype.is_float() {
            return Tensor { ty, elements: Elements::Float(literal.to_f64s()) };
        }
        let size = ty.dtype.size();
        let elements = literal.bytes().chunks_exact(size).map(|bytes| {
            let mut wide = [0; 16];
            wide[..size].copy_from_slice(bytes);
            wrap_int(ty.dtype, i128::from_le_bytes(wide))
        });
        Tensor { elements: Elements::Int(elements.collect()), ty }
    }
}

/// The number of `dtype` that is `x` modulo two to the number of bits; for booleans whether `x` is not 0.
pub(crate) fn wrap_int(dtype: DType, x: i128) -> i128 {
    match dtype {
        DType::Bool => i128::from(x != 0),
        DType::I8 => i128::from(x as i8),
        DType::I16 => i128::from(x as i16),
        DType::I32 => i128::from(x as i32),
        DType::I64 => i128::from(x as i64),
        DType::U8 => i128::from(x as u8),
        DType::U16 => i128::from(x as u16),
        DType::U32 => i128::from(x as u32),
        DType::U64 => i128::from(x as u64),
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 => x,
    }
}

/// The least and the greatest number of an integer type; 0 and 1 for booleans.
pub(crate) fn int_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits();
    if dtype.is_signed_int() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// `x` rounded to nearest even of a float type.
pub(crate) fn round_float(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F64 => x,
        DType::F32 => f64::from(x as f32),
        DType::BF16 => f64::from(round_to_bf16(x)),
        DType::F16 => f64::from(round_to_f16(x)),
        DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => x,
    }
}

/// How far apart neighbours along each dimension are in row-major order.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d] as isize;
    }
    strides
}

/// The elements at `dimensions` of `list`, in that order.
pub(crate) fn at<T: Copy>(list: &[T], dimensions: &[usize]) -> Vec<T> {
    dimensions.iter().map(|&d| list[d]).collect()
}

/// `start + Σ index[d] * strides[d]` for all indices of a shape, in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    shape: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    offset: isize,
    remaining: usize,
}

impl Offsets {
    /// Offsets that begin with `start`; strides may be 0 or negative, as long as no offset is.
    pub(crate) fn new(shape: &[usize], strides: &[isize], start: usize) -> Offsets {
        Offsets {
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            index: vec![0; shape.len()],
            offset: start as isize,
            remaining: shape.iter().product(),
        }
    }
}

impl Iterator for Offsets {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.remaining = self.remaining.checked_sub(1)?;
        let current = self.offset as usize;
        for d in (0..self.shape.len()).rev() {
            self.index[d] += 1;
            self.offset += self.strides[d];
            if self.index[d] < self.shape[d] {
                break;
            }
            self.offset -= self.strides[d] * self.shape[d] as isize;
            self.index[d] = 0;
        }
        Some(current)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}
