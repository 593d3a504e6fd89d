//! Blocks of 32 with a float scale, one to a register.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{half, load, lookup, nibbles16, pairs, sum};
use crate::acts::Col32;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL, e8m0_half_to_f32};

/// What a block of 32 is to this loop.
///
/// # Safety
/// (Of its functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block32: Block {
    /// Whether the bytes are signed.
    const SIGNED: bool;
    /// How far the weights lie below their bytes (not at all: 0); `None` for those with a minimum.
    const OFFSET: Option<u32>;

    /// The bytes of the block.
    unsafe fn weights(&self) -> __m256i;
    /// Scale, and minimum or 0.
    unsafe fn head(&self) -> (f32, f32);
}

/// Adds 16 where the fifth bit is set.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth(q: __m256i, bits: [u8; 4]) -> __m256i {
    // Every byte gets the byte of its bit, then loses all but the bit.
    let all = _mm256_set1_epi32(i32::from_le_bytes(bits));
    let bytes = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let own = _mm256_and_si256(_mm256_shuffle_epi8(all, bytes), bit);
    let set = _mm256_cmpeq_epi8(own, bit);
    _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

macro_rules! block32 {
    ($($block:ident, $signed:literal, $offset:expr, |$b:ident| $head:expr, $weights:expr;)*) => {$(
        impl Block32 for $block {
            const SIGNED: bool = $signed;
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn weights(&self) -> __m256i { let $b = self; $weights }
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn head(&self) -> (f32, f32) { let $b = self; $head }
        }
    )*};
}

block32! {
    BlockQ4_0, false, Some(8), |b| (half(b.d), 0.0), nibbles16(&b.qs);
    BlockQ4_1, false, None, |b| (half(b.d), half(b.m)), nibbles16(&b.qs);
    BlockQ5_0, false, Some(16), |b| (half(b.d), 0.0), fifth(nibbles16(&b.qs), b.qh);
    BlockQ5_1, false, None, |b| (half(b.d), half(b.m)), fifth(nibbles16(&b.qs), b.qh);
    BlockQ8_0, true, Some(0), |b| (half(b.d), 0.0), load(&b.qs);
    BlockIQ4_NL, true, Some(0), |b| (half(b.d), 0.0), lookup(&KVALUES_IQ4NL, nibbles16(&b.qs));
    // The values are twice the weights.
    BlockMXFP4, true, Some(0), |b| (e8m0_half_to_f32(b.e), 0.0), lookup(&KVALUES_FP4, nibbles16(&b.qs));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv<B: Block32>(rows: Rows<'_>, x: Col32<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 32 && x.ds.len() == n);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<B: Block32>(w: [*const u8; STREAMS], x: Col32<'_>) -> [f32; STREAMS] {
    let ones = _mm256_set1_epi16(1);
    let mut f = [_mm256_setzero_ps(); STREAMS];
    let mut mins = [0.0f32; STREAMS];
    for (b, (&d, &ds)) in x.d.iter().zip(x.ds).enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
            let a = _mm256_loadu_si256(x.q.as_ptr().add(b * 32).cast());
            // The offset times the activations, lane by lane.
            let below = _mm256_maddubs_epi16(_mm256_set1_epi8(B::OFFSET.unwrap_or(0) as i8), a);
            for r in 0..STREAMS {
                let block = w[r].cast::<B>().add(b);
                ahead(STREAMS, block.cast(), size_of::<B>());
                let block = &*block;
                let dot = match B::SIGNED {
                    true => pairs::<true>(block.weights(), a),
                    false => pairs::<false>(block.weights(), a),
                };
                let dot = if matches!(B::OFFSET, Some(1..)) { _mm256_sub_epi16(dot, below) } else { dot };
                let dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(dot, ones));
                let (scale, min) = block.head();
                f[r] = _mm256_fmadd_ps(dot, _mm256_set1_ps(scale * d), f[r]);
                if B::OFFSET.is_none() {
                    mins[r] += min * ds;
                }
            }
        }
    }
    std::array::from_fn(|r| sum(f[r]) + mins[r])
}
