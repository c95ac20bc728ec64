//! The CUDA driver library in this process, or a stand-in for it.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem;
use std::path::Path;

use libloading::Library;

/// The name that libraries ask the loader for.
pub(crate) const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// The shared library that `build.rs` makes of `driver-stub/libcuda.rs`. Empty where there is no CUDA plugin anyway.
const STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libcuda.so.1"));

/// Which driver library the process has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// The machine's own.
    Machine,
    /// The stand-in, which knows no GPU.
    Stub,
}

/// Loads the machine's driver library or, where the loader finds none, the stand-in, which is written to `folder` for
/// that. Whoever asks for [`DRIVER_LIBRARY`] later gets the one that was loaded.
pub(crate) fn load_driver(folder: &Path) -> io::Result<Driver> {
    if load(Path::new(DRIVER_LIBRARY)).is_ok() {
        return Ok(Driver::Machine);
    }
    let path = folder.join(DRIVER_LIBRARY);
    fs::write(&path, STUB)?;
    load(&path).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Driver::Stub)
}

/// Loads a library for good.
fn load(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: loading runs the library's initializers. It is the system's driver, which is made for being loaded by any
    // program, or the stand-in, which has none.
    let library = unsafe { Library::new(path) }?;
    mem::forget(library);
    Ok(())
}
