//! Who touched a byte last, and whether two accesses are ordered.
//!
//! A tag is the last access, or the widest group of accesses since nothing else came between:
//!
//! ```text
//! launch 16 | block 16 | thread 10 | barriers of the block 10 | barriers of the warp 10 | scope 2
//! scope: 0 one thread, 1 lanes of one warp, 2 warps of one block, 3 blocks
//! ```
//!
//! Two accesses of the same launch of which one writes are a race if they are of different blocks, or of different warps with no
//! barrier of the block between them, or of different lanes with no barrier of the warp.

use std::sync::atomic::{AtomicU64, Ordering};

/// One access.
#[derive(Clone, Copy)]
pub(super) struct Who {
    pub launch: u64,
    pub block: u64,
    pub thread: u64,
    pub epoch: u64,
    pub warp_epoch: u64,
}

impl Who {
    fn tag(self, scope: u64) -> u64 {
        (self.launch & 0xffff) << 48
            | (self.block & 0xffff) << 32
            | (self.thread & 0x3ff) << 22
            | (self.epoch & 0x3ff) << 12
            | (self.warp_epoch & 0x3ff) << 2
            | scope
    }

    /// Whether the accesses of a tag and this one happen in no order.
    fn conflicts(self, tag: u64) -> bool {
        let other = Who {
            launch: tag >> 48,
            block: tag >> 32 & 0xffff,
            thread: tag >> 22 & 0x3ff,
            epoch: tag >> 12 & 0x3ff,
            warp_epoch: tag >> 2 & 0x3ff,
        };
        if tag == 0 || other.launch != self.launch & 0xffff {
            return false;
        }
        let same_epoch = other.epoch == self.epoch & 0x3ff;
        match tag & 3 {
            3 => true,
            _ if other.block != self.block & 0xffff => true,
            2 => same_epoch,
            _ if other.thread / 32 != self.thread / 32 => same_epoch,
            scope => {
                let another = scope == 1 || other.thread != self.thread;
                another && same_epoch && other.warp_epoch == self.warp_epoch & 0x3ff
            }
        }
    }

    /// The tag of readers once this one has joined those of `tag`.
    fn joined(self, tag: u64) -> u64 {
        let (launch, block, thread) = (tag >> 48, tag >> 32 & 0xffff, tag >> 22 & 0x3ff);
        if tag == 0 || launch != self.launch & 0xffff {
            return self.tag(0);
        }
        let same_epoch = tag >> 12 & 0x3ff == self.epoch & 0x3ff;
        let scope = match tag & 3 {
            3 => 3,
            _ if block != self.block & 0xffff => 3,
            // What a barrier has ordered need not be remembered.
            _ if !same_epoch => 0,
            2 => 2,
            _ if thread / 32 != self.thread / 32 => 2,
            _ if tag >> 2 & 0x3ff != self.warp_epoch & 0x3ff => 0,
            1 => 1,
            _ => u64::from(thread != self.thread),
        };
        self.tag(scope)
    }

    /// Notes a read or a write of a byte; whether it races.
    pub fn touch(self, [writer, reader]: [&AtomicU64; 2], writes: bool) -> bool {
        let last_write = writer.load(Ordering::Relaxed);
        let races = self.conflicts(last_write) || writes && self.conflicts(reader.load(Ordering::Relaxed));
        if writes {
            writer.store(self.tag(0), Ordering::Relaxed);
        } else {
            reader.store(self.joined(reader.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        races
    }
}
