//! What a compiler does before it plans memory: ops that move nothing go, equal ops become one, products get operands
//! their kernels take, and what a loop computes anew in every iteration moves out of it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use lmc_graph::{DType, TensorType};
use lmc_lower::report::Direction;

use super::program::{Block, Loop, Op, Program, Value};
use super::{Rules, is_cudnn};

/// Simplifies the whole program.
pub(super) fn simplify(program: &mut Program, rules: &Rules) {
    let body = std::mem::take(&mut program.body);
    let (same_as, behind, of_cudnn) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut pass = Pass { program, rules, same_as, behind, of_cudnn, zeros: HashSet::new() };
    let body = pass.block(body, &HashMap::new());
    program.body = body;
}

/// What makes ops equal: name, attributes, operands, whether it is computed again, and the barriers that it is behind. What
/// is computed again is not equal to what it repeats, as barriers see to.
type Key = (Arc<str>, Arc<str>, Vec<Value>, bool, Vec<Value>);

/// Whether a scope is that of an op that is computed again in the backward pass.
fn is_repeated(scope: &str) -> bool {
    Direction::of_scope(scope) == Direction::Recompute
}

struct Pass<'p> {
    program: &'p mut Program,
    rules: &'p Rules,
    /// Values that are others.
    same_as: HashMap<Value, Value>,
    /// What must be there before a value is, though it is another that is there already.
    behind: HashMap<Value, Rc<[Value]>>,
    /// What calls of cuDNN write, laid out as it is transposed to.
    of_cudnn: HashSet<Value>,
    /// Values whose elements are all zero.
    zeros: HashSet<Value>,
}

impl Pass<'_> {
    fn find(&self, mut value: Value) -> Value {
        while let Some(&other) = self.same_as.get(&value) {
            value = other;
        }
        value
    }

    fn block(&mut self, block: Block, around: &HashMap<Key, Vec<Value>>) -> Block {
        let mut known = around.clone();
        let mut ops = Vec::with_capacity(block.ops.len());
        for mut op in block.ops {
            let types: Vec<TensorType> = op.operands.iter().map(|&value| self.program.ty(value).clone()).collect();
            for value in &op.operands {
                let more = self.behind.get(value).into_iter().flat_map(|behind| behind.iter());
                op.after.extend(more.filter(|value| !op.operands.contains(value)));
            }
            op.operands.iter_mut().for_each(|value| *value = self.find(*value));
            if let [result] = op.results[..]
                && self.moves_nothing(&op, &types)
            {
                self.same_as.insert(result, op.operands[0]);
                if !op.after.is_empty() {
                    self.behind.insert(result, op.after.into());
                }
                continue;
            }
            if &*op.name == "optimization_barrier" {
                // It moves nothing, but what uses its results may wait for all of its operands, each in a buffer.
                if self.rules.barriers_hold {
                    self.program.held.extend(&op.operands);
                    let behind: Rc<[Value]> = op.operands.iter().chain(&op.after).copied().collect();
                    self.behind.extend(op.results.iter().map(|&result| (result, behind.clone())));
                }
                self.same_as.extend(op.results.iter().copied().zip(op.operands));
                continue;
            }
            if let Some(body) = op.body.take() {
                let (body, moved) = self.loop_body(*body, &known);
                ops.extend(moved);
                op.body = Some(Box::new(body));
                ops.push(op);
                continue;
            }
            let (operands, again) = (op.operands.clone(), is_repeated(&op.scope));
            let key: Key = (op.name.clone(), op.attributes.clone(), operands, again, op.after.clone());
            if let Some(same) = known.get(&key) {
                self.same_as.extend(op.results.iter().copied().zip(same.iter().copied()));
                continue;
            }
            known.insert(key, op.results.clone());
            if self.makes_zeros(&op) {
                self.zeros.extend(&op.results);
            }
            if is_cudnn(&op) {
                self.of_cudnn.extend(&op.results);
            }
            if &*op.name == "dot_general" {
                self.product(&mut op, &types, &mut ops, &mut known);
            }
            ops.push(op);
        }
        let results: Vec<Value> = block.results.into_iter().map(|value| self.find(value)).collect();
        let ops = self.sums_of_scatters(ops, &results);
        Block { ops, results }
    }

    /// Adds to what a scatter adds to, in place of adding to its result, where nothing else reads that: `x + scatter(y, ..)`
    /// is `scatter(x + y, ..)`, and without an addition where `y` is zeros. So the gradient of an embedding is added to its
    /// sum before the embedding's own part of it is there (XLA's `AlgebraicSimplifier`).
    fn sums_of_scatters(&self, ops: Vec<Op>, results: &[Value]) -> Vec<Op> {
        let mut uses: HashMap<Value, usize> = HashMap::new();
        count_uses(&ops, results, &mut uses);
        let mut out: Vec<Op> = Vec::with_capacity(ops.len());
        for op in ops {
            let scatter = match (&*op.name, &op.operands[..]) {
                ("add", &[x, y]) => [(x, y), (y, x)].into_iter().find_map(|(other, sum)| {
                    let place = out.iter().rposition(|op| op.results.contains(&sum))?;
                    (adds_up(&out[place]) && uses.get(&sum) == Some(&1)).then_some((place, other))
                }),
                _ => None,
            };
            let Some((place, other)) = scatter else {
                out.push(op);
                continue;
            };
            let mut scatter = out.remove(place);
            let start = scatter.operands[0];
            let own = std::mem::replace(&mut scatter.results, op.results.clone());
            scatter.operands[0] = match self.zeros.contains(&start) {
                true => other,
                false => {
                    // The sum takes the scatter's own result as its name, which nothing reads any more.
                    let sum = Op { operands: vec![other, start], results: own.clone(), ..op };
                    out.push(sum);
                    own[0]
                }
            };
            out.push(scatter);
        }
        out
    }

    /// Whether every element of an op's result is zero.
    fn makes_zeros(&self, op: &Op) -> bool {
        match &*op.name {
            "constant" => ["dense<0.0>", "dense<0>"].iter().any(|zero| op.attributes.contains(zero)),
            "broadcast_in_dim" => op.operands.iter().all(|operand| self.zeros.contains(operand)),
            _ => false,
        }
    }

    /// Whether the result has its operand's elements in the same order.
    fn moves_nothing(&self, op: &Op, types: &[TensorType]) -> bool {
        let result = self.program.ty(op.results[0]);
        match &*op.name {
            "reshape" => true,
            "convert" => types[0].dtype == result.dtype,
            "broadcast_in_dim" => types[0].num_elements() == result.num_elements(),
            "transpose" if self.of_cudnn.contains(&op.operands[0]) => true,
            "transpose" => {
                let order = numbers(&op.attributes, "dims = [");
                let moved: Vec<usize> = order.into_iter().filter(|&dim| types[0].shape.get(dim) != Some(&1)).collect();
                moved.is_sorted()
            }
            _ => false,
        }
    }

    /// Operands in the type and order that a kernel for products takes, and the result back in the op's type.
    fn product(&mut self, op: &mut Op, types: &[TensorType], ops: &mut Vec<Op>, known: &mut HashMap<Key, Vec<Value>>) {
        let pair = |mark: &str| -> [Vec<usize>; 2] {
            let text = op.attributes.split_once(mark).map_or("", |(_, text)| text);
            [numbers(text, "["), numbers(text.split_once(" x ").map_or("", |(_, text)| text), "[")]
        };
        let (batching, contracting) = (pair("batching_dims = "), pair("contracting_dims = "));
        let result = self.program.ty(op.results[0]).clone();
        let narrow = types.len() == 2 && types.iter().all(|ty| ty.dtype == DType::BF16);
        // The kernels of the CPU for bfloat16 give float32, and take matrices whose rows are summed over.
        let sums_columns = batching[0].is_empty() && contracting[0].first() == Some(&0);
        let widen = self.rules.widens_products && narrow && (result.dtype == DType::BF16 || sums_columns);
        let mut make = |pass: &mut Self, name: &str, attributes: String, operand: Value, ty: TensorType| -> Value {
            let again = is_repeated(&op.scope);
            let key: Key = (name.into(), attributes.as_str().into(), vec![operand], again, op.after.clone());
            if let Some(same) = known.get(&key) {
                return same[0];
            }
            let value = pass.program.add(ty);
            ops.push(Op {
                name: name.into(),
                attributes: attributes.into(),
                operands: vec![operand],
                results: vec![value],
                scope: op.scope.clone(),
                line: op.line.clone(),
                body: None,
                after: op.after.clone(),
            });
            known.insert(key, vec![value]);
            value
        };
        for (side, ty) in types.iter().enumerate().take(2) {
            let mut dtype = ty.dtype;
            if widen {
                dtype = DType::F32;
                op.operands[side] =
                    make(self, "convert", "f32".into(), op.operands[side], TensorType { dtype, ..ty.clone() });
            }
            if batching[0].is_empty() && contracting[0].len() <= 1 {
                continue;
            }
            let (batch, sum) = (&batching[side], &contracting[side]);
            let free: Vec<usize> = (0..ty.rank()).filter(|dim| !batch.contains(dim) && !sum.contains(dim)).collect();
            let (free_first, sum_first) =
                ([&batch[..], &free[..], &sum[..]].concat(), [&batch[..], &sum[..], &free[..]].concat());
            let takes_transposed = self.rules.takes_transposed && ty.num_bytes() as u64 >= self.rules.small_result;
            let (order, turned) = if side == 0 { (free_first, sum_first) } else { (sum_first, free_first) };
            if !(order.is_sorted() || (takes_transposed && turned.is_sorted())) {
                let shape: Vec<usize> = order.iter().map(|&dim| ty.shape[dim]).collect();
                let ty = TensorType::new(dtype, shape);
                op.operands[side] = make(self, "transpose", format!("{order:?}"), op.operands[side], ty);
            }
        }
        if widen && result.dtype == DType::BF16 {
            let wide = self.program.add(TensorType { dtype: DType::F32, ..result });
            let narrowed = std::mem::replace(&mut op.results, vec![wide]);
            let mut product = op.clone();
            product.attributes = format!("{} -> f32", op.attributes).into();
            ops.push(product);
            (op.name, op.attributes, op.operands, op.results) = ("convert".into(), "bf16".into(), vec![wide], narrowed);
        }
    }

    /// The body of a loop, and what of it does not depend on the iteration, to stand before the loop.
    fn loop_body(&mut self, body: Loop, around: &HashMap<Key, Vec<Value>>) -> (Loop, Vec<Op>) {
        if !self.rules.hoists {
            let block = self.block(body.block, &HashMap::new());
            return (Loop { params: body.params, block }, Vec::new());
        }
        let block = self.block(body.block, around);
        let mut inside: HashSet<Value> = body.params.iter().copied().collect();
        let mut cheap: HashMap<Value, Op> = HashMap::new();
        let mut copies: HashMap<Value, Value> = HashMap::new();
        let (mut kept, mut moved) = (Vec::new(), Vec::new());
        for mut op in block.ops {
            let invariant = op.operands.iter().chain(&op.after).all(|value| !inside.contains(value))
                && !matches!(&*op.name, "while" | "rng_bit_generator" | "custom_call");
            if invariant && NOT_WORTH_MOVING.contains(&&*op.name) {
                cheap.extend(op.results.iter().map(|&result| (result, op.clone())));
                kept.push(op);
            } else if invariant {
                for value in &mut op.operands {
                    *value = self.copy_outside(*value, &cheap, &mut copies, &mut moved);
                }
                moved.push(op);
            } else {
                inside.extend(&op.results);
                kept.push(op);
            }
        }
        (Loop { params: body.params, block: Block { ops: kept, results: block.results } }, moved)
    }

    /// A value before the loop that is `value`, which the loop makes from nothing of its own.
    fn copy_outside(
        &mut self,
        value: Value,
        cheap: &HashMap<Value, Op>,
        copies: &mut HashMap<Value, Value>,
        moved: &mut Vec<Op>,
    ) -> Value {
        let Some(op) = cheap.get(&value) else { return value };
        if let Some(&copy) = copies.get(&value) {
            return copy;
        }
        let mut op = op.clone();
        for operand in &mut op.operands {
            *operand = self.copy_outside(*operand, cheap, copies, moved);
        }
        let copy = self.program.add(self.program.ty(value).clone());
        op.results = vec![copy];
        copies.insert(value, copy);
        moved.push(op);
        copy
    }
}

/// How often each value is used by these ops, those of loops' bodies among them, and as a result.
fn count_uses(ops: &[Op], results: &[Value], uses: &mut HashMap<Value, usize>) {
    let values = ops.iter().flat_map(|op| op.operands.iter().chain(&op.after)).chain(results);
    values.for_each(|&value| *uses.entry(value).or_default() += 1);
    for body in ops.iter().filter_map(|op| op.body.as_ref()) {
        count_uses(&body.block.ops, &body.block.results, uses);
    }
}

/// Whether an op is a scatter that adds to one tensor.
fn adds_up(op: &Op) -> bool {
    &*op.name == "scatter" && op.results.len() == 1 && op.attributes.contains("stablehlo.add")
}

/// Ops that a loop may as well do again: they only move elements, or make them from nothing.
const NOT_WORTH_MOVING: [&str; 6] = ["constant", "iota", "broadcast_in_dim", "slice", "transpose", "reverse"];

/// The list of numbers behind a mark.
fn numbers(text: &str, mark: &str) -> Vec<usize> {
    let list = text.split_once(mark).and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    list.split(", ").filter_map(|number| number.trim().parse().ok()).collect()
}
