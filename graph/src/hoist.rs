//! Loop-invariant conversions: computed before a loop, not in each of its iterations.

use crate::builder::{Builder, Copier, Value};
use crate::dtype::TensorType;
use crate::entity::{NodeId, RegionId};
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
    let mut result = Builder::build(&func.name, |builder| {
        let params = func.params.iter().zip(func.param_types());
        let args: Vec<Value<'_>> = params.map(|(param, ty)| builder.param(&param.name, ty)).collect();
        Hoist { builder, func, copy: Copier::new(builder, func) }.inline(func.body(), &args)
    });
    result.params.clone_from(&func.params);
    result.result_names.clone_from(&func.result_names);
    result
}

struct Hoist<'f, 'g> {
    builder: Builder<'g>,
    func: &'f Func,
    copy: Copier<'f, 'g>,
}

impl<'g> Hoist<'_, 'g> {
    /// As [`Copier::inline`], without the conversions that went in front of a loop.
    fn inline(&mut self, region: RegionId, args: &[Value<'g>]) -> Vec<Value<'g>> {
        let region = self.func.region(region);
        region.params.iter().zip(args).for_each(|(&param, &arg)| self.copy.map(param, arg));
        for &node in &region.nodes {
            if !self.is_done(node) {
                self.node(node);
            }
        }
        region.results.iter().map(|&value| self.copy.get(value)).collect()
    }

    /// Whether a node is a conversion that went in front of a loop.
    fn is_done(&self, node: NodeId) -> bool {
        self.func.node(node).results.first().is_some_and(|&result| self.copy.find(result).is_some())
    }

    fn node(&mut self, id: NodeId) {
        let (builder, node) = (self.builder, self.func.node(id));
        if node.regions.is_empty() {
            self.copy.node(id);
            return;
        }
        if matches!(node.op, Op::Scan(_) | Op::While) {
            self.hoist_from(id);
        }
        let operands: Vec<Value<'g>> = node.operands.iter().map(|&value| self.copy.get(value)).collect();
        let mut regions = Vec::with_capacity(node.regions.len());
        for &region in &node.regions {
            let params = &self.func.region(region).params;
            let types: Vec<TensorType> = params.iter().map(|&param| self.func.ty(param).clone()).collect();
            regions.push(builder.region(&types, |params| self.inline(region, params)));
        }
        let results =
            builder.at(self.copy.location(&node.location), || builder.push(node.op.clone(), &operands, &regions));
        node.results.iter().zip(results).for_each(|(&old, new)| self.copy.map(old, new));
    }

    /// Puts the conversions in a loop whose operands are there before it here.
    fn hoist_from(&mut self, the_loop: NodeId) {
        let func = self.func;
        let inside: Vec<NodeId> = func.node(the_loop).regions.iter().flat_map(|&region| func.walk(region)).collect();
        if inside.iter().any(|&id| matches!(func.node(id).op, Op::Remat | Op::OptimizationBarrier)) {
            return;
        }
        let mut made: Vec<(Value<'g>, Value<'g>)> = Vec::new();
        for id in inside {
            let node = func.node(id);
            let (Op::Convert(_), &[operand], &[result]) = (&node.op, &node.operands[..], &node.results[..]) else {
                continue;
            };
            let is_narrower = func.ty(result).dtype.size() < func.ty(operand).dtype.size();
            let Some(outside) = self.copy.find(operand).filter(|_| is_narrower && !self.is_done(id)) else { continue };
            let same = made.iter().find(|(of, to)| of.id() == outside.id() && to.ty() == *func.ty(result));
            match same {
                Some(&(_, converted)) => self.copy.map(result, converted),
                None => made.push((outside, self.copy.node(id)[0])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dce::tests::check_pass;

    fn check(header: &str, body: &str, expected: &str) {
        check_pass(hoist_conversions, header, body, expected);
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
