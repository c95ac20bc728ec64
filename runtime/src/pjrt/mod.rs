//! The C interfaces of a plugin. PJRT: declarations in `api`, safe wrappers in `calls`. XLA's FFI, by which programs call
//! kernels of this crate: `ffi`. But for the kernels, all `unsafe` of the crate is here.

pub(crate) mod api;
pub(crate) mod calls;
pub(crate) mod ffi;
