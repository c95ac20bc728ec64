//! Sorting lines of memory: runs that are in order are merged, from one element on, which keeps equal ones in order.

use lmc_graph::DType;
use lmc_graph::ops::SortDirection;
use wasm_encoder::{BlockType, MemArg, ValType};

use super::code::{Code, at, i32_of};
use super::memory::address_of;
use super::nest::Addresses;
use super::reduce::Sorting;

impl Sorting {
    /// Writes the sort.
    pub(super) fn emit(&self, code: &mut Code, addresses: &Addresses) {
        if self.length < 2 || self.before == 0 || self.behind == 0 {
            return;
        }
        let bases: Vec<[u32; 2]> = self
            .operands
            .iter()
            .map(|(place, room, _)| [address_of(code, place, 0, addresses), address_of(code, room, 0, addresses)])
            .collect();
        let (row, column) = (code.local(ValType::I32), code.local(ValType::I32));
        code.begin_for(row, 0);
        code.begin_for(column, 0);
        // Where the line begins in both of each tensor's memories.
        code.i().local_get(row).i32_const(i32_of(self.length * self.behind)).i32_mul().local_get(column).i32_add();
        let line = code.set_new(ValType::I32);
        let lines: Vec<[u32; 2]> = bases
            .iter()
            .zip(&self.operands)
            .map(|(bases, &(_, _, dtype))| {
                bases.map(|base| {
                    code.i().local_get(line).i32_const(i32_of(dtype.size())).i32_mul().local_get(base).i32_add();
                    code.set_new(ValType::I32)
                })
            })
            .collect();
        let swapped = code.local(ValType::I32);
        code.i().i32_const(0).local_set(swapped);
        let width = code.local(ValType::I32);
        code.i().i32_const(1).local_set(width);
        code.i().loop_(BlockType::Empty);
        self.pass(code, &lines, width);
        for &[from, to] in &lines {
            code.i().local_get(from).local_get(to).local_set(from).local_set(to);
        }
        code.i().local_get(swapped).i32_const(1).i32_xor().local_set(swapped);
        code.i().local_get(width).i32_const(1).i32_shl().local_tee(width);
        code.i().i32_const(i32_of(self.length)).i32_lt_u().br_if(0).end();
        // After an odd number of passes the line lies in the other memory.
        code.i().local_get(swapped).if_(BlockType::Empty);
        let i = code.local(ValType::I32);
        code.begin_for(i, 0);
        self.move_elements(code, &lines, i, i);
        code.end_for(i, self.length, 1);
        code.i().end();
        code.end_for(column, self.behind, 1);
        code.end_for(row, self.before, 1);
    }

    /// Merges runs of `width` elements in pairs.
    fn pass(&self, code: &mut Code, lines: &[[u32; 2]], width: u32) {
        let length = i32_of(self.length);
        let [low, middle, high, left, right, target] = std::array::from_fn(|_| code.local(ValType::I32));
        let limited = |code: &mut Code, local: u32| {
            code.i().local_get(local).i32_const(length).local_get(local).i32_const(length).i32_lt_u().select();
            code.i().local_set(local);
        };
        code.i().i32_const(0).local_set(low).loop_(BlockType::Empty);
        code.i().local_get(low).local_get(width).i32_add().local_tee(middle).local_get(width).i32_add().local_set(high);
        limited(code, middle);
        limited(code, high);
        code.i().local_get(low).local_tee(left).local_set(target).local_get(middle).local_set(right);
        code.i().loop_(BlockType::Empty);
        // The right one if there is one, and no left one or a greater (lesser) one.
        code.i().local_get(right).local_get(high).i32_lt_u().if_(BlockType::Result(ValType::I32));
        code.i().local_get(left).local_get(middle).i32_ge_u().if_(BlockType::Result(ValType::I32)).i32_const(1).else_();
        self.goes_first(code, lines[0][0], right, left);
        code.i().end().else_().i32_const(0).end();
        let takes_right = code.set_new(ValType::I32);
        code.i().local_get(right).local_get(left).local_get(takes_right).select();
        let source = code.set_new(ValType::I32);
        code.i().local_get(right).local_get(takes_right).i32_add().local_set(right);
        code.i().local_get(left).i32_const(1).i32_add().local_get(takes_right).i32_sub().local_set(left);
        self.move_elements(code, lines, source, target);
        code.i().local_get(target).i32_const(1).i32_add().local_tee(target).local_get(high).i32_lt_u().br_if(0).end();
        code.i().local_get(high).local_tee(low).i32_const(length).i32_lt_u().br_if(0).end();
    }

    /// Whether the key at `x` comes before the key at `y`.
    fn goes_first(&self, code: &mut Code, keys: u32, x: u32, y: u32) {
        let (_, _, dtype) = self.operands[0];
        for index in [x, y] {
            self.element(code, keys, index, dtype);
            key(code, dtype);
        }
        let signed = dtype.is_float() || dtype.is_signed_int();
        let mut i = code.i();
        match (self.direction, dtype.size() == 8, signed) {
            (SortDirection::Ascending, false, true) => i.i32_lt_s(),
            (SortDirection::Ascending, false, false) => i.i32_lt_u(),
            (SortDirection::Ascending, true, true) => i.i64_lt_s(),
            (SortDirection::Ascending, true, false) => i.i64_lt_u(),
            (SortDirection::Descending, false, true) => i.i32_gt_s(),
            (SortDirection::Descending, false, false) => i.i32_gt_u(),
            (SortDirection::Descending, true, true) => i.i64_gt_s(),
            (SortDirection::Descending, true, false) => i.i64_gt_u(),
        };
    }

    /// Pushes the address of an element.
    fn element(&self, code: &mut Code, line: u32, index: u32, dtype: DType) {
        code.i().local_get(index).i32_const(i32_of(self.behind * dtype.size())).i32_mul().local_get(line).i32_add();
    }

    /// Copies the elements at `source` to `target` in the other memory of each tensor.
    fn move_elements(&self, code: &mut Code, lines: &[[u32; 2]], source: u32, target: u32) {
        const HERE: fn() -> MemArg = || at(0);
        for (&[from, to], &(_, _, dtype)) in lines.iter().zip(&self.operands) {
            self.element(code, to, target, dtype);
            self.element(code, from, source, dtype);
            let mut i = code.i();
            match dtype.size() {
                1 => i.i32_load8_u(HERE()).i32_store8(HERE()),
                2 => i.i32_load16_u(HERE()).i32_store16(HERE()),
                4 => i.i32_load(HERE()).i32_store(HERE()),
                _ => i.i64_load(HERE()).i64_store(HERE()),
            };
        }
    }
}

/// The element at the address on the stack as an integer in its order. The bits of floats are, as signed integers, in the
/// total order of IEEE 754, once those of negative ones but the sign are turned.
fn key(code: &mut Code, dtype: DType) {
    match dtype {
        DType::Bool | DType::U8 => {
            code.i().i32_load8_u(at(0));
        }
        DType::I8 => {
            code.i().i32_load8_s(at(0));
        }
        DType::U16 => {
            code.i().i32_load16_u(at(0));
        }
        DType::I16 => {
            code.i().i32_load16_s(at(0));
        }
        DType::I32 | DType::U32 => {
            code.i().i32_load(at(0));
        }
        DType::I64 | DType::U64 => {
            code.i().i64_load(at(0));
        }
        DType::BF16 | DType::F16 | DType::F32 => {
            let mut i = code.i();
            if dtype == DType::F32 {
                i.i32_load(at(0))
            } else {
                i.i32_load16_s(at(0))
            };
            let bits = code.set_new(ValType::I32);
            code.i().local_get(bits).local_get(bits).i32_const(31).i32_shr_s().i32_const(i32::MAX).i32_and().i32_xor();
        }
        DType::F64 => {
            code.i().i64_load(at(0));
            let bits = code.set_new(ValType::I64);
            code.i().local_get(bits).local_get(bits).i64_const(63).i64_shr_s().i64_const(i64::MAX).i64_and().i64_xor();
        }
    }
}
