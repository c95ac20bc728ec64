//! The paths of the server: what is at each, and who may ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::chat::{ChatAnswer, ChatCompletion};
use super::completions::{Completion, CompletionAnswer};
use super::embeddings::Embeddings;
use super::error::ApiError;
use super::fields::Fields;
use super::generation::{Generation, refusal};
use super::model::ServedModel;
use super::queue::{Embedding, Work, elapsed};
use super::sampling::{Asked, Common};
use super::streaming::{self, Chunks};
use super::tool_calls::ToolReading;
use super::{Answer, Head, Shared};

/// The paths.
const PATHS: [&str; 6] =
    ["/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"];

/// All paths, each behind what every request goes through.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/embeddings", post(embeddings))
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(Arc::clone(&shared), every_request))
        .with_state(shared)
}

/// Asks for the bearer token, and counts.
async fn every_request(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.uri().path();
    // Counted by the paths that there are, so that no client makes the counters grow.
    let counted = PATHS.into_iter().find(|known| *known == path);
    let counted = counted.unwrap_or(if path.starts_with("/v1/models/") { "/v1/models" } else { "other" });
    let response = match authorize(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    shared.metrics.count_request(counted, response.status().as_u16());
    if response.status().is_success() && counted.ends_with("completions") {
        shared.metrics.request_time.observe(elapsed(began));
    }
    response
}

fn authorize(shared: &Shared, request: &Request) -> Result<(), ApiError> {
    let Some(token) = &shared.options.token else { return Ok(()) };
    if request.uri().path() == "/health" {
        return Ok(());
    }
    let sent = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|sent| {
        let (scheme, token) = sent.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    match sent {
        Some(sent) if token.is(sent) => Ok(()),
        Some(_) | None => Err(ApiError::unauthorized()),
    }
}

async fn nothing_here(request: Request) -> ApiError {
    let message = format!("there is nothing at {}; there is {}", request.uri().path(), PATHS.join(", "));
    ApiError::no_such(StatusCode::NOT_FOUND, message)
}

async fn other_method(method: Method, request: Request) -> ApiError {
    let message = format!("{} does not take {method}", request.uri().path());
    ApiError::no_such(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let draining = shared.draining.load(Ordering::Relaxed);
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let health = json!({
        "status": if draining { "shutting down" } else { "ok" },
        "model": shared.model.name,
        "running": shared.metrics.running(),
        "waiting": shared.queue.waiting(),
    });
    (status, Json(health)).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.metrics.text(shared.queue.waiting());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn model_object(model: &ServedModel) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "lmc",
        "max_model_len": model.max_context,
    })
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [model_object(&shared.model)] }))
}

async fn model(
    State(shared): State<Arc<Shared>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Json<Value>, ApiError> {
    if name == shared.model.name {
        return Ok(Json(model_object(&shared.model)));
    }
    Err(ApiError::no_such_model(&name, &shared.model.name))
}

/// The body of a request, within the limits of size and time.
async fn body(shared: &Shared, body: Body) -> Result<Bytes, ApiError> {
    let most = shared.options.most_body_bytes;
    match tokio::time::timeout(shared.options.body_time, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // The other reason is a connection that broke, to which nobody listens.
        Ok(Err(_)) => Err(ApiError::too_large(most)),
        Err(_) => Err(ApiError::slow_body()),
    }
}

/// Reads a request apart from the threads of the connections: templates and tokenizers take a while.
async fn read<T: Send + 'static>(
    shared: &Arc<Shared>,
    request: Request,
    read: fn(Fields, &ServedModel) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    if shared.draining.load(Ordering::Relaxed) {
        return Err(ApiError::shutting_down());
    }
    let bytes = body(shared, request.into_body()).await?;
    let model = Arc::clone(&shared.model);
    let reading = tokio::task::spawn_blocking(move || read(Fields::of_body(&bytes)?, &model));
    reading.await.unwrap_or_else(|_| Err(ApiError::internal("reading the request failed")))
}

/// Generates and answers, in one piece or bit by bit.
async fn generate(
    shared: &Shared,
    common: &Common,
    asked: Asked,
    tools: Option<&ToolReading>,
    answer: impl Answer + Chunks,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + shared.options.time_limit;
    let tokenizer = &shared.model.tokenizer;
    let Asked { requests, prompt_tokens, truncated_tokens } = asked;
    let mut generation = Generation::start(&shared.queue, tokenizer, requests, &common.stops, tools, deadline)?;
    (generation.prompt_tokens, generation.truncated_tokens) = (prompt_tokens, truncated_tokens);
    shared.metrics.prompt_tokens.add(prompt_tokens as u64);
    if common.stream {
        return streaming::respond(generation, answer).await;
    }
    let choices = generation.collect().await?;
    Ok(Json(answer.whole(&choices, &generation)).into_response())
}

async fn completions(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let Completion { common, asked, echoed } = read(&shared, request, Completion::read).await?;
    let answer = CompletionAnswer::new(Head::new("cmpl", &shared.model), &common, echoed);
    generate(&shared, &common, asked, None, answer).await
}

async fn chat_completions(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let ChatCompletion { common, asked, tools } = read(&shared, request, ChatCompletion::read).await?;
    let answer = ChatAnswer::new(Head::new("chatcmpl", &shared.model), &common, asked.requests.len());
    generate(&shared, &common, asked, tools.as_ref(), answer).await
}

async fn embeddings(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, ApiError> {
    let embeddings = read(&shared, request, Embeddings::read).await?;
    let (reply, vectors) = tokio::sync::oneshot::channel();
    let work = Work::Embedding(Embedding { inputs: embeddings.inputs.clone(), reply });
    shared.queue.add(vec![work])?;
    let vectors = match tokio::time::timeout(shared.options.time_limit, vectors).await {
        Ok(Ok(Ok(vectors))) => vectors,
        Ok(Ok(Err(error))) => return Err(refusal(&error)),
        Ok(Err(_)) => return Err(ApiError::shutting_down()),
        Err(_) => return Err(ApiError::timed_out()),
    };
    shared.metrics.prompt_tokens.add(embeddings.inputs.iter().map(|input| input.len() as u64).sum());
    Ok(Json(embeddings.answer(&vectors, &shared.model)?))
}
