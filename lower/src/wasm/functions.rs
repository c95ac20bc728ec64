//! The functions of a module: those of its groups, and those that compute what no instruction does.

use std::collections::HashMap;

use super::code::Code;
use super::double::{
    atan2, circle, exp, exp_minus_one, integer_power, log, log_plus_one, logistic, power, remainder, tanh,
};
use lmc_graph::ops::{BinaryOp, UnaryOp};

/// A function that nodes call: of one or two f64, or of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Function {
    Exp,
    ExpMinusOne,
    Log,
    LogPlusOne,
    Logistic,
    Tanh,
    Sine,
    Cosine,
    Power,
    Atan2,
    Remainder,
    /// `x ^ y` of integers of 64 bits; the third parameter is whether `y` has a sign.
    IntegerPower,
}

impl Function {
    /// The function of an op, if it is not a few instructions in f64.
    pub(super) fn of_unary(op: UnaryOp) -> Option<Function> {
        match op {
            UnaryOp::Exponential => Some(Function::Exp),
            UnaryOp::ExponentialMinusOne => Some(Function::ExpMinusOne),
            UnaryOp::Log => Some(Function::Log),
            UnaryOp::LogPlusOne => Some(Function::LogPlusOne),
            UnaryOp::Logistic => Some(Function::Logistic),
            UnaryOp::Tanh => Some(Function::Tanh),
            UnaryOp::Sine => Some(Function::Sine),
            UnaryOp::Cosine => Some(Function::Cosine),
            UnaryOp::Abs
            | UnaryOp::Negate
            | UnaryOp::Sign
            | UnaryOp::Sqrt
            | UnaryOp::Rsqrt
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::RoundNearestEven
            | UnaryOp::Not
            | UnaryOp::IsFinite => None,
        }
    }

    /// The function of an op of floats, if it is not an instruction.
    pub(super) fn of_binary(op: BinaryOp) -> Option<Function> {
        match op {
            BinaryOp::Power => Some(Function::Power),
            BinaryOp::Atan2 => Some(Function::Atan2),
            BinaryOp::Remainder => Some(Function::Remainder),
            BinaryOp::Add
            | BinaryOp::Subtract
            | BinaryOp::Multiply
            | BinaryOp::Divide
            | BinaryOp::Maximum
            | BinaryOp::Minimum
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::ShiftLeft
            | BinaryOp::ShiftRightArithmetic
            | BinaryOp::ShiftRightLogical => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Function::Exp => "exp",
            Function::ExpMinusOne => "expm1",
            Function::Log => "log",
            Function::LogPlusOne => "log1p",
            Function::Logistic => "logistic",
            Function::Tanh => "tanh",
            Function::Sine => "sin",
            Function::Cosine => "cos",
            Function::Power => "pow",
            Function::Atan2 => "atan2",
            Function::Remainder => "fmod",
            Function::IntegerPower => "ipow",
        }
    }

    fn params(self) -> usize {
        match self {
            Function::Power | Function::Atan2 | Function::Remainder => 2,
            Function::IntegerPower => 3,
            Function::Exp
            | Function::ExpMinusOne
            | Function::Log
            | Function::LogPlusOne
            | Function::Logistic
            | Function::Tanh
            | Function::Sine
            | Function::Cosine => 1,
        }
    }
}

/// A type of the functions of a module: `() -> ()`, and those of [`Function`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// No parameters, no results.
    Nothing,
    /// This many f64 to an f64.
    Floats(usize),
    /// Three i64 to an i64.
    Integers,
}

/// The finished functions of a module, in the order of their indices.
#[derive(Debug, Default)]
pub(super) struct Functions {
    /// Name, type and body of each.
    pub(super) finished: Vec<(String, Signature, wasm_encoder::Function)>,
    known: HashMap<Function, u32>,
}

impl Functions {
    /// Adds a function without parameters and results, and returns its index.
    pub(super) fn push(&mut self, name: String, code: Code) -> u32 {
        self.add(name, Signature::Nothing, code)
    }

    fn add(&mut self, name: String, signature: Signature, code: Code) -> u32 {
        self.finished.push((name, signature, code.finish()));
        u32::try_from(self.finished.len() - 1).expect("a module has fewer than 2^32 functions")
    }

    /// The index of a function that nodes call, which is made when it is first asked for.
    pub(super) fn index(&mut self, function: Function) -> u32 {
        if let Some(&index) = self.known.get(&function) {
            return index;
        }
        let mut code = Code::with_params(u32::try_from(function.params()).unwrap_or(3));
        let f = &mut code;
        match function {
            Function::Exp => exp(f),
            Function::ExpMinusOne => exp_minus_one(f, self.index(Function::Exp)),
            Function::Log => log(f),
            Function::LogPlusOne => log_plus_one(f, self.index(Function::Log)),
            Function::Logistic => logistic(f, self.index(Function::Exp)),
            Function::Tanh => tanh(f, self.index(Function::ExpMinusOne)),
            Function::Sine => circle(f, 0),
            Function::Cosine => circle(f, 1),
            Function::Power => power(f, self.index(Function::Exp), self.index(Function::Log)),
            Function::Atan2 => atan2(f),
            Function::Remainder => remainder(f),
            Function::IntegerPower => integer_power(f),
        }
        let signature = match function {
            Function::IntegerPower => Signature::Integers,
            Function::Exp
            | Function::ExpMinusOne
            | Function::Log
            | Function::LogPlusOne
            | Function::Logistic
            | Function::Tanh
            | Function::Sine
            | Function::Cosine
            | Function::Power
            | Function::Atan2
            | Function::Remainder => Signature::Floats(function.params()),
        };
        let index = self.add(function.name().to_string(), signature, code);
        self.known.insert(function, index);
        index
    }
}
