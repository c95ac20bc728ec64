//! Weights that are quantized while they are loaded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lmc_graph::TensorType;
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;

use super::round::quantize;
use super::{Scheme, floats};
use crate::error::Result;
use crate::pretrained::WeightSource;

/// Elements that are quantized at a time.
const ELEMENTS_AT_A_TIME: usize = 1 << 20;

/// The weights of another source, the matrices of floats among them quantized as they are read, some rows at a time.
pub struct Quantizing {
    source: Box<dyn WeightSource>,
    scheme: Scheme,
    /// The types that the weights to be quantized have in the source, by path.
    floats: Mutex<BTreeMap<String, TensorType>>,
}

impl Quantizing {
    /// The weights of `source`, quantized to `scheme`.
    pub fn new(source: Box<dyn WeightSource>, scheme: Scheme) -> Quantizing {
        Quantizing { source, scheme, floats: Mutex::default() }
    }
}

impl WeightSource for Quantizing {
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        let stored = self.source.stored(path, spec)?;
        match stored {
            Some(Stored::Plain(dtype)) if self.scheme.takes(path, &spec.ty.shape) => {
                locked(&self.floats).insert(path.to_owned(), spec.ty.with_dtype(dtype));
                Ok(Some(Stored::Quantized(self.scheme.quantization(dtype))))
            }
            Some(_) | None => Ok(stored),
        }
    }

    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()> {
        let floats_ty = locked(&self.floats).get(path).cloned();
        let Some(floats_ty) = floats_ty else { return self.source.read(path, types, parts) };
        let quantization = self.scheme.quantization(floats_ty.dtype);
        let (rows, columns) = (floats_ty.shape[0], floats_ty.shape[1]);
        let step = (ELEMENTS_AT_A_TIME / columns).clamp(1, rows.max(1));
        let mut bytes = vec![0; step * columns * floats_ty.dtype.size()];
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let bytes = &mut bytes[..count * columns * floats_ty.dtype.size()];
            self.source.read_rows(path, first..first + count, &floats_ty, bytes)?;
            let matrix = quantize(&floats(bytes, floats_ty.dtype), count, columns, quantization);
            for (piece, part) in matrix.parts.iter().zip(parts.iter_mut()) {
                let row = part.len() / rows;
                part[first * row..(first + count) * row].copy_from_slice(piece);
            }
        }
        Ok(())
    }

    fn read_rows(&self, path: &str, rows: Range<usize>, ty: &TensorType, bytes: &mut [u8]) -> Result<()> {
        self.source.read_rows(path, rows, ty, bytes)
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.source.unused(used)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
