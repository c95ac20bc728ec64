//! A plugin's devices, and compilation for them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lmc_graph::Literal;

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::executable::Executable;
use crate::location::location_of;
use crate::options::CompileOptions;
use crate::pjrt::calls::{ClientHandle, DeviceHandle, MemoryStats, NamedValue};
use crate::plugin::Plugin;
use crate::signature::Signature;

/// How a client is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientOptions {
    /// The number of virtual devices of the CPU plugin, which makes 4 unless told. `None` leaves it to the plugin;
    /// other plugins refuse the option.
    pub cpu_device_count: Option<i64>,
    /// The number of threads that the CPU plugin divides a program among. The plugin takes it from the environment
    /// variable `PJRT_NPROC`, which is set for this process: it stays for later clients that are made with `None`.
    /// `None` leaves it to the plugin: one a core, unless the variable says otherwise.
    pub cpu_threads: Option<usize>,
    /// Options of the plugin at hand, by name.
    pub other: BTreeMap<String, NamedValue>,
}

/// The connection to a plugin's devices. Cheap to clone; closed when the last clone, buffer and executable is gone.
#[derive(Clone)]
pub struct Client {
    plugin: Plugin,
    handle: Arc<ClientHandle>,
    platform_name: String,
    platform_version: String,
    devices: Vec<Device>,
}

impl Client {
    /// Opens the plugin's devices.
    ///
    /// # Errors
    /// When the plugin refuses an option or finds no device.
    pub fn new(plugin: &Plugin, options: &ClientOptions) -> Result<Client> {
        let mut named = options.other.clone();
        if let Some(count) = options.cpu_device_count {
            named.insert("cpu_device_count".to_owned(), NamedValue::Int64(count));
        }
        let handle = ClientHandle::create(plugin.api(), &named, options.cpu_threads)?;
        let devices = handle.devices()?.into_iter().map(Device::new).collect::<Result<Vec<Device>>>()?;
        if devices.is_empty() {
            return Err(Error::NoDevice { index: 0, count: 0 });
        }
        let (platform_name, platform_version) = (handle.platform_name()?, handle.platform_version()?);
        Ok(Client { plugin: *plugin, handle, platform_name, platform_version, devices })
    }

    /// The plugin it belongs to.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// `cpu`, `cuda`, …
    pub fn platform_name(&self) -> &str {
        &self.platform_name
    }

    /// What the platform says of its version.
    pub fn platform_version(&self) -> &str {
        &self.platform_version
    }

    /// The devices of this process, at least one.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device that programs run on.
    pub fn device(&self) -> &Device {
        &self.devices[0]
    }

    /// Copies a tensor to the device that programs run on.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn buffer(&self, literal: &Literal) -> Result<Buffer> {
        Buffer::from_literal(self.device(), literal)
    }

    /// Compiles a StableHLO module (MLIR text) for the first device.
    ///
    /// # Errors
    /// When the text has no readable `@main`, or XLA refuses it: then with XLA's message, and with the location of
    /// the op where the message points to a line of the text.
    pub fn compile(&self, stablehlo: &str, options: &CompileOptions) -> Result<Executable> {
        let signature = Signature::of(stablehlo)?;
        match self.handle.compile(stablehlo, &options.encode()) {
            Ok(handle) => Executable::new(handle, signature),
            Err(error) => {
                let location = location_of(&error.message, stablehlo);
                Err(Error::Compile { module: signature.module, error, location })
            }
        }
    }

    /// Loads what serializing an executable gave, compiled from `stablehlo`.
    ///
    /// The bytes hold machine code: callers pass only what this machine wrote, after checking that it is whole.
    pub(crate) fn load(&self, stablehlo: &str, bytes: &[u8]) -> Result<Executable> {
        Executable::new(self.handle.deserialize(bytes)?, Signature::of(stablehlo)?)
    }

    /// The program as XLA compiles it, after all optimizations, as HLO text. Compiles it once more for that.
    ///
    /// # Errors
    /// As [`Client::dump_hlo`].
    pub fn optimized_hlo_text(&self, stablehlo: &str, options: &CompileOptions) -> Result<String> {
        Ok(self.dump_hlo(stablehlo, options)?.optimized)
    }

    /// The program in the stages of XLA's compilation. Compiles it once more for that.
    ///
    /// # Errors
    /// As [`Client::compile`], and when no temporary folder can be made.
    pub fn dump_hlo(&self, stablehlo: &str, options: &CompileOptions) -> Result<HloDump> {
        let file_error = |what, path: &Path, source| Error::File { what, path: path.to_owned(), source };
        let dir = tempfile::Builder::new()
            .prefix("lmc-hlo-")
            .tempdir()
            .map_err(|source| file_error("cannot make a folder in", &std::env::temp_dir(), source))?;
        let name = dir.path().to_string_lossy().into_owned();
        let options = options.clone().with("xla_dump_to", name.as_str()).with("xla_dump_hlo_as_text", true);
        let executable = self.compile(stablehlo, &options)?;
        let entries = fs::read_dir(dir.path()).map_err(|source| file_error("cannot read", dir.path(), source))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort_unstable();
        // XLA names a file `module_0001.NAME.STAGE.txt`; other files of a stage have more words behind a hyphen.
        let read = |end: &str| {
            let path = paths.iter().find(|path| path.to_string_lossy().ends_with(end));
            path.map(|path| fs::read_to_string(path).map_err(|source| file_error("cannot read", path, source)))
                .transpose()
        };
        let missing = || Error::NoDump { module: executable.name().to_owned(), dir: dir.path().to_owned() };
        Ok(HloDump {
            before: read(".before_optimizations.txt")?.ok_or_else(missing)?,
            optimized: read("after_optimizations.txt")?.ok_or_else(missing)?,
            buffers: read("after_optimizations-buffer-assignment.txt")?,
            executable,
        })
    }
}

/// What XLA's compilation of a program leaves to be read.
#[derive(Debug)]
pub struct HloDump {
    /// HLO text of the program as it came in.
    pub before: String,
    /// HLO text after all optimizations, in the order in which it runs.
    pub optimized: String,
    /// The buffer assignment: which value lies where, and from when to when. `None` where the plugin writes none.
    pub buffers: Option<String>,
    /// The compiled program.
    pub executable: Executable,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {} devices)", self.platform_name, self.devices.len())
    }
}

/// A device of a client.
#[derive(Clone)]
pub struct Device {
    pub(crate) handle: DeviceHandle,
    id: i32,
    kind: String,
    debug_string: String,
    attributes: BTreeMap<String, NamedValue>,
}

impl Device {
    fn new(handle: DeviceHandle) -> Result<Device> {
        let (id, kind, debug_string) = (handle.id()?, handle.kind()?, handle.debug_string()?);
        let attributes = handle.attributes()?;
        Ok(Device { handle, id, kind, debug_string, attributes })
    }

    /// Its number among all devices of the client.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// What it is: `cpu`, or the product name of a GPU.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// A description for people.
    pub fn debug_string(&self) -> &str {
        &self.debug_string
    }

    /// What the plugin says of it, by name: a GPU's `compute_capability`, and others.
    pub fn attributes(&self) -> &BTreeMap<String, NamedValue> {
        &self.attributes
    }

    /// What its allocator says. `None` where the plugin keeps no count, as on the CPU: there,
    /// [`process_peak_memory_bytes`](crate::process_peak_memory_bytes) is the figure to take.
    pub fn memory_stats(&self) -> Option<MemoryStats> {
        self.handle.memory_stats().ok()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.debug_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{client, module, plugin};

    const RETURN: &str = "return %a : tensor<4xf32>";

    #[test]
    fn the_plugin_and_its_devices() {
        assert_eq!(client().platform_name(), "cpu");
        assert_eq!(client().plugin().path(), plugin().path());
        let [device] = client().devices() else { panic!("{:?}", client().devices()) };
        assert_eq!((device.id(), device.kind()), (0, "cpu"));
        assert!(!device.debug_string().is_empty());
        // The CPU plugin keeps no count.
        assert_eq!(device.memory_stats(), None);
        let options = ClientOptions { cpu_device_count: Some(3), ..ClientOptions::default() };
        assert_eq!(Client::new(&plugin(), &options).expect("a client").devices().len(), 3);
    }

    #[track_caller]
    fn check(text: &str, options: CompileOptions, expected: &[&str]) {
        let message = client().compile(text, &options).expect_err("refused").to_string();
        for part in expected {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }

    #[test]
    fn compile_errors_have_reason_and_location() {
        let none = CompileOptions::default;
        let at = "loc(\"mlp/up\"(\"src/model.rs\":10:3))";
        let slice = format!(
            "%0 = stablehlo.slice %a [0:9] : (tensor<4xf32>) -> tensor<9xf32> {at}\n return %a : tensor<4xf32>"
        );
        let text = module("%a: tensor<4xf32>", "tensor<4xf32>", &slice);
        check(&text, none(), &["cannot compile `m`", "limit index 9 is larger than dimension size 4", at]);
        let add = format!("%0 = stablehlo.add %a, %a : tensor<5xf32> {at}\n {RETURN}");
        check(&module("%a: tensor<4xf32>", "tensor<4xf32>", &add), none(), &["expects different type", at]);
        let call =
            "%0 = stablehlo.custom_call @nope(%a) : (tensor<4xf32>) -> tensor<4xf32>\n return %0 : tensor<4xf32>";
        check(&module("%a: tensor<4xf32>", "tensor<4xf32>", call), none(), &["not found", "nope"]);
        let good = module("%a: tensor<4xf32>", "tensor<4xf32>", RETURN);
        check(&good, none().with("xla_no_such_option", true), &["xla_no_such_option"]);
        check(&good, none().with("xla_cpu_prefer_vector_width", "wide"), &["xla_cpu_prefer_vector_width", "wide"]);
        check("module @m {}", none(), &["no `func.func @main(`"]);
    }

    #[test]
    fn debug_options_of_every_type() {
        let options = CompileOptions::default()
            .with("xla_cpu_prefer_vector_width", 512)
            .with("xla_cpu_enable_fast_math", false)
            .with("xla_dump_hlo_module_re", "none");
        let text = module("%a: tensor<4xf32>", "tensor<4xf32>", RETURN);
        client().compile(&text, &options).expect("compiled");
    }

    #[test]
    fn the_stages_of_a_compilation_as_text() {
        let body = "%0 = stablehlo.add %a, %a : tensor<4xf32>\n return %0 : tensor<4xf32>";
        let text = module("%a: tensor<4xf32> {tf.aliasing_output = 0 : i32}", "tensor<4xf32>", body);
        let dump = client().dump_hlo(&text, &CompileOptions::default()).expect("text");
        let check = |text: &str, parts: &[&str]| {
            parts.iter().for_each(|part| assert!(text.contains(part), "{part} is not in {text}"));
        };
        check(&dump.before, &["HloModule m", "f32[4]"]);
        assert!(!dump.before.contains("is_scheduled=true"), "{}", dump.before);
        check(&dump.optimized, &["HloModule m", "is_scheduled=true", "input_output_alias", "f32[4]"]);
        check(dump.buffers.as_deref().expect("the CPU plugin writes it"), &["BufferAssignment:", "allocation 0"]);
        assert_eq!(dump.executable.name(), "m");
    }
}
