//! Memory of the card, pinned memory of the host, and what goes between them.
//!
//! Copies are queued on a stream like the kernels. What the host reads or writes meanwhile is pinned memory that belongs to
//! this module: [`Staging`] waits for the copy that last read a half before it writes it again.

use super::error::CudaError;
use cudarc::driver::{DriverError, result, sys};
use std::marker::PhantomData;
use std::sync::Arc;

/// The primary context of a card, released with its last user.
pub(super) struct Context {
    pub device: sys::CUdevice,
    pub context: sys::CUcontext,
}

// SAFETY: the driver's handles may be used from any thread; whoever does makes the context current there first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Context {}

impl Context {
    /// Makes it the context of this thread's calls.
    pub fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context was retained by `Gpu::open` and lives as long as this.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("choosing the card"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once. A driver that is gone has nothing to release.
        _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Names what failed.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::new(what, error)
}

/// What may lie in the memory of a card: plain numbers, of which any bits are a value.
///
/// # Safety
/// The type has no padding and no invalid bit pattern.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// Memory of the card.
pub struct Buffer<T> {
    pub(super) at: sys::CUdeviceptr,
    len: usize,
    _context: Arc<Context>,
    _of: PhantomData<T>,
}

/// Whole pieces of this size are read of the weights, so there is room for one behind every buffer.
const TAIL: usize = 32;

impl<T: Plain> Buffer<T> {
    /// Room for `len` values, of which nobody knows what they are.
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Buffer<T>, CudaError> {
        context.bind()?;
        let bytes = len * size_of::<T>() + TAIL;
        let what = || format!("reserving {} MiB on the card", bytes.div_ceil(1 << 20));
        // SAFETY: a context is current.
        let at = unsafe { result::malloc_sync(bytes) }.map_err(|e| CudaError::new(what(), e))?;
        let buffer = Buffer { at, len, _context: context.clone(), _of: PhantomData };
        // What is read in whole pieces is read beyond its end.
        // SAFETY: so many bytes were just reserved.
        unsafe { result::memset_d8_sync(at + (bytes - TAIL) as u64, 0, TAIL) }
            .map_err(failed("clearing memory of the card"))?;
        // It is queued on a stream of its own, which our streams do not wait for.
        result::ctx::synchronize().map_err(failed("clearing memory of the card"))?;
        Ok(buffer)
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has room for nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: reserved in `new`, freed once; the driver waits for what still uses it. Errors: the context is gone.
        _ = unsafe { result::free_sync(self.at) };
    }
}

/// A queue of copies and kernels.
pub(super) struct Stream(pub sys::CUstream);

impl Stream {
    pub fn new() -> Result<Stream, CudaError> {
        result::stream::create(result::stream::StreamKind::NonBlocking).map(Stream).map_err(failed("making a stream"))
    }

    /// Waits until all that was queued is done.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(self.0) }.map_err(failed("waiting for the card"))
    }

    /// What is queued from here on waits for the event.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both live.
        unsafe { result::stream::wait_event(self.0, event.0, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(failed("ordering streams"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        _ = unsafe { result::stream::destroy(self.0) };
    }
}

/// A mark in a stream.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub fn new() -> Result<Event, CudaError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Event).map_err(failed("making an event"))
    }

    /// Marks what was queued so far.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        unsafe { result::event::record(self.0, stream.0) }.map_err(failed("marking a stream"))
    }

    /// Waits until the stream has come to the mark; at once when there is none yet.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: it lives.
        unsafe { result::event::synchronize(self.0) }.map_err(failed("waiting for the card"))
    }

    /// Milliseconds between two marks that the stream has passed.
    pub fn since(&self, start: &Event) -> Result<f32, CudaError> {
        // SAFETY: both live.
        unsafe { result::event::elapsed(start.0, self.0) }.map_err(failed("timing the card"))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Host memory that the card's copy engine reads and writes by itself.
pub(super) struct Pinned {
    at: *mut u8,
    len: usize,
    _context: Arc<Context>,
}

impl Pinned {
    pub fn new(context: &Arc<Context>, len: usize) -> Result<Pinned, CudaError> {
        context.bind()?;
        // SAFETY: a context is current; zeroed below.
        let at = unsafe { result::malloc_host(len, 0) }.map_err(failed("reserving pinned memory"))?.cast::<u8>();
        // SAFETY: so many bytes were just reserved.
        unsafe { at.write_bytes(0, len) };
        Ok(Pinned { at, len, _context: context.clone() })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: reserved and initialized in `new`.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: from `malloc_host`, freed once.
        _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// Two halves of pinned memory on their way to the card: while one is copied the other is filled.
pub(super) struct Staging {
    halves: [(Pinned, Event); 2],
    next: usize,
}

impl Staging {
    pub fn new(context: &Arc<Context>, half: usize) -> Result<Staging, CudaError> {
        let half = || Ok::<_, CudaError>((Pinned::new(context, half)?, Event::new()?));
        Ok(Staging { halves: [half()?, half()?], next: 0 })
    }

    /// Queues a copy of `data` to the bytes of the card from `to` on.
    ///
    /// # Safety
    /// The memory at `to` has room, and lives until the stream has done it.
    pub unsafe fn send(&mut self, stream: &Stream, data: &[u8], to: sys::CUdeviceptr) -> Result<(), CudaError> {
        let mut done = 0;
        while done < data.len() {
            let (pinned, sent) = &mut self.halves[self.next];
            self.next = 1 - self.next;
            let size = pinned.len.min(data.len() - done);
            sent.synchronize()?;
            pinned.bytes_mut()[..size].copy_from_slice(&data[done..done + size]);
            // SAFETY: promised by the caller; the half is not written before its event has passed.
            unsafe { result::memcpy_htod_async(to + done as u64, &pinned.bytes()[..size], stream.0) }
                .map_err(failed("copying to the card"))?;
            sent.record(stream)?;
            done += size;
        }
        Ok(())
    }

    /// Waits for the copies that read the halves.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.halves.iter().try_for_each(|(_, sent)| sent.synchronize())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The halves are freed next; a copy may still read them.
        _ = self.synchronize();
    }
}

/// Numbers as the bytes that they are.
pub(super) fn as_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to be written.
pub(super) fn as_bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` has no padding, and any bits are a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
