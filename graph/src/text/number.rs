//! Elements of tensors as text, exactly.

use std::fmt::Write;

use half::{bf16, f16};

use crate::dtype::DType;
use crate::literal::{Element, round_to_bf16, round_to_f16};

/// Appends the element of type `dtype` that `bytes` are, little-endian: a number with as few digits as tell it from its
/// neighbours, also when it is read as an f64 and then rounded to `dtype`; `true` or `false`; or, of what is not finite,
/// the bits in hexadecimal, `0x7FC00000`.
///
/// # Panics
/// If `bytes` are not as many as the type has.
pub fn write_element(out: &mut String, dtype: DType, bytes: &[u8]) {
    let text = match dtype {
        DType::Bool => bool::read(bytes).to_string(),
        DType::I8 => i8::read(bytes).to_string(),
        DType::I16 => i16::read(bytes).to_string(),
        DType::I32 => i32::read(bytes).to_string(),
        DType::I64 => i64::read(bytes).to_string(),
        DType::U8 => u8::read(bytes).to_string(),
        DType::U16 => u16::read(bytes).to_string(),
        DType::U32 => u32::read(bytes).to_string(),
        DType::U64 => u64::read(bytes).to_string(),
        DType::BF16 => {
            let x = bf16::read(bytes);
            if x.is_finite() { shortest(x.to_f64(), |y| round_to_bf16(y) == x) } else { bits(bytes) }
        }
        DType::F16 => {
            let x = f16::read(bytes);
            if x.is_finite() { shortest(x.to_f64(), |y| round_to_f16(y) == x) } else { bits(bytes) }
        }
        DType::F32 => {
            let x = f32::read(bytes);
            if x.is_finite() { shortest(f64::from(x), |y| y as f32 == x) } else { bits(bytes) }
        }
        DType::F64 => return write_f64(out, f64::read(bytes)),
    };
    out.push_str(&text);
}

/// Appends an f64 so that it reads back with the same bits.
pub(super) fn write_f64(out: &mut String, x: f64) {
    if x.is_finite() {
        write!(out, "{x:?}").expect("a string takes everything");
    } else {
        out.push_str(&bits(&x.to_le_bytes()));
    }
}

/// The decimal number with the fewest digits that `is_same` takes for `x`; nine tell every f32 from its neighbours.
fn shortest(x: f64, is_same: impl Fn(f64) -> bool) -> String {
    let rounded = |digits: usize| format!("{x:.digits$e}").parse::<f64>().unwrap_or(x);
    format!("{:?}", (0..9).map(rounded).find(|&y| is_same(y)).unwrap_or(x))
}

/// Little-endian bytes as one hexadecimal number.
fn bits(bytes: &[u8]) -> String {
    bytes.iter().rev().fold("0x".to_string(), |text, byte| format!("{text}{byte:02X}"))
}

/// Appends the bytes of the element that `text` spells: a number or one of the words `true`, `false`, `inf`, `-inf`, `nan`.
///
/// # Errors
/// What is expected instead.
pub(super) fn read_element(bytes: &mut Vec<u8>, dtype: DType, text: &str) -> Result<(), String> {
    match dtype {
        DType::Bool => match text {
            "true" => true.write(bytes),
            "false" => false.write(bytes),
            _ => return Err(format!("expected true or false, found `{text}`")),
        },
        DType::I8 => integer::<i8>(text, dtype)?.write(bytes),
        DType::I16 => integer::<i16>(text, dtype)?.write(bytes),
        DType::I32 => integer::<i32>(text, dtype)?.write(bytes),
        DType::I64 => integer::<i64>(text, dtype)?.write(bytes),
        DType::U8 => integer::<u8>(text, dtype)?.write(bytes),
        DType::U16 => integer::<u16>(text, dtype)?.write(bytes),
        DType::U32 => integer::<u32>(text, dtype)?.write(bytes),
        DType::U64 => integer::<u64>(text, dtype)?.write(bytes),
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 => float(bytes, dtype, text)?,
    }
    Ok(())
}

/// An f64 in decimal, or its 16 hexadecimal digits of bits.
///
/// # Errors
/// What is expected instead.
pub(super) fn read_f64(text: &str) -> Result<f64, String> {
    let mut bytes = Vec::new();
    float(&mut bytes, DType::F64, text)?;
    Ok(f64::read(&bytes))
}

fn integer<T: std::str::FromStr>(text: &str, dtype: DType) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected an integer within the range of {dtype}, found `{text}`"))
}

fn float(bytes: &mut Vec<u8>, dtype: DType, text: &str) -> Result<(), String> {
    if let Some(digits) = text.strip_prefix("0x") {
        let width = 2 * dtype.size();
        let value = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == width);
        let value = value.ok_or_else(|| format!("expected {width} hexadecimal digits for {dtype}, found `{text}`"))?;
        bytes.extend_from_slice(&value.to_le_bytes()[..dtype.size()]);
        return Ok(());
    }
    let is_word = matches!(text, "inf" | "-inf" | "nan");
    let is_number = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    let expected = || format!("expected a number, found `{text}`");
    if !is_word && !is_number {
        return Err(expected());
    }
    // f32 is read from the decimal directly: by way of f64 it would be rounded twice.
    let wide: f64 = text.parse().map_err(|_| expected())?;
    let narrow: f32 = text.parse().map_err(|_| expected())?;
    let (finite, start) = (|x: f64| is_word || x.is_finite(), bytes.len());
    let fits = match dtype {
        DType::BF16 => {
            round_to_bf16(wide).write(bytes);
            finite(round_to_bf16(wide).to_f64())
        }
        DType::F16 => {
            round_to_f16(wide).write(bytes);
            finite(round_to_f16(wide).to_f64())
        }
        DType::F32 => {
            narrow.write(bytes);
            finite(f64::from(narrow))
        }
        DType::F64
        | DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => {
            wide.write(bytes);
            finite(wide)
        }
    };
    if !fits {
        bytes.truncate(start);
        return Err(format!("`{text}` is beyond the range of {dtype}; write inf or -inf if that is meant"));
    }
    Ok(())
}
