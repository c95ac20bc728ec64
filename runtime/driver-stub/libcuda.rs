//! A stand-in for the CUDA driver library, `libcuda.so.1`, for machines that have none: it says that there is no GPU.
//!
//! cuDNN links the driver, or looks names of it up, before it makes a plan, even where the plan is for a GPU described
//! in a file. None of these functions can do anything; those that are asked something answer it, and all others return
//! `CUDA_ERROR_NO_DEVICE`. `runtime/build.rs` compiles this file into a shared library of its own, which is part of the
//! program and only ever loaded in the process that compiles for a described GPU.

#![no_std]

use core::ffi::{CStr, c_char, c_int};

const SUCCESS: c_int = 0;
const ERROR_INVALID_VALUE: c_int = 1;
const ERROR_NO_DEVICE: c_int = 100;

/// The version that the driver claims to have: CUDA 13.0.
const VERSION: c_int = 13000;

/// Functions without an answer. They take their arguments as C's variadic functions do: unread.
macro_rules! no_device {
    ($($name:ident)*) => {$(
        // SAFETY: the name is the driver's, which this library stands in for; a process has one or the other.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_int {
            ERROR_NO_DEVICE
        }
    )*};
}

no_device! {
    cuCtxGetCurrent cuCtxGetDevice cuCtxGetLimit cuCtxPopCurrent cuCtxPushCurrent cuDeviceGet cuDeviceGetAttribute
    cuDevicePrimaryCtxRelease cuDevicePrimaryCtxReset cuDevicePrimaryCtxRetain cuFuncGetAttribute cuFuncSetAttribute
    cuInit cuKernelGetAttribute cuKernelGetFunction cuKernelSetAttribute cuLaunchCooperativeKernel cuLaunchKernel
    cuLaunchKernelEx cuLibraryGetKernel cuLibraryLoadData cuLibraryLoadFromFile cuLibraryUnload cuLinkAddData
    cuLinkAddData_v2 cuLinkAddFile_v2 cuLinkComplete cuLinkCreate cuLinkCreate_v2 cuLinkDestroy cuMemcpyDtoH_v2
    cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoadData cuModuleLoadDataEx cuModuleLoadFatBinary cuModuleUnload
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxPotentialClusterSize cuStreamGetCtx cuStreamGetGreenCtx
    cuStreamSynchronize cuTensorMapEncodeIm2col cuTensorMapEncodeTiled
}

/// Writes an answer where the caller wants it.
///
/// # Safety
/// `place` is null or points to a writable `T`.
unsafe fn answer<T>(place: *mut T, value: T) -> c_int {
    if place.is_null() {
        return ERROR_INVALID_VALUE;
    }
    // SAFETY: by the function's contract.
    unsafe { place.write(value) };
    SUCCESS
}

/// There are no devices.
///
/// # Safety
/// `count` is null or points to a writable integer, as the driver's function demands.
// SAFETY: as for the names above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: by the function's contract.
    unsafe { answer(count, 0) }
}

/// The version of CUDA that the driver is for.
///
/// # Safety
/// As for [`cuDeviceGetCount`].
// SAFETY: as for the names above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: by the function's contract.
    unsafe { answer(version, VERSION) }
}

/// The name of an error: the only one there is.
///
/// # Safety
/// `text` is null or points to a writable pointer, as the driver's function demands.
// SAFETY: as for the names above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_error: c_int, text: *mut *const c_char) -> c_int {
    const NAME: &CStr = c"CUDA_ERROR_NO_DEVICE";
    // SAFETY: by the function's contract.
    unsafe { answer(text, NAME.as_ptr()) }
}

/// What an error means.
///
/// # Safety
/// As for [`cuGetErrorName`].
// SAFETY: as for the names above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_error: c_int, text: *mut *const c_char) -> c_int {
    const MEANING: &CStr = c"there is no CUDA driver on this machine (lmc's stand-in answers)";
    // SAFETY: by the function's contract.
    unsafe { answer(text, MEANING.as_ptr()) }
}

/// Nothing here panics.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
