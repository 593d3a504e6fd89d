//! Blocks of 256 with integer scales of sub-blocks: the scales are applied in integers, the floats once a block.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::aarch64::*;

use super::{Pair, bits, half, less, load, lookup, nibbles16, or};
use crate::acts::Col256;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::neon::sdot;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::KVALUES_IQ4NL;

/// What a block of 256 is to this loop.
///
/// # Safety
/// (Of its unsafe functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block256: Block {
    /// Weights that share a scale.
    const SUB: usize;
    /// Whether it has minimums.
    const MIN: bool;

    /// Super scale, and super minimum or 0, as f16.
    fn super_scales(&self) -> (F16Bytes, F16Bytes);
    /// The scales of the sub-blocks, and their minimums if they have such: signed bytes, the first of 16.
    fn scales(&self) -> (u128, u128);
    /// Weights `32 * j..32 * j + 32`, as multiples of the scale and over the minimum.
    unsafe fn weights(&self, j: usize) -> [int8x16_t; 2];
}

/// The scales and minimums of Q4_K and Q5_K: six bits each.
#[inline(always)]
fn six_bits(packed: &[u8; 12]) -> (u128, u128) {
    let word = |i: usize| u32::from_le_bytes(*part(packed, i));
    let (a, b, c) = (word(0), word(1), word(2));
    let scales = (a & 0x3f3f_3f3f) as u128 | ((c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030) as u128) << 32;
    let mins = (b & 0x3f3f_3f3f) as u128 | ((c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030) as u128) << 32;
    (scales, mins)
}

/// Bit `bit` of each byte, worth `value`.
#[inline]
#[target_feature(enable = "neon")]
fn one_bit(bytes: Pair, bit: usize, value: u8) -> Pair {
    bytes.map(|bytes| vandq_u8(vtstq_u8(bytes, vdupq_n_u8(1 << bit)), vdupq_n_u8(value)))
}

/// Part `i` of a longer array.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], i: usize) -> &[u8; N] {
    bytes[i * N..][..N].try_into().expect("a part of N bytes")
}

macro_rules! block256 {
    ($(
        $block:ident, $sub:literal, $min:literal, |$b:ident, $j:ident| $supers:expr, $scales:expr, $weights:expr;
    )*) => {$(
        impl Block256 for $block {
            const SUB: usize = $sub;
            const MIN: bool = $min;
            #[inline(always)]
            fn super_scales(&self) -> (F16Bytes, F16Bytes) { let $b = self; $supers }
            #[inline(always)]
            fn scales(&self) -> (u128, u128) { let $b = self; $scales }
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn weights(&self, $j: usize) -> [int8x16_t; 2] { let $b = self; $weights }
        }
    )*};
}

block256! {
    BlockQ4_K, 32, true, |b, j| (b.d, b.dmin), six_bits(&b.scales), {
        less(bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i8, 0x0f), 0)
    };
    BlockQ5_K, 32, true, |b, j| (b.d, b.dmin), six_bits(&b.scales), {
        let q = bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i8, 0x0f);
        less(or(q, one_bit(load(&b.qh), j, 16)), 0)
    };
    // Each half of the block: the low nibbles of 64 bytes, then the high ones; two bits each from 32 bytes.
    BlockQ6_K, 16, false, |b, j| (b.d, [0; 2]), (u128::from_le_bytes(b.scales), 0), {
        let low = bits(load(part(&b.ql, j / 4 * 2 + j % 2)), 4 * (j % 4 / 2) as i8, 0x0f);
        let high = bits(load(part(&b.qh, j / 4)), 2 * (j % 4) as i8, 3);
        less(or(low, high.map(|high| vshlq_n_u8::<4>(high))), 32)
    };
    BlockQ3_K, 16, false, |b, j| (b.d, [0; 2]), {
        let word = |i: usize| u32::from_le_bytes(*part(&b.scales, i));
        let (a, b, c) = (word(0), word(1), word(2));
        let low = |x: u32, bits: u32| x & 0x0f0f_0f0f | (bits & 0x0303_0303) << 4;
        let words = [low(a, c), low(b, c >> 2), low(a >> 4, c >> 4), low(b >> 4, c >> 6)];
        // Less 32 in each byte, which has six bits: bit 7 lends, and is turned round to be the sign.
        let less = words.map(|word| (word | 0x8080_8080) - 0x2020_2020 ^ 0x8080_8080);
        (less.iter().rev().fold(0, |all, &word| all << 32 | word as u128), 0)
    }, {
        let low = bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i8, 3);
        less(or(low, one_bit(load(&b.hmask), j, 4)), 4)
    };
    BlockQ2_K, 16, true, |b, j| (b.d, b.dmin), {
        let (bytes, low) = (u128::from_le_bytes(b.scales), u128::from_le_bytes([0x0f; 16]));
        (bytes & low, bytes >> 4 & low)
    }, {
        less(bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i8, 3), 0)
    };
    BlockIQ4_XS, 32, false, |b, j| (b.d, [0; 2]), {
        let (low, high) = (u32::from_le_bytes(b.scales_l), u16::from_le_bytes(b.scales_h) as u32);
        let scale = |i: u32| ((low >> (4 * i) & 15 | (high >> (2 * i) & 3) << 4) as i8 - 32) as u8;
        (u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(scale)) as u128, 0)
    }, {
        lookup(&KVALUES_IQ4NL, nibbles16(part(&b.qs, j)))
    };
}

/// `$body` with each `$j`. LLVM keeps the loop, and computes in it shifts and addresses that are constants here.
macro_rules! unrolled {
    ([$($i:literal)*], |$j:ident| $body:block) => { $({ let $j: usize = $i; $body })* };
}

#[target_feature(enable = "dotprod")]
pub(super) unsafe fn gemv<B: Block256>(rows: Rows<'_>, x: Col256<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 256);
    assert!(x.sum16.len() == n * 16 && x.sum32.len() == n * 8);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn dots<B: Block256>(w: [*const u8; STREAMS], x: Col256<'_>) -> [f32; STREAMS] {
    let mut f = [vdupq_n_f32(0.0); STREAMS];
    for (b, d) in x.d.iter().enumerate() {
        for r in 0..STREAMS {
            // SAFETY: block `b` of rows and column.
            unsafe {
                let block = w[r].cast::<B>().add(b);
                ahead(STREAMS, block.cast(), size_of::<B>());
                let block = &*block;
                let (scales, mins) = block.scales();
                let (scales, mins) = (signed(scales), signed(mins));
                let wide = scales.map(|eight| [vmovl_s16(vget_low_s16(eight)), vmovl_high_s16(eight)]);
                let scale = std::mem::transmute::<[[int32x4_t; 2]; 2], [i32; 16]>(wide);
                let mut acc = vdupq_n_s32(0);
                unrolled!([0 1 2 3 4 5 6 7], |j| {
                    let w = block.weights(j);
                    let a = [0, 16].map(|i| vld1q_s8(x.q.as_ptr().add(b * 256 + 32 * j + i)));
                    let first = sdot(vdupq_n_s32(0), w[0], a[0]);
                    if B::SUB == 16 {
                        let second = sdot(vdupq_n_s32(0), w[1], a[1]);
                        acc = vmlaq_n_s32(acc, first, scale[2 * j]);
                        acc = vmlaq_n_s32(acc, second, scale[2 * j + 1]);
                    } else {
                        acc = vmlaq_n_s32(acc, sdot(first, w[1], a[1]), scale[j]);
                    }
                });
                let (super_scale, super_min) = block.super_scales();
                f[r] = vfmaq_n_f32(f[r], vcvtq_f32_s32(acc), half(super_scale) * d);
                if B::MIN {
                    let sums = if B::SUB == 16 { x.sum16.as_ptr().add(b * 16) } else { x.sum32.as_ptr().add(b * 8) };
                    let mut below = vdupq_n_s32(0);
                    for i in 0..32 / B::SUB {
                        let sums = vld1q_s16(sums.add(8 * i));
                        below = vmlal_s16(below, vget_low_s16(mins[i]), vget_low_s16(sums));
                        below = vmlal_high_s16(below, mins[i], sums);
                    }
                    f[r] = vfmsq_f32(f[r], vcvtq_f32_s32(below), vdupq_n_f32(half(super_min) * d));
                }
            }
        }
    }
    f.map(|f| vaddvq_f32(f))
}

/// Signed bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "neon")]
fn signed(bytes: u128) -> [int16x8_t; 2] {
    // SAFETY: 16 bytes.
    let bytes = unsafe { vld1q_s8(bytes.to_le_bytes().as_ptr().cast()) };
    [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
}
