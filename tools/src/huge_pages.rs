//! Large pages for the memory that programs on the CPU compute in.

use std::ffi::{OsStr, OsString};

/// What glibc's allocator is told: ask the kernel for huge pages. (It reads this once, before `main`.)
const TUNABLE: &str = "glibc.malloc.hugetlb";

/// The environment variable of glibc's tunables.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// Starts this program again, in this process, with glibc's allocator asking for huge pages, where the kernel gives them to
/// those who ask only. Returns where there is nothing to gain, where the user has set the tunable, and where the
/// program cannot be started again.
///
/// XLA maps the temporaries of each execution anew. In pages of 4 KiB the kernel's work for them was 13 % of a training
/// step of a model of 100M parameters; in huge pages it is 3 %.
pub fn restart_with_huge_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|mode| mode.contains("[madvise]"))
        && let Some(tunables) = with_tunable(std::env::var_os(VARIABLE).as_deref())
        && let Ok(program) = std::env::current_exe()
    {
        use std::os::unix::process::CommandExt;
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let error = command.args(arguments).env(VARIABLE, tunables).exec();
        tracing::debug!("cannot start again with huge pages: {error}");
    }
}

/// The tunables with ours added; `None` where it is there already.
fn with_tunable(tunables: Option<&OsStr>) -> Option<OsString> {
    let tunables = tunables.unwrap_or_default();
    if tunables.to_string_lossy().contains(TUNABLE) {
        return None;
    }
    let mut all = tunables.to_owned();
    if !all.is_empty() {
        all.push(":");
    }
    all.push(format!("{TUNABLE}=1"));
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunables() {
        let check = |tunables: Option<&str>, expected: Option<&str>| {
            assert_eq!(with_tunable(tunables.map(OsStr::new)).as_deref(), expected.map(OsStr::new));
        };
        check(None, Some("glibc.malloc.hugetlb=1"));
        check(Some(""), Some("glibc.malloc.hugetlb=1"));
        check(Some("glibc.malloc.arena_max=1"), Some("glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"));
        // The user's word counts, and the second start ends here.
        check(Some("glibc.malloc.hugetlb=0"), None);
        check(Some("glibc.malloc.hugetlb=1"), None);
    }
}
