//! The run folder: claimed by one process and known to be writable, before anything is trained.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result, reason};

/// A run folder that this process may write to. Nobody else can open it as long as this lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Where `fresh` put what was there.
    moved_to: Option<PathBuf>,
    /// Held for its lock.
    _lock: File,
}

impl RunFolder {
    /// Opens `train.out_dir` of `config`, making it if need be, to continue what is there or to begin.
    ///
    /// # Errors
    /// If the folder is a file, cannot be made or written, or another process has it open.
    pub fn open(config: &Config) -> Result<RunFolder> {
        RunFolder::claim(config, None)
    }

    /// Opens `train.out_dir` of `config` empty: a folder with content gets another name, the first free of `<name>-1`,
    /// `<name>-2` and so on.
    ///
    /// # Errors
    /// As `open`; and if the old folder cannot be renamed.
    pub fn open_fresh(config: &Config) -> Result<RunFolder> {
        let path = &config.train.out_dir;
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if !occupied {
            return RunFolder::claim(config, None);
        }
        // Whoever trains in the folder would go on writing to it under its new name.
        let old = RunFolder::claim(config, None)?;
        let free = free_name(path);
        fs::rename(path, &free).map_err(|error| {
            let message =
                format!("cannot rename {} to {}, to begin afresh: {}", path.display(), free.display(), reason(&error));
            config.error_at("train.out_dir", message)
        })?;
        drop(old);
        RunFolder::claim(config, Some(free))
    }

    /// Refuses an `out_dir` that is a file, or is to be made below one, without touching anything.
    ///
    /// # Errors
    /// If it is so.
    pub(crate) fn refuse_file(config: &Config) -> Result<()> {
        let path = &config.train.out_dir;
        let shown = path.display();
        let message = match path.ancestors().find(|path| path.exists()) {
            Some(file) if !file.is_dir() && file == path => {
                format!("the run folder {shown} is a file; name a folder, or a path that is free")
            }
            Some(file) if !file.is_dir() => {
                format!("cannot make the run folder {shown}: {} is not a folder", file.display())
            }
            Some(_) | None => return Ok(()),
        };
        Err(config.error_at("train.out_dir", message))
    }

    fn claim(config: &Config, moved_to: Option<PathBuf>) -> Result<RunFolder> {
        let path = &config.train.out_dir;
        let fail = |what: &str, error: io::Error| {
            let message = format!("{what} the run folder {}: {}", path.display(), reason(&error));
            config.error_at("train.out_dir", message)
        };
        RunFolder::refuse_file(config)?;
        // A config of the user's that happens to have this name must not be written over.
        if path.join(CONFIG).exists() && !path.join(LOCK).exists() {
            let message = format!(
                "the folder {} has a {CONFIG} that is not of a run; name another folder for the run",
                path.display()
            );
            return Err(config.error_at("train.out_dir", message));
        }
        fs::create_dir_all(path).map_err(|error| fail("cannot make", error))?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|error| fail("cannot write to", error))?;
        match lock.try_lock() {
            Ok(()) => Ok(RunFolder { path: path.clone(), moved_to, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process is training in {}; name another folder", path.display());
                Err(config.error_at("train.out_dir", message))
            }
            Err(TryLockError::Error(error)) => Err(fail("cannot lock", error)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `open_fresh` put the old folder, if there was one.
    pub fn moved_to(&self) -> Option<&Path> {
        self.moved_to.as_deref()
    }

    /// The config that the run in the folder `run` was started with; `None` when there is none.
    ///
    /// # Errors
    /// If `config.toml` cannot be read or is no config.
    pub fn config_of(run: &Path) -> Result<Option<Config>> {
        let path = run.join(CONFIG);
        if path.exists() { Config::read(&path, &[]).map(Some) } else { Ok(None) }
    }

    /// Writes the resolved config as `config.toml`, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_config(&self, config: &Config) -> Result<()> {
        let path = self.path.join(CONFIG);
        replace_file(&path, config.to_toml()?.as_bytes())
            .map_err(|error| Error::cannot_write("the resolved config", &path, &error))
    }
}

/// The resolved config's name in the run folder.
pub(crate) const CONFIG: &str = "config.toml";

/// Empty; it stays, since removing a locked file would let two processes hold a lock each.
const LOCK: &str = ".lock";

fn free_name(path: &Path) -> PathBuf {
    let name = path.file_name().map_or_else(Default::default, |name| name.to_os_string());
    let mut number = 1u64;
    loop {
        let mut free = name.clone();
        free.push(format!("-{number}"));
        let free = path.with_file_name(free);
        // A dangling link is no free name, though it does not "exist".
        if free.symlink_metadata().is_err() {
            return free;
        }
        number += 1;
    }
}

/// Puts `content` in place of the file at `path` so that a reader, or a crash, sees the old or the new.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, File::sync_all)
}

/// As `replace_file`, for what can be made again: a reader sees the old or the new, but nothing is waited for, and a power
/// failure may leave neither.
pub(crate) fn replace_view(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, |_| Ok(()))
}

fn replace(path: &Path, content: &[u8], sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, content)?;
    sync(file.as_file())?;
    // Temporary files are for their owner only; results are as readable as other files.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint;
    use crate::run::tests::config_in;

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let config = config_in(&folder.path().join("a/b"));
        let run = RunFolder::open(&config).unwrap();
        let error = RunFolder::open(&config).unwrap_err();
        assert!(error.message().contains("another process is training in") && error.exit_code() == 2, "{error}");
        assert!(RunFolder::open_fresh(&config).is_err());
        drop(run);
        RunFolder::open(&config).unwrap();
    }

    #[test]
    fn fresh_keeps_the_old_folder_under_a_free_name() {
        let folder = tempfile::tempdir().unwrap();
        let config = config_in(&folder.path().join("run"));
        fs::create_dir(folder.path().join("run-1")).unwrap();
        assert_eq!(RunFolder::open_fresh(&config).unwrap().moved_to(), None, "nothing to keep");
        fs::write(folder.path().join("run/mine"), "x").unwrap();
        let run = RunFolder::open_fresh(&config).unwrap();
        assert_eq!(run.moved_to(), Some(folder.path().join("run-2").as_path()));
        assert_eq!(fs::read_to_string(folder.path().join("run-2/mine")).unwrap(), "x");
        assert!(!folder.path().join("run/mine").exists());
    }

    #[test]
    fn the_config_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = config_in(&folder.path().join("run"));
        let run = RunFolder::open(&config).unwrap();
        assert_eq!(RunFolder::config_of(run.path()).unwrap(), None);
        run.save_config(&config).unwrap();
        assert_eq!(RunFolder::config_of(run.path()).unwrap(), Some(config));
        assert_eq!(checkpoint::newest_valid(run.path()).unwrap(), checkpoint::Newest::default());
    }

    #[test]
    fn a_config_that_is_not_of_a_run_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config_in(folder.path());
        fs::write(folder.path().join(CONFIG), "mine").unwrap();
        for error in [RunFolder::open(&config), RunFolder::open_fresh(&config)] {
            let error = error.unwrap_err();
            assert!(error.message().contains("config.toml that is not of a run"), "{error}");
        }
        assert_eq!(fs::read_to_string(folder.path().join(CONFIG)).unwrap(), "mine");
    }

    #[test]
    fn a_place_that_cannot_be_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        for (out_dir, expected) in [
            (file.clone(), "is a file; name a folder"),
            (file.join("below"), "cannot make the run folder"),
            (PathBuf::from("/proc/no/such"), "cannot make the run folder"),
        ] {
            for error in [RunFolder::open(&config_in(&out_dir)), RunFolder::open_fresh(&config_in(&out_dir))] {
                let error = error.unwrap_err();
                assert!(error.message().contains(expected) && error.exit_code() == 2, "{error}");
                assert!(error.message().contains("out_dir = "), "the place is shown: {error}");
            }
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
