//! The instructions of one function while they are written.

use wasm_encoder::{BlockType, Function, InstructionSink, MemArg, MemArgTarget, ValType};

/// A function's instructions and locals.
#[derive(Debug, Default)]
pub(super) struct Code {
    bytes: Vec<u8>,
    num_params: u32,
    locals: Vec<ValType>,
}

impl Code {
    /// A function whose parameters are its first locals.
    pub(super) fn with_params(num_params: u32) -> Code {
        Code { num_params, ..Code::default() }
    }

    /// Where the next instruction goes.
    pub(super) fn i(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    /// A new local.
    pub(super) fn local(&mut self, ty: ValType) -> u32 {
        self.locals.push(ty);
        self.num_params + u32::try_from(self.locals.len() - 1).expect("a function has fewer than 2^32 locals")
    }

    /// Takes the top of the stack into a new local.
    pub(super) fn set_new(&mut self, ty: ValType) -> u32 {
        let local = self.local(ty);
        self.i().local_set(local);
        local
    }

    /// Begins a loop: what follows runs with `variable` at `start` first.
    pub(super) fn begin_for(&mut self, variable: u32, start: usize) {
        self.i().i32_const(i32_of(start)).local_set(variable).loop_(BlockType::Empty);
    }

    /// Ends a loop, which goes on with `variable` increased by `step` as long as that is below `end`.
    pub(super) fn end_for(&mut self, variable: u32, end: usize, step: usize) {
        self.i()
            .local_get(variable)
            .i32_const(i32_of(step))
            .i32_add()
            .local_tee(variable)
            .i32_const(i32_of(end))
            .i32_lt_u()
            .br_if(0)
            .end();
    }

    /// Runs `body` as long as `condition` leaves something else than 0 on the stack.
    pub(super) fn while_(&mut self, condition: impl FnOnce(&mut Code), body: impl FnOnce(&mut Code)) {
        self.i().block(BlockType::Empty).loop_(BlockType::Empty);
        condition(self);
        self.i().i32_eqz().br_if(1);
        body(self);
        self.i().br(0).end().end();
    }

    /// The finished function.
    pub(super) fn finish(mut self) -> Function {
        self.i().end();
        let mut function = Function::new_with_locals_types(self.locals);
        function.raw(self.bytes);
        function
    }
}

/// A size as a 32-bit constant.
pub(super) fn i32_of(x: usize) -> i32 {
    i32_of_address(x as u64)
}

/// An address as a 32-bit constant: from 2^31 on it is negative, which is the same bits.
pub(super) fn i32_of_address(x: u64) -> i32 {
    u32::try_from(x).expect("the memory is smaller than 4 GiB").cast_signed()
}

/// The address `offset` bytes behind another one.
///
/// # Panics
/// If it lies before the memory: a nest's first iteration, and a view's first element, are within a tensor.
pub(super) fn address_behind(address: u64, offset: i64) -> u64 {
    address.checked_add_signed(offset).expect("what is read and written lies in memory")
}

/// A load or store at a constant distance from an address, of unknown alignment.
pub(super) fn at(offset: u64) -> MemArg {
    MemArg { offset, align: 0, target: MemArgTarget::Memory(0), ordering: None }
}
