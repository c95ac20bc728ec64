//! The C interfaces of a plugin. PJRT: declarations in `api`, safe wrappers in `calls`, `program` and `topology`,
//! libraries that a plugin needs beforehand in `driver`. Its extension for profiles: `profiler`, declarations in
//! `profiler_abi`. XLA's FFI, by which programs call kernels of this crate:
//! `ffi`, declarations in `ffi_abi`. But for the kernels, all `unsafe` of the crate is here.

pub(crate) mod api;
pub(crate) mod calls;
pub(crate) mod driver;
pub(crate) mod ffi;
mod ffi_abi;
pub(crate) mod profiler;
mod profiler_abi;
pub(crate) mod program;
pub(crate) mod topology;
