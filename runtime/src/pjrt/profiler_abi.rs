//! The declarations of PJRT's profiler extension, those of `xla/pjrt/c/pjrt_c_api_profiler_extension.h` and
//! `xla/backends/profiler/plugin/profiler_c_api.h` (openxla/xla). Later versions of both structs have more behind what is
//! declared here; each begins with its size. The argument structs have had these fields since there are any.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

use super::api::PJRT_Extension_Base;

/// `PJRT_Extension_Type_Profiler`.
pub(super) const EXTENSION: c_int = 1;

/// `PJRT_Profiler_Extension`, up to the table.
#[repr(C)]
pub(super) struct Extension {
    pub(super) base: PJRT_Extension_Base,
    pub(super) table: *const Table,
}

/// A profiler of the plugin, only handled by pointer.
#[repr(C)]
pub(super) struct Object {
    _private: [u8; 0],
}

/// An error of its own kind, only handled by pointer.
#[repr(C)]
pub(super) struct ProfilerError {
    _private: [u8; 0],
}

/// A function that takes arguments of this type.
pub(super) type Function<A> = Option<unsafe extern "C" fn(*mut A) -> *mut ProfilerError>;

/// `PLUGIN_Profiler_Api`, up to the last function used here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) struct_size: usize,
    pub(super) private: *mut c_void,
    pub(super) error_destroy: Option<unsafe extern "C" fn(*mut ErrorDestroyArgs)>,
    pub(super) error_message: Option<unsafe extern "C" fn(*mut ErrorMessageArgs)>,
    pub(super) error_get_code: Function<ErrorGetCodeArgs>,
    pub(super) create: Function<CreateArgs>,
    pub(super) destroy: Function<ObjectArgs>,
    pub(super) start: Function<ObjectArgs>,
    pub(super) stop: Function<ObjectArgs>,
    pub(super) collect_data: Function<CollectDataArgs>,
}

/// `PLUGIN_Profiler_Error_Destroy_Args`.
#[repr(C)]
pub(super) struct ErrorDestroyArgs {
    pub(super) struct_size: usize,
    pub(super) private: *mut c_void,
    pub(super) error: *mut ProfilerError,
}

/// `PLUGIN_Profiler_Error_Message_Args`.
#[repr(C)]
pub(super) struct ErrorMessageArgs {
    pub(super) struct_size: usize,
    pub(super) private: *mut c_void,
    pub(super) error: *const ProfilerError,
    pub(super) message: *const c_char,
    pub(super) message_size: usize,
}

/// `PLUGIN_Profiler_Error_GetCode_Args`.
#[repr(C)]
pub(super) struct ErrorGetCodeArgs {
    pub(super) struct_size: usize,
    pub(super) private: *mut c_void,
    pub(super) error: *const ProfilerError,
    pub(super) code: c_int,
}

/// `PLUGIN_Profiler_Create_Args`.
#[repr(C)]
pub(super) struct CreateArgs {
    pub(super) struct_size: usize,
    pub(super) options: *const c_char,
    pub(super) options_size: usize,
    pub(super) profiler: *mut Object,
}

/// `PLUGIN_Profiler_Start_Args`, `.._Stop_Args` and `.._Destroy_Args`, which have the same fields.
#[repr(C)]
pub(super) struct ObjectArgs {
    pub(super) struct_size: usize,
    pub(super) profiler: *mut Object,
}

/// `PLUGIN_Profiler_CollectData_Args`.
#[repr(C)]
pub(super) struct CollectDataArgs {
    pub(super) struct_size: usize,
    pub(super) profiler: *mut Object,
    pub(super) buffer: *mut u8,
    pub(super) buffer_size_in_bytes: usize,
}
