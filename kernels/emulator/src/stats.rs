//! What was counted: of each kernel, and of the copies.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Of one kernel.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Times it was started.
    pub launches: u64,
    /// Instructions of warps.
    pub instructions: u64,
    /// Requests of warps to the card's memory.
    pub requests: u64,
    /// Pieces of 32 bytes that these requests touch, each counted once a request.
    pub sectors: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Requests to shared memory.
    pub shared: u64,
    /// Turns that banks need beyond one a request.
    pub conflicts: u64,
    /// Branches at which the lanes of a warp part.
    pub divergent: u64,
}

impl Counts {
    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        self.launches += other.launches;
        self.instructions += other.instructions;
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.bytes += other.bytes;
        self.shared += other.shared;
        self.conflicts += other.conflicts;
        self.divergent += other.divergent;
    }
}

/// Of a run.
#[derive(Clone, Default, Debug)]
pub struct Stats {
    /// By the kernel's name.
    pub kernels: BTreeMap<String, Counts>,
    /// Bytes to the card.
    pub to_card: u64,
    /// Bytes from it.
    pub from_card: u64,
    /// Copies between host and card.
    pub copies: u64,
    /// Waits of the host.
    pub waits: u64,
    /// Errors that were found.
    pub errors: u64,
}

impl Stats {
    /// As JSON.
    pub fn json(&self) -> String {
        let mut out = format!(
            "{{\"to_card\": {}, \"from_card\": {}, \"copies\": {}, \"waits\": {}, \"errors\": {}, \"kernels\": {{",
            self.to_card, self.from_card, self.copies, self.waits, self.errors
        );
        for (i, (name, c)) in self.kernels.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(
                out,
                "{comma}\n  \"{name}\": {{\"launches\": {}, \"instructions\": {}, \"requests\": {}, \"sectors\": {}, \
                 \"bytes\": {}, \"shared\": {}, \"conflicts\": {}, \"divergent\": {}}}",
                c.launches, c.instructions, c.requests, c.sectors, c.bytes, c.shared, c.conflicts, c.divergent
            );
        }
        out.push_str("}}\n");
        out
    }
}
