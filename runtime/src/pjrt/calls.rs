//! Safe wrappers around every call of the PJRT C API, and owners of the plugin's objects.
//!
//! What makes them safe: a pointer to an object of the plugin is only ever held by the handle that owns it; every
//! handle keeps alive what its object needs (a buffer its client, a device its client); the plugin's code is never
//! unloaded; and PJRT's objects may be used from several threads at once. What a handle returns is copied out of the
//! plugin's memory before the call that returned it is over.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem;
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, Once};

use libloading::{Library, Symbol};

use super::api::*;
use super::profiler::{NoProfiler, ProfilerTable};
use super::program::ProgramHandle;
use super::{ffi, ffi_abi};
use crate::error::{ErrorCode, PjrtError};
use crate::memory::HostMemory;

/// A value of a named list: a plugin attribute, a client option or a property of the cost analysis.
#[derive(Clone, Debug, PartialEq)]
pub enum NamedValue {
    /// A text.
    String(String),
    /// An integer.
    Int64(i64),
    /// A list of integers.
    Int64List(Vec<i64>),
    /// A floating-point number.
    Float(f32),
    /// A truth value.
    Bool(bool),
}

/// Why a library was not accepted as a plugin.
#[derive(Debug)]
pub(crate) enum LoadFailure {
    /// The system's loader refused the file, for this reason.
    NotALibrary(String),
    /// It has no function `GetPjrtApi`.
    NoEntryPoint,
    /// `GetPjrtApi` returned no table, or one without the functions every plugin has.
    NoTable,
    /// It was built with this version of the interface.
    Version { major: i32, minor: i32 },
    /// Its initialization failed.
    Initialize(PjrtError),
}

/// The function table of a loaded plugin.
pub(crate) struct Api {
    pub(super) table: PJRT_Api,
    /// `(major, minor)`.
    pub(crate) version: (i32, i32),
    extensions: Vec<i32>,
    /// Whether the plugin's programs can call the kernels of this crate.
    pub(crate) has_kernels: bool,
    /// The functions of the plugin's profiler.
    pub(crate) profiler: Result<ProfilerTable, NoProfiler>,
}

// SAFETY: the table is read only; its functions may be called from any thread (PJRT's contract), and its pointers to
// extensions are not followed after loading.
unsafe impl Send for Api {}
// SAFETY: as for `Send`.
unsafe impl Sync for Api {}

/// Calls a function of the table with `$args`, giving the arguments back with what the plugin wrote into them.
///
/// Expands to an unsafe call: the caller argues that every pointer in `$args` is valid for that function.
macro_rules! call {
    ($api:expr, $function:ident, $args:expr) => {{
        let mut args = $args;
        match $api.table.$function {
            Some(function) => {
                let error = function(&mut args);
                $api.check(stringify!($function), error).map(|()| args)
            }
            None => Err($api.missing(stringify!($function))),
        }
    }};
}
pub(super) use call;

impl Api {
    /// Loads the library at `path` and initializes it. The library stays loaded until the process ends: XLA starts
    /// threads that outlive every client.
    ///
    /// The caller sees to it that a path is loaded once only, as initialization must not be repeated.
    pub(crate) fn load(path: &Path) -> Result<Api, LoadFailure> {
        prepare_process();
        // SAFETY: loading runs the library's initializers. That it is a PJRT plugin is what the user vouches for by
        // naming the path, and what the pinned digest vouches for in a managed one.
        let library = unsafe { Library::new(path) }.map_err(|e| LoadFailure::NotALibrary(e.to_string()))?;
        // SAFETY: a symbol of this name has this type in every PJRT plugin.
        let get_api: Symbol<'_, GetPjrtApi> =
            unsafe { library.get(b"GetPjrtApi\0") }.map_err(|_| LoadFailure::NoEntryPoint)?;
        // SAFETY: the function takes no arguments and may be called at any time.
        let given = unsafe { get_api() };
        let Some(table) = copy_table(given) else { return Err(LoadFailure::NoTable) };
        // The functions in the table are code of the library.
        mem::forget(library);
        let version = (table.pjrt_api_version.major_version, table.pjrt_api_version.minor_version);
        if version.0 != MAJOR || version.1 < MIN_MINOR {
            return Err(LoadFailure::Version { major: version.0, minor: version.1 });
        }
        if table.PJRT_Error_Destroy.is_none()
            || table.PJRT_Error_Message.is_none()
            || table.PJRT_Error_GetCode.is_none()
        {
            return Err(LoadFailure::NoTable);
        }
        let extensions = extensions_of(table.extension_start).map(|extension| extension.kind).collect();
        // SAFETY: they are the extensions of this library, which stays.
        let profiler = unsafe { ProfilerTable::of(extensions_of(table.extension_start)) };
        let mut api = Api { table, version, extensions, has_kernels: false, profiler };
        // SAFETY: the arguments have no pointers.
        unsafe { call!(api, PJRT_Plugin_Initialize, PJRT_Plugin_Initialize_Args::new()) }
            .map_err(LoadFailure::Initialize)?;
        if version.1 == ffi_abi::MINOR
            && let Some(extension) = extensions_of(api.table.extension_start).find(|e| e.kind == ffi_abi::EXTENSION)
        {
            // SAFETY: it is of that kind and version.
            api.has_kernels = unsafe { ffi::register(extension) };
        }
        Ok(api)
    }

    /// The numbers (`PJRT_Extension_Type`) of the extensions that the plugin offers.
    pub(crate) fn extensions(&self) -> &[i32] {
        &self.extensions
    }

    /// What the plugin says of itself.
    pub(crate) fn attributes(&self) -> Result<BTreeMap<String, NamedValue>, PjrtError> {
        // SAFETY: the arguments have no pointers going in.
        let args = unsafe { call!(self, PJRT_Plugin_Attributes, PJRT_Plugin_Attributes_Args::new()) }?;
        // SAFETY: the plugin returned an array of that length, which lives as long as the process.
        Ok(unsafe { read_named_values(args.attributes, args.num_attributes) })
    }

    /// Turns the error that a function returned into ours, and frees it.
    pub(super) fn check(&self, function: &'static str, error: *mut PJRT_Error) -> Result<(), PjrtError> {
        if error.is_null() {
            return Ok(());
        }
        let (Some(get_message), Some(get_code), Some(destroy)) =
            (self.table.PJRT_Error_Message, self.table.PJRT_Error_GetCode, self.table.PJRT_Error_Destroy)
        else {
            // `load` has refused such a table.
            return Err(PjrtError { function, code: ErrorCode::Unknown, message: String::new() });
        };
        let mut message = PJRT_Error_Message_Args::new();
        message.error = error;
        // SAFETY: `error` is an error that the plugin has just returned and that nobody has freed.
        unsafe { get_message(&mut message) };
        // SAFETY: the message lives as long as the error, and is copied here.
        let text = unsafe { read_text(message.message, message.message_size) };
        let mut code = PJRT_Error_GetCode_Args::new();
        code.error = error;
        // SAFETY: as above. Its own error, which would say that `error` is no error, is ignored.
        unsafe { get_code(&mut code) };
        let mut destroyed = PJRT_Error_Destroy_Args::new();
        destroyed.error = error;
        // SAFETY: as above; `error` is not used after this.
        unsafe { destroy(&mut destroyed) };
        Err(PjrtError { function, code: ErrorCode::from_number(code.code), message: text })
    }

    /// The error for a function that the plugin's table does not have.
    pub(super) fn missing(&self, function: &'static str) -> PjrtError {
        let (major, minor) = self.version;
        let message = format!("this plugin (PJRT {major}.{minor}) does not have the function");
        PjrtError { function, code: ErrorCode::Unimplemented, message }
    }

    /// Waits for an event, frees it, and returns the error it carries. A null event is one that has happened.
    fn wait(&self, event: *mut PJRT_Event) -> Result<(), PjrtError> {
        if event.is_null() {
            return Ok(());
        }
        let mut args = PJRT_Event_Await_Args::new();
        args.event = event;
        // SAFETY: callers pass an event that the plugin has just handed to them.
        let result = unsafe { call!(self, PJRT_Event_Await, args) };
        self.destroy_event(event);
        result.map(|_| ())
    }

    /// Frees an event without waiting for it.
    fn destroy_event(&self, event: *mut PJRT_Event) {
        if !event.is_null() {
            let mut args = PJRT_Event_Destroy_Args::new();
            args.event = event;
            // SAFETY: callers own the event and do not use it again. Freeing it can only fail for a foreign pointer.
            let _ = unsafe { call!(self, PJRT_Event_Destroy, args) };
        }
    }
}

/// Copies the table at `given`, with `None` for the functions that a shorter one lacks.
fn copy_table(given: *const PJRT_Api) -> Option<PJRT_Api> {
    if given.is_null() {
        return None;
    }
    // SAFETY: the table begins with its size in every version of the interface.
    let size = unsafe { ptr::read(given.cast::<usize>()) };
    if size < mem::offset_of!(PJRT_Api, PJRT_Error_Destroy) {
        return None;
    }
    // SAFETY: sizes, integers, pointers and optional function pointers are all valid as zero.
    let mut table: PJRT_Api = unsafe { mem::zeroed() };
    let size = size.min(mem::size_of::<PJRT_Api>());
    // SAFETY: source and destination have at least `size` bytes and are distinct.
    unsafe { ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut table).cast::<u8>(), size) };
    Some(table)
}

/// The extensions of a chain.
fn extensions_of(first: *mut PJRT_Extension_Base) -> impl Iterator<Item = &'static PJRT_Extension_Base> {
    // SAFETY: every element of the chain begins with this struct, is static, and the last has a null `next`.
    std::iter::successors(unsafe { first.as_ref() }, |extension| unsafe { extension.next.as_ref() })
}

/// Sets up what a plugin must find when it is loaded. Only the first call does anything.
fn prepare_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("TF_CPP_MIN_LOG_LEVEL").is_none() {
            // SAFETY: the standard library guards its own readers and writers of the environment with a lock, and
            // the C++ code that reads this variable is not loaded yet. A C library that reads the environment on
            // another thread at this very moment is what remains; `Plugin::load` tells callers to load the plugin
            // before they start threads of such libraries.
            unsafe { std::env::set_var("TF_CPP_MIN_LOG_LEVEL", "3") };
        }
        keep_freed_memory();
    });
}

/// The environment variable that tells the CPU plugin, when it makes a client, how many threads to start.
pub(crate) const CPU_THREADS: &str = "PJRT_NPROC";

/// Sets the number of threads of the CPU clients made from now on.
fn set_cpu_threads(threads: usize) {
    let threads = threads.to_string();
    if std::env::var_os(CPU_THREADS).is_none_or(|value| value != *threads) {
        // SAFETY: as in `prepare_process`, with one difference: the plugin is loaded. It reads this variable in
        // `PJRT_Client_Create` only, on the calling thread; and of the rest of its environment, such as `XLA_FLAGS`,
        // it keeps what it reads when it makes its first client.
        unsafe { std::env::set_var(CPU_THREADS, threads) };
    }
}

/// Lets glibc's allocator keep what is freed. Without this, the temporaries of every step are mapped from the kernel
/// anew and page-faulted in: measured at 15 % of a training step on the CPU.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    /// As much as the parameter's type can say: 2 GiB. A user's GLIBC_TUNABLES cannot be set from inside a process.
    const THRESHOLD: c_int = c_int::MAX;
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: mallopt takes plain integers and may be called at any time.
        if unsafe { libc::mallopt(parameter, THRESHOLD) } == 0 {
            tracing::debug!(parameter, "mallopt refused the threshold; freed temporaries go back to the kernel");
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

/// Lets threads take from each other what is freed, for processes that shall take little memory: glibc's allocator has an
/// arena for each thread, and every arena keeps what was freed in it (`keep_freed_memory`). To be called before a client
/// is made. Two arenas, and one more for every four cores, take 60 MiB less on two cores while a model of Qwen3-0.6B's sizes
/// reads a prompt, in the same time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_freed_memory() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let arenas = c_int::try_from(2 + threads / 4).unwrap_or(c_int::MAX);
    // SAFETY: mallopt takes plain integers and may be called at any time.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) } == 0 {
        tracing::debug!(arenas, "mallopt refused the number of arenas");
    }
}

/// Does nothing: the allocator is another one.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_freed_memory() {}

/// Gives back what compiling or loading a program has freed, 50 to 100 MiB of small pieces: [`keep_freed_memory`] is for
/// what each step needs again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn release_freed_memory() {
    // SAFETY: malloc_trim takes a plain integer and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn release_freed_memory() {}

/// Copies a text that is not null-terminated.
///
/// # Safety
/// `text` is null or points to `size` readable bytes.
pub(super) unsafe fn read_text(text: *const c_char, size: usize) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the function's contract.
    let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), size) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The elements of an array; none for a null pointer.
///
/// # Safety
/// `first` is null or points to `len` readable elements.
pub(super) unsafe fn read_array<T: Copy>(first: *const T, len: usize) -> Vec<T> {
    if first.is_null() {
        return Vec::new();
    }
    // SAFETY: by the function's contract.
    unsafe { slice::from_raw_parts(first, len) }.to_vec()
}

/// Copies named values; those of an unknown kind are left out.
///
/// # Safety
/// `first` is null or points to `len` named values whose names and values are readable.
pub(super) unsafe fn read_named_values(first: *const PJRT_NamedValue, len: usize) -> BTreeMap<String, NamedValue> {
    let mut values = BTreeMap::new();
    if first.is_null() {
        return values;
    }
    // SAFETY: by the function's contract.
    for value in unsafe { slice::from_raw_parts(first, len) } {
        // SAFETY: by the function's contract; the kind says which field of the union is set.
        let (name, read) = unsafe {
            let read = match value.kind {
                named_value::STRING => NamedValue::String(read_text(value.value.string_value, value.value_size)),
                named_value::INT64 => NamedValue::Int64(value.value.int64_value),
                named_value::INT64_LIST => {
                    NamedValue::Int64List(read_array(value.value.int64_array_value, value.value_size))
                }
                named_value::FLOAT => NamedValue::Float(value.value.float_value),
                named_value::BOOL => NamedValue::Bool(value.value.bool_value),
                _ => continue,
            };
            (read_text(value.name, value.name_size), read)
        };
        values.insert(name, read);
    }
    values
}

/// A client: the plugin's view of the devices of this process.
pub(crate) struct ClientHandle {
    api: &'static Api,
    client: *mut PJRT_Client,
    /// Whether its buffers lie in memory of this process.
    is_cpu: bool,
}

// SAFETY: PJRT clients may be used from any thread, and from several at once.
unsafe impl Send for ClientHandle {}
// SAFETY: as for `Send`.
unsafe impl Sync for ClientHandle {}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        let mut args = PJRT_Client_Destroy_Args::new();
        args.client = self.client;
        // SAFETY: this handle owns the client, and what uses the client keeps the handle alive.
        if let Err(error) = unsafe { call!(self.api, PJRT_Client_Destroy, args) } {
            tracing::warn!(%error, "a client was not closed");
        }
    }
}

impl ClientHandle {
    /// Creates a client with these options.
    pub(crate) fn create(
        api: &'static Api,
        options: &BTreeMap<String, NamedValue>,
        cpu_threads: Option<usize>,
    ) -> Result<Arc<ClientHandle>, PjrtError> {
        if let Some(threads) = cpu_threads {
            set_cpu_threads(threads);
        }
        let options: Vec<PJRT_NamedValue> = options.iter().map(|(name, value)| named_value(name, value)).collect();
        let mut args = PJRT_Client_Create_Args::new();
        args.create_options = options.as_ptr();
        args.num_options = options.len();
        // SAFETY: the options and the names and values they point to live until after the call; the callbacks are
        // null, which means that there is no key-value store.
        let args = unsafe { call!(api, PJRT_Client_Create, args) }?;
        let mut handle = ClientHandle { api, client: args.client, is_cpu: false };
        handle.is_cpu = handle.platform_name()? == "cpu";
        Ok(Arc::new(handle))
    }

    pub(crate) fn platform_name(&self) -> Result<String, PjrtError> {
        let mut args = PJRT_Client_PlatformName_Args::new();
        args.client = self.client;
        // SAFETY: the client is alive, and so is the text that is copied here.
        unsafe {
            let args = call!(self.api, PJRT_Client_PlatformName, args)?;
            Ok(read_text(args.platform_name, args.platform_name_size))
        }
    }

    pub(crate) fn platform_version(&self) -> Result<String, PjrtError> {
        let mut args = PJRT_Client_PlatformVersion_Args::new();
        args.client = self.client;
        // SAFETY: the client is alive, and so is the text that is copied here.
        unsafe {
            let args = call!(self.api, PJRT_Client_PlatformVersion, args)?;
            Ok(read_text(args.platform_version, args.platform_version_size))
        }
    }

    /// The devices that this process can put buffers on.
    pub(crate) fn devices(self: &Arc<ClientHandle>) -> Result<Vec<DeviceHandle>, PjrtError> {
        let mut args = PJRT_Client_AddressableDevices_Args::new();
        args.client = self.client;
        // SAFETY: the client is alive, and so is the array that is copied here.
        let devices = unsafe {
            let args = call!(self.api, PJRT_Client_AddressableDevices, args)?;
            read_array(args.addressable_devices, args.num_addressable_devices)
        };
        Ok(devices.into_iter().map(|device| DeviceHandle { client: self.clone(), device }).collect())
    }

    /// Compiles a program in MLIR's text form with an encoded `CompileOptionsProto`.
    pub(crate) fn compile(self: &Arc<ClientHandle>, mlir: &str, options: &[u8]) -> Result<ExecutableHandle, PjrtError> {
        let program = mlir_program(mlir);
        let mut args = PJRT_Client_Compile_Args::new();
        args.client = self.client;
        args.program = &program;
        args.compile_options = options.as_ptr().cast();
        args.compile_options_size = options.len();
        // SAFETY: the client is alive; program, format and options live until after the call and are only read.
        let args = unsafe { call!(self.api, PJRT_Client_Compile, args) }?;
        ExecutableHandle::new(self, args.executable)
    }

    /// Loads what [`ExecutableHandle::serialize`] returned. The bytes contain machine code that will run as it is:
    /// the caller answers for where they come from and that they are whole.
    pub(crate) fn deserialize(self: &Arc<ClientHandle>, bytes: &[u8]) -> Result<ExecutableHandle, PjrtError> {
        let mut args = PJRT_Executable_DeserializeAndLoad_Args::new();
        args.client = self.client;
        args.serialized_executable = bytes.as_ptr().cast();
        args.serialized_executable_size = bytes.len();
        // SAFETY: the client is alive and the bytes live until after the call.
        let args = unsafe { call!(self.api, PJRT_Executable_DeserializeAndLoad, args) }?;
        ExecutableHandle::new(self, args.loaded_executable)
    }
}

/// A program in MLIR's text form for the plugin, which points into `mlir`.
pub(super) fn mlir_program(mlir: &str) -> PJRT_Program {
    const FORMAT: &str = "mlir";
    let mut program = PJRT_Program::new();
    // The field is mutable because other functions write a program through it; those that compile only read.
    program.code = mlir.as_ptr().cast::<c_char>().cast_mut();
    program.code_size = mlir.len();
    program.format = FORMAT.as_ptr().cast();
    program.format_size = FORMAT.len();
    program
}

/// A named value for the plugin, which points into `name` and `value`.
pub(super) fn named_value(name: &str, value: &NamedValue) -> PJRT_NamedValue {
    let (kind, union, value_size) = match value {
        NamedValue::String(text) => {
            (named_value::STRING, PJRT_NamedValue_Value { string_value: text.as_ptr().cast() }, text.len())
        }
        NamedValue::Int64(value) => (named_value::INT64, PJRT_NamedValue_Value { int64_value: *value }, 1),
        NamedValue::Int64List(list) => {
            (named_value::INT64_LIST, PJRT_NamedValue_Value { int64_array_value: list.as_ptr() }, list.len())
        }
        NamedValue::Float(value) => (named_value::FLOAT, PJRT_NamedValue_Value { float_value: *value }, 1),
        NamedValue::Bool(value) => (named_value::BOOL, PJRT_NamedValue_Value { bool_value: *value }, 1),
    };
    PJRT_NamedValue {
        struct_size: mem::size_of::<PJRT_NamedValue>(),
        extension_start: ptr::null_mut(),
        name: name.as_ptr().cast(),
        name_size: name.len(),
        kind,
        value: union,
        value_size,
    }
}

/// A device of a client, which owns it.
#[derive(Clone)]
pub(crate) struct DeviceHandle {
    client: Arc<ClientHandle>,
    device: *mut PJRT_Device,
}

// SAFETY: PJRT devices may be used from any thread, and from several at once.
unsafe impl Send for DeviceHandle {}
// SAFETY: as for `Send`.
unsafe impl Sync for DeviceHandle {}

/// What a device's allocator says. All in bytes, but for `num_allocs`; `None` where the plugin does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Allocated now.
    pub bytes_in_use: i64,
    /// The most that was allocated at once.
    pub peak_bytes_in_use: Option<i64>,
    /// The number of allocations made.
    pub num_allocs: Option<i64>,
    /// The largest single allocation.
    pub largest_alloc_size: Option<i64>,
    /// What the allocator may use at most.
    pub bytes_limit: Option<i64>,
    /// What the allocator has taken from the device.
    pub pool_bytes: Option<i64>,
    /// The most that the allocator has taken from the device.
    pub peak_pool_bytes: Option<i64>,
}

impl DeviceHandle {
    fn description(&self) -> Result<*mut PJRT_DeviceDescription, PjrtError> {
        let mut args = PJRT_Device_GetDescription_Args::new();
        args.device = self.device;
        // SAFETY: the device lives as long as its client, which is alive.
        Ok(unsafe { call!(self.client.api, PJRT_Device_GetDescription, args) }?.device_description)
    }

    pub(crate) fn id(&self) -> Result<i32, PjrtError> {
        let mut args = PJRT_DeviceDescription_Id_Args::new();
        args.device_description = self.description()?;
        // SAFETY: the description lives as long as the device.
        Ok(unsafe { call!(self.client.api, PJRT_DeviceDescription_Id, args) }?.id)
    }

    pub(crate) fn kind(&self) -> Result<String, PjrtError> {
        let mut args = PJRT_DeviceDescription_Kind_Args::new();
        args.device_description = self.description()?;
        // SAFETY: the description lives as long as the device, and so does the text that is copied here.
        unsafe {
            let args = call!(self.client.api, PJRT_DeviceDescription_Kind, args)?;
            Ok(read_text(args.device_kind, args.device_kind_size))
        }
    }

    pub(crate) fn attributes(&self) -> Result<BTreeMap<String, NamedValue>, PjrtError> {
        let mut args = PJRT_DeviceDescription_Attributes_Args::new();
        args.device_description = self.description()?;
        // SAFETY: the description lives as long as the device, and so do the values that are copied here.
        unsafe {
            let args = call!(self.client.api, PJRT_DeviceDescription_Attributes, args)?;
            Ok(read_named_values(args.attributes, args.num_attributes))
        }
    }

    pub(crate) fn debug_string(&self) -> Result<String, PjrtError> {
        let mut args = PJRT_DeviceDescription_DebugString_Args::new();
        args.device_description = self.description()?;
        // SAFETY: the description lives as long as the device, and so does the text that is copied here.
        unsafe {
            let args = call!(self.client.api, PJRT_DeviceDescription_DebugString, args)?;
            Ok(read_text(args.debug_string, args.debug_string_size))
        }
    }

    pub(crate) fn memory_stats(&self) -> Result<MemoryStats, PjrtError> {
        let mut args = PJRT_Device_MemoryStats_Args::new();
        args.device = self.device;
        // SAFETY: the device lives as long as its client, which is alive.
        let args = unsafe { call!(self.client.api, PJRT_Device_MemoryStats, args) }?;
        Ok(MemoryStats {
            bytes_in_use: args.bytes_in_use,
            peak_bytes_in_use: args.peak_bytes_in_use_is_set.then_some(args.peak_bytes_in_use),
            num_allocs: args.num_allocs_is_set.then_some(args.num_allocs),
            largest_alloc_size: args.largest_alloc_size_is_set.then_some(args.largest_alloc_size),
            bytes_limit: args.bytes_limit_is_set.then_some(args.bytes_limit),
            pool_bytes: args.pool_bytes_is_set.then_some(args.pool_bytes),
            peak_pool_bytes: args.peak_pool_bytes_is_set.then_some(args.peak_pool_bytes),
        })
    }

    /// Copies `bytes`, dense and row-major, into a new buffer of this device. `element_size` is the size in bytes of
    /// an element of type `buffer_type`.
    pub(crate) fn buffer_from_host(
        &self,
        bytes: &[u8],
        buffer_type: c_int,
        element_size: usize,
        dims: &[i64],
    ) -> Result<BufferHandle, PjrtError> {
        let elements = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        // The plugin reads as many bytes as type and dimensions say.
        assert_eq!(elements.and_then(|n| n.checked_mul(element_size)), Some(bytes.len()), "bytes of {dims:?}");
        let mut args = PJRT_Client_BufferFromHostBuffer_Args::new();
        args.client = self.client.client;
        args.data = bytes.as_ptr().cast();
        args.kind = buffer_type;
        args.dims = dims.as_ptr();
        args.num_dims = dims.len();
        args.host_buffer_semantics = IMMUTABLE_ONLY_DURING_CALL;
        args.device = self.device;
        // SAFETY: client and device are alive; the bytes are as many as the shape takes (checked above) and, with
        // these semantics, are not read after the call; null strides and layouts mean dense and row-major.
        let args = unsafe { call!(self.client.api, PJRT_Client_BufferFromHostBuffer, args) }?;
        self.client.api.destroy_event(args.done_with_host_buffer);
        Ok(BufferHandle { client: self.client.clone(), buffer: args.buffer })
    }

    /// Makes `memory`, dense and row-major, a buffer of this device, without a copy where the device can use it where
    /// it is. `element_size` is the size in bytes of an element of type `buffer_type`.
    pub(crate) fn buffer_from_memory(
        &self,
        memory: HostMemory,
        buffer_type: c_int,
        element_size: usize,
        dims: &[i64],
    ) -> Result<BufferHandle, PjrtError> {
        let elements = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        // The plugin reads and writes as many bytes as type and dimensions say.
        assert_eq!(elements.and_then(|n| n.checked_mul(element_size)), Some(memory.len()), "bytes of {dims:?}");
        let api = self.client.api;
        let lent = Box::into_raw(Box::new(Lent { memory, api }));
        let mut args = PJRT_Client_BufferFromHostBuffer_Args::new();
        args.client = self.client.client;
        // SAFETY: the box was made just now, and nothing else refers to it yet.
        args.data = unsafe { (*lent).memory.as_mut_ptr() }.cast_const().cast();
        args.kind = buffer_type;
        args.dims = dims.as_ptr();
        args.num_dims = dims.len();
        args.host_buffer_semantics = MUTABLE_ZERO_COPY;
        args.device = self.device;
        // SAFETY: client and device are alive; the bytes are as many as the shape takes (checked above), nobody but the
        // plugin refers to them, and they stay where they are until `done_with_host_buffer` happens; null strides and
        // layouts mean dense and row-major.
        let args = match unsafe { call!(api, PJRT_Client_BufferFromHostBuffer, args) } {
            Ok(args) => args,
            Err(error) => {
                // SAFETY: the box is ours again, as the plugin has made no buffer of its memory.
                drop(unsafe { Box::from_raw(lent) });
                return Err(error);
            }
        };
        let buffer = BufferHandle { client: self.client.clone(), buffer: args.buffer };
        let mut ready = PJRT_Event_OnReady_Args::new();
        ready.event = args.done_with_host_buffer;
        ready.callback = Some(given_back);
        ready.user_arg = lent.cast();
        // SAFETY: the event was handed to us just now; the box lives until the callback, which comes once, frees it.
        // Where there is no such call it is never freed, as nobody could tell when.
        let result = unsafe { call!(api, PJRT_Event_OnReady, ready) };
        api.destroy_event(args.done_with_host_buffer);
        result.map(|_| buffer)
    }
}

/// Memory that a buffer of a plugin lies in.
struct Lent {
    memory: HostMemory,
    api: &'static Api,
}

/// Frees [`Lent`] memory, when the plugin no longer needs it.
unsafe extern "C" fn given_back(error: *mut PJRT_Error, lent: *mut c_void) {
    // SAFETY: the pointer is that of the box that was given with this callback, which is called once.
    let lent = unsafe { Box::from_raw(lent.cast::<Lent>()) };
    // The memory is no longer needed, whatever the plugin says of its transfer.
    let _ = lent.api.check("PJRT_Event_OnReady", error);
    drop(lent.memory);
}

/// A buffer on a device.
pub(crate) struct BufferHandle {
    client: Arc<ClientHandle>,
    buffer: *mut PJRT_Buffer,
}

// SAFETY: PJRT buffers may be used from any thread, and from several at once.
unsafe impl Send for BufferHandle {}
// SAFETY: as for `Send`.
unsafe impl Sync for BufferHandle {}

impl Drop for BufferHandle {
    fn drop(&mut self) {
        let mut args = PJRT_Buffer_Destroy_Args::new();
        args.buffer = self.buffer;
        // SAFETY: this handle owns the buffer. Executions under way hold their own references to its memory.
        if let Err(error) = unsafe { call!(self.client.api, PJRT_Buffer_Destroy, args) } {
            tracing::warn!(%error, "a buffer was not freed");
        }
    }
}

impl BufferHandle {
    /// The number of its element type in `PJRT_Buffer_Type`.
    pub(crate) fn element_type(&self) -> Result<c_int, PjrtError> {
        let mut args = PJRT_Buffer_ElementType_Args::new();
        args.buffer = self.buffer;
        // SAFETY: the buffer is alive.
        Ok(unsafe { call!(self.client.api, PJRT_Buffer_ElementType, args) }?.kind)
    }

    pub(crate) fn dimensions(&self) -> Result<Vec<i64>, PjrtError> {
        let mut args = PJRT_Buffer_Dimensions_Args::new();
        args.buffer = self.buffer;
        // SAFETY: the buffer is alive, and so is the array that is copied here.
        unsafe {
            let args = call!(self.client.api, PJRT_Buffer_Dimensions, args)?;
            Ok(read_array(args.dims, args.num_dims))
        }
    }

    pub(crate) fn size_on_device(&self) -> Result<usize, PjrtError> {
        let mut args = PJRT_Buffer_OnDeviceSizeInBytes_Args::new();
        args.buffer = self.buffer;
        // SAFETY: the buffer is alive.
        Ok(unsafe { call!(self.client.api, PJRT_Buffer_OnDeviceSizeInBytes, args) }?.on_device_size_in_bytes)
    }

    /// The address of its memory on the device.
    pub(crate) fn address(&self) -> Result<usize, PjrtError> {
        let mut args = PJRT_Buffer_UnsafePointer_Args::new();
        args.buffer = self.buffer;
        // SAFETY: the buffer is alive; the address is a number here, which nothing follows.
        Ok(unsafe { call!(self.client.api, PJRT_Buffer_UnsafePointer, args) }?.buffer_pointer)
    }

    /// An event that happens when the buffer's contents are there; the caller frees it.
    fn ready_event(&self) -> Result<*mut PJRT_Event, PjrtError> {
        let mut args = PJRT_Buffer_ReadyEvent_Args::new();
        args.buffer = self.buffer;
        // SAFETY: the buffer is alive.
        Ok(unsafe { call!(self.client.api, PJRT_Buffer_ReadyEvent, args) }?.event)
    }

    /// Waits until its contents are there; the error is that of what computed them.
    pub(crate) fn wait(&self) -> Result<(), PjrtError> {
        self.client.api.wait(self.ready_event()?)
    }

    /// Whether its contents, or the error of what computes them, are there.
    pub(crate) fn is_ready(&self) -> Result<bool, PjrtError> {
        let event = self.ready_event()?;
        let mut args = PJRT_Event_IsReady_Args::new();
        args.event = event;
        // SAFETY: the event was handed to us just now.
        let result = unsafe { call!(self.client.api, PJRT_Event_IsReady, args) };
        self.client.api.destroy_event(event);
        Ok(result?.is_ready)
    }

    /// The order of its dimensions in memory, the fastest first.
    pub(crate) fn minor_to_major(&self) -> Result<Vec<i64>, PjrtError> {
        let mut args = PJRT_Buffer_GetMemoryLayout_Args::new();
        args.buffer = self.buffer;
        args.layout.struct_size = mem::size_of::<PJRT_Buffer_MemoryLayout>();
        // SAFETY: the buffer is alive, and so is the array that is copied here; the kind says which field of the
        // union is set.
        unsafe {
            let args = call!(self.client.api, PJRT_Buffer_GetMemoryLayout, args)?;
            if args.layout.kind == LAYOUT_TILED && args.layout.layout.tiled.num_tiles == 0 {
                let tiled = args.layout.layout.tiled;
                return Ok(read_array(tiled.minor_to_major, tiled.minor_to_major_size));
            }
        }
        let message = "the buffer's layout has tiles or strides, which lmc does not know to read".to_owned();
        Err(PjrtError { function: "PJRT_Buffer_GetMemoryLayout", code: ErrorCode::Unimplemented, message })
    }

    /// Its contents as they lie in memory, which take `size` bytes. Waits for them.
    ///
    /// Memory of this process is read here, without the threads that the plugin hands a copy to and its bookkeeping.
    ///
    /// A host layout could be asked for, but the CPU plugin (PJRT 0.81) copies the bytes as they are whatever it is.
    pub(crate) fn to_host(&self, size: usize) -> Result<Vec<u8>, PjrtError> {
        // Before the host's memory is taken: an execution that failed may have been to make more than there is.
        self.wait()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| PjrtError {
            function: "PJRT_Buffer_ToHostBuffer",
            code: ErrorCode::ResourceExhausted,
            message: format!("the host has no {size} bytes to copy the buffer to"),
        })?;
        if self.client.is_cpu && size > 0 && self.size_on_device()? == size {
            let address = ptr::with_exposed_provenance::<u8>(self.address()?);
            // SAFETY: the plugin of the CPU computes in memory of this process; the contents are there, take `size` bytes,
            // and stay as they are as long as the buffer is not donated, which takes ownership of it.
            bytes.extend_from_slice(unsafe { slice::from_raw_parts(address, size) });
            return Ok(bytes);
        }
        bytes.resize(size, 0u8);
        let mut args = PJRT_Buffer_ToHostBuffer_Args::new();
        args.src = self.buffer;
        args.dst = bytes.as_mut_ptr().cast::<c_void>();
        args.dst_size = size;
        // SAFETY: the buffer is alive; a null layout means the buffer's own; the destination has `size` bytes, which
        // the plugin compares with its own count, and lives until the event below has happened.
        let args = unsafe { call!(self.client.api, PJRT_Buffer_ToHostBuffer, args) }?;
        self.client.api.wait(args.event)?;
        Ok(bytes)
    }

    /// Whether it belongs to `client`.
    pub(crate) fn is_of(&self, client: &Arc<ClientHandle>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }
}

/// A compiled program, loaded on its devices.
pub(crate) struct ExecutableHandle {
    // Freed in this order.
    program: ProgramHandle,
    loaded: LoadedHandle,
    num_outputs: usize,
}

/// What runs.
struct LoadedHandle {
    client: Arc<ClientHandle>,
    executable: *mut PJRT_LoadedExecutable,
}

// SAFETY: PJRT executables may be used from any thread, and from several at once.
unsafe impl Send for LoadedHandle {}
// SAFETY: as for `Send`.
unsafe impl Sync for LoadedHandle {}

impl Drop for LoadedHandle {
    fn drop(&mut self) {
        let mut args = PJRT_LoadedExecutable_Destroy_Args::new();
        args.executable = self.executable;
        // SAFETY: this handle owns the loaded executable. Executions under way hold their own references.
        if let Err(error) = unsafe { call!(self.client.api, PJRT_LoadedExecutable_Destroy, args) } {
            tracing::warn!(%error, "an executable was not freed");
        }
    }
}

impl ExecutableHandle {
    /// Takes over `loaded`, which the plugin has just returned.
    fn new(client: &Arc<ClientHandle>, loaded: *mut PJRT_LoadedExecutable) -> Result<ExecutableHandle, PjrtError> {
        let loaded = LoadedHandle { client: client.clone(), executable: loaded };
        release_freed_memory();
        let mut args = PJRT_LoadedExecutable_GetExecutable_Args::new();
        args.loaded_executable = loaded.executable;
        // SAFETY: the loaded executable is alive.
        let executable = unsafe { call!(client.api, PJRT_LoadedExecutable_GetExecutable, args) }?.executable;
        // SAFETY: the plugin has just handed out this executable, which is the caller's to free.
        let program = unsafe { ProgramHandle::from_raw(client.api, executable) };
        let num_outputs = program.num_outputs()?;
        Ok(ExecutableHandle { program, loaded, num_outputs })
    }

    /// The client it was compiled for.
    pub(crate) fn client(&self) -> &Arc<ClientHandle> {
        &self.loaded.client
    }

    /// The program without its devices, for questions about it.
    pub(crate) fn program(&self) -> &ProgramHandle {
        &self.program
    }

    /// Starts the program on its one device. `kept` are the positions of arguments that must not be donated.
    /// `location` names the call in the plugin's own messages and profiles.
    pub(crate) fn execute(
        &self,
        arguments: &[&BufferHandle],
        kept: &[i64],
        location: &str,
    ) -> Result<Vec<BufferHandle>, PjrtError> {
        assert!(arguments.iter().all(|argument| argument.is_of(self.client())), "a buffer of another client");
        let pointers: Vec<*mut PJRT_Buffer> = arguments.iter().map(|argument| argument.buffer).collect();
        let mut outputs: Vec<*mut PJRT_Buffer> = vec![ptr::null_mut(); self.num_outputs];
        let argument_lists = [pointers.as_ptr()];
        let output_lists = [outputs.as_mut_ptr()];
        let location = CString::new(location).unwrap_or_default();
        let mut options = PJRT_ExecuteOptions::new();
        options.non_donatable_input_indices = kept.as_ptr();
        options.num_non_donatable_input_indices = kept.len();
        options.call_location = location.as_ptr();
        let mut args = PJRT_LoadedExecutable_Execute_Args::new();
        args.executable = self.loaded.executable;
        args.options = &mut options;
        args.argument_lists = argument_lists.as_ptr();
        args.num_devices = 1;
        args.num_args = pointers.len();
        args.output_lists = output_lists.as_ptr();
        // SAFETY: executable and buffers are alive and of one client (checked above); the lists live until after the
        // call and have the lengths that the plugin is told, the outputs' being the program's own number of outputs;
        // the plugin checks number and shapes of the arguments, and refuses to run a program of several devices with
        // one list. No completion event is asked for: outputs carry the error of their execution.
        unsafe { call!(self.client().api, PJRT_LoadedExecutable_Execute, args) }?;
        Ok(outputs.into_iter().map(|buffer| BufferHandle { client: self.client().clone(), buffer }).collect())
    }
}
