//! Blocks of 32 with a float scale: two blocks fill a register, the scales of sixteen are gathered at once.
//!
//! ```text
//!   16 blocks   d0 .. d15 (gathered, f16 -> f32) x scales of the activations
//!    2 blocks   64 bytes of weights . 64 activations -> 16 integers -> floats x [d0 8 times, d1 8 times]
//! ```

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use crate::acts::Col32;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL};

/// What a block of 32 is to this loop.
///
/// # Safety
/// (Of its functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block32: Block {
    /// How far the weights lie below their bytes; `None` for those with a minimum.
    const OFFSET: Option<u32>;

    /// The bytes of two blocks.
    unsafe fn weights(a: &Self, b: &Self) -> __m512i;

    /// Scale and minimum of sixteen blocks from their first four bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn head(words: __m512i) -> (__m512, __m512) {
        (half(words), half(_mm512_srli_epi32::<16>(words)))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn half(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// The nibbles of two blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
    // SAFETY: 16 bytes each.
    let (a, b) = unsafe { (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast())) };
    let both = _mm512_inserti64x4::<1>(_mm512_broadcast_i32x4(a), _mm256_broadcastsi128_si256(b));
    let by = _mm512_set_epi64(4 << 32 | 4, 4 << 32 | 4, 0, 0, 4 << 32 | 4, 4 << 32 | 4, 0, 0);
    _mm512_and_si512(_mm512_srlv_epi32(both, by), _mm512_set1_epi8(0x0f))
}

/// The fifth bits of two blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fifth(q: __m512i, a: [u8; 4], b: [u8; 4]) -> __m512i {
    let bits = u32::from_le_bytes(a) as u64 | (u32::from_le_bytes(b) as u64) << 32;
    _mm512_mask_add_epi8(q, bits, q, _mm512_set1_epi8(16))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn lookup(table: &[i8; 16], raise: i8, q: __m512i) -> __m512i {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_add_epi8(table, _mm_set1_epi8(raise))), q)
}

macro_rules! block32 {
    ($($block:ident, $offset:expr, |$a:ident, $b:ident| $weights:expr;)*) => {$(
        impl Block32 for $block {
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn weights($a: &Self, $b: &Self) -> __m512i { $weights }
        }
    )*};
}

block32! {
    BlockQ4_0, Some(8), |a, b| nibbles(&a.qs, &b.qs);
    BlockQ4_1, None, |a, b| nibbles(&a.qs, &b.qs);
    BlockQ5_0, Some(16), |a, b| fifth(nibbles(&a.qs, &b.qs), a.qh, b.qh);
    BlockQ5_1, None, |a, b| fifth(nibbles(&a.qs, &b.qs), a.qh, b.qh);
    BlockIQ4_NL, Some(128), |a, b| lookup(&KVALUES_IQ4NL, -128, nibbles(&a.qs, &b.qs));
    BlockQ8_0, Some(128), |a, b| {
        // SAFETY: 32 bytes each.
        let (a, b) = unsafe { (_mm256_loadu_si256(a.qs.as_ptr().cast()), _mm256_loadu_si256(b.qs.as_ptr().cast())) };
        _mm512_xor_si512(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b), _mm512_set1_epi8(-128))
    };
}

impl Block32 for BlockMXFP4 {
    const OFFSET: Option<u32> = Some(16);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(a: &Self, b: &Self) -> __m512i {
        lookup(&KVALUES_FP4, 16, nibbles(&a.qs, &b.qs))
    }

    /// `2^(e - 128)`, half of the scale, for values that are twice the weights; subnormal below 2.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn head(words: __m512i) -> (__m512, __m512) {
        let e = _mm512_and_si512(words, _mm512_set1_epi32(0xff));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
        let small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        let d = _mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x0020_0000), e);
        (_mm512_castsi512_ps(d), _mm512_setzero_ps())
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
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let starts = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(size_of::<B>() as i32));
    for group in (0..n).step_by(16) {
        let m = (n - group).min(16);
        let mask = ((1u32 << m) - 1) as __mmask16;
        // SAFETY: the masks leave the blocks that are there; every block is four bytes long at least.
        unsafe {
            let d = _mm512_maskz_loadu_ps(mask, x.d.as_ptr().add(group));
            let ds = _mm512_maskz_loadu_ps(mask, x.ds.as_ptr().add(group));
            let mut scales = [_mm512_setzero_ps(); STREAMS];
            for r in 0..STREAMS {
                let base = w[r].add(group * size_of::<B>());
                let words = _mm512_mask_i32gather_epi32::<1>(_mm512_setzero_si512(), mask, starts, base.cast());
                let (scale, min) = B::head(words);
                let scale = _mm512_maskz_mov_ps(mask, scale);
                if B::OFFSET.is_none() {
                    mins[r] = _mm512_fmadd_ps(min, ds, mins[r]);
                }
                scales[r] = _mm512_mul_ps(scale, d);
            }
            let mut index = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
            for pair in 0..m.div_ceil(2) {
                let (b, whole) = (group + 2 * pair, 2 * pair + 1 < m);
                let a = if whole {
                    _mm512_loadu_si512(x.q.as_ptr().add(b * 32).cast())
                } else {
                    _mm512_zextsi256_si512(_mm256_loadu_si256(x.q.as_ptr().add(b * 32).cast()))
                };
                // Minus the offset times the activations, lane by lane: integers, so nothing is lost.
                let start = B::OFFSET.map_or(_mm512_setzero_si512(), |offset| {
                    let below = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(offset as i8), a);
                    _mm512_sub_epi32(_mm512_setzero_si512(), below)
                });
                for r in 0..STREAMS {
                    let first = &*w[r].cast::<B>().add(b);
                    ahead(STREAMS, w[r].cast::<B>().add(b).cast(), 2 * size_of::<B>());
                    let second = &*w[r].cast::<B>().add(b + whole as usize);
                    let q = B::weights(first, second);
                    let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, q, a));
                    f[r] = _mm512_fmadd_ps(dot, _mm512_permutexvar_ps(index, scales[r]), f[r]);
                }
                index = _mm512_add_epi32(index, _mm512_set1_epi32(2));
            }
        }
    }
    std::array::from_fn(|r| _mm512_reduce_add_ps(_mm512_add_ps(f[r], mins[r])))
}
