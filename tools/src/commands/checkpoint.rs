//! `lmc checkpoint`.

use std::fs::{File, TryLockError};
use std::path::Path;

use lmc_graph::DType;
use serde_json::{Value, json};

use crate::checkpoint::{
    self, Checkpoint, Comparison, Damage, Inspected, Kept, Retention, Summary, TensorComparison, inspect, list, read,
};
use crate::cli::{CheckpointCommand, ExportDType, KeepArgs, Weights};
use crate::config::{Config, RawConfig};
use crate::error::{Error, Result};
use crate::memory::size;
use crate::model::averaged_weights;
use crate::output::{group_digits, print, print_json, say};
use crate::run::RunFolder;
use crate::run::saved::with_end_of_document;

pub(super) fn run(command: CheckpointCommand) -> Result<()> {
    match command {
        CheckpointCommand::List { run, json } => show_list(&run, json),
        CheckpointCommand::Verify { path, json } => verify(&path, json),
        CheckpointCommand::Diff { first, second, json } => diff(&first, &second, json),
        CheckpointCommand::Prune { run, keep, dry_run, json } => prune(&run, &keep, dry_run, json),
        CheckpointCommand::Export { path, out, dtype, weights } => export(&path, &out, dtype, weights),
    }
}

/// The checkpoints of a run folder, which must have some, each read in full.
fn summaries(run: &Path) -> Result<Vec<Summary>> {
    let listed = list(run)?;
    if listed.is_empty() {
        return Err(Error::input(format!("{} has no checkpoints: name a run folder", run.display())));
    }
    Ok(listed.iter().map(|(step, path)| inspect(*step, path)).collect())
}

fn show_list(run: &Path, as_json: bool) -> Result<()> {
    let all = summaries(run)?;
    let config = RunFolder::config_of(run).unwrap_or_else(|error| {
        say(format_args!("warning: what is kept is not known: {error}"));
        None
    });
    let reasons: Vec<Vec<Kept>> = match config {
        Some(config) => retention_of(&config).reasons(&all),
        None => vec![Vec::new(); all.len()],
    };
    let rows = all.iter().zip(&reasons);
    if as_json {
        let rows: Vec<Value> = rows
            .map(|(summary, reasons)| {
                let mut row = summary_json(summary);
                row["kept"] = reasons.iter().map(|reason| reason.name()).collect();
                row
            })
            .collect();
        return print_json(&json!(rows));
    }
    let mut out = format!("{:>10}  {:>8}  {:>13}  {:<7}  kept because\n", "step", "size", "held-out loss", "state");
    for (summary, reasons) in rows {
        let loss = summary.val_loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
        let state = if summary.damage.is_empty() { "whole" } else { "damaged" };
        let words: Vec<&str> = reasons.iter().filter(|r| **r != Kept::Damaged).map(|reason| reason.name()).collect();
        let note = match summary.damage.as_slice() {
            [] => words.join(", "),
            damage => damage.iter().map(Damage::to_string).collect::<Vec<_>>().join("; "),
        };
        out += &format!(
            "{:>10}  {:>8}  {loss:>13}  {state:<7}  {note}\n",
            group_digits(summary.step),
            size(summary.bytes.into())
        );
    }
    print(&out)
}

fn summary_json(summary: &Summary) -> Value {
    let damage = |damage: &Damage| json!({"file": damage.file, "tensors": damage.tensors, "reason": damage.reason});
    json!({
        "step": summary.step,
        "path": summary.path.display().to_string(),
        "bytes": summary.bytes,
        "val_loss": summary.val_loss,
        "whole": summary.damage.is_empty(),
        "damage": summary.damage.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn verify(path: &Path, as_json: bool) -> Result<()> {
    let all = match checkpoint_step(path) {
        Some(step) => vec![inspect(step, path)],
        None => summaries(path)?,
    };
    if as_json {
        print_json(&all.iter().map(summary_json).collect())?;
    } else {
        for summary in &all {
            match summary.damage.as_slice() {
                [] => print(&format!("{}: whole\n", summary.path.display()))?,
                damage => {
                    let lines: String = damage.iter().map(|damage| format!("  {damage}\n")).collect();
                    print(&format!("{}: damaged\n{lines}", summary.path.display()))?;
                }
            }
        }
    }
    match all.iter().filter(|summary| !summary.damage.is_empty()).count() {
        0 => Ok(()),
        damaged => Err(Error::run(format!("{damaged} of {} checkpoints are damaged", all.len()))),
    }
}

/// The step of a path that is a checkpoint's folder rather than a run's.
fn checkpoint_step(path: &Path) -> Option<u64> {
    // `.` and `..` have no name of their own.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.file_name().and_then(|name| name.to_str()).and_then(checkpoint::step_of)
}

/// The checkpoint in a checkpoint's folder, or the newest whole one of a run folder.
fn open(path: &Path) -> Result<Checkpoint> {
    if checkpoint_step(path).is_some() {
        return read(path);
    }
    let newest = checkpoint::newest_valid(path)?;
    for (path, reason) in &newest.passed_over {
        say(format_args!("warning: passed over the checkpoint {}: {reason}", path.display()));
    }
    newest.found.map(|(_, checkpoint)| checkpoint).ok_or_else(|| {
        Error::input(format!("{} has no whole checkpoint: name a run folder or a checkpoint's", path.display()))
    })
}

fn diff(first: &Path, second: &Path, as_json: bool) -> Result<()> {
    let (a, b) = (open(first)?, open(second)?);
    let all = checkpoint::compare(&a, &b);
    let others = all.iter().filter(|tensor| tensor.comparison != Comparison::Equal).count();
    if as_json {
        let tensors: Vec<Value> = all.iter().map(comparison_json).collect();
        print_json(&json!({"steps": [a.step, b.step], "equal": others == 0, "tensors": tensors}))?;
    } else {
        let width = all.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        let mut out = format!("step {} and step {}\n", a.step, b.step);
        for TensorComparison { name, comparison } in &all {
            out += &format!("{name:<width$}  {}\n", describe_comparison(comparison));
        }
        print(&out)?;
    }
    match others {
        0 => Ok(()),
        others => Err(Error::run(format!("{others} of {} tensors differ", all.len()))),
    }
}

pub(super) fn describe_comparison(comparison: &Comparison) -> String {
    match comparison {
        Comparison::Equal => "equal".to_owned(),
        Comparison::Differs { count, max_abs, max_rel } => format!(
            "{} elements differ, at most by {max_abs:.3e}, relatively by {max_rel:.3e}",
            group_digits(*count as u64)
        ),
        Comparison::OtherType(a, b) => format!("{a} in the first, {b} in the second"),
        Comparison::OnlyFirst => "only in the first".to_owned(),
        Comparison::OnlySecond => "only in the second".to_owned(),
    }
}

pub(super) fn comparison_json(tensor: &TensorComparison) -> Value {
    let mut row = match &tensor.comparison {
        Comparison::Equal => json!({"comparison": "equal"}),
        // An infinite difference is `null`, for JSON has no other word.
        Comparison::Differs { count, max_abs, max_rel } => {
            json!({"comparison": "differs", "count": count, "max_abs": max_abs, "max_rel": max_rel})
        }
        Comparison::OtherType(a, b) => json!({"comparison": "type", "types": [a.to_string(), b.to_string()]}),
        Comparison::OnlyFirst => json!({"comparison": "only_first"}),
        Comparison::OnlySecond => json!({"comparison": "only_second"}),
    };
    row["name"] = tensor.name.clone().into();
    row
}

fn retention_of(config: &Config) -> Retention {
    let train = &config.train;
    Retention { keep_last: train.keep_last, keep_every: train.keep_every, keep_best: train.keep_best }
}

fn prune(run: &Path, keep: &KeepArgs, dry_run: bool, as_json: bool) -> Result<()> {
    let all = summaries(run)?;
    let config = RunFolder::config_of(run)?;
    let settings = config.as_ref().map(retention_of);
    let Some(keep_last) = keep.keep_last.or(settings.map(|settings| settings.keep_last)) else {
        return Err(Error::input(format!(
            "{} has no config.toml that tells what to keep: say --keep-last",
            run.display()
        )));
    };
    let keep_every = keep.keep_every.or(settings.map(|settings| settings.keep_every)).unwrap_or(0);
    let keep_best = keep.keep_best.or(settings.map(|settings| settings.keep_best)).unwrap_or(0);
    let retention = Retention { keep_last, keep_every, keep_best };
    let removed: Vec<_> = if dry_run {
        let reasons = retention.reasons(&all);
        all.iter().zip(reasons).filter(|(_, reasons)| reasons.is_empty()).map(|(s, _)| s.path.clone()).collect()
    } else {
        let _lock = refuse_running(run)?;
        checkpoint::prune(run, &retention, &mut Inspected::default())?
    };
    if as_json {
        let paths: Vec<String> = removed.iter().map(|path| path.display().to_string()).collect();
        return print_json(&json!({"removed": paths, "dry_run": dry_run}));
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let lines: String = removed.iter().map(|path| format!("{verb} {}\n", path.display())).collect();
    print(&lines)?;
    say(format_args!("{verb} {} of {} checkpoints", removed.len(), all.len()));
    Ok(())
}

/// Claims a run folder against a process that trains in it, which prunes by itself.
fn refuse_running(run: &Path) -> Result<Option<File>> {
    let path = run.join(".lock");
    // Checkpoints that were copied elsewhere have no lock, and nobody trains there.
    let Ok(lock) = File::options().write(true).open(&path) else { return Ok(None) };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            let advice = "which removes old checkpoints by itself, see train.keep_last";
            Err(Error::input(format!("a process is training in {}, {advice}", run.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::cannot_write("the lock", &path, &error)),
    }
}

fn export(path: &Path, out: &Path, dtype: ExportDType, weights: Weights) -> Result<()> {
    let mut saved = open(path)?;
    if weights == Weights::Averaged {
        saved.model = averaged_weights(&saved.optimizer).ok_or_else(|| {
            Error::input(format!(
                "{} has no average of its weights (train.ema_decay was 0): leave out --weights",
                path.display()
            ))
        })?;
    }
    if let (Some(tokenizer), Some(toml)) = (&saved.tokenizer, &saved.config_toml) {
        let config = RawConfig::parse(Path::new("the checkpoint's config.toml"), toml, &[])?.validate()?;
        saved.tokenizer = Some(with_end_of_document(tokenizer, &config)?);
    }
    let dtype = match dtype {
        ExportDType::Float32 => DType::F32,
        ExportDType::Bfloat16 => DType::BF16,
        ExportDType::Float16 => DType::F16,
    };
    checkpoint::export(&saved, out, dtype)?;
    say(format_args!("step {} is in {}", saved.step, out.display()));
    Ok(())
}
