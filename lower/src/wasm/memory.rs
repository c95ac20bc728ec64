//! Loads and stores of elements, alone or four side by side.

use lmc_graph::DType;
use wasm_encoder::ValType;

use super::code::{Code, address_behind, at, i32_of_address};
use super::expr::Place;
use super::lanes::{Class, Lanes, class};
use super::nest::Addresses;

/// The address `constant` bytes behind a place, in a new local.
pub(super) fn address_of(code: &mut Code, place: &Place, constant: i64, addresses: &Addresses) -> u32 {
    let begin = address_behind(addresses[place.buffer], place.offset + constant);
    code.i().i32_const(i32_of_address(begin));
    for &(global, stride) in &place.iterations {
        code.i().global_get(global).i32_const(stride as i32).i32_mul().i32_add();
    }
    code.set_new(ValType::I32)
}

/// An address: what a local holds, if anything, and a constant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer {
    /// The part that is computed.
    pub(super) base: Option<u32>,
    /// The constant part.
    pub(super) offset: u64,
}

impl Pointer {
    fn push(self, lanes: &mut Lanes<'_>) {
        match self.base {
            Some(local) => lanes.code.i().local_get(local),
            None => lanes.code.i().i32_const(0),
        };
    }
}

impl Lanes<'_> {
    /// Pushes the element at a pointer as a scalar.
    pub(super) fn load(&mut self, dtype: DType, pointer: Pointer) {
        pointer.push(self);
        let offset = at(pointer.offset);
        let vector = std::mem::replace(&mut self.vector, false);
        match dtype {
            DType::Bool | DType::U8 => {
                self.code.i().i32_load8_u(offset);
            }
            DType::I8 => {
                self.code.i().i32_load8_s(offset);
            }
            DType::I16 => {
                self.code.i().i32_load16_s(offset);
            }
            DType::U16 => {
                self.code.i().i32_load16_u(offset);
            }
            DType::I32 | DType::U32 => {
                self.code.i().i32_load(offset);
            }
            DType::I64 | DType::U64 => {
                self.code.i().i64_load(offset);
            }
            DType::BF16 => {
                self.code.i().i32_load16_u(offset);
                self.shift_left(16);
                self.float_of_bits();
            }
            DType::F16 => {
                self.code.i().i32_load16_u(offset);
                self.f16_of_bits();
            }
            DType::F32 => {
                self.code.i().f32_load(offset);
            }
            DType::F64 => {
                self.code.i().f64_load(offset);
            }
        }
        self.vector = vector;
    }

    /// Pushes four neighbours. What lies behind the tensor may be read: memory has room there.
    pub(super) fn load_lanes(&mut self, dtype: DType, pointer: Pointer) {
        pointer.push(self);
        let offset = at(pointer.offset);
        let mut i = self.code.i();
        match dtype {
            DType::Bool => {
                i.v128_load32_zero(offset).i16x8_extend_low_i8x16_u().i32x4_extend_low_i16x8_u().i32x4_neg();
            }
            DType::U8 => {
                i.v128_load32_zero(offset).i16x8_extend_low_i8x16_u().i32x4_extend_low_i16x8_u();
            }
            DType::I8 => {
                i.v128_load32_zero(offset).i16x8_extend_low_i8x16_s().i32x4_extend_low_i16x8_s();
            }
            DType::U16 => {
                i.v128_load16x4_u(offset);
            }
            DType::I16 => {
                i.v128_load16x4_s(offset);
            }
            DType::I32 | DType::U32 | DType::F32 => {
                i.v128_load(offset);
            }
            DType::BF16 => {
                i.v128_load16x4_u(offset);
                self.shift_left(16);
            }
            DType::F16 => {
                i.v128_load16x4_u(offset);
                self.f16_of_bits();
            }
            DType::I64 | DType::U64 | DType::F64 => unreachable!("{dtype} has no lanes"),
        }
    }

    /// Pushes lanes whose scalars `load` pushes, the first `valid` of four.
    pub(super) fn gather_lanes(&mut self, dtype: DType, valid: usize, mut load: impl FnMut(&mut Self, u8)) {
        self.code.i().v128_const(0);
        for lane in 0..valid as u8 {
            load(self, lane);
            match class(dtype) {
                Class::F32 => self.code.i().f32x4_replace_lane(lane),
                Class::I32 | Class::I64 | Class::F64 => self.code.i().i32x4_replace_lane(lane),
            };
        }
        if dtype == DType::Bool {
            self.code.i().i32x4_neg();
        }
    }

    /// Stores the scalar in a local as an element.
    pub(super) fn store(&mut self, dtype: DType, pointer: Pointer, value: u32) {
        pointer.push(self);
        self.code.i().local_get(value);
        let offset = at(pointer.offset);
        let vector = std::mem::replace(&mut self.vector, false);
        match dtype {
            DType::Bool | DType::I8 | DType::U8 => {
                self.code.i().i32_store8(offset);
            }
            DType::I16 | DType::U16 => {
                self.code.i().i32_store16(offset);
            }
            DType::I32 | DType::U32 => {
                self.code.i().i32_store(offset);
            }
            DType::I64 | DType::U64 => {
                self.code.i().i64_store(offset);
            }
            DType::BF16 | DType::F16 => {
                self.round(dtype);
                self.narrow_bits(dtype);
                self.code.i().i32_store16(offset);
            }
            DType::F32 => {
                self.code.i().f32_store(offset);
            }
            DType::F64 => {
                self.code.i().f64_store(offset);
            }
        }
        self.vector = vector;
    }

    /// Stores the first `valid` lanes of a local as neighbours.
    pub(super) fn store_lanes(&mut self, dtype: DType, pointer: Pointer, value: u32, valid: usize) {
        let packed = self.pack(dtype, value);
        let size = dtype.size();
        if valid == 4 {
            pointer.push(self);
            self.code.i().local_get(packed);
            match size {
                4 => self.code.i().v128_store(at(pointer.offset)),
                2 => self.code.i().v128_store64_lane(at(pointer.offset), 0),
                _ => self.code.i().v128_store32_lane(at(pointer.offset), 0),
            };
            return;
        }
        for lane in 0..valid as u8 {
            let offset = at(pointer.offset + u64::from(lane) * size as u64);
            self.store_lane(size, pointer.base, offset, packed, lane);
        }
    }

    /// Stores the first `valid` lanes of a local as elements `stride` bytes apart.
    pub(super) fn scatter_lanes(&mut self, dtype: DType, pointer: Pointer, value: u32, valid: usize, stride: u64) {
        let packed = self.pack(dtype, value);
        for lane in 0..valid as u8 {
            let offset = at(pointer.offset + u64::from(lane) * stride);
            self.store_lane(dtype.size(), pointer.base, offset, packed, lane);
        }
    }

    fn store_lane(&mut self, size: usize, base: Option<u32>, offset: wasm_encoder::MemArg, packed: u32, lane: u8) {
        Pointer { base, offset: 0 }.push(self);
        let mut i = self.code.i();
        i.local_get(packed);
        match size {
            4 => i.v128_store32_lane(offset, lane),
            2 => i.v128_store16_lane(offset, lane),
            _ => i.v128_store8_lane(offset, lane),
        };
    }

    /// Lanes as they lie in memory, next to each other from the first byte.
    fn pack(&mut self, dtype: DType, value: u32) -> u32 {
        if dtype.size() == 4 {
            return value;
        }
        self.code.i().local_get(value);
        match dtype {
            DType::Bool | DType::I8 | DType::U8 => {
                let mut i = self.code.i();
                if dtype == DType::Bool {
                    i.i32x4_neg();
                } else {
                    i.v128_const(0x0000_00ff_0000_00ff_0000_00ff_0000_00ff).v128_and();
                }
                let words = self.code.set_new(ValType::V128);
                self.code.i().local_get(words).local_get(words).i16x8_narrow_i32x4_u();
                let halves = self.code.set_new(ValType::V128);
                self.code.i().local_get(halves).local_get(halves).i8x16_narrow_i16x8_u();
            }
            DType::I16 | DType::U16 => self.halves(),
            DType::BF16 | DType::F16 => {
                self.round(dtype);
                self.narrow_bits(dtype);
                self.halves();
            }
            DType::I32 | DType::U32 | DType::F32 | DType::I64 | DType::U64 | DType::F64 => {
                unreachable!("{dtype} has no narrow lanes")
            }
        }
        self.code.set_new(ValType::V128)
    }

    /// The lower halves of the lanes on the stack, next to each other.
    fn halves(&mut self) {
        self.code.i().v128_const(0x0000_ffff_0000_ffff_0000_ffff_0000_ffff).v128_and();
        let words = self.code.set_new(ValType::V128);
        self.code.i().local_get(words).local_get(words).i16x8_narrow_i32x4_u();
    }
}
