//! The lowering report: how every product and every attention lowered, and why not faster.
//!
//! The rows are what lowering *meant*. Whether the compiler kept to it is seen on the optimized program: there, an
//! instruction's `op_name` is the scope of the row it came from (see [`crate::Options::locations`]), so that each row
//! can be looked for by its scope, form and shapes.

use std::fmt;

use lmc_graph::{Location, TensorType};

use crate::target::Target;

/// The op that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `dot_general`.
    Dot,
    /// `scaled_dot_product_attention` or its backward.
    Attention,
}

/// The pass of a training step that an op belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The model itself.
    Forward,
    /// Its derivative: the location's scope is that of a forward node in `vjp(…)`.
    Backward,
}

impl Direction {
    /// The pass that a location's scope tells.
    pub fn of(location: &Location) -> Direction {
        let scope = &*location.scope;
        if scope.starts_with("vjp(") || scope.contains(".vjp(") { Direction::Backward } else { Direction::Forward }
    }

    /// The name in the table: `forward`, `backward`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
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
    /// Attention: the ops of its decomposition. Its products have rows of their own.
    Decomposed,
}

impl Form {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Form::DotGeneral => "dot_general",
            Form::DotGeneralCollapsed => "dot_general, collapsed",
            Form::Decomposed => "attention, decomposed",
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
    /// Forward or backward pass.
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
    /// attention those of its products.
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

    /// Products are what is counted: an attention's own row repeats the sum of its products.
    fn sum(&self, counts: impl Fn(&Row) -> bool) -> u64 {
        let products = self.rows.iter().filter(|row| row.part_of.is_none() && counts(row));
        products.map(Row::total_flops).fold(0, u64::saturating_add)
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
        if self.rows.iter().any(|row| row.times.is_none()) {
            f.write_str(", counting one iteration of each `while`")?;
        }
        f.write_str("\n")
    }
}
