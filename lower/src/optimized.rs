//! The program as XLA compiled it, read from its HLO text: whether what was meant as a product is one, and what was meant
//! as a fused attention is a call with a plan.
//!
//! XLA joins products that share an operand, and turns small ones into a multiplication and a sum. The first keeps the
//! number of operations, the second loses them: so operations are what is compared with the report. They are fewer too
//! where a product is computed once that the report has twice, as the scores of a decomposed attention, which its
//! derivative computes again.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Direction, Form, Kind, Report};

/// A compiled program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Optimized {
    /// Every product: a call of a library, or a `dot` that a kernel is made of.
    pub products: Vec<Product>,
    /// Every call of a fused attention.
    pub attentions: Vec<Attention>,
    /// The types of all tensors that are in memory at some time, such as `bf16[2,2048,768]`: what is inside of a kernel
    /// is not.
    pub tensors: BTreeSet<String>,
}

/// A product of the compiled program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The scope that it is made for; of joined products that of one of them.
    pub scope: String,
    /// `dot`, or the library's function: `__cublas$lt$matmul`.
    pub target: String,
    /// The types of its operands.
    pub operands: [String; 2],
    /// Operations each time it runs.
    pub flops: u64,
    /// How often it runs in one execution; `None` in a loop whose length the compiler does not know.
    pub times: Option<u64>,
}

/// A call of a fused attention in the compiled program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// The scope that it is made for.
    pub scope: String,
    /// The function: `__cudnn$fmhaSoftmax`.
    pub target: String,
    /// The bytes of its workspace. 0 where the compiler did not ask cuDNN for a plan, and the program does not run; a
    /// forward pass may need none either.
    pub workspace: u64,
    /// How often it runs in one execution.
    pub times: Option<u64>,
}

impl Attention {
    /// Whether it is the derivative.
    pub fn is_backward(&self) -> bool {
        self.target.contains("Backward")
    }
}

/// Functions of libraries that are products.
const PRODUCTS: [&str; 3] = ["__cublas$gemm", "__cublas$lt$matmul", "__onednn$matmul"];

impl Optimized {
    /// Reads HLO text as XLA writes it after all optimizations.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn read(hlo: &str) -> Result<Optimized, String> {
        let computations = computations(hlo)?;
        let times = times(&computations)?;
        let fused: BTreeSet<&str> = computations
            .values()
            .flat_map(|computation| &computation.instructions)
            .filter(|instruction| instruction.opcode == "fusion")
            .flat_map(|instruction| instruction.called().map(|(name, _)| name))
            .collect();
        let mut found = Optimized::default();
        for (name, computation) in &computations {
            // What nothing calls does not run.
            let Some(&times) = times.get(name) else { continue };
            for instruction in &computation.instructions {
                let target = match instruction.opcode {
                    "custom-call" => instruction.attribute("custom_call_target=\"", '"').unwrap_or_default(),
                    opcode => opcode,
                };
                if target == "dot" || PRODUCTS.contains(&target) {
                    found.products.push(computation.product(instruction, target, times)?);
                } else if target.starts_with("__cudnn$fmha") {
                    let scope = instruction.scope().to_owned();
                    let workspace = instruction.types().last().filter(|ty| ty.starts_with("u8["));
                    let workspace = workspace.and_then(elements).unwrap_or(0);
                    found.attentions.push(Attention { scope, target: target.to_owned(), workspace, times });
                }
                if !fused.contains(name) {
                    found.tensors.extend(instruction.types().map(str::to_owned));
                }
            }
        }
        Ok(found)
    }

    /// Operations of all products in one execution; of loops whose length is not known those of one turn.
    pub fn product_flops(&self) -> u64 {
        let flops = self.products.iter().map(|product| product.flops.saturating_mul(product.times.unwrap_or(1)));
        flops.fold(0, u64::saturating_add)
    }

    /// What of the report the compiled program did not keep to, a sentence each.
    pub fn differences(&self, report: &Report) -> Vec<String> {
        let mut differences = Vec::new();
        let dots = report.rows.iter().filter(|row| row.kind == Kind::Dot);
        let meant = dots.map(|row| row.total_flops()).fold(0, u64::saturating_add);
        let found = self.product_flops();
        if found < meant {
            differences.push(format!(
                "{:.3} % of the operations of products are in no product: they became other ops, or one product serves for \
                 several that are equal",
                100.0 * (meant - found) as f64 / meant as f64
            ));
        }
        for direction in [Direction::Forward, Direction::Backward] {
            // What is computed again is computed by forward calls.
            let is_backward = direction == Direction::Backward;
            let of_cudnn = report.rows.iter().filter(|row| row.form == Form::Cudnn);
            let meant = of_cudnn.filter(|row| (row.direction == Direction::Backward) == is_backward).count();
            let found = self.attentions.iter().filter(|call| call.is_backward() == is_backward).count();
            if found != meant {
                let name = direction.name();
                differences.push(format!("{meant} {name} attentions were meant to be cuDNN's, {found} are"));
            }
        }
        for call in self.attentions.iter().filter(|call| call.workspace == 0 && call.is_backward()) {
            differences.push(format!("{} of {} has no workspace: cuDNN made no plan for it", call.target, call.scope));
        }
        differences
    }
}

/// A computation of a module: a function of HLO.
#[derive(Default)]
struct Computation<'a> {
    is_entry: bool,
    instructions: Vec<Instruction<'a>>,
    /// The type of each instruction.
    types: BTreeMap<&'a str, &'a str>,
}

/// `%name = type opcode(operands), attributes`.
struct Instruction<'a> {
    ty: &'a str,
    opcode: &'a str,
    operands: &'a str,
    attributes: &'a str,
}

fn computations(hlo: &str) -> Result<BTreeMap<&str, Computation<'_>>, String> {
    let mut found: BTreeMap<&str, Computation<'_>> = BTreeMap::new();
    let mut current = None;
    for (number, line) in hlo.lines().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = current else {
            // `%name (x: f32[2]) -> f32[2] {`, `ENTRY %main (…) -> … {`
            let head = trimmed.strip_prefix("ENTRY ").unwrap_or(trimmed);
            if line.ends_with('{')
                && head.contains("->")
                && let Some(name) = head.split([' ', '(']).next()
            {
                let name = name.trim_start_matches('%');
                found.insert(name, Computation { is_entry: head.len() < trimmed.len(), ..Computation::default() });
                current = Some(name);
            }
            continue;
        };
        if trimmed.starts_with('}') {
            current = None;
        } else if let Some((left, right)) = trimmed.split_once(" = ") {
            let left = left.trim_start_matches("ROOT ").trim_start_matches('%');
            let instruction = instruction(right).ok_or_else(|| format!("line {}: not HLO: {trimmed}", number + 1))?;
            let computation = found.entry(name).or_default();
            computation.types.insert(left, instruction.ty);
            computation.instructions.push(instruction);
        }
    }
    if found.is_empty() { Err("no computation of HLO is in the text".to_owned()) } else { Ok(found) }
}

fn instruction(text: &str) -> Option<Instruction<'_>> {
    let (ty, rest) = match text.starts_with('(') {
        true => text.split_at(closing(text)? + 1),
        false => text.split_at(text.find(' ')?),
    };
    let rest = rest.trim_start();
    let (opcode, rest) = rest.split_at(rest.find('(')?);
    let end = closing(rest)?;
    Some(Instruction { ty, opcode, operands: &rest[1..end], attributes: &rest[end + 1..] })
}

/// Where the parenthesis closes that the text begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

impl<'a> Instruction<'a> {
    /// What stands between `start` and `end` in the attributes.
    fn attribute(&self, start: &str, end: char) -> Option<&'a str> {
        let at = self.attributes.find(start)? + start.len();
        self.attributes[at..].split(end).next()
    }

    fn scope(&self) -> &'a str {
        self.attribute("op_name=\"", '"').unwrap_or_default()
    }

    /// The types of the arrays that it returns, without layouts.
    fn types(&self) -> impl Iterator<Item = &'a str> {
        arrays(self.ty)
    }

    /// The computations that it calls, and how often each time it runs; `None` where that is not known.
    fn called(&self) -> impl Iterator<Item = (&'a str, Option<u64>)> {
        let trips = self.attribute("\"known_trip_count\":{\"n\":\"", '"').and_then(|n| n.parse().ok());
        let once = ["calls=", "to_apply=", "condition=", "true_computation=", "false_computation="];
        let single = once.into_iter().filter_map(|key| Some((self.attribute(key, ',')?, Some(1))));
        let body = self.attribute("body=", ',').map(|name| (name, trips));
        let lists = ["branch_computations={", "called_computations={"];
        let listed = lists.into_iter().filter_map(|key| self.attribute(key, '}')).flat_map(|list| list.split(','));
        single
            .chain(body)
            .chain(listed.map(|name| (name, Some(1))))
            .map(|(name, times)| (name.trim().trim_start_matches('%'), times))
    }
}

/// The arrays of a type: `(bf16[2,3]{1,0}, s32[])` has `bf16[2,3]` and `s32[]`.
fn arrays(ty: &str) -> impl Iterator<Item = &str> {
    ty.match_indices('[').filter_map(|(at, _)| {
        let start = ty[..at].rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |i| i + 1);
        let end = at + ty[at..].find(']')?;
        Some(&ty[start..=end])
    })
}

/// The sizes of an array.
fn sizes(array: &str) -> Option<Vec<u64>> {
    let list = array.split_once('[')?.1.strip_suffix(']')?;
    list.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}

fn elements(array: &str) -> Option<u64> {
    Some(sizes(array)?.into_iter().fold(1, u64::saturating_mul))
}

impl<'a> Computation<'a> {
    /// The type of an operand, `%name` or `%name#1`.
    fn operand(&self, operand: &str) -> Option<&'a str> {
        // `f32[2] %x`, where types of operands are written.
        let name = operand.rsplit(' ').next()?.trim_start_matches('%');
        let (name, index) = name.split_once('#').unwrap_or((name, "0"));
        arrays(self.types.get(name)?).nth(index.parse().ok()?)
    }

    fn product(&self, product: &Instruction<'_>, target: &str, times: Option<u64>) -> Result<Product, String> {
        let refuse = || format!("a product is not understood: {} {}({})", product.ty, target, product.operands);
        let without_comments: String = match product.operands.contains("/*") {
            true => product.operands.split("/*").map(|part| part.split_once("*/").map_or(part, |x| x.1)).collect(),
            false => product.operands.to_owned(),
        };
        let mut operands = without_comments.split(", ").filter_map(|operand| self.operand(operand.trim()));
        let [lhs, rhs] = [operands.next().ok_or_else(refuse)?, operands.next().ok_or_else(refuse)?];
        let contracting = product
            .attribute("lhs_contracting_dims={", '}')
            .or_else(|| product.attribute("\"lhs_contracting_dimensions\":[", ']'))
            .ok_or_else(refuse)?;
        let lhs_sizes = sizes(lhs).ok_or_else(refuse)?;
        let mut flops = product.types().next().and_then(elements).ok_or_else(refuse)?.saturating_mul(2);
        for dimension in contracting.split(',').filter(|dimension| !dimension.is_empty()) {
            let dimension: usize = dimension.trim_matches('"').parse().map_err(|_| refuse())?;
            flops = flops.saturating_mul(*lhs_sizes.get(dimension).ok_or_else(refuse)?);
        }
        let operands = [lhs.to_owned(), rhs.to_owned()];
        Ok(Product { scope: product.scope().to_owned(), target: target.to_owned(), operands, flops, times })
    }
}

/// How often each computation runs in one execution of the entry; `None` where a length is not known.
fn times<'a>(computations: &BTreeMap<&'a str, Computation<'a>>) -> Result<BTreeMap<&'a str, Option<u64>>, String> {
    fn visit<'a>(
        computations: &BTreeMap<&'a str, Computation<'a>>,
        name: &'a str,
        times: Option<u64>,
        found: &mut BTreeMap<&'a str, Option<u64>>,
    ) {
        let Some(computation) = computations.get(name) else { return };
        let before = found.entry(name).or_insert(Some(0));
        *before = before.zip(times).map(|(before, times)| before.saturating_add(times));
        for instruction in &computation.instructions {
            for (called, inner) in instruction.called() {
                // HLO has no recursion.
                visit(computations, called, times.zip(inner).map(|(x, y)| x.saturating_mul(y)), found);
            }
        }
    }
    let entry = computations.iter().find(|(_, computation)| computation.is_entry);
    let (name, _) = entry.ok_or("no computation is the entry")?;
    let mut found = BTreeMap::new();
    visit(computations, name, Some(1), &mut found);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
    use lmc_graph::{Builder, DType, TensorType};

    use super::*;
    use crate::{Target, lower};

    const HLO: &str = r#"HloModule step, is_scheduled=true, entry_computation_layout={(bf16[4,8]{1,0})->bf16[4,8]{1,0}}

FileNames
1 "src/model.rs"

%fused_dot (p0: bf16[4,8], p1: bf16[8,8]) -> bf16[4,8] {
  %p0 = bf16[4,8]{1,0} parameter(0)
  %p1 = bf16[8,8]{1,0} parameter(1)
  %inner = f32[4,8]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="a.b"}
  ROOT %c = bf16[4,8]{1,0} convert(%inner)
}

%body (arg: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %arg = (s32[], bf16[4,8]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%arg), index=1
  %w = bf16[8,8]{1,0} constant({...})
  %y = bf16[4,8]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused_dot, metadata={op_name="a.b"}, backend_config={"fusion_backend_config":{"kind":"__triton_gemm"}}
  %call = (bf16[4,8]{1,0}, s8[64]{0}) custom-call(%y, %arg#1), custom_call_target="__cublas$lt$matmul", metadata={op_name="vjp(a.b)"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_batch_dimensions":[],"lhs_contracting_dimensions":["1"]}}}
  ROOT %t = (s32[], bf16[4,8]{1,0}) tuple(%i, %x)
}

%condition (arg.1: (s32[], bf16[4,8])) -> pred[] {
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %z = s32[] constant(0)
  %in = (s32[], bf16[4,8]{1,0}) tuple(%z, %p)
  %loop = (s32[], bf16[4,8]{1,0}) while(%in), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %attn = (bf16[1,2,4,8]{3,1,2,0}, f32[1,2,4]{2,1,0}, /*index=2*/u8[256]{0}) custom-call(%p, %p, %p), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="attn"}
  %back = (bf16[1,2,4,8]{3,1,2,0}, u8[0]{0}) custom-call(%p, %p, %p), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="vjp(attn)"}
  ROOT %out = bf16[4,8]{1,0} get-tuple-element(%loop), index=1
}
"#;

    #[test]
    fn products_and_attentions_are_found_with_their_times() {
        let found = Optimized::read(HLO).unwrap_or_else(|reason| panic!("{reason}"));
        let products: Vec<_> =
            found.products.iter().map(|x| (x.scope.as_str(), x.target.as_str(), x.flops, x.times)).collect();
        // 2 * 4 * 8 * 8 and 2 * 4 * 8 * 8.
        let expected = [("vjp(a.b)", "__cublas$lt$matmul", 512, Some(3)), ("a.b", "dot", 512, Some(3))];
        assert_eq!(products, expected);
        assert_eq!(found.products[1].operands, ["bf16[4,8]", "bf16[8,8]"]);
        assert_eq!(found.product_flops(), 3072);
        let attentions: Vec<_> = found.attentions.iter().map(|x| (x.target.as_str(), x.workspace)).collect();
        assert_eq!(attentions, [("__cudnn$fmhaSoftmax", 256), ("__cudnn$fmhaSoftmaxBackward", 0)]);
        // f32[4,8] is inside of a kernel.
        assert!(found.tensors.contains("bf16[4,8]") && !found.tensors.contains("f32[4,8]"), "{:?}", found.tensors);
        assert!(Optimized::read("").is_err() && Optimized::read("%f () -> f32[] {\n  %x = nonsense\n}").is_err());
    }

    #[test]
    fn what_was_not_kept_is_told() {
        let ty = |shape: &[usize]| TensorType::new(DType::BF16, shape);
        let func = Builder::build("f", |b| {
            let (x, w) = (b.param("x", ty(&[4, 8])), b.param("w", ty(&[8, 8])));
            let looped = b.scope("a.b", || b.scan(&[x], &[], 3, |c, _| (vec![c[0].dot(w).dot(w)], vec![])));
            let q = b.param("q", ty(&[1, 4, 2, 8]));
            let (mask, rows) = (AttentionMask::Causal, AttentionRows::Whole);
            let op = ScaledDotProductAttention { scale: 0.5, mask, sliding_window: None, rows };
            let (output, _) = b.scope("attn", || q.scaled_dot_product_attention(q, q, op));
            [looped.carries, vec![output]].concat()
        });
        let report = lower(&func, &Target::named("h100").expect("there is an H100")).report;
        let found = Optimized::read(HLO).unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(
            found.differences(&report),
            [
                "0 backward attentions were meant to be cuDNN's, 1 are",
                "__cudnn$fmhaSoftmaxBackward of vjp(attn) has no workspace: cuDNN made no plan for it",
            ]
        );
        // A product that became a multiplication and a sum.
        let lost =
            Optimized { products: found.products[1..].to_vec(), attentions: found.attentions[..1].to_vec(), ..found };
        let [difference] = &lost.differences(&report)[..] else { panic!("one difference") };
        assert!(difference.starts_with("50.000 % of the operations of products are in no product"), "{difference}");
        let none = Optimized { products: vec![], attentions: vec![], ..lost };
        let differences = none.differences(&report);
        assert!(differences[0].starts_with("100.000 %"), "{differences:?}");
        assert_eq!(differences[1..], ["1 forward attentions were meant to be cuDNN's, 0 are"]);
    }

    #[test]
    fn an_attention_that_is_computed_again_is_a_forward_call() {
        let func = Builder::build("f", |b| {
            let q = b.param("q", TensorType::new(DType::BF16, [1, 4, 2, 8]));
            let (mask, rows) = (AttentionMask::Causal, AttentionRows::Whole);
            let op = ScaledDotProductAttention { scale: 0.5, mask, sliding_window: None, rows };
            let attend = |scope: &str| b.scope(scope, || q.scaled_dot_product_attention(q, q, op.clone())).0;
            vec![attend("attn"), attend("remat(attn)")]
        });
        let report = lower(&func, &Target::named("h100").expect("there is an H100")).report;
        let found = Optimized::read(HLO).unwrap_or_else(|reason| panic!("{reason}"));
        let forward = found.attentions.iter().find(|call| !call.is_backward()).expect("there is one").clone();
        let twice = Optimized { products: vec![], attentions: vec![forward.clone(), forward], ..found };
        assert_eq!(twice.differences(&report), Vec::<String>::new());
    }
}
