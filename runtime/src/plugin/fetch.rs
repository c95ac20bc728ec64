//! Fetching a managed plugin: pip downloads the pinned wheels, their digests are checked, and they are unpacked into a
//! folder that then gets its name at once, so that a folder of that name is always whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs4::fs_std::FileExt;
use sha2::{Digest, Sha256};

use super::PluginError;
use super::manifest::{Managed, Wheel, managed_plugin};
use super::search::Locations;

/// What an installation is about to do, for a line on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process installs the same plugin; this one waits for it.
    Waiting {
        /// The plugin.
        name: String,
    },
    /// A wheel is downloaded.
    Fetching {
        /// The plugin.
        name: String,
        /// What pip is asked for: `NAME==VERSION`.
        requirement: String,
        /// The size of all the plugin's wheels in megabytes.
        megabytes: u32,
    },
    /// A wheel with the right digest is unpacked.
    Unpacking {
        /// The wheel's file name.
        file: String,
        /// The folder that it will be in.
        dir: PathBuf,
    },
}

/// Installs the managed plugin `name` into the cache folder, unless it is there, and returns its library. `progress`
/// is called before every step that takes time.
///
/// # Errors
/// When lmc knows no such plugin, has none for this machine, may not fetch, pip fails, a digest is wrong, or the cache
/// folder cannot be written.
pub fn install(name: &str, locations: &Locations, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, PluginError> {
    install_with("python3", name, managed_plugin(name)?, locations, progress)
}

/// [`install`] of a plugin with a Python interpreter.
fn install_with(
    python: &str,
    name: &str,
    plugin: &Managed,
    locations: &Locations,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, PluginError> {
    let dir = locations.managed_dir(name, plugin);
    let library = dir.join(&plugin.library);
    if library.is_file() {
        return Ok(library);
    }
    let parent = locations.cache.join("plugins");
    fs::create_dir_all(&parent).map_err(|e| PluginError::file("cannot make the folder", &parent, e))?;
    let _lock = lock(&parent.join(format!("{name}.lock")), || progress(Progress::Waiting { name: name.to_owned() }))?;
    // Another process may have installed it while this one waited.
    if library.is_file() {
        return Ok(library);
    }
    if locations.offline {
        let requirements: Vec<String> = plugin.wheels.iter().map(Wheel::requirement).collect();
        return Err(PluginError::Offline { name: name.to_owned(), requirements: requirements.join(" ") });
    }
    // In the same folder, so that the rename stays within a file system. Removed when this function returns; what a
    // killed process has left is removed here.
    let prefix = format!(".unpacking-{name}-");
    remove_leftovers(&parent, &prefix);
    let temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(&parent)
        .map_err(|e| PluginError::file("cannot make a folder in", &parent, e))?;
    let unpacked = temporary.path().join("unpacked");
    for wheel in &plugin.wheels {
        let requirement = wheel.requirement();
        progress(Progress::Fetching { name: name.to_owned(), requirement, megabytes: plugin.megabytes });
        let file = download(python, name, wheel, temporary.path())?;
        progress(Progress::Unpacking { file: file_name(&file), dir: dir.clone() });
        unpack(&file, &unpacked)?;
    }
    if !unpacked.join(&plugin.library).is_file() {
        return Err(PluginError::NoLibrary { name: name.to_owned(), library: plugin.library.clone() });
    }
    if dir.exists() {
        // Not whole, or the library would have been found.
        fs::remove_dir_all(&dir).map_err(|e| PluginError::file("cannot replace", &dir, e))?;
    }
    fs::rename(&unpacked, &dir).map_err(|e| PluginError::file("cannot rename the unpacked plugin to", &dir, e))?;
    Ok(library)
}

/// Removes the folders whose names begin with `prefix`. The caller holds the lock of those who make them. What cannot be
/// removed only takes space.
fn remove_leftovers(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A lock that lasts as long as the returned file; `waiting` is called when another process holds it.
fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File, PluginError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| PluginError::file("cannot write", path, e))?;
    let taken = FileExt::try_lock_exclusive(&file).map_err(|e| PluginError::file("cannot lock", path, e))?;
    if !taken {
        waiting();
        FileExt::lock_exclusive(&file).map_err(|e| PluginError::file("cannot lock", path, e))?;
    }
    Ok(file)
}

/// Downloads a wheel into `dir` with the user's pip, whose own settings (index, proxy, certificates) hold, and checks
/// its digest.
fn download(python: &str, name: &str, wheel: &Wheel, dir: &Path) -> Result<PathBuf, PluginError> {
    let expected = wheel.file().ok_or_else(|| PluginError::NoWheel {
        name: name.to_owned(),
        machine: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        known: wheel.files.keys().map(|arch| format!("linux {arch}")).collect::<Vec<_>>().join(", "),
    })?;
    let requirement = wheel.requirement();
    let arguments = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"];
    let fail = |reason: String| PluginError::Download {
        name: name.to_owned(),
        command: format!("{python} {} {requirement}", arguments.join(" ")),
        reason,
    };
    let output = Command::new(python)
        .args(arguments)
        .args(["--no-input", "--dest"])
        .arg(dir)
        .arg(&requirement)
        .output()
        .map_err(|e| fail(format!("{python} does not run: {e}")))?;
    if !output.status.success() {
        return Err(fail(last_lines(&String::from_utf8_lossy(&output.stderr), 5)));
    }
    let path = dir.join(&expected.file);
    if !path.is_file() {
        return Err(fail(format!("pip did not download {}, the file that lmc is made for", expected.file)));
    }
    let found = sha256_of(&path)?;
    if found != expected.sha256 {
        return Err(PluginError::Digest { file: expected.file.clone(), expected: expected.sha256.clone(), found });
    }
    Ok(path)
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

/// Unpacks a wheel into `dir`.
fn unpack(wheel: &Path, dir: &Path) -> Result<(), PluginError> {
    let broken = |reason: String| PluginError::Wheel { file: file_name(wheel), reason };
    let file = File::open(wheel).map_err(|e| PluginError::file("cannot read", wheel, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(e.to_string()))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| broken(e.to_string()))?;
        // `None` for a name that would lead out of the folder.
        let name = entry.enclosed_name().ok_or_else(|| broken(format!("bad file name {}", entry.name())))?;
        let path = dir.join(name);
        if entry.is_dir() {
            fs::create_dir_all(&path).map_err(|e| PluginError::file("cannot make the folder", &path, e))?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| PluginError::file("cannot make the folder", parent, e))?;
        }
        let mut out = File::create(&path).map_err(|e| PluginError::file("cannot write", &path, e))?;
        io::copy(&mut entry, &mut out).map_err(|e| PluginError::file("cannot write", &path, e))?;
    }
    Ok(())
}

/// The last part of a path.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::plugin::WheelFile;
    use crate::testing::write_script;

    /// The bytes of an archive with one file.
    fn archive(name: &str) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        archive.start_file(name, SimpleFileOptions::default()).expect("started");
        archive.write_all(b"inside").expect("written");
        archive.finish().expect("finished").into_inner()
    }

    /// Installs a plugin of one wheel, which holds `inside`, with a `python3` that does `script` in the folder that it
    /// is to download to. Gives the library's contents or the error, and the number of entries in the cache folder.
    fn check(inside: &str, script: &str, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheel = dir.path().join("good.whl");
        fs::write(&wheel, archive(inside)).expect("written");
        let python = dir.path().join("python");
        // The last but one argument is the folder.
        let text = format!("for dir; do before=$last; last=$dir; done; cd \"$before\"\n{script}");
        write_script(&python, &text.replace("WHEEL", &wheel.display().to_string()));
        let file = WheelFile { file: "p-1.whl".into(), sha256: sha256_of(&wheel).expect("read") };
        let files = BTreeMap::from([(std::env::consts::ARCH.to_owned(), file)]);
        let wheels = vec![Wheel { distribution: "p".into(), version: "1".into(), files }];
        let plugin = Managed { version: "1".into(), library: "a/lib.so".into(), megabytes: 1, wheels };
        let cache = dir.path().join("cache");
        let locations = Locations { explicit: None, from_environment: None, cache, offline: false };
        let leftover = locations.cache.join("plugins/.unpacking-p-x");
        fs::create_dir_all(&leftover).expect("created");
        let mut steps = Vec::new();
        let python = python.to_string_lossy().into_owned();
        let installed = install_with(&python, "p", &plugin, &locations, &mut |step| steps.push(step));
        match (installed, expected) {
            (Ok(path), Ok(expected)) => {
                assert_eq!(fs::read_to_string(&path).expect("read"), expected);
                assert_eq!(steps.len(), 2, "{steps:?}");
                let again = install_with("/no/python", "p", &plugin, &locations, &mut |step| panic!("{step:?}"));
                assert_eq!(again.expect("installed"), path);
            }
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
                assert!(!locations.managed_dir("p", &plugin).exists());
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
        assert!(!leftover.exists());
        let names: Vec<_> = fs::read_dir(locations.cache.join("plugins")).expect("read").flatten().collect();
        assert!(names.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')), "{names:?}");
    }

    #[test]
    fn installing() {
        check("a/lib.so", "cp WHEEL p-1.whl", Ok("inside"));
        check("a/lib.so", "echo no such index >&2; exit 1", Err("no such index"));
        check("a/lib.so", "cp WHEEL other.whl", Err("pip did not download p-1.whl"));
        check(
            "a/lib.so",
            "echo > p-1.whl",
            Err("its SHA-256 is 01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"),
        );
        check("a/other.so", "cp WHEEL p-1.whl", Err("do not contain a/lib.so"));
    }

    #[test]
    fn offline_says_what_to_run() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let locations =
            Locations { explicit: None, from_environment: None, cache: dir.path().to_owned(), offline: true };
        let error = install("cpu", &locations, &mut |step| panic!("{step:?}")).expect_err("nothing to fetch from");
        let message = error.to_string();
        assert!(message.contains("LMC_OFFLINE") && message.contains("pip install xla-cpu-pjrt==0.0.1"), "{message}");
    }

    /// Unpacks an archive with one file.
    fn unpack_one(name: &str, dir: &Path) -> Result<(), PluginError> {
        let path = dir.join("a.whl");
        fs::write(&path, archive(name)).expect("written");
        unpack(&path, &dir.join("out"))
    }

    #[test]
    fn unpacking() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        unpack_one("a/b.txt", dir.path()).expect("unpacked");
        assert_eq!(fs::read(dir.path().join("out/a/b.txt")).expect("read"), b"inside");
        let message = unpack_one("../b.txt", dir.path()).expect_err("leads out of the folder").to_string();
        assert!(message.contains("bad file name ../b.txt"), "{message}");
        fs::write(dir.path().join("b.whl"), "no archive").expect("written");
        let error = unpack(&dir.path().join("b.whl"), &dir.path().join("out")).expect_err("no archive");
        assert!(error.to_string().contains("b.whl"), "{error}");
    }

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
