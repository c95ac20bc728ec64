//! What may change when a run is continued.

use crate::config::{Config, Difference};
use crate::error::Result;

/// The settings in which a continued run differs from the one that was started, as `key: old -> new`.
pub(super) fn allowed_changes(config: &Config, saved: &Config) -> Result<Vec<String>> {
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let (allowed, refused): (Vec<_>, Vec<_>) =
        config.differences(saved)?.into_iter().partition(|difference| difference.allowed);
    let describe = |difference: &Difference| {
        format!("{}: {} -> {}", difference.key, show(&difference.saved), show(&difference.now))
    };
    if let Some(first) = refused.first() {
        let list = refused.iter().map(|d| format!("\n  {}", describe(d))).collect::<String>();
        let message = format!(
            "the run in {} was started with other settings, and cannot be continued with these:{list}\nStart over with \
             --fresh (the old run is kept), or name another folder with --out",
            config.train.out_dir.display()
        );
        return Err(config.error_at(&first.key, message));
    }
    Ok(allowed.iter().map(describe).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    fn config(settings: &[&str]) -> Config {
        let text = "[model]\narch = \"gpt2\"\nvocab_size = 9\nn_embd = 4\nn_layer = 1\nn_head = 1\n\
                    [data]\ntrain = \"/x.bin\"\n[optimizer]\nlearning_rate = 1\n\
                    [train]\nsteps = 5\nseq_len = 4\nmicro_batch_size = 2\nout_dir = \"/run\"\n";
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        RawConfig::parse(Path::new("run.toml"), text, &settings).and_then(RawConfig::validate).unwrap()
    }

    #[test]
    fn a_continued_run_may_change_what_does_not_change_its_past() {
        let changes = |settings: &[&str]| allowed_changes(&config(settings), &config(&[])).unwrap();
        assert_eq!(changes(&[]), [""; 0]);
        assert_eq!(changes(&["train.steps=9"]), ["train.steps: 5 -> 9"]);
        assert_eq!(
            changes(&["runtime.threads=2", "data.val=\"/v.bin\"", "train.save_every=0"]),
            ["data.val: (absent) -> [\"/v.bin\"]", "runtime.threads: 0 -> 2", "train.save_every: 1000 -> 0"]
        );
    }

    #[test]
    fn a_continued_run_may_not_change_what_it_learns() {
        let settings = ["train.steps=9", "train.seed=1", "optimizer.learning_rate=2"];
        let error = allowed_changes(&config(&settings), &config(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in [
            "the run in /run was started with other settings",
            "\n  optimizer.learning_rate: 1.0 -> 2.0\n  train.seed: 1337 -> 1\n",
            "--fresh",
            "--set 'optimizer.learning_rate=2'",
        ] {
            assert!(error.message().contains(part), "expected {part:?} in {error}");
        }
        assert!(!error.message().contains("train.steps"), "only what is refused: {error}");
    }
}
