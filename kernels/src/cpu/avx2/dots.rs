//! Three ways to make products of bytes, for the tiles of many columns.
//!
//! ```text
//!   Pairs   acc16 += maddubs(weights, activations)                    as many times as fit 16 bits
//!           acc32 += madd(acc16, factors)                             the scale of a sub-block, or 1
//!   Signed  acc32 += madd(maddubs(|weights|, sign(activations)), 1)   for weights that use all eight bits
//!   Fours   acc32 += dpbusd(weights, activations)                     with AVX-VNNI, where no more is needed
//! ```
//!
//! A pair is at most `2 x 127 x largest byte`: with four-bit weights 3,810, so eight of them are added in 16 bits; five
//! bits: four, six bits: two. Eight-bit weights are signed, and a pair stays just below 32,768.

use std::arch::x86_64::*;

use super::dpbusd;
use crate::cpu::pack::Source;

/// A way to make products of bytes.
///
/// # Safety
/// (Of its functions) the machine has the instructions, and the pointers lead to what is said.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Dots: 'static {
    /// Whether weights are signed; the panel has their absolute values beside them.
    const SIGNED: bool = false;
    /// Whether a sum is multiplied by a factor of 16 bits for each row on its way to 32 bits, which costs nothing.
    const FACTORS: bool = false;
    /// Whether it leaves registers in which a float for each sum can stay.
    const LEAVES_REGISTERS: bool = false;

    /// Adds the products of `4 * K4` weights of each row, from word `at` of the panel on, and as many activations of
    /// each column to `acc`. `factors` are pairs of 16 bits, 1 where there is nothing to multiply by.
    unsafe fn add<const P: usize, const N: usize, const K4: usize>(
        acc: &mut [[__m256i; N]; P],
        w: &[Source; 2],
        at: usize,
        a: &[*const i8; N],
        factors: [__m256i; P],
    );
}

/// Four activations, everywhere.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(at: *const i8) -> __m256i {
    // SAFETY: promised by the callers.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// Register number `i` of the panel for each register of rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weights<const P: usize>(w: &[Source; 2], i: usize) -> [__m256i; P] {
    // SAFETY: promised by the callers.
    std::array::from_fn(|p| unsafe { _mm256_loadu_si256(w[p].q.add(i * 32).cast()) })
}

/// By pairs in 16 bits, of which `GROUP` are added before they go to 32.
pub(super) struct Pairs<const GROUP: usize>;

impl<const GROUP: usize> Dots for Pairs<GROUP> {
    const FACTORS: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add<const P: usize, const N: usize, const K4: usize>(
        acc: &mut [[__m256i; N]; P],
        w: &[Source; 2],
        at: usize,
        a: &[*const i8; N],
        factors: [__m256i; P],
    ) {
        for group in (0..K4).step_by(GROUP) {
            let mut acc16 = [[_mm256_setzero_si256(); N]; P];
            for k4 in group..K4.min(group + GROUP) {
                // SAFETY: promised by the caller.
                unsafe {
                    let w: [_; P] = weights(w, at + k4);
                    for c in 0..N {
                        let a = broadcast(a[c].add(4 * k4));
                        for p in 0..P {
                            let pairs = _mm256_maddubs_epi16(w[p], a);
                            acc16[p][c] = if k4 == group { pairs } else { _mm256_add_epi16(acc16[p][c], pairs) };
                        }
                    }
                }
            }
            for p in 0..P {
                for c in 0..N {
                    acc[p][c] = _mm256_add_epi32(acc[p][c], _mm256_madd_epi16(acc16[p][c], factors[p]));
                }
            }
        }
    }
}

/// One pair at a time.
pub(super) struct Signed;

impl Dots for Signed {
    const SIGNED: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add<const P: usize, const N: usize, const K4: usize>(
        acc: &mut [[__m256i; N]; P],
        w: &[Source; 2],
        at: usize,
        a: &[*const i8; N],
        factors: [__m256i; P],
    ) {
        for k4 in 0..K4 {
            // SAFETY: promised by the caller.
            unsafe {
                let (w, absolute): ([_; P], [_; P]) = (weights(w, 2 * (at + k4)), weights(w, 2 * (at + k4) + 1));
                for c in 0..N {
                    let a = broadcast(a[c].add(4 * k4));
                    for p in 0..P {
                        let pairs = _mm256_maddubs_epi16(absolute[p], _mm256_sign_epi8(a, w[p]));
                        acc[p][c] = _mm256_add_epi32(acc[p][c], _mm256_madd_epi16(pairs, factors[p]));
                    }
                }
            }
        }
    }
}

/// By fours, with AVX-VNNI.
pub(super) struct Fours;

impl Dots for Fours {
    const LEAVES_REGISTERS: bool = true;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add<const P: usize, const N: usize, const K4: usize>(
        acc: &mut [[__m256i; N]; P],
        w: &[Source; 2],
        at: usize,
        a: &[*const i8; N],
        _: [__m256i; P],
    ) {
        for k4 in 0..K4 {
            // SAFETY: promised by the caller.
            unsafe {
                let w: [_; P] = weights(w, at + k4);
                for c in 0..N {
                    let a = broadcast(a[c].add(4 * k4));
                    (0..P).for_each(|p| acc[p][c] = dpbusd(acc[p][c], w[p], a));
                }
            }
        }
    }
}
