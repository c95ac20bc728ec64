//! The spelling of types, constants and strings in MLIR text.

use std::fmt::Write;

use lmc_graph::text::write_element;
use lmc_graph::{DType, Literal, TensorType};

/// `tensor<2x3xf32>`.
pub(super) fn tensor(ty: &TensorType) -> String {
    let mut text = String::from("tensor<");
    for size in &ty.shape {
        write!(text, "{size}x").expect("writing to a string");
    }
    write!(text, "{}>", ty.dtype).expect("writing to a string");
    text
}

/// Types separated by commas.
pub(super) fn tensors<'a>(types: impl IntoIterator<Item = &'a TensorType>) -> String {
    types.into_iter().map(tensor).collect::<Vec<_>>().join(", ")
}

/// `tensor<2xf32>` for one result, `(tensor<2xf32>, tensor<2xf32>)` for another number.
pub(super) fn results(types: &[TensorType]) -> String {
    match types {
        [ty] => tensor(ty),
        types => format!("({})", tensors(types)),
    }
}

/// The attribute by which a result of a custom call, `[]` or of several `[1]`, lies in an operand's memory.
pub(super) fn operand_alias(result: &str, operand: usize) -> String {
    format!(
        "#stablehlo.output_operand_alias<output_tuple_indices = {result}, operand_index = {operand}, \
         operand_tuple_indices = []>"
    )
}

/// `[0, 2, 1]`.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    format!("[{}]", joined(items))
}

/// Items separated by commas.
pub(super) fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// A string literal. MLIR escapes what is not printable ASCII as two hexadecimal digits.
pub(super) fn string(text: &str) -> String {
    let mut literal = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => literal.extend(['\\', char::from(byte)]),
            b' '..=b'~' => literal.push(char::from(byte)),
            _ => write!(literal, "\\{byte:02X}").expect("writing to a string"),
        }
    }
    literal.push('"');
    literal
}

/// A symbol: `@name`, quoted where it is not an identifier.
pub(super) fn symbol(name: &str) -> String {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let bare = starts && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.'));
    if bare { format!("@{name}") } else { format!("@{}", string(name)) }
}

/// Tensors of more elements that are not all the same are spelled in hexadecimal.
const MAX_LISTED_ELEMENTS: usize = 64;

/// `dense<[1.0, 2.0]>`: the value of a constant. `None` for more booleans than are listed, which have no byte form:
/// they are packed to bits in some versions of MLIR only.
pub(super) fn dense(value: &Literal) -> Option<String> {
    let TensorType { dtype, shape } = value.ty();
    let size = dtype.size();
    if value.ty().num_elements() == 0 {
        return Some("dense<>".into());
    }
    if let Some(element) = value.splat() {
        return Some(format!("dense<{}>", scalar(*dtype, element)));
    }
    if value.ty().num_elements() <= MAX_LISTED_ELEMENTS {
        let elements: Vec<String> = value.bytes().chunks_exact(size).map(|bytes| scalar(*dtype, bytes)).collect();
        return Some(format!("dense<{}>", nested(shape, &elements)));
    }
    if *dtype == DType::Bool {
        return None;
    }
    let mut text = String::with_capacity(2 * value.bytes().len() + 12);
    text.push_str("dense<\"0x");
    for byte in value.bytes() {
        write!(text, "{byte:02X}").expect("writing to a string");
    }
    text.push_str("\">");
    Some(text)
}

/// Elements in nested brackets.
fn nested(shape: &[usize], elements: &[String]) -> String {
    let Some((&size, inner)) = shape.split_first() else {
        return elements.concat();
    };
    let rows = elements.chunks(elements.len() / size).map(|row| nested(inner, row));
    list(rows)
}

/// `3.0e-1`: the value of an attribute of type f64.
pub(super) fn float(x: f64) -> String {
    scalar(DType::F64, &x.to_le_bytes())
}

/// One element, from its little-endian bytes, with the point that MLIR's floats need.
fn scalar(dtype: DType, bytes: &[u8]) -> String {
    let mut text = String::new();
    write_element(&mut text, dtype, bytes);
    match text.split_once('e') {
        // A number such as `1e-7`; hexadecimal digits are in capitals.
        Some((mantissa, exponent)) if dtype.is_float() && !mantissa.contains('.') => {
            format!("{mantissa}.0e{exponent}")
        }
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[track_caller]
    fn check(value: Literal, expected: &str) {
        assert_eq!(dense(&value).as_deref(), Some(expected));
    }

    #[test]
    fn constants() {
        check(Literal::scalar(1.0f32), "dense<1.0>");
        check(Literal::scalar(-0.0f32), "dense<-0.0>");
        check(Literal::scalar(1e-7f32), "dense<1.0e-7>");
        check(Literal::scalar(1.5e-7f32), "dense<1.5e-7>");
        check(Literal::scalar(1e20f64), "dense<1.0e20>");
        check(Literal::scalar(f32::MAX), "dense<3.4028235e38>");
        check(Literal::scalar(f32::NAN), "dense<0x7FC00000>");
        check(Literal::scalar(f64::NEG_INFINITY), "dense<0xFFF0000000000000>");
        check(Literal::scalar(bf16::INFINITY), "dense<0x7F80>");
        check(Literal::scalar(bf16::from_f32(0.1)), "dense<0.1>");
        check(Literal::scalar(f16::MIN_POSITIVE_SUBNORMAL), "dense<6.0e-8>");
        check(Literal::scalar(0.1f32 + 0.2f32), "dense<0.3>");
        check(Literal::scalar(0.1f64 + 0.2f64), "dense<0.30000000000000004>");
        check(Literal::scalar(true), "dense<true>");
        check(Literal::scalar(u64::MAX), "dense<18446744073709551615>");
        check(Literal::new([2, 2], &[1i8, -128, 3, 4]), "dense<[[1, -128], [3, 4]]>");
        check(Literal::new([3], &[7u32; 3]), "dense<7>");
        check(Literal::new([2, 1, 2], &[true, false, false, true]), "dense<[[[true, false]], [[false, true]]]>");
        check(Literal::new::<f32>([2, 0], &[]), "dense<>");
        let long: Vec<u16> = (0..65).collect();
        let text = dense(&Literal::new([65], &long)).expect("not boolean");
        assert!(text.starts_with("dense<\"0x000001000200") && text.ends_with("4000\">"), "{text}");
        let long: Vec<bool> = (0..65).map(|i| i == 3).collect();
        assert_eq!(dense(&Literal::new([65], &long)), None);
    }

    #[test]
    fn strings_and_symbols() {
        assert_eq!(string("a\"b\\c\nπ"), r#""a\"b\\c\0A\CF\80""#);
        assert_eq!(symbol("train_step.v2"), "@train_step.v2");
        assert_eq!(symbol("train step"), "@\"train step\"");
        assert_eq!(symbol(""), "@\"\"");
    }
}
