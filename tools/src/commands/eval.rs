//! `lmc eval`.

use serde_json::json;

use super::pretrained;
use crate::cli::{EvalArgs, ModelArgs};
use crate::data::Data;
use crate::error::{Error, Result};
use crate::evaluation::Evaluator;
use crate::output::{group_digits, print, print_json};
use crate::run::saved::SavedRun;

pub(super) fn run(args: EvalArgs) -> Result<()> {
    if let Some(file) = &args.perplexity {
        return pretrained::perplexity(&args, file);
    }
    if args.model != ModelArgs::default() {
        return Err(Error::input("--dtype, --context and the like go with --perplexity"));
    }
    let saved = SavedRun::read(&args.run)?;
    let (config, data) = Data::open(&saved.config, saved.tokenizer.as_ref())?;
    if data.held_out_tokens() == 0 {
        return Err(Error::input(format!(
            "{} has no held-out data: its config sets neither data.val nor data.val_fraction",
            args.run.display()
        )));
    }
    let device = saved.open_device(args.plugin.plugin)?;
    let weights = saved.weights(&device, args.weights)?;
    let step = saved.step;
    let result = Evaluator::new(&config, &data, &saved.step_config).evaluate(&device, &weights, step)?;
    let perplexity = result.val_loss.exp();
    if args.json {
        return print_json(&json!({
            "step": step, "val_loss": result.val_loss, "perplexity": perplexity, "tokens": result.tokens,
        }));
    }
    print(&format!(
        "step {step}: held-out loss {:.4} nats a token over {} tokens, perplexity {perplexity:.3}\n",
        result.val_loss,
        group_digits(result.tokens)
    ))
}
