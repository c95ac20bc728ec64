//! Functions of f64 that no instruction computes.
//!
//! Devices get the same bits, as in `math`. Arguments of f32 are computed in f64 and rounded once.

use wasm_encoder::{BlockType, Ieee64, ValType};

use super::code::Code;

/// The first parameter.
const X: u32 = 0;
/// The second.
const Y: u32 = 1;

fn float(f: &mut Code, x: f64) {
    f.i().f64_const(Ieee64::from(x));
}

/// `local * by + constant` on the stack's top: a step of Horner's rule.
fn polynomial(f: &mut Code, x: u32, coefficients: &[f64]) {
    float(f, coefficients[0]);
    for &coefficient in &coefficients[1..] {
        f.i().local_get(x).f64_mul();
        float(f, coefficient);
        f.i().f64_add();
    }
}

/// The coefficients `1 / n!` for `n` from `last` down to `first`.
fn inverse_factorials(last: u32, first: u32) -> Vec<f64> {
    let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
    (first..=last).rev().map(|n| 1.0 / factorial(n)).collect()
}

/// Returns what `value` pushes if the condition on the stack holds.
fn return_if(f: &mut Code, value: impl FnOnce(&mut Code)) {
    f.i().if_(BlockType::Empty);
    value(f);
    f.i().return_().end();
}

/// ln 2 in two parts, the first with 32 bits.
const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];

/// `x = n ln 2 + r`; the Taylor series of `r`, times `2^n` in two steps.
pub(super) fn exp(f: &mut Code) {
    f.i().local_get(X).local_get(X).f64_ne();
    return_if(f, |f| {
        f.i().local_get(X);
    });
    f.i().local_get(X);
    float(f, 709.782_712_893_384);
    f.i().f64_gt();
    return_if(f, |f| float(f, f64::INFINITY));
    f.i().local_get(X);
    float(f, -708.396_418_532_264_1);
    f.i().f64_lt();
    return_if(f, |f| float(f, 0.0));
    f.i().local_get(X);
    float(f, std::f64::consts::LOG2_E);
    f.i().f64_mul().f64_nearest();
    let n = f.set_new(ValType::F64);
    f.i().local_get(X).local_get(n);
    float(f, LN_2[0]);
    f.i().f64_mul().f64_sub().local_get(n);
    float(f, LN_2[1]);
    f.i().f64_mul().f64_sub();
    let r = f.set_new(ValType::F64);
    polynomial(f, r, &inverse_factorials(14, 0));
    f.i().local_get(n).i64_trunc_sat_f64_s();
    let n = f.set_new(ValType::I64);
    f.i().local_get(n).i64_const(1).i64_shr_s();
    let half = f.set_new(ValType::I64);
    f.i().local_get(half);
    power_of_two(f);
    f.i().f64_mul().local_get(n).local_get(half).i64_sub();
    power_of_two(f);
    f.i().f64_mul();
}

/// `2^n` for the integer on the stack.
fn power_of_two(f: &mut Code) {
    f.i().i64_const(1023).i64_add().i64_const(52).i64_shl().f64_reinterpret_i64();
}

/// The Taylor series near 0, else `e^x - 1`.
pub(super) fn exp_minus_one(f: &mut Code, exp: u32) {
    f.i().local_get(X).f64_abs();
    float(f, 0.4);
    f.i().f64_lt();
    return_if(f, |f| {
        polynomial(f, X, &inverse_factorials(17, 1));
        f.i().local_get(X).f64_mul();
    });
    f.i().local_get(X).call(exp);
    float(f, 1.0);
    f.i().f64_sub();
}

/// `x = 2^e m` with `m` from √½ to √2; `2 artanh((m - 1) / (m + 1))`.
pub(super) fn log(f: &mut Code) {
    const ROOT: i64 = 0x3fe6_a09e_667f_3bcd;
    f.i().local_get(X);
    float(f, f64::INFINITY);
    // Infinity and NaN.
    f.i().f64_lt().i32_eqz();
    return_if(f, |f| {
        f.i().local_get(X);
    });
    f.i().local_get(X);
    float(f, 0.0);
    f.i().f64_eq();
    return_if(f, |f| float(f, f64::NEG_INFINITY));
    f.i().local_get(X);
    float(f, 0.0);
    f.i().f64_lt();
    return_if(f, |f| float(f, f64::NAN));
    let shift = f.local(ValType::F64);
    f.i().local_get(X);
    float(f, f64::MIN_POSITIVE);
    f.i().f64_lt().if_(BlockType::Empty).local_get(X);
    float(f, 18_014_398_509_481_984.0);
    f.i().f64_mul().local_set(X);
    float(f, -54.0);
    f.i().local_set(shift).end();
    f.i().local_get(X).i64_reinterpret_f64().i64_const(ROOT).i64_sub();
    let bits = f.set_new(ValType::I64);
    f.i().local_get(bits).i64_const(52).i64_shr_s().f64_convert_i64_s().local_get(shift).f64_add();
    let e = f.set_new(ValType::F64);
    f.i().local_get(bits).i64_const((1 << 52) - 1).i64_and().i64_const(ROOT).i64_add().f64_reinterpret_i64();
    let m = f.set_new(ValType::F64);
    f.i().local_get(m);
    float(f, 1.0);
    f.i().f64_sub().local_get(m);
    float(f, 1.0);
    f.i().f64_add().f64_div();
    let s = f.set_new(ValType::F64);
    f.i().local_get(s).local_get(s).f64_mul();
    let square = f.set_new(ValType::F64);
    let series: Vec<f64> = (0..12).rev().map(|k| 2.0 / f64::from(2 * k + 1)).collect();
    polynomial(f, square, &series);
    f.i().local_get(s).f64_mul().local_get(e);
    float(f, LN_2[1]);
    f.i().f64_mul().f64_add().local_get(e);
    float(f, LN_2[0]);
    f.i().f64_mul().f64_add();
}

/// `log(u) x / (u - 1)` with `u = 1 + x`: the errors of the two factors cancel. (Kahan.)
pub(super) fn log_plus_one(f: &mut Code, log: u32) {
    f.i().local_get(X);
    float(f, 1.0);
    f.i().f64_add();
    let u = f.set_new(ValType::F64);
    f.i().local_get(u);
    float(f, 1.0);
    f.i().f64_eq().local_get(X);
    float(f, f64::INFINITY);
    f.i().f64_eq().i32_or();
    return_if(f, |f| {
        f.i().local_get(X);
    });
    f.i().local_get(u).call(log).local_get(X).f64_mul().local_get(u);
    float(f, 1.0);
    f.i().f64_sub().f64_div();
}

pub(super) fn logistic(f: &mut Code, exp: u32) {
    float(f, 1.0);
    float(f, 1.0);
    f.i().local_get(X).f64_neg().call(exp).f64_add().f64_div();
}

/// `t / (t + 2)` with `t = e^2|x| - 1`, and the sign of `x`.
pub(super) fn tanh(f: &mut Code, exp_minus_one: u32) {
    f.i().local_get(X).f64_abs();
    float(f, 20.0);
    f.i().f64_gt();
    return_if(f, |f| {
        float(f, 1.0);
        f.i().local_get(X).f64_copysign();
    });
    f.i().local_get(X).f64_abs().local_get(X).f64_abs().f64_add().call(exp_minus_one);
    let t = f.set_new(ValType::F64);
    f.i().local_get(t).local_get(t);
    float(f, 2.0);
    f.i().f64_add().f64_div().local_get(X).f64_copysign();
}

/// The sine of `x + quarters π/2`: `x = n π/2 + r`, and the Taylor series of sine or cosine of `r`.
///
/// π/2 is taken in three parts, the first two with 33 bits: exact for |x| up to some 10^6, and less and less so beyond.
pub(super) fn circle(f: &mut Code, quarters: i64) {
    const PARTS: [f64; 3] = [1.570_796_326_734_125_6, 6.077_100_506_303_966e-11, 2.022_266_248_795_950_7e-21];
    f.i().local_get(X);
    float(f, std::f64::consts::FRAC_2_PI);
    f.i().f64_mul().f64_nearest();
    let n = f.set_new(ValType::F64);
    f.i().local_get(X);
    for part in PARTS {
        f.i().local_get(n);
        float(f, part);
        f.i().f64_mul().f64_sub();
    }
    let r = f.set_new(ValType::F64);
    f.i().local_get(n).i64_trunc_sat_f64_s().i64_const(quarters).i64_add();
    let quadrant = f.set_new(ValType::I64);
    f.i().local_get(r).local_get(r).f64_mul().f64_neg();
    let square = f.set_new(ValType::F64);
    let factorials = inverse_factorials(19, 0);
    // Of 1 / n! with n from 19 down, every second one is a coefficient of the sine.
    let sine: Vec<f64> = factorials.iter().step_by(2).copied().collect();
    let cosine: Vec<f64> = factorials.iter().skip(1).step_by(2).copied().collect();
    f.i().local_get(quadrant).i64_const(1).i64_and().i64_eqz().if_(BlockType::Result(ValType::F64));
    polynomial(f, square, &sine);
    f.i().local_get(r).f64_mul().else_();
    polynomial(f, square, &cosine);
    f.i().end();
    let value = f.set_new(ValType::F64);
    f.i().local_get(value).f64_neg().local_get(value).local_get(quadrant).i64_const(2).i64_and().i64_eqz().i32_eqz();
    f.i().select();
}

/// `e^(y log |x|)`, with a sign for odd powers of negative numbers.
pub(super) fn power(f: &mut Code, exp: u32, log: u32) {
    f.i().local_get(Y);
    float(f, 0.0);
    f.i().f64_eq().local_get(X);
    float(f, 1.0);
    f.i().f64_eq().i32_or();
    return_if(f, |f| float(f, 1.0));
    // NaN of either, which none of the comparisons below lets through.
    f.i().local_get(X).local_get(Y).f64_add();
    let sum = f.set_new(ValType::F64);
    f.i().local_get(X).local_get(X).f64_ne().local_get(Y).local_get(Y).f64_ne().i32_or();
    return_if(f, |f| {
        f.i().local_get(sum);
    });
    let whole = |f: &mut Code| {
        f.i().local_get(Y).f64_floor().local_get(Y).f64_eq();
    };
    f.i().local_get(X).f64_abs();
    float(f, 1.0);
    f.i().f64_eq().if_(BlockType::Result(ValType::F64));
    float(f, 1.0);
    f.i().else_().local_get(X).f64_abs().call(log).local_get(Y).f64_mul().call(exp).end();
    let magnitude = f.set_new(ValType::F64);
    // Whether y is odd: half of it is not whole. Large floats are even.
    whole(f);
    f.i().local_get(Y);
    float(f, 0.5);
    f.i().f64_mul().f64_floor().local_get(Y);
    float(f, 0.5);
    f.i().f64_mul().f64_ne().i32_and();
    let odd = f.set_new(ValType::I32);
    f.i().local_get(odd).if_(BlockType::Empty).local_get(magnitude).local_get(X).f64_copysign().return_().end();
    f.i().local_get(X);
    float(f, 0.0);
    f.i().f64_lt();
    whole(f);
    f.i().i32_eqz().i32_and().local_get(X);
    float(f, f64::NEG_INFINITY);
    f.i().f64_ne().i32_and();
    return_if(f, |f| float(f, f64::NAN));
    f.i().local_get(magnitude);
}

/// The arc tangent of the lesser magnitude over the greater, put into its octant.
pub(super) fn atan2(f: &mut Code) {
    // Parameters are y and x.
    let (y, x) = (0, 1);
    f.i().local_get(y).local_get(y).f64_ne().local_get(x).local_get(x).f64_ne().i32_or();
    return_if(f, |f| {
        f.i().local_get(y).local_get(x).f64_add();
    });
    f.i().local_get(y).f64_abs().local_get(x).f64_abs().f64_min();
    let least = f.set_new(ValType::F64);
    f.i().local_get(y).f64_abs().local_get(x).f64_abs().f64_max();
    let greatest = f.set_new(ValType::F64);
    // 0 / 0 counts as 0, and ∞ / ∞ as 1.
    f.i().local_get(least).local_get(greatest).f64_div();
    let ratio = f.set_new(ValType::F64);
    f.i().local_get(ratio).local_get(ratio).f64_ne().if_(BlockType::Empty);
    float(f, 1.0);
    float(f, 0.0);
    f.i().local_get(greatest);
    float(f, 0.0);
    f.i().f64_gt().select().local_set(ratio).end();
    // Above tan(π/8) by the difference from π/4.
    let base = f.local(ValType::F64);
    f.i().local_get(ratio);
    float(f, 0.414_213_562_373_095_03);
    f.i().f64_gt().if_(BlockType::Empty);
    float(f, std::f64::consts::FRAC_PI_4);
    f.i().local_set(base).local_get(ratio);
    float(f, 1.0);
    f.i().f64_sub().local_get(ratio);
    float(f, 1.0);
    f.i().f64_add().f64_div().local_set(ratio).end();
    f.i().local_get(ratio).local_get(ratio).f64_mul().f64_neg();
    let square = f.set_new(ValType::F64);
    let series: Vec<f64> = (0..24).rev().map(|k| 1.0 / f64::from(2 * k + 1)).collect();
    polynomial(f, square, &series);
    f.i().local_get(ratio).f64_mul().local_get(base).f64_add();
    let angle = f.set_new(ValType::F64);
    f.i().local_get(y).f64_abs().local_get(x).f64_abs().f64_gt().if_(BlockType::Empty);
    float(f, std::f64::consts::FRAC_PI_2);
    f.i().local_get(angle).f64_sub().local_set(angle).end();
    // The sign of x, also of a zero.
    float(f, 1.0);
    f.i().local_get(x).f64_copysign();
    float(f, 0.0);
    f.i().f64_lt().if_(BlockType::Empty);
    float(f, std::f64::consts::PI);
    f.i().local_get(angle).f64_sub().local_set(angle).end();
    f.i().local_get(angle).local_get(y).f64_copysign();
}

/// Long division: `|y|` times powers of two is taken away from `|x|` as often as it can be, which is exact.
pub(super) fn remainder(f: &mut Code) {
    f.i().local_get(X).f64_abs();
    let rest = f.set_new(ValType::F64);
    f.i().local_get(Y).f64_abs();
    let divisor = f.set_new(ValType::F64);
    f.i().local_get(rest);
    float(f, f64::INFINITY);
    f.i().f64_lt().local_get(divisor);
    float(f, 0.0);
    f.i().f64_gt().i32_and().i32_eqz();
    return_if(f, |f| float(f, f64::NAN));
    f.i().local_get(rest).local_get(divisor).f64_lt();
    return_if(f, |f| {
        f.i().local_get(X);
    });
    f.i().local_get(divisor);
    let part = f.set_new(ValType::F64);
    f.while_(
        |f| {
            f.i().local_get(part).local_get(rest);
            float(f, 0.5);
            f.i().f64_mul().f64_le();
        },
        |f| {
            f.i().local_get(part).local_get(part).f64_add().local_set(part);
        },
    );
    f.while_(
        |f| {
            f.i().local_get(part).local_get(divisor).f64_ge();
        },
        |f| {
            f.i().local_get(rest).local_get(part).f64_ge().if_(BlockType::Empty);
            f.i().local_get(rest).local_get(part).f64_sub().local_set(rest).end().local_get(part);
            float(f, 0.5);
            f.i().f64_mul().local_set(part);
        },
    );
    f.i().local_get(rest).local_get(X).f64_copysign();
}

/// By repeated squaring; rounded towards zero where `y` is negative, and then 0 for a power of 0.
pub(super) fn integer_power(f: &mut Code) {
    let signed = 2;
    f.i().local_get(Y).i64_const(0).i64_lt_s().local_get(signed).i64_eqz().i32_eqz().i32_and().if_(BlockType::Empty);
    f.i().local_get(X).i64_const(1).i64_eq();
    return_if(f, |f| {
        f.i().i64_const(1);
    });
    f.i().local_get(X).i64_const(-1).i64_eq();
    return_if(f, |f| {
        f.i().i64_const(1).local_get(Y).i64_const(1).i64_and().i64_const(1).i64_shl().i64_sub();
    });
    f.i().i64_const(0).return_().end();
    f.i().i64_const(1);
    let result = f.set_new(ValType::I64);
    f.while_(
        |f| {
            f.i().local_get(Y).i64_const(0).i64_ne();
        },
        |f| {
            f.i().local_get(Y).i64_const(1).i64_and().i64_eqz().i32_eqz().if_(BlockType::Empty);
            f.i().local_get(result).local_get(X).i64_mul().local_set(result).end();
            f.i().local_get(X).local_get(X).i64_mul().local_set(X).local_get(Y).i64_const(1).i64_shr_u().local_set(Y);
        },
    );
    f.i().local_get(result);
}
