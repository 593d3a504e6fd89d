//! How rows are walked that are multiplied with one column: the memory is the limit, so it must never wait.
//!
//! Four rows at a time, and not neighbours: each of the four begins a quarter of the rows, so that a core follows four
//! streams that go on from row to row. The processor's own prefetching stops at the end of a page, starts late, and is
//! put off by blocks of 144 bytes, so each stream's memory is asked for three kilobytes ahead. Gigabytes a second of
//! one core, Q4_K:
//!
//! ```text
//!                          reading alone   unasked   asked for into L2   into L1
//!   Zen 5                        31-35        10          27-31           29-31
//!   Zen 4                           25        19             26              23
//! ```
//!
//! (`ostro bench --kernels --types Q4_K -t 1`, after edits of [`ask`].) ARM cores were not measured: there it is the
//! second cache, which harms least.

use super::kernels::Rows;

/// Rows in flight.
pub(crate) const STREAMS: usize = 4;

/// How many bytes are asked for ahead of their use, of all streams together.
const AHEAD: usize = 12 << 10;

/// Computes the products of all rows with one column, by `dots` of four rows, given where they begin.
#[inline(always)]
pub(crate) fn by_rows<const N: usize>(rows: Rows<'_>, out: &mut [f32], dots: impl Fn([*const u8; N]) -> [f32; N]) {
    by_rows_and_columns(rows, [out], |w| [dots(w)]);
}

/// Computes the products of all rows with `C` columns, `out[column][row]`, by `dots` of four rows, given where they begin.
/// Where less than four are left, the last one is repeated, and what comes of it is dropped.
#[inline(always)]
pub(crate) fn by_rows_and_columns<const N: usize, const C: usize>(
    rows: Rows<'_>,
    out: [&mut [f32]; C],
    dots: impl Fn([*const u8; N]) -> [[f32; N]; C],
) {
    let n = rows.len();
    out.iter().for_each(|out| assert_eq!(n, out.len()));
    let each = match n / N {
        // An odd number of rows: streams that are a power of two apart meet in the same banks of the memory (F16 of 4096
        // columns on Zen 5: 4 % slower).
        each if each > N && each.is_multiple_of(2) => each - 1,
        each => each,
    };
    for i in 0..each {
        let some = dots(std::array::from_fn(|r| rows.row(r * each + i).as_ptr()));
        (0..C).for_each(|c| (0..N).for_each(|r| out[c][r * each + i] = some[c][r]));
    }
    for first in (each * N..n).step_by(N) {
        let last = N.min(n - first) - 1;
        let some = dots(std::array::from_fn(|r| rows.row(first + r.min(last)).as_ptr()));
        (0..C).for_each(|c| out[c][first..=first + last].copy_from_slice(&some[c][..=last]));
    }
}

/// Asks for what a stream, one of `n`, reads a while after the `bytes` bytes at `at`.
#[inline(always)]
pub(crate) fn ahead(n: usize, at: *const u8, bytes: usize) {
    ask(at.wrapping_add(AHEAD / n), bytes);
}

/// Asks for the `bytes` bytes at `at`, which need not exist.
#[inline(always)]
pub(crate) fn ask(at: *const u8, bytes: usize) {
    for i in (0..bytes).step_by(64) {
        let at = at.wrapping_add(i);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: any address may be asked for.
        unsafe {
            use std::arch::x86_64::*;
            _mm_prefetch::<_MM_HINT_T0>(at.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = at;
    }
}
