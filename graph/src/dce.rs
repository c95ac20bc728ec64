//! Dead-code elimination: a function without what its results do not need.

use crate::entity::{Entity, NodeId, RegionId, ValueId};
use crate::func::{Func, Node};
use crate::ops::{Op, Scan};

/// The function without what its results do not need, ids dense and in the order of the text.
///
/// Nodes none of whose results are needed are left out, in regions too. Of `scan`, `while`, `if` and `remat` only the
/// needed results stay: a `scan` loses stacked results, tensors it goes over, and carries that nothing but themselves
/// depends on. The function's own parameters and results stay, with their names and donations.
///
/// # Panics
/// If `func` does not pass [`verify`](crate::verify::verify).
pub fn dce(func: &Func) -> Func {
    let num_values = func.values().count();
    let all_results = vec![true; func.result_values().len()];
    let mut live = vec![false; num_values];
    mark(func, func.body(), &all_results, &mut live);
    let mut result = Func::new(&func.name);
    let mut values = vec![None; num_values];
    for (&value, param) in func.param_values().iter().zip(&func.params) {
        values[value.index()] = Some(result.add_param(&param.name, func.ty(value).clone()));
    }
    let body = result.body();
    Copy { from: func, to: &mut result, live: &live, values }.region(func.body(), body, &all_results);
    result.params.clone_from(&func.params);
    result.result_names.clone_from(&func.result_names);
    result
}

/// Which operands and results of a needed node stay: all, but of ops with regions.
#[derive(PartialEq)]
struct Kept {
    operands: Vec<bool>,
    results: Vec<bool>,
}

impl Kept {
    /// What stays of a node when `live` says which values are needed, or `None` when nothing does.
    fn of(node: &Node, func: &Func, live: &[bool]) -> Option<Kept> {
        let is_live = |values: &[ValueId]| -> Vec<bool> { values.iter().map(|value| live[value.index()]).collect() };
        let live_params = |region: usize| is_live(&func.region(node.regions[region]).params);
        let or = |x: &[bool], y: &[bool]| -> Vec<bool> { x.iter().zip(y).map(|(&x, &y)| x || y).collect() };
        let results = is_live(&node.results);
        if !results.contains(&true) {
            return None;
        }
        // A carry stays if it is needed after the loop or inside, which its parameter shows.
        if let Op::Scan(Scan { num_carry, .. }) = node.op {
            let params = live_params(0);
            let carries = or(&results[..num_carry], &params[..num_carry]);
            let operands = [&carries, &params[num_carry..]].concat();
            return Some(Kept { operands, results: [&carries, &results[num_carry..]].concat() });
        }
        if node.op == Op::While {
            let carries = or(&results, &or(&live_params(0), &live_params(1)));
            return Some(Kept { operands: carries.clone(), results: carries });
        }
        let operands = vec![true; node.operands.len()];
        let is_branch = matches!(node.op, Op::If | Op::Remat);
        Some(Kept { operands, results: if is_branch { results } else { vec![true; node.results.len()] } })
    }

    /// Which results of a node's region with this index stay. They are those of the node, but for the condition of a
    /// `while`.
    fn region_results(&self, op: &Op, region: usize) -> &[bool] {
        if *op == Op::While && region == 0 { &[true] } else { &self.results }
    }
}

/// Marks what the results of `region` need, `results` saying which of them are needed.
fn mark(func: &Func, region: RegionId, results: &[bool], live: &mut [bool]) {
    let region = func.region(region);
    kept(&region.results, results).for_each(|value| live[value.index()] = true);
    for &node in region.nodes.iter().rev() {
        mark_node(func, func.node(node), live);
    }
}

/// Marks what a node needs. A carry that the body needs makes more of the body needed, so loops are gone over until
/// nothing changes; every turn but the last marks another carry.
fn mark_node(func: &Func, node: &Node, live: &mut [bool]) {
    let mut before = None;
    loop {
        let Some(now) = Kept::of(node, func, live) else { return };
        if before.as_ref() == Some(&now) || node.regions.is_empty() {
            kept(&node.operands, &now.operands).for_each(|value| live[value.index()] = true);
            return;
        }
        for (i, &region) in node.regions.iter().enumerate() {
            mark(func, region, now.region_results(&node.op, i), live);
        }
        before = Some(now);
    }
}

/// The entries that stay.
fn kept<'a, T: std::marker::Copy>(entries: &'a [T], stay: &'a [bool]) -> impl Iterator<Item = T> + 'a {
    entries.iter().zip(stay).filter(|(_, stay)| **stay).map(|(&entry, _)| entry)
}

struct Copy<'a> {
    from: &'a Func,
    to: &'a mut Func,
    live: &'a [bool],
    values: Vec<Option<ValueId>>,
}

impl Copy<'_> {
    fn get(&self, value: ValueId) -> ValueId {
        self.values[value.index()].expect("what a live node uses is live and comes before it")
    }

    /// Fills `to` with the live nodes of `from` and those of its results that stay.
    fn region(&mut self, from: RegionId, to: RegionId, results: &[bool]) {
        let region = self.from.region(from);
        for &node in &region.nodes {
            self.node(node, to);
        }
        let results = kept(&region.results, results).map(|value| self.get(value)).collect();
        self.to.set_results(to, results);
    }

    fn node(&mut self, node: NodeId, to: RegionId) {
        let node = self.from.node(node);
        let Some(stay) = Kept::of(node, self.from, self.live) else { return };
        let operands: Vec<ValueId> = kept(&node.operands, &stay.operands).map(|value| self.get(value)).collect();
        let mut regions = Vec::with_capacity(node.regions.len());
        for (i, &from) in node.regions.iter().enumerate() {
            let region = self.to.add_region();
            // Parameters are those of the operands that stay, where a region has any.
            for param in kept(&self.from.region(from).params, &stay.operands) {
                self.values[param.index()] = Some(self.to.add_region_param(region, self.from.ty(param).clone()));
            }
            self.region(from, region, stay.region_results(&node.op, i));
            regions.push(region);
        }
        let mut op = node.op.clone();
        if let Op::Scan(Scan { num_carry, .. }) = &mut op {
            *num_carry = stay.operands[..*num_carry].iter().filter(|&&stays| stays).count();
        }
        let made = self.to.push(to, op, &operands, &regions, node.location.clone());
        let made = made.unwrap_or_else(|error| panic!("the function was not verified:\n{error}"));
        let results = kept(&node.results, &stay.results).zip(self.to.node(made).results.clone());
        for (old, new) in results.collect::<Vec<_>>() {
            self.values[old.index()] = Some(new);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify;

    /// A function's text, and what a pass makes of it: bodies alone, as the header stays.
    #[track_caller]
    pub(crate) fn check_pass(pass: impl Fn(&Func) -> Func, header: &str, body: &str, expected: &str) {
        let text = format!("func @f{header} {{\n{body}}}\n");
        let func = parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
        let made = pass(&func);
        assert_eq!(verify(&made), Ok(()));
        assert_eq!(made.to_string(), format!("func @f{header} {{\n{expected}}}\n"));
    }

    #[track_caller]
    fn check(header: &str, body: &str, expected: &str) {
        check_pass(dce, header, body, expected);
    }

    #[test]
    fn nodes() {
        // Parameters stay, needed or not, with names and donations.
        check(
            "(%0: f32[] \"x\", %1: f32[] \"y\" donated(1)) -> (f32[] \"a\", f32[])",
            "  %2: f32[] = tanh(%1)\n  %3: f32[] = tanh(%0)\n  %4: f32[] = add(%2, %2)\n  return %3, %3\n",
            "  %2: f32[] = tanh(%0)\n  return %2, %2\n",
        );
        // A node of which one result is needed stays whole, if its results go together.
        check(
            "(%0: f32[], %1: f32[]) -> (f32[])",
            "  %2: f32[], %3: f32[] = optimization_barrier(%0, %1)\n  return %3\n",
            "  %2: f32[], %3: f32[] = optimization_barrier(%0, %1)\n  return %3\n",
        );
        check("(%0: f32[]) -> ()", "  %1: f32[] = tanh(%0)\n  return\n", "  return\n");
    }

    #[test]
    fn branches() {
        // What only the lost result captures goes too.
        check(
            "(%0: f32[], %1: i1[]) -> (f32[])",
            "  %2: f32[] = tanh(%0)
  %3: f32[] = sine(%0)
  %x: f32[], %y: f32[] = if(%1) ({
    %a: f32[] = cosine(%3)
    return %a, %2
  }, {
    return %0, %2
  })
  %b: f32[], %c: f32[] = remat() ({
    %d: f32[] = sqrt(%x)
    %e: f32[] = sqrt(%y)
    return %d, %e
  })
  return %c
",
            "  %2: f32[] = tanh(%0)
  %3: f32[] = if(%1) ({
    return %2
  }, {
    return %2
  })
  %5: f32[] = remat() ({
    %4: f32[] = sqrt(%3)
    return %4
  })
  return %5
",
        );
    }

    #[test]
    fn scans() {
        // Of five carries and two tensors: `a` is needed afterwards, `b` by the next `a`, `c` by the next `b`, `d` by
        // nothing but itself, `e` by nothing; of the tensors the first by the next `c`.
        check(
            "(%0: f32[], %1: f32[4], %2: f32[4,2]) -> (f32[])",
            "  %3: f32[] = tanh(%0)
  %r0: f32[], %r1: f32[], %r2: f32[], %r3: f32[], %r4: f32[], %s: f32[4] = scan(%0, %0, %0, %3, %3, %1, %2) \
{num_carry = 5, length = 4, reverse = true} ({
    ^(%a: f32[], %b: f32[], %c: f32[], %d: f32[], %e: f32[], %x: f32[], %y: f32[2]):
    %b2: f32[] = tanh(%c)
    %c2: f32[] = add(%c, %x)
    %d2: f32[] = tanh(%d)
    return %b, %b2, %c2, %d2, %d2, %d
  })
  return %r0
",
            "  %9: f32[], %10: f32[], %11: f32[] = scan(%0, %0, %0, %1) {num_carry = 3, length = 4, reverse = true} ({
    ^(%3: f32[], %4: f32[], %5: f32[], %6: f32[]):
    %7: f32[] = tanh(%5)
    %8: f32[] = add(%5, %6)
    return %4, %7, %8
  })
  return %9
",
        );
        // A stacked result alone, of a loop that carries nothing it needs.
        check(
            "(%0: f32[]) -> (f32[2])",
            "  %r: f32[], %s: f32[2] = scan(%0) {num_carry = 1, length = 2, reverse = false} ({
    ^(%a: f32[]):
    return %a, %0
  })
  return %s
",
            "  %1: f32[2] = scan() {num_carry = 0, length = 2, reverse = false} ({
    return %0
  })
  return %1
",
        );
    }

    #[test]
    fn whiles() {
        // The condition needs the first carry, the result the second, nothing the third.
        check(
            "(%0: i1[], %1: f32[]) -> (f32[])",
            "  %r0: i1[], %r1: f32[], %r2: f32[] = while(%0, %1, %1) ({
    ^(%a: i1[], %b: f32[], %c: f32[]):
    return %a
  }, {
    ^(%d: i1[], %e: f32[], %f: f32[]):
    %g: f32[] = tanh(%e)
    return %d, %g, %g
  })
  return %r1
",
            "  %7: i1[], %8: f32[] = while(%0, %1) ({
    ^(%2: i1[], %3: f32[]):
    return %2
  }, {
    ^(%4: i1[], %5: f32[]):
    %6: f32[] = tanh(%5)
    return %4, %6
  })
  return %8
",
        );
    }
}
