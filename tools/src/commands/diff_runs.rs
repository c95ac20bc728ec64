//! `lmc diff-runs`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::checkpoint::describe_comparison;
use crate::error::{Error, Result};
use crate::output::{group_digits, print, print_json};
use crate::run::{Divergence, compare_runs};

/// Find the first step and the first tensor in which two runs part; exit 1 if they do
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc diff-runs runs/names runs/names-1")]
pub struct DiffRunsArgs {
    /// A run folder
    #[arg(value_name = "RUN")]
    pub first: PathBuf,
    /// Another run folder
    #[arg(value_name = "OTHER")]
    pub second: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: DiffRunsArgs) -> Result<()> {
    let found = compare_runs(&args.first, &args.second)?;
    if args.json {
        let mut value = serde_json::to_value(&found).map_err(|error| Error::run(format!("as JSON: {error}")))?;
        value["equal"] = json!(found.is_none());
        if let Some(tensor) = &found.tensor {
            value["tensor"]["comparison"] = json!(describe_comparison(&tensor.comparison));
        }
        print_json(&value)?;
    } else {
        print(&describe(&found))?;
    }
    match (&found.step, &found.tensor) {
        (None, None) => Ok(()),
        (Some(step), _) => Err(Error::run(format!("the runs part at step {}", step.step))),
        (None, Some(tensor)) => Err(Error::run(format!("the runs part by step {}", tensor.step))),
    }
}

fn describe(found: &Divergence) -> String {
    let mut text = String::new();
    for line in found.settings.iter().chain(&found.surroundings) {
        text += &format!("{line}\n");
    }
    if let Some([a, b]) = &found.graph {
        text += &format!("the training step's graph:\n  {a}\n  {b}\n");
    }
    text += &match &found.step {
        Some(step) => {
            let ([a, b], [c, d]) = (step.loss, step.grad_norm);
            format!("step {}: loss {a} and {b}, gradient norm {c} and {d}\n", step.step)
        }
        None => format!("the {} steps of both have the same losses and norms\n", group_digits(found.common_steps)),
    };
    if let Some(step) = found.equal_checkpoint {
        text += &format!("the checkpoints of step {step} are equal\n");
    }
    if let Some(tensor) = &found.tensor {
        text += &format!(
            "the checkpoints of step {} differ in {} of {} tensors, first in `{}`: {}\n",
            tensor.step,
            tensor.count,
            tensor.of,
            tensor.name,
            describe_comparison(&tensor.comparison)
        );
    }
    text
}
