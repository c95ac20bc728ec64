//! Ops that work element by element.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::eval::{Elements, Tensor, int_range};
use crate::ops::{Inferred, Op, arity};

/// Which element types an elementwise op takes: StableHLO's `(I1)` of each op, without complex and quantized types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Floats,
    SignedOrFloats,
    Numbers,
    BoolOrInts,
    Ints,
    All,
}

impl Takes {
    fn contains(self, dtype: DType) -> bool {
        match self {
            Takes::Floats => dtype.is_float(),
            Takes::SignedOrFloats => dtype.is_float() || dtype.is_signed_int(),
            Takes::Numbers => dtype.is_float() || dtype.is_int(),
            Takes::BoolOrInts => dtype == DType::Bool || dtype.is_int(),
            Takes::Ints => dtype.is_int(),
            Takes::All => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Takes::Floats => "floats",
            Takes::SignedOrFloats => "signed integers or floats",
            Takes::Numbers => "integers or floats",
            Takes::BoolOrInts => "booleans or integers",
            Takes::Ints => "integers",
            Takes::All => "any element type",
        }
    }
}

words! {
    /// Ops of one operand: `result[i] = f(operand[i])`.
    ///
    /// *Shapes*: any, the result's is the operand's. *Constraints*: (I1) the element type is one that the op takes.
    /// (C1) the result has the operand's type, booleans for `is_finite`.
    pub enum UnaryOp {
        /// `|x|`
        Abs = "abs",
        /// `-x`; wraps for integers
        Negate = "negate",
        /// -1, 0 or 1, and `x` itself for zeros and NaN
        Sign = "sign",
        /// `e^x`
        Exponential = "exponential",
        /// `e^x - 1`, exact near 0
        ExponentialMinusOne = "exponential_minus_one",
        /// the natural logarithm; NaN below 0
        Log = "log",
        /// `log(1 + x)`, exact near 0
        LogPlusOne = "log_plus_one",
        /// `1 / (1 + e^-x)`
        Logistic = "logistic",
        /// the hyperbolic tangent
        Tanh = "tanh",
        /// the sine of radians
        Sine = "sine",
        /// the cosine of radians
        Cosine = "cosine",
        /// the square root; NaN below 0
        Sqrt = "sqrt",
        /// `1 / sqrt(x)`; infinite at 0
        Rsqrt = "rsqrt",
        /// the greatest whole number that is not above `x`
        Floor = "floor",
        /// the least whole number that is not below `x`
        Ceil = "ceil",
        /// the nearest whole number, of two equally near the even one
        RoundNearestEven = "round_nearest_even",
        /// the complement: logical for booleans, of every bit for integers
        Not = "not",
        /// neither infinite nor NaN
        IsFinite = "is_finite",
    }
}

impl UnaryOp {
    fn takes(self) -> Takes {
        match self {
            UnaryOp::Abs | UnaryOp::Sign => Takes::SignedOrFloats,
            UnaryOp::Negate => Takes::Numbers,
            UnaryOp::Not => Takes::BoolOrInts,
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
            | UnaryOp::IsFinite => Takes::Floats,
        }
    }
}

pub(crate) fn unary_type(op: UnaryOp, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    let takes = op.takes();
    require!(takes.contains(x.dtype), "I1", "the operand must be of {}, found {x}", takes.name());
    Ok(vec![if op == UnaryOp::IsFinite { x.with_dtype(DType::Bool) } else { x.clone() }])
}

pub(crate) fn eval_unary(op: UnaryOp, x: &Tensor, ty: &TensorType) -> Tensor {
    match x.elements() {
        Elements::Float(elements) if op == UnaryOp::IsFinite => {
            Tensor::from_ints(ty.clone(), elements.iter().map(|x| i128::from(x.is_finite())).collect())
        }
        Elements::Float(elements) => {
            let f = unary_float(op);
            Tensor::from_floats(ty.clone(), elements.iter().map(|&x| f(x)).collect())
        }
        Elements::Int(elements) => {
            let f = unary_int(op, ty.dtype);
            Tensor::from_ints(ty.clone(), elements.iter().map(|&x| f(x)).collect())
        }
    }
}

fn unary_float(op: UnaryOp) -> fn(f64) -> f64 {
    match op {
        UnaryOp::Abs => f64::abs,
        UnaryOp::Negate => |x| -x,
        // `signum` of a zero is 1.
        UnaryOp::Sign => |x| if x == 0.0 { x } else { x.signum() },
        UnaryOp::Exponential => f64::exp,
        UnaryOp::ExponentialMinusOne => f64::exp_m1,
        UnaryOp::Log => f64::ln,
        UnaryOp::LogPlusOne => f64::ln_1p,
        UnaryOp::Logistic => |x| 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Tanh => f64::tanh,
        UnaryOp::Sine => f64::sin,
        UnaryOp::Cosine => f64::cos,
        UnaryOp::Sqrt => f64::sqrt,
        UnaryOp::Rsqrt => |x| 1.0 / x.sqrt(),
        UnaryOp::Floor => f64::floor,
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::RoundNearestEven => f64::round_ties_even,
        UnaryOp::Not | UnaryOp::IsFinite => unreachable!("`{}` does not return floats", op.name()),
    }
}

fn unary_int(op: UnaryOp, dtype: DType) -> fn(i128) -> i128 {
    match op {
        UnaryOp::Abs => i128::abs,
        UnaryOp::Negate => |x| -x,
        UnaryOp::Sign => i128::signum,
        UnaryOp::Not if dtype == DType::Bool => |x| 1 - x,
        UnaryOp::Not => |x| !x,
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

words! {
    /// Ops of two operands of one type: `result[i] = f(lhs[i], rhs[i])`.
    ///
    /// *Shapes*: any, all three the same. *Constraints*: (I1) the element type is one that the op takes.
    /// (C1) `lhs`, `rhs` and the result have the same type.
    pub enum BinaryOp {
        /// `lhs + rhs`; wraps for integers, or for booleans
        Add = "add",
        /// `lhs - rhs`; wraps for integers
        Subtract = "subtract",
        /// `lhs * rhs`; wraps for integers, and for booleans
        Multiply = "multiply",
        /// `lhs / rhs`; towards zero for integers, whose quotient by 0 is -1 (all bits set)
        Divide = "divide",
        /// the remainder of `divide`, with the sign of `lhs`; by 0 it is `lhs` for integers
        Remainder = "remainder",
        /// `lhs ^ rhs`; for integers 0 or ±1 when `rhs` is negative
        Power = "power",
        /// the greater; NaN if either is
        Maximum = "maximum",
        /// the lesser; NaN if either is
        Minimum = "minimum",
        /// the angle of the point (x = rhs, y = lhs), in radians within ±π
        Atan2 = "atan2",
        /// logical for booleans, bit by bit for integers
        And = "and",
        /// logical for booleans, bit by bit for integers
        Or = "or",
        /// logical for booleans, bit by bit for integers
        Xor = "xor",
        /// `lhs << rhs`; 0 when `rhs` is not below the number of bits
        ShiftLeft = "shift_left",
        /// `lhs >> rhs` copying the sign bit
        ShiftRightArithmetic = "shift_right_arithmetic",
        /// `lhs >> rhs` filling with zeros
        ShiftRightLogical = "shift_right_logical",
    }
}

impl BinaryOp {
    fn takes(self) -> Takes {
        match self {
            BinaryOp::Add | BinaryOp::Multiply | BinaryOp::Maximum | BinaryOp::Minimum => Takes::All,
            BinaryOp::Subtract | BinaryOp::Divide | BinaryOp::Remainder | BinaryOp::Power => Takes::Numbers,
            BinaryOp::Atan2 => Takes::Floats,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => Takes::BoolOrInts,
            BinaryOp::ShiftLeft | BinaryOp::ShiftRightArithmetic | BinaryOp::ShiftRightLogical => Takes::Ints,
        }
    }
}

pub(crate) fn binary_type(op: BinaryOp, operands: &[&TensorType]) -> Inferred {
    let [lhs, rhs] = arity(operands)?;
    let takes = op.takes();
    require!(takes.contains(lhs.dtype), "I1", "the operands must be of {}, found {lhs}", takes.name());
    require!(lhs == rhs, "C1", "the operands must have the same type, found {lhs} and {rhs}");
    Ok(vec![lhs.clone()])
}

pub(crate) fn eval_binary(op: BinaryOp, lhs: &Tensor, rhs: &Tensor) -> Tensor {
    let ty = lhs.ty();
    if ty.dtype.is_float() {
        let f = binary_float(op);
        Tensor::from_floats(ty.clone(), lhs.floats().iter().zip(rhs.floats()).map(|(&x, &y)| f(x, y)).collect())
    } else {
        let pairs = lhs.ints().iter().zip(rhs.ints());
        Tensor::from_ints(ty.clone(), pairs.map(|(&x, &y)| binary_int(op, ty.dtype, x, y)).collect())
    }
}

fn binary_float(op: BinaryOp) -> fn(f64, f64) -> f64 {
    match op {
        BinaryOp::Add => |x, y| x + y,
        BinaryOp::Subtract => |x, y| x - y,
        BinaryOp::Multiply => |x, y| x * y,
        BinaryOp::Divide => |x, y| x / y,
        BinaryOp::Remainder => |x, y| x % y,
        BinaryOp::Power => f64::powf,
        BinaryOp::Maximum => maximum,
        BinaryOp::Minimum => minimum,
        BinaryOp::Atan2 => f64::atan2,
        BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRightArithmetic
        | BinaryOp::ShiftRightLogical => unreachable!("`{}` does not take floats", op.name()),
    }
}

/// The greater, 0 being greater than -0; NaN if either is. (IEEE 754-2019, `maximum`.)
pub(crate) fn maximum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else if x == y {
        // Differs from `y` for zeros only.
        if x.is_sign_negative() { y } else { x }
    } else {
        x.max(y)
    }
}

/// The lesser, -0 being less than 0; NaN if either is. (IEEE 754-2019, `minimum`.)
pub(crate) fn minimum(x: f64, y: f64) -> f64 {
    -maximum(-x, -y)
}

/// The result before it is wrapped to `dtype`. Booleans are 0 and 1, and 2 counts as true.
fn binary_int(op: BinaryOp, dtype: DType, x: i128, y: i128) -> i128 {
    // A negative shift is far too wide a one when read as unsigned, which is what XLA does.
    let shift = u32::try_from(y).ok().filter(|&y| (y as usize) < dtype.bits());
    match op {
        BinaryOp::Add => x + y,
        BinaryOp::Subtract => x - y,
        BinaryOp::Multiply => x.wrapping_mul(y),
        BinaryOp::Divide => x.checked_div(y).unwrap_or(-1),
        BinaryOp::Remainder => x.checked_rem(y).unwrap_or(x),
        BinaryOp::Power => power(x, y),
        BinaryOp::Maximum => x.max(y),
        BinaryOp::Minimum => x.min(y),
        BinaryOp::And => x & y,
        BinaryOp::Or => x | y,
        BinaryOp::Xor => x ^ y,
        BinaryOp::ShiftLeft => shift.map_or(0, |shift| x << shift),
        BinaryOp::ShiftRightArithmetic => {
            // Unsigned types too have a sign bit here: their first.
            let bits = 128 - dtype.bits();
            let signed = x << bits >> bits;
            shift.map_or(signed >> 127, |shift| signed >> shift)
        }
        BinaryOp::ShiftRightLogical => {
            let unsigned = x & ((1 << dtype.bits()) - 1);
            shift.map_or(0, |shift| unsigned >> shift)
        }
        BinaryOp::Atan2 => unreachable!("`{}` does not take integers", op.name()),
    }
}

/// `x ^ y` modulo 2^128, and rounded towards zero where `y` is negative; 0 for a negative power of 0.
fn power(x: i128, y: i128) -> i128 {
    if y < 0 {
        return match x {
            1 => 1,
            -1 => 1 - 2 * (y & 1),
            _ => 0,
        };
    }
    let (mut result, mut square, mut rest) = (1_i128, x, y);
    while rest > 0 {
        if rest & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        rest >>= 1;
    }
    result
}

words! {
    /// The relation that [`Compare`] tests; every one but `NE` is false where an operand is NaN.
    pub enum ComparisonDirection {
        /// equal
        Eq = "EQ",
        /// not equal
        Ne = "NE",
        /// greater or equal
        Ge = "GE",
        /// greater
        Gt = "GT",
        /// less or equal
        Le = "LE",
        /// less
        Lt = "LT",
    }
}

attributes! {
    /// `result[i] = lhs[i] <direction> rhs[i]`, a boolean.
    ///
    /// *Shapes*: any, all three the same. *Constraints*: (C1) `lhs` and `rhs` have the same element type.
    /// (C2) `lhs`, `rhs` and the result have the same shape.
    pub struct Compare {
        /// The relation.
        pub direction: ComparisonDirection,
    }
}

pub(crate) fn compare_type(_: &Compare, operands: &[&TensorType]) -> Inferred {
    let [lhs, rhs] = arity(operands)?;
    require!(lhs.dtype == rhs.dtype, "C1", "the element types must be the same, found {lhs} and {rhs}");
    require!(lhs.shape == rhs.shape, "C2", "the shapes must be the same, found {lhs} and {rhs}");
    Ok(vec![lhs.with_dtype(DType::Bool)])
}

pub(crate) fn eval_compare(op: &Compare, lhs: &Tensor, rhs: &Tensor, ty: &TensorType) -> Tensor {
    fn holds<T: PartialOrd + Copy>(direction: ComparisonDirection) -> fn(T, T) -> bool {
        match direction {
            ComparisonDirection::Eq => |x, y| x == y,
            ComparisonDirection::Ne => |x, y| x != y,
            ComparisonDirection::Ge => |x, y| x >= y,
            ComparisonDirection::Gt => |x, y| x > y,
            ComparisonDirection::Le => |x, y| x <= y,
            ComparisonDirection::Lt => |x, y| x < y,
        }
    }
    fn compare<T: PartialOrd + Copy>(direction: ComparisonDirection, lhs: &[T], rhs: &[T]) -> Vec<i128> {
        let holds = holds(direction);
        lhs.iter().zip(rhs).map(|(&x, &y)| i128::from(holds(x, y))).collect()
    }
    let elements = if lhs.ty().dtype.is_float() {
        compare(op.direction, lhs.floats(), rhs.floats())
    } else {
        compare(op.direction, lhs.ints(), rhs.ints())
    };
    Tensor::from_ints(ty.clone(), elements)
}

/// `select`: `result[i] = pred[i] ? on_true[i] : on_false[i]`; a scalar `pred` decides for all elements.
///
/// *Constraints*: (I1) `pred` is of booleans. (C1) `pred` is a scalar or has the shape of `on_true`. (C2) `on_true`,
/// `on_false` and the result have the same type.
pub(crate) fn select_type(operands: &[&TensorType]) -> Inferred {
    let [pred, on_true, on_false] = arity(operands)?;
    require!(pred.dtype == DType::Bool, "I1", "`pred` must be of booleans, found {pred}");
    require!(
        pred.rank() == 0 || pred.shape == on_true.shape,
        "C1",
        "`pred` must be a scalar or have the shape of `on_true`, found {pred} and {on_true}"
    );
    require!(
        on_true == on_false,
        "C2",
        "`on_true` and `on_false` must have the same type, found {on_true} and {on_false}"
    );
    Ok(vec![on_true.clone()])
}

pub(crate) fn eval_select(pred: &Tensor, on_true: &Tensor, on_false: &Tensor) -> Tensor {
    if pred.ty().rank() == 0 {
        return if pred.is_true() { on_true.clone() } else { on_false.clone() };
    }
    let chosen =
        |wanted: bool| pred.ints().iter().enumerate().filter(move |&(_, &pred)| (pred != 0) == wanted).map(|(i, _)| i);
    let mut result = on_false.clone();
    result.put(chosen(true), on_true, chosen(true));
    result
}

/// `clamp`: `result[i] = minimum(maximum(operand[i], min[i]), max[i])`; operands are `min`, `operand`, `max`, and the
/// limits may be scalars.
///
/// *Constraints*: (I1) the element type is a number. (C1) `min` is a scalar or has the shape of `operand`. (C2) so has
/// `max`. (C3) all three have the same element type.
pub(crate) fn clamp_type(operands: &[&TensorType]) -> Inferred {
    let [min, x, max] = arity(operands)?;
    require!(x.dtype != DType::Bool, "I1", "the operand must be of integers or floats, found {x}");
    for (limit, name, label) in [(min, "min", "C1"), (max, "max", "C2")] {
        if limit.rank() != 0 && limit.shape != x.shape {
            let message = format!("`{name}` must be a scalar or have the operand's shape, found {limit} and {x}");
            return Err(crate::error::Violation { constraint: label, message });
        }
    }
    require!(
        min.dtype == x.dtype && max.dtype == x.dtype,
        "C3",
        "the element types must be the same, found {min}, {x} and {max}"
    );
    Ok(vec![x.clone()])
}

pub(crate) fn eval_clamp(min: &Tensor, x: &Tensor, max: &Tensor) -> Tensor {
    fn limit<T: Copy>(min: &[T], x: &[T], max: &[T], f: impl Fn(T, T, T) -> T) -> Vec<T> {
        // A scalar is the limit of every element.
        let at = |limit: &[T], i: usize| limit[i % limit.len()];
        x.iter().enumerate().map(|(i, &x)| f(at(min, i), x, at(max, i))).collect()
    }
    let ty = x.ty().clone();
    if ty.dtype.is_float() {
        let f = |min, x, max| minimum(maximum(x, min), max);
        Tensor::from_floats(ty, limit(min.floats(), x.floats(), max.floats(), f))
    } else {
        // Not `clamp`, which panics if the limits are the wrong way round.
        let f = |min: i128, x: i128, max: i128| x.max(min).min(max);
        Tensor::from_ints(ty, limit(min.ints(), x.ints(), max.ints(), f))
    }
}

attributes! {
    /// `result[i] = operand[i]` in another element type.
    ///
    /// Floats round to nearest even; a float becomes an integer towards zero, and beyond the integer's range its
    /// nearest end (NaN becomes 0); integers wrap; anything but 0 is true.
    /// *Constraints*: (C1) the result has the operand's shape.
    pub struct Convert {
        /// The element type of the result.
        pub dtype: DType,
    }
}

pub(crate) fn convert_type(op: &Convert, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    Ok(vec![x.with_dtype(op.dtype)])
}

pub(crate) fn eval_convert(x: &Tensor, ty: &TensorType) -> Tensor {
    match x.elements() {
        Elements::Float(elements) if ty.dtype.is_float() => Tensor::from_floats(ty.clone(), elements.clone()),
        Elements::Float(elements) if ty.dtype == DType::Bool => {
            Tensor::from_ints(ty.clone(), elements.iter().map(|&x| i128::from(x != 0.0)).collect())
        }
        Elements::Float(elements) => {
            let (least, greatest) = int_range(ty.dtype);
            // `as` goes towards zero and to the nearest end, and takes NaN to 0.
            Tensor::from_ints(ty.clone(), elements.iter().map(|&x| (x as i128).clamp(least, greatest)).collect())
        }
        Elements::Int(elements) if ty.dtype.is_float() => {
            Tensor::from_floats(ty.clone(), elements.iter().map(|&x| int_to_float(x, ty.dtype)).collect())
        }
        Elements::Int(elements) => Tensor::from_ints(ty.clone(), elements.clone()),
    }
}

/// The f64 that rounds to the number of `dtype` nearest to `x`: for types narrower than f64, an integer of more than 53
/// bits keeps in its last bit whether something was cut off, as a nearest f64 would be rounded a second time.
fn int_to_float(x: i128, dtype: DType) -> f64 {
    let bits = 128 - x.unsigned_abs().leading_zeros();
    if bits <= 53 || dtype == DType::F64 {
        return x as f64;
    }
    let cut = bits - 53;
    let kept = x >> cut;
    let odd = kept | i128::from(kept << cut != x);
    odd as f64 * f64::from(cut).exp2()
}

attributes! {
    /// The bits of the operand read as another element type of the same width.
    ///
    /// StableHLO also allows a change of width, which adds or takes a last dimension; this IR does not.
    /// *Constraints*: (C1) both element types have the same number of bits.
    pub struct BitcastConvert {
        /// The element type of the result.
        pub dtype: DType,
    }
}

pub(crate) fn bitcast_convert_type(op: &BitcastConvert, operands: &[&TensorType]) -> Inferred {
    let [x] = arity(operands)?;
    require!(
        x.dtype.bits() == op.dtype.bits(),
        "C1",
        "the element types must have the same number of bits, found {} and {}",
        x.dtype,
        op.dtype
    );
    Ok(vec![x.with_dtype(op.dtype)])
}

pub(crate) fn eval_bitcast_convert(x: &Tensor, ty: &TensorType) -> Tensor {
    let bits = crate::Literal::from_bytes(ty.clone(), x.to_literal().into_bytes());
    Tensor::from(&bits.expect("both types have the same width"))
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $method:ident = $op:ident;)*) => {
        impl<'g> Value<'g> {$(
            $(#[$doc])*
            ///
            /// # Panics
            /// If the element type is not one that the op takes.
            #[track_caller]
            pub fn $method(self) -> Value<'g> {
                self.builder().push1(Op::Unary(UnaryOp::$op), &[self])
            }
        )*}
    };
}

unary_methods! {
    /// `abs`: `|x|`.
    abs = Abs;
    /// `negate`: `-x`.
    negate = Negate;
    /// `sign`: -1, 0 or 1.
    sign = Sign;
    /// `exponential`: `e^x`.
    exp = Exponential;
    /// `exponential_minus_one`: `e^x - 1`.
    expm1 = ExponentialMinusOne;
    /// `log`: the natural logarithm.
    log = Log;
    /// `log_plus_one`: `log(1 + x)`.
    log1p = LogPlusOne;
    /// `logistic`: `1 / (1 + e^-x)`.
    logistic = Logistic;
    /// `tanh`.
    tanh = Tanh;
    /// `sine`, of radians.
    sine = Sine;
    /// `cosine`, of radians.
    cosine = Cosine;
    /// `sqrt`.
    sqrt = Sqrt;
    /// `rsqrt`: `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `floor`.
    floor = Floor;
    /// `ceil`.
    ceil = Ceil;
    /// `round_nearest_even`.
    round_nearest_even = RoundNearestEven;
    /// `not`: the complement of booleans or bits.
    logical_not = Not;
    /// `is_finite`, of booleans.
    is_finite = IsFinite;
}

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $method:ident = $op:ident;)*) => {
        // `add` is also what `+` calls.
        #[allow(clippy::should_implement_trait)]
        impl<'g> Value<'g> {$(
            $(#[$doc])*
            /// Shapes are broadcast to each other as NumPy does, by `broadcast_in_dim` nodes.
            ///
            /// # Panics
            /// If the element types differ or are not what the op takes, or the shapes cannot be broadcast.
            #[track_caller]
            pub fn $method(self, rhs: Value<'g>) -> Value<'g> {
                let (lhs, rhs) = self.broadcast_together(rhs);
                self.builder().push1(Op::Binary(BinaryOp::$op), &[lhs, rhs])
            }
        )*}
    };
}

binary_methods! {
    /// `add`.
    add = Add;
    /// `subtract`.
    subtract = Subtract;
    /// `multiply`.
    multiply = Multiply;
    /// `divide`.
    divide = Divide;
    /// `remainder`.
    remainder = Remainder;
    /// `power`.
    power = Power;
    /// `maximum`.
    maximum = Maximum;
    /// `minimum`.
    minimum = Minimum;
    /// `atan2`: the angle of the point (x = rhs, y = self).
    atan2 = Atan2;
    /// `and`.
    and = And;
    /// `or`.
    or = Or;
    /// `xor`.
    xor = Xor;
    /// `shift_left`.
    shift_left = ShiftLeft;
    /// `shift_right_arithmetic`.
    shift_right_arithmetic = ShiftRightArithmetic;
    /// `shift_right_logical`.
    shift_right_logical = ShiftRightLogical;
}

macro_rules! compare_methods {
    ($($(#[$doc:meta])* $method:ident = $direction:ident;)*) => {
        impl<'g> Value<'g> {$(
            $(#[$doc])*
            /// A tensor of booleans.
            ///
            /// # Panics
            /// As [`Value::compare`].
            #[track_caller]
            pub fn $method(self, rhs: Value<'g>) -> Value<'g> {
                self.compare(ComparisonDirection::$direction, rhs)
            }
        )*}
    };
}

compare_methods! {
    /// `compare EQ`.
    equal = Eq;
    /// `compare NE`.
    not_equal = Ne;
    /// `compare GE`.
    greater_equal = Ge;
    /// `compare GT`.
    greater = Gt;
    /// `compare LE`.
    less_equal = Le;
    /// `compare LT`.
    less = Lt;
}

impl<'g> Value<'g> {
    /// `compare`; shapes are broadcast to each other as NumPy does, by `broadcast_in_dim` nodes.
    ///
    /// # Panics
    /// If the element types differ or the shapes cannot be broadcast.
    #[track_caller]
    pub fn compare(self, direction: ComparisonDirection, rhs: Value<'g>) -> Value<'g> {
        let (lhs, rhs) = self.broadcast_together(rhs);
        self.builder().push1(Op::Compare(Compare { direction }), &[lhs, rhs])
    }

    /// `select` with `self` as `pred`: `on_true` where it holds, else `on_false`. All three are broadcast to each
    /// other as NumPy does, but for a scalar `self`, which stays one.
    ///
    /// # Panics
    /// If `self` is not of booleans, the element types differ or the shapes cannot be broadcast.
    #[track_caller]
    pub fn select(self, on_true: Value<'g>, on_false: Value<'g>) -> Value<'g> {
        let (on_true, on_false) = on_true.broadcast_together(on_false);
        if self.rank() == 0 {
            return self.builder().push1(Op::Select, &[self, on_true, on_false]);
        }
        let (pred, on_true) = self.broadcast_together(on_true);
        let (_, on_false) = pred.broadcast_together(on_false);
        self.builder().push1(Op::Select, &[pred, on_true, on_false])
    }

    /// `clamp`: `self` limited to `min ..= max`, each a scalar or of the shape of `self`.
    ///
    /// # Panics
    /// If the element types differ or a limit has another shape.
    #[track_caller]
    pub fn clamp(self, min: Value<'g>, max: Value<'g>) -> Value<'g> {
        self.builder().push1(Op::Clamp, &[min, self, max])
    }

    /// `convert`: the same values in another element type; no node when it is the present one.
    #[track_caller]
    pub fn convert(self, dtype: DType) -> Value<'g> {
        if self.dtype() == dtype {
            return self;
        }
        self.builder().push1(Op::Convert(Convert { dtype }), &[self])
    }

    /// `bitcast_convert`: the same bits read as another element type.
    ///
    /// # Panics
    /// If the element types differ in width.
    #[track_caller]
    pub fn bitcast_convert(self, dtype: DType) -> Value<'g> {
        self.builder().push1(Op::BitcastConvert(BitcastConvert { dtype }), &[self])
    }
}
