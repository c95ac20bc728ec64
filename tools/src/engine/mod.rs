//! Continuing texts with a model: prompts go in, tokens come out one by one, several texts side by side.
//!
//! An [`Engine`] has a cache of keys and values with a row, a *slot*, for each text. [`Engine::add`] runs a prompt through
//! the model in chunks and draws the first token; every [`Engine::step`] draws the next token of all texts at once. Programs
//! are compiled for sizes in buckets, powers of two of the prompt's chunk and of the positions that are looked at, so that
//! nothing is compiled while tokens are generated once the sizes were used ([`Engine::prepare`] uses all of them).
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use lmc::engine::{Engine, EngineOptions, Request, Sampling};
//! use lmc::{LoadOptions, load};
//!
//! # fn main() -> lmc::Result<()> {
//! let model = Arc::new(load(Path::new("Qwen3-0.6B"), &LoadOptions::default())?);
//! let mut engine = Engine::new(Arc::clone(&model), &EngineOptions::default())?;
//! let prompt = model.tokenizer()?.encode("The capital of France is")?;
//! engine.add(Request { prompt, max_tokens: 20, sampling: Sampling::greedy(), ..Request::default() })?;
//! while engine.is_busy() {
//!     for emitted in engine.step()? {
//!         println!("{}", emitted.token);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod decode;
mod generate;
mod options;
mod request;
mod slots;
pub mod text;

use std::sync::Arc;
use std::time::Instant;

use lmc_graph::{DType, Literal, TensorType};
use lmc_lower::Platform;
use lmc_models::Precision;
use lmc_models::inference::{CacheShape, LIKELIEST, Step};

use crate::aside::{Aside, side_by_side};
use crate::device::{Argument, Buffer};
use crate::error::{Error, Result};
use crate::memory::size;
use crate::pretrained::{Model, ModelProgram, ProgramKey};

use decode::{Drawn, Launched};
pub use generate::{Completion, Generation, Piece};
pub use options::{EngineOptions, Figures};
pub use request::{Emitted, Logprobs, MOST_LOGPROBS, Reason, Request, Sampling, SlotId, kept_tokens};
use slots::{Slot, Slots};
pub use text::StopStrings;

const _: () = assert!(MOST_LOGPROBS == LIKELIEST, "as many are told as may be asked for");

/// The most tokens of a prompt that go through the model at a time.
const CHUNK: usize = 512;

/// The fewest that a program is compiled for.
const SMALLEST_CHUNK: usize = 16;

/// The fewest positions that a program looks at.
const SMALLEST_VISIBLE: usize = 256;

/// Programs that are compiled at once; each takes some hundred megabytes meanwhile.
const MOST_COMPILED_AT_ONCE: usize = 4;

/// A batch of texts that a model continues.
pub struct Engine {
    model: Arc<Model>,
    cache: CacheShape,
    slots: Slots,
    /// What programs take over from each other: `in_prompt` and `bias`, which steps only read, counts of generated tokens,
    /// keys and values of each layer. Shorter after a failure.
    state: Vec<Buffer>,
    /// How many those are.
    state_len: usize,
    /// The zeros that stand for no biases.
    no_bias: Buffer,
    /// Settings of all slots on the device, as long as they are what they were.
    settings: Option<[Buffer; 3]>,
    /// First tokens that were not handed out yet.
    pending: Vec<Emitted>,
    /// What was launched and not read yet.
    launched: Option<Launched>,
    launch_tokens: usize,
    /// Whether steps may look at all positions and take no longer for it.
    reads_what_is_seen: bool,
    figures: Figures,
    /// The program of the next launch is being made.
    ahead: Option<Aside<()>>,
}

impl Engine {
    /// An engine without texts, with its cache on the device.
    ///
    /// # Errors
    /// If the context that is asked for is longer than the model takes or does not fit the budget, there are no slots, or
    /// the device is out of memory.
    pub fn new(model: Arc<Model>, options: &EngineOptions) -> Result<Engine> {
        let cache = cache_shape(&model, options)?;
        let slots = options.slots;
        if let Some(tokens) = options.launch_tokens.filter(|tokens| !(1..=cache.context).contains(tokens)) {
            return Err(Error::input(format!(
                "tokens of a launch are from 1 to the context of {}, found {tokens}",
                cache.context
            )));
        }
        let launch_tokens = options.launch_tokens(model.device().target());
        let vocab = model.architecture().vocab_size();
        let zeros = |ty| model.device().zeros(ty);
        let counts = |dtype| zeros(TensorType::new(dtype, [slots, vocab]));
        let mut state = vec![counts(DType::Bool)?, counts(DType::F32)?, counts(DType::I32)?];
        for layer in model.architecture().layers() {
            state.extend([zeros(cache.ty(&layer))?, zeros(cache.ty(&layer))?]);
        }
        let figures = Figures {
            cache_bytes: cache.num_bytes(&model.architecture().layers()) as u64,
            weight_bytes: model.weight_bytes(),
            ..Figures::default()
        };
        let no_bias = zeros(TensorType::new(DType::F32, [1, vocab]))?;
        Ok(Engine {
            slots: Slots::new(slots),
            reads_what_is_seen: model.reads_what_is_seen(cache),
            model,
            cache,
            state_len: state.len(),
            state,
            no_bias,
            settings: None,
            pending: Vec::new(),
            launched: None,
            launch_tokens,
            figures,
            ahead: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The longest text, prompt and generated tokens together.
    pub fn max_context(&self) -> usize {
        self.cache.context
    }

    /// How many texts there can be at once.
    pub fn slots(&self) -> usize {
        self.cache.slots
    }

    /// How many more texts can be added.
    pub fn free_slots(&self) -> usize {
        self.slots.free()
    }

    /// Whether there are texts to be continued, or tokens to be handed out.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty() || self.slots.is_busy()
    }

    /// What was measured so far.
    pub fn figures(&self) -> Figures {
        let (compilations, peak_memory_bytes) = (self.model.compilations(), self.model.peak_memory_bytes());
        Figures { compilations, peak_memory_bytes, ..self.figures.clone() }
    }

    /// Compiles every program that a text of any length may need.
    ///
    /// # Errors
    /// If XLA refuses one.
    pub fn prepare(&self) -> Result<()> {
        // XLA for GPUs measures kernels on the device to choose from them, which others beside it would disturb.
        let threads = match self.model.device().target().platform {
            Platform::Cuda(_) => 1,
            Platform::Cpu | Platform::Generic => std::thread::available_parallelism().map_or(1, usize::from),
        };
        side_by_side(&self.steps(), threads.min(MOST_COMPILED_AT_ONCE), |&step| self.make(step).map(drop))
    }

    /// The steps that a text of any length may need, each once.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut tokens = SMALLEST_CHUNK.min(self.cache.chunk);
        loop {
            steps.push(Step::Prefill { tokens, is_first: true, visible: 0 });
            if tokens == self.cache.chunk {
                break;
            }
            tokens = (2 * tokens).min(self.cache.chunk);
        }
        let all = self.cache.rows(None);
        let mut needed = 1;
        while needed <= all {
            let visible = self.visible(needed);
            steps.push(Step::Decode { tokens: 1, visible });
            if self.launch_tokens > 1 {
                steps.push(Step::Decode { tokens: self.launch_tokens, visible });
            }
            needed = visible + 1;
        }
        let mut needed = 2 * self.cache.chunk;
        while needed <= all {
            let visible = self.visible_to_chunk(needed);
            steps.push(Step::Prefill { tokens: self.cache.chunk, is_first: false, visible });
            needed = visible + 1;
        }
        steps
    }

    /// Takes a text: runs its prompt through the model and draws its first token, which the next [`Engine::step`] hands out.
    ///
    /// # Errors
    /// If no slot is free, the prompt is empty, as long as the context or has a token that the model has not, a setting is
    /// none that a distribution has, or the device fails.
    pub fn add(&mut self, request: Request) -> Result<SlotId> {
        let begin = Instant::now();
        self.check(&request)?;
        let Some(index) = self.slots.first_free() else {
            return Err(Error::run(format!("all {} slots are taken", self.cache.slots)));
        };
        let context = self.cache.context;
        let prompt_len = request.prompt.len();
        let chunks: Vec<&[u32]> = request.prompt.chunks(self.cache.chunk).collect();
        let slot = Slot::new(&request, context);
        let settings = slot.settings();
        let wants_likeliest = request.logprobs.is_some_and(|count| count > 0);
        let compile_time = self.figures.compile_time;
        let mut drawn = None;
        for (i, tokens) in chunks.iter().enumerate() {
            let (is_last, place) = (i + 1 == chunks.len(), (index, i * self.cache.chunk));
            drawn = Some(self.prefill(place, tokens, &request, &settings, wants_likeliest && is_last)?);
        }
        let Some(drawn) = drawn else { return Err(Error::input("a prompt has at least one token")) };
        self.slots.put(index, slot);
        self.settings = None;
        self.emit_to_pending(index, &drawn);
        self.figures.prefill_tokens += prompt_len as u64;
        self.figures.prefill_time += begin.elapsed().saturating_sub(self.figures.compile_time - compile_time);
        self.figures.time_to_first_token = begin.elapsed();
        Ok(SlotId(index))
    }

    /// Ends a text before its time. A slot that is free stays so.
    pub fn cancel(&mut self, slot: SlotId) {
        self.slots.clear(slot.0);
        self.pending.retain(|emitted| emitted.slot != slot);
        self.settings = None;
    }

    fn check(&self, request: &Request) -> Result<()> {
        let Request { prompt, sampling, max_tokens, logprobs, .. } = request;
        self.model.check_tokens(prompt)?;
        sampling.validate(self.model.architecture().vocab_size())?;
        if *max_tokens == 0 {
            return Err(Error::input("at least one token is generated, found max_tokens = 0"));
        }
        if let Some(count) = logprobs.filter(|&count| count > MOST_LOGPROBS) {
            return Err(Error::input(format!("at most {MOST_LOGPROBS} likeliest tokens are told, found {count}")));
        }
        if prompt.len() >= self.cache.context {
            return Err(Error::input(format!(
                "the prompt has {} tokens, and the context is {}: shorten it, or take a longer context",
                prompt.len(),
                self.cache.context
            )));
        }
        Ok(())
    }

    /// The positions that a decoding step looks at, so that `needed` of them are among them.
    fn visible(&self, needed: usize) -> usize {
        let all = self.cache.rows(None);
        if self.reads_what_is_seen { all } else { needed.next_power_of_two().max(SMALLEST_VISIBLE).min(all) }
    }

    /// The same for a chunk of a prompt. Of several slots it copies its own, as far as it looks.
    fn visible_to_chunk(&self, needed: usize) -> usize {
        if self.cache.slots == 1 {
            return self.visible(needed);
        }
        needed.next_power_of_two().max(SMALLEST_VISIBLE).min(self.cache.rows(None))
    }

    /// How many tokens of each text a launch takes, and how many positions it looks at, where the longest text's last token
    /// is at the position `longest`.
    fn launch(&self, longest: usize) -> (usize, usize) {
        let end = longest + 1;
        let steps = if end + self.launch_tokens <= self.cache.context { self.launch_tokens } else { 1 };
        (steps, self.visible(end + steps - 1))
    }

    fn make(&self, step: Step) -> Result<Arc<ModelProgram>> {
        self.model.program(&ProgramKey::Step(self.cache, step))
    }

    /// A program that is needed now.
    fn program(&mut self, step: Step) -> Result<Arc<ModelProgram>> {
        let begin = Instant::now();
        let program = self.make(step);
        self.figures.compile_time += begin.elapsed();
        program
    }

    /// Begins to make the program of the first launch behind a prompt, if there is none yet.
    fn make_ahead(&mut self, prompt_len: usize) {
        let (tokens, visible) = self.launch(prompt_len.max(self.slots.longest()));
        let key = ProgramKey::Step(self.cache, Step::Decode { tokens, visible });
        if !self.model.has_program(&key) {
            let model = Arc::clone(&self.model);
            // Should it fail, it does so again where the program is needed.
            self.ahead = Some(Aside::begin(move || drop(model.program(&key))));
        }
    }

    /// Takes a chunk of a prompt into a slot, from a position on, and draws what comes behind it.
    fn prefill(
        &mut self,
        (slot, start): (usize, usize),
        tokens: &[u32],
        request: &Request,
        settings: &slots::Settings,
        wants_likeliest: bool,
    ) -> Result<Drawn> {
        let chunk = self.cache.chunk;
        let (padded, is_first, visible) = match start {
            0 => (tokens.len().next_power_of_two().clamp(SMALLEST_CHUNK.min(chunk), chunk), true, 0),
            _ => (chunk, false, self.visible_to_chunk(start + chunk)),
        };
        let program = self.program(Step::Prefill { tokens: padded, is_first, visible })?;
        if start + tokens.len() == request.prompt.len() && request.max_tokens > 1 {
            self.make_ahead(request.prompt.len());
        }
        let padding = std::iter::repeat_n(0, padded - tokens.len());
        let ids: Vec<i32> = tokens.iter().map(|token| token.cast_signed()).chain(padding).collect();
        let device = self.model.device();
        let scalar = |number: usize| device.buffer(&Literal::scalar(number as i32));
        let [numbers, top_k, seed] = settings.buffers(device)?;
        let bias = match request.sampling.logit_bias.as_slice() {
            [] => None,
            biases => {
                let mut row = vec![0_f32; self.model.architecture().vocab_size()];
                biases.iter().for_each(|&(token, bias)| row[token as usize] += bias);
                Some(device.buffer(&Literal::new([1, row.len()], &row))?)
            }
        };
        let tokens_buffer = device.buffer(&Literal::new([1, padded], &ids))?;
        let wants = device.buffer(&Literal::scalar(wants_likeliest))?;
        let state = taken(&mut self.state, self.state_len)?;
        let mut arguments: Vec<Argument<'_>> =
            [tokens_buffer, scalar(slot)?, scalar(start)?, scalar(tokens.len())?, numbers, top_k, seed, wants]
                .into_iter()
                .map(Argument::Donate)
                .collect();
        arguments.push(Argument::Keep(bias.as_ref().unwrap_or(&self.no_bias)));
        arguments.extend(state.into_iter().map(Argument::Donate));
        let mut results = self.model.execute(&program, arguments)?;
        let drawn = results.split_off(self.state_len);
        self.state = results;
        Drawn::read(&drawn, wants_likeliest)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("model", &self.model).field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// The state, for a program that gives it back. What fails on the way leaves none.
fn taken(state: &mut Vec<Buffer>, state_len: usize) -> Result<Vec<Buffer>> {
    let state = std::mem::take(state);
    if state.len() == state_len {
        return Ok(state);
    }
    Err(Error::run("the engine has failed before, and its texts are lost: make another one"))
}

/// The sizes of the cache that the options ask for.
fn cache_shape(model: &Model, options: &EngineOptions) -> Result<CacheShape> {
    let EngineOptions { max_context, slots, cache_budget, .. } = *options;
    if slots == 0 || slots > 1 << 12 {
        return Err(Error::input(format!("an engine has from 1 to 4096 slots, found {slots}")));
    }
    let architecture = model.architecture();
    let longest = architecture.max_context().unwrap_or(usize::MAX);
    let context = max_context.unwrap_or(longest.min(EngineOptions::DEFAULT_CONTEXT));
    if context < 2 || context > longest.min(1 << 24) {
        return Err(Error::input(format!(
            "a context is from 2 to {} tokens for this model, found {context}",
            longest.min(1 << 24)
        )));
    }
    let dtype = match model.precision() {
        Precision::Float32 => DType::F32,
        Precision::BFloat16 => DType::BF16,
    };
    let shape = |context: usize| {
        let chunk = options.chunk.unwrap_or(CHUNK).next_power_of_two().min(context.next_power_of_two());
        CacheShape { slots, context, chunk, dtype }
    };
    let layers = architecture.layers();
    let bytes = |context: usize| shape(context).num_bytes(&layers) as u64;
    let Some(budget) = cache_budget.filter(|&budget| bytes(context) > budget) else { return Ok(shape(context)) };
    let shorter = std::iter::successors(Some(context / 2), |context| Some(context / 2));
    let fitting = shorter.take_while(|&context| context >= SMALLEST_CHUNK).find(|&context| bytes(context) <= budget);
    match fitting.filter(|_| max_context.is_none()) {
        Some(context) => Ok(shape(context)),
        None => Err(Error::input(format!(
            "the cache of {slots} texts of {context} tokens takes {}, and the budget is {}: take fewer slots, or a shorter \
             context",
            size(bytes(context).into()),
            size(budget.into())
        ))),
    }
}
