//! From the paths and patterns of a config to files that exist, and to their text.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result, reason};

/// The files of `key`, a list of paths and patterns, in the order given; those of a pattern sorted.
pub(super) fn expand(config: &Config, key: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
        let Some(pattern) = pattern else {
            check_file(config, key, path)?;
            files.push(path.clone());
            continue;
        };
        let matches = glob::glob(pattern)
            .map_err(|error| config.error_at(key, format!("{pattern} is not a pattern: {error}")))?;
        let before = files.len();
        for file in matches {
            let file = file.map_err(|error| {
                let reason = reason(error.error());
                config.error_at(key, format!("cannot read {}: {reason}", error.path().display()))
            })?;
            if !file.is_dir() {
                check_file(config, key, &file)?;
                files.push(file);
            }
        }
        if files.len() == before {
            return Err(config.error_at(key, format!("no file matches {pattern}")));
        }
    }
    Ok(files)
}

fn check_file(config: &Config, key: &str, path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = std::fs::metadata(path)
        .map_err(|error| config.error_at(key, format!("cannot read {shown}: {}", reason(&error))))?;
    if metadata.is_dir() {
        return Err(config.error_at(key, format!("{shown} is a folder; give a file, or a pattern such as {shown}/*")));
    }
    if metadata.is_file() && metadata.len() == 0 {
        return Err(config.error_at(key, format!("{shown} is empty")));
    }
    Ok(())
}

/// The text of a file, without a byte order mark.
pub(super) fn read_text(config: &Config, key: &str, path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| config.error_at(key, format!("cannot read {shown}: {}", reason(&error))))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let hint = if path.extension().is_some_and(|ending| ending == "bin") {
            "token shards are read when there is no `tokenizer`"
        } else {
            "convert it, for example with iconv"
        };
        config.error_at(key, format!("{shown} is not UTF-8 text: line {line}, byte {at} of the file; {hint}"))
    })?;
    Ok(text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text))
}

/// An error about the content of `path`, shown at `key`.
pub(super) fn content_error(config: &Config, key: &str, path: &Path, error: &Error) -> Error {
    config.error_at(key, format!("{}: {error}", path.display()))
}
