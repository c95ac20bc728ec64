//! A folder that is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use crate::error::{Error, Result};

/// Refuses to write where something is that would be lost.
///
/// # Errors
/// If `out` is there and not an empty folder.
pub(crate) fn refuse_content(out: &Path) -> Result<()> {
    let empty_folder = || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.symlink_metadata().is_ok() && !empty_folder() {
        return Err(Error::input(format!("{} is there and not an empty folder; name another one", out.display())));
    }
    Ok(())
}

/// What writes the content of a file.
pub(crate) type Content<'a> = &'a dyn Fn(&mut BufWriter<File>) -> io::Result<()>;

/// Makes the folder `out`, which must not be there or be empty; `fill` adds its files by name.
///
/// # Errors
/// If something cannot be written; nothing is left of it then.
pub(crate) fn whole_folder(
    out: &Path,
    fill: impl FnOnce(&dyn Fn(&str, Content<'_>) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<()> {
    let out = std::path::absolute(out)?;
    let parent = out.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(parent)?;
    // Removed when it is dropped, unless it got its name.
    let partial = tempfile::Builder::new().prefix(".export-").tempdir_in(parent)?;
    fill(&|name, content| {
        let mut file = BufWriter::new(File::create_new(partial.path().join(name))?);
        content(&mut file)?;
        file.into_inner().map_err(|error| error.into_error())?.sync_all()
    })?;
    // Temporary folders are for their owner only; results are as readable as others.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(partial.path(), fs::Permissions::from_mode(0o755))?;
    }
    // Over an empty folder, too.
    fs::rename(partial.path(), &out)?;
    // It is not there any more under its temporary name.
    _ = partial.keep();
    File::open(parent)?.sync_all()
}
