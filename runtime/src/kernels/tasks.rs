//! Work that is divided among threads, and memory for it.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Words that begin where a line of the cache does, so that none of their vectors lies in two.
pub(super) struct Buffer {
    lines: Vec<CacheLine>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

impl Buffer {
    /// So many zeros.
    pub(super) fn zeros(len: usize) -> Buffer {
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
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are only handed out by `part`, whose callers see to it that no two overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
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
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start + len <= self.len);
        // SAFETY: within the slice, and by the contract not in use elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// How tasks are divided among threads: calls the function with every index below the number, in any order and from
/// several threads at once, and returns when all calls have.
pub(crate) type ForEach<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));
