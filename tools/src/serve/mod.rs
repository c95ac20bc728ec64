//! A server that speaks OpenAI's protocol: completions, chats and embeddings of one model over HTTP.
//!
//! One thread has the engine and generates for all requests at once, a token of each a step; a text is taken into a slot
//! as soon as one is free. Connections read and check requests, put texts into a bounded queue, and write what comes.
//! Dropping the answer of a connection, as happens when the client leaves, gives its texts up.

mod batching;
mod chat;
mod completions;
mod connections;
mod embeddings;
mod error;
mod fields;
mod generation;
mod metrics;
mod model;
mod options;
mod pretrained;
mod queue;
mod routes;
mod sampling;
mod streaming;
#[cfg(test)]
mod tests;
mod tool_calls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::net::TcpListener;

pub use batching::TokenEngine;
pub use model::ServedModel;
pub use options::{BearerToken, ServeOptions};
pub use tool_calls::ToolForm;

use crate::error::{Error, Result, reason};
use generation::{Delta, Generation};
use metrics::Metrics;
use queue::Queue;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    model: Arc<ServedModel>,
    options: ServeOptions,
    queue: Queue,
    metrics: Arc<Metrics>,
    /// Whether the server takes no more requests.
    draining: AtomicBool,
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    options: ServeOptions,
}

impl Server {
    /// Listens at the address of `options`.
    ///
    /// # Errors
    /// If the address can be reached from other machines and there is no bearer token, or it cannot be listened at.
    pub async fn bind(options: ServeOptions) -> Result<Server> {
        let address = options.address;
        if !address.ip().is_loopback() && options.token.is_none() {
            return Err(Error::input(format!(
                "{address} can be reached from other machines, and there is no bearer token to ask for: give one with \
                 --token-file or LMC_SERVE_TOKEN, or listen at 127.0.0.1"
            )));
        }
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::input(format!("cannot listen at {address}: {}", reason(&error))))?;
        Ok(Server { listener, options })
    }

    /// The address that it listens at, with the port that the system chose for 0.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::run(format!("no address to listen at: {}", reason(&error))))
    }

    /// Answers until `stop` is ready, then finishes what was asked for, for at most as long as the options say.
    ///
    /// # Errors
    /// If a thread cannot be started, or the engine breaks.
    pub async fn run(
        self,
        model: ServedModel,
        engine: impl TokenEngine,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let metrics = Arc::new(Metrics::default());
        let queue = Queue::new(self.options.queue, engine.slots());
        let drain_time = self.options.drain_time;
        let model = Arc::new(model);
        let shared =
            Arc::new(Shared { model, options: self.options, queue, metrics, draining: AtomicBool::new(false) });
        let (ended, engine_ended) = tokio::sync::oneshot::channel::<()>();
        let for_engine = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            // Dropped at the end, also by a panic.
            let _ended = ended;
            batching::run(engine, &for_engine.queue, &for_engine.metrics)
        });
        let thread = thread.map_err(|error| Error::run(format!("cannot start a thread: {}", reason(&error))))?;
        let (drain, drained) = tokio::sync::oneshot::channel::<()>();
        let for_signal = Arc::clone(&shared);
        let stopping = async move {
            let engine_is_there = tokio::select! {
                () = stop => true,
                _ = engine_ended => false,
            };
            for_signal.draining.store(true, Ordering::Relaxed);
            for_signal.queue.close();
            if !engine_is_there {
                // Those that wait learn it when what they sent is dropped.
                drop(for_signal.queue.drain());
            }
            _ = drain.send(());
        };
        let router = routes::router(Arc::clone(&shared));
        let serve = connections::serve(self.listener, router, &shared.options, stopping);
        let late = async {
            _ = drained.await;
            tokio::time::sleep(drain_time).await;
        };
        tokio::select! {
            () = serve => {}
            () = late => tracing::warn!("giving up what is not finished after {} s", drain_time.as_secs()),
        }
        shared.queue.abort();
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(worked)) => worked,
            Ok(Err(_)) | Err(_) => Err(Error::run("the engine has ended unexpectedly")),
        }
    }
}

/// What stands in every answer to a request.
#[derive(Clone, Debug)]
struct Head {
    id: String,
    created: u64,
    model: Arc<ServedModel>,
}

impl Head {
    fn new(prefix: &str, model: &Arc<ServedModel>) -> Head {
        let id = format!("{prefix}-{:016x}{:016x}", sampling::random(), sampling::random());
        Head { id, created: unix_seconds(), model: Arc::clone(model) }
    }

    fn object(&self, kind: &str, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let Head { id, created, model } = self;
        let mut object =
            json!({ "id": id, "object": kind, "created": created, "model": model.name, "choices": choices });
        if let Some(usage) = usage {
            object["usage"] = usage;
        }
        object
    }

    /// A part of an answer; its usage is null if one comes at the end.
    fn chunk(&self, kind: &str, choices: Vec<Value>, include_usage: bool) -> Value {
        self.object(kind, choices, include_usage.then_some(Value::Null))
    }

    fn usage(&self, generation: &Generation) -> Value {
        let Generation { prompt_tokens, truncated_tokens, completion_tokens, .. } = generation;
        let mut usage = json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        });
        if *truncated_tokens > 0 {
            usage["truncated_prompt_tokens"] = json!(truncated_tokens);
        }
        usage
    }
}

/// How an endpoint writes an answer in one piece.
trait Answer {
    fn whole(self, choices: &[Delta], generation: &Generation) -> Value;
}

/// The time in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
