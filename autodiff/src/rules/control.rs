//! Derivatives of loops and branches: the engine, run on their regions.

use std::collections::BTreeSet;

use lmc_graph::ops::{Op, Scan};
use lmc_graph::{Builder, Node, NodeId, RegionId, TensorType, Value, ValueId};

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
    pass.record(region, &[]);
    let found = pass.reverse(region, &cts)?;
    captures.iter().zip(outside).for_each(|(&value, outside)| pass.copy.map(value, outside));
    Ok(found.into_iter().collect())
}

/// `if`: an `if` on the same `pred`, whose branches compute theirs again and return the cotangents of what either of the
/// two captures.
pub(crate) fn if_else<'g>(pass: &mut Pass<'_, 'g>, node: &Node, cts: &[Option<Value<'g>>]) -> Found<'g> {
    let pred = pass.copy.get(node.operands[0]);
    let mut targets: BTreeSet<ValueId> = node.regions.iter().flat_map(|&region| pass.capture_sources(region)).collect();
    loop {
        let mut found = BTreeSet::new();
        let mut branches = Vec::new();
        for &region in &node.regions {
            branches.push(try_region(pass.builder, &[], |_| {
                pass.record(region, &[]);
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
    let mut results = builder.at(node.location.clone(), || {
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
pub(crate) fn scan<'g>(pass: &mut Pass<'_, 'g>, op: &Scan, id: NodeId, cts: &[Option<Value<'g>>]) -> Found<'g> {
    let node = pass.func.node(id);
    let (num_carry, body) = (op.num_carry, node.regions[0]);
    // Which carries have a cotangent in some iteration is known only after the body was differentiated, and that is
    // possible only with an idea of it; likewise with captures. So both are guesses, until the body confirms them.
    let mut carries: BTreeSet<usize> = (0..num_carry).filter(|&i| cts[i].is_some()).collect();
    let mut captures: BTreeSet<ValueId> = pass.capture_sources(body).into_iter().collect();
    loop {
        let attempt = scan_with(pass, op, node, &pass.saved_carries(id), cts, &carries, &captures)?;
        let num_carries = carries.len();
        carries.extend(&attempt.found_carries);
        if carries.len() == num_carries && captures == attempt.found_captures {
            return Ok(attempt.push(pass, op));
        }
        captures = attempt.found_captures;
    }
}

/// A backward scan whose body is made.
struct ScanAttempt<'g> {
    body: RegionId,
    operands: Vec<Value<'g>>,
    /// What the carries and stacked results of the scan are cotangents of.
    targets: Vec<ValueId>,
    num_carry: usize,
    /// The carries that the body returns a cotangent of.
    found_carries: BTreeSet<usize>,
    /// The captured values that the body returns a cotangent of.
    found_captures: BTreeSet<ValueId>,
}

impl<'g> ScanAttempt<'g> {
    fn push(self, pass: &Pass<'_, 'g>, op: &Scan) -> Vec<(ValueId, Value<'g>)> {
        if self.targets.is_empty() {
            return Vec::new();
        }
        let backward = Scan { num_carry: self.num_carry, length: op.length, reverse: !op.reverse };
        let results = pass.builder.push(Op::Scan(backward), &self.operands, &[self.body]);
        self.targets.into_iter().zip(results).collect()
    }
}

/// Makes the backward scan's body for the case that `carries` have a cotangent and `captures` get one.
fn scan_with<'g>(
    pass: &mut Pass<'_, 'g>,
    op: &Scan,
    node: &Node,
    saved: &[Value<'g>],
    cts: &[Option<Value<'g>>],
    carries: &BTreeSet<usize>,
    captures: &BTreeSet<ValueId>,
) -> Result<ScanAttempt<'g>, DiffError> {
    let (num_carry, body) = (op.num_carry, node.regions[0]);
    let params = &pass.func.region(body).params;
    let xs = node.operands[num_carry..].iter().map(|&value| pass.copy.get(value));
    let stacked_cts = cts[num_carry..].iter().copied().flatten();
    // Operands: cotangents of carries, sums for captures | the forward's carries and slices, cotangents of its elements.
    let mut operands: Vec<Value<'g>> = Vec::new();
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
        let (carry_cts, rest) = args.split_at(carries.len());
        let (sums, rest) = rest.split_at(captures.len());
        let (forward, stacked_cts) = rest.split_at(params.len());
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
        pass.record(body, forward);
        let mut found: Cotangents<'g> = pass.reverse(body, &result_cts)?;

        found_carries.extend((0..num_carry).filter(|&i| found.contains_key(&params[i])));
        // A carry of the scan needs a value in each iteration, also where no cotangent arrives.
        let mut results: Vec<Value<'g>> = carries.iter().map(|&i| pass.cotangent_or_zeros(&found, params[i])).collect();
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
    Ok(ScanAttempt { body: backward, operands, targets, num_carry: num_backward_carry, found_carries, found_captures })
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
