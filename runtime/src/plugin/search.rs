//! Where a plugin is looked for.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PluginError;
use super::manifest::{Managed, managed_plugin};

/// What the user says about where plugins are: options and environment, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    /// A library named on the command line (`--plugin`).
    pub explicit: Option<PathBuf>,
    /// A library named by `LMC_PJRT_PLUGIN`.
    pub from_environment: Option<PathBuf>,
    /// lmc's cache folder.
    pub cache: PathBuf,
    /// Whether nothing may be fetched (`LMC_OFFLINE=1`).
    pub offline: bool,
}

impl Locations {
    /// The environment's, with the path of `--plugin` if there is one.
    ///
    /// # Errors
    /// When no variable says where the cache folder is.
    pub fn from_environment(explicit: Option<PathBuf>) -> Result<Locations, PluginError> {
        let offline = variable("LMC_OFFLINE").is_some_and(|value| value != "0");
        let from_environment = variable("LMC_PJRT_PLUGIN").map(PathBuf::from);
        Ok(Locations { explicit, from_environment, cache: cache_dir()?, offline })
    }

    /// The library that the user names, by either way.
    pub fn named(&self) -> Option<&Path> {
        self.explicit.as_deref().or(self.from_environment.as_deref())
    }

    /// The folder that a managed plugin is unpacked in. It names the architecture, for homes that machines share.
    pub fn managed_dir(&self, name: &str, plugin: &Managed) -> PathBuf {
        self.cache.join("plugins").join(format!("{name}-{}-{}", plugin.version, env::consts::ARCH))
    }
}

/// lmc's cache folder: `LMC_CACHE`, else `$XDG_CACHE_HOME/lmc`, else `~/.cache/lmc`. It need not exist.
///
/// # Errors
/// When none of these variables is set.
pub fn cache_dir() -> Result<PathBuf, PluginError> {
    if let Some(dir) = variable("LMC_CACHE") {
        return Ok(PathBuf::from(dir));
    }
    if let Some(dir) = variable("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("lmc"));
    }
    let home = variable("HOME").ok_or(PluginError::NoCacheDir)?;
    Ok(Path::new(&home).join(".cache").join("lmc"))
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Where a plugin was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The path was given on the command line.
    Explicit,
    /// `LMC_PJRT_PLUGIN` names it.
    Environment,
    /// lmc's cache folder: fetched and verified by lmc.
    Cache,
    /// A Python package of the `python3` on the path.
    Python,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Explicit => "--plugin",
            Source::Environment => "LMC_PJRT_PLUGIN",
            Source::Cache => "lmc's cache",
            Source::Python => "python3's packages",
        })
    }
}

/// A plugin's library and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The library.
    pub path: PathBuf,
    /// How it was found.
    pub source: Source,
}

/// The outcome of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// A library.
    Found(Found),
    /// None; `looked` says where it was looked for and why what was there does not do, a phrase each.
    NotFound {
        /// Where it was looked for.
        looked: Vec<String>,
    },
}

/// Looks for the plugin `name`: `--plugin`, `LMC_PJRT_PLUGIN`, the cache folder, the packages of the `python3` on the
/// path, of which only the pinned version counts. The first two are taken as they are: a path that is wrong is an
/// error of loading it, and does not lead to another plugin. Python runs only when the cache has nothing.
///
/// # Errors
/// When lmc knows no plugin of this name.
pub fn find(name: &str, locations: &Locations) -> Result<Search, PluginError> {
    let plugin = managed_plugin(name)?;
    if let Some(path) = &locations.explicit {
        return Ok(Search::Found(Found { path: path.clone(), source: Source::Explicit }));
    }
    if let Some(path) = &locations.from_environment {
        return Ok(Search::Found(Found { path: path.clone(), source: Source::Environment }));
    }
    let cached = locations.managed_dir(name, plugin).join(&plugin.library);
    if cached.is_file() {
        return Ok(Search::Found(Found { path: cached, source: Source::Cache }));
    }
    match python_package(plugin, "python3") {
        Ok(path) => Ok(Search::Found(Found { path, source: Source::Python })),
        Err(why) => Ok(Search::NotFound { looked: vec![format!("{} does not exist", cached.display()), why] }),
    }
}

/// Prints the version of a distribution and the path of a file of it, on a line each.
const PYTHON: &str = "
import importlib.metadata as metadata, sys
try:
    found = metadata.distribution(sys.argv[1])
except metadata.PackageNotFoundError:
    sys.exit(3)
print(found.version)
print(found.locate_file(sys.argv[2]))
";

/// The exit code of the script when there is no such distribution.
const NO_PACKAGE: i32 = 3;

/// The library in the packages of `python`, or why there is none.
fn python_package(plugin: &Managed, python: &str) -> Result<PathBuf, String> {
    let Some(wheel) = plugin.wheels.first() else { return Err("the plugin has no Python package".into()) };
    let output = Command::new(python)
        .args(["-c", PYTHON, &wheel.distribution, &plugin.library])
        .output()
        .map_err(|e| format!("{python} does not run ({e})"))?;
    if output.status.code() == Some(NO_PACKAGE) {
        return Err(format!("{python} has no package {}", wheel.distribution));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (true, Some((version, path))) = (output.status.success(), text.trim_end().split_once('\n')) else {
        return Err(format!("{python} does not tell its packages ({})", output.status));
    };
    if version != wheel.version {
        return Err(format!("{python} has {} {version}, lmc is made for {}", wheel.distribution, wheel.version));
    }
    let path = PathBuf::from(path);
    if !path.is_file() {
        return Err(format!("{python}'s package {} has no {}", wheel.distribution, path.display()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::write_script;

    fn locations(cache: &Path) -> Locations {
        Locations { explicit: None, from_environment: None, cache: cache.to_owned(), offline: true }
    }

    #[test]
    fn order() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut locations = locations(dir.path());
        let plugin = managed_plugin("cpu").expect("cpu");
        let library = locations.managed_dir("cpu", plugin).join(&plugin.library);
        fs::create_dir_all(library.parent().expect("a folder")).expect("created");
        fs::write(&library, "").expect("written");
        let check = |locations: &Locations, path: &Path, source| {
            let expected = Search::Found(Found { path: path.to_owned(), source });
            assert_eq!(find("cpu", locations).expect("found"), expected);
        };
        check(&locations, &library, Source::Cache);
        locations.from_environment = Some("/no/environment.so".into());
        check(&locations, Path::new("/no/environment.so"), Source::Environment);
        locations.explicit = Some("/no/explicit.so".into());
        check(&locations, Path::new("/no/explicit.so"), Source::Explicit);
    }

    /// A `python3` that answers with `script`.
    fn answer(script: &str) -> Result<PathBuf, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let python = dir.path().join("python");
        write_script(&python, script);
        let name = python.to_string_lossy().into_owned();
        python_package(managed_plugin("cpu").expect("cpu"), &name).map_err(|why| why.replace(&name, "PYTHON"))
    }

    #[test]
    fn python_packages() {
        let library = tempfile::NamedTempFile::new().expect("a temporary file");
        let path = library.path().display();
        assert_eq!(answer(&format!("echo 0.0.1; echo {path}")), Ok(library.path().to_owned()));
        let check = |script: &str, expected: &str| assert_eq!(answer(script), Err(expected.to_owned()));
        check(&format!("echo 0.0.2; echo {path}"), "PYTHON has xla-cpu-pjrt 0.0.2, lmc is made for 0.0.1");
        check("echo 0.0.1; echo /no/lib.so", "PYTHON's package xla-cpu-pjrt has no /no/lib.so");
        check("exit 3", "PYTHON has no package xla-cpu-pjrt");
        check("exit 1", "PYTHON does not tell its packages (exit status: 1)");
        let missing = python_package(managed_plugin("cpu").expect("cpu"), "/no/python");
        assert!(missing.is_err_and(|why| why.starts_with("/no/python does not run")));
    }
}
