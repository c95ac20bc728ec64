//! Text from a model, token by token.

mod options;
mod request;
pub mod text;

pub use options::{EngineOptions, Figures};
pub use request::{Emitted, Logprobs, MOST_LOGPROBS, Reason, Request, Sampling, SlotId};
