//! Transcendental functions of f32, for scalars and lanes alike.
//!
//! Every device gets the same bits: only operations that IEEE 754 defines to the last bit are used. Errors are a few
//! units in the last place.

use lmc_graph::DType;
use lmc_graph::ops::ComparisonDirection::{Eq, Gt, Le, Lt};

use super::lanes::{Class, Lanes};

impl Lanes<'_> {
    /// `e^x`, which is exactly 0 where the result would be below the normal numbers: WebAssembly does not flush such
    /// numbers, and computing with them is some ten times slower.
    ///
    /// `x = n ln 2 + r`; a polynomial in `r`, to whose exponent `n` is added.
    pub(super) fn exp(&mut self, x: u32) {
        // Adding it leaves the nearest whole number in the last bits of the fraction.
        const WHOLE: f32 = 12_582_912.0;
        self.code.i().local_get(x);
        self.float(std::f32::consts::LOG2_E);
        self.mul();
        self.float(WHOLE);
        self.add();
        let shifted = self.set(Class::F32);
        self.code.i().local_get(shifted);
        self.float(WHOLE);
        self.sub();
        let n = self.set(Class::F32);
        // ln 2 in two parts, the first of which has products with `n` without error.
        self.code.i().local_get(x).local_get(n);
        self.float(0.693_359_4);
        self.mul();
        self.sub();
        self.code.i().local_get(n);
        self.float(-2.121_944_4e-4);
        self.mul();
        self.sub();
        let r = self.set(Class::F32);
        // The Taylor series, with coefficients moved a little for the interval |r| <= ln 2 / 2.
        self.polynomial(
            r,
            &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5, 1.0, 1.0],
        );
        self.bits_of_float();
        self.code.i().local_get(shifted);
        self.bits_of_float();
        self.shift_left(23);
        self.int_add();
        self.float_of_bits();
        let finite = self.set(Class::F32);
        // Where x is too large or NaN: infinity or NaN.
        self.code.i().local_get(finite).local_get(x);
        self.float(f32::INFINITY);
        self.add();
        self.code.i().local_get(x);
        self.float(88.722_84);
        self.compare_floats(Le);
        self.select();
        let limited = self.set(Class::F32);
        self.float(0.0);
        self.code.i().local_get(limited).local_get(x);
        self.float(-87.336_54);
        self.compare_floats(Lt);
        self.select();
    }

    /// The natural logarithm.
    ///
    /// `x = 2^e m` with `m` from √½ to √2; a polynomial in `m - 1`.
    pub(super) fn log(&mut self, x: u32) {
        // Numbers below the normal ones are taken 2^23 times.
        self.code.i().local_get(x);
        self.float(f32::MIN_POSITIVE);
        self.compare_floats(Lt);
        let small = self.set(Class::I32);
        self.code.i().local_get(x);
        self.float(8_388_608.0);
        self.mul();
        self.code.i().local_get(x).local_get(small);
        self.select();
        self.bits_of_float();
        // √½, so that the exponent steps there.
        self.int(0x3f35_04f3);
        self.int_sub();
        let from_root = self.set(Class::I32);
        self.code.i().local_get(from_root);
        self.shift_right_signed(23);
        self.float_of_int();
        self.float(-23.0);
        self.float(0.0);
        self.code.i().local_get(small);
        self.select();
        self.add();
        let e = self.set(Class::F32);
        self.code.i().local_get(from_root);
        self.int(0x007f_ffff);
        self.and();
        self.int(0x3f35_04f3);
        self.int_add();
        self.float_of_bits();
        self.float(1.0);
        self.sub();
        let f = self.set(Class::F32);
        self.code.i().local_get(f).local_get(f);
        self.mul();
        let square = self.set(Class::F32);
        self.polynomial(
            f,
            &[
                7.037_683_6e-2,
                -0.115_146_1,
                0.116_769_98,
                -0.124_201_41,
                0.142_493_23,
                -0.166_680_58,
                0.200_007_14,
                -0.249_999_94,
                0.333_333_3,
            ],
        );
        self.code.i().local_get(f);
        self.mul();
        self.code.i().local_get(square);
        self.mul();
        self.code.i().local_get(e);
        self.float(-2.121_944_4e-4);
        self.mul();
        self.add();
        self.code.i().local_get(square);
        self.float(0.5);
        self.mul();
        self.sub();
        self.code.i().local_get(f);
        self.add();
        self.code.i().local_get(e);
        self.float(0.693_359_4);
        self.mul();
        self.add();
        let finite = self.set(Class::F32);
        // Infinity and NaN are their own logarithms.
        self.code.i().local_get(finite).local_get(x).local_get(x);
        self.float(f32::INFINITY);
        self.compare_floats(Lt);
        self.select();
        let limited = self.set(Class::F32);
        self.float(f32::NEG_INFINITY);
        self.code.i().local_get(limited).local_get(x);
        self.float(0.0);
        self.compare_floats(Eq);
        self.select();
        let above = self.set(Class::F32);
        self.float(f32::NAN);
        self.code.i().local_get(above).local_get(x);
        self.float(0.0);
        self.compare_floats(Lt);
        self.select();
    }

    /// The hyperbolic tangent: a polynomial near 0, else `1 - 2 / (e^2|x| + 1)` with the sign of `x`.
    pub(super) fn tanh(&mut self, x: u32) {
        self.code.i().local_get(x).local_get(x);
        self.mul();
        let square = self.set(Class::F32);
        self.polynomial(square, &[-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_83]);
        self.code.i().local_get(square);
        self.mul();
        self.code.i().local_get(x);
        self.mul();
        self.code.i().local_get(x);
        self.add();
        let near = self.set(Class::F32);
        self.code.i().local_get(x);
        self.abs();
        let magnitude = self.set(Class::F32);
        self.code.i().local_get(magnitude).local_get(magnitude);
        self.add();
        let twice = self.set(Class::F32);
        self.float(1.0);
        self.float(2.0);
        self.exp(twice);
        self.float(1.0);
        self.add();
        self.div();
        self.sub();
        self.with_sign_of(x);
        let far = self.set(Class::F32);
        self.code.i().local_get(far).local_get(near).local_get(magnitude);
        self.float(0.625);
        self.compare_floats(Gt);
        self.select();
    }

    /// `1 / (1 + e^-x)`.
    pub(super) fn logistic(&mut self, x: u32) {
        self.code.i().local_get(x);
        self.neg();
        let negative = self.set(Class::F32);
        self.float(1.0);
        self.float(1.0);
        self.exp(negative);
        self.add();
        self.div();
    }

    /// The number on the stack, not negative, with the sign of `x`.
    pub(super) fn with_sign_of(&mut self, x: u32) {
        self.bits_of_float();
        self.code.i().local_get(x);
        self.bits_of_float();
        self.int(i32::MIN);
        self.and();
        self.or();
        self.float_of_bits();
    }

    /// A polynomial, the coefficient of the highest power first.
    fn polynomial(&mut self, x: u32, coefficients: &[f32]) {
        self.float(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            self.code.i().local_get(x);
            self.mul();
            self.float(coefficient);
            self.add();
        }
    }

    /// The number on the stack rounded to nearest even of a float of fewer bits.
    pub(super) fn round(&mut self, dtype: DType) {
        let x = self.set(Class::F32);
        match dtype {
            DType::BF16 => self.cut(x, 16),
            DType::F16 => self.round_to_f16(x),
            DType::Bool
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64
            | DType::F32
            | DType::F64 => {
                self.code.i().local_get(x);
            }
        }
    }

    /// `x` without its last `bits`, rounded to nearest even; NaN stays.
    fn cut(&mut self, x: u32, bits: i32) {
        self.code.i().local_get(x);
        self.bits_of_float();
        self.int((1 << (bits - 1)) - 1);
        self.int_add();
        self.code.i().local_get(x);
        self.bits_of_float();
        self.shift_right(bits);
        self.int(1);
        self.and();
        self.int_add();
        self.int(-1 << bits);
        self.and();
        self.float_of_bits();
        self.code.i().local_get(x).local_get(x).local_get(x);
        self.compare_floats(Eq);
        self.select();
    }

    fn round_to_f16(&mut self, x: u32) {
        self.cut(x, 13);
        let normal = self.set(Class::F32);
        self.code.i().local_get(x);
        self.abs();
        let magnitude = self.set(Class::F32);
        // Beyond the largest number there is infinity.
        self.float(f32::INFINITY);
        self.with_sign_of(x);
        self.code.i().local_get(normal);
        self.float(65_519.996);
        self.code.i().local_get(magnitude);
        self.compare_floats(Lt);
        self.select();
        let limited = self.set(Class::F32);
        // Below the normal numbers neighbours are 2^-24 apart, as those next to 0.75 in f32.
        self.code.i().local_get(magnitude);
        self.float(0.75);
        self.add();
        self.float(0.75);
        self.sub();
        self.with_sign_of(x);
        let small = self.set(Class::F32);
        self.code.i().local_get(small).local_get(limited).local_get(magnitude);
        self.float(6.103_515_6e-5);
        self.compare_floats(Lt);
        self.select();
    }

    /// The f32 of the bits of an f16 in an integer on the stack.
    pub(super) fn f16_of_bits(&mut self) {
        let bits = self.set(Class::I32);
        self.code.i().local_get(bits);
        self.int(0x7fff);
        self.and();
        self.shift_left(13);
        self.float_of_bits();
        // 2^112: the exponents' bias is so much smaller.
        self.float(f32::from_bits((127 + 112) << 23));
        self.mul();
        let finite = self.set(Class::F32);
        // What would be 2^16 is infinite or NaN.
        self.code.i().local_get(finite);
        self.bits_of_float();
        self.int(0x7f80_0000);
        self.or();
        self.float_of_bits();
        self.code.i().local_get(finite).local_get(finite);
        self.float(65_504.0);
        self.compare_floats(Gt);
        self.select();
        self.bits_of_float();
        self.code.i().local_get(bits);
        self.int(0x8000);
        self.and();
        self.shift_left(16);
        self.or();
        self.float_of_bits();
    }

    /// The bits of the f16 that the f32 on the stack is.
    pub(super) fn bits_of_f16(&mut self) {
        let x = self.set(Class::F32);
        self.code.i().local_get(x);
        self.abs();
        self.float(f32::from_bits((127 - 112) << 23));
        self.mul();
        self.bits_of_float();
        self.shift_right(13);
        let magnitude = self.set(Class::I32);
        self.int(0x7c00);
        self.code.i().local_get(magnitude).local_get(magnitude);
        self.int(0x7c00);
        self.compare_ints(Gt, true);
        self.select();
        let limited = self.set(Class::I32);
        self.code.i().local_get(limited);
        self.int(0x7e00);
        self.code.i().local_get(x).local_get(x);
        self.compare_floats(Eq);
        self.select();
        self.code.i().local_get(x);
        self.bits_of_float();
        self.shift_right(16);
        self.int(0x8000);
        self.and();
        self.or();
    }
}
