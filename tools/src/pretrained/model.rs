//! A model on a device, with the programs that were compiled for it.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lmc_graph::{DType, Func, TensorType};
use lmc_models::inference::{self, Architecture, CacheShape, Step};
use lmc_models::layers::Offset;
use lmc_models::stored::{Storage, Stored};
use lmc_models::{ParamSpec, Params, Precision};
use lmc_runtime::HostMemory;

use super::{GenerationConfig, Opened, WeightSource};
use crate::chat_template::{Chat, ChatTemplate};
use crate::device::{Argument, Buffer, Device, DeviceOptions, Program, out_of_host_memory, run_error};
use crate::error::{Error, Result};
use crate::quantization::GROUP_SIZES;
use crate::tokenizer::Tokenizer;

/// A model that is ready to be used: weights on a device.
pub struct Model {
    folder: PathBuf,
    architecture: Architecture,
    tokenizer: Option<Tokenizer>,
    generation: GenerationConfig,
    device: Device,
    precision: Precision,
    storage: Params<Stored>,
    weights: HashMap<String, Buffer>,
    weight_bytes: u64,
    /// The folder's chat template, if it has one, once it was asked for.
    template: OnceLock<Option<ChatTemplate>>,
    programs: Mutex<HashMap<ProgramKey, Arc<Place>>>,
    compilations: AtomicU64,
}

/// A function of the model with the sizes that its program is compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProgramKey {
    /// A step of generation.
    Step(CacheShape, Step),
    /// Logits of so many tokens.
    Logits(usize),
    /// Log-probabilities of so many tokens.
    LogProbs(usize),
    /// The embedding of so many tokens.
    Embeddings(usize),
    /// Attention of so many tokens in these layers.
    Attention(usize, Vec<usize>),
}

/// A place for a program; `None` as long as whoever has the lock makes it, and where it was refused.
type Place = Mutex<Option<Arc<ModelProgram>>>;

/// A compiled function of a model.
pub(crate) struct ModelProgram {
    program: Program,
    /// The names of the weights it takes, behind its inputs.
    weights: Vec<String>,
}

impl Model {
    /// Opens the device and brings the weights there, one at a time.
    ///
    /// # Errors
    /// If a weight is missing or superfluous, or the device cannot be opened or is out of memory.
    pub(super) fn new(opened: Opened, options: &DeviceOptions) -> Result<Model> {
        let Opened { folder, architecture, weights: source, tokenizer, generation } = opened;
        let specs = architecture.specs();
        let storage = specs.try_map(|path, spec| match source.stored(path, spec)? {
            Some(stored) => Ok(stored),
            None => Err(Error::input(format!(
                "{} has no `{path}`, which the model needs with the shape {:?}",
                folder.display(),
                spec.ty.shape
            ))),
        })?;
        if let Some(name) = source.unused(&|path| specs.get(path).is_some()).first() {
            return Err(Error::input(format!("{} has `{name}`, which the model has not", folder.display())));
        }
        let all = || specs.iter().zip(storage.values());
        let weight_bytes: u64 = all().map(|((_, spec), stored)| stored.num_bytes(spec) as u64).sum();
        // Layers compute in the type of most weights.
        let narrow: u64 = all()
            .filter(|(_, stored)| is_narrow(stored))
            .map(|((_, spec), stored)| stored.num_bytes(spec) as u64)
            .sum();
        let precision = if 2 * narrow > weight_bytes { Precision::BFloat16 } else { Precision::Float32 };
        lmc_runtime::share_freed_memory();
        let device = Device::open(options)?;
        let client = device.client().ok_or_else(|| {
            Error::input(
                "runtime.device = \"wasm\" is for models that lmc trained: take \"cpu\" or \"cuda\" for this one",
            )
        })?;
        let bar = progress_bar(weight_bytes);
        let parts: Vec<(&str, Parts)> = all().map(|((path, spec), stored)| (path, stored.parts(spec))).collect();
        let weights = read_weights(source.as_ref(), &parts, client.device(), &bar);
        bar.finish_and_clear();
        let weights = weights?;
        Ok(Model {
            folder,
            architecture,
            tokenizer,
            generation,
            device,
            precision,
            storage,
            weights,
            weight_bytes,
            template: OnceLock::new(),
            programs: Mutex::default(),
            compilations: AtomicU64::new(0),
        })
    }

    /// The folder it came from.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// What it computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::input(format!("{} has no tokenizer to read or write text with", self.folder.display()))
        })
    }

    /// The tokens of a chat, by the chat template of its folder.
    ///
    /// # Errors
    /// If the folder has no chat template or no tokenizer, or the template refuses the messages.
    pub fn chat_tokens(&self, chat: &Chat) -> Result<Vec<u32>> {
        let template = match self.template.get() {
            Some(template) => template,
            None => {
                let template = ChatTemplate::read(&self.folder)?;
                self.template.get_or_init(|| template)
            }
        };
        let Some(template) = template else {
            return Err(Error::input(format!("{} has no chat template", self.folder.display())));
        };
        template.encode(chat, self.tokenizer()?)
    }

    /// How texts are generated unless something else is asked for.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The element type in which layers compute.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Programs that were compiled or taken from the compile cache so far.
    pub fn compilations(&self) -> u64 {
        self.compilations.load(Ordering::Relaxed)
    }

    /// The most memory taken so far in bytes: the allocator's on a GPU, the process's on the CPU.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        match self.device.client().and_then(|client| client.device().memory_stats()) {
            Some(stats) => stats.peak_bytes_in_use.and_then(|bytes| u64::try_from(bytes).ok()),
            None => lmc_runtime::process_peak_memory_bytes(),
        }
    }

    /// Compiles a function of the model, unless that was done before.
    ///
    /// # Errors
    /// If XLA refuses the program.
    pub(crate) fn program(&self, key: &ProgramKey) -> Result<Arc<ModelProgram>> {
        let place = {
            let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(programs.entry(key.clone()).or_default())
        };
        // Held while compiling, so that nothing is compiled twice.
        let mut made = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = made.as_ref() {
            return Ok(Arc::clone(program));
        }
        let (func, specs) = self.func(key);
        let num_weights: usize = specs.iter().map(|(path, spec)| self.stored(path).parts(spec).len()).sum();
        let names = func.params.iter().skip(func.params.len() - num_weights);
        let weights = names.map(|param| param.name.clone()).collect();
        let program = Arc::new(ModelProgram { program: self.device.compile_for_use(&func)?, weights });
        self.compilations.fetch_add(1, Ordering::Relaxed);
        *made = Some(Arc::clone(&program));
        Ok(program)
    }

    /// Whether a function of the model is compiled, or another thread does that now.
    pub(crate) fn has_program(&self, key: &ProgramKey) -> bool {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(key).is_some_and(|place| match place.try_lock() {
            Ok(made) => made.is_some(),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        })
    }

    /// Whether it is the same to a decoding step how many positions it may look at: attention reads those that it sees.
    pub(crate) fn reads_what_is_seen(&self, cache: CacheShape) -> bool {
        let step = Step::Decode { tokens: 1, visible: cache.rows(None) };
        lmc_lower::reads_what_is_seen(&self.func(&ProgramKey::Step(cache, step)).0, self.device.target())
    }

    fn stored(&self, path: &str) -> Stored {
        self.storage.get(path).cloned().unwrap_or(Stored::Plain(DType::F32))
    }

    /// The function that a key names, and its weights.
    fn func(&self, key: &ProgramKey) -> (Func, Params<ParamSpec>) {
        let (model, precision) = (&self.architecture, self.precision);
        let storage = Storage::new(self.storage.clone());
        match key {
            ProgramKey::Step(cache, Step::Prefill { tokens, is_first, visible }) => {
                inference::prefill_func(model, cache, *tokens, *is_first, *visible, precision, &storage)
            }
            ProgramKey::Step(cache, Step::Decode { tokens, visible }) => {
                inference::decode_func(model, cache, *tokens, *visible, precision, &storage)
            }
            ProgramKey::Logits(tokens) => inference::logits_func(model, *tokens, precision, &storage),
            ProgramKey::LogProbs(tokens) => inference::log_probs_func(model, *tokens, precision, &storage),
            ProgramKey::Embeddings(tokens) => inference::embeddings_func(model, *tokens, precision, &storage),
            ProgramKey::Attention(tokens, layers) => {
                inference::attention_func(model, *tokens, layers, precision, &storage)
            }
        }
    }

    /// Runs a program on inputs, with the weights behind them.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub(crate) fn execute(&self, program: &ModelProgram, inputs: Vec<Argument<'_>>) -> Result<Vec<Buffer>> {
        let mut arguments = inputs;
        for name in &program.weights {
            let weight = self.weights.get(name).ok_or_else(|| Error::run(format!("there is no weight `{name}`")))?;
            arguments.push(Argument::Keep(weight));
        }
        program.program.execute(arguments)
    }
}

/// What a weight consists of, as [`Stored::parts`] says.
type Parts = Vec<(&'static str, TensorType)>;

/// The most weights that are read at a time: what is read meanwhile is in memory, and some disks are faster if they are
/// asked for several things at once.
const MOST_READERS: usize = 8;

/// Reads weights into memory that becomes the device's.
fn read_weights(
    source: &dyn WeightSource,
    weights: &[(&str, Parts)],
    device: &lmc_runtime::Device,
    bar: &ProgressBar,
) -> Result<HashMap<String, Buffer>> {
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_READERS);
    let next = AtomicUsize::new(0);
    let read = || -> Result<Vec<(String, Buffer)>> {
        let mut buffers = Vec::new();
        while let Some((path, parts)) = weights.get(next.fetch_add(1, Ordering::Relaxed)) {
            let read = read_weight(source, path, parts, device);
            // The others have no more to do if this one fails.
            let read = read.inspect_err(|_| next.store(weights.len(), Ordering::Relaxed))?;
            bar.inc(parts.iter().map(|(_, ty)| ty.num_bytes() as u64).sum());
            buffers.extend(read);
        }
        Ok(buffers)
    };
    let all: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|buffers| buffers.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut buffers = HashMap::new();
    for read in all {
        buffers.extend(read?);
    }
    Ok(buffers)
}

fn read_weight(
    source: &dyn WeightSource,
    path: &str,
    parts: &Parts,
    device: &lmc_runtime::Device,
) -> Result<Vec<(String, Buffer)>> {
    let types: Vec<TensorType> = parts.iter().map(|(_, ty)| ty.clone()).collect();
    let memory = types.iter().map(|ty| HostMemory::to_fill(ty.num_bytes()).map_err(|error| out_of_host_memory(&error)));
    let mut memory = memory.collect::<Result<Vec<_>>>()?;
    source.read(path, &types, &mut memory.iter_mut().map(|memory| &mut memory[..]).collect::<Vec<_>>())?;
    let buffers = parts.iter().zip(memory).map(|((suffix, ty), memory)| {
        let buffer = lmc_runtime::Buffer::from_memory(device, ty.clone(), memory).map_err(run_error)?;
        // Where it is copied, this thread's memory is free before the next one is read.
        buffer.wait().map_err(run_error)?;
        Ok((format!("{path}{suffix}"), Buffer::Device(buffer)))
    });
    buffers.collect()
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("folder", &self.folder).field("architecture", &self.architecture).finish()
    }
}

/// Whether a weight is multiplied in bf16: one of fewer bits unless it was made of f32.
fn is_narrow(stored: &Stored) -> bool {
    match stored {
        Stored::Plain(dtype) => dtype.size() == 2,
        Stored::Quantized(quantization) => {
            let made_of_f32 = quantization.scales == DType::F32 && !matches!(quantization.offset, Offset::Biases(_));
            !made_of_f32 || quantization.group_size < GROUP_SIZES[0]
        }
    }
}

/// A bar on a terminal; elsewhere nothing is shown.
fn progress_bar(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    // One that does not parse would leave indicatif's own.
    if let Ok(style) =
        ProgressStyle::with_template("reading weights {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar
}
