//! The instructions of comparisons, choices and conversions.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection;
use lmc_graph::ops::ComparisonDirection::{Gt, Lt};

use super::expr::is_narrow;
use super::lanes::{Class, Lanes, Operand, class};

impl Lanes<'_> {
    /// A comparison of operands of an element type.
    pub(super) fn compare(&mut self, direction: ComparisonDirection, dtype: DType, x: Operand, y: Operand) {
        // A mask is -1 where it holds: the less.
        let (x, y) = if dtype == DType::Bool && self.vector { (y, x) } else { (x, y) };
        self.get(x);
        self.get(y);
        let signed = dtype.is_signed_int() || dtype == DType::Bool;
        match class(dtype) {
            Class::F32 => self.compare_floats(direction),
            Class::I32 => self.compare_ints(direction, signed),
            Class::F64 => {
                let mut i = self.code.i();
                match direction {
                    ComparisonDirection::Eq => i.f64_eq(),
                    ComparisonDirection::Ne => i.f64_ne(),
                    ComparisonDirection::Ge => i.f64_ge(),
                    ComparisonDirection::Gt => i.f64_gt(),
                    ComparisonDirection::Le => i.f64_le(),
                    ComparisonDirection::Lt => i.f64_lt(),
                };
            }
            Class::I64 => {
                let mut i = self.code.i();
                match (direction, signed) {
                    (ComparisonDirection::Eq, _) => i.i64_eq(),
                    (ComparisonDirection::Ne, _) => i.i64_ne(),
                    (ComparisonDirection::Ge, true) => i.i64_ge_s(),
                    (ComparisonDirection::Ge, false) => i.i64_ge_u(),
                    (ComparisonDirection::Gt, true) => i.i64_gt_s(),
                    (ComparisonDirection::Gt, false) => i.i64_gt_u(),
                    (ComparisonDirection::Le, true) => i.i64_le_s(),
                    (ComparisonDirection::Le, false) => i.i64_le_u(),
                    (ComparisonDirection::Lt, true) => i.i64_lt_s(),
                    (ComparisonDirection::Lt, false) => i.i64_lt_u(),
                };
            }
        }
    }

    /// `x` where `pred` holds, else `y`.
    pub(super) fn choose(&mut self, pred: Operand, x: Operand, y: Operand) {
        self.get(x);
        self.get(y);
        self.get(pred);
        self.select();
    }

    /// The value in another element type.
    pub(super) fn convert(&mut self, from: DType, to: DType, x: Operand) {
        if to == DType::Bool {
            // Anything but 0 is true, NaN too.
            let zero = Operand::Constant(from, 0);
            return self.compare(ComparisonDirection::Ne, from, x, zero);
        }
        let signed = from.is_signed_int();
        let to_signed = to.is_signed_int();
        self.get(x);
        if from == DType::Bool && self.vector {
            self.int(1);
            self.and();
        }
        let vector = self.vector;
        match (class(from), class(to)) {
            (Class::F32, Class::F32) | (Class::F64, Class::F64) | (Class::I64, Class::I64) => {}
            (Class::I32, Class::I32) => self.wrap(to),
            (Class::I32, Class::F32) if from == DType::U32 => self.float_of_unsigned(),
            (Class::I32, Class::F32) => self.float_of_int(),
            (Class::F32, Class::I32) => {
                if to_signed {
                    self.int_of_float()
                } else {
                    self.unsigned_of_float()
                }
                self.limit(to);
            }
            _ if vector => unreachable!("{from} to {to} has no lanes"),
            (Class::I32, Class::I64) if signed => {
                self.code.i().i64_extend_i32_s();
            }
            (Class::I32, Class::I64) => {
                self.code.i().i64_extend_i32_u();
            }
            (Class::I64, Class::I32) => {
                self.code.i().i32_wrap_i64();
                self.wrap(to);
            }
            (Class::I32, Class::F64) => {
                if from == DType::U32 {
                    self.code.i().f64_convert_i32_u();
                } else {
                    self.code.i().f64_convert_i32_s();
                }
            }
            (Class::I64, Class::F32) => {
                if signed {
                    self.code.i().f32_convert_i64_s();
                } else {
                    self.code.i().f32_convert_i64_u();
                }
            }
            (Class::I64, Class::F64) => {
                if signed {
                    self.code.i().f64_convert_i64_s();
                } else {
                    self.code.i().f64_convert_i64_u();
                }
            }
            (Class::F32, Class::I64) => {
                if to_signed {
                    self.code.i().i64_trunc_sat_f32_s();
                } else {
                    self.code.i().i64_trunc_sat_f32_u();
                }
            }
            (Class::F64, Class::I64) => {
                if to_signed {
                    self.code.i().i64_trunc_sat_f64_s();
                } else {
                    self.code.i().i64_trunc_sat_f64_u();
                }
            }
            (Class::F64, Class::I32) => {
                if to_signed {
                    self.code.i().i32_trunc_sat_f64_s();
                } else {
                    self.code.i().i32_trunc_sat_f64_u();
                }
                self.limit(to);
            }
            (Class::F32, Class::F64) => {
                self.code.i().f64_promote_f32();
            }
            (Class::F64, Class::F32) => {
                self.code.i().f32_demote_f64();
            }
        }
    }

    /// The integer of 32 bits on the stack, or the end of a narrower type's range that is nearest to it.
    fn limit(&mut self, dtype: DType) {
        let bits = dtype.bits();
        if bits >= 32 {
            return;
        }
        let signed = dtype.is_signed_int();
        let (least, greatest) = if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
        for (limit, beyond) in [(greatest, Gt), (least, Lt)] {
            if limit == 0 {
                continue;
            }
            let x = self.set(Class::I32);
            self.int(limit);
            self.code.i().local_get(x).local_get(x);
            self.int(limit);
            self.compare_ints(beyond, signed);
            self.select();
        }
    }

    /// The bits as another element type of the same width.
    pub(super) fn bitcast(&mut self, from: DType, to: DType, x: Operand) {
        self.get(x);
        match (class(from), class(to)) {
            (Class::I64, Class::F64) => {
                self.code.i().f64_reinterpret_i64();
            }
            (Class::F64, Class::I64) => {
                self.code.i().i64_reinterpret_f64();
            }
            (Class::I32, Class::F32) if is_narrow(to) => self.float_of_narrow_bits(to),
            (Class::I32, Class::F32) => self.float_of_bits(),
            (Class::F32, Class::I32) => {
                if is_narrow(from) {
                    self.narrow_bits(from)
                } else {
                    self.bits_of_float()
                }
                self.wrap(to);
            }
            (Class::F32, Class::F32) if from != to => {
                // Between the two floats of 16 bits.
                self.narrow_bits(from);
                self.float_of_narrow_bits(to);
            }
            // Integers of one width differ in how they are extended.
            (Class::I32, Class::I32) => self.wrap(to),
            (Class::I64, Class::I64) | (Class::F64, Class::F64) | (Class::F32, Class::F32) => {}
            (from, to) => unreachable!("{from:?} and {to:?} differ in width"),
        }
    }

    /// The narrow float of the bits on the stack.
    fn float_of_narrow_bits(&mut self, dtype: DType) {
        if dtype == DType::F16 {
            self.f16_of_bits();
        } else {
            self.shift_left(16);
            self.float_of_bits();
        }
    }

    /// The bits of the narrow float on the stack.
    pub(super) fn narrow_bits(&mut self, dtype: DType) {
        if dtype == DType::F16 {
            self.bits_of_f16();
        } else {
            self.bits_of_float();
            self.shift_right(16);
        }
    }
}
