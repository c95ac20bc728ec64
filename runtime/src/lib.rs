//! The device side of lmc: everything about PJRT, and nothing about ops. A program comes in as StableHLO text, data as
//! [`Literal`](lmc_graph::Literal)s; compiled programs and buffers on a device come out.
//!
//! ```no_run
//! use lmc_graph::Literal;
//! use lmc_runtime::plugin::{Locations, find_or_install};
//! use lmc_runtime::{Argument, Client, ClientOptions, CompileOptions, Plugin};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let locations = Locations::from_environment(None)?;
//! let found = find_or_install("cpu", &locations, &mut |step| eprintln!("{step:?}"))?;
//! let plugin = Plugin::load(&found.path)?;
//! let client = Client::new(&plugin, &ClientOptions { cpu_device_count: Some(1), ..ClientOptions::default() })?;
//!
//! let text = "module @doubling {
//!   func.func @main(%x: tensor<2xf32> {tf.aliasing_output = 0 : i32}) -> tensor<2xf32> {
//!     %y = stablehlo.add %x, %x : tensor<2xf32>
//!     return %y : tensor<2xf32>
//!   }
//! }";
//! let doubling = client.compile(text, &CompileOptions::default())?;
//! let mut x = client.buffer(&Literal::new([2], &[1f32, 2.]))?;
//! for _ in 0..3 {
//!     x = doubling.execute(vec![Argument::Donate(x)])?.remove(0); // does not wait
//! }
//! assert_eq!(x.to_literal()?.elements::<f32>(), [8., 16.]); // waits
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! 1. `unsafe` is in two folders: `pjrt`, the C interfaces (declarations in `api.rs`; a safe wrapper for every call in
//!    `calls.rs`, `program.rs`, `topology.rs` and `profiler.rs`; kernels registered in `ffi.rs`; libraries that must be
//!    there before a plugin in `driver.rs`), and `kernels`, the vector code that programs on the CPU call; and in the
//!    stand-in for CUDA's driver, a library of its own. All else is safe Rust. Handles own the plugin's objects, free them
//!    when dropped and keep alive what they depend on.
//! 2. Ownership expresses donation: [`Argument::Donate`] takes the buffer, [`Argument::Keep`] borrows it, and a
//!    borrowed buffer is never reused by the plugin. A donated buffer that is read again does not compile.
//! 3. Nothing waits for the device unless a value is read ([`Buffer::to_literal`], [`Buffer::wait`]). The error of a
//!    computation is the error of reading what it computes.
//! 4. What comes from outside (files, environment, the plugin, a program's text) leads to a `Result`. Messages say
//!    what was expected, what was found, and what to do.
//! 5. A managed plugin is exactly what `plugins.toml` pins, by digest. A folder in the cache is whole or absent, and
//!    several processes may install, compile and cache at once.
//! 6. A program that the plugin cannot serialize safely is never offered to the compile cache, and machine code from
//!    the cache is loaded only after its digest was checked.
//! 7. What may end the process over wrong inputs, compiling for a GPU that is only described, runs in a child process
//!    ([`deviceless`]); the stand-in for CUDA's driver is loaded nowhere else.
//! 8. [`Plugin`], [`Client`], [`Device`], [`Buffer`] and [`Executable`] are `Send` and `Sync`.
//!
//! # Reading order
//!
//! `plugin/manifest.rs` with `plugins.toml`, `plugin/search.rs`, `plugin/fetch.rs`: which library. `plugin/mod.rs`:
//! loading it. `client.rs`, `buffer.rs`, `executable.rs`: the objects. `profiler.rs`: what ran when. `cache.rs`: compiled
//! programs on disk.
//! `deviceless/`: programs for a GPU that is not there. Below them `pjrt/calls.rs` and `pjrt/api.rs`, and `pjrt/ffi.rs` for
//! `kernels`. `memory.rs`: what buffers can lie in. `mend.rs`: what XLA's messages mean. `options.rs`, `signature.rs` and
//! `location.rs` are about the form of compile options, of a program's text and of XLA's messages.

mod buffer;
pub mod cache;
mod client;
pub mod deviceless;
mod error;
mod executable;
pub mod gpu;
mod kernels;
mod location;
mod memory;
mod mend;
mod options;
mod pjrt;
pub mod plugin;
mod process;
mod profiler;
mod signature;
#[cfg(test)]
mod testing;

pub use buffer::Buffer;
pub use cache::{CacheOutcome, CompileCache};
pub use client::{Client, ClientOptions, Device, HloDump};
pub use error::{Error, ErrorCode, PjrtError, Result};
pub use executable::{Argument, Executable};
pub use kernels::has_matrix_unit;
pub use memory::HostMemory;
pub use options::{CompileOptions, OptionValue};
pub use pjrt::calls::{MemoryStats, NamedValue, share_freed_memory};
pub use pjrt::program::CompiledMemoryStats;
pub use plugin::{Plugin, PluginError};
pub use process::{process_memory_bytes, process_peak_memory_bytes};
pub use profiler::{Profiler, ProfilerOptions};

/// Invariant 8, checked when lmc is built.
const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Plugin>();
    send_and_sync::<Client>();
    send_and_sync::<Device>();
    send_and_sync::<Buffer>();
    send_and_sync::<Executable>();
};
