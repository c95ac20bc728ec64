//! Where two runs part: in their settings, the first step whose numbers differ, and the first tensor.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::history::History;
use super::{RunFolder, metrics::TrainMetrics};
use crate::checkpoint::{self, Comparison, TensorComparison, compare_tensors};
use crate::error::Result;

/// Where two runs part.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Divergence {
    /// Settings in which they differ, as `key: first -> second`.
    pub settings: Vec<String>,
    /// The first lines in which the graphs of their training steps differ; `None` if they are equal, or one is not kept.
    pub graph: Option<[String; 2]>,
    /// What else differs of what they ran on, as `what: first -> second`.
    pub surroundings: Vec<String>,
    /// Steps that both have recorded.
    pub common_steps: u64,
    /// The first step whose loss or gradient norm differs.
    pub step: Option<StepDifference>,
    /// The last checkpoint of a step of both that is equal.
    pub equal_checkpoint: Option<u64>,
    /// The first checkpoint of a step of both that differs, with its first tensor.
    pub tensor: Option<TensorDifference>,
}

/// A step whose numbers differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepDifference {
    /// Steps done, this one included.
    pub step: u64,
    /// The losses.
    pub loss: [f64; 2],
    /// The norms of the gradient.
    pub grad_norm: [f64; 2],
}

/// A checkpoint that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// The step.
    pub step: u64,
    /// The first tensor that differs, in the order of names as people count, weights before the optimizer's state.
    pub name: String,
    /// How.
    #[serde(skip)]
    pub comparison: Comparison,
    /// How many tensors differ.
    pub count: usize,
    /// How many there are.
    pub of: usize,
}

impl Divergence {
    /// Whether the runs are the same as far as both go.
    pub fn is_none(&self) -> bool {
        self.step.is_none() && self.tensor.is_none()
    }
}

/// Compares the runs in two folders.
///
/// # Errors
/// If a folder has no run, or a checkpoint that both have cannot be read.
pub fn compare_runs(first: &Path, second: &Path) -> Result<Divergence> {
    let [a, b] = [History::read(first)?, History::read(second)?];
    let (common_steps, step) = first_step(&a.train, &b.train);
    let (equal_checkpoint, tensor) = first_tensor(first, second)?;
    Ok(Divergence {
        settings: settings(first, second)?,
        graph: first_lines(first, second),
        surroundings: surroundings(&a, &b),
        common_steps,
        step,
        equal_checkpoint,
        tensor,
    })
}

fn settings(first: &Path, second: &Path) -> Result<Vec<String>> {
    let (Some(a), Some(b)) = (RunFolder::config_of(first)?, RunFolder::config_of(second)?) else {
        return Ok(Vec::new());
    };
    let show = |value: Option<String>| value.unwrap_or_else(|| "(absent)".to_owned());
    // Two folders differ in where they are.
    let differences = b.differences(&a)?.into_iter().filter(|difference| difference.key != "train.out_dir");
    Ok(differences.map(|found| format!("{}: {} -> {}", found.key, show(found.saved), show(found.now))).collect())
}

fn surroundings(a: &History, b: &History) -> Vec<String> {
    let (Some(a), Some(b)) = (a.process(), b.process()) else { return Vec::new() };
    let pairs = [
        ("lmc", &a.version, &b.version),
        ("device", &a.device, &b.device),
        ("plugin", &a.plugin, &b.plugin),
        ("machine", &a.host, &b.host),
    ];
    pairs.into_iter().filter(|(_, a, b)| a != b).map(|(what, a, b)| format!("{what}: {a} -> {b}")).collect()
}

/// The number of steps of both, and the first whose numbers differ.
fn first_step(a: &[TrainMetrics], b: &[TrainMetrics]) -> (u64, Option<StepDifference>) {
    let mut common = 0;
    let mut rest = b.iter().peekable();
    for a in a {
        while rest.next_if(|b| b.step < a.step).is_some() {}
        let Some(b) = rest.next_if(|b| b.step == a.step) else { continue };
        common += 1;
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        if !(same(a.loss, b.loss) && same(a.grad_norm, b.grad_norm)) {
            let (loss, grad_norm) = ([a.loss, b.loss], [a.grad_norm, b.grad_norm]);
            return (common, Some(StepDifference { step: a.step, loss, grad_norm }));
        }
    }
    (common, None)
}

/// The last checkpoint of both that is equal, before the first that differs.
fn first_tensor(first: &Path, second: &Path) -> Result<(Option<u64>, Option<TensorDifference>)> {
    let list = |run: &Path| -> Result<Vec<_>> {
        let folder = checkpoint::folder(run);
        if folder.exists() { checkpoint::list(run) } else { Ok(Vec::new()) }
    };
    let (mut a, b) = (list(first)?, list(second)?);
    a.sort_by_key(|(step, _)| *step);
    let mut equal = None;
    for (step, path) in a {
        let Some((_, other)) = b.iter().find(|(other, _)| *other == step) else { continue };
        let (a, b) = (checkpoint::read(&path)?, checkpoint::read(other)?);
        let mut all = compare_tensors(&a.model, &b.model);
        all.sort_by_key(|tensor| as_counted(&tensor.name));
        let mut optimizer = compare_tensors(&a.optimizer, &b.optimizer);
        optimizer.sort_by_key(|tensor| as_counted(&tensor.name));
        all.extend(optimizer);
        let of = all.len();
        let mut differing = all.into_iter().filter(|tensor| tensor.comparison != Comparison::Equal);
        if let Some(TensorComparison { name, comparison }) = differing.next() {
            let count = 1 + differing.count();
            return Ok((equal, Some(TensorDifference { step, name, comparison, count, of })));
        }
        equal = Some(step);
    }
    Ok((equal, None))
}

/// A path whose numbers are compared as numbers.
fn as_counted(path: &str) -> Vec<(u64, String)> {
    path.split('.').map(|piece| piece.parse().map_or_else(|_| (0, piece.to_owned()), |n| (n, String::new()))).collect()
}

/// The first lines in which the graphs that the runs keep differ.
fn first_lines(first: &Path, second: &Path) -> Option<[String; 2]> {
    let [a, b] = [first, second].map(|run| fs::read_to_string(run.join(super::GRAPH)).ok());
    let (a, b) = (a?, b?);
    let end = || std::iter::repeat(None);
    let lines = a.lines().map(Some).chain(end()).zip(b.lines().map(Some).chain(end()));
    let (a, b) = lines.take_while(|(a, b)| a.is_some() || b.is_some()).find(|(a, b)| a != b)?;
    Some([a, b].map(|line| line.unwrap_or("(the end)").trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(numbers: &[(u64, f64)]) -> Vec<TrainMetrics> {
        numbers.iter().map(|&(step, loss)| TrainMetrics { step, loss, ..TrainMetrics::default() }).collect()
    }

    #[test]
    fn the_first_step_that_differs_is_found_among_those_of_both() {
        let check = |a: &[(u64, f64)], b: &[(u64, f64)], common: u64, differs: Option<u64>| {
            let (found, step) = first_step(&steps(a), &steps(b));
            assert_eq!((found, step.map(|step| step.step)), (common, differs), "{a:?}, {b:?}");
        };
        check(&[(1, 3.0), (2, 2.0)], &[(1, 3.0), (2, 2.0), (3, 1.0)], 2, None);
        check(&[(1, 3.0), (2, 2.0), (3, 1.0)], &[(1, 3.0), (2, 2.5), (3, 1.0)], 2, Some(2));
        check(&[(5, 3.0), (6, 2.0)], &[(1, 3.0), (2, 2.0), (6, 2.1)], 1, Some(6));
        check(&[(1, f64::NAN)], &[(1, f64::NAN)], 1, None);
        check(&[(1, 3.0)], &[], 0, None);
    }

    #[test]
    fn layers_are_counted() {
        assert!(as_counted("h.9.attn") < as_counted("h.10.attn"));
        assert!(as_counted("a.weight") < as_counted("b.weight"));
    }
}
