//! A plugin's profiler: PJRT's extension for it, wrapped. The declarations stand in `profiler_abi`.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr;
use std::slice;

use super::api::PJRT_Extension_Base;
use super::calls::{Api, read_text};
use super::profiler_abi::*;
use crate::error::{ErrorCode, PjrtError};

/// Why a plugin's profiler cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoProfiler {
    /// There is no such extension.
    NoExtension,
    /// The extension, or its table of functions, has so many bytes, fewer than the version declared here.
    Size {
        /// What is too small.
        what: &'static str,
        /// How many bytes it has.
        bytes: usize,
        /// How many it must have.
        expected: usize,
    },
    /// A function of the table is missing.
    NoFunction,
}

/// The functions of a plugin's profiler.
#[derive(Clone, Copy)]
pub(crate) struct ProfilerTable(Table);

// SAFETY: the table is read only, and functions of a plugin may be called from any thread. Each object that they take is
// used by the thread that made it.
unsafe impl Send for ProfilerTable {}
// SAFETY: as for `Send`.
unsafe impl Sync for ProfilerTable {}

/// The number of the extension (`PJRT_Extension_Type_Profiler`).
pub(crate) const PROFILER_EXTENSION: i32 = EXTENSION;

impl ProfilerTable {
    /// Of the extensions of a plugin the table of its profiler.
    ///
    /// # Safety
    /// They are those of a loaded plugin, whose code stays loaded.
    pub(super) unsafe fn of(
        mut extensions: impl Iterator<Item = &'static PJRT_Extension_Base>,
    ) -> Result<ProfilerTable, NoProfiler> {
        let base = extensions.find(|extension| extension.kind == EXTENSION).ok_or(NoProfiler::NoExtension)?;
        let enough = |what, bytes, expected| match bytes < expected {
            true => Err(NoProfiler::Size { what, bytes, expected }),
            false => Ok(()),
        };
        enough("the extension", base.struct_size, size_of::<Extension>())?;
        // SAFETY: an extension of this kind is this struct, and it is large enough.
        let table = unsafe { (*ptr::from_ref(base).cast::<Extension>()).table };
        if table.is_null() {
            return Err(NoProfiler::NoFunction);
        }
        // SAFETY: the table begins with its size in every version.
        let bytes = unsafe { table.cast::<usize>().read() };
        enough("its table of functions", bytes, size_of::<Table>())?;
        // SAFETY: it has as many bytes.
        let table = unsafe { *table };
        let complete = table.error_destroy.is_some()
            && table.error_message.is_some()
            && table.error_get_code.is_some()
            && table.create.is_some()
            && table.destroy.is_some()
            && table.start.is_some()
            && table.stop.is_some()
            && table.collect_data.is_some();
        if complete { Ok(ProfilerTable(table)) } else { Err(NoProfiler::NoFunction) }
    }

    /// Calls a function of the table and gives the arguments back with what the plugin wrote into them.
    ///
    /// # Safety
    /// The function is one of this table, and every pointer in the arguments is valid for it.
    unsafe fn call<A>(&self, name: &'static str, function: Function<A>, mut args: A) -> Result<A, PjrtError> {
        let Some(function) = function else {
            // `of` has refused such a table.
            return Err(PjrtError { function: name, code: ErrorCode::Unimplemented, message: String::new() });
        };
        // SAFETY: the caller's.
        let error = unsafe { function(&mut args) };
        self.check(name, error).map(|()| args)
    }

    /// Turns the error that a function returned into ours, and frees it.
    fn check(&self, function: &'static str, error: *mut ProfilerError) -> Result<(), PjrtError> {
        if error.is_null() {
            return Ok(());
        }
        let mut message = ErrorMessageArgs {
            struct_size: size_of::<ErrorMessageArgs>(),
            private: ptr::null_mut(),
            error,
            message: ptr::null(),
            message_size: 0,
        };
        let mut code =
            ErrorGetCodeArgs { struct_size: size_of::<ErrorGetCodeArgs>(), private: ptr::null_mut(), error, code: 0 };
        let mut text = String::new();
        if let Some(get_message) = self.0.error_message {
            // SAFETY: `error` is an error that the plugin has just returned and that nobody has freed.
            unsafe { get_message(&mut message) };
            // SAFETY: the message lives as long as the error, and is copied here.
            text = unsafe { read_text(message.message, message.message_size) };
        }
        if let Some(get_code) = self.0.error_get_code {
            // SAFETY: as above. Its own error, which would say that `error` is no error, is ignored.
            unsafe { get_code(&mut code) };
        }
        if let Some(destroy) = self.0.error_destroy {
            let mut args =
                ErrorDestroyArgs { struct_size: size_of::<ErrorDestroyArgs>(), private: ptr::null_mut(), error };
            // SAFETY: as above; `error` is not used after this.
            unsafe { destroy(&mut args) };
        }
        Err(PjrtError { function, code: ErrorCode::from_number(code.code), message: text })
    }
}

/// A profiler of a plugin.
pub(crate) struct ProfilerHandle {
    table: &'static ProfilerTable,
    profiler: *mut Object,
    is_recording: Cell<bool>,
}

impl Drop for ProfilerHandle {
    fn drop(&mut self) {
        // A profiler that is freed while it records would leave what it has switched on behind.
        if self.is_recording.get()
            && let Err(error) = self.stop()
        {
            tracing::warn!(%error, "a profiler was not stopped");
        }
        let args = self.args();
        // SAFETY: this handle owns the profiler, and what was collected has been copied.
        if let Err(error) = unsafe { self.table.call("PLUGIN_Profiler_Destroy", self.table.0.destroy, args) } {
            tracing::warn!(%error, "a profiler was not freed");
        }
    }
}

impl ProfilerHandle {
    /// A profiler with these options, an encoded `tensorflow.ProfileOptions`.
    pub(crate) fn create(api: &'static Api, options: &[u8]) -> Result<ProfilerHandle, CreateFailure> {
        let table = api.profiler.as_ref().map_err(|none| CreateFailure::None(*none))?;
        let args = CreateArgs {
            struct_size: size_of::<CreateArgs>(),
            options: options.as_ptr().cast(),
            options_size: options.len(),
            profiler: ptr::null_mut(),
        };
        // SAFETY: the options live until after the call, which reads them only.
        let args =
            unsafe { table.call("PLUGIN_Profiler_Create", table.0.create, args) }.map_err(CreateFailure::Failed)?;
        if args.profiler.is_null() {
            let message = "the plugin returned no profiler".to_owned();
            let error = PjrtError { function: "PLUGIN_Profiler_Create", code: ErrorCode::Internal, message };
            return Err(CreateFailure::Failed(error));
        }
        Ok(ProfilerHandle { table, profiler: args.profiler, is_recording: Cell::new(false) })
    }

    fn args(&self) -> ObjectArgs {
        ObjectArgs { struct_size: size_of::<ObjectArgs>(), profiler: self.profiler }
    }

    /// Begins to record.
    pub(crate) fn start(&self) -> Result<(), PjrtError> {
        // SAFETY: the profiler is alive.
        unsafe { self.table.call("PLUGIN_Profiler_Start", self.table.0.start, self.args()) }?;
        self.is_recording.set(true);
        Ok(())
    }

    /// Ends recording.
    pub(crate) fn stop(&self) -> Result<(), PjrtError> {
        self.is_recording.set(false);
        // SAFETY: the profiler is alive.
        unsafe { self.table.call("PLUGIN_Profiler_Stop", self.table.0.stop, self.args()) }.map(|_| ())
    }

    /// What was recorded: an encoded `tensorflow.profiler.XSpace`.
    pub(crate) fn collect(&self) -> Result<Vec<u8>, PjrtError> {
        let args = CollectDataArgs {
            struct_size: size_of::<CollectDataArgs>(),
            profiler: self.profiler,
            // The plugin is asked for a buffer of its own.
            buffer: ptr::null_mut(),
            buffer_size_in_bytes: 0,
        };
        // SAFETY: the profiler is alive.
        let args = unsafe { self.table.call("PLUGIN_Profiler_CollectData", self.table.0.collect_data, args) }?;
        if args.buffer.is_null() || args.buffer_size_in_bytes == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: the buffer is the profiler's, has that many bytes and lives as long as it does; it is copied here.
        let bytes = unsafe { slice::from_raw_parts(args.buffer, args.buffer_size_in_bytes) };
        // It is one byte longer than the message (`plugin_tracer_impl.cc`).
        Ok(bytes[..bytes.len() - 1].to_vec())
    }
}

/// Why there is no [`ProfilerHandle`].
pub(crate) enum CreateFailure {
    /// The plugin has none to offer.
    None(NoProfiler),
    /// It did not make one.
    Failed(PjrtError),
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int};
    use std::sync::Mutex;

    use super::*;

    /// What the functions below were called for.
    static CALLS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    fn called(what: impl Into<String>) {
        CALLS.lock().expect("no test panicked with it").push(what.into());
    }

    static DATA: [u8; 4] = [0x12, 1, b'e', 0];
    const MESSAGE: &str = "another profile session is running";

    unsafe extern "C" fn create(args: *mut CreateArgs) -> *mut ProfilerError {
        // SAFETY: the tests' own arguments.
        let args = unsafe { &mut *args };
        assert_eq!(args.struct_size, 32);
        // SAFETY: the options have that many bytes.
        let options = unsafe { slice::from_raw_parts(args.options.cast::<u8>(), args.options_size) };
        called(format!("create {options:?}"));
        args.profiler = ptr::dangling_mut();
        ptr::null_mut()
    }

    unsafe extern "C" fn destroy(_: *mut ObjectArgs) -> *mut ProfilerError {
        called("destroy");
        ptr::null_mut()
    }

    unsafe extern "C" fn start(_: *mut ObjectArgs) -> *mut ProfilerError {
        called("start");
        ptr::null_mut()
    }

    unsafe extern "C" fn stop(_: *mut ObjectArgs) -> *mut ProfilerError {
        called("stop");
        ptr::dangling_mut()
    }

    unsafe extern "C" fn collect(args: *mut CollectDataArgs) -> *mut ProfilerError {
        // SAFETY: the tests' own arguments.
        let args = unsafe { &mut *args };
        assert!(args.buffer.is_null());
        (args.buffer, args.buffer_size_in_bytes) = (DATA.as_ptr().cast_mut(), DATA.len());
        ptr::null_mut()
    }

    unsafe extern "C" fn error_destroy(_: *mut ErrorDestroyArgs) {
        called("error freed");
    }

    unsafe extern "C" fn error_message(args: *mut ErrorMessageArgs) {
        // SAFETY: the tests' own arguments.
        let args = unsafe { &mut *args };
        (args.message, args.message_size) = (MESSAGE.as_ptr().cast::<c_char>(), MESSAGE.len());
    }

    unsafe extern "C" fn error_get_code(args: *mut ErrorGetCodeArgs) -> *mut ProfilerError {
        // SAFETY: the tests' own arguments.
        unsafe { (*args).code = 14 };
        ptr::null_mut()
    }

    const TABLE: Table = Table {
        struct_size: size_of::<Table>(),
        private: ptr::null_mut(),
        error_destroy: Some(error_destroy),
        error_message: Some(error_message),
        error_get_code: Some(error_get_code),
        create: Some(create),
        destroy: Some(destroy),
        start: Some(start),
        stop: Some(stop),
        collect_data: Some(collect),
    };

    /// An extension of these sizes.
    fn extension(kind: c_int, size: usize, table: Table) -> &'static PJRT_Extension_Base {
        let table: &'static Table = Box::leak(Box::new(table));
        let base = PJRT_Extension_Base { struct_size: size, kind, next: ptr::null_mut() };
        let whole: &'static Extension = Box::leak(Box::new(Extension { base, table }));
        // SAFETY: an extension begins with its head; the pointer is to the whole.
        unsafe { &*ptr::from_ref(whole).cast::<PJRT_Extension_Base>() }
    }

    /// What of these extensions is found.
    fn of(extensions: Vec<&'static PJRT_Extension_Base>) -> Result<ProfilerTable, NoProfiler> {
        // SAFETY: they and their code stay.
        unsafe { ProfilerTable::of(extensions.into_iter()) }
    }

    #[test]
    fn a_profiler_is_started_stopped_collected_and_freed() {
        // The sizes that plugins check.
        assert_eq!((size_of::<Extension>(), size_of::<Table>()), (32, 80));
        let table: &'static ProfilerTable =
            Box::leak(Box::new(of(vec![extension(5, 24, TABLE), extension(1, 40, TABLE)]).expect("a table")));
        let args = CreateArgs {
            struct_size: size_of::<CreateArgs>(),
            options: [7u8].as_ptr().cast(),
            options_size: 1,
            profiler: ptr::null_mut(),
        };
        // SAFETY: the function is the one above.
        let made = unsafe { table.call("PLUGIN_Profiler_Create", table.0.create, args) }.expect("made");
        let handle = ProfilerHandle { table, profiler: made.profiler, is_recording: Cell::new(false) };
        handle.start().expect("started");
        let error = handle.stop().expect_err("refused");
        assert_eq!(error.to_string(), format!("PLUGIN_Profiler_Stop: unavailable: {MESSAGE}"));
        // Without the byte too many.
        assert_eq!(handle.collect().expect("collected"), DATA[..3]);
        drop(handle);
        let calls = std::mem::take(&mut *CALLS.lock().expect("no test panicked with it"));
        assert_eq!(calls, ["create [7]", "start", "stop", "error freed", "destroy"]);
        // One that records is stopped before it is freed.
        let handle = ProfilerHandle { table, profiler: made.profiler, is_recording: Cell::new(false) };
        handle.start().expect("started");
        drop(handle);
        let calls = std::mem::take(&mut *CALLS.lock().expect("no test panicked with it"));
        assert_eq!(calls, ["start", "stop", "error freed", "destroy"]);
    }

    #[test]
    fn other_versions_are_refused() {
        let refused = |extensions| of(extensions).err();
        assert_eq!(refused(vec![extension(5, 40, TABLE)]), Some(NoProfiler::NoExtension));
        let small = NoProfiler::Size { what: "the extension", bytes: 24, expected: 32 };
        assert_eq!(refused(vec![extension(1, 24, TABLE)]), Some(small));
        let short = Table { struct_size: 72, ..TABLE };
        let small = NoProfiler::Size { what: "its table of functions", bytes: 72, expected: 80 };
        assert_eq!(refused(vec![extension(1, 40, short)]), Some(small));
        let without = Table { collect_data: None, ..TABLE };
        assert_eq!(refused(vec![extension(1, 40, without)]), Some(NoProfiler::NoFunction));
    }
}
