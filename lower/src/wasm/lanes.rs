//! Instructions for one scalar, or for four side by side.
//!
//! Booleans are 0 or 1 as scalars and masks of all bits as lanes; integers of less than 32 bits are kept in 32, extended
//! by their sign or by zeros; narrow floats are kept in f32.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection;
use wasm_encoder::ValType;

use super::code::Code;
use super::functions::{Function, Functions};

/// The registers that an element type is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Booleans and integers of up to 32 bits.
    I32,
    /// Integers of 64 bits.
    I64,
    /// Floats of up to 32 bits.
    F32,
    /// Floats of 64 bits.
    F64,
}

/// The registers of an element type.
pub(super) fn class(dtype: DType) -> Class {
    match dtype {
        DType::Bool | DType::I8 | DType::I16 | DType::I32 | DType::U8 | DType::U16 | DType::U32 => Class::I32,
        DType::I64 | DType::U64 => Class::I64,
        DType::BF16 | DType::F16 | DType::F32 => Class::F32,
        DType::F64 => Class::F64,
    }
}

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// In a local: of the class's type, or a vector where lanes are computed.
    Local(u32),
    /// Known: the element's little-endian bits.
    Constant(DType, u64),
}

/// A writer of instructions for scalars or lanes. Methods push their result onto the stack.
pub(super) struct Lanes<'a> {
    /// The instructions.
    pub(super) code: &'a mut Code,
    /// The functions that it may call.
    pub(super) functions: &'a mut Functions,
    /// Whether four lanes are computed.
    pub(super) vector: bool,
}

macro_rules! both {
    ($($name:ident = $scalar:ident, $vector:ident;)*) => {
        impl Lanes<'_> {$(
            pub(super) fn $name(&mut self) {
                if self.vector { self.code.i().$vector(); } else { self.code.i().$scalar(); }
            }
        )*}
    };
}

both! {
    add = f32_add, f32x4_add;
    sub = f32_sub, f32x4_sub;
    mul = f32_mul, f32x4_mul;
    div = f32_div, f32x4_div;
    maximum = f32_max, f32x4_max;
    minimum = f32_min, f32x4_min;
    abs = f32_abs, f32x4_abs;
    neg = f32_neg, f32x4_neg;
    sqrt = f32_sqrt, f32x4_sqrt;
    floor = f32_floor, f32x4_floor;
    ceil = f32_ceil, f32x4_ceil;
    nearest = f32_nearest, f32x4_nearest;
    int_add = i32_add, i32x4_add;
    int_sub = i32_sub, i32x4_sub;
    int_mul = i32_mul, i32x4_mul;
    and = i32_and, v128_and;
    or = i32_or, v128_or;
    xor = i32_xor, v128_xor;
    float_of_int = f32_convert_i32_s, f32x4_convert_i32x4_s;
    float_of_unsigned = f32_convert_i32_u, f32x4_convert_i32x4_u;
    int_of_float = i32_trunc_sat_f32_s, i32x4_trunc_sat_f32x4_s;
    unsigned_of_float = i32_trunc_sat_f32_u, i32x4_trunc_sat_f32x4_u;
}

impl Lanes<'_> {
    /// The type of what is computed in a class.
    pub(super) fn ty(&self, class: Class) -> ValType {
        if self.vector {
            return ValType::V128;
        }
        match class {
            Class::I32 => ValType::I32,
            Class::I64 => ValType::I64,
            Class::F32 => ValType::F32,
            Class::F64 => ValType::F64,
        }
    }

    /// Pushes an operand.
    pub(super) fn get(&mut self, x: Operand) {
        match x {
            Operand::Local(local) => {
                self.code.i().local_get(local);
            }
            Operand::Constant(dtype, bits) => self.constant(dtype, bits),
        }
    }

    /// The operand in a local of its own.
    pub(super) fn local_of(&mut self, x: Operand, class: Class) -> u32 {
        match x {
            Operand::Local(local) => local,
            Operand::Constant(..) => {
                self.get(x);
                let ty = self.ty(class);
                self.code.set_new(ty)
            }
        }
    }

    /// Takes the top of the stack, computed in a class, into a new local.
    pub(super) fn set(&mut self, class: Class) -> u32 {
        let ty = self.ty(class);
        self.code.set_new(ty)
    }

    /// Pushes a constant of an element type.
    pub(super) fn constant(&mut self, dtype: DType, bits: u64) {
        match dtype {
            DType::Bool => self.int(if self.vector { -i32::from(bits != 0) } else { i32::from(bits != 0) }),
            DType::I8 => self.int(i32::from(bits as u8 as i8)),
            DType::I16 => self.int(i32::from(bits as u16 as i16)),
            DType::U8 | DType::U16 | DType::I32 | DType::U32 => self.int(bits as u32 as i32),
            DType::I64 | DType::U64 => {
                self.code.i().i64_const(bits.cast_signed());
            }
            DType::BF16 => self.float(half::bf16::from_bits(bits as u16).to_f32()),
            DType::F16 => self.float(half::f16::from_bits(bits as u16).to_f32()),
            DType::F32 => self.float(f32::from_bits(bits as u32)),
            DType::F64 => {
                self.code.i().f64_const(f64::from_bits(bits).into());
            }
        }
    }

    /// Pushes a float.
    pub(super) fn float(&mut self, x: f32) {
        if self.vector {
            self.code.i().v128_const(splat(x.to_bits()));
        } else {
            self.code.i().f32_const(x.into());
        }
    }

    /// Pushes an integer.
    pub(super) fn int(&mut self, x: i32) {
        if self.vector {
            self.code.i().v128_const(splat(x.cast_unsigned()));
        } else {
            self.code.i().i32_const(x);
        }
    }

    /// The bits of a float as an integer.
    pub(super) fn bits_of_float(&mut self) {
        if !self.vector {
            self.code.i().i32_reinterpret_f32();
        }
    }

    /// The float that has an integer's bits.
    pub(super) fn float_of_bits(&mut self) {
        if !self.vector {
            self.code.i().f32_reinterpret_i32();
        }
    }

    /// Shifts an integer left.
    pub(super) fn shift_left(&mut self, by: i32) {
        self.code.i().i32_const(by);
        if self.vector {
            self.code.i().i32x4_shl();
        } else {
            self.code.i().i32_shl();
        }
    }

    /// Shifts an integer right, filling with zeros.
    pub(super) fn shift_right(&mut self, by: i32) {
        self.code.i().i32_const(by);
        if self.vector {
            self.code.i().i32x4_shr_u();
        } else {
            self.code.i().i32_shr_u();
        }
    }

    /// Shifts an integer right, filling with its sign.
    pub(super) fn shift_right_signed(&mut self, by: i32) {
        self.code.i().i32_const(by);
        if self.vector {
            self.code.i().i32x4_shr_s();
        } else {
            self.code.i().i32_shr_s();
        }
    }

    /// Compares floats.
    pub(super) fn compare_floats(&mut self, direction: ComparisonDirection) {
        let vector = self.vector;
        let mut i = self.code.i();
        match (direction, vector) {
            (ComparisonDirection::Eq, false) => i.f32_eq(),
            (ComparisonDirection::Ne, false) => i.f32_ne(),
            (ComparisonDirection::Ge, false) => i.f32_ge(),
            (ComparisonDirection::Gt, false) => i.f32_gt(),
            (ComparisonDirection::Le, false) => i.f32_le(),
            (ComparisonDirection::Lt, false) => i.f32_lt(),
            (ComparisonDirection::Eq, true) => i.f32x4_eq(),
            (ComparisonDirection::Ne, true) => i.f32x4_ne(),
            (ComparisonDirection::Ge, true) => i.f32x4_ge(),
            (ComparisonDirection::Gt, true) => i.f32x4_gt(),
            (ComparisonDirection::Le, true) => i.f32x4_le(),
            (ComparisonDirection::Lt, true) => i.f32x4_lt(),
        };
    }

    /// Compares integers of up to 32 bits.
    pub(super) fn compare_ints(&mut self, direction: ComparisonDirection, signed: bool) {
        let vector = self.vector;
        let mut i = self.code.i();
        match (direction, vector, signed) {
            (ComparisonDirection::Eq, false, _) => i.i32_eq(),
            (ComparisonDirection::Ne, false, _) => i.i32_ne(),
            (ComparisonDirection::Ge, false, true) => i.i32_ge_s(),
            (ComparisonDirection::Ge, false, false) => i.i32_ge_u(),
            (ComparisonDirection::Gt, false, true) => i.i32_gt_s(),
            (ComparisonDirection::Gt, false, false) => i.i32_gt_u(),
            (ComparisonDirection::Le, false, true) => i.i32_le_s(),
            (ComparisonDirection::Le, false, false) => i.i32_le_u(),
            (ComparisonDirection::Lt, false, true) => i.i32_lt_s(),
            (ComparisonDirection::Lt, false, false) => i.i32_lt_u(),
            (ComparisonDirection::Eq, true, _) => i.i32x4_eq(),
            (ComparisonDirection::Ne, true, _) => i.i32x4_ne(),
            (ComparisonDirection::Ge, true, true) => i.i32x4_ge_s(),
            (ComparisonDirection::Ge, true, false) => i.i32x4_ge_u(),
            (ComparisonDirection::Gt, true, true) => i.i32x4_gt_s(),
            (ComparisonDirection::Gt, true, false) => i.i32x4_gt_u(),
            (ComparisonDirection::Le, true, true) => i.i32x4_le_s(),
            (ComparisonDirection::Le, true, false) => i.i32x4_le_u(),
            (ComparisonDirection::Lt, true, true) => i.i32x4_lt_s(),
            (ComparisonDirection::Lt, true, false) => i.i32x4_lt_u(),
        };
    }

    /// Of the two values on the stack below a condition, the first if that holds.
    pub(super) fn select(&mut self) {
        if self.vector {
            self.code.i().v128_bitselect();
        } else {
            self.code.i().select();
        }
    }

    /// An integer of up to 32 bits wrapped to its type.
    pub(super) fn wrap(&mut self, dtype: DType) {
        let unused = 32 - i32::try_from(dtype.bits().min(32)).unwrap_or(32);
        if unused == 0 || dtype == DType::Bool {
            return;
        }
        self.shift_left(unused);
        if dtype.is_signed_int() { self.shift_right_signed(unused) } else { self.shift_right(unused) }
    }

    /// Calls a function of f64 with floats, lane by lane.
    pub(super) fn call(&mut self, function: Function, operands: &[u32]) {
        let index = self.functions.index(function);
        if !self.vector {
            for &x in operands {
                self.code.i().local_get(x).f64_promote_f32();
            }
            self.code.i().call(index).f32_demote_f64();
            return;
        }
        self.code.i().v128_const(0);
        for lane in 0..4 {
            for &x in operands {
                self.code.i().local_get(x).f32x4_extract_lane(lane).f64_promote_f32();
            }
            self.code.i().call(index).f32_demote_f64().f32x4_replace_lane(lane);
        }
    }
}

/// Four lanes of the same bits.
fn splat(bits: u32) -> i128 {
    let lane = i128::from(bits);
    lane | lane << 32 | lane << 64 | lane << 96
}
