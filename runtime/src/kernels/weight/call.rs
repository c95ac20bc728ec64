//! The kernels as custom calls.
//!
//! Operands of `lmc.weight_product` are the rows of operands `[.., in]`, in f32 or bf16, which are of one text if they
//! are `[1, tokens, in]`, and of each weight its elements and, if it has groups, its scales and its zeros (bytes) or
//! biases (floats), if it has any; it has a result for each weight. Attributes: `weights`, how many there are;
//! `transposed`, whether they are `[in, out]` and not `[out, in]`; `bits`, those of a code, 0 for a weight of floats;
//! `signed`, whether codes of four bits are from -8 to 7. Operands of `lmc.dequantize` are a weight's, with the last two
//! of these attributes.

use half::{bf16, f16};

use super::{Floats, Form, Groups, Offset, Output, Product, Weight};
use crate::kernels::simd::Isa;
use crate::pjrt::ffi::Call;

/// `lmc.weight_product`.
pub(crate) fn product(call: &Call<'_>) -> Result<(), String> {
    let dims = sizes(call, 0)?;
    let Some((_, leading)) = dims.split_last() else { return Err("operands without a dimension".to_string()) };
    let (number, operands) = (call.i64("weights")?, call.num_operands() - 1);
    let number = usize::try_from(number).ok().filter(|&number| number > 0 && operands.is_multiple_of(number));
    let Some(number) = number else { return Err(format!("{operands} operands of weights, which are not alike")) };
    let parts = operands / number;
    let weights = (0..number).map(|i| Ok((weight(call, 1 + i * parts, parts)?, output(call, i)?)));
    let product = Product {
        tokens: leading.iter().product(),
        of_one_text: matches!(leading, [1, _]),
        x: floats(call, 0)?,
        weights: weights.collect::<Result<Vec<_>, String>>()?,
        transposed: call.bool("transposed")?,
    };
    super::product(Isa::detect(), product, call.num_threads(), &|number, f| call.for_each(number, f))
}

/// `lmc.dequantize`.
pub(crate) fn dequantize(call: &Call<'_>) -> Result<(), String> {
    let weight = weight(call, 0, call.num_operands())?;
    super::dequantize(Isa::detect(), weight, output(call, 0)?, &|number, f| call.for_each(number, f))
}

fn sizes(call: &Call<'_>, i: usize) -> Result<Vec<usize>, String> {
    let dims = call.operand_dims(i)?;
    let sizes = dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<usize>, _>>();
    sizes.map_err(|_| format!("operand {i} has dimensions {dims:?}"))
}

fn matrix(call: &Call<'_>, i: usize) -> Result<[usize; 2], String> {
    let sizes = sizes(call, i)?;
    sizes.try_into().map_err(|sizes| format!("operand {i} has dimensions {sizes:?}, which are no matrix's"))
}

fn floats<'a>(call: &Call<'a>, i: usize) -> Result<Floats<'a>, String> {
    if call.operand_is::<bf16>(i) {
        call.operand(i).map(Floats::Bf16)
    } else if call.operand_is::<f16>(i) {
        call.operand(i).map(Floats::F16)
    } else {
        call.operand(i).map(Floats::F32)
    }
}

fn output<'a>(call: &Call<'a>, i: usize) -> Result<Output<'a>, String> {
    if call.result_is::<bf16>(i) { call.result(i).map(Output::Bf16) } else { call.result(i).map(Output::F32) }
}

/// The weight whose elements are operand `at`, of so many operands.
fn weight<'a>(call: &Call<'a>, at: usize, parts: usize) -> Result<Weight<'a>, String> {
    let [rows, width] = matrix(call, at)?;
    let (bits, signed) = (call.i64("bits")?, call.bool("signed")?);
    let (form, bytes, columns) = match (bits, signed) {
        (0, _) if call.operand_is::<bf16>(at) => (Form::Bf16, call.operand_bytes::<bf16>(at)?, width),
        (0, _) if call.operand_is::<f16>(at) => (Form::F16, call.operand_bytes::<f16>(at)?, width),
        (0, _) => (Form::F32, call.operand_bytes::<f32>(at)?, width),
        (8, true) => (Form::I8, call.operand_bytes::<i8>(at)?, width),
        (8, false) => (Form::U8, call.operand_bytes::<u8>(at)?, width),
        (4, signed) => {
            let form = if signed { Form::I4 } else { Form::U4 };
            (form, call.operand_bytes::<u8>(at)?, 2 * width)
        }
        (bits, _) => return Err(format!("codes of {bits} bits")),
    };
    let groups = if parts > 1 {
        let [scale_rows, groups] = matrix(call, at + 1)?;
        if scale_rows != rows || groups == 0 {
            return Err(format!("scales of {scale_rows} rows and {groups} groups for a weight of {rows} rows"));
        }
        let offset = match parts {
            2 => Offset::None,
            _ if call.operand_is::<u8>(at + 2) => Offset::Zeros(call.operand(at + 2)?),
            _ => Offset::Biases(floats(call, at + 2)?),
        };
        Some(Groups { size: columns / groups, scales: floats(call, at + 1)?, offset })
    } else {
        None
    };
    Ok(Weight { rows, columns, form, bytes, groups })
}
