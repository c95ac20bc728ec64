//! WebAssembly without a browser: an interpreter that runs the modules of [`lmc_lower::wasm`] in this process.
//!
//! It needs no plugin and compiles nothing, so that a tiny model is trained before XLA would have started; a model of
//! more than a million parameters takes far too long. Results are those of every browser, bit for bit.

use std::sync::{Mutex, PoisonError};

use lmc_graph::{Func, Literal, TensorType};
use lmc_lower::wasm::{Entry, Layout, Mode, Module, Report, lower};
use wasmi::{CompilationMode, Config, Engine, Linker, Memory, Store};

use crate::config::DeviceKind;
use crate::device::DeviceOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::output::group_digits;
use crate::tensors::Argument;

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
        self.write_at(offset, value)
    }

    /// Copies a tensor to an address.
    ///
    /// # Errors
    /// If it is not within the memory.
    pub fn write_at(&mut self, offset: usize, value: &Literal) -> Result<()> {
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
    pub fn read_at(&self, ty: &TensorType, offset: usize) -> Result<Literal> {
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

/// A function as a module of its own, whose slots are its parameters and results in order.
#[derive(Debug)]
pub struct Program {
    instance: Mutex<Instance>,
    types: Vec<TensorType>,
    /// The addresses of the parameters.
    arguments: Vec<usize>,
    /// The types and addresses of the results.
    results: Vec<(TensorType, usize)>,
    report: Report,
}

/// The name of a program's entry.
const MAIN: &str = "main";

impl Program {
    /// Lowers a function and takes it into the interpreter.
    ///
    /// # Errors
    /// If it does not fit into the memory of a module, with the model's line.
    pub fn new(func: &Func) -> Result<Program> {
        let inputs: Vec<String> = (0..func.params.len()).map(|i| format!("argument{i}")).collect();
        // A donated argument is updated where it lies.
        let results = (0..func.result_values().len()).map(|i| {
            let donor = func.params.iter().position(|param| param.donated_to == Some(i));
            donor.map_or_else(|| format!("result{i}"), |donor| inputs[donor].clone())
        });
        let entry = Entry { name: MAIN.to_owned(), func, results: results.collect(), inputs: inputs.clone() };
        let module = lower(&[entry], Mode::Together).map_err(|error| Error::input(error.to_string()))?;
        let slot = |name: &String| {
            let tensor = module.layout.tensor(name).expect("every slot of an entry is in the layout");
            (tensor.ty.clone(), tensor.offset)
        };
        let arguments = inputs.iter().map(|name| slot(name).1).collect();
        let results = module.layout.entries[0].results.iter().map(slot).collect();
        let instance = Mutex::new(Instance::new(&module)?);
        Ok(Program { instance, types: func.param_types(), arguments, results, report: module.report })
    }

    /// The types of the function's parameters.
    pub fn argument_types(&self) -> &[TensorType] {
        &self.types
    }

    /// How the module came out.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The results for these arguments.
    ///
    /// # Errors
    /// When the arguments are not those of the function.
    pub fn execute(&self, arguments: &[Argument<'_>]) -> Result<Vec<Literal>> {
        // After a trap the memory is set anew all the same.
        let mut instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        if arguments.len() != self.types.len() {
            return Err(Error::run(format!("expected {} arguments, found {}", self.types.len(), arguments.len())));
        }
        for (i, argument) in arguments.iter().enumerate() {
            let (value, expected) = (argument.on_host()?, &self.types[i]);
            if value.ty() != expected {
                return Err(Error::run(format!("argument {i} is {expected}, found {}", value.ty())));
            }
            instance.write_at(self.arguments[i], value)?;
        }
        instance.call(MAIN)?;
        self.results.iter().map(|(ty, offset)| instance.read_at(ty, *offset)).collect()
    }
}

/// Parameters that a model may have for WebAssembly to be offered.
const MOST_PARAMETERS: u64 = 1_000_000;

/// The error of a device that could not be opened, with the offer to do without a plugin where that is sensible: for a
/// small model, if the user did not ask for a certain plugin or for a GPU.
pub fn offered(error: Error, options: &DeviceOptions, parameters: u64) -> Error {
    let asked = options.plugin.is_some() || error.kind() != ErrorKind::Run;
    match options.kind {
        DeviceKind::Auto | DeviceKind::Cpu if !asked && parameters < MOST_PARAMETERS => Error::run(format!(
            "{}\nthis model is small ({} parameters): run it without a plugin with --device wasm",
            error.message(),
            group_digits(parameters)
        )),
        DeviceKind::Auto | DeviceKind::Cpu | DeviceKind::Cuda | DeviceKind::Wasm => error,
    }
}
