//! Which ops of a block get a buffer, and what each of them reads: the others are computed where they are needed.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::program::{Op, Program, Value};
use super::{Rules, siblings};

/// What writes buffers.
pub(super) struct Kernel<'p> {
    /// The ops whose results are written: one, or several that one loop computes.
    pub(super) ops: Vec<&'p Op>,
    /// The buffers it reads, through the ops that are fused into it; ascending.
    pub(super) reads: Vec<Value>,
    /// Those that it waits for without reading them; ascending.
    pub(super) waits: Vec<Value>,
}

impl<'p> Kernel<'p> {
    /// The op, where it is one.
    pub(super) fn only(&self) -> Option<&'p Op> {
        match self.ops[..] {
            [op] => Some(op),
            _ => None,
        }
    }

    /// The buffers it writes.
    pub(super) fn results(&self) -> impl Iterator<Item = Value> {
        self.ops.iter().flat_map(|op| op.results.iter().copied())
    }
}

/// The ops of `ops` with buffers, in order; `results` are what the block returns.
pub(super) fn kernels<'p>(program: &'p Program, rules: &'p Rules, ops: &'p [Op], results: &[Value]) -> Vec<Kernel<'p>> {
    let inputs: Vec<Vec<Value>> = ops.iter().map(inputs).collect();
    // Only what leads to a result.
    let mut needed: HashSet<Value> = results.iter().copied().collect();
    let mut alive = vec![false; ops.len()];
    for (index, op) in ops.iter().enumerate().rev() {
        if op.results.iter().any(|result| needed.contains(result)) {
            alive[index] = true;
            needed.extend(&inputs[index]);
        }
    }
    let alive: Vec<usize> = (0..ops.len()).filter(|&index| alive[index]).collect();
    let mut users: HashMap<Value, Vec<usize>> = HashMap::new();
    let mut producer: HashMap<Value, usize> = HashMap::new();
    for &index in &alive {
        let mut seen = HashSet::new();
        for &value in inputs[index].iter().filter(|value| seen.insert(**value)) {
            users.entry(value).or_default().push(index);
        }
        producer.extend(ops[index].results.iter().map(|&result| (result, index)));
    }
    let returned: HashSet<Value> = results.iter().copied().collect();
    let mut fusion =
        Fusion { program, rules, ops, inputs, producer, written: vec![false; ops.len()], needs: HashMap::new() };
    for &index in alive.iter().rev() {
        let no_users = Vec::new();
        let users = ops[index].results.first().and_then(|result| users.get(result)).unwrap_or(&no_users);
        fusion.written[index] = fusion.is_written(index, users, &returned);
    }
    let written: Vec<usize> = alive.into_iter().filter(|&index| fusion.written[index]).collect();
    let kernels = written
        .into_iter()
        .map(|index| {
            let needs = fusion.needs(index);
            let [reads, waits] = [&needs.reads, &needs.waits].map(|values| {
                let mut values: Vec<Value> = values.iter().copied().collect();
                values.sort_unstable();
                values
            });
            Kernel { ops: vec![&ops[index]], reads, waits }
        })
        .collect();
    if rules.fuses_siblings { siblings::together(program, kernels) } else { kernels }
}

/// What an op reads, captured by its loop or not.
fn inputs(op: &Op) -> Vec<Value> {
    let mut inputs = op.operands.clone();
    if let Some(body) = &op.body {
        let mut inside: HashSet<Value> = body.params.iter().copied().collect();
        captures(&body.block.ops, &body.block.results, &mut inside, &mut inputs);
    }
    inputs
}

fn captures(ops: &[Op], results: &[Value], inside: &mut HashSet<Value>, found: &mut Vec<Value>) {
    for op in ops {
        found.extend(op.operands.iter().filter(|value| !inside.contains(value)));
        if let Some(body) = &op.body {
            inside.extend(&body.params);
            captures(&body.block.ops, &body.block.results, inside, found);
        }
        inside.extend(&op.results);
    }
    found.extend(results.iter().filter(|value| !inside.contains(value)));
}

/// Bytes of what is no tensor to speak of.
const SCALAR: u64 = 8;

/// A reduction of at most so many elements to one is done within another loop.
const SHORT_REDUCTION: u64 = 32;

struct Fusion<'p> {
    program: &'p Program,
    rules: &'p Rules,
    ops: &'p [Op],
    inputs: Vec<Vec<Value>>,
    producer: HashMap<Value, usize>,
    written: Vec<bool>,
    needs: HashMap<usize, Rc<Needs>>,
}

/// What computing an op takes.
#[derive(Default)]
struct Needs {
    /// The buffers that it reads.
    reads: HashSet<Value>,
    /// Those that it waits for.
    waits: HashSet<Value>,
}

impl Fusion<'_> {
    /// Whether an op has a buffer, its users known.
    fn is_written(&self, index: usize, users: &[usize], returned: &HashSet<Value>) -> bool {
        let op = &self.ops[index];
        if self.is_heavy(op) {
            return true;
        }
        let [result] = op.results[..] else { return true };
        let bytes = self.program.bytes(result);
        if &*op.name == "constant" && bytes <= SHORT_REDUCTION {
            return false;
        }
        if returned.contains(&result) || self.program.held.contains(&result) || &*op.name == "constant" {
            return true;
        }
        // Kernels that do not take another op into their loop.
        let takes_in = |op: &Op| self.rules.fuses_into_reductions && &*op.name == "reduce";
        if users.iter().map(|&user| &self.ops[user]).any(|user| self.is_heavy(user) && !takes_in(user)) {
            return true;
        }
        if makes_elements(op) || (&*op.name == "broadcast_in_dim" && self.is_scalar(op.operands[0])) {
            return false;
        }
        // What takes long is not done twice: for several users, or for each element of a larger tensor.
        let repeated = |&user: &usize| {
            &*self.ops[user].name == "broadcast_in_dim"
                && self.ops[user].results.iter().any(|&larger| self.program.bytes(larger) > bytes)
        };
        self.takes_long(op) && (users.len() > 1 || users.iter().any(repeated))
    }

    /// Whether an op is a kernel of its own.
    fn is_heavy(&self, op: &Op) -> bool {
        match &*op.name {
            "reduce" => {
                let bytes = |values: &[Value]| values.iter().map(|&value| self.program.bytes(value)).sum::<u64>();
                self.program.bytes(op.operands[0]) > SHORT_REDUCTION * bytes(&op.results)
            }
            "dot_general" | "scatter" | "while" | "sort" | "rng_bit_generator" | "custom_call" | "if" => true,
            _ => false,
        }
    }

    /// Whether an op takes so long that it is not done twice.
    fn takes_long(&self, op: &Op) -> bool {
        let is_sum = matches!(&*op.name, "reduce" | "argmax");
        let is_large = || op.results.iter().any(|&result| self.program.bytes(result) >= self.rules.small_result);
        is_sum || (self.rules.slow_functions.contains(&&*op.name) && is_large())
    }

    fn is_scalar(&self, value: Value) -> bool {
        self.program.bytes(value) <= SCALAR
    }

    /// What computing an op takes. An op with a buffer that is as easily computed from its one operand is not read by
    /// other loops.
    fn needs(&mut self, index: usize) -> Rc<Needs> {
        if let Some(needs) = self.needs.get(&index) {
            return needs.clone();
        }
        let mut needs = Needs::default();
        let op = &self.ops[index];
        let heavy = self.is_heavy(op) && !(self.rules.fuses_into_reductions && &*op.name == "reduce");
        for value in self.inputs[index].clone() {
            match self.producer.get(&value) {
                Some(&producer) if !self.written[producer] || (!heavy && self.is_computed_again(producer)) => {
                    let others = self.needs(producer);
                    needs.reads.extend(&others.reads);
                    needs.waits.extend(&others.waits);
                }
                Some(_) | None => _ = needs.reads.insert(value),
            }
        }
        for &value in &op.after {
            match self.producer.get(&value) {
                Some(&producer) if !self.written[producer] => needs.waits.extend(&self.needs(producer).reads),
                Some(_) | None => _ = needs.waits.insert(value),
            }
        }
        let needs = Rc::new(needs);
        self.needs.insert(index, needs.clone());
        needs
    }

    fn is_computed_again(&self, index: usize) -> bool {
        let op = &self.ops[index];
        let held = op.results.iter().any(|result| self.program.held.contains(result));
        if held || self.is_heavy(op) || self.takes_long(op) || NEVER_AGAIN.contains(&&*op.name) {
            return false;
        }
        let made_of = |value: &&Value| {
            let made = self.producer.get(value).is_some_and(|&index| makes_elements(&self.ops[index]));
            !self.is_scalar(**value) && !made
        };
        op.operands.iter().filter(made_of).count() <= 1
    }
}

/// Ops whose results are read rather than computed again, though they have one operand.
const NEVER_AGAIN: [&str; 6] = ["gather", "constant", "concatenate", "pad", "reduce", "dynamic_update_slice"];

fn makes_elements(op: &Op) -> bool {
    matches!(&*op.name, "constant" | "iota")
}
