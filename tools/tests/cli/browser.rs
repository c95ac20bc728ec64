//! Pages in a browser without a window.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::text;

/// Chromium: what `CHROME` names, else what is on the path. Where there is none, `test` is said to be skipped.
pub(crate) fn chromium(test: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROME") {
        return Some(PathBuf::from(named));
    }
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let mut paths = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = paths.find(|path| path.is_file());
    if found.is_none() {
        // Past the capture of the test's output, for nothing is skipped silently.
        _ = writeln!(std::io::stderr(), "1 test skipped: {test}, for there is no Chromium (see CHROME)");
    }
    found
}

/// What a browser makes of a page: the document after its scripts have run, and what it had to say.
pub(crate) fn browse(chromium: &Path, page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", text(profile.path())))
        .arg(format!("file://{}", text(page)))
        .stdin(Stdio::null())
        .output()
        .expect("Chromium starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (document, messages) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{messages}");
    let console: String = messages.lines().filter(|line| line.contains("CONSOLE")).collect();
    (document, console)
}
