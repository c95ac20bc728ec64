//! What the tests of all rules share: gradients against central differences, to second order.

use std::ops::Range;

use lmc_graph::{Builder, DType, Func, Literal, Tensor, TensorType, Value, eval_f64, verify};

use crate::value_and_grad;

/// The step of central differences. In f64 their error is about `STEP²` times the third derivative, and `1e-16 / STEP`
/// from rounding.
const STEP: f64 = 1e-4;

/// The largest difference allowed, relative where the gradient is above 1: some hundred times the error of the
/// differences, and far below any that a wrong formula makes.
const TOLERANCE: f64 = 2e-6;

/// Numbers without a pattern, the same in every run: a linear congruential generator with the constants of Knuth's MMIX.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self, range: &Range<f64>) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        range.start + (range.end - range.start) * ((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }

    pub(crate) fn tensor(&mut self, ty: &TensorType, range: &Range<f64>) -> Tensor {
        Tensor::from_floats(ty.clone(), (0..ty.num_elements()).map(|_| self.next(range)).collect())
    }

    fn literal(&mut self, ty: TensorType) -> Literal {
        let elements: Vec<f64> = (0..ty.num_elements()).map(|_| self.next(&(-1.0..1.0))).collect();
        Literal::from_f64s(ty, &elements)
    }
}

/// Checks the first and second derivatives of `body` for f32 operands of these shapes, with elements within ±2.
#[track_caller]
pub(crate) fn check(shapes: &[&[usize]], body: impl for<'g> FnOnce(&[Value<'g>]) -> Value<'g>) {
    check_in(-2.0..2.0, shapes, body);
}

/// As [`check`], with elements within a range.
#[track_caller]
pub(crate) fn check_in(range: Range<f64>, shapes: &[&[usize]], body: impl for<'g> FnOnce(&[Value<'g>]) -> Value<'g>) {
    let mut random = Random::new(shapes.len() as u64 + 1);
    let types: Vec<TensorType> = shapes.iter().map(|&shape| TensorType::new(DType::F32, shape)).collect();
    let args: Vec<Tensor> = types.iter().map(|ty| random.tensor(ty, &range)).collect();
    let func = Builder::build("check", |b| {
        let params: Vec<Value<'_>> =
            types.iter().enumerate().map(|(i, ty)| b.param(&format!("x{i}"), ty.clone())).collect();
        vec![weighted(body(&params), &mut random)]
    });
    check_func(&func, &args, 2);
}

/// The sum of the elements with fixed random weights, so that no derivative vanishes or cancels.
pub(crate) fn weighted<'g>(x: Value<'g>, random: &mut Random) -> Value<'g> {
    let weights = x.builder().constant(random.literal(x.ty()));
    let dimensions: Vec<usize> = (0..x.rank()).collect();
    (x * weights).sum(&dimensions)
}

/// Compares the gradients of `func` for all its float parameters with central differences, and those of a sum of the
/// gradients, until `order` is reached.
#[track_caller]
pub(crate) fn check_func(func: &Func, args: &[Tensor], order: usize) {
    let types = func.param_types();
    let wrt: Vec<usize> = (0..types.len()).filter(|&i| types[i].dtype.is_float()).collect();
    let derivative = value_and_grad(func, &wrt).unwrap_or_else(|error| panic!("{error}"));
    verify(&derivative).unwrap_or_else(|error| panic!("{error}"));
    let num_results = func.result_types().len();
    let found = eval_f64(&derivative, args).expect("the derivative takes what the function takes");
    let loss = |args: &[Tensor]| eval_f64(func, args).expect("the arguments fit")[0].floats()[0];
    assert_eq!(found[0].floats()[0], loss(args), "the derivative's first result is the loss");
    for (&i, gradient) in wrt.iter().zip(&found[num_results..]) {
        for j in 0..types[i].num_elements() {
            let at = |step: f64| {
                let mut elements = args[i].floats().to_vec();
                elements[j] += step;
                let mut args = args.to_vec();
                args[i] = Tensor::from_floats(types[i].clone(), elements);
                loss(&args)
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let found = gradient.floats()[j];
            assert!(
                (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
                "derivative {} from the last for element {j} of parameter {i}: found {found}, expected {expected}\n{}",
                order,
                lmc_graph::text::print(&derivative)
            );
        }
    }
    if order > 1 {
        let mut random = Random::new(7);
        let next = Builder::build("check", |b| {
            let params: Vec<Value<'_>> =
                types.iter().enumerate().map(|(i, ty)| b.param(&format!("x{i}"), ty.clone())).collect();
            let gradients = b.call(&derivative, &params).split_off(num_results);
            let sum = gradients.into_iter().map(|x| weighted(x, &mut random)).reduce(|x, y| x + y);
            vec![sum.expect("a function that is checked has float parameters")]
        });
        check_func(&next, args, order - 1);
    }
}

/// The gradients of `body`, whose result is a scalar, for f32 vectors with these elements.
#[track_caller]
pub(crate) fn gradients(args: &[&[f64]], body: impl for<'g> FnOnce(&[Value<'g>]) -> Value<'g>) -> Vec<Vec<f64>> {
    let types: Vec<TensorType> = args.iter().map(|arg| TensorType::new(DType::F32, [arg.len()])).collect();
    let args: Vec<Tensor> =
        types.iter().zip(args).map(|(ty, arg)| Tensor::from_floats(ty.clone(), arg.to_vec())).collect();
    let func = Builder::build("gradients", |b| {
        let params: Vec<Value<'_>> = types.iter().map(|ty| b.param("x", ty.clone())).collect();
        let result = body(&params);
        let dimensions: Vec<usize> = (0..result.rank()).collect();
        vec![result.sum(&dimensions)]
    });
    let grad = crate::grad(&func, &(0..types.len()).collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{error}"));
    eval_f64(&grad, &args).expect("the arguments fit").iter().map(|x| x.floats().to_vec()).collect()
}

/// How many nodes of `func` are of the op with this name, in regions too.
pub(crate) fn count(func: &Func, op: &str) -> usize {
    func.walk(func.body()).into_iter().filter(|&node| func.node(node).op.name() == op).count()
}
