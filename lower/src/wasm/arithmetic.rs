//! The instructions of elementwise ops.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection::{Gt, Lt};
use lmc_graph::ops::{BinaryOp, UnaryOp};

use super::expr::{Dag, Expr, Id};
use super::functions::Function;
use super::lanes::{Class, Lanes, Operand, class};

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
            Class::I32 | Class::I64 => self.unary_int(op, dtype, x),
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

    /// Combines the accumulator on the stack with a value above it.
    pub(super) fn combine(&mut self, op: BinaryOp, dtype: DType) {
        let class = class(dtype);
        let y = self.set(class);
        let x = self.set(class);
        self.binary(op, dtype, Operand::Local(x), Operand::Local(y));
    }
}
