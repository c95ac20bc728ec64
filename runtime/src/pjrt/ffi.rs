//! Kernels of our own inside a plugin's programs: XLA's FFI, declared and wrapped.
//!
//! The declarations stand in `ffi_abi`. XLA asks a handler for the version it was made for by a call with a metadata
//! extension, and calls it with a [`CallFrame`] each time a program reaches its custom call.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use half::{bf16, f16};

use super::api::PJRT_Extension_Base;
use super::ffi_abi::*;
use crate::kernels::KERNELS;

/// An element type that kernels read and write.
///
/// # Safety
/// `DTYPE` is the number of a type of XLA with the size and alignment of this one, for which every bit pattern is valid.
pub(crate) unsafe trait FfiElement: Copy {
    const DTYPE: c_int;
}

// SAFETY: IEEE single precision on both sides.
unsafe impl FfiElement for f32 {
    const DTYPE: c_int = dtype::F32;
}

// SAFETY: four bytes in two's complement on both sides.
unsafe impl FfiElement for i32 {
    const DTYPE: c_int = dtype::S32;
}

// SAFETY: IEEE half precision on both sides.
unsafe impl FfiElement for f16 {
    const DTYPE: c_int = dtype::F16;
}

// SAFETY: a byte in two's complement on both sides.
unsafe impl FfiElement for i8 {
    const DTYPE: c_int = dtype::S8;
}

// SAFETY: a byte on both sides.
unsafe impl FfiElement for u8 {
    const DTYPE: c_int = dtype::U8;
}

// SAFETY: the upper half of a single on both sides.
unsafe impl FfiElement for bf16 {
    const DTYPE: c_int = dtype::BF16;
}

/// One call of a kernel.
pub(crate) struct Call<'a> {
    frame: &'a CallFrame,
    api: &'a FfiApi,
}

// SAFETY: what a frame points to is read only while the call lasts, and XLA's thread pool may be given work from any
// thread.
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    /// The dimensions of operand `i`.
    pub(crate) fn operand_dims(&self, i: usize) -> Result<&'a [i64], String> {
        Ok(dims(buffer(&self.frame.args, i, "operand")?))
    }

    /// Whether operand `i` has elements of this type.
    pub(crate) fn operand_is<T: FfiElement>(&self, i: usize) -> bool {
        buffer(&self.frame.args, i, "operand").is_ok_and(|buffer| buffer.dtype == T::DTYPE)
    }

    /// The elements of operand `i`, row-major.
    pub(crate) fn operand<T: FfiElement>(&self, i: usize) -> Result<&'a [T], String> {
        let (data, len) = elements::<T>(buffer(&self.frame.args, i, "operand")?)?;
        // SAFETY: XLA gives operands that nothing writes to while the call lasts; size, type and alignment were checked.
        Ok(unsafe { slice::from_raw_parts(data, len) })
    }

    /// How many operands there are.
    pub(crate) fn num_operands(&self) -> usize {
        usize::try_from(self.frame.args.size).unwrap_or(0)
    }

    /// Whether result `i` has elements of this type.
    pub(crate) fn result_is<T: FfiElement>(&self, i: usize) -> bool {
        buffer(&self.frame.results, i, "result").is_ok_and(|buffer| buffer.dtype == T::DTYPE)
    }

    /// The bytes of operand `i`, whatever its elements of type `T` are.
    pub(crate) fn operand_bytes<T: FfiElement>(&self, i: usize) -> Result<&'a [u8], String> {
        let elements = self.operand::<T>(i)?;
        // SAFETY: the same memory, of which every byte is initialized.
        Ok(unsafe { slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) })
    }

    /// The elements of result `i`, row-major.
    ///
    /// A kernel asks for each result once.
    #[allow(clippy::mut_from_ref, reason = "XLA's memory; see the argument below")]
    pub(crate) fn result<T: FfiElement>(&self, i: usize) -> Result<&'a mut [T], String> {
        let (data, len) = elements::<T>(buffer(&self.frame.results, i, "result")?)?;
        // SAFETY: XLA gives results that nothing else reads or writes while the call lasts, and that overlap no operand but
        // those of `lmc.cache_update`, the only kernel with results that is declared to alias some: it asks for the first
        // result and not for its operand, and for the second operand and not for its result; size,
        // type and alignment were checked. The kernels, all in this crate, ask for each once.
        Ok(unsafe { slice::from_raw_parts_mut(data.cast_mut(), len) })
    }

    /// The attribute `name`, an `f64`.
    pub(crate) fn f64(&self, name: &str) -> Result<f64, String> {
        // SAFETY: the type is that of the number.
        unsafe { self.scalar(name, dtype::F64) }
    }

    /// The attribute `name`, an `i64`.
    pub(crate) fn i64(&self, name: &str) -> Result<i64, String> {
        // SAFETY: the type is that of the number.
        unsafe { self.scalar(name, dtype::S64) }
    }

    /// The attribute `name`, an `i1`.
    pub(crate) fn bool(&self, name: &str) -> Result<bool, String> {
        // SAFETY: the type is that of the number; read as a byte, since of a `bool` not every pattern is valid.
        unsafe { self.scalar::<u8>(name, dtype::PRED) }.map(|value| value != 0)
    }

    /// # Safety
    /// `T` is the type of the number `dtype`.
    unsafe fn scalar<T: Copy>(&self, name: &str, dtype: c_int) -> Result<T, String> {
        let attributes = &self.frame.attributes;
        for i in 0..usize::try_from(attributes.size).unwrap_or(0) {
            // SAFETY: the three arrays have `size` entries, whose pointers are valid while the call lasts.
            unsafe {
                let span = &**attributes.names.add(i);
                if slice::from_raw_parts(span.start, span.len) != name.as_bytes() {
                    continue;
                }
                let scalar = (*attributes.values.add(i)).cast::<Scalar>();
                if *attributes.kinds.add(i) == SCALAR && (*scalar).dtype == dtype {
                    return Ok((*scalar).value.cast::<T>().read_unaligned());
                }
            }
            return Err(format!("attribute `{name}` has another type than {dtype}"));
        }
        Err(format!("no attribute `{name}`"))
    }

    /// Threads of XLA's pool; 1 where there is none.
    pub(crate) fn num_threads(&self) -> usize {
        let Some(num_threads) = self.api.thread_pool_num_threads else { return 1 };
        let mut number = 1i64;
        let mut args = NumThreadsArgs {
            struct_size: size_of::<NumThreadsArgs>(),
            extension_start: ptr::null_mut(),
            context: self.frame.context,
            num_threads: &mut number,
        };
        // SAFETY: the context is that of the call, and the number is writable.
        let error = unsafe { num_threads(&mut args) };
        self.is_ok(error).then(|| usize::try_from(number).ok()).flatten().unwrap_or(1).max(1)
    }

    /// Calls `f` with every index below `number` on the threads of XLA's pool, this one among them, and returns when all
    /// calls have.
    ///
    /// # Panics
    /// If a call panicked.
    pub(crate) fn for_each(&self, number: usize, f: &(dyn Fn(usize) + Sync)) {
        let helpers = self.num_threads().min(number).saturating_sub(1);
        if helpers == 0 {
            (0..number).for_each(f);
            return;
        }
        // SAFETY: only the lifetime is changed. The function is called for indices below `number` only, and `finish`,
        // below, returns when all of these calls have.
        let f: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(f) };
        let job = Arc::new(Job {
            f,
            number,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            lock: Mutex::new(()),
            all: Condvar::new(),
        });
        for _ in 0..helpers {
            let Some(schedule) = self.api.thread_pool_schedule else { break };
            let data = Arc::into_raw(Arc::clone(&job));
            let mut args = ScheduleArgs {
                struct_size: size_of::<ScheduleArgs>(),
                extension_start: ptr::null_mut(),
                context: self.frame.context,
                task: help,
                data: data.cast_mut().cast(),
            };
            // SAFETY: the context is that of the call; `help` takes over the reference that `data` is.
            let error = unsafe { schedule(&mut args) };
            if !self.is_ok(error) {
                // SAFETY: the task was not scheduled, so that the reference is still ours.
                drop(unsafe { Arc::from_raw(data) });
                break;
            }
        }
        job.work();
        job.finish();
    }

    /// Whether a function of the table succeeded; frees its error if not.
    fn is_ok(&self, error: *mut FfiError) -> bool {
        if error.is_null() {
            return true;
        }
        if let Some(destroy) = self.api.error_destroy {
            let mut args = ErrorDestroyArgs {
                struct_size: size_of::<ErrorDestroyArgs>(),
                extension_start: ptr::null_mut(),
                error,
            };
            // SAFETY: the error is ours, and not used again.
            unsafe { destroy(&mut args) };
        }
        false
    }
}

/// Work that is divided by index. A thread that comes late finds nothing to do and touches nothing but this.
struct Job {
    f: &'static (dyn Fn(usize) + Sync),
    number: usize,
    /// The next index.
    next: AtomicUsize,
    /// Calls that have returned.
    done: AtomicUsize,
    panicked: AtomicBool,
    /// Locked by whoever tells the one who waits, and by him while he looks whether to.
    lock: Mutex<()>,
    all: Condvar,
}

/// How often the thread that waits for the others looks before it sleeps: about as long as it takes to be woken up.
const LOOKS: usize = 1000;

impl Job {
    /// Takes indices until none is left.
    fn work(&self) {
        let mut calls = 0;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.number {
                break;
            }
            if catch_unwind(AssertUnwindSafe(|| (self.f)(index))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            calls += 1;
        }
        // What the calls wrote is seen by the one who waits.
        if calls > 0 && self.done.fetch_add(calls, Ordering::AcqRel) + calls == self.number {
            let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.all.notify_all();
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.number
    }

    /// Waits for the calls of other threads.
    fn finish(&self) {
        let mut looks = 0;
        while !self.is_done() && looks < LOOKS {
            std::hint::spin_loop();
            looks += 1;
        }
        if !self.is_done() {
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.all.wait_while(lock, |()| !self.is_done()));
        }
        assert!(!self.panicked.load(Ordering::Relaxed), "a thread of a kernel panicked");
    }
}

/// A task of XLA's pool: `data` is a reference to a [`Job`].
unsafe extern "C" fn help(data: *mut c_void) {
    // SAFETY: `for_each` has given this task the reference.
    let job = unsafe { Arc::from_raw(data.cast_const().cast::<Job>()) };
    job.work();
}

/// Buffer `i`.
fn buffer<'a>(buffers: &'a Buffers, i: usize, what: &str) -> Result<&'a FfiBuffer, String> {
    if i >= usize::try_from(buffers.size).unwrap_or(0) {
        return Err(format!("no {what} {i}: there are {}", buffers.size));
    }
    // SAFETY: the array has `size` pointers to buffers that are valid while the call lasts.
    Ok(unsafe { &**buffers.buffers.add(i) })
}

fn dims(buffer: &FfiBuffer) -> &[i64] {
    if buffer.rank <= 0 {
        return &[];
    }
    // SAFETY: `dims` has `rank` entries.
    unsafe { slice::from_raw_parts(buffer.dims, usize::try_from(buffer.rank).unwrap_or(0)) }
}

/// Address and number of a buffer's elements.
fn elements<T: FfiElement>(buffer: &FfiBuffer) -> Result<(*const T, usize), String> {
    if buffer.dtype != T::DTYPE {
        return Err(format!("expected elements of type {}, found {}", T::DTYPE, buffer.dtype));
    }
    let len = dims(buffer).iter().try_fold(1usize, |len, &dim| len.checked_mul(usize::try_from(dim).ok()?));
    let Some(len) = len else { return Err(format!("dimensions {:?}", dims(buffer))) };
    if len == 0 {
        return Ok((ptr::NonNull::dangling().as_ptr(), 0));
    }
    let data = buffer.data.cast::<T>();
    if data.is_null() || !data.is_aligned() {
        return Err(format!("a buffer at {data:?}"));
    }
    Ok((data, len))
}

/// The handler of kernel `I`.
unsafe extern "C" fn handler<const I: usize>(frame: *mut CallFrame) -> *mut FfiError {
    // SAFETY: XLA calls with a frame that is valid while the call lasts.
    let frame = unsafe { &*frame };
    let mut extension = frame.extension_start;
    while !extension.is_null() {
        // SAFETY: every element of the chain begins with this struct; one of this kind is a `MetadataExtension`, whose
        // metadata is for the handler to fill in.
        unsafe {
            if (*extension).kind == METADATA {
                let metadata = (*extension.cast::<MetadataExtension>()).metadata;
                // 0.1 and 0.2 are what a plugin of this age accepts.
                (*metadata).api_version.major = 0;
                (*metadata).api_version.minor = 1;
                (*metadata).traits = 0;
                return ptr::null_mut();
            }
            extension = (*extension).next;
        }
    }
    // SAFETY: a frame has the table of functions.
    let api = unsafe { &*frame.api };
    let call = Call { frame, api };
    let result = catch_unwind(AssertUnwindSafe(|| KERNELS[I].1(&call)));
    let message = match result {
        Ok(Ok(())) => return ptr::null_mut(),
        Ok(Err(message)) => message,
        Err(_) => "panicked".to_string(),
    };
    let message = format!("kernel {}: {message}\0", KERNELS[I].0);
    let mut args = ErrorCreateArgs {
        struct_size: size_of::<ErrorCreateArgs>(),
        extension_start: ptr::null_mut(),
        message: message.as_ptr().cast(),
        code: INTERNAL,
    };
    match api.error_create {
        // SAFETY: the message ends in a zero and is copied.
        Some(create) => unsafe { create(&mut args) },
        None => std::process::abort(),
    }
}

/// Registers every kernel through the extension at `extension`, of the kind [`EXTENSION`] in a plugin of [`MINOR`].
/// Whether all were accepted.
///
/// # Safety
/// The extension is that of a loaded plugin, of that kind and version.
pub(super) unsafe fn register(extension: *const PJRT_Extension_Base) -> bool {
    // SAFETY: the caller's.
    let extension = unsafe { &*extension.cast::<Extension>() };
    let Some(register) = extension.register_handler else { return false };
    let handlers: [unsafe extern "C" fn(*mut CallFrame) -> *mut FfiError; KERNELS.len()] = [
        handler::<0>,
        handler::<1>,
        handler::<2>,
        handler::<3>,
        handler::<4>,
        handler::<5>,
        handler::<6>,
        handler::<7>,
    ];
    KERNELS.iter().zip(handlers).all(|((name, _), handler)| {
        // XLA's name of the CPU's platform.
        let platform = "Host";
        let mut args = RegisterArgs {
            struct_size: REGISTER_ARGS_SIZE,
            target_name: name.as_ptr().cast(),
            target_name_size: name.len(),
            handler: handler as *mut c_void,
            platform_name: platform.as_ptr().cast(),
            platform_name_size: platform.len(),
            traits: 0,
        };
        // SAFETY: names are copied; a handler is code of this program, which stays.
        unsafe { register(&mut args) }.is_null()
    })
}
