//! Blocks of 32 with a float scale.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::aarch64::*;

use super::{Pair, half, less, load, lookup, nibbles16, or};
use crate::acts::Col32;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::neon::sdot;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL, e8m0_half_to_f32};

/// What a block of 32 is to this loop.
///
/// # Safety
/// (Of its functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block32: Block {
    /// Whether it has a minimum.
    const MIN: bool;

    /// Its weights, as multiples of the scale and over the minimum.
    unsafe fn weights(&self) -> [int8x16_t; 2];
    /// Scale, and minimum or 0.
    unsafe fn head(&self) -> (f32, f32);
}

/// Adds 16 where the fifth bit is set.
#[inline]
#[target_feature(enable = "neon")]
fn fifth(q: Pair, set: [u8; 4]) -> Pair {
    // Every byte gets the byte of its bit, and is tested for that bit.
    let all = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(set)));
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let sixteens = |first, second| {
        let own = vqtbl1q_u8(all, vcombine_u8(vdup_n_u8(first), vdup_n_u8(second)));
        vandq_u8(vtstq_u8(own, bit), vdupq_n_u8(16))
    };
    or(q, [sixteens(0, 1), sixteens(2, 3)])
}

macro_rules! block32 {
    ($($block:ident, $min:literal, |$b:ident| $head:expr, $weights:expr;)*) => {$(
        impl Block32 for $block {
            const MIN: bool = $min;
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn weights(&self) -> [int8x16_t; 2] { let $b = self; $weights }
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn head(&self) -> (f32, f32) { let $b = self; $head }
        }
    )*};
}

block32! {
    BlockQ4_0, false, |b| (half(b.d), 0.0), less(nibbles16(&b.qs), 8);
    BlockQ4_1, true, |b| (half(b.d), half(b.m)), less(nibbles16(&b.qs), 0);
    BlockQ5_0, false, |b| (half(b.d), 0.0), less(fifth(nibbles16(&b.qs), b.qh), 16);
    BlockQ5_1, true, |b| (half(b.d), half(b.m)), less(fifth(nibbles16(&b.qs), b.qh), 0);
    BlockQ8_0, false, |b| (half(b.d), 0.0), less(load(&b.qs), 0);
    BlockIQ4_NL, false, |b| (half(b.d), 0.0), lookup(&KVALUES_IQ4NL, nibbles16(&b.qs));
    // The values are twice the weights.
    BlockMXFP4, false, |b| (e8m0_half_to_f32(b.e), 0.0), lookup(&KVALUES_FP4, nibbles16(&b.qs));
}

#[target_feature(enable = "dotprod")]
pub(super) unsafe fn gemv<B: Block32>(rows: Rows<'_>, x: Col32<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 32 && x.ds.len() == n);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn dots<B: Block32>(w: [*const u8; STREAMS], x: Col32<'_>) -> [f32; STREAMS] {
    let mut f = [vdupq_n_f32(0.0); STREAMS];
    let mut mins = [0.0; STREAMS];
    for (b, (&d, &ds)) in x.d.iter().zip(x.ds).enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
            let a = [0, 16].map(|i| vld1q_s8(x.q.as_ptr().add(b * 32 + i)));
            for r in 0..STREAMS {
                let block = w[r].cast::<B>().add(b);
                ahead(STREAMS, block.cast(), size_of::<B>());
                let block = &*block;
                let w = block.weights();
                let dot = sdot(sdot(vdupq_n_s32(0), w[0], a[0]), w[1], a[1]);
                let (scale, min) = block.head();
                f[r] = vfmaq_n_f32(f[r], vcvtq_f32_s32(dot), scale * d);
                if B::MIN {
                    mins[r] += min * ds;
                }
            }
        }
    }
    std::array::from_fn(|r| vaddvq_f32(f[r]) + mins[r])
}
