//! The plugins that lmc manages, as `plugins.toml` names them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::PluginError;

/// The file, as it was when lmc was built.
const TEXT: &str = include_str!("../../plugins.toml");

/// A plugin that lmc knows how to fetch.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Managed {
    /// The version that names the folder it is unpacked in.
    pub version: String,
    /// The path of the library in that folder.
    pub library: String,
    /// The room that the unpacked folder takes at most, in megabytes.
    pub unpacked_megabytes: u64,
    /// What is fetched and unpacked.
    pub wheels: Vec<Wheel>,
}

/// A wheel on a Python package index.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    /// The name that pip is asked for.
    pub distribution: String,
    /// The version that pip is asked for.
    pub version: String,
    /// What it must answer, by architecture (`std::env::consts::ARCH`).
    pub files: BTreeMap<String, WheelFile>,
}

/// A wheel's file for one architecture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelFile {
    /// The name of the file.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Managed {
    /// The size of the download in bytes, on the machine that lmc was built for; 0 where there are no wheels for it.
    pub fn download_bytes(&self) -> u64 {
        self.wheels.iter().filter_map(Wheel::file).map(|file| file.bytes).sum()
    }
}

impl Wheel {
    /// What pip is asked for: `NAME==VERSION`.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.distribution, self.version)
    }

    /// The file for the machine that lmc was built for; `None` where there is no such wheel.
    pub fn file(&self) -> Option<&WheelFile> {
        if cfg!(target_os = "linux") { self.files.get(std::env::consts::ARCH) } else { None }
    }
}

/// All plugins that lmc knows how to fetch, by name.
pub fn managed() -> &'static BTreeMap<String, Managed> {
    static MANAGED: LazyLock<BTreeMap<String, Managed>> =
        LazyLock::new(|| toml::from_str(TEXT).expect("plugins.toml is part of lmc and checked by a test"));
    &MANAGED
}

/// The plugin of this name.
///
/// # Errors
/// When there is none.
pub fn managed_plugin(name: &str) -> Result<&'static Managed, PluginError> {
    managed().get(name).ok_or_else(|| PluginError::UnknownName {
        name: name.to_owned(),
        known: managed().keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_complete() {
        assert!(managed().contains_key("cpu"));
        for (name, plugin) in managed() {
            assert!(!plugin.wheels.is_empty(), "{name}");
            for wheel in &plugin.wheels {
                for arch in ["x86_64", "aarch64"] {
                    let file = &wheel.files[arch];
                    assert!(
                        file.file.ends_with(&format!("_{arch}.whl")) && file.file.contains(&wheel.version),
                        "{name}"
                    );
                    assert!(file.bytes > 0, "{name}");
                    assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_name_is_said() {
        let message = managed_plugin("tpu").map(|_| ()).expect_err("no such plugin").to_string();
        assert!(message.contains("`tpu`") && message.contains("cpu"), "{message}");
    }
}
