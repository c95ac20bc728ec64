//! WebAssembly without a browser: an interpreter that runs the modules of [`lmc_lower::wasm`] in this process.
//!
//! It needs no plugin and compiles nothing, so that a tiny model is trained before XLA would have started; a model of
//! more than a million parameters takes far too long. Results are those of every browser, bit for bit.

use lmc_graph::Literal;
use lmc_lower::wasm::{Layout, Module};
use wasmi::{CompilationMode, Config, Engine, Linker, Memory, Store};

use crate::error::{Error, Result};

/// A module with its memory.
#[derive(Debug)]
pub struct Instance {
    store: Store<()>,
    instance: wasmi::Instance,
    memory: Memory,
    layout: Layout,
}

impl Instance {
    /// Takes a module into the interpreter. All of its memory is zero.
    ///
    /// # Errors
    /// When the interpreter refuses the module, which is a defect of lmc, or there is not enough memory.
    pub fn new(module: &Module) -> Result<Instance> {
        let mut config = Config::default();
        // What is called is translated when it is called first.
        config.compilation_mode(CompilationMode::LazyTranslation);
        let engine = Engine::new(&config);
        let compiled = wasmi::Module::new(&engine, &module.bytes[..]).map_err(defect)?;
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate_and_start(&mut store, &compiled).map_err(defect)?;
        let memory = instance.get_memory(&store, "memory").ok_or_else(|| Error::run("the module exports no memory"))?;
        Ok(Instance { store, instance, memory, layout: module.layout.clone() })
    }

    /// Where tensors lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Sets a slot.
    ///
    /// # Errors
    /// If there is no such slot, or it is of another type.
    pub fn write(&mut self, slot: &str, value: &Literal) -> Result<()> {
        let tensor = self.layout.tensor(slot).ok_or_else(|| Error::run(format!("the module has no slot `{slot}`")))?;
        if tensor.ty != *value.ty() {
            return Err(Error::run(format!("slot `{slot}` is {}, found {}", tensor.ty, value.ty())));
        }
        let offset = tensor.offset;
        self.memory.write(&mut self.store, offset, value.bytes()).map_err(|error| Error::run(error.to_string()))
    }

    /// The tensor in a slot.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn read(&self, slot: &str) -> Result<Literal> {
        let tensor = self.layout.tensor(slot).ok_or_else(|| Error::run(format!("the module has no slot `{slot}`")))?;
        self.read_at(&tensor.ty, tensor.offset)
    }

    /// A tensor of a type at an address.
    ///
    /// # Errors
    /// If it is not within the memory.
    pub fn read_at(&self, ty: &lmc_graph::TensorType, offset: usize) -> Result<Literal> {
        let mut bytes = vec![0; ty.num_bytes()];
        self.memory.read(&self.store, offset, &mut bytes).map_err(|error| Error::run(error.to_string()))?;
        Literal::from_bytes(ty.clone(), bytes).map_err(Error::run)
    }

    /// Runs an entry.
    ///
    /// # Errors
    /// If there is none of this name, or it traps, which is a defect of lmc.
    pub fn call(&mut self, entry: &str) -> Result<()> {
        let function = self.instance.get_typed_func::<(), ()>(&self.store, entry).map_err(defect)?;
        function.call(&mut self.store, ()).map_err(defect)
    }
}

/// An error of the interpreter.
fn defect(error: wasmi::Error) -> Error {
    Error::run(format!("the WebAssembly module: {error}"))
}
