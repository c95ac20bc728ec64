//! NVIDIA GPUs, as far as they can be known before anything of NVIDIA's is loaded: what the machine has, and whether the
//! libraries beside a plugin fit. Whatever is missing is a message of one paragraph with cause and mend, where loading
//! would end in a message of many causes, or in no message.

mod libraries;
mod problem;
mod survey;

pub use libraries::{CudnnVersion, Libraries, LibraryProblem, libraries};
pub use problem::GpuProblem;
pub use survey::{Gpu, Machine, Survey, survey};
