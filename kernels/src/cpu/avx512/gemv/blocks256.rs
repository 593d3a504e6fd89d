//! Blocks of 256 with integer scales of sub-blocks: the scales are applied in integers, the floats once a block.
//!
//! ```text
//!   64 weights (bytes) x 64 activations -> 32 sums of two, 16 bits   (at most 63 x 127 x 2: no saturation)
//!   32 sums x the scales of their sub-blocks -> 16 integers, added over the block
//! ```
//!
//! IQ4_XS has bytes up to 241, which would saturate: its products go to 32 bits first.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{ROWS, both_halves, by_rows, halves, starts};
use crate::acts::Col256;
use crate::block::*;
use crate::cpu::avx512::dpwssd;
use crate::cpu::kernels::Rows;
use crate::quantize::KVALUES_IQ4NL;

/// What a block of 256 is to this loop.
///
/// # Safety
/// (Of its unsafe functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block256: Block {
    /// Weights that share a scale.
    const SUB: usize;
    /// Whether products of pairs do not fit 16 bits.
    const WIDE: bool;
    /// How far the weights lie below their bytes; `None` for those with minimums.
    const OFFSET: Option<u32>;

    /// The scales of the sub-blocks, and their minimums if they have such, as 16-bit integers.
    unsafe fn scales(&self) -> (__m256i, __m256i);
    /// Super scale, and super minimum or 0, as f16.
    fn super_scales(&self) -> (F16Bytes, F16Bytes);
    /// The bytes of weights `64 * j..64 * j + 64`.
    unsafe fn weights(&self, j: usize) -> __m512i;
}

/// The scales and minimums of Q4_K and Q5_K: six bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn six_bits(packed: &[u8; 12]) -> (__m256i, __m256i) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let scales = (a & 0x3f3f_3f3f) as u64 | ((c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030) as u64) << 32;
    let mins = (b & 0x3f3f_3f3f) as u64 | ((c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030) as u64) << 32;
    let wide = |x: u64| _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(x as i64)));
    (wide(scales), wide(mins))
}

/// Nibbles of 32 bytes: the low ones, then the high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn nibbles(bytes: &[u8; 32]) -> __m512i {
    _mm512_and_si512(_mm512_srlv_epi32(both_halves(bytes), halves(0, 4)), _mm512_set1_epi8(0x0f))
}

/// Part `i` of a longer array.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], i: usize) -> &[u8; N] {
    bytes[i * N..][..N].try_into().expect("a part of N bytes")
}

impl Block256 for BlockQ4_K {
    const SUB: usize = 32;
    const WIDE: bool = false;
    const OFFSET: Option<u32> = None;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        six_bits(&self.scales)
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, self.dmin)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        nibbles(part(&self.qs, j))
    }
}

impl Block256 for BlockQ5_K {
    const SUB: usize = 32;
    const WIDE: bool = false;
    const OFFSET: Option<u32> = None;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        six_bits(&self.scales)
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, self.dmin)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        let q = nibbles(part(&self.qs, j));
        let bits = halves(0x0101_0101 << (2 * j), (0x0202_0202u32 << (2 * j)) as i32);
        let set = _mm512_test_epi8_mask(both_halves(&self.qh), bits);
        _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(16))
    }
}

impl Block256 for BlockQ6_K {
    const SUB: usize = 16;
    const WIDE: bool = false;
    const OFFSET: Option<u32> = Some(32);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        // SAFETY: 16 bytes.
        let scales = unsafe { _mm_loadu_si128(self.scales.as_ptr().cast()) };
        (_mm256_cvtepi8_epi16(scales), _mm256_setzero_si256())
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, [0; 2])
    }

    /// Of each half of the block: the low nibbles of its 64 bytes with bits 0-1 and 2-3 of the 32 bytes of high bits,
    /// then the high nibbles with bits 4-5 and 6-7.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        // SAFETY: 64 bytes.
        let low = unsafe { _mm512_loadu_si512(part::<64>(&self.ql, j / 2).as_ptr().cast()) };
        let bits = both_halves(part(&self.qh, j / 2));
        let (low, bits) = match j % 2 {
            0 => (low, _mm512_sllv_epi32(bits, halves(4, 2))),
            _ => (_mm512_srli_epi32::<4>(low), _mm512_srlv_epi32(bits, halves(0, 2))),
        };
        // Bits 0-3 of one, 4-5 of the other: `a & m | b & !m`, then without bits 6-7.
        let q = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(0x0f), low, bits);
        _mm512_and_si512(q, _mm512_set1_epi8(0x3f))
    }
}

impl Block256 for BlockQ3_K {
    const SUB: usize = 16;
    const WIDE: bool = false;
    const OFFSET: Option<u32> = Some(4);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        let word = |i: usize| u32::from_le_bytes(*part(&self.scales, i));
        let (a, b, c) = (word(0), word(1), word(2));
        let low = |x: u32, bits: u32| x & 0x0f0f_0f0f | (bits & 0x0303_0303) << 4;
        let words = [low(a, c), low(b, c >> 2), low(a >> 4, c >> 4), low(b >> 4, c >> 6)].map(|x| x as i32);
        let bytes = _mm_set_epi32(words[3], words[2], words[1], words[0]);
        (_mm256_cvtepi8_epi16(_mm_sub_epi8(bytes, _mm_set1_epi8(32))), _mm256_setzero_si256())
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, [0; 2])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        let shift = 4 * (j % 2) as i32;
        let q = _mm512_srlv_epi32(both_halves(part(&self.qs, j / 2)), halves(shift, shift + 2));
        let q = _mm512_and_si512(q, _mm512_set1_epi8(3));
        let bits = halves(0x0101_0101 << (2 * j), (0x0202_0202u32 << (2 * j)) as i32);
        let set = _mm512_test_epi8_mask(both_halves(&self.hmask), bits);
        _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(4))
    }
}

impl Block256 for BlockQ2_K {
    const SUB: usize = 16;
    const WIDE: bool = false;
    const OFFSET: Option<u32> = None;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        // SAFETY: 16 bytes.
        let both = unsafe { _mm_loadu_si128(self.scales.as_ptr().cast()) };
        let low = |x| _mm256_cvtepu8_epi16(_mm_and_si128(x, _mm_set1_epi8(0x0f)));
        (low(both), low(_mm_srli_epi16::<4>(both)))
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, self.dmin)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        let shift = 4 * (j % 2) as i32;
        let q = _mm512_srlv_epi32(both_halves(part(&self.qs, j / 2)), halves(shift, shift + 2));
        _mm512_and_si512(q, _mm512_set1_epi8(3))
    }
}

impl Block256 for BlockIQ4_XS {
    const SUB: usize = 32;
    const WIDE: bool = true;
    const OFFSET: Option<u32> = Some(128);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn scales(&self) -> (__m256i, __m256i) {
        let (low, high) = (u32::from_le_bytes(self.scales_l), u16::from_le_bytes(self.scales_h) as u32);
        let shifts = |step: i32| _mm256_set_epi32(7 * step, 6 * step, 5 * step, 4 * step, 3 * step, 2 * step, step, 0);
        let low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(low as i32), shifts(4)), _mm256_set1_epi32(15));
        let high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(high as i32), shifts(2)), _mm256_set1_epi32(3));
        let scales = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
        let scales = _mm256_cvtepi32_epi16(_mm256_sub_epi32(scales, _mm256_set1_epi32(32)));
        (_mm256_zextsi128_si256(scales), _mm256_setzero_si256())
    }

    fn super_scales(&self) -> (F16Bytes, F16Bytes) {
        (self.d, [0; 2])
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn weights(&self, j: usize) -> __m512i {
        // Sixteen bytes a sub-block: its first half in the low nibbles, its second in the high ones.
        // SAFETY: 32 bytes, and 16 of the table.
        let (bytes, table) = unsafe {
            let bytes = _mm256_loadu_si256(part::<32>(&self.qs, j).as_ptr().cast());
            (_mm512_castsi256_si512(bytes), _mm_loadu_si128(KVALUES_IQ4NL.as_ptr().cast()))
        };
        let twice = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0), bytes);
        let by = _mm512_set_epi64(4 << 32 | 4, 4 << 32 | 4, 0, 0, 4 << 32 | 4, 4 << 32 | 4, 0, 0);
        let index = _mm512_and_si512(_mm512_srlv_epi32(twice, by), _mm512_set1_epi8(0x0f));
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128))), index)
    }
}

/// Shuffles of 16-bit integers within quarters: for each register of weights, which scale of eight each quarter takes.
struct Spread([[u8; 64]; 4]);

const fn spread(sub: usize) -> Spread {
    let mut table = [[0; 64]; 4];
    let mut i = 0;
    while i < 256 {
        let scale = (i - i % sub) / sub % 8;
        table[i / 64][i % 64] = (2 * scale + i % 2) as u8;
        i += 1;
    }
    Spread(table)
}

static SPREAD16: Spread = spread(16);
static SPREAD32: Spread = spread(32);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
pub(super) unsafe fn gemv<B: Block256>(rows: Rows<'_>, x: Col256<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 256 && rows.len() == out.len());
    assert!(x.sum16.len() == n * 16 && x.sum32.len() == n * 8);
    // SAFETY: rows and column have the same number of blocks.
    by_rows!(rows.len(), |i, R| unsafe { dots::<B, R>(starts(rows, i), x, &mut out[i..]) });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn dots<B: Block256, const R: usize>(w: [*const u8; R], x: Col256<'_>, out: &mut [f32]) {
    let mut f = [_mm512_setzero_ps(); R];
    let mut below = [_mm256_setzero_ps(); R];
    let spread = if B::SUB == 16 { &SPREAD16 } else { &SPREAD32 };
    for (b, d) in x.d.iter().enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
            let a: [_; 4] = std::array::from_fn(|j| _mm512_loadu_si512(x.q.as_ptr().add(b * 256 + 64 * j).cast()));
            let sums = if B::SUB == 16 {
                _mm256_loadu_si256(x.sum16.as_ptr().add(b * 16).cast())
            } else {
                _mm256_zextsi128_si256(_mm_loadu_si128(x.sum32.as_ptr().add(b * 8).cast()))
            };
            for r in 0..R {
                let block = &*w[r].cast::<B>().add(b);
                let (scales, mins) = block.scales();
                let first = _mm512_broadcast_i32x4(_mm256_castsi256_si128(scales));
                let second = match B::SUB {
                    16 => _mm512_broadcast_i32x4(_mm256_extracti128_si256::<1>(scales)),
                    _ => first,
                };
                let mut acc = _mm512_setzero_si512();
                for j in 0..4 {
                    let scales = if j < 2 { first } else { second };
                    let scales = _mm512_shuffle_epi8(scales, _mm512_loadu_si512(spread.0[j].as_ptr().cast()));
                    let q = block.weights(j);
                    acc = if B::WIDE {
                        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, a[j]);
                        // Both halves of a lane hold its scale.
                        let scales = _mm512_srai_epi32::<16>(scales);
                        _mm512_add_epi32(acc, _mm512_mullo_epi32(dot, scales))
                    } else {
                        dpwssd(acc, _mm512_maddubs_epi16(q, a[j]), scales)
                    };
                }
                let sums = _mm256_madd_epi16(if B::OFFSET.is_some() { scales } else { mins }, sums);
                let (super_scale, super_min) = block.super_scales();
                if let Some(offset) = B::OFFSET {
                    let by = _mm256_set1_epi32(offset.trailing_zeros() as i32);
                    acc = _mm512_sub_epi32(acc, _mm512_zextsi256_si512(_mm256_sllv_epi32(sums, by)));
                } else {
                    let min = _mm256_set1_ps(half(super_min) * d);
                    below[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), min, below[r]);
                }
                let scale = _mm512_set1_ps(half(super_scale) * d);
                f[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), scale, f[r]);
            }
        }
    }
    for r in 0..R {
        out[r] = _mm512_reduce_add_ps(_mm512_sub_ps(f[r], _mm512_zextps256_ps512(below[r])));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,f16c")]
fn half(x: F16Bytes) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(x) as i32)))
}
