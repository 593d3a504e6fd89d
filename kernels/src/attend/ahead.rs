//! Asking for the next tile of the cache while this one is computed.

use crate::float::simd::Simd;

const LINE: usize = 64;

/// The cache lines of the next tile, asked for piece by piece between pieces of computation: the processor's own
/// prefetching stops at the end of a page, and while a tile is computed the memory would idle.
pub(super) struct Ahead {
    next: *const u8,
    lines: usize,
    share: usize,
}

impl Ahead {
    /// The first `len` bytes of `bytes`, to be asked for in `pieces` pieces.
    pub(super) fn new(bytes: &[u8], len: usize, pieces: usize) -> Ahead {
        let lines = len.min(bytes.len()).div_ceil(LINE);
        Ahead { next: bytes.as_ptr(), lines, share: lines.div_ceil(pieces.max(1)) }
    }

    /// Nothing.
    pub(super) fn none() -> Ahead {
        Ahead::new(&[], 0, 1)
    }

    /// Asks for the next piece.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(&mut self, s: S) {
        let n = self.share.min(self.lines);
        for _ in 0..n {
            s.prefetch(self.next);
            self.next = self.next.wrapping_add(LINE);
        }
        self.lines -= n;
    }
}
