//! What a page's module can do, each a function of the graph that the native run is made of.
//!
//! | entry | function | what it reads besides the weights | what it leaves |
//! |---|---|---|---|
//! | `step` | [`train_step`] | `tokens`, `labels` and the state | the state after the step, and the metrics |
//! | `evaluate` | [`eval_func`] | `evaluate/tokens`, `evaluate/labels` | `evaluate/loss_sum`, `evaluate/num_tokens` |
//! | `generate` | [`generate_func`] | `generate/…` of [`GENERATE_INPUTS`] | `generate/new_tokens` |
//! | `look` | [`look_func`] | `look/tokens` | `look/logits`, `attention/<layer>` |
//!
//! A slot is a tensor in the module's memory; slots of one name are one tensor, so every entry reads the weights that the
//! step has written.

use lmc_graph::Func;
use lmc_models::sample::{GENERATE_INPUTS, GenerateShape, generate_func};
use lmc_models::{Look, StepConfig, TrainStep, eval_func, look_func, loss_func, train_step};

use super::Sampling;
use crate::error::Result;
use crate::model::differentiation_error;

/// Rows of an evaluation: a step's may be as few as one, which would be mostly calls.
const HELD_ROWS: usize = 64;

/// A function of a module, with the slot of each of its parameters and results.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) func: Func,
    pub(super) inputs: Vec<String>,
    pub(super) results: Vec<String>,
}

/// The entries of a module, and what the page needs to know of them.
pub(super) struct Entries {
    pub(super) step: TrainStep,
    pub(super) all: Vec<Entry>,
    /// Of every attention its slot and its layer.
    pub(super) attention: Vec<(String, String)>,
}

/// The slot of a weight.
fn weight_slot(path: &str) -> String {
    format!("params/{path}")
}

/// The functions that a page of this training step has.
///
/// # Errors
/// If the loss has no derivative.
pub(super) fn entries(config: &StepConfig, sampling: Sampling) -> Result<Entries> {
    let step = train_step(config).map_err(differentiation_error)?;
    let weights: Vec<String> = step.specs.keys().map(weight_slot).collect();
    let with_weights = |slots: &[String]| [&weights[..], slots].concat();
    let mut state = weights.clone();
    state.extend(step.slots.iter().map(|slot| format!("optimizer/{}", slot.name)));
    let names = |from: usize| step.func.params[from..].iter().map(|param| param.name.clone());
    let inputs = state.iter().cloned().chain(names(step.step())).collect();
    let results = state.iter().cloned().chain(step.func.result_names[step.step()..].iter().cloned()).collect();

    let loss = loss_func(&config.model, HELD_ROWS, config.seq_len, config.compute);
    let evaluate = eval_func(&loss);
    let below =
        |place: &str, names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("{place}/{name}")).collect() };

    let shape =
        GenerateShape { batch: sampling.count, context: config.seq_len, max_new_tokens: sampling.max_new_tokens };
    let (generate, _) = generate_func(&config.model, shape, config.compute);
    let Look { func: look, layers, .. } = look_func(&config.model, 1, config.seq_len, config.compute);
    let attention: Vec<String> = layers.iter().map(|layer| format!("attention/{layer}")).collect();

    let all = vec![
        Entry { name: "step", func: step.func.clone(), inputs, results },
        Entry {
            name: "evaluate",
            func: evaluate,
            inputs: with_weights(&below("evaluate", &["tokens", "labels"])),
            results: below("evaluate", &["loss_sum", "num_tokens"]),
        },
        Entry {
            name: "generate",
            func: generate,
            inputs: with_weights(&below("generate", &GENERATE_INPUTS)),
            results: below("generate", &["new_tokens"]),
        },
        Entry {
            name: "look",
            func: look,
            inputs: [&below("look", &["tokens"])[..], &weights].concat(),
            results: [&below("look", &["logits"])[..], &attention].concat(),
        },
    ];
    Ok(Entries { step, all, attention: attention.into_iter().zip(layers).collect() })
}
