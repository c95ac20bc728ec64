//! Random bits from a key that is a value.

use lmc_graph::ops::RngBitGenerator;
use lmc_graph::{DType, TensorType};

use super::elementwise;
use super::emitter::{Emitter, Value};
use super::syntax::{results, tensor};

/// The bits are drawn as unsigned integers and then read as what is asked for: XLA's expansion returns unsigned ones
/// whatever the op's type says.
pub(super) fn rng_bit_generator(e: &mut Emitter<'_>, op: &RngBitGenerator, state: &Value) -> Vec<Value> {
    let RngBitGenerator { rng_algorithm, output } = op;
    let dtype = if output.dtype.size() == 8 { DType::U64 } else { DType::U32 };
    let result_types: [TensorType; 2] = [state.ty.clone(), output.with_dtype(dtype)];
    let op = format!(
        "stablehlo.rng_bit_generator {}, algorithm = {} : ({}) -> {}",
        state.name,
        rng_algorithm.name(),
        tensor(&state.ty),
        results(&result_types)
    );
    let mut values = e.op_n(&op, &result_types);
    if dtype != output.dtype {
        values[1] = elementwise::bitcast_convert(e, &values[1], output.dtype);
    }
    values
}
