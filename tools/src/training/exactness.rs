//! Whether interrupted runs end as an undisturbed one, bit by bit.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{self, Checkpoint, Comparison, TensorComparison, compare};
use lmc_runtime::gpu::Machine;

use crate::config::Config;
use crate::device::DeviceOptions;
use crate::error::{Error, Result};

use super::{TrainOptions, micro_batch, train};
use crate::memory::Room;

/// How a run that was interrupted and continued compares with one that was not.
#[derive(Clone, Debug, PartialEq)]
pub struct ResumedRun {
    /// The step it was interrupted after.
    pub interrupted_at: u64,
    /// Tensors compared: weights and optimizer state after the last step.
    pub tensors: usize,
    /// Those that differ.
    pub other_tensors: Vec<TensorComparison>,
    /// Lines of training steps compared, without times.
    pub lines: usize,
    /// The first step whose line differs or is missing.
    pub other_line: Option<u64>,
}

impl ResumedRun {
    /// Whether nothing differs.
    pub fn is_exact(&self) -> bool {
        self.other_tensors.is_empty() && self.other_line.is_none()
    }
}

/// What a line of a training step tells that the clock does not decide.
const EXACT: [&str; 4] = ["step", "loss", "grad_norm", "learning_rate"];

/// Trains `steps` steps, at least 2, of `config` straight, and again interrupted after the first step, in the middle and
/// before the last; all in temporary folders. The program is that of the whole run.
///
/// # Errors
/// As [`train`]; and if a signal interrupts it.
pub fn verify_resume(config: &Config, steps: u64, plugin: Option<&Path>) -> Result<Vec<ResumedRun>> {
    // Once for all runs: what fits may change between them.
    let options = DeviceOptions::from_config(&config.runtime, plugin.map(Path::to_owned));
    let config = &micro_batch::decided(config, None, &Room::of(&options, &Machine::this()))?;
    let folder = tempfile::Builder::new()
        .prefix("lmc-verify-resume-")
        .tempdir()
        .map_err(|error| Error::run(format!("cannot make a temporary folder: {error}")))?;
    let train_to = |run: &Path, step: u64| -> Result<Checkpoint> {
        let options =
            TrainOptions { stop_after: Some(step), plugin: plugin.map(Path::to_owned), ..TrainOptions::default() };
        train(&config.for_trial(run), &options)?;
        let newest = checkpoint::newest_valid(run)?.found.map(|(_, checkpoint)| checkpoint);
        newest.filter(|newest| newest.step == step).ok_or_else(|| Error::run("interrupted before it could be verified"))
    };
    let straight_run = folder.path().join("straight");
    let straight = train_to(&straight_run, steps)?;
    let straight_lines = train_lines(&straight_run)?;
    let mut moments = vec![1, steps / 2, steps.saturating_sub(1)];
    moments.dedup();
    let mut resumed = Vec::new();
    for interrupted_at in moments {
        let run = folder.path().join(format!("interrupted-{interrupted_at}"));
        train_to(&run, interrupted_at)?;
        let ended = train_to(&run, steps)?;
        resumed.push(ResumedRun {
            interrupted_at,
            ..compare_runs(&straight, &ended, &straight_lines, &train_lines(&run)?)
        });
        // A state may be large, and its comparison is done.
        fs::remove_dir_all(&run).map_err(|error| Error::cannot_write("over", &run, &error))?;
    }
    Ok(resumed)
}

fn compare_runs(straight: &Checkpoint, resumed: &Checkpoint, lines: &[Vec<Value>], again: &[Vec<Value>]) -> ResumedRun {
    let all = compare(straight, resumed);
    let tensors = all.len();
    let other_tensors = all.into_iter().filter(|tensor| tensor.comparison != Comparison::Equal).collect();
    let other = (0..lines.len().max(again.len())).find(|&i| lines.get(i) != again.get(i));
    let other_line = other.map(|i| i as u64 + 1);
    ResumedRun { interrupted_at: 0, tensors, other_tensors, lines: lines.len(), other_line }
}

/// What the training steps of a run have told, in order, without times.
fn train_lines(run: &Path) -> Result<Vec<Vec<Value>>> {
    let path: PathBuf = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(|error| Error::cannot_read("the metrics", &path, &error))?;
    let lines = text.lines().map(|line| {
        serde_json::from_str::<Value>(line)
            .map_err(|error| Error::run(format!("{} has a line that is not JSON: {error}", path.display())))
    });
    let lines: Vec<Value> = lines.collect::<Result<_>>()?;
    let train = lines.iter().filter(|line| line["event"] == "train");
    Ok(train.map(|line| EXACT.map(|key| line[key].clone()).to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use lmc_graph::Literal;

    use super::*;

    #[test]
    fn differences_of_runs_are_found() {
        let checkpoint = |weight: f32, moment: f32| Checkpoint {
            step: 2,
            seed: 1,
            config_hash: String::new(),
            config_toml: None,
            graph_hash: None,
            tokenizer_hash: None,
            rows: None,
            learning_rate: None,
            val_loss: None,
            data: None,
            model: [("w".to_owned(), Literal::scalar(weight))].into(),
            optimizer: [("m.w".to_owned(), Literal::scalar(moment))].into(),
            tokenizer: None,
            config_json: None,
        };
        let lines = |losses: &[f64]| -> Vec<Vec<Value>> { losses.iter().map(|&loss| vec![loss.into()]).collect() };
        let straight = (checkpoint(1.0, 2.0), lines(&[3.0, 2.0]));
        let compare =
            |resumed: &Checkpoint, again: &[f64]| compare_runs(&straight.0, resumed, &straight.1, &lines(again));
        let same = compare(&straight.0, &[3.0, 2.0]);
        assert!(same.is_exact() && (same.tensors, same.lines) == (2, 2));
        // The next number after 2 in f32, and a loss that is another in the last bit.
        let other = compare(&checkpoint(1.0, f32::from_bits(2_f32.to_bits() + 1)), &[3.0, 2.0]);
        assert!(!other.is_exact() && other.other_tensors[0].name == "m.w" && other.other_line.is_none());
        let other = compare(&straight.0, &[3.0, f64::from_bits(2_f64.to_bits() + 1)]);
        assert_eq!((other.is_exact(), other.other_line), (false, Some(2)));
        for (again, expected) in [(&[3.0][..], 2), (&[3.0, 2.0, 1.0], 3), (&[], 1)] {
            assert_eq!(compare(&straight.0, again).other_line, Some(expected));
        }
    }
}
