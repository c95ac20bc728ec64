//! Derivatives of random bits: none, as they are integers.

use lmc_graph::Value;

/// `rng_bit_generator`.
pub(crate) fn rng_bit_generator<'g>() -> Vec<Option<Value<'g>>> {
    vec![None]
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::RngAlgorithm;
    use lmc_graph::{DType, Literal, TensorType};

    use crate::check::check;

    #[test]
    fn a_mask_of_random_bits_is_constant() {
        check(&[&[8]], |x| {
            let state = x[0].builder().constant(Literal::new([2], &[1_u64, 0]));
            let (_, bits) = state.rng_bit_generator(RngAlgorithm::ThreeFry, TensorType::new(DType::U32, [8]));
            let kept = bits.less(bits.full_like(2_147_483_648.0));
            kept.select(x[0].exp(), x[0].full_like(0.0))
        });
    }
}
