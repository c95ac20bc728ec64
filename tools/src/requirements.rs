//! What `[compile] require` asks of a lowered training step, before it is compiled.

use lmc_graph::Func;
use lmc_lower::report::Row;
use lmc_lower::{Platform, Report, Target, lower};
use lmc_models::StepConfig;

use crate::config::{Config, Precision, Requirement};
use crate::error::Result;

/// Refuses a training step that has not what the config requires, or the default of its target, when it is lowered.
///
/// # Errors
/// If something is not as required, with the first layer that has not, the reason, and what to do.
pub fn check(config: &Config, step: &StepConfig, func: &Func, target: &Target) -> Result<()> {
    let required = required(config, target);
    if required.is_empty() { Ok(()) } else { check_report(config, step, &required, &lower(func, target).report) }
}

fn check_report(config: &Config, step: &StepConfig, required: &[Requirement], report: &Report) -> Result<()> {
    for &requirement in required {
        let (rows, what) = match requirement {
            Requirement::FlashAttention => (report.attentions_not_fused(), "attentions are no call of a fused kernel"),
            Requirement::GemmBackward => {
                (report.widened_gradients(), "products of the backward pass have wider operands")
            }
        };
        let mut reasons: Vec<String> = rows.iter().map(|row| reason(row)).collect();
        // Composed of products, it is no attention in the report.
        let dropout = step.model.dropout().attention;
        if requirement == Requirement::FlashAttention && dropout > 0.0 {
            reasons.push(format!(
                "every layer: dropout of attention probabilities, with a rate of {dropout}, keeps them in memory"
            ));
        }
        let Some(first) = reasons.first() else { continue };
        let more = match reasons.len() {
            1 => String::new(),
            count => format!("\n  and {} more", count - 1),
        };
        let default = if config.compile.require.is_none() { ", the default on a GPU" } else { "" };
        return Err(config.error_at(
            "compile.require",
            format!(
                "compile.require has \"{requirement}\"{default}; for {} {} {what}:\n  {first}{more}\n\
                 `lmc dump --stage report` shows all of them; compile.require = [] trains all the same, and slower",
                report.target,
                reasons.len(),
            ),
        ));
    }
    Ok(())
}

/// What is required: what the config says, else the default of the target.
fn required(config: &Config, target: &Target) -> Vec<Requirement> {
    match (&config.compile.require, target.platform) {
        (Some(require), _) => require.clone(),
        (None, Platform::Cuda(_)) if config.train.precision == Precision::Bfloat16 => {
            vec![Requirement::FlashAttention, Requirement::GemmBackward]
        }
        (None, Platform::Generic | Platform::Cpu | Platform::Cuda(_)) => Vec::new(),
    }
}

/// Where a row is, and what is wrong with it.
fn reason(row: &Row) -> String {
    let types: Vec<String> = row.operands.iter().map(ToString::to_string).collect();
    let reason = row.refused.clone().unwrap_or_else(|| format!("it multiplies {}", types.join(" and ")));
    format!("{}: {reason}", row.location)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lmc_lower::Cuda;
    use lmc_models::train_step;

    use super::*;
    use crate::config::RawConfig;
    use crate::model::step_config;

    const CONFIG: &str = r#"
[model]
arch = "llama"
vocab_size = 64
hidden_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16
intermediate_size = 32

[data]
train = "x.bin"

[optimizer]
learning_rate = 1e-3

[train]
steps = 1
seq_len = 8
micro_batch_size = 2
grad_accum_steps = 2
precision = "bfloat16"
"#;

    /// What a config with `sets` is told on a target: nothing, or an error with these parts.
    #[track_caller]
    fn check_config(sets: &[&str], target: &Target, expected: &[&str]) {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let config = RawConfig::parse(Path::new("run.toml"), CONFIG, &sets).and_then(RawConfig::validate);
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let step = step_config(&config).unwrap_or_else(|error| panic!("{error}"));
        let func = train_step(&step).unwrap_or_else(|error| panic!("{error}")).func;
        match check(&config, &step, &func, target) {
            Ok(()) => assert!(expected.is_empty(), "expected {expected:?}"),
            Err(error) => {
                assert_eq!(error.exit_code(), 2);
                let message = error.message();
                assert!(!expected.is_empty(), "{message}");
                expected.iter().for_each(|part| assert!(message.contains(part), "{part} is not in {message}"));
            }
        }
    }

    #[test]
    fn what_is_required_is_there_or_refused() {
        let h200 = Target::named("h200").expect("there is an H200");
        check_config(&[], &h200, &[]);
        // The default of a GPU, with the layer and the reason.
        let size = "model.head_dim=20";
        check_config(
            &[size],
            &h200,
            &[
                "compile.require has \"flash_attention\", the default on a GPU; for cuda 9.0",
                "4 attentions are no call of a fused kernel",
                "model.layers.0.self_attn: decomposed: cuDNN's attention takes heads of a multiple of 8 elements, found 20",
                "and 3 more",
                "compile.require = []",
            ],
        );
        check_config(&[size, "compile.require=[\"gemm_backward\"]"], &h200, &[]);
        check_config(&[size, "compile.require=[]"], &h200, &[]);
        check_config(&[size, "train.precision=float32"], &h200, &[]);
        check_config(&["model.attention_dropout=0.25"], &h200, &["every layer: dropout", "with a rate of 0.25"]);
        let asked = "compile.require=[\"flash_attention\", \"gemm_backward\"]";
        check_config(&[asked, "train.precision=float32"], &h200, &["takes bf16 and f16, found f32", "--set"]);
        // Nothing is asked of a CPU unless the config says so.
        check_config(&[], &Target::cpu(None), &[]);
        check_config(&[asked], &Target::cpu(None), &["for cpu", "lmc's kernel does not fit this plugin"]);
        let no_cudnn = Cuda { cudnn: None, ..cuda(&h200) };
        check_config(&[], &Target { platform: Platform::Cuda(no_cudnn), ..h200 }, &["no cuDNN was found"]);
    }

    fn cuda(target: &Target) -> Cuda {
        match target.platform {
            Platform::Cuda(cuda) => cuda,
            Platform::Generic | Platform::Cpu => panic!("{target} is no GPU"),
        }
    }
}
