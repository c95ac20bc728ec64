//! Loop-invariant conversions: computed before a loop, not in each of its iterations.

use crate::entity::{Entity, NodeId, RegionId, ValueId};
use crate::func::Func;
use crate::ops::Op;

/// The function with conversions to a narrower type in front of the loops whose iterations all do the same one.
///
/// A `convert` in the body of a `scan` or a `while`, at whatever depth, of a value from outside of the loop goes in front of
/// it, once for all that are equal. What is kept over the loop then is smaller than what it is made of. Nothing else moves:
/// most other ops are better computed where they are used, since compilers make them part of their users. And nothing moves
/// out of a loop with a `remat` or a barrier in it, which computes things again rather than keeping them.
///
/// # Panics
/// If `func` does not pass [`verify`](crate::verify::verify).
pub fn hoist_conversions(func: &Func) -> Func {
    let mut result = Func::new(&func.name);
    let mut values = vec![None; func.values().count()];
    for (&value, param) in func.param_values().iter().zip(&func.params) {
        values[value.index()] = Some(result.add_param(&param.name, func.ty(value).clone()));
    }
    let body = result.body();
    Hoist { from: func, to: &mut result, values }.region(func.body(), body);
    result.params.clone_from(&func.params);
    result.result_names.clone_from(&func.result_names);
    result
}

struct Hoist<'a> {
    from: &'a Func,
    to: &'a mut Func,
    /// What stands for each value so far.
    values: Vec<Option<ValueId>>,
}

impl Hoist<'_> {
    fn region(&mut self, from: RegionId, to: RegionId) {
        for &node in &self.from.region(from).nodes {
            if !self.is_done(node) {
                self.node(node, to);
            }
        }
        let results = self.mapped(&self.from.region(from).results);
        self.to.set_results(to, results);
    }

    /// Whether a node is a conversion that went in front of a loop.
    fn is_done(&self, node: NodeId) -> bool {
        self.from.node(node).results.first().is_some_and(|result| self.values[result.index()].is_some())
    }

    fn node(&mut self, id: NodeId, to: RegionId) {
        let node = self.from.node(id);
        if matches!(node.op, Op::Scan(_) | Op::While) {
            self.hoist_from(id, to);
        }
        let operands = self.mapped(&node.operands);
        let regions: Vec<RegionId> = node.regions.iter().map(|&from| self.copied(from)).collect();
        self.push(id, to, &operands, &regions);
    }

    fn copied(&mut self, from: RegionId) -> RegionId {
        let region = self.to.add_region();
        for &param in &self.from.region(from).params {
            self.values[param.index()] = Some(self.to.add_region_param(region, self.from.ty(param).clone()));
        }
        self.region(from, region);
        region
    }

    /// Puts the conversions in a loop whose operands are there before it into `to`.
    fn hoist_from(&mut self, the_loop: NodeId, to: RegionId) {
        let mut made: Vec<(ValueId, Vec<ValueId>)> = Vec::new();
        let regions = &self.from.node(the_loop).regions;
        let saves_memory = |id: &NodeId| matches!(self.from.node(*id).op, Op::Remat | Op::OptimizationBarrier);
        if regions.iter().flat_map(|&region| self.from.walk(region)).any(|id| saves_memory(&id)) {
            return;
        }
        let inside = regions.iter().flat_map(|&region| self.from.walk(region)).filter(|&id| !self.is_done(id));
        for id in inside.collect::<Vec<NodeId>>() {
            let node = self.from.node(id);
            let (Op::Convert(_), &[operand], &[result]) = (&node.op, &node.operands[..], &node.results[..]) else {
                continue;
            };
            let (before, after) = (self.from.ty(operand), self.from.ty(result));
            let is_narrower = after.dtype.size() < before.dtype.size();
            let Some(outside) = self.values[operand.index()].filter(|_| is_narrower) else { continue };
            let same = made.iter().find(|(of, results)| *of == outside && self.to.ty(results[0]) == after);
            if let Some((_, results)) = same {
                self.values[result.index()] = Some(results[0]);
            } else {
                made.push((outside, self.push(id, to, &[outside], &[])));
            }
        }
    }

    fn push(&mut self, id: NodeId, to: RegionId, operands: &[ValueId], regions: &[RegionId]) -> Vec<ValueId> {
        let node = self.from.node(id);
        let made = self.to.push(to, node.op.clone(), operands, regions, node.location.clone());
        let made = made.unwrap_or_else(|error| panic!("the function was not verified:\n{error}"));
        let results = self.to.node(made).results.clone();
        for (old, &new) in node.results.iter().zip(&results) {
            self.values[old.index()] = Some(new);
        }
        results
    }

    fn mapped(&self, values: &[ValueId]) -> Vec<ValueId> {
        values.iter().map(|value| self.values[value.index()].expect("a value comes before its users")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify;

    /// The function's text, and what becomes of it: bodies alone.
    fn check(header: &str, body: &str, expected: &str) {
        let text = format!("func @f{header} {{\n{body}}}\n");
        let func = parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
        let hoisted = hoist_conversions(&func);
        assert_eq!(verify(&hoisted), Ok(()));
        assert_eq!(hoisted.to_string(), format!("func @f{header} {{\n{expected}}}\n"));
    }

    #[test]
    fn narrowing_leaves_all_loops_at_once() {
        // Of the conversions: of a value from outside, twice, once in a loop inside; of a slice; to a wider type.
        check(
            "(%0: f32[] \"x\" donated(0), %1: f32[4], %2: bf16[]) -> (f32[] \"y\")",
            "  %r: f32[] = scan(%0, %1) {num_carry = 1, length = 4, reverse = false} ({
    ^(%a: f32[], %x: f32[]):
    %b: bf16[] = convert(%0) {dtype = bf16}
    %c: bf16[] = convert(%x) {dtype = bf16}
    %d: f32[] = convert(%2) {dtype = f32}
    %e: f32[] = scan(%a) {num_carry = 1, length = 2, reverse = true} ({
      ^(%f: f32[]):
      %g: bf16[] = convert(%0) {dtype = bf16}
      %h: bf16[] = convert(%d) {dtype = bf16}
      %i: bf16[] = multiply(%b, %g)
      %j: bf16[] = multiply(%c, %h)
      %k: bf16[] = add(%i, %j)
      %l: f32[] = convert(%k) {dtype = f32}
      return %l
    })
    return %e
  })
  return %r
",
            "  %3: bf16[] = convert(%0) {dtype = bf16}
  %15: f32[] = scan(%0, %1) {num_carry = 1, length = 4, reverse = false} ({
    ^(%4: f32[], %5: f32[]):
    %6: bf16[] = convert(%5) {dtype = bf16}
    %7: f32[] = convert(%2) {dtype = f32}
    %8: bf16[] = convert(%7) {dtype = bf16}
    %14: f32[] = scan(%4) {num_carry = 1, length = 2, reverse = true} ({
      ^(%9: f32[]):
      %10: bf16[] = multiply(%3, %3)
      %11: bf16[] = multiply(%6, %8)
      %12: bf16[] = add(%10, %11)
      %13: f32[] = convert(%12) {dtype = f32}
      return %13
    })
    return %14
  })
  return %15
",
        );
    }

    #[test]
    fn a_while_and_its_condition() {
        check(
            "(%0: f32[], %1: f16[]) -> (f16[])",
            "  %r: f16[] = while(%1) ({
    ^(%a: f16[]):
    %b: f16[] = convert(%0) {dtype = f16}
    %c: i1[] = compare(%a, %b) {direction = LT}
    return %c
  }, {
    ^(%d: f16[]):
    %e: f16[] = convert(%0) {dtype = f16}
    return %e
  })
  return %r
",
            "  %2: f16[] = convert(%0) {dtype = f16}
  %6: f16[] = while(%1) ({
    ^(%3: f16[]):
    %4: i1[] = compare(%3, %2) {direction = LT}
    return %4
  }, {
    ^(%5: f16[]):
    return %2
  })
  return %6
",
        );
    }

    #[test]
    fn a_loop_that_computes_again_keeps_nothing() {
        // The conversion leaves the loop inside, and no further.
        check(
            "(%0: f32[], %1: bf16[]) -> (bf16[])",
            "  %r: bf16[] = scan(%1) {num_carry = 1, length = 2, reverse = false} ({
    ^(%a: bf16[]):
    %b: bf16[] = optimization_barrier(%a)
    %e: bf16[] = scan(%b) {num_carry = 1, length = 3, reverse = false} ({
      ^(%f: bf16[]):
      %g: bf16[] = convert(%0) {dtype = bf16}
      %h: bf16[] = add(%f, %g)
      return %h
    })
    return %e
  })
  return %r
",
            "  %8: bf16[] = scan(%1) {num_carry = 1, length = 2, reverse = false} ({
    ^(%2: bf16[]):
    %3: bf16[] = optimization_barrier(%2)
    %4: bf16[] = convert(%0) {dtype = bf16}
    %7: bf16[] = scan(%3) {num_carry = 1, length = 3, reverse = false} ({
      ^(%5: bf16[]):
      %6: bf16[] = add(%5, %4)
      return %6
    })
    return %7
  })
  return %8
",
        );
    }

    #[test]
    fn what_is_in_no_loop_stays() {
        let body = "  %2: bf16[] = convert(%0) {dtype = bf16}
  %4: bf16[] = if(%1) ({
    %3: bf16[] = convert(%0) {dtype = bf16}
    return %3
  }, {
    return %2
  })
  return %4
";
        check("(%0: f32[], %1: i1[]) -> (bf16[])", body, body);
    }
}
