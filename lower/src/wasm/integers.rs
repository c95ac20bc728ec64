//! The instructions of elementwise ops of integers and booleans.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection::{Gt, Lt};
use lmc_graph::ops::{BinaryOp, UnaryOp};
use wasm_encoder::ValType;

use super::functions::Function;
use super::lanes::{Class, Lanes, Operand, class};

impl Lanes<'_> {
    pub(super) fn unary_int(&mut self, op: UnaryOp, dtype: DType, x: Operand) {
        let class = class(dtype);
        let wide = class == Class::I64;
        let x = self.local_of(x, class);
        match op {
            UnaryOp::Not if wide => {
                self.code.i().local_get(x).i64_const(-1).i64_xor();
            }
            UnaryOp::Negate if wide => {
                self.code.i().i64_const(0).local_get(x).i64_sub();
            }
            UnaryOp::Abs if wide => {
                let mut i = self.code.i();
                i.i64_const(0).local_get(x).i64_sub().local_get(x).local_get(x).i64_const(0).i64_lt_s().select();
            }
            UnaryOp::Sign if wide => {
                let mut i = self.code.i();
                i.i64_const(1).local_get(x).i64_const(63).i64_shr_s().local_get(x).i64_const(0).i64_gt_s().select();
            }
            UnaryOp::Not => {
                self.code.i().local_get(x);
                // A boolean scalar has one bit, its lanes have all.
                self.int(if dtype == DType::Bool && !self.vector { 1 } else { -1 });
                self.xor();
                self.wrap(dtype);
            }
            UnaryOp::Negate => {
                self.int(0);
                self.code.i().local_get(x);
                self.int_sub();
                self.wrap(dtype);
            }
            UnaryOp::Abs => {
                self.int(0);
                self.code.i().local_get(x);
                self.int_sub();
                self.code.i().local_get(x).local_get(x);
                self.int(0);
                self.compare_ints(Lt, true);
                self.select();
                self.wrap(dtype);
            }
            UnaryOp::Sign => {
                // -1 or 0 from the sign, and 1 where it is neither.
                self.int(1);
                self.code.i().local_get(x);
                self.shift_right_signed(31);
                self.code.i().local_get(x);
                self.int(0);
                self.compare_ints(Gt, true);
                self.select();
            }
            UnaryOp::Exponential
            | UnaryOp::ExponentialMinusOne
            | UnaryOp::Log
            | UnaryOp::LogPlusOne
            | UnaryOp::Logistic
            | UnaryOp::Tanh
            | UnaryOp::Sine
            | UnaryOp::Cosine
            | UnaryOp::Sqrt
            | UnaryOp::Rsqrt
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::RoundNearestEven
            | UnaryOp::IsFinite => unreachable!("`{}` does not take integers", op.name()),
        }
    }

    /// Sums and maxima of booleans hold if either does, products and minima if both do.
    pub(super) fn binary_bool(&mut self, op: BinaryOp, x: Operand, y: Operand) {
        self.get(x);
        self.get(y);
        match op {
            BinaryOp::Add | BinaryOp::Maximum | BinaryOp::Or => self.or(),
            BinaryOp::Multiply | BinaryOp::Minimum | BinaryOp::And => self.and(),
            BinaryOp::Xor => self.xor(),
            BinaryOp::Subtract
            | BinaryOp::Divide
            | BinaryOp::Remainder
            | BinaryOp::Power
            | BinaryOp::Atan2
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightArithmetic
            | BinaryOp::ShiftRightLogical => unreachable!("`{}` does not take booleans", op.name()),
        }
    }

    pub(super) fn binary_i32(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        let signed = dtype.is_signed_int();
        let mut simple = |instruction: fn(&mut Self)| {
            self.get(x);
            self.get(y);
            instruction(self);
            self.wrap(dtype);
        };
        match op {
            BinaryOp::Add => simple(Self::int_add),
            BinaryOp::Subtract => simple(Self::int_sub),
            BinaryOp::Multiply => simple(Self::int_mul),
            BinaryOp::And => simple(Self::and),
            BinaryOp::Or => simple(Self::or),
            BinaryOp::Xor => simple(Self::xor),
            BinaryOp::Maximum | BinaryOp::Minimum => {
                let (x, y) = (self.local_of(x, Class::I32), self.local_of(y, Class::I32));
                self.code.i().local_get(x).local_get(y).local_get(x).local_get(y);
                self.compare_ints(if op == BinaryOp::Maximum { Gt } else { Lt }, signed);
                self.select();
            }
            BinaryOp::Divide | BinaryOp::Remainder => self.divide_i32(op, dtype, x, y),
            BinaryOp::Power => {
                let function = self.functions.index(Function::IntegerPower);
                for operand in [x, y] {
                    self.get(operand);
                    if signed {
                        self.code.i().i64_extend_i32_s();
                    } else {
                        self.code.i().i64_extend_i32_u();
                    }
                }
                self.code.i().i32_const(i32::from(signed)).i64_extend_i32_s().call(function).i32_wrap_i64();
                self.wrap(dtype);
            }
            BinaryOp::ShiftLeft | BinaryOp::ShiftRightArithmetic | BinaryOp::ShiftRightLogical => {
                self.shift_i32(op, dtype, x, y);
            }
            BinaryOp::Atan2 => unreachable!("`atan2` does not take integers"),
        }
    }

    /// A quotient by 0 has all bits set; the one by -1 is a negation, which does not trap at the least integer.
    fn divide_i32(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        let signed = dtype.is_signed_int();
        let (x, y) = (self.local_of(x, Class::I32), self.local_of(y, Class::I32));
        // 1 where y is 0, and 1 where it is -1.
        self.code.i().local_get(y).i32_eqz();
        let by_zero = self.set(Class::I32);
        self.code.i().local_get(y).i32_const(-1).i32_eq().i32_const(i32::from(signed)).i32_and();
        let by_minus_one = self.set(Class::I32);
        // The divisor is 1 in both cases.
        self.code.i().local_get(x).local_get(y).local_get(by_zero).i32_add();
        self.code.i().local_get(by_minus_one).i32_const(1).i32_shl().i32_add();
        let mut i = self.code.i();
        match (op == BinaryOp::Divide, signed) {
            (true, true) => i.i32_div_s(),
            (true, false) => i.i32_div_u(),
            (false, true) => i.i32_rem_s(),
            (false, false) => i.i32_rem_u(),
        };
        if op == BinaryOp::Divide {
            // By -1 with the other sign, by 0 with all bits.
            self.code.i().i32_const(1).local_get(by_minus_one).i32_const(1).i32_shl().i32_sub().i32_mul();
            self.code.i().i32_const(0).local_get(by_zero).i32_sub().i32_or();
            self.wrap(dtype);
        } else {
            self.code.i().local_get(x).i32_const(0).local_get(by_zero).i32_sub().i32_and().i32_or();
        }
    }

    /// A shift by the width or more, or by a negative number, leaves zeros, or copies of the sign.
    fn shift_i32(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        let bits = i32::try_from(dtype.bits()).unwrap_or(32);
        if let (Operand::Constant(_, by), true) = (y, self.vector) {
            self.get(x);
            let by = by as i32;
            if op == BinaryOp::ShiftLeft {
                self.shift_left(by);
            } else if op == BinaryOp::ShiftRightArithmetic {
                self.shift_right_signed(by);
            } else {
                self.shift_right(by);
            }
            return;
        }
        let (x, y) = (self.local_of(x, Class::I32), self.local_of(y, Class::I32));
        self.code.i().local_get(x);
        // Filled up to 32 bits by the sign, or by zeros, whatever the type's own extension is.
        if op == BinaryOp::ShiftRightArithmetic {
            self.shift_left(32 - bits);
            self.shift_right_signed(32 - bits);
        } else if bits < 32 {
            self.int((1 << bits) - 1);
            self.and();
        }
        let filled = self.set(Class::I32);
        let mut i = self.code.i();
        i.local_get(filled).local_get(y);
        if op == BinaryOp::ShiftLeft {
            i.i32_shl().i32_const(0);
        } else if op == BinaryOp::ShiftRightArithmetic {
            i.i32_shr_s().local_get(filled).i32_const(31).i32_shr_s();
        } else {
            i.i32_shr_u().i32_const(0);
        }
        i.local_get(y).i32_const(bits).i32_lt_u().select();
        self.wrap(dtype);
    }

    pub(super) fn binary_i64(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        let signed = dtype.is_signed_int();
        let (x, y) = (self.local_of(x, Class::I64), self.local_of(y, Class::I64));
        let function = (op == BinaryOp::Power).then(|| self.functions.index(Function::IntegerPower));
        let divisor = self.code.local(ValType::I64);
        let mut i = self.code.i();
        if matches!(op, BinaryOp::Divide | BinaryOp::Remainder) {
            // As for 32 bits: 1 in place of 0 and -1.
            i.i64_const(1).local_get(y).local_get(y).i64_const(i64::from(signed)).i64_add();
            i.i64_const(1 + i64::from(signed)).i64_lt_u().select().local_set(divisor);
        }
        i.local_get(x);
        match op {
            BinaryOp::Add => i.local_get(y).i64_add(),
            BinaryOp::Subtract => i.local_get(y).i64_sub(),
            BinaryOp::Multiply => i.local_get(y).i64_mul(),
            BinaryOp::And => i.local_get(y).i64_and(),
            BinaryOp::Or => i.local_get(y).i64_or(),
            BinaryOp::Xor => i.local_get(y).i64_xor(),
            BinaryOp::Maximum | BinaryOp::Minimum => {
                i.local_get(y).local_get(x).local_get(y);
                match (op == BinaryOp::Maximum, signed) {
                    (true, true) => i.i64_gt_s(),
                    (true, false) => i.i64_gt_u(),
                    (false, true) => i.i64_lt_s(),
                    (false, false) => i.i64_lt_u(),
                };
                i.select()
            }
            BinaryOp::Divide => {
                i.local_get(divisor);
                if signed {
                    i.i64_div_s()
                } else {
                    i.i64_div_u()
                };
                // By -1 the negation, by 0 all bits.
                if signed {
                    i.i64_const(0).local_get(x).i64_sub().local_get(y).i64_const(-1).i64_ne().select();
                }
                i.i64_const(-1).local_get(y).i64_eqz().i32_eqz().select()
            }
            BinaryOp::Remainder => {
                i.local_get(divisor);
                if signed {
                    i.i64_rem_s()
                } else {
                    i.i64_rem_u()
                };
                i.local_get(x).local_get(y).i64_eqz().i32_eqz().select()
            }
            BinaryOp::Power => i.local_get(y).i64_const(i64::from(signed)).call(function.expect("it was asked for")),
            BinaryOp::ShiftLeft => i.local_get(y).i64_shl().i64_const(0).local_get(y).i64_const(64).i64_lt_u().select(),
            BinaryOp::ShiftRightLogical => {
                i.local_get(y).i64_shr_u().i64_const(0).local_get(y).i64_const(64).i64_lt_u().select()
            }
            BinaryOp::ShiftRightArithmetic => {
                i.local_get(y).i64_shr_s().local_get(x).i64_const(63).i64_shr_s();
                i.local_get(y).i64_const(64).i64_lt_u().select()
            }
            BinaryOp::Atan2 => unreachable!("`atan2` does not take integers"),
        };
    }
}
