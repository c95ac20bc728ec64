//! The PJRT C API as Rust declarations: argument structs, constants and the function table.
//!
//! Names, order and types of fields are those of `xla/pjrt/c/pjrt_c_api.h` (openxla/xla), version 0.81, with the
//! fields that its change log adds up to 0.105 to the structs declared here. A plugin refuses an argument struct that
//! is smaller than its own and accepts a larger one, so every argument struct ends in zeroed room ([`ROOM`]) for fields
//! that later versions append: to a plugin that knows such a field it has the value "not set", a plugin that does not
//! never looks at it. Structs that a plugin embeds in others or lays out in arrays have their exact size.

#![allow(unsafe_code)]
#![allow(non_camel_case_types, non_snake_case, reason = "the names are those of the C header")]

use std::ffi::{c_char, c_int, c_void};
use std::mem;

/// The major version of the interface declared here; another one is incompatible.
pub(crate) const MAJOR: c_int = 0;

/// The oldest minor version accepted: the first whose compiled memory statistics have a peak. (The table itself has
/// had its present order since 0.57.)
pub(crate) const MIN_MINOR: c_int = 72;

/// Words of zeroed room after the last declared field of an argument struct.
const ROOM: usize = 8;

/// An object of the plugin, only ever handled by pointer.
macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
        }
    )*};
}

opaque! {
    PJRT_Error PJRT_Event PJRT_Client PJRT_Device PJRT_DeviceDescription PJRT_Memory PJRT_Executable
    PJRT_LoadedExecutable PJRT_Buffer PJRT_SerializedExecutable PJRT_ExecuteContext PJRT_MultiSlice_Config
    PJRT_TopologyDescription
}

/// Argument structs: `struct_size`, `extension_start`, the fields, and room for fields of later versions.
macro_rules! args {
    ($($name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        #[repr(C)]
        pub(crate) struct $name {
            pub(crate) struct_size: usize,
            pub(crate) extension_start: *mut PJRT_Extension_Base,
            $(pub(crate) $field: $ty,)*
            room: [usize; ROOM],
        }

        impl $name {
            /// All zero, except for the size.
            pub(crate) fn new() -> $name {
                // SAFETY: every field is an integer, a bool, a raw pointer, an optional function pointer, or a
                // struct of these; for all of them zero is a valid value.
                let mut args: $name = unsafe { mem::zeroed() };
                args.struct_size = mem::size_of::<$name>();
                args
            }
        }
    )*};
}

/// The head of every extension in the chain at `PJRT_Api.extension_start`.
#[repr(C)]
pub(crate) struct PJRT_Extension_Base {
    pub(crate) struct_size: usize,
    pub(crate) kind: c_int,
    pub(crate) next: *mut PJRT_Extension_Base,
}

/// The version a plugin was built with.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PJRT_Api_Version {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) major_version: c_int,
    pub(crate) minor_version: c_int,
}

/// A key and a value; arrays of these are read with a stride of exactly this size.
#[repr(C)]
pub(crate) struct PJRT_NamedValue {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) name: *const c_char,
    pub(crate) name_size: usize,
    pub(crate) kind: c_int,
    pub(crate) value: PJRT_NamedValue_Value,
    pub(crate) value_size: usize,
}

/// The value of a [`PJRT_NamedValue`], told apart by its `kind`.
#[repr(C)]
pub(crate) union PJRT_NamedValue_Value {
    pub(crate) string_value: *const c_char,
    pub(crate) int64_value: i64,
    pub(crate) int64_array_value: *const i64,
    pub(crate) float_value: f32,
    pub(crate) bool_value: bool,
}

/// Values of `PJRT_NamedValue.kind`.
pub(crate) mod named_value {
    use std::ffi::c_int;
    pub(crate) const STRING: c_int = 0;
    pub(crate) const INT64: c_int = 1;
    pub(crate) const INT64_LIST: c_int = 2;
    pub(crate) const FLOAT: c_int = 3;
    pub(crate) const BOOL: c_int = 4;
}

/// Values of `PJRT_Buffer_Type` that lmc has an element type for.
pub(crate) mod buffer_type {
    use std::ffi::c_int;
    pub(crate) const PRED: c_int = 1;
    pub(crate) const S8: c_int = 2;
    pub(crate) const S16: c_int = 3;
    pub(crate) const S32: c_int = 4;
    pub(crate) const S64: c_int = 5;
    pub(crate) const U8: c_int = 6;
    pub(crate) const U16: c_int = 7;
    pub(crate) const U32: c_int = 8;
    pub(crate) const U64: c_int = 9;
    pub(crate) const F16: c_int = 10;
    pub(crate) const F32: c_int = 11;
    pub(crate) const F64: c_int = 12;
    pub(crate) const BF16: c_int = 13;
}

/// `PJRT_HostBufferSemantics_kImmutableOnlyDuringCall`: the plugin has copied the host's bytes when the call returns.
pub(crate) const IMMUTABLE_ONLY_DURING_CALL: c_int = 0;

/// `PJRT_HostBufferSemantics_kMutableZeroCopy`: the plugin may take the host's memory as the buffer's own until
/// `done_with_host_buffer` happens, and write to it. It copies where it cannot.
pub(crate) const MUTABLE_ZERO_COPY: c_int = 3;

/// `PJRT_Buffer_MemoryLayout_Type_Tiled`.
pub(crate) const LAYOUT_TILED: c_int = 0;

/// The order of dimensions in memory, and tiles.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PJRT_Buffer_MemoryLayout_Tiled {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) minor_to_major: *const i64,
    pub(crate) minor_to_major_size: usize,
    pub(crate) tile_dims: *const i64,
    pub(crate) tile_dim_sizes: *const usize,
    pub(crate) num_tiles: usize,
}

/// The distance in bytes between neighbours in every dimension.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PJRT_Buffer_MemoryLayout_Strides {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) byte_strides: *const i64,
    pub(crate) num_byte_strides: usize,
}

/// Either description of a layout, told apart by `PJRT_Buffer_MemoryLayout.kind`.
#[repr(C)]
pub(crate) union PJRT_Buffer_MemoryLayout_Either {
    pub(crate) tiled: PJRT_Buffer_MemoryLayout_Tiled,
    pub(crate) strides: PJRT_Buffer_MemoryLayout_Strides,
}

/// How the elements of a buffer lie in memory.
#[repr(C)]
pub(crate) struct PJRT_Buffer_MemoryLayout {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) layout: PJRT_Buffer_MemoryLayout_Either,
    pub(crate) kind: c_int,
}

args! {
    PJRT_Error_Destroy_Args { error: *mut PJRT_Error, }
    PJRT_Error_Message_Args { error: *const PJRT_Error, message: *const c_char, message_size: usize, }
    PJRT_Error_GetCode_Args { error: *const PJRT_Error, code: c_int, }

    PJRT_Plugin_Initialize_Args {}
    PJRT_Plugin_Attributes_Args { attributes: *const PJRT_NamedValue, num_attributes: usize, }

    PJRT_Event_Destroy_Args { event: *mut PJRT_Event, }
    PJRT_Event_IsReady_Args { event: *mut PJRT_Event, is_ready: bool, }
    PJRT_Event_Await_Args { event: *mut PJRT_Event, }
    PJRT_Event_OnReady_Args {
        event: *mut PJRT_Event,
        callback: Option<unsafe extern "C" fn(*mut PJRT_Error, *mut c_void)>,
        user_arg: *mut c_void,
    }

    PJRT_Client_Create_Args {
        create_options: *const PJRT_NamedValue,
        num_options: usize,
        kv_get_callback: *mut c_void,
        kv_get_user_arg: *mut c_void,
        kv_put_callback: *mut c_void,
        kv_put_user_arg: *mut c_void,
        client: *mut PJRT_Client,
        kv_try_get_callback: *mut c_void,
        kv_try_get_user_arg: *mut c_void,
    }
    PJRT_Client_Destroy_Args { client: *mut PJRT_Client, }
    PJRT_Client_PlatformName_Args {
        client: *mut PJRT_Client,
        platform_name: *const c_char,
        platform_name_size: usize,
    }
    PJRT_Client_PlatformVersion_Args {
        client: *mut PJRT_Client,
        platform_version: *const c_char,
        platform_version_size: usize,
    }
    PJRT_Client_AddressableDevices_Args {
        client: *mut PJRT_Client,
        addressable_devices: *const *mut PJRT_Device,
        num_addressable_devices: usize,
    }
    PJRT_Program { code: *mut c_char, code_size: usize, format: *const c_char, format_size: usize, }
    PJRT_Client_Compile_Args {
        client: *mut PJRT_Client,
        program: *const PJRT_Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        executable: *mut PJRT_LoadedExecutable,
    }
    PJRT_Client_BufferFromHostBuffer_Args {
        client: *mut PJRT_Client,
        data: *const c_void,
        kind: c_int,
        dims: *const i64,
        num_dims: usize,
        byte_strides: *const i64,
        num_byte_strides: usize,
        host_buffer_semantics: c_int,
        device: *mut PJRT_Device,
        memory: *mut PJRT_Memory,
        device_layout: *mut PJRT_Buffer_MemoryLayout,
        done_with_host_buffer: *mut PJRT_Event,
        buffer: *mut PJRT_Buffer,
    }

    PJRT_Device_GetDescription_Args { device: *mut PJRT_Device, device_description: *mut PJRT_DeviceDescription, }
    PJRT_DeviceDescription_Id_Args { device_description: *mut PJRT_DeviceDescription, id: c_int, }
    PJRT_DeviceDescription_Kind_Args {
        device_description: *mut PJRT_DeviceDescription,
        device_kind: *const c_char,
        device_kind_size: usize,
    }
    PJRT_DeviceDescription_Attributes_Args {
        device_description: *mut PJRT_DeviceDescription,
        num_attributes: usize,
        attributes: *const PJRT_NamedValue,
    }
    PJRT_DeviceDescription_DebugString_Args {
        device_description: *mut PJRT_DeviceDescription,
        debug_string: *const c_char,
        debug_string_size: usize,
    }
    PJRT_Device_MemoryStats_Args {
        device: *mut PJRT_Device,
        bytes_in_use: i64,
        peak_bytes_in_use: i64,
        peak_bytes_in_use_is_set: bool,
        num_allocs: i64,
        num_allocs_is_set: bool,
        largest_alloc_size: i64,
        largest_alloc_size_is_set: bool,
        bytes_limit: i64,
        bytes_limit_is_set: bool,
        bytes_reserved: i64,
        bytes_reserved_is_set: bool,
        peak_bytes_reserved: i64,
        peak_bytes_reserved_is_set: bool,
        bytes_reservable_limit: i64,
        bytes_reservable_limit_is_set: bool,
        largest_free_block_bytes: i64,
        largest_free_block_bytes_is_set: bool,
        pool_bytes: i64,
        pool_bytes_is_set: bool,
        peak_pool_bytes: i64,
        peak_pool_bytes_is_set: bool,
    }

    PJRT_Executable_Destroy_Args { executable: *mut PJRT_Executable, }
    PJRT_LoadedExecutable_Destroy_Args { executable: *mut PJRT_LoadedExecutable, }
    PJRT_LoadedExecutable_GetExecutable_Args {
        loaded_executable: *mut PJRT_LoadedExecutable,
        executable: *mut PJRT_Executable,
    }
    PJRT_Executable_NumOutputs_Args { executable: *mut PJRT_Executable, num_outputs: usize, }
    PJRT_Executable_Fingerprint_Args {
        executable: *mut PJRT_Executable,
        executable_fingerprint: *const c_char,
        executable_fingerprint_size: usize,
    }
    PJRT_Executable_GetCostAnalysis_Args {
        executable: *mut PJRT_Executable,
        num_properties: usize,
        properties: *const PJRT_NamedValue,
    }
    PJRT_Executable_GetCompiledMemoryStats_Args {
        executable: *mut PJRT_Executable,
        generated_code_size_in_bytes: i64,
        argument_size_in_bytes: i64,
        output_size_in_bytes: i64,
        alias_size_in_bytes: i64,
        temp_size_in_bytes: i64,
        host_generated_code_size_in_bytes: i64,
        host_argument_size_in_bytes: i64,
        host_output_size_in_bytes: i64,
        host_alias_size_in_bytes: i64,
        host_temp_size_in_bytes: i64,
        peak_memory_in_bytes: i64,
    }
    PJRT_Executable_OutputElementTypes_Args {
        executable: *mut PJRT_Executable,
        output_types: *mut c_int,
        num_output_types: usize,
    }
    PJRT_Executable_OutputDimensions_Args {
        executable: *mut PJRT_Executable,
        num_outputs: usize,
        dims: *const i64,
        dim_sizes: *const usize,
    }
    PJRT_Executable_Serialize_Args {
        executable: *const PJRT_Executable,
        serialized_bytes: *const c_char,
        serialized_bytes_size: usize,
        serialized_executable: *mut PJRT_SerializedExecutable,
        serialized_executable_deleter: Option<unsafe extern "C" fn(*mut PJRT_SerializedExecutable)>,
    }
    PJRT_Executable_DeserializeAndLoad_Args {
        client: *mut PJRT_Client,
        serialized_executable: *const c_char,
        serialized_executable_size: usize,
        loaded_executable: *mut PJRT_LoadedExecutable,
        overridden_serialized_compile_options: *const c_char,
        overridden_serialized_compile_options_size: usize,
    }
    PJRT_ExecuteOptions {
        send_callbacks: *mut c_void,
        recv_callbacks: *mut c_void,
        num_send_ops: usize,
        num_recv_ops: usize,
        launch_id: c_int,
        non_donatable_input_indices: *const i64,
        num_non_donatable_input_indices: usize,
        context: *mut PJRT_ExecuteContext,
        call_location: *const c_char,
        num_tasks: usize,
        task_ids: *mut c_int,
        incarnation_ids: *mut i64,
        multi_slice_config: *mut PJRT_MultiSlice_Config,
    }
    PJRT_LoadedExecutable_Execute_Args {
        executable: *mut PJRT_LoadedExecutable,
        options: *mut PJRT_ExecuteOptions,
        argument_lists: *const *const *mut PJRT_Buffer,
        num_devices: usize,
        num_args: usize,
        output_lists: *const *mut *mut PJRT_Buffer,
        device_complete_events: *mut *mut PJRT_Event,
        execute_device: *mut PJRT_Device,
    }

    PJRT_Executable_OptimizedProgram_Args { executable: *mut PJRT_Executable, program: *mut PJRT_Program, }

    PJRT_TopologyDescription_Create_Args {
        topology_name: *const c_char,
        topology_name_size: usize,
        create_options: *const PJRT_NamedValue,
        num_options: usize,
        topology: *mut PJRT_TopologyDescription,
    }
    PJRT_TopologyDescription_Destroy_Args { topology: *mut PJRT_TopologyDescription, }
    PJRT_Compile_Args {
        topology: *const PJRT_TopologyDescription,
        program: *const PJRT_Program,
        compile_options: *const c_char,
        compile_options_size: usize,
        client: *mut PJRT_Client,
        executable: *mut PJRT_Executable,
    }

    PJRT_Buffer_Destroy_Args { buffer: *mut PJRT_Buffer, }
    PJRT_Buffer_ElementType_Args { buffer: *mut PJRT_Buffer, kind: c_int, }
    PJRT_Buffer_Dimensions_Args { buffer: *mut PJRT_Buffer, dims: *const i64, num_dims: usize, }
    PJRT_Buffer_OnDeviceSizeInBytes_Args { buffer: *mut PJRT_Buffer, on_device_size_in_bytes: usize, }
    PJRT_Buffer_GetMemoryLayout_Args { buffer: *mut PJRT_Buffer, layout: PJRT_Buffer_MemoryLayout, }
    PJRT_Buffer_ToHostBuffer_Args {
        src: *mut PJRT_Buffer,
        host_layout: *mut PJRT_Buffer_MemoryLayout,
        dst: *mut c_void,
        dst_size: usize,
        event: *mut PJRT_Event,
    }
    PJRT_Buffer_ReadyEvent_Args { buffer: *mut PJRT_Buffer, event: *mut PJRT_Event, }
    PJRT_Buffer_UnsafePointer_Args { buffer: *mut PJRT_Buffer, buffer_pointer: usize, }
}

/// A function of the table that returns an error, or null.
pub(crate) type Call<Args> = Option<unsafe extern "C" fn(*mut Args) -> *mut PJRT_Error>;

/// A function of the table that returns nothing.
pub(crate) type Infallible<Args> = Option<unsafe extern "C" fn(*mut Args)>;

/// A function of the table that lmc does not call.
pub(crate) type Unused = Option<unsafe extern "C" fn()>;

/// The type of the one symbol that a plugin exports.
pub(crate) type GetPjrtApi = unsafe extern "C" fn() -> *const PJRT_Api;

/// The function table. Later versions append to it; a table that a plugin hands out may also be shorter than this.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PJRT_Api {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut PJRT_Extension_Base,
    pub(crate) pjrt_api_version: PJRT_Api_Version,
    pub(crate) PJRT_Error_Destroy: Infallible<PJRT_Error_Destroy_Args>,
    pub(crate) PJRT_Error_Message: Infallible<PJRT_Error_Message_Args>,
    pub(crate) PJRT_Error_GetCode: Call<PJRT_Error_GetCode_Args>,
    pub(crate) PJRT_Plugin_Initialize: Call<PJRT_Plugin_Initialize_Args>,
    pub(crate) PJRT_Plugin_Attributes: Call<PJRT_Plugin_Attributes_Args>,
    pub(crate) PJRT_Event_Destroy: Call<PJRT_Event_Destroy_Args>,
    pub(crate) PJRT_Event_IsReady: Call<PJRT_Event_IsReady_Args>,
    pub(crate) PJRT_Event_Error: Unused,
    pub(crate) PJRT_Event_Await: Call<PJRT_Event_Await_Args>,
    pub(crate) PJRT_Event_OnReady: Call<PJRT_Event_OnReady_Args>,
    pub(crate) PJRT_Client_Create: Call<PJRT_Client_Create_Args>,
    pub(crate) PJRT_Client_Destroy: Call<PJRT_Client_Destroy_Args>,
    pub(crate) PJRT_Client_PlatformName: Call<PJRT_Client_PlatformName_Args>,
    pub(crate) PJRT_Client_ProcessIndex: Unused,
    pub(crate) PJRT_Client_PlatformVersion: Call<PJRT_Client_PlatformVersion_Args>,
    pub(crate) PJRT_Client_Devices: Unused,
    pub(crate) PJRT_Client_AddressableDevices: Call<PJRT_Client_AddressableDevices_Args>,
    pub(crate) PJRT_Client_LookupDevice: Unused,
    pub(crate) PJRT_Client_LookupAddressableDevice: Unused,
    pub(crate) PJRT_Client_AddressableMemories: Unused,
    pub(crate) PJRT_Client_Compile: Call<PJRT_Client_Compile_Args>,
    pub(crate) PJRT_Client_DefaultDeviceAssignment: Unused,
    pub(crate) PJRT_Client_BufferFromHostBuffer: Call<PJRT_Client_BufferFromHostBuffer_Args>,
    pub(crate) PJRT_DeviceDescription_Id: Call<PJRT_DeviceDescription_Id_Args>,
    pub(crate) PJRT_DeviceDescription_ProcessIndex: Unused,
    pub(crate) PJRT_DeviceDescription_Attributes: Call<PJRT_DeviceDescription_Attributes_Args>,
    pub(crate) PJRT_DeviceDescription_Kind: Call<PJRT_DeviceDescription_Kind_Args>,
    pub(crate) PJRT_DeviceDescription_DebugString: Call<PJRT_DeviceDescription_DebugString_Args>,
    pub(crate) PJRT_DeviceDescription_ToString: Unused,
    pub(crate) PJRT_Device_GetDescription: Call<PJRT_Device_GetDescription_Args>,
    pub(crate) PJRT_Device_IsAddressable: Unused,
    pub(crate) PJRT_Device_LocalHardwareId: Unused,
    pub(crate) PJRT_Device_AddressableMemories: Unused,
    pub(crate) PJRT_Device_DefaultMemory: Unused,
    pub(crate) PJRT_Device_MemoryStats: Call<PJRT_Device_MemoryStats_Args>,
    pub(crate) PJRT_Memory_Id: Unused,
    pub(crate) PJRT_Memory_Kind: Unused,
    pub(crate) PJRT_Memory_DebugString: Unused,
    pub(crate) PJRT_Memory_ToString: Unused,
    pub(crate) PJRT_Memory_AddressableByDevices: Unused,
    pub(crate) PJRT_Executable_Destroy: Call<PJRT_Executable_Destroy_Args>,
    pub(crate) PJRT_Executable_Name: Unused,
    pub(crate) PJRT_Executable_NumReplicas: Unused,
    pub(crate) PJRT_Executable_NumPartitions: Unused,
    pub(crate) PJRT_Executable_NumOutputs: Call<PJRT_Executable_NumOutputs_Args>,
    pub(crate) PJRT_Executable_SizeOfGeneratedCodeInBytes: Unused,
    pub(crate) PJRT_Executable_GetCostAnalysis: Call<PJRT_Executable_GetCostAnalysis_Args>,
    pub(crate) PJRT_Executable_OutputMemoryKinds: Unused,
    pub(crate) PJRT_Executable_OptimizedProgram: Call<PJRT_Executable_OptimizedProgram_Args>,
    pub(crate) PJRT_Executable_Serialize: Call<PJRT_Executable_Serialize_Args>,
    pub(crate) PJRT_LoadedExecutable_Destroy: Call<PJRT_LoadedExecutable_Destroy_Args>,
    pub(crate) PJRT_LoadedExecutable_GetExecutable: Call<PJRT_LoadedExecutable_GetExecutable_Args>,
    pub(crate) PJRT_LoadedExecutable_AddressableDevices: Unused,
    pub(crate) PJRT_LoadedExecutable_Delete: Unused,
    pub(crate) PJRT_LoadedExecutable_IsDeleted: Unused,
    pub(crate) PJRT_LoadedExecutable_Execute: Call<PJRT_LoadedExecutable_Execute_Args>,
    pub(crate) PJRT_Executable_DeserializeAndLoad: Call<PJRT_Executable_DeserializeAndLoad_Args>,
    pub(crate) PJRT_LoadedExecutable_Fingerprint: Unused,
    pub(crate) PJRT_Buffer_Destroy: Call<PJRT_Buffer_Destroy_Args>,
    pub(crate) PJRT_Buffer_ElementType: Call<PJRT_Buffer_ElementType_Args>,
    pub(crate) PJRT_Buffer_Dimensions: Call<PJRT_Buffer_Dimensions_Args>,
    pub(crate) PJRT_Buffer_UnpaddedDimensions: Unused,
    pub(crate) PJRT_Buffer_DynamicDimensionIndices: Unused,
    pub(crate) PJRT_Buffer_GetMemoryLayout: Call<PJRT_Buffer_GetMemoryLayout_Args>,
    pub(crate) PJRT_Buffer_OnDeviceSizeInBytes: Call<PJRT_Buffer_OnDeviceSizeInBytes_Args>,
    pub(crate) PJRT_Buffer_Device: Unused,
    pub(crate) PJRT_Buffer_Memory: Unused,
    pub(crate) PJRT_Buffer_Delete: Unused,
    pub(crate) PJRT_Buffer_IsDeleted: Unused,
    pub(crate) PJRT_Buffer_CopyToDevice: Unused,
    pub(crate) PJRT_Buffer_ToHostBuffer: Call<PJRT_Buffer_ToHostBuffer_Args>,
    pub(crate) PJRT_Buffer_IsOnCpu: Unused,
    pub(crate) PJRT_Buffer_ReadyEvent: Call<PJRT_Buffer_ReadyEvent_Args>,
    pub(crate) PJRT_Buffer_UnsafePointer: Call<PJRT_Buffer_UnsafePointer_Args>,
    pub(crate) PJRT_Buffer_IncreaseExternalReferenceCount: Unused,
    pub(crate) PJRT_Buffer_DecreaseExternalReferenceCount: Unused,
    pub(crate) PJRT_Buffer_OpaqueDeviceMemoryDataPointer: Unused,
    pub(crate) PJRT_CopyToDeviceStream_Destroy: Unused,
    pub(crate) PJRT_CopyToDeviceStream_AddChunk: Unused,
    pub(crate) PJRT_CopyToDeviceStream_TotalBytes: Unused,
    pub(crate) PJRT_CopyToDeviceStream_GranuleSize: Unused,
    pub(crate) PJRT_CopyToDeviceStream_CurrentBytes: Unused,
    pub(crate) PJRT_TopologyDescription_Create: Call<PJRT_TopologyDescription_Create_Args>,
    pub(crate) PJRT_TopologyDescription_Destroy: Call<PJRT_TopologyDescription_Destroy_Args>,
    pub(crate) PJRT_TopologyDescription_PlatformName: Unused,
    pub(crate) PJRT_TopologyDescription_PlatformVersion: Unused,
    pub(crate) PJRT_TopologyDescription_GetDeviceDescriptions: Unused,
    pub(crate) PJRT_TopologyDescription_Serialize: Unused,
    pub(crate) PJRT_TopologyDescription_Attributes: Unused,
    pub(crate) PJRT_Compile: Call<PJRT_Compile_Args>,
    pub(crate) PJRT_Executable_OutputElementTypes: Call<PJRT_Executable_OutputElementTypes_Args>,
    pub(crate) PJRT_Executable_OutputDimensions: Call<PJRT_Executable_OutputDimensions_Args>,
    pub(crate) PJRT_Buffer_CopyToMemory: Unused,
    pub(crate) PJRT_Client_CreateViewOfDeviceBuffer: Unused,
    pub(crate) PJRT_Executable_Fingerprint: Call<PJRT_Executable_Fingerprint_Args>,
    pub(crate) PJRT_Client_TopologyDescription: Unused,
    pub(crate) PJRT_Executable_GetCompiledMemoryStats: Call<PJRT_Executable_GetCompiledMemoryStats_Args>,
    pub(crate) PJRT_Memory_Kind_Id: Unused,
    pub(crate) PJRT_ExecuteContext_Create: Unused,
    pub(crate) PJRT_ExecuteContext_Destroy: Unused,
    pub(crate) PJRT_Buffer_CopyRawToHost: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_Destroy: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_TransferData: Unused,
    pub(crate) PJRT_Client_CreateBuffersForAsyncHostToDevice: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_Device: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_BufferCount: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_BufferSize: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_SetBufferError: Unused,
    pub(crate) PJRT_AsyncHostToDeviceTransferManager_AddMetadata: Unused,
    pub(crate) PJRT_Client_DmaMap: Unused,
    pub(crate) PJRT_Client_DmaUnmap: Unused,
    pub(crate) PJRT_Client_CreateUninitializedBuffer: Unused,
    pub(crate) PJRT_Client_UpdateGlobalProcessInfo: Unused,
    pub(crate) PJRT_TopologyDescription_Deserialize: Unused,
    pub(crate) PJRT_Client_CreateAliasBuffer: Unused,
    pub(crate) PJRT_Client_FulfillAliasBuffer: Unused,
    pub(crate) PJRT_LoadedExecutable_GetDeviceAssignment: Unused,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes as a C compiler gives them for the header of version 0.81, on a machine with 64-bit pointers.
    #[test]
    fn structs_are_as_large_as_in_c() {
        // Without the room behind the fields. `multi_slice_config` is newer than 0.81.
        let with_room = [
            ("PJRT_Error_Destroy_Args", mem::offset_of!(PJRT_Error_Destroy_Args, room), 24),
            ("PJRT_Error_Message_Args", mem::offset_of!(PJRT_Error_Message_Args, room), 40),
            ("PJRT_Error_GetCode_Args", mem::offset_of!(PJRT_Error_GetCode_Args, room), 32),
            ("PJRT_Plugin_Initialize_Args", mem::offset_of!(PJRT_Plugin_Initialize_Args, room), 16),
            ("PJRT_Plugin_Attributes_Args", mem::offset_of!(PJRT_Plugin_Attributes_Args, room), 32),
            ("PJRT_Event_Destroy_Args", mem::offset_of!(PJRT_Event_Destroy_Args, room), 24),
            ("PJRT_Event_IsReady_Args", mem::offset_of!(PJRT_Event_IsReady_Args, room), 32),
            ("PJRT_Event_Await_Args", mem::offset_of!(PJRT_Event_Await_Args, room), 24),
            ("PJRT_Event_OnReady_Args", mem::offset_of!(PJRT_Event_OnReady_Args, room), 40),
            ("PJRT_Client_Create_Args", mem::offset_of!(PJRT_Client_Create_Args, room), 88),
            ("PJRT_Client_Destroy_Args", mem::offset_of!(PJRT_Client_Destroy_Args, room), 24),
            ("PJRT_Client_PlatformName_Args", mem::offset_of!(PJRT_Client_PlatformName_Args, room), 40),
            ("PJRT_Client_PlatformVersion_Args", mem::offset_of!(PJRT_Client_PlatformVersion_Args, room), 40),
            ("PJRT_Client_AddressableDevices_Args", mem::offset_of!(PJRT_Client_AddressableDevices_Args, room), 40),
            ("PJRT_Program", mem::offset_of!(PJRT_Program, room), 48),
            ("PJRT_Client_Compile_Args", mem::offset_of!(PJRT_Client_Compile_Args, room), 56),
            (
                "PJRT_Client_BufferFromHostBuffer_Args",
                mem::offset_of!(PJRT_Client_BufferFromHostBuffer_Args, room),
                120,
            ),
            ("PJRT_Device_GetDescription_Args", mem::offset_of!(PJRT_Device_GetDescription_Args, room), 32),
            ("PJRT_DeviceDescription_Id_Args", mem::offset_of!(PJRT_DeviceDescription_Id_Args, room), 32),
            (
                "PJRT_DeviceDescription_Attributes_Args",
                mem::offset_of!(PJRT_DeviceDescription_Attributes_Args, room),
                40,
            ),
            ("PJRT_DeviceDescription_Kind_Args", mem::offset_of!(PJRT_DeviceDescription_Kind_Args, room), 40),
            (
                "PJRT_DeviceDescription_DebugString_Args",
                mem::offset_of!(PJRT_DeviceDescription_DebugString_Args, room),
                40,
            ),
            ("PJRT_Device_MemoryStats_Args", mem::offset_of!(PJRT_Device_MemoryStats_Args, room), 192),
            ("PJRT_Executable_Destroy_Args", mem::offset_of!(PJRT_Executable_Destroy_Args, room), 24),
            ("PJRT_LoadedExecutable_Destroy_Args", mem::offset_of!(PJRT_LoadedExecutable_Destroy_Args, room), 24),
            (
                "PJRT_LoadedExecutable_GetExecutable_Args",
                mem::offset_of!(PJRT_LoadedExecutable_GetExecutable_Args, room),
                32,
            ),
            ("PJRT_Executable_NumOutputs_Args", mem::offset_of!(PJRT_Executable_NumOutputs_Args, room), 32),
            ("PJRT_Executable_Fingerprint_Args", mem::offset_of!(PJRT_Executable_Fingerprint_Args, room), 40),
            ("PJRT_Executable_GetCostAnalysis_Args", mem::offset_of!(PJRT_Executable_GetCostAnalysis_Args, room), 40),
            (
                "PJRT_Executable_GetCompiledMemoryStats_Args",
                mem::offset_of!(PJRT_Executable_GetCompiledMemoryStats_Args, room),
                112,
            ),
            (
                "PJRT_Executable_OutputElementTypes_Args",
                mem::offset_of!(PJRT_Executable_OutputElementTypes_Args, room),
                40,
            ),
            ("PJRT_Executable_OutputDimensions_Args", mem::offset_of!(PJRT_Executable_OutputDimensions_Args, room), 48),
            ("PJRT_Executable_Serialize_Args", mem::offset_of!(PJRT_Executable_Serialize_Args, room), 56),
            (
                "PJRT_Executable_DeserializeAndLoad_Args",
                mem::offset_of!(PJRT_Executable_DeserializeAndLoad_Args, room),
                64,
            ),
            ("PJRT_Executable_OptimizedProgram_Args", mem::offset_of!(PJRT_Executable_OptimizedProgram_Args, room), 32),
            ("PJRT_TopologyDescription_Create_Args", mem::offset_of!(PJRT_TopologyDescription_Create_Args, room), 56),
            ("PJRT_TopologyDescription_Destroy_Args", mem::offset_of!(PJRT_TopologyDescription_Destroy_Args, room), 24),
            ("PJRT_Compile_Args", mem::offset_of!(PJRT_Compile_Args, room), 64),
            ("PJRT_ExecuteOptions", mem::offset_of!(PJRT_ExecuteOptions, room), 112 + 8),
            ("PJRT_LoadedExecutable_Execute_Args", mem::offset_of!(PJRT_LoadedExecutable_Execute_Args, room), 80),
            ("PJRT_Buffer_Destroy_Args", mem::offset_of!(PJRT_Buffer_Destroy_Args, room), 24),
            ("PJRT_Buffer_ElementType_Args", mem::offset_of!(PJRT_Buffer_ElementType_Args, room), 32),
            ("PJRT_Buffer_Dimensions_Args", mem::offset_of!(PJRT_Buffer_Dimensions_Args, room), 40),
            ("PJRT_Buffer_OnDeviceSizeInBytes_Args", mem::offset_of!(PJRT_Buffer_OnDeviceSizeInBytes_Args, room), 32),
            ("PJRT_Buffer_GetMemoryLayout_Args", mem::offset_of!(PJRT_Buffer_GetMemoryLayout_Args, room), 104),
            ("PJRT_Buffer_ToHostBuffer_Args", mem::offset_of!(PJRT_Buffer_ToHostBuffer_Args, room), 56),
            ("PJRT_Buffer_ReadyEvent_Args", mem::offset_of!(PJRT_Buffer_ReadyEvent_Args, room), 32),
            ("PJRT_Buffer_UnsafePointer_Args", mem::offset_of!(PJRT_Buffer_UnsafePointer_Args, room), 32),
        ];
        let exact = [
            ("PJRT_Extension_Base", mem::size_of::<PJRT_Extension_Base>(), 24),
            ("PJRT_Api_Version", mem::size_of::<PJRT_Api_Version>(), 24),
            ("PJRT_NamedValue", mem::size_of::<PJRT_NamedValue>(), 56),
            ("PJRT_Buffer_MemoryLayout_Tiled", mem::size_of::<PJRT_Buffer_MemoryLayout_Tiled>(), 56),
            ("PJRT_Buffer_MemoryLayout_Strides", mem::size_of::<PJRT_Buffer_MemoryLayout_Strides>(), 32),
            ("PJRT_Buffer_MemoryLayout", mem::size_of::<PJRT_Buffer_MemoryLayout>(), 80),
            ("PJRT_Api", mem::size_of::<PJRT_Api>(), 984),
        ];
        for (name, size, expected) in with_room.into_iter().chain(exact) {
            assert_eq!(size, expected, "{name}");
        }
    }
}
