//! A device that is ready to run graphs: the plugin found and loaded, functions lowered for it and compiled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lmc_graph::{Func, Literal, TensorType};
use lmc_lower::{Lowered, Platform, PluginIdentity, Processor, Report, Target, lower};
use lmc_runtime::gpu::Machine;
use lmc_runtime::plugin::{Found, Locations, Source, find_or_install, managed_plugin};
use lmc_runtime::{
    CacheOutcome, Client, ClientOptions, CompileCache, CompileOptions, ErrorCode, Executable, HloDump, HostMemory,
    Plugin,
};

use crate::config::{DeviceKind, RuntimeConfig};
use crate::cuda::{self, CudaOptions};
use crate::error::{Error, Result};
use crate::installing::Installation;
use crate::memory::size;
use crate::wasm;

pub use crate::tensors::{Argument, Buffer};

/// Which device to open.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// The kind of device; `Auto` is a GPU if there is one with its plugin, else the CPU.
    pub kind: DeviceKind,
    /// The plugin's shared library; `None` looks for it and fetches it if need be.
    pub plugin: Option<PathBuf>,
    /// Threads that a program of the CPU is divided among; `None` is one a core.
    pub threads: Option<usize>,
    /// How a GPU is used.
    pub cuda: CudaOptions,
}

impl DeviceOptions {
    /// What `[runtime]` says, unless `plugin`, of the command line, names another plugin.
    pub fn from_config(config: &RuntimeConfig, plugin: Option<PathBuf>) -> DeviceOptions {
        DeviceOptions {
            kind: config.device,
            plugin: plugin.or_else(|| config.plugin.clone()),
            threads: (config.threads > 0).then_some(config.threads),
            cuda: CudaOptions {
                memory_fraction: config.memory_fraction,
                preallocate: config.preallocate,
                device: config.visible_devices.first().copied().unwrap_or(0),
                deterministic: config.deterministic,
            },
        }
    }
}

impl Default for DeviceOptions {
    fn default() -> DeviceOptions {
        DeviceOptions { kind: DeviceKind::Auto, plugin: None, threads: None, cuda: CudaOptions::default() }
    }
}

/// Floating-point operations that even plain machine code does in less time than better code takes to make: the
/// thousand steps of microgpt are 0.4e9, and take 0.1 s longer for compiling 1.3 s less.
const LITTLE_WORK: u64 = 5_000_000_000;

/// What runs programs, and the target that functions are lowered for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Device {
    engine: Engine,
    target: Target,
}

/// What runs programs.
#[derive(Clone, Debug)]
enum Engine {
    /// A plugin, and the programs compiled for it before.
    Plugin(Client, CompileCache),
    /// The interpreter of WebAssembly.
    Wasm,
}

impl Device {
    /// Finds the plugin, fetches it on first use (and says so on stderr), loads it and opens the device.
    ///
    /// # Errors
    /// If there is no device of the kind asked for, or the plugin cannot be found, fetched, verified or loaded. A plugin
    /// named by the user is the user's input; anything else is a failure of the machine.
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        if options.kind == DeviceKind::Wasm {
            if options.plugin.is_some() {
                return Err(Error::input(
                    "runtime.device = \"wasm\" takes no plugin: leave out --plugin and runtime.plugin",
                ));
            }
            return Ok(Device { engine: Engine::Wasm, target: Target::generic() });
        }
        let cache = CompileCache::default_location().map_err(|e| Error::run(e.to_string()))?;
        if let Some(ready) = cuda::ready(options, &Machine::this())? {
            let (client, target) = ready.open(&options.cuda)?;
            return Ok(Device { engine: Engine::Plugin(client, cache), target });
        }
        let found = find_plugin(options.plugin.clone())?;
        let named = matches!(found.source, Source::Explicit | Source::Environment);
        let plugin = Plugin::load(&found.path).map_err(|error| plugin_error(named, &error))?;
        let client_options =
            ClientOptions { cpu_device_count: Some(1), cpu_threads: options.threads, ..ClientOptions::default() };
        let client = Client::new(&plugin, &client_options).map_err(|error| plugin_error(named, &error))?;
        let target = Target { has_kernels: plugin.has_kernels(), ..target_of(&client, &found) };
        Ok(Device { engine: Engine::Plugin(client, cache), target })
    }

    /// The connection to the plugin; `None` for WebAssembly, which has none.
    pub fn client(&self) -> Option<&Client> {
        match &self.engine {
            Engine::Plugin(client, _) => Some(client),
            Engine::Wasm => None,
        }
    }

    /// What functions are lowered for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// A short name for people: `cpu`, the product name of a GPU, or `wasm`.
    pub fn name(&self) -> &str {
        self.client().map_or("wasm", |client| client.device().kind())
    }

    /// Copies a tensor to the device.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn buffer(&self, literal: &Literal) -> Result<Buffer> {
        match &self.engine {
            Engine::Plugin(client, _) => client.buffer(literal).map(Buffer::Device).map_err(run_error),
            Engine::Wasm => Ok(Buffer::Host(literal.clone())),
        }
    }

    /// Zeros on the device. Where that is the CPU, they take memory as they are written to.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn zeros(&self, ty: TensorType) -> Result<Buffer> {
        match &self.engine {
            Engine::Plugin(client, _) => {
                let memory = HostMemory::zeros(ty.num_bytes()).map_err(|error| out_of_host_memory(&error))?;
                lmc_runtime::Buffer::from_memory(client.device(), ty, memory).map(Buffer::Device).map_err(run_error)
            }
            Engine::Wasm => Ok(Buffer::Host(Literal::zeros(ty))),
        }
    }

    /// Lowers a function for this device.
    pub fn lower(&self, func: &Func) -> Lowered {
        lower(func, &self.target)
    }

    /// Lowers a function and compiles it for speed, or takes it from the compile cache.
    ///
    /// # Errors
    /// When XLA refuses the program, with its message and the model's line.
    pub fn compile(&self, func: &Func) -> Result<Program> {
        self.compile_for(func, u64::MAX)
    }

    /// As [`Device::compile`], for a program that will run `executions` times: where its products are little work
    /// altogether, machine code of less effort is ready sooner.
    ///
    /// # Errors
    /// As [`Device::compile`].
    pub fn compile_for(&self, func: &Func, executions: u64) -> Result<Program> {
        self.compile_with(func, &self.target, executions, compile_options(&self.target))
    }

    /// As [`Device::compile`], for a program of a model that is used, whose weights are most of its memory.
    ///
    /// # Errors
    /// As [`Device::compile`].
    pub fn compile_for_use(&self, func: &Func) -> Result<Program> {
        let target = Target { for_use: true, ..self.target.clone() };
        let options = compile_options(&target);
        let options = match target.platform {
            // XLA's CPU backend orders first what could run side by side. Where products in bf16 convert their weights to
            // f32, all conversions would stand before the products, and take the memory of the whole model in f32.
            Platform::Cpu => options.with("xla_cpu_enable_concurrency_optimized_scheduler", false),
            Platform::Cuda(_) | Platform::Generic => options,
        };
        self.compile_with(func, &target, u64::MAX, options)
    }

    fn compile_with(&self, func: &Func, target: &Target, executions: u64, options: CompileOptions) -> Result<Program> {
        let start = Instant::now();
        let Engine::Plugin(client, cache) = &self.engine else {
            let program = wasm::Program::new(func)?;
            let report = Report { target: self.target.clone(), rows: Vec::new() };
            let (lower_time, outcome) = (start.elapsed(), CacheOutcome::NotStored("it is interpreted".to_owned()));
            return Ok(Program {
                code: Code::Wasm(Box::new(program)),
                report,
                outcome,
                elapsed: lower_time,
                lower_time,
            });
        };
        let lowered = lower(func, target);
        let options = if self.is_little(&lowered, executions) { for_little_work(options) } else { options };
        compile_lowered((client, cache), &func.name, lowered, &options, start)
    }

    /// As [`Device::compile_for`], if the program is a little one for a CPU: such a one is made by one thread. `None` for
    /// others, which would keep from the device, or from the other cores, what runs meanwhile.
    ///
    /// # Errors
    /// As [`Device::compile`].
    pub fn compile_little(&self, func: &Func, executions: u64) -> Result<Option<Program>> {
        let start = Instant::now();
        let Engine::Plugin(client, cache) = &self.engine else { return Ok(None) };
        let lowered = self.lower(func);
        let options = for_little_work(compile_options(&self.target));
        let is_little = self.is_little(&lowered, executions);
        is_little.then(|| compile_lowered((client, cache), &func.name, lowered, &options, start)).transpose()
    }

    /// Whether a program is so little work in all that plain machine code does for it.
    fn is_little(&self, lowered: &Lowered, executions: u64) -> bool {
        self.target.platform == Platform::Cpu && lowered.report.total_flops().saturating_mul(executions) < LITTLE_WORK
    }

    /// Compiles a function lowered for any target, with the options of this device or with XLA's own, past the compile
    /// cache.
    pub(crate) fn compile_anew(&self, func: &Func, target: &Target, with_options: bool) -> Result<Program> {
        let start = Instant::now();
        let lowered = lower(func, target);
        let lower_time = start.elapsed();
        let options = if with_options { compile_options(&self.target) } else { CompileOptions::default() };
        let executable = self.plugin()?.compile(&lowered.text, &options).map_err(run_error)?;
        let outcome = CacheOutcome::NotStored("it was not asked".to_string());
        Ok(Program {
            code: Code::Plugin(executable),
            report: lowered.report,
            outcome,
            elapsed: start.elapsed(),
            lower_time,
        })
    }

    /// Compiles a function so that a profiler can tell its kernels apart, past the compile cache, and gives its optimized
    /// form as HLO text, whose instructions the kernels name.
    ///
    /// # Errors
    /// As [`Device::compile`], and if no plugin runs it.
    pub(crate) fn compile_for_profiler(&self, func: &Func) -> Result<(Program, String)> {
        let start = Instant::now();
        let Lowered { text, report } = self.lower(func);
        let lower_time = start.elapsed();
        let options = profiler_options(compile_options(&self.target), &self.target);
        let dump = self.plugin()?.dump_hlo(&text, &options).map_err(run_error)?;
        let program = Program {
            code: Code::Plugin(dump.executable),
            report,
            outcome: CacheOutcome::NotStored("it was not asked".to_string()),
            elapsed: start.elapsed(),
            lower_time,
        };
        Ok((program, dump.optimized))
    }

    /// A program that was lowered for this device in the stages of XLA's compilation. Compiles it anew.
    ///
    /// # Errors
    /// As [`Device::compile`].
    pub fn dump_hlo(&self, stablehlo: &str) -> Result<HloDump> {
        self.plugin()?.dump_hlo(stablehlo, &compile_options(&self.target)).map_err(run_error)
    }

    /// The connection to the plugin, for what WebAssembly cannot do.
    ///
    /// # Errors
    /// If there is none.
    pub fn plugin(&self) -> Result<&Client> {
        let without =
            || Error::input("runtime.device = \"wasm\" has no XLA to look into: take \"cpu\" or \"cuda\" for this");
        self.client().ok_or_else(without)
    }
}

/// Compiles what was lowered since `start`, or takes it from the compile cache.
fn compile_lowered(
    (client, cache): (&Client, &CompileCache),
    name: &str,
    lowered: Lowered,
    options: &CompileOptions,
    start: Instant,
) -> Result<Program> {
    let lower_time = start.elapsed();
    let (executable, outcome) = cache.compile(client, &lowered.text, options).map_err(run_error)?;
    let elapsed = start.elapsed();
    if tracing::enabled!(tracing::Level::INFO) {
        let temporaries = match executable.memory_stats() {
            Ok(stats) => format!("{} of temporaries", size(stats.temporaries.unsigned_abs().into())),
            Err(error) => format!("temporaries are not known: {error}"),
        };
        tracing::info!("{name}: {outcome} in {:.2} s, {temporaries}", elapsed.as_secs_f64());
    }
    Ok(Program { code: Code::Plugin(executable), report: lowered.report, outcome, elapsed, lower_time })
}

/// The options for a program of a CPU that is little work.
fn for_little_work(options: CompileOptions) -> CompileOptions {
    // LLVM's -O0 in place of -O3 makes machine code in a third of the time. XLA's emitters of fusions by way of MLIR set up
    // a context and a pipeline for each fusion, three times what the emitters before them take; and every module apart, of
    // 32, has a description of the processor of its own.
    options
        .with("xla_backend_optimization_level", 0_i64)
        .with("xla_cpu_use_fusion_emitters", false)
        .with("xla_cpu_parallel_codegen_split_count", 1_i64)
}

/// XLA's debug options for programs of a target.
pub fn compile_options(target: &Target) -> CompileOptions {
    let options = match target.platform {
        Platform::Generic => return CompileOptions::default(),
        Platform::Cuda(cuda) => {
            // What hides the latency of transfers between devices moves kernels, and on one device hides nothing. It heeds
            // no memory short of all that the device has, and keeps what the gradients of weights are made of to the end
            // of the backward pass (openxla/xla#45753, jax-ml/jax#20763): `remat = "layer"` saves little then.
            let options = CompileOptions::default().with("xla_gpu_enable_latency_hiding_scheduler", false);
            // Not `xla_gpu_exclude_nondeterministic_ops`, which refuses a program where it knows no other way.
            return if cuda.deterministic { options.with("xla_gpu_deterministic_ops", true) } else { options };
        }
        Platform::Cpu => CompileOptions::default()
            // The default of 256 bits leaves half of an AVX-512 unit idle; machines without it are not harmed.
            .with("xla_cpu_prefer_vector_width", 512_i64)
            // Fast minima and maxima lose NaNs, and a loss that is not a number must be seen.
            .with("xla_cpu_enable_fast_min_max", false)
            // XNNPACK keeps an operand of a product packed for as long as its address is the same. A weight that is
            // donated is updated where it lies, and the next step would multiply with the weight of the one before.
            .with("xla_cpu_use_xnnpack", false),
    };
    if target.has_kernels {
        // A reduction in windows of 32 is several times slower than one along a row; lowering for a target with kernels
        // sees to it that rows are short enough to be added up exactly.
        options.with("xla_disable_hlo_passes", "tree_reduction_rewriter")
    } else {
        options
    }
}

/// The options for a program that is profiled. On a GPU XLA makes graphs of kernels, which the driver starts as one: then
/// they all name the graph and not their instruction. So none is large enough to be made.
pub fn profiler_options(options: CompileOptions, target: &Target) -> CompileOptions {
    match target.platform {
        Platform::Cuda(_) => options.with("xla_gpu_graph_min_graph_size", i64::from(i32::MAX)),
        Platform::Cpu | Platform::Generic => options,
    }
}

/// The target that a client's programs are lowered for: `runtime` tells what the plugin is, `lower` what that means.
fn target_of(client: &Client, found: &Found) -> Target {
    if client.platform_name() != "cpu" {
        return Target::generic();
    }
    match found.source {
        // It could be any build.
        Source::Explicit | Source::Environment => Target { processor: Some(host_processor()), ..Target::cpu(None) },
        Source::Cache | Source::Python => cpu_target(),
    }
}

/// This machine's CPU in the plugin that lmc installs.
pub fn cpu_target() -> Target {
    let wheel = managed_plugin("cpu").ok().and_then(|plugin| plugin.wheels.first());
    let identity =
        wheel.map(|wheel| PluginIdentity { name: wheel.distribution.clone(), version: wheel.version.clone() });
    Target { processor: Some(host_processor()), has_kernels: identity.is_some(), ..Target::cpu(identity) }
}

/// The processor that runs this program.
fn host_processor() -> Processor {
    #[cfg(target_arch = "x86_64")]
    let avx512_bf16 = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let avx512_bf16 = false;
    Processor { architecture: std::env::consts::ARCH.to_string(), avx512_bf16, amx: lmc_runtime::has_matrix_unit() }
}

/// Finds the CPU plugin, or fetches it.
///
/// # Errors
/// If it cannot be found or fetched.
pub fn find_plugin(explicit: Option<PathBuf>) -> Result<Found> {
    let locations = Locations::from_environment(explicit).map_err(|e| Error::input(e.to_string()))?;
    let named = locations.named().is_some();
    let mut installation = Installation::default();
    find_or_install("cpu", &locations, &mut |progress| installation.show(progress))
        .map_err(|error| plugin_error(named, &error))
}

/// An error of a plugin: the user's input if the user named it, else a failure of the machine.
pub(crate) fn plugin_error(named: bool, error: &dyn std::error::Error) -> Error {
    if named { Error::input(error.to_string()) } else { Error::run(error.to_string()) }
}

/// The system has no memory for this process.
pub(crate) fn out_of_host_memory(error: &std::io::Error) -> Error {
    Error::run(format!("out of memory: {}", crate::error::reason(error)))
}

/// An error of the device while running.
pub(crate) fn run_error(error: lmc_runtime::Error) -> Error {
    match error.code() {
        Some(ErrorCode::ResourceExhausted) => Error::run(cuda::out_of_memory(&error)),
        _ => Error::run(error.to_string()),
    }
}

/// What a program is.
#[derive(Debug)]
enum Code {
    /// Machine code of a plugin.
    Plugin(Executable),
    /// A module that is interpreted.
    Wasm(Box<wasm::Program>),
}

/// A function compiled for a device.
#[derive(Debug)]
pub struct Program {
    code: Code,
    report: Report,
    outcome: CacheOutcome,
    elapsed: Duration,
    lower_time: Duration,
}

impl Program {
    /// Starts the program and returns its results without waiting for them.
    ///
    /// # Errors
    /// When the arguments are not those of the function, or the device is out of memory.
    pub fn execute(&self, arguments: Vec<Argument<'_>>) -> Result<Vec<Buffer>> {
        match &self.code {
            Code::Plugin(executable) => {
                let arguments: Result<Vec<_>> = arguments.into_iter().map(Argument::on_device).collect();
                let results = executable.execute(arguments?).map_err(run_error)?;
                Ok(results.into_iter().map(Buffer::Device).collect())
            }
            Code::Wasm(program) => {
                let results = program.execute(&arguments)?;
                Ok(results.into_iter().map(Buffer::Host).collect())
            }
        }
    }

    /// Runs the program on host tensors and waits for its results.
    ///
    /// # Errors
    /// As [`Program::execute`], and when the computation fails.
    pub fn run(&self, device: &Device, arguments: &[Literal]) -> Result<Vec<Literal>> {
        let buffers: Vec<Buffer> = arguments.iter().map(|x| device.buffer(x)).collect::<Result<_>>()?;
        let results = self.execute(buffers.into_iter().map(Argument::Donate).collect())?;
        results.iter().map(|buffer| buffer.to_literal().map_err(run_error)).collect()
    }

    /// The types of the function's parameters.
    pub fn argument_types(&self) -> &[TensorType] {
        match &self.code {
            Code::Plugin(executable) => executable.arguments(),
            Code::Wasm(program) => program.argument_types(),
        }
    }

    /// How each product and each attention was lowered.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether the program came from the compile cache, and if not, why.
    pub fn cache_outcome(&self) -> &CacheOutcome {
        &self.outcome
    }

    /// The time that lowering and compiling (or loading) took.
    pub fn compile_time(&self) -> Duration {
        self.elapsed
    }

    /// The part of [`Program::compile_time`] that lowering took.
    pub fn lower_time(&self) -> Duration {
        self.lower_time
    }

    /// The compiled program; `None` for WebAssembly.
    pub fn executable(&self) -> Option<&Executable> {
        match &self.code {
            Code::Plugin(executable) => Some(executable),
            Code::Wasm(_) => None,
        }
    }

    /// How the module came out, of WebAssembly.
    pub fn wasm_report(&self) -> Option<&lmc_lower::wasm::Report> {
        match &self.code {
            Code::Plugin(_) => None,
            Code::Wasm(program) => Some(program.report()),
        }
    }
}
