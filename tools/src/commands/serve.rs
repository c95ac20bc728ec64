//! `lmc serve`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lmc_graph::DType;

use crate::chat_template::ChatTemplate;
use crate::cli::PluginArgs;
use crate::device::DeviceOptions;
use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, Result, reason};
use crate::output::say;
use crate::pretrained::{LoadOptions, load};
use crate::quantization::Scheme;
use crate::serve::{BearerToken, ServeOptions, ServedModel, Server};

/// The variable of the environment with the bearer token.
const TOKEN_VARIABLE: &str = "LMC_SERVE_TOKEN";

/// Serve a model over HTTP, by OpenAI's protocol
///
/// Answers /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/models, /health and /metrics, until Ctrl-C or SIGTERM;
/// then what was asked for is finished. Requests are generated side by side in slots; those that find none free wait.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc serve Qwen3-0.6B --slots 8\n  curl http://127.0.0.1:8080/v1/chat/completions \
                        -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'")]
pub struct ServeArgs {
    /// A folder of Hugging Face's with a model, or a run folder
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The address to listen at; beyond this machine's own a bearer token is needed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The name that requests call the model by [default: that of its folder]
    #[arg(long)]
    pub name: Option<String>,
    /// A file with the bearer token that requests must carry [default: LMC_SERVE_TOKEN of the environment, else none]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A chat template (Jinja) in place of the model's
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Texts that are generated side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub slots: u16,
    /// The most tokens of a prompt and its answer [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// What the cache of keys and values may take; a context that is not given is made shorter to fit
    #[arg(long, value_name = "MB")]
    pub cache_mb: Option<u64>,
    /// Tokens of each text that are drawn in one launch; several come all at once [default: 1 on the CPU, 8 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub launch_tokens: Option<u16>,
    /// Texts that may wait for a slot; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue: u32,
    /// Connections at once; more wait until one ends
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub connections: u32,
    /// The time from a request to the end of its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub time_limit: u32,
    /// The time that requests have to be finished when the server ends
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain_time: u32,
    /// The largest body of a request
    #[arg(long, value_name = "MB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_body_mb: u32,
    /// Drop the first tokens of a prompt that does not fit the context, where it would be refused
    #[arg(long)]
    pub truncate_prompt: bool,
    /// Keep matrices in fewer bits, in groups of 64 columns, quantized as they are read
    #[arg(long, value_name = "int8|int4")]
    pub quantize: Option<String>,
    /// The type in which layers compute [default: that of the weights]
    #[arg(long, value_enum)]
    pub dtype: Option<ServeDType>,
    /// The plugin.
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// The type in which layers compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ServeDType {
    /// 32 bits
    Float32,
    /// 16 bits, with the range of 32
    Bfloat16,
}

pub(super) fn run(args: ServeArgs) -> Result<()> {
    let token = token(args.token_file.as_deref())?;
    let template = args.chat_template.as_deref().map(|file| ChatTemplate::read_file(file, &args.model)).transpose()?;
    let options = ServeOptions {
        address: SocketAddr::new(args.host, args.port),
        token,
        queue: args.queue as usize,
        time_limit: Duration::from_secs(args.time_limit.into()),
        connections: args.connections as usize,
        header_time: Duration::from_secs(30),
        write_time: Duration::from_secs(60),
        body_time: Duration::from_secs(30),
        most_body_bytes: (args.max_body_mb as usize) << 20,
        drain_time: Duration::from_secs(args.drain_time.into()),
    };
    let failed = |error: &std::io::Error| Error::run(format!("cannot serve: {}", reason(error)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Connections take little; the cores are the engine's.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    // An address that cannot be had is told before a model is loaded.
    let server = runtime.block_on(Server::bind(options))?;
    let dtype = args.dtype.map(|dtype| match dtype {
        ServeDType::Float32 => DType::F32,
        ServeDType::Bfloat16 => DType::BF16,
    });
    let quantize = args.quantize.as_deref().map(Scheme::named).transpose()?;
    let device = DeviceOptions { plugin: args.plugin.plugin, ..DeviceOptions::default() };
    let model = Arc::new(load(&args.model, &LoadOptions { dtype, quantize, device })?);
    let engine_options = EngineOptions {
        max_context: args.context,
        slots: args.slots.into(),
        cache_budget: args.cache_mb.map(|megabytes| megabytes << 20),
        launch_tokens: args.launch_tokens.map(usize::from),
        ..EngineOptions::default()
    };
    let engine = Engine::new(Arc::clone(&model), &engine_options)?;
    let name = match args.name {
        Some(name) => name,
        None => folder_name(&args.model)?,
    };
    let truncate_prompt = args.truncate_prompt;
    let served = ServedModel { truncate_prompt, ..ServedModel::of_engine(&engine, name, template)? };
    engine.prepare()?;
    let address = server.address()?;
    say(format_args!(
        "serving {} at http://{address}: {} slots of {} tokens{}",
        served.name,
        engine.slots(),
        served.max_context,
        if served.template.is_some() { "" } else { "; it has no chat template, so there are completions only" }
    ));
    runtime.block_on(async {
        let stop = stop_signal().map_err(|error| failed(&error))?;
        server.run(served, engine, stop).await
    })?;
    say("all requests are answered");
    Ok(())
}

/// Ready when the process is asked to end, by Ctrl-C or SIGTERM. A second time, it ends at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("finishing what was asked for; once more to end at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // As a shell tells of a process that Ctrl-C ended.
            std::process::exit(130);
        });
    })
}

fn token(file: Option<&Path>) -> Result<Option<BearerToken>> {
    if let Some(file) = file {
        let token = std::fs::read_to_string(file);
        return BearerToken::new(&token.map_err(|error| Error::cannot_read("the bearer token", file, &error))?)
            .map(Some);
    }
    match std::env::var(TOKEN_VARIABLE) {
        Ok(token) => BearerToken::new(&token).map(Some),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::input(format!("{TOKEN_VARIABLE} is not UTF-8 text"))),
    }
}

fn folder_name(folder: &Path) -> Result<String> {
    let whole = folder.canonicalize().map_err(|error| Error::cannot_read("the model", folder, &error))?;
    Ok(whole.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned()))
}
