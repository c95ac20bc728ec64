//! What instructions cost, counted as XLA's own cost analysis counts (`HloCostAnalysis`).
//!
//! - A product is two operations for every element of the result and every one that is summed over.
//! - Every other op on elements, comparisons, conversions and selections included, is one operation an element of the
//!   result; roots, exponentials, logarithms, trigonometric functions and powers are not operations but
//!   *transcendentals*, which are counted apart.
//! - A reduction runs its reducer once for every element that is gone.
//! - What only moves data (reshapes, transposes, broadcasts, slices, gathers, copies) is no operation.
//! - What is inside of a fusion counts as often as it stands there: what is computed again in two fusions counts twice.
//!
//! XLA counts the body of a loop once, however often it runs; here both counts are kept. It counts nothing for a
//! library call; here products by a library, those of a fused attention among them, count as products.

use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
use lmc_lower::report::fused_attention_flops;

use super::{Computation, Instruction, Module, Shape};

/// What an instruction costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstructionCost {
    /// The index of its computation.
    pub computation: usize,
    /// Its index there.
    pub instruction: usize,
    /// The index, among all costs, of the instruction that calls its computation; `None` for those of the entry.
    pub caller: Option<usize>,
    /// Operations each time it runs.
    pub flops: f64,
    /// Transcendental functions each time it runs.
    pub transcendentals: f64,
    /// Bytes read and written each time it runs; 0 inside of a fusion, which keeps them from memory.
    pub bytes: f64,
    /// How often it runs in an execution. Of a loop whose length XLA does not know, one iteration.
    pub times: f64,
    /// How often XLA's cost analysis counts it: the body of a loop once, a library call not at all.
    pub xla_times: f64,
}

/// What every instruction of a program costs that runs, those of a computation that is called twice twice.
pub fn instruction_costs(module: &Module) -> Vec<InstructionCost> {
    let mut costs = Vec::new();
    let frame = Frame { times: 1.0, xla_times: 1.0, fused: false, caller: None };
    visit(module, module.entry, frame, &mut costs);
    costs
}

#[derive(Clone, Copy)]
struct Frame {
    times: f64,
    xla_times: f64,
    fused: bool,
    caller: Option<usize>,
}

fn visit(module: &Module, index: usize, frame: Frame, costs: &mut Vec<InstructionCost>) {
    let computation = &module.computations[index];
    let callee = |instruction: &Instruction, attribute: &str| {
        instruction.called(attribute).and_then(|name| module.index.get(name).copied())
    };
    for (at, instruction) in computation.instructions.iter().enumerate() {
        let own = own_cost(module, computation, instruction);
        let called = Frame { caller: Some(costs.len()), ..frame };
        let is_library = instruction.opcode == "custom-call";
        costs.push(InstructionCost {
            computation: index,
            instruction: at,
            caller: frame.caller,
            flops: own.0,
            transcendentals: own.1,
            bytes: if frame.fused { 0.0 } else { bytes(module, computation, instruction) },
            times: frame.times,
            xla_times: if is_library { 0.0 } else { frame.xla_times },
        });
        match instruction.opcode.as_str() {
            "fusion" => {
                if let Some(inner) = callee(instruction, "calls") {
                    visit(module, inner, Frame { fused: true, ..called }, costs);
                }
            }
            "call" | "async-start" => {
                let inner = callee(instruction, "to_apply").or_else(|| callee(instruction, "calls"));
                if let Some(inner) = inner {
                    visit(module, inner, called, costs);
                }
            }
            "while" => {
                let count = module.trip_count(instruction).unwrap_or(1) as f64;
                for part in ["condition", "body"] {
                    if let Some(inner) = callee(instruction, part) {
                        visit(module, inner, Frame { times: frame.times * count, ..called }, costs);
                    }
                }
            }
            // XLA counts the dearest branch.
            "conditional" => dearest_branch(module, instruction, called, costs),
            _ => {}
        }
    }
}

fn dearest_branch(module: &Module, instruction: &Instruction, frame: Frame, costs: &mut Vec<InstructionCost>) {
    let names = match instruction.attribute("branch_computations") {
        Some(list) => list.trim_matches(['{', '}']).split(',').map(str::trim).collect(),
        None => ["true_computation", "false_computation"]
            .iter()
            .filter_map(|part| instruction.called(part))
            .collect::<Vec<_>>(),
    };
    let start = costs.len();
    let mut dearest: Option<(f64, Vec<InstructionCost>)> = None;
    for name in names {
        let Some(&index) = module.index.get(name.trim_start_matches('%')) else { continue };
        visit(module, index, frame, costs);
        let branch = costs.split_off(start);
        let flops = branch.iter().map(|cost| cost.flops * cost.times).sum::<f64>();
        if dearest.as_ref().is_none_or(|(most, _)| flops > *most) {
            dearest = Some((flops, branch));
        }
    }
    costs.extend(dearest.map(|(_, branch)| branch).unwrap_or_default());
}

/// Operations and transcendentals of an instruction, without those of what it calls for its sake alone.
fn own_cost(module: &Module, computation: &Computation, instruction: &Instruction) -> (f64, f64) {
    let elements = instruction.shape.elements() as f64;
    let operand = |index: usize| instruction.operands.get(index).and_then(|name| computation.instruction(name));
    let operand_elements = |index: usize| operand(index).map_or(0.0, |operand| operand.shape.elements() as f64);
    // What the reducer costs each time.
    let reducer = || {
        let inner = instruction.called("to_apply").and_then(|name| module.computation(name));
        inner.map_or((0.0, 0.0), |inner| {
            let each = inner.instructions.iter().map(|instruction| own_cost(module, inner, instruction));
            each.fold((0.0, 0.0), |sum, cost| (sum.0 + cost.0, sum.1 + cost.1))
        })
    };
    let scaled = |(flops, transcendentals): (f64, f64), count: f64| (flops * count, transcendentals * count);
    match instruction.opcode.as_str() {
        "dot" => {
            let summed = instruction.numbers("lhs_contracting_dims");
            let size = |dimension: &u64| match operand(0).map(|lhs| &lhs.shape) {
                Some(Shape::Array(_, sizes)) => sizes.get(*dimension as usize).map_or(1.0, |size| *size as f64),
                Some(Shape::Tuple(_)) | None => 1.0,
            };
            (2.0 * elements * summed.iter().map(size).product::<f64>(), 0.0)
        }
        "custom-call" => (library_product(computation, instruction) + library_attention(computation, instruction), 0.0),
        "reduce" => {
            // Several values are reduced together by one reducer.
            let results = match &instruction.shape {
                Shape::Tuple(parts) => parts.first().map_or(0.0, |part| part.elements() as f64),
                Shape::Array(..) => elements,
            };
            scaled(reducer(), (operand_elements(0) - results).max(0.0))
        }
        "reduce-window" => {
            let window = instruction.attribute("window").unwrap_or_default();
            let size = window.split("size=").nth(1).and_then(|rest| rest.split([' ', '}']).next()).unwrap_or("1");
            let count: f64 = size.split('x').filter_map(|size| size.parse::<f64>().ok()).product();
            scaled(reducer(), (count - 1.0) * elements)
        }
        "scatter" => {
            let updates = instruction.operands.len().saturating_sub(1);
            scaled(reducer(), operand_elements(updates))
        }
        "sort" => {
            let count = operand_elements(0);
            (count * count.max(1.0).log2().ceil(), 0.0)
        }
        opcode if TRANSCENDENTAL.contains(&opcode) => (0.0, elements),
        opcode if ELEMENTWISE.contains(&opcode) => (elements, 0.0),
        _ => (0.0, 0.0),
    }
}

const TRANSCENDENTAL: [&str; 14] = [
    "cbrt",
    "cosine",
    "erf",
    "exponential",
    "exponential-minus-one",
    "log",
    "log-plus-one",
    "logistic",
    "power",
    "rsqrt",
    "sine",
    "sqrt",
    "tan",
    "tanh",
];

const ELEMENTWISE: [&str; 32] = [
    "abs",
    "add",
    "and",
    "atan2",
    "bitcast-convert",
    "ceil",
    "clamp",
    "compare",
    "convert",
    "count-leading-zeros",
    "divide",
    "floor",
    "imag",
    "is-finite",
    "maximum",
    "minimum",
    "multiply",
    "negate",
    "not",
    "or",
    "popcnt",
    "real",
    "reduce-precision",
    "remainder",
    "round-nearest-afz",
    "round-nearest-even",
    "select",
    "shift-left",
    "shift-right-arithmetic",
    "shift-right-logical",
    "sign",
    "subtract",
];

/// Operations of a product by a library, 0 for other library calls: of `[.., M, K]` and `[.., K, N]`, in either order,
/// to `[.., M, N]`, so that `K` is the size of the left one over the size of the result without `N`.
fn library_product(computation: &Computation, instruction: &Instruction) -> f64 {
    let target = instruction.custom_call_target().unwrap_or_default();
    let is_product = target == "lmc.dot_general" || ["matmul", "gemm"].iter().any(|word| target.contains(word));
    // Some return a workspace besides.
    let result = match &instruction.shape {
        Shape::Tuple(parts) => parts.first(),
        shape @ Shape::Array(..) => Some(shape),
    };
    let lhs = instruction.operands.first().and_then(|name| computation.instruction(name));
    match (result, lhs) {
        (Some(result @ Shape::Array(_, sizes)), Some(lhs)) if is_product && result.elements() > 0 => {
            let columns = sizes.last().copied().unwrap_or(1) as f64;
            2.0 * lhs.shape.elements() as f64 * columns
        }
        (Some(Shape::Array(..) | Shape::Tuple(_)) | None, Some(_) | None) => 0.0,
    }
}

/// Operations of the products of an attention by cuDNN or by lmc's kernel, 0 for other library calls.
fn library_attention(computation: &Computation, instruction: &Instruction) -> f64 {
    let target = instruction.custom_call_target().unwrap_or_default();
    let config = instruction.attribute("backend_config").unwrap_or_default();
    let number = |key: &str| -> Option<usize> {
        let (_, rest) = config.split_once(key)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|&number| number > 0)
    };
    let (is_backward, is_causal, sliding_window) = match target {
        "__cudnn$fmhaSoftmax" | "__cudnn$fmhaSoftmaxBackward" => {
            (target.ends_with("Backward"), config.contains("CAUSAL\""), number("\"sliding_window_length\":"))
        }
        "lmc.scaled_dot_product_attention" | "lmc.scaled_dot_product_attention_backward" => {
            (target.ends_with("_backward"), config.contains("causal = true"), number("sliding_window = "))
        }
        _ => return 0.0,
    };
    let sizes = |index: usize| match computation.instruction(instruction.operands.get(index)?).map(|it| &it.shape)? {
        Shape::Array(_, sizes) => Some(sizes.iter().map(|&size| size as usize).collect::<Vec<_>>()),
        Shape::Tuple(_) => None,
    };
    // `[B, T, N, H]` and `[B, S, K, V]`.
    let (Some(query), Some(value)) = (sizes(0), sizes(2)) else { return 0.0 };
    if query.len() != 4 || value.len() != 4 {
        return 0.0;
    }
    let mask = if is_causal { AttentionMask::Causal } else { AttentionMask::Full };
    let op = ScaledDotProductAttention { scale: 1.0, mask, sliding_window, rows: AttentionRows::Whole };
    fused_attention_flops(&op, is_backward, [&query, &value]) as f64
}

/// Bytes that an instruction reads and writes. What is a view or has no kernel of its own moves nothing, and of what is
/// only sliced or updated in part, that part counts.
fn bytes(module: &Module, computation: &Computation, instruction: &Instruction) -> f64 {
    let size = |name: &String| computation.instruction(name).map_or(0, |operand| operand.shape.bytes()) as f64;
    let result = instruction.shape.bytes() as f64;
    match instruction.opcode.as_str() {
        "parameter" | "constant" | "tuple" | "get-tuple-element" | "bitcast" | "while" | "conditional" | "call"
        | "after-all" | "opt-barrier" => 0.0,
        "fusion" => match instruction.called("calls").and_then(|name| module.computation(name)) {
            Some(inner) => fusion_bytes(inner, instruction),
            None => result + instruction.operands.iter().map(size).sum::<f64>(),
        },
        "dynamic-slice" | "slice" | "gather" => 2.0 * result,
        "dynamic-update-slice" => 2.0 * instruction.operands.get(1).map_or(0.0, size),
        _ => result + instruction.operands.iter().map(size).sum::<f64>(),
    }
}

/// Bytes that a fusion reads of each parameter, and writes.
fn fusion_bytes(inner: &Computation, fusion: &Instruction) -> f64 {
    let read = inner.instructions.iter().filter(|instruction| instruction.opcode == "parameter").map(|parameter| {
        let users = inner.instructions.iter().filter(|user| user.operands.contains(&parameter.name));
        let mut part = 0;
        for user in users {
            let is_first = user.operands.first() == Some(&parameter.name);
            match user.opcode.as_str() {
                "dynamic-slice" | "slice" | "gather" if is_first => part += user.shape.bytes(),
                // It is written in place.
                "dynamic-update-slice" if is_first => {}
                _ => return parameter.shape.bytes() as f64,
            }
        }
        part as f64
    });
    let read: f64 = read.sum();
    let root = &inner.instructions[inner.root];
    let written = match root.opcode.as_str() {
        "dynamic-update-slice" => {
            let update = root.operands.get(1).and_then(|name| inner.instruction(name));
            update.map_or(fusion.shape.bytes(), |update| update.shape.bytes())
        }
        _ => fusion.shape.bytes(),
    };
    read + written as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums over all instructions: operations, transcendentals, bytes, and operations as XLA counts them.
    #[track_caller]
    fn check(text: &str, expected: [f64; 4]) {
        let module = Module::parse(text).unwrap();
        let mut found = [0.0; 4];
        for cost in instruction_costs(&module) {
            found[0] += cost.flops * cost.times;
            found[1] += cost.transcendentals * cost.times;
            found[2] += cost.bytes * cost.times;
            found[3] += cost.flops * cost.xla_times;
        }
        assert_eq!(found, expected, "{text}");
    }

    const SUM: &str = r"%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}
";

    #[test]
    fn ops_are_counted_as_xla_counts_them() {
        let check = |lines: &str, expected: [f64; 3]| {
            let text = format!("{SUM}ENTRY %m (x: f32[4,8]) -> f32[] {{\n  %x = f32[4,8] parameter(0)\n{lines}}}\n");
            check(&text, [expected[0], expected[1], expected[2], expected[0]]);
        };
        let size = 4.0 * 32.0;
        check("  ROOT %y = f32[4,8] add(%x, %x)\n", [32.0, 0.0, 3.0 * size]);
        check("  ROOT %y = f32[4,8] tanh(%x)\n", [0.0, 32.0, 2.0 * size]);
        check("  ROOT %y = bf16[4,8] convert(%x)\n", [32.0, 0.0, 1.5 * size]);
        check("  ROOT %y = f32[8,4] transpose(%x), dimensions={1,0}\n", [0.0, 0.0, 2.0 * size]);
        check("  ROOT %y = f32[32] bitcast(%x)\n", [0.0; 3]);
        let dot = "  ROOT %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}\n";
        check(dot, [2.0 * 16.0 * 8.0, 0.0, 2.0 * size + 64.0]);
        let zero = "  %z = f32[] constant(0)\n";
        let reduce = "  ROOT %y = f32[4] reduce(%x, %z), dimensions={1}, to_apply=%sum\n";
        check(&format!("{zero}{reduce}"), [28.0, 0.0, size + 4.0 + 16.0]);
        let window = "  ROOT %y = f32[4,2] reduce-window(%x, %z), window={size=1x4 stride=1x4}, to_apply=%sum\n";
        check(&format!("{zero}{window}"), [3.0 * 8.0, 0.0, size + 4.0 + 32.0]);
        check("  ROOT %y = f32[4,8] sort(%x), dimensions={1}, to_apply=%sum\n", [32.0 * 5.0, 0.0, 2.0 * size]);
    }

    /// Each iteration reads a row of 4 and the vector, and writes a vector.
    const LOOP: &str = r#"%fused (p: f32[8,4], q: f32[4], i: s32[]) -> f32[4] {
  %p = f32[8,4] parameter(0)
  %q = f32[4] parameter(1)
  %i = s32[] parameter(2)
  %s = f32[1,4] dynamic-slice(%p, %i)
  %r = f32[4] bitcast(%s)
  ROOT %y = f32[4] multiply(%r, %q)
}
%body (s: (s32[], f32[8,4], f32[4])) -> (s32[], f32[8,4], f32[4]) {
  %s = (s32[], f32[8,4], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %a = f32[8,4] get-tuple-element(%s), index=1
  %b = f32[4] get-tuple-element(%s), index=2
  %f = f32[4] fusion(%a, %b, %i), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[8,4], f32[4]) tuple(%i, %a, %f)
}
%cond (s: (s32[], f32[8,4], f32[4])) -> pred[] {
  %s = (s32[], f32[8,4], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(8)
  ROOT %k = pred[] compare(%i, %n), direction=LT
}
ENTRY %m (s: (s32[], f32[8,4], f32[4])) -> (s32[], f32[8,4], f32[4]) {
  %s = (s32[], f32[8,4], f32[4]) parameter(0)
  ROOT %w = (s32[], f32[8,4], f32[4]) while(%s), condition=%cond, body=%body
}
"#;

    const LIBRARY: &str = r#"ENTRY %m (x: bf16[4,8], y: bf16[6,8]) -> bf16[4,6] {
  %x = bf16[4,8] parameter(0)
  %y = bf16[6,8] parameter(1)
  ROOT %z = bf16[4,6] custom-call(%x, %y), custom_call_target="__onednn$matmul"
}
"#;

    #[test]
    fn loops_fusions_and_libraries() {
        // Of the fusion: the row, the vector, the counter and the result; of the comparison, two counters and a byte.
        let bytes = 8.0 * (3.0 * 16.0 + 4.0 + 2.0 * 4.0 + 1.0);
        check(LOOP, [8.0 * (4.0 + 1.0), 0.0, bytes, 4.0 + 1.0]);
        // XLA says how often, where it knows better.
        let known = "body=%body, backend_config={\"known_trip_count\":{\"n\":\"3\"}}";
        check(&LOOP.replace("body=%body", known), [3.0 * 5.0, 0.0, bytes * 3.0 / 8.0, 5.0]);
        for library in ["__onednn$matmul", "__cublas$lt$matmul", "__cublas$gemm", "lmc.dot_general"] {
            let text = LIBRARY.replace("__onednn$matmul", library);
            check(&text, [2.0 * 4.0 * 8.0 * 6.0, 0.0, 2.0 * (32.0 + 48.0 + 24.0), 0.0]);
        }
    }
    #[test]
    fn fused_attentions_are_the_products_that_they_compute() {
        let flops = |target: &str, config: &str| -> f64 {
            let text = format!(
                "HloModule m\nENTRY %main (q: bf16[1,4,2,8], k: bf16[1,4,1,8]) -> bf16[1,2,4,8] {{\n  %q = bf16[1,4,2,8] \
                 parameter(0)\n  %k = bf16[1,4,1,8] parameter(1)\n  %a = (bf16[1,2,4,8], u8[64]) custom-call(%q, %k, %k), \
                 custom_call_target=\"{target}\", backend_config={config}\n  ROOT %o = bf16[1,2,4,8] \
                 get-tuple-element(%a), index=0\n}}\n"
            );
            let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
            let costs = instruction_costs(&module);
            // XLA itself counts nothing for them.
            assert!(costs.iter().all(|cost| cost.xla_times == 0.0 || cost.flops == 0.0), "{costs:?}");
            costs.iter().map(|cost| cost.flops).sum()
        };
        // 2 heads, products of 8, 4 queries that see 1 to 4 keys: 10 scores; 7 with a window of two.
        let cudnn = |config: &str| format!("{{\"cudnn_fmha_backend_config\":{{{config}}}}}");
        let causal = cudnn("\"fmha_scale\":0.5,\"mask_type\":\"CAUSAL\"");
        assert_eq!(flops("__cudnn$fmhaSoftmax", &causal), 2.0 * 2.0 * 10.0 * 16.0);
        assert_eq!(flops("__cudnn$fmhaSoftmaxBackward", &causal), 2.0 * 2.0 * 10.0 * 40.0);
        let window = cudnn("\"mask_type\":\"CAUSAL\",\"sliding_window_length\":2");
        assert_eq!(flops("__cudnn$fmhaSoftmax", &window), 2.0 * 2.0 * 7.0 * 16.0);
        assert_eq!(flops("__cudnn$fmhaSoftmax", &cudnn("\"mask_type\":\"NO_MASK\"")), 2.0 * 2.0 * 16.0 * 16.0);
        let kernel = "{causal = true, scale = 2.5e-01 : f64, sliding_window = 0 : i64}";
        assert_eq!(flops("lmc.scaled_dot_product_attention", kernel), 2.0 * 2.0 * 10.0 * 16.0);
        assert_eq!(flops("lmc.scaled_dot_product_attention_backward", kernel), 2.0 * 2.0 * 10.0 * 40.0);
        assert_eq!(flops("other", kernel), 0.0);
    }
}
