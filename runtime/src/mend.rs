//! What messages and deaths of XLA and NVIDIA's libraries mean to the person who meets them: cause and mend.

/// How NVIDIA's libraries get into their places.
macro_rules! reinstall {
    () => {
        "`lmc plugin install cuda13` puts the plugin and all libraries that it needs in one place"
    };
}

/// Words of a message, and what it means.
const MESSAGES: [(&str, &str); 9] = [
    (
        "cudnn_device_props",
        concat!(
            "cuDNN does not fit the plugin: from 9.27 on it wants a property of the device that this plugin does not \
             send; 9.24 and 9.26 work. ",
            reinstall!(),
            ", with a cuDNN that fits."
        ),
    ),
    (
        "Cannot load CUDA driver library",
        "cuDNN finds no CUDA driver (libcuda.so.1). Where there is a GPU, NVIDIA's driver is missing in this container or \
         on this machine; where there is none, lmc's stand-in for it was not loaded.",
    ),
    (
        "SUBLIBRARY_LOADING_FAILED",
        concat!("Some of cuDNN's libraries are missing, or of another version than the rest. ", reinstall!(), "."),
    ),
    (
        "libdevice not found",
        concat!("The package nvidia-nvvm, which has libdevice.10.bc, is not beside the plugin. ", reinstall!(), "."),
    ),
    (
        "No PTX compilation provider",
        concat!(
            "Neither ptxas (package nvidia-cuda-nvcc) nor libnvJitLink (package nvidia-nvjitlink) is beside the plugin. ",
            reinstall!(),
            "."
        ),
    ),
    (
        "xla_gpu_cudnn_deviceless_compilation_mode",
        concat!(
            "This plugin is too old to compile attention without a GPU; that begins with jax-cuda13-pjrt 0.12. ",
            reinstall!(),
            "."
        ),
    ),
    (
        "GpuTargetConfigProto",
        "The description has a field that this version of the plugin does not know, or is no text of that form. \
         Descriptions belong to a version of the plugin.",
    ),
    (
        "could not find registered platform",
        concat!("The plugin was built without CUDA's platform (xla-cuda13-pjrt 0.0.1 was). ", reinstall!(), "."),
    ),
    (
        "CUDNN_STATUS_NOT_INITIALIZED",
        "cuDNN does not start: most often the GPU has no memory left for it. See with nvidia-smi who holds it, or lower \
         runtime.memory_fraction.",
    ),
];

/// What to do about a message of XLA, where that is known.
pub(crate) fn mend_of_message(message: &str) -> Option<&'static str> {
    MESSAGES.iter().find(|(words, _)| message.contains(words)).map(|(_, mend)| *mend)
}

/// What a process said before it died, and what that means.
const LAST_WORDS: [(&str, &str); 3] = [
    (
        "cublasLtGetVersion",
        concat!(
            "cuDNN does not find cuBLAS (libcublasLt.so.13, package nvidia-cublas), without which it ends the process. ",
            reinstall!(),
            "."
        ),
    ),
    (
        "XLA_FLAGS",
        "XLA ends the process over an option in the environment variable XLA_FLAGS that it does not know. Correct or \
         unset XLA_FLAGS.",
    ),
    (
        "Unknown flag",
        "XLA ends the process over an option in the environment variable XLA_FLAGS that it does not know. Correct or \
         unset XLA_FLAGS.",
    ),
];

/// Signals, and what they mean where nothing was said.
const SIGNALS: [(i32, &str); 2] = [
    (
        8,
        "A division by zero: the description of the GPU lacks numbers that XLA divides by. Give all fields; those of the \
         targets that lmc has are complete.",
    ),
    (
        9,
        "Something ended it from outside: most often the system, when memory runs out. Compiling a training step takes \
         about 1 GB; close what else takes memory, or compile a smaller model.",
    ),
];

/// What the death of a compiling process means.
pub(crate) fn mend_of_death(signal: Option<i32>, said: &str) -> &'static str {
    let last_words = LAST_WORDS.iter().find(|(words, _)| said.contains(words)).map(|(_, mend)| *mend);
    let by_signal = || SIGNALS.iter().find(|(number, _)| Some(*number) == signal).map(|(_, mend)| *mend);
    last_words.or_else(by_signal).unwrap_or(concat!(
        "No cause of it is known. A library that is missing or of another version is the most likely one: ",
        reinstall!(),
        "."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        // What the libraries said, each in its turn, when one thing was taken away or replaced.
        let check = |message: &str, expected: &str| {
            let mend = mend_of_message(message).unwrap_or_else(|| panic!("no mend for {message}"));
            assert!(mend.contains(expected), "{mend}");
        };
        check("!json_object.HasMember(key)\nin cudnn_device_props.cc: CUDNN_STATUS_BAD_PARAM", "9.24 and 9.26 work");
        check("cuDNN reports no supported engine ... Cannot load CUDA driver library", "libcuda.so.1");
        check("libdevice not found at ./libdevice.10.bc", "nvidia-nvvm");
        check("No PTX compilation provider is available. Neither ptxas/nvlink nor", "nvidia-cuda-nvcc");
        check("Failed to parse GpuTargetConfigProto from the 'target_config' parameter.", "belong to a version");
        check("could not find registered platform with id: 0x7f", "without CUDA's platform");
        assert_eq!(mend_of_message("hidden_dim should be multiple of 8"), None);
    }

    #[test]
    fn deaths_are_told_apart() {
        let check = |signal, said: &str, expected: &str| {
            let mend = mend_of_death(signal, said);
            assert!(mend.contains(expected), "{mend}");
        };
        check(Some(6), "Invalid handle. Cannot load symbol cublasLtGetVersion", "nvidia-cublas");
        check(Some(6), "Unknown flag in XLA_FLAGS: --xla_no", "unset XLA_FLAGS");
        check(Some(8), "", "division by zero");
        check(Some(9), "", "memory runs out");
        check(Some(6), "", "No cause of it is known");
        check(None, "", "No cause of it is known");
    }
}
