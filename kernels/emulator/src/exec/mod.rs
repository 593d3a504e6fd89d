//! A launch: blocks one after the other, or on several threads, each of warps of 32 lanes in step.

mod access;
mod alu;
mod block;
mod race;
mod tensor;

use crate::memory::Memory;
use crate::ptx::Kernel;
use crate::settings::Settings;
use crate::stats::Counts;
use block::Block;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// What a kernel did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the driver answers.
    pub code: u32,
    /// Where, and what.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// An access outside an allocation, or of what nobody wrote.
pub const ILLEGAL_ADDRESS: u32 = 700;
/// An access that is not aligned to its size.
pub const MISALIGNED: u32 = 716;
/// Anything else: a barrier that not all reach, a race.
pub const LAUNCH_FAILED: u32 = 719;

/// A kernel to be run.
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory beyond the kernel's own.
    pub shared: usize,
    /// The parameters' bytes.
    pub parameters: Vec<u8>,
    /// A number of its own, by which accesses of different launches are told apart.
    pub number: u64,
}

/// Runs all blocks.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(launch: &Launch<'_>, memory: &Memory, settings: &Settings) -> Result<Counts, Fault> {
    let total = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let next = AtomicU64::new(0);
    let done = Mutex::new((Counts { launches: 1, ..Counts::default() }, None));
    let work = || {
        let mut block = Block::new(launch, memory, settings);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= total {
                break;
            }
            if let Err(fault) = block.run(index) {
                next.store(total, Ordering::Relaxed);
                let mut done = done.lock().expect("no panic holds it");
                done.1.get_or_insert(fault);
                break;
            }
        }
        done.lock().expect("no panic holds it").0.add(&block.counts);
    };
    // Races are told apart by who came before, so then blocks run in order.
    let threads = if settings.check_race { 1 } else { settings.threads.min(total as usize).max(1) };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    }
    let (counts, fault) = done.into_inner().expect("no panic holds it");
    fault.map_or(Ok(counts), Err)
}
