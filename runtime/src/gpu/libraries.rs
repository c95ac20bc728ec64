//! NVIDIA's libraries beside a plugin: whether they are there, and whether cuDNN fits.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::survey::Machine;

/// A version of cuDNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudnnVersion {
    /// 9 in `9.24.1`.
    pub major: u32,
    /// 24 in `9.24.1`.
    pub minor: u32,
    /// 1 in `9.24.1`.
    pub patch: u32,
}

impl fmt::Display for CudnnVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The major version that the pinned plugin is made for. Which minor versions have which forms of attention is for lowering
/// to choose by; a cuDNN before the one that it was built with, the plugin refuses itself.
const MAJOR: u32 = 9;

/// The minor versions that compile without a GPU in the pinned plugin: later ones want a property of the device that it does
/// not send then, and earlier ones were not tried.
const DEVICELESS: std::ops::RangeInclusive<u32> = 24..=26;

/// What is beside a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libraries {
    /// The plugin.
    pub plugin: PathBuf,
    /// The name and version of the Python package that the plugin is of, where that is beside it.
    pub package: Option<(String, String)>,
    /// cuDNN's library.
    pub cudnn: Option<PathBuf>,
    /// Its version, where a file tells it.
    pub cudnn_version: Option<CudnnVersion>,
    /// cuBLAS's library, which cuDNN ends the process without.
    pub cublas: Option<PathBuf>,
    /// The functions that XLA links into kernels.
    pub libdevice: Option<PathBuf>,
    /// What assembles kernels: the program ptxas or the library nvJitLink.
    pub assembler: Option<PathBuf>,
}

/// Why the libraries do not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryProblem {
    /// One is missing.
    #[error(
        "the CUDA plugin {} needs {what} ({package}), which is neither beside it nor where the system's loader looks. \
         `lmc plugin install cuda13` puts the plugin and all libraries that it needs in one place; Python's packages are \
         completed by `python3 -m pip install {requirement}`.", plugin.display()
    )]
    Missing {
        /// The plugin.
        plugin: PathBuf,
        /// What is missing.
        what: &'static str,
        /// The file looked for.
        package: &'static str,
        /// What pip can be asked for.
        requirement: &'static str,
    },
    /// cuDNN is of a version that does not fit.
    #[error(
        "the cuDNN beside the CUDA plugin {} is {found}, and this plugin {needs}. `lmc plugin install cuda13` puts a plugin and \
         a cuDNN that fit in one place; Python's packages are mended by `python3 -m pip install \
         'nvidia-cudnn-cu13>=9.24,<9.27'`.", plugin.display()
    )]
    CudnnUnfit {
        /// The plugin.
        plugin: PathBuf,
        /// The version found.
        found: CudnnVersion,
        /// What the plugin takes, and why not this one.
        needs: &'static str,
    },
}

/// Looks for the libraries as the plugin will: in the folder `nvidia` of the Python packages that it is among, then where
/// the system's loader looks.
pub fn libraries(plugin: &Path, machine: &Machine) -> Libraries {
    // `jax_plugins/xla_cuda13/xla_cuda_plugin.so`: the plugin's own search path begins two and one folders above its own.
    let roots: Vec<PathBuf> = plugin.ancestors().skip(2).take(2).map(|dir| dir.join("nvidia")).collect();
    let beside = |path: &str| roots.iter().rev().map(|root| root.join(path)).find(|path| path.is_file());
    let find = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        beside(path).or_else(|| machine.find_library(name))
    };
    let cudnn = find("cudnn/lib/libcudnn.so.9");
    Libraries {
        plugin: plugin.to_owned(),
        package: plugin.ancestors().nth(3).and_then(package_in),
        cudnn_version: cudnn.as_deref().and_then(version_of),
        cudnn,
        cublas: find("cu13/lib/libcublasLt.so.13"),
        libdevice: beside("cu13/nvvm/libdevice/libdevice.10.bc")
            .or_else(|| exists(machine.at("/usr/local/cuda/nvvm/libdevice/libdevice.10.bc"))),
        assembler: beside("cu13/bin/ptxas")
            .or_else(|| find("cu13/lib/libnvJitLink.so.13"))
            .or_else(|| exists(machine.at("/usr/local/cuda/bin/ptxas"))),
    }
}

fn exists(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// The package of a plugin among Python's packages in a folder, by the folder of its metadata:
/// `jax_cuda13_pjrt-0.12.0.1.dist-info` is `jax-cuda13-pjrt` of version `0.12.0.1`.
fn package_in(packages: &Path) -> Option<(String, String)> {
    let entries = fs::read_dir(packages).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (package, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
        let is_plugin = package.contains("cuda") && package.ends_with("_pjrt");
        is_plugin.then(|| (package.replace('_', "-"), version.to_owned()))
    })
}

/// The version of a cuDNN library: from the header that stands beside it in NVIDIA's wheels, else from the name of the
/// file that it is a link to, `libcudnn.so.9.24.1`.
fn version_of(library: &Path) -> Option<CudnnVersion> {
    let headers = library.parent()?.parent()?.join("include");
    ["cudnn_version.h", "cudnn_version_v9.h"]
        .iter()
        .find_map(|name| version_in_header(&fs::read_to_string(headers.join(name)).ok()?))
        .or_else(|| version_in_name(&library.canonicalize().ok()?))
}

fn version_in_header(text: &str) -> Option<CudnnVersion> {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name)).then(|| words.next()?.parse().ok())?
        })
    };
    Some(CudnnVersion {
        major: number("CUDNN_MAJOR")?,
        minor: number("CUDNN_MINOR")?,
        patch: number("CUDNN_PATCHLEVEL")?,
    })
}

fn version_in_name(library: &Path) -> Option<CudnnVersion> {
    let name = library.file_name()?.to_string_lossy().into_owned();
    let numbers: Vec<u32> = name.strip_prefix("libcudnn.so.")?.split('.').map_while(|part| part.parse().ok()).collect();
    let [major, minor, patch] = numbers.as_slice() else { return None };
    Some(CudnnVersion { major: *major, minor: *minor, patch: *patch })
}

impl Libraries {
    /// Checks that all are there to run programs on a GPU, and that cuDNN fits. A version that no file tells is not refused.
    ///
    /// # Errors
    /// What is missing or does not fit.
    pub fn check(&self) -> Result<(), LibraryProblem> {
        let needed = [
            (&self.cudnn, "cuDNN", "libcudnn.so.9", "'nvidia-cudnn-cu13>=9.24,<9.27'"),
            (&self.cublas, "cuBLAS", "libcublasLt.so.13", "nvidia-cublas"),
            (&self.libdevice, "libdevice", "libdevice.10.bc", "nvidia-nvvm"),
            (&self.assembler, "an assembler of kernels", "ptxas or libnvJitLink.so.13", "nvidia-cuda-nvcc"),
        ];
        for (found, what, package, requirement) in needed {
            if found.is_none() {
                return Err(LibraryProblem::Missing { plugin: self.plugin.clone(), what, package, requirement });
            }
        }
        match self.cudnn_version {
            Some(found) if found.major != MAJOR => Err(self.unfit(found, "works with cuDNN 9")),
            Some(_) | None => Ok(()),
        }
    }

    /// As [`Libraries::check`], for compiling without a GPU, which not every version that runs can.
    ///
    /// # Errors
    /// As [`Libraries::check`].
    pub fn check_deviceless(&self) -> Result<(), LibraryProblem> {
        self.check()?;
        match self.cudnn_version {
            Some(found) if found.minor > *DEVICELESS.end() => Err(self.unfit(
                found,
                "compiles without a GPU with 9.24 to 9.26: later ones want a property of the GPU that it does not send",
            )),
            Some(found) if found.minor < *DEVICELESS.start() => {
                Err(self.unfit(found, "compiles without a GPU with 9.24 to 9.26: earlier ones were not tried"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn unfit(&self, found: CudnnVersion, needs: &'static str) -> LibraryProblem {
        LibraryProblem::CudnnUnfit { plugin: self.plugin.clone(), found, needs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 5] = [
        "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        "nvidia/cudnn/lib/libcudnn.so.9",
        "nvidia/cu13/lib/libcublasLt.so.13",
        "nvidia/cu13/nvvm/libdevice/libdevice.10.bc",
        "nvidia/cu13/bin/ptxas",
    ];

    /// The packages without one file, with a cuDNN of this version. Gives the check's message.
    fn check(without: &str, version: (u32, u32, u32)) -> Result<Libraries, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for file in FILES.iter().filter(|file| **file != without) {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, "").expect("written");
        }
        let (major, minor, patch) = version;
        let header = format!(
            "#ifndef CUDNN_VERSION_H_\n#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n#define CUDNN_PATCHLEVEL {patch}\n\
             #define CUDNN_VERSION (CUDNN_MAJOR * 10000 + CUDNN_MINOR * 100 + CUDNN_PATCHLEVEL)\n"
        );
        fs::create_dir_all(dir.path().join("nvidia/cudnn/include")).expect("created");
        fs::write(dir.path().join("nvidia/cudnn/include/cudnn_version.h"), header).expect("written");
        let machine = Machine {
            root: dir.path().join("root"),
            nvidia_smi: PathBuf::from("no"),
            library_path: Vec::new(),
            visible_devices: None,
        };
        let found = libraries(&dir.path().join(FILES[0]), &machine);
        found.check_deviceless().map_err(|problem| problem.to_string())?;
        Ok(found)
    }

    #[track_caller]
    fn refused(without: &str, version: (u32, u32, u32), expected: &[&str]) {
        let message = check(without, version).expect_err("refused");
        for part in expected.iter().chain(&["lmc plugin install cuda13"]) {
            assert!(message.contains(part) && !message.contains('\n'), "{part} is not in: {message}");
        }
    }

    #[test]
    fn what_fits_is_taken() {
        let found = check("", (9, 24, 1)).expect("fits");
        assert_eq!(found.cudnn_version.map(|version| version.to_string()).as_deref(), Some("9.24.1"));
        check("", (9, 26, 1)).expect("fits");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        refused("", (9, 27, 0), &["is 9.27.0", "does not send"]);
        refused("", (10, 0, 0), &["is 10.0.0", "works with cuDNN 9."]);
        refused("", (9, 23, 2), &["is 9.23.2", "were not tried"]);
    }

    #[test]
    fn what_is_missing_is_told() {
        refused(FILES[1], (9, 24, 1), &["needs cuDNN (libcudnn.so.9)", "nvidia-cudnn-cu13"]);
        refused(FILES[2], (9, 24, 1), &["needs cuBLAS (libcublasLt.so.13)", "nvidia-cublas"]);
        refused(FILES[3], (9, 24, 1), &["needs libdevice", "nvidia-nvvm"]);
        refused(FILES[4], (9, 24, 1), &["needs an assembler of kernels", "nvidia-cuda-nvcc"]);
    }

    #[test]
    fn the_package_is_told_by_its_metadata() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in ["nvidia_cublas-13.10.0.20.dist-info", "jax_cuda13_plugin-0.12.0.1.dist-info"] {
            fs::create_dir(dir.path().join(name)).expect("created");
        }
        assert_eq!(package_in(dir.path()), None);
        fs::create_dir(dir.path().join("jax_cuda13_pjrt-0.12.0.1.dist-info")).expect("created");
        assert_eq!(package_in(dir.path()), Some(("jax-cuda13-pjrt".into(), "0.12.0.1".into())));
    }

    #[test]
    fn a_name_tells_the_version_too() {
        let version = version_in_name(Path::new("/usr/lib64/libcudnn.so.9.26.1")).expect("a version");
        assert_eq!((version.major, version.minor, version.patch), (9, 26, 1));
        assert_eq!(version_in_name(Path::new("/usr/lib64/libcudnn.so.9")), None);
    }
}
