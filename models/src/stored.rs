//! How weights lie on the device where nothing is trained.

use std::rc::Rc;

use lmc_graph::{DType, TensorType};

use crate::params::{ParamSpec, Params};

/// How a weight lies on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As it is, in this type of floats.
    Plain(DType),
}

impl Stored {
    /// The tensors that the weight with this spec consists of: what stands behind its path in the name of each, and the
    /// types. They are parameters of the function in this order.
    pub fn parts(&self, spec: &ParamSpec) -> Vec<(&'static str, TensorType)> {
        match self {
            Stored::Plain(dtype) => vec![("", spec.ty.with_dtype(*dtype))],
        }
    }

    /// Bytes on the device.
    pub fn num_bytes(&self, spec: &ParamSpec) -> usize {
        self.parts(spec).iter().map(|(_, ty)| ty.num_bytes()).sum()
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
