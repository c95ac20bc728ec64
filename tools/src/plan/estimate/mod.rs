//! An estimate of a program's memory without a compiler: the program is simplified and fused as XLA does it, put in the
//! order in which XLA runs it, and the buffers that live at the same time are counted.
//!
//! It is an estimate because a compiler decides more than this knows. On the CPU and for NVIDIA's GPUs it was within 10 % of
//! what XLA plans for the example configs and variants of them (`docs/plan.md` has the figures); for other targets the rules
//! are the general ones.

mod fusion;
mod order;
mod program;
mod siblings;
mod simplify;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lmc_graph::TensorType;
use lmc_lower::Platform;

use fusion::{Kernel, kernels};
use program::{Op, Program, Value};

/// What a program needs, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    /// The arguments, which are given.
    pub(crate) arguments: u64,
    /// Results that do not take over an argument's memory.
    pub(crate) results: u64,
    /// The most that everything else takes at a time.
    pub(crate) temporaries: u64,
    /// What the temporaries are at that time, largest first.
    pub(crate) alive: Vec<Buffer>,
}

impl Estimate {
    /// All of it together.
    pub(crate) fn peak(&self) -> u64 {
        self.arguments + self.results + self.temporaries
    }
}

/// A buffer that is alive when most memory is in use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Buffer {
    /// The tensor.
    pub(crate) ty: TensorType,
    /// Its size.
    pub(crate) bytes: u64,
    /// The op that writes it.
    pub(crate) op: Arc<str>,
    /// The scope of that op in the model.
    pub(crate) scope: Arc<str>,
    /// The file and line that made the op.
    pub(crate) line: Arc<str>,
    /// Whether the buffer is made of arguments alone, such as a weight in another type.
    pub(crate) of_arguments: bool,
    /// Whether the optimizer reads it.
    pub(crate) for_optimizer: bool,
}

/// How a platform's compiler treats a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// Whether products of bfloat16 are products of float32, with operands converted before.
    widens_products: bool,
    /// Whether products take operands with what is summed over in front as well as behind.
    takes_transposed: bool,
    /// The order in which kernels run.
    order: Order,
    /// Whether barriers are still there when that is chosen.
    barriers_hold: bool,
    /// Functions that are written where several loops read them, rather than computed in each.
    slow_functions: &'static [&'static str],
    /// Bytes below which a function is computed in each loop, and a product's operand turned, all the same.
    small_result: u64,
    /// Whether a reduction takes what it sums up into its loop.
    fuses_into_reductions: bool,
    /// Whether loops over the same elements that read the same are one.
    fuses_siblings: bool,
    /// Whether a loop writes what it carries round over what it was given.
    carries_in_place: bool,
    /// Whether what a loop computes anew in every iteration moves out of it.
    hoists: bool,
    /// Bytes that a library wants beside each product.
    product_workspace: u64,
}

/// The order in which the kernels of a block run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// That of the program.
    Program,
    /// Each as soon as those that it reads of have run.
    BreadthFirst,
    /// That of the program, or the one that frees most at every step, whichever takes less.
    LeastMemory,
}

impl Rules {
    /// Those of a platform.
    pub(crate) fn of(platform: Platform) -> Rules {
        match platform {
            // XLA's CPU backend orders a program so that as much as possible may run side by side.
            Platform::Cpu => Rules {
                widens_products: true,
                takes_transposed: false,
                order: Order::BreadthFirst,
                barriers_hold: false,
                slow_functions: &SLOW_FUNCTIONS,
                small_result: 0,
                fuses_into_reductions: false,
                fuses_siblings: false,
                carries_in_place: false,
                hoists: true,
                product_workspace: 0,
            },
            // Its GPU backend takes the best of several orders for memory, and stays with it where nothing is told to hide
            // latencies (`device::compile_options`). cuBLAS gets 4 MiB once XLA has chosen its algorithm.
            Platform::Cuda(_) => Rules {
                widens_products: false,
                takes_transposed: true,
                order: Order::LeastMemory,
                barriers_hold: true,
                slow_functions: &SLOW_ON_GPUS,
                // What starting a kernel costs decides.
                small_result: 8 << 20,
                fuses_into_reductions: true,
                fuses_siblings: true,
                carries_in_place: true,
                hoists: false,
                product_workspace: 4 << 20,
            },
            Platform::Generic => Rules {
                widens_products: false,
                takes_transposed: false,
                order: Order::Program,
                barriers_hold: false,
                slow_functions: &SLOW_FUNCTIONS,
                small_result: 0,
                fuses_into_reductions: false,
                fuses_siblings: false,
                carries_in_place: false,
                hoists: true,
                product_workspace: 0,
            },
        }
    }
}

/// Functions that cost many times an addition.
const SLOW_FUNCTIONS: [&str; 14] = [
    "exponential",
    "exponential_minus_one",
    "log",
    "log_plus_one",
    "divide",
    "tanh",
    "power",
    "rsqrt",
    "sqrt",
    "sine",
    "cosine",
    "logistic",
    "atan2",
    "remainder",
];

/// Those of them that XLA finds slow on a GPU, where f32 has instructions for the others.
const SLOW_ON_GPUS: [&str; 9] =
    ["exponential_minus_one", "log", "log_plus_one", "tanh", "power", "sine", "cosine", "atan2", "remainder"];

/// The memory of a program that `lower` wrote.
///
/// # Errors
/// The line of the text that is not understood.
pub(crate) fn estimate(text: &str, rules: &Rules) -> Result<Estimate, String> {
    let mut program = Program::parse(text)?;
    simplify::simplify(&mut program, rules);
    let results = &program.body.results;
    let donated: HashSet<Value> =
        program.params.iter().filter_map(|param| results.get(param.donated_to?).copied()).collect();
    let arguments = program.params.iter().map(|param| program.bytes(param.value)).sum();
    let aliased: HashSet<usize> = program.params.iter().filter_map(|param| param.donated_to).collect();
    let others = results.iter().enumerate().filter(|(index, _)| !aliased.contains(index));
    let results_bytes = others.clone().map(|(_, &value)| program.bytes(value)).sum();
    let elsewhere: HashSet<Value> = donated.into_iter().chain(others.map(|(_, &value)| value)).collect();
    let simulation = Simulation { program: &program, rules, elsewhere };
    let (temporaries, mut alive) = simulation.peak(&program.body.ops, &[], results);
    alive.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.scope.cmp(&b.scope)));
    Ok(Estimate { arguments, results: results_bytes, temporaries, alive })
}

struct Simulation<'p> {
    program: &'p Program,
    rules: &'p Rules,
    /// Results of the program, whose memory is counted elsewhere.
    elsewhere: HashSet<Value>,
}

/// The buffers of a block while it runs.
#[derive(Default)]
struct Alive<'p> {
    buffers: HashMap<Value, (u64, &'p Op)>,
    total: u64,
}

impl<'p> Alive<'p> {
    fn add(&mut self, value: Value, bytes: u64, op: &'p Op) {
        self.buffers.insert(value, (bytes, op));
        self.total += bytes;
    }

    fn remove(&mut self, value: Value) {
        if let Some((bytes, _)) = self.buffers.remove(&value) {
            self.total -= bytes;
        }
    }
}

/// A block that is to run.
struct Running<'p> {
    kernels: Vec<Kernel<'p>>,
    /// What each takes beside its results while it runs, and what that is.
    inside: Vec<(u64, Vec<Buffer>)>,
    params: &'p [Value],
    results: &'p [Value],
}

impl Simulation<'_> {
    /// The most that the buffers of a block take at a time, and what they are. `params` are what a loop's body is given.
    fn peak(&self, ops: &[Op], params: &[Value], results: &[Value]) -> (u64, Vec<Buffer>) {
        let kernels = kernels(self.program, self.rules, ops, results);
        let inside = kernels.iter().map(|kernel| match kernel.only() {
            Some(Op { body: Some(body), .. }) => self.peak(&body.block.ops, &body.params, &body.block.results),
            Some(op) => (self.workspace(op), Vec::new()),
            None => (0, Vec::new()),
        });
        let block = Running { inside: inside.collect(), kernels, params, results };
        let in_order = || (0..block.kernels.len()).collect::<Vec<usize>>();
        let orders = match self.rules.order {
            Order::Program => vec![in_order()],
            Order::BreadthFirst => vec![order::breadth_first(&block.kernels)],
            Order::LeastMemory => vec![in_order(), self.freeing_most(&block)],
        };
        let peaks = orders.iter().map(|order| self.peak_in_order(&block, order));
        peaks.min_by_key(|(bytes, _)| *bytes).expect("there is an order")
    }

    /// The order that frees most at every step.
    fn freeing_most(&self, block: &Running<'_>) -> Vec<usize> {
        let over = self.written_over(block);
        let is_elsewhere = |value: Value| self.elsewhere.contains(&value) || over.contains_key(&value);
        let bytes = |value: Value| if is_elsewhere(value) { 0 } else { self.program.bytes(value) };
        let wants: Vec<u64> = block.inside.iter().map(|(bytes, _)| *bytes).collect();
        order::freeing_most(&block.kernels, block.results, &wants, bytes)
    }

    /// What is written over what a loop's body was given, in one step or in several: of each such value the one before
    /// it, which is what was given or is itself written over that.
    fn written_over(&self, block: &Running<'_>) -> HashMap<Value, Value> {
        let mut over = HashMap::new();
        if !self.rules.carries_in_place {
            return over;
        }
        let mut readers: HashMap<Value, usize> = HashMap::new();
        let mut makers: HashMap<Value, &Kernel<'_>> = HashMap::new();
        for kernel in &block.kernels {
            kernel.reads.iter().for_each(|&value| *readers.entry(value).or_default() += 1);
            makers.extend(kernel.results().map(|result| (result, kernel)));
        }
        for (&param, &result) in block.params.iter().zip(block.results) {
            let (mut steps, mut value) = (Vec::new(), result);
            while let Some(kernel) = makers.get(&value).filter(|kernel| writes_in_place(kernel)) {
                if kernel.reads.contains(&param) {
                    steps.push((value, param));
                    over.extend(steps);
                    break;
                }
                // What only this reads, of the same size.
                let bytes = self.program.bytes(value);
                let is_before = |before: &&Value| {
                    readers.get(before) == Some(&1)
                        && makers.contains_key(before)
                        && self.program.bytes(**before) == bytes
                };
                let mut before = kernel.reads.iter().filter(is_before);
                let (Some(&only), None) = (before.next(), before.next()) else { break };
                steps.push((value, only));
                value = only;
            }
        }
        over
    }

    /// The same in one order.
    fn peak_in_order(&self, block: &Running<'_>, order: &[usize]) -> (u64, Vec<Buffer>) {
        let Running { kernels, inside, results, .. } = block;
        let over = self.written_over(block);
        let mut last: HashMap<Value, usize> = HashMap::new();
        for (time, &index) in order.iter().enumerate() {
            last.extend(kernels[index].reads.iter().map(|&value| (value, time)));
        }
        last.extend(results.iter().map(|&value| (value, usize::MAX)));
        let mut alive = Alive::default();
        let (mut most, mut snapshot) = (0, Vec::new());
        for (time, &index) in order.iter().enumerate() {
            let (kernel, (wanted, within)) = (&kernels[index], &inside[index]);
            let Kernel { ops, reads, waits: _ } = kernel;
            let mut dying: Vec<Value> = reads
                .iter()
                .copied()
                .filter(|value| last.get(value) == Some(&time) && alive.buffers.contains_key(value))
                .collect();
            if let Some(op @ Op { body: Some(_), .. }) = kernel.only() {
                // What goes round takes over the memory of what it starts from.
                for (&start, &result) in op.operands.iter().zip(&op.results) {
                    if let Some(place) = dying.iter().position(|&value| value == start) {
                        alive.remove(dying.swap_remove(place));
                    }
                    alive.add(result, self.program.bytes(result), op);
                }
            } else {
                let results = ops.iter().flat_map(|&op| op.results.iter().map(move |&result| (op, result)));
                for (op, result) in results {
                    let is_in_place = over.get(&result).is_some_and(|before| {
                        let taken = alive.buffers.get(before).is_some_and(|(bytes, _)| *bytes > 0);
                        last.get(before) == Some(&time) && !taken
                    });
                    let is_elsewhere = is_in_place || self.elsewhere.contains(&result);
                    let bytes = if is_elsewhere { 0 } else { self.program.bytes(result) };
                    let same = |value: &Value| alive.buffers.get(value).is_some_and(|(size, _)| *size == bytes);
                    if writes_in_place(kernel)
                        && let Some(place) = dying.iter().position(same)
                    {
                        alive.remove(dying.swap_remove(place));
                    }
                    alive.add(result, bytes, op);
                }
            }
            if alive.total + wanted > most {
                most = alive.total + wanted;
                snapshot = self.snapshot(&alive, kernels, within);
            }
            let unread = kernel.results().filter(|result| last.get(result).is_none_or(|&until| until <= time));
            dying.into_iter().chain(unread).for_each(|value| alive.remove(value));
        }
        (most, snapshot)
    }

    /// What an op needs while it runs: a long sum is first made of parts, and libraries have memory of their own.
    fn workspace(&self, op: &Op) -> u64 {
        match (&*op.name, &op.operands[..]) {
            ("reduce", [operand, ..]) => self.program.bytes(*operand) / PARTIAL_SUM,
            ("dot_general", _) => self.rules.product_workspace,
            ("custom_call", _) if is_cudnn(op) => self.cudnn_workspace(op),
            _ => 0,
        }
    }

    /// What a call of cuDNN's attention wants beside its results. Of the derivative, whose results are the gradients of
    /// query, key and value, that is sums of the query's gradient and one number a row in f32, and where several heads
    /// share a key the gradients of key and value for each of them. Each place for a document counts as a row of the batch,
    /// as it does in the log-sum-exp, its fourth operand. As plans of cuDNN 9.24 for compute capability 9.0 say.
    fn cudnn_workspace(&self, op: &Op) -> u64 {
        // Of operands the types are those before they were reshaped.
        let ([query, key, value, _], [_, _, _, log_sum_exp, ..]) = (&op.results[..], &op.operands[..]) else {
            return 0;
        };
        let [query, key, value, log_sum_exp] = [query, key, value, log_sum_exp].map(|&x| self.program.ty(x));
        let ([_, n, t, h], [_, k, s, _], [.., v]) = (dims(query), dims(key), dims(value));
        let b = log_sum_exp.num_elements() as u64 / (n * t).max(1);
        let expanded = if n == k { 0 } else { query.dtype.size() as u64 * b * s * n * (h + v) };
        4 * b * t * n * (h + 1) + expanded
    }

    fn snapshot(&self, alive: &Alive<'_>, kernels: &[Kernel<'_>], inside: &[Buffer]) -> Vec<Buffer> {
        let params: HashSet<Value> = self.program.params.iter().map(|param| param.value).collect();
        let reads: HashMap<Value, &Kernel<'_>> =
            kernels.iter().flat_map(|kernel| kernel.results().map(move |result| (result, kernel))).collect();
        let for_optimizer: HashSet<Value> = kernels
            .iter()
            .filter(|kernel| kernel.ops.iter().any(|op| op.scope.split('.').next() == Some("optimizer")))
            .flat_map(|kernel| kernel.reads.iter().copied())
            .collect();
        let own = alive.buffers.iter().filter(|(_, (bytes, _))| *bytes > 0).map(|(&value, &(bytes, op))| Buffer {
            ty: self.program.ty(value).clone(),
            bytes,
            op: op.name.clone(),
            scope: op.scope.clone(),
            line: op.line.clone(),
            of_arguments: reads.get(&value).is_some_and(|kernel| kernel.reads.iter().all(|read| params.contains(read))),
            for_optimizer: for_optimizer.contains(&value),
        });
        own.chain(inside.iter().cloned()).collect()
    }
}

/// Whether an op is a call of cuDNN's attention.
fn is_cudnn(op: &Op) -> bool {
    &*op.name == "custom_call" && op.attributes.contains("@__cudnn$fmha")
}

/// The sizes of a result of attention.
fn dims(ty: &TensorType) -> [u64; 4] {
    std::array::from_fn(|d| ty.shape.get(d).map_or(1, |&size| size as u64))
}

/// Elements of a long sum that are added up first.
const PARTIAL_SUM: u64 = 32;

/// Whether a kernel may write its result over an operand: it reads each element once, where it writes, and for one result.
fn writes_in_place(kernel: &Kernel<'_>) -> bool {
    kernel.only().is_some_and(is_by_element)
}

/// Whether an op makes each element of its result of the operands' elements in the same place.
fn is_by_element(op: &Op) -> bool {
    const ELSEWHERE: [&str; 10] = [
        "dot_general",
        "transpose",
        "gather",
        "reduce",
        "concatenate",
        "pad",
        "broadcast_in_dim",
        "slice",
        "iota",
        "custom_call",
    ];
    !ELSEWHERE.contains(&&*op.name)
}
