//! A run as a page: `loss.svg` and `report.html`, made from what the run folder holds, while training goes on or after.
//!
//! Everything is read from files (`metrics.jsonl`, `config.toml`, `lowering.json`), so that the page of a run that was
//! killed is the page it would have made itself.

mod charts;
mod comparison;
mod html;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::account::TimeSpent;
use super::folder::{CONFIG, replace_view};
use super::history::{End, History};
use super::lowering::{self, Lowering};
use super::metrics;
use crate::error::{Error, Result};

pub use comparison::comparison_page;
pub(crate) use html::fill;
pub use page::run_page;

/// What a run folder tells of its run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The folder.
    pub path: PathBuf,
    /// The folder's name.
    pub name: String,
    /// The resolved config, as text.
    pub config: String,
    /// What happened.
    pub history: History,
    /// How the training step lowered; `None` where the run folder does not tell.
    pub lowering: Option<Lowering>,
    /// Whether it is known to be going on.
    pub running: bool,
}

/// The numbers of a run that stand at the top of its report.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The run folder.
    pub run: String,
    /// `done`, `stopped`, `not finite`, `failed`, `running`, or `unfinished`: running, or killed.
    pub status: &'static str,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: Option<u64>,
    /// Tokens trained on.
    pub tokens: Option<u64>,
    /// Trainable elements.
    pub num_parameters: Option<u64>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Mean loss of the last steps: a tenth of all, at most 100.
    pub recent_loss: Option<f64>,
    /// The last held-out loss.
    pub val_loss: Option<f64>,
    /// The best held-out loss, and the step it was measured after.
    pub best_val_loss: Option<f64>,
    /// The step of `best_val_loss`.
    pub best_val_step: Option<u64>,
    /// Tokens a second, over all steps but the first.
    pub tokens_per_s: Option<f64>,
    /// Model FLOPs utilization, over the same.
    pub mfu: Option<f64>,
    /// Peak memory.
    pub peak_memory_bytes: Option<u64>,
    /// Seconds of all steps.
    pub step_seconds: f64,
    /// What the run's processes spent their time on, as far as they lived to tell.
    pub time: TimeSpent,
    /// The device.
    pub device: String,
    /// lmc's version.
    pub version: String,
}

impl RunRecord {
    /// Reads a run folder.
    ///
    /// # Errors
    /// If the folder is not one of a run, or cannot be read.
    pub fn read(run: &Path) -> Result<RunRecord> {
        let config = run.join(CONFIG);
        let missing = [CONFIG, metrics::NAME].into_iter().find(|name| !run.join(name).is_file());
        if let Some(missing) = missing {
            let shown = run.display();
            let reason = match (run.is_file(), run.exists()) {
                (true, _) => "it is a file; name the run's folder".to_owned(),
                (false, false) => "there is no such folder".to_owned(),
                (false, true) => format!("it has no {missing}"),
            };
            return Err(Error::input(format!("{shown} is not a run folder: {reason}")));
        }
        let config = fs::read_to_string(&config).map_err(|e| Error::cannot_read("the run's config", &config, &e))?;
        // A view of older runs too: what cannot be read is as what is not there.
        let lowering = fs::read(run.join(lowering::NAME)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
        let name = absolute.file_name().map_or_else(|| run.display().to_string(), |name| name.to_string_lossy().into());
        let (path, history) = (run.to_owned(), History::read(run)?);
        Ok(RunRecord { path, name, config, history, lowering, running: false })
    }

    /// The config's settings by dotted key, as TOML; empty if it is none.
    pub fn settings(&self) -> Vec<(String, String)> {
        let table: toml::Table = self.config.parse().unwrap_or_default();
        let mut settings = Vec::new();
        for (section, value) in table {
            match value.as_table() {
                Some(table) => {
                    settings.extend(table.iter().map(|(key, value)| (format!("{section}.{key}"), value.to_string())));
                }
                None => settings.push((section, value.to_string())),
            }
        }
        settings
    }

    /// A setting.
    fn setting(&self, key: &str) -> Option<toml::Value> {
        let (section, key) = key.split_once('.')?;
        let table: toml::Table = self.config.parse().ok()?;
        table.get(section)?.get(key).cloned()
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> Option<u64> {
        u64::try_from(self.setting("train.steps")?.as_integer()?).ok()
    }

    /// `done`, `stopped` and so on: see [`Summary::status`].
    pub fn status(&self) -> &'static str {
        match self.history.end {
            Some(End::Done) => "done",
            Some(End::Signal) => "stopped",
            Some(End::NonFinite) => "not finite",
            Some(End::Failed) => "failed",
            None if self.running => "running",
            None => "unfinished",
        }
    }

    /// The numbers at the top.
    pub fn summary(&self) -> Summary {
        let history = &self.history;
        let process = history.process();
        Summary {
            run: self.path.display().to_string(),
            status: self.status(),
            step: history.step(),
            steps: self.steps(),
            tokens: history.tokens_per_step().map(|tokens| tokens.saturating_mul(history.step())),
            num_parameters: process.and_then(|process| process.num_parameters),
            loss: history.train.last().map(|line| line.loss),
            recent_loss: history.recent_loss(),
            val_loss: history.last_eval().map(|eval| eval.val_loss),
            best_val_loss: history.best_eval().map(|eval| eval.val_loss),
            best_val_step: history.best_eval().map(|eval| eval.step),
            tokens_per_s: history.tokens_per_s(),
            mfu: history.mfu(),
            peak_memory_bytes: history.peak_memory_bytes(),
            step_seconds: history.elapsed().last().copied().unwrap_or(0.0),
            time: history.time,
            device: process.map_or_else(String::new, |process| process.device.clone()),
            version: process.map_or_else(String::new, |process| process.version.clone()),
        }
    }
}

/// The page's name in the run folder.
pub const PAGE: &str = "report.html";

/// Writes `loss.svg` and `report.html` of a run into its folder. `running` tells that it is going on.
///
/// # Errors
/// If the folder cannot be read or written.
pub fn write(run: &Path, running: bool) -> Result<()> {
    let record = RunRecord { running, ..RunRecord::read(run)? };
    let loss = charts::loss(&record.history, "loss", false).file(800.0, 400.0);
    for (name, content) in [("loss.svg", loss), (PAGE, run_page(&record))] {
        let path = run.join(name);
        replace_view(&path, content.as_bytes()).map_err(|e| Error::cannot_write("the report", &path, &e))?;
    }
    Ok(())
}
