//! `[runtime]`: the device.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::section::{NOT_NEGATIVE, PROBABILITY, Section};
use super::settings::{Choice, choices};
use super::source::Problem;
use super::tree::Kind;
use super::validate::{Origin, find};

/// `[runtime]`: the device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuntimeConfig {
    /// `"auto"`, `"cpu"`, `"cuda"` or `"wasm"`. Default `"auto"`: a GPU if there is one and its plugin is installed, else
    /// the CPU; a GPU that is not used is said. `"wasm"` interprets WebAssembly: it needs no plugin, and is for models of
    /// less than a million parameters.
    pub device: DeviceKind,
    /// The PJRT plugin to load, a shared library. Default: the managed one of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PathBuf>,
    /// Threads that a step on the CPU is divided among; 0 means one a core. Default 0.
    pub threads: usize,
    /// The GPU to run on, a list of one number: as `nvidia-smi` counts, or among those that the environment variable
    /// `CUDA_VISIBLE_DEVICES` shows. The others are not opened. Default `[0]`. The CPU has no use for it, nor for the next
    /// three.
    pub visible_devices: Vec<usize>,
    /// The part of the GPU's memory that lmc may take, more than 0 and at most 1. What CUDA's own context takes, some
    /// hundred megabytes, is not in it, nor what other programs on the GPU have. Default 0.75, XLA's own.
    pub memory_fraction: f64,
    /// Whether that part is taken at the start, in one piece; otherwise it is taken as it is needed, which leaves it to
    /// others so long but may break memory into pieces that are too small for a large tensor. Default true, as in XLA.
    pub preallocate: bool,
    /// Whether the same run on the same GPU must give the same bits every time. XLA then takes no algorithm that sums in
    /// an order of chance, and does not choose algorithms by trying: steps are slower, by how much depends on the model.
    /// Runs on the CPU give the same bits in any case. Default false.
    pub deterministic: bool,
    /// The device's peak rate for products of `train.precision`, in units of 10^12 floating-point operations a second,
    /// without sparsity: what model FLOPs utilization (`mfu`) is a fraction of. 0 means the figure of the device's data
    /// sheet if lmc knows it, and else no `mfu`; no CPU's is known. Default 0.
    pub peak_tflops: f64,
}

choices! {
    /// The device to run on.
    DeviceKind {
        /// A GPU if there is one, else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// An NVIDIA GPU.
        Cuda = "cuda",
        /// WebAssembly, interpreted: without a plugin, for tiny models.
        Wasm = "wasm",
    }
}

/// Reads the section.
pub(super) fn read_runtime(section: &Section<'_>, origin: &Origin<'_>) -> RuntimeConfig {
    let threads = section.count_or("threads", 0);
    // The most processors Linux can be built for; more is surely a slip.
    section.require(&["threads"], threads <= 8192, || format!("`threads` must be at most 8192, found {threads}"));
    RuntimeConfig {
        device: section.choice_or("device", DeviceKind::Auto),
        plugin: section.path("plugin").map(|path| find(path, origin.folder)),
        threads: usize::try_from(threads).unwrap_or(0),
        visible_devices: read_visible_devices(section),
        memory_fraction: section.number_or("memory_fraction", 0.75, &PROBABILITY),
        preallocate: section.boolean_or("preallocate", true),
        deterministic: section.boolean_or("deterministic", false),
        peak_tflops: section.number_or("peak_tflops", 0.0, &NOT_NEGATIVE),
    }
}

/// The GPU to run on, in a list: later versions may run on several.
fn read_visible_devices(section: &Section<'_>) -> Vec<usize> {
    const KEY: &str = "visible_devices";
    let default = vec![0];
    let Some(node) = section.node(KEY) else { return default };
    let Kind::Array(items) = &node.kind else {
        section.wrong_type(KEY, node, "a list of one GPU's number, such as [0]");
        return default;
    };
    let [item] = items.as_slice() else {
        let message = format!("`{KEY}` takes one GPU, as a step runs on one, found {} of them", items.len());
        section.problem(KEY, Problem::new(node.place, message));
        return default;
    };
    // More GPUs than any machine has.
    if let Kind::Integer(number @ 0..=1023) = item.kind {
        return vec![number as usize];
    }
    let message = format!("`{KEY}` has numbers from 0 to 1023, found {}", item.kind.describe());
    section.problem(KEY, Problem::new(item.place, message));
    default
}
