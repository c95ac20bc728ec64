//! The declarations of XLA's FFI, those of `xla/ffi/api/c_api.h` and `xla/pjrt/extensions/ffi/ffi_extension.h` (openxla/xla)
//! as of PJRT 0.81 ([`MINOR`]): later plugins take another argument struct for the registration.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

use super::api::PJRT_Extension_Base;

/// The minor version of PJRT whose registration is declared here.
pub(super) const MINOR: c_int = 81;

/// `PJRT_Extension_Type_FFI`.
pub(super) const EXTENSION: c_int = 5;

/// `PJRT_FFI_Extension`.
#[repr(C)]
pub(super) struct Extension {
    pub(super) base: PJRT_Extension_Base,
    pub(super) type_id_register: *const c_void,
    pub(super) user_data_add: *const c_void,
    pub(super) register_handler: Option<unsafe extern "C" fn(*mut RegisterArgs) -> *mut c_void>,
}

/// `PJRT_FFI_Register_Handler_Args`.
#[repr(C)]
pub(super) struct RegisterArgs {
    pub(super) struct_size: usize,
    pub(super) target_name: *const c_char,
    pub(super) target_name_size: usize,
    pub(super) handler: *mut c_void,
    pub(super) platform_name: *const c_char,
    pub(super) platform_name_size: usize,
    pub(super) traits: u32,
}

/// `offsetof(PJRT_FFI_Register_Handler_Args, traits) + sizeof(traits)`: the size as PJRT's macros count it.
pub(super) const REGISTER_ARGS_SIZE: usize = 52;

#[repr(C)]
pub(super) struct ExtensionBase {
    pub(super) struct_size: usize,
    pub(super) kind: c_int,
    pub(super) next: *mut ExtensionBase,
}

/// `XLA_FFI_Extension_Metadata`.
pub(super) const METADATA: c_int = 1;

#[repr(C)]
pub(super) struct ApiVersion {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) major: c_int,
    pub(super) minor: c_int,
}

#[repr(C)]
pub(super) struct Metadata {
    pub(super) struct_size: usize,
    pub(super) api_version: ApiVersion,
    pub(super) traits: u32,
}

#[repr(C)]
pub(super) struct MetadataExtension {
    pub(super) base: ExtensionBase,
    pub(super) metadata: *mut Metadata,
}

/// An error of XLA's FFI, only handled by pointer.
#[repr(C)]
pub(super) struct FfiError {
    pub(super) _private: [u8; 0],
}

/// `XLA_FFI_Error_Code_INTERNAL`.
pub(super) const INTERNAL: c_int = 13;

#[repr(C)]
pub(super) struct ErrorCreateArgs {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) message: *const c_char,
    pub(super) code: c_int,
}

#[repr(C)]
pub(super) struct ErrorDestroyArgs {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) error: *mut FfiError,
}

#[repr(C)]
pub(super) struct ScheduleArgs {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) context: *mut c_void,
    pub(super) task: unsafe extern "C" fn(*mut c_void),
    pub(super) data: *mut c_void,
}

#[repr(C)]
pub(super) struct NumThreadsArgs {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) context: *mut c_void,
    pub(super) num_threads: *mut i64,
}

/// The part of `XLA_FFI_Api` up to the last function used here.
#[repr(C)]
pub(super) struct FfiApi {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) api_version: ApiVersion,
    pub(super) internal_api: *const c_void,
    pub(super) error_create: Option<unsafe extern "C" fn(*mut ErrorCreateArgs) -> *mut FfiError>,
    pub(super) error_get_message: *const c_void,
    pub(super) error_destroy: Option<unsafe extern "C" fn(*mut ErrorDestroyArgs)>,
    pub(super) handler_register: *const c_void,
    pub(super) stream_get: *const c_void,
    pub(super) type_id_register: *const c_void,
    pub(super) execution_context_get: *const c_void,
    pub(super) state_set: *const c_void,
    pub(super) state_get: *const c_void,
    pub(super) device_memory_allocate: *const c_void,
    pub(super) device_memory_free: *const c_void,
    pub(super) thread_pool_schedule: Option<unsafe extern "C" fn(*mut ScheduleArgs) -> *mut FfiError>,
    pub(super) thread_pool_num_threads: Option<unsafe extern "C" fn(*mut NumThreadsArgs) -> *mut FfiError>,
}

#[repr(C)]
pub(super) struct FfiBuffer {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) dtype: c_int,
    pub(super) data: *mut c_void,
    pub(super) rank: i64,
    pub(super) dims: *const i64,
}

/// `XLA_FFI_Args` and `XLA_FFI_Rets`, which have the same fields.
#[repr(C)]
pub(super) struct Buffers {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) size: i64,
    pub(super) kinds: *const c_int,
    pub(super) buffers: *const *const FfiBuffer,
}

#[repr(C)]
pub(super) struct ByteSpan {
    pub(super) start: *const u8,
    pub(super) len: usize,
}

#[repr(C)]
pub(super) struct Scalar {
    pub(super) dtype: c_int,
    pub(super) value: *const c_void,
}

/// `XLA_FFI_AttrType_SCALAR`.
pub(super) const SCALAR: c_int = 3;

#[repr(C)]
pub(super) struct Attributes {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) size: i64,
    pub(super) kinds: *const c_int,
    pub(super) names: *const *const ByteSpan,
    pub(super) values: *const *const c_void,
}

#[repr(C)]
pub(super) struct CallFrame {
    pub(super) struct_size: usize,
    pub(super) extension_start: *mut ExtensionBase,
    pub(super) api: *const FfiApi,
    pub(super) context: *mut c_void,
    pub(super) stage: c_int,
    pub(super) args: Buffers,
    pub(super) results: Buffers,
    pub(super) attributes: Attributes,
}

/// Values of `XLA_FFI_DataType`.
pub(super) mod dtype {
    use std::ffi::c_int;
    pub(in crate::pjrt) const PRED: c_int = 1;
    pub(in crate::pjrt) const S8: c_int = 2;
    pub(in crate::pjrt) const S32: c_int = 4;
    pub(in crate::pjrt) const S64: c_int = 5;
    pub(in crate::pjrt) const U8: c_int = 6;
    pub(in crate::pjrt) const F16: c_int = 10;
    pub(in crate::pjrt) const F32: c_int = 11;
    pub(in crate::pjrt) const F64: c_int = 12;
    pub(in crate::pjrt) const BF16: c_int = 16;
}
