//! The forms in which the elements of a weight are stored, and how sixteen of them become f32.

use super::super::simd::{LANES, Simd};

/// A form of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    F32,
    Bf16,
    F16,
    /// Signed bytes.
    I8,
    /// Unsigned bytes.
    U8,
    /// Two numbers from 0 to 15 in a byte, the first in its low half.
    U4,
    /// Two numbers from -8 to 7 in a byte, each stored 8 higher, the first in the low half.
    I4,
}

impl Form {
    /// Whether elements are codes, which mean something with a scale only.
    pub(crate) fn is_code(self) -> bool {
        match self {
            Form::F32 | Form::Bf16 | Form::F16 => false,
            Form::I8 | Form::U8 | Form::U4 | Form::I4 => true,
        }
    }

    /// Whether a byte has two elements.
    pub(crate) fn is_packed(self) -> bool {
        matches!(self, Form::U4 | Form::I4)
    }

    /// Elements that are read at once.
    pub(crate) fn step(self) -> usize {
        if self.is_packed() { 2 * LANES } else { LANES }
    }

    /// Whether the elements become pairs of bf16 without rounding and in less time than f32.
    pub(crate) const fn has_pairs(self) -> bool {
        match self {
            Form::Bf16 | Form::U4 | Form::I4 => true,
            Form::F32 | Form::F16 | Form::I8 | Form::U8 => false,
        }
    }

    /// Of 32 elements, which one is number `at` in a vector of pairs.
    pub(crate) fn pair_element(self, at: usize) -> usize {
        // A vector has the four halves of bytes of eight words after each other.
        if self.is_packed() { at % 8 * 4 + at / 8 } else { at }
    }

    /// Bytes of so many elements.
    pub(crate) fn bytes(self, elements: usize) -> usize {
        match self {
            Form::F32 => elements * 4,
            Form::Bf16 | Form::F16 => elements * 2,
            Form::I8 | Form::U8 => elements,
            Form::U4 | Form::I4 => elements / 2,
        }
    }
}

/// A form as a type.
pub(super) trait Stored: Copy + Send + Sync {
    /// The form.
    const FORM: Form;
    /// Vectors of a step.
    const VECTORS: usize;
    /// Bytes of a step.
    const BYTES: usize;

    /// [`Form::has_pairs`] of the form.
    const HAS_PAIRS: bool;

    /// Reads 32 elements as pairs of bf16, in the order of [`Form::pair_element`].
    ///
    /// # Safety
    /// That of [`Simd`]; `from` is valid for 32 elements.
    unsafe fn load_pairs<S: Simd>(from: *const u8) -> S::V;

    /// What number 0 of the bytes means, of codes of four bits.
    const FIRST: i8;

    /// Reads 32 codes of a byte each as pairs of 16-bit integers.
    ///
    /// # Safety
    /// That of [`Simd`]; `from` is valid for 32 bytes.
    ///
    /// # Panics
    /// If the elements are no such codes.
    unsafe fn load_words<S: Simd>(from: *const u8) -> S::V;

    /// Reads a step: lane `l` of vector `v` is element `l * VECTORS + v`. With one vector the second is the first.
    ///
    /// # Safety
    /// That of [`Simd`]; `from` is valid for a step.
    unsafe fn load<S: Simd>(from: *const u8) -> [S::V; 2];
}

/// One of the forms with one vector a step.
macro_rules! stored {
    ($($name:ident, $bytes:literal, $load:ident;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Stored for $name {
            const FORM: Form = Form::$name;
            const VECTORS: usize = 1;
            const BYTES: usize = $bytes * LANES;
            const HAS_PAIRS: bool = Form::$name.has_pairs();

            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const u8) -> [S::V; 2] {
                // SAFETY: the caller's.
                let x = unsafe { S::$load(from.cast()) };
                [x, x]
            }

            const FIRST: i8 = 0;

            #[inline(always)]
            unsafe fn load_words<S: Simd>(from: *const u8) -> S::V {
                // SAFETY: the caller's.
                unsafe {
                    match Self::FORM {
                        Form::I8 => S::load_i8_words(from),
                        Form::U8 => S::load_u8_words(from),
                        Form::F32 | Form::Bf16 | Form::F16 | Form::U4 | Form::I4 => unreachable!("no bytes of codes"),
                    }
                }
            }

            #[inline(always)]
            unsafe fn load_pairs<S: Simd>(from: *const u8) -> S::V {
                // SAFETY: the caller's. Of the forms here, bf16 alone has pairs, which are what is stored.
                unsafe { S::load(from.cast()) }
            }
        }
    )*};
}

stored! {
    F32, 4, load;
    Bf16, 2, load_bf16;
    F16, 2, load_f16;
    I8, 1, load_i8;
    U8, 1, load_u8;
}

/// One of the forms with two elements in a byte.
macro_rules! packed {
    ($($name:ident, $first:literal;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Stored for $name {
            const FORM: Form = Form::$name;
            const VECTORS: usize = 2;
            const BYTES: usize = LANES;
            const HAS_PAIRS: bool = Form::$name.has_pairs();

            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const u8) -> [S::V; 2] {
                // SAFETY: the caller's.
                unsafe { S::load_nibbles::<$first>(from) }
            }

            const FIRST: i8 = $first;

            #[inline(always)]
            unsafe fn load_words<S: Simd>(_from: *const u8) -> S::V {
                unreachable!("two codes in a byte")
            }

            #[inline(always)]
            unsafe fn load_pairs<S: Simd>(from: *const u8) -> S::V {
                // SAFETY: the caller's.
                unsafe { S::load_nibble_pairs::<$first>(from) }
            }
        }
    )*};
}

packed! {
    U4, 0;
    I4, -8;
}

/// What is done for a form.
pub(super) trait WithForm {
    /// Does it.
    ///
    /// # Safety
    /// The implementation's.
    unsafe fn call<F: Stored>(self) -> Result<(), String>;
}

/// Does something with a form as a type.
///
/// # Safety
/// That of [`WithForm::call`].
pub(super) unsafe fn with_form<C: WithForm>(form: Form, call: C) -> Result<(), String> {
    // SAFETY: the caller's.
    unsafe {
        match form {
            Form::F32 => call.call::<F32>(),
            Form::Bf16 => call.call::<Bf16>(),
            Form::F16 => call.call::<F16>(),
            Form::I8 => call.call::<I8>(),
            Form::U8 => call.call::<U8>(),
            Form::U4 => call.call::<U4>(),
            Form::I4 => call.call::<I4>(),
        }
    }
}
