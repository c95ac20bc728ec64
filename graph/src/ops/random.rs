//! Random bits from a key that is a value.

use crate::attributes::{attributes, words};
use crate::builder::Value;
use crate::dtype::{DType, TensorType};
use crate::error::require;
use crate::ops::{Inferred, Op, arity};

words! {
    /// A counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    pub enum RngAlgorithm {
        /// Threefry-2x32 with 20 rounds; the state is `ui64[2]`: key, counter.
        ThreeFry = "THREE_FRY",
        /// Philox-4x32 with 10 rounds; the state is `ui64[3]`: key, counter low, counter high.
        Philox = "PHILOX",
    }
}

attributes! {
    /// `(output_state, output)`: random bits, and the state that continues the sequence.
    ///
    /// The bits are those of XLA's expansion of the op, on every target. The operand is the state.
    ///
    /// *Constraints*: (I1) the state is `ui64[2]` for `THREE_FRY` and `ui64[3]` for `PHILOX`. (C1) the output state has
    /// its type. (C2) the output is of 32-bit or 64-bit integers.
    pub struct RngBitGenerator {
        /// The generator.
        pub rng_algorithm: RngAlgorithm,
        /// The type of the bits.
        pub output: TensorType,
    }
}

pub(crate) fn rng_bit_generator_type(op: &RngBitGenerator, operands: &[&TensorType]) -> Inferred {
    let [state] = arity(operands)?;
    let size = match op.rng_algorithm {
        RngAlgorithm::ThreeFry => 2,
        RngAlgorithm::Philox => 3,
    };
    let expected = TensorType::new(DType::U64, [size]);
    require!(*state == expected, "I1", "the state of {} is {expected}, found {state}", op.rng_algorithm.name());
    let dtype = op.output.dtype;
    require!(dtype.is_int() && dtype.size() >= 4, "C2", "the bits must be 32-bit or 64-bit integers, found {dtype}");
    Ok(vec![state.clone(), op.output.clone()])
}

impl<'g> Value<'g> {
    /// `rng_bit_generator` with `self` as the state: the state that continues the sequence, and the bits.
    ///
    /// # Panics
    /// If `self` is not a state of the algorithm, or `output` not of 32-bit or 64-bit integers.
    #[track_caller]
    pub fn rng_bit_generator(self, rng_algorithm: RngAlgorithm, output: TensorType) -> (Value<'g>, Value<'g>) {
        let op = Op::RngBitGenerator(RngBitGenerator { rng_algorithm, output });
        let [state, bits] = self.builder().push_n(op, &[self]);
        (state, bits)
    }
}
