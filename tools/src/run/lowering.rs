//! The lowering report as a run folder keeps it: every product and every attention of the training step, those that are
//! alike in one row.

use std::path::Path;

use lmc_lower::Report;
use serde::{Deserialize, Serialize};

use super::folder::replace_view;
use crate::error::{Error, Result};

/// The file's name in the run folder.
pub(crate) const NAME: &str = "lowering.json";

/// How the training step's products and attentions lowered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lowering {
    /// What it was lowered for.
    pub target: String,
    /// Operations of all products in one step.
    pub total_flops: f64,
    /// In the order of the program.
    pub rows: Vec<Group>,
}

/// Products or attentions of one form and type, such as those of every block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// `forward`, `backward`, `recompute` or `optimizer`.
    pub pass: String,
    /// The form they took.
    pub form: String,
    /// The types of operands and results.
    pub types: String,
    /// Where the model made them, numbers of blocks as `*`.
    pub scope: String,
    /// The file and line.
    pub line: String,
    /// Why a faster form was refused; empty where there is none.
    pub refused: String,
    /// Whether they are parts of an attention in a row of its own.
    pub part: bool,
    /// How many of them the program has.
    pub count: u64,
    /// Operations of all of them in one step.
    pub flops: f64,
}

impl Lowering {
    /// What a report tells, by groups.
    pub fn of(report: &Report) -> Lowering {
        let mut rows: Vec<Group> = Vec::new();
        for row in &report.rows {
            let types =
                |types: &[lmc_graph::TensorType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let file = row.location.file.rsplit('/').next().unwrap_or_default();
            let group = Group {
                pass: row.direction.name().to_owned(),
                form: row.form.name().to_owned(),
                types: format!("{} -> {}", types(&row.operands), types(&row.results)),
                scope: without_numbers(&row.location.scope),
                line: if file.is_empty() { String::new() } else { format!("{file}:{}", row.location.line) },
                refused: row.refused.clone().unwrap_or_default(),
                part: row.part_of.is_some(),
                count: 1,
                flops: row.total_flops() as f64,
            };
            let alike = |other: &&mut Group| {
                Group { count: 1, flops: 0.0, ..(*other).clone() } == Group { flops: 0.0, ..group.clone() }
            };
            match rows.iter_mut().find(alike) {
                Some(other) => {
                    other.count += 1;
                    other.flops += group.flops;
                }
                None => rows.push(group),
            }
        }
        Lowering { target: report.target.to_string(), total_flops: report.total_flops() as f64, rows }
    }

    /// Writes it into a run folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, run: &Path) -> Result<()> {
        let path = run.join(NAME);
        let json = serde_json::to_vec(self).map_err(|error| Error::run(format!("the lowering report: {error}")))?;
        replace_view(&path, &json).map_err(|error| Error::cannot_write("the lowering report", &path, &error))
    }
}

/// A scope whose parts that are numbers are `*`: `h.3.attn` is `h.*.attn`.
pub(crate) fn without_numbers(scope: &str) -> String {
    let part = |part: &str| -> String {
        let digits = part.trim_end_matches(')');
        match !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
            true => format!("*{}", &part[digits.len()..]),
            false => part.to_owned(),
        }
    };
    scope.split('.').map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, TensorType};
    use lmc_lower::{Target, lower};

    use super::*;

    #[test]
    fn what_is_alike_is_one_row() {
        let ty = TensorType::new(DType::F32, [4, 4]);
        let func = Builder::build("f", |b| {
            let x = b.param("x", ty.clone());
            let mut y = x;
            for block in ["h.0", "h.1", "other"] {
                y = b.scope(block, || y.dot(x));
            }
            vec![y]
        });
        let lowering = Lowering::of(&lower(&func, &Target::generic()).report);
        let rows: Vec<_> = lowering.rows.iter().map(|row| (&*row.scope, row.count, row.flops)).collect();
        assert_eq!(rows, [("h.*", 2, 256.0), ("other", 1, 128.0)]);
        assert_eq!(lowering.total_flops, 384.0);
        let text = serde_json::to_string(&lowering).unwrap();
        assert_eq!(serde_json::from_str::<Lowering>(&text).unwrap(), lowering);
    }

    #[test]
    fn numbers_of_blocks_are_stars() {
        for (scope, expected) in [
            ("transformer.h.3.attn", "transformer.h.*.attn"),
            ("vjp(model.layers.11)", "vjp(model.layers.*)"),
            ("ln_1.x2", "ln_1.x2"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(scope), expected);
        }
    }
}
