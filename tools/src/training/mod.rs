//! The training loop, which reads from top to bottom.

mod changes;
mod exactness;
mod micro_batch;
mod non_finite;
mod origin;
mod pace;
mod recorder;
mod saving;
mod state;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lmc_lower::Platform;
use lmc_models::{StepConfig, TrainStep, train_step};
use lmc_runtime::gpu::Machine;

use crate::checkpoint::{self, Newest};
use crate::config::Config;
use crate::data::Data;
use crate::device::{Device, DeviceOptions, Program};
use crate::error::{Error, Result};
use crate::evaluation::Evaluator;
use crate::generation::{Generator, Sampling};
use crate::memory::{self, Room};
use crate::model::{differentiation_error, step_config};
use crate::output::{group_digits, print, say};
use crate::requirements;
use crate::run::{Activity, RunFolder, Start, TimeAccount, host, peak_flops, tensorboard};
use crate::wasm;

use changes::{changes, keep_graph};
use non_finite::Policy;
use origin::Origin;
use recorder::{Recorder, Running};
use saving::Saver;
use state::{State, initial_state, saved_state};

pub use exactness::{ResumedRun, verify_resume};

/// What a call of [`train`] is told beside the config.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// Start over, keeping an earlier run in the folder under another name.
    pub fresh: bool,
    /// Continue although this version of lmc makes another training step of the run's settings than the one that saved.
    pub accept_graph: bool,
    /// Save and end after this step as if a signal had come.
    pub stop_after: Option<u64>,
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
    let mut recorder = None;
    let result = train_recorded(config, options, &mut recorder);
    if let (Err(error), Some(recorder)) = (&result, &mut recorder) {
        recorder.failed(error);
    }
    result
}

/// Trains, with the recorder in `recorder` as soon as there is something to record.
fn train_recorded(config: &Config, options: &TrainOptions, recorder: &mut Option<Recorder>) -> Result<()> {
    let account = TimeAccount::begin();
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
    let saved_config = found.as_ref().and_then(|(_, saved)| saved.config_toml.as_deref());
    let device_options = DeviceOptions::from_config(&config.runtime, options.plugin.clone());
    let room = Room::of(&device_options, &Machine::this());
    let config = &micro_batch::decided(config, saved_config, &room)?;
    let (config, data) = Data::open(config, saved_tokenizer.as_ref())?;
    let step_config = step_config(&config)?;
    let start_of_graph = Instant::now();
    let step_graph = train_step(&step_config).map_err(differentiation_error)?;
    let graph_time = start_of_graph.elapsed();
    room.check(&config, &step_graph)?;
    // Refuses what cannot be generated now, and not after hours of training.
    let mut generator = generator(&config, &data, &step_config)?;
    let origin = Origin::new(&config, &data, &step_config, &step_graph)?;
    // All of this before the folder is claimed: a wrong file or plugin must not leave traces.
    let changed = match &found {
        Some((_, saved)) => changes(&config, &origin, saved, options.accept_graph)?,
        None => Vec::new(),
    };
    let initial = match &found {
        Some((path, saved)) => saved_state(path, saved, &step_graph)?,
        None => initial_state(&config, &step_graph)?,
    };
    // Without the tensors: the state is on its way to the device.
    let resumed = found.map(|(_, saved)| saved.step);
    let done = resumed.unwrap_or(0);
    let device = Device::open(&device_options)
        .map_err(|error| wasm::offered(error, &device_options, num_parameters(&step_graph)))?;
    requirements::check(&config, &step_config, &step_graph.func, device.target())?;
    let run = if options.fresh { RunFolder::open_fresh(&config)? } else { RunFolder::open(&config)? };
    for path in checkpoint::clean(run.path())? {
        say(format_args!("cleaned up after a process that was killed: {}", path.display()));
    }
    run.save_config(&config)?;
    keep_graph(&run, &origin)?;
    announce(&config, &data, &step_graph, &run, done);
    changed.iter().for_each(|change| say(format_args!("changed: {change}")));
    data.warnings(config.train.steps).iter().for_each(|warning| say(format_args!("warning: {warning}")));

    let mut state = State::upload(&device, &initial, &step_graph)?;
    drop(initial);
    if done < config.train.steps {
        let start = start(&config, &device, &step_config, &step_graph, done, changed);
        let recorder = recorder.insert(Recorder::begin(&config, &run, start, account)?);
        recorder.watch(&device);
        if let Some(generator) = &mut generator {
            generator.compile_aside(&device);
        }
        let step =
            recorder.time(Activity::Compile, || compile(&device, &step_graph, config.train.steps, graph_time))?;
        recorder.lowered(step.report());
        if let Some(executable) = step.executable() {
            if device.target().platform == Platform::Cpu {
                memory::check_temporaries(&config, &step_graph, executable)?;
            } else {
                memory::check_device(&config, &step_graph, executable, &device)?;
            }
        }
        interrupt_on_signals()?;
        let mut saver = Saver::new(&config, &run, recorder.metrics())?;
        let mut evaluator = Evaluator::new(&config, &data, &step_config);
        let mut policy = Policy::new(&config, &data, &device, &step_config, &step_graph, &run);
        let mut steps_done = done;
        let mut batches = data.batches(done..config.train.steps)?;
        // An interrupted run is left as soon as it is saved, and what was due then is done first.
        if done > 0 && evaluator.is_due(done) && !recorder.metrics().is_evaluated() {
            evaluate(&mut evaluator, &device, &state, done, recorder)?;
        }
        recorder.begin_steps();
        while let Some(batch) = recorder.time(Activity::Data, || batches.next()) {
            let batch = batch?;
            recorder.starting();
            let results = state.advance(&device, &step, &batch).map_err(|error| match step.executable() {
                Some(executable) => memory::explained(error, &config, &step_graph, executable, &device),
                None => error,
            })?;
            steps_done += 1;
            // The metrics of the step before are read while this one runs.
            if let Some(found) = recorder.started(Running::new(steps_done, &batch, results))? {
                // This one has changed nothing, and is done again.
                steps_done = found.step;
                saver.make_room(recorder)?;
                policy.resolve(found, &mut state, recorder)?;
                batches = data.batches(steps_done..config.train.steps)?;
                continue;
            }
            let interrupted = INTERRUPTED.load(Ordering::Relaxed) || options.stop_after == Some(steps_done);
            let last = steps_done == config.train.steps;
            let evaluation_due = evaluator.is_due(steps_done) && (last || !interrupted);
            let sample = !last && !interrupted && samples_are_due(&config, steps_done);
            let save = last || interrupted || is_multiple(steps_done, config.train.save_every);
            if (evaluation_due || sample || save)
                && let Some(found) = recorder.finish()?
            {
                saver.make_room(recorder)?;
                policy.resolve(found, &mut state, recorder)?;
            }
            let mut val_loss = None;
            if evaluation_due {
                val_loss = Some(evaluate(&mut evaluator, &device, &state, steps_done, recorder)?);
            }
            if sample && let Some(generator) = &mut generator {
                let samples = recorder.time(Activity::Samples, || generator.generate(&device, state.weights()))?;
                recorder.sampled(steps_done, samples)?;
            }
            if save {
                let began = recorder.save_begins();
                saver.make_room(recorder)?;
                let checkpoint = origin.checkpoint(state.snapshot(&step_graph)?, steps_done, val_loss);
                recorder.refuse_non_finite(&checkpoint)?;
                saver.start(checkpoint, began)?;
                if last || interrupted {
                    // The last one must succeed; of the others it is enough to know.
                    saver.finish(recorder)?;
                }
                recorder.save_ends();
            }
            saver.collect(recorder)?;
            if interrupted {
                recorder.interrupted(steps_done)?;
                if options.stop_after.is_none() {
                    say(format_args!("stopped at step {steps_done}; the same command continues from there"));
                }
                return Ok(());
            }
        }
        // Nothing is left to save: Ctrl-C while samples are drawn ends the process.
        INTERRUPTED.store(true, Ordering::Relaxed);
        if let Some(generator) = &mut generator {
            let samples = recorder.time(Activity::Samples, || generator.generate(&device, state.weights()))?;
            print_samples(&samples)?;
            recorder.record_samples(config.train.steps, samples)?;
        }
        return recorder.done(config.train.steps);
    }
    say(format_args!(
        "{} has all {} steps; train further with --steps N, or start over with --fresh",
        run.path().display(),
        config.train.steps
    ));
    generator.as_mut().map_or(Ok(()), |generator| print_samples(&generator.generate(&device, state.weights())?))
}

/// Measures the held-out loss after `steps_done` steps and records it.
fn evaluate(
    evaluator: &mut Evaluator<'_>,
    device: &Device,
    state: &State,
    steps_done: u64,
    recorder: &mut Recorder,
) -> Result<f64> {
    recorder.time(Activity::Compile, || evaluator.compile(device).map(drop))?;
    let evaluate = || evaluator.evaluate(device, state.weights(), steps_done);
    let evaluation = recorder.time(Activity::Evaluation, evaluate)?;
    recorder.evaluated(&evaluation)?;
    Ok(evaluation.val_loss)
}

/// What the run is made of, at the beginning of this process.
fn start(
    config: &Config,
    device: &Device,
    step_config: &StepConfig,
    step: &TrainStep,
    done: u64,
    changed: Vec<String>,
) -> Start {
    Start {
        step: done,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: device.name().to_owned(),
        num_parameters: num_parameters(step),
        tokens_per_step: config.tokens_per_step() as u64,
        changed,
        plugin: plugin(device),
        host: host::describe(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        unix_time: tensorboard::unix_time(),
        flops_per_token: step_config.model.flops_per_token(config.train.seq_len),
        peak_flops: peak_flops(device.name(), config.train.precision, config.runtime.peak_tflops),
        time_before: None,
    }
}

/// The target that programs are lowered for, and the plugin's own version, where it has more to say than its name.
fn plugin(device: &Device) -> String {
    let Some(client) = device.client() else { return "WebAssembly, interpreted".to_owned() };
    match client.platform_version().trim() {
        version if version == client.platform_name() => device.target().to_string(),
        version => format!("{}; {version}", device.target()),
    }
}

/// Prints generated texts to stdout.
fn print_samples(samples: &[(String, String)]) -> Result<()> {
    samples.iter().try_for_each(|(_, text)| print(&format!("{text}\n")))
}

/// What generates the samples that the config asks for; `None` where there are no texts.
fn generator(config: &Config, data: &Data, step_config: &StepConfig) -> Result<Option<Generator>> {
    let (Some(sample), Some(tokenizer)) = (&config.sample, data.tokenizer()) else { return Ok(None) };
    let sampling = Sampling::from_config(sample, config.train.seed);
    Generator::new(step_config, tokenizer, &sampling)
        .map(Some)
        .map_err(|error| config.error_at("sample", error.message()))
}

/// Whether samples are to be drawn after `step` steps, beside those at the end.
fn samples_are_due(config: &Config, step: u64) -> bool {
    config.sample.as_ref().is_some_and(|sample| is_multiple(step, sample.every))
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
fn compile(device: &Device, step: &TrainStep, executions: u64, graph_time: Duration) -> Result<Program> {
    let program = device.compile_for(&step.func, executions)?;
    if let Some(report) = program.wasm_report() {
        let groups: usize = report.entries.iter().map(|(_, groups, _)| groups).sum();
        say(format_args!(
            "training step: WebAssembly of {groups} groups in {:.2} s, interpreted; {} of memory",
            program.compile_time().as_secs_f64(),
            memory::size(report.memory_bytes as u128)
        ));
        return Ok(program);
    }
    let (outcome, seconds) = (program.cache_outcome(), program.compile_time().as_secs_f64());
    let (graph, lowering) = (graph_time.as_secs_f64(), program.lower_time().as_secs_f64());
    let xla = seconds - lowering;
    say(format_args!(
        "training step: {outcome} in {seconds:.1} s (graph and gradient {graph:.2} s before; lowering {lowering:.2} s, XLA \
         {xla:.2} s)"
    ));
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
