//! How weights lie on the device where nothing is trained.

use std::rc::Rc;

use lmc_graph::{DType, TensorType, Value};

use crate::layers::{Offset, Quantization, QuantizedWeight, dequantize};
use crate::params::{ParamSpec, Params};

/// How a weight lies on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As it is, in this type of floats.
    Plain(DType),
    /// A matrix in few bits, in groups of its columns.
    Quantized(Quantization),
}

impl Stored {
    /// The tensors that the weight with this spec consists of: what stands behind its path in the name of each, and the
    /// types. They are parameters of the function in this order.
    pub fn parts(&self, spec: &ParamSpec) -> Vec<(&'static str, TensorType)> {
        match self {
            Stored::Plain(dtype) => vec![("", spec.ty.with_dtype(*dtype))],
            Stored::Quantized(quantization) => {
                let (rows, columns) = (spec.ty.shape[0], spec.ty.shape[1]);
                let (codes, scales, offset) = quantization.types(rows, columns);
                let mut parts = vec![("", codes), (".scales", scales)];
                match offset {
                    Offset::None => {}
                    Offset::Zeros(zeros) => parts.push((".zeros", zeros)),
                    Offset::Biases(biases) => parts.push((".biases", biases)),
                }
                parts
            }
        }
    }

    /// Bytes on the device.
    pub fn num_bytes(&self, spec: &ParamSpec) -> usize {
        self.parts(spec).iter().map(|(_, ty)| ty.num_bytes()).sum()
    }
}

/// A weight in a graph, as it lies on the device.
#[derive(Clone, Copy, Debug)]
pub enum StoredValue<'g> {
    /// As it is.
    Plain(Value<'g>),
    /// In few bits.
    Quantized(QuantizedWeight<'g>),
}

impl<'g> StoredValue<'g> {
    /// A weight from its [`Stored::parts`].
    ///
    /// # Panics
    /// If there are fewer.
    pub fn new(stored: &Stored, parts: &[Value<'g>]) -> StoredValue<'g> {
        match stored {
            Stored::Plain(_) => StoredValue::Plain(parts[0]),
            Stored::Quantized(quantization) => StoredValue::Quantized(QuantizedWeight {
                stored: quantization.codes,
                codes: parts[0],
                scales: parts[1],
                offset: quantization.offset.map(|_| parts[2]),
            }),
        }
    }

    /// The weight's elements in this float type.
    #[track_caller]
    pub fn elements(self, dtype: DType) -> Value<'g> {
        match self {
            StoredValue::Plain(value) => value.convert(dtype),
            StoredValue::Quantized(weight) => dequantize(weight, dtype),
        }
    }

    /// The rows with these indices, `I.. → I.. C`, in this float type. Indices outside are limited to the first and last
    /// row.
    ///
    /// # Panics
    /// If `indices` is not of integers.
    #[track_caller]
    pub fn rows(self, indices: Value<'g>, dtype: DType) -> Value<'g> {
        match self {
            StoredValue::Plain(value) => value.take_rows(indices).convert(dtype),
            StoredValue::Quantized(QuantizedWeight { stored, codes, scales, offset }) => {
                let flat = indices.reshape(&[indices.ty().num_elements()]);
                let rows = |part: Value<'g>| part.take_rows(flat);
                let weight =
                    QuantizedWeight { stored, codes: rows(codes), scales: rows(scales), offset: offset.map(rows) };
                let rows = dequantize(weight, dtype);
                let [_, columns] = rows.dims();
                rows.reshape(&[&indices.shape()[..], &[columns]].concat())
            }
        }
    }
}

/// How every weight of a model is stored, by path.
#[derive(Clone, Debug, Default)]
pub struct Storage(Rc<Params<Stored>>);

impl Storage {
    /// As the entries say; weights without an entry are f32.
    pub fn new(stored: Params<Stored>) -> Storage {
        Storage(Rc::new(stored))
    }

    /// How the weight at `path` is stored.
    pub fn of(&self, path: &str) -> Stored {
        self.0.get(path).cloned().unwrap_or(Stored::Plain(DType::F32))
    }
}
