//! `lmc generate`.

use serde_json::json;

use super::pretrained;
use crate::cli::{GenerateArgs, ModelArgs};
use crate::error::{Error, Result};
use crate::generation::{Generator, Sampling, check};
use crate::output::{print, print_json};
use crate::run::saved::SavedRun;

pub(super) fn run(args: GenerateArgs) -> Result<()> {
    let is_page = args.run.is_file() && args.run.extension().is_some_and(|extension| extension == "safetensors");
    let is_run = args.run.join("config.toml").is_file() || is_page;
    if !is_run || args.model != ModelArgs::default() {
        return pretrained::generate(&args);
    }
    let set = args.device.device.map(|device| format!("runtime.device={}", toml::Value::from(device)));
    let saved = SavedRun::read_with(&args.run, set.as_slice())?;
    let defaults = saved.config.sample.clone().unwrap_or_default();
    let sampling = Sampling {
        count: args.samples.unwrap_or(defaults.count),
        max_new_tokens: args.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        temperature: args.temperature.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        prompts: if args.prompt.is_empty() { defaults.prompt } else { vec![args.prompt] },
        seed: args.seed.unwrap_or(saved.config.train.seed),
    };
    validate(&sampling)?;
    let Some(tokenizer) = &saved.tokenizer else {
        return Err(Error::input(format!(
            "{} was trained on token shards, and has no tokenizer to read a prompt or write text with",
            args.run.display()
        )));
    };
    check(&saved.step_config, tokenizer, &sampling)?;
    let device = saved.open_device(args.plugin.plugin)?;
    let mut generator = Generator::new(&saved.step_config, tokenizer, &sampling)?;
    let weights = saved.weights(&device, args.weights)?;
    for (prompt, text) in generator.generate(&device, &weights)? {
        if args.json {
            print_json(&json!({ "prompt": prompt, "text": text }))?;
        } else {
            print(&format!("{text}\n"))?;
        }
    }
    Ok(())
}

/// Refuses settings that no distribution has.
fn validate(sampling: &Sampling) -> Result<()> {
    if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
        return Err(Error::input(format!("--temperature must be 0 or more, found {}", sampling.temperature)));
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return Err(Error::input(format!("--top-p must be more than 0 and at most 1, found {}", sampling.top_p)));
    }
    for (name, number) in [("--samples", sampling.count), ("--max-new-tokens", sampling.max_new_tokens)] {
        // The window and the result are held at once; this is far beyond what anyone reads.
        if number > 1 << 20 {
            return Err(Error::input(format!("{name} must be at most {}, found {number}", 1 << 20)));
        }
    }
    Ok(())
}
