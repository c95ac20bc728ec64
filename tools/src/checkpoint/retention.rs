//! Which checkpoints are kept, and the removal of the others.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::read::{Inspected, Summary, outline};
use super::write::remove;
use super::{folder, list};

/// Which checkpoints are kept: those that any of the three asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest; 0 keeps all.
    pub keep_last: u64,
    /// Those whose step is a multiple of this; 0 keeps none for it.
    pub keep_every: u64,
    /// So many of those with the lowest held-out loss; 0 keeps none for it.
    pub keep_best: u64,
}

/// Why a checkpoint is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is among the newest.
    Last,
    /// Its step is one to keep.
    Every,
    /// Its held-out loss is among the lowest.
    Best,
    /// It is not whole: it counts for nothing, and is left for a person to look at.
    Damaged,
}

impl Kept {
    /// The word for it, after the setting.
    pub fn name(self) -> &'static str {
        match self {
            Kept::Last => "last",
            Kept::Every => "every",
            Kept::Best => "best",
            Kept::Damaged => "damaged",
        }
    }
}

impl Retention {
    /// Why each of `all`, in the order of steps, is kept; those without a reason may go. Damaged ones do not count, so
    /// that none is ever the reason for a whole one to go.
    pub fn reasons(&self, all: &[Summary]) -> Vec<Vec<Kept>> {
        let whole: Vec<usize> = (0..all.len()).filter(|&i| all[i].damage.is_empty()).collect();
        let mut reasons: Vec<Vec<Kept>> = vec![Vec::new(); all.len()];
        let count = |keep: u64| usize::try_from(keep).unwrap_or(usize::MAX);
        let last = if self.keep_last == 0 { whole.len() } else { count(self.keep_last) };
        whole.iter().rev().take(last).for_each(|&i| reasons[i].push(Kept::Last));
        let every = |step: u64| self.keep_every != 0 && step.is_multiple_of(self.keep_every);
        whole.iter().filter(|&&i| every(all[i].step)).for_each(|&i| reasons[i].push(Kept::Every));
        let mut measured: Vec<(f64, usize)> = whole.iter().filter_map(|&i| Some((all[i].val_loss?, i))).collect();
        // Of equals, the newer one; a loss that is not a number comes last.
        measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        measured.iter().take(count(self.keep_best)).for_each(|&(_, i)| reasons[i].push(Kept::Best));
        (0..all.len()).filter(|i| !whole.contains(i)).for_each(|i| reasons[i].push(Kept::Damaged));
        reasons
    }
}

/// Removes the checkpoints of the run folder `run` that nothing keeps, oldest first, and returns their folders. Each
/// gets a hidden name before its files go, so that none is ever there in part.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(run: &Path, retention: &Retention, inspected: &mut Inspected) -> Result<Vec<PathBuf>> {
    let listed = list(run)?;
    // Where as many are kept as there are, none needs to be read.
    if retention.keep_last == 0 || u64::try_from(listed.len()).unwrap_or(u64::MAX) <= retention.keep_last {
        return Ok(Vec::new());
    }
    // All that goes, and all for whose sake it goes, must be found whole; what is kept for its step alone need not be
    // read, for there may be many.
    let mut all: Vec<Summary> = listed.iter().map(|(step, path)| outline(*step, path)).collect();
    let mut read = vec![false; all.len()];
    let reasons = loop {
        let reasons = retention.reasons(&all);
        let to_read = |i: &usize| !read[*i] && !matches!(reasons[*i].as_slice(), [Kept::Every] | [Kept::Damaged]);
        let Some(i) = (0..all.len()).rev().find(to_read) else { break reasons };
        all[i] = inspected.inspect(all[i].step, &all[i].path);
        read[i] = true;
    };
    let mut removed = Vec::new();
    for (summary, reasons) in all.iter().zip(reasons) {
        if reasons.is_empty() {
            let hidden = hidden_name(&summary.path, "pruned");
            let fail = |error| Error::cannot_write("over the old checkpoint", &summary.path, &error);
            fs::rename(&summary.path, &hidden).map_err(fail)?;
            removed.push(summary.path.clone());
            remove(&hidden).map_err(fail)?;
        }
    }
    Ok(removed)
}

/// `.step-00000200.pruned` for `step-00000200`.
fn hidden_name(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// Removes what a process that was killed has left in the run folder `run`: folders that were being written or removed.
/// A checkpoint that was about to be replaced by one of the same step comes back, unless its successor is there.
/// To be called only by the process that holds the run folder. Returns what was found.
///
/// # Errors
/// If it cannot be removed.
pub fn clean(run: &Path) -> Result<Vec<PathBuf>> {
    let all = folder(run);
    let mut found = Vec::new();
    for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((target, ending)) = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) else { continue };
        if !target.starts_with("step-") {
            continue;
        }
        let (path, target) = (entry.path(), all.join(target));
        let done = match ending {
            "replaced" if !target.exists() => fs::rename(&path, &target),
            "partial" | "pruned" | "replaced" => remove(&path),
            _ => continue,
        };
        done.map_err(|error| Error::cannot_write("over what an earlier process left in", &path, &error))?;
        found.push(path);
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::read::Damage;

    /// Checkpoints as `step`, `step!` for a damaged one, `step:loss`; and what is expected to stay.
    fn check(retention: (u64, u64, u64), all: &str, expected: &str) {
        let (keep_last, keep_every, keep_best) = retention;
        let summary = |word: &str| {
            let (step, loss) = word.trim_end_matches('!').split_once(':').unwrap_or((word.trim_end_matches('!'), ""));
            let damage = Damage { file: "x".to_owned(), tensors: Vec::new(), reason: String::new() };
            let damage = if word.ends_with('!') { vec![damage] } else { Vec::new() };
            let step = step.parse().unwrap();
            Summary { step, path: PathBuf::new(), bytes: 0, val_loss: loss.parse().ok(), damage }
        };
        let summaries: Vec<Summary> = all.split_whitespace().map(summary).collect();
        let reasons = Retention { keep_last, keep_every, keep_best }.reasons(&summaries);
        let kept: Vec<String> = summaries
            .iter()
            .zip(reasons)
            .filter(|(_, reasons)| !reasons.is_empty())
            .map(|(s, reasons)| {
                let words: Vec<&str> = reasons.into_iter().map(Kept::name).collect();
                format!("{}={}", s.step, words.join("+"))
            })
            .collect();
        assert_eq!(kept.join(" "), expected, "{retention:?} of {all}");
    }

    #[test]
    fn what_is_kept() {
        check((0, 0, 0), "1 2 3", "1=last 2=last 3=last");
        check((1, 0, 0), "1 2 3", "3=last");
        check((2, 0, 0), "1 2 3", "2=last 3=last");
        check((9, 0, 0), "1 2", "1=last 2=last");
        check((1, 2, 0), "1 2 3 4 5", "2=every 4=every 5=last");
        check((1, 0, 1), "1:3.0 2:1.0 3:2.0 4", "2=best 4=last");
        check((1, 0, 2), "1:3.0 2:1.0 3:2.0", "2=best 3=last+best");
        check((1, 0, 1), "1:1.0 2:1.0 3", "2=best 3=last");
        check((1, 0, 1), "1:NaN 2:1.0 3", "2=best 3=last");
        // A damaged one counts neither as the last nor as the best.
        check((1, 0, 0), "1 2 3!", "2=last 3=damaged");
        check((2, 0, 1), "1:5.0 2:4.0! 3 4! 5", "1=best 2=damaged 3=last 4=damaged 5=last");
        check((1, 0, 1), "1! 2!", "1=damaged 2=damaged");
        check((1, 1, 1), "", "");
    }
}
