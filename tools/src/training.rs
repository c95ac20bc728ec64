//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lmc_graph::Literal;
use lmc_lower::Platform;
use lmc_models::step::METRICS;
use lmc_models::{StepConfig, TrainStep, init, train_step};
use lmc_runtime::{Argument, Buffer, process_peak_memory_bytes};

use crate::checkpoint::{self, Checkpoint, Newest, Tensors};
use crate::config::Config;
use crate::data::{Batch, Data};
use crate::device::{Device, DeviceOptions, Program, run_error};
use crate::error::{Error, Result};
use crate::evaluation::Evaluator;
use crate::generation::{self, Sampling};
use crate::memory;
use crate::model::{differentiation_error, initial_weights, match_weights, step_config};
use crate::output::{group_digits, print, say};
use crate::run::{EvalMetrics, Event, MetricsFile, Progress, RunFolder, Start, TrainMetrics};

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
    memory::check_fits(&config, num_parameters(&step_graph))?;
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

    let mut state = State::upload(&device, &initial, step_graph.specs.len())?;
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
        let mut steps_done = done;
        for batch in data.batches(done..config.train.steps)? {
            let batch = batch?;
            recorder.starting();
            let results = state.advance(&device, &step, &batch)?;
            steps_done += 1;
            // The metrics of the step before are read while this one runs.
            recorder.started(Running::new(steps_done, &batch, results))?;
            let interrupted = INTERRUPTED.load(Ordering::Relaxed);
            let last = steps_done == config.train.steps;
            let evaluate = evaluator.is_due(steps_done) && !interrupted;
            let save = last || interrupted || is_multiple(steps_done, config.train.save_every);
            if evaluate || save {
                recorder.finish()?;
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

/// The settings in which a continued run differs from the one that was started, as `key: old -> new`.
fn allowed_changes(config: &Config, saved: &Config) -> Result<Vec<String>> {
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let (allowed, refused): (Vec<_>, Vec<_>) =
        config.differences(saved)?.into_iter().partition(|difference| difference.allowed);
    let describe = |difference: &crate::config::Difference| {
        format!("{}: {} -> {}", difference.key, show(&difference.saved), show(&difference.now))
    };
    if let Some(first) = refused.first() {
        let list = refused.iter().map(|d| format!("\n  {}", describe(d))).collect::<String>();
        let message = format!(
            "the run in {} was started with other settings, and cannot be continued with these:{list}\nStart over with \
             --fresh (the old run is kept), or name another folder with --out",
            config.train.out_dir.display()
        );
        return Err(config.error_at(&first.key, message));
    }
    Ok(allowed.iter().map(describe).collect())
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

/// Weights, moments and step count of a new run.
fn initial_state(config: &Config, step: &TrainStep) -> Result<Vec<Literal>> {
    let weights = initial_weights(config, &step.specs)?;
    let moments = || init::zeros(&step.specs).into_values();
    Ok(weights.into_values().chain(moments()).chain(moments()).chain([Literal::scalar(0_i32)]).collect())
}

/// Weights, moments and step count of a checkpoint.
fn saved_state(path: &std::path::Path, saved: &Checkpoint, step: &TrainStep) -> Result<Vec<Literal>> {
    let fit =
        |reason: String| Error::input(format!("the checkpoint {} does not fit the config: {reason}", path.display()));
    let weights = match_weights(saved.model.clone(), &step.specs).map_err(fit)?;
    let mut state: Vec<Literal> = weights.into_values().collect();
    let moments = &step.func.params[step.first_moments().start..step.second_moments().end];
    for (param, ty) in moments.iter().zip(step.func.param_types()[step.first_moments().start..].iter()) {
        match saved.optimizer.get(&param.name) {
            Some(tensor) if tensor.ty() == ty => state.push(tensor.clone()),
            Some(tensor) => return Err(fit(format!("`{}` is {} there, {ty} here", param.name, tensor.ty()))),
            None => return Err(fit(format!("it has no `{}`", param.name))),
        }
    }
    let count = i32::try_from(saved.step).map_err(|_| fit(format!("step {} is beyond 2^31", saved.step)))?;
    state.push(Literal::scalar(count));
    Ok(state)
}

/// The weights, moments and step count on the device.
struct State {
    buffers: Vec<Buffer>,
    num_weights: usize,
}

impl State {
    fn upload(device: &Device, state: &[Literal], num_weights: usize) -> Result<State> {
        let buffers = state.iter().map(|literal| device.buffer(literal)).collect::<Result<_>>()?;
        Ok(State { buffers, num_weights })
    }

    /// Starts a step, which takes the state's memory over, and returns its metrics without waiting for them.
    fn advance(&mut self, device: &Device, step: &Program, batch: &Batch) -> Result<Vec<Buffer>> {
        let mut arguments: Vec<Argument<'_>> = self.buffers.drain(..).map(Argument::Donate).collect();
        let num_state = arguments.len();
        for literal in [&batch.tokens, &batch.labels] {
            arguments.push(Argument::Donate(device.buffer(literal)?));
        }
        self.buffers = step.execute(arguments)?;
        Ok(self.buffers.split_off(num_state))
    }

    fn weights(&self) -> &[Buffer] {
        &self.buffers[..self.num_weights]
    }

    /// Reads the state back for saving.
    fn checkpoint(&self, config: &Config, data: &Data, step: &TrainStep, steps_done: u64) -> Result<Checkpoint> {
        let read = |range: std::ops::Range<usize>| -> Result<Tensors> {
            let names = step.func.params[range.clone()].iter().map(|param| param.name.clone());
            let values = self.buffers[range].iter().map(|buffer| buffer.to_literal().map_err(run_error));
            names.zip(values).map(|(name, value)| Ok((name, value?))).collect()
        };
        Ok(Checkpoint {
            step: steps_done,
            seed: config.train.seed,
            config_hash: config.hash()?,
            model: read(step.weights())?,
            optimizer: read(step.first_moments().start..step.second_moments().end)?,
            tokenizer: data.tokenizer().cloned(),
            config_json: config.hugging_face_json(),
        })
    }
}

/// Reads metrics one step late, and writes them to file and screen.
struct Recorder {
    metrics: MetricsFile,
    progress: Progress,
    /// The step that is running.
    running: Option<Running>,
    /// When the step before ended.
    last_end: Instant,
}

/// A step on the device: its number, the tokens it learns from, and its metrics, not read yet.
struct Running {
    step: u64,
    tokens: u64,
    results: Vec<Buffer>,
    /// When it was seen to have ended, which may be when its start returned: a device may run it within the call.
    ended: Option<Instant>,
}

impl Running {
    fn new(step: u64, batch: &Batch, results: Vec<Buffer>) -> Running {
        let mut running = Running { step, tokens: batch.num_labels, results, ended: None };
        running.look();
        running
    }

    /// Notes the time if the step has ended since the last look.
    fn look(&mut self) {
        // A plugin that cannot say is taken to be running.
        if self.ended.is_none() && self.results.iter().all(|buffer| buffer.is_ready().unwrap_or(false)) {
            self.ended = Some(Instant::now());
        }
    }
}

impl Recorder {
    fn new(config: &Config, metrics: MetricsFile, done: u64) -> Recorder {
        let progress = Progress::new(config.train.steps, done, config.train.log_every);
        Recorder { metrics, progress, running: None, last_end: Instant::now() }
    }

    /// A step is about to be started.
    fn starting(&mut self) {
        self.running.iter_mut().for_each(Running::look);
    }

    /// A step was started: the one before is finished first.
    fn started(&mut self, mut running: Running) -> Result<()> {
        if self.running.as_ref().is_some_and(|before| before.ended.is_none()) {
            // Both ended within the call, or none yet: the one before will seem to have ended when it is read.
            running.ended = None;
        }
        self.finish()?;
        self.running = Some(running);
        Ok(())
    }

    /// Waits for the running step and records it.
    fn finish(&mut self) -> Result<()> {
        let Some(Running { step, tokens, results, ended }) = self.running.take() else { return Ok(()) };
        let mut values = [0.0; METRICS.len()];
        for (value, buffer) in values.iter_mut().zip(&results) {
            *value = f64::from(buffer.to_literal().map_err(run_error)?.elements::<f32>()[0]);
        }
        let [loss, grad_norm, learning_rate, _] = values;
        let end = ended.unwrap_or_else(Instant::now);
        let seconds = end.saturating_duration_since(self.last_end).as_secs_f64();
        self.last_end = end;
        let train = TrainMetrics {
            step,
            loss,
            grad_norm,
            learning_rate,
            tokens_per_s: tokens as f64 / seconds,
            step_ms: seconds * 1e3,
            peak_memory_bytes: process_peak_memory_bytes().unwrap_or(0),
            mfu: None,
        };
        self.metrics.record(&Event::Train(train))?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            let what = if loss.is_finite() { "the gradient's norm" } else { "the loss" };
            let message = format!("{what} is not finite in step {step}: loss {loss}, gradient norm {grad_norm}");
            return Err(self.non_finite(step, message)?);
        }
        self.progress.step(&train);
        Ok(())
    }

    /// A step with a finite loss may still update the state to values beyond f32, which no later step recovers from.
    fn refuse_non_finite(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let finite = |tensor: &Literal| tensor.elements::<f32>().iter().all(|x| x.is_finite());
        let mut tensors = checkpoint.model.iter().chain(&checkpoint.optimizer);
        match tensors.find(|(_, tensor)| !finite(tensor)) {
            None => Ok(()),
            Some((name, _)) => {
                let step = checkpoint.step;
                Err(self.non_finite(step, format!("`{name}` is not finite after the update of step {step}"))?)
            }
        }
    }

    /// Records that training cannot go on, and returns the error that ends it.
    fn non_finite(&mut self, step: u64, message: String) -> Result<Error> {
        self.metrics.record(&Event::Nan { step, message: message.clone() })?;
        self.progress.finish();
        Ok(Error::non_finite(format!(
            "{message}. It was not saved: the newest checkpoint, if there is one, is of an earlier step. A lower \
             optimizer.learning_rate, more schedule.warmup_steps or a smaller optimizer.grad_clip_norm may help"
        )))
    }

    fn evaluated(&mut self, evaluation: &EvalMetrics) -> Result<()> {
        let EvalMetrics { step, val_loss, tokens, seconds } = evaluation;
        self.progress.say(format_args!(
            "step {step}: held-out loss {val_loss:.4} over {} tokens ({seconds:.1} s)",
            group_digits(*tokens)
        ));
        self.metrics.record(&Event::Eval(*evaluation))?;
        self.last_end = Instant::now();
        Ok(())
    }

    fn saved(&mut self, run: &RunFolder, saved: &Checkpoint) -> Result<()> {
        let begin = Instant::now();
        let path = checkpoint::save(run.path(), saved)?;
        let relative = path.strip_prefix(run.path()).unwrap_or(&path).display().to_string();
        let seconds = begin.elapsed().as_secs_f64();
        self.metrics.record(&Event::Save { step: saved.step, checkpoint: relative, seconds })?;
        self.last_end = Instant::now();
        Ok(())
    }

    fn interrupted(&mut self, step: u64) -> Result<()> {
        self.progress.finish();
        self.metrics.record(&Event::Signal { step })
    }

    fn done(&mut self, step: u64, began: Instant) -> Result<()> {
        self.progress.finish();
        self.metrics.record(&Event::Done { step, seconds: began.elapsed().as_secs_f64() })
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
