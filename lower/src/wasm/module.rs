//! The sections of a module.

use std::collections::HashMap;

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, FunctionSection, GlobalSection,
    GlobalType, MemorySection, MemoryType, NameMap, NameSection, TypeSection, ValType,
};

use super::code::{Code, at, i32_of, i32_of_address};
use super::functions::{Functions, Signature};
use super::layout::Layout;
use super::memory::address_of;
use super::nest::Addresses;
use super::plan::{Buffers, Kind};
use super::schedule::{Body, Task, Work};
use super::{Entry, Mode};

/// The bytes of a page of memory.
const PAGE: usize = 1 << 16;

/// The binary form of a module.
pub(super) fn encode(
    entries: &[Entry<'_>],
    scheduled: &[Vec<Task>],
    buffers: &Buffers,
    addresses: &Addresses,
    layout: &Layout,
    num_globals: u32,
    mode: Mode,
) -> Vec<u8> {
    let mut functions = Functions::default();
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    let mut separate = HashMap::new();
    for (entry, tasks) in entries.iter().zip(scheduled) {
        let mut writer =
            TaskWriter { entry: &entry.name, functions: &mut functions, addresses, indices: &mut separate };
        let indices = writer.tasks(tasks);
        let mut code = Code::default();
        calls(&mut code, &indices);
        let index = functions.push(entry.name.clone(), code);
        exports.export(&entry.name, ExportKind::Func, index);
    }
    if mode == Mode::Separate {
        for group in layout.groups.iter().filter(|group| separate.contains_key(&group.name)) {
            exports.export(&group.name, ExportKind::Func, separate[&group.name]);
        }
    }
    let mut module = wasm_encoder::Module::new();
    let mut types = TypeSection::new();
    let mut signatures: Vec<Signature> = Vec::new();
    let (mut declared, mut bodies, mut names) = (FunctionSection::new(), CodeSection::new(), NameMap::new());
    for (index, (name, signature, body)) in (0..).zip(&functions.finished) {
        let ty = signatures.iter().position(|known| known == signature).unwrap_or_else(|| {
            match signature {
                Signature::Nothing => types.ty().function([], []),
                Signature::Floats(n) => types.ty().function(vec![ValType::F64; *n], [ValType::F64]),
                Signature::Integers => types.ty().function([ValType::I64; 3], [ValType::I64]),
            }
            signatures.push(*signature);
            signatures.len() - 1
        });
        declared.function(u32::try_from(ty).expect("there are few types"));
        bodies.function(body);
        names.append(index, name);
    }
    let mut memories = MemorySection::new();
    let pages = layout.memory_bytes.div_ceil(PAGE) as u64;
    memories.memory(MemoryType { minimum: pages, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut globals = GlobalSection::new();
    for _ in 0..num_globals {
        let counter = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
        globals.global(counter, &ConstExpr::i32_const(0));
    }
    let mut data = DataSection::new();
    for (buffer, &address) in buffers.all.iter().zip(addresses) {
        if let Kind::Constant(value) = &buffer.kind {
            let address = ConstExpr::i32_const(i32_of_address(address));
            data.active(0, &address, value.bytes().iter().copied());
        }
    }
    module.section(&types).section(&declared).section(&memories);
    if num_globals > 0 {
        module.section(&globals);
    }
    module.section(&exports).section(&bodies);
    if !data.is_empty() {
        module.section(&data);
    }
    let mut name_section = NameSection::new();
    name_section.functions(&names);
    module.section(&name_section);
    module.finish()
}

/// Writes the functions of an entry's tasks.
struct TaskWriter<'a> {
    entry: &'a str,
    functions: &'a mut Functions,
    addresses: &'a Addresses,
    /// The index of each function by its name.
    indices: &'a mut HashMap<String, u32>,
}

impl TaskWriter<'_> {
    fn tasks(&mut self, tasks: &[Task]) -> Vec<u32> {
        tasks.iter().map(|task| self.task(task)).collect()
    }

    fn task(&mut self, task: &Task) -> u32 {
        let mut code = Code::default();
        match &task.body {
            Body::Group(work) => work.iter().for_each(|work| self.work(&mut code, work)),
            Body::Repeat { global, length, reverse, tasks } => {
                let indices = self.tasks(tasks);
                let count = code.local(ValType::I32);
                code.begin_for(count, 0);
                if *reverse {
                    code.i().i32_const(i32_of(length - 1)).local_get(count).i32_sub().global_set(*global);
                } else {
                    code.i().local_get(count).global_set(*global);
                }
                calls(&mut code, &indices);
                code.end_for(count, *length, 1);
            }
            Body::While { condition, holds, tasks } => {
                let (condition, body) = (self.tasks(condition), self.tasks(tasks));
                let holds = address_of(&mut code, holds, 0, self.addresses);
                code.while_(
                    |code| {
                        calls(code, &condition);
                        code.i().local_get(holds).i32_load8_u(at(0));
                    },
                    |code| calls(code, &body),
                );
            }
            Body::If { holds, on_true, on_false } => {
                let (on_true, on_false) = (self.tasks(on_true), self.tasks(on_false));
                let holds = address_of(&mut code, holds, 0, self.addresses);
                code.i().local_get(holds).i32_load8_u(at(0)).if_(BlockType::Empty);
                calls(&mut code, &on_true);
                code.i().else_();
                calls(&mut code, &on_false);
                code.i().end();
            }
        }
        let name = format!("{}/{}", self.entry, task.name);
        let index = self.functions.push(name.clone(), code);
        self.indices.insert(name, index);
        index
    }

    fn work(&mut self, code: &mut Code, work: &Work) {
        match work {
            Work::Nest(nest) => nest.emit(code, self.functions, self.addresses),
            Work::Product(product) => product.emit(code, self.addresses),
            Work::Sorting(sorting) => sorting.emit(code, self.addresses),
            Work::Bits(bits) => bits.emit(code, self.addresses),
        }
    }
}

fn calls(code: &mut Code, indices: &[u32]) {
    indices.iter().for_each(|&index| {
        code.i().call(index);
    });
}
