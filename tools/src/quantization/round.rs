//! Floats rounded to codes in groups.

use half::bf16;
use lmc_graph::DType;
use lmc_models::layers::{Codes, Offset, Quantization};

use super::QuantizedMatrix;

/// Quantizes a matrix, row-major, with as many threads as there are cores. Its columns are whole groups.
///
/// A scale is rounded to its type first, and codes are what is nearest with the rounded one, so that an element is off by
/// half a step at most wherever its code is not the last. Without zeros, the largest element of a group of 4-bit codes has
/// the code -8, of which there is one more than of positive ones, or ±7, whichever makes the smaller squared error.
pub fn quantize(elements: &[f32], rows: usize, columns: usize, quantization: Quantization) -> QuantizedMatrix {
    assert!(columns.is_multiple_of(quantization.group_size) && elements.len() == rows * columns, "whole groups");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (rows.div_ceil(threads) * columns).max(1);
    let parts = std::thread::scope(|scope| {
        let start = |elements| scope.spawn(move || quantize_groups(elements, quantization));
        let running: Vec<_> = elements.chunks(share).map(start).collect();
        running.into_iter().map(|thread| thread.join()).collect::<Result<Vec<_>, _>>()
    });
    let mut whole: Vec<Vec<u8>> = Vec::new();
    for parts in parts.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        whole.resize(parts.len().max(whole.len()), Vec::new());
        for (whole, part) in whole.iter_mut().zip(parts) {
            whole.extend(part);
        }
    }
    QuantizedMatrix { quantization, rows, columns, parts: whole }
}

/// Codes, scales and zeros of some groups.
fn quantize_groups(elements: &[f32], quantization: Quantization) -> Vec<Vec<u8>> {
    let Quantization { codes, group_size, scales: dtype, offset } = quantization;
    let (mut bytes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
    for group in elements.chunks_exact(group_size) {
        let (scale, zero) = match codes {
            Codes::I8 => (rounded_up(largest(group).abs() / 127.0, dtype), 0.0),
            Codes::I4 => (symmetric_scale(group, dtype), 0.0),
            Codes::U8 => scale_and_zero(group, 255.0, dtype),
            Codes::U4 => scale_and_zero(group, 15.0, dtype),
        };
        let (least, most) = match codes {
            Codes::I8 => (-127.0, 127.0),
            Codes::I4 => (-8.0, 7.0),
            Codes::U8 => (0.0, 255.0),
            Codes::U4 => (0.0, 15.0),
        };
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let code = |x: f32| (nearest_integer(x * inverse) + zero).clamp(least, most) as i32;
        match codes {
            Codes::I8 | Codes::U8 => bytes.extend(group.iter().map(|&x| code(x) as u8)),
            Codes::I4 | Codes::U4 => {
                let stored = |x: f32| (code(x) - least as i32) as u8;
                bytes.extend(group.chunks_exact(2).map(|pair| stored(pair[0]) | (stored(pair[1]) << 4)));
            }
        }
        if dtype == DType::F32 {
            scales.extend(scale.to_le_bytes());
        } else {
            scales.extend(bf16::from_f32(scale).to_le_bytes());
        }
        zeros.push(zero as u8);
    }
    match offset {
        Offset::None => vec![bytes, scales],
        Offset::Zeros(_) | Offset::Biases(_) => vec![bytes, scales, zeros],
    }
}

/// The element that is farthest from zero.
fn largest(group: &[f32]) -> f32 {
    group.iter().fold(0.0, |largest: f32, &x| if x.abs() > largest.abs() { x } else { largest })
}

/// A scale for codes from -8 to 7.
fn symmetric_scale(group: &[f32], dtype: DType) -> f32 {
    let largest = largest(group);
    let error = |scale: f32| -> f32 {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let off = |x: f32| x - nearest_integer(x * inverse).clamp(-8.0, 7.0) * scale;
        group.iter().map(|&x| off(x) * off(x)).sum()
    };
    let (whole, symmetric) = (nearest(largest / -8.0, dtype), rounded_up(largest.abs() / 7.0, dtype));
    if error(whole) <= error(symmetric) { whole } else { symmetric }
}

/// The scale and the zero with which codes from 0 to `most` reach from the smallest element to the largest, and have zero
/// among them.
fn scale_and_zero(group: &[f32], most: f32, dtype: DType) -> (f32, f32) {
    let (low, high) = group.iter().fold((0.0f32, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let scale = rounded_up((high - low) / most, dtype);
    if scale == 0.0 { (0.0, 0.0) } else { (scale, nearest_integer(-low / scale).clamp(0.0, most)) }
}

/// The nearest integer, ties to even, of a number below 2^22: by the rounding of an addition, as processors without an
/// instruction for it would call a function for each.
fn nearest_integer(x: f32) -> f32 {
    // 1.5 * 2^23, above which f32 has integers alone.
    const INTEGERS: f32 = 12_582_912.0;
    (x + INTEGERS) - INTEGERS
}

/// The nearest number of the type.
fn nearest(x: f32, dtype: DType) -> f32 {
    if dtype == DType::F32 { x } else { bf16::from_f32(x).to_f32() }
}

/// The nearest number of the type that is not below `x`, which is not negative.
fn rounded_up(x: f32, dtype: DType) -> f32 {
    let rounded = nearest(x, dtype);
    if rounded >= x { rounded } else { f32::from_bits((rounded.to_bits() & 0xffff_0000) + 0x1_0000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_integer_is_the_librarys() {
        let halves = (-600..600).map(|i| i as f32 / 2.0);
        let beside = halves.clone().flat_map(|x| [x.next_down(), x, x.next_up()]);
        for x in beside.chain([0.0, -0.0, 1e-30, 4_194_303.5, -4_194_303.5, f32::INFINITY, f32::NEG_INFINITY]) {
            assert_eq!(nearest_integer(x), x.round_ties_even(), "{x}");
        }
        assert!(nearest_integer(f32::NAN).is_nan());
    }
}
