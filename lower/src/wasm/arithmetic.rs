//! The instructions of elementwise ops.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection::{Gt, Lt};
use lmc_graph::ops::{BinaryOp, ComparisonDirection, UnaryOp};

use super::expr::{Dag, Expr, Id};
use super::functions::Function;
use super::lanes::{Class, Lanes, Operand, class};
use wasm_encoder::ValType;

/// Whether an expression can be computed in lanes.
pub(super) fn has_lanes(dag: &Dag, id: Id) -> bool {
    let narrow = |dtype: DType| matches!(class(dtype), Class::I32 | Class::F32);
    let node = &dag.nodes[id];
    if !narrow(node.dtype) || !node.expr.operands().iter().all(|&x| narrow(dag.dtype(x))) {
        return false;
    }
    let Expr::Binary(op, _, y) = node.expr else { return true };
    let is_int = class(node.dtype) == Class::I32;
    match op {
        BinaryOp::Add
        | BinaryOp::Subtract
        | BinaryOp::Multiply
        | BinaryOp::Maximum
        | BinaryOp::Minimum
        | BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor => true,
        BinaryOp::Divide | BinaryOp::Remainder | BinaryOp::Power | BinaryOp::Atan2 => !is_int,
        // Lanes are shifted by one number together.
        BinaryOp::ShiftLeft | BinaryOp::ShiftRightArithmetic | BinaryOp::ShiftRightLogical => {
            node.dtype.size() == 4 && matches!(dag.nodes[y].expr, Expr::Constant(bits) if bits < 32)
        }
    }
}

impl Lanes<'_> {
    /// An op of one operand of an element type.
    pub(super) fn unary(&mut self, op: UnaryOp, dtype: DType, x: Operand) {
        match class(dtype) {
            Class::F32 => self.unary_f32(op, x),
            Class::F64 => self.unary_f64(op, x),
            Class::I32 => self.unary_i32(op, dtype, x),
            Class::I64 => self.unary_i64(op, x),
        }
    }

    fn unary_f32(&mut self, op: UnaryOp, x: Operand) {
        let x = self.local_of(x, Class::F32);
        let mut simple = |instruction: fn(&mut Self)| {
            self.code.i().local_get(x);
            instruction(self);
        };
        match op {
            UnaryOp::Abs => simple(Self::abs),
            UnaryOp::Negate => simple(Self::neg),
            UnaryOp::Sqrt => simple(Self::sqrt),
            UnaryOp::Floor => simple(Self::floor),
            UnaryOp::Ceil => simple(Self::ceil),
            UnaryOp::RoundNearestEven => simple(Self::nearest),
            UnaryOp::Rsqrt => {
                self.float(1.0);
                self.code.i().local_get(x);
                self.sqrt();
                self.div();
            }
            UnaryOp::Sign => {
                self.float(1.0);
                self.with_sign_of(x);
                self.code.i().local_get(x).local_get(x);
                self.abs();
                self.float(0.0);
                self.compare_floats(Gt);
                self.select();
            }
            UnaryOp::IsFinite => {
                self.code.i().local_get(x);
                self.abs();
                self.float(f32::INFINITY);
                self.compare_floats(Lt);
            }
            UnaryOp::Exponential => self.exp(x),
            UnaryOp::Log => self.log(x),
            UnaryOp::Tanh => self.tanh(x),
            UnaryOp::Logistic => self.logistic(x),
            UnaryOp::ExponentialMinusOne | UnaryOp::LogPlusOne | UnaryOp::Sine | UnaryOp::Cosine => {
                let function = Function::of_unary(op).expect("these are functions");
                self.call(function, &[x]);
            }
            UnaryOp::Not => unreachable!("`not` does not take floats"),
        }
    }

    fn unary_f64(&mut self, op: UnaryOp, x: Operand) {
        if let Some(function) = Function::of_unary(op) {
            let index = self.functions.index(function);
            self.get(x);
            self.code.i().call(index);
            return;
        }
        let x = self.local_of(x, Class::F64);
        let mut i = self.code.i();
        match op {
            UnaryOp::Abs => i.local_get(x).f64_abs(),
            UnaryOp::Negate => i.local_get(x).f64_neg(),
            UnaryOp::Sqrt => i.local_get(x).f64_sqrt(),
            UnaryOp::Floor => i.local_get(x).f64_floor(),
            UnaryOp::Ceil => i.local_get(x).f64_ceil(),
            UnaryOp::RoundNearestEven => i.local_get(x).f64_nearest(),
            UnaryOp::Rsqrt => i.f64_const(1.0.into()).local_get(x).f64_sqrt().f64_div(),
            UnaryOp::Sign => {
                i.f64_const(1.0.into()).local_get(x).f64_copysign().local_get(x).local_get(x).f64_abs();
                i.f64_const(0.0.into()).f64_gt().select()
            }
            UnaryOp::IsFinite => i.local_get(x).f64_abs().f64_const(f64::INFINITY.into()).f64_lt(),
            UnaryOp::Exponential
            | UnaryOp::ExponentialMinusOne
            | UnaryOp::Log
            | UnaryOp::LogPlusOne
            | UnaryOp::Logistic
            | UnaryOp::Tanh
            | UnaryOp::Sine
            | UnaryOp::Cosine
            | UnaryOp::Not => unreachable!("`{}` is a function, or does not take floats", op.name()),
        };
    }

    fn unary_i32(&mut self, op: UnaryOp, dtype: DType, x: Operand) {
        let x = self.local_of(x, Class::I32);
        match op {
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

    fn unary_i64(&mut self, op: UnaryOp, x: Operand) {
        let x = self.local_of(x, Class::I64);
        let mut i = self.code.i();
        match op {
            UnaryOp::Not => i.local_get(x).i64_const(-1).i64_xor(),
            UnaryOp::Negate => i.i64_const(0).local_get(x).i64_sub(),
            UnaryOp::Abs => {
                i.i64_const(0).local_get(x).i64_sub().local_get(x).local_get(x).i64_const(0).i64_lt_s().select()
            }
            UnaryOp::Sign => {
                i.i64_const(1).local_get(x).i64_const(63).i64_shr_s().local_get(x).i64_const(0).i64_gt_s().select()
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
        };
    }

    /// An op of two operands of one element type.
    pub(super) fn binary(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        match class(dtype) {
            Class::F32 => self.binary_f32(op, x, y),
            Class::F64 => self.binary_f64(op, x, y),
            Class::I32 if dtype == DType::Bool => self.binary_bool(op, x, y),
            Class::I32 => self.binary_i32(op, dtype, x, y),
            Class::I64 => self.binary_i64(op, dtype, x, y),
        }
    }

    fn binary_f32(&mut self, op: BinaryOp, x: Operand, y: Operand) {
        if let Some(function) = Function::of_binary(op) {
            let operands = [self.local_of(x, Class::F32), self.local_of(y, Class::F32)];
            return self.call(function, &operands);
        }
        self.get(x);
        self.get(y);
        match op {
            BinaryOp::Add => self.add(),
            BinaryOp::Subtract => self.sub(),
            BinaryOp::Multiply => self.mul(),
            BinaryOp::Divide => self.div(),
            BinaryOp::Maximum => self.maximum(),
            BinaryOp::Minimum => self.minimum(),
            BinaryOp::Remainder
            | BinaryOp::Power
            | BinaryOp::Atan2
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightArithmetic
            | BinaryOp::ShiftRightLogical => unreachable!("`{}` is a function, or does not take floats", op.name()),
        }
    }

    fn binary_f64(&mut self, op: BinaryOp, x: Operand, y: Operand) {
        let function = Function::of_binary(op).map(|function| self.functions.index(function));
        self.get(x);
        self.get(y);
        let mut i = self.code.i();
        match op {
            BinaryOp::Add => i.f64_add(),
            BinaryOp::Subtract => i.f64_sub(),
            BinaryOp::Multiply => i.f64_mul(),
            BinaryOp::Divide => i.f64_div(),
            BinaryOp::Maximum => i.f64_max(),
            BinaryOp::Minimum => i.f64_min(),
            BinaryOp::Remainder | BinaryOp::Power | BinaryOp::Atan2 => i.call(function.expect("these are functions")),
            BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightArithmetic
            | BinaryOp::ShiftRightLogical => unreachable!("`{}` does not take floats", op.name()),
        };
    }

    /// Sums and maxima of booleans hold if either does, products and minima if both do.
    fn binary_bool(&mut self, op: BinaryOp, x: Operand, y: Operand) {
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

    fn binary_i32(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
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
        let special = |lanes: &mut Self| {
            let mut i = lanes.code.i();
            if signed {
                i.local_get(y).i32_const(1).i32_add().i32_const(2).i32_lt_u()
            } else {
                i.local_get(y).i32_eqz()
            };
        };
        // For 0 and -1 the divisor is 1.
        self.code.i().i32_const(1).local_get(y);
        special(self);
        self.select();
        let divisor = self.set(Class::I32);
        self.code.i().local_get(x).local_get(divisor);
        if op == BinaryOp::Divide {
            if signed {
                self.code.i().i32_div_s();
            } else {
                self.code.i().i32_div_u();
            }
            let quotient = self.set(Class::I32);
            self.code.i().i32_const(-1).i32_const(0).local_get(x).i32_sub().local_get(y).i32_eqz().select();
            self.code.i().local_get(quotient);
            special(self);
            self.select();
            self.wrap(dtype);
        } else {
            if signed {
                self.code.i().i32_rem_s();
            } else {
                self.code.i().i32_rem_u();
            }
            let rest = self.set(Class::I32);
            self.code.i().local_get(x).i32_const(0).local_get(y).i32_eqz().select().local_get(rest);
            special(self);
            self.select();
        }
    }

    /// A shift by the width or more, or by a negative number, leaves zeros, or copies of the sign.
    fn shift_i32(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
        let bits = i32::try_from(dtype.bits()).unwrap_or(32);
        if let (Operand::Constant(_, by), true) = (y, self.vector) {
            self.get(x);
            let by = by as i32;
            return match op {
                BinaryOp::ShiftLeft => self.shift_left(by),
                BinaryOp::ShiftRightArithmetic => self.shift_right_signed(by),
                _ => self.shift_right(by),
            };
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
        match op {
            BinaryOp::ShiftLeft => i.i32_shl().i32_const(0),
            BinaryOp::ShiftRightArithmetic => i.i32_shr_s().local_get(filled).i32_const(31).i32_shr_s(),
            _ => i.i32_shr_u().i32_const(0),
        };
        i.local_get(y).i32_const(bits).i32_lt_u().select();
        self.wrap(dtype);
    }

    fn binary_i64(&mut self, op: BinaryOp, dtype: DType, x: Operand, y: Operand) {
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
                i.i64_const(0).local_get(x).i64_sub().local_get(y).i64_const(-1).i64_ne();
                if signed {
                    i.select()
                } else {
                    i.drop().drop()
                };
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
            (Class::I32, Class::F32) => match to {
                DType::BF16 => {
                    self.shift_left(16);
                    self.float_of_bits();
                }
                DType::F16 => self.f16_of_bits(),
                _ => self.float_of_bits(),
            },
            (Class::F32, Class::I32) => {
                match from {
                    DType::BF16 => {
                        self.bits_of_float();
                        self.shift_right(16);
                    }
                    DType::F16 => self.bits_of_f16(),
                    _ => self.bits_of_float(),
                }
                self.wrap(to);
            }
            (Class::F32, Class::F32) if from != to => {
                // Between the two floats of 16 bits.
                self.narrow_bits(from);
                if to == DType::F16 {
                    self.f16_of_bits();
                } else {
                    self.shift_left(16);
                    self.float_of_bits();
                }
            }
            // Integers of one width differ in how they are extended.
            (Class::I32, Class::I32) => self.wrap(to),
            (Class::I64, Class::I64) | (Class::F64, Class::F64) | (Class::F32, Class::F32) => {}
            (from, to) => unreachable!("{from:?} and {to:?} differ in width"),
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

    /// Combines the accumulator on the stack with a value above it.
    pub(super) fn combine(&mut self, op: BinaryOp, dtype: DType) {
        let class = class(dtype);
        let y = self.set(class);
        let x = self.set(class);
        self.binary(op, dtype, Operand::Local(x), Operand::Local(y));
    }
}
