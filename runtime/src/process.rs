//! Memory of this process, as the kernel counts it.

/// The most memory that this process ever had resident, in bytes (`VmHWM`). `None` where the system does not say so.
pub fn process_peak_memory_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// The memory that this process has resident now, in bytes (`VmRSS`). `None` where the system does not say so.
pub fn process_memory_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// A line of `/proc/self/status`, such as `VmHWM:     1234 kB`, in bytes.
fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn peak_is_at_least_the_present() {
        let now = process_memory_bytes().expect("VmRSS");
        let peak = process_peak_memory_bytes().expect("VmHWM");
        // Any process has a page, and none has a terabyte here.
        assert!((4096..1 << 40).contains(&now), "{now}");
        assert!(peak >= now, "{peak} < {now}");
    }
}
