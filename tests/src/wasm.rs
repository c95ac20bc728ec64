//! Functions through WebAssembly, and the group that went wrong where one did.

use lmc::wasm::Instance;
use lmc_graph::{Func, Literal, ValueId, eval};
use lmc_lower::wasm::{Entry, Mode, Module, lower};

use crate::check::{self, Tolerance};

/// A function as the one entry of a module: `main`, with slots `in0`, … and `out0`, ….
///
/// # Errors
/// Why it does not lower.
pub fn module(func: &Func, mode: Mode) -> Result<Module, String> {
    let slots = |what: &str, count: usize| (0..count).map(|i| format!("{what}{i}")).collect();
    let (inputs, results) = (slots("in", func.params.len()), slots("out", func.result_values().len()));
    lower(&[Entry { name: "main".into(), func, inputs, results }], mode).map_err(|error| error.to_string())
}

/// What a module of one function returns for these arguments.
///
/// # Errors
/// What the interpreter says.
pub fn execute(module: &Module, args: &[Literal]) -> Result<Vec<Literal>, String> {
    let instance = run(module, args)?;
    let results = &instance.layout().entries[0].results;
    results.iter().map(|slot| instance.read(slot).map_err(text)).collect()
}

fn run(module: &Module, args: &[Literal]) -> Result<Instance, String> {
    let mut instance = Instance::new(module).map_err(text)?;
    for (i, arg) in args.iter().enumerate() {
        instance.write(&format!("in{i}"), arg).map_err(text)?;
    }
    instance.call("main").map_err(text)?;
    Ok(instance)
}

/// The first group whose value is not the evaluator's, with what differs.
///
/// # Errors
/// What the interpreter or the evaluator say.
pub fn wrong_group(func: &Func, args: &[Literal], tolerance: Tolerance) -> Result<Option<String>, String> {
    let module = module(func, Mode::Separate)?;
    let instance = run(&module, args)?;
    let mut flat = module.flat[0].clone();
    // Values within loops are others in every iteration.
    let groups: Vec<_> = module.layout.groups.iter().filter(|group| group.depth == 0).collect();
    let values: Vec<ValueId> = groups.iter().flat_map(|group| group.values.iter().map(|(value, ..)| *value)).collect();
    flat.set_results(flat.body(), values);
    let expected = eval(&flat, args).map_err(text)?;
    let found = groups.iter().flat_map(|group| group.values.iter().map(move |value| (group, value)));
    for ((group, (value, ty, offset)), expected) in found.zip(&expected) {
        let found = instance.read_at(ty, *offset).map_err(text)?;
        if let Err(reason) = check::compare_one(&found, expected, tolerance) {
            return Ok(Some(format!("{} ({}), {value}: {reason}", group.name, group.ops.join(", "))));
        }
    }
    Ok(None)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
