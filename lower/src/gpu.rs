//! GPUs that programs can be compiled for on a machine without one, each with a description that XLA's plugin takes.

use crate::target::{ComputeCapability, Cuda, CudnnVersion, PluginIdentity, Target};

/// A GPU that programs can be compiled for anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The name that it is asked for by: `h200`.
    pub name: &'static str,
    /// The product's name: `NVIDIA H200`.
    pub product: &'static str,
    /// What it can do.
    pub compute_capability: ComputeCapability,
    /// The size of its memory in bytes, as the driver tells it.
    pub memory_bytes: u64,
    /// What goes from and to its memory at most, in bytes a second.
    pub memory_bandwidth: u64,
    /// The cuDNN that its description names.
    pub cudnn: CudnnVersion,
    /// The description: a `stream_executor.GpuTargetConfigProto` as text, what a plugin's topology takes as
    /// `target_config`. Written for [`DESCRIPTION_PLUGIN`]: another version may not know a field, and then refuses all.
    pub description: &'static str,
}

/// The package and version of the plugin that descriptions are written for.
pub const DESCRIPTION_PLUGIN: (&str, &str) = ("jax-cuda13-pjrt", "0.12.0.1");

/// A description by the name of its file.
macro_rules! descriptions {
    ($($name:literal,)*) => { [$(($name, include_str!(concat!("../targets/", $name, ".txtpb"))),)*] };
}

const DESCRIPTIONS: [(&str, &str); 15] = descriptions![
    "a100",
    "a100-40gb",
    "a6000",
    "b200",
    "gb200",
    "h100",
    "h100-pcie",
    "h200",
    "l4",
    "l40s",
    "rtx-pro-6000",
    "rtx3090",
    "rtx4090",
    "rtx5090",
    "t4",
];

/// Other names, and what they stand for.
const ALIASES: [(&str, &str); 5] = [
    ("a100-40", "a100-40gb"),
    ("a100-80", "a100"),
    ("a100-80gb", "a100"),
    ("h100-sxm", "h100"),
    ("rtx-a6000", "a6000"),
];

/// A name that no GPU has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no GPU is called \"{name}\"; there are {}", Gpu::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownGpu {
    /// The name that was asked for.
    pub name: String,
}

impl Gpu {
    /// The names of all, in alphabetical order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DESCRIPTIONS.iter().map(|(name, _)| *name)
    }

    /// The GPU of this name, or of another name for one (`a100-80`); capitals make no difference.
    ///
    /// # Errors
    /// When there is none of this name, with those that there are.
    pub fn named(name: &str) -> Result<Gpu, UnknownGpu> {
        let of_alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)).map(|(_, name)| *name);
        let asked = of_alias.unwrap_or(name);
        let found = DESCRIPTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(asked));
        let &(name, description) = found.ok_or_else(|| UnknownGpu { name: name.to_owned() })?;
        let number = |key| number_of(description, key).unwrap_or_else(|| panic!("{name}.txtpb says `{key}`"));
        let text = |key| text_of(description, key).unwrap_or_else(|| panic!("{name}.txtpb says `{key}`"));
        let generation = |key| u32::try_from(number(key)).unwrap_or_else(|_| panic!("{name}.txtpb: `{key}` is small"));
        Ok(Gpu {
            name,
            product: text("device_description_str"),
            compute_capability: ComputeCapability::new(generation("major"), generation("minor")),
            memory_bytes: number("device_memory_size"),
            memory_bandwidth: number("memory_bandwidth"),
            cudnn: CudnnVersion::parse(text("dnn_version")).unwrap_or_else(|| panic!("{name}.txtpb: dnn_version")),
            description,
        })
    }

    /// What functions are lowered for so that they compile for it, with the description's plugin and cuDNN.
    pub fn target(&self) -> Target {
        let cuda = Cuda { compute_capability: self.compute_capability, cudnn: Some(self.cudnn), deterministic: false };
        let (name, version) = DESCRIPTION_PLUGIN;
        Target::cuda(cuda, Some(PluginIdentity { name: name.to_owned(), version: version.to_owned() }))
    }
}

/// What stands behind the first `key:` of a description.
fn value_of<'a>(description: &'a str, key: &str) -> Option<&'a str> {
    let is_key = |at: usize| {
        let before = description[..at].chars().next_back();
        description[at + key.len()..].starts_with(':') && before.is_none_or(|c| c.is_whitespace())
    };
    let at = description.match_indices(key).map(|(at, _)| at).find(|&at| is_key(at))?;
    Some(description[at + key.len() + 1..].trim_start())
}

fn number_of(description: &str, key: &str) -> Option<u64> {
    let value = value_of(description, key)?;
    value.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn text_of<'a>(description: &'a str, key: &str) -> Option<&'a str> {
    value_of(description, key)?.strip_prefix('"')?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Platform;

    #[test]
    fn every_gpu_has_its_facts() {
        let names: Vec<&str> = Gpu::names().collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        for name in names {
            let gpu = Gpu::named(name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((gpu.name, Gpu::named(&name.to_uppercase())), (name, Ok(gpu)));
            assert!(gpu.memory_bytes > 14 << 30 && gpu.memory_bandwidth > 200 << 30, "{gpu:?}");
            // What is said twice is said alike.
            let ComputeCapability { major, minor } = gpu.compute_capability;
            for (key, start) in [
                ("name", gpu.product.to_owned()),
                ("platform_version", format!("Compute Capability {major}.{minor}")),
                ("model_str", format!("sm_{major}.{minor}")),
            ] {
                let text = text_of(gpu.description, key).unwrap_or_else(|| panic!("{name}: {key}"));
                assert!(text.starts_with(&start), "{name}: {key} is {text}");
            }
            // The plugin divides by some of these, and ends the process where they are missing.
            for key in [
                "core_count",
                "threads_per_warp",
                "threads_per_block_limit",
                "threads_per_core_limit",
                "max_blocks_per_multiprocessor",
                "fpus_per_core",
                "registers_per_core_limit",
                "shared_memory_per_block",
                "shared_memory_per_core",
                "memory_bandwidth",
                "l2_cache_size",
                "block_dim_limit_x",
            ] {
                assert!(number_of(gpu.description, key).is_some_and(|number| number > 0), "{name}: {key}");
            }
            assert!(gpu.description.starts_with("# Source: "), "{name}");
        }
    }

    #[test]
    fn a_name_gives_a_target() {
        let target = Target::named("H200").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(target.to_string(), "cuda 9.0, cuDNN 9.24.1 (jax-cuda13-pjrt 0.12.0.1)");
        let Platform::Cuda(cuda) = target.platform else { panic!("{target}") };
        assert_eq!(cuda.cudnn, Some(CudnnVersion::new(9, 24, 1)));
        assert_eq!(Gpu::named("l4").map(|gpu| gpu.compute_capability), Ok(ComputeCapability::new(8, 9)));
        for (alias, name) in ALIASES {
            assert_eq!(Gpu::named(alias).map(|gpu| gpu.name), Ok(name));
            assert!(Gpu::names().all(|known| known != alias), "{alias} is a name");
        }
        let error = Target::named("h300").expect_err("there is no such GPU").to_string();
        assert!(error.starts_with("no GPU is called \"h300\"; there are a100, a100-40gb, a6000, b200"), "{error}");
    }

    #[test]
    fn keys_are_whole_words() {
        let text = "old_core_count: 1 core_count_limit: 2\n  core_count: 3 { name: \"a b\" }";
        assert_eq!(number_of(text, "core_count"), Some(3));
        assert_eq!((number_of(text, "count"), text_of(text, "name")), (None, Some("a b")));
    }

    #[test]
    fn versions_of_cudnn() {
        assert_eq!(CudnnVersion::parse("9.24.1.1"), Some(CudnnVersion::new(9, 24, 1)));
        assert_eq!(CudnnVersion::parse("9.1.0"), Some(CudnnVersion::new(9, 1, 0)));
        for text in ["", "9", "9.1", "9.1.x", "9.1.0.0.0", "-9.1.0"] {
            assert_eq!(CudnnVersion::parse(text), None, "{text}");
        }
        assert!(CudnnVersion::new(9, 9, 9) < CudnnVersion::new(9, 10, 0));
    }
}
