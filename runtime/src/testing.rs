//! What the tests with a device share. The plugin is found or fetched as the program does it.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::plugin::{Locations, find_or_install};
use crate::{Client, ClientOptions, CompileOptions, Executable, Plugin};

/// The CPU plugin.
pub(crate) fn plugin() -> Plugin {
    let locations = Locations::from_environment(None).expect("a cache folder");
    let found = find_or_install("cpu", &locations, &mut |step| eprintln!("{step:?}")).expect("the CPU plugin");
    Plugin::load(&found.path).expect("a plugin")
}

/// A client of the CPU plugin with one device.
pub(crate) fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        let options = ClientOptions { cpu_device_count: Some(1), ..ClientOptions::default() };
        Client::new(&plugin(), &options).expect("a client")
    });
    &CLIENT
}

/// Writes an executable shell script. Another process writes it: a file that this one has open for writing, if only in
/// the copy of a child that another test is about to start, cannot be executed.
pub(crate) fn write_script(path: &Path, text: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let status = Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(text).status().expect("sh runs");
    assert!(status.success());
}

/// A module `@m` with a `@main` of these arguments, results and body.
pub(crate) fn module(arguments: &str, results: &str, body: &str) -> String {
    format!("module @m {{\n  func.func @main({arguments}) -> ({results}) {{\n    {body}\n  }}\n}}\n")
}

/// The program of that module.
pub(crate) fn compile(arguments: &str, results: &str, body: &str) -> Executable {
    client().compile(&module(arguments, results, body), &CompileOptions::default()).expect("compiled")
}

/// Doubles four numbers, in place if they are donated.
pub(crate) fn doubling() -> Executable {
    compile(
        "%a: tensor<4xf32> {tf.aliasing_output = 0 : i32}",
        "tensor<4xf32>",
        "%0 = stablehlo.add %a, %a : tensor<4xf32>\n    return %0 : tensor<4xf32>",
    )
}
