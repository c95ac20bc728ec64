//! What may change when a run is continued.

use std::fs;
use std::path::Path;

use lmc_models::train_step;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, text_hash};
use crate::config::{Config, Difference, RawConfig};
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::run::{RunFolder, replace_file};

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
    same_data(config, now.data.as_ref(), saved.data.as_ref())?;
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

/// Refuses other data than those of the checkpoint, wherever both say what they are.
fn same_data(config: &Config, now: Option<&Value>, saved: Option<&Value>) -> Result<()> {
    let (Some(now), Some(saved)) = (now, saved) else { return Ok(()) };
    let mut list = Vec::new();
    differences("data", saved, now, &mut list);
    if list.is_empty() {
        return Ok(());
    }
    let list: String = list.iter().map(|line| format!("\n  {line}")).collect();
    Err(refusal(config, "data.train", &format!("was started with other data, {NOT_WITH}:{list}")))
}

/// Where two JSON values differ, as `key: old -> new`.
fn differences(key: &str, saved: &Value, now: &Value, list: &mut Vec<String>) {
    let absent = Value::Null;
    if let (Value::Object(old), Value::Object(new)) = (saved, now) {
        for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
            let (old, new) = (old.get(name).unwrap_or(&absent), new.get(name).unwrap_or(&absent));
            differences(&format!("{key}.{name}"), old, new, list);
        }
    } else if saved != now {
        list.push(format!("{key}: {saved} -> {now}"));
    }
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

/// The file of the run folder with the training step's text form, for a person, and to show a difference.
const GRAPH: &str = "graph.lmir";

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
        use serde_json::json;
        let (config, saved) = (config(&[]), json!({"train": {"tokens": 7, "files": ["a", "b"]}, "order": 1}));
        let check = |now: Option<&Value>, saved: Option<&Value>, expected: &[&str]| match same_data(&config, now, saved)
        {
            Ok(()) => assert_eq!(expected, [""; 0]),
            Err(error) => {
                assert_eq!(error.exit_code(), 2);
                let lines: Vec<&str> = error.message().lines().filter_map(|line| line.strip_prefix("  data")).collect();
                assert_eq!(lines, expected, "{error}");
            }
        };
        check(Some(&saved), Some(&saved), &[]);
        check(None, Some(&saved), &[]);
        check(Some(&saved), None, &[]);
        let now = json!({"train": {"tokens": 8, "files": ["a"]}, "order": 1, "seed": null, "val": 2});
        let expected = [".train.tokens: 7 -> 8", ".train.files: [\"a\",\"b\"] -> [\"a\"]", ".val: null -> 2"];
        check(Some(&now), Some(&saved), &expected);
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
