//! Why a GPU cannot be used, each cause with its mend.

use std::path::PathBuf;

use crate::pjrt::driver::DRIVER_LIBRARY;

/// The first version of the driver that runs CUDA 13.
pub(super) const MIN_DRIVER: u32 = 580;

/// Why no GPU can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuProblem {
    /// There is none.
    #[error(
        "there is none on this machine: no driver (/proc/driver/nvidia), no device (/dev/nvidia0), none on the \
         PCI bus. Set runtime.device to \"auto\" or \"cpu\"; in a container that should have one, start it with its GPUs \
         (docker run --gpus all)."
    )]
    NoGpu,
    /// There is one without a driver.
    #[error(
        "there is an NVIDIA GPU on this machine ({count} on the PCI bus) but no driver for it: /proc/driver/nvidia does \
         not exist. Install NVIDIA's driver, version {MIN_DRIVER} or later, and load it (modprobe nvidia); in a virtual \
         machine or a container it is the host's driver that counts."
    )]
    NoDriver {
        /// How many GPUs.
        count: usize,
    },
    /// The driver shows no GPU to this process.
    #[error(
        "NVIDIA's driver {version} is loaded, but there is no GPU to open here: /dev has no nvidia0. A container must be \
         started with its GPUs (docker run --gpus all); outside of one, nvidia-modprobe -u -c 0 makes the nodes."
    )]
    NoNodes {
        /// The driver's version.
        version: String,
    },
    /// The user may not open it.
    #[error(
        "the GPU cannot be opened: this user may not read and write {}. Add the user to the group that owns it (ls -l \
         /dev/nvidia*), or ask the administrator.", node.display()
    )]
    NoAccess {
        /// The node.
        node: PathBuf,
    },
    /// The library is missing.
    #[error(
        "there is a GPU, but not the driver's library {DRIVER_LIBRARY} that programs use it by. Install the part of \
         NVIDIA's driver that has it (libnvidia-compute, nvidia-driver-cuda-libs or like), or start the container with \
         NVIDIA_DRIVER_CAPABILITIES=compute,utility; if it lies in an unusual folder, name that in LD_LIBRARY_PATH."
    )]
    NoDriverLibrary,
    /// The driver is too old.
    #[error(
        "NVIDIA's driver is {version}; the CUDA 13 libraries that lmc uses need {MIN_DRIVER} or later. Update the driver: \
         on a machine that is not yours, ask its administrator; until then set runtime.device to \"cpu\"."
    )]
    DriverTooOld {
        /// The driver's version.
        version: String,
    },
    /// `CUDA_VISIBLE_DEVICES` hides all.
    #[error(
        "the environment variable CUDA_VISIBLE_DEVICES is \"{value}\", which hides all GPUs. Unset it, or set it to the \
         numbers of the GPUs to use (nvidia-smi -L lists them)."
    )]
    Hidden {
        /// Its value.
        value: String,
    },
    /// The GPU asked for does not exist.
    #[error(
        "runtime.visible_devices asks for GPU {asked}, but there are {count}, counted from 0{}. nvidia-smi -L lists them.",
        if *.narrowed { " among those that CUDA_VISIBLE_DEVICES shows" } else { "" }
    )]
    NoSuchGpu {
        /// The number asked for.
        asked: usize,
        /// How many there are.
        count: usize,
        /// Whether `CUDA_VISIBLE_DEVICES` shows some only.
        narrowed: bool,
    },
    /// Others have its memory.
    #[error(
        "GPU {index} ({name}) has {free} MiB of {total} MiB left: other programs have the rest. See with nvidia-smi who \
         they are and end them, or choose another GPU by runtime.visible_devices."
    )]
    MemoryTaken {
        /// The GPU's number.
        index: usize,
        /// The product.
        name: String,
        /// What is free, in MiB.
        free: u64,
        /// All its memory, in MiB.
        total: u64,
    },
}
