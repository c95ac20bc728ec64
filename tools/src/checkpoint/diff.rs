//! Two checkpoints, tensor by tensor.

use lmc_graph::{DType, Literal, TensorType};

use super::{Checkpoint, Tensors};

/// How a tensor of one checkpoint is in another.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// Equal, bit by bit.
    Equal,
    /// Of the same type, with other elements.
    Differs {
        /// Elements with other bits.
        count: usize,
        /// The largest absolute difference; infinite where one is not a number and the other is.
        max_abs: f64,
        /// The largest difference relative to the larger of the two magnitudes; at most 2.
        max_rel: f64,
    },
    /// Of another type.
    OtherType(TensorType, TensorType),
    /// Only in the first.
    OnlyFirst,
    /// Only in the second.
    OnlySecond,
}

/// A tensor by name, and how it compares.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorComparison {
    /// The tensor.
    pub name: String,
    /// How it compares.
    pub comparison: Comparison,
}

/// Compares weights and optimizer state, in the order of names.
pub fn compare(first: &Checkpoint, second: &Checkpoint) -> Vec<TensorComparison> {
    let mut all = compare_tensors(&first.model, &second.model);
    all.extend(compare_tensors(&first.optimizer, &second.optimizer));
    all
}

/// Compares tensors by name, in the order of names.
pub fn compare_tensors(first: &Tensors, second: &Tensors) -> Vec<TensorComparison> {
    let mut names: Vec<&String> = first.keys().chain(second.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let comparison = |name: &String| match (first.get(name), second.get(name)) {
        (Some(a), Some(b)) if a == b => Comparison::Equal,
        (Some(a), Some(b)) if a.ty() != b.ty() => Comparison::OtherType(a.ty().clone(), b.ty().clone()),
        (Some(a), Some(b)) => differs(a, b),
        (Some(_), None) => Comparison::OnlyFirst,
        (None, _) => Comparison::OnlySecond,
    };
    names.into_iter().map(|name| TensorComparison { name: name.clone(), comparison: comparison(name) }).collect()
}

fn differs(a: &Literal, b: &Literal) -> Comparison {
    let size = a.ty().dtype.size();
    let count = a.bytes().chunks(size).zip(b.bytes().chunks(size)).filter(|(a, b)| a != b).count();
    let (mut max_abs, mut max_rel) = (0_f64, 0_f64);
    for (a, b) in elements(a).into_iter().zip(elements(b)) {
        let difference = match (a - b).abs() {
            // Two infinities of one sign are equal, and so are, for this purpose, two that are not numbers.
            _ if a == b || (a.is_nan() && b.is_nan()) => continue,
            nan if nan.is_nan() => f64::INFINITY,
            difference => difference,
        };
        max_abs = max_abs.max(difference);
        let magnitude = a.abs().max(b.abs());
        max_rel = max_rel.max(if difference.is_finite() { difference / magnitude } else { 2.0 });
    }
    Comparison::Differs { count, max_abs, max_rel }
}

/// The elements as f64; without the detour by bytes for the usual type.
fn elements(tensor: &Literal) -> Vec<f64> {
    match tensor.ty().dtype {
        DType::F32 => tensor.elements::<f32>().into_iter().map(f64::from).collect(),
        DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::BF16
        | DType::F16
        | DType::F64 => tensor.to_f64s(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_compare() {
        let tensors = |pairs: &[(&str, &[f32])]| -> Tensors {
            pairs.iter().map(|(name, x)| ((*name).to_owned(), Literal::new([x.len()], x))).collect()
        };
        let first = tensors(&[
            ("a", &[1.0, f32::NAN]),
            ("b", &[1.0, 4.0, -3.0]),
            ("c", &[1.0]),
            ("d", &[1.0]),
            ("f", &[0.0, f32::INFINITY]),
            ("g", &[f32::NAN, 1.0]),
        ]);
        let second = tensors(&[
            ("a", &[1.0, f32::NAN]),
            ("b", &[1.0, 2.0, 3.0]),
            ("c", &[1.0, 2.0]),
            ("e", &[1.0]),
            ("f", &[-0.0, f32::INFINITY]),
            ("g", &[1.0, 1.0]),
        ]);
        let differs = |count, max_abs, max_rel| Comparison::Differs { count, max_abs, max_rel };
        let ty = |n: usize| TensorType::new(DType::F32, [n]);
        let found: Vec<Comparison> = compare_tensors(&first, &second).into_iter().map(|c| c.comparison).collect();
        let expected = [
            Comparison::Equal,
            differs(2, 6.0, 2.0),
            Comparison::OtherType(ty(1), ty(2)),
            Comparison::OnlyFirst,
            Comparison::OnlySecond,
            differs(1, 0.0, 0.0),
            differs(1, f64::INFINITY, 2.0),
        ];
        assert_eq!(found, expected);
    }
}
