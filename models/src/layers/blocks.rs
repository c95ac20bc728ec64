//! Blocks of equal structure, one after the other.

use lmc_graph::{DType, Value};

use crate::compute::{Layers, Remat};
use crate::params::Params;
use crate::scope::Scope;

/// `x` through `count` blocks in the places `name.0`, `name.1`, …, in the way that the scope's
/// [`Compute`](crate::Compute) says. Parameters and their order are the same in each.
///
/// A scanned block is built once, on slices of the stacked parameters of all blocks: parameters are stacked in f32 and
/// rounded inside, so that their gradients are not rounded.
///
/// # Panics
/// If `count` is 0, or if blocks differ in their parameters' types or in the type that they return.
#[track_caller]
pub fn blocks<'g>(
    scope: &Scope<'g>,
    name: &str,
    count: usize,
    x: Value<'g>,
    block: impl Fn(&Scope<'g>, Value<'g>) -> Value<'g>,
) -> Value<'g> {
    assert!(count > 0, "there is at least one block");
    let b = scope.builder();
    // A block draws from a key of its number, so that it draws the same in a scan, where it does not know its path.
    let key = |i: usize| Some(scope.key(name)?.fold_in(b.scalar(DType::I32, i as f64)));
    match scope.compute().layers {
        Layers::Unroll => (0..count).fold(x, |x, i| {
            scope.sub(&format!("{name}.{i}"), |inner| {
                let scope = key(i).map_or_else(|| inner.clone(), |key| inner.with_key(key));
                match scope.compute().remat {
                    Remat::None => block(&scope, x),
                    Remat::Layer => b.remat(|| vec![block(&scope, x)])[0],
                }
            })
        }),
        Layers::Scan => {
            let first = format!("{name}.0");
            // Only to declare the parameters: what it computes belongs to no node.
            b.region(&[], |_| vec![scope.sub(&first, |scope| block(scope, x))]);
            let specs = scope.declared_below(&first);
            let layers: Vec<Vec<Value<'g>>> = (0..count)
                .map(|i| {
                    let param = |(path, spec)| scope.declare(&format!("{name}.{i}.{path}"), spec).elements(DType::F32);
                    specs.iter().map(param).collect()
                })
                .collect();
            b.scope(name, || {
                let stack = |rows: &mut dyn Iterator<Item = Value<'g>>| {
                    let rows = rows.map(|x| x.reshape(&[&[1], &x.shape()[..]].concat())).collect::<Vec<_>>();
                    b.concatenate(&rows, 0)
                };
                let mut stacked: Vec<Value<'g>> =
                    (0..specs.len()).map(|parameter| stack(&mut layers.iter().map(|layer| layer[parameter]))).collect();
                let keys: Option<Vec<Value<'g>>> = (0..count).map(key).collect();
                stacked.extend(keys.map(|keys| stack(&mut keys.into_iter())));
                // The scan's backward pass keeps what goes into each block and computes the rest again: that is `remat`.
                let scanned = b.scan(&[x], &stacked, count, |x, slices| {
                    let key = slices.get(specs.len()).copied();
                    let slices: Params<_> = specs
                        .iter()
                        .zip(slices)
                        .map(|((path, spec), &slice)| (path.to_string(), (spec.clone(), slice)))
                        .collect();
                    let scope = scope.with_declared(slices);
                    let scope = key.map_or_else(|| scope.clone(), |key| scope.with_key(key));
                    (vec![block(&scope, x[0])], vec![])
                });
                scanned.carries[0]
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, Literal, TensorType, eval};

    use super::*;
    use crate::compute::{Compute, Precision};
    use crate::layers::dropout;

    /// Every block draws from a key of its own, which is the same in every way to compute.
    #[test]
    fn blocks_draw_their_own_numbers() {
        const COUNT: usize = 3;
        let masks = |compute: Compute| {
            let func = Builder::build("f", |b| {
                let scope = Scope::new(b, compute).with_key(b.constant(Literal::new([2], &[3_u64, 0])));
                let ones = b.full(&TensorType::new(DType::F32, [64]), 1.0);
                // A digit to the base of 3 for every block: 2 where the element is kept.
                let x = blocks(&scope, "h", COUNT, ones.full_like(0.0), |scope, x| {
                    let one = scope.param("one", &[("hidden", 64)], crate::params::Init::Ones);
                    x * 3.0 + dropout(scope, "drop", one, 0.5)
                });
                vec![x]
            });
            let args = vec![Literal::new([64], &[1f32; 64]); COUNT];
            let digits = eval(&func, &args).expect("the arguments fit")[0].to_f64s();
            (0..COUNT)
                .map(|block| digits.iter().map(|x| (x / 3f64.powi(block as i32)) as u32 % 3).collect::<Vec<u32>>())
                .collect::<Vec<_>>()
        };
        let plain = Compute::from(Precision::Float32);
        let unrolled = masks(plain);
        assert!(unrolled.iter().flatten().all(|digit| [0, 2].contains(digit)));
        assert!(unrolled[0] != unrolled[1] && unrolled[1] != unrolled[2] && unrolled[0] != unrolled[2]);
        assert_eq!(masks(Compute { layers: Layers::Scan, ..plain }), unrolled);
        assert_eq!(masks(Compute { remat: Remat::Layer, ..plain }), unrolled);
    }
}
