//! Work that is divided among threads and compiled for each instruction set, and memory for it.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[cfg(target_arch = "x86_64")]
use super::amx::Tiles;
use super::pack::Pack;
#[cfg(target_arch = "x86_64")]
use super::product::TilePair;
use super::product::{Pair, Single};
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512;
use super::simd::{Isa, Simd, Wide};

/// Words that begin where a line of the cache does, so that none of their vectors lies in two.
pub(crate) struct Buffer {
    lines: Vec<CacheLine>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

impl Buffer {
    /// So many zeros.
    pub(crate) fn zeros(len: usize) -> Buffer {
        Buffer { lines: vec![CacheLine([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: a line is 16 f32 without padding, and there are enough of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A slice that several tasks write to, each its own part.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are only handed out by `part`, whose callers see to it that no two overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), of: PhantomData }
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// No other part that is in use overlaps it.
    ///
    /// # Panics
    /// If the slice ends before.
    #[allow(clippy::mut_from_ref, reason = "disjoint parts, by the contract")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.len);
        // SAFETY: within the slice, and by the contract not in use elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// How tasks are divided among threads: calls the function with every index below the number, in any order and from
/// several threads at once, and returns when all calls have.
pub(crate) type ForEach<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// What runs on vectors of any instruction set.
pub(crate) trait Task: Sync {
    /// Whether a word of its products is a pair of bf16 where the processor multiplies pairs.
    const PAIRS: bool;

    /// Does the work of one index.
    ///
    /// # Safety
    /// That of [`Simd`]; each index once only, as tasks write to disjoint parts.
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize);
}

/// Calls a task compiled for an instruction set, here with the matrix unit.
///
/// # Safety
/// As [`run_avx512_pairs`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
unsafe fn run_amx<T: Task>(task: &T, index: usize) {
    let _tiles = Tiles::new();
    // SAFETY: the caller's, and there are tiles.
    unsafe { task.run::<Avx512<true>, TilePair>(index) }
}

/// Calls a task compiled for an instruction set.
///
/// # Safety
/// The processor has it; and as [`Task::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
unsafe fn run_avx512_pairs<T: Task>(task: &T, index: usize) {
    // SAFETY: the caller's.
    unsafe { task.run::<Avx512<true>, Pair>(index) }
}

/// As [`run_avx512_pairs`].
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn run_avx512<T: Task>(task: &T, index: usize) {
    // SAFETY: the caller's.
    unsafe { task.run::<Avx512<false>, Single>(index) }
}

/// As [`run_avx512_pairs`].
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<T: Task>(task: &T, index: usize) {
    // SAFETY: the caller's.
    unsafe { task.run::<Wide<true>, Single>(index) }
}

/// Runs the task for every index below `number`.
///
/// # Safety
/// The processor has the instruction set; tasks of different indices write to disjoint parts.
pub(crate) unsafe fn run<T: Task>(isa: Isa, task: &T, number: usize, for_each: ForEach<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx if T::PAIRS => {
            // SAFETY: the caller's; `for_each` calls with each index once. The same holds below.
            for_each(number, &|i| unsafe { run_amx(task, i) });
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if T::PAIRS => {
            // SAFETY: as above.
            for_each(number, &|i| unsafe { run_avx512_pairs(task, i) });
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => {
            // SAFETY: as above.
            for_each(number, &|i| unsafe { run_avx512(task, i) });
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: as above.
            for_each(number, &|i| unsafe { run_avx2(task, i) });
        }
        Isa::Baseline => {
            // SAFETY: as above. On 64-bit Arm a fused multiplication and addition is in the baseline.
            for_each(number, &|i| unsafe { task.run::<Wide<{ cfg!(target_arch = "aarch64") }>, Single>(i) });
        }
    }
}
