//! The working memory of attention: a part for each thread, and the parts of rows that `stream` joins.

use std::marker::PhantomData;

/// Buffers that attention keeps from call to call. They grow to the largest shape seen.
#[derive(Default)]
pub struct AttendScratch {
    threads: Vec<f32>,
    parts: Vec<f32>,
}

/// Floats in a cache line, which a vector must not straddle.
const LINE: usize = 16;

/// Floats rounded up to whole cache lines.
pub(super) const fn whole_lines(floats: usize) -> usize {
    floats.next_multiple_of(LINE)
}

/// The distance of rows of `floats` that are walked down a column: an odd number of lines, for a power of two would
/// map all of them to a few sets of the cache. Leaves room to fill up the last two vectors of a row.
pub(super) const fn row_stride(floats: usize) -> usize {
    floats.next_multiple_of(2 * LINE) + LINE
}

impl AttendScratch {
    /// Empty buffers.
    pub fn new() -> AttendScratch {
        AttendScratch::default()
    }

    /// Makes room for `per_thread` floats for each of `threads` and for `parts` floats in all.
    pub(super) fn reserve(&mut self, threads: usize, per_thread: usize, parts: usize) -> Buffers<'_> {
        let per_thread = whole_lines(per_thread);
        Buffers {
            threads,
            per_thread,
            thread_start: aligned(&mut self.threads, threads * per_thread),
            parts,
            parts_start: aligned(&mut self.parts, parts),
            _scratch: PhantomData,
        }
    }
}

/// The first cache line of `buffer`, of which `n` floats can be used.
fn aligned(buffer: &mut Vec<f32>, n: usize) -> *mut f32 {
    if buffer.len() < n + LINE {
        // Not `resize`: fresh zeros come from the system untouched, and the old contents are of no use.
        *buffer = vec![0.0; n + LINE];
    }
    let skip = buffer.as_ptr().align_offset(4 * LINE);
    assert!(skip <= LINE);
    buffer[skip..].as_mut_ptr()
}

/// The buffers of one call, shared by its tasks.
pub(super) struct Buffers<'a> {
    threads: usize,
    per_thread: usize,
    thread_start: *mut f32,
    parts: usize,
    parts_start: *mut f32,
    _scratch: PhantomData<&'a mut AttendScratch>,
}

// SAFETY: the pointers come from an exclusive borrow; tasks take disjoint ranges, by the contracts below.
unsafe impl Sync for Buffers<'_> {}

impl Buffers<'_> {
    /// The buffer of a thread, from the start of a cache line.
    ///
    /// # Safety
    /// The thread takes it once at a time: one task of a [`Team`](crate::pool::Team) calls this with its own number.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract")]
    pub(super) unsafe fn thread(&self, thread: usize) -> &mut [f32] {
        assert!(thread < self.threads);
        // SAFETY: in bounds; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.thread_start.add(thread * self.per_thread), self.per_thread) }
    }

    /// `len` floats of the parts from `at` on, to write.
    ///
    /// # Safety
    /// Nobody else has any of them.
    #[allow(clippy::mut_from_ref, reason = "exclusive by the contract")]
    pub(super) unsafe fn part_mut(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.parts && len <= self.parts - at);
        // SAFETY: in bounds; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.parts_start.add(at), len) }
    }

    /// `len` floats of the parts from `at` on, to read.
    ///
    /// # Safety
    /// Nobody writes any of them meanwhile.
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &[f32] {
        assert!(at <= self.parts && len <= self.parts - at);
        // SAFETY: in bounds; not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.parts_start.add(at), len) }
    }
}
