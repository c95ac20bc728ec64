//! The texts of one request as they grow: tokens from the engine's thread in, text and finish reasons out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use super::error::ApiError;
use super::queue::{Event, Queue, Text, Work};
use super::tool_calls::{CallReader, ToolCall, ToolReading};
use crate::engine::text::{StopStrings, StoppingText};
use crate::engine::{Emitted, Reason, Request};
use crate::error::{Error, ErrorKind};
use crate::tokenizer::Tokenizer;

/// Why a text ended, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// With a stop token or before a stop string.
    Stop,
    /// With as many tokens as were asked for, or at the end of the context.
    Length,
    /// As [`FinishReason::Stop`], with calls of tools.
    ToolCalls,
}

impl FinishReason {
    pub(super) fn word(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
        }
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokenLogprob {
    pub(super) token: u32,
    pub(super) logprob: f32,
    pub(super) likeliest: Vec<(u32, f32)>,
}

/// What came to one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) text: String,
    /// The calls of tools that are complete.
    pub(super) calls: Vec<ToolCall>,
    /// The tokens that came, if log-probabilities were asked for; their text may be held back still.
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finish: Option<FinishReason>,
}

/// One text.
#[derive(Debug)]
struct Choice {
    text: StoppingText<Arc<Tokenizer>>,
    /// What reads calls of tools, if any were offered.
    calls: Option<CallReader>,
    /// The token of the mark before calls, if it has no text.
    mark: Option<u32>,
    done: Arc<AtomicBool>,
    finished: bool,
}

/// The texts of a request. Dropping it gives them up, as the engine's thread finds that nobody listens.
#[derive(Debug)]
pub(super) struct Generation {
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    choices: Vec<Choice>,
    /// Tokens of the prompts, each counted once.
    pub(super) prompt_tokens: usize,
    /// Tokens that were cut from the beginnings of prompts.
    pub(super) truncated_tokens: usize,
    /// Tokens that were generated.
    pub(super) completion_tokens: usize,
}

impl Generation {
    /// Asks for a text for each of `requests`, to be ready at `deadline`.
    ///
    /// # Errors
    /// If the queue is full, or the server ends.
    pub(super) fn start(
        queue: &Queue,
        tokenizer: &Arc<Tokenizer>,
        requests: Vec<Request>,
        stops: &StopStrings,
        tools: Option<&ToolReading>,
        deadline: Instant,
    ) -> Result<Generation, ApiError> {
        let (sender, events) = mpsc::unbounded_channel();
        let asked = Instant::now();
        let mut choices = Vec::with_capacity(requests.len());
        let mut work = Vec::with_capacity(requests.len());
        for (choice, request) in requests.into_iter().enumerate() {
            let done = Arc::new(AtomicBool::new(false));
            let text = StoppingText::new(Arc::clone(tokenizer), &request.prompt, stops.clone());
            let (calls, mark) = (tools.map(CallReader::new), tools.and_then(|tools| tools.mark));
            choices.push(Choice { text, calls, mark, done: Arc::clone(&done), finished: false });
            let events = sender.clone();
            work.push(Work::Text(Text { request, choice, events, done, asked, deadline }));
        }
        queue.add(work)?;
        Ok(Generation { events, choices, prompt_tokens: 0, truncated_tokens: 0, completion_tokens: 0 })
    }

    /// What comes next, to the text of that index; `None` when all are finished.
    ///
    /// # Errors
    /// If the engine refuses or fails, or the time is over. Then there is nothing more.
    pub(super) async fn next(&mut self) -> Option<Result<(usize, Delta), ApiError>> {
        while self.choices.iter().any(|choice| !choice.finished) {
            let Some((index, event)) = self.events.recv().await else {
                return Some(Err(ApiError::internal("the engine has ended")));
            };
            match event {
                Event::Token(emitted) => {
                    if let Some(delta) = self.take(index, emitted) {
                        return Some(Ok((index, delta)));
                    }
                }
                Event::Failed(error) => return Some(Err(refusal(&error))),
                Event::TimedOut => return Some(Err(ApiError::timed_out())),
                Event::ShuttingDown => return Some(Err(ApiError::shutting_down())),
            }
        }
        None
    }

    fn take(&mut self, index: usize, emitted: Emitted) -> Option<Delta> {
        let choice = &mut self.choices[index];
        if choice.finished {
            // A token that was on its way when a stop string ended the text.
            return None;
        }
        self.completion_tokens += 1;
        let mut delta = Delta::default();
        if let Some(logprobs) = emitted.logprobs {
            delta.logprobs.push(TokenLogprob {
                token: emitted.token,
                logprob: logprobs.token,
                likeliest: logprobs.likeliest,
            });
        }
        // A stop token is no text.
        if emitted.finished != Some(Reason::StopToken) {
            let piece = choice.text.push(emitted.token);
            delta.text = piece.text;
            delta.finish = piece.stop.map(|_| FinishReason::Stop);
        }
        if delta.finish.is_none()
            && let Some(reason) = emitted.finished
        {
            let piece = choice.text.finish();
            delta.text += &piece.text;
            delta.finish = Some(match (piece.stop, reason) {
                (Some(_), _) | (None, Reason::StopToken) => FinishReason::Stop,
                (None, Reason::Length) => FinishReason::Length,
            });
        }
        if let Some(reader) = &mut choice.calls {
            let mut read = reader.push(&delta.text);
            if choice.mark == Some(emitted.token) && emitted.finished != Some(Reason::StopToken) {
                read.extend(reader.push_mark());
            }
            if delta.finish.is_some() {
                read.extend(reader.finish());
            }
            (delta.text, delta.calls) = (read.text, read.calls);
            if delta.finish == Some(FinishReason::Stop) && reader.calls > 0 {
                delta.finish = Some(FinishReason::ToolCalls);
            }
        }
        if delta.finish.is_some() {
            choice.finished = true;
            choice.done.store(true, Ordering::Relaxed);
        }
        Some(delta)
    }

    /// All of it, once it is finished: what came to each text, in one.
    ///
    /// # Errors
    /// As [`Generation::next`].
    pub(super) async fn collect(&mut self) -> Result<Vec<Delta>, ApiError> {
        let mut whole = vec![Delta::default(); self.choices.len()];
        while let Some(next) = self.next().await {
            let (index, delta) = next?;
            whole[index].text += &delta.text;
            whole[index].calls.extend(delta.calls);
            whole[index].logprobs.extend(delta.logprobs);
            whole[index].finish = delta.finish;
        }
        Ok(whole)
    }
}

/// An error of the engine as an answer.
pub(super) fn refusal(error: &Error) -> ApiError {
    match error.kind() {
        ErrorKind::Input => ApiError::bad_request(error.message()),
        ErrorKind::Run | ErrorKind::NonFinite => ApiError::internal(error.message()),
    }
}
