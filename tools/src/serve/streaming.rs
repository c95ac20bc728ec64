//! Answers that come bit by bit, as server-sent events.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;

use super::error::ApiError;
use super::generation::{Delta, Generation};

/// How an endpoint writes what came: the objects of as many events.
pub(super) trait Chunks: Send + 'static {
    /// What stands before everything else.
    fn begin(&mut self) -> Vec<Value>;
    /// What came to the text of that index.
    fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Value>;
    /// What stands at the end.
    fn end(&mut self, generation: &Generation) -> Vec<Value>;
}

/// The state of a stream: what came first, or what is still to come.
struct State<C> {
    generation: Generation,
    chunks: C,
    ended: bool,
}

/// The answer, once its first token is there: what is refused before that has a status of its own.
///
/// # Errors
/// If nothing can be generated.
pub(super) async fn respond(mut generation: Generation, mut chunks: impl Chunks) -> Result<Response, ApiError> {
    let first = generation.next().await.transpose()?;
    let mut events = chunks.begin();
    if let Some((index, delta)) = first {
        events.extend(chunks.delta(index, &delta));
    }
    let begin = Bytes::from(encode(&events));
    let state = State { generation, chunks, ended: false };
    let rest = stream::unfold(state, next);
    let body = Body::from_stream(futures_util::StreamExt::chain(stream::iter([Ok(begin)]), rest));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

async fn next<C: Chunks>(mut state: State<C>) -> Option<(Result<Bytes, std::convert::Infallible>, State<C>)> {
    while !state.ended {
        let events = match state.generation.next().await {
            Some(Ok((index, delta))) => encode(&state.chunks.delta(index, &delta)),
            Some(Err(error)) => {
                state.ended = true;
                encode(&[error.body()])
            }
            None => {
                state.ended = true;
                encode(&state.chunks.end(&state.generation)) + "data: [DONE]\n\n"
            }
        };
        if !events.is_empty() {
            return Some((Ok(Bytes::from(events)), state));
        }
    }
    None
}

fn encode(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}
