//! Derivatives of random bits: none, as they are integers.

use lmc_graph::Value;

/// `rng_bit_generator`.
pub(crate) fn rng_bit_generator<'g>() -> Vec<Option<Value<'g>>> {
    vec![None]
}
