//! The PJRT C API: declarations in `api`, safe wrappers in `calls`, `program` and `topology`, libraries that a plugin
//! needs beforehand in `driver`. All `unsafe` of the crate is in these files.

pub(crate) mod api;
pub(crate) mod calls;
pub(crate) mod driver;
pub(crate) mod program;
pub(crate) mod topology;
