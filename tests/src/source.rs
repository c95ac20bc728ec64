//! The files of the workspace, for the tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate of the tests lies in the workspace").to_path_buf()
}

/// A text file of the workspace.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path below the workspace, with `/` between folders.
    pub path: String,
    /// The contents.
    pub text: String,
}

impl Source {
    /// The name of the file, without its folder.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The crate's folder: the first part of the path.
    pub fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

/// Every text file below a folder of the workspace, in the order of paths; an empty `folder` is all of them.
///
/// Left out are what Cargo makes (`target`, `Cargo.lock`), what training makes (`runs`), hidden files but for `.ci`, and
/// files that are not UTF-8.
///
/// # Panics
/// If a folder or file cannot be read.
pub fn sources(folder: &str) -> Vec<Source> {
    let root = workspace();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ["target", "Cargo.lock", "runs"].contains(&name) || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let path = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
            found.push(Source { path, text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
