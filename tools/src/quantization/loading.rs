//! Weights that are quantized while they are loaded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lmc_graph::TensorType;
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;

use super::round::quantize;
use super::{QuantizedMatrix, Scheme, floats};
use crate::error::Result;
use crate::pretrained::WeightSource;

/// The weights of another source, the matrices of floats among them quantized as they are read, one at a time.
pub struct Quantizing {
    source: Box<dyn WeightSource>,
    scheme: Scheme,
    /// The types that the weights to be quantized have in the source, by path.
    floats: Mutex<BTreeMap<String, TensorType>>,
    /// The weight that was read last: its parts are read one after the other.
    last: Mutex<Option<(String, QuantizedMatrix)>>,
}

impl Quantizing {
    /// The weights of `source`, quantized to `scheme`.
    pub fn new(source: Box<dyn WeightSource>, scheme: Scheme) -> Quantizing {
        Quantizing { source, scheme, floats: Mutex::default(), last: Mutex::default() }
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

    fn read(&self, path: &str, part: usize, ty: &TensorType, bytes: &mut Vec<u8>) -> Result<()> {
        let floats_ty = locked(&self.floats).get(path).cloned();
        let Some(floats_ty) = floats_ty else { return self.source.read(path, part, ty, bytes) };
        let mut last = locked(&self.last);
        let matrix = match last.take() {
            Some((name, matrix)) if name == path => matrix,
            Some(_) | None => {
                self.source.read(path, 0, &floats_ty, bytes)?;
                let (elements, shape) = (floats(bytes, floats_ty.dtype), &floats_ty.shape);
                quantize(&elements, shape[0], shape[1], self.scheme.quantization(floats_ty.dtype))
            }
        };
        bytes.clear();
        bytes.extend_from_slice(&matrix.parts[part]);
        if part + 1 < matrix.parts.len() {
            *last = Some((path.to_owned(), matrix));
        }
        Ok(())
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.source.unused(used)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
