//! The instructions of loop nests: loops, and the expressions in them; `accesses` has those that touch memory.
//!
//! An expression is computed in the outermost loop that it allows, so that what a loop does not change is not computed
//! in it.

use std::collections::HashMap;

use lmc_graph::DType;
use lmc_graph::ops::BinaryOp;
use wasm_encoder::ValType;

use super::accesses::addresses_of;
use super::code::{Code, i32_of};
use super::expr::{Expr, Id};
use super::functions::Functions;
use super::lanes::{Class, Lanes, Operand, class};
use super::nest::{Addresses, Nest, Reduction};

/// Offsets of an address: what enclosing loops' iterations add, a computed offset, and loop variables' coefficients.
pub(super) type OffsetKey = (Vec<(u32, i64)>, Option<Id>, Vec<i64>);

/// What is known at a place of the nest.
#[derive(Clone, Default)]
pub(super) struct Known {
    values: HashMap<Id, Operand>,
    splats: HashMap<Id, u32>,
    pub(super) offsets: HashMap<OffsetKey, Option<u32>>,
}

pub(super) struct Writer<'a> {
    pub(super) nest: &'a Nest,
    pub(super) code: &'a mut Code,
    functions: &'a mut Functions,
    pub(super) addresses: &'a Addresses,
    /// The loop computed four iterations at a time.
    pub(super) vector: Option<usize>,
    pub(super) depths: Vec<usize>,
    needed: Vec<bool>,
    pub(super) varies: Vec<bool>,
    /// Whether something that varies needs it.
    splat: Vec<bool>,
    /// For each loop its variable, and what an iteration adds to it.
    pub(super) variables: Vec<(u32, i64)>,
    pub(super) known: Known,
    /// The lanes that count.
    pub(super) valid: usize,
    accumulator: Option<u32>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        nest: &'a Nest,
        vector: Option<usize>,
        code: &'a mut Code,
        functions: &'a mut Functions,
        addresses: &'a Addresses,
    ) -> Writer<'a> {
        let (needed, depths) = (nest.needed(), nest.dag.depths());
        let varies = vector.map_or_else(|| vec![false; needed.len()], |l| nest.varying(l));
        let mut splat = vec![false; needed.len()];
        for id in (0..needed.len()).filter(|&id| needed[id] && varies[id]) {
            for x in nest.dag.nodes[id].expr.operands() {
                splat[x] |= !varies[x];
            }
        }
        if vector.is_some() {
            splat[nest.store.value] |= !varies[nest.store.value];
        }
        let mut scales = vec![0; nest.dag.loops.len()];
        for address in addresses_of(nest, &needed) {
            for (scale, &coefficient) in scales.iter_mut().zip(&address.index.coefficients) {
                *scale = greatest_common_divisor(*scale, coefficient.unsigned_abs());
            }
        }
        let variables = scales
            .into_iter()
            .map(|scale| (code.local(ValType::I32), i64::try_from(scale.max(1)).unwrap_or(1)))
            .collect();
        let known = Known::default();
        let accumulator = None;
        Writer {
            nest,
            code,
            functions,
            addresses,
            vector,
            depths,
            needed,
            varies,
            splat,
            variables,
            known,
            valid: 4,
            accumulator,
        }
    }

    pub(super) fn lanes(&mut self, vector: bool) -> Lanes<'_> {
        Lanes { code: self.code, functions: self.functions, vector }
    }

    /// What is done inside the first `l` loops, the others included.
    pub(super) fn level(&mut self, l: usize) {
        let num_outer = self.nest.num_outer();
        self.prologue(l);
        if l == num_outer
            && let Some(reduction) = self.nest.reduction
            && self.accumulator.is_none()
        {
            self.reduce(l, reduction);
            return;
        }
        if l < self.nest.dag.loops.len() {
            return self.run(l);
        }
        match self.nest.reduction {
            Some(reduction) => self.accumulate(reduction),
            None => self.store(self.nest.store.value, self.vector.is_some()),
        }
    }

    /// Runs loop `l`.
    fn run(&mut self, l: usize) {
        let (variable, scale) = self.variables[l];
        let scale = usize::try_from(scale).expect("scales are positive");
        let size = self.nest.dag.loops[l];
        if self.vector != Some(l) {
            let saved = self.known.clone();
            self.each(variable, 0..size * scale, scale, l);
            self.known = saved;
            return;
        }
        let whole = size / 4 * 4;
        if whole > 0 {
            let saved = self.known.clone();
            self.each(variable, 0..whole * scale, 4 * scale, l);
            self.known = saved;
        }
        if whole < size {
            let saved = self.known.clone();
            self.valid = size - whole;
            self.code.i().i32_const(i32_of(whole * scale)).local_set(variable);
            self.level(l + 1);
            self.valid = 4;
            self.known = saved;
        }
    }

    fn each(&mut self, variable: u32, range: std::ops::Range<usize>, step: usize, l: usize) {
        // A loop that runs once is none.
        if range.len() <= step {
            self.code.i().i32_const(i32_of(range.start)).local_set(variable);
            self.level(l + 1);
            return;
        }
        self.code.begin_for(variable, range.start);
        self.level(l + 1);
        self.code.end_for(variable, range.end, step);
    }

    /// Combines the values of the inner loops, and stores the outcome.
    fn reduce(&mut self, l: usize, reduction: Reduction) {
        let vector = self.vector.is_some();
        let dtype = self.nest.dag.dtype(reduction.neutral);
        let class = class(dtype);
        let neutral = self.nest.dag.nodes[reduction.neutral].expr.clone();
        let Expr::Constant(bits) = neutral else { unreachable!("a reduction begins with a constant") };
        let mut lanes = self.lanes(vector);
        lanes.constant(dtype, bits);
        let accumulator = lanes.set(class);
        self.accumulator = Some(accumulator);
        self.run(l);
        self.accumulator = None;
        let along = vector && self.vector >= Some(l);
        let result = if along { self.across_lanes(reduction.op, dtype, accumulator) } else { accumulator };
        self.store_local(result, vector && !along);
    }

    /// One value from the four lanes of an accumulator.
    fn across_lanes(&mut self, op: BinaryOp, dtype: DType, accumulator: u32) -> u32 {
        let mut lanes = self.lanes(true);
        for shift in [8_u8, 4] {
            // The upper half, then the second lane, over the first ones.
            let bytes: [u8; 16] = std::array::from_fn(|i| (i as u8 + shift) % 16);
            lanes.code.i().local_get(accumulator).local_get(accumulator).local_get(accumulator).i8x16_shuffle(bytes);
            lanes.combine(op, dtype);
            lanes.code.i().local_set(accumulator);
        }
        lanes.code.i().local_get(accumulator);
        if class(dtype) == Class::F32 {
            lanes.code.i().f32x4_extract_lane(0);
        } else {
            lanes.code.i().i32x4_extract_lane(0);
            if dtype == DType::Bool {
                lanes.code.i().i32_const(1).i32_and();
            }
        }
        lanes.vector = false;
        lanes.set(class(dtype))
    }

    /// Combines the innermost value with the accumulator.
    fn accumulate(&mut self, reduction: Reduction) {
        let vector = self.vector.is_some();
        let value = self.nest.store.value;
        let dtype = self.nest.dag.dtype(value);
        let accumulator = self.accumulator.expect("it is set around the loops of a reduction");
        let mut value = self.operand(value, vector);
        let along = self.vector >= Some(self.nest.num_outer());
        let (valid, neutral) = (self.valid, reduction.neutral);
        if vector && along && valid < 4 {
            // Lanes beyond the end have no say.
            let neutral = self.operand(neutral, true);
            let mut lanes = self.lanes(true);
            lanes.get(value);
            lanes.get(neutral);
            lanes.code.i().v128_const((1 << (32 * valid)) - 1).v128_bitselect();
            value = Operand::Local(lanes.set(class(dtype)));
        }
        let mut lanes = self.lanes(vector);
        lanes.binary(reduction.op, dtype, Operand::Local(accumulator), value);
        lanes.code.i().local_set(accumulator);
    }

    /// Computes what the first `l` loops fix, and nothing that more of them change.
    fn prologue(&mut self, l: usize) {
        for id in 0..self.needed.len() {
            if !self.needed[id] || self.depths[id] != l {
                continue;
            }
            if matches!(self.nest.dag.nodes[id].expr, Expr::Constant(_)) {
                continue;
            }
            self.compute(id);
        }
        for address in addresses_of(self.nest, &self.needed) {
            // A computed offset may come later.
            if address.offset.is_none_or(|offset| self.depths[offset] <= l && !self.varies[offset]) {
                self.offset(&address, l);
            }
        }
    }

    fn compute(&mut self, id: Id) {
        let node = self.nest.dag.nodes[id].clone();
        let varies = self.varies[id];
        match &node.expr {
            Expr::Constant(_) => return,
            Expr::Index(index) => self.index(index, varies),
            Expr::Load { address, .. } => self.load(address, node.dtype, varies),
            Expr::Unary(op, x) => {
                let (dtype, x) = (self.nest.dag.dtype(*x), self.operand(*x, varies));
                self.lanes(varies).unary(*op, dtype, x);
            }
            Expr::Binary(op, x, y) => {
                let (x, y) = (self.operand(*x, varies), self.operand(*y, varies));
                self.lanes(varies).binary(*op, node.dtype, x, y);
            }
            Expr::Compare(direction, x, y) => {
                let dtype = self.nest.dag.dtype(*x);
                let (x, y) = (self.operand(*x, varies), self.operand(*y, varies));
                self.lanes(varies).compare(*direction, dtype, x, y);
            }
            Expr::Select(pred, x, y) => {
                let [pred, x, y] = [*pred, *x, *y].map(|x| self.operand(x, varies));
                self.lanes(varies).choose(pred, x, y);
            }
            Expr::Convert(x) => {
                let (dtype, x) = (self.nest.dag.dtype(*x), self.operand(*x, varies));
                self.lanes(varies).convert(dtype, node.dtype, x);
            }
            Expr::Bitcast(x) => {
                let (dtype, x) = (self.nest.dag.dtype(*x), self.operand(*x, varies));
                self.lanes(varies).bitcast(dtype, node.dtype, x);
            }
            Expr::Round(x) => {
                let x = self.operand(*x, varies);
                let mut lanes = self.lanes(varies);
                lanes.get(x);
                lanes.round(node.dtype);
            }
        }
        let local = self.lanes(varies).set(class(node.dtype));
        self.known.values.insert(id, Operand::Local(local));
        if self.splat[id] {
            let splat = self.splatted(node.dtype, local);
            self.known.splats.insert(id, splat);
        }
    }

    /// Four lanes of a scalar.
    fn splatted(&mut self, dtype: DType, local: u32) -> u32 {
        let mut i = self.code.i();
        if dtype == DType::Bool {
            i.i32_const(0).local_get(local).i32_sub().i32x4_splat();
        } else if class(dtype) == Class::F32 {
            i.local_get(local).f32x4_splat();
        } else {
            i.local_get(local).i32x4_splat();
        }
        self.code.set_new(ValType::V128)
    }

    /// An expression that is computed, as a scalar or as lanes.
    pub(super) fn operand(&mut self, id: Id, vector: bool) -> Operand {
        let node = &self.nest.dag.nodes[id];
        if let Expr::Constant(bits) = node.expr {
            return Operand::Constant(node.dtype, bits);
        }
        if vector && !self.varies[id] {
            return Operand::Local(self.known.splats[&id]);
        }
        self.known.values[&id]
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
