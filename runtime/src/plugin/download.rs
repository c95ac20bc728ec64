//! Downloading wheels with pip, and what is kept of them while a plugin is installed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::PluginError;
use super::manifest::{Wheel, WheelFile};

/// Where the wheels of one plugin are while it is installed. It outlives an installation that fails.
pub(super) struct Downloads {
    dir: PathBuf,
}

/// Where pip unpacks what it is downloading.
const IN_PROGRESS: &str = "in-progress";

impl Downloads {
    /// The folder of the plugin that will be at `plugin_dir`.
    pub(super) fn open(cache: &Path, plugin_dir: &Path) -> Result<Downloads, PluginError> {
        let dir = cache.join("downloads").join(plugin_dir.file_name().unwrap_or_default());
        fs::create_dir_all(&dir).map_err(|e| PluginError::file("cannot make the folder", &dir, e))?;
        Ok(Downloads { dir })
    }

    pub(super) fn path(&self, file: &WheelFile) -> PathBuf {
        self.dir.join(&file.file)
    }

    /// Whether a wheel of the right size is there. Its digest is compared by [`Downloads::fetch`].
    pub(super) fn has(&self, file: &WheelFile) -> bool {
        fs::metadata(self.path(file)).is_ok_and(|metadata| metadata.len() == file.bytes)
    }

    /// Downloads a wheel, unless it is there, with the user's pip, whose own settings (index, proxy, certificates) hold,
    /// and checks its digest. `tell` is told how many bytes are there.
    pub(super) fn fetch(
        &self,
        python: &str,
        name: &str,
        wheel: &Wheel,
        file: &WheelFile,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), PluginError> {
        let path = self.path(file);
        if self.has(file) && sha256_of(&path)? == file.sha256 {
            return Ok(());
        }
        if path.exists() {
            fs::remove_file(&path).map_err(|e| PluginError::file("cannot replace", &path, e))?;
        }
        let requirement = wheel.requirement();
        let arguments = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"];
        let fail = |reason: String| PluginError::Download {
            name: name.to_owned(),
            command: format!("{python} {} {requirement}", arguments.join(" ")),
            reason,
        };
        let in_progress = self.dir.join(IN_PROGRESS);
        // What a killed pip has left.
        let _ = fs::remove_dir_all(&in_progress);
        fs::create_dir_all(&in_progress).map_err(|e| PluginError::file("cannot make the folder", &in_progress, e))?;
        let log = self.dir.join("pip.log");
        let log_file = File::create(&log).map_err(|e| PluginError::file("cannot write", &log, e))?;
        let mut pip = Command::new(python)
            .args(arguments)
            .args(["--no-input", "--progress-bar", "off", "--quiet", "--dest"])
            .arg(&self.dir)
            .arg(&requirement)
            .env("TMPDIR", &in_progress)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(|e| fail(format!("{python} does not run: {e}")))?;
        let status = loop {
            let ended = pip.try_wait().map_err(|e| fail(format!("{python} cannot be waited for: {e}")))?;
            if let Some(status) = ended {
                break status;
            }
            tell(size_of(&in_progress).min(file.bytes));
            thread::sleep(INTERVAL);
        };
        let _ = fs::remove_dir_all(&in_progress);
        if !status.success() {
            let said = fs::read(&log).unwrap_or_default();
            return Err(fail(last_lines(&String::from_utf8_lossy(&said), 5)));
        }
        if !path.is_file() {
            return Err(fail(format!("pip did not download {}, the file that lmc is made for", file.file)));
        }
        let found = sha256_of(&path)?;
        if found != file.sha256 {
            // It would be taken for the right one until its digest is compared.
            let _ = fs::remove_file(&path);
            return Err(PluginError::Digest { file: file.file.clone(), expected: file.sha256.clone(), found });
        }
        tell(file.bytes);
        Ok(())
    }

    /// Frees the room. What cannot be removed only takes space.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir_all(&self.dir);
        // Gone with the last plugin's.
        let _ = self.dir.parent().map(fs::remove_dir);
    }
}

/// Between two looks at what pip has downloaded.
const INTERVAL: Duration = Duration::from_millis(100);

/// The size of all files in a folder. Files come and go while this looks, which is no error.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The last `count` lines of a text that say something.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n  ")
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> Result<String, PluginError> {
    let mut file = File::open(path).map_err(|e| PluginError::file("cannot read", path, e))?;
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut digest).map_err(|e| PluginError::file("cannot read", path, e))?;
    Ok(hexadecimal(&digest.finalize()))
}

/// Bytes in hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn digests() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"abc").expect("written");
        // FIPS 180-4, the example for one block.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(file.path()).expect("read"), expected);
    }

    #[test]
    fn lines() {
        assert_eq!(last_lines("a\n\nb\nc \n", 2), "b\n  c");
        assert_eq!(last_lines("", 2), "");
    }
}
