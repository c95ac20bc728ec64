//! The PJRT C API: declarations in `api`, safe wrappers in `calls`. All `unsafe` of the crate is in these two files.

pub(crate) mod api;
pub(crate) mod calls;
pub(crate) mod ffi;
