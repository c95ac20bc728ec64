//! Derivatives of loops and branches: the engine, run on their regions.

use std::collections::BTreeSet;

use lmc_graph::ops::{BinaryOp, Op, Scan};
use lmc_graph::{Builder, Func, Node, NodeId, RegionId, TensorType, Value, ValueId};

use crate::engine::{Cotangents, Pass};
use crate::error::DiffError;

/// The cotangents of operands and captures.
type Found<'g> = Result<Vec<(ValueId, Value<'g>)>, DiffError>;

/// `optimization_barrier`: a barrier for the cotangents.
pub(crate) fn optimization_barrier<'g>(cts: &[Option<Value<'g>>]) -> Vec<Option<Value<'g>>> {
    let present: Vec<Value<'g>> = cts.iter().copied().flatten().collect();
    let mut results = present[0].builder().optimization_barrier(&present).into_iter();
    cts.iter().map(|ct| ct.and_then(|_| results.next())).collect()
}

/// `remat`: computes the region again, from captures and cotangents behind a barrier, without which the compiler would
/// see that the forward pass has computed all of it already.
pub(crate) fn remat<'g>(pass: &mut Pass<'_, 'g>, node: &Node, cts: &[Option<Value<'g>>]) -> Found<'g> {
    let region = node.regions[0];
    let captures = pass.func.captures(region);
    let outside: Vec<Value<'g>> = captures.iter().map(|&value| pass.copy.get(value)).collect();
    let present = cts.iter().copied().flatten();
    let behind = pass.builder.optimization_barrier(&outside.iter().copied().chain(present).collect::<Vec<_>>());
    let (inside, mut present) = (&behind[..captures.len()], behind[captures.len()..].iter());
    let cts: Vec<Option<Value<'g>>> = cts.iter().map(|ct| ct.and_then(|_| present.next().copied())).collect();

    captures.iter().zip(inside).for_each(|(&value, &inside)| pass.copy.map(value, inside));
    pass.record_again(region, &[]);
    let found = pass.reverse(region, &cts)?;
    captures.iter().zip(outside).for_each(|(&value, outside)| pass.copy.map(value, outside));
    Ok(found.into_iter().collect())
}

/// `if`: an `if` on the same `pred`, whose branches compute theirs again and return the cotangents of what either of
/// the two captures.
pub(crate) fn if_else<'g>(pass: &mut Pass<'_, 'g>, node: &Node, cts: &[Option<Value<'g>>]) -> Found<'g> {
    let pred = pass.copy.get(node.operands[0]);
    let mut targets: BTreeSet<ValueId> = node.regions.iter().flat_map(|&region| pass.capture_sources(region)).collect();
    loop {
        let mut found = BTreeSet::new();
        let mut branches = Vec::new();
        for &region in &node.regions {
            branches.push(try_region(pass.builder, &[], |_| {
                pass.record_again(region, &[]);
                let cts = pass.reverse(region, cts)?;
                found.extend(cts.keys().copied());
                // Both branches return the same, so one that does not use a value owes zeros.
                Ok(targets.iter().map(|&value| pass.cotangent_or_zeros(&cts, value)).collect())
            })?);
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        if found == targets {
            let results = pass.builder.push(Op::If, &[pred], &branches);
            return Ok(targets.into_iter().zip(results).collect());
        }
        // The guess was wrong; the branches are dropped and made again with what they turned out to return.
        targets = found;
    }
}

/// Emits a scan that also returns, stacked, the carries that each iteration begins with, and returns these.
pub(crate) fn record_scan<'g>(pass: &mut Pass<'_, 'g>, op: &Scan, node: &Node) -> Vec<Value<'g>> {
    let body = node.regions[0];
    let operands: Vec<Value<'g>> = node.operands.iter().map(|&value| pass.copy.get(value)).collect();
    let builder = pass.builder;
    let mut results = builder.at(pass.copy.location(&node.location), || {
        let params = pass.types(&pass.func.region(body).params);
        let body = builder.region(&params, |params| {
            let results = pass.copy.inline(body, params);
            results.into_iter().chain(params[..op.num_carry].iter().copied()).collect()
        });
        builder.push(Op::Scan(op.clone()), &operands, &[body])
    });
    let saved = results.split_off(node.results.len());
    node.results.iter().zip(results).for_each(|(&old, new)| pass.copy.map(old, new));
    saved
}

/// `scan`: a scan in the other direction that computes the body again, from the carries that the forward pass kept.
///
/// Its carries are the cotangents of the forward's carries and the sums of the cotangents of captured values; its
/// stacked results are the cotangents of the forward's slices.
///
/// Where all that the scan does is to add up, and the cotangents are constants, nothing has to run before it: then it goes
/// in the same direction and adds up, too, and its sums take the place of the forward's, which would compute every term a
/// second time for them.
pub(crate) fn scan<'g>(pass: &mut Pass<'_, 'g>, op: &Scan, id: NodeId, cts: &[Option<Value<'g>>]) -> Found<'g> {
    let node = pass.func.node(id);
    let (num_carry, body) = (op.num_carry, node.regions[0]);
    // Which carries have a cotangent in some iteration is known only after the body was differentiated, and that is
    // possible only with an idea of it; likewise with captures. So both are guesses, until the body confirms them.
    let mut carries: BTreeSet<usize> = (0..num_carry).filter(|&i| cts[i].is_some()).collect();
    let mut captures: BTreeSet<ValueId> = pass.capture_sources(body).into_iter().collect();
    let begin = if only_adds_up(pass.func, op, node) && cts.iter().flatten().all(|&ct| is_constant(ct)) {
        Begin::Sums(node.operands.iter().take(num_carry).map(|&value| pass.copy.get(value)).collect())
    } else {
        Begin::Saved(pass.saved_carries(id))
    };
    loop {
        let attempt = scan_with(pass, op, node, &begin, cts, &carries, &captures)?;
        let num_carries = carries.len();
        carries.extend(&attempt.found_carries);
        if carries.len() == num_carries && captures == attempt.found_captures {
            return Ok(attempt.push(pass, op));
        }
        captures = attempt.found_captures;
    }
}

/// What the iterations of a backward scan know of the forward's carries.
enum Begin<'g> {
    /// What each iteration began with, stacked.
    Saved(Vec<Value<'g>>),
    /// What the first one began with, as the carries are nothing but sums, which are added up again.
    Sums(Vec<Value<'g>>),
}

/// Whether a scan only adds up: it stacks nothing, and each of its carries is used for nothing but to add something to it.
fn only_adds_up(func: &Func, op: &Scan, node: &Node) -> bool {
    let body = func.region(node.regions[0]);
    let carries = &body.params[..op.num_carry];
    let uses = |value: ValueId| {
        let nodes = func.walk(node.regions[0]).into_iter().map(|id| func.node(id));
        let in_regions = nodes.clone().flat_map(|node| &node.regions).flat_map(|&region| &func.region(region).results);
        nodes.flat_map(|node| &node.operands).chain(in_regions).chain(&body.results).filter(|&&x| x == value).count()
    };
    node.results.len() == op.num_carry
        && carries.iter().zip(&body.results).all(|(&carry, &next)| {
            let sum = func.defining_node(next).map(|id| func.node(id));
            let is_sum = sum.is_some_and(|sum| {
                sum.op == Op::Binary(BinaryOp::Add) && sum.operands.iter().filter(|&&x| x == carry).count() == 1
            });
            is_sum && uses(carry) == 1 && uses(next) == 1
        })
}

/// Whether a value is the same whatever the function is given, as far as its making shows at once.
fn is_constant(value: Value<'_>) -> bool {
    value.builder().with_func(|func| {
        let mut value = value.id();
        while let Some(node) = func.defining_node(value).map(|id| func.node(id)) {
            match (&node.op, &node.operands[..]) {
                (Op::Constant(_), _) => return true,
                (Op::BroadcastInDim(_) | Op::Convert(_) | Op::Reshape(_), &[operand]) => value = operand,
                _ => return false,
            }
        }
        false
    })
}

/// A backward scan whose body is made.
struct ScanAttempt<'g> {
    body: RegionId,
    operands: Vec<Value<'g>>,
    /// What the carries and stacked results of the scan are cotangents of, behind the forward's results that it adds up.
    targets: Vec<ValueId>,
    /// The forward's results that it adds up.
    sums: Vec<ValueId>,
    num_carry: usize,
    /// The carries that the body returns a cotangent of.
    found_carries: BTreeSet<usize>,
    /// The captured values that the body returns a cotangent of.
    found_captures: BTreeSet<ValueId>,
}

impl<'g> ScanAttempt<'g> {
    fn push(self, pass: &mut Pass<'_, 'g>, op: &Scan) -> Vec<(ValueId, Value<'g>)> {
        if self.targets.is_empty() {
            return Vec::new();
        }
        // Sums are added up in the forward's order.
        let reverse = if self.sums.is_empty() { !op.reverse } else { op.reverse };
        let backward = Scan { num_carry: self.num_carry, length: op.length, reverse };
        let mut results = pass.builder.push(Op::Scan(backward), &self.operands, &[self.body]).into_iter();
        for (sum, value) in self.sums.into_iter().zip(&mut results) {
            pass.copy.map(sum, value);
        }
        self.targets.into_iter().zip(results).collect()
    }
}

/// Makes the backward scan's body for the case that `carries` have a cotangent and `captures` get one.
fn scan_with<'g>(
    pass: &mut Pass<'_, 'g>,
    op: &Scan,
    node: &Node,
    begin: &Begin<'g>,
    cts: &[Option<Value<'g>>],
    carries: &BTreeSet<usize>,
    captures: &BTreeSet<ValueId>,
) -> Result<ScanAttempt<'g>, DiffError> {
    let (num_carry, body) = (op.num_carry, node.regions[0]);
    let params = &pass.func.region(body).params;
    let xs = node.operands[num_carry..].iter().map(|&value| pass.copy.get(value));
    let stacked_cts = cts[num_carry..].iter().copied().flatten();
    // Carried: the forward's sums, cotangents of carries, sums for captures. Sliced: the forward's carries and slices,
    // cotangents of its stacked results.
    let (mut operands, saved): (Vec<Value<'g>>, &[Value<'g>]) = match begin {
        Begin::Sums(sums) => (sums.clone(), &[]),
        Begin::Saved(saved) => (Vec::new(), saved),
    };
    let num_sums = operands.len();
    for &i in carries {
        operands.push(cts[i].unwrap_or_else(|| pass.builder.full(pass.func.ty(node.results[i]), 0.0)));
    }
    operands.extend(captures.iter().map(|&value| pass.builder.full(pass.func.ty(value), 0.0)));
    let num_backward_carry = operands.len();
    operands.extend(saved.iter().copied().chain(xs).chain(stacked_cts));
    let slice = |ty: TensorType| ty.with_shape(&ty.shape[1..]);
    let types: Vec<TensorType> = (operands.iter().enumerate())
        .map(|(i, x)| if i < num_backward_carry { x.ty() } else { slice(x.ty()) })
        .collect();

    let (mut found_carries, mut found_captures, mut sliced) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let backward = try_region(pass.builder, &types, |args| {
        let (added, rest) = args.split_at(num_sums);
        let (carry_cts, rest) = rest.split_at(carries.len());
        let (sums, rest) = rest.split_at(captures.len());
        let (sliced_forward, stacked_cts) = rest.split_at(params.len() - num_sums);
        let mut carry_cts_left = carry_cts.iter().copied();
        let mut stacked_cts = stacked_cts.iter().copied();
        let result_cts: Vec<Option<Value<'g>>> = (cts.iter().enumerate())
            .map(|(i, ct)| {
                if i < num_carry {
                    carries.contains(&i).then(|| carry_cts_left.next()).flatten()
                } else {
                    ct.and_then(|_| stacked_cts.next())
                }
            })
            .collect();
        let mut results = match begin {
            // This is the forward pass of the body, and the only one; it returns the sums, and nothing else.
            Begin::Sums(_) => pass.record(body, &[added, sliced_forward].concat()),
            Begin::Saved(_) => {
                pass.record_again(body, sliced_forward);
                Vec::new()
            }
        };
        let mut found: Cotangents<'g> = pass.reverse(body, &result_cts)?;

        found_carries.extend((0..num_carry).filter(|&i| found.contains_key(&params[i])));
        // A carry of the scan needs a value in each iteration, also where no cotangent arrives.
        results.extend(carries.iter().map(|&i| pass.cotangent_or_zeros(&found, params[i])));
        let slices: Vec<(ValueId, Value<'g>)> = (node.operands[num_carry..].iter().zip(&params[num_carry..]))
            .filter_map(|(&operand, param)| Some((operand, found.remove(param)?)))
            .collect();
        found.retain(|value, _| !params.contains(value));
        found_captures.extend(found.keys().copied());
        results.extend(captures.iter().zip(sums).map(|(value, &sum)| found.get(value).map_or(sum, |&ct| sum + ct)));
        results.extend(slices.iter().map(|&(_, ct)| ct));
        sliced = slices.into_iter().map(|(operand, _)| operand).collect();
        Ok(results)
    })?;
    let targets = (carries.iter().map(|&i| node.operands[i])).chain(captures.iter().copied()).chain(sliced).collect();
    let sums = node.results[..num_sums].to_vec();
    let num_carry = num_backward_carry;
    Ok(ScanAttempt { body: backward, operands, targets, sums, num_carry, found_carries, found_captures })
}

/// A region whose body may fail.
fn try_region<'g>(
    builder: Builder<'g>,
    params: &[TensorType],
    body: impl FnOnce(&[Value<'g>]) -> Result<Vec<Value<'g>>, DiffError>,
) -> Result<RegionId, DiffError> {
    let mut error = None;
    let region = builder.region(params, |params| {
        body(params).unwrap_or_else(|refused| {
            error = Some(refused);
            Vec::new()
        })
    });
    error.map_or(Ok(region), Err)
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::Scan;
    use lmc_graph::{Builder, DType, Tensor, TensorType, Value, eval_f64, text};

    use crate::RECOMPUTED;
    use crate::check::{Random, check, check_func, check_in, count, gradients};

    fn f32(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    #[test]
    fn scans_with_carries_slices_and_captures() {
        for reverse in [false, true] {
            // A recurrent layer: the captured matrix is used in every iteration.
            check(&[&[2, 3], &[4, 2, 3], &[3, 3]], |x| {
                let attributes = Scan { num_carry: 1, length: 4, reverse };
                let scanned = x[0].builder().scan_with(attributes, &[x[0]], &[x[1]], |h, slice| {
                    let h = (h[0].dot(x[2]) + slice[0]).tanh();
                    (vec![h], vec![h * slice[0]])
                });
                scanned.carries[0] * scanned.stacked[0].sum(&[0])
            });
        }
    }

    #[test]
    fn scans_of_which_only_a_part_is_used() {
        // The second carry depends on itself alone, the first on all; of the stacked results the first on no carry.
        for used in 0..4 {
            check(&[&[3], &[4, 3], &[3]], |x| {
                let scanned = x[0].builder().scan(&[x[0], x[2]], &[x[1]], 4, |h, slice| {
                    let next = (h[0] * h[1] + slice[0]).sine();
                    (vec![next, (h[1] * h[1]).tanh()], vec![slice[0] * slice[0], next])
                });
                [scanned.carries, scanned.stacked].concat()[used]
            });
        }
    }

    #[test]
    fn cotangents_that_come_to_a_carry_from_another_one() {
        // The result is the last of three carries, which are passed on: cotangents reach the first two rounds later.
        check(&[&[2], &[2], &[2]], |x| {
            let scanned = x[0].builder().scan(x, &[], 5, |h, _| (vec![h[0].sine(), h[0] * h[1], h[1] * h[2]], vec![]));
            scanned.carries[2]
        });
        // A carry that every iteration forgets.
        check(&[&[2], &[2]], |x| {
            let scanned = x[0].builder().scan(&[x[0]], &[], 3, |_, _| (vec![x[1] * x[1]], vec![]));
            scanned.carries[0] * x[0]
        });
    }

    #[test]
    fn scans_with_a_counter() {
        check(&[&[2], &[2]], |x| {
            let b = x[0].builder();
            let scanned = b.scan(&[b.scalar(DType::I32, 1.0), x[0]], &[], 4, |h, _| {
                let factor = h[0].convert(DType::F32).broadcast_in_dim(&[2], &[]);
                (vec![h[0] + 1.0, (h[1] * factor * x[1]).sine()], vec![h[0]])
            });
            scanned.carries[1] * scanned.stacked[0].convert(DType::F32).sum(&[0])
        });
    }

    #[test]
    fn scans_over_nothing_and_without_carries() {
        check(&[&[2], &[0, 2]], |x| {
            let scanned = x[0].builder().scan(&[x[0]], &[x[1]], 0, |h, slice| (vec![h[0] * slice[0]], vec![]));
            scanned.carries[0] * x[0]
        });
        check(&[&[2], &[3, 2]], |x| {
            x[0].builder().scan(&[], &[x[1]], 3, |_, slice| (vec![], vec![(slice[0] * x[0]).exp()])).stacked[0]
        });
    }

    #[test]
    fn nested_scans() {
        check(&[&[2], &[3, 2], &[2, 2]], |x| {
            let b = x[0].builder();
            let outer = b.scan(&[x[0]], &[x[1]], 3, |h, slice| {
                let inner = b.scan(&[h[0]], &[x[2]], 2, |h, weight| {
                    let h = (h[0] * weight[0] + slice[0]).sine();
                    (vec![h], vec![h * x[0]])
                });
                (vec![inner.carries[0]], vec![inner.stacked[0].sum(&[0])])
            });
            outer.carries[0] * outer.stacked[0].sum(&[0])
        });
    }

    #[test]
    fn branches() {
        for sign in [1.0, -1.0] {
            check_in(0.5..1.5, &[&[3], &[3], &[3]], |x| {
                let b = x[0].builder();
                let pred = (x[0].sum(&[0]) * sign).greater(b.scalar(DType::F32, 0.0));
                let results =
                    b.if_else(pred, || vec![x[0] * x[1], x[0].exp()], || vec![x[2].sine(), x[1] * x[1] * x[2]]);
                results[0] * results[1]
            });
        }
        // Branches that return what they capture, or nothing that matters.
        check(&[&[3], &[3]], |x| {
            let b = x[0].builder();
            let pred = x[0].sum(&[0]).greater(x[1].sum(&[0]));
            b.if_else(pred, || vec![x[0]], || vec![x[0].full_like(2.0)])[0] * x[1]
        });
        check(&[&[3]], |x| {
            let b = x[0].builder();
            let pred = x[0].sum(&[0]).greater(b.scalar(DType::F32, 0.0));
            b.if_else(pred, || vec![x[0].floor()], || vec![x[0].stop_gradient()])[0] * x[0]
        });
    }

    #[test]
    fn remats() {
        check(&[&[3], &[3]], |x| {
            let b = x[0].builder();
            let y = x[0].exp();
            let results = b.remat(|| vec![(y * x[1]).sine(), x[1] * x[1], x[0]]);
            results[0] * results[1] + results[2] * y
        });
    }

    #[test]
    fn what_remat_computes_is_computed_again_behind_a_barrier() {
        let func = Builder::build("remat", |b| {
            let x = b.param("x", f32(&[3]));
            vec![b.remat(|| vec![x.exp().sine()])[0].sum(&[0])]
        });
        let grad = crate::value_and_grad(&func, &[0]).expect("remat has a derivative");
        let printed = text::print(&grad);
        assert_eq!((count(&grad, "exponential"), count(&grad, "optimization_barrier")), (2, 1), "{printed}");
        assert_eq!((count(&grad, "sine"), count(&grad, "remat")), (1, 1), "{printed}");
    }

    #[test]
    fn control_flow_in_control_flow() {
        check(&[&[2], &[4, 2], &[2]], |x| {
            let b = x[0].builder();
            let scanned = b.scan(&[b.scalar(DType::I32, 0.0), x[0]], &[x[1]], 4, |h, slice| {
                let is_even = h[0].remainder(h[0].full_like(2.0)).equal(h[0].full_like(0.0));
                let next = b.if_else(
                    is_even,
                    || b.remat(|| vec![(h[1] * x[2] + slice[0]).sine()]),
                    || {
                        let inner = b.scan(&[h[1]], &[], 2, |h, _| (vec![(h[0] * slice[0]).tanh()], vec![]));
                        vec![inner.carries[0]]
                    },
                );
                (vec![h[0] + 1.0, next[0]], vec![next[0] * h[1]])
            });
            scanned.carries[1] + scanned.stacked[0].sum(&[0])
        });
        check(&[&[2], &[2]], |x| {
            let b = x[0].builder();
            b.remat(|| {
                let y = x[0] * x[1];
                b.scan(&[y], &[], 3, |h, _| (b.remat(|| vec![(h[0] * x[1]).sine()]), vec![])).carries
            })[0]
        });
    }

    #[test]
    fn a_loop_to_third_order() {
        let func = Builder::build("cube", |b| {
            let x = b.param("x", f32(&[2]));
            let w = b.param("w", f32(&[2]));
            let scanned = b.scan(&[x], &[], 3, |h, _| (vec![(h[0] * w).sine()], vec![]));
            vec![scanned.carries[0].sum(&[0])]
        });
        let mut random = Random::new(3);
        let args: Vec<Tensor> = func.param_types().iter().map(|ty| random.tensor(ty, &(0.5..1.0))).collect();
        check_func(&func, &args, 3);
    }

    #[test]
    fn a_power_by_multiplication_in_a_loop() {
        let power = gradients(&[&[3.0]], |x| {
            x[0].builder().scan(&[x[0].full_like(1.0)], &[], 4, |y, _| (vec![y[0] * x[0]], vec![])).carries[0]
        });
        assert_eq!(power, [[4.0 * 27.0]]);
    }

    #[test]
    fn a_scan_keeps_only_the_carries_that_its_derivative_needs() {
        let func = Builder::build("sum", |b| {
            let xs = b.param("xs", f32(&[5, 2]));
            let zero = b.full(&f32(&[2]), 0.0);
            let scanned = b.scan(&[zero], &[xs], 5, |sum, x| (vec![sum[0] + x[0].exp()], vec![]));
            vec![scanned.carries[0].sum(&[0])]
        });
        let grad = crate::value_and_grad(&func, &[0]).expect("scan has a derivative");
        let scans: Vec<usize> = (grad.walk(grad.body()).into_iter().map(|node| grad.node(node)))
            .filter(|node| node.op.name() == "scan")
            .map(|node| node.results.len())
            .collect();
        assert_eq!(scans, [1, 2], "the sum; its cotangent and those of the slices:\n{}", text::print(&grad));
    }

    /// A loss that is the first carry of a scan over `xs`, f32[5,2], which begins with ones; the second carry is a result
    /// beside it. How often its derivative computes an exponential, how often again, and how many scans it has; what it
    /// returns is what the loss returns, and its gradient is that of differences.
    fn exponentials_and_scans(
        body: impl for<'g> Fn(&[Value<'g>], Value<'g>) -> Vec<Value<'g>>,
        loss: impl for<'g> Fn(Value<'g>) -> Value<'g>,
    ) -> [usize; 3] {
        let func = Builder::build("sums", |b| {
            let xs = b.param("xs", f32(&[5, 2]));
            let w = b.param("w", f32(&[2]));
            let one = b.scalar(DType::F32, 1.0);
            let scanned = b.scan(&[one, one], &[xs], 5, |h, x| (body(h, (x[0] * w).exp()), vec![]));
            vec![loss(scanned.carries[0]), scanned.carries[1]]
        });
        let mut random = Random::new(5);
        let args: Vec<Tensor> = func.param_types().iter().map(|ty| random.tensor(ty, &(0.2..0.8))).collect();
        check_func(&func, &args, 1);
        let both = crate::value_and_grad(&func, &[0, 1]).expect("scan has a derivative");
        let (expected, found) = (eval_f64(&func, &args).expect("values"), eval_f64(&both, &args).expect("values"));
        for (expected, found) in expected.iter().zip(&found) {
            assert!((expected.floats()[0] - found.floats()[0]).abs() < 1e-12, "{expected:?}, {found:?}");
        }
        let nodes = both.walk(both.body()).into_iter().map(|node| both.node(node));
        let again = nodes.filter(|node| node.op.name() == "exponential" && node.location.scope.starts_with(RECOMPUTED));
        [count(&both, "exponential"), again.count(), count(&both, "scan")]
    }

    #[test]
    fn what_only_adds_up_is_computed_once() {
        const fn id(x: Value<'_>) -> Value<'_> {
            x
        }
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] + x.sum(&[0]), x.sum(&[0]) + h[1]], id), [1, 0, 1]);
        // The cotangent of the sum is not known before the sum is.
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] + x.sum(&[0]), h[1] + 1.0], |x| x * x), [2, 1, 2]);
        // What is added depends on the sum, or on the other one; the sum is more than a sum.
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] + x.sum(&[0]) * h[0], h[1] + 1.0], id), [2, 1, 2]);
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] + x.sum(&[0]) * h[1], h[1] + 1.0], id), [2, 1, 2]);
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] * x.sum(&[0]), h[1] + 1.0], id), [2, 1, 2]);
        assert_eq!(exponentials_and_scans(|h, x| vec![h[0] + h[0] + x.sum(&[0]), h[1] + 1.0], id), [2, 1, 2]);
    }

    #[test]
    fn a_barrier_has_a_barrier() {
        check(&[&[3], &[3]], |x| {
            let y = x[0].builder().optimization_barrier(&[x[0] * x[0], x[1], x[0]]);
            y[0] * y[2]
        });
        let func = Builder::build("barrier", |b| {
            let x = b.param("x", f32(&[3]));
            vec![b.optimization_barrier(&[x, x * x])[1].sum(&[0])]
        });
        let grad = crate::grad(&func, &[0]).expect("a barrier has a derivative");
        assert_eq!(count(&grad, "optimization_barrier"), 1, "{}", text::print(&grad));
    }
}
