//! What a plugin records of its devices' work.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;

use crate::error::{Error, Result};
use crate::pjrt::profiler::{CreateFailure, NoProfiler, ProfilerHandle};
use crate::plugin::Plugin;

/// What a profiler records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfilerOptions {
    /// The kernels and copies of devices.
    pub devices: bool,
    /// The programs that ran, in a plane of their own (`/host:metadata`).
    pub programs: bool,
}

/// A recording that goes on. Dropping it throws away what was recorded.
#[must_use = "a recording ends when this is dropped"]
pub struct Profiler {
    handle: ProfilerHandle,
    /// After the handle, which is dropped first: until then nothing else may record.
    _running: Running,
    /// The plugin's profiler belongs to the thread that made it.
    _thread: PhantomData<*const ()>,
}

/// Whether a recording goes on in this process. Plugins take no second one, and some say nothing and record nothing.
static RUNNING: AtomicBool = AtomicBool::new(false);

struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

impl Profiler {
    /// Whether a plugin has a profiler.
    ///
    /// # Errors
    /// When it has none that is known here.
    pub fn check(plugin: &Plugin) -> Result<()> {
        plugin.api().profiler.as_ref().map(|_| ()).map_err(|none| no_profiler(plugin, *none))
    }

    /// Starts to record.
    ///
    /// # Errors
    /// When the plugin has no profiler that is known here or refuses to start it, and when another recording goes on in
    /// this process.
    pub fn start(plugin: &Plugin, options: ProfilerOptions) -> Result<Profiler> {
        if RUNNING.swap(true, Ordering::Acquire) {
            return Err(Error::ProfilerRuns);
        }
        let running = Running;
        let failed = |failure| match failure {
            CreateFailure::Failed(error) => Error::from(error),
            CreateFailure::None(none) => no_profiler(plugin, none),
        };
        let handle = ProfilerHandle::create(plugin.api(), &encoded(options)).map_err(failed)?;
        handle.start()?;
        Ok(Profiler { handle, _running: running, _thread: PhantomData })
    }

    /// Ends the recording and returns it: an encoded `XSpace` (`tsl/profiler/protobuf/xplane.proto`). It is empty where
    /// nothing happened.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn stop(self) -> Result<Vec<u8>> {
        self.handle.stop()?;
        Ok(self.handle.collect()?)
    }
}

fn no_profiler(plugin: &Plugin, none: NoProfiler) -> Error {
    Error::NoProfiler { plugin: plugin.path().to_owned(), found: found(none, plugin.extensions()) }
}

/// What is there in place of the profiler.
fn found(none: NoProfiler, extensions: &[i32]) -> String {
    match none {
        NoProfiler::NoExtension if extensions.is_empty() => "no extension at all".to_owned(),
        NoProfiler::NoExtension => {
            let numbers: Vec<String> = extensions.iter().map(i32::to_string).collect();
            format!("the extensions {}", numbers.join(", "))
        }
        NoProfiler::Size { what, bytes, expected } => {
            format!("{what} with {bytes} bytes, of which {expected} must be there")
        }
        NoProfiler::NoFunction => "its table without a function that every version has".to_owned(),
    }
}

/// The options as the plugin reads them.
fn encoded(options: ProfilerOptions) -> Vec<u8> {
    let ProfilerOptions { devices, programs } = options;
    proto::ProfileOptions { device_tracer_level: u32::from(devices), version: 1, enable_hlo_proto: programs }
        .encode_to_vec()
}

/// The message of `tsl/profiler/protobuf/profiler_options.proto`, with the fields that lmc sets. From version 1 on the
/// plugin takes a field that is not there as 0, and not as what it thinks best.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ProfileOptions {
        #[prost(uint32, tag = "3")]
        pub(super) device_tracer_level: u32,
        #[prost(uint32, tag = "5")]
        pub(super) version: u32,
        #[prost(bool, tag = "7")]
        pub(super) enable_hlo_proto: bool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plugin;

    #[test]
    fn a_plugin_without_a_profiler_is_told() {
        let plugin = plugin();
        // Twice: the first attempt leaves nothing behind that would refuse the second.
        for _ in 0..2 {
            let error = Profiler::start(&plugin, ProfilerOptions::default()).err().expect("the CPU plugin has none");
            let message = error.to_string();
            assert_eq!(Profiler::check(&plugin).expect_err("none").to_string(), message);
            let path = plugin.path().display().to_string();
            for part in ["has no profiler", "the extension 1 of PJRT", "found the extensions ", &path] {
                assert!(message.contains(part), "{part} is not in {message}");
            }
        }
    }

    #[test]
    fn what_was_found_instead() {
        assert_eq!(found(NoProfiler::NoExtension, &[]), "no extension at all");
        assert_eq!(found(NoProfiler::NoExtension, &[5, 12]), "the extensions 5, 12");
        let size = NoProfiler::Size { what: "its table of functions", bytes: 72, expected: 80 };
        assert_eq!(found(size, &[1]), "its table of functions with 72 bytes, of which 80 must be there");
    }

    #[test]
    fn options_are_encoded() {
        // Fields 3, 5 and 7; what is 0 is left out.
        assert_eq!(encoded(ProfilerOptions { devices: true, programs: false }), [0x18, 1, 0x28, 1]);
        assert_eq!(encoded(ProfilerOptions { devices: false, programs: true }), [0x28, 1, 0x38, 1]);
    }
}
