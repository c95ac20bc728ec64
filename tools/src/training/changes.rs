//! What may change when a run is continued.

use std::fs;
use std::path::Path;

use lmc_models::train_step;
use serde::Deserialize as _;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, text_hash};
use crate::config::{Config, Difference, RawConfig};
use crate::data::Fingerprint;
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::run::{GRAPH, RunFolder, replace_file};

use super::origin::Origin;

/// How a continued run differs from the one that was saved, as `key: old -> new`.
///
/// # Errors
/// If it differs in what makes it another run: settings, tokenizer, data, or, unless `accept_graph`, the graph that this
/// version of lmc makes of the same settings.
pub(super) fn changes(config: &Config, now: &Origin, saved: &Checkpoint, accept_graph: bool) -> Result<Vec<String>> {
    let saved_config = match &saved.config_toml {
        Some(toml) => Some(RawConfig::parse(Path::new("the checkpoint's config.toml"), toml, &[])?.validate()?),
        None => RunFolder::config_of(&config.train.out_dir)?,
    };
    let mut changes = match &saved_config {
        Some(saved_config) => allowed_changes(config, saved_config)?,
        None => Vec::new(),
    };
    same_tokenizer(config, now.tokenizer_hash.as_deref(), saved)?;
    changes.extend(same_data(config, &now.data, saved.data.as_ref())?);
    if let Some(saved_config) = &saved_config {
        changes.extend(same_graph(config, now, saved, saved_config, accept_graph)?);
    }
    let rate = now.learning_rate(saved.step);
    if let Some(old) = saved.learning_rate.filter(|old| *old != rate) {
        changes.push(format!("the learning rate of step {}: {old:e} -> {rate:e}", saved.step + 1));
    }
    Ok(changes)
}

/// The settings in which a continued run differs from the one that was started, as `key: old -> new`.
fn allowed_changes(config: &Config, saved: &Config) -> Result<Vec<String>> {
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let (allowed, refused): (Vec<_>, Vec<_>) =
        config.differences(saved)?.into_iter().partition(|difference| difference.allowed);
    let describe = |difference: &Difference| {
        format!("{}: {} -> {}", difference.key, show(&difference.saved), show(&difference.now))
    };
    if let Some(first) = refused.first() {
        let list = refused.iter().map(|d| format!("\n  {}", describe(d))).collect::<String>();
        return Err(refusal(config, &first.key, &format!("was started with other settings, {NOT_WITH}:{list}")));
    }
    Ok(allowed.iter().map(describe).collect())
}

const NOT_WITH: &str = "and cannot be continued with these";

/// The error of a run that is another one.
fn refusal(config: &Config, key: &str, what: &str) -> Error {
    let out_dir = config.train.out_dir.display();
    let advice = "Start over with --fresh (the old run is kept), or name another folder with --out";
    config.error_at(key, format!("the run in {out_dir} {what}\n{advice}"))
}

/// Refuses another tokenizer: the same text would be other tokens.
fn same_tokenizer(config: &Config, now: Option<&str>, saved: &Checkpoint) -> Result<()> {
    // Format 1 has the tokenizer, and with it its hash.
    let saved_hash = match (&saved.tokenizer_hash, &saved.tokenizer) {
        (None, Some(tokenizer)) => Some(text_hash(&tokenizer.to_json())),
        (hash, _) => hash.clone(),
    };
    if saved_hash.as_deref() == now {
        return Ok(());
    }
    let show = |hash: Option<&str>| hash.map_or_else(|| "(absent)".to_owned(), |hash| format!("SHA-256 {hash}"));
    let difference = format!("{} -> {}", show(saved_hash.as_deref()), show(now));
    Err(refusal(config, "data", &format!("was started with another tokenizer, {NOT_WITH}:\n  tokenizer: {difference}")))
}

/// Refuses other training data than those of the checkpoint, if it tells of them; returns what is other in the held-out
/// data.
fn same_data(config: &Config, now: &Fingerprint, saved: Option<&Value>) -> Result<Vec<String>> {
    let Some(saved) = saved else { return Ok(Vec::new()) };
    let saved = Fingerprint::deserialize(saved).map_err(|error| {
        refusal(config, "data", &format!("does not say what its data are in a way this version of lmc reads: {error}"))
    })?;
    let differences = now.differences(&saved);
    if differences.is_empty() {
        let other = now.held_out_differences(&saved).into_iter();
        return Ok(other.map(|difference| format!("held-out data: {difference}")).collect());
    }
    let list: String = differences.iter().map(|line| format!("\n  {line}")).collect();
    Err(refusal(config, "data", &format!("was started with other data, {NOT_WITH}:{list}")))
}

/// Refuses a training step that is another one for another reason than the settings, which were compared: this version
/// of lmc computes something else than the one that saved. With `accept` it is a change like others.
fn same_graph(
    config: &Config,
    now: &Origin,
    saved: &Checkpoint,
    saved_config: &Config,
    accept: bool,
) -> Result<Option<String>> {
    let Some(hash) = saved.graph_hash.as_ref().filter(|hash| **hash != now.graph_hash) else { return Ok(None) };
    // Settings that may change, as the number of steps, are part of the graph: what would it be with the old ones?
    let graph = train_step(&step_config(saved_config)?).map_err(differentiation_error)?.func.to_string();
    if text_hash(&graph) == *hash {
        return Ok(None);
    }
    if accept {
        return Ok(Some("the training step's graph, which another version of lmc made".to_owned()));
    }
    let path = config.train.out_dir.join(GRAPH);
    let shown = match fs::read_to_string(&path) {
        Ok(old) if text_hash(&old) == *hash => first_difference(&old, &graph),
        Ok(_) | Err(_) => format!("\n  graph: SHA-256 {hash} -> {}", text_hash(&graph)),
    };
    let message = format!(
        "was started with another version of lmc, which made another training step of the same settings:{shown}\n\
         --accept-graph continues with the new one, though not bit for bit."
    );
    Err(refusal(config, "train.out_dir", &message))
}

/// The first line in which two graphs differ.
fn first_difference(saved: &str, now: &str) -> String {
    let lines = saved.lines().map(Some).chain(std::iter::repeat(None));
    let mut pairs = lines.zip(now.lines().map(Some).chain(std::iter::repeat(None))).zip(1..);
    match pairs.find(|((old, new), _)| old != new || old.is_none()) {
        Some(((old, new), line)) => {
            let show = |line: Option<&str>| line.unwrap_or("(the end)").trim().to_owned();
            format!("\n  line {line}: {}\n  now:    {}", show(old), show(new))
        }
        None => String::new(),
    }
}

/// Writes the graph into the run folder.
pub(super) fn keep_graph(run: &RunFolder, now: &Origin) -> Result<()> {
    let path = run.path().join(GRAPH);
    replace_file(&path, now.graph.as_bytes()).map_err(|error| Error::cannot_write("the graph", &path, &error))
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
    fn data_that_are_others_are_refused_with_the_difference() {
        let print = |name: &str, bytes: u64| -> Value {
            serde_json::json!({ "name": name, "bytes": bytes, "blocks": 0, "sha256": format!("{name}{bytes}") })
        };
        let data = |train: &[Value], val: &[Value]| serde_json::json!({ "train": [train], "val": val });
        let saved = data(&[print("a.bin", 70), print("b.bin", 8)], &[print("v.bin", 6)]);
        let check = |now: Value, saved: Option<&Value>| -> Result<Vec<String>> {
            same_data(&config(&[]), &serde_json::from_value(now).expect("a fingerprint"), saved)
        };
        assert_eq!(check(saved.clone(), Some(&saved)).unwrap(), [""; 0]);
        assert_eq!(check(saved.clone(), None).unwrap(), [""; 0], "older checkpoints do not tell");
        let shorter = data(&[print("a.bin", 70), print("b.bin", 6)], &[print("v.bin", 6)]);
        let error = check(shorter, Some(&saved)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.message().contains("started with other data") && error.message().contains("b.bin"), "{error}");
        let held_out = data(&[print("a.bin", 70), print("b.bin", 8)], &[print("v.bin", 9)]);
        let changes = check(held_out, Some(&saved)).unwrap();
        assert!(changes.len() == 1 && changes[0].starts_with("held-out data: "), "{changes:?}");
        let error = check(saved, Some(&serde_json::json!(7))).unwrap_err();
        assert!(error.message().contains("does not say what its data are"), "{error}");
    }

    #[test]
    fn graphs_differ_first_in_a_line() {
        for (saved, now, expected) in [
            ("a\nb\n", "a\n c\n", "\n  line 2: b\n  now:    c"),
            ("a\n", "a\nb\n", "\n  line 2: (the end)\n  now:    b"),
            ("a\nb\n", "a\n", "\n  line 2: b\n  now:    (the end)"),
        ] {
            assert_eq!(first_difference(saved, now), expected);
        }
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
