//! NVIDIA GPUs for [`device`](crate::device): whether there is one to run on, its plugin, and how its client is made.

use std::collections::BTreeMap;
use std::path::Path;

use lmc_lower::{ComputeCapability, Cuda, CudnnVersion, PluginIdentity, Target};
use lmc_runtime::gpu::{GpuProblem, Libraries, Machine, libraries, survey};
use lmc_runtime::plugin::{Found, Locations, Search, Source, find, find_or_install, managed_plugin};
use lmc_runtime::{Client, ClientOptions, ErrorCode, NamedValue, Plugin};

use crate::config::DeviceKind;
use crate::device::{DeviceOptions, plugin_error};
use crate::error::{Error, Result};
use crate::installing::Installation;
use crate::output::say;
use crate::run::quantity::with_unit;

/// The name of the managed plugin.
pub const PLUGIN: &str = "cuda13";

/// How a GPU is used.
#[derive(Clone, Debug, PartialEq)]
pub struct CudaOptions {
    /// The part of the GPU's memory that the allocator may take.
    pub memory_fraction: f64,
    /// Whether it takes that at once.
    pub preallocate: bool,
    /// The number of the GPU, among those that CUDA shows.
    pub device: usize,
    /// Whether the same run must give the same bits every time.
    pub deterministic: bool,
}

impl Default for CudaOptions {
    /// Memory is taken as it is needed: what only looks at a GPU, or uses a model on it, need not have it to itself.
    /// Training takes its part at once unless `[runtime]` says otherwise.
    fn default() -> CudaOptions {
        CudaOptions { memory_fraction: 0.75, preallocate: false, device: 0, deterministic: false }
    }
}

/// A GPU that can be opened: its plugin is found, and all that it needs is there.
#[derive(Debug)]
pub(crate) struct Ready {
    found: Found,
    libraries: Libraries,
}

/// Whether to run on a GPU, and if so, with which plugin. With `auto` that is where there is a GPU and its plugin is
/// installed; where there is a GPU that cannot be used, the reason is said.
///
/// # Errors
/// When `cuda` is asked for and something stands in the way: all of it is looked at before anything is loaded.
pub(crate) fn ready(options: &DeviceOptions, machine: &Machine) -> Result<Option<Ready>> {
    let locations = Locations::from_environment(options.plugin.clone()).map_err(|e| Error::input(e.to_string()))?;
    let named = locations.named();
    let wanted = match options.kind {
        DeviceKind::Cpu | DeviceKind::Wasm => return Ok(None),
        DeviceKind::Cuda => true,
        // A plugin that the user names says which device is meant.
        DeviceKind::Auto => named.is_some_and(is_cuda_plugin),
    };
    if named.is_some() && !wanted {
        return Ok(None);
    }
    if let Err(problem) = survey(machine).usable(options.cuda.device) {
        return match wanted {
            true => Err(gpu_error(options.kind, &problem)),
            false => {
                // No GPU, or one that the user hides, is nothing to be told of.
                if !matches!(problem, GpuProblem::NoGpu | GpuProblem::Hidden { .. }) {
                    say(format_args!("warning: running on the CPU: {problem}"));
                }
                Ok(None)
            }
        };
    }
    let found = if wanted {
        let mut installation = Installation::default();
        find_or_install(PLUGIN, &locations, &mut |progress| installation.show(progress))
            .map_err(|error| plugin_error(named.is_some(), &error))?
    } else {
        match find(PLUGIN, &locations).map_err(|error| plugin_error(false, &error))? {
            Search::Found(found) => found,
            Search::NotFound { .. } => {
                let size = managed_plugin(PLUGIN).map_or(0, |plugin| plugin.download_bytes());
                say(format_args!(
                    "warning: running on the CPU: there is an NVIDIA GPU, but not the plugin for it. `lmc plugin install \
                     {PLUGIN}` fetches that ({}); runtime.device = \"cpu\" turns this warning off.",
                    with_unit(size as f64, "B")
                ));
                return Ok(None);
            }
        }
    };
    let libraries = libraries(&found.path, machine);
    libraries.check().map_err(|problem| plugin_error(named.is_some(), &problem))?;
    Ok(Some(Ready { found, libraries }))
}

/// The GPU that [`ready`] would find, looked for without fetching, loading or saying anything: its memory in bytes, where
/// that is known, and what functions are lowered for there. `None` where it would be the CPU, or an error.
pub(crate) fn foreseen(options: &DeviceOptions, machine: &Machine) -> Option<(Option<u64>, Target)> {
    let locations = Locations::from_environment(options.plugin.clone()).ok()?;
    let named = locations.named();
    let wanted = match options.kind {
        DeviceKind::Cpu | DeviceKind::Wasm => return None,
        DeviceKind::Cuda => true,
        DeviceKind::Auto => named.is_some_and(is_cuda_plugin),
    };
    if named.is_some() && !wanted {
        return None;
    }
    let survey = survey(machine);
    let gpu = survey.usable(options.cuda.device).ok()?;
    let found = match find(PLUGIN, &locations).ok()? {
        Search::Found(found) => Some(found),
        Search::NotFound { .. } if wanted => None,
        Search::NotFound { .. } => return None,
    };
    let capability = gpu.and_then(|gpu| parse_capability(gpu.compute_capability.as_deref()?));
    let target = match (found, capability) {
        (Some(found), Some(capability)) => {
            target_of(&libraries(&found.path, machine), capability, options.cuda.deterministic)
        }
        // It will be fetched, with the libraries that descriptions are for.
        (None, Some(compute_capability)) => match lmc_lower::Gpu::named("h200").ok()?.target() {
            Target { platform: lmc_lower::Platform::Cuda(cuda), plugin, .. } => {
                let deterministic = options.cuda.deterministic;
                Target::cuda(Cuda { compute_capability, deterministic, ..cuda }, plugin)
            }
            other => other,
        },
        (_, None) => Target::generic(),
    };
    let memory = gpu.map(|gpu| gpu.memory_mib << 20).filter(|&bytes| bytes > 0);
    Some((memory, target))
}

/// Whether a plugin's file is one for NVIDIA's GPUs, by its name.
pub(crate) fn is_cuda_plugin(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy().to_lowercase();
        name.contains("cuda") || name.contains("gpu")
    })
}

/// What was asked of the machine and is not there is the user's to mend by asking for something else; all else is the
/// machine's.
fn gpu_error(kind: DeviceKind, problem: &GpuProblem) -> Error {
    let who = if kind == DeviceKind::Cuda { "runtime.device = \"cuda\"" } else { "a CUDA plugin" };
    let message = format!("{who} needs an NVIDIA GPU: {problem}");
    match problem {
        GpuProblem::NoGpu | GpuProblem::Hidden { .. } | GpuProblem::NoSuchGpu { .. } => Error::input(message),
        GpuProblem::NoDriver { .. }
        | GpuProblem::NoNodes { .. }
        | GpuProblem::NoAccess { .. }
        | GpuProblem::NoDriverLibrary
        | GpuProblem::DriverTooOld { .. }
        | GpuProblem::MemoryTaken { .. } => Error::run(message),
    }
}

impl Ready {
    /// Loads the plugin and opens the GPU.
    ///
    /// # Errors
    /// When the plugin does not load or start, or the GPU has no memory for the allocator.
    pub(crate) fn open(&self, options: &CudaOptions) -> Result<(Client, Target)> {
        let named = matches!(self.found.source, Source::Explicit | Source::Environment);
        let plugin = Plugin::load(&self.found.path).map_err(|error| plugin_error(named, &error))?;
        let client = Client::new(&plugin, &client_options(options)).map_err(|error| open_error(&error, options))?;
        let target = self.target(&client, options);
        Ok((client, target))
    }

    /// What functions are lowered for. A GPU that does not tell its generation gets every op in its plainest form.
    fn target(&self, client: &Client, options: &CudaOptions) -> Target {
        let capability = client.device().attributes().get("compute_capability").cloned();
        let Some(compute_capability) = capability.as_ref().and_then(read_capability) else {
            say(format_args!(
                "warning: {} does not tell its compute capability ({capability:?}): attention is computed without cuDNN",
                client.device().kind()
            ));
            return Target::generic();
        };
        target_of(&self.libraries, compute_capability, options.deterministic)
    }
}

/// The target of a GPU of this generation with the libraries that were found.
pub(crate) fn target_of(libraries: &Libraries, compute_capability: ComputeCapability, deterministic: bool) -> Target {
    let cudnn = libraries.cudnn_version.map(|v| CudnnVersion::new(v.major, v.minor, v.patch));
    let identity = libraries.package.clone().map(|(name, version)| PluginIdentity { name, version });
    Target::cuda(Cuda { compute_capability, cudnn, deterministic }, identity)
}

/// `9.0` as the plugin gives it.
fn read_capability(value: &NamedValue) -> Option<ComputeCapability> {
    let NamedValue::String(text) = value else { return None };
    parse_capability(text)
}

/// `9.0` as a generation.
pub(crate) fn parse_capability(text: &str) -> Option<ComputeCapability> {
    let (major, minor) = text.split_once('.')?;
    Some(ComputeCapability::new(major.parse().ok()?, minor.parse().ok()?))
}

/// The plugin's options for one GPU. It would open all of them, and take memory on each.
fn client_options(options: &CudaOptions) -> ClientOptions {
    let device = i64::try_from(options.device).unwrap_or(i64::MAX);
    let other = BTreeMap::from([
        ("allocator".to_owned(), NamedValue::String("bfc".to_owned())),
        ("memory_fraction".to_owned(), NamedValue::Float(options.memory_fraction as f32)),
        ("preallocate".to_owned(), NamedValue::Bool(options.preallocate)),
        ("visible_devices".to_owned(), NamedValue::Int64List(vec![device])),
    ]);
    ClientOptions { other, ..ClientOptions::default() }
}

/// Why a GPU did not open.
fn open_error(error: &lmc_runtime::Error, options: &CudaOptions) -> Error {
    let mend = match error.code() {
        Some(ErrorCode::ResourceExhausted) => format!(
            "The GPU has less free memory than the {} of it that lmc takes at once: see with nvidia-smi who has the rest, \
             lower runtime.memory_fraction, or set runtime.preallocate = false.",
            options.memory_fraction
        ),
        _ => {
            "See whether nvidia-smi works and whether another program uses the GPU alone (compute mode); `lmc doctor` \
              shows the driver and the libraries that were found."
                .to_owned()
        }
    };
    Error::run(format!("the GPU does not open: {error}. {mend}"))
}

/// The message of a device that has no memory left, with what can be done about it.
pub(crate) fn out_of_memory(error: &lmc_runtime::Error) -> String {
    format!(
        "the device is out of memory: {error}\nMake `micro_batch_size` or `seq_len` smaller (and `grad_accum_steps` larger for \
         it), or set train.remat. On a GPU, see with nvidia-smi whether other programs have its memory, and raise \
         runtime.memory_fraction if they do not"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::error::ErrorKind;

    /// A machine with these files, and nothing else.
    fn machine(dir: &Path, files: &[(&str, &str)]) -> Machine {
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
        }
        Machine {
            root: dir.to_owned(),
            nvidia_smi: dir.join("no-nvidia-smi"),
            library_path: Vec::new(),
            visible_devices: None,
        }
    }

    const VERSION: (&str, &str) =
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n");
    const GPU: [(&str, &str); 3] = [VERSION, ("dev/nvidia0", ""), ("usr/lib64/libcuda.so.1", "")];

    /// What `cuda` says of a machine, with a plugin that the user names.
    fn refused(kind: DeviceKind, files: &[(&str, &str)], plugin: &str) -> Error {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let machine = machine(dir.path(), files);
        let options = DeviceOptions { kind, plugin: Some(dir.path().join(plugin)), ..DeviceOptions::default() };
        ready(&options, &machine).map(|_| ()).expect_err("refused")
    }

    #[track_caller]
    fn check(kind: DeviceKind, files: &[(&str, &str)], plugin: &str, exit_code: u8, expected: &str) {
        let error = refused(kind, files, plugin);
        assert_eq!(error.exit_code(), exit_code, "{error}");
        assert!(error.message().contains(expected) && !error.message().contains('\n'), "{error}");
    }

    #[test]
    fn each_wrong_set_up_has_its_message() {
        let cuda = DeviceKind::Cuda;
        check(cuda, &[], "p.so", 2, "runtime.device = \"cuda\" needs an NVIDIA GPU: there is none on this machine");
        // The name of a plugin says which device is meant.
        check(DeviceKind::Auto, &[], "xla_cuda_plugin.so", 2, "a CUDA plugin needs an NVIDIA GPU: there is none");
        check(cuda, &[VERSION], "p.so", 1, "there is no GPU to open here");
        check(cuda, &GPU[..2], "p.so", 1, "not the driver's library");
        let old = ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14\n");
        check(cuda, &[old, GPU[1], GPU[2]], "p.so", 1, "driver is 550.54.14");
        check(cuda, &GPU, "a/b/p.so", 2, "needs cuDNN (libcudnn.so.9)");
        let libraries = [
            ("nvidia/cudnn/lib/libcudnn.so.9", ""),
            (
                "nvidia/cudnn/include/cudnn_version.h",
                "#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 9\n#define CUDNN_PATCHLEVEL 7\n",
            ),
            ("nvidia/cu13/lib/libcublasLt.so.13", ""),
            ("nvidia/cu13/nvvm/libdevice/libdevice.10.bc", ""),
            ("nvidia/cu13/bin/ptxas", ""),
        ];
        check(
            cuda,
            &[&GPU[..], &libraries[..]].concat(),
            "a/b/p.so",
            2,
            "is 8.9.7, and this plugin works with cuDNN 9",
        );
    }

    #[test]
    fn a_broken_plugin_is_told() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("xla_cuda_plugin.so");
        fs::write(&path, "no library").expect("written");
        let found = Found { path, source: Source::Cache };
        let libraries = libraries(&found.path, &machine(dir.path(), &[]));
        let error = Ready { found, libraries }.open(&CudaOptions::default()).map(|_| ()).expect_err("no library");
        assert_eq!(error.kind(), ErrorKind::Run);
        assert!(error.message().contains("is not a shared library") && error.message().contains("cuda13"), "{error}");
    }

    #[test]
    fn without_a_gpu_auto_is_the_cpu() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = |kind, plugin: Option<&str>| DeviceOptions {
            kind,
            plugin: plugin.map(PathBuf::from),
            ..DeviceOptions::default()
        };
        let machine = machine(dir.path(), &[]);
        for (kind, plugin) in [(DeviceKind::Auto, None), (DeviceKind::Auto, Some("cpu.so")), (DeviceKind::Cpu, None)] {
            assert!(ready(&options(kind, plugin), &machine).expect("the CPU").is_none());
        }
    }

    #[test]
    fn one_gpu_is_opened_with_what_was_asked_for() {
        let options = CudaOptions { memory_fraction: 0.5, preallocate: false, device: 2, deterministic: false };
        let given = client_options(&options);
        assert_eq!(given.cpu_device_count, None);
        let expected = [
            ("allocator", NamedValue::String("bfc".into())),
            ("memory_fraction", NamedValue::Float(0.5)),
            ("preallocate", NamedValue::Bool(false)),
            ("visible_devices", NamedValue::Int64List(vec![2])),
        ];
        assert_eq!(given.other, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn a_gpu_without_room_is_told() {
        let error = |code| {
            let message = "CUDA_ERROR_OUT_OF_MEMORY".to_owned();
            lmc_runtime::Error::Pjrt(lmc_runtime::PjrtError { function: "PJRT_Client_Create", code, message })
        };
        let options = CudaOptions::default();
        let message = open_error(&error(ErrorCode::ResourceExhausted), &options).to_string();
        assert!(message.contains("less free memory than the 0.75 of it"), "{message}");
        let message = open_error(&error(ErrorCode::Internal), &options).to_string();
        assert!(message.contains("See whether nvidia-smi works"), "{message}");
    }

    #[test]
    fn generations_are_read() {
        let read = |value: &str| read_capability(&NamedValue::String(value.into()));
        assert_eq!(read("9.0"), Some(ComputeCapability::new(9, 0)));
        assert_eq!(read("12.0"), Some(ComputeCapability::new(12, 0)));
        assert_eq!((read("9"), read("gfx942")), (None, None));
        assert_eq!(read_capability(&NamedValue::Int64(9)), None);
    }
}
