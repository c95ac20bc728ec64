//! The modules of a page's entries: one to train with, and one of the step alone that can be looked into.

use lmc_graph::Func;
use lmc_lower::wasm::{self, Layout, Mode, lower};
use serde_json::{Map, Value, json};

use super::entries::Entry;
use crate::error::{Error, Result};

impl Entry {
    fn of_module(&self) -> wasm::Entry<'_> {
        let Entry { name, func, inputs, results } = self;
        wasm::Entry { name: (*name).to_owned(), func, inputs: inputs.clone(), results: results.clone() }
    }
}

/// A module with the function that its groups tell of.
pub(super) struct Lowered {
    pub(super) bytes: Vec<u8>,
    pub(super) layout: Layout,
    /// The first entry's function, as it was lowered.
    pub(super) flat: Func,
}

/// Lowers functions into one module.
///
/// # Errors
/// If an op or a type cannot be lowered, or there is not enough memory for them.
pub(super) fn lowered(entries: &[&Entry], mode: Mode) -> Result<Lowered> {
    let entries: Vec<wasm::Entry<'_>> = entries.iter().map(|entry| entry.of_module()).collect();
    let module = lower(&entries, mode).map_err(|error| Error::input(format!("no page can be made of it: {error}")))?;
    let flat = module.flat.into_iter().next().expect("there is an entry");
    Ok(Lowered { bytes: module.bytes, layout: module.layout, flat })
}

/// Where the tensors of the slots lie.
pub(super) fn tensors_json(layout: &Layout) -> Value {
    let tensor = |tensor: &wasm::Tensor| {
        let place = json!({ "shape": tensor.ty.shape, "dtype": tensor.ty.dtype.to_string(), "offset": tensor.offset });
        (tensor.name.clone(), place)
    };
    json!({ "tensors": layout.tensors.iter().map(tensor).collect::<Map<_, _>>() })
}
