//! Builds the stand-in for the CUDA driver (`driver-stub/libcuda.rs`) as a shared library, which the crate embeds.
//!
//! Cargo gives a crate no way to a shared library of another one, so this calls the compiler that cargo names.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "driver-stub/libcuda.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let library = PathBuf::from(variable("OUT_DIR")).join("libcuda.so.1");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        // There is no CUDA plugin for other systems; `DRIVER_STUB` is empty there.
        std::fs::write(&library, []).expect("the build folder can be written");
        return;
    }
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "--crate-name",
        "cuda",
        "--crate-type",
        "cdylib",
        "--edition",
        "2024",
        "--target",
        &variable("TARGET"),
    ]);
    rustc.args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols", "-D", "warnings"]);
    rustc.args(["-C", "link-arg=-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).arg(SOURCE);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.status().expect("the Rust compiler runs");
    assert!(status.success(), "{SOURCE} does not compile: {status}");
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
