//! GGUF, the files of llama.cpp (its `docs/gguf.md`, versions 2 and 3, little-endian).
//!
//! [`Header`] reads what stands in front of the data, [`blocks`] reorders quantized blocks to codes in groups, with the same
//! values, [`model`] finds the architecture and the weights by Hugging Face's names.

pub mod blocks;
mod header;
pub mod model;

pub use header::{Header, ReadError, TensorInfo, Value};
