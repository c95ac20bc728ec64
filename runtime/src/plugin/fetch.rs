//! Fetching a managed plugin: pip downloads the pinned wheels, their digests are checked, and they are unpacked into a
//! folder that then gets its name at once, so that a folder of that name is always whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;

use super::PluginError;
use super::download::Downloads;
use super::manifest::{Managed, Wheel, WheelFile, managed_plugin};
use super::search::Locations;

/// How an installation goes on, for a line or a bar on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process installs the same plugin; this one waits for it.
    Waiting {
        /// The plugin.
        name: String,
    },
    /// Something is about to be fetched.
    Starting {
        /// The plugin.
        name: String,
        /// What is to be downloaded, in bytes: without the wheels that an earlier attempt has left.
        download: u64,
        /// What an earlier attempt has left, in bytes.
        kept: u64,
        /// The room that the plugin will take, in megabytes.
        unpacked_megabytes: u64,
    },
    /// So much is done: called a few times a second.
    Working {
        /// What is being done: `fetching nvidia-cublas`.
        what: String,
        /// Bytes done. A byte of a wheel counts when it is there, and again when it is unpacked.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The plugin is in its place.
    Finished {
        /// Its folder.
        dir: PathBuf,
    },
}

/// Installs the managed plugin `name` into the cache folder, unless it is there, and returns its library. `progress`
/// is called before and during what takes time. Wheels that were fetched stay until all are: an installation that was
/// interrupted goes on with the next one.
///
/// # Errors
/// When lmc knows no such plugin, has none for this machine, may not fetch, there is no room, pip fails, a digest is
/// wrong, or the cache folder cannot be written.
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
    let wheels: Vec<(&Wheel, &WheelFile)> =
        plugin.wheels.iter().map(|wheel| Ok((wheel, expected_file(name, wheel)?))).collect::<Result<_, _>>()?;
    // In the same folder, so that the rename stays within a file system. Removed when this function returns; what a
    // killed process has left is removed here.
    let prefix = format!(".unpacking-{name}-");
    remove_leftovers(&parent, &prefix);
    let downloads = Downloads::open(&locations.cache, &dir)?;
    let download: u64 = wheels.iter().filter(|(_, file)| !downloads.has(file)).map(|(_, file)| file.bytes).sum();
    let all: u64 = wheels.iter().map(|(_, file)| file.bytes).sum();
    check_space(name, &parent, download + plugin.unpacked_megabytes * MEGABYTE)?;
    progress(Progress::Starting {
        name: name.to_owned(),
        download,
        kept: all - download,
        unpacked_megabytes: plugin.unpacked_megabytes,
    });
    let mut done = 0;
    let total = 2 * all;
    for (wheel, file) in &wheels {
        let what = format!("fetching {}", wheel.distribution);
        let mut tell = |bytes: u64| progress(Progress::Working { what: what.clone(), done: done + bytes, total });
        downloads.fetch(python, name, wheel, file, &mut tell)?;
        done += file.bytes;
    }
    let temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(&parent)
        .map_err(|e| PluginError::file("cannot make a folder in", &parent, e))?;
    let unpacked = temporary.path().join("unpacked");
    for (wheel, file) in &wheels {
        let what = format!("unpacking {}", wheel.distribution);
        let mut tell = |bytes: u64| progress(Progress::Working { what: what.clone(), done: done + bytes, total });
        unpack(&downloads.path(file), &unpacked, &mut tell)?;
        done += file.bytes;
    }
    if !unpacked.join(&plugin.library).is_file() {
        return Err(PluginError::NoLibrary { name: name.to_owned(), library: plugin.library.clone() });
    }
    if dir.exists() {
        // Not whole, or the library would have been found.
        fs::remove_dir_all(&dir).map_err(|e| PluginError::file("cannot replace", &dir, e))?;
    }
    fs::rename(&unpacked, &dir).map_err(|e| PluginError::file("cannot rename the unpacked plugin to", &dir, e))?;
    downloads.remove();
    progress(Progress::Finished { dir });
    Ok(library)
}

const MEGABYTE: u64 = 1_000_000;

/// Refuses to begin what the disk has no room for. A file system that does not tell is taken to have it.
fn check_space(name: &str, dir: &Path, needed: u64) -> Result<(), PluginError> {
    let Ok(free) = fs4::available_space(dir) else { return Ok(()) };
    if free >= needed {
        return Ok(());
    }
    let (needed, free) = (needed.div_ceil(MEGABYTE), free / MEGABYTE);
    Err(PluginError::Space { name: name.to_owned(), needed, free, dir: dir.to_owned() })
}

/// The file of a wheel for this machine.
fn expected_file<'a>(name: &str, wheel: &'a Wheel) -> Result<&'a WheelFile, PluginError> {
    wheel.file().ok_or_else(|| PluginError::NoWheel {
        name: name.to_owned(),
        machine: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        known: wheel.files.keys().map(|arch| format!("linux {arch}")).collect::<Vec<_>>().join(", "),
    })
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

/// Unpacks a wheel into `dir`. `tell` is told how much of the wheel is done, in bytes.
fn unpack(wheel: &Path, dir: &Path, tell: &mut dyn FnMut(u64)) -> Result<(), PluginError> {
    let broken = |reason: String| PluginError::Wheel { file: file_name(wheel), reason };
    let file = File::open(wheel).map_err(|e| PluginError::file("cannot read", wheel, e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(e.to_string()))?;
    let mut done = 0;
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
        let (compressed, size) = (entry.compressed_size(), entry.size());
        let failed = |e| PluginError::file("cannot write", &path, e);
        let mut out = File::create(&path).map_err(failed)?;
        let mut written = 0;
        loop {
            let part = io::copy(&mut (&mut entry).take(PART), &mut out).map_err(failed)?;
            if part == 0 {
                break;
            }
            written += part;
            // As if it were compressed evenly.
            tell(done + (compressed as f64 * (written as f64 / size.max(1) as f64)) as u64);
        }
        done += compressed;
        if entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0) {
            make_executable(&path)?;
        }
    }
    Ok(())
}

/// How much is unpacked between two words on the progress.
const PART: u64 = 4 << 20;

/// XLA runs programs of NVIDIA's, such as ptxas.
fn make_executable(path: &Path) -> Result<(), PluginError> {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|e| PluginError::file("cannot make executable", path, e))?;
    #[cfg(not(unix))]
    let _ = path;
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
    use crate::plugin::download::sha256_of;
    use crate::testing::write_script;

    /// The bytes of an archive with one file.
    fn archive(name: &str) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        archive.start_file(name, SimpleFileOptions::default()).expect("started");
        archive.write_all(b"inside").expect("written");
        archive.finish().expect("finished").into_inner()
    }

    /// A `python3` that does `script` in the folder that it is to download to, with `REQUIREMENT` and `GOOD`, the folder
    /// of the right wheels.
    fn python(dir: &Path, script: &str) -> String {
        let python = dir.join("python");
        // The last argument is the requirement, and the folder stands before it.
        let text = format!(
            "GOOD='{}'; for REQUIREMENT; do before=$last; last=$REQUIREMENT; done; cd \"$before\"\n{script}",
            dir.display()
        );
        write_script(&python, &text);
        python.to_string_lossy().into_owned()
    }

    /// A wheel of one file, written to `dir`.
    fn wheel(dir: &Path, distribution: &str, inside: &str) -> Wheel {
        let file = format!("{distribution}-1.whl");
        let path = dir.join(&file);
        fs::write(&path, archive(inside)).expect("written");
        let bytes = fs::metadata(&path).expect("written").len();
        let file = WheelFile { file, sha256: sha256_of(&path).expect("read"), bytes };
        let files = BTreeMap::from([(std::env::consts::ARCH.to_owned(), file)]);
        Wheel { distribution: distribution.into(), version: "1".into(), files }
    }

    fn locations(dir: &Path) -> Locations {
        Locations { explicit: None, from_environment: None, cache: dir.join("cache"), offline: false }
    }

    /// Installs a plugin of one wheel, which holds `inside`. Compares the library's contents or the error.
    fn check(inside: &str, script: &str, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheels = vec![wheel(dir.path(), "p", inside)];
        let plugin = Managed { version: "1".into(), library: "a/lib.so".into(), unpacked_megabytes: 1, wheels };
        let locations = locations(dir.path());
        let leftover = locations.cache.join("plugins/.unpacking-p-x");
        fs::create_dir_all(&leftover).expect("created");
        let mut steps = Vec::new();
        let python = python(dir.path(), script);
        let installed = install_with(&python, "p", &plugin, &locations, &mut |step| steps.push(step));
        match (installed, expected) {
            (Ok(path), Ok(expected)) => {
                assert_eq!(fs::read_to_string(&path).expect("read"), expected);
                let bytes = plugin.download_bytes();
                assert!(
                    matches!(steps[0], Progress::Starting { download, kept: 0, .. } if download == bytes),
                    "{steps:?}"
                );
                let (last, working) = steps[1..].split_last().expect("more steps");
                assert!(matches!(last, Progress::Finished { .. }), "{steps:?}");
                let done: Vec<u64> = working
                    .iter()
                    .filter_map(|step| {
                        let Progress::Working { done, total, .. } = step else { return None };
                        (*total == 2 * bytes).then_some(*done)
                    })
                    .collect();
                assert_eq!(done.len(), working.len(), "{steps:?}");
                assert!(done.is_sorted() && done.iter().all(|&done| done <= 2 * bytes), "{done:?}");
                assert!(!locations.cache.join("downloads").exists());
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
        check("a/lib.so", "cp $GOOD/p-1.whl .", Ok("inside"));
        check("a/lib.so", "echo no such index >&2; exit 1", Err("no such index"));
        check("a/lib.so", "cp $GOOD/p-1.whl other.whl", Err("pip did not download p-1.whl"));
        check(
            "a/lib.so",
            "echo > p-1.whl",
            Err("its SHA-256 is 01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"),
        );
        check("a/other.so", "cp $GOOD/p-1.whl .", Err("do not contain a/lib.so"));
    }

    #[test]
    fn an_installation_goes_on_where_it_was_interrupted() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheels = vec![wheel(dir.path(), "p", "a/lib.so"), wheel(dir.path(), "q", "b/other.so")];
        let plugin = Managed { version: "1".into(), library: "a/lib.so".into(), unpacked_megabytes: 1, wheels };
        let locations = locations(dir.path());
        let ask = "echo $REQUIREMENT >> $GOOD/asked\n";
        let broken = python(dir.path(), &format!("{ask}[ $REQUIREMENT = p==1 ] && cp $GOOD/p-1.whl ."));
        install_with(&broken, "p", &plugin, &locations, &mut |_| {}).expect_err("the second wheel is not there");
        let whole = python(dir.path(), &format!("{ask}cp $GOOD/q-1.whl ."));
        let mut first = None;
        install_with(&whole, "p", &plugin, &locations, &mut |step| first = first.take().or(Some(step)))
            .expect("installed");
        let bytes = |index: usize| plugin.wheels[index].file().expect("a file").bytes;
        let (download, kept) = (bytes(1), bytes(0));
        assert_eq!(first, Some(Progress::Starting { name: "p".into(), download, kept, unpacked_megabytes: 1 }));
        assert_eq!(fs::read_to_string(dir.path().join("asked")).expect("read"), "p==1\nq==1\nq==1\n");
        assert!(locations.managed_dir("p", &plugin).join("b/other.so").is_file());
    }

    #[test]
    fn a_disk_without_room_is_told_beforehand() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let wheels = vec![wheel(dir.path(), "p", "a/lib.so")];
        // An exabyte.
        let plugin = Managed { version: "1".into(), library: "a".into(), unpacked_megabytes: 1 << 40, wheels };
        let installed =
            install_with("/no/python", "p", &plugin, &locations(dir.path()), &mut |step| panic!("{step:?}"));
        let message = installed.expect_err("no room").to_string();
        assert!(message.contains("takes 1099511627777 MB") && message.contains("LMC_CACHE"), "{message}");
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
        unpack(&path, &dir.join("out"), &mut |_| {})
    }

    #[cfg(unix)]
    #[test]
    fn programs_in_wheels_stay_programs() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("created"));
        for (name, mode) in [("bin/ptxas", 0o755), ("lib/a.so", 0o644)] {
            archive.start_file(name, SimpleFileOptions::default().unix_permissions(mode)).expect("started");
            archive.write_all(b"inside").expect("written");
        }
        archive.finish().expect("finished");
        unpack(&path, dir.path(), &mut |_| {}).expect("unpacked");
        let mode = |name| fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
        assert_eq!((mode("bin/ptxas") & 0o111, mode("lib/a.so") & 0o111), (0o111, 0));
    }

    #[test]
    fn unpacking() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        unpack_one("a/b.txt", dir.path()).expect("unpacked");
        assert_eq!(fs::read(dir.path().join("out/a/b.txt")).expect("read"), b"inside");
        let message = unpack_one("../b.txt", dir.path()).expect_err("leads out of the folder").to_string();
        assert!(message.contains("bad file name ../b.txt"), "{message}");
        fs::write(dir.path().join("b.whl"), "no archive").expect("written");
        let error = unpack(&dir.path().join("b.whl"), &dir.path().join("out"), &mut |_| {}).expect_err("no archive");
        assert!(error.to_string().contains("b.whl"), "{error}");
    }
}
