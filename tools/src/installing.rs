//! What a person sees while a plugin is installed: one bar on a terminal, a few lines elsewhere, always on stderr.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lmc_runtime::plugin::Progress;

use crate::output::say;
use crate::run::quantity::with_unit;

/// Downloads from here on are told wheel by wheel where there is no terminal: they take minutes.
const LARGE: u64 = 200_000_000;

/// An installation under way. The bar goes when it is dropped.
#[derive(Debug, Default)]
pub struct Installation {
    bar: Option<ProgressBar>,
    /// What was last told, where there is no bar.
    told: String,
}

impl Installation {
    /// Shows a step.
    pub fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Waiting { name } => {
                say(format_args!("waiting for another process that installs the plugin `{name}`"));
            }
            Progress::Starting { name, download, kept, unpacked_megabytes } => {
                let bytes = |bytes: u64| with_unit(bytes as f64, "B");
                let kept = if kept > 0 { format!(" ({} are here already)", bytes(kept)) } else { String::new() };
                let (download, room) = (bytes(download), bytes(unpacked_megabytes * 1_000_000));
                say(format_args!(
                    "installing the plugin `{name}`, once only: {download} to fetch with pip{kept}, {room} on disk"
                ));
            }
            Progress::Working { what, done, total } => self.work(what, done, total),
            Progress::Finished { dir } => {
                self.bar = None;
                say(format_args!("the plugin is in {}", dir.display()));
            }
        }
    }

    fn work(&mut self, what: String, done: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
                // One that does not parse would leave indicatif's own.
                if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}") {
                    bar.set_style(style);
                }
                bar
            });
            bar.set_position(done);
            bar.set_message(what);
        } else if self.told != what && total > 2 * LARGE {
            say(&what);
            self.told = what;
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
