//! What the tests of float loops share.

use crate::Cpu;

/// Lengths that hit nothing, one, tails and main loops of 4, 8 and 16 lanes, four vectors at a time.
pub(crate) const LENGTHS: [usize; 14] = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 64, 100, 131, 577];

/// Runs a table for every instruction set of this machine and reports all rows that fail.
pub(crate) fn check(what: &str, table: impl Fn(Cpu, &mut dyn FnMut(String))) {
    let mut failures = Vec::new();
    for cpu in Cpu::all() {
        table(cpu, &mut |row| failures.push(format!("{what}, {}: {row}", cpu.name())));
    }
    let shown = failures.len().min(40);
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures[..shown].join("\n"));
}

/// Whether `got` is near `want`; NaN is near nothing.
pub(crate) fn close(got: f32, want: f64, tolerance: f64) -> bool {
    (f64::from(got) - want).abs() <= tolerance
}

/// Floats in -4..4, the same for the same seed (xorshift64*).
pub(crate) fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u64 << 21) as f32 - 4.0
    };
    (0..n).map(|_| next()).collect()
}
