//! The machine a run was done on, for its report.

use std::fs;

use super::quantity;

/// The name of the machine, as its system tells; empty where it does not.
pub(crate) fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

/// The machine in a line: name, system, processor, cores, memory, as far as they are known.
pub(crate) fn describe() -> String {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory_info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut parts = vec![name(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)];
    parts.extend(processor(&cpu_info));
    if cores > 0 {
        parts.push(format!("{cores} {}", if cores == 1 { "core" } else { "cores" }));
    }
    parts.extend(memory_bytes(&memory_info).map(|bytes| format!("{} of memory", quantity::bytes(bytes))));
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn processor(cpu_info: &str) -> Option<String> {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn memory_bytes(memory_info: &str) -> Option<f64> {
    let line = memory_info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells() {
        let cpu_info = "processor\t: 0\nmodel name\t: Some  CPU @ 2.00GHz\n";
        assert_eq!(processor(cpu_info).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(processor("Hardware : x"), None);
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB"), Some(16384.0 * 1024.0));
        assert_eq!(memory_bytes(""), None);
    }
}
