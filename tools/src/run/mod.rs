//! A run on disk and on the screen: its folder, its metrics and what is made of them, its progress.

pub mod account;
mod divergence;
mod folder;
pub mod history;
pub(crate) mod host;
pub mod lowering;
mod metrics;
pub mod peaks;
mod plot;
mod progress;
pub(crate) mod quantity;
pub mod report;
pub(crate) mod saved;
pub mod tensorboard;

pub use account::{Activity, TimeAccount, TimeSpent};
pub use divergence::{Divergence, StepDifference, TensorDifference, compare_runs};
pub use folder::RunFolder;
pub(crate) use folder::replace_file;
pub use history::History;
pub(crate) use lowering::without_numbers;
pub use lowering::{Group, Lowering};
pub use metrics::{EvalMetrics, Event, MetricsFile, Start, TrainMetrics};
pub use peaks::peak_flops;
pub(crate) use plot::escape;
pub use progress::Progress;
pub(crate) use report::fill;
pub use tensorboard::EventFile;

/// The file of a run folder with the training step's text form, for a person, and to show a difference.
pub(crate) const GRAPH: &str = "graph.lmir";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, RawConfig};

    /// A config whose run folder is `out_dir`.
    pub(super) fn config_in(out_dir: &Path) -> Config {
        let text = format!(
            "model = {{ arch = \"gpt2\", vocab_size = 9, n_embd = 4, n_layer = 1, n_head = 1 }}\n\
             data = {{ train = \"/x.bin\" }}\noptimizer = {{ learning_rate = 1 }}\n\
             [train]\nsteps = 1\nseq_len = 4\nmicro_batch_size = 2\nout_dir = {:?}\n",
            out_dir.display().to_string()
        );
        RawConfig::parse(Path::new("run.toml"), &text, &[]).and_then(RawConfig::validate).unwrap()
    }
}
