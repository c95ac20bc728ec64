//! The instructions of loop nests that touch memory: indices, addresses, loads and stores.
//!
//! Addresses are sums of loop variables, which count in bytes where that saves a multiplication.

use wasm_encoder::{BlockType, ValType};

use lmc_graph::DType;

use super::affine::{Affine, i64_of};
use super::code::{address_behind, i32_of_address};
use super::expr::{Address, Expr, Id};
use super::lanes::{Class, class};
use super::loops::Writer;
use super::memory::Pointer;
use super::nest::{Nest, Store};

impl Writer<'_> {
    /// Pushes an index.
    pub(super) fn index(&mut self, index: &Affine, varies: bool) {
        let constant = |x: i64| i32::try_from(x).unwrap_or(i32::MAX);
        self.code.i().i32_const(constant(index.constant));
        for (l, &coefficient) in index.coefficients.iter().enumerate() {
            if coefficient == 0 {
                continue;
            }
            let (variable, scale) = self.variables[l];
            let mut i = self.code.i();
            i.local_get(variable);
            if coefficient % scale == 0 {
                i.i32_const(constant(coefficient / scale)).i32_mul();
            } else {
                i.i32_const(constant(scale)).i32_div_u().i32_const(constant(coefficient)).i32_mul();
            }
            i.i32_add();
        }
        if varies {
            let step = index.coefficients[self.vector.expect("only lanes vary")];
            let lane = |lane: i64| i128::from(constant(step * lane).cast_unsigned());
            let steps = lane(0) | lane(1) << 32 | lane(2) << 64 | lane(3) << 96;
            self.code.i().i32x4_splat().v128_const(steps).i32x4_add();
        }
    }

    /// Pushes an element, or four.
    pub(super) fn load(&mut self, address: &Address, dtype: DType, varies: bool) {
        if !varies {
            let pointer = self.pointer(address);
            self.lanes(false).load(dtype, pointer);
            return;
        }
        let l = self.vector.expect("only lanes vary");
        let stride = address.index.coefficients[l];
        let valid = self.valid;
        if let Some(offset) = address.offset
            && self.varies[offset]
        {
            let offsets = self.operand(offset, true);
            let without = Address { offset: None, ..address.clone() };
            let pointer = self.pointer(&without);
            let mut lanes = self.lanes(true);
            let offsets = lanes.local_of(offsets, Class::I32);
            lanes.gather_lanes(dtype, valid, |lanes, lane| {
                let mut i = lanes.code.i();
                i.local_get(offsets).i32x4_extract_lane(lane);
                if let Some(base) = pointer.base {
                    i.local_get(base).i32_add();
                }
                i.i32_const(constant_i32(stride * i64::from(lane))).i32_add();
                let base = Some(lanes.code.set_new(ValType::I32));
                lanes.load(dtype, Pointer { base, ..pointer });
            });
            return;
        }
        let pointer = self.pointer(address);
        let mut lanes = self.lanes(true);
        if stride == i64_of(dtype.size()) {
            lanes.load_lanes(dtype, pointer);
            return;
        }
        lanes.gather_lanes(dtype, valid, |lanes, lane| {
            let by = stride * i64::from(lane);
            match u64::try_from(by) {
                Ok(by) => lanes.load(dtype, Pointer { offset: pointer.offset + by, ..pointer }),
                Err(_) => {
                    let base = pointer.base.expect("a loop that goes backwards has its offset in a local");
                    lanes.code.i().local_get(base).i32_const(constant_i32(by)).i32_add();
                    let base = Some(lanes.code.set_new(ValType::I32));
                    lanes.load(dtype, Pointer { base, ..pointer });
                }
            }
        });
    }

    pub(super) fn store(&mut self, value: Id, vector: bool) {
        let dtype = self.nest.dag.dtype(value);
        let operand = self.operand(value, vector);
        let local = self.lanes(vector).local_of(operand, class(dtype));
        self.store_local(local, vector);
    }

    pub(super) fn store_local(&mut self, value: u32, vector: bool) {
        let Store { address, dtype, guard, .. } = &self.nest.store;
        if let Some(guard) = *guard {
            let guard = self.operand(guard, false);
            let mut lanes = self.lanes(false);
            lanes.get(guard);
            lanes.code.i().if_(BlockType::Empty);
        }
        let pointer = self.pointer(address);
        let valid = self.valid;
        if vector {
            let stride = address.index.coefficients[self.vector.expect("lanes come from a loop")];
            if stride == i64_of(dtype.size()) {
                self.lanes(true).store_lanes(*dtype, pointer, value, valid);
            } else {
                let stride = u64::try_from(stride).expect("results are written forwards");
                self.lanes(true).scatter_lanes(*dtype, pointer, value, valid, stride);
            }
        } else {
            self.lanes(false).store(*dtype, pointer, value);
        }
        if guard.is_some() {
            self.code.i().end();
        }
    }

    /// Where an address points, in all loops that it depends on.
    fn pointer(&mut self, address: &Address) -> Pointer {
        let depth = address.index.depth().max(address.offset.map_or(0, |offset| self.depths[offset]));
        let base = self.offset(address, depth);
        let constant = self.constant(address);
        Pointer { base, offset: if self.is_folded(address) { 0 } else { constant } }
    }

    fn constant(&self, address: &Address) -> u64 {
        address_behind(self.addresses[address.place.buffer], address.place.offset + address.index.constant)
    }

    /// Whether the constant part belongs to the computed one, which could be negative without it.
    fn is_folded(&self, address: &Address) -> bool {
        address.index.coefficients.iter().any(|&coefficient| coefficient < 0)
            || address.place.iterations.iter().any(|&(_, stride)| stride < 0)
    }

    /// The computed part of an address as far as `l` loops fix it.
    pub(super) fn offset(&mut self, address: &Address, l: usize) -> Option<u32> {
        let folded = self.is_folded(address);
        let mut coefficients = address.index.coefficients[..l].to_vec();
        while coefficients.last() == Some(&0) {
            coefficients.pop();
        }
        if folded {
            // Together with its constant it is like no other.
            coefficients.push(i64::MIN);
            coefficients.push(self.constant(address).cast_signed());
        }
        let computed = address.offset.filter(|&offset| self.depths[offset] <= l);
        let key = (address.place.iterations.clone(), computed, coefficients);
        if let Some(&known) = self.known.offsets.get(&key) {
            return known;
        }
        let local = self.sum(address, l, folded, computed);
        self.known.offsets.insert(key, local);
        local
    }

    fn sum(&mut self, address: &Address, l: usize, folded: bool, computed: Option<Id>) -> Option<u32> {
        // What one loop less fixes, and what that loop adds.
        if l > 0 && computed.is_none_or(|offset| self.depths[offset] < l) {
            let before = self.offset(address, l - 1);
            let coefficient = address.index.coefficients[l - 1];
            if coefficient == 0 {
                return before;
            }
            let (variable, scale) = self.variables[l - 1];
            if before.is_none() && coefficient == scale {
                return Some(variable);
            }
            let mut i = self.code.i();
            i.local_get(variable);
            if coefficient != scale {
                i.i32_const(constant_i32(coefficient / scale)).i32_mul();
            }
            if let Some(before) = before {
                i.local_get(before).i32_add();
            }
            return Some(self.code.set_new(ValType::I32));
        }
        if let Some(computed) = computed {
            let without = Address { offset: None, ..address.clone() };
            let before = self.offset(&without, l);
            let offset = self.operand(computed, false);
            self.lanes(false).get(offset);
            if let Some(before) = before {
                self.code.i().local_get(before).i32_add();
            }
            return Some(self.code.set_new(ValType::I32));
        }
        if !folded && address.place.iterations.is_empty() {
            return None;
        }
        let constant = if folded { self.constant(address) } else { 0 };
        let mut i = self.code.i();
        i.i32_const(i32_of_address(constant));
        for &(global, stride) in &address.place.iterations {
            i.global_get(global).i32_const(constant_i32(stride)).i32_mul().i32_add();
        }
        Some(self.code.set_new(ValType::I32))
    }
}

/// Every address that a nest needs.
pub(super) fn addresses_of(nest: &Nest, needed: &[bool]) -> Vec<Address> {
    let loads = nest.dag.nodes.iter().zip(needed).filter(|(_, needed)| **needed);
    let loads = loads.filter_map(|(node, _)| match &node.expr {
        Expr::Load { address, .. } => Some(address.clone()),
        Expr::Constant(_)
        | Expr::Index(_)
        | Expr::Unary(..)
        | Expr::Binary(..)
        | Expr::Compare(..)
        | Expr::Select(..)
        | Expr::Convert(_)
        | Expr::Bitcast(_)
        | Expr::Round(_) => None,
    });
    std::iter::once(nest.store.address.clone()).chain(loads).collect()
}

fn constant_i32(x: i64) -> i32 {
    x as i32
}
