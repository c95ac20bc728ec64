//! `lmc verify-resume`.

use serde_json::{Value, json};

use crate::checkpoint::TensorComparison;
use crate::cli::VerifyResumeArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::output::{print, print_json};
use crate::training::{ResumedRun, verify_resume};

use super::checkpoint::{comparison_json, describe_comparison};

/// The most steps that are trained if the command does not say.
const STEPS: u64 = 10;

pub(super) fn run(args: VerifyResumeArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let steps = args.steps.unwrap_or(STEPS.min(config.train.steps));
    if steps < 2 || steps > config.train.steps {
        return Err(Error::input(format!(
            "--steps {steps}: a run of train.steps = {} can be interrupted on the way to 2 to {0} steps",
            config.train.steps
        )));
    }
    let resumed = verify_resume(&config, steps, args.plugin.plugin.as_deref())?;
    if args.json {
        let runs: Vec<Value> = resumed.iter().map(to_json).collect();
        let exact = resumed.iter().all(ResumedRun::is_exact);
        print_json(&json!({"steps": steps, "exact": exact, "runs": runs}))?;
    } else {
        print(&table(&resumed, steps))?;
    }
    match resumed.iter().find_map(first_difference) {
        None => Ok(()),
        Some(difference) => Err(Error::run(format!("resuming is not exact: {difference}"))),
    }
}

fn table(resumed: &[ResumedRun], steps: u64) -> String {
    let mut out =
        format!("{:>14}  {:>11}  {:>16}  {:>16}\n", "interrupted at", "resumed to", "equal tensors", "equal steps");
    for run in resumed {
        let tensors = format!("{} of {}", run.tensors - run.other_tensors.len(), run.tensors);
        let lines = match run.other_line {
            None => format!("{} of {0}", run.lines),
            Some(line) => format!("up to {}", line - 1),
        };
        out += &format!("{:>14}  {steps:>11}  {tensors:>16}  {lines:>16}\n", run.interrupted_at);
    }
    out
}

fn first_difference(run: &ResumedRun) -> Option<String> {
    let at = run.interrupted_at;
    let line = run.other_line.map(|step| format!("the metrics differ from step {step} on"));
    let tensor = run.other_tensors.first().map(|TensorComparison { name, comparison }| {
        format!("the first tensor that differs is `{name}`: {}", describe_comparison(comparison))
    });
    let parts: Vec<String> = [tensor, line].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("interrupted at step {at}, {}", parts.join(", and ")))
}

fn to_json(run: &ResumedRun) -> Value {
    json!({
        "interrupted_at": run.interrupted_at,
        "exact": run.is_exact(),
        "tensors": run.tensors,
        "other_tensors": run.other_tensors.iter().map(comparison_json).collect::<Vec<_>>(),
        "train_lines": run.lines,
        "first_other_line": run.other_line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Comparison;

    #[test]
    fn a_difference_is_named() {
        let differs = Comparison::Differs { count: 1, max_abs: 0.5, max_rel: 0.25 };
        let run = ResumedRun {
            interrupted_at: 4,
            tensors: 3,
            other_tensors: vec![TensorComparison { name: "wte.weight".to_owned(), comparison: differs }],
            lines: 8,
            other_line: Some(5),
        };
        let difference = first_difference(&run).expect("they differ");
        assert!(difference.starts_with("interrupted at step 4, the first tensor that differs is `wte.weight`: "));
        assert!(difference.ends_with("the metrics differ from step 5 on"), "{difference}");
        let table = table(&[run], 8);
        let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(row.join(" "), "4 8 2 of 3 up to 4");
    }
}
