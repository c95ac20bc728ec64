//! The lowering report: how every product and every attention lowered, and why not faster.
//!
//! The rows are what lowering *meant*. Whether the compiler kept to it is seen on the optimized program: there, an
//! instruction's `op_name` is the scope of the row it came from (see [`crate::Options::locations`]), so that each row
//! can be looked for by its scope, form and shapes.

use std::fmt;

use lmc_graph::ops::{AttentionMask, CachedAttention, ScaledDotProductAttention};
use lmc_graph::{Location, TensorType};

use crate::target::Target;

/// The op that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `dot_general`.
    Dot,
    /// `scaled_dot_product_attention` or its backward, or `cached_attention`.
    Attention,
}

/// The pass of a training step that an op belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The model itself.
    Forward,
    /// Its derivative: the location's scope is that of a forward node in `vjp(…)`.
    Backward,
    /// The model itself, computed again for its derivative: the location's scope is that of a forward node in
    /// `remat(…)`.
    Recompute,
    /// What is done with the derivative: the location's scope is, or begins with, `optimizer`.
    Optimizer,
}

impl Direction {
    /// Every pass, in the order of a step.
    pub const ALL: [Direction; 4] =
        [Direction::Forward, Direction::Recompute, Direction::Backward, Direction::Optimizer];

    /// The pass that a location's scope tells.
    pub fn of(location: &Location) -> Direction {
        Direction::of_scope(&location.scope)
    }

    /// The pass that a scope tells.
    pub fn of_scope(scope: &str) -> Direction {
        let starts = [("vjp(", Direction::Backward), ("remat(", Direction::Recompute)];
        // The outermost says it; a function that was called has the scope of the call before its own.
        let mut rest = scope;
        loop {
            if let Some((_, direction)) = starts.iter().find(|(start, _)| rest.starts_with(start)) {
                return *direction;
            }
            match rest.split_once('.') {
                Some((_, after)) => rest = after,
                None => break,
            }
        }
        match scope.split('.').next() {
            Some("optimizer") => Direction::Optimizer,
            Some(_) | None => Direction::Forward,
        }
    }

    /// The name in the table: `forward`, `backward`, `recompute`, `optimizer`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
            Direction::Recompute => "recompute",
            Direction::Optimizer => "optimizer",
        }
    }
}

/// The form that an op took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A product: `stablehlo.dot_general` with the op's own dimensions.
    DotGeneral,
    /// A product: `stablehlo.dot_general` between reshapes that collapse neighbouring dimensions.
    DotGeneralCollapsed,
    /// A product: a call of lmc's own kernel, between reshapes that collapse neighbouring dimensions.
    MatmulKernel,
    /// A product: a call of oneDNN's, between reshapes that collapse neighbouring dimensions.
    OneDnnMatmul,
    /// A product of few rows with a weight: a call of lmc's own kernel, which reads the weight once as it is stored.
    WeightKernel,
    /// Attention: a call of lmc's own kernel.
    AttentionKernel,
    /// Attention: the ops of its decomposition. Its products have rows of their own.
    Decomposed,
    /// As [`Form::Decomposed`], a block of queries after the other.
    DecomposedByBlocks,
    /// Attention: one call of cuDNN's fused kernel, which keeps no scores in memory.
    Cudnn,
}

impl Form {
    /// Whether it is an attention in one call, whose scores are never in memory.
    pub fn is_fused(self) -> bool {
        match self {
            Form::Cudnn | Form::AttentionKernel => true,
            Form::DotGeneral
            | Form::DotGeneralCollapsed
            | Form::MatmulKernel
            | Form::OneDnnMatmul
            | Form::WeightKernel
            | Form::Decomposed
            | Form::DecomposedByBlocks => false,
        }
    }

    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Form::DotGeneral => "dot_general",
            Form::DotGeneralCollapsed => "dot_general, collapsed",
            Form::MatmulKernel => "matmul, lmc's kernel",
            Form::OneDnnMatmul => "oneDNN matmul",
            Form::WeightKernel => "product with a weight, lmc's kernel",
            Form::AttentionKernel => "attention, lmc's kernel",
            Form::Decomposed => "attention, decomposed",
            Form::DecomposedByBlocks => "attention, decomposed by blocks",
            Form::Cudnn => "attention, cuDNN",
        }
    }
}

/// How one product or attention lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The op.
    pub kind: Kind,
    /// Where the model made it.
    pub location: Location,
    /// The pass of the training step.
    pub direction: Direction,
    /// The types of the IR node's operands.
    pub operands: Vec<TensorType>,
    /// The types of the IR node's results.
    pub results: Vec<TensorType>,
    /// The form it took.
    pub form: Form,
    /// Why a faster form was refused; `None` when there is none.
    pub refused: Option<String>,
    /// Floating-point (or integer) operations each time it runs, a multiplication and an addition counted as two. Of an
    /// attention those of its products: in a fused kernel see [`fused_attention_flops`].
    pub flops: u64,
    /// How often it runs in one execution of the program: the product of the lengths of the `scan`s around it. `None`
    /// inside `while`, whose length is not known.
    pub times: Option<u64>,
    /// The index of the row of the attention that this product is a part of.
    pub part_of: Option<usize>,
}

impl Row {
    /// Operations in one execution of the program; inside `while`, those of one iteration.
    pub fn total_flops(&self) -> u64 {
        self.flops.saturating_mul(self.times.unwrap_or(1))
    }
}

/// The operations of a fused attention's products, of `query` `[B, T, N, H]` and `value` `[B, S, K, V]`: of scores and
/// outputs, and in the derivative of three more. A fused kernel passes over scores that the mask hides, so only the others
/// count. What rows that are padded or packed hide depends on the data, and counts.
pub fn fused_attention_flops(op: &ScaledDotProductAttention, is_backward: bool, [query, value]: [&[usize]; 2]) -> u64 {
    let ([b, t, n, h], (s, v)) = ([query[0], query[1], query[2], query[3]], (value[1], value[3]));
    let per_score = if is_backward { 3 * h + 2 * v } else { h + v };
    let seen: usize = match op.mask {
        AttentionMask::Full => t.saturating_mul(s),
        AttentionMask::Causal => {
            let window = op.sliding_window.unwrap_or(usize::MAX);
            (0..t).map(|t| s.min(t + 1) - s.min((t + 1).saturating_sub(window))).sum()
        }
    };
    [2, b, n, seen, per_score].into_iter().fold(1, |product, size| product.saturating_mul(size as u64))
}

/// The operations of the products of an attention to a cache, of `query` `[B, T, N, H]` and `value` `[B, K, R, V]`. How
/// many of the rows that are looked at hold a position depends on the data; all count.
pub fn cached_attention_flops(op: &CachedAttention, [query, value]: [&[usize]; 2]) -> u64 {
    let sizes = [2, query[0], query[1], query[2], op.visible_rows, query[3] + value[3]];
    sizes.into_iter().fold(1, |product, size| product.saturating_mul(size as u64))
}

/// How every product and every attention of a function lowered, in the order of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the function was lowered for.
    pub target: Target,
    /// A row for each `dot_general` and each attention, and for each product of a decomposed attention.
    pub rows: Vec<Row>,
}

impl Report {
    /// Operations of all products in one execution, those inside attention included. Both branches of an `if` count, and
    /// one iteration of a `while`.
    pub fn total_flops(&self) -> u64 {
        self.sum(|_| true)
    }

    /// [`Report::total_flops`] of one pass.
    pub fn total_flops_of(&self, direction: Direction) -> u64 {
        self.sum(|row| row.direction == direction)
    }

    /// The attentions that are no call of a fused kernel.
    pub fn attentions_not_fused(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.kind == Kind::Attention && !row.form.is_fused()).collect()
    }

    /// The products of the backward pass that have a wider operand than any product of the forward pass in their place,
    /// or, where there is none, in the whole program. Derivatives cost twice what is differentiated; so much more does a
    /// wide operand.
    pub fn widened_gradients(&self) -> Vec<&Row> {
        let widest = |rows: &mut dyn Iterator<Item = &Row>| -> Option<usize> {
            rows.flat_map(|row| &row.operands).map(|ty| ty.dtype.size()).max()
        };
        let products = || self.rows.iter().filter(|row| row.kind == Kind::Dot);
        let forward = || products().filter(|row| row.direction == Direction::Forward);
        let is_wider = |row: &&Row| {
            let place = forward_scope(&row.location.scope);
            let there = widest(&mut forward().filter(|other| *other.location.scope == place));
            there.or_else(|| widest(&mut forward())) < widest(&mut std::iter::once(*row))
        };
        products().filter(|row| row.direction == Direction::Backward).filter(is_wider).collect()
    }

    /// Products are what is counted: an attention's own row repeats the sum of its products.
    fn sum(&self, counts: impl Fn(&Row) -> bool) -> u64 {
        let products = self.rows.iter().filter(|row| row.part_of.is_none() && counts(row));
        products.map(Row::total_flops).fold(0, u64::saturating_add)
    }
}

/// The scope whose derivative has this one: `a.b` of `vjp(a.b)`, and of `a.vjp(b)`.
fn forward_scope(scope: &str) -> String {
    match scope.find("vjp(") {
        Some(at) if at == 0 || scope[..at].ends_with('.') => {
            let rest = &scope[at + "vjp(".len()..];
            let (inner, behind) = rest.rsplit_once(')').unwrap_or((rest, ""));
            format!("{}{inner}{behind}", &scope[..at])
        }
        Some(_) | None => scope.to_owned(),
    }
}

/// Operations with a prefix: `1.57 GFLOP`.
fn flops(count: u64) -> String {
    let (mut value, mut prefix) = (count as f64, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if value < 1000.0 {
            break;
        }
        (value, prefix) = (value / 1000.0, next);
    }
    if prefix.is_empty() { format!("{count} FLOP") } else { format!("{value:.2} {prefix}FLOP") }
}

impl fmt::Display for Report {
    /// A table with a row a line and aligned columns, and the totals below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = |types: &[TensorType]| types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ");
        let header =
            ["pass", "form", "operands -> results", "work", "times", "where", "why not faster"].map(str::to_string);
        let lines: Vec<[String; 7]> = std::iter::once(header)
            .chain(self.rows.iter().map(|row| {
                let indent = if row.part_of.is_some() { "  " } else { "" };
                [
                    row.direction.name().to_string(),
                    format!("{indent}{}", row.form.name()),
                    format!("{} -> {}", types(&row.operands), types(&row.results)),
                    flops(row.flops),
                    row.times.map_or("?".to_string(), |times| times.to_string()),
                    row.location.to_string(),
                    row.refused.clone().unwrap_or_default(),
                ]
            }))
            .collect();
        let widths: Vec<usize> =
            (0..7).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
        writeln!(f, "lowered for {}", self.target)?;
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        write!(
            f,
            "in products: {} an execution, forward {}, backward {}",
            flops(self.total_flops()),
            flops(self.total_flops_of(Direction::Forward)),
            flops(self.total_flops_of(Direction::Backward))
        )?;
        for direction in [Direction::Recompute, Direction::Optimizer] {
            match self.total_flops_of(direction) {
                0 => {}
                count => write!(f, ", {} {}", direction.name(), flops(count))?,
            }
        }
        if self.rows.iter().any(|row| row.times.is_none()) {
            f.write_str(", counting one iteration of each `while`")?;
        }
        f.write_str("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lmc_graph::ops::{AttentionMask, AttentionRows, ScaledDotProductAttention};
    use lmc_graph::{Builder, DType, Literal};

    use super::*;
    use crate::lower;

    /// A location without a file, so that expectations do not depend on this file's lines.
    fn at(scope: &str) -> Location {
        Location { scope: scope.into(), file: Arc::from(""), line: 0 }
    }

    #[test]
    fn rows_totals_and_table() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [2, 3]));
            let w = b.param("w", TensorType::new(DType::F32, [3, 3]));
            // Twice 3 runs of a product of 2 * 2 * 3 * 3 operations.
            let looped = b.at(at("model.loop"), || {
                b.scan(&[x], &[], 2, |c, _| {
                    let inner = b.scan(&[c[0]], &[], 3, |c, _| (vec![c[0].dot(w)], vec![]));
                    (inner.carries, vec![])
                })
            });
            let more = b.at(at("vjp(model.loop)"), || {
                let stop = || b.constant(Literal::scalar(false));
                b.while_loop(&looped.carries, |_| stop(), |values| vec![values[0].dot(w)])
            });
            vec![more[0]]
        });
        let report = lower(&func, &Target::generic()).report;
        let summary: Vec<_> = report.rows.iter().map(|row| (row.direction, row.flops, row.times)).collect();
        assert_eq!(summary, [(Direction::Forward, 36, Some(6)), (Direction::Backward, 36, None)]);
        assert_eq!(report.total_flops(), 7 * 36);
        assert_eq!(report.total_flops_of(Direction::Backward), 36);
        let expected = "\
lowered for generic
pass      form         operands -> results             work     times  where               why not faster
forward   dot_general  f32[2,3], f32[3,3] -> f32[2,3]  36 FLOP  6      in model.loop
backward  dot_general  f32[2,3], f32[3,3] -> f32[2,3]  36 FLOP  ?      in vjp(model.loop)
in products: 252 FLOP an execution, forward 216 FLOP, backward 36 FLOP, counting one iteration of each `while`
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn scopes_tell_the_pass() {
        for (scope, expected) in [
            ("", Direction::Forward),
            ("model.layers.0", Direction::Forward),
            ("vjp(model.layers.0)", Direction::Backward),
            ("micro_batches.vjp(model)", Direction::Backward),
            ("vjp()", Direction::Backward),
            ("remat(model.layers.0.mlp)", Direction::Recompute),
            ("micro_batches.remat(model)", Direction::Recompute),
            ("model.remat(layers)", Direction::Recompute),
            ("model.vjp", Direction::Forward),
            ("model.myvjp(x)", Direction::Forward),
            ("optimizer", Direction::Optimizer),
            ("optimizer.model.norm", Direction::Optimizer),
            ("model.optimizer", Direction::Forward),
        ] {
            assert_eq!(Direction::of_scope(scope), expected, "{scope}");
        }
    }

    #[test]
    fn wide_products_of_the_backward_pass_are_found() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::BF16, [2, 2]));
            let wide = x.convert(DType::F32);
            // f32 throughout is no widening, nor where the forward pass has no product.
            let products = [
                ("m.norm", wide),
                ("m.vjp(norm)", wide),
                ("m.vjp(lost)", wide),
                ("m.fc", x),
                ("m.vjp(fc)", x),
                ("m.vjp(fc)", wide),
            ];
            products.map(|(scope, x)| b.at(at(scope), || x.dot(x))).to_vec()
        });
        let report = lower(&func, &Target::generic()).report;
        let found: Vec<_> = report.widened_gradients().iter().map(|row| row.operands[0].to_string()).collect();
        assert_eq!(found, ["f32[2,2]"]);
        assert_eq!(report.widened_gradients()[0].location, at("m.vjp(fc)"));
        for (scope, expected) in [("vjp(a.b)", "a.b"), ("a.vjp(b.c)", "a.b.c"), ("a.b", "a.b"), ("avjp(b)", "avjp(b)")]
        {
            assert_eq!(forward_scope(scope), expected);
        }
    }

    #[test]
    fn attention_counts_its_products_once() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", TensorType::new(DType::F32, [1, 5, 2, 4]));
            let op = ScaledDotProductAttention {
                scale: 0.5,
                mask: AttentionMask::Causal,
                sliding_window: None,
                rows: AttentionRows::Whole,
            };
            b.at(at("attn"), || {
                let scanned = b.scan(&[x], &[], 3, |c, _| {
                    let (output, _) = c[0].scaled_dot_product_attention(c[0], c[0], op);
                    (vec![output], vec![])
                });
                scanned.carries
            })
        });
        let report = lower(&func, &Target::cpu(None)).report;
        let [attention, scores, values] = &report.rows[..] else { panic!("expected 3 rows, found {report}") };
        // Two products of T x S x H for each of 2 heads.
        assert_eq!((attention.flops, scores.flops, values.flops), (800, 400, 400));
        assert_eq!((attention.times, scores.part_of, values.part_of), (Some(3), Some(0), Some(0)));
        assert_eq!(attention.refused.as_deref(), Some("decomposed: lmc's kernel does not fit this plugin"));
        assert_eq!(report.total_flops(), 2400);
    }
}
