//! The training loop, which reads from top to bottom.

mod changes;
mod non_finite;
mod recorder;
mod state;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lmc_lower::Platform;
use lmc_models::{StepConfig, TrainStep, train_step};
use lmc_runtime::Buffer;

use crate::checkpoint::{self, Newest};
use crate::config::Config;
use crate::data::Data;
use crate::device::{Device, DeviceOptions, Program};
use crate::error::{Error, Result};
use crate::evaluation::Evaluator;
use crate::generation::{self, Sampling};
use crate::memory;
use crate::model::{differentiation_error, step_config};
use crate::output::{group_digits, print, say};
use crate::run::{Event, MetricsFile, RunFolder, Start};

use changes::allowed_changes;
use non_finite::Policy;
use recorder::{Recorder, Running};
use state::{State, initial_state, saved_state};

/// What a call of [`train`] is told beside the config.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// Start over, keeping an earlier run in the folder under another name.
    pub fresh: bool,
    /// The plugin to load; `None` finds or fetches it.
    pub plugin: Option<PathBuf>,
}

/// Set by the first Ctrl-C or SIGTERM; the loop then saves and ends.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Trains what `config` says: continues the newest whole checkpoint of the run folder, or begins. At the end it prints
/// samples to stdout, if the config asks for them.
///
/// # Errors
/// If data, weights or the run folder do not fit the config (before the device is touched), or something fails while
/// running; non-finite losses and gradients end the run with an error of their own kind.
pub fn train(config: &Config, options: &TrainOptions) -> Result<()> {
    RunFolder::refuse_file(config)?;
    let Newest { found, passed_over } =
        if options.fresh { Newest::default() } else { checkpoint::newest_valid(&config.train.out_dir)? };
    for (path, reason) in &passed_over {
        say(format_args!("warning: passed over the checkpoint {}: {reason}", path.display()));
    }
    if found.is_none() && !passed_over.is_empty() {
        return Err(config.error_at(
            "train.out_dir",
            format!(
                "no checkpoint in {} is whole, so there is nothing to continue: start over with --fresh (the old run is \
                 kept), or name another folder with --out",
                config.train.out_dir.display()
            ),
        ));
    }
    let saved_tokenizer = found.as_ref().and_then(|(_, saved)| saved.tokenizer.clone());
    let (config, data) = Data::open(config, saved_tokenizer.as_ref())?;
    let step_config = step_config(&config)?;
    let step_graph = train_step(&step_config).map_err(differentiation_error)?;
    memory::check_fits(&config, memory::held_bytes(&step_graph))?;
    if let (Some(sample), Some(tokenizer)) = (&config.sample, data.tokenizer()) {
        // Not after hours of training.
        generation::check(&step_config, tokenizer, &Sampling::from_config(sample, config.train.seed))
            .map_err(|error| config.error_at("sample", error.message()))?;
    }
    // All of this before the folder is claimed: a wrong file or plugin must not leave traces.
    let initial = match &found {
        Some((path, saved)) => saved_state(path, saved, &step_graph)?,
        None => initial_state(&config, &step_graph)?,
    };
    let device = Device::open(&DeviceOptions::from_config(&config.runtime, options.plugin.clone()))?;

    let run = if options.fresh { RunFolder::open_fresh(&config)? } else { RunFolder::open(&config)? };
    let changed = match run.saved_config()? {
        Some(saved) if found.is_some() => allowed_changes(&config, &saved)?,
        _ => Vec::new(),
    };
    run.save_config(&config)?;
    let done = found.as_ref().map_or(0, |(_, saved)| saved.step);
    announce(&config, &data, &step_graph, &run, done);
    changed.iter().for_each(|change| say(format_args!("changed: {change}")));

    let mut state = State::upload(&device, &initial, &step_graph)?;
    drop(initial);
    if done < config.train.steps {
        let began = Instant::now();
        let start = Start {
            step: done,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: device.name().to_owned(),
            num_parameters: num_parameters(&step_graph),
            tokens_per_step: config.tokens_per_step() as u64,
            changed,
        };
        let (mut metrics, event) = match found {
            Some(_) => (MetricsFile::resume(&run, done)?, Event::Resume(start)),
            None => (MetricsFile::create(&run)?, Event::Start(start)),
        };
        metrics.record(&event)?;
        let step = compile(&device, &step_graph, config.train.steps)?;
        if device.target().platform == Platform::Cpu {
            memory::check_temporaries(&config, step.executable())?;
        }
        interrupt_on_signals()?;
        let mut recorder = Recorder::new(&config, metrics, done);
        let mut evaluator = Evaluator::new(&config, &data, &step_config);
        let mut policy = Policy::new(&config, &data, &device, &step_config, &step_graph, &run);
        let mut steps_done = done;
        let mut batches = data.batches(done..config.train.steps)?;
        while let Some(batch) = batches.next() {
            let batch = batch?;
            recorder.starting();
            let results = state.advance(&device, &step, &batch)?;
            steps_done += 1;
            // The metrics of the step before are read while this one runs.
            if let Some(found) = recorder.started(Running::new(steps_done, &batch, results))? {
                // This one has changed nothing, and is done again.
                steps_done = found.step;
                policy.resolve(found, &mut state, &mut recorder)?;
                batches = data.batches(steps_done..config.train.steps)?;
                continue;
            }
            let interrupted = INTERRUPTED.load(Ordering::Relaxed);
            let last = steps_done == config.train.steps;
            let evaluate = evaluator.is_due(steps_done) && !interrupted;
            let save = last || interrupted || is_multiple(steps_done, config.train.save_every);
            if (evaluate || save)
                && let Some(found) = recorder.finish()?
            {
                policy.resolve(found, &mut state, &mut recorder)?;
            }
            if evaluate {
                let evaluation = evaluator.evaluate(&device, state.weights(), steps_done)?;
                recorder.evaluated(&evaluation)?;
            }
            if save {
                let checkpoint = state.checkpoint(&config, &data, &step_graph, steps_done)?;
                recorder.refuse_non_finite(&checkpoint)?;
                recorder.saved(&run, &checkpoint)?;
            }
            if interrupted {
                recorder.interrupted(steps_done)?;
                say(format_args!("stopped at step {steps_done}; the same command continues from there"));
                return Ok(());
            }
        }
        recorder.done(config.train.steps, began)?;
        // Nothing is left to save: Ctrl-C while samples are drawn ends the process.
        INTERRUPTED.store(true, Ordering::Relaxed);
    } else {
        say(format_args!(
            "{} has all {} steps; train further with --steps N, or start over with --fresh",
            run.path().display(),
            config.train.steps
        ));
    }
    print_samples(&config, &data, &device, &step_config, state.weights())
}

/// Whether `step` is a multiple of `every`; never for 0.
pub(crate) fn is_multiple(step: u64, every: u64) -> bool {
    every != 0 && step.is_multiple_of(every)
}

/// Says on stderr what is about to be trained.
fn announce(config: &Config, data: &Data, step: &TrainStep, run: &RunFolder, done: u64) {
    let train = &config.train;
    say(format_args!(
        "{} parameters; {} tokens to train on, {} held out; {} steps of {} tokens",
        group_digits(num_parameters(step)),
        group_digits(data.train_tokens()),
        group_digits(data.held_out_tokens()),
        group_digits(train.steps),
        group_digits(config.tokens_per_step() as u64),
    ));
    if config.model.attention_dropout() > 0.0 {
        say("attention is composed, with its probabilities in memory: no fused attention has their dropout");
    }
    if let Some(old) = run.moved_to() {
        say(format_args!("the earlier run is now {}", old.display()));
    }
    match done {
        0 => say(format_args!("run folder {}", run.path().display())),
        _ => say(format_args!("continuing {} from step {done}", run.path().display())),
    }
}

fn num_parameters(step: &TrainStep) -> u64 {
    step.specs.values().map(|spec| spec.ty.num_elements() as u64).sum()
}

/// Compiles the step. `executions` is that of the whole run, also of one that continues: machine code of another effort
/// could round otherwise.
fn compile(device: &Device, step: &TrainStep, executions: u64) -> Result<Program> {
    let program = device.compile_for(&step.func, executions)?;
    let (outcome, seconds) = (program.cache_outcome(), program.compile_time().as_secs_f64());
    say(format_args!("training step: {outcome} in {seconds:.1} s"));
    Ok(program)
}

/// Lets the first Ctrl-C or SIGTERM end the loop, and the second the process.
fn interrupt_on_signals() -> Result<()> {
    INTERRUPTED.store(false, Ordering::Relaxed);
    // 130 is what shells report of a process that SIGINT ended.
    const KILLED_BY_SIGINT: i32 = 130;
    // Also where a shell has set SIGINT to be ignored, as it does for jobs in the background.
    let set = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(KILLED_BY_SIGINT);
        }
        say("\ninterrupted: saving after this step (once more to leave at once)");
    });
    match set {
        // Another run of this process has set it.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(error) => Err(Error::run(format!("cannot listen for Ctrl-C: {error}"))),
    }
}

/// Prints the samples that the config asks for to stdout.
fn print_samples(
    config: &Config,
    data: &Data,
    device: &Device,
    step_config: &StepConfig,
    weights: &[Buffer],
) -> Result<()> {
    let (Some(sample), Some(tokenizer)) = (&config.sample, data.tokenizer()) else { return Ok(()) };
    let sampling = Sampling::from_config(sample, config.train.seed);
    for text in generation::generate(device, step_config, tokenizer, weights, &sampling)? {
        print(&format!("{text}\n"))?;
    }
    Ok(())
}
