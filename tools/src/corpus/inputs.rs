//! From the paths, patterns and folders of a command line to files, and what is in them by their names.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text: every ending that is not one of the others.
    Text,
    /// A JSON object a line: `.jsonl`, `.ndjson`, `.json`.
    JsonLines,
    /// A table of columns: `.parquet`.
    Parquet,
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub format: Format,
    /// How it is packed.
    pub compression: Compression,
    /// Its size on disk, in bytes.
    pub bytes: u64,
}

/// The files that paths, patterns (`*`, `?`, `[a-z]`, `**`) and folders name: in the order given, those of a pattern or
/// a folder sorted. A folder stands for all files below it whose names do not begin with a dot. With `format`, every file
/// is of that; else its name decides.
///
/// # Errors
/// If a path cannot be read or is no plain file, or a pattern or a folder has no file.
pub fn expand(paths: &[PathBuf], format: Option<Format>) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in paths {
        let before = inputs.len();
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
        match pattern {
            None => add(path, format, &mut inputs)?,
            Some(pattern) => {
                let matches = glob::glob(pattern)
                    .map_err(|error| Error::input(format!("{pattern} is not a pattern: {error}")))?;
                for found in matches {
                    let found = found.map_err(|error| Error::cannot_read("the input", error.path(), error.error()))?;
                    // A pattern names files; the folders that it matches too are not meant.
                    if !found.is_dir() {
                        add(&found, format, &mut inputs)?;
                    }
                }
            }
        }
        if inputs.len() == before {
            return Err(Error::input(format!("there is no file to read in {}", path.display())));
        }
    }
    Ok(inputs)
}

fn add(path: &Path, format: Option<Format>, inputs: &mut Vec<Input>) -> Result<()> {
    let cannot = |error: &std::io::Error| Error::cannot_read("the input", path, error);
    let metadata = std::fs::metadata(path).map_err(|error| cannot(&error))?;
    if metadata.is_dir() {
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.map_err(|error| cannot(&error))?;
        entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            // A folder behind a link may lead back here.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if !(is_link && entry.path().is_dir()) {
                add(&entry.path(), format, inputs)?;
            }
        }
        return Ok(());
    }
    if !metadata.is_file() {
        return Err(Error::input(format!("the input {} is not a plain file", path.display())));
    }
    let (by_name, compression) = kind_of(path);
    inputs.push(Input { path: path.to_owned(), format: format.unwrap_or(by_name), compression, bytes: metadata.len() });
    Ok(())
}

fn kind_of(path: &Path) -> (Format, Compression) {
    let ending = |path: &Path| path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let compression = match ending(path).as_deref() {
        Some("gz") => Compression::Gzip,
        Some("zst") => Compression::Zstd,
        Some(_) | None => Compression::None,
    };
    let inner = if compression == Compression::None { path.to_owned() } else { path.with_extension("") };
    let format = match ending(&inner).as_deref() {
        Some("jsonl" | "ndjson" | "json") => Format::JsonLines,
        Some("parquet") => Format::Parquet,
        Some(_) | None => Format::Text,
    };
    (format, compression)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_holds() {
        for (name, expected) in [
            ("a", (Format::Text, Compression::None)),
            ("a.TXT", (Format::Text, Compression::None)),
            ("a.jsonl", (Format::JsonLines, Compression::None)),
            ("a.json.GZ", (Format::JsonLines, Compression::Gzip)),
            ("a.ndjson.zst", (Format::JsonLines, Compression::Zstd)),
            ("a.txt.zst", (Format::Text, Compression::Zstd)),
            ("gz", (Format::Text, Compression::None)),
            ("b.parquet", (Format::Parquet, Compression::None)),
        ] {
            assert_eq!(kind_of(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn folders_and_patterns_are_sorted_and_links_do_not_lead_astray() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b/2.txt", "b/10.txt", "a/z.txt", "c.txt", ".hidden", "b/.git/x"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), at("b/back")).unwrap();
        std::os::unix::fs::symlink(at("c.txt"), at("a/link.txt")).unwrap();
        std::fs::create_dir(at("none")).unwrap();
        let found = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| at(path)).collect();
            let name = |input: Input| input.path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
            expand(&paths, None).map(|inputs| inputs.into_iter().map(name).collect::<Vec<_>>())
        };
        let all = ["a/link.txt", "a/z.txt", "b/10.txt", "b/2.txt", "c.txt"];
        assert_eq!(found(&[""]).unwrap(), all);
        assert_eq!(found(&["c.txt", "b/*.txt"]).unwrap(), ["c.txt", "b/10.txt", "b/2.txt"]);
        for (path, expected) in [
            ("none", "no file to read"),
            ("*.x", "no file to read"),
            ("x.txt", "no such file"),
            ("[", "is not a pattern"),
        ] {
            let error = found(&[path]).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
