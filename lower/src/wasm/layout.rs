//! What a module's user has to know: where tensors lie, and what its groups compute.

use std::fmt;

use lmc_graph::{Location, TensorType, ValueId};

/// A tensor in a module's memory: row-major and little-endian, a boolean a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The slot's name.
    pub name: String,
    /// The type.
    pub ty: TensorType,
    /// The address of the first byte.
    pub offset: usize,
}

/// A function that a module exports: it takes and returns nothing, its tensors lie in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryLayout {
    /// The function's name.
    pub name: String,
    /// The slots that it reads.
    pub inputs: Vec<String>,
    /// The slots that it writes.
    pub results: Vec<String>,
}

/// Ops that are computed together, in a function of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The entry that it belongs to.
    pub entry: String,
    /// The function's name in the module's name section: the scope, the op, and a number. The name of the export in a
    /// module whose groups are [separate](crate::wasm::Mode::Separate).
    pub name: String,
    /// Where the model made the op that the group is for.
    pub location: Location,
    /// The names of the ops, that one first.
    pub ops: Vec<&'static str>,
    /// Operations of its products, in one run.
    pub flops: u64,
    /// Bytes of the tensors of the op that the group is for.
    pub bytes: u64,
    /// How often it runs in a run of the entry; `None` where data decide.
    pub times: Option<u64>,
    /// Loops and branches around it: 0 for one that the entry runs itself.
    pub depth: usize,
    /// What it computes, in the entry's [flat function](crate::wasm::Module::flat): values, their types and addresses.
    pub values: Vec<(ValueId, TensorType, usize)>,
}

/// What a module's user has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The bytes of memory that the module uses.
    pub memory_bytes: usize,
    /// The slots.
    pub tensors: Vec<Tensor>,
    /// The functions to call.
    pub entries: Vec<EntryLayout>,
    /// The groups of all entries, in the order in which they run.
    pub groups: Vec<Group>,
}

impl Layout {
    /// The slot with a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// How a module came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For each entry its name, the number of its groups, and the operations of its products in one run where they are
    /// known.
    pub entries: Vec<(String, usize, u64)>,
    /// Bytes of the tensors that the host reads and writes.
    pub slot_bytes: usize,
    /// Bytes of constants.
    pub constant_bytes: usize,
    /// Bytes that all values in memory would take together.
    pub value_bytes: usize,
    /// Bytes of memory in all.
    pub memory_bytes: usize,
    /// Bytes of the module.
    pub module_bytes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, groups, flops) in &self.entries {
            writeln!(f, "{name}: {groups} groups, {flops} operations of products")?;
        }
        let shared = self.memory_bytes.saturating_sub(self.slot_bytes + self.constant_bytes);
        writeln!(
            f,
            "memory: {} bytes; tensors of the host {}, constants {}, values {} in {}",
            self.memory_bytes, self.slot_bytes, self.constant_bytes, self.value_bytes, shared
        )?;
        write!(f, "module: {} bytes", self.module_bytes)
    }
}
