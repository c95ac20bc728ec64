//! Checks on one function: its derivative against central differences, and results against each other.

use lmc_autodiff::{DiffError, vjp};
use lmc_graph::{DType, Func, Literal, Op, Tensor, TensorType, eval_f64};

/// How far results may lie apart, relative to their size.
///
/// An element is compared with `relative * (|expected| + slack * largest)`, `largest` being the largest finite magnitude of
/// the tensor, or 1: what cancels in a sum is as inexact as the terms were. Infinities must be equal, and a NaN meets a
/// NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The relative deviation that is allowed in f64.
    pub f64: f64,
    /// The relative deviation that is allowed in f32.
    pub f32: f64,
    /// The relative deviation that is allowed in f16.
    pub f16: f64,
    /// The relative deviation that is allowed in bf16.
    pub bf16: f64,
    /// The share of the tensor's largest magnitude that counts as every element's: 0 where nothing is summed.
    pub slack: f64,
}

impl Tolerance {
    /// For the same function on another device: a few roundings of each element type. XLA may keep excess precision in
    /// narrow types, so that intermediate results differ by a rounding (2⁻¹¹ in f16, 2⁻⁸ in bf16).
    pub const DEVICE: Tolerance = Tolerance { f64: 2e-14, f32: 4e-6, f16: 4e-3, bf16: 3e-2, slack: 0.25 };

    /// For two orders of the same computation in f64, whatever the types say.
    pub const EXACT: Tolerance = Tolerance { f64: 1e-12, f32: 1e-12, f16: 1e-12, bf16: 1e-12, slack: 0.25 };

    /// The tolerance for the results of a function: without slack unless it sums.
    pub fn for_results_of(self, func: &Func) -> Tolerance {
        let sums = |op: &Op| {
            matches!(
                op,
                Op::DotGeneral(_)
                    | Op::Reduce(_)
                    | Op::Scatter(_)
                    | Op::Scan(_)
                    | Op::ScaledDotProductAttention(_)
                    | Op::CachedAttention(_)
            )
        };
        let ops = func.walk(func.body());
        // The derivative of attention rounds three times in a row, and subtracts sums in between.
        let is_derivative = |op: &Op| matches!(op, Op::ScaledDotProductAttentionBackward(_));
        let slack = if ops.iter().any(|&node| is_derivative(&func.node(node).op)) {
            2.0 * self.slack
        } else if ops.iter().any(|&node| sums(&func.node(node).op)) {
            self.slack
        } else {
            0.0
        };
        Tolerance { slack, ..self }
    }

    /// The relative deviation that is allowed in a type: 0 for integers and booleans.
    pub fn relative(self, dtype: DType) -> f64 {
        match dtype {
            DType::F64 => self.f64,
            DType::F32 => self.f32,
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            DType::Bool
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => 0.0,
        }
    }
}

/// Compares results with what is expected, one by one.
///
/// # Errors
/// The first difference: which result, which element, both values.
pub fn compare(found: &[Literal], expected: &[Literal], tolerance: Tolerance) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("expected {} results, found {}", expected.len(), found.len()));
    }
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        compare_one(found, expected, tolerance).map_err(|reason| format!("result {i}: {reason}"))?;
    }
    Ok(())
}

/// Compares a tensor with what is expected.
///
/// # Errors
/// The first difference: which element, both values.
pub fn compare_one(found: &Literal, expected: &Literal, tolerance: Tolerance) -> Result<(), String> {
    if found.ty() != expected.ty() {
        return Err(format!("expected {}, found {}", expected.ty(), found.ty()));
    }
    if !expected.ty().dtype.is_float() {
        return if found == expected { Ok(()) } else { Err(format!("expected {expected}, found {found}")) };
    }
    let relative = tolerance.relative(expected.ty().dtype);
    compare_floats(&found.to_f64s(), &expected.to_f64s(), relative, tolerance.slack)
        .map_err(|reason| format!("{reason}\n  expected {expected}\n     found {found}"))
}

/// Compares floats as [`Tolerance`] says.
fn compare_floats(found: &[f64], expected: &[f64], relative: f64, slack: f64) -> Result<(), String> {
    let largest = expected.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(1.0, f64::max);
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = found == expected || (found.is_nan() && expected.is_nan());
        // A difference that is not a number fails the comparison.
        let near = (found - expected).abs() <= relative * (expected.abs() + slack * largest);
        let agrees = same || (near && expected.is_finite());
        if !agrees {
            return Err(format!("element {i}: expected {expected}, found {found}"));
        }
    }
    Ok(())
}

/// Cotangents that a recording script can make again: each element from a short list, by its index, shifted by the
/// index of the result. All are exact in bfloat16.
pub fn cotangents<'a>(types: impl IntoIterator<Item = &'a TensorType>) -> Vec<Literal> {
    const VALUES: [f64; 7] = [1.0, -0.5, 0.75, 2.0, -1.25, 0.5, -1.5];
    let floats = types.into_iter().filter(|ty| ty.dtype.is_float()).enumerate();
    floats
        .map(|(shift, ty)| {
            let elements: Vec<f64> = (0..ty.num_elements()).map(|i| VALUES[(i + shift) % VALUES.len()]).collect();
            Literal::from_f64s(ty.clone(), &elements)
        })
        .collect()
}

/// The indices of the parameters that have derivatives: those of floats.
pub fn float_params(func: &Func) -> Vec<usize> {
    let types = func.param_types();
    (0..types.len()).filter(|&i| types[i].dtype.is_float()).collect()
}

/// Whether a function has a derivative at all: a parameter and a result of floats.
pub fn has_derivative(func: &Func) -> bool {
    !float_params(func).is_empty() && func.result_types().iter().any(|ty| ty.dtype.is_float())
}

/// The derivative of a function for all its float parameters.
///
/// # Errors
/// As [`lmc_autodiff::vjp`].
pub fn derivative(func: &Func) -> Result<Func, DiffError> {
    vjp(func, &float_params(func))
}

/// Compares a derivative, as [`derivative`] makes it, with central differences of its function at `args`; all in f64.
///
/// # Errors
/// The first difference: which parameter, which element, both values.
pub fn against_differences(func: &Func, derivative: &Func, args: &[Literal]) -> Result<(), String> {
    // With h = 1e-5 the differences are good to about h² = 1e-10 times the third derivative, and to 1e-16 / h = 1e-11
    // times the value.
    const STEP: f64 = 1e-5;
    const RELATIVE: f64 = 1e-6;

    let eval = |func: &Func, args: &[Tensor]| eval_f64(func, args).map_err(|error| error.to_string());
    let args: Vec<Tensor> = args.iter().map(Tensor::from).collect();
    let values = eval(func, &args)?;
    let result_types = func.result_types();
    let cts: Vec<Tensor> = cotangents(&result_types).iter().map(Tensor::from).collect();

    let mut found = eval(derivative, &[&args[..], &cts].concat())?;
    let gradients = found.split_off(values.len());
    for (i, (found, expected)) in found.iter().zip(&values).enumerate() {
        if found.ty().dtype.is_float() {
            compare_floats(found.floats(), expected.floats(), Tolerance::EXACT.f64, 0.0)
                .map_err(|reason| format!("the derivative changes result {i}: {reason}"))?;
        } else if found != expected {
            return Err(format!("the derivative changes result {i}: expected {expected:?}, found {found:?}"));
        }
    }

    // The inner product of the results with their cotangents, of which the gradients are the derivatives.
    let weighted = |args: &[Tensor]| -> Result<f64, String> {
        let results = eval(func, args)?;
        let floats = results.iter().filter(|result| result.ty().dtype.is_float());
        Ok(floats.zip(&cts).flat_map(|(x, ct)| x.floats().iter().zip(ct.floats()).map(|(x, ct)| x * ct)).sum())
    };
    for (&param, gradient) in float_params(func).iter().zip(&gradients) {
        let ty = args[param].ty().clone();
        let mut expected = Vec::with_capacity(ty.num_elements());
        for element in 0..ty.num_elements() {
            let shifted = |by: f64| {
                let mut elements = args[param].floats().to_vec();
                elements[element] += by;
                let mut args = args.clone();
                args[param] = Tensor::from_floats(ty.clone(), elements);
                weighted(&args)
            };
            expected.push((shifted(STEP)? - shifted(-STEP)?) / (2.0 * STEP));
        }
        let largest = expected.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
        for (element, (&found, &expected)) in gradient.floats().iter().zip(&expected).enumerate() {
            let near = (found - expected).abs() <= RELATIVE * largest;
            if !near {
                let name = &func.params[param].name;
                return Err(format!(
                    "parameter {param} {name:?}, element {element}: differences say {expected}, the derivative {found}\n{derivative}"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(elements: &[f64]) -> Literal {
        Literal::from_f64s(TensorType::new(DType::F32, [elements.len()]), elements)
    }

    #[test]
    fn comparison() {
        let check = |found: &[f64], expected: &[f64], agrees: bool| {
            let outcome = compare_one(&literal(found), &literal(expected), Tolerance::DEVICE);
            assert_eq!(outcome.is_ok(), agrees, "{found:?}, {expected:?}: {outcome:?}");
        };
        check(&[1.0, 2.0], &[1.0, 2.0], true);
        check(&[1.000001, 2.0], &[1.0, 2.0], true);
        check(&[1.0001, 2.0], &[1.0, 2.0], false);
        check(&[f64::NAN], &[f64::NAN], true);
        check(&[f64::NAN], &[1.0], false);
        check(&[1.0], &[f64::NAN], false);
        check(&[f64::INFINITY], &[f64::INFINITY], true);
        check(&[f64::INFINITY], &[f64::NEG_INFINITY], false);
        check(&[1.0], &[f64::INFINITY], false);
        check(&[f64::INFINITY], &[1e30], false);
        check(&[1e-7, 1.0], &[0.0, 1.0], true);
        let elementwise = Tolerance { slack: 0.0, ..Tolerance::DEVICE };
        assert!(compare_one(&literal(&[1e-7, 1.0]), &literal(&[0.0, 1.0]), elementwise).is_err());
        let ints = |x: &[i32]| Literal::new([x.len()], x);
        assert!(compare_one(&ints(&[1, 2]), &ints(&[1, 2]), Tolerance::DEVICE).is_ok());
        assert!(compare_one(&ints(&[1, 2]), &ints(&[1, 3]), Tolerance::DEVICE).is_err());
        assert!(compare(&[], &[ints(&[1])], Tolerance::DEVICE).is_err());
    }

    #[test]
    fn a_wrong_derivative_is_found() {
        let ty = TensorType::new(DType::F32, [2]);
        let func = |text: &str| lmc_graph::text::parse("test", text).unwrap_or_else(|error| panic!("{error}"));
        let sine = func("func @f(%x: f32[2]) -> (f32[2]) {\n  %y: f32[2] = sine(%x)\n  return %y\n}");
        let right = derivative(&sine).expect("sine has a derivative");
        let wrong =
            "func @g(%x: f32[2], %ct: f32[2]) -> (f32[2], f32[2]) {\n  %y: f32[2] = sine(%x)\n  return %y, %ct\n}";
        let args = [Literal::from_f64s(ty, &[0.5, -1.0])];
        assert_eq!(against_differences(&sine, &right, &args), Ok(()));
        let complaint = against_differences(&sine, &func(wrong), &args).expect_err("the cotangent is not the gradient");
        assert!(complaint.contains("element 0"), "{complaint}");
    }
}
