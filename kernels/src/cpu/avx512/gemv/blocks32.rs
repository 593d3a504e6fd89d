//! Blocks of 32 with a float scale: four at once, each in its own quarter of the registers.
//!
//! ```text
//!   16 blocks   d0 .. d15 (f16 -> f32) x scales of the activations
//!    4 blocks   64 bytes of first halves . 64 activations
//!               + 64 bytes of second halves . 64 activations -> 16 integers -> floats x [d0 4 times, .. d3 4 times]
//! ```
//!
//! The scales of sixteen blocks are picked from the registers that the blocks fill: gathering them one by one takes near
//! half of the whole time (Zen 5, Q4_1 in the second cache: 30 GB/s, and 49 so).

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{first16, quarters};
use crate::acts::Col32;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL};

/// What a block of 32 is to this loop.
///
/// # Safety
/// (Of its functions) the machine has the instructions; where there is an address and a number, as many blocks can be
/// read there.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block32: Block {
    /// How far the weights lie below their bytes; `None` for those with a minimum.
    const OFFSET: Option<u32>;

    /// The bytes of four blocks: their first halves, their second halves.
    unsafe fn weights(blocks: [&Self; 4]) -> [__m512i; 2];

    /// Scale, and minimum or any number, of `m` blocks at `at`, of which there are sixteen at most; zeros follow.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn heads(at: *const u8, m: usize) -> (__m512, __m512) {
        // SAFETY: promised by the caller.
        let words = unsafe { if m == 16 { picked::<Self>(at) } else { gathered::<Self>(at, m) } };
        (_mm512_cvtph_ps(_mm512_castsi512_si256(words)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(words)))
    }
}

/// Where the two first 16-bit words of sixteen blocks of `size` bytes lie in the registers that the blocks fill, of
/// which the last one may overlap the one before.
struct Pick {
    registers: usize,
    /// Where each register begins, in bytes.
    at: [usize; 9],
    /// The words that it has; the first words of all blocks are 0-15, the second ones 16-31.
    has: [u32; 9],
    /// Where in its register each word is.
    index: [u16; 32],
}

const fn pick(size: usize) -> Pick {
    let registers = (16 * size).div_ceil(64);
    let mut pick = Pick { registers, at: [0; 9], has: [0; 9], index: [0; 32] };
    let mut word = 0;
    while word < 32 {
        let byte = word % 16 * size + word / 16 * 2;
        let register = byte / 64;
        let at = if 64 * register + 64 > 16 * size { 16 * size - 64 } else { 64 * register };
        pick.at[register] = at;
        pick.has[register] |= 1 << word;
        pick.index[word] = ((byte - at) / 2) as u16;
        word += 1;
    }
    pick
}

/// The first two words of each of sixteen blocks at `at`: all first ones, then all second ones.
///
/// # Safety
/// Sixteen blocks can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn picked<B: Block>(at: *const u8) -> __m512i {
    let Pick { registers, at: starts, has, index } = const { pick(size_of::<B>()) };
    // SAFETY: 64 bytes of the table; registers within the blocks.
    unsafe {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        let mut words = _mm512_setzero_si512();
        for i in 0..registers {
            words = _mm512_mask_permutexvar_epi16(words, has[i], index, _mm512_loadu_si512(at.add(starts[i]).cast()));
        }
        words
    }
}

/// The first four bytes of `m` blocks at `at`, 16 at most.
///
/// # Safety
/// `m` blocks can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn four_bytes<B: Block>(at: *const u8, m: usize) -> __m512i {
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let starts = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(size_of::<B>() as i32));
    let mask = ((1u32 << m) - 1) as __mmask16;
    // SAFETY: the mask leaves the blocks that are there; every block is four bytes long at least.
    unsafe { _mm512_mask_i32gather_epi32::<1>(_mm512_setzero_si512(), mask, starts, at.cast()) }
}

/// As [`picked`], of `m` blocks, 16 at most.
///
/// # Safety
/// `m` blocks can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn gathered<B: Block>(at: *const u8, m: usize) -> __m512i {
    // SAFETY: promised by the caller.
    let words = unsafe { four_bytes::<B>(at, m) };
    let second = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(words)), second)
}

/// The nibbles of four times sixteen bytes: the low ones, the high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn nibbles(bytes: [&[u8; 16]; 4]) -> [__m512i; 2] {
    let (bytes, mask) = (quarters(bytes.map(|bytes| first16(bytes))), _mm512_set1_epi8(0x0f));
    [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
}

/// Adds the fifth bits of four blocks: 16 where they are set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn fifth(q: [__m512i; 2], bits: [[u8; 4]; 4]) -> [__m512i; 2] {
    let [a, b, c, d] = bits.map(i32::from_le_bytes);
    let each_four_times = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    let bits = _mm512_permutexvar_epi32(each_four_times, _mm512_castsi128_si512(_mm_set_epi32(d, c, b, a)));
    // Every byte gets the byte of its bit.
    let spread = _mm_set_epi64x(0x0101_0101_0101_0101, 0);
    let bit = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    let mut out = q;
    for (half, q) in out.iter_mut().enumerate() {
        let bytes = _mm_or_si128(spread, _mm_set1_epi8(2 * half as i8));
        let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, _mm512_broadcast_i32x4(bytes)), bit);
        *q = _mm512_mask_add_epi8(*q, set, *q, _mm512_set1_epi8(16));
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn lookup(table: &[i8; 16], raise: i8, [a, b]: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    let table = _mm512_broadcast_i32x4(_mm_add_epi8(table, _mm_set1_epi8(raise)));
    [_mm512_shuffle_epi8(table, a), _mm512_shuffle_epi8(table, b)]
}

macro_rules! block32 {
    ($($block:ident, $offset:expr, |$blocks:ident| $weights:expr;)*) => {$(
        impl Block32 for $block {
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn weights($blocks: [&Self; 4]) -> [__m512i; 2] { $weights }
        }
    )*};
}

block32! {
    BlockQ4_0, Some(8), |blocks| nibbles(blocks.map(|b| &b.qs));
    BlockQ4_1, None, |blocks| nibbles(blocks.map(|b| &b.qs));
    BlockQ5_0, Some(16), |blocks| fifth(nibbles(blocks.map(|b| &b.qs)), blocks.map(|b| b.qh));
    BlockQ5_1, None, |blocks| fifth(nibbles(blocks.map(|b| &b.qs)), blocks.map(|b| b.qh));
    BlockIQ4_NL, Some(128), |blocks| lookup(&KVALUES_IQ4NL, -128, nibbles(blocks.map(|b| &b.qs)));
    BlockQ8_0, Some(128), |blocks| {
        let half = |i: usize| quarters(blocks.map(|b| first16(&b.qs.as_chunks::<16>().0[i])));
        [half(0), half(1)].map(|q| _mm512_xor_si512(q, _mm512_set1_epi8(-128)))
    };
}

impl Block32 for BlockMXFP4 {
    const OFFSET: Option<u32> = Some(16);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(blocks: [&Self; 4]) -> [__m512i; 2] {
        lookup(&KVALUES_FP4, 16, nibbles(blocks.map(|b| &b.qs)))
    }

    /// `2^(e - 128)`, half of the scale, for values that are twice the weights; subnormal below 2.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn heads(at: *const u8, m: usize) -> (__m512, __m512) {
        // SAFETY: promised by the caller.
        let e = _mm512_and_si512(unsafe { four_bytes::<Self>(at, m) }, _mm512_set1_epi32(0xff));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
        let small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        let d = _mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x0020_0000), e);
        let there = ((1u32 << m) - 1) as __mmask16;
        (_mm512_maskz_mov_ps(there, _mm512_castsi512_ps(d)), _mm512_setzero_ps())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
pub(super) unsafe fn gemv<B: Block32>(rows: Rows<'_>, x: Col32<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 32 && x.ds.len() == n);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn dots<B: Block32>(w: [*const u8; STREAMS], x: Col32<'_>) -> [f32; STREAMS] {
    let n = x.d.len();
    let mut f = [_mm512_setzero_ps(); STREAMS];
    let mut mins = [_mm512_setzero_ps(); STREAMS];
    for group in (0..n).step_by(16) {
        let m = (n - group).min(16);
        let mask = ((1u32 << m) - 1) as __mmask16;
        // SAFETY: blocks below `n` of rows and column, the mask leaves those that are there.
        unsafe {
            let d = _mm512_maskz_loadu_ps(mask, x.d.as_ptr().add(group));
            let ds = _mm512_maskz_loadu_ps(mask, x.ds.as_ptr().add(group));
            let mut scales = [_mm512_setzero_ps(); STREAMS];
            for r in 0..STREAMS {
                let (scale, min) = B::heads(w[r].add(group * size_of::<B>()), m);
                if B::OFFSET.is_none() {
                    mins[r] = _mm512_fmadd_ps(min, ds, mins[r]);
                }
                scales[r] = _mm512_mul_ps(scale, d);
            }
            let mut index = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
            for four in (group..group + m).step_by(4) {
                // Where less than four are left, the last one is repeated, whose scale is then zero.
                let last = (n - four).min(4) - 1;
                let four = [four, four + last.min(1), four + last.min(2), four + last];
                let half = |at: usize| quarters(four.map(|b| _mm_loadu_si128(x.q.as_ptr().add(b * 32 + at).cast())));
                let a = [half(0), half(16)];
                let both =
                    |start, [q, p]: [__m512i; 2]| _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, q, a[0]), p, a[1]);
                // Minus the offset times the activations, lane by lane: integers, so nothing is lost.
                let zero = _mm512_setzero_si512();
                let below = |offset| _mm512_sub_epi32(zero, both(zero, [_mm512_set1_epi8(offset as i8); 2]));
                let start = B::OFFSET.map_or(zero, below);
                for r in 0..STREAMS {
                    let blocks = four.map(|b| w[r].cast::<B>().add(b));
                    ahead(STREAMS, blocks[0].cast(), 4 * size_of::<B>());
                    let dot = _mm512_cvtepi32_ps(both(start, B::weights(blocks.map(|b| &*b))));
                    f[r] = _mm512_fmadd_ps(dot, _mm512_permutexvar_ps(index, scales[r]), f[r]);
                }
                index = _mm512_add_epi32(index, _mm512_set1_epi32(4));
            }
        }
    }
    std::array::from_fn(|r| _mm512_reduce_add_ps(_mm512_add_ps(f[r], mins[r])))
}
