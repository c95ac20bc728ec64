//! What a machine says of its GPUs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::problem::{GpuProblem, MIN_DRIVER};
use crate::pjrt::driver::DRIVER_LIBRARY;

/// Where to look. Tests make such a machine out of folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The root of its file system.
    pub root: PathBuf,
    /// The program `nvidia-smi`, which tells names and memory.
    pub nvidia_smi: PathBuf,
    /// Folders of `LD_LIBRARY_PATH`.
    pub library_path: Vec<PathBuf>,
    /// The value of `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let library_path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        Machine {
            root: PathBuf::from("/"),
            nvidia_smi: PathBuf::from("nvidia-smi"),
            library_path: env::split_paths(&library_path).filter(|dir| !dir.as_os_str().is_empty()).collect(),
            visible_devices: env::var("CUDA_VISIBLE_DEVICES").ok(),
        }
    }

    /// A path below the root.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A library of this name, where the system's loader looks: `LD_LIBRARY_PATH`, its configured folders, its own.
    pub(super) fn find_library(&self, name: &str) -> Option<PathBuf> {
        /// Of the loader, of NVIDIA's container tools, of WSL, of NixOS.
        const FOLDERS: [&str; 10] = [
            "/lib64",
            "/usr/lib64",
            "/lib",
            "/usr/lib",
            "/lib/x86_64-linux-gnu",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/local/nvidia/lib64",
            "/usr/lib/wsl/lib",
            "/run/opengl-driver/lib",
        ];
        let configured = configured_folders(self);
        let own = FOLDERS.map(|dir| self.at(dir));
        self.library_path.iter().cloned().chain(configured).chain(own).map(|dir| dir.join(name)).find(|p| p.is_file())
    }
}

/// The folders that `/etc/ld.so.conf.d` names.
fn configured_folders(machine: &Machine) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(machine.at("/etc/ld.so.conf.d")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.iter().map(|line| line.trim()).filter(|line| line.starts_with('/')).map(|line| machine.at(line)).collect()
}

/// A GPU, as `nvidia-smi` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Its number on this machine.
    pub index: usize,
    /// The product: `NVIDIA H200`.
    pub name: String,
    /// All its memory, in MiB.
    pub memory_mib: u64,
    /// What is taken of it, in MiB.
    pub used_mib: u64,
    /// Compute capability: `9.0`. Older drivers do not tell.
    pub compute_capability: Option<String>,
}

/// What a machine says of its GPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// The version of the driver, of which the number before the first point counts: `580.65.06`.
    pub driver: Option<String>,
    /// The driver's library.
    pub driver_library: Option<PathBuf>,
    /// Device nodes of GPUs.
    pub nodes: Vec<PathBuf>,
    /// The first of them that this user may not open.
    pub closed_node: Option<PathBuf>,
    /// NVIDIA's GPUs on the PCI bus.
    pub on_bus: usize,
    /// The GPUs, where `nvidia-smi` tells them.
    pub gpus: Vec<Gpu>,
    /// The value of `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
}

/// Looks at a machine. Reads files and runs `nvidia-smi`; loads nothing.
pub fn survey(machine: &Machine) -> Survey {
    let nodes = nodes(machine);
    let closed_node = nodes.iter().find(|node| is_closed(node)).cloned();
    // Without a driver there is nothing that it could tell, and a second is saved.
    let kernel_driver = kernel_driver(machine);
    let (smi_driver, gpus) = if nodes.is_empty() && kernel_driver.is_none() {
        (None, Vec::new())
    } else {
        ask_nvidia_smi(&machine.nvidia_smi).unwrap_or_default()
    };
    Survey {
        driver: kernel_driver.or(smi_driver),
        driver_library: machine.find_library(DRIVER_LIBRARY),
        nodes,
        closed_node,
        on_bus: on_bus(machine),
        gpus,
        visible_devices: machine.visible_devices.clone(),
    }
}

/// `/dev/nvidia0` and so on; `/dev/dxg` under WSL.
fn nodes(machine: &Machine) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(machine.at("/dev")) else { return Vec::new() };
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok());
        number || name == "dxg"
    };
    let mut nodes: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| is_gpu(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    nodes.sort();
    nodes
}

/// Whether this user may not open a node.
fn is_closed(node: &Path) -> bool {
    let opened = File::options().read(true).write(true).open(node);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The version in `/proc/driver/nvidia/version`, whose first line is
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 …`.
fn kernel_driver(machine: &Machine) -> Option<String> {
    let text = fs::read_to_string(machine.at("/proc/driver/nvidia/version")).ok()?;
    let is_version = |word: &&str| {
        word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// The number of display controllers of NVIDIA's on the PCI bus.
fn on_bus(machine: &Machine) -> usize {
    /// PCI's number of NVIDIA.
    const NVIDIA: &str = "0x10de";
    /// The class of display controllers, with the subclasses VGA and 3D.
    const DISPLAY: &str = "0x03";
    let Ok(entries) = fs::read_dir(machine.at("/sys/bus/pci/devices")) else { return 0 };
    let reads = |dir: &Path, file: &str, start: &str| {
        fs::read_to_string(dir.join(file)).is_ok_and(|text| text.trim().starts_with(start))
    };
    let dirs = entries.flatten().map(|entry| entry.path());
    dirs.filter(|dir| reads(dir, "vendor", NVIDIA) && reads(dir, "class", DISPLAY)).count()
}

/// How long `nvidia-smi` may take: a second for each of eight GPUs that sleep, and some.
const PATIENCE: Duration = Duration::from_secs(20);

/// The driver's version and the GPUs. `None` where the program is missing, fails or hangs.
fn ask_nvidia_smi(program: &Path) -> Option<(Option<String>, Vec<Gpu>)> {
    const QUERY: &str = "--query-gpu=index,name,memory.total,memory.used,driver_version,compute_cap";
    let mut child = Command::new(program)
        .args([QUERY, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    // What it prints is less than a pipe holds, so it does not wait for a reader.
    while child.try_wait().ok()?.is_none() {
        if start.elapsed() > PATIENCE {
            tracing::warn!("nvidia-smi does not end; it is not waited for");
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: Vec<(String, Gpu)> = text.lines().filter_map(gpu_of_row).collect();
    Some((rows.first().map(|(driver, _)| driver.clone()), rows.into_iter().map(|(_, gpu)| gpu).collect()))
}

/// A row of `nvidia-smi`'s answer: `0, NVIDIA H200, 143771, 4, 580.65.06, 9.0`.
fn gpu_of_row(row: &str) -> Option<(String, Gpu)> {
    let fields: Vec<&str> = row.split(',').map(str::trim).collect();
    let [index, name, total, used, driver, capability] = fields.as_slice() else { return None };
    let gpu = Gpu {
        index: index.parse().ok()?,
        name: (*name).to_owned(),
        // `[N/A]` where memory is the machine's own.
        memory_mib: total.parse().unwrap_or(0),
        used_mib: used.parse().unwrap_or(0),
        compute_capability: capability.parse::<f32>().ok().map(|_| (*capability).to_owned()),
    };
    Some(((*driver).to_owned(), gpu))
}

/// Of a GPU's memory, what must be free for a run to make sense, in MiB: the context and the libraries take half of it.
const MIN_FREE_MIB: u64 = 1024;

impl Survey {
    /// The GPU that a program would run on if it asked for number `device` of those it sees. `None` where there is one but
    /// nothing tells of which kind.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn usable(&self, device: usize) -> Result<Option<&Gpu>, GpuProblem> {
        match (&self.driver, self.nodes.is_empty()) {
            (None, true) if self.on_bus > 0 => return Err(GpuProblem::NoDriver { count: self.on_bus }),
            (None, true) => return Err(GpuProblem::NoGpu),
            (Some(version), true) => return Err(GpuProblem::NoNodes { version: version.clone() }),
            (_, false) => {}
        }
        if let Some(node) = &self.closed_node {
            return Err(GpuProblem::NoAccess { node: node.clone() });
        }
        if self.driver_library.is_none() {
            return Err(GpuProblem::NoDriverLibrary);
        }
        if let Some(version) = self.driver.as_ref().filter(|version| is_too_old(version)) {
            return Err(GpuProblem::DriverTooOld { version: version.clone() });
        }
        let Some(visible) = self.visible()? else { return Ok(None) };
        let Some(gpu) = visible.get(device) else {
            let (count, narrowed) = (visible.len(), self.visible_devices.is_some());
            return Err(GpuProblem::NoSuchGpu { asked: device, count, narrowed });
        };
        let free = gpu.memory_mib.saturating_sub(gpu.used_mib);
        if gpu.memory_mib > 0 && free < MIN_FREE_MIB {
            let (index, name, total) = (gpu.index, gpu.name.clone(), gpu.memory_mib);
            return Err(GpuProblem::MemoryTaken { index, name, free, total });
        }
        Ok(Some(gpu))
    }

    /// The GPUs that `CUDA_VISIBLE_DEVICES` shows, in its order. `None` where they are not known: `nvidia-smi` is missing,
    /// or the variable names GPUs by something else than numbers.
    fn visible(&self) -> Result<Option<Vec<&Gpu>>, GpuProblem> {
        let Some(value) = &self.visible_devices else {
            return Ok((!self.gpus.is_empty()).then(|| self.gpus.iter().collect()));
        };
        // As CUDA reads it: what stands before the first entry that is no GPU.
        let entries: Vec<&str> = value.split(',').map(str::trim).collect();
        let first = entries.first().copied().unwrap_or_default();
        if first.is_empty() || first.starts_with('-') || first.eq_ignore_ascii_case("NoDevFiles") {
            return Err(GpuProblem::Hidden { value: value.clone() });
        }
        if self.gpus.is_empty() || first.parse::<usize>().is_err() {
            return Ok(None);
        }
        let by_number = |entry: &&str| {
            let number = entry.parse::<usize>().ok()?;
            self.gpus.iter().find(|gpu| gpu.index == number)
        };
        Ok(Some(entries.iter().map_while(by_number).collect()))
    }
}

/// Whether a driver of this version does not run CUDA 13. One that cannot be read is not held to be.
fn is_too_old(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < MIN_DRIVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_script;

    /// A machine made of folders.
    struct Fake {
        dir: tempfile::TempDir,
        machine: Machine,
    }

    impl Fake {
        fn new() -> Fake {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let root = dir.path().join("root");
            fs::create_dir_all(root.join("dev")).expect("created");
            let machine = Machine {
                nvidia_smi: root.join("no-nvidia-smi"),
                root,
                library_path: Vec::new(),
                visible_devices: None,
            };
            Fake { dir, machine }
        }

        /// With a file.
        fn file(self, path: &str, text: &str) -> Fake {
            let path = self.machine.at(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
            self
        }

        /// With a driver of this version.
        fn driver(self, version: &str) -> Fake {
            let line =
                format!("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build\nGCC\n");
            self.file("/proc/driver/nvidia/version", &line)
        }

        /// With a driver, its library and a node of a GPU.
        fn complete(self) -> Fake {
            self.driver("580.65.06").file("/dev/nvidia0", "").file("/usr/lib64/libcuda.so.1", "")
        }

        /// With an `nvidia-smi` that answers this.
        fn smi(mut self, script: &str) -> Fake {
            self.machine.nvidia_smi = self.dir.path().join("nvidia-smi");
            write_script(&self.machine.nvidia_smi, script);
            self
        }

        fn visible(mut self, value: &str) -> Fake {
            self.machine.visible_devices = Some(value.to_owned());
            self
        }

        /// The name of the GPU that would be used, or the message.
        fn usable(&self, device: usize) -> Result<Option<String>, String> {
            let survey = survey(&self.machine);
            let usable = survey.usable(device).map(|gpu| gpu.map(|gpu| gpu.name.clone()));
            usable.map_err(|problem| problem.to_string())
        }
    }

    #[track_caller]
    fn refused(fake: &Fake, device: usize, expected: &str) {
        let message = fake.usable(device).expect_err("refused");
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }

    /// Two GPUs, the second of them taken.
    const TWO: &str =
        "echo '0, NVIDIA H200, 143771, 4, 580.65.06, 9.0'; echo '1, NVIDIA L4, 23034, 22500, 580.65.06, 8.9'";

    #[test]
    fn what_is_missing_is_named() {
        refused(&Fake::new(), 0, "there is none on this machine");
        let bus = Fake::new()
            .file("/sys/bus/pci/devices/0/vendor", "0x10de\n")
            .file("/sys/bus/pci/devices/0/class", "0x030200\n");
        refused(&bus, 0, "(1 on the PCI bus) but no driver");
        // A sound device of NVIDIA's is none.
        let sound = Fake::new()
            .file("/sys/bus/pci/devices/0/vendor", "0x10de\n")
            .file("/sys/bus/pci/devices/0/class", "0x040300\n");
        refused(&sound, 0, "there is none on this machine");
        refused(
            &Fake::new().driver("580.65.06"),
            0,
            "NVIDIA's driver 580.65.06 is loaded, but there is no GPU to open",
        );
        refused(&Fake::new().driver("580.65.06").file("/dev/nvidia0", ""), 0, "not the driver's library libcuda.so.1");
        refused(&Fake::new().complete().driver("535.183.01"), 0, "driver is 535.183.01; the CUDA 13 libraries");
        refused(&Fake::new().complete().visible(""), 0, "CUDA_VISIBLE_DEVICES is \"\", which hides all GPUs");
        refused(&Fake::new().complete().visible("-1"), 0, "hides all GPUs");
    }

    #[test]
    fn a_gpu_is_found() {
        // Without `nvidia-smi` nothing tells of which kind.
        assert_eq!(Fake::new().complete().usable(0), Ok(None));
        assert_eq!(Fake::new().complete().smi("exit 9").usable(0), Ok(None));
        let two = Fake::new().complete().smi(TWO);
        assert_eq!(two.usable(0), Ok(Some("NVIDIA H200".into())));
        refused(&two, 1, "GPU 1 (NVIDIA L4) has 534 MiB of 23034 MiB left");
        refused(&two, 2, "asks for GPU 2, but there are 2, counted from 0.");
        let gpus = survey(&two.machine).gpus;
        assert_eq!(gpus[0].compute_capability.as_deref(), Some("9.0"));
        // Under WSL there is one node, and only `nvidia-smi` knows the driver.
        let wsl = Fake::new().file("/dev/dxg", "").file("/usr/lib/wsl/lib/libcuda.so.1", "").smi(TWO);
        assert_eq!(wsl.usable(0), Ok(Some("NVIDIA H200".into())));
        let old = TWO.replace("580.65.06", "551.23");
        let wsl = Fake::new().file("/dev/dxg", "").file("/usr/lib/wsl/lib/libcuda.so.1", "").smi(&old);
        refused(&wsl, 0, "driver is 551.23");
    }

    #[test]
    fn what_is_visible_is_counted() {
        let two = |visible: &str| Fake::new().complete().smi(TWO).visible(visible);
        assert_eq!(two("1,0").usable(1), Ok(Some("NVIDIA H200".into())));
        refused(&two("1,0"), 0, "GPU 1 (NVIDIA L4) has 534 MiB");
        refused(&two("0"), 1, "there are 1, counted from 0 among those that CUDA_VISIBLE_DEVICES shows");
        // CUDA stops at the first that does not exist.
        refused(&two("0,7,1"), 1, "there are 1,");
        assert_eq!(two("GPU-5b9d").usable(0), Ok(None));
    }

    #[test]
    fn libraries_are_found_where_the_loader_looks() {
        let fake = Fake::new()
            .file("/etc/ld.so.conf.d/cuda.conf", "# folders\n/opt/driver/lib\n")
            .file("/opt/driver/lib/libcuda.so.1", "");
        assert_eq!(survey(&fake.machine).driver_library, Some(fake.machine.at("/opt/driver/lib/libcuda.so.1")));
        let mut fake = fake.file("/elsewhere/libcuda.so.1", "");
        fake.machine.library_path = vec![fake.machine.at("/elsewhere")];
        assert_eq!(survey(&fake.machine).driver_library, Some(fake.machine.at("/elsewhere/libcuda.so.1")));
    }
}
