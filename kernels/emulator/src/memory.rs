//! The memory of the card: one reserved range, of which pages become real as they are touched.
//!
//! Addresses of the card are no addresses of the host, and allocations lie apart, so that a pointer that is off by a little, or used on
//! the wrong side, is found. Shadows of the range say which bytes were written, and by whom they were last touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

unsafe extern "C" {
    fn mmap(at: *mut u8, len: usize, protection: i32, flags: i32, file: i32, offset: i64) -> *mut u8;
    fn munmap(at: *mut u8, len: usize) -> i32;
}

/// Where the card's addresses begin.
const BASE: u64 = 0x7_0000_0000;
/// Between two allocations.
const GAP: u64 = 1 << 20;
/// What memory is handed out in, as a driver does.
const GRAIN: u64 = 2 << 20;
/// The range of addresses: more than the memory of any card, since gaps take no memory.
const RANGE: u64 = 1 << 38;

/// A range of zeros that takes no memory until it is touched.
struct Range {
    at: *mut u8,
    len: usize,
}

// SAFETY: plain memory; who may touch what is said by `Memory`.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    fn new(len: usize) -> Range {
        // Readable and writable, private, of no file, without a reservation: 1 | 2, 2 | 0x20 | 0x4000.
        // SAFETY: a fresh range, which overlaps nothing.
        let at = unsafe { mmap(std::ptr::null_mut(), len, 3, 0x4022, -1, 0) };
        assert!(at as isize != -1, "a range of {len} bytes cannot be reserved");
        Range { at, len }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: from `mmap`, with its length.
        unsafe { munmap(self.at, self.len) };
    }
}

/// The card's memory.
pub struct Memory {
    range: Range,
    /// By start: length.
    allocations: BTreeMap<u64, u64>,
    used: u64,
    total: u64,
    next: u64,
    /// One byte a byte: whether it was written.
    written: Option<Range>,
    /// Two tags a byte: who last wrote and read it.
    touched: Option<Range>,
}

impl Memory {
    /// A card with `total` bytes.
    pub fn new(total: u64, check_init: bool, check_race: bool) -> Memory {
        Memory {
            range: Range::new(RANGE as usize),
            allocations: BTreeMap::new(),
            used: 0,
            total,
            next: 0,
            written: check_init.then(|| Range::new(RANGE as usize)),
            touched: check_race.then(|| Range::new(RANGE as usize * 16)),
        }
    }

    /// Free bytes and all.
    pub fn info(&self) -> (u64, u64) {
        (self.total - self.used, self.total)
    }

    /// Hands out memory; none where there is no room.
    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let size = bytes.max(1).next_multiple_of(GRAIN.min(bytes.max(1).next_power_of_two()));
        if size > self.total - self.used || self.next + size + GAP > RANGE {
            return None;
        }
        self.used += size;
        let at = BASE + self.next;
        self.next = (self.next + size + GAP).next_multiple_of(512);
        self.allocations.insert(at, bytes);
        Some(at)
    }

    /// Takes memory back; whether there was any at this address. Addresses are not handed out again, so that a pointer to what was
    /// freed is found.
    pub fn free(&mut self, at: u64) -> bool {
        let Some(bytes) = self.allocations.remove(&at) else { return false };
        self.used -= bytes.max(1).next_multiple_of(GRAIN.min(bytes.max(1).next_power_of_two()));
        true
    }

    /// The offset of an access within the range, if it is within an allocation.
    pub fn offset(&self, at: u64, bytes: usize) -> Option<usize> {
        let (&start, &len) = self.allocations.range(..=at).next_back()?;
        (at + bytes as u64 <= start + len).then_some((at - BASE) as usize)
    }

    /// The allocation that an access is in: its start, its end.
    pub fn allocation(&self, at: u64) -> Option<(u64, u64)> {
        let (&start, &len) = self.allocations.range(..=at).next_back()?;
        (at < start + len).then_some((start, start + len))
    }

    /// The host's address of an offset that [`Memory::offset`] gave.
    pub fn host(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.range.len);
        self.range.at.wrapping_add(offset)
    }

    /// The offset of an address that is known to be within an allocation.
    pub fn unchecked_offset(&self, at: u64) -> usize {
        (at - BASE) as usize
    }

    /// Notes that bytes were written.
    pub fn note_written(&self, offset: usize, bytes: usize) {
        if let Some(written) = &self.written {
            for i in offset..offset + bytes {
                // SAFETY: within the shadow, which is as long as the range; an atomic byte has no other demands.
                unsafe { (*written.at.add(i).cast::<AtomicU8>()).store(1, Ordering::Relaxed) };
            }
        }
    }

    /// Whether all of these bytes were written.
    pub fn is_written(&self, offset: usize, bytes: usize) -> bool {
        let Some(written) = &self.written else { return true };
        // SAFETY: as above.
        (offset..offset + bytes)
            .all(|i| unsafe { (*written.at.add(i).cast::<AtomicU8>()).load(Ordering::Relaxed) } == 1)
    }

    /// The tags of who last wrote and read a byte; none where races are not checked.
    pub fn tags(&self, offset: usize) -> Option<[&AtomicU64; 2]> {
        let touched = self.touched.as_ref()?;
        // SAFETY: sixteen bytes a byte of the range, aligned as the range is.
        unsafe {
            let at = touched.at.add(offset * 16).cast::<AtomicU64>();
            Some([&*at, &*at.add(1)])
        }
    }
}
